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
"""Keep an average rate without drifting below it, whatever the clock of the caller."""

from __future__ import annotations


class Pacer:
    """
    Says when the next of a row of events is due; pure, every time is an argument in ns.

    Events that are offered on a clock of their own (a camera's) hardly ever fall on the due time.
    Waiting a full interval after each would lose up to a half of the rate, so due times advance
    by whole intervals, and an event may come early: by a quarter of an interval, or by early_ns.
    """

    def __init__(self) -> None:
        self._due_ns: int | None = None

    def wait_ns(self, now_ns: int, interval_ns: int, early_ns: int | None = None) -> int:
        """Return how long it is until the next event may happen; 0: now."""
        if self._due_ns is None:
            return 0
        early_ns = interval_ns // 4 if early_ns is None else min(early_ns, interval_ns // 2)
        # After an early event the next is due that much later than an interval from then; a due
        # time still further off is left from a slower rate.
        self._due_ns = min(self._due_ns, now_ns + interval_ns + early_ns)
        return max(0, self._due_ns - early_ns - now_ns)

    def happened(self, now_ns: int, interval_ns: int, early_ns: int | None = None) -> None:
        """Note that an event happened now."""
        early_ns = interval_ns // 4 if early_ns is None else min(early_ns, interval_ns // 2)
        due_ns = now_ns if self._due_ns is None else self._due_ns
        # After a pause the missed events are not made up for.
        self._due_ns = max(due_ns, now_ns - early_ns) + interval_ns
