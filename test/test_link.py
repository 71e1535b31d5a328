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
"""The link against a real gRPC server that misbehaves on purpose."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from scripted import (
    LABELS,
    WAIT_S,
    Running,
    Scripted,
    answer_all,
    answer_never,
    face,
    ok,
    serving,
)

from ferros import link as link_module
from ferros.accuracy_grid import GridError
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.link import Link, LinkState
from ferros.sender import FIRST_CREDITS
from ferros.types import Box, Source
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc


def image_side_px(frame: wire.FaceFrame) -> int:
    import cv2

    image = cv2.imdecode(np.frombuffer(frame.image, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None and image.shape[0] == image.shape[1]
    return int(image.shape[0])


def test_an_answer_says_which_image_and_which_face_it_belongs_to() -> None:
    servicer = Scripted(answer_all)
    with serving(servicer) as port, Running(port) as running:
        running.connect()
        offered = face('f1')
        running.link.offer([offered])
        running.until(lambda: bool(running.answers))
    answer = running.answers[0]
    assert (answer.face_id, answer.stamp_ns, answer.frame_id) == (
        'f1',
        offered.frame.stamp_ns,
        'camera',
    )
    assert (answer.label, answer.labels, answer.source) == (
        'happiness',
        tuple(LABELS),
        Source.CLOUD,
    )
    assert answer.probabilities == pytest.approx((0.1, 0.7, 0.2))
    assert answer.box == Box(0, 20, 50, 60)
    assert np.isnan(answer.valence)
    hello, sent = servicer.hellos[0], servicer.frames[0]
    assert (hello.protocol_version, hello.robot_id) == (1, 'r')
    assert (sent.sequence, sent.face_id) == (1, 'f1')
    assert 16 <= sent.interval_ms <= 10_000
    assert sent.image[:4] == b'RIFF'


def test_a_few_faces_leave_right_behind_the_hello() -> None:
    """They are answered a round trip sooner than if they waited for the Welcome."""
    servicer = Scripted(answer_all)
    servicer.welcome_after_s = 0.5
    early = 0

    def connected() -> bool:
        nonlocal early
        report = running.link.report()
        if report.state is not LinkState.CONNECTED:
            early = report.sent_frames
        return report.state is LinkState.CONNECTED

    with serving(servicer) as port, Running(port, stale_after_ms=60_000) as running:
        running.until(lambda: bool(servicer.hellos))
        welcome_s = time.monotonic() + servicer.welcome_after_s
        running.offer_until(connected, *'abcdefg')
        running.until(lambda: len(running.answers) >= 1)
    assert 1 <= early <= FIRST_CREDITS
    assert running.answers[0].captured_ns / 1e9 < welcome_s - 0.1
    assert 'answer_unasked' not in running.drops.counts()
    assert 'unexpected_response' not in running.drops.counts()


def test_each_face_is_sent_at_the_rate_of_the_operating_point() -> None:
    servicer = Scripted(answer_all)
    with serving(servicer) as port, Running(port, frame_rate_fps=10.0) as running:
        running.connect()
        # From a thin link's rate on; this one has plenty.
        running.offer_until(lambda: len(servicer.frames) > 20, 'a', 'b')
        began_s, before = time.monotonic(), len(servicer.frames)
        running.offer_until(lambda: time.monotonic() - began_s > 2, 'a', 'b')
    frames = servicer.frames[before:]
    for face_id in 'ab':
        assert 14 <= sum(frame.face_id == face_id for frame in frames) <= 24
    assert {frame.interval_ms for frame in frames} == {100}
    assert running.drops.counts()['superseded'] > 10


def test_what_is_pinned_is_what_is_sent() -> None:
    servicer = Scripted(answer_all)
    pinned = {'face_size_px': 20, 'codec': 'jpeg', 'quality': 30, 'frame_rate_fps': 20.0}
    with serving(servicer) as port, Running(port, **pinned) as running:
        running.connect()
        running.offer_until(lambda: len(running.answers) >= 3)
        report = running.link.report()
    assert report.plan is not None and report.budget_bytes_per_s > 0
    assert report.plan.points['a'].face_size_px == 20 and report.plan.points['a'].quality == 30
    for sent in servicer.frames:
        assert sent.image[:2] == b'\xff\xd8' and sent.codec == wire.JPEG
        assert image_side_px(sent) == 20


def test_never_more_pixels_are_sent_than_the_model_uses() -> None:
    servicer = Scripted(answer_all)
    servicer.welcome.input_size_px = 16
    with serving(servicer) as port, Running(port) as running:
        running.connect()
        running.offer_until(lambda: len(running.answers) >= 10)
    assert {image_side_px(sent) for sent in servicer.frames} <= {12, 16}


def test_the_grid_of_the_servers_model_is_steered_by() -> None:
    servicer = Scripted(answer_all)
    servicer.welcome.accuracy_grid.add(
        face_size_px=28, frame_rate_fps=12, codec=wire.JPEG, quality=40, bytes_p50=600,
        bytes_p95=700, accuracy=0.7,
    )
    with serving(servicer) as port, Running(port) as running:
        running.connect()
        running.offer_until(lambda: len(running.answers) >= 10)
    for sent in servicer.frames:
        assert image_side_px(sent) == 28 and sent.codec == wire.JPEG
    # Once the link is known it is sent as often as the grid says.
    assert servicer.frames[-1].interval_ms == 83
    assert 'server_grid_refused' not in running.drops.counts()


@pytest.mark.parametrize(
    'change', [{'accuracy': 7.0}, {'bytes_p95': 3}, {'frame_rate_fps': math.nan}, {'codec': 9}]
)
def test_a_broken_grid_of_the_server_is_counted_and_the_robots_own_used(
    change: dict[str, Any], tmp_path: Path
) -> None:
    own = tmp_path / 'own.yaml'
    own.write_text(
        '- {face_size_px: 20, frame_rate_fps: 30.0, codec: webp, quality: 30, '
        'bytes_p50: 400, bytes_p95: 500, accuracy: 0.5}\n'
    )
    servicer = Scripted(answer_all)
    good = {
        'face_size_px': 28, 'frame_rate_fps': 12, 'codec': wire.JPEG, 'quality': 40,
        'bytes_p50': 600, 'bytes_p95': 700, 'accuracy': 0.7,
    }
    servicer.welcome.accuracy_grid.add(**good)
    servicer.welcome.accuracy_grid.add(**{**good, **change})
    with serving(servicer) as port, Running(port, accuracy_grid_file=str(own)) as running:
        running.connect()
        running.offer_until(lambda: len(running.answers) >= 5)
    assert {image_side_px(sent) for sent in servicer.frames} == {20}
    assert running.drops.counts()['server_grid_refused'] == 1


def test_a_grid_of_the_robot_that_cannot_be_read_is_an_error_at_once() -> None:
    config = RobotConfig(accuracy_grid_file='/nowhere/grid.yaml')
    with pytest.raises(GridError, match=r'/nowhere/grid\.yaml'):
        Link(config, Drops(), print)


def test_offering_never_waits_and_only_the_newest_image_is_sent_when_there_is_room() -> None:
    def answer_when_released(
        servicer: Scripted, frame: wire.FaceFrame
    ) -> Iterator[wire.RecognizeResponse]:
        servicer.release.wait(WAIT_S)
        yield ok(frame)

    servicer = Scripted(answer_when_released)
    servicer.welcome.credits = 1
    with serving(servicer) as port, Running(port, frame_rate_fps=60.0) as running:
        running.connect()
        running.offer_until(lambda: len(servicer.frames) == 1)
        last = 0
        for _ in range(200):
            offered = face()
            last = offered.frame.stamp_ns
            began_s = time.monotonic()
            running.link.offer([offered])
            assert time.monotonic() - began_s < 0.2
        assert len(servicer.frames) == 1
        servicer.release.set()
        running.until(lambda: len(servicer.frames) == 2)
        assert servicer.frames[1].stamp_ns == last


def test_no_more_is_in_flight_than_the_window_allows() -> None:
    servicer = Scripted(answer_never)
    servicer.welcome.credits = 1000
    with serving(servicer) as port, Running(port, frame_rate_fps=60.0) as running:
        running.connect()
        window_bytes = running.link.report().bandwidth.window_bytes
        began_s = time.monotonic()
        running.offer_until(lambda: time.monotonic() - began_s > 1, 'a', 'b', 'c')
        figures = running.link.report().bandwidth
        assert figures.acknowledged_bytes == 0
        assert 0 < figures.in_flight_bytes <= window_bytes + 1500
        # The longer nothing comes back, the less is thought to pass.
        assert figures.window_bytes < window_bytes
    assert running.drops.counts()['unanswered'] == len(servicer.frames) > 0


def test_sent_and_acknowledged_bytes_agree_once_all_is_answered() -> None:
    with serving(Scripted(answer_all)) as port, Running(port) as running:
        running.connect()
        running.offer_until(lambda: len(running.answers) >= 5)
        running.link.offer([])
        running.until(lambda: running.link.report().bandwidth.in_flight_bytes == 0)
        report = running.link.report()
        assert report.bandwidth.sent_bytes == report.bandwidth.acknowledged_bytes > 0
        assert report.answered_frames == report.sent_frames
        assert 0 <= report.bandwidth.min_round_trip_ms < 1000


def test_the_server_may_come_late_and_may_be_restarted() -> None:
    with contextlib.ExitStack() as stack:
        with serving(Scripted(answer_all)) as free_port:
            pass
        running = stack.enter_context(Running(free_port, connect_timeout_ms=300))
        running.until(lambda: running.link.report().state is LinkState.WAITING)
        assert 'UNAVAILABLE' in running.link.report().detail
        running.link.offer([face()])
        assert running.drops.counts()['not_connected'] == 1
        for _ in range(2):
            with serving(Scripted(answer_all), free_port):
                before = len(running.answers)
                running.connect()
                running.offer_until(lambda before=before: len(running.answers) > before)  # type: ignore[misc]
            running.until(lambda: running.link.report().state is not LinkState.CONNECTED)


def test_a_server_of_another_protocol_version_is_named_and_left_alone() -> None:
    servicer = Scripted(answer_all)
    servicer.welcome.protocol_version = 7
    with serving(servicer) as port, Running(port) as running:
        running.until(lambda: running.link.report().state is LinkState.WAITING)
        assert 'protocol version 7, this robot 1' in running.link.report().detail
        time.sleep(1)
        assert len(servicer.hellos) == 1


@pytest.mark.parametrize('labels', [['a' * 17, 'b'], [f'label {n}' for n in range(17)]])
def test_a_server_whose_labels_no_message_holds_is_left_alone(labels: list[str]) -> None:
    servicer = Scripted(answer_all)
    servicer.welcome.labels[:] = labels
    with serving(servicer) as port, Running(port) as running:
        running.until(lambda: running.link.report().state is LinkState.WAITING)
        assert 'more than 16 or longer than 16' in running.link.report().detail


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    with contextlib.closing(socket.create_server(('127.0.0.1', 0))) as silent:
        port = silent.getsockname()[1]
        with Running(port, connect_timeout_ms=300) as running:
            running.until(lambda: running.link.report().state is LinkState.WAITING)
            assert f'no Welcome from 127.0.0.1:{port} within 300 ms' in (
                running.link.report().detail
            )


def test_what_listens_there_but_is_no_ferros_server_is_reported() -> None:
    class Nothing(recognition_pb2_grpc.RecognitionServicer):
        pass

    with serving(Nothing()) as port, Running(port) as running:
        running.until(lambda: running.link.report().state is LinkState.WAITING)
        assert 'UNIMPLEMENTED' in running.link.report().detail


def test_a_server_that_stops_answering_is_left_for_a_new_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, 'ANSWER_TIMEOUT_NS', 500_000_000)
    servicer = Scripted(answer_never)
    with serving(servicer) as port, Running(port) as running:
        running.connect()
        running.offer_until(lambda: len(servicer.hellos) >= 2)
        assert (LinkState.WAITING, 'no answer for 0 s') in running.changes


@pytest.mark.parametrize(
    ('pushback_ms', 'least_s', 'most_s'),
    [('700', 0.55, 1.5), ('1', 0.07, 0.5), ('soon', 0.19, 1.0), (None, 0.19, 1.0)],
)
def test_a_full_server_is_tried_again_when_it_says_so_or_else_as_any_other(
    pushback_ms: str | None, least_s: float, most_s: float
) -> None:
    def full_once(servicer: Scripted, context: Any) -> None:
        if len(servicer.called_s) == 1:
            if pushback_ms is not None:
                context.set_trailing_metadata((('grpc-retry-pushback-ms', pushback_ms),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, 'the server is full')

    servicer = Scripted(answer_all)
    servicer.admit = full_once
    with serving(servicer) as port, Running(port) as running:
        assert running.wait() == 'RESOURCE_EXHAUSTED: the server is full'
        running.offer_until(lambda: bool(running.answers))
    assert least_s < servicer.called_s[1] - servicer.called_s[0] < most_s


def test_a_robot_without_a_name_gives_its_hosts() -> None:
    servicer = Scripted(answer_all)
    with serving(servicer) as port, Running(port, robot_id='') as running:
        running.connect()
    assert servicer.hellos[0].robot_id == socket.gethostname()[:64]


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('probabilities', [0.5, 0.5]),
        ('probabilities', [0.5, float('nan'), 0.5]),
        ('probabilities', [-1.0, 1.0, 1.0]),
        ('label', 'bored'),
        ('valence', float('inf')),
        ('arousal', -1.5),
    ],
)
def test_an_answer_that_cannot_be_true_is_counted_and_not_passed_on(
    field: str, value: Any
) -> None:
    def answer_wrongly(
        servicer: Scripted, frame: wire.FaceFrame
    ) -> Iterator[wire.RecognizeResponse]:
        response = ok(frame)
        if field != 'probabilities':
            setattr(response.answer, field, value)
        else:
            del response.answer.probabilities[:]
            response.answer.probabilities.extend(value)
        yield response

    with serving(Scripted(answer_wrongly)) as port, Running(port) as running:
        running.connect()
        running.offer_until(lambda: 'answer_malformed' in running.drops.counts())
    assert running.answers == []


def test_refused_frames_are_counted_by_status_and_the_others_go_on() -> None:
    statuses = [wire.BAD_IMAGE, wire.DROPPED_STALE, wire.LIMIT_EXCEEDED, wire.OVERLOADED, 99]

    def refuse_first(
        servicer: Scripted, frame: wire.FaceFrame
    ) -> Iterator[wire.RecognizeResponse]:
        response = ok(frame)
        if frame.sequence <= len(statuses):
            response.answer.status = statuses[frame.sequence - 1]  # type: ignore[assignment]
        yield response

    with serving(Scripted(refuse_first)) as port, Running(port) as running:
        running.connect()
        running.offer_until(lambda: len(running.answers) >= 2)
    counts = running.drops.counts()
    for name in ('bad_image', 'dropped_stale', 'limit_exceeded', 'overloaded'):
        assert counts[f'server_{name}'] == 1
    assert counts['server_unknown_status'] == 1


def test_an_overloaded_server_is_sent_less() -> None:
    def overloaded(servicer: Scripted, frame: wire.FaceFrame) -> Iterator[wire.RecognizeResponse]:
        response = ok(frame)
        response.answer.status = wire.OVERLOADED
        response.answer.suggested_frame_rate_fps = 2
        yield response

    servicer = Scripted(overloaded)
    with serving(servicer) as port, Running(port, frame_rate_fps=30.0) as running:
        running.connect()
        began_s = time.monotonic()
        running.offer_until(lambda: time.monotonic() - began_s > 3, 'a', 'b')
    # The first come before the server can say so.
    assert 3 <= len(servicer.frames) <= 14
    assert len(servicer.frames) == running.drops.counts()['server_overloaded']


def test_answers_nobody_asked_for_are_counted() -> None:
    def answer_twice(
        servicer: Scripted, frame: wire.FaceFrame
    ) -> Iterator[wire.RecognizeResponse]:
        yield ok(frame)
        yield ok(frame)

    with serving(Scripted(answer_twice)) as port, Running(port) as running:
        running.connect()
        running.offer_until(lambda: len(running.answers) >= 3)
    assert running.drops.counts()['answer_unasked'] >= 2


def test_after_a_drain_the_robot_leaves_with_its_answers_and_comes_back() -> None:
    def drain_then_answer(
        servicer: Scripted, frame: wire.FaceFrame
    ) -> Iterator[wire.RecognizeResponse]:
        yield wire.RecognizeResponse(drain=wire.Drain())
        time.sleep(0.2)
        yield ok(frame)

    servicer = Scripted(drain_then_answer)
    with serving(servicer) as port, Running(port) as running:
        running.connect()
        running.offer_until(lambda: len(servicer.hellos) == 3)
        assert len(running.answers) >= 2
        assert 'unanswered' not in running.drops.counts()
    # Nothing leaves after the Drain; a few may have left behind the Hello before it came.
    sequences = [frame.sequence for frame in servicer.frames]
    assert sequences.count(1) >= 2 and max(sequences) <= FIRST_CREDITS


def test_the_link_can_be_stopped_at_any_time_and_started_again() -> None:
    with serving(Scripted(answer_all)) as port:
        running = Running(port)
        for _ in range(5):
            running.link.start()
            running.link.stop()
        threads = threading.active_count()
        for _ in range(10):
            with running:
                running.connect()
                running.offer_until(lambda: bool(running.answers))
        assert threading.active_count() <= threads + 3


# -- old answers ----------------------------------------------------------------------------------


def test_answers_that_took_too_long_are_counted_and_not_passed_on() -> None:
    def stall_once(servicer: Scripted, frame: wire.FaceFrame) -> Iterator[wire.RecognizeResponse]:
        if frame.sequence == 10:
            time.sleep(0.5)
        yield ok(frame)

    with serving(Scripted(stall_once)) as port, Running(port, stale_after_ms=150) as running:
        running.connect()
        running.offer_until(lambda: running.drops.counts().get('answer_stale', 0) >= 1)
        # What was behind the late one is late as well.
        before = len(running.answers)
        running.offer_until(lambda: len(running.answers) >= before + 3)
        stale = running.drops.counts()['answer_stale']
        running.offer_until(lambda: len(running.answers) >= before + 13)
        report = running.link.report()
        # They are counted as answered by the link, as the frames are no longer in flight.
        assert running.drops.counts()['answer_stale'] == stale
        assert report.answered_frames == len(running.answers)


def test_on_a_path_that_is_always_long_no_answer_is_too_old() -> None:
    def always_late(servicer: Scripted, frame: wire.FaceFrame) -> Iterator[wire.RecognizeResponse]:
        time.sleep(0.25)
        yield ok(frame)

    servicer = Scripted(always_late)
    servicer.welcome.credits = 1
    with serving(servicer) as port, Running(port, stale_after_ms=150) as running:
        running.connect()
        running.offer_until(lambda: len(running.answers) >= 4)
    assert 'answer_stale' not in running.drops.counts()


# -- senseless servers ----------------------------------------------------------------------------


@pytest.mark.parametrize('suggested_fps', [math.nan, math.inf, -3.0, 1e-30, 1e-9, 3e38])
def test_a_suggested_rate_that_cannot_be_leaves_the_stream_as_it_is(suggested_fps: float) -> None:
    def overloaded_once(
        servicer: Scripted, frame: wire.FaceFrame
    ) -> Iterator[wire.RecognizeResponse]:
        response = ok(frame)
        if frame.sequence == 1:
            response.answer.status = wire.OVERLOADED
            response.answer.suggested_frame_rate_fps = suggested_fps
        yield response

    servicer = Scripted(overloaded_once)
    with serving(servicer) as port, Running(port) as running:
        running.connect()
        running.offer_until(lambda: len(running.answers) >= 3)
        assert len(servicer.hellos) == 1, running.changes


@pytest.mark.parametrize('limit_fps', [math.nan, math.inf, -3.0, 1e-30, 3e38, 0.0])
def test_a_senseless_rate_limit_of_the_server_leaves_the_stream_as_it_is(
    limit_fps: float,
) -> None:
    servicer = Scripted(answer_all)
    servicer.welcome.limits.max_frame_rate_fps = limit_fps
    with serving(servicer) as port, Running(port) as running:
        running.connect()
        running.offer_until(lambda: len(running.answers) >= 1)
        assert len(servicer.hellos) == 1, running.changes


def test_times_of_the_server_that_cannot_be_do_no_harm() -> None:
    def lie(servicer: Scripted, frame: wire.FaceFrame) -> Iterator[wire.RecognizeResponse]:
        response = ok(frame)
        times_ns = (-(2**63), 2**63 - 1, 0, 1)
        response.answer.server_receive_monotonic_ns = times_ns[frame.sequence % 4]
        response.answer.server_reply_monotonic_ns = times_ns[frame.sequence // 2 % 4]
        yield response

    servicer = Scripted(lie)
    with serving(servicer) as port, Running(port) as running:
        running.connect()
        running.offer_until(lambda: len(running.answers) >= 20)
        figures = running.link.report().bandwidth
        assert 0 <= figures.round_trip_ms < 10_000 and figures.rate_bytes_per_s > 0
        assert len(servicer.hellos) == 1, running.changes


# -- the trace ------------------------------------------------------------------------------------

FRAME_FIELDS = {
    'kind', 'face_id', 'rank', 'captured_ns', 'sent_ns', 'answered_ns', 'server_ns', 'status',
    'face_size_px', 'frame_rate_fps', 'codec', 'quality', 'message_bytes',
}
STATE_FIELDS = {
    'kind', 'now_ns', 'link', 'rate_bytes_per_s', 'acknowledged_bytes_per_s', 'round_trip_ms',
    'min_round_trip_ms', 'queue_ms', 'in_flight_bytes', 'window_bytes', 'budget_bytes_per_s',
    'points', 'drops',
}


def test_the_trace_says_what_was_sent_how_the_link_stood_and_when_it_changed(
    tmp_path: Path,
) -> None:
    def refuse_the_third(
        servicer: Scripted, frame: wire.FaceFrame
    ) -> Iterator[wire.RecognizeResponse]:
        response = ok(frame)
        if frame.sequence == 3:
            response.answer.status = wire.DROPPED_STALE
        yield response

    path = tmp_path / 'trace.jsonl'
    servicer = Scripted(refuse_the_third)
    began_ns = time.monotonic_ns()
    with serving(servicer) as port, Running(port, trace_file=str(path)) as running:
        running.connect()
        connected_s = time.monotonic()
        running.offer_until(lambda: time.monotonic() - connected_s > 1.5, 'near', 'far')
        running.link.offer([])
        running.until(lambda: running.link.report().bandwidth.in_flight_bytes == 0)
        answered = running.link.report().answered_frames
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kinds = {kind: [line for line in lines if line['kind'] == kind] for kind in
             ('frame', 'state', 'link')}
    assert sum(map(len, kinds.values())) == len(lines)

    assert all(set(line) == FRAME_FIELDS for line in kinds['frame'])
    assert len(kinds['frame']) == len(servicer.frames)
    assert sum(line['status'] == 'ok' for line in kinds['frame']) == answered
    assert [line['status'] for line in kinds['frame']].count('dropped_stale') == 1
    ranks = {(line['face_id'], line['rank']) for line in kinds['frame']}
    assert ranks == {('near', 0), ('far', 1)}
    for line, sent in zip(kinds['frame'], servicer.frames, strict=True):
        assert began_ns < line['captured_ns'] <= line['sent_ns'] < line['answered_ns']
        assert line['server_ns'] >= 0
        assert line['captured_ns'] == sent.capture_monotonic_ns
        assert (line['face_size_px'], line['codec']) == (image_side_px(sent), 'webp')
        assert line['message_bytes'] > len(sent.image) + 66

    assert 10 <= len(kinds['state']) <= 20
    for line in kinds['state']:
        assert set(line) == STATE_FIELDS and line['link'] in ('connecting', 'connected')
    last = kinds['state'][-1]
    assert list(last['points']) == ['near', 'far']
    size_px, rate_fps, codec, quality, size_bytes, accuracy = last['points']['near']
    assert (size_px, codec) == (48, 'webp') and rate_fps > 0 and 1 <= quality <= 100
    assert size_bytes > 100 and 0 < accuracy < 1
    assert last['drops'] == {**last['drops'], 'server_dropped_stale': 1}
    assert last['rate_bytes_per_s'] > 0 and last['window_bytes'] > 0
    assert 0 <= last['min_round_trip_ms'] <= last['round_trip_ms'] + 1

    assert [line['state'] for line in kinds['link']] == ['connecting', 'connected', 'stopped']
    assert all(set(line) == {'kind', 'now_ns', 'state', 'detail'} for line in kinds['link'])


def test_a_trace_that_cannot_be_written_is_an_error_at_once() -> None:
    config = RobotConfig(trace_file='/nowhere/trace.jsonl')
    with pytest.raises(OSError, match=r'/nowhere/trace\.jsonl'):
        Link(config, Drops(), print)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_a_full_disk_ends_the_trace_and_not_the_answers() -> None:
    servicer = Scripted(answer_all)
    with serving(servicer) as port, Running(port, trace_file='/dev/full') as running:
        running.connect()
        running.offer_until(lambda: len(running.answers) >= 60, 'a', 'b', 'c')
        assert len(servicer.hellos) == 1, running.changes


def test_a_link_that_is_started_again_goes_on_tracing(tmp_path: Path) -> None:
    path = tmp_path / 'trace.jsonl'
    with serving(Scripted(answer_all)) as port:
        running = Running(port, trace_file=str(path))
        for _ in range(2):
            began_ns = time.monotonic_ns()
            with running:
                running.connect()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert 'connected' in [line.get('state') for line in lines if line['now_ns'] > began_ns]
