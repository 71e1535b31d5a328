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
The sender against links of every kind; camera, link, TCP and server are simulated.

The sender's decisions are the real ones, the links are those of the link bench
(bench/link/simulation.py); its clock is simulated too, so that a minute takes a second.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.link.capacity import Looped, Schedule
from bench.link.pipe import Pipe
from bench.link.schedule import constant
from bench.link.simulation import (
    ANSWER_BYTES,
    FRAME_NS,
    HEADER_BYTES,
    TERMS,
    Answered,
    Simulation,
)
from ferros import accuracy_grid
from ferros.accuracy_grid import GridError
from ferros.bandwidth import START_BYTES_PER_S
from ferros.config import RobotConfig
from ferros.data_limit import BURST_S
from ferros.drops import Drops
from ferros.operating_point import ACKNOWLEDGEMENT_BYTES, bytes_per_s
from ferros.outbox import interval_ns
from ferros.sender import (
    FIRST_CREDITS,
    SEGMENT_HEADER_BYTES,
    Ready,
    Sender,
    ServerTerms,
    make_sender,
    message_bytes,
)
from ferros.types import Box, CameraFrame, Codec, GridPoint, OfferedFace

MS = 1_000_000
S = 1_000_000_000
GRID = accuracy_grid.read(accuracy_grid.default_path())
BEST = max(point.accuracy for point in GRID)
IMAGE = np.zeros((1, 1), np.uint8)


class Run:
    """A simulated run and what came of it."""

    def __init__(
        self,
        link: float | Schedule,
        faces: int = 1,
        round_trip_ms: int = 40,
        outages: Sequence[tuple[int, int]] = (),
        loss: float = 0.0,
        simulation: type[Simulation] = Simulation,
        seed: int = 0,
        **parameters: Any,
    ) -> None:
        self.drops = Drops()
        self.sender = Sender(RobotConfig(**parameters), GRID, self.drops, 0)
        self.round_trip_ms = round_trip_ms
        schedule = constant(link) if isinstance(link, float) else link
        one_way_ns = round_trip_ms * MS // 2
        up = Pipe(schedule, one_way_ns, outages=outages, loss=loss, seed=seed)
        down = Pipe(constant(10e6), one_way_ns, outages=outages, loss=loss, seed=seed + 1)
        self.simulation = simulation(self.sender, up, down, faces, seed)

    def until(self, until_s: float) -> Run:
        self.simulation.run(round(until_s * S))
        return self

    def answers(self, from_s: float = 0.0, to_s: float = math.inf) -> list[Answered]:
        """Return those to messages that were sent in that time."""
        return [
            answer
            for answer in self.simulation.answers
            if from_s * S <= answer.sent.sent_ns < to_s * S
        ]

    def delays_ms(self, from_s: float = 0.0, to_s: float = math.inf) -> list[float]:
        """Return, rising, how much longer than the empty path each answer took."""
        return sorted(
            (answer.answered_ns - answer.sent.sent_ns) / 1e6 - self.round_trip_ms
            for answer in self.answers(from_s, to_s)
        )

    def bytes_per_s(self, from_s: float, to_s: float) -> float:
        sent = sum(answer.sent.message_bytes for answer in self.answers(from_s, to_s))
        return sent / (to_s - from_s)

    @property
    def points(self) -> list[GridPoint]:
        assert self.sender.plan is not None
        return list(self.sender.plan.points.values())


def percentile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def stepping(before_bit_per_s: float, after_bit_per_s: float, at_s: int) -> Looped:
    """Return a link of one rate, and of another one from then on."""
    before = before_bit_per_s / 8 * at_s
    return Looped(
        (0, at_s * S, (at_s + 1000) * S), (0.0, before, before + after_bit_per_s / 8 * 1000)
    )


# -- constant links -------------------------------------------------------------------------------


