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
"""Which part of a run its outages spoil, and how the sender came back from them; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.link.expected import FRESH_NS
from bench.link.recording import Recording
from bench.link.scenarios import Scenario, uplink
from bench.link.schedule import NS_PER_MS, NS_PER_S, Interval

BEFORE_OUTAGE_NS = 250 * NS_PER_MS
AFTER_OUTAGE_NS = NS_PER_S


@dataclass(frozen=True)
class Window:
    """The time that is judged, on the robot's clock, and where the link's schedule begins."""

    scenario: Scenario
    # Time 0 of the schedule.
    link_ns: int
    start_ns: int
    end_ns: int

    def __post_init__(self) -> None:
        if not self.link_ns <= self.start_ns < self.end_ns:
            raise ValueError(
                f'{self.scenario.name}: the link begins at {self.link_ns} ns, the scene lasts '
                f'from {self.start_ns} to {self.end_ns} ns, expected them to rise'
            )

    @property
    def left_out(self) -> tuple[Interval, ...]:
        """Return what an outage spoils: sorted, apart, within the window."""
        gaps = uplink(self.scenario).gaps(
            self.start_ns - self.link_ns, self.end_ns - self.link_ns
        )
        merged: list[Interval] = []
        for start, end in gaps:
            start_ns = max(self.start_ns, self.link_ns + start - BEFORE_OUTAGE_NS)
            end_ns = min(self.end_ns, self.link_ns + end + AFTER_OUTAGE_NS)
            if merged and start_ns <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end_ns, merged[-1][1]))
            else:
                merged.append((start_ns, end_ns))
        return tuple(merged)

    @property
    def outage_share(self) -> float:
        """Return how much of the window is left out, 0..1."""
        left_out_ns = sum(end - start for start, end in self.left_out)
        return left_out_ns / (self.end_ns - self.start_ns)

    @property
    def outage_ends_ns(self) -> tuple[int, ...]:
        """Return when the scenario's own outages end, as far as the window sees it."""
        ends = (self.link_ns + round((start + length) * NS_PER_S)
                for start, length in self.scenario.outages_s)
        return tuple(end_ns for end_ns in ends if self.start_ns < end_ns < self.end_ns)


def recovery(run: Recording, window: Window) -> dict[str, Any]:
    """Return how a run came back from its scenario's outages; nothing where there are none."""
    if not window.scenario.outages_s:
        return {}
    recoveries = [_recovery_s(run, end_ns) for end_ns in window.outage_ends_ns]
    waits = [_tcp_wait_s(run, end_ns) for end_ns in window.outage_ends_ns]
    return {
        'recovery_s': _worst(recoveries),
        'tcp_wait_s': _worst(waits),
        # Published although older than 300 ms, and sent although they had waited for so long.
        'old_answers': sum(answer.published_ns - answer.captured_ns > FRESH_NS
                           for answer in run.answers),
        'old_frames_sent': sum(frame.sent_ns - frame.captured_ns > FRESH_NS
                               for frame in run.frames),
    }


def _worst(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


def _recovery_s(run: Recording, end_ns: int) -> float | None:
    fresh = (
        answer.published_ns for answer in run.answers
        if answer.published_ns >= end_ns and (
            answer.captured_ns >= end_ns
            or answer.published_ns - answer.captured_ns <= FRESH_NS
        )
    )
    first_ns = min(fresh, default=None)
    return None if first_ns is None else round((first_ns - end_ns) / NS_PER_S, 3)


def _tcp_wait_s(run: Recording, end_ns: int) -> float | None:
    bin_ns = round(run.link['bin_ms'] * NS_PER_MS)
    zero_ns = run.link['started_ns']
    first = (end_ns - zero_ns) // bin_ns
    for index, delivered in enumerate(run.link['up']['delivered_bytes'][first:], first):
        if delivered:
            return float(round(max(0, zero_ns + index * bin_ns - end_ns) / NS_PER_S, 3))
    return None
