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
"""What robots that break the protocol cost those that keep to it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from bench.server import driver, under_test
from bench.server.capacity import Model
from cloud_server.load.faults import FAULTS

GOOD_ROBOTS = 16
FAULTY_ROBOTS = 2
# Of the capacity, by the good robots.
LOAD = 0.5


def measure(
    model: Model, capacity_per_s: float, trials: int, duration_s: float,
    kinds: Sequence[str] = tuple(FAULTS),
) -> dict[str, Any]:
    """Return, for each fault, p99 of good robots beside it over that without, and what it got."""
    plan = {
        'robots': GOOD_ROBOTS, 'rate_fps': LOAD * capacity_per_s / GOOD_ROBOTS,
        'sizes': ((model.face_size_px, 1.0),), 'warm_up_s': 1.5, 'duration_s': duration_s,
    }
    found: dict[str, Any] = {}
    with under_test.serving('faults', model.settings) as server:
        driver.drive(server.address, **plan)
        for kind in kinds:
            ratios, outcome = [], None
            for _ in range(trials):
                alone = driver.drive(server.address, **plan)
                beside = driver.drive(
                    server.address, faults=((kind, FAULTY_ROBOTS),), **plan
                )
                assert alone.from_planned is not None and beside.from_planned is not None
                assert alone.from_planned.p99_ms and beside.from_planned.p99_ms
                ratios.append(beside.from_planned.p99_ms / alone.from_planned.p99_ms)
                outcome = beside.faults[kind]
            assert outcome is not None
            found[kind] = {
                'p99_ratio': round(statistics.median(ratios), 3),
                'answers': outcome.frames.answers,
                'ended': {**outcome.streams.refused, **outcome.streams.ended},
                'unexpected': outcome.unexpected,
                'good_unanswered': sum(beside.whole_run.unanswered.values()),
                'rss_mb': round(server.usage().rss_mb, 1),
            }
    return found