@pytest.mark.parametrize('round_trip_ms', [40, 200])
@pytest.mark.parametrize('faces', [1, 4])
@pytest.mark.parametrize('bit_per_s', [64e3, 250e3, 1e6, 5e6])
def test_answers_stay_fresh_and_a_start_from_nothing_is_quick(
    bit_per_s: float, faces: int, round_trip_ms: int
) -> None:
    run = Run(bit_per_s, faces, round_trip_ms).until(2)
    after_two_seconds = run.points[0].accuracy
    run.until(20)
    assert after_two_seconds >= 0.8 * run.points[0].accuracy
    delays_ms = run.delays_ms(3)
    assert len(delays_ms) > 60
    # One face of 64 kbit/s is 50 ms of the link, and four of them come at once.
    assert percentile(delays_ms, 0.95) < 100 + 50 * (faces > 1)
    assert max(run.delays_ms()) < 300
    ages_ms = sorted((a.answered_ns - a.captured_ns) / 1e6 for a in run.answers(3))
    assert percentile(ages_ms, 0.95) < round_trip_ms + 200


@pytest.mark.parametrize(('bit_per_s', 'faces'), [(64e3, 4), (250e3, 8), (1e6, 16)])
def test_a_full_link_is_used_and_no_queue_creeps_up_in_two_minutes(
    bit_per_s: float, faces: int
) -> None:
    run = Run(bit_per_s, faces).until(120)
    # More faces than it carries at their best; what acknowledges the answers comes on top.
    assert 0.65 * bit_per_s / 8 <= run.bytes_per_s(20, 120) <= bit_per_s / 8
    assert percentile(run.delays_ms(100), 0.95) < 1.3 * percentile(run.delays_ms(10, 30), 0.95)


@pytest.mark.parametrize('bit_per_s', [1e6, 5e6])
def test_a_link_with_plenty_carries_the_best_that_the_grid_knows(bit_per_s: float) -> None:
    run = Run(bit_per_s).until(6)
    assert run.points[0].accuracy >= BEST - 0.0025
    best_fps = run.points[0].frame_rate_fps
    assert len(run.answers(3, 6)) == pytest.approx(3 * best_fps, rel=0.05)


def test_a_thin_link_carries_less_but_no_worse_than_its_budget_allows() -> None:
    run = Run(64e3).until(20)
    chosen = run.points[0]
    fitting = [p.accuracy for p in GRID if bytes_per_s(p) <= 0.7 * 64e3 / 8 and p.bytes_p95 < 450]
    assert max(fitting) <= chosen.accuracy < BEST


@pytest.mark.parametrize('bit_per_s', [8e3, 16e3])
def test_a_very_thin_link_still_brings_answers_in_time(bit_per_s: float) -> None:
    run = Run(bit_per_s, round_trip_ms=40).until(60)
    assert len(run.answers(20, 60)) > 40
    assert percentile(run.delays_ms(20), 0.95) < 1000


@pytest.mark.parametrize('seed', [1, 2, 3])
def test_lost_segments_cost_little(seed: int) -> None:
    clean = Run(1e6).until(15).points[0].accuracy
    run = Run(1e6, loss=0.01, seed=seed).until(15)
    assert run.points[0].accuracy >= 0.9 * clean
    assert percentile(run.delays_ms(3), 0.8) < 100


# -- links that change ----------------------------------------------------------------------------


@pytest.mark.parametrize('faces', [1, 4])
@pytest.mark.parametrize('before_bit_per_s', [640e3, 1e6, 5e6])
def test_when_the_rate_falls_to_a_tenth_the_delay_is_back_within_1_5_s(
    before_bit_per_s: float, faces: int
) -> None:
    run = Run(stepping(before_bit_per_s, before_bit_per_s / 10, 6), faces).until(14)
    assert percentile(run.delays_ms(3, 5.9), 0.95) < 100
    assert max(run.delays_ms(7.5)) < 150 + 50 * (faces > 1)
    assert len(run.answers(7.5)) > 20


def test_over_a_long_path_the_delay_is_back_within_three_seconds() -> None:
    """What the path held before is at the new rate more than a second's worth."""
    run = Run(stepping(1e6, 1e5, 6), 4, round_trip_ms=200).until(14)
    assert max(run.delays_ms(9)) < 150


