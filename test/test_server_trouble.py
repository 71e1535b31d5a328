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
"""Tests of a real server in trouble: slow, greedy, hung and wrong; over real sockets."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tiny_model
from robots import (
    GatedEngine,
    Robot,
    channel_to,
    on_loop,
    refusal,
    robot_at,
    serving,
    status_name,
)

from cloud_server.batch import BatchQueue, Entry, QueueLimits
from cloud_server.batch_times import BatchTimes
from cloud_server.config import ServerConfig
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.server import shutdown, startup
from ferros_proto import recognition_pb2 as wire

MS = 1_000_000


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
    return OnnxEngine(tiny_model.write_or_shipped(tmp_path_factory.mktemp('model')))


def slow(engine, each_s):
    """An engine that takes so long for each face."""
    gated = GatedEngine(engine)
    encode = gated.encode

    def one_by_one(luma):
        time.sleep(each_s * len(luma))
        return encode(luma)

    gated.encode = one_by_one
    return gated


DEFAULTS = {'slots': 1, 'deadline_ms': 200, 'max_batch_ms': 25, 'max_queue_ms': 100}


@on_loop
async def test_a_slow_server_with_little_to_do_answers_all_faces_of_a_picture(engine):
    async with (
        serving(slow(engine, 0.05), **DEFAULTS) as server, robot_at(server.address) as robot
    ):
        outcomes = collections.Counter()
        for _ in range(6):
            for face in range(4):
                await robot.send(face_id=f'face {face}')
            outcomes.update(status_name(a) for a in (await robot.answers(4)).values())
            await asyncio.sleep(0.4)
        assert outcomes == {'OK': 24}


@on_loop
async def test_frames_over_a_limit_do_not_close_the_server_to_others(engine):
    async with (
        serving(slow(engine, 0.005), **DEFAULTS) as server, robot_at(server.address) as wrong
    ):
        for _ in range(20):
            assert (await wrong.exchange()).status == wire.OK
        for _ in range(1000):
            await wrong.exchange(sequence=1)
        async with robot_at(server.address, robot_id='another') as another:
            assert (await another.exchange()).status == wire.OK


@on_loop
async def test_images_that_are_never_computed_say_nothing_about_the_rate_of_the_model(engine):
    async with (
        serving(slow(engine, 0.02), **DEFAULTS) as server, robot_at(server.address) as robot
    ):
        for _ in range(20):
            await robot.exchange()
        queue = server.service._batcher._queue
        measured_hz = queue.service_rate_hz
        for _ in range(100):
            assert (await robot.exchange(image=b'garbage')).status == wire.BAD_IMAGE
        assert queue.service_rate_hz == measured_hz


@on_loop
async def test_a_robot_with_many_greedy_streams_takes_nothing_from_modest_ones(engine):
    settings = {**DEFAULTS, 'full_at_load': 100}
    outcomes = collections.Counter()

    async def greedy(robot):
        async def read():
            while True:
                await robot.answer()
        reading = asyncio.create_task(read())
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await robot.send(face_id=f'face {robot.sequence % 32}')
                await asyncio.sleep(1 / 200)
        reading.cancel()

    async def modest(address, number):
        async with robot_at(address, robot_id=f'modest {number}') as robot:
            await asyncio.sleep(0.5 * number / 15)
            for _ in range(4):
                outcomes[status_name(await robot.exchange())] += 1
                await asyncio.sleep(0.5)

    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(slow(engine, 0.01), **settings))
        flooding = []
        for number in range(8):
            robot = await stack.enter_async_context(
                robot_at(server.address, robot_id='greedy', camera=str(number)))
            flooding.append(asyncio.create_task(greedy(robot)))
        await asyncio.sleep(0.5)
        await asyncio.gather(*(modest(server.address, n) for n in range(15)))
        for task in flooding:
            task.cancel()
        await asyncio.wait(flooding)
    assert outcomes['OK'] >= 55, outcomes


def test_with_less_room_than_senders_the_quickest_does_not_get_it_all():
    queue = BatchQueue(QueueLimits(max_batch=1, max_queue=1))

    def entry(sender, number):
        return Entry((sender, number), sender, None, 0, 10**18)

    served = collections.Counter()
    for _ in range(60):
        # The greedy one is always there first.
        for sender in ('greedy', 'greedy', 'a', 'b'):
            queue.offer(entry(sender, object()))
        batch = queue.take(0).batch
        served.update(each.sender for each in batch)
        queue.finish(batch, 100 * MS)
    assert min(served[sender] for sender in ('greedy', 'a', 'b')) >= 15, served


def test_one_hiccup_of_a_large_batch_does_not_make_the_server_small():
    queue = BatchQueue(QueueLimits(
        max_batch=32, max_queue=1024, max_batch_ns=25 * MS, max_queue_ns=100 * MS))

    def batch(size, busy_ms):
        for _ in range(size):
            queue.offer(Entry(object(), 'robot', None, 0, 10**18))
        queue.finish(queue.take(0).batch, round(busy_ms * MS))

    for _ in range(50):
        for size in (1, 7):
            batch(size, 2 + 0.5 * size)
    before = queue.room
    batch(7, 5000)
    assert queue.batch_limit >= 7
    assert queue.room >= before / 2


@pytest.mark.parametrize('factor', [10, 100])
def test_a_machine_that_became_much_slower_is_believed(factor):
    times = BatchTimes()
    for _ in range(50):
        for size in (1, 2, 4):
            times.add(size, (2 + size) * MS)
    for _ in range(40):
        for size in (1, 2, 4):
            times.add(size, factor * (2 + size) * MS)
    assert times.time_ns(2) == pytest.approx(factor * 4 * MS, rel=0.15)


@on_loop
async def test_a_model_that_raises_stop_iteration_does_not_stop_the_server(engine):
    broken = GatedEngine(engine)
    encode, fails = broken.encode, True

    def failing(luma):
        if fails:
            raise StopIteration
        return encode(luma)

    broken.encode = failing
    async with serving(broken, slots=1) as server, robot_at(server.address) as robot:
        assert (await asyncio.wait_for(robot.exchange(), 2)).status == wire.UNAVAILABLE_MODEL
        fails = False
        assert (await asyncio.wait_for(robot.exchange(), 2)).status == wire.OK


@on_loop
async def test_a_stream_without_a_hello_does_not_hold_up_the_end(engine):
    running = await startup(ServerConfig(port=0, drain_ms=10_000), engine)
    async with channel_to(running.address) as channel:
        silent = Robot(channel)
        reading = asyncio.create_task(refusal(silent.call.read()))
        while not running.service._streams:
            await asyncio.sleep(0.01)
        began_s = time.monotonic()
        await shutdown(running)
        assert time.monotonic() - began_s < 2
        assert (await reading)[0] is grpc.StatusCode.UNAVAILABLE


def test_a_server_whose_model_hangs_ends_within_the_drain_time_nevertheless(tmp_path):
    model = tiny_model.write_or_shipped(tmp_path / 'model')
    code = f"""
