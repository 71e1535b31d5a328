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
"""What was smallest, largest or total within a time window, in constant time; pure."""

from __future__ import annotations

from collections import deque


class Gaps:
    """Messages that queued: their bytes, and the times between their arrivals."""

    def __init__(self, window_ns: int) -> None:
        self._window_ns = window_ns
        # When each was answered, its bytes, and the gap before it.
        self._gaps: deque[tuple[int, int, int]] = deque()
        self._bytes = self._ns = 0

    @property
    def number(self) -> int:
        """Return how many there are."""
        return len(self._gaps)

    def add(self, now_ns: int, size_bytes: int, gap_ns: int) -> None:
        """Note one that was answered now."""
        self._gaps.append((now_ns, size_bytes, gap_ns))
        self._bytes += size_bytes
        self._ns += gap_ns

    def totals(self, now_ns: int) -> tuple[int, int]:
        """Return the bytes and the ns of those in the window up to now."""
        while self._gaps and self._gaps[0][0] <= now_ns - self._window_ns:
            _, size_bytes, gap_ns = self._gaps.popleft()
            self._bytes -= size_bytes
            self._ns -= gap_ns
        return self._bytes, self._ns

    def clear(self) -> None:
        """Forget them."""
        self._gaps.clear()
        self._bytes = self._ns = 0


class WindowedMinimum:
    """The smallest delay of a window, and the length of the message that had it."""

    def __init__(self, window_ns: int) -> None:
        self._window_ns = window_ns
        # Rising in time and in value: what is newer and smaller replaces what was before it.
        self._candidates: deque[tuple[int, int, int]] = deque()

    def add(self, now_ns: int, value_ns: int, size_bytes: int, may_rise: bool) -> None:
        """Note a delay; one that exceeds the smallest is left out unless it may rise to it."""
        if self._candidates and not may_rise and value_ns > self._candidates[0][1]:
            return
        while self._candidates and self._candidates[-1][1] >= value_ns:
            self._candidates.pop()
        self._candidates.append((now_ns, value_ns, size_bytes))
        self.value(now_ns)

    def least(self) -> tuple[int, int]:
        """Return the smallest delay and its message's length; only after add()."""
        _, value_ns, size_bytes = self._candidates[0]
        return value_ns, size_bytes

    def value(self, now_ns: int) -> int | None:
        """Return the smallest delay in the window up to now; None: there never was one."""
        # The newest is kept however old it is: after a pause it is still the best guess.
        while len(self._candidates) > 1 and self._candidates[0][0] < now_ns - self._window_ns:
            self._candidates.popleft()
        return self._candidates[0][1] if self._candidates else None


class WindowedMaximum:
    """The highest rate of a window."""

    def __init__(self, window_ns: int) -> None:
        self._window_ns = window_ns
        self._candidates: deque[tuple[int, float]] = deque()

    def add(self, now_ns: int, value: float) -> None:
        """Note a rate."""
        while self._candidates and self._candidates[-1][1] <= value:
            self._candidates.pop()
        self._candidates.append((now_ns, value))

    def value(self, now_ns: int) -> float | None:
        """Return the highest rate in the window up to now; None: there is none."""
        while len(self._candidates) > 1 and self._candidates[0][0] < now_ns - self._window_ns:
            self._candidates.popleft()
        return self._candidates[0][1] if self._candidates else None

    def clear(self) -> None:
        """Forget them."""
        self._candidates.clear()
