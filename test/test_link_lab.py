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
"""The emulated link: schedules and pipes as functions of time, and the real lab, with root."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.link import namespaces, synthetic
from bench.link.pipe import Pipe
from bench.link.record import link_record
from bench.link.schedule import (
    NS_PER_MS,
    NS_PER_S,
    Looped,
    Schedule,
    ScheduleError,
    constant,
    read_mahimahi,
    read_rates,
    read_trace,
)
from bench.link.tun import Lab, LabError, unavailable

MS = NS_PER_MS
DELAY_NS = 20 * MS


@pytest.fixture
def trace(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes lines into a trace file."""
    def write(*lines: object) -> Path:
        path = tmp_path / 'link.up'
        path.write_text(''.join(f'{line}\n' for line in lines))
        return path
    return write


def left_ms(schedule: Schedule, packets: Sequence[tuple[int, int]]) -> list[float]:
    """Return when packets of (ready ms, bytes), in order, leave; ms."""
    used, times = 0.0, []
    for ready, size in packets:
        left_ns, used = schedule.deliver(size, ready * MS, used)
        times.append(left_ns / MS)
    return times


def left_ms_step_by_step(
    times_ms: Sequence[int], packets: Sequence[tuple[int, int]]
) -> list[float]:
    """Play a trace opportunity after opportunity: the plain way to say what left_ms finds."""
    coming, queue, left = deque(packets), deque[int](), list[float]()
    loop_ms = 0
    while coming or queue:
        for at in times_ms:
            now, credit = loop_ms + at, 1500
            while coming and coming[0][0] <= now:
                queue.append(coming.popleft()[1])
            while queue and credit:
                part = min(credit, queue[0])
                queue[0] -= part
                credit -= part
                if queue[0] == 0:
                    queue.popleft()
                    left.append(now)
        loop_ms += times_ms[-1]
    return left


# --- schedules ----------------------------------------------------------------------------------

def test_one_opportunity_delivers_several_small_packets(trace):
    schedule = read_mahimahi(trace(10, 20, 30))
    assert left_ms(schedule, [(1, 500), (2, 500), (3, 500), (4, 500)]) == [10, 10, 10, 20]


def test_a_packet_uses_the_rest_of_an_opportunity_and_goes_on_in_the_next(trace):
    schedule = read_mahimahi(trace(10, 20, 30))
    assert left_ms(schedule, [(0, 1000), (0, 1000), (0, 1000), (0, 1500)]) == [10, 20, 20, 30]


def test_an_opportunity_with_nothing_waiting_is_lost(trace):
    schedule = read_mahimahi(trace(10, 20, 30))
    assert left_ms(schedule, [(0, 1500), (21, 100), (22, 1400), (22, 1)]) == [10, 30, 30, 40]


def test_equal_lines_add_up_and_the_trace_loops(trace):
    schedule = read_mahimahi(trace(10, 10, 10, 40))
    assert left_ms(schedule, [(0, 1500)] * 6) == [10, 10, 10, 40, 50, 50]
    assert schedule.capacity_bytes(0, 400 * MS) == 39 * 1500  # What comes at 400 ms is not before.
    assert schedule.capacity_bytes(0, 400 * MS + 1) == 40 * 1500


@settings(max_examples=200, deadline=None)
@given(
    times=st.lists(st.integers(1, 60), min_size=1, max_size=12).map(sorted),
    packets=st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from((1, 40, 700, 1499, 1500))), max_size=40,
    ).map(sorted),
)
def test_deliveries_are_those_of_playing_the_trace_step_by_step(tmp_path_factory, times, packets):
    path = tmp_path_factory.mktemp('trace') / 'link.up'
    path.write_text(''.join(f'{t}\n' for t in times))
    assert left_ms(read_mahimahi(path), packets) == left_ms_step_by_step(times, packets)


def test_time_0_may_lie_anywhere_in_a_trace(trace):
    path = trace(100, 1500, 2000)
    schedule = read_mahimahi(path, start_s=1.2)
    assert left_ms(schedule, [(0, 1500)] * 4) == [300, 800, 900, 2300]


def test_a_trace_scaled_to_a_mean_keeps_its_gaps(trace):
    path = trace(*range(10, 1000, 10), 3000)
    plain = read_mahimahi(path)
    thin = read_mahimahi(path, mean_bit_per_s=50_000)
    assert thin.capacity_bytes(0, 3 * NS_PER_S) * 8 / 3 == pytest.approx(50_000)
    assert thin.gaps(0, 3 * NS_PER_S) == plain.gaps(0, 3 * NS_PER_S) != ()
    first_second = read_mahimahi(path, mean_bit_per_s=50_000, mean_over_s=1)
    assert first_second.capacity_bytes(0, NS_PER_S) * 8 == pytest.approx(50_000)


