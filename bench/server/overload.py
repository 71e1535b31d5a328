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
"""What is left of the peak when half as much again is offered, and whether memory grows then."""

from __future__ import annotations

import statistics
from typing import Any

from bench.server import driver, machine, under_test
from bench.server.capacity import Model

ROBOTS = 16
OFFERED = 1.5


def measure(model: Model, trials: int, duration_s: float) -> dict[str, Any]:
    """Return goodput over the peak, one after the other in each trial, all of one server."""
    plan = {'robots': ROBOTS, 'sizes': ((model.face_size_px, 1.0),), 'duration_s': duration_s}
    rows: list[dict[str, Any]] = []
    memory = []
    with under_test.serving('overload', model.settings) as server:
        driver.drive(server.address, saturate=True, warm_up_s=1.0, **plan)
        began_ns = under_test.now_ns()
        for trial in range(trials):
            peak = driver.drive(server.address, saturate=True, warm_up_s=1.0, **plan)
            drowned = driver.drive(
                server.address, rate_fps=OFFERED * peak.ok_per_s / ROBOTS, warm_up_s=1.5, **plan
            )
            memory.append((
                (under_test.now_ns() - began_ns) / 1e9, server.usage().rss_mb
            ))
            rows.append({
                'trial': trial, 'peak_per_s': round(peak.ok_per_s, 1),
                'goodput_per_s': round(drowned.ok_per_s, 1),
                'ratio': round(drowned.ok_per_s / peak.ok_per_s, 3),
                'age_p99_ms': drowned.in_server.p99_ms, 'age_max_ms': drowned.in_server.max_ms,
                'answers': drowned.frames.answers,
                'unanswered': sum(drowned.whole_run.unanswered.values()),
                'rss_mb': round(memory[-1][1], 1),
            })
    return {
        'goodput_over_peak': statistics.median(row['ratio'] for row in rows),
        'age_p99_ms': statistics.median(row['age_p99_ms'] for row in rows),
        'unanswered': sum(row['unanswered'] for row in rows),
        'mb_per_min': (
            round(machine.slope_per_min(memory), 3) if len(memory) > 1 else None
        ),
        'trials': rows,
    }
