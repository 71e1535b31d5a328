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
from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import grid_files
import grpc
import numpy as np
import pytest
import tiny_model
from grpc_health.v1 import health_pb2, health_pb2_grpc
from robots import (
    MS,
    GatedEngine,
    Robot,
    channel_to,
    jpeg,
    on_loop,
    pixels,
    refusal,
    robot_at,
    serving,
    status_name,
    webp,
)

from cloud_server import calibration
from cloud_server.config import ServerConfig
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.preprocess import to_input
from cloud_server.server import Running, shutdown, startup
from ferros import accuracy_grid
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent
S = 1_000_000_000


@pytest.fixture(scope='session')
def model_folder(tmp_path_factory) -> Path:
    return tiny_model.write_or_shipped(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='session')
def engine(model_folder) -> OnnxEngine:
    return OnnxEngine(model_folder)


@pytest.fixture
def gated(engine) -> Iterator[GatedEngine]:
    gated = GatedEngine(engine)
    yield gated
    gated.gate.set()


# -- the beginning of a stream ----------------------------------------------------------------


@on_loop
async def test_welcome_tells_the_model_its_labels_its_input_and_the_limits(engine):
    settings = {'credits': 5, 'max_faces': 7}
    async with serving(engine, **settings) as server, channel_to(server.address) as channel:
        robot = Robot(channel)
        welcome = await robot.hello()
        await robot.end()
    info = engine.info
    assert welcome.protocol_version == 1
    assert welcome.model == f'{info.name} {info.version}'
    assert tuple(welcome.labels) == info.served_labels
    assert not {'unknown', 'contempt'} & set(welcome.labels)
    assert welcome.input_size_px == info.input_size_px
    assert (welcome.state_reset.min_gap_ms, welcome.state_reset.intervals) == (2000, 3)
    assert welcome.credits == 5
    assert welcome.limits.max_faces == 7
    assert welcome.limits.max_image_bytes == 65_536
    assert not welcome.resumed


def with_grid(folder: Path, model: Path, grid: Path | None) -> Path:
    """Make a model folder of another one's files with that accuracy grid, or with none."""
    folder.mkdir()
    for path in model.iterdir():
        if path.name != 'operating_points.yaml':
            (folder / path.name).symlink_to(path)
    if grid is not None:
        (folder / 'operating_points.yaml').symlink_to(grid)
    return folder


@on_loop
async def test_welcome_brings_the_accuracy_grid_of_the_models_folder(model_folder, tmp_path):
    grid = grid_files.write(tmp_path / 'grid.yaml', grid_files.GOOD)
    for name, source, points in (('with', grid, accuracy_grid.read(grid)), ('without', None, ())):
        engine = OnnxEngine(with_grid(tmp_path / name, model_folder, source))
        async with serving(engine) as server, channel_to(server.address) as channel:
            welcome = await Robot(channel).hello()
        assert accuracy_grid.from_welcome(welcome.accuracy_grid) == points


@on_loop
async def test_describe_needs_no_stream_and_health_says_serving(engine):
    async with serving(engine) as server, channel_to(server.address) as channel:
        stub = recognition_pb2_grpc.RecognitionStub(channel)
        described = await stub.Describe(wire.DescribeRequest())
        assert list(described.protocol_versions) == [1]
        assert described.model == engine.info.display
        assert tuple(described.labels) == engine.info.served_labels
        assert described.device == 'CPU'
        health = health_pb2_grpc.HealthStub(channel)
        for service in ('', 'ferros.v1.Recognition'):
            request = health_pb2.HealthCheckRequest(service=service)
            assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING


@on_loop
async def test_another_protocol_version_is_refused_with_both_versions_named(engine):
    async with serving(engine) as server, channel_to(server.address) as channel:
        code, text = await refusal(Robot(channel).hello(protocol_version=2))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert 'robot speaks protocol version 2' in text
        assert 'this server version 1' in text


