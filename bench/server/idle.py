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
"""What streams cost that send nothing: memory, and the latency of those that send."""

from __future__ import annotations

import statistics
import time
from typing import Any

from bench.server import driver, machine, under_test
from bench.server.capacity import Model

ACTIVE_ROBOTS = 16
# Of the capacity, by the active robots.
LOAD = 0.5


def measure(
    model: Model, capacity_per_s: float, streams: int, trials: int, duration_s: float
) -> dict[str, Any]:
    """Return memory for so many idle streams, and p99 of active robots with and without them."""
    plan = {
        'robots': ACTIVE_ROBOTS, 'rate_fps': LOAD * capacity_per_s / ACTIVE_ROBOTS,
        'sizes': ((model.face_size_px, 1.0),), 'warm_up_s': 2.0,
    }
    rows: list[dict[str, Any]] = []
    with under_test.serving('idle', model.settings) as server:
        driver.drive(server.address, duration_s=2.0, **plan)
        for trial in range(trials):
            alone = driver.drive(server.address, duration_s=duration_s, **plan)
            before_mb = server.usage().rss_mb
            with driver.begun(
                server.address, idle=streams, duration_s=duration_s, **plan
            ) as load:
                samples = machine.watch(server.pid, load.process)
                beside = driver.finish(load)
            assert alone.from_planned is not None and beside.from_planned is not None
            assert beside.idle is not None
            rows.append({
                'trial': trial,
                'more_mb': round(max(u.rss_mb for _, u in samples) - before_mb, 1),
                'open_streams': beside.idle.open_at_end,
                'p99_alone_ms': alone.from_planned.p99_ms,
                'p99_beside_ms': beside.from_planned.p99_ms,
            })
            time.sleep(1.0)
    return {
        'streams': streams,
        # Later trials find the memory that earlier ones left to the process.
        'more_mb': max(row['more_mb'] for row in rows),
        'open_streams': min(row['open_streams'] for row in rows),
        'p99_ratio': round(
            statistics.median(row['p99_beside_ms'] for row in rows)
            / statistics.median(row['p99_alone_ms'] for row in rows), 3),
        'trials': rows,
    }