@pytest.mark.parametrize('before_bit_per_s', [64e3, 250e3])
def test_when_the_rate_rises_ten_times_it_is_used_within_four_seconds(
    before_bit_per_s: float,
) -> None:
    run = Run(stepping(before_bit_per_s, 10 * before_bit_per_s, 6), faces=4).until(14)
    # Four faces at their best take 380 kbit/s.
    assert run.bytes_per_s(3, 6) <= before_bit_per_s / 8
    wanted = 4 * bytes_per_s(max(GRID, key=lambda p: (p.accuracy, -bytes_per_s(p)))) * 0.85
    assert run.bytes_per_s(10, 14) >= 0.85 * wanted
    assert percentile(run.delays_ms(7), 0.95) < 100


@pytest.mark.parametrize('length_s', [1, 3])
@pytest.mark.parametrize('faces', [1, 4])
@pytest.mark.parametrize('bit_per_s', [64e3, 250e3, 1e6])
def test_after_an_outage_nothing_old_is_sent_and_a_fresh_answer_is_there_soon(
    bit_per_s: float, faces: int, length_s: int
) -> None:
    run = Run(bit_per_s, faces, outages=[(5 * S, length_s * S)]).until(12)
    back_s = 5 + length_s
    # While nothing comes back, hardly anything is sent.
    assert len(run.answers(5.3, back_s)) <= 2 * faces
    assert all(a.sent.sent_ns - a.captured_ns < 100 * MS for a in run.simulation.answers)
    fresh = [a.answered_ns for a in run.simulation.answers if a.captured_ns >= back_s * S]
    assert min(fresh) < (back_s + 0.6) * S
    before = len(run.answers(3, 5)) / 2
    assert len(run.answers(back_s + 1, back_s + 3)) / 2 >= 0.8 * before
    assert percentile(run.delays_ms(back_s + 1), 0.95) < 100 + 50 * (faces > 1)


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('faces', [1, 4])
@pytest.mark.parametrize(
    ('limit', 'limit_bytes_per_s'),
    [({'data_limit_kbit_per_s': 40.0}, 5000), ({'data_limit_mb_per_h': 3.6}, 1000)],
)
def test_a_data_limit_holds_for_both_directions_and_is_made_use_of(
    limit: dict[str, Any], limit_bytes_per_s: float, faces: int
) -> None:
    run = Run(1e6, faces, **limit).until(60)
    answer_bytes = message_bytes(ANSWER_BYTES - HEADER_BYTES) + SEGMENT_HEADER_BYTES
    used = [
        (a.sent.sent_ns, a.sent.message_bytes + ACKNOWLEDGEMENT_BYTES + answer_bytes)
        for a in run.answers()
    ]
    sums = [0, *itertools.accumulate(size for _, size in used)]
    # What was sent just before the limit was reached is answered after it.
    slack = BURST_S * limit_bytes_per_s + 5 * 1500
    for first, last in itertools.combinations(range(0, len(used), 5), 2):
        elapsed_s = (used[last][0] - used[first][0]) / S
        assert sums[last + 1] - sums[first] <= limit_bytes_per_s * elapsed_s + slack
    assert sums[-1] >= 0.6 * 60 * limit_bytes_per_s
    # It is the plan that keeps the limit, not images that wait for it.
    assert sum(map(bytes_per_s, run.points)) <= limit_bytes_per_s
    assert percentile(run.delays_ms(), 0.95) < 100


def test_the_servers_credits_are_never_exceeded_and_all_of_them_used() -> None:
    sender = offered_sender(ServerTerms(48, 3, 240.0))
    for _ in range(3):
        assert take_and_send(sender, 0)
    offer(sender, 4, 40 * MS)
    assert sender.take(40 * MS) is None
    sender.answered(2, 0, 0, 100, 60 * MS)
    assert take_and_send(sender, 60 * MS)
    assert sender.take(60 * MS) is None


@pytest.mark.parametrize(('limit_fps', 'faces'), [(5.0, 1), (5.0, 4), (24.0, 3)])
def test_the_rate_that_the_server_names_holds_for_all_faces_together(
    limit_fps: float, faces: int
) -> None:
    sender = offered_sender(ServerTerms(48, 32, limit_fps), faces)
    assert sent_per_s(sender, faces) <= 1.05 * limit_fps