@pytest.mark.parametrize(
    'request_first', [wire.RecognizeRequest(), wire.RecognizeRequest(frame=wire.FaceFrame()), None]
)
@on_loop
async def test_a_stream_that_does_not_begin_with_hello_is_refused(engine, request_first):
    async with serving(engine) as server, channel_to(server.address) as channel:
        robot = Robot(channel)
        if request_first is None:
            await robot.call.done_writing()
        else:
            await robot.call.write(request_first)
        code, text = await refusal(robot.call.read())
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert 'must be Hello' in text


@on_loop
async def test_a_second_hello_ends_the_stream_and_no_other(engine):
    async with serving(engine) as server, robot_at(server.address) as good:
        async with robot_at(server.address) as bad:
            hello = wire.Hello(protocol_version=1)
            await bad.call.write(wire.RecognizeRequest(hello=hello))
            code, text = await refusal(bad.call.read())
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert 'second Hello' in text
        assert (await good.exchange()).status == wire.OK


@pytest.mark.parametrize(
    'hello', [{'robot_id': 'x' * 65}, {'camera': 'x' * 65}, {'robot_id': 'two\nlines'}]
)
@on_loop
async def test_names_that_do_not_fit_a_log_line_are_refused(engine, hello):
    async with serving(engine) as server, channel_to(server.address) as channel:
        code, _ = await refusal(Robot(channel).hello(**hello))
        assert code is grpc.StatusCode.INVALID_ARGUMENT


# -- frames and answers -----------------------------------------------------------------------


@on_loop
async def test_an_answer_carries_the_distribution_and_echoes_the_frames_times(engine):
    async with serving(engine) as server, robot_at(server.address) as robot:
        answer = await robot.exchange(capture_monotonic_ns=4711)
        assert status_name(answer) == 'OK'
        assert answer.capture_monotonic_ns == 4711
        assert answer.server_receive_monotonic_ns <= answer.server_reply_monotonic_ns
        assert len(answer.probabilities) == len(engine.info.served_labels)
        assert sum(answer.probabilities) == pytest.approx(1, abs=1e-5)
        assert answer.label in (*engine.info.served_labels, 'unknown')
        assert answer.state_reset
        assert not answer.HasField('valence')
        assert not (await robot.exchange(image=webp(), codec=wire.WEBP)).state_reset
        await robot.end()


@on_loop
async def test_every_frame_is_answered_once_and_the_stream_ends_after_the_last_answer(gated):
    async with serving(gated, slots=1) as server, robot_at(server.address) as robot:
        gated.gate.clear()
        for index in range(10):
            await robot.send(face_id=f'face {index % 3}')
        await robot.call.done_writing()
        gated.gate.set()
        answers = await robot.answers(10)
        assert sorted(answers) == list(range(1, 11))
        assert {status_name(answer) for answer in answers.values()} == {'OK'}
        await robot.end()


BAD_FRAMES = {
    'not an image': ({'image': b'not an image' * 20}, 'BAD_IMAGE', 'not a JPEG'),
    'empty': ({'image': b''}, 'BAD_IMAGE', 'empty'),
    'truncated': ({'image': jpeg()[:-200]}, 'BAD_IMAGE', 'truncated'),
    'another codec': ({'image': webp()}, 'BAD_IMAGE', 'not a JPEG'),
    'no codec': ({'codec': wire.CODEC_UNSPECIFIED}, 'BAD_IMAGE', 'codec'),
    'unknown codec': ({'codec': 77}, 'BAD_IMAGE', 'codec'),
    'not square': (
        {'image': cv2.imencode('.jpg', pixels()[:, :32])[1].tobytes()},
        'BAD_IMAGE',
        '32x48',
    ),
    'too many pixels': ({'image': jpeg(side_px=600)}, 'LIMIT_EXCEEDED', '600x600'),
    'too many bytes': ({'image': b'\xff\xd8' + bytes(70_000)}, 'LIMIT_EXCEEDED', '70002 bytes'),
    'no face id': ({'face_id': ''}, 'LIMIT_EXCEEDED', 'face_id'),
    'long face id': ({'face_id': 'x' * 33}, 'LIMIT_EXCEEDED', 'face_id'),
    'sequence again': ({'sequence': 1}, 'LIMIT_EXCEEDED', 'sequence 1'),
}


