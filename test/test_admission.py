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
"""Tests of how full the server says it is, and when it sends robots away."""

from __future__ import annotations

import pytest

from cloud_server.admission import LONGEST_RETRY_MS, SHORTEST_RETRY_MS, Load, retry_ms

MS = 1_000_000
S = 1_000_000_000


def loaded(rate_hz: float, seconds: float, senders: int = 1) -> tuple[Load, int]:
    """Return a load that saw an even rate, and the time."""
    load = Load()
    count = round(rate_hz * seconds)
    for i in range(count):
        load.arrived(i % senders, round(i * S / rate_hz))
    return load, round((count - 1) * S / rate_hz)


def test_an_idle_server_is_empty():
    assert Load().value(500.0, 0) == 0
    assert Load().value(0.0, 0) == 0


@pytest.mark.parametrize('rate_hz', [50, 400, 3000])
def test_the_rate_of_arrivals_is_known_within_a_second(rate_hz):
    load, now_ns = loaded(rate_hz, seconds=1.0)
    assert load.rate_hz(now_ns) == pytest.approx(rate_hz, rel=0.05)


def test_the_load_is_what_arrives_as_a_part_of_what_can_be_served():
    load, now_ns = loaded(400, seconds=3)
    assert load.value(500.0, now_ns) == pytest.approx(0.8, rel=0.02)
    assert load.value(200.0, now_ns) == pytest.approx(2.0, rel=0.02)


def test_the_load_fades_when_the_robots_stop():
    load, now_ns = loaded(400, seconds=3)
    assert load.value(500.0, now_ns + 3 * S) < 0.05


def test_a_few_first_frames_do_not_look_like_a_flood():
    load = Load()
    for sender in range(4):
        load.arrived(sender, sender)
    assert load.rate_hz(10) <= 40


def test_an_event_loop_that_cannot_keep_up_counts_as_full():
    load, now_ns = loaded(100, seconds=2)
    for late_ms in (100, 100, 20, 100, 100):
        load.loop_was_late(late_ms * MS)
        assert load.value(1000.0, now_ns) == pytest.approx(0.1, rel=0.05)
    load.loop_was_late(100 * MS)
    assert load.value(1000.0, now_ns) == 2.0


def test_the_fair_rate_is_shared_by_the_streams_that_send():
    load, now_ns = loaded(400, seconds=1, senders=4)
    assert load.fair_rate_fps(500.0, now_ns) == 125
    load.left(0)
    assert load.fair_rate_fps(500.0, now_ns) == pytest.approx(500 / 3)
    # All but one fell silent.
    load.arrived(1, now_ns + 4 * S)
    assert load.fair_rate_fps(500.0, now_ns + 4 * S) == 500


def test_robots_that_are_sent_away_come_back_spread_out_and_later_the_fuller_it_is():
    assert retry_ms(0.9, 0.0) == 0.75 * SHORTEST_RETRY_MS
    assert retry_ms(0.9, 1.0) == 1.25 * SHORTEST_RETRY_MS
    assert retry_ms(2.0, 0.5) == 4 * SHORTEST_RETRY_MS
    assert retry_ms(100.0, 1.0) == 1.25 * LONGEST_RETRY_MS
