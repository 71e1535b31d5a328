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
"""The node on a real ROS graph: bad images, a server that comes and goes, a silent camera."""

from __future__ import annotations

import array
import contextlib
import json
import math
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ferros_msgs.msg import Emotion
from node_graph import WAIT_S, running
from sensor_msgs.msg import CompressedImage, Image

from demo import processes
from ferros.detect import make_detector
from ferros.image import decode_compressed


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
    assert f'the image size changed from {width}x{height} to {width + 120}x{height}' in text
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


def test_without_a_server_and_a_fallback_a_face_is_unknown_until_the_server_is_there(
    tmp_path: Path, domain_id: int, happy: Any
) -> None:
    environment = processes.environment(domain_id)
    with processes.server(tmp_path / 'first.log', environment) as (address, _):
        pass
    port = address.rpartition(':')[2]
    with running(
        tmp_path / 'log', domain_id, server_address=address, fallback=False
    ) as graph:
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


def test_while_the_server_hangs_and_there_is_no_fallback_a_face_is_unknown(
    tmp_path: Path, domain_id: int, happy: Any
) -> None:
    environment = processes.environment(domain_id)
    with processes.server(tmp_path / 'server.log', environment) as (address, server):
        with running(
            tmp_path / 'log', domain_id, server_address=address, fallback=False
        ) as graph:
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


def test_while_the_server_is_silent_the_robot_answers_and_the_server_speaks_again_later(
    tmp_path: Path, domain_id: int, happy: Any
) -> None:
    environment = processes.environment(domain_id)
    with (
        processes.server(tmp_path / 'server.log', environment) as (address, server),
        running(tmp_path / 'log', domain_id, server_address=address) as graph,
    ):
        graph.wait_for_node()

        def says(source: int) -> bool:
            message = graph.newest()
            return (
                message is not None
                and message.source == source
                and message.label == 'happiness'
            )

        cloud, robot = Emotion.CLOUD, Emotion.ROBOT
        graph.publish_until(happy, lambda: says(cloud))
        cloud_model = graph.newest().model
        server.send_signal(signal.SIGSTOP)
        try:
            graph.publish_until(happy, lambda: says(robot))
            message = graph.newest()
            assert message.model.startswith('ferros-fallback') and message.model != cloud_model
            assert abs(sum(message.probabilities) - 1) < 1e-3
            assert message.roi.width > 0 and -1 <= message.valence <= 1
            graph.publish_until(
                happy, lambda: graph.heard.diagnostic('answers').get('speaker') == 'robot'
            )
            silent = len(graph.heard.emotions)
        finally:
            server.send_signal(signal.SIGCONT)
        graph.publish_until(happy, lambda: says(cloud))
        after = [entry.message for entry in graph.heard.emotions[silent:]]
        sources = [message.source for message in after]
        assert sources == sorted(sources, reverse=True), 'from the robot to the server, once'
        stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in after]
        assert stamps == sorted(set(stamps))


def test_the_annotated_image_is_there_while_somebody_looks_and_only_then(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any
) -> None:
    with running(tmp_path / 'log', domain_id, server_address=server_address) as graph:
        graph.wait_for_node()
        seen: list[Any] = []
        topic = '/emotion/annotated/compressed'
        subscription = graph.heard.create_subscription(CompressedImage, topic, seen.append, 5)
        graph.publish_until(happy, lambda: len(seen) > 3 and graph.newest().label == 'happiness')
        height, width = happy.shape[:2]
        drawn = decode_compressed(seen[-1])
        assert drawn.shape == (height, width, 3) and seen[-1].header.frame_id == 'camera'
        assert np.abs(drawn.astype(int) - happy).max() > 100, 'something is drawn'
        raw: list[Any] = []
        other = graph.heard.create_subscription(Image, '/emotion/annotated', raw.append, 5)
        graph.publish_until(happy, lambda: len(raw) > 1)
        assert (raw[-1].encoding, raw[-1].height, raw[-1].step) == ('bgr8', height, 3 * width)
        for gone in (subscription, other):
            graph.heard.destroy_subscription(gone)


def test_faces_are_published_as_rep155_has_them(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any
) -> None:
    pytest.importorskip('hri_msgs')
    from rep155_graph import Listener

    with running(
        tmp_path / 'log', domain_id, server_address=server_address, publish_rep155=True
    ) as graph:
        graph.wait_for_node()
        listener = Listener(graph.heard, '/humans', 'roi', 'cropped', 'expression')
        graph.publish_until(
            happy,
            lambda: bool(listener.ids())
            and bool(listener.of(listener.ids()[0], 'expression'))
            and len(listener.of(listener.ids()[0], 'cropped')) > 3,
        )
        (face_id,) = listener.ids()
        expression = listener.of(face_id, 'expression')[-1]
        assert expression.expression in ('happy', '')
        crop = listener.of(face_id, 'cropped')[-1]
        assert (crop.height, crop.width, crop.encoding) == (128, 128, 'bgr8')
        roi = listener.of(face_id, 'roi')[-1]
        assert 0 <= roi.xmin < roi.xmax <= 1 and roi.header.stamp.sec >= 1000
        graph.publish_until(np.zeros_like(happy), lambda: listener.ids() == [])


def test_the_faces_of_another_node_are_read(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any
) -> None:
    pytest.importorskip('hri_msgs')
    from hri_msgs.msg import Expression, IdsList
    from node_graph import image_message

    with running(
        tmp_path / 'log', domain_id, server_address=server_address, faces_from='rep155'
    ) as graph:
        lists = graph.heard.create_publisher(IdsList, '/humans/faces/tracked', 5)
        crops = graph.heard.create_publisher(Image, '/humans/faces/anna/cropped', 5)
        expressions: list[Any] = []
        graph.heard.create_subscription(
            Expression, '/humans/faces/anna/expression', expressions.append, 5
        )
        # As a node that finds faces would cut it out.
        x, y, side, _ = (round(value) for value in make_detector('haar').detect(happy)[0])
        crop = cv2.resize(happy[y : y + side, x : x + side], (128, 128))
        stamp_ns = 10**12
        deadline_s = time.monotonic() + WAIT_S
        while not any(expression.expression == 'happy' for expression in expressions):
            assert time.monotonic() < deadline_s, (tmp_path / 'log').read_text()
            stamp_ns += 33_000_000
            picture = image_message(crop, 'bgr8', stamp_ns)
            lists.publish(IdsList(header=picture.header, ids=['anna']))
            crops.publish(picture)
            time.sleep(0.033)
        message = graph.newest()
        assert (message.face_id, message.label) == ('anna', 'happiness')
        assert (message.roi.width, message.roi.height) == (0, 0), 'the camera is not known'
