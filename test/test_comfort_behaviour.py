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
"""The example tree as a process: what it says when, and how it ends."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import py_trees
import pytest
import rclpy
from ferros_msgs.msg import Emotion
from rcl_interfaces.srv import DescribeParameters
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import String

from demo import processes
from ferros.comfort_behaviour import PARAMETERS, make_tree

WAIT_S = 20.0
COMMAND = [sys.executable, '-m', 'ferros.comfort_behaviour']


@pytest.fixture(scope='module')
def domain_id() -> Iterator[int]:
    with processes.own_domain() as domain_id:
        yield domain_id


class Person:
    """Somebody whose face the robot sees, and who hears what it says."""

    def __init__(self, context: rclpy.Context) -> None:
        self.node = rclpy.create_node('person', context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.publisher = self.node.create_publisher(Emotion, 'emotion', 10)
        self.heard: list[tuple[float, str]] = []
        self.node.create_subscription(String, 'speech', self._hear, 10)

    def _hear(self, message: String) -> None:
        self.heard.append((time.monotonic(), message.data))

    def look(self, label: str, for_s: float, until_heard: int | None = None) -> float:
        """Look so, ten times a second; return when it began."""
        start_s = time.monotonic()
        while time.monotonic() - start_s < for_s and len(self.heard) != until_heard:
            message = Emotion(face_detected=True, face_id='fa', label=label, confidence=0.8)
            self.publisher.publish(message)
            end_s = time.monotonic() + 0.1
            while time.monotonic() < end_s:
                self.executor.spin_once(timeout_sec=0.02)
        return start_s

    def wait_for_listener(self) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not self.publisher.get_subscription_count():
            assert time.monotonic() < deadline_s
            self.executor.spin_once(timeout_sec=0.02)


@contextlib.contextmanager
def person(domain_id: int) -> Iterator[Person]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    someone = Person(context)
    try:
        yield someone
    finally:
        someone.executor.shutdown()
        someone.node.destroy_node()
        rclpy.try_shutdown(context=context)


def arguments(**parameters: Any) -> list[str]:
    words = ['--ros-args']
    for name, value in parameters.items():
        words += ['-p', f'{name}:={value}']
    return words


def end(domain_id: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the executable, which is to end by itself."""
    return subprocess.run(
        [*COMMAND, *words], env=processes.environment(domain_id), capture_output=True, text=True,
        timeout=60, check=False,
    )


def test_somebody_who_looks_sad_for_a_while_is_comforted_and_then_left_alone(
    domain_id: int, tmp_path: Path
) -> None:
    log = tmp_path / 'log'
    words = arguments(for_s=1.0, cooldown_s=2.5, text='"it will be fine"')
    environment = processes.environment(domain_id)
    with (
        person(domain_id) as someone,
        processes.process([*COMMAND, *words], log, environment, signal.SIGINT) as robot,
    ):
        someone.wait_for_listener()
        someone.look('neutral', 0.5)
        someone.look('sadness', 0.5)
        someone.look('neutral', 0.5)
        assert someone.heard == []
        sad_s = someone.look('sadness', WAIT_S, until_heard=1)
        (first_s, said) = someone.heard[0]
        assert said == 'it will be fine'
        assert first_s - sad_s >= 1.0
        # From sadness to anger is no interruption, but it was said just now.
        someone.look('anger', WAIT_S, until_heard=2)
        assert someone.heard[1][0] - first_s >= 2.4
    assert robot.returncode == 0, log.read_text()
    shown = log.read_text()
    assert 'Traceback' not in shown
    # The tree is printed when it changes, not with each of the 50 ticks or so.
    trees = re.findall(r'^\[o\] company', shown, re.MULTILINE)
    assert 3 <= len(trees) <= 12
    assert re.search(r'say \[.\] -- it will be fine', shown)
    assert re.search(r'not too often \[.\] -- rests for [12] s more', shown)


def test_every_parameter_is_described_and_has_a_range(domain_id: int, tmp_path: Path) -> None:
    log = tmp_path / 'log'
    with (
        person(domain_id) as someone,
        processes.process(
            COMMAND, log, processes.environment(domain_id), signal.SIGTERM
        ) as robot,
    ):
        service = '/comfort_behaviour/describe_parameters'
        client = someone.node.create_client(DescribeParameters, service)
        assert client.wait_for_service(WAIT_S)
        future = client.call_async(DescribeParameters.Request(names=list(PARAMETERS)))
        someone.executor.spin_until_future_complete(future, WAIT_S)
        descriptors = future.result().descriptors
    assert robot.returncode == 0 and 'Traceback' not in log.read_text()
    assert [each.name for each in descriptors] == list(PARAMETERS)
    for each in descriptors:
        assert each.description and each.read_only
        assert isinstance(PARAMETERS[each.name][0], float) == bool(each.floating_point_range)


@pytest.mark.parametrize(
    ('wrong', 'said'),
    [
        ({'for_s': 100.0}, r'for_s out of range'),
        ({'for_s': '"long"'}, r"'for_s'"),
        ({'labels': '[""]'}, r"label is '', expected 1 to 16 characters"),
    ],
)
def test_a_parameter_that_is_no_good_is_said_in_one_line(
    domain_id: int, wrong: dict[str, Any], said: str
) -> None:
    ended = end(domain_id, *arguments(**wrong))
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith('comfort_behaviour: ') and re.search(said, line)


def test_without_py_trees_it_says_how_to_install_it(domain_id: int, tmp_path: Path) -> None:
    (tmp_path / 'py_trees.py').write_text('raise ImportError("No module named \'py_trees\'")')
    environment = processes.environment(domain_id)
    environment['PYTHONPATH'] = f'{tmp_path}:{environment["PYTHONPATH"]}'
    ended = subprocess.run(
        COMMAND, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert 'apt install' in line and 'pip install py_trees' in line


def test_the_default_tree_has_the_shape_that_is_documented() -> None:
    tree = make_tree({name: default for name, (default, _, _) in PARAMETERS.items()})
    names = [behaviour.name for behaviour in tree.iterate()]
    assert sorted(names) == ['be there', 'comfort', 'company', 'not too often', 'say', 'upset?']
    assert isinstance(tree, py_trees.composites.Selector)
