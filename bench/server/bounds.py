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
"""What the server is held to, as data: each bound with what was measured of it; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Limits:
    """
    The figures of all bounds.

    Attributes:
        over_raw_default: least share of the raw loop's speed, with the shipped model.
        over_raw_resnet50: the same with a ResNet-50.
        p99_ms: greatest latency (99th percentile) at 80 % of the capacity.
        goodput: least throughput at 150 % of the capacity, over the peak.
        age_ms: greatest age of an answer from receipt (99th percentile) at 150 %.
        overload_mb_per_min: memory growth at 150 %.
        gain: capacity with batches across robots over that with one robot in a batch.
        idle_mb: memory for all idle streams.
        idle_p99_ratio: p99 of active robots beside idle streams over that alone.
        ray_speedup: two replicas over one.
        ray_recovery_s: after a replica was killed.
        unanswered: frames of a rolling restart without an answer.
        fault_p99_ratio: p99 of good robots beside faulty ones over that alone.
        soak_mb_per_min: slope of the resident memory.

    """

    over_raw_default: float = 0.70
    over_raw_resnet50: float = 0.90
    p99_ms: float = 50.0
    goodput: float = 0.95
    age_ms: float = 200.0
    overload_mb_per_min: float = 1.0
    gain: float = 1.25
    idle_mb: float = 200.0
    idle_p99_ratio: float = 1.10
    ray_speedup: float = 1.8
    ray_recovery_s: float = 5.0
    unanswered: float = 0.0
    fault_p99_ratio: float = 1.20
    soak_mb_per_min: float = 1.0


FULL = Limits()
# A few seconds each, beside whatever else the machine does: speeds and latencies get room, what no
# load can change (every frame is answered, states survive) is held to in full.
QUICK = Limits(
    over_raw_default=0.55, over_raw_resnet50=0.75, p99_ms=150.0, goodput=0.55, age_ms=300.0,
    overload_mb_per_min=60.0, gain=1.05, idle_p99_ratio=2.5, ray_speedup=1.4,
    ray_recovery_s=10.0, fault_p99_ratio=3.0, soak_mb_per_min=60.0,
)


class Bound(NamedTuple):
    """One bound, and how it came out; measured and met are None where it was not run."""

    name: str
    measured: float | None
    # 'at most' or 'at least'.
    sense: str
    limit: float
    unit: str
    met: bool | None


def check(results: Mapping[str, Any], limits: Limits) -> list[Bound]:
    """Return every bound; results: as __main__ gathers them, a scene that was not run missing."""
    faults = results.get('faults')
    worst = None if faults is None else max(row['p99_ratio'] for row in faults.values())
    unexpected = None if faults is None else sum(
        sum(row['unexpected'].values()) + row['good_unanswered'] for row in faults.values()
    )
    figure = _Figures(results)
    curve = results.get('curve')
    return [
        _at_least('end to end over the raw loop, shipped model',
                  figure('over_raw', 'default', 'ratio'), limits.over_raw_default),
        _at_least('end to end over the raw loop, ResNet-50 int8',
                  figure('over_raw', 'resnet50_int8', 'ratio'), limits.over_raw_resnet50),
        _at_most('p99 at 80 % of the capacity', at(curve, 0.8, 'p99_ms'), limits.p99_ms, 'ms'),
        _at_least('goodput at 150 % over the peak', figure('overload', 'goodput_over_peak'),
                  limits.goodput),
        _at_most('p99 of the age at 150 %', figure('overload', 'age_p99_ms'), limits.age_ms,
                 'ms'),
        _at_most('memory growth while it is full', figure('overload', 'mb_per_min'),
                 limits.overload_mb_per_min, 'MB/min'),
        _at_least('batches across robots over one robot in a batch',
                  figure('cross_robot', 'gain'), limits.gain),
        _at_most('memory of idle streams', figure('idle', 'more_mb'), limits.idle_mb, 'MB'),
        _at_most('p99 beside idle streams over alone', figure('idle', 'p99_ratio'),
                 limits.idle_p99_ratio),
        _at_least('Ray: two replicas over one', figure('ray', 'speedup'), limits.ray_speedup),
        _at_most('Ray: recovery from a killed replica', figure('ray', 'recovery_s'),
                 limits.ray_recovery_s, 's'),
        _at_most('Ray: frames without an answer', figure('ray', 'unanswered'), 0, 'frames'),
        _at_most('rolling restart: frames without an answer', figure('restart', 'unanswered'),
                 limits.unanswered, 'frames'),
        _at_most('rolling restart: LSTM states lost', figure('restart', 'states_lost'), 0,
                 'states'),
        _at_most('p99 of good robots beside faulty ones over alone, worst', worst,
                 limits.fault_p99_ratio),
        _at_most('unexpected answers to faulty robots, and none to good ones', unexpected, 0,
                 'frames'),
        _at_most('soak: slope of the memory', figure('soak', 'rss_slope_mb_per_min'),
                 limits.soak_mb_per_min, 'MB/min'),
        _at_most('soak: slope of the descriptors', figure('soak', 'descriptors_slope_per_min'),
                 1.0, 'per min'),
        _at_most('soak: slope of the threads', figure('soak', 'threads_slope_per_min'), 0.5,
                 'per min'),
    ]


def at(curve: Sequence[Mapping[str, Any]] | None, load: float, name: str) -> float | None:
    """Return a figure of the curve at an offered load; None: it was not run."""
    for row in curve or ():
        if row['load'] == load:
            return None if row[name] is None else float(row[name])
    return None


class _Figures:
    """Looks figures up by their path."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self._results = results

    def __call__(self, *path: str) -> float | None:
        found: Any = self._results
        for name in path:
            if not isinstance(found, Mapping) or name not in found:
                return None
            found = found[name]
        return None if found is None else float(found)


def _at_most(name: str, measured: float | None, limit: float, unit: str = '') -> Bound:
    met = None if measured is None else measured <= limit
    return Bound(name, measured, 'at most', limit, unit, met)


def _at_least(name: str, measured: float | None, limit: float, unit: str = '') -> Bound:
    met = None if measured is None else measured >= limit
    return Bound(name, measured, 'at least', limit, unit, met)