@pytest.mark.parametrize('case', BAD_FRAMES)
@on_loop
async def test_a_bad_frame_gets_its_status_and_the_stream_and_its_state_go_on(engine, case):
    changes, status, detail = BAD_FRAMES[case]
    async with serving(engine) as server, robot_at(server.address) as robot:
        assert (await robot.exchange()).status == wire.OK
        answer = await robot.exchange(**changes)
        assert status_name(answer) == status
        assert detail in answer.detail
        assert not answer.probabilities
        after = await robot.exchange()
        assert (status_name(after), after.state_reset) == ('OK', False)


@on_loop
async def test_a_bad_image_does_not_touch_the_good_ones_of_its_batch(gated):
    async with serving(gated, slots=1) as server, robot_at(server.address) as robot:
        gated.gate.clear()
        await robot.send(face_id='first')
        await gated.has_started()
        for face_id, image in (('a', jpeg(1)), ('bad', b'garbage'), ('b', jpeg(2))):
            await robot.send(face_id=face_id, image=image)
        await wait_for_frames(server, 3)
        gated.gate.set()
        answers = await robot.answers(4)
        statuses = [status_name(answers[sequence]) for sequence in (1, 2, 3, 4)]
        assert statuses == ['OK', 'OK', 'BAD_IMAGE', 'OK']
        assert gated.batch_sizes == [1, 2]


async def wait_for_frames(server: Running, count: int) -> None:
    """Wait until so many frames wait in the server's queue."""
    while len(server.service._batcher._queue) < count:
        await asyncio.sleep(0.005)


@on_loop
async def test_a_message_beyond_the_transports_limit_ends_that_stream_and_no_other(engine):
    async with serving(engine) as server, robot_at(server.address) as good:
        async with robot_at(server.address) as bad:
            await bad.send(image=bytes(300_000))
            assert (await refusal(bad.call.read()))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await good.exchange()).status == wire.OK


@pytest.mark.parametrize('is_after_hello', [False, True])
@on_loop
async def test_bytes_that_are_no_message_end_that_stream_and_no_other(engine, is_after_hello):
    async with serving(engine) as server, robot_at(server.address) as good:
        async with channel_to(server.address) as channel:
            call = channel.stream_stream('/ferros.v1.Recognition/Recognize')()
            if is_after_hello:
                hello = wire.RecognizeRequest(hello=wire.Hello(protocol_version=1))
                await call.write(hello.SerializeToString())
                await call.read()
            await call.write(b'\xff' * 100)
            code, _ = await refusal(call.read())
            assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert (await good.exchange()).status == wire.OK


@on_loop
async def test_one_face_too_many_is_refused_while_the_others_go_on(engine):
    async with serving(engine, max_faces=2) as server, robot_at(server.address) as robot:
        for face_id, status in (('a', 'OK'), ('b', 'OK'), ('c', 'LIMIT_EXCEEDED'), ('a', 'OK')):
            assert status_name(await robot.exchange(face_id=face_id)) == status


@on_loop
async def test_an_idle_face_makes_room_and_begins_anew_when_it_comes_back(engine):
    settings = {'max_faces': 1, 'face_idle_ms': 0}
    async with serving(engine, **settings) as server, robot_at(server.address) as robot:
        for face_id, is_reset in (('a', True), ('a', False), ('b', True), ('a', True)):
            answer = await robot.exchange(face_id=face_id)
            assert (status_name(answer), answer.state_reset) == ('OK', is_reset)


