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
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest

from ferros import link as link_module
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.link import Link, LinkState
from ferros.types import Box, CameraFrame, Observation, OfferedFace, Source
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

LABELS = ['neutral', 'happiness', 'anger']
WAIT_S = 10.0

Answering = Callable[['Scripted', wire.FaceFrame], Iterator[wire.RecognizeResponse]]


def ok(frame: wire.FaceFrame) -> wire.RecognizeResponse:
    now_ns = time.monotonic_ns()
    return wire.RecognizeResponse(
        answer=wire.Answer(
            sequence=frame.sequence,
            status=wire.OK,
            capture_monotonic_ns=frame.capture_monotonic_ns,
            server_receive_monotonic_ns=now_ns,
            server_reply_monotonic_ns=now_ns,
            label='happiness',
            probabilities=[0.1, 0.7, 0.2],
        )
    )


class Scripted(recognition_pb2_grpc.RecognitionServicer):
    """Speaks the wire; what it answers to a frame is given."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.welcome = wire.Welcome(
            protocol_version=1, model='scripted 1', labels=LABELS, input_size_px=48, credits=32
        )
        self.hellos: list[wire.Hello] = []
        self.frames: list[wire.FaceFrame] = []
        self.release = threading.Event()

    def Recognize(self, requests: Any, context: Any) -> Iterator[wire.RecognizeResponse]:
        self.hellos.append(next(requests).hello)
        yield wire.RecognizeResponse(welcome=self.welcome)
        for request in requests:
            self.frames.append(request.frame)
            yield from self.answering(self, request.frame)


@contextlib.contextmanager
def serving(servicer: Any, port: int = 0) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[('grpc.so_reuseport', 0)])
    recognition_pb2_grpc.add_RecognitionServicer_to_server(servicer, server)
    bound = server.add_insecure_port(f'127.0.0.1:{port}')
    server.start()
    try:
        yield bound
    finally:
        server.stop(0).wait()


class Running:
    """A started link and what it called back with."""

    def __init__(self, port: int, **parameters: Any) -> None:
        self.answers: list[Observation] = []
        self.changes: list[tuple[LinkState, str]] = []
        self.drops = Drops()
        config = RobotConfig(server_address=f'127.0.0.1:{port}', robot_id='r', **parameters)
        self.link = Link(
            config,
            self.drops,
            self.answers.append,
            lambda state, detail: self.changes.append((state, detail)),
        )

    def __enter__(self) -> Running:
        self.link.start()
        return self

    def __exit__(self, *error: object) -> None:
        began_s = time.monotonic()
        self.link.stop()
        assert time.monotonic() - began_s < 5
        assert self.link.report().state is LinkState.STOPPED

    def until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s, (self.changes, self.drops.counts())
            time.sleep(0.005)

    def connect(self) -> None:
        self.until(lambda: self.link.report().state is LinkState.CONNECTED)

    def offer_until(self, condition: Callable[[], bool], *face_ids: str) -> None:
        """Offer new images of the faces, 100 a second, until the condition holds."""

        def offered() -> bool:
            self.link.offer([face(face_id) for face_id in face_ids or ('a',)])
            return condition()

        self.until(offered)


def face(face_id: str = 'a', stamp_ns: int | None = None) -> OfferedFace:
    stamp_ns = time.time_ns() if stamp_ns is None else stamp_ns
    noise = np.random.default_rng(stamp_ns % 1000).integers(0, 255, (120, 160, 3), np.uint8)
    frame = CameraFrame(noise, stamp_ns, time.monotonic_ns(), 'camera')
    return OfferedFace(face_id, Box(-10, 20, 60, 60), frame)


def answer_all(servicer: Scripted, frame: wire.FaceFrame) -> Iterator[wire.RecognizeResponse]:
    yield ok(frame)


def answer_never(servicer: Scripted, frame: wire.FaceFrame) -> Iterator[wire.RecognizeResponse]:
    yield from ()


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
    assert (sent.sequence, sent.face_id, sent.interval_ms) == (1, 'f1', 66)
    assert sent.image[:4] == b'RIFF'


def test_each_face_is_sent_at_the_rate_of_the_operating_point() -> None:
    servicer = Scripted(answer_all)
    with serving(servicer) as port, Running(port, frame_rate_fps=10.0) as running:
        running.connect()
        began_s = time.monotonic()
        running.offer_until(lambda: time.monotonic() - began_s > 2, 'a', 'b')
    for face_id in 'ab':
        sent = sum(frame.face_id == face_id for frame in servicer.frames)
        assert 15 <= sent <= 22
    assert running.drops.counts()['superseded'] > 10


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


def test_no_more_than_the_allowed_bytes_are_in_flight() -> None:
    servicer = Scripted(answer_never)
    servicer.welcome.credits = 1000
    with (
        serving(servicer) as port,
        Running(port, max_in_flight_bytes=8192, frame_rate_fps=60.0) as running,
    ):
        running.connect()
        began_s = time.monotonic()
        running.offer_until(lambda: time.monotonic() - began_s > 1)
        figures = running.link.report().bandwidth
        assert figures.acknowledged_bytes == 0
        assert 8192 <= figures.in_flight_bytes < 8192 + 4096
    assert running.drops.counts()['unanswered'] == len(servicer.frames)


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
    ('field', 'value'),
    [
        ('probabilities', [0.5, 0.5]),
        ('probabilities', [0.5, float('nan'), 0.5]),
        ('probabilities', [-1.0, 1.0, 1.0]),
        ('label', 'bored'),
    ],
)
def test_an_answer_that_cannot_be_true_is_counted_and_not_passed_on(
    field: str, value: Any
) -> None:
    def answer_wrongly(
        servicer: Scripted, frame: wire.FaceFrame
    ) -> Iterator[wire.RecognizeResponse]:
        response = ok(frame)
        if field == 'label':
            response.answer.label = value
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
        running.offer_until(lambda: time.monotonic() - began_s > 2)
    assert 2 <= len(servicer.frames) <= 8


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
    assert [frame.sequence for frame in servicer.frames[:2]] == [1, 1]
    assert 'unanswered' not in running.drops.counts()


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
