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
"""The node's lifecycle: driven from outside as lifecycle managers do, over and over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from node_graph import WAIT_S, Graph, running

from demo import processes
from ferros.local_model import GRAPH_FILE, INFO_FILE, SHIPPED

CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
DEACTIVATE = Transition.TRANSITION_DEACTIVATE
CLEANUP = Transition.TRANSITION_CLEANUP
SHUTDOWN_UNCONFIGURED = Transition.TRANSITION_UNCONFIGURED_SHUTDOWN
SHUTDOWN_ACTIVE = Transition.TRANSITION_ACTIVE_SHUTDOWN
REPEATS = 50


def is_happy(graph: Graph) -> bool:
    return graph.newest() is not None and graph.newest().label == 'happiness'


def published(graph: Graph) -> set[str]:
    """Return which of the topics are advertised."""
    topics = ('/emotion', '/emotion/faces', '/emotion/annotated')
    return {topic for topic in topics if graph.heard.count_publishers(topic)}


def held_by(pid: int) -> tuple[int, int, float]:
    """Return the threads, the open descriptors and the resident megabytes of a process."""
    status = Path(f'/proc/{pid}/status').read_text()
    figures = dict(line.split(':', 1) for line in status.splitlines())
    descriptors = len(os.listdir(f'/proc/{pid}/fd'))
    return int(figures['Threads']), descriptors, int(figures['VmRSS'].split()[0]) / 1024


def settled(graph: Graph) -> tuple[int, int, float]:
    """Return what the node holds when it is done with what it does in the background."""
    time.sleep(1.0)
    return held_by(graph.process.pid)


def test_a_lifecycle_manager_can_drive_the_node(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any
) -> None:
    """nav2's manager does just this with a bond_timeout of 0.0; nav2 itself is not to be had."""
    with running(
        tmp_path / 'log', domain_id, server_address=server_address, autostart=False
    ) as graph:
        assert graph.state() == 'unconfigured'
        assert not published(graph)
        for _ in range(2):
            assert graph.change(CONFIGURE)
            assert graph.state() == 'inactive'
            assert graph.heard.wait_until(lambda: len(published(graph)) == 3, WAIT_S)
            assert graph.publisher.get_subscription_count() == 0, 'not before it is active'
            assert graph.change(ACTIVATE)
            assert graph.state() == 'active'
            graph.wait_for_node()
            before = len(graph.heard.emotions)
            graph.publish_until(
                happy,
                lambda before=before: len(graph.heard.emotions) > before  # type: ignore[misc]
                and is_happy(graph),
            )
            assert graph.change(DEACTIVATE)
            assert graph.heard.wait_until(
                lambda: graph.publisher.get_subscription_count() == 0, WAIT_S
            )
            assert graph.change(CLEANUP)
            assert graph.state() == 'unconfigured'
            assert graph.heard.wait_until(lambda: not published(graph), WAIT_S)


def test_every_transition_can_be_repeated_without_a_leak(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any
) -> None:
    with running(
        tmp_path / 'log', domain_id, server_address=server_address, autostart=False
    ) as graph:

        def go_round() -> None:
            for transition in (CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP):
                assert graph.change(transition), transition

        for _ in range(5):
            go_round()
        threads, descriptors, megabytes = settled(graph)
        for _ in range(REPEATS):
            go_round()
        threads_after, descriptors_after, megabytes_after = settled(graph)
        assert threads_after <= threads
        assert descriptors_after <= descriptors
        # A face is 2 kB, an image 1 MB and the models 10: none of them may stay behind each time.
        assert megabytes_after - megabytes < 0.5 * REPEATS
        assert graph.change(CONFIGURE) and graph.change(ACTIVATE)
        graph.wait_for_node()
        graph.publish_until(happy, lambda: is_happy(graph))


def test_an_inactive_node_publishes_nothing_and_starts_afresh_when_it_is_active_again(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any
) -> None:
    with running(tmp_path / 'log', domain_id, server_address=server_address) as graph:
        graph.wait_for_node()
        graph.publish_until(happy, lambda: is_happy(graph))
        first_id = graph.newest().face_id
        assert graph.change(DEACTIVATE)
        before = len(graph.heard.emotions)
        for _ in range(10):
            graph.publish(happy)
            time.sleep(0.033)
        assert len(graph.heard.emotions) == before
        assert graph.change(ACTIVATE)
        graph.wait_for_node()
        graph.publish_until(
            happy, lambda: len(graph.heard.emotions) > before + 1 and is_happy(graph)
        )
        assert graph.newest().face_id != first_id