def test_a_scaled_opportunity_carries_scaled_bytes(trace):
    schedule = read_mahimahi(trace(10, 20, 30), scale=0.5)
    assert left_ms(schedule, [(0, 750), (0, 1500)]) == [10, 30]


def test_a_constant_rate_serialises_each_packet_by_its_size():
    schedule = constant(1e6)
    assert left_ms(schedule, [(0, 125), (0, 1250), (100, 125)]) == [1, 11, 101]


def test_a_rate_holds_until_the_next_line_and_the_last_for_the_median(trace):
    schedule = read_rates(trace('0.0\t8.0', '1.0\t0.0', '2.0\t4.0'))
    assert schedule.period_ns == 3 * NS_PER_S
    assert schedule.capacity_bytes(0, NS_PER_S) == pytest.approx(1e6)
    assert schedule.capacity_bytes(500 * MS, 2500 * MS) == pytest.approx(0.5e6 + 0.25e6)
    assert schedule.gaps(0, 6 * NS_PER_S) == (
        (NS_PER_S, 2 * NS_PER_S), (4 * NS_PER_S, 5 * NS_PER_S),
    )
    assert left_ms(schedule, [(900, 150_000)]) == [2100]


def test_either_kind_of_trace_is_known_by_its_columns(trace):
    assert read_trace(trace(10, 20)).loop_bytes == 3000
    assert read_trace(trace('0 8', '1 8')).loop_bytes == pytest.approx(2e6)


def test_outages_take_the_capacity_away_and_a_packet_in_service_goes_on_after():
    schedule = constant(1e6).with_outages([(5 * MS, 100 * MS), (200 * MS, 50 * MS)])
    assert left_ms(schedule, [(0, 1250), (210, 125)]) == [110, 251]
    assert schedule.capacity_bytes(0, 300 * MS) == pytest.approx(150 / 8 * 1000)


def test_gaps_are_the_stretches_of_more_than_half_a_second_without_an_opportunity(trace):
    schedule = read_mahimahi(trace(0, 500, 1100, 1200, 3000))
    after = 1  # An opportunity takes one ns off the gap behind it.
    assert schedule.gaps(0, 3 * NS_PER_S) == (
        (500 * MS + after, 1100 * MS), (1200 * MS + after, 3000 * MS),
    )
    assert schedule.gaps(0, 3 * NS_PER_S, longer_than_ns=NS_PER_S) == (
        (1200 * MS + after, 3000 * MS),
    )


def test_a_gap_counts_with_its_whole_length_where_the_window_cuts_it(trace):
    schedule = read_mahimahi(trace(100, 1000, 1100))
    assert schedule.gaps(800 * MS, 950 * MS) == ((800 * MS, 950 * MS),)
    assert schedule.gaps(0, 300 * MS) == ((100 * MS + 1, 300 * MS),)


def test_a_gap_reaches_over_the_end_of_the_loop(trace):
    schedule = read_rates(trace('0 0', '0.4 8', '0.8 8', '1.2 0'))
    assert schedule.gaps(0, 2 * NS_PER_S) == ((1200 * MS, 2000 * MS),)


def test_an_outage_and_the_gap_beside_it_are_one(trace):
    schedule = read_mahimahi(trace(*range(100, 1001, 100)))
    dark = schedule.with_outages([(300 * MS, 450 * MS)])
    assert dark.gaps(0, NS_PER_S) == ((200 * MS + 1, 800 * MS),)


@settings(max_examples=100, deadline=None)
@given(
    times=st.lists(st.integers(1, 2000), min_size=1, max_size=30).map(sorted),
    start=st.integers(0, 1999), scale=st.floats(0.01, 10),
    end=st.integers(1, 5000),
)
def test_a_full_queue_uses_exactly_the_capacity(tmp_path_factory, times, start, scale, end):
    path = tmp_path_factory.mktemp('trace') / 'link.up'
    path.write_text(''.join(f'{t}\n' for t in times))
    schedule = read_mahimahi(path, start_s=(start % times[-1]) / 1000, scale=scale)
    schedule = schedule.with_outages([(70 * MS, 130 * MS)])
    used, delivered = 0.0, 0
    while True:
        left_ns, used = schedule.deliver(100, 0, used)
        if left_ns >= end * MS or delivered > 10**5:
            break
        delivered += 100
    capacity = schedule.capacity_bytes(0, end * MS)
    assert min(capacity, 10**5) - 100.001 <= delivered <= capacity + 0.001


