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
The estimator against whatever may happen: any acks, losses, clocks and rates.

Links are simulated (conversation.py). The examples are the same in every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from conversation import MS, Conversation, S
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ferros.bandwidth import (
    MIN_BYTES_PER_S,
    MINIMUM_WINDOW_NS,
    START_BYTES_PER_S,
    Bandwidth,
    BandwidthEstimator,
)

SOME = settings(
    max_examples=250, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
FEW = settings(SOME, max_examples=40)

# The wire has 64 bits for a server's time.
SERVER_TIMES_NS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.integers(-S, S), st.just(0)
)
PAUSES_NS = st.one_of(
    st.just(0), st.integers(1, MS), st.integers(MS, S), st.integers(S, 100_000 * S)
)


class Step(NamedTuple):
    """One thing that happens to an estimator, after a pause."""

    kind: str
    pause_ns: int
    sequence: int
    size_bytes: int
    received_ns: int
    server_ns: int


STEPS = st.builds(
    Step,
    kind=st.sampled_from(
        ['sent', 'sent', 'sent', 'answered', 'answered', 'answered', 'confirm', 'restart']
    ),
    pause_ns=PAUSES_NS,
    # So few that answers hit, miss and come twice.
    sequence=st.integers(0, 12),
    size_bytes=st.integers(1, 2**20),
    received_ns=SERVER_TIMES_NS,
    server_ns=SERVER_TIMES_NS,
)
HISTORIES = st.lists(STEPS, max_size=60)


def check(figures: Bandwidth, answered: bool) -> None:
    """Check what holds of the figures at any time."""
    assert MIN_BYTES_PER_S <= figures.rate_bytes_per_s < math.inf
    assert 0 <= figures.acknowledged_bytes_per_s < math.inf
    assert 0 <= figures.window_bytes < math.inf
    assert figures.window_bytes >= 1, 'a window of nothing'
    assert 0 <= figures.in_flight_bytes <= figures.sent_bytes
    assert 0 <= figures.acknowledged_bytes <= figures.sent_bytes
    for delay_ms in (figures.round_trip_ms, figures.min_round_trip_ms, figures.queue_ms):
        assert (0 <= delay_ms < math.inf) if answered else math.isnan(delay_ms)


def live_through(
    estimator: BandwidthEstimator, history: list[Step], look: Callable[[int, bool], None]
) -> int:
    """Let all of it happen; look is called after each step. Return when it ended."""
    now_ns, in_flight, answered, next_sequence = 0, {}, False, 13
    for step in history:
        now_ns += step.pause_ns
        if step.kind == 'sent':
            # A sequence number is used once: an answer to one that is not known misses.
            sequence = step.sequence if step.sequence not in in_flight else next_sequence
            next_sequence += 1
            in_flight[sequence] = step.size_bytes
            estimator.sent(sequence, step.size_bytes, now_ns)
        elif step.kind == 'answered':
            message = estimator.answered(
                step.sequence, step.received_ns, step.server_ns, now_ns
            )
            size_bytes = in_flight.pop(step.sequence, None)
            assert (message is None) == (size_bytes is None)
            if message is not None:
                assert message.size_bytes == size_bytes and message.queue_ns >= 0
                answered = True
        elif step.kind == 'confirm':
            estimator.confirm(now_ns)
        else:
            assert estimator.restart() == len(in_flight)
            in_flight, answered = {}, False
        assert estimator.in_flight_bytes == sum(in_flight.values())
        look(now_ns, answered)
    return now_ns


@SOME
@given(HISTORIES)
def test_whatever_happens_the_figures_are_numbers_and_none_is_negative(
    history: list[Step],
) -> None:
    estimator = BandwidthEstimator()
    live_through(
        estimator, history, lambda now_ns, answered: check(estimator.estimate(now_ns), answered)
    )