def test_an_overloaded_server_is_sent_what_it_asks_for_until_its_word_ends() -> None:
    sender = offered_sender(TERMS, 4)
    assert sent_per_s(sender, 4, 0, 4) > 20
    sender.suggest(2.0, until_ns=10 * S)
    assert sent_per_s(sender, 4, 4, 10) <= 3
    assert sent_per_s(sender, 4, 10, 14) > 20


@pytest.mark.parametrize('suggested_fps', [math.inf, 1e38, 0.01, 1e-9, 1e-40])
def test_a_server_that_suggests_hardly_anything_does_not_stop_the_sender_for_good(
    suggested_fps: float,
) -> None:
    sender = offered_sender(TERMS)
    sender.suggest(suggested_fps, until_ns=2 * S)
    sent_per_s(sender, 1, 0, 2)
    assert sent_per_s(sender, 1, 2, 6) > 5


@pytest.mark.parametrize('limit_fps', [math.nan, -1.0, 0.0, 1e-40, math.inf])
def test_a_welcome_with_a_senseless_limit_does_not_stop_the_sender(limit_fps: float) -> None:
    sender = offered_sender(ServerTerms(48, 32, limit_fps))
    assert take_and_send(sender, 0)
    sent_per_s(sender, 1, 0, 2)


@pytest.mark.parametrize(
    'pinned', [{'face_size_px': 24, 'frame_rate_fps': 5.0, 'codec': 'jpeg', 'quality': 70}]
)
def test_what_is_pinned_is_what_is_sent(pinned: dict[str, Any]) -> None:
    run = Run(1e6, **pinned).until(10)
    assert {a.point[:4] for a in run.answers()} == {(24, 5.0, Codec.JPEG, 70)}
    assert len(run.answers(2, 10)) == pytest.approx(40, abs=2)


def test_faces_that_cost_more_than_the_grids_are_sent_less_often_not_later() -> None:
    class Costly(Simulation):
        """Messages of twice the length that the grid says."""

        def _send(self) -> None:
            while (ready := self._sender.take(self.now_ns)) is not None:
                request_bytes = 2 * ready.point.bytes_p50 - HEADER_BYTES
                sequence = self._sender.sent(ready, request_bytes, self.now_ns)
                self._up.send(sequence, request_bytes + HEADER_BYTES, self.now_ns)

    run = Run(100e3, faces=2, simulation=Costly).until(20)
    assert run.bytes_per_s(10, 20) <= 100e3 / 8
    assert percentile(run.delays_ms(5), 0.95) < 150


# -- probes ---------------------------------------------------------------------------------------


def sent_close_together(run: Run, from_s: float) -> int:
    """Count the messages of a face that followed another one sooner than its rate allows."""
    return sum(
        after.sent.sent_ns - before.sent.sent_ns
        < 0.6 * min(interval_ns(before.point), interval_ns(after.point))
        for before, after in itertools.pairwise(run.answers(from_s))
    )


def test_the_link_is_probed_only_where_more_could_be_used() -> None:
    assert sent_close_together(Run(5e6).until(20), from_s=4) == 0
    probes = sent_close_together(Run(64e3).until(20), from_s=4)
    assert 2 <= probes <= 16


def test_probes_on_a_full_link_cost_little_delay() -> None:
    run = Run(64e3).until(60)
    assert percentile(run.delays_ms(5), 0.99) < 150


# -- connections ----------------------------------------------------------------------------------


def face(face_id: str, now_ns: int, side_px: float = 48.0) -> OfferedFace:
    return OfferedFace(face_id, Box(0, 0, side_px, side_px), CameraFrame(IMAGE, now_ns, now_ns))


def offer(sender: Sender, faces: int, now_ns: int) -> None:
    sender.offer([face(f'f{i}', now_ns) for i in range(faces)], now_ns)


def offered_sender(terms: ServerTerms, faces: int = 4) -> Sender:
    sender = Sender(RobotConfig(), GRID, Drops(), 0)
    connect(sender, terms)
    offer(sender, faces, 0)
    return sender


