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

import pytest

from ferros.bandwidth import BandwidthEstimator

MS = 1_000_000

def test_bytes_are_in_flight_until_they_are_answered() -> None:
    estimator = BandwidthEstimator()
    estimator.sent(1, 500, 0)
    estimator.sent(2, 700, 10 * MS)
    assert estimator.in_flight_bytes == 1200
    assert estimator.oldest_sent_ns() == 0
    assert estimator.answered(1, 5 * MS, 45 * MS)
    figures = estimator.estimate(50 * MS)
    assert (figures.in_flight_bytes, figures.sent_bytes, figures.acknowledged_bytes) == (
        700,
        1200,
        500,
    )
    assert figures.round_trip_ms == pytest.approx(40)
    assert figures.acknowledged_bytes_per_s == pytest.approx(500)


def test_an_answer_to_nothing_changes_nothing() -> None:
    estimator = BandwidthEstimator()
    estimator.sent(1, 500, 0)
    assert not estimator.answered(2, 0, 10)
    assert estimator.answered(1, 0, 10)
    assert not estimator.answered(1, 0, 20)
    assert estimator.estimate(30).acknowledged_bytes == 500


def test_the_round_trip_is_never_negative_and_the_smallest_is_forgotten() -> None:
    estimator = BandwidthEstimator()
    estimator.sent(1, 1, 0)
    estimator.answered(1, 10_000 * MS, 20 * MS)
    assert estimator.estimate(20 * MS).min_round_trip_ms == 0
    estimator.sent(2, 1, 20_000 * MS)
    estimator.answered(2, 0, 20_080 * MS)
    assert estimator.estimate(20_080 * MS).min_round_trip_ms == pytest.approx(80)


def test_what_was_lost_with_its_stream_is_not_in_flight() -> None:
    estimator = BandwidthEstimator()
    estimator.sent(1, 500, 0)
    estimator.sent(2, 500, 0)
    assert estimator.lost() == 2
    assert estimator.in_flight_bytes == 0 and estimator.oldest_sent_ns() is None
