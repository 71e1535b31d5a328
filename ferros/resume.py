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
"""The faces' states that a server hands over when it stops, on their way to the next; pure."""

from __future__ import annotations

from typing import Final

from ferros.drops import Drops

# A server takes messages of twice that.
LARGEST_BYTES: Final = 131_072
# Servers refuse older ones.
LONGEST_AGE_NS: Final = 30_000_000_000
# States reset after a gap of 2 s: one that takes longer to carry would only delay the faces.
LONGEST_CARRIED_S: Final = 2.0


class Resume:
    """
    Keeps the newest sealed state for the next Hello; every time is monotonic ns.

    It goes into Hellos until a server has taken one: a server that was not there has not seen it.
    What it is not used for is counted: `resume_state_too_large`, `..._slow_link`, `..._expired`,
    `..._refused` (the server began afresh) and `..._lost` (the stream ended otherwise).
    """

    def __init__(self, drops: Drops) -> None:
        self._drops = drops
        self._sealed_state = b''
        self._received_ns = 0

    def keep(self, sealed_state: bytes, rate_bytes_per_s: float, now_ns: int) -> None:
        """Take the state of a Drain; rate_bytes_per_s is what the link carries."""
        if len(sealed_state) > LARGEST_BYTES:
            self._drops.count('resume_state_too_large')
        elif len(sealed_state) > LONGEST_CARRIED_S * rate_bytes_per_s:
            self._drops.count('resume_state_slow_link')
        else:
            self._sealed_state, self._received_ns = sealed_state, now_ns

    def state(self, now_ns: int) -> bytes:
        """Return what goes into a Hello now; empty: nothing."""
        if now_ns - self._received_ns > LONGEST_AGE_NS:
            self.drop('expired')
        return self._sealed_state

    def welcomed(self, resumed: bool) -> None:
        """Note that a server took the Hello, and whether it goes on with the state."""
        if not resumed:
            self.drop('refused')
        self._sealed_state = b''

    def drop(self, reason: str) -> None:
        """Forget the state, if there is one, and count it."""
        if self._sealed_state:
            self._drops.count(f'resume_state_{reason}')
        self._sealed_state = b''