@pytest.mark.parametrize(('lines', 'message'), [
    ((), 'no line in it'),
    ((10, 'ten'), r"line 2: 'ten'; expected one integer"),
    ((10, -3), r"line 2: '-3'; expected one integer"),
    ((10, 9), 'line 2: 9 after 10: times must rise'),
    ((0, 0), 'all opportunities are at 0 ms'),
])
def test_what_is_no_opportunity_trace_is_refused_with_its_line(trace, lines, message):
    with pytest.raises(ScheduleError, match=message):
        read_mahimahi(trace(*lines))


@pytest.mark.parametrize(('lines', 'message'), [
    (('0 1', '1'), "line 2: '1'; expected two numbers"),
    (('0 1', '1 -2'), 'expected a rate of 0 or more'),
    (('0 1', '1 nan'), 'expected a rate of 0 or more'),
    (('0 1', '0 2'), 'line 2: not later'),
    (('0 1',), 'one line only'),
    (('0 0', '1 0'), 'all rates are 0'),
])
def test_what_is_no_rate_trace_is_refused_with_its_line(trace, lines, message):
    with pytest.raises(ScheduleError, match=message):
        read_rates(trace(*lines))


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'start_s': 2.0}, 'start_s 2.0; expected 0 to less than its 2.0 s'),
    ({'scale': 0.0}, 'the scale: 0.0; expected'),
    ({'scale': 2.0, 'mean_bit_per_s': 1e6}, 'expected one of the two'),
    ({'mean_bit_per_s': -1.0}, 'the mean rate: -1.0 bit/s'),
    ({'mean_bit_per_s': 1e6, 'mean_over_s': 0.05}, 'no capacity in 0.05 s'),
])
def test_figures_out_of_range_are_named(trace, arguments, message):
    with pytest.raises(ScheduleError, match=message):
        read_mahimahi(trace(100, 2000), **arguments)


def test_a_trace_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ScheduleError, match=r'gone\.up: not readable'):
        read_mahimahi(tmp_path / 'gone.up')


@pytest.mark.parametrize('outages', [[(-1, 5)], [(0, 0)], [(0, 10), (5, 10)], [(20, 5), (0, 5)]])
def test_outages_that_overlap_or_have_no_length_are_refused(outages):
    with pytest.raises(ScheduleError, match='outage at'):
        constant(1e6).with_outages(outages)


# --- pipes --------------------------------------------------------------------------------------

def packets(count: int, size: int = 1000) -> list[bytes]:
    return [number.to_bytes(4, 'big') + bytes(size - 4) for number in range(count)]


def test_a_packet_arrives_after_its_serialisation_and_the_delay():
    pipe = Pipe(constant(1e6), DELAY_NS)
    assert pipe.next_ns() is None
    assert pipe.push(bytes(1250), 5 * MS)
    assert pipe.next_ns() == 35 * MS
    assert pipe.pop(35 * MS - 1) == []
    assert pipe.pop(35 * MS) == [bytes(1250)]
    assert pipe.next_ns() is None


def test_the_queue_never_holds_more_than_its_bound_and_drops_the_newest():
    pipe = Pipe(constant(1e6), 0, queue_bytes=3000)
    sent = packets(5)
    assert [pipe.push(packet, 0) for packet in sent] == [True, True, True, False, False]
    assert pipe.queued_bytes == 3000
    assert pipe.drops == {'loss': 0, 'queue': 2}
    assert pipe.pop(NS_PER_S) == sent[:3]
    assert pipe.push(sent[4], NS_PER_S)


def test_an_outage_delivers_nothing_and_keeps_the_queue():
    pipe = Pipe(constant(1e6), DELAY_NS, outages=[(0, 3 * NS_PER_S)])
    sent = packets(10)
    assert all(pipe.push(packet, i * 100 * MS) for i, packet in enumerate(sent))
    assert pipe.pop(3 * NS_PER_S) == []
    assert pipe.queued_bytes == 10_000
    assert pipe.pop(3 * NS_PER_S + 80 * MS + DELAY_NS) == sent


