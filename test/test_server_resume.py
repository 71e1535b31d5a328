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
"""Tests of how a robot carries the states of its faces to the next server; over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from robots import MS, Robot, jpeg, on_loop, robot_at

from cloud_server.config import ServerConfig
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.sealed_state import key_text, new_key
from cloud_server.server import Running, shutdown, startup
from ferros_proto import recognition_pb2 as wire

KEY = new_key()


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory) -> Path:
    return tiny_model.write_or_shipped(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def engine(model_folder) -> OnnxEngine:
    return OnnxEngine(model_folder)


@contextlib.asynccontextmanager
async def fleet(engine, *, key: bytes = KEY, **settings: Any) -> AsyncIterator[Running]:
    """Run one of the servers that share a key."""
    config = ServerConfig(**{'port': 0, 'deadline_ms': 60_000, 'drain_ms': 5_000, **settings})
    running = await startup(config, engine, state_key=key)
    try:
        yield running
    finally:
        await shutdown(running)


async def sent_away(server: Running, robot: Robot) -> bytes:
    """Shut the server down as its robot sees it; return what the robot carries away."""
    stopping = asyncio.create_task(shutdown(server))
    assert (await robot.drain()).sealed_state == b''
    sealed = await robot.leave()
    await stopping
    return sealed


def probabilities(answer: wire.Answer) -> list[float]:
    assert answer.status == wire.OK
    return list(answer.probabilities)


async def read(robot: Robot, count: int, first: int = 0, **changes: Any) -> list[wire.Answer]:
    """Send so many frames of a face, each its own picture at its own time; return the answers."""
    return [
        await robot.exchange(
            image=jpeg(first + i), stamp_ns=(first + i) * 100 * MS, **changes
        )
        for i in range(count)
    ]


@on_loop
async def test_the_next_server_goes_on_as_if_nothing_had_happened(engine):
    async with fleet(engine) as server, robot_at(server.address) as robot:
        expected = [probabilities(answer) for answer in await read(robot, 8)]
        await robot.end()

    running = await startup(ServerConfig(port=0, drain_ms=5_000), engine, state_key=KEY)
    async with robot_at(running.address) as robot:
        answers = await read(robot, 4)
        sealed = await sent_away(running, robot)
    async with fleet(engine) as server, robot_at(server.address, resume_state=sealed) as robot:
        assert robot.welcome.resumed
        later = await read(robot, 4, first=4)
        await robot.end()

    assert not any(answer.state_reset for answer in later)
    assert [probabilities(answer) for answer in [*answers, *later]] == expected


@on_loop
async def test_without_the_state_the_next_server_would_have_begun_anew(engine):
    async with fleet(engine) as server, robot_at(server.address) as robot:
        assert not robot.welcome.resumed
        expected = [probabilities(answer) for answer in await read(robot, 5)]
        await robot.end()
    async with fleet(engine) as server, robot_at(server.address) as robot:
        (answer,) = await read(robot, 1, first=4)
        assert answer.state_reset
        assert probabilities(answer) != expected[4]
        await robot.end()


@on_loop
async def test_frames_in_flight_at_the_drain_are_in_the_state(engine):
    running = await startup(ServerConfig(port=0, drain_ms=5_000), engine, state_key=KEY)
    async with robot_at(running.address) as robot:
        await read(robot, 3)
        stopping = asyncio.create_task(shutdown(running))
        await robot.drain()
        # It was on its way when the Drain was written.
        await robot.send(image=jpeg(3), stamp_ns=300 * MS)
        await robot.call.done_writing()
        assert (await robot.answer()).status == wire.OK
        sealed = (await robot.drain()).sealed_state
        await robot.end()
        await stopping
    async with fleet(engine) as server, robot_at(server.address, resume_state=sealed) as robot:
        later = await read(robot, 1, first=4)
        await robot.end()
    async with fleet(engine) as server, robot_at(server.address) as robot:
        expected = await read(robot, 5)
        await robot.end()
    assert probabilities(later[0]) == probabilities(expected[4])


@on_loop
async def test_a_robot_without_faces_carries_nothing(engine):
    running = await startup(ServerConfig(port=0, drain_ms=5_000), engine, state_key=KEY)
    async with robot_at(running.address) as robot:
        assert await sent_away(running, robot) == b''


@pytest.mark.parametrize(
    'case', ['another robot', 'another camera', 'another key', 'altered', 'expired', 'garbage']
)
@on_loop
async def test_a_state_that_does_not_belong_here_is_not_resumed_and_the_stream_goes_on(
    engine, case, caplog
):
    running = await startup(ServerConfig(port=0, state_ttl_s=1), engine, state_key=KEY)
    async with robot_at(running.address) as robot:
        await read(robot, 2)
        sealed = await sent_away(running, robot)
    hello, settings = {}, {}
    if case == 'another robot':
        hello = {'robot_id': 'thief'}
    elif case == 'another camera':
        hello = {'camera': 'rear'}
    elif case == 'another key':
        settings = {'key': new_key()}
    elif case == 'altered':
        sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    elif case == 'garbage':
        sealed = b'\xff' * 1000
    else:
        await asyncio.sleep(1.1)
    async with (
        fleet(engine, **settings) as server,
        robot_at(server.address, resume_state=sealed, **hello) as robot,
    ):
        assert not robot.welcome.resumed
        answers = await read(robot, 2, first=2)
        assert [answer.state_reset for answer in answers] == [True, False]
        await robot.end()
    assert 'its state is not resumed' in caplog.text


@on_loop
async def test_servers_that_share_a_key_file_go_on_with_each_others_states(engine, tmp_path):
    path = tmp_path / 'state.key'
    path.write_text(key_text(new_key()) + '\n')
    settings = {'port': 0, 'state_key_file': path}
    running = await startup(ServerConfig(**settings), engine)
    async with robot_at(running.address) as robot:
        await read(robot, 2)
        sealed = await sent_away(running, robot)
    running = await startup(ServerConfig(**settings), engine)
    async with robot_at(running.address, resume_state=sealed) as robot:
        assert robot.welcome.resumed
        await sent_away(running, robot)


@on_loop
async def test_a_face_resumed_after_a_long_gap_begins_anew(engine):
    running = await startup(ServerConfig(port=0), engine, state_key=KEY)
    async with robot_at(running.address) as robot:
        await read(robot, 2)
        sealed = await sent_away(running, robot)
    async with fleet(engine) as server, robot_at(server.address, resume_state=sealed) as robot:
        (answer,) = await read(robot, 1, first=60)
        assert answer.state_reset
        await robot.end()


@on_loop
async def test_a_shutdown_waits_no_longer_than_the_robots_need(engine):
    running = await startup(ServerConfig(port=0, drain_ms=20_000), engine, state_key=KEY)
    async with robot_at(running.address) as robot:
        await read(robot, 1)
        started_s = time.monotonic()
        await sent_away(running, robot)
        assert time.monotonic() - started_s < 5
