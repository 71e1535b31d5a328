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
"""How long a batch takes, as a straight line over its size, fitted to those that were computed."""

from __future__ import annotations

from dataclasses import dataclass

# Sizes are looked at together from one power of two to the next. A batch moves the mean of its
# group by this part, and each batch makes what was seen of the other groups count so much less.
FRESH = 0.1
FADING = 0.998
# A batch of nothing takes no time: a point of this weight beside one for each group. Where all
# batches had one size it makes the time proportional to the size, which promises no gain that was
# not seen.
ORIGIN_WEIGHT = 0.02
# A batch that took longer than so many times what was expected counts as if it took that: one
# hiccup, a page fault or another process, must not make the server small for minutes, because a
# size that is then no longer tried is not measured again. A machine that became so slow is still
# believed, some batches later.
MOST_BELIEVED = 4
# What a further item costs at least, as a part of the mean cost of one.
SMALLEST_SLOPE = 0.05


@dataclass
class _Group:
    """Batches of about one size."""

    size: float
    time_ns: float
    weight: float = 1.0


class BatchTimes:
    """
    Fits time = fixed + each x size by least squares over groups of sizes, old ones counting less.

    A server that is evenly busy computes batches of one size for minutes; in groups the others are
    not forgotten over them. Pure: durations are arguments.
    """

    def __init__(self) -> None:
        self._groups: dict[int, _Group] = {}
        self._fixed_ns = 0.0
        self._each_ns = 0.0

    def __bool__(self) -> bool:
        """Tell whether anything was measured."""
        return bool(self._groups)

    def add(self, size: int, busy_ns: int) -> None:
        """
        Count a batch.

        Args:
            size: items in it, at least 1.
            busy_ns: how long it took, from leaving the queue to its results.

        """
        if self:
            busy_ns = min(busy_ns, round(MOST_BELIEVED * self.time_ns(size)))
        for group in self._groups.values():
            group.weight *= FADING
        group = self._groups.setdefault(size.bit_length(), _Group(size, max(1, busy_ns)))
        group.size += FRESH * (size - group.size)
        group.time_ns += FRESH * (max(1, busy_ns) - group.time_ns)
        group.weight = 1.0
        self._fit()

    def time_ns(self, size: int) -> float:
        """Return how long a batch of that size takes; 0 if nothing was measured yet."""
        return self._fixed_ns + self._each_ns * size

    def largest_within(self, limit_ns: int) -> int:
        """Return the size of the largest batch that takes no longer, at least 1."""
        if not self:
            return 1
        return max(1, int((limit_ns - self._fixed_ns) / self._each_ns))

    def _fit(self) -> None:
        groups = list(self._groups.values())
        weight = ORIGIN_WEIGHT + sum(g.weight for g in groups)
        sizes = sum(g.weight * g.size for g in groups)
        times_ns = sum(g.weight * g.time_ns for g in groups)
        squares = sum(g.weight * g.size**2 for g in groups)
        products = sum(g.weight * g.size * g.time_ns for g in groups)
        each_ns = (weight * products - sizes * times_ns) / (weight * squares - sizes**2)
        mean_ns = times_ns / sizes
        self._each_ns = min(max(each_ns, SMALLEST_SLOPE * mean_ns), mean_ns)
        self._fixed_ns = max(0.0, (times_ns - self._each_ns * sizes) / weight)
