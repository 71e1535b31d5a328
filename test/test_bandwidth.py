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
"""The estimator by examples; its links are simulated (conversation.py)."""

from __future__ import annotations

import itertools
import math

import pytest
from conversation import MS, Conversation, S

from ferros.bandwidth import (
    DRAINED_BELOW_NS,
    MIN_BYTES_PER_S,
    MINIMUM_WINDOW_NS,
    START_BYTES_PER_S,
    TARGET_QUEUE_NS,
    BandwidthEstimator,
)


def message_bytes(rate_bytes_per_s: float) -> int:
    """Return the length of a message that takes 10 ms of the link."""
    return round(rate_bytes_per_s * 0.01)


def saturated(
    rate_bytes_per_s: float, round_trip_ns: int = 40 * MS, queue_ns: int = 35 * MS
) -> Conversation:
    """Return a conversation that kept a queue of that length on the link for two seconds."""
    conversation = Conversation(BandwidthEstimator(), rate_bytes_per_s, round_trip_ns)
    size_bytes = message_bytes(rate_bytes_per_s)
    in_flight = math.ceil(rate_bytes_per_s * (round_trip_ns + queue_ns) / 1e9 / size_bytes)
    # The path before there was a queue.
    conversation.send(size_bytes)
    conversation.settle()
    # A little faster than the link: the queue builds up, and is no longer than it is to be.
    conversation.send_every(8 * MS, size_bytes, in_flight)
    while conversation.now_ns < 2 * S:
        while conversation.unanswered < in_flight:
            conversation.send(size_bytes)
        conversation.next_answer()
    return conversation


def test_bytes_are_in_flight_until_they_are_answered() -> None:
    estimator = BandwidthEstimator()
    estimator.sent(1, 500, 0)
    estimator.sent(2, 700, 10 * MS)
    assert estimator.in_flight_bytes == 1200
    assert estimator.oldest_sent_ns() == 0
    assert estimator.answered(1, received_ns=0, server_ns=5 * MS, now_ns=45 * MS)
    assert estimator.oldest_sent_ns() == 10 * MS
    figures = estimator.estimate(50 * MS)
    assert (figures.in_flight_bytes, figures.sent_bytes, figures.acknowledged_bytes) == (
        700,
        1200,
        500,
    )
    assert figures.round_trip_ms == pytest.approx(40)
    assert figures.acknowledged_bytes_per_s == pytest.approx(1000)


def test_an_answer_to_nothing_changes_nothing() -> None:
    estimator = BandwidthEstimator()
    estimator.sent(1, 500, 0)
    assert estimator.answered(2, 0, 0, 10 * MS) is None
    assert estimator.answered(1, 0, 0, 10 * MS) is not None
    before = estimator.estimate(30 * MS)
    assert estimator.answered(1, 0, 0, 20 * MS) is None
    assert estimator.estimate(30 * MS) == before


def test_before_the_first_answer_a_thin_link_is_assumed_and_delays_are_not_known() -> None:
    figures = BandwidthEstimator().estimate(0)
    assert figures.rate_bytes_per_s == START_BYTES_PER_S
    assert math.isnan(figures.round_trip_ms) and math.isnan(figures.min_round_trip_ms)
    assert math.isnan(figures.queue_ms)
    assert figures.window_bytes > 1000


@pytest.mark.parametrize('rate_bytes_per_s', [2e3, 8e3, 31e3, 125e3, 625e3, 10e6])
@pytest.mark.parametrize('round_trip_ns', [2 * MS, 40 * MS, 200 * MS])
def test_messages_that_queue_measure_the_link(
    rate_bytes_per_s: float, round_trip_ns: int
) -> None:
    figures = saturated(rate_bytes_per_s, round_trip_ns).figures
    assert figures.rate_bytes_per_s == pytest.approx(rate_bytes_per_s, rel=0.1)
    assert figures.acknowledged_bytes_per_s == pytest.approx(rate_bytes_per_s, rel=0.15)