def test_losses_are_as_frequent_as_asked_for_and_the_same_each_time():
    def lost(seed: int) -> list[bool]:
        pipe = Pipe(constant(1e9), 0, loss=0.05, seed=seed)
        kept = [pipe.push(bytes(100), i * MS) for i in range(10_000)]
        assert pipe.drops == {'loss': kept.count(False), 'queue': 0}
        return kept
    assert 400 < lost(1).count(False) < 600
    assert lost(1) == lost(1) != lost(2)


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 50), st.integers(20, 1500)), max_size=60),
    rate=st.floats(1e4, 1e8), loss=st.sampled_from((0.0, 0.2)), delay=st.integers(0, 100),
)
def test_what_goes_in_comes_out_once_in_order_or_is_counted(steps, rate, loss, delay):
    pipe = Pipe(constant(rate), delay * MS, 6000, loss, outages=[(100 * MS, 200 * MS)])
    now, accepted, got = 0, [], []
    for number, (wait, size) in enumerate(steps):
        now += wait * MS
        got += pipe.pop(now)
        packet = number.to_bytes(2, 'big') + bytes(size - 2)
        if pipe.push(packet, now):
            accepted.append(packet)
        assert 0 <= pipe.queued_bytes <= 6000
    while (due_ns := pipe.next_ns()) is not None:
        now = max(now, due_ns)
        due = pipe.pop(now)
        assert due, 'next_ns named a time at which nothing arrived'
        got += due
    assert got == accepted
    assert len(accepted) + sum(pipe.drops.values()) == len(steps)
    assert pipe.queued_bytes == 0
    bins = pipe.bins(now + 1)
    assert sum(bins.delivered_bytes) == sum(map(len, accepted))
    assert all(0 <= queue <= 6000 for queue in bins.queue_bytes)


def test_bins_hold_capacity_deliveries_and_the_largest_queue_of_100_ms():
    pipe = Pipe(constant(80_000), DELAY_NS, outages=[(200 * MS, 100 * MS)])
    for packet in packets(2, 1500):
        pipe.push(packet, 10 * MS)
    bins = pipe.bins(450 * MS)
    assert bins.capacity_bytes == [1000, 1000, 0, 1000, 500]
    assert bins.delivered_bytes == [0, 1500, 0, 0, 1500]
    assert bins.queue_bytes == [3000, 3000, 1500, 1500, 1500]


def test_a_pipe_that_was_written_as_json_is_the_same_pipe(tmp_path: Path) -> None:
    trace = tmp_path / 'short.up'
    trace.write_text('3\n40\n40\n170\n', encoding='utf-8')
    schedule = read_mahimahi(trace, start_s=0.02, scale=0.7)
    pipe = Pipe(schedule, DELAY_NS, 6000, loss=0.2, outages=[(100 * MS, 200 * MS)], seed=5)
    again = Pipe.from_json(json.loads(json.dumps(pipe.to_json())))
    arrived = []
    for each in (pipe, again):
        taken = [each.push(bytes([n]) * 400, n * 7 * MS) for n in range(100)]
        arrived.append((taken, each.pop(5 * NS_PER_S), each.drops, list(each.late_ns)))
    assert arrived[0] == arrived[1]
    assert not all(arrived[0][0])


def test_a_record_tells_drops_by_direction_and_how_late_packets_left():
    up, down = Pipe(constant(1e6), 0, queue_bytes=1500), Pipe(constant(1e6), 0)
    up.push(bytes(1250), 0)
    up.push(bytes(1250), 0)
    up.pop(13 * MS)
    record = link_record(up, down, 5 * NS_PER_S, 5 * NS_PER_S + 200 * MS, 'simulation')
    assert record['dropped'] == {'up_loss': 0, 'up_queue': 1, 'down_loss': 0, 'down_queue': 0}
    assert record['late_p99_ms'] == 3.0
    assert record['started_ns'] == 5 * NS_PER_S and record['bin_ms'] == 100
    assert record['up']['delivered_bytes'] == [1250, 0]
    assert record['down']['capacity_bytes'] == [12500, 12500]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'delay_ns': -1}, 'delay_ns -1'),
    ({'delay_ns': 0, 'queue_bytes': 100}, 'queue_bytes 100'),
    ({'delay_ns': 0, 'loss': 1.0}, 'loss 1.0'),
])
def test_a_pipe_names_an_argument_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        Pipe(constant(1e6), **arguments)


# --- traces that ship ---------------------------------------------------------------------------