def test_the_server_may_be_away_in_every_transition(tmp_path: Path, domain_id: int) -> None:
    with running(
        tmp_path / 'log', domain_id, server_address='127.0.0.1:9', autostart=False
    ) as graph:
        for _ in range(3):
            for transition in (CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP):
                started_s = time.monotonic()
                assert graph.change(transition)
                assert time.monotonic() - started_s < 5


@pytest.mark.parametrize('transitions', [[SHUTDOWN_UNCONFIGURED], [CONFIGURE, ACTIVATE]])
def test_a_node_that_was_shut_down_is_finalized_and_still_ends_cleanly(
    tmp_path: Path, domain_id: int, server_address: str, transitions: list[int]
) -> None:
    with running(
        tmp_path / 'log', domain_id, server_address=server_address, autostart=False
    ) as graph:
        for transition in transitions:
            assert graph.change(transition)
        if len(transitions) > 1:
            assert graph.change(SHUTDOWN_ACTIVE)
        assert graph.state() == 'finalized'
        assert graph.publisher.get_subscription_count() == 0


def test_a_transition_that_is_not_possible_is_refused_and_changes_nothing(
    tmp_path: Path, domain_id: int, server_address: str
) -> None:
    with running(tmp_path / 'log', domain_id, server_address=server_address) as graph:
        graph.wait_for_node()
        assert not graph.change(CONFIGURE)
        assert not graph.change(CLEANUP)
        assert graph.state() == 'active'


@pytest.mark.parametrize(
    ('parameters', 'named'),
    [
        (
            {'detector': 'yunet', 'detector_model': '/nowhere/yunet.onnx'},
            '/nowhere/yunet.onnx does not exist',
        ),
        ({'cascade_file': '/nowhere/face.xml'}, '/nowhere/face.xml does not exist'),
        ({'profile_cascade_file': '/nowhere/side.xml'}, '/nowhere/side.xml does not exist'),
        ({'fallback_model_folder': '/nowhere'}, '/nowhere/fallback.json'),
        ({'tls_ca_file': '/nowhere/ca.crt'}, '/nowhere/ca.crt'),
        ({'server_address': 'cloud.example.org:1'}, 'tls_ca_file'),
        ({'fallback_after_ms': 900, 'max_age_ms': 800}, 'expected fallback_after_ms to be'),
    ],
)
def test_a_failing_transition_is_reported_and_leaves_the_node_unconfigured(
    tmp_path: Path, domain_id: int, parameters: dict[str, Any], named: str
) -> None:
    log = tmp_path / 'log'
    with running(log, domain_id, autostart=False, **parameters) as graph:
        assert not graph.change(CONFIGURE)
        assert graph.state() == 'unconfigured'
        assert not published(graph)
    assert named in log.read_text()


@pytest.mark.parametrize('broken', ['detector_model', 'cascade_file', 'fallback_model_folder'])
def test_a_model_file_that_is_damaged_fails_configure_with_its_path(
    tmp_path: Path, domain_id: int, broken: str
) -> None:
    folder = tmp_path / 'model'
    folder.mkdir()
    if broken == 'fallback_model_folder':
        (folder / INFO_FILE).write_bytes((SHIPPED / INFO_FILE).read_bytes())
        path = folder / GRAPH_FILE
        path.write_bytes((SHIPPED / GRAPH_FILE).read_bytes()[:-100])
    else:
        path = folder / 'file'
        path.write_bytes(b'no model')
    parameters = {broken: str(folder if broken == 'fallback_model_folder' else path)}
    if broken == 'detector_model':
        parameters['detector'] = 'yunet'
    log = tmp_path / 'log'
    with processes.node(log, processes.environment(domain_id), **parameters) as node:
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(30)
        assert node.returncode == 1, log.read_text()
    assert str(path) in log.read_text()
    assert 'Traceback' not in log.read_text()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_active_node_cleanly(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any, number: signal.Signals
) -> None:
    log = tmp_path / 'log'
    with running(log, domain_id, server_address=server_address) as graph:
        graph.wait_for_node()
        graph.publish_until(happy, lambda: len(graph.heard.emotions) > 1)
        graph.process.send_signal(number)
        assert graph.process.wait(10) == 0, log.read_text()
        # What `running` looks at next is a process that still runs.
        graph.process.poll = lambda: None
    assert 'Traceback' not in log.read_text()


def test_two_nodes_of_one_name_are_told(
    tmp_path: Path, domain_id: int, server_address: str
) -> None:
    environment = processes.environment(domain_id)
    log = tmp_path / 'log'
    with running(log, domain_id, server_address=server_address) as graph:
        graph.wait_for_node()
        other = tmp_path / 'other'
        with processes.node(other, environment, server_address=server_address):
            told = graph.heard.wait_until(
                lambda: '2 nodes are called /emotion_node' in log.read_text(), WAIT_S
            )
            assert told
    assert '-r __node:=' in log.read_text()
