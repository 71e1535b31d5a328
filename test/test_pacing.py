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

from ferros.pacing import Pacer

MS = 1_000_000

@pytest.mark.parametrize(
    ('offered_fps', 'wanted_fps'), [(30, 15), (30, 10), (25, 15), (30, 7), (1000, 10)]
)
def test_the_wanted_rate_is_reached_whatever_rate_is_offered(
    offered_fps: int, wanted_fps: int
) -> None:
    pacer = Pacer()
    taken = 0
    interval_ns = 1_000_000_000 // wanted_fps
    for index in range(20 * offered_fps):
        now_ns = index * 1_000_000_000 // offered_fps
        if pacer.wait_ns(now_ns, interval_ns) == 0:
            pacer.happened(now_ns, interval_ns)
            taken += 1
    assert taken == pytest.approx(20 * wanted_fps, rel=0.03)


def test_events_missed_in_a_pause_are_not_made_up_for() -> None:
    pacer = Pacer()
    pacer.happened(0, 100 * MS)
    assert pacer.wait_ns(10_000 * MS, 100 * MS) == 0
    pacer.happened(10_000 * MS, 100 * MS)
    assert pacer.wait_ns(10_001 * MS, 100 * MS) > 40 * MS


def test_a_raised_rate_holds_at_once() -> None:
    pacer = Pacer()
    pacer.happened(0, 10_000 * MS)
    assert pacer.wait_ns(0, 100 * MS) <= 125 * MS