@on_loop
async def test_frames_beyond_the_rate_are_refused_and_the_stream_goes_on(engine):
    settings = {'max_frame_rate_fps': 10.0, 'credits': 32}
    async with serving(engine, **settings) as server, robot_at(server.address) as robot:
        for _ in range(20):
            await robot.send()
        statuses = [status_name(answer) for answer in (await robot.answers(20)).values()]
        assert statuses.count('OK') in (10, 11, 12)
        assert statuses.count('LIMIT_EXCEEDED') == 20 - statuses.count('OK')


@on_loop
async def test_frames_beyond_the_credits_are_refused_at_once(gated):
    async with serving(gated, credits=4) as server, robot_at(server.address) as robot:
        gated.gate.clear()
        for _ in range(6):
            await robot.send()
        refused = await robot.answers(2)
        assert set(refused) == {5, 6}
        assert {status_name(answer) for answer in refused.values()} == {'LIMIT_EXCEEDED'}
        assert 'more than 4 unanswered' in refused[5].detail
        gated.gate.set()
        assert {status_name(a) for a in (await robot.answers(4)).values()} == {'OK'}
        assert (await robot.exchange()).status == wire.OK


@on_loop
async def test_a_robot_that_never_reads_is_stopped_by_backpressure_and_others_are_not(engine):
    settings = {'credits': 4, 'max_frame_rate_fps': 100_000}
    async with (
        serving(engine, **settings) as server,
        robot_at(server.address) as good,
        robot_at(server.address) as deaf,
    ):
        sent, is_enough = 0, False

        async def flood() -> None:
            nonlocal sent
            while not is_enough:
                await deaf.send(image=bytes(2000))
                sent += 1

        flooding = asyncio.create_task(flood())
        previous = -1
        while sent != previous:
            previous = sent
            for _ in range(10):
                assert (await good.exchange()).status == wire.OK
            await asyncio.sleep(0.2)
        # What the transport's windows hold, not what was offered.
        assert not flooding.done()
        assert sent < 2000
        # Once it reads, its last frame goes out and it gets every answer.
        is_enough = True
        answers = await deaf.answers(sent + 1)
        assert set(answers) == set(range(1, sent + 1))
        await deaf.end()


# -- load, failures and the state -------------------------------------------------------------


@on_loop
async def test_a_frame_that_waited_beyond_the_deadline_is_dropped_as_stale(gated):
    settings = {'deadline_ms': 50, 'slots': 1}
    async with serving(gated, **settings) as server, robot_at(server.address) as robot:
        gated.gate.clear()
        await robot.send()
        await gated.has_started()
        await robot.send()
        await wait_for_frames(server, 1)
        await asyncio.sleep(0.06)
        gated.gate.set()
        answers = await robot.answers(2)
        assert [status_name(answers[n]) for n in (1, 2)] == ['OK', 'DROPPED_STALE']
        # The state went on from the first: nothing was computed of the second.
        assert gated.batch_sizes == [1]
        assert not (await robot.exchange()).state_reset


@on_loop
async def test_a_full_server_says_so_at_once_and_suggests_a_rate(gated):
    settings = {'max_queue': 2, 'slots': 1, 'max_batch': 1}
    async with serving(gated, **settings) as server, robot_at(server.address) as robot:
        assert (await robot.exchange()).status == wire.OK
        gated.gate.clear()
        await gated.has_started()
        await robot.send(face_id='a')
        await gated.has_started()
        for face_id in 'bcd':
            await robot.send(face_id=face_id)
        refused = await robot.answer()
        assert (status_name(refused), refused.sequence) == ('OVERLOADED', 5)
        assert refused.suggested_frame_rate_fps > 0
        gated.gate.set()
        assert {status_name(a) for a in (await robot.answers(3)).values()} == {'OK'}


@on_loop
async def test_a_failing_model_is_reported_without_its_secrets_and_the_next_frame_works(
    gated, caplog
):
    async with serving(gated) as server, robot_at(server.address) as robot:
        await robot.exchange()
        gated.fails = True
        with caplog.at_level(logging.ERROR):
            answer = await robot.exchange()
        assert status_name(answer) == 'UNAVAILABLE_MODEL'
        assert 'secret' not in answer.detail
        assert any('secret of the model' in str(record.exc_info) for record in caplog.records)
        gated.fails = False
        after = await robot.exchange()
        assert (status_name(after), after.state_reset) == ('OK', False)


