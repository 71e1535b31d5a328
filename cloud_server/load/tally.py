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
"""What became of each frame and each stream: written while the run goes on, counted after it."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ferros_proto import recognition_pb2 as wire

# The groups of outcomes. A planned frame was held back, or it left and was answered, or it left
# and no answer came.
HELD = 'held'
ANSWERED = 'answered'
UNANSWERED = 'unanswered'

_LONGEST_US = 0xFFFF_FFFF
# Of what a server says, so much is kept.
LONGEST_TEXT = 200

Times = NDArray[np.int64]


class Outcome(NamedTuple):
    """What became of a frame."""

    # HELD, ANSWERED or UNANSWERED.
    group: str
    # Why it was held or not answered; with ANSWERED the status.
    name: str


class Columns(NamedTuple):
    """The log of one kind of robot, one element per frame; times are of the run's clock."""

    planned_ns: Times
    # Index into `outcomes`.
    outcome: NDArray[np.uint16]
    outcomes: tuple[Outcome, ...]
    # From the planned time to the answer, or to when it was held back or lost.
    from_planned_us: NDArray[np.uint32]
    # From sending to the answer, or to its loss; 0 where it was not sent.
    from_sent_us: NDArray[np.uint32]
    # What the server says it took; 0 without an answer.
    server_us: NDArray[np.uint32]

    def is_in(self, group: str) -> NDArray[np.bool_]:
        """Return which frames have an outcome of that group."""
        wanted = [number for number, outcome in enumerate(self.outcomes) if outcome[0] == group]
        return np.isin(self.outcome, wanted)

    def has(self, outcome: Outcome) -> NDArray[np.bool_]:
        """Return which frames have that outcome."""
        if outcome not in self.outcomes:
            return np.zeros(len(self.outcome), bool)
        return np.asarray(self.outcome == self.outcomes.index(outcome))

    def where(self, selected: NDArray[np.bool_]) -> Columns:
        """Return the log of those frames alone."""
        return Columns(
            self.planned_ns[selected], self.outcome[selected], self.outcomes,
            self.from_planned_us[selected], self.from_sent_us[selected], self.server_us[selected],
        )

    def counts(self, group: str) -> dict[str, int]:
        """Return name -> frames of a group, the most frequent first."""
        numbers = np.bincount(self.outcome, minlength=len(self.outcomes))
        found = Counter({
            outcome.name: int(number)
            for outcome, number in zip(self.outcomes, numbers, strict=True)
            if outcome.group == group and number
        })
        return dict(found.most_common())


class FrameLog:
    """Remembers every frame in 22 bytes."""

    def __init__(self) -> None:
        self._outcomes: list[Outcome] = []
        self._numbers: dict[Outcome, int] = {}
        self._planned_ns = array('q')
        self._outcome = array('H')
        self._from_planned_us = array('I')
        self._from_sent_us = array('I')
        self._server_us = array('I')
        # Status -> number of its outcome: what is needed for each answer.
        self._statuses: dict[int, int] = {
            number: self._number(Outcome(ANSWERED, wire.Status.Name(number)))
            for number in wire.Status.values()
        }
        # So far; for the display.
        self.ok = 0

    def __len__(self) -> int:
        return len(self._outcome)

    def held(self, reason: str, planned_ns: int, now_ns: int) -> None:
        """Note a frame that was not sent."""
        number = self._number(Outcome(HELD, reason))
        self._add(planned_ns, number, now_ns - planned_ns, 0, 0)

    def answered(
        self, status: int, planned_ns: int, sent_ns: int, now_ns: int, server_ns: int
    ) -> None:
        """Note an answer that came."""
        number = self._statuses.get(status)
        if number is None:
            # Not in the protocol.
            number = self._number(Outcome(ANSWERED, f'STATUS_{status}'))
        self.ok += status == wire.OK
        self._add(planned_ns, number, now_ns - planned_ns, now_ns - sent_ns, server_ns)

    def unanswered(self, reason: str, planned_ns: int, sent_ns: int, now_ns: int) -> None:
        """Note a frame that was sent and whose answer can no longer come."""
        number = self._number(Outcome(UNANSWERED, reason))
        self._add(planned_ns, number, now_ns - planned_ns, now_ns - sent_ns, 0)

    def columns(self) -> Columns:
        """Return a copy of all that was noted."""
        return Columns(
            np.array(self._planned_ns, np.int64),
            np.array(self._outcome, np.uint16),
            tuple(self._outcomes),
            np.array(self._from_planned_us, np.uint32),
            np.array(self._from_sent_us, np.uint32),
            np.array(self._server_us, np.uint32),
        )

    def _add(
        self, planned_ns: int, number: int, from_planned_ns: int, from_sent_ns: int, server_ns: int
    ) -> None:
        self._planned_ns.append(planned_ns)
        self._outcome.append(number)
        self._from_planned_us.append(_us(from_planned_ns))
        self._from_sent_us.append(_us(from_sent_ns))
        self._server_us.append(_us(server_ns))

    def _number(self, outcome: Outcome) -> int:
        number = self._numbers.get(outcome)
        if number is None:
            number = self._numbers[outcome] = len(self._outcomes)
            self._outcomes.append(outcome)
        return number


class StreamLog:
    """What the streams of one kind of robot went through, in numbers."""

    def __init__(self) -> None:
        # Got their Welcome.
        self.opened = 0
        # Of them those that were not the first of their robot.
        self.reconnected = 0
        self.drained = 0
        # A sealed state was handed over and accepted; and not accepted; and there was none.
        self.resumed = 0
        self.not_resumed = 0
        self.without_state = 0
        # Faces whose state was there, or was not, at their first answer after a reconnection.
        self.states_kept = 0
        self.states_lost = 0
        # Status -> attempts that got no Welcome; status -> streams that ended after one.
        self.refused: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        # What the server said with a status of an answer or a stream, the first time.
        self.texts: dict[str, str] = {}
        # What a server must never do -> how often it did.
        self.protocol_errors: Counter[str] = Counter()

    def note(self, status: str, text: str) -> None:
        """Keep what the server says with a status, unless something is kept."""
        if status not in self.texts:
            shown = text[:LONGEST_TEXT]
            self.texts[status] = ''.join(c if c.isprintable() else ' ' for c in shown)


class Tally:
    """All that is known of one kind of robot."""

    def __init__(self) -> None:
        self.frames = FrameLog()
        self.streams = StreamLog()
        # Streams with a Welcome now.
        self.open = 0
        # The first that came.
        self.welcome: wire.Welcome | None = None


def _us(time_ns: int) -> int:
    # A clock that went backwards in the server must not stop the run.
    return min(max(time_ns // 1000, 0), _LONGEST_US)
