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
"""What the robot half is held to, as data: each bound with what was measured of it; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

# The kinds of images, as the bench names them.
TRANSPORTS = ('bgr8', 'rgb8', 'jpeg')


@dataclass(frozen=True)
class Limits:
    """
    The figures of all bounds.

    Attributes:
        frame_p50_ms: median cost of an image, from its message to the encoded crops.
        frame_p99_ms: the 99th percentile of the same.
        executor_p99_ms: how long the executor is held up (99th percentile).
        id_switches: ids that went to somebody else, in all scenes.
        fallback_ms: from the server's silence to the robot's first answer.
        handback_ms: from the server's return to its first answer that is published.
        switches: changes of who speaks while the server comes and goes for ten seconds.

    """

    frame_p50_ms: float = 10.0
    frame_p99_ms: float = 25.0
    executor_p99_ms: float = 5.0
    id_switches: float = 0.0
    fallback_ms: float = 500.0
    handback_ms: float = 2500.0
    switches: float = 2.0


FULL = Limits()
# Once, beside whatever else the machine does: times get room, what no load can change is held to
# in full.
QUICK = Limits(
    frame_p50_ms=25.0,
    frame_p99_ms=100.0,
    executor_p99_ms=25.0,
    fallback_ms=1500.0,
    handback_ms=6000.0,
    switches=4.0,
)


class Bound(NamedTuple):
    """One bound, and how it came out; measured and met are None where it was not run."""

    name: str
    measured: float | None
    limit: float
    unit: str

    @property
    def met(self) -> bool | None:
        """Tell whether it is met; None: it was not run."""
        return None if self.measured is None else self.measured <= self.limit

    @property
    def line(self) -> str:
        """Return it as a line for people."""
        if self.measured is None:
            return f'not run {self.name}'
        mark = 'met    ' if self.met else 'MISSED '
        return f'{mark} {self.name}: {self.measured:.4g} (at most {self.limit:g} {self.unit})'


def check(measured: Mapping[str, Any], limits: Limits) -> list[Bound]:
    """Return every bound; measured: as __main__ gathers it, a scene that was not run missing."""
    frame, identities = measured.get('frame', {}), measured.get('identities', {})
    fallback, executor = measured.get('fallback', {}), measured.get('executor', {})
    bounds = []
    for name in ('haar', 'yunet'):
        row = worse(frame.get(name))
        bounds += [
            Bound(f'{name}: median of an image', row.get('p50_ms'), limits.frame_p50_ms, 'ms'),
            Bound(f'{name}: p99 of it', row.get('p99_ms'), limits.frame_p99_ms, 'ms'),
            Bound(
                f'{name}: ids that went to somebody else',
                (identities.get(name) or {}).get('id_switches'),
                limits.id_switches,
                '',
            ),
        ]
    return [
        *bounds,
        Bound(
            'p99 of how long the executor is held up',
            executor.get('p99_ms'),
            limits.executor_p99_ms,
            'ms',
        ),
        Bound('from silence to the robot', fallback.get('fallback_ms'), limits.fallback_ms, 'ms'),
        Bound(
            'from the return of the server to its answer',
            fallback.get('handback_ms'),
            limits.handback_ms,
            'ms',
        ),
        Bound(
            'changes of who speaks while the server comes and goes',
            fallback.get('switches'),
            limits.switches,
            '',
        ),
    ]


def transports(figures: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """Return what was measured of a detector by the kind of image; empty: it was not run."""
    return {name: figures[name] for name in TRANSPORTS if name in figures} if figures else {}


def worse(figures: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the worst of raw and compressed images, figure by figure; empty: it was not run."""
    rows = transports(figures).values()
    return {name: max(row[name] for row in rows) for name in ('p50_ms', 'p99_ms')} if rows else {}