@pytest.mark.parametrize('rate_bytes_per_s', [2e3, 8e3, 31e3, 125e3])
def test_the_time_that_a_message_itself_takes_is_not_part_of_the_path(
    rate_bytes_per_s: float,
) -> None:
    conversation = saturated(rate_bytes_per_s)
    conversation.settle()
    # Each of these takes 200 ms of the link, and the path's own round trip is forgotten.
    conversation.send_every(300 * MS, 20 * message_bytes(rate_bytes_per_s), 50)
    figures = conversation.figures
    assert figures.round_trip_ms == pytest.approx(240, abs=1)
    assert figures.min_round_trip_ms == pytest.approx(40, abs=20)


def test_what_queues_is_told_from_the_path() -> None:
    conversation = Conversation(BandwidthEstimator(), 50e3)
    conversation.send_every(100 * MS, 500, 20)
    assert conversation.figures.queue_ms < 1
    # 2,000 bytes that wait for 40 ms.
    for _ in range(5):
        conversation.send(500)
    conversation.settle()
    assert conversation.figures.queue_ms == pytest.approx(40, abs=15)
    conversation.send_every(100 * MS, 500, 2)
    assert conversation.figures.queue_ms < 1


def test_a_sender_with_little_to_send_never_lowers_the_rate() -> None:
    conversation = saturated(31e3)
    conversation.settle()
    measured = conversation.figures.rate_bytes_per_s
    for _ in range(300):
        conversation.send_every(100 * MS, 200, 1)
        assert conversation.figures.rate_bytes_per_s >= 0.99 * measured


def test_what_arrives_in_a_row_proves_a_rate() -> None:
    conversation = Conversation(BandwidthEstimator(), 10e6)
    conversation.send_every(25 * MS, 1000, 8)
    conversation.settle()
    rate = conversation.figures.rate_bytes_per_s
    # One message per 25 ms: that much was carried, and nothing says that more would be.
    assert rate == pytest.approx(40_000, rel=0.05)


@pytest.mark.parametrize('load', [0.3, 0.6, 0.9])
@pytest.mark.parametrize('held_ns', [60 * MS, 250 * MS, 800 * MS])
def test_what_tcp_held_back_for_a_lost_segment_raises_nothing(load: float, held_ns: int) -> None:
    """All that came after the lost one arrives at once, when it was sent again."""
    conversation = saturated(125e3)
    conversation.settle()
    interval_ns = round(1e9 * 500 / (125e3 * load))
    conversation.send_every(interval_ns, 500, 100)
    before = conversation.figures.rate_bytes_per_s
    conversation.send(500, held_until_ns=conversation.now_ns + held_ns)
    conversation.send_every(interval_ns, 500, 200)
    assert conversation.figures.rate_bytes_per_s <= 1.1 * before


def test_answers_that_come_at_once_raise_nothing_either() -> None:
    """Messages that left and came back together may have arrived one after another."""
    conversation = Conversation(BandwidthEstimator(), 20e3)
    for _ in range(10):
        for _ in range(5):
            conversation.send(400, answer_held_until_ns=conversation.now_ns + 300 * MS)
        conversation.advance_to(conversation.now_ns + 400 * MS)
    assert conversation.figures.rate_bytes_per_s <= 1.1 * 20e3


def test_a_standing_queue_is_drained_below_the_measured_rate_until_it_is_gone() -> None:
    conversation = saturated(31e3, queue_ns=300 * MS)
    figures = conversation.figures
    assert figures.is_draining
    assert figures.rate_bytes_per_s < 0.95 * 31e3
    began_ns = conversation.now_ns
    while conversation.figures.is_draining:
        conversation.send_every(25 * MS, round(0.7 * 31e3 * 0.025), 1)
        assert conversation.now_ns < began_ns + 3 * S
    assert conversation.acknowledged[-1].queue_ns < DRAINED_BELOW_NS
    assert conversation.figures.rate_bytes_per_s == pytest.approx(31e3, rel=0.15)