import asyncio, threading, os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from robots import *
from cloud_server.config import ServerConfig
from cloud_server import server
gated = GatedEngine(OnnxEngine(__import__('pathlib').Path({str(model)!r})))
async def main():
    gated.gate.clear()
    def ready(running):
        async def visit():
            async with robot_at(running.address) as robot:
                await robot.send()
                await gated.has_started()
                print('hangs', flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(30)
        main.task = asyncio.create_task(visit())
    await server.serve(ServerConfig(port=0, drain_ms=100), gated, ready=ready)
asyncio.run(main())
"""
    began_s = time.monotonic()
    ended = subprocess.run(
        [sys.executable, '-c', code], timeout=25, capture_output=True, text=True
    )
    assert 'hangs' in ended.stdout, ended.stderr
    assert time.monotonic() - began_s < 10
    assert ended.returncode == 1
    assert 'does not come back' in ended.stderr


@on_loop
async def test_a_robot_cannot_take_the_places_of_others_by_saying_nothing(engine, tmp_path):
    tokens = tmp_path / 'tokens'
    hashes = {robot: hashlib.sha256(robot.encode()).hexdigest() for robot in ('r1', 'r2')}
    tokens.write_text(''.join(f'{robot} sha256:{hashes[robot]}\n' for robot in hashes))
    settings = {'token_file': tokens, 'max_streams': 20, 'max_streams_per_robot': 4}
    async with serving(engine, **settings) as server, contextlib.AsyncExitStack() as stack:
        silent = []
        for _ in range(4):
            channel = await stack.enter_async_context(channel_to(server.address))
            silent += [Robot(channel, [('authorization', 'Bearer r1')]) for _ in range(6)]
        reading = [asyncio.create_task(robot.call.read()) for robot in silent]
        await asyncio.sleep(0.5)
        channel = await stack.enter_async_context(channel_to(server.address))
        other = Robot(channel, [('authorization', 'Bearer r2')])
        await other.hello(robot_id='')
        assert (await other.exchange()).status == wire.OK
        for task in reading:
            task.cancel()
        await asyncio.wait(reading)


@pytest.mark.parametrize('part', ['features', 'results'])
@on_loop
async def test_a_model_that_gives_results_of_other_faces_is_not_believed(engine, part):
    broken = GatedEngine(engine)
    encode, step = broken.encode, broken.step
    if part == 'features':
        broken.encode = lambda luma: encode(luma)[:-1]
    else:
        broken.step = lambda *args: tuple(np.concatenate([each] * 2) for each in step(*args))
    async with serving(broken) as server, robot_at(server.address) as robot:
        assert (await robot.exchange()).status == wire.UNAVAILABLE_MODEL


def test_a_token_that_is_no_utf8_is_not_logged_by_grpc(tmp_path):
    """Needs a server in a process: logs.setup is what keeps it out."""
    tokens = tmp_path / 'tokens'
    tokens.write_text('')
    model = tiny_model.write_or_shipped(tmp_path / 'model')

    def http2(kind, flags, stream, payload=b''):
        return (struct.pack('>I', len(payload))[1:]
                + struct.pack('>BBI', kind, flags, stream) + payload)

    def header(name, value):
        return b'\0' + bytes([len(name)]) + name + bytes([len(value)]) + value

    call = b''.join(header(*each) for each in (
        (b':method', b'POST'), (b':scheme', b'http'),
        (b':path', b'/ferros.v1.Recognition/Recognize'), (b':authority', b'x'),
        (b'content-type', b'application/grpc'), (b'te', b'trailers'),
        (b'authorization', b'Bearer S3CRET\xa0')))
    command = [sys.executable, '-m', 'cloud_server', 'serve', '--port', '0', '--model', str(model),
               '--token-file', str(tokens)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        host, port = child.stdout.readline().split()[-1].split(':')
        child.stdout.readline()
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + http2(4, 0, 0) + http2(1, 4, 1, call))
            said = b''
            while b'grpc-status' not in said:
                said += connection.recv(1000)
        child.terminate()
        _, stderr = child.communicate(timeout=20)
    assert 'stream refused' in stderr
    assert 'S3CRET' not in stderr


@on_loop
async def test_frames_that_nobody_waits_for_any_more_are_counted(engine):
    held = GatedEngine(engine)
    async with serving(held) as server:
        async with robot_at(server.address) as robot:
            held.gate.clear()
            for face in range(3):
                await robot.send(face_id=f'face {face}')
            await held.has_started()
            robot.call.cancel()
            while server.service._streams:
                await asyncio.sleep(0.01)
        held.gate.set()
        counted = server.metrics.text()
    assert 'ferros_frames_total{outcome="stream_ended",robot="robot"} 3.0' in counted


@on_loop
async def test_many_refusals_are_all_counted_and_some_of_them_logged(engine, caplog):
    async with serving(engine) as server, channel_to(server.address) as channel:
        for _ in range(60):
            code, _ = await refusal(Robot(channel).hello(protocol_version=99))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
        counted = server.metrics.text()
    assert 'ferros_streams_refused_total{reason="failed_precondition"} 60.0' in counted
    lines = [record for record in caplog.records if 'stream refused' in record.getMessage()]
    assert 1 <= len(lines) <= 30


@on_loop
async def test_a_compressed_frame_is_refused_before_it_is_inflated(engine):
    async with (
        serving(engine) as server,
        grpc.aio.insecure_channel(server.address, compression=grpc.Compression.Gzip) as channel,
    ):
        code, _ = await refusal(Robot(channel).hello(camera='c' * 60, robot_id='r' * 60))
        assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
