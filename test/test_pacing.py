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

import itertools
import random

import pytest

from ferros.pacing import Pacer

MS = 1_000_000
S = 1_000_000_000


@pytest.mark.parametrize(
    ('offered_fps', 'wanted_fps'), [(30, 15), (30, 10), (25, 15), (30, 7), (1000, 10)]
)
def test_the_wanted_rate_is_reached_whatever_rate_is_offered(
    offered_fps: int, wanted_fps: int
) -> None:
    pacer = Pacer()
    taken = 0
    interval_ns = S // wanted_fps
    for index in range(20 * offered_fps):
        now_ns = index * S // offered_fps
        if pacer.wait_ns(now_ns, interval_ns) == 0:
            pacer.happened(now_ns, interval_ns)
            taken += 1
    assert taken == pytest.approx(20 * wanted_fps, rel=0.03)


@pytest.mark.parametrize('wanted_fps', [1.0, 5.0, 8.4, 10.0, 14.0, 15.0, 22.0, 30.0])
@pytest.mark.parametrize('jitter_ms', [0, 5])
def test_on_a_camera_of_30_fps_the_nearest_image_is_taken_and_the_rate_kept(
    wanted_fps: float, jitter_ms: int
) -> None:
    pacer, noise = Pacer(), random.Random(4)
    interval_ns = round(S / wanted_fps)
    taken_ns = []
    for index in range(600):
        now_ns = index * S // 30 + round(noise.uniform(-jitter_ms, jitter_ms) * MS)
        if pacer.wait_ns(now_ns, interval_ns, early_ns=S // 60) == 0:
            pacer.happened(now_ns, interval_ns, early_ns=S // 60)
            taken_ns.append(now_ns)
    assert len(taken_ns) == pytest.approx(20 * wanted_fps, rel=0.03, abs=1)
    # Never two at once: an image's distance, less the jitter, and no more than one image late.
    gaps_ns = [after - before for before, after in itertools.pairwise(taken_ns)]
    assert min(gaps_ns) >= min(interval_ns // 2, interval_ns - S // 30 - 2 * jitter_ms * MS)
    assert max(gaps_ns) <= interval_ns + S // 30 + 4 * jitter_ms * MS


def test_an_event_is_never_more_than_half_an_interval_early() -> None:
    pacer = Pacer()
    pacer.happened(0, 100 * MS, early_ns=10 * S)
    assert pacer.wait_ns(0, 100 * MS, early_ns=10 * S) >= 50 * MS


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


def test_a_lowered_rate_holds_from_the_next_event_on() -> None:
    pacer = Pacer()
    pacer.happened(0, 100 * MS)
    assert pacer.wait_ns(100 * MS, 1000 * MS) == 0
    pacer.happened(100 * MS, 1000 * MS)
    assert pacer.wait_ns(100 * MS, 1000 * MS) > 700 * MS
