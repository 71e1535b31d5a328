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
"""Whether an image continues the time line of those before it."""

from __future__ import annotations

from enum import Enum, auto

# An image this much older than the newest is not out of order: time itself was set back (a bag
# that loops, a simulation that was reset).
JUMP_BACK_NS = 1_000_000_000


class Continuity(Enum):
    """How a stamp relates to the newest one before it."""

    FORWARD = auto()
    # Older than the newest image, or a repetition of it: to be dropped.
    BACKWARDS = auto()
    # Time was set back: what is remembered of the old time line no longer holds.
    JUMP = auto()


class Timeline:
    """Follows the stamps of one camera; pure."""

    def __init__(self) -> None:
        self._newest_ns: int | None = None

    def follow(self, stamp_ns: int) -> Continuity:
        """Tell how stamp_ns relates to those before; a dropped one is forgotten."""
        newest_ns = self._newest_ns
        if newest_ns is not None and newest_ns - JUMP_BACK_NS < stamp_ns <= newest_ns:
            return Continuity.BACKWARDS
        self._newest_ns = stamp_ns
        if newest_ns is not None and stamp_ns <= newest_ns:
            return Continuity.JUMP
        return Continuity.FORWARD

    def reset(self) -> None:
        """Forget the time line."""
        self._newest_ns = None
