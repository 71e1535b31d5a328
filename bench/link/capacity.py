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
"""
When a link can deliver how many bytes, and what that means for a packet; pure.

A schedule is the curve of all bytes that the link could have delivered up to a time. A trace of
delivery opportunities is a staircase, a trace of rates a chain of slopes, a constant rate one
slope. A packet takes the stretch of the curve behind what was ready before it; a stretch that
passes while nothing is ready is lost. So its delivery time is one look-up, exact however many
small packets share an opportunity or however many opportunities one packet needs.

Times are ns since the schedule's time 0. A trace loops: it begins anew at its last line's time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

NS_PER_S = 10**9
NS_PER_MS = 10**6
OUTAGE_NS = 500 * NS_PER_MS  # A link without capacity for longer than this is out.

# Sums of scaled opportunities are not exact in floating point: this much of a byte is no byte.
_NEARLY_NOTHING = 1e-6

Interval = tuple[int, int]


class ScheduleError(ValueError):
    """A trace file or a figure that makes no schedule; says what was wrong and expected."""


class Delivery(NamedTuple):
    """When the last byte of a packet leaves, and how far the curve is then used up."""

    left_ns: int
    used_bytes: float


class Schedule(ABC):
    """What a link can deliver from time 0 on; times in ns, amounts in bytes."""

    @abstractmethod
    def bytes_before(self, now_ns: int) -> float:
        """Return the capacity from time 0 until now, without what comes at this very instant."""

    @abstractmethod
    def time_ns(self, position_bytes: float) -> int:
        """Return the first time at which the capacity since time 0 has reached a position."""

    @abstractmethod
    def idle(self, start_ns: int, end_ns: int) -> Iterator[Interval]:
        """Yield in order the half-open intervals without capacity that touch the window."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return what from_json() makes the same schedule of: numbers and lists."""

    def capacity_bytes(self, start_ns: int, end_ns: int) -> float:
        """Return the bytes that the link can deliver in [start_ns, end_ns)."""
        return self.bytes_before(end_ns) - self.bytes_before(start_ns)

    def deliver(self, size_bytes: int, ready_ns: int, used_bytes: float = -math.inf) -> Delivery:
        """
        Return when a packet that is ready at a time leaves, behind what left before it.

        Args:
            size_bytes: at least 1.
            ready_ns: opportunities at this very instant can still be used.
            used_bytes: of the Delivery of the packet before it on the link.
        """
        used = max(used_bytes, self.bytes_before(ready_ns)) + size_bytes
        return Delivery(max(ready_ns, self.time_ns(used)), used)

    def gaps(
        self, start_ns: int, end_ns: int, longer_than_ns: int = OUTAGE_NS
    ) -> tuple[Interval, ...]:
        """
        Return where in the window the link has no capacity for longer than a time.

        A gap that began before the window (but not before time 0) or ends after it counts with
        its whole length; what is returned of it lies inside the window.
        """
        wide = self.idle(max(0, start_ns - longer_than_ns), end_ns + longer_than_ns)
        return tuple(
            (max(start, start_ns), min(end, end_ns))
            for start, end in wide
            if end - start > longer_than_ns and end > start_ns and start < end_ns
        )

    def with_outages(self, outages: Sequence[Interval]) -> Schedule:
        """
        Return the schedule without its capacity in the outages.

        Args:
            outages: (start_ns, length_ns) of each, in order and apart.

        Raises:
            ScheduleError: naming the outage that overlaps or has no length.
        """
        return _Interrupted(self, outages) if outages else self