@SOME
@given(HISTORIES, PAUSES_NS)
def test_a_mere_look_never_finds_more_than_a_look_before_it(
    history: list[Step], pause_ns: int
) -> None:
    estimator = BandwidthEstimator()
    now_ns = live_through(estimator, history, lambda now_ns, answered: None)
    before = estimator.estimate(now_ns)
    after = estimator.estimate(now_ns + pause_ns)
    check(after, not math.isnan(before.round_trip_ms))
    # A smaller round trip that is forgotten makes the time in which an answer is due longer.
    if after.min_round_trip_ms == before.min_round_trip_ms:
        assert after.rate_bytes_per_s <= before.rate_bytes_per_s


@SOME
@given(HISTORIES, st.floats(125e3, 1.25e9), st.integers(0, 300 * MS), SERVER_TIMES_NS)
def test_after_any_history_the_rate_is_back_within_the_time_that_delays_are_remembered(
    history: list[Step], rate_bytes_per_s: float, round_trip_ns: int, server_clock_ns: int
) -> None:
    """30 messages of 500 bytes per second over a link that has room for all of them."""
    estimator = BandwidthEstimator()
    now_ns = live_through(estimator, history, lambda now_ns, answered: None)
    # What is not answered comes now; nothing is forgotten.
    for sequence in range(13 + len(history)):
        estimator.answered(sequence, 0, 0, now_ns)
    assert estimator.in_flight_bytes == 0
    conversation = Conversation(
        estimator, rate_bytes_per_s, round_trip_ns, lambda now_ns: now_ns + server_clock_ns,
        now_ns, first_sequence=10**6,
    )
    settled_ns = now_ns + MINIMUM_WINDOW_NS + S
    held_back, probe_ns = 0, now_ns
    for frame in range(1, 30 * 12):
        if conversation.may_send(500):
            conversation.send(500)
            if conversation.now_ns > probe_ns:
                # The sender's probe: one right behind the other, outside of the window.
                probe_ns += S
                conversation.advance_to(conversation.now_ns + S // 60)
                conversation.send(500)
        elif conversation.now_ns > settled_ns:
            held_back += 1
        conversation.advance_to(now_ns + frame * S // 30)
    assert conversation.figures.rate_bytes_per_s >= 0.95 * 30 * 500
    assert not conversation.figures.is_draining
    assert not held_back


@FEW
@given(
    st.floats(3, 10),
    st.integers(0, 400 * MS),
    st.lists(st.integers(80, 4000), min_size=1, max_size=20),
    SERVER_TIMES_NS,
)
def test_from_1_kbit_to_10_gbit_per_s_the_estimate_stays_by_the_link(
    log_bit_per_s: float, round_trip_ns: int, sizes_bytes: list[int], server_clock_ns: int
) -> None:
    rate_bytes_per_s = 10**log_bit_per_s / 8
    conversation = Conversation(
        BandwidthEstimator(), rate_bytes_per_s, round_trip_ns,
        lambda now_ns: now_ns + server_clock_ns,
    )
    for index in range(300):
        size_bytes = sizes_bytes[index % len(sizes_bytes)]
        while not conversation.may_send(size_bytes):
            conversation.next_answer()
            check(conversation.figures, answered=True)
        conversation.send(size_bytes)
    rate = conversation.figures.rate_bytes_per_s
    assert rate <= 1.1 * max(rate_bytes_per_s, START_BYTES_PER_S)
    # One message per round trip is carried in any case, or what the link does.
    longest_s = round_trip_ns / 1e9 + max(sizes_bytes) / rate_bytes_per_s
    least = min(sizes_bytes) / longest_s
    conversation.settle()
    assert conversation.figures.rate_bytes_per_s >= min(0.5 * least, START_BYTES_PER_S)


class Clock(NamedTuple):
    """A server's clock that jumps once."""

    offset_ns: int
    jumps_at_ns: int
    by_ns: int

    def at(self, now_ns: int) -> int:
        return now_ns + self.offset_ns + (self.by_ns if now_ns >= self.jumps_at_ns else 0)


@FEW
@given(
    st.builds(
        Clock, SERVER_TIMES_NS, st.integers(0, 10 * S),
        st.one_of(st.integers(-(2**62), 2**62), st.integers(-S, S)),
    ),
    st.sampled_from([8e3, 31e3, 125e3, 1.25e6]),
)
def test_when_the_servers_clock_jumps_the_link_is_used_on(
    clock: Clock, rate_bytes_per_s: float
) -> None:
    conversation = Conversation(BandwidthEstimator(), rate_bytes_per_s, server_clock_ns=clock.at)
    conversation.send_as_allowed(round(max(400, rate_bytes_per_s * 0.02)), 30 * S)
    used = sum(m.size_bytes for m in conversation.acknowledged if m.answered_ns > 20 * S)
    assert used >= 0.6 * 10 * rate_bytes_per_s
    # A queue may stand as long as the jump hides it, which is not for long.
    late = [m for m in conversation.acknowledged if m.answered_ns > 25 * S]
    waited_ns = sorted(m.answered_ns - m.sent_ns for m in late)
    assert waited_ns[len(waited_ns) // 2] < 40 * MS + 250 * MS


@FEW
@given(st.floats(-2, 2), SERVER_TIMES_NS, st.sampled_from([8e3, 31e3, 125e3]))
def test_a_servers_clock_of_any_speed_and_direction_does_not_stop_the_sender(
    speed: float, offset_ns: int, rate_bytes_per_s: float
) -> None:
    conversation = Conversation(
        BandwidthEstimator(), rate_bytes_per_s,
        server_clock_ns=lambda now_ns: offset_ns + round(speed * now_ns),
    )
    conversation.send_as_allowed(round(max(400, rate_bytes_per_s * 0.02)), 12 * S)
    used = sum(m.size_bytes for m in conversation.acknowledged if m.answered_ns > 10 * S)
    assert used >= 0.25 * 2 * rate_bytes_per_s
    check(conversation.figures, answered=True)


@FEW
@given(
    st.sampled_from([8e3, 31e3, 125e3]),
    st.lists(st.tuples(st.integers(0, 8 * S), st.integers(20 * MS, S)), max_size=8),
)
def test_segments_that_are_sent_again_do_not_stop_the_sender(
    rate_bytes_per_s: float, losses: list[tuple[int, int]]
) -> None:
    """At each loss all that follows waits for it, as TCP has it."""
    conversation = Conversation(BandwidthEstimator(), rate_bytes_per_s)
    size_bytes = round(max(400, rate_bytes_per_s * 0.02))
    for at_ns, held_ns in sorted(losses):
        conversation.send_as_allowed(size_bytes, at_ns)
        conversation.send(size_bytes, held_until_ns=conversation.now_ns + held_ns)
    conversation.send_as_allowed(size_bytes, 12 * S)
    used = sum(m.size_bytes for m in conversation.acknowledged if m.answered_ns > 10 * S)
    assert used >= 0.6 * 2 * rate_bytes_per_s
    check(conversation.figures, answered=True)


def test_at_1_kbit_per_s_there_is_always_a_message_on_the_way_and_hardly_more() -> None:
    conversation = Conversation(BandwidthEstimator(), 125)
    # A message more in a second would be more than the link carries.
    conversation.send_as_allowed(200, 60 * S, probes=False)
    late = [m for m in conversation.acknowledged if m.answered_ns > 40 * S]
    assert sum(m.size_bytes for m in late) >= 0.9 * 20 * 125
    # Three messages: the link takes 1.6 s for each.
    assert max(m.answered_ns - m.sent_ns for m in late) <= 3 * 1.6 * S + 40 * MS


def test_at_10_gbit_per_s_nothing_is_held_back() -> None:
    conversation = Conversation(BandwidthEstimator(), 1.25e9)
    conversation.send_as_allowed(1400, S)
    assert conversation.figures.rate_bytes_per_s > 500_000
    assert conversation.figures.queue_ms < 1
