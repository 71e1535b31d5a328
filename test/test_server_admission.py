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
"""Tests of who is let in when, and of how a server that is full says so; over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import tiny_model
from robots import GatedEngine, Robot, channel_to, on_loop, refusal, robot_at, serving

from cloud_server.engine.onnx import OnnxEngine
from cloud_server.server import Running
from ferros_proto import recognition_pb2 as wire


@pytest.fixture(scope='module')
def engine(tmp_path_factory) -> OnnxEngine:
    return OnnxEngine(tiny_model.write_or_shipped(tmp_path_factory.mktemp('model')))


@pytest.fixture
def gated(engine) -> Iterator[GatedEngine]:
    gated = GatedEngine(engine)
    yield gated
    gated.gate.set()


async def refused(address: str, **hello: Any) -> tuple[grpc.StatusCode, str, int | None]:
    """Return with which status, text and hint of a retry in ms a stream is refused."""
    async with channel_to(address) as channel:
        robot = Robot(channel)
        code, text = await refusal(robot.hello(**hello))
        metadata = dict(await robot.call.trailing_metadata() or ())
        retry = metadata.get('grpc-retry-pushback-ms')
        return code, text, None if retry is None else int(retry)


@contextlib.asynccontextmanager
async def busy(engine, **settings: Any) -> AsyncIterator[Running]:
    """Run a server that gets more frames than it serves: its model takes 100 ms for each."""
    slow = GatedEngine(engine)
    slow.takes_s = 0.1
    settings = {'slots': 1, 'max_batch': 1, 'deadline_ms': 200, 'credits': 64, **settings}
    async with serving(slow, **settings) as server, robot_at(server.address) as greedy:
        stopped = asyncio.Event()

        async def flood() -> None:
            while not stopped.is_set():
                await greedy.send()
                await asyncio.sleep(0.02)

        async def read() -> None:
            while await greedy.call.read() is not grpc.aio.EOF:
                pass

        flooding, reading = asyncio.create_task(flood()), asyncio.create_task(read())
        await asyncio.sleep(1.0)
        try:
            yield server
        finally:
            stopped.set()
            await flooding
            await greedy.call.done_writing()
            await reading


@on_loop
async def test_a_full_server_refuses_new_streams_and_says_when_to_try_again(engine):
    async with busy(engine) as server:
        code, text, retry_ms = await refused(server.address, robot_id='late')
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert 'the server is full (load' in text
        assert retry_ms is not None and 750 <= retry_ms <= 12_500


@on_loop
async def test_where_the_load_may_be_anything_a_new_stream_is_let_in(engine):
    async with busy(engine, full_at_load=100) as server, robot_at(server.address, robot_id='late'):
        pass


@on_loop
async def test_a_robot_has_a_bounded_number_of_streams_and_gets_them_back(engine):
    async with (
        serving(engine, max_streams_per_robot=2) as server,
        robot_at(server.address, camera='left'),
        robot_at(server.address, camera='right') as right,
    ):
        code, text, retry_ms = await refused(server.address, camera='third')
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "more than 2 streams of the robot 'robot'" in text
        assert retry_ms is not None
        async with robot_at(server.address, robot_id='another'):
            pass
        await right.end()
        async with robot_at(server.address, camera='third') as third:
            assert (await third.exchange()).status == wire.OK


@on_loop
async def test_all_robots_together_have_a_bounded_number_of_streams(engine):
    async with serving(engine, max_streams=1) as server:
        async with robot_at(server.address, robot_id='one') as one:
            code, text, retry_ms = await refused(server.address, robot_id='two')
            assert (code, text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 'more than 1 streams')
            assert retry_ms is not None
            await one.end()
        async with robot_at(server.address, robot_id='two') as two:
            assert (await two.exchange()).status == wire.OK


@on_loop
async def test_a_stream_whose_hello_does_not_come_does_not_keep_its_place(engine, monkeypatch):
    monkeypatch.setattr('cloud_server.service.HELLO_TIMEOUT_S', 0.2)
    async with serving(engine) as server, channel_to(server.address) as channel:
        robot = Robot(channel)
        code, text = await refusal(robot.call.read())
        assert (code, text) == (grpc.StatusCode.DEADLINE_EXCEEDED, 'no Hello within 0.2 s')


@on_loop
async def test_when_it_is_full_a_robot_that_asks_for_little_is_still_served(engine):
    async with (
        busy(engine, full_at_load=100, max_queue_ms=300) as server,
        robot_at(server.address, robot_id='modest') as modest,
    ):
        answers = []
        for _ in range(5):
            answers.append(await modest.exchange())
            await asyncio.sleep(0.25)
        assert len([answer for answer in answers if answer.status == wire.OK]) >= 4


@on_loop
async def test_an_overloaded_server_suggests_the_share_of_each_stream(gated):
    gated.takes_s = 0.05
    async with contextlib.AsyncExitStack() as stack:
        settings = {'slots': 1, 'max_batch': 1, 'max_queue': 2, 'deadline_ms': 60_000}
        server = await stack.enter_async_context(serving(gated, **settings))
        robots = [
            await stack.enter_async_context(robot_at(server.address, robot_id=f'r{i}'))
            for i in range(2)
        ]
        await robots[0].exchange()
        for robot in robots:
            for index in range(6):
                await robot.send(face_id=f'face {index}')
        answers = [answer for r in robots for answer in (await r.answers(6)).values()]
        overloaded = [a for a in answers if a.status == wire.OVERLOADED]
        assert overloaded
        # 20 frames a second for two streams.
        assert overloaded[-1].suggested_frame_rate_fps == pytest.approx(10, rel=0.3)
