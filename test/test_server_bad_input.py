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
"""
Tests of what hostile and broken clients cost a server: bounded memory and time, and no neighbour.

Frames and images that are bad one at a time are in test_server.py.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import math
import random
import re
import resource
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tiny_model
from grpc_health.v1 import health_pb2, health_pb2_grpc
from robots import (
    GatedEngine,
    Robot,
    channel_to,
    jpeg,
    on_loop,
    refusal,
    robot_at,
    serving,
    status_name,
)

from cloud_server.__main__ import main
from cloud_server.config import ServerConfig
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.sealed_state import new_key
from cloud_server.server import Running, shutdown, startup
from ferros_proto import recognition_pb2 as wire

ROOT = Path(__file__).resolve().parent.parent
RECOGNIZE = '/ferros.v1.Recognition/Recognize'
MB = 1_000_000
needs_proc = pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs /proc')


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory) -> Path:
    return tiny_model.write_or_shipped(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def engine(model_folder) -> OnnxEngine:
    return OnnxEngine(model_folder)


class Process:
    """A server in a process of its own, whose memory and descriptors can be looked at."""

    def __init__(self, pid: int, address: str) -> None:
        self.pid = pid
        self.address = address

    @property
    def memory_bytes(self) -> int:
        status = Path(f'/proc/{self.pid}/status').read_text()
        return 1024 * int(re.search(r'VmRSS:\s*(\d+)', status).group(1))

    @property
    def peak_bytes(self) -> int:
        status = Path(f'/proc/{self.pid}/status').read_text()
        return 1024 * int(re.search(r'VmHWM:\s*(\d+)', status).group(1))

    @property
    def descriptors(self) -> int:
        return len(list(Path(f'/proc/{self.pid}/fd').iterdir()))

    def connect(self) -> socket.socket:
        host, port = self.address.split(':')
        return socket.create_connection((host, int(port)), timeout=10)


@pytest.fixture(scope='module')
def process(model_folder) -> Iterator[Process]:
    command = [sys.executable, '-m', 'cloud_server', 'serve', '--port', '0', '--model',
               str(model_folder), '--log-level', 'error', '--deadline-ms', '60000']
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        try:
            listening = child.stdout.readline()
            address = listening.removeprefix('listening on ').strip()
            asyncio.run(warm_up(address))
            yield Process(child.pid, address)
            child.terminate()
            assert child.wait(20) == 0
        finally:
            child.kill()


async def warm_up(address: str) -> None:
    """Let what is allocated once be allocated before anything is compared."""
    async with robot_at(address) as robot:
        for _ in range(50):
            await robot.exchange()
        await robot.end()


# -- below the protocol: connections, frames of HTTP/2, metadata ----------------------------------

PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
HEADERS, RST_STREAM, SETTINGS = 1, 3, 4


def http2(kind: int, flags: int, stream: int, payload: bytes = b'') -> bytes:
    return struct.pack('>I', len(payload))[1:] + struct.pack('>BBI', kind, flags, stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    return b'\0' + bytes([len(name)]) + name + bytes([len(value)]) + value


CALL = b''.join(
    header(name, value)
    for name, value in (
        (b':method', b'POST'), (b':scheme', b'http'), (b':path', RECOGNIZE.encode()),
        (b':authority', b'x'), (b'content-type', b'application/grpc'), (b'te', b'trailers'),
    )
)


@needs_proc
@on_loop
async def test_connections_that_say_nothing_cost_a_descriptor_and_no_robot_waits_for_them(process):
    before, memory_bytes = process.descriptors, process.memory_bytes
    async with robot_at(process.address) as robot:
        with contextlib.ExitStack() as stack:
            for said in (b'', PREFACE[:10], PREFACE, PREFACE + http2(SETTINGS, 0, 0)):
                for _ in range(50):
                    stack.enter_context(process.connect()).sendall(said)
            async with robot_at(process.address, robot_id='late') as late:
                assert (await late.exchange()).status == wire.OK
            assert (await robot.exchange()).status == wire.OK
            assert process.descriptors >= before + 200
        assert process.memory_bytes - memory_bytes < 20 * MB
        while process.descriptors > before + 5:
            await asyncio.sleep(0.02)


@needs_proc
@on_loop
async def test_without_a_descriptor_left_open_streams_go_on_and_new_ones_come_in_later(process):
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    async with robot_at(process.address) as robot:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (process.descriptors + 10, hard))
        try:
            with contextlib.ExitStack() as stack:
                for _ in range(40):
                    stack.enter_context(process.connect())
                for _ in range(20):
                    assert (await robot.exchange()).status == wire.OK
        finally:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        async with robot_at(process.address, robot_id='later') as later:
            assert (await later.exchange()).status == wire.OK
        await robot.end()


@needs_proc
@on_loop
async def test_streams_that_are_reset_as_fast_as_they_are_opened_leave_nothing_behind(process):
    memory_bytes = process.memory_bytes

    def reset(count: int) -> None:
        with process.connect() as connection:
            # With its answer to the server's settings, without which few would be accepted.
            connection.sendall(PREFACE + http2(SETTINGS, 0, 0) + http2(SETTINGS, 1, 0))
            for first in range(1, 2 * count, 200):
                connection.sendall(b''.join(
                    http2(HEADERS, 4, stream, CALL)
                    + http2(RST_STREAM, 0, stream, struct.pack('>I', 8))
                    for stream in range(first, first + 200, 2)
                ))

    async with robot_at(process.address) as robot:
        resetting = asyncio.create_task(asyncio.to_thread(reset, 50_000))
        while not resetting.done():
            assert (await asyncio.wait_for(robot.exchange(), 5)).status == wire.OK
        await resetting
        await robot.end()
    assert process.memory_bytes - memory_bytes < 30 * MB


@needs_proc
@on_loop
async def test_a_small_message_that_inflates_to_a_huge_one_is_refused_and_not_kept(process):
    memory_bytes = process.peak_bytes
    bomb = wire.RecognizeRequest(frame=wire.FaceFrame(sequence=1, image=bytes(100 * MB)))
    async with robot_at(process.address) as good, channel_to(process.address) as channel:
        call = channel.stream_stream(RECOGNIZE)(compression=grpc.Compression.Gzip)
        hello = wire.RecognizeRequest(hello=wire.Hello(protocol_version=1))
        await call.write(hello.SerializeToString())
        await call.read()
        await call.write(bomb.SerializeToString())
        code, _ = await refusal(call.read())
        assert code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)
        assert (await good.exchange()).status == wire.OK
    assert process.peak_bytes - memory_bytes < 50 * MB


@on_loop
async def test_more_metadata_than_any_robot_needs_ends_that_call_and_no_other(engine):
    async with serving(engine) as server, robot_at(server.address) as good:
        async with channel_to(server.address) as channel:
            code, _ = await refusal(Robot(channel, [('x', 'x' * 50_000)]).hello())
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await good.exchange()).status == wire.OK


@on_loop
async def test_handshakes_that_never_end_keep_no_robot_out_of_a_server_with_tls(engine, tmp_path):
    keys = str(tmp_path / 'keys')
    assert main(['keys', 'ca', keys]) == 0
    assert main(['keys', 'server', keys, '--host', '127.0.0.1']) == 0
    own = tmp_path / 'keys' / 'server'
    tls = {'tls_cert_file': own / 'cert.pem', 'tls_key_file': own / 'key.pem'}
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(
            ssl.MemoryBIO(), outgoing, server_hostname='127.0.0.1'
        ).do_handshake()
    client_hello = outgoing.read()
    async with serving(engine, **tls) as server:
        host, port = server.address.split(':')
        with contextlib.ExitStack() as stack:
            for said in (b'', client_hello[:50], client_hello, PREFACE, b'\xff' * 5000):
                for _ in range(10):
                    connection = socket.create_connection((host, int(port)), timeout=10)
                    stack.enter_context(connection).sendall(said)
            credentials = grpc.ssl_channel_credentials((own / 'ca.pem').read_bytes())
            async with grpc.aio.secure_channel(server.address, credentials) as channel:
                robot = Robot(channel)
                await robot.hello()
                assert (await robot.exchange()).status == wire.OK
                await robot.end()


# -- messages -------------------------------------------------------------------------------------


def field(number: int, content: bytes) -> bytes:
    """Encode a field of bytes, as protobuf does."""
    head, size = bytes([number << 3 | 2]), len(content)
    while size > 0x7F:
        head, size = head + bytes([size & 0x7F | 0x80]), size >> 7
    return head + bytes([size]) + content


GROUP_BEGINS, FRAME, IMAGE = b'\x0b', 2, 7
# The bytes of a message, and how the stream ends; OK: it goes on.
MESSAGES = {
    'groups in groups': (GROUP_BEGINS * 100_000, 'INVALID_ARGUMENT'),
    'a length beyond the end': (b'\x12\xff\xff\xff\xff\x07', 'INVALID_ARGUMENT'),
    'a number without an end': (b'\xff' * 1000, 'INVALID_ARGUMENT'),
    'a face id that is no UTF-8': (field(FRAME, b'\x08\x01' + field(2, b'\xed\xa0\x80')),
                                   'INVALID_ARGUMENT'),
    'nothing': (b'', 'FAILED_PRECONDITION'),
    'an unknown request': (field(15, bytes(1000)), 'FAILED_PRECONDITION'),
    'a frame many times over': (field(FRAME, b'\x08\x01' + field(IMAGE, b'x')) * 20_000, 'OK'),
    'unknown fields in a frame': (field(FRAME, b'\x08\x01' + field(15, b'') * 50_000), 'OK'),
}


@pytest.mark.parametrize('case', MESSAGES)
@on_loop
async def test_odd_messages_are_refused_or_answered_and_disturb_no_other_stream(engine, case):
    message, outcome = MESSAGES[case]
    async with serving(engine) as server, robot_at(server.address) as good:
        async with channel_to(server.address) as channel:
            call = channel.stream_stream(
                RECOGNIZE, response_deserializer=wire.RecognizeResponse.FromString
            )()
            hello = wire.RecognizeRequest(hello=wire.Hello(protocol_version=1))
            await call.write(hello.SerializeToString())
            assert (await call.read()).WhichOneof('response') == 'welcome'
            await call.write(message)
            if outcome == 'OK':
                assert (await call.read()).answer.sequence == 1
            else:
                assert (await refusal(call.read()))[0].name == outcome
        assert (await good.exchange()).status == wire.OK


INT64, LONGEST_MS = 1 << 63, (1 << 32) - 1
EXTREMES: list[dict[str, Any]] = [
    {'stamp_ns': INT64 - 1}, {'stamp_ns': -INT64}, {'stamp_ns': INT64 - 1},
    {'stamp_ns': 0, 'interval_ms': LONGEST_MS},
    # Within the longest gap that such an interval allows: half a year.
    {'stamp_ns': 10**16, 'interval_ms': LONGEST_MS},
    {'capture_monotonic_ns': INT64 - 1}, {'capture_monotonic_ns': -INT64},
    {'image': jpeg(side_px=1)}, {'image': jpeg(side_px=2)}, {'image': jpeg(side_px=512)},
    {'face_id': '\0\x1b[2J\r\n\u202e'}, {'face_id': '\U0001f600' * 32}, {'face_id': '\ue000'},
    {'face_id': '%s %n {0}', 'stamp_ns': INT64 - 1},
    {'sequence': (1 << 64) - 1},
]


@on_loop
async def test_numbers_and_names_at_their_limits_are_answered_and_survive_a_new_server(engine):
    key = new_key()
    first = await startup(ServerConfig(port=0, deadline_ms=60_000), engine, state_key=key)
    second = await startup(ServerConfig(port=0, deadline_ms=60_000), engine, state_key=key)
    async with robot_at(first.address) as robot:
        for changes in EXTREMES:
            answer = await robot.exchange(**changes)
            assert status_name(answer) == 'OK', (changes, answer.detail)
            assert math.isclose(sum(answer.probabilities), 1, abs_tol=1e-5), changes
        assert status_name(await robot.exchange()) == 'LIMIT_EXCEEDED'
        stopping = asyncio.create_task(shutdown(first))
        await robot.drain()
        sealed = await robot.leave()
        await stopping
    async with robot_at(second.address, resume_state=sealed) as robot:
        assert robot.welcome.resumed
        for face_id in ('%s %n {0}', '\0\x1b[2J\r\n\u202e', '\U0001f600' * 32):
            stamp_ns = INT64 - 1 if face_id.startswith('%') else 1_200_000_000
            answer = await robot.exchange(face_id=face_id, stamp_ns=stamp_ns)
            assert (status_name(answer), answer.state_reset) == ('OK', False), face_id
        await robot.end()
    await shutdown(second)


@on_loop
async def test_a_name_full_of_formats_is_logged_as_it_is(engine, caplog):
    name = '%s %(x)d {0} $(id) \\n <b>'
    caplog.set_level('INFO')
    async with serving(engine) as server, robot_at(server.address, robot_id=name) as robot:
        assert (await robot.exchange(image=b'')).status == wire.BAD_IMAGE
        await robot.end()
    assert {record.robot for record in caplog.records if hasattr(record, 'robot')} == {name}


@on_loop
async def test_states_that_are_garbage_cost_little_however_large_and_many(engine):
    garbage = b'\x01' + random.Random(1).randbytes(250_000)
    async with serving(engine) as server, channel_to(server.address) as channel:
        began_s = time.monotonic()
        for size in (1, 79, 1000, 65_536, 65_537, 250_000) * 10:
            robot = Robot(channel)
            assert not (await robot.hello(resume_state=garbage[:size])).resumed
            await robot.end()
        assert time.monotonic() - began_s < 10


@on_loop
async def test_a_state_belongs_to_the_robot_that_proved_its_name_and_to_no_other(engine, tmp_path):
    tokens = tmp_path / 'tokens'
    tokens.write_text(''.join(
        f'{robot} sha256:{hashlib.sha256(robot.encode()).hexdigest()}\n' for robot in ('r1', 'r2')
    ))
    settings, key = {'port': 0, 'deadline_ms': 60_000, 'token_file': tokens}, new_key()

    async def hello(address: str, token: str, **more: Any) -> tuple[Any, Robot]:
        channel = await stack.enter_async_context(channel_to(address))
        robot = Robot(channel, [('authorization', f'Bearer {token}')])
        return await robot.hello(robot_id='', **more), robot

    async with contextlib.AsyncExitStack() as stack:
        first = await startup(ServerConfig(**settings), engine, state_key=key)
        _, robot = await hello(first.address, 'r1')
        await robot.exchange()
        stopping = asyncio.create_task(shutdown(first))
        await robot.drain()
        sealed = await robot.leave()
        await stopping
        second = await startup(ServerConfig(**settings), engine, state_key=key)
        stack.push_async_callback(shutdown, second)
        for token, is_resumed in (('r2', False), ('r1', True)):
            welcome, robot = await hello(second.address, token, resume_state=sealed)
            assert welcome.resumed is is_resumed
            await robot.end()


# -- a model that misbehaves ----------------------------------------------------------------------


@pytest.mark.parametrize(
    'error', [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, MemoryError]
)
@on_loop
async def test_whatever_a_model_raises_fails_its_frame_and_neither_the_next_nor_the_server(
    engine, error
):
    broken = GatedEngine(engine)
    encode, fails = broken.encode, True

    def failing(luma):
        if fails:
            raise error
        return encode(luma)

    broken.encode = failing
    async with serving(broken, slots=1) as server, robot_at(server.address) as robot:
        assert (await asyncio.wait_for(robot.exchange(), 10)).status == wire.UNAVAILABLE_MODEL
        fails = False
        assert (await robot.exchange()).status == wire.OK


# -- neighbours -----------------------------------------------------------------------------------


@on_loop
async def test_a_robot_that_sends_all_it_can_takes_nothing_from_those_that_ask_for_little(engine):
    """15 robots ask for 30 of the 100 frames a second, one for 240 and from 32 faces."""
    slow = GatedEngine(engine)
    encode = slow.encode

    def one_by_one(luma):
        # It stands for a model that takes 10 ms a face.
        time.sleep(0.01 * len(luma))
        return encode(luma)

    slow.encode = one_by_one
    settings = {'slots': 1, 'deadline_ms': 200, 'max_batch_ms': 25, 'max_queue_ms': 100,
                'full_at_load': 100}
    refused: list[wire.Answer] = []
    asked = 0

    async def ask_for_little(address: str, number: int) -> None:
        nonlocal asked
        async with robot_at(address, robot_id=f'modest {number}') as robot:
            await asyncio.sleep(0.5 * number / 15)
            for _ in range(5):
                answer = await robot.exchange()
                asked += 1
                if answer.status != wire.OK:
                    refused.append(answer)
                await asyncio.sleep(0.5)

    async with serving(slow, **settings) as server, greedy(server) as outcomes:
        await asyncio.gather(*(ask_for_little(server.address, n) for n in range(15)))
    assert asked == 75
    assert len(refused) <= 4, refused
    assert outcomes['OVERLOADED'] > outcomes['OK'] > 50


@contextlib.asynccontextmanager
async def greedy(server: Running) -> AsyncIterator[collections.Counter[str]]:
    """Keep all credits of a stream in use, at the highest rate that it may have."""
    outcomes: collections.Counter[str] = collections.Counter()
    async with robot_at(server.address, robot_id='greedy') as robot:
        credits = asyncio.Semaphore(robot.welcome.credits)

        async def send() -> None:
            while True:
                await credits.acquire()
                await robot.send(face_id=f'face {robot.sequence % 32}')
                await asyncio.sleep(1 / 240)

        async def read() -> None:
            while True:
                outcomes[status_name(await robot.answer())] += 1
                credits.release()

        tasks = [asyncio.create_task(send()), asyncio.create_task(read())]
        await asyncio.sleep(0.5)
        try:
            yield outcomes
        finally:
            for task in tasks:
                task.cancel()


@pytest.mark.parametrize('seed', [1, 2])
@on_loop
async def test_every_frame_is_answered_once_whatever_happens_around_it(engine, seed):
    """The queue overflows, the model fails, others are cut off, and the server is replaced."""
    rng = random.Random(seed)
    rough = GatedEngine(engine)
    encode = rough.encode

    def sometimes(luma):
        time.sleep(0.002)
        if rng.random() < 0.05:
            raise RuntimeError('now and then')
        return encode(luma)

    rough.encode = sometimes
    settings = {'port': 0, 'max_queue': 4, 'max_batch': 3, 'deadline_ms': 50, 'credits': 8,
                'drain_ms': 5000, 'full_at_load': 100, 'slots': seed}
    server = await startup(ServerConfig(**settings), rough)
    stops = asyncio.Event()
    outcomes: collections.Counter[str] = collections.Counter()

    async def live(number: int) -> None:
        chance = random.Random(100 * seed + number)
        while not stops.is_set():
            with contextlib.suppress(grpc.aio.AioRpcError):
                async with robot_at(server.address, robot_id=f'robot {number}') as robot:
                    outcomes[await one_stream(robot, chance, outcomes)] += 1

    living = [asyncio.create_task(live(number)) for number in range(8)]
    for _ in range(2):
        await asyncio.sleep(0.6)
        old, server = server, await startup(ServerConfig(**settings), rough)
        await shutdown(old)
        assert not old.service._batcher._futures
    stops.set()
    await asyncio.gather(*living)
    await shutdown(server)
    assert outcomes['cut'] > 3 and outcomes['ended'] > 10
    expected = {'OK', 'OVERLOADED', 'UNAVAILABLE_MODEL', 'BAD_IMAGE'}
    assert expected <= {name for name, count in outcomes.items() if count}


async def one_stream(
    robot: Robot, chance: random.Random, outcomes: collections.Counter[str]
) -> str:
    """Send frames until the server drains, or some; check that each is answered, and once."""
    answered: list[int] = []
    drains = 0

    async def read() -> None:
        nonlocal drains
        while (response := await robot.call.read()) is not grpc.aio.EOF:
            assert drains < 2, 'something follows the last Drain'
            if response.WhichOneof('response') == 'answer':
                answered.append(response.answer.sequence)
                outcomes[status_name(response.answer)] += 1
            else:
                drains += 1

    reading = asyncio.create_task(read())
    for _ in range(chance.randint(1, 40)):
        if drains or reading.done():
            break
        image = b'garbage' if chance.random() < 0.1 else jpeg()
        await robot.send(face_id=f'face {chance.randint(0, 3)}', image=image)
        if chance.random() < 0.5:
            await asyncio.sleep(0.01 * chance.random())
    if chance.random() < 0.2:
        robot.call.cancel()
        await asyncio.wait([reading])
        return 'cut'
    await robot.call.done_writing()
    await reading
    assert sorted(answered) == list(range(1, robot.sequence + 1))
    return 'ended'


# -- the end --------------------------------------------------------------------------------------


@on_loop
async def test_a_robot_that_neither_reads_nor_leaves_delays_the_end_by_the_drain_time_only(engine):
    settings = {'credits': 1024, 'max_frame_rate_fps': 100_000, 'drain_ms': 200}
    running = await startup(ServerConfig(port=0, **settings), engine)
    async with robot_at(running.address) as deaf:
        async def flood() -> None:
            while True:
                await deaf.send(image=b'')

        flooding = asyncio.create_task(flood())
        previous = -1
        while deaf.sequence != previous:
            previous = deaf.sequence
            await asyncio.sleep(0.3)
        began_s = time.monotonic()
        await shutdown(running)
        # Twice drain_ms, and the half seconds for the calls that are left.
        assert time.monotonic() - began_s < 2.5
        flooding.cancel()


@on_loop
async def test_who_watches_the_health_does_not_hold_up_the_end(engine):
    running = await startup(ServerConfig(port=0, drain_ms=60_000), engine)
    async with channel_to(running.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        began_s = time.monotonic()
        await shutdown(running)
        assert time.monotonic() - began_s < 5
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