def connect(
    sender: Sender, terms: ServerTerms = TERMS, grid: Sequence[GridPoint] = ()
) -> None:
    sender.connect()
    sender.welcome(terms, grid)


def take_and_send(sender: Sender, now_ns: int, request_bytes: int = 300) -> Ready | None:
    ready = sender.take(now_ns)
    if ready is not None:
        assert ready.point.frame_rate_fps > 0
        sender.sent(ready, request_bytes, now_ns)
    return ready


def sent_per_s(sender: Sender, faces: int, from_s: float = 0.0, to_s: float = 10.0) -> float:
    """Answer all that is sent after 20 ms; return how much it was."""
    sent, now_ns = 0, round(from_s * S)
    while now_ns < to_s * S:
        offer(sender, faces, now_ns)
        while take_and_send(sender, now_ns):
            sent += 1
            answer_ns = now_ns + 20 * MS
            sender.answered(sender.next_sequence - 1, answer_ns, 0, 100, answer_ns)
        now_ns += FRAME_NS
    return sent / (to_s - from_s)


def test_before_it_is_connected_and_after_it_was_nothing_is_sent() -> None:
    drops = Drops()
    sender = Sender(RobotConfig(), GRID, drops, 0)
    offer(sender, 1, 0)
    assert sender.take(0) is None and sender.wait_ns(0) is None
    connect(sender)
    offer(sender, 2, 0)
    assert take_and_send(sender, 0)
    assert sender.disconnect('connection_lost') == 1
    assert sender.take(0) is None and sender.wait_ns(0) is None
    assert drops.counts() == {'superseded': 1, 'connection_lost': 1}


def test_a_few_faces_leave_before_the_server_has_named_its_terms() -> None:
    sender = Sender(RobotConfig(), GRID, Drops(), 0)
    sender.connect()
    offer(sender, 20, 0)
    early = list(iter(lambda: take_and_send(sender, 0, 100), None))
    assert 1 <= len(early) <= FIRST_CREDITS
    assert all(ready.point.face_size_px <= 48 for ready in early if ready)
    theirs = GridPoint(16, 5.0, Codec.JPEG, 60, 300, 400, 0.5)
    sender.welcome(ServerTerms(20, 12, 240.0), [theirs])
    offer(sender, 20, 40 * MS)
    later = take_and_send(sender, 40 * MS, 100)
    assert later is None or later.point.face_size_px == 16
    for number in range(len(early)):
        assert sender.answered(number + 1, 0, 0, 100, 45 * MS) is not None
    later = take_and_send(sender, 50 * MS, 100)
    assert later is not None and later.point[:1] == theirs[:1]


def test_a_new_connection_starts_afresh() -> None:
    run = Run(5e6, faces=4).until(5)
    sender, now_ns = run.sender, run.simulation.now_ns
    assert sender.bandwidth(now_ns).rate_bytes_per_s > 2 * START_BYTES_PER_S
    assert sender.bandwidth(now_ns).in_flight_bytes > 0
    old_sequence = sender.next_sequence - 1
    assert sender.disconnect('connection_lost') > 0
    connect(sender)
    figures = sender.bandwidth(now_ns)
    assert figures.rate_bytes_per_s <= START_BYTES_PER_S
    assert figures.in_flight_bytes == 0 and sender.oldest_sent_ns() is None
    assert sender.plan is None and sender.next_sequence == 1
    assert sender.answered(old_sequence, 0, 0, 100, now_ns) is None


@pytest.mark.parametrize('pause_s', [1, 10, 3600])
def test_after_a_pause_of_the_camera_or_the_connection_the_rate_is_back_at_once(
    pause_s: int,
) -> None:
    sender = offered_sender(TERMS, 1)
    before = sent_per_s(sender, 1, 0, 4)
    again_s = 4 + pause_s
    # Only what the link needs to be measured anew may be missing, not what the pause stands for.
    assert sent_per_s(sender, 1, again_s, again_s + 1) >= 0.7 * before


