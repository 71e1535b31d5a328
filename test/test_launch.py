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
"""The launch files, by launch_testing, where that is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import processes

ROOT = Path(__file__).resolve().parent.parent
TESTS = sorted(path.name for path in ROOT.glob('test/*.launch_test.py'))
LAUNCH_FILES = sorted(path.name for path in ROOT.glob('launch/*.launch.py'))

needs_launch = pytest.mark.skipif(
    importlib.util.find_spec('launch_testing') is None,
    reason='launch and launch_testing come with a ROS distribution, not from PyPI',
)


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    with processes.own_domain() as domain_id:
        yield {**os.environ, 'ROS_DOMAIN_ID': str(domain_id)}


def test_each_launch_file_has_a_test() -> None:
    assert LAUNCH_FILES == [
        'cloud_fer.launch.py', 'replay.launch.py', 'server.launch.py', 'simulation.launch.py'
    ]
    assert {name.replace('launch', 'launch_test') for name in LAUNCH_FILES} <= set(TESTS)


@needs_launch
@pytest.mark.parametrize('name', TESTS)
def test_what_a_launch_file_starts_works_and_ends_cleanly(
    name: str, environment: dict[str, str]
) -> None:
    run = subprocess.run(
        ['launch_test', f'test/{name}'],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@needs_launch
@pytest.mark.parametrize('name', LAUNCH_FILES)
def test_every_argument_is_described(name: str, environment: dict[str, str]) -> None:
    """A description of the file in launch/ itself; what is installed may be older."""
    script = (
        'import sys\n'
        'from launch.launch_description_sources import PythonLaunchDescriptionSource\n'
        'from launch import LaunchContext\n'
        'source = PythonLaunchDescriptionSource(sys.argv[1])\n'
        'for item in source.get_launch_description(LaunchContext()).get_launch_arguments():\n'
        '    print(item.name, "|", item.description)\n'
    )
    run = subprocess.run(
        [sys.executable, '-c', script, f'launch/{name}'],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )
    assert run.returncode == 0, run.stderr
    arguments = dict(line.split(' | ') for line in run.stdout.splitlines())
    assert len(arguments) > 5
    assert all(len(text) > 10 for text in arguments.values()), arguments


@needs_launch
@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['cloud_fer.launch.py', 'lifecycle:=sometimes'], 'sometimes'),
        (['cloud_fer.launch.py', 'detector:=eagle'], 'eagle'),
        (['server.launch.py', 'server_command:=/nowhere/ferros-cloud serve'],
         "'/nowhere/ferros-cloud serve' was not found"),
        (['replay.launch.py', 'source:=x.mp4', 'rate:=fast'], "rate is 'fast', expected a number"),
    ],
)
def test_an_argument_that_makes_no_sense_ends_the_launch_and_is_named(
    arguments: list[str], said: str, environment: dict[str, str]
) -> None:
    run = subprocess.run(
        ['ros2', 'launch', 'ferros', *arguments],
        env=environment, capture_output=True, text=True, timeout=60,
    )
    assert run.returncode == 1 and said in run.stdout + run.stderr