class Looped(Schedule):
    """
    A schedule that repeats; time 0 may lie anywhere in it.

    Args:
        times_ns: of the corners of the curve, rising from 0 to the period; two corners at one
            time are a jump.
        sums_bytes: the curve at the corners, rising from 0.
        start_ns: the place in the loop that is time 0, 0 to less than the period.
    """

    def __init__(
        self, times_ns: Sequence[int], sums_bytes: Sequence[float], start_ns: int = 0
    ) -> None:
        self._times_ns = list(times_ns)
        self._sums_bytes = list(sums_bytes)
        self.period_ns = self._times_ns[-1]
        self.loop_bytes = self._sums_bytes[-1]
        self._start_ns = start_ns
        self._start_bytes = self._curve(start_ns)

    def to_json(self) -> dict[str, Any]:
        """See Schedule."""
        return {
            'times_ns': self._times_ns, 'sums_bytes': self._sums_bytes, 'start_ns': self._start_ns,
        }

    def scaled(self, scale: float) -> Looped:
        """Return the schedule with every amount times scale, at unchanged times."""
        sums_bytes = [scale * total for total in self._sums_bytes]
        return Looped(self._times_ns, sums_bytes, self._start_ns)

    def bytes_before(self, now_ns: int) -> float:
        """See Schedule."""
        loops, within_ns = divmod(now_ns + self._start_ns, self.period_ns)
        if within_ns == 0 and loops > 0:
            # What comes at the very end of a loop is not there yet; the first has none before it.
            loops, within_ns = loops - 1, self.period_ns
        return loops * self.loop_bytes + self._curve(within_ns) - self._start_bytes

    def time_ns(self, position_bytes: float) -> int:
        """See Schedule."""
        position = position_bytes + self._start_bytes - _NEARLY_NOTHING
        # The end of a loop, not the start of the next, delivers the loop's last byte.
        loops = math.ceil(position / self.loop_bytes) - 1
        within = position - loops * self.loop_bytes
        return loops * self.period_ns + self._inverse(within) - self._start_ns

    def idle(self, start_ns: int, end_ns: int) -> Iterator[Interval]:
        """See Schedule."""
        return _joined(self._flat(start_ns, end_ns))

    def _flat(self, start_ns: int, end_ns: int) -> Iterator[Interval]:
        times, sums = self._times_ns, self._sums_bytes
        loops, within_ns = divmod(start_ns + self._start_ns, self.period_ns)
        corner = bisect_right(times, within_ns)
        while True:
            base_ns = loops * self.period_ns - self._start_ns
            for i in range(corner, len(times)):
                if base_ns + times[i - 1] >= end_ns:
                    return
                if sums[i] == sums[i - 1] and times[i] > times[i - 1]:
                    # An opportunity is an instant: one ns of it parts the gaps on both sides.
                    begin_ns = base_ns + times[i - 1] + self._is_jump(i - 1, loops)
                    interval = max(begin_ns, start_ns), min(base_ns + times[i], end_ns)
                    if interval[0] < interval[1]:
                        yield interval
            loops, corner = loops + 1, 1

    def _is_jump(self, corner: int, loops: int) -> bool:
        """Tell whether the curve jumps to a corner; the first is the last of the loop before."""
        if corner == 0:
            return loops > 0 and self._times_ns[-2] == self.period_ns
        return self._times_ns[corner - 1] == self._times_ns[corner]

    def _curve(self, within_ns: int) -> float:
        """Return the sum just before a time of the loop, 0 to the period."""
        after = bisect_left(self._times_ns, within_ns)
        if after == 0 or self._times_ns[after] == within_ns:
            return self._sums_bytes[after]
        return self._between(after, within_ns)

    def _between(self, after: int, within_ns: int) -> float:
        t0, t1 = self._times_ns[after - 1], self._times_ns[after]
        c0, c1 = self._sums_bytes[after - 1], self._sums_bytes[after]
        return c0 + (c1 - c0) * ((within_ns - t0) / (t1 - t0))

    def _inverse(self, within_bytes: float) -> int:
        """Return the first time of the loop at which its sum has reached that many bytes."""
        after = min(bisect_left(self._sums_bytes, within_bytes), len(self._sums_bytes) - 1)
        if after == 0:
            return self._times_ns[0]
        t0, t1 = self._times_ns[after - 1], self._times_ns[after]
        c0, c1 = self._sums_bytes[after - 1], self._sums_bytes[after]
        return t0 + math.ceil((t1 - t0) * ((within_bytes - c0) / (c1 - c0)))


def from_json(document: Mapping[str, Any]) -> Schedule:
    """Return the schedule whose to_json() gave this."""
    if 'schedule' in document:
        outages = [(start_ns, length_ns) for start_ns, length_ns in document['outages']]
        return from_json(document['schedule']).with_outages(outages)
    return Looped(document['times_ns'], document['sums_bytes'], document['start_ns'])


class _Dark(NamedTuple):
    """An outage, what was left of the capacity before it, and what it takes away."""

    start_ns: int
    end_ns: int
    before_bytes: float
    lost_bytes: float


class _Interrupted(Schedule):
    """A schedule with the capacity of some intervals cut out of it."""

    def __init__(self, schedule: Schedule, outages: Sequence[Interval]) -> None:
        self._schedule = schedule
        self._outages = list(outages)
        self._dark: list[_Dark] = []
        end_ns, lost_bytes = 0, 0.0
        for start_ns, length_ns in outages:
            if start_ns < end_ns or length_ns <= 0:
                raise ScheduleError(
                    f'outage at {start_ns / NS_PER_S} s of {length_ns / NS_PER_S} s: expected '
                    'outages from time 0 on, in order, apart, each longer than 0 s'
                )
            end_ns = start_ns + length_ns
            before_bytes = schedule.bytes_before(start_ns) - lost_bytes
            lost = schedule.capacity_bytes(start_ns, end_ns)
            self._dark.append(_Dark(start_ns, end_ns, before_bytes, lost))
            lost_bytes += lost

    def to_json(self) -> dict[str, Any]:
        """See Schedule."""
        return {'schedule': self._schedule.to_json(), 'outages': self._outages}

    def bytes_before(self, now_ns: int) -> float:
        """See Schedule."""
        total = self._schedule.bytes_before(now_ns)
        for dark in self._dark:
            if dark.start_ns >= now_ns:
                break
            total -= self._schedule.capacity_bytes(dark.start_ns, min(dark.end_ns, now_ns))
        return total

    def time_ns(self, position_bytes: float) -> int:
        """See Schedule."""
        lost = sum(
            dark.lost_bytes for dark in self._dark
            if position_bytes > dark.before_bytes + _NEARLY_NOTHING
        )
        return self._schedule.time_ns(position_bytes + lost)

    def idle(self, start_ns: int, end_ns: int) -> Iterator[Interval]:
        """See Schedule."""
        dark = (
            (max(dark.start_ns, start_ns), min(dark.end_ns, end_ns))
            for dark in self._dark
            if dark.start_ns < end_ns and dark.end_ns > start_ns
        )
        return _joined(sorted(chain(self._schedule.idle(start_ns, end_ns), dark)))


def _joined(intervals: Iterable[Interval]) -> Iterator[Interval]:
    """Yield the intervals, sorted by start, with those that touch or overlap made one."""
    last: Interval | None = None
    for interval in intervals:
        if last is None or interval[0] > last[1]:
            if last is not None:
                yield last
            last = interval
        else:
            last = (last[0], max(last[1], interval[1]))
    if last is not None:
        yield last