def test_another_servers_grid_is_steered_by_and_the_robots_own_again_without_one() -> None:
    theirs = GridPoint(32, 5.0, Codec.JPEG, 60, 800, 900, 0.5)
    sender = Sender(RobotConfig(), GRID, Drops(), 0)
    for number, grid in enumerate(([theirs], [], [theirs])):
        now_ns = number * FRAME_NS
        connect(sender, TERMS, grid)
        sender.offer([face(f'f{number}', now_ns)], now_ns)
        ready = take_and_send(sender, now_ns)
        assert ready is not None
        assert (ready.point == theirs) is bool(grid)
        sender.disconnect('connection_lost')
    assert sender.grid == GRID


def test_the_primary_face_is_ranked_first_and_sent_first() -> None:
    sender = offered_sender(TERMS, 4)
    order = []
    while (ready := take_and_send(sender, 0)) is not None:
        order.append((ready.rank, ready.face.face_id))
    assert order[0] == (0, 'f0')
    assert all(face_id == f'f{rank}' for rank, face_id in order)


def test_answers_are_matched_with_what_was_sent() -> None:
    sender = offered_sender(TERMS, 2)
    first, second = take_and_send(sender, 0), take_and_send(sender, 0)
    sent = sender.answered(2, 0, 0, 100, 40 * MS)
    assert sent is not None and sent.ready == second and sent.sent_ns == 0
    assert sent.message_bytes == message_bytes(300)
    assert sender.answered(2, 0, 0, 100, 41 * MS) is None
    assert sender.answered(77, 0, 0, 100, 41 * MS) is None
    sent = sender.answered(1, 0, 0, 100, 42 * MS)
    assert sent is not None and sent.ready == first
    assert sender.bandwidth(42 * MS).in_flight_bytes == 0


def test_one_message_may_always_be_sent_however_bad_the_link_was() -> None:
    sender = offered_sender(TERMS, 1)
    now_ns = 0
    for _ in range(5):
        offer(sender, 1, now_ns)
        assert take_and_send(sender, now_ns)
        sequence = sender.next_sequence - 1
        now_ns += 4 * S
        sender.answered(sequence, now_ns, 0, 100, now_ns)
        now_ns += 10 * S


@pytest.mark.parametrize('seed', range(10))
def test_whatever_happens_in_whatever_order_the_limits_hold(seed: int) -> None:
    noise, drops = random.Random(seed), Drops()
    sender = Sender(RobotConfig(), GRID, drops, 0)
    credit, offered, sent, now_ns, unanswered = 4, 0, 0, 0, list[int]()
    for _ in range(2000):
        now_ns += noise.choice([0, MS, 30 * MS, 30 * MS, noise.randrange(2 * S)])
        what = noise.choice(['offer', 'offer', 'take', 'take', 'take', 'answer', 'answer',
                             'nonsense', 'suggest', 'connect', 'connect', 'disconnect'])
        if what == 'offer':
            ids = noise.sample('abcdefgh', noise.randrange(6))
            offered += len(ids)
            faces = [face(name, now_ns, noise.uniform(0, 300)) for name in ids]
            sender.offer(faces, now_ns)
        elif what == 'take' and take_and_send(sender, now_ns, noise.randrange(60, 5000)):
            unanswered.append(sender.next_sequence - 1)
            sent += 1
        elif what == 'answer' and unanswered:
            sequence = unanswered.pop(noise.randrange(len(unanswered)))
            assert sender.answered(sequence, noise.randrange(-S, S), 0, 90, now_ns) is not None
        elif what == 'nonsense':
            assert sender.answered(noise.randrange(10**6, 10**7), 0, 0, 90, now_ns) is None
        elif what == 'suggest':
            sender.suggest(noise.choice([0.5, 2.0, 30.0]), now_ns + S)
        elif what == 'connect' or what == 'disconnect':
            assert sender.disconnect('connection_lost') == len(unanswered)
            unanswered.clear()
            if what == 'connect':
                connect(
                    sender, ServerTerms(48, credit, 60.0), noise.choice([(), GRID[:3]])
                )
        assert len(unanswered) <= credit
        wait_ns = sender.wait_ns(now_ns)
        assert wait_ns is None or wait_ns >= 0
        assert sender.budget_bytes_per_s >= 0
    sender.disconnect('link_stopped')
    assert sent > 30
    assert offered == sent + sum(drops.counts().values())


