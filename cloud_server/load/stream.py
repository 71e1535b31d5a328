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
"""One stream from the robot's side: the frames that it owes answers for, and how it ends."""

from __future__ import annotations

from typing import Any, NamedTuple

from cloud_server.load.line import Line
from ferros_proto import recognition_pb2 as wire


class Sent(NamedTuple):
    """A frame on its way."""

    planned_ns: int
    sent_ns: int
    # Number of the face among those of its robot.
    face: int


class Stream:
    """The state of one call; the robot reads and writes it from two tasks of one event loop."""

    def __init__(self, call: Any, line: Line, began_ns: int) -> None:
        self.call = call
        self.line = line
        self.began_ns = began_ns
        self.welcome: wire.Welcome | None = None
        # Sequence number -> the frame that waits for its answer, the oldest first.
        self.pending: dict[int, Sent] = {}
        self.next_sequence = 1
        # Faces whose state we had in the stream before, and that were not answered yet in this.
        self.awaited_faces: set[int] = set()
        self.served = False
        # When the server said Drain; None: it did not.
        self.drained_ns: int | None = None
        self.pause_ms = 0
        self.is_writing = False
        # Why we ended it ourselves; empty: we did not.
        self.given_up = ''
        self._half_closed = False
        # Further frames with a sequence number that is pending already: a fault.
        self._again: dict[int, list[Sent]] = {}

    @property
    def unanswered(self) -> int:
        """Return how many frames wait for their answer."""
        return len(self.pending) + sum(map(len, self._again.values()))

    @property
    def may_send(self) -> bool:
        """Tell whether frames can leave at all."""
        return not (self.drained_ns is not None or self._half_closed or self.call.done())

    def register(self, sequence: int, sent: Sent) -> None:
        """Note a frame that leaves."""
        if sequence in self.pending:
            self._again.setdefault(sequence, []).append(sent)
        else:
            self.pending[sequence] = sent

    def take(self, sequence: int) -> Sent | None:
        """Return the frame that an answer is for; None: nothing waits for it."""
        sent = self.pending.pop(sequence, None)
        if self._again and sent is not None and sequence in self._again:
            again = self._again[sequence]
            self.pending[sequence] = again.pop(0)
            if not again:
                del self._again[sequence]
        return sent

    def take_all(self) -> list[Sent]:
        """Return the frames that will get no answer any more."""
        lost = [*self.pending.values(), *(sent for more in self._again.values() for sent in more)]
        self.pending.clear()
        self._again.clear()
        return lost

    async def half_close(self) -> None:
        """Send no more, and say so; waits for nothing but the message that is being written."""
        # The task that writes calls this again when it is done.
        if self._half_closed or self.is_writing:
            return
        self._half_closed = True
        await self.call.done_writing()

    def give_up(self, reason: str) -> None:
        """End the call at once; what waits for answers is lost for that reason."""
        if not self.given_up:
            self.given_up = reason
            self.call.cancel()