@on_loop
async def test_a_face_without_finite_numbers_fails_alone_and_begins_anew(gated):
    async with serving(gated) as server, robot_at(server.address) as robot:
        await robot.exchange()
        gated.spoils_last = True
        assert status_name(await robot.exchange()) == 'UNAVAILABLE_MODEL'
        gated.spoils_last = False
        after = await robot.exchange()
        assert (status_name(after), after.state_reset) == ('OK', True)


@on_loop
async def test_a_stream_that_is_cut_does_not_break_the_batch_of_the_others(gated):
    async with serving(gated, slots=1) as server, robot_at(server.address) as good:
        gated.gate.clear()
        await good.send()
        await gated.has_started()
        async with robot_at(server.address) as cut:
            for face_id in 'ab':
                await cut.send(face_id=face_id)
            await good.send()
            await wait_for_frames(server, 3)
            cut.call.cancel()
            # Its frames leave the queue: nobody waits for them.
            while len(server.service._batcher._queue) > 1:
                await asyncio.sleep(0.005)
        gated.gate.set()
        assert {status_name(a) for a in (await good.answers(2)).values()} == {'OK'}
        assert gated.batch_sizes == [1, 1]


@on_loop
async def test_a_state_resets_after_a_gap_and_when_stamps_go_backwards(engine):
    async with serving(engine) as server, robot_at(server.address) as robot:
        resets = [
            (await robot.exchange(stamp_ns=stamp_ns, interval_ms=interval_ms)).state_reset
            for stamp_ns, interval_ms in (
                (10 * S, 0),
                (12 * S, 0),
                (14 * S + 1, 0),
                (17 * S, 1000),
                (20 * S + 1, 1000),
                (20 * S, 1000),
                (20 * S, 1000),
            )
        ]
        assert resets == [True, False, True, False, True, True, False]


@on_loop
async def test_the_state_of_a_face_is_gone_when_its_stream_ends(engine):
    async with serving(engine) as server:
        first = []
        for _ in range(2):
            async with robot_at(server.address) as robot:
                answers = [await robot.exchange(image=jpeg(i), stamp_ns=i * MS) for i in range(3)]
                first.append([list(answer.probabilities) for answer in answers])
                assert [answer.state_reset for answer in answers] == [True, False, False]
        np.testing.assert_allclose(first[0], first[1], atol=1e-4)


STREAMS, FACES, FRAMES = 4, 3, 30


def scripted_stamp_ns(stream: int, face: int, frame: int) -> int:
    """Return uneven spacings, with one gap that resets."""
    gap_ns = 2500 * MS if frame >= 17 else 0
    return S + frame * (40 + 7 * stream) * MS + (frame % 3) * 5 * MS + gap_ns + face


def scripted_image(stream: int, face: int, frame: int) -> bytes:
    return jpeg(seed=1000 * stream + 100 * face + frame, side_px=(24, 48, 40)[face])


def offline(engine: OnnxEngine, stream: int, face: int) -> tuple[list[np.ndarray], list[int]]:
    """Compute one face in one pass, frame by frame, with nothing of the server."""
    info = engine.info
    h = c = np.zeros((1, info.state_size), np.float32)
    rows, resets, previous_ns = [], [], None
    for frame in range(FRAMES):
        stamp_ns = scripted_stamp_ns(stream, face, frame)
        interval_s = 0.0 if previous_ns is None else (stamp_ns - previous_ns) / S
        if previous_ns is None or interval_s > 2.0:
            h, c, interval_s = np.zeros_like(h), np.zeros_like(c), 0.0
            resets.append(frame)
        previous_ns = stamp_ns
        data = np.frombuffer(scripted_image(stream, face, frame), np.uint8)
        luma = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
        size_px = np.array([luma.shape[0]], np.float32)
        features = engine.encode(to_input(luma, info.input_size_px)[None])
        logits, h, c = engine.step(features, np.array([interval_s], np.float32), size_px, h, c)
        rows.append(calibration.probabilities(logits, size_px, info)[0])
    return rows, resets


