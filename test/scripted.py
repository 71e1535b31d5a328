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
"""A real gRPC server that speaks the wire as a test wants it, and a link that runs against it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np

from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.link import Link, LinkState
from ferros.types import Box, CameraFrame, Observation, OfferedFace
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
        self.welcome_after_s = 0.0
        # What each call brought along, and when.
        self.metadata: list[dict[str, str]] = []
        self.called_s: list[float] = []
        # May end a call before its Welcome, by context.abort.
        self.admit: Callable[[Scripted, Any], None] = lambda servicer, context: None
        # What is said once the robot has ended its half of the stream.
        self.farewell: list[wire.RecognizeResponse] = []

    def Recognize(self, requests: Any, context: Any) -> Iterator[wire.RecognizeResponse]:
        self.called_s.append(time.monotonic())
        self.metadata.append(dict(context.invocation_metadata()))
        self.admit(self, context)
        self.hellos.append(next(requests).hello)
        time.sleep(self.welcome_after_s)
        yield wire.RecognizeResponse(welcome=self.welcome)
        for request in requests:
            self.frames.append(request.frame)
            yield from self.answering(self, request.frame)
        yield from self.farewell


@contextlib.contextmanager
def serving(servicer: Any, port: int = 0, credentials: Any = None) -> Iterator[int]:
    """Run a server on this machine; yields its port."""
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[('grpc.so_reuseport', 0)])
    recognition_pb2_grpc.add_RecognitionServicer_to_server(servicer, server)
    address = f'127.0.0.1:{port}'
    if credentials is None:
        bound = server.add_insecure_port(address)
    else:
        bound = server.add_secure_port(address, credentials)
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
        config = RobotConfig(
            **{'server_address': f'127.0.0.1:{port}', 'robot_id': 'r', **parameters}
        )
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

    def wait(self) -> str:
        """Return why there is no connection, once there is none."""
        self.until(lambda: self.link.report().state is LinkState.WAITING)
        return self.link.report().detail

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
