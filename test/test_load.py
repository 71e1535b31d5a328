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
import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
import tiny_model
from command_line import command

import cloud_server.load
from cloud_server import decode
from cloud_server.load import connection, faces, generate, picture, report, schedule
from cloud_server.load.faults import FAULTS, bad_images
from cloud_server.load.generate import UnreachableError
from cloud_server.load.plan import FAULT_KINDS, Plan, PlanError, parse_faults, parse_sizes
from cloud_server.load.result import Frames, Result
from cloud_server.load.stream import Sent, Stream
from cloud_server.load.summary import (
    HealthFigures,
    Server,
    Times,
    latency,
    summarise,
)
from cloud_server.load.tally import Tally
from cloud_server.load.target import TargetError
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent
S = 1_000_000_000
MS = 1_000_000
NOBODY = '127.0.0.1:1'


def run(plan: Plan, **options: Any) -> Result:
    """Run a plan to its end; a run that does not end is a failure."""
    return asyncio.run(asyncio.wait_for(generate(plan, **options), 40))


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory) -> Path:
    return tiny_model.write_or_shipped(tmp_path_factory.mktemp('model'))


@contextlib.contextmanager
def serving(model: Path, *flags: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the real server as a process; yields its address and the process."""
    arguments = ['--port', '0', '--model', model, *flags]
    with subprocess.Popen(
        [sys.executable, '-m', 'cloud_server', 'serve', *map(str, arguments)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    ) as child:
        said: list[str] = []
        # Its log must not fill the pipe.
        reader = threading.Thread(target=lambda: said.extend(child.stderr))
        reader.start()
        try:
            line = child.stdout.readline()
            assert line.startswith('listening on '), said
            yield line.split()[-1], child
        finally:
            child.kill()
            reader.join()


@pytest.fixture(scope='module')
def address(model_folder) -> Iterator[str]:
    with serving(model_folder) as (address, _):
        yield address


# -- the schedule -----------------------------------------------------------------------------


def planned(rate_fps: float, seconds: float, arrivals: str = 'even', seed: int = 1) -> list[int]:
    return list(schedule.planned_ns(rate_fps, 5 * S, 5 * S + int(seconds * S), arrivals,
                                    random.Random(seed)))


@pytest.mark.parametrize(('rate_fps', 'seconds'), [(30, 10), (0.5, 60), (7.3, 100), (999, 2)])
def test_even_frames_are_one_interval_apart_from_a_random_phase_on(rate_fps, seconds):
    times_ns = planned(rate_fps, seconds)
    assert len(times_ns) == pytest.approx(rate_fps * seconds, abs=1)
    assert 5 * S <= times_ns[0] < 5 * S + S / rate_fps
    assert np.diff(times_ns) == pytest.approx(S / rate_fps, abs=2)
    assert times_ns[0] != planned(rate_fps, seconds, seed=2)[0]


def test_poisson_frames_have_the_mean_and_the_spread_of_their_process():
    gaps_s = np.diff(planned(100, 200, 'poisson')) / S
    assert gaps_s.mean() == pytest.approx(0.01, rel=0.03)
    # Of the exponential distribution both are the same.
    assert gaps_s.std() == pytest.approx(gaps_s.mean(), rel=0.05)


@pytest.mark.parametrize('arrivals', ['even', 'poisson'])
def test_a_schedule_is_the_same_for_the_same_seed(arrivals):
    assert planned(20, 10, arrivals) == planned(20, 10, arrivals)
    assert planned(20, 10, arrivals) != planned(20, 10, arrivals, seed=2)


def test_the_robots_begin_one_after_another_over_the_ramp():
    assert [schedule.begins_ns(robot, 4, 8 * S) for robot in range(4)] == [0, 2 * S, 4 * S, 6 * S]
    assert schedule.begins_ns(3, 4, 0) == 0


@pytest.mark.parametrize('first', [0, 7, 1000])
def test_any_successive_faces_have_the_sizes_in_their_shares(first):
    sizes = parse_sizes('24:3,48:5,96:2')
    drawn = [schedule.size_of_face_px(face, sizes) for face in range(first, first + 50)]
    for size_px, share in sizes:
        assert drawn.count(size_px) == pytest.approx(50 * share, abs=2)


# -- the plan ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'rate_fps': 0}, 'rate_fps is 0, expected 0.01 to'),
        ({'rate_fps': float('nan')}, 'rate_fps is nan'),
        ({'robots': -1}, 'robots is -1'),
        ({'robots': 0}, 'expected something to do'),
        ({'codec': 'png'}, "codec is 'png', expected one of"),
        ({'sizes': ((0, 1.0),)}, 'a size is 0 px'),
        ({'address': 'localhost'}, "'localhost' is no address, expected HOST:PORT"),
        ({'address': 'localhost:1,'}, "'' is no address"),
        ({'address': '10.0.0.1:50051'}, '10.0.0.1:50051 is another machine'),
        ({'address': '127.0.0.1.example.org:1'}, 'is another machine'),
        ({'faults': (('nonsense', 1),)}, "'nonsense' is no fault, expected one of slow-reader"),
        ({'faults': (('cancel', 0),)}, 'with the fault cancel are 0'),
        ({'faults': (('cancel', 1), ('cancel', 2))}, 'the fault cancel is given twice'),
        ({'tls_key_file': Path('key')}, 'a certificate needs its key'),
        ({'tls_cert_file': Path('a'), 'tls_key_file': Path('b')}, '--tls-cert without --tls-ca'),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused_with_its_value(changes, text):
    with pytest.raises(PlanError) as error:
        Plan(**{'address': NOBODY, **changes})
    assert text in str(error.value)


def test_all_that_is_wrong_with_a_plan_is_said_at_once():
    with pytest.raises(PlanError) as error:
        Plan('nowhere', robots=-1, rate_fps=0, quality=101)
    assert len(error.value.problems) == 4


def test_another_machine_is_loaded_over_tls_or_when_it_is_said_that_this_is_meant():
    assert Plan('10.0.0.1:50051', insecure=True).addresses[0].host == '10.0.0.1'
    assert Plan('[fd00::1]:50051', tls_ca_file=Path('ca')).addresses[0] == ('fd00::1', 50051)


def test_sizes_and_faults_are_read_as_they_are_typed():
    assert parse_sizes('48') == ((48, 1.0),)
    assert parse_sizes('24:1,48:3') == ((24, 0.25), (48, 0.75))
    assert parse_faults('cancel, bad-image:2') == (('cancel', 1), ('bad-image', 2))
    for parse, wrong in ((parse_sizes, 'big'), (parse_sizes, '48:-1'), (parse_faults, 'a:b')):
        with pytest.raises(ValueError, match=wrong):
            parse(wrong)


# -- the faces --------------------------------------------------------------------------------


LIMITS = decode.ImageLimits(65_536, 262_144)


@pytest.mark.parametrize('codec', ['webp', 'jpeg'])
def test_drawn_faces_are_what_the_server_takes_each_different_and_the_same_for_a_seed(codec):
    plan = Plan(NOBODY, sizes=parse_sizes('24:0.5,96:0.5'), codec=codec, seed=3)
    crops = faces.crops(plan)
    assert crops == faces.crops(plan)
    for size_px in (24, 96):
        assert len(set(crops[size_px])) == len(crops[size_px]) == faces.VARIANTS
        for data in crops[size_px]:
            assert decode.decode(data, codec, LIMITS).shape == (size_px, size_px)
    assert crops != faces.crops(dataclasses.replace(plan, seed=4))


def test_drawn_faces_take_as_many_bytes_as_those_of_the_accuracy_grid():
    """At 48 px: 366 with WebP of quality 50, 576 of 80, in config/operating_points.yaml."""
    for quality, size_bytes in ((50, 366), (80, 576)):
        crops = faces.crops(Plan(NOBODY, quality=quality))[48]
        assert np.median([len(data) for data in crops]) == pytest.approx(size_bytes, rel=0.1)


def test_the_images_of_a_folder_are_cut_to_squares_and_sent_in_the_size_asked_for(tmp_path):
    dark, light = np.zeros((40, 60), np.uint8), np.full((90, 30, 3), 200, np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), dark)
    cv2.imwrite(str(tmp_path / 'b.jpg'), light)
    (tmp_path / 'readme.txt').write_text('not for us')
    crops = faces.crops(Plan(NOBODY, images=tmp_path, codec='jpeg'))[48]
    means = [decode.decode(data, 'jpeg', LIMITS).mean() for data in crops]
    assert means == pytest.approx([0, 200], abs=3)


@pytest.mark.parametrize(
    ('names', 'text'), [([], 'no images'), (['broken.png'], 'broken.png: not an image')]
)
def test_a_folder_without_usable_images_is_refused(tmp_path, names, text):
    for name in names:
        (tmp_path / name).write_text('no image')
    with pytest.raises(faces.ImagesError, match=text):
        faces.crops(Plan(NOBODY, images=tmp_path))
    with pytest.raises(faces.ImagesError, match='no such folder'):
        faces.crops(Plan(NOBODY, images=tmp_path / 'nowhere'))


def test_no_server_may_decode_a_bad_image():
    for codec, data in bad_images(random.Random(1)):
        with pytest.raises(decode.ImageError):
            decode.decode(data, {wire.JPEG: 'jpeg', wire.WEBP: 'webp'}.get(codec, ''), LIMITS)
    limits = [data for codec, data in bad_images(random.Random(1)) if len(data) < 5000]
    assert len(limits) == len(bad_images(random.Random(1))), 'small files that claim to be huge'


# -- counting ---------------------------------------------------------------------------------


def test_percentiles_are_right_on_a_known_set():
    found = latency(np.arange(1, 101) * 1000)
    assert (found.count, found.mean_ms, found.max_ms) == (100, 50.5, 100.0)
    assert (found.p50_ms, found.p90_ms, found.p99_ms) == (50.5, 90.1, 99.01)
    assert latency(np.array([7000])).p99_ms == 7.0
    assert dataclasses.astuple(latency(np.array([]))) == (0, None, None, None, None, None)


def summary_of(
    tally: Tally, plan: Plan | None = None, lags_us: tuple[int, ...] = (100,) * 100
) -> Result:
    """Summarise a run that began at 0 and measured the seconds from 1 to 11."""
    return summarise(
        plan or Plan(NOBODY, duration_s=10, warm_up_s=1), Server('model', 'CPU', '1', 16, 240.0),
        Times(0, S, 11 * S), tally, {}, None, HealthFigures(lags_us, 1.0, 10.0),
    )


def test_a_frame_that_had_to_wait_for_us_looks_no_better_from_its_planned_time():
    """Otherwise a server that stops for a while would hide it: coordinated omission."""
    tally = Tally()
    # Planned every 10 ms, but the first held up all others; each then took 1 ms.
    for number in range(100):
        planned_ns, sent_ns = 2 * S + number * 10 * MS, 3 * S + number * MS
        tally.frames.answered(wire.OK, planned_ns, sent_ns, sent_ns + MS, MS // 2)
    result = summary_of(tally)
    assert result.from_sent.p50_ms == result.from_sent.p99_ms == 1.0
    assert result.from_planned.max_ms == 1001.0
    assert result.from_planned.p50_ms == pytest.approx(555, abs=1)
    assert result.in_server.p99_ms == result.outside_server.p99_ms == 0.5


def test_only_frames_planned_in_the_measured_part_are_measured_and_all_are_counted():
    tally = Tally()
    for second in (0, 1, 5, 10, 11):
        tally.frames.answered(wire.OK, second * S, second * S, second * S + MS, 0)
    tally.frames.unanswered('ended_unavailable', 0, 0, S)
    tally.frames.unanswered('ended_unavailable', 5 * S, 5 * S, 6 * S)
    tally.frames.held('no_credit', 6 * S, 6 * S)
    tally.frames.answered(wire.OVERLOADED, 7 * S, 7 * S, 7 * S, 0)
    result = summary_of(tally)
    assert result.frames == Frames(
        6, 5, {'no_credit': 1}, {'OK': 3, 'OVERLOADED': 1}, {'ended_unavailable': 1}
    )
    assert result.whole_run == Frames(
        9, 8, {'no_credit': 1}, {'OK': 5, 'OVERLOADED': 1}, {'ended_unavailable': 2}
    )
    assert (result.planned_per_s, result.ok_per_s) == (0.6, 0.3)
    assert sum(map(sum, result.timeline.outcomes.values())) == 9
    assert result.timeline.outcomes['OK'][0] == 1


def test_a_status_that_the_protocol_does_not_have_is_counted_as_what_it_is():
    tally = Tally()
    tally.frames.answered(77, 2 * S, 2 * S, 2 * S, 0)
    assert summary_of(tally).frames.answers == {'STATUS_77': 1}


def late_by(late_ns: int) -> Tally:
    tally = Tally()
    for number in range(100):
        planned_ns = 2 * S + number * 50 * MS
        sent_ns = planned_ns + late_ns
        tally.frames.answered(wire.OK, planned_ns, sent_ns, sent_ns + MS, 0)
    return tally


def test_a_run_whose_frames_left_late_by_our_own_fault_is_marked_and_gives_no_verdict():
    slow, swift = (40_000,) * 100, (200,) * 100
    punctual = summary_of(late_by(MS), lags_us=swift)
    assert (punctual.generator.is_limited, punctual.is_carried) == (False, True)
    late = summary_of(late_by(30 * MS), lags_us=slow)
    assert (late.generator.is_limited, late.is_carried) == (True, None)
    assert (late.generator.late_share, late.generator.lateness_p99_ms) == (1.0, 30.0)
    assert 'Limited by the generator' in late.notes[0]
    # The loop was there in time: it was the transport that did not take them.
    assert not summary_of(late_by(30 * MS), lags_us=swift).generator.is_limited


def test_a_load_is_not_carried_when_frames_are_refused_late_or_lost():
    tally = late_by(0)
    assert summary_of(tally).is_carried is True
    tally.frames.unanswered('answer_timeout', 3 * S, 3 * S, 8 * S)
    lost = summary_of(tally)
    assert lost.is_carried is False
    assert '1 frames got no answer' in report.text(lost)
    tally = late_by(0)
    for _ in range(3):
        tally.frames.answered(wire.OVERLOADED, 3 * S, 3 * S, 3 * S, 0)
    assert summary_of(tally).is_carried is False
    assert summary_of(late_by(240 * MS)).is_carried is False


def test_every_frame_of_a_repeated_sequence_number_waits_for_an_answer_of_its_own():
    stream = Stream(None, None, 0)
    first, second, third = (Sent(n, n, 0) for n in range(3))
    for sent in (first, second, third):
        stream.register(5, sent)
    assert stream.unanswered == 3
    assert [stream.take(5), stream.take(5)] == [first, second]
    assert stream.take(6) is None
    assert stream.take_all() == [third]
    assert stream.unanswered == 0


# -- against the real server ------------------------------------------------------------------


def assert_accounted_for(frames: Frames) -> None:
    assert frames.planned == frames.sent + sum(frames.held.values())
    assert frames.sent == sum(frames.answers.values()) + sum(frames.unanswered.values())


def test_an_open_loop_sends_what_was_planned_and_every_frame_is_accounted_for(address):
    plan = Plan(address, robots=5, rate_fps=40, faces=2, duration_s=1.5, warm_up_s=0.5, idle=9,
                sizes=parse_sizes('24:0.5,48:0.5'))
    result = run(plan)
    assert result.frames.planned == pytest.approx(300, abs=5)
    assert result.whole_run.planned == pytest.approx(400, abs=5)
    assert result.frames.answers == {'OK': result.frames.planned}
    assert_accounted_for(result.whole_run)
    assert result.protocol_errors == {}
    assert result.streams.opened == 5
    assert (result.idle.open_at_begin, result.idle.open_at_end) == (9, 9)
    assert result.is_carried is not False
    assert 0 < result.in_server.p50_ms <= result.from_sent.p50_ms <= result.from_planned.p50_ms
    assert result.credits == 16
    assert result.model.startswith(('tiny', 'ferros-fer'))


def test_a_saturating_robot_keeps_its_window_full(model_folder):
    with serving(model_folder, '--max-frame-rate-fps', 100_000) as (address, _):
        result = run(Plan(address, robots=4, saturate=True, window=4, duration_s=1, warm_up_s=0.5))
    assert result.frames.answers.keys() <= {'OK', 'OVERLOADED'}
    # Little's law: frames on their way = throughput x time on their way.
    on_their_way = result.sent_per_s * result.from_sent.mean_ms / 1000
    assert on_their_way == pytest.approx(16, rel=0.25)
    assert result.from_planned is None
    assert result.is_carried is None
    assert_accounted_for(result.whole_run)


EXPECTED_OF_FAULTS = {
    # Kind -> statuses of answers, and with which streams end, that must have been seen.
    'slow-reader': ({'OK'}, set()),
    'never-reads': (set(), set()),
    'disconnect': ({'OK'}, {'DISCONNECTED'}),
    'cancel': ({'OK'}, {'CANCELLED'}),
    'bad-image': ({'BAD_IMAGE', 'LIMIT_EXCEEDED'}, set()),
    'bad-face': ({'OK', 'LIMIT_EXCEEDED'}, set()),
    'sequence': ({'OK', 'LIMIT_EXCEEDED'}, set()),
    'garbage': (set(), {'INVALID_ARGUMENT'}),
    'bomb': ({'OK'}, {'INVALID_ARGUMENT', 'RESOURCE_EXHAUSTED'}),
    'zip-bomb': (set(), {'INVALID_ARGUMENT'}),
    'no-hello': (set(), {'FAILED_PRECONDITION'}),
    'second-hello': (set(), {'FAILED_PRECONDITION'}),
}


@pytest.fixture(scope='module')
def with_faults(address) -> Result:
    """One run with a robot of every fault."""
    return run(Plan(address, robots=3, rate_fps=20, duration_s=4, warm_up_s=0.2,
                    faults=tuple((kind, 1) for kind in FAULTS)))


def test_a_plan_knows_all_the_faults_that_there_are():
    assert tuple(FAULTS) == FAULT_KINDS


@pytest.mark.parametrize('kind', FAULTS)
def test_a_robot_with_a_fault_is_treated_as_a_sound_server_does(with_faults, kind):
    fault = with_faults.faults[kind]
    answers, ends = EXPECTED_OF_FAULTS[kind]
    assert fault.unexpected == {}
    assert set(fault.frames.answers) >= answers
    assert {*fault.streams.ended, *fault.streams.refused} >= ends
    assert_accounted_for(fault.frames)
    # It kept at it.
    assert fault.frames.sent + sum(fault.streams.refused.values()) >= 5
    assert kind in report.text(with_faults)


def test_robots_with_faults_do_not_disturb_the_good_ones(with_faults):
    assert set(with_faults.whole_run.answers) == {'OK'}
    assert with_faults.whole_run.unanswered == {}
    assert with_faults.streams.opened == 3
    assert with_faults.protocol_errors == {}


def test_who_never_reads_is_stopped_by_the_transport_and_that_is_counted(model_folder):
    flags = ('--credits', 4, '--max-frame-rate-fps', 100_000)
    with serving(model_folder, *flags) as (address, _):
        result = run(Plan(address, robots=1, rate_fps=250, duration_s=1.5, warm_up_s=0,
                          faults=(('never-reads', 1),)))
    fault = result.faults['never-reads']
    assert fault.frames.answers == {}
    assert fault.frames.held['blocked'] > 50
    assert 'not taken by the transport' in report.text(result)
    assert_accounted_for(fault.frames)
    assert result.whole_run.unanswered == {}


def after(delay_s: float, action: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(delay_s, action)
    timer.start()
    return timer


def test_a_server_killed_in_the_run_leaves_every_frame_counted_with_its_reason(model_folder):
    with serving(model_folder) as (address, server):
        timer = after(1.5, server.kill)
        result = run(Plan(address, robots=8, rate_fps=100, duration_s=2, warm_up_s=0.5, idle=3))
        timer.join()
    whole = result.whole_run
    assert_accounted_for(whole)
    assert whole.planned == pytest.approx(2000, abs=10)
    assert whole.answers.keys() == {'OK'}
    assert whole.held['not_connected'] > 400
    reasons = {'ended_unavailable', 'ended_write_failed'}
    assert whole.unanswered.keys() <= reasons
    assert {*result.streams.ended} <= {'UNAVAILABLE', 'WRITE_FAILED'}
    assert sum(result.streams.ended.values()) == 8
    assert result.idle.open_at_end == 0
    assert result.is_carried is not True


def test_robots_of_a_server_that_stops_go_to_the_next_with_their_states(model_folder, tmp_path):
    key = tmp_path / 'key'
    subprocess.run(
        [sys.executable, '-m', 'cloud_server', 'keys', 'state', str(key)], cwd=ROOT, check=True,
        capture_output=True,
    )
    flags = ('--state-key-file', key)
    with serving(model_folder, *flags) as (first, server), serving(model_folder, *flags) as (
        second, _
    ):
        timer = after(1.2, lambda: server.send_signal(signal.SIGTERM))
        result = run(Plan(f'{first},{second}', robots=6, rate_fps=20, faces=2, duration_s=3,
                          warm_up_s=0.2))
        timer.join()
        assert server.wait(10) == 0
    streams = result.streams
    assert result.whole_run.unanswered == {}
    assert set(result.whole_run.answers) == {'OK'}
    # Every second robot began at the first server.
    assert (streams.opened, streams.reconnected, streams.drained) == (9, 3, 3)
    assert (streams.resumed, streams.not_resumed, streams.without_state) == (3, 0, 0)
    assert (streams.states_kept, streams.states_lost) == (6, 0)


def test_a_run_that_is_stopped_tells_what_was_measured_until_then(address):
    async def cut_short() -> Result:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(1.0, stop.set)
        plan = Plan(address, robots=2, duration_s=60, warm_up_s=0, idle=2)
        return await generate(plan, stop=stop)

    began_s = time.monotonic()
    result = asyncio.run(cut_short())
    assert time.monotonic() - began_s < 5
    assert result.is_cut_short
    assert 0.5 < result.measured_s < 1.1
    assert result.frames.answers == {'OK': result.frames.planned}
    assert 'cut short' in report.text(result)


def test_a_result_goes_to_json_and_comes_back(with_faults, address):
    idle = run(Plan(address, robots=0, idle=2, duration_s=0.3, warm_up_s=0))
    assert idle.frames.planned == 0
    for result in (with_faults, idle):
        assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_where_no_server_is_that_is_said():
    with pytest.raises(UnreachableError, match=r'127\.0\.0\.1:1: UNAVAILABLE'):
        run(Plan(NOBODY))


# -- against a server that breaks the protocol, or does what the real one cannot be made to do ----


class Scripted(recognition_pb2_grpc.RecognitionServicer):
    """A server over real sockets that answers as a test says; there is none that is broken so."""

    def __init__(self, serve: Callable[[Any, Any, wire.Hello, int], Awaitable[None]]) -> None:
        self._serve = serve
        self.hellos: list[wire.Hello] = []
        self.metadata: list[dict[str, str]] = []

    async def Describe(self, request, context):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, 'an old server')

    async def Recognize(self, requests, context):
        self.metadata.append(dict(context.invocation_metadata()))
        self.hellos.append((await anext(requests)).hello)
        await self._serve(requests, context, self.hellos[-1], len(self.hellos))


def welcome(**changes: Any) -> wire.RecognizeResponse:
    values = {'protocol_version': 1, 'model': 'scripted', 'labels': ['a', 'b'], 'credits': 8,
              'input_size_px': 48, **changes}
    return wire.RecognizeResponse(welcome=wire.Welcome(**values))


def answer(frame: wire.FaceFrame, **changes: Any) -> wire.RecognizeResponse:
    values = {'sequence': frame.sequence, 'status': wire.OK, 'probabilities': [0.5, 0.5],
              'capture_monotonic_ns': frame.capture_monotonic_ns, **changes}
    return wire.RecognizeResponse(answer=wire.Answer(**values))


@contextlib.asynccontextmanager
async def scripted(serve: Any, credentials: Any = None) -> AsyncIterator[tuple[str, Scripted]]:
    server, servicer = grpc.aio.server(), Scripted(serve)
    recognition_pb2_grpc.add_RecognitionServicer_to_server(servicer, server)
    if credentials is None:
        port = server.add_insecure_port('127.0.0.1:0')
    else:
        port = server.add_secure_port('127.0.0.1:0', credentials)
    await server.start()
    try:
        yield f'127.0.0.1:{port}', servicer
    finally:
        await server.stop(0)


def run_scripted(serve: Any, **plan: Any) -> tuple[Result, Scripted]:
    plan = {'robots': 1, 'rate_fps': 20, 'duration_s': 1, 'warm_up_s': 0, **plan}

    async def both() -> tuple[Result, Scripted]:
        async with scripted(serve) as (address, servicer):
            return await generate(Plan(address, **plan)), servicer

    return asyncio.run(asyncio.wait_for(both(), 30))


def test_a_server_that_answers_wrongly_is_caught_at_each_of_it():
    async def serve(requests, context, hello, number):
        await context.write(welcome())
        async for request in requests:
            frame = request.frame
            if frame.sequence == 1:
                await context.write(answer(frame))
                await context.write(answer(frame))
            elif frame.sequence == 2:
                await context.write(answer(frame, sequence=1000))
                await context.write(answer(frame, capture_monotonic_ns=1))
            elif frame.sequence == 3:
                await context.write(answer(frame, probabilities=[1.0]))
            elif frame.sequence == 4:
                await context.write(welcome())
                await context.write(wire.RecognizeResponse())
            elif frame.sequence > 5:
                await context.write(answer(frame))

    result, _ = run_scripted(serve)
    assert result.protocol_errors == {
        'answered_again': 1, 'answered_unasked': 1, 'wrong_echo': 1, 'malformed_answer': 1,
        'second_welcome': 1, 'empty_response': 1,
    }
    # 4 and 5 were never answered: the stream ended without.
    assert result.whole_run.unanswered == {'ended_ok': 2}
    assert 'protocol errors' in report.text(result)
    assert_accounted_for(result.whole_run)


def test_a_sealed_state_goes_to_the_next_server_once_and_lost_states_are_counted():
    async def serve(requests, context, hello, number):
        await context.write(welcome(resumed=number == 2))
        seen: set[str] = set()
        async for request in requests:
            frame = request.frame
            # The third stream says that it went on with the states, and did not.
            fresh = frame.face_id not in seen and number != 2
            seen.add(frame.face_id)
            await context.write(answer(frame, state_reset=fresh))
            if number < 3 and frame.sequence == 6:
                await context.write(wire.RecognizeResponse(drain=wire.Drain()))
        if number < 3:
            state = b'sealed' if number == 1 else b''
            drain = wire.Drain(sealed_state=state, reconnect_after_ms=10)
            await context.write(wire.RecognizeResponse(drain=drain))

    result, servicer = run_scripted(serve, faces=2)
    streams = result.streams
    assert [hello.resume_state for hello in servicer.hellos] == [b'', b'sealed', b'']
    assert (streams.opened, streams.drained, streams.reconnected) == (3, 2, 2)
    assert (streams.resumed, streams.not_resumed, streams.without_state) == (1, 0, 1)
    assert (streams.states_kept, streams.states_lost) == (2, 2)
    assert result.whole_run.unanswered == {}


def test_a_full_server_is_asked_again_when_it_said_and_not_before():
    opened_s: list[float] = []

    async def serve(requests, context, hello, number):
        opened_s.append(time.monotonic())
        if number == 1:
            pushback = ((connection.PUSHBACK, '600'),)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, 'full', pushback)
        await context.write(welcome())
        async for request in requests:
            await context.write(answer(request.frame))

    result, _ = run_scripted(serve)
    # The pause has a jitter of 20 %.
    assert 0.6 * 0.8 <= opened_s[1] - opened_s[0] <= 0.6 * 1.2 + 0.2
    assert result.streams.refused == {'RESOURCE_EXHAUSTED': 1}
    assert result.streams.texts['RESOURCE_EXHAUSTED'] == 'full'
    assert result.whole_run.held['not_connected'] >= 9
    assert 'RESOURCE_EXHAUSTED: full' in report.text(result)


@pytest.mark.parametrize('saturate', [True, False])
def test_no_more_frames_than_the_servers_credits_are_ever_unanswered(saturate):
    unanswered, most = 0, 0

    async def serve(requests, context, hello, number):
        nonlocal unanswered, most
        answering, one_at_a_time = [], asyncio.Lock()

        async def reply(frame: wire.FaceFrame) -> None:
            nonlocal unanswered
            await asyncio.sleep(0.03)
            async with one_at_a_time:
                unanswered -= 1
                await context.write(answer(frame))

        await context.write(welcome(credits=3))
        async for request in requests:
            unanswered += 1
            most = max(most, unanswered)
            answering.append(asyncio.create_task(reply(request.frame)))
        await asyncio.gather(*answering)

    result, _ = run_scripted(serve, rate_fps=300, saturate=saturate, window=8)
    assert most == result.credits == 3
    # Three at a time, for 30 ms each.
    assert 50 < result.whole_run.answers['OK'] <= 101
    assert_accounted_for(result.whole_run)
    if not saturate:
        assert result.whole_run.held['no_credit'] == pytest.approx(200, abs=60)
        assert 'no_credit' in ' '.join(result.notes)


def test_a_server_that_becomes_silent_is_left_and_its_frames_are_counted(monkeypatch):
    monkeypatch.setattr(connection, 'ANSWER_TIMEOUT_NS', 300 * MS)

    async def serve(requests, context, hello, number):
        await context.write(welcome())
        async for request in requests:
            if number > 1:
                await context.write(answer(request.frame))

    result, _ = run_scripted(serve, rate_fps=5, duration_s=2)
    assert result.streams.ended['ANSWER_TIMEOUT'] == 1
    assert result.whole_run.unanswered.keys() == {'answer_timeout'}
    assert result.whole_run.answers['OK'] > 0
    assert_accounted_for(result.whole_run)


def test_a_saturating_robot_sends_an_overloaded_server_what_it_suggested():
    async def serve(requests, context, hello, number):
        await context.write(welcome())
        async for request in requests:
            await context.write(
                answer(request.frame, status=wire.OVERLOADED, suggested_frame_rate_fps=20)
            )

    result, _ = run_scripted(serve, saturate=True, window=4, duration_s=2)
    assert result.sent_per_s == pytest.approx(20, rel=0.3)


def test_a_saturating_robot_keeps_to_the_servers_limit_of_its_rate():
    async def serve(requests, context, hello, number):
        limits = wire.Limits(max_frame_rate_fps=50)
        await context.write(welcome(limits=limits))
        async for request in requests:
            await context.write(answer(request.frame))

    result, _ = run_scripted(serve, saturate=True, duration_s=2)
    assert 40 <= result.sent_per_s <= 50.5
    assert 'Limited by the plan' in ' '.join(result.notes)
    assert 'this run cannot tell' in report.text(result)


def test_robots_show_their_tokens_in_turns_over_tls_and_name_nobody(tmp_path):
    ca, cert, key = certificates(tmp_path)
    tokens = tmp_path / 'tokens'
    tokens.write_text('first-token\n\nsecond-token\n')
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])

    async def serve(requests, context, hello, number):
        await context.write(welcome())
        async for request in requests:
            await context.write(answer(request.frame))

    async def both() -> tuple[Result, Scripted]:
        async with scripted(serve, credentials) as (address, servicer):
            plan = Plan(address, robots=3, rate_fps=10, duration_s=1.2, warm_up_s=0,
                        tls_ca_file=ca, token_file=tokens, faults=(('disconnect', 1),))
            return await generate(plan), servicer

    result, servicer = asyncio.run(asyncio.wait_for(both(), 30))
    assert result.whole_run.unanswered == {}
    assert result.streams.opened == 3
    # It went through a relay, and the certificate was still the server's.
    assert result.faults['disconnect'].frames.answers['OK'] > 0
    shown = [metadata['authorization'] for metadata in servicer.metadata]
    assert set(shown) == {'Bearer first-token', 'Bearer second-token'}
    assert {hello.robot_id for hello in servicer.hellos} == {''}
    assert 'first-token' not in json.dumps(result.to_json())


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Make a CA and a certificate of 127.0.0.1 with the command for it."""
    for flags in (['ca', folder / 'pki'], ['server', folder / 'pki', '--host', '127.0.0.1']):
        subprocess.run(
            [sys.executable, '-m', 'cloud_server', 'keys', *map(str, flags)],
            cwd=ROOT, check=True, capture_output=True,
        )
    made = folder / 'pki'
    return made / 'ca.pem', made / 'server' / 'cert.pem', made / 'server' / 'key.pem'


@pytest.mark.parametrize('content', ['', 'robot sha256:' + 64 * '0', 'secret token', 'é'])
def test_a_file_that_holds_no_tokens_is_refused_without_being_shown(tmp_path, content):
    path = tmp_path / 'tokens'
    path.write_text(content)
    with pytest.raises(TargetError) as error:
        run(Plan(NOBODY, token_file=path))
    assert str(error.value) == f'{path}: expected one token per line'


# -- the command ------------------------------------------------------------------------------


def test_the_command_reports_writes_and_draws(address, tmp_path, capsys):
    out, plot = tmp_path / 'run.json', tmp_path / 'run.png'
    status = command(
        cloud_server.load, address, '--robots', 2, '--rate', 20, '--duration', 1,
        '--warm-up', 0.2, '--size', '24:0.5,48:0.5', '--fault', 'bad-image', '--fault',
        'cancel:2', '--out', out, '--plot', plot,
    )
    assert status == 0
    said = capsys.readouterr().out
    for text in ('2 robots, 20 frames/s each', 'from planned', 'BAD_IMAGE', 'carried'):
        assert text in said
    assert max(map(len, said.splitlines())) <= 110
    written = Result.from_json(json.loads(out.read_text()))
    assert written.plan['faults'] == [['bad-image', 1], ['cancel', 2]]
    image = cv2.imread(str(plot))
    assert image.shape[0] > 400
    # The bars of the outcomes are there, in the colour of OK.
    wanted = [int(picture.COLOURS['OK'][place : place + 2], 16) for place in (5, 3, 1)]
    assert (np.abs(image.astype(int) - wanted).max(axis=2) < 4).mean() > 0.1


def test_with_json_the_result_is_the_only_thing_on_stdout(address, capsys):
    flags = ('--robots', 1, '--duration', 0.3, '--warm-up', 0, '--json')
    assert command(cloud_server.load, address, *flags) == 0
    assert Result.from_json(json.loads(capsys.readouterr().out)).frames.planned > 0


def test_bad_flags_are_said_in_a_line_each_and_a_missing_server_is_not_a_bad_flag(capsys):
    flags = ('--rate', 0, '--size', 'big', '--fault', 'x:1', '--out', '/nowhere/out.json')
    assert command(cloud_server.load, '10.0.0.1:1', *flags) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert all(line.startswith('ferros-cloud load: ') for line in lines)
    for text in ('rate_fps is 0', "'big'", "'x'", '--insecure', '/nowhere'):
        assert text in ' '.join(lines)
    assert command(cloud_server.load, NOBODY) == 1
    assert 'no server answers' in capsys.readouterr().err


def test_ctrl_c_ends_a_run_with_its_report(address):
    with subprocess.Popen(
        [sys.executable, '-m', 'cloud_server', 'load', address, '--robots', '1', '--duration',
         '60', '--warm-up', '0'],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:
        time.sleep(2.5)
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=15)
    assert child.returncode == 0, stderr
    assert re.search(r'cut short: [\d.]+ s were measured', stdout)


def test_the_load_generator_needs_neither_torch_nor_an_engine():
    code = (
        'import sys, cloud_server.load\n'
        "print([name for name in ('torch', 'onnxruntime', 'ray', 'rclpy', 'ferros', 'matplotlib')"
        ' if name in sys.modules])\n'
    )
    ended = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (0, '[]'), ended.stderr