@on_loop
async def test_interleaved_streams_in_changing_batches_give_what_one_offline_pass_gives(gated):
    """
    Several robots send faces at once; every distribution equals that of its face computed alone.

    A state mixed up between faces, steps out of order or a batch put together wrongly would show.
    """
    settings = {'max_batch': 5, 'slots': 2, 'credits': 9}

    async def one_robot(address: str, stream: int) -> dict[tuple[int, int], wire.Answer]:
        answers = {}
        async with robot_at(address, robot_id=f'robot {stream}') as robot:
            sent = {}
            for frame in range(FRAMES):
                for face in range(FACES):
                    sequence = await robot.send(
                        face_id=f'face {face}',
                        stamp_ns=scripted_stamp_ns(stream, face, frame),
                        image=scripted_image(stream, face, frame),
                    )
                    sent[sequence] = (face, frame)
                # Two frames of every face are on their way, at uneven times.
                if frame:
                    for sequence, answer in (await robot.answers(FACES)).items():
                        answers[sent[sequence]] = answer
                if frame % (2 + stream) == 0:
                    await asyncio.sleep(0.002)
            for sequence, answer in (await robot.answers(FACES)).items():
                answers[sent[sequence]] = answer
            await robot.end()
        return answers

    async with serving(gated, **settings) as server:
        streams = await asyncio.gather(
            *(one_robot(server.address, stream) for stream in range(STREAMS))
        )

    assert len(set(gated.batch_sizes)) >= 3
    for stream, answers in enumerate(streams):
        assert len(answers) == FACES * FRAMES
        for face in range(FACES):
            rows, resets = offline(gated._engine, stream, face)
            assert resets == [0, 17]
            assert [f for f in range(FRAMES) if answers[face, f].state_reset] == resets
            served = [list(answers[face, frame].probabilities) for frame in range(FRAMES)]
            np.testing.assert_allclose(served, rows, atol=1e-4)
    # The state matters: without it the same frames give something else.
    rows, _ = offline(gated._engine, 0, 0)
    alone = gated._engine.step(
        gated._engine.encode(to_input(decoded(0, 0, 10), gated.info.input_size_px)[None]),
        np.zeros(1, np.float32),
        np.array([24], np.float32),
        *(np.zeros((1, gated.info.state_size), np.float32) for _ in 'hc'),
    )[0]
    stateless = calibration.probabilities(alone, np.array([24], np.float32), gated.info)[0]
    assert np.abs(stateless - rows[10]).max() > 1e-3