def test_a_message_costs_its_frames_and_the_headers_of_its_segments() -> None:
    assert message_bytes(100) == 100 + 14 + 52
    assert message_bytes(1448 - 14) == 1448 + 52
    assert message_bytes(1448 - 13) == 1449 + 2 * 52


def test_the_grid_is_read_from_the_file_that_a_parameter_names(tmp_path: Path) -> None:
    path = tmp_path / 'grid.yaml'
    path.write_text(
        '- {face_size_px: 20, frame_rate_fps: 2.0, codec: jpeg, quality: 30, '
        'bytes_p50: 300, bytes_p95: 400, accuracy: 0.5}\n'
    )
    config = RobotConfig(accuracy_grid_file=str(path))
    assert make_sender(config, Drops(), 0).grid == accuracy_grid.read(path)
    assert make_sender(RobotConfig(), Drops(), 0).grid == GRID
    with pytest.raises(GridError, match='nowhere'):
        make_sender(RobotConfig(accuracy_grid_file='/nowhere/grid.yaml'), Drops(), 0)


def test_deciding_takes_little_time_per_frame() -> None:
    """The bench measures the figure; this finds what is far from it."""
    sender, times_s, now_ns = offered_sender(TERMS, 4), [], 0
    sent_ns: dict[int, int] = {}
    for _ in range(600):
        faces = [face(f'f{i}', now_ns) for i in range(4)]
        began_s = time.perf_counter()
        sender.offer(faces, now_ns)
        while (ready := sender.take(now_ns)) is not None:
            sent_ns[sender.sent(ready, ready.point.bytes_p50 - 66, now_ns)] = now_ns
        for sequence in [s for s, at_ns in sent_ns.items() if at_ns <= now_ns - FRAME_NS]:
            sender.answered(sequence, now_ns, MS, 100, now_ns)
            del sent_ns[sequence]
        times_s.append((time.perf_counter() - began_s) / len(faces))
        now_ns += FRAME_NS
    assert sorted(times_s)[len(times_s) // 2] < 200e-6


# -- parameters that change -----------------------------------------------------------------------


def test_pins_that_change_hold_at_once_and_what_is_known_of_the_link_stays_known() -> None:
    run = Run(400e3).until(10)
    before = run.sender.bandwidth(10 * S)
    run.sender.configure(RobotConfig(face_size_px=20, frame_rate_fps=5.0), 10 * S)
    run.until(11)
    assert [(point.face_size_px, point.frame_rate_fps) for point in run.points] == [(20, 5.0)]
    assert run.sender.interval_ns == 200 * MS
    after = run.sender.bandwidth(11 * S)
    assert after.sent_bytes > before.sent_bytes
    assert after.rate_bytes_per_s > 0.7 * before.rate_bytes_per_s
    run.sender.configure(RobotConfig(), 11 * S)
    run.until(16)
    assert run.bytes_per_s(13, 16) > 0.8 * run.bytes_per_s(5, 10)


def test_a_data_limit_that_changes_is_kept_from_then_on() -> None:
    run = Run(1e6).until(5)
    assert run.bytes_per_s(2, 5) > 2000
    run.sender.configure(RobotConfig(data_limit_kbit_per_s=16.0), 5 * S)
    run.until(20)
    # The answers are paid for too.
    assert 500 < run.bytes_per_s(9, 20) < 2000
    run.sender.configure(RobotConfig(), 20 * S)
    run.until(25)
    assert run.bytes_per_s(22, 25) > 2000


def test_nothing_is_sent_of_the_primary_face_while_there_is_no_connection() -> None:
    run = Run(400e3)
    assert run.sender.interval_ns is None
    run.until(2)
    assert run.sender.interval_ns is not None
    run.sender.disconnect('connection_lost')
    assert run.sender.interval_ns is None
