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
"""How full the server is, and who is let in. Pure: times are arguments."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable

NS_PER_S = 1_000_000_000
# What arrived so long ago counts 1/e.
MEMORY_NS = NS_PER_S
# Who sent nothing for so long takes no share of the capacity.
ACTIVE_NS = 2 * NS_PER_S
# An event loop so late is what the robots wait for, whatever the engine still could; it counts
# when it was so several times in a row, and not for one stutter.
LATEST_LOOP_NS = 50_000_000
LATE_TIMES = 3
# A robot that found the server full comes back after this, longer the fuller it is.
SHORTEST_RETRY_MS = 1000
LONGEST_RETRY_MS = 10_000


class Load:
    """Compares what arrives with what can be served."""

    def __init__(self) -> None:
        self._arrivals = 0.0
        self._counted_ns = 0
        self._began_ns: int | None = None
        self._seen_ns: dict[Hashable, int] = {}
        self._pruned_ns = 0
        self._late_ns: deque[int] = deque([0] * LATE_TIMES, LATE_TIMES)

    def arrived(self, sender: Hashable, now_ns: int) -> None:
        """Count a frame of a stream, whatever becomes of it."""
        if self._began_ns is None:
            self._began_ns = now_ns
        self._fade(now_ns)
        self._arrivals += 1
        self._seen_ns[sender] = now_ns

    def left(self, sender: Hashable) -> None:
        """Forget a stream that ended."""
        self._seen_ns.pop(sender, None)

    def loop_was_late(self, late_ns: int) -> None:
        """Note by how much a timer of the event loop came too late."""
        self._late_ns.append(late_ns)

    def rate_hz(self, now_ns: int) -> float:
        """Return the frames per second that arrive, over about the last second."""
        if self._began_ns is None:
            return 0.0
        self._fade(now_ns)
        # At the start less than a whole memory was watched.
        watched_s = -math.expm1(-(now_ns - self._began_ns) / MEMORY_NS) * MEMORY_NS / NS_PER_S
        return self._arrivals / max(watched_s, 0.1)

    def value(self, service_rate_hz: float, now_ns: int) -> float:
        """
        Return what arrives as a part of what can be served; 1 and more: full.

        Args:
            service_rate_hz: frames per second that can be served; 0: not measured yet.
            now_ns: a monotonic clock.

        """
        late = min(self._late_ns) / LATEST_LOOP_NS
        used = self.rate_hz(now_ns) / service_rate_hz if service_rate_hz > 0 else 0.0
        return max(used, late) if late >= 1 else used

    def fair_rate_fps(self, service_rate_hz: float, now_ns: int) -> float:
        """Return the frames per second that each of the streams that send could have."""
        if now_ns - self._pruned_ns > MEMORY_NS:
            self._pruned_ns = now_ns
            for sender in [s for s, seen in self._seen_ns.items() if now_ns - seen > ACTIVE_NS]:
                del self._seen_ns[sender]
        return service_rate_hz / max(1, len(self._seen_ns))

    def _fade(self, now_ns: int) -> None:
        self._arrivals *= math.exp(-max(0, now_ns - self._counted_ns) / MEMORY_NS)
        self._counted_ns = max(self._counted_ns, now_ns)


def retry_ms(load: float, chance: float) -> int:
    """
    Return when a robot that found the server full should try again.

    Args:
        load: as Load.value gives it.
        chance: 0..1, drawn anew for each, so that a fleet does not come back at once.

    """
    fuller = SHORTEST_RETRY_MS * max(1.0, load) ** 2
    return round(min(LONGEST_RETRY_MS, fuller) * (0.75 + 0.5 * chance))