def decoded(stream: int, face: int, frame: int) -> np.ndarray:
    data = np.frombuffer(scripted_image(stream, face, frame), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


# -- shutdown ---------------------------------------------------------------------------------


@on_loop
async def test_at_shutdown_a_robot_gets_drain_and_all_its_answers_and_a_proper_end(gated):
    running = await startup(ServerConfig(port=0, deadline_ms=60_000, drain_ms=20_000), gated)
    async with robot_at(running.address) as robot:
        gated.gate.clear()
        for index in range(5):
            await robot.send(face_id=f'face {index}')
        await gated.has_started()
        stopping = asyncio.create_task(shutdown(running))
        assert (await robot.drain()).sealed_state == b''
        # This frame crossed the Drain on its way.
        await robot.send(face_id='late')
        await robot.call.done_writing()
        gated.gate.set()
        answers = await robot.answers(6)
        assert {status_name(answer) for answer in answers.values()} == {'OK'}
        # Once more, with the states of all faces, after the last answer.
        assert len((await robot.drain()).sealed_state) > 6 * 2 * 4 * gated.info.state_size
        await robot.end()
        # Long before drain_ms: nobody is left.
        await asyncio.wait_for(stopping, 5)


@on_loop
async def test_a_robot_that_ignores_drain_is_left_behind_after_the_drain_time(engine):
    running = await startup(ServerConfig(port=0, drain_ms=200), engine)
    async with robot_at(running.address) as robot:
        started = time.monotonic()
        await shutdown(running)
        assert 0.15 < time.monotonic() - started < 5
        await robot.drain()
        await robot.drain()
        assert await robot.call.read() is grpc.aio.EOF
        assert await robot.call.code() is grpc.StatusCode.OK


@on_loop
async def test_while_draining_health_says_so_and_a_new_stream_is_sent_away(engine):
    running = await startup(ServerConfig(port=0, drain_ms=5_000), engine)
    async with robot_at(running.address) as robot, channel_to(running.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest())
        stopping = asyncio.create_task(shutdown(running))
        await robot.drain()
        checked = await health.Check(health_pb2.HealthCheckRequest())
        assert checked.status == health_pb2.HealthCheckResponse.NOT_SERVING
        code, _ = await refusal(Robot(channel).hello())
        assert code is grpc.StatusCode.UNAVAILABLE
        await robot.leave()
        await stopping


@on_loop
async def test_a_stream_is_drained_before_its_connection_is_too_old(engine, monkeypatch):
    monkeypatch.setattr('cloud_server.stream.STREAM_AGE_FRACTION', 0.02)
    settings = {'max_connection_age_s': 10}
    async with serving(engine, **settings) as server, robot_at(server.address) as robot:
        assert (await robot.drain()).reconnect_after_ms == 0
        await robot.leave()
        async with robot_at(server.address) as again:
            assert (await again.exchange()).status == wire.OK


# -- the process ------------------------------------------------------------------------------


@contextlib.contextmanager
def process(*flags: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, '-m', 'cloud_server', 'serve', '--port', '0', *flags]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def lines_of(child: subprocess.Popen[str]) -> tuple[str, str]:
    """Return the address and the model line."""
    listening, model = child.stdout.readline(), child.stdout.readline()
    assert listening.startswith('listening on '), child.stderr.read()
    return listening.removeprefix('listening on ').strip(), model.strip()


def test_the_process_announces_itself_serves_quietly_and_leaves_on_sigterm(model_folder, engine):
    with process('--model', str(model_folder)) as child:
        address, model = lines_of(child)
        assert re.fullmatch(r'127\.0\.0\.1:[1-9]\d*', address)
        assert model == f'model {engine.info.display} on CPU (onnx)'

        async def visit() -> None:
            async with robot_at(address, robot_id='r2') as robot:
                for _ in range(40):
                    assert (await robot.exchange()).status == wire.OK
                await robot.end()

        asyncio.run(visit())
        child.send_signal(signal.SIGTERM)
        stdout, stderr = child.communicate(timeout=10)
        assert child.returncode == 0
        assert stdout == ''
        assert '[r2/front #1] opened' in stderr
        assert "closed after {'ok': 40}" in stderr
        assert len(stderr.splitlines()) < 6, stderr


def test_the_default_model_brings_the_robot_the_grid_that_ships_with_it():
    with process() as child:
        address, _ = lines_of(child)

        async def visit() -> wire.Welcome:
            async with channel_to(address) as channel:
                return await Robot(channel).hello()

        welcome = asyncio.run(visit())
        child.terminate()
        stderr = child.communicate(timeout=10)[1]
    points = accuracy_grid.from_welcome(welcome.accuracy_grid)
    assert len(points) == 126
    assert points == accuracy_grid.read(ROOT / 'config' / 'operating_points.yaml')
    assert wire.Welcome(accuracy_grid=welcome.accuracy_grid).ByteSize() <= 8192
    assert 'WARNING' not in stderr, stderr


def test_a_broken_accuracy_grid_stops_the_start_and_is_named(model_folder, tmp_path):
    grid = grid_files.write_wrong(tmp_path / 'grid.yaml', 'an accuracy in percent')
    folder = with_grid(tmp_path / 'model', model_folder, grid)
    with process('--model', str(folder)) as child:
        stdout, stderr = child.communicate(timeout=30)
    assert (child.returncode, stdout) == (2, '')
    assert stderr == (
        f'ferros-cloud serve: {folder}/operating_points.yaml: point 2: accuracy is 76.9,'
        ' expected a number 0 to 1\n'
    )


def catches_sigterm(pid: int) -> bool:
    text = Path(f'/proc/{pid}/status').read_text()
    caught = int(re.search(r'SigCgt:\s*([0-9a-f]+)', text).group(1), 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs /proc')
@pytest.mark.parametrize('delay_s', [0.0, 0.05, 0.2, 0.4, 0.8])
def test_a_sigterm_at_any_moment_of_the_start_ends_it_with_status_0(model_folder, delay_s):
    with process('--model', str(model_folder)) as child:
        # Before that the interpreter itself is not there yet.
        while not catches_sigterm(child.pid):
            time.sleep(0.001)
        time.sleep(delay_s)
        child.send_signal(signal.SIGTERM)
        _, stderr = child.communicate(timeout=10)
        assert child.returncode == 0, stderr
        assert 'Traceback' not in stderr


def test_signals_are_taken_before_anything_is_imported():
    code = (
        'import importlib, os, signal, sys\n'
        'from cloud_server import __main__\n'
        'importlib.import_module = lambda name: os.kill(os.getpid(), signal.SIGTERM)\n'
        "__main__.main(['serve'])\n"
    )
    ended = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, b'')


def test_a_second_signal_ends_the_process_at_once(model_folder):
    with process('--model', str(model_folder), '--drain-ms', '60000') as child:
        address, _ = lines_of(child)

        async def visit() -> None:
            async with robot_at(address) as robot:
                child.send_signal(signal.SIGINT)
                child.send_signal(signal.SIGINT)
                assert (await robot.call.read()).WhichOneof('response') == 'drain'
                await asyncio.sleep(1.2)
                assert child.poll() is None, 'the same Ctrl-C twice is one signal'
                child.send_signal(signal.SIGINT)
                await asyncio.to_thread(child.wait, 5)

        asyncio.run(visit())
        assert child.returncode == 128 + signal.SIGINT


@pytest.mark.parametrize(
    ('flags', 'texts'),
    [
        (['--host', '0.0.0.0'], ["host is '0.0.0.0'", '--insecure']),
        (['--model', '/nowhere'], ['/nowhere/model.json: cannot be read']),
        (['--config', '/nowhere.yaml'], ['/nowhere.yaml: cannot be read']),
        (['--credits', '0', '--threads', 'two'], ['credits is 0', "threads is 'two'"]),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line_each_and_not_in_a_traceback(flags, texts):
    with process(*flags) as child:
        stdout, stderr = child.communicate(timeout=30)
    assert child.returncode == 2
    assert stdout == ''
    assert len(stderr.splitlines()) == (2 if '--credits' in flags else 1), stderr
    assert all(text in stderr for text in texts), stderr


def test_a_second_server_on_the_same_port_says_so_in_one_line(model_folder):
    with process('--model', str(model_folder)) as first:
        address, _ = lines_of(first)
        port = address.split(':')[1]
        with process('--model', str(model_folder), '--port', port) as second:
            _, stderr = second.communicate(timeout=30)
    assert second.returncode == 2
    assert f'cannot listen on {address}' in stderr
    assert 'Traceback' not in stderr


def test_insecure_lets_the_server_listen_to_other_machines(model_folder):
    with process('--model', str(model_folder), '--host', '0.0.0.0', '--insecure') as child:
        assert lines_of(child)[0].startswith('0.0.0.0:')
        child.terminate()
        assert child.wait(10) == 0
