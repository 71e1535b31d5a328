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
"""Robots that talk to a real server over a real socket, for tests of the server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import cv2
import grpc
import numpy as np
import pytest

from cloud_server.config import ServerConfig
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.server import Running, shutdown, startup
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

MS = 1_000_000


class GatedEngine:
    """A real engine whose encoder can be held, made to fail, or made to give no numbers."""

    kind = 'gated'
    device = 'CPU'
    slots = 2
    batch_ms = 25

    def __init__(self, engine: OnnxEngine) -> None:
        self.info = engine.info
        self._engine = engine
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.batch_sizes: list[int] = []
        self.fails = False
        # How long the encoder takes at least.
        self.takes_s = 0.0
        self.spoils_last = False

    def encode(self, luma):
        self.batch_sizes.append(len(luma))
        self.started.release()
        assert self.gate.wait(30)
        time.sleep(self.takes_s)
        if self.fails:
            raise RuntimeError('secret of the model')
        return self._engine.encode(luma)

    def step(self, *inputs):
        logits, h, c = self._engine.step(*inputs)
        if self.spoils_last:
            logits[-1] = np.nan
        return logits, h, c

    def close(self) -> None:
        self._engine.close()

    async def has_started(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=20)


def on_loop(test: Callable[..., Any]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


@contextlib.asynccontextmanager
async def serving(engine, **settings: Any) -> AsyncIterator[Running]:
    """Run the real server on a free port; nothing takes too long unless a test says so."""
    times = {'deadline_ms': 60_000, 'max_batch_ms': 60_000, 'max_queue_ms': 600_000}
    settings = {'port': 0, 'drain_ms': 300, **times, **settings}
    running = await startup(ServerConfig(**settings), engine)
    try:
        yield running
    finally:
        await shutdown(running)


@contextlib.asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[grpc.aio.Channel]:
    # Without probing, the transport holds 64 KB for a client that does not read.
    options = [('grpc.use_local_subchannel_pool', 1), ('grpc.http2.bdp_probe', 0)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


class Robot:
    """A client that keeps to the wire unless a test makes it break it."""

    def __init__(
        self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        stub = recognition_pb2_grpc.RecognitionStub(channel)
        self.call = stub.Recognize(metadata=metadata)
        self.sequence = 0

    async def hello(self, **changes: Any) -> wire.Welcome:
        hello = {'protocol_version': 1, 'robot_id': 'robot', 'camera': 'front', **changes}
        await self.call.write(wire.RecognizeRequest(hello=wire.Hello(**hello)))
        response = await self.call.read()
        assert response.WhichOneof('response') == 'welcome', response
        self.welcome = response.welcome
        return response.welcome

    async def send(self, **changes: Any) -> int:
        self.sequence += 1
        frame = {
            'sequence': self.sequence,
            'face_id': 'face',
            'stamp_ns': self.sequence * 100 * MS,
            'capture_monotonic_ns': 1000 + self.sequence,
            'codec': wire.JPEG,
            'image': jpeg(),
            **changes,
        }
        await self.call.write(wire.RecognizeRequest(frame=wire.FaceFrame(**frame)))
        return self.sequence

    async def answer(self) -> wire.Answer:
        response = await self.call.read()
        assert response is not grpc.aio.EOF, 'the stream ended'
        assert response.WhichOneof('response') == 'answer', response
        return response.answer

    async def answers(self, count: int) -> dict[int, wire.Answer]:
        answers = [await self.answer() for _ in range(count)]
        assert len({answer.sequence for answer in answers}) == count
        return {answer.sequence: answer for answer in answers}

    async def exchange(self, **changes: Any) -> wire.Answer:
        sequence = await self.send(**changes)
        answer = await self.answer()
        assert answer.sequence == changes.get('sequence', sequence)
        return answer

    async def drain(self) -> wire.Drain:
        response = await self.call.read()
        assert response is not grpc.aio.EOF, 'the stream ended'
        assert response.WhichOneof('response') == 'drain', response
        return response.drain

    async def leave(self) -> bytes:
        """Follow a Drain whose first message came, with no frame in flight; return the state."""
        await self.call.done_writing()
        sealed_state = (await self.drain()).sealed_state
        await self.end()
        return sealed_state

    async def end(self) -> None:
        """End the stream properly; nothing may come any more."""
        await self.call.done_writing()
        assert await self.call.read() is grpc.aio.EOF
        assert await self.call.code() is grpc.StatusCode.OK


async def refusal(doing: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    """Return the status with which the server ends a stream."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await doing
    return error.value.code(), error.value.details()


@contextlib.asynccontextmanager
async def robot_at(address: str, **hello: Any) -> AsyncIterator[Robot]:
    async with channel_to(address) as channel:
        robot = Robot(channel)
        await robot.hello(**hello)
        yield robot


def pixels(seed: int = 0, side_px: int = 48) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6), np.uint8)
    return cv2.resize(noise, (side_px, side_px), interpolation=cv2.INTER_CUBIC)


def jpeg(seed: int = 0, side_px: int = 48) -> bytes:
    return cv2.imencode('.jpg', pixels(seed, side_px))[1].tobytes()


def webp(seed: int = 0, side_px: int = 48) -> bytes:
    return cv2.imencode('.webp', pixels(seed, side_px))[1].tobytes()


def status_name(answer: wire.Answer) -> str:
    return wire.Status.Name(answer.status)
