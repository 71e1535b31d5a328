# Copyright 2026 The ferros developers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

# The interface for people: `make` lists what there is. Where ROS 2 is sourced use colcon instead
# (see the README); everything here runs in .venv, which it makes and mends by itself.

# When the command was given: the demo reports how long the first answer took from here.
export FERROS_STARTED_S := $(shell date +%s.%N)

# Which Python to make .venv of, for example: make demo PYTHON=python3.12
PYTHON ?=
export PYTHON

# Arguments for pytest, for example: make test TESTS='test/test_link.py -x'
TESTS ?=

ENV := . .venv/env.sh &&

.DEFAULT_GOAL := help
.PHONY: help setup setup-run setup-dev demo serve test test-apt study-smoke bench-link bench-server bench-robot soak lint proto messages lock clean

help: ## this list
	@echo 'usage: make <target>'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1#\2/p' $(MAKEFILE_LIST) | awk -F'#' '{ printf "%-14s %s\n", $$1, $$2 }'

setup: setup-dev ## everything that demo, tests and training need, into .venv

setup-run:
	@sh tools/setup.sh run

setup-dev:
	@sh tools/setup.sh dev

demo: setup-run ## camera, robot node and server on this machine [SOURCE=video|image|camera number|rosbag2 folder]
	@$(ENV) python -m demo.run $(SOURCE)

serve: setup-run ## the server alone, on 127.0.0.1:50051 [ARGS=...]
	@.venv/bin/ferros-cloud serve $(ARGS)

# The quick benches run between the two, so that pytest's summary stays last.
test: setup-dev ## all tests, and the quick benches [TESTS=arguments for pytest]
	@failed=0; \
	sh tools/test_apt.sh --where-possible || failed=1; \
	QUICK=1 $(MAKE) --no-print-directory bench-link || failed=1; \
	QUICK=1 $(MAKE) --no-print-directory bench-server || failed=1; \
	QUICK=1 $(MAKE) --no-print-directory bench-robot || failed=1; \
	$(ENV) python -m pytest $(TESTS) || failed=1; \
	exit $$failed

test-apt: ## the robot half on the packages of Debian or Ubuntu, without .venv and without ROS
	@sh tools/test_apt.sh

study-smoke: setup-dev ## every command of the study, on generated data: its figures mean nothing
	@$(ENV) python test/study_smoke.py

bench-link: setup-dev ## every way of sending over every link: docs/bandwidth.md [QUICK=1: a minute, into out/bench]
	@$(ENV) python -m bench.link $(ARGS)

bench-server: setup-dev ## one server, many robots: docs/server.md [QUICK=1: two minutes, into out/bench]
	@$(ENV) python -m bench.server $(ARGS)

bench-robot: setup-dev ## what an image costs, ids, who answers when: docs/robot.md [QUICK=1: half a minute, into out/bench]
	@$(ENV) python -m bench.robot $(ARGS)

soak: setup-dev ## ten minutes of robots that come and go and break the protocol; joins docs/server.md
	@$(ENV) python -m bench.server --only soak

lint: setup-dev ## ruff, what the ament linters ask besides, mypy (strict), package.xml, the world
	@$(ENV) ruff check . && python tools/check_ament.py && mypy && python tools/check_manifests.py && \
		python tools/check_xml.py && sh tools/check_world.sh --where-possible

proto: setup-dev ## the stubs in ferros_proto/ from proto/
	@test -x .venv-wire/bin/python || { echo 'ferros: the compiler needs a python3.11' >&2; exit 1; }
	@.venv-wire/bin/python tools/make_stubs.py .

messages: setup-run ## build ferros_msgs again if it has changed
	@echo 'ferros: the messages in .venv/ros are those of ferros_msgs/'

lock: ## the lock files in requirements/, with the newest versions the .in files allow
	@$(or $(PYTHON),python3) tools/lock.py

clean: ## remove .venv and everything that was built
	rm -rf .venv .venv-wire build install log out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