def test_a_short_burst_is_no_standing_queue() -> None:
    conversation = Conversation(BandwidthEstimator(), 50e3)
    conversation.send_every(100 * MS, 500, 10)
    for _ in range(5):
        for _ in range(6):
            conversation.send(500)
        for _ in range(10):
            conversation.advance_to(conversation.now_ns + 30 * MS)
            assert not conversation.figures.is_draining


@pytest.mark.parametrize(
    ('before_bytes_per_s', 'after_bytes_per_s'), [(31e3, 8e3), (125e3, 20e3), (625e3, 60e3)]
)
def test_a_link_that_became_slower_is_known_after_three_seconds_at_full_load(
    before_bytes_per_s: float, after_bytes_per_s: float
) -> None:
    conversation = saturated(before_bytes_per_s)
    conversation.rate_bytes_per_s = after_bytes_per_s
    slower_ns = conversation.now_ns
    conversation.send_as_allowed(400, slower_ns + 3 * S)
    for _ in range(20):
        conversation.send_as_allowed(400, conversation.now_ns + S // 10)
        assert conversation.figures.rate_bytes_per_s < 1.3 * after_bytes_per_s
    settled = [m for m in conversation.acknowledged if m.sent_ns > slower_ns + 3 * S]
    assert max(m.answered_ns - m.sent_ns for m in settled) < 40 * MS + 200 * MS


def test_a_message_that_stays_away_lowers_the_estimate_on_a_mere_look() -> None:
    conversation = saturated(31e3)
    conversation.settle()
    conversation.send_every(100 * MS, 500, 5)
    conversation.settle()
    before = conversation.figures
    sent_ns = conversation.now_ns
    conversation.send(500, held_until_ns=sent_ns + 4 * S)
    in_time = conversation.estimator.estimate(sent_ns + 40 * MS + TARGET_QUEUE_NS)
    assert in_time.rate_bytes_per_s == before.rate_bytes_per_s
    rates = [
        conversation.estimator.estimate(sent_ns + late_ms * MS).rate_bytes_per_s
        for late_ms in range(200, 4000, 100)
    ]
    assert all(later <= sooner for sooner, later in itertools.pairwise(rates))
    assert rates[8] < 0.1 * before.rate_bytes_per_s
    # Nothing more is in flight than this message, so nothing more is known than that.
    assert min(rates) >= MIN_BYTES_PER_S
    conversation.settle()
    conversation.send_every(100 * MS, 500, 2)
    assert conversation.figures.rate_bytes_per_s >= 0.9 * before.rate_bytes_per_s


def test_looking_changes_nothing() -> None:
    looked_at, left_alone = (saturated(31e3) for _ in range(2))
    for _ in range(50):
        looked_at.send(700)
        left_alone.send(700)
        for _ in range(20):
            looked_at.advance_to(looked_at.now_ns + MS)
            looked_at.estimator.estimate(looked_at.now_ns)
        left_alone.advance_to(left_alone.now_ns + 20 * MS)
    assert looked_at.figures == left_alone.figures


def test_the_smallest_round_trip_is_forgotten_after_ten_seconds() -> None:
    conversation = Conversation(BandwidthEstimator(), 1e6)
    conversation.send_every(100 * MS, 300, 10)
    conversation.round_trip_ns = 80 * MS
    longer_ns = conversation.now_ns
    conversation.send_every(100 * MS, 300, 50)
    assert conversation.figures.min_round_trip_ms == pytest.approx(40, abs=2)
    while conversation.now_ns < longer_ns + MINIMUM_WINDOW_NS + S:
        conversation.send_every(100 * MS, 300, 1)
    assert conversation.figures.min_round_trip_ms == pytest.approx(80, abs=2)
    assert conversation.figures.queue_ms < 1


def test_after_a_pause_the_smallest_round_trip_is_still_known() -> None:
    conversation = Conversation(BandwidthEstimator(), 1e6)
    conversation.send_every(100 * MS, 300, 10)
    conversation.advance_to(conversation.now_ns + 600 * S)
    assert conversation.figures.min_round_trip_ms == pytest.approx(40, abs=2)


@pytest.mark.parametrize('offset_ns', [-7_000_000 * S, -1, 12_345, 3_000_000 * S])
def test_the_two_clocks_need_not_agree(offset_ns: int) -> None:
    alike, other = (
        Conversation(BandwidthEstimator(), 20e3, server_clock_ns=lambda now_ns, o=o: now_ns + o)  # type: ignore[misc]
        for o in (0, offset_ns)
    )
    for conversation in (alike, other):
        conversation.send_every(20 * MS, 600, 60)
        conversation.send_as_allowed(500, conversation.now_ns + 2 * S)
    assert alike.figures == other.figures


@pytest.mark.parametrize('drift', [-0.01, -0.0005, 0.0005, 0.01])
def test_a_server_whose_clock_drifts_changes_little(drift: float) -> None:
    conversation = Conversation(
        BandwidthEstimator(), 20e3, server_clock_ns=lambda now_ns: round(now_ns * (1 + drift))
    )
    conversation.send_as_allowed(500, 30 * S)
    # It may be draining what this endless sender makes queue, at 0.85 of the rate.
    assert conversation.figures.rate_bytes_per_s == pytest.approx(20e3, rel=0.2)


def test_a_server_that_claims_more_time_than_there_was_makes_no_negative_round_trip() -> None:
    estimator = BandwidthEstimator()
    estimator.sent(1, 500, 0)
    message = estimator.answered(1, received_ns=5, server_ns=10_000 * S, now_ns=20 * MS)
    assert message is not None and message.queue_ns == 0
    figures = estimator.estimate(20 * MS)
    assert (figures.round_trip_ms, figures.min_round_trip_ms) == (0, 0)
    assert figures.window_bytes > 0


def test_the_window_is_what_the_path_holds_and_the_target_queue() -> None:
    figures = saturated(31e3).figures
    held_bytes = figures.rate_bytes_per_s * (0.04 + TARGET_QUEUE_NS / 1e9)
    # The smallest round trip of the window is that of a message: its own time is in it.
    assert held_bytes <= figures.window_bytes <= held_bytes + 0.03 * 31e3


def test_a_new_connection_starts_afresh_and_says_what_was_lost() -> None:
    conversation = saturated(1e6)
    estimator = conversation.estimator
    sent_bytes = conversation.figures.sent_bytes
    assert conversation.figures.in_flight_bytes > 0
    assert estimator.restart() == conversation.unanswered
    figures = estimator.estimate(conversation.now_ns)
    assert figures.rate_bytes_per_s <= START_BYTES_PER_S
    assert figures.in_flight_bytes == 0 and estimator.oldest_sent_ns() is None
    assert math.isnan(figures.round_trip_ms) and math.isnan(figures.queue_ms)
    assert not figures.is_draining
    # Counted over the robot's life, not the connection's.
    assert figures.sent_bytes == sent_bytes
    assert estimator.restart() == 0


def test_a_link_that_was_thin_is_thin_for_the_next_connection_too() -> None:
    conversation = saturated(2e3)
    conversation.estimator.restart()
    assert conversation.figures.rate_bytes_per_s == pytest.approx(2e3, rel=0.1)


def test_a_clean_probe_raises_the_rate_a_little_beyond_what_it_proved() -> None:
    conversation = Conversation(BandwidthEstimator(), 10e6)
    conversation.send_every(25 * MS, 1000, 8)
    proved = conversation.figures.rate_bytes_per_s
    conversation.estimator.confirm(conversation.now_ns)
    raised = conversation.figures.rate_bytes_per_s
    assert proved < raised <= 2 * proved
    # A probe of nothing proves nothing.
    fresh = BandwidthEstimator()
    fresh.confirm(0)
    assert fresh.estimate(0).rate_bytes_per_s == START_BYTES_PER_S
