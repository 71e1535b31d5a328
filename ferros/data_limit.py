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
"""A limit of the data used on average: a token bucket; pure."""

from __future__ import annotations

import math

# What may be used at once after a pause.
BURST_S = 2.0


class DataLimit:
    """
    Says whether more data may be used; times are monotonic ns.

    Whatever is used is taken from an account that fills at the limit's rate. It may be overdrawn
    by the last message, which is then waited for: over any time the use exceeds the limit by no
    more than two seconds' worth and one message.
    """

    def __init__(self, limit_bytes_per_s: float, now_ns: int) -> None:
        self._limit_bytes_per_s = limit_bytes_per_s
        self._left_bytes = BURST_S * limit_bytes_per_s
        self._filled_ns = now_ns

    def change(self, limit_bytes_per_s: float, now_ns: int) -> None:
        """Hold another limit from now on; what was overdrawn under the old one is still owed."""
        self._fill(now_ns)
        was_limited = math.isfinite(self._limit_bytes_per_s)
        self._limit_bytes_per_s = limit_bytes_per_s
        most_bytes = BURST_S * limit_bytes_per_s
        self._left_bytes = min(self._left_bytes, most_bytes) if was_limited else most_bytes

    @property
    def limit_bytes_per_s(self) -> float:
        """Return the limit; inf where there is none."""
        return self._limit_bytes_per_s

    def use(self, size_bytes: int) -> None:
        """Note that data were sent or received."""
        self._left_bytes -= size_bytes

    def wait_ns(self, now_ns: int) -> int:
        """Return how long it is until more may be used; 0: now."""
        if math.isinf(self._limit_bytes_per_s):
            return 0
        self._fill(now_ns)
        if self._left_bytes >= 0:
            return 0
        return math.ceil(-self._left_bytes / self._limit_bytes_per_s * 1e9)

    def _fill(self, now_ns: int) -> None:
        elapsed_s = max(0, now_ns - self._filled_ns) / 1e9
        self._filled_ns = max(now_ns, self._filled_ns)
        if math.isfinite(self._limit_bytes_per_s):
            self._left_bytes = min(
                BURST_S * self._limit_bytes_per_s,
                self._left_bytes + elapsed_s * self._limit_bytes_per_s,
            )
