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
"""Throughput and latency against what is offered, from a quiet server to one that drowns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from bench.server import driver, under_test
from bench.server.capacity import Model

ROBOTS = 16
# The first load after a start is a warm-up of its own: the server has to learn its speed.
SETTLE_S = 1.5


def measure(
    model: Model, capacity_per_s: float, loads: Sequence[float], duration_s: float
) -> list[dict[str, Any]]:
    """
    Return a row for each offered load, all of one server process.

    Args:
        model: what is served.
        capacity_per_s: frames per second that count as load 1.
        loads: parts of the capacity that are offered, in this order.
        duration_s: how long each is measured.

    """
    rows: list[dict[str, Any]] = []
    spans = []
    with under_test.serving(f'curve_{model.name}', model.settings) as server:
        before = server.usage()
        for load in loads:
            result = driver.drive(
                server.address, robots=ROBOTS, rate_fps=load * capacity_per_s / ROBOTS,
                duration_s=duration_s, warm_up_s=SETTLE_S, sizes=((model.face_size_px, 1.0),),
            )
            ended_ns = under_test.now_ns()
            spans.append((ended_ns - round(1e9 * duration_s), ended_ns))
            assert result.from_planned is not None
            rows.append({
                'load': load,
                'offered_per_s': round(result.planned_per_s, 1),
                'ok_per_s': round(result.ok_per_s, 1),
                'p50_ms': result.from_planned.p50_ms,
                'p99_ms': result.from_planned.p99_ms,
                'age_p99_ms': result.in_server.p99_ms,
                'age_max_ms': result.in_server.max_ms,
                'answers': result.frames.answers,
                'held': result.frames.held,
                'unanswered': result.frames.unanswered,
                'generator_limited': result.generator.is_limited,
                'rss_mb': round(server.usage().rss_mb, 1),
            })
        grown_mb = server.usage().rss_mb - before.rss_mb
        server.stop()
        for row, span in zip(rows, spans, strict=True):
            batches = server.batches(*span)
            row['batch_faces'] = round(statistics.fmean(b.faces for b in batches), 2)
            row['batch_ms'] = round(statistics.fmean(b.busy_ns for b in batches) / 1e6, 2)
    rows[-1]['grown_mb'] = round(grown_mb, 1)
    return rows
