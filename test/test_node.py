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
"""The node on a real ROS graph: bad images, a server that comes and goes, its lifecycle."""

from __future__ import annotations

import array
import contextlib
import json
import math
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, ListParameters
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import Image

from demo import clip, processes
from demo.recorder import Recorder, recorder
from ferros.bandwidth import BandwidthEstimator
from ferros.diagnostics import CameraReport, diagnose
from ferros.link import LinkReport, LinkState
from ferros.node import _by_importance
from ferros.operating_point import Plan
from ferros.types import Box, CameraFrame, Codec, GridPoint, Track

FACE_AT_S = 3.0
WAIT_S = 20.0
RELIABLE = {'qos_overrides./image.subscription.reliability': 'reliable'}


class Graph:
    """A recorder with a camera of its own, that publishes what the test wants."""

    def __init__(self, heard: Recorder) -> None:
        self.heard = heard
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self.publisher = heard.create_publisher(Image, 'image', qos)
        self.stamp_ns = 1_000_000_000_000

    def publish(self, image: Any, encoding: str = 'bgr8', **changes: Any) -> int:
        """Publish one image 33 ms after the last; return its stamp."""
        self.stamp_ns += 33_000_000
        message = image_message(image, encoding, changes.pop('stamp_ns', self.stamp_ns))
        for name, value in changes.items():
            setattr(message, name, value)
        self.publisher.publish(message)
        return self.stamp_ns

    def publish_until(self, image: Any, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s, (
                self.heard.diagnostic('link'),
                self.heard.diagnostic('drops'),
                [entry.message.label for entry in self.heard.emotions[-5:]],
            )
            self.publish(image)
            time.sleep(0.033)

    def newest(self) -> Any:
        return self.heard.emotions[-1].message if self.heard.emotions else None

    def wait_for_node(self) -> None:
        found = self.heard.wait_until(
            lambda: self.publisher.get_subscription_count() > 0, WAIT_S
        )
        assert found, 'the node did not subscribe'

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.heard.create_client(kind, name)
        assert client.wait_for_service(WAIT_S)
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        assert done.wait(WAIT_S)
        return future.result()


def image_message(image: Any, encoding: str, stamp_ns: int) -> Image:
    message = Image()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    message.header.frame_id = 'camera'
    message.height, message.width = image.shape[:2]
    message.encoding = encoding
    message.step = image.nbytes // image.shape[0]
    message.data = array.array('B', image.tobytes())
    return message


@pytest.fixture(scope='module')
def happy() -> Any:
    """Return an image with a smiling face."""
    for time_s, image in clip.frames():
        if time_s >= FACE_AT_S:
            return image
    raise AssertionError('the clip is too short')


@pytest.fixture(scope='module')
def domain_id() -> Iterator[int]:
    with processes.own_domain() as domain_id:
        yield domain_id


@pytest.fixture(scope='module')
def server_address(tmp_path_factory: pytest.TempPathFactory, domain_id: int) -> Iterator[str]:
    log = tmp_path_factory.mktemp('server') / 'log'
    with processes.server(log, processes.environment(domain_id)) as (address, _):
        yield address


@contextlib.contextmanager
def running(log: Path, domain_id: int, **parameters: object) -> Iterator[Graph]:
    environment = processes.environment(domain_id)
    with (
        recorder(domain_id) as heard,
        processes.node(log, environment, **RELIABLE, **parameters) as node,
    ):
        yield Graph(heard)
        assert node.poll() is None, log.read_text()
    assert node.returncode == 0, log.read_text()
    assert 'Traceback' not in log.read_text()


def link_values(plan: Plan | None) -> tuple[DiagnosticStatus, dict[str, str]]:
    """Return what /diagnostics says of a link on which one message was answered."""
    estimator = BandwidthEstimator()
    estimator.sent(1, 900, 0)
    estimator.answered(1, 0, 0, 40_000_000)
    estimator.sent(2, 300, 41_000_000)
    report = LinkReport(
        LinkState.CONNECTED, '', 'ferros-fer 9', 2, 1, estimator.estimate(50_000_000), 1234.5, plan
    )
    camera = CameraReport('/image', 30.0, 0.01, 4.0, 2)
    message = diagnose('/robot/emotion_node', Time(nanoseconds=7), camera, report, {'late': 3})
    status = message.status[1]
    assert status.name == '/robot/emotion_node: link'
    return status, {item.key: item.value for item in status.values}


def test_diagnostics_tell_what_is_known_of_the_link_and_what_is_sent_of_each_face() -> None:
    point = GridPoint(48, 8.4242, Codec.WEBP, 80, 685, 921, 0.84567)
    plan = Plan({'near': point, 'far': point._replace(face_size_px=20)}, 1.0, 2.0)
    status, values = link_values(plan)
    assert status.level == DiagnosticStatus.OK
    assert values['acknowledged_bytes_per_s'] == '1800'
    assert float(values['rate_bytes_per_s']) > 0 and int(values['window_bytes']) > 0
    assert values['budget_bytes_per_s'] in ('1234', '1235')
    assert (values['in_flight_bytes'], values['sent_bytes']) == ('300', '1200')
    assert (values['round_trip_ms'], values['min_round_trip_ms']) == ('40.0', '40.0')
    assert values['queue_ms'] == '0.0'
    assert values['operating_point_0'] == '48 px, 8.42 fps, webp 80, expected accuracy 0.846'
    assert values['operating_point_1'] == '20 px, 8.42 fps, webp 80, expected accuracy 0.846'
    assert 'operating_point_2' not in values
    assert 'operating_point_0' not in link_values(None)[1]


def test_faces_are_offered_the_primary_first_and_then_the_largest() -> None:
    frame = CameraFrame(np.zeros((9, 9), np.uint8), stamp_ns=100, captured_ns=7)
    tracks = [
        Track('small', Box(0, 0, 20, 20), 100),
        Track('large', Box(0, 0, 60, 60), 100),
        Track('middle', Box(0, 0, 40, 40), 100),
        # Not in this image: what was cropped there would be something else.
        Track('hidden', Box(0, 0, 90, 90), 67),
    ]

    def order(primary_id: str | None) -> list[str]:
        return [face.face_id for face in _by_importance(tracks, primary_id, frame)]

    assert order('middle') == ['middle', 'large', 'small']
    assert order('hidden') == order(None) == ['large', 'middle', 'small']
    assert all(face.frame is frame for face in _by_importance(tracks, 'small', frame))
    assert _by_importance([], None, frame) == []


def test_diagnostics_and_the_trace_follow_the_running_link(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any
) -> None:
    trace = tmp_path / 'trace.jsonl'
    with running(
        tmp_path / 'log', domain_id, server_address=server_address, trace_file=str(trace)
    ) as graph:
        graph.wait_for_node()
        graph.publish_until(
            happy,
            lambda: 'operating_point_0' in graph.heard.diagnostic('link')
            and float(graph.heard.diagnostic('link')['round_trip_ms']) > 0,
        )
        values = graph.heard.diagnostic('link')
    for name in (
        'rate_bytes_per_s', 'acknowledged_bytes_per_s', 'budget_bytes_per_s', 'window_bytes',
        'queue_ms', 'round_trip_ms', 'min_round_trip_ms', 'in_flight_bytes',
    ):
        assert math.isfinite(float(values[name])) and float(values[name]) >= 0, name
    assert ' px, ' in values['operating_point_0'] and ' fps, ' in values['operating_point_0']
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert {line['kind'] for line in lines} == {'frame', 'state', 'link'}
    assert lines[-1]['state'] == 'stopped'


@pytest.mark.parametrize(
    ('parameters', 'named'),
    [
        ({'accuracy_grid_file': '/nowhere/grid.yaml'}, '/nowhere/grid.yaml'),
        ({'trace_file': '/nowhere/trace.jsonl'}, '/nowhere/trace.jsonl'),
        ({'face_size_px': 5}, 'face_size_px is 5, expected 0 or 12 to 224'),
    ],
)
def test_a_node_that_cannot_work_as_told_says_why_and_ends(
    tmp_path: Path, domain_id: int, parameters: dict[str, object], named: str
) -> None:
    log = tmp_path / 'log'
    with processes.node(log, processes.environment(domain_id), **parameters) as node:
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(30)
        assert node.returncode == 1, log.read_text()
    assert named in log.read_text()
    assert 'Traceback' not in log.read_text()


def test_bad_images_are_counted_and_the_next_good_one_works(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any
) -> None:
    log = tmp_path / 'log'
    with running(log, domain_id, server_address=server_address) as graph:
        graph.wait_for_node()
        bad: list[tuple[str, Callable[[], object]]] = [
            ('image_unknown_encoding', lambda: graph.publish(happy, 'klingon8')),
            ('image_zero_size', lambda: graph.publish(happy, data=array.array('B'), height=0)),
            ('image_truncated', lambda: graph.publish(happy, data=array.array('B', b'123'))),
            ('image_wrong_step', lambda: graph.publish(happy, step=7)),
            (
                'time_backwards',
                lambda: graph.publish(happy, stamp_ns=graph.stamp_ns - 500_000_000),
            ),
        ]
        for reason, publish in bad:
            before = len(graph.heard.emotions)
            graph.publish_until(
                happy,
                lambda: graph.newest() is not None and graph.newest().label == 'happiness',
            )
            # On a busy machine one of them may be superseded before it is looked at.
            for _ in range(3):
                publish()
                time.sleep(0.1)
            counted = graph.heard.wait_until(
                lambda reason=reason: int(  # type: ignore[misc]
                    graph.heard.diagnostic('drops').get(reason, '0')
                )
                in (1, 2, 3),
                WAIT_S,
            )
            assert counted, (reason, graph.heard.diagnostic('drops'))
            graph.publish_until(
                happy,
                lambda before=before: len(graph.heard.emotions) > before + 2  # type: ignore[misc]
                and graph.newest().label == 'happiness',
            )
    lines = log.read_text().splitlines()
    for reason in ('klingon8', 'zero_size', 'truncated', 'wrong_step', 'stamp is not after'):
        assert sum(reason in line for line in lines) == 1, f'{reason}: said once'


def test_the_image_size_may_change_and_time_may_be_set_back(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any
) -> None:
    def is_happy() -> bool:
        return graph.newest() is not None and graph.newest().label == 'happiness'

    with running(tmp_path / 'log', domain_id, server_address=server_address) as graph:
        graph.wait_for_node()
        graph.publish_until(happy, is_happy)
        height, width = happy.shape[:2]
        wider = np.ascontiguousarray(np.pad(happy, ((0, 0), (60, 60), (0, 0)), mode='edge'))
        graph.publish_until(wider, lambda: is_happy() and graph.newest().header.stamp.sec > 1001)
        first_id = graph.newest().face_id
        graph.stamp_ns = 5_000_000_000
        graph.publish_until(wider, lambda: is_happy() and graph.newest().header.stamp.sec < 100)
        assert graph.newest().face_id != first_id
    text = (tmp_path / 'log').read_text()
    assert f'the image size changed from ({height}, {width}) to ({height}, {width + 120})' in text
    assert 'the image stamps were set back' in text


@pytest.mark.parametrize('encoding', ['rgb8', 'mono8', 'bgra8'])
def test_grey_and_colour_cameras_agree(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any, encoding: str
) -> None:
    import cv2

    conversion = {
        'rgb8': cv2.COLOR_BGR2RGB,
        'mono8': cv2.COLOR_BGR2GRAY,
        'bgra8': cv2.COLOR_BGR2BGRA,
    }[encoding]
    with running(tmp_path / 'log', domain_id, server_address=server_address) as graph:
        graph.wait_for_node()
        converted = cv2.cvtColor(happy, conversion)
        deadline_s = time.monotonic() + WAIT_S
        while not (graph.newest() is not None and graph.newest().label == 'happiness'):
            assert time.monotonic() < deadline_s
            graph.publish(converted, encoding)
            time.sleep(0.033)


def test_without_a_server_a_face_is_unknown_until_the_server_is_there(
    tmp_path: Path, domain_id: int, happy: Any
) -> None:
    environment = processes.environment(domain_id)
    with processes.server(tmp_path / 'first.log', environment) as (address, _):
        pass
    port = address.rpartition(':')[2]
    with running(tmp_path / 'log', domain_id, server_address=address) as graph:
        graph.wait_for_node()
        graph.publish_until(happy, lambda: len(graph.heard.emotions) > 5)
        message = graph.newest()
        assert message.face_detected and message.face_id
        assert (message.label, message.source, message.confidence) == ('unknown', message.NONE, 0)
        assert len(message.probabilities) == 0
        for name in ('second', 'third'):
            log = tmp_path / f'{name}.log'
            with processes.server(log, environment, '--port', port):
                graph.publish_until(happy, lambda: graph.newest().label == 'happiness')
            graph.publish_until(happy, lambda: graph.newest().label == 'unknown')
    assert (tmp_path / 'log').read_text().count('connected to the server') == 2


def test_while_the_server_hangs_a_face_is_unknown_and_no_old_answer_follows(
    tmp_path: Path, domain_id: int, happy: Any
) -> None:
    environment = processes.environment(domain_id)
    with processes.server(tmp_path / 'server.log', environment) as (address, server):
        with running(tmp_path / 'log', domain_id, server_address=address) as graph:
            graph.wait_for_node()
            graph.publish_until(
                happy, lambda: graph.newest() is not None and graph.newest().label == 'happiness'
            )
            server.send_signal(signal.SIGSTOP)
            try:
                graph.publish_until(happy, lambda: graph.newest().label == 'unknown')
                resumed = len(graph.heard.emotions)
            finally:
                server.send_signal(signal.SIGCONT)
            graph.publish_until(happy, lambda: graph.newest().label == 'happiness')
        for entry in graph.heard.emotions[resumed:]:
            assert entry.message.age.sec < 1, 'what was queued is too old to be news'


def test_a_silent_camera_is_an_error_and_nothing_is_published(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any
) -> None:
    with running(tmp_path / 'log', domain_id, server_address=server_address) as graph:
        graph.wait_for_node()
        graph.publish_until(happy, lambda: len(graph.heard.emotions) > 3)
        time.sleep(1.5)
        before = len(graph.heard.emotions)
        silent = graph.heard.wait_until(
            lambda: 'no image for' in graph.heard.diagnostic('camera').get('message', ''), WAIT_S
        )
        assert silent and graph.heard.diagnostic('camera')['level'] == '2'
        assert len(graph.heard.emotions) == before


def test_a_lifecycle_manager_can_drive_the_node(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any
) -> None:
    with running(
        tmp_path / 'log', domain_id, server_address=server_address, autostart=False
    ) as graph:

        def change(transition_id: int) -> bool:
            request = ChangeState.Request(transition=Transition(id=transition_id))
            return bool(graph.call(ChangeState, '/emotion_node/change_state', request).success)

        def state() -> str:
            answer = graph.call(GetState, '/emotion_node/get_state', GetState.Request())
            return str(answer.current_state.label)

        assert state() == 'unconfigured'
        for _ in range(2):
            assert change(Transition.TRANSITION_CONFIGURE)
            assert change(Transition.TRANSITION_ACTIVATE)
            assert state() == 'active'
            graph.wait_for_node()
            before = len(graph.heard.emotions)
            graph.publish_until(
                happy,
                lambda before=before: len(graph.heard.emotions) > before  # type: ignore[misc]
                and graph.newest().label == 'happiness',
            )
            assert change(Transition.TRANSITION_DEACTIVATE)
            gone = graph.heard.wait_until(
                lambda: graph.publisher.get_subscription_count() == 0, WAIT_S
            )
            assert gone
            assert change(Transition.TRANSITION_CLEANUP)
            assert state() == 'unconfigured'


def test_a_failing_transition_is_reported_and_leaves_the_node_unconfigured(
    tmp_path: Path, domain_id: int
) -> None:
    log = tmp_path / 'log'
    with running(
        log, domain_id, autostart=False, detector='yunet', detector_model='/nowhere/yunet.onnx'
    ) as graph:
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
        assert not graph.call(ChangeState, '/emotion_node/change_state', request).success
        answer = graph.call(GetState, '/emotion_node/get_state', GetState.Request())
        assert answer.current_state.label == 'unconfigured'
    assert '/nowhere/yunet.onnx' in log.read_text()


def test_every_parameter_has_a_description_and_the_yaml_documents_all(
    tmp_path: Path, domain_id: int, root: Path
) -> None:
    import yaml

    content = yaml.safe_load((root / 'config/robot.yaml').read_text())
    documented = content['/**']['ros__parameters']
    with running(tmp_path / 'log', domain_id, autostart=False) as graph:
        listed = graph.call(
            ListParameters, '/emotion_node/list_parameters', ListParameters.Request()
        ).result.names
        of_rclpy = ('qos_overrides', 'use_sim_time', 'start_type_description_service')
        ours = [name for name in listed if not name.startswith(of_rclpy)]
        assert set(ours) == set(documented)
        described = graph.call(
            DescribeParameters,
            '/emotion_node/describe_parameters',
            DescribeParameters.Request(names=ours),
        ).descriptors
    assert all(len(descriptor.description) > 10 for descriptor in described)
    # What may be left open has no range of ROS's, which could not have a hole: it is said in text.
    sides = next(d for d in described if d.name == 'face_size_px')
    assert sides.additional_constraints == '0 or 12 to 224' and not sides.integer_range
    faces = next(d for d in described if d.name == 'max_faces')
    assert (faces.integer_range[0].from_value, faces.integer_range[0].to_value) == (1, 64)