@pytest.mark.parametrize('name', synthetic.TRACES)
def test_a_shipped_trace_is_what_its_formula_gives(name):
    assert (synthetic.FOLDER / name).read_text() == synthetic.trace(name)


def shipped(name: str) -> Looped:
    return read_mahimahi(synthetic.FOLDER / name)


def test_the_shipped_traces_are_what_they_are_described_as():
    steps, drive, edge = shipped('steps.up'), shipped('drive.up'), shipped('edge.up')
    for i, rate in enumerate(synthetic.STEPS_BIT_PER_S):
        start_ns = i * 10 * NS_PER_S
        mean = steps.capacity_bytes(start_ns, start_ns + 10 * NS_PER_S) * 8 / 10
        assert mean == pytest.approx(rate, rel=0.03)
    for schedule, rate in ((drive, 1e6), (edge, 80e3)):
        assert schedule.period_ns == 60 * NS_PER_S
        assert schedule.loop_bytes * 8 / 60 == pytest.approx(rate, rel=0.03)
    assert drive.gaps(0, drive.period_ns) and edge.gaps(0, edge.period_ns)
    assert max(b - a for a, b in drive.gaps(0, drive.period_ns)) < 1.1 * NS_PER_S
    assert sum(path.stat().st_size for path in synthetic.FOLDER.iterdir()) < 100_000


# --- the real lab -------------------------------------------------------------------------------

def test_the_reason_why_there_is_no_lab_is_named(monkeypatch, tmp_path):
    reason = unavailable.__wrapped__
    monkeypatch.setattr(os, 'geteuid', lambda: 0)
    with monkeypatch.context() as here:
        here.setattr(namespaces, 'IP_PATH', str(tmp_path))
        assert 'apt install iproute2' in reason()
    if namespaces.shutil.which('ip', path=namespaces.IP_PATH):
        with monkeypatch.context() as here:
            here.setattr(namespaces, 'TUN', tmp_path / 'tun')
            assert reason().startswith(f'{tmp_path}/tun is missing')
    monkeypatch.setattr(os, 'geteuid', lambda: 1000)
    assert reason() == 'network namespaces need root'


@pytest.fixture
def lab_works() -> Iterator[None]:
    """Skip where there can be no lab, and see that nothing of one remains."""
    reason = unavailable()
    if reason is not None:
        pytest.skip(f'no link lab: {reason}')
    before = set(namespaces.NAMED.glob('ferros-*'))
    yield
    assert set(namespaces.NAMED.glob(f'ferros-{os.getpid()}-*')) <= before


RECEIVE = """
import socket
listener = socket.create_server(('', 5000))
print('listening', flush=True)
connection = listener.accept()[0]
total = 0
while part := connection.recv(65536):
    total += len(part)
print(total, flush=True)
"""
SEND = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 5000))
end = time.monotonic() + float(sys.argv[2])
connection.settimeout(0.2)
while time.monotonic() < end:
    try:
        connection.send(bytes(1400))
    except TimeoutError:
        pass
"""
ECHO = """
import socket
listener = socket.create_server(('', 5000))
print('listening', flush=True)
connection = listener.accept()[0]
while part := connection.recv(100):
    connection.sendall(part)
"""
ROUND_TRIPS = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 5000))
for _ in range(10):
    at = time.monotonic()
    connection.sendall(bytes(50))
    connection.recv(100)
    print((time.monotonic() - at) * 1000)
    time.sleep(0.03)
"""


class Talk:
    """A program on the server's side that is ready, for one on the robot's side to reach."""

    def __init__(self, lab: Lab, server: str, robot: str) -> None:
        self._lab = lab
        self._robot_program = robot
        self._server = subprocess.Popen(
            lab.server([sys.executable, '-c', server]), stdout=subprocess.PIPE, text=True,
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == 'listening\n'

    def begin(self, *arguments: object) -> None:
        command = [sys.executable, '-c', self._robot_program, self._lab.server_address]
        self._robot = subprocess.Popen(
            self._lab.robot([*command, *map(str, arguments)]), stdout=subprocess.PIPE, text=True,
        )

    def robot_says(self) -> list[float]:
        return [float(line) for line in self._robot.communicate(timeout=20)[0].split()]

    def end(self) -> None:
        for process in (self._robot, self._server):
            process.kill()
            process.communicate()


def test_a_round_trip_takes_the_delay_of_both_ways_before_the_start_and_after(lab_works):
    with Lab(Pipe(constant(1e6), DELAY_NS), Pipe(constant(1e6), DELAY_NS)) as lab:
        for start in (False, True):
            if start:
                lab.start()
            talk = Talk(lab, ECHO, ROUND_TRIPS)
            talk.begin()
            round_trips_ms = sorted(talk.robot_says())
            talk.end()
            # A packet of 102 bytes takes 0.8 ms each way on 1 Mbit/s, and nothing before.
            assert 40 + 1.6 * start <= round_trips_ms[0]
            assert round_trips_ms[5] < 45
        assert lab.stop()['late_p99_ms'] < 20


def test_transfers_through_two_labs_at_a_time_fill_each_link(lab_works, tmp_path):
    seconds = 4
    schedules = (constant(2e6), shipped('drive.up'))
    with ExitStack() as stack:
        labs = [
            stack.enter_context(
                Lab(Pipe(up, DELAY_NS), Pipe(constant(10e6), DELAY_NS), tmp_path / f'{i}.json')
            )
            for i, up in enumerate(schedules)
        ]
        talks = [Talk(lab, RECEIVE, SEND) for lab in labs]
        started_ns = []
        for lab, talk in zip(labs, talks, strict=True):
            started_ns.append(lab.start())
            talk.begin(seconds)
        time.sleep(seconds)
        records = [lab.stop() for lab in labs]
        for talk in talks:
            talk.end()
    for i, (record, schedule) in enumerate(zip(records, schedules, strict=True)):
        assert record == json.loads((tmp_path / f'{i}.json').read_text())
        assert record['backend'] == 'tun' and record['started_ns'] == started_ns[i]
        # From 1 s on, when the slow start and the start of the programs are over.
        delivered = sum(record['up']['delivered_bytes'][10:40])
        capacity = schedule.capacity_bytes(NS_PER_S, 4 * NS_PER_S)
        assert sum(record['up']['capacity_bytes'][10:40]) == pytest.approx(capacity, abs=40)
        assert 0.9 * capacity <= delivered <= capacity + 1500
        assert set(record['congestion_control']) == {'robot', 'server'}


def test_a_lab_that_raises_leaves_nothing_behind(lab_works):
    pipe = Pipe(constant(1e6), 0)
    with pytest.raises(RuntimeError, match='boom'), Lab(pipe, pipe) as lab:
        sleeper = subprocess.Popen(lab.robot(['sleep', '60']))
        time.sleep(0.1)
        raise RuntimeError('boom')
    assert sleeper.wait(timeout=2) == -signal.SIGTERM
    with pytest.raises(LabError, match='not open'):
        lab.start()


OWNER = """
import subprocess, sys, time
from bench.link.pipe import Pipe
from bench.link.schedule import constant
from bench.link.tun import Lab
pipe = Pipe(constant(1e6), 0)
with Lab(pipe, pipe) as lab:
    lab.start()
    print(subprocess.Popen(lab.server(['sleep', '60'])).pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize('sign', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_lab_whose_owner_is_ended_leaves_nothing_behind(lab_works, root, sign):
    owner = subprocess.Popen(
        [sys.executable, '-c', OWNER], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )
    assert owner.stdout is not None
    sleeper = int(owner.stdout.readline())
    mine = f'ferros-{owner.pid}-*'
    assert len(list(namespaces.NAMED.glob(mine))) == 2
    owner.send_signal(sign)
    owner.communicate(timeout=10)
    deadline = time.monotonic() + 5
    while list(namespaces.NAMED.glob(mine)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(namespaces.NAMED.glob(mine)) == []
    assert not is_running(sleeper)


def is_running(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_a_lab_says_that_its_link_has_ended(lab_works):
    pipe = Pipe(constant(1e6), 0)
    with pytest.raises(LabError, match='has ended'), Lab(pipe, pipe) as lab:
        robot, server = lab.robot([])[-1], lab.server([])[-1]
        [process] = [p for p in Path('/proc').glob('[0-9]*') if is_forwarder_of(p)]
        os.kill(int(process.name), signal.SIGKILL)
        lab.start()
    assert not (namespaces.NAMED / robot).exists() and not (namespaces.NAMED / server).exists()


def is_forwarder_of(process: Path) -> bool:
    """Tell whether a process carries the packets of a lab of this one."""
    try:
        parent = (process / 'stat').read_text().rpartition(')')[2].split()[1]
        return parent == str(os.getpid()) and b'bench.link.forward' in (
            process / 'cmdline').read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
