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
"""The link's figures, from what was sent and what was acknowledged; pure."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

# Over which the acknowledged rate is taken.
RATE_WINDOW_NS = 1_000_000_000
# Over which the smallest round trip is taken: a path may change.
ROUND_TRIP_WINDOW_NS = 10_000_000_000


class Sent(NamedTuple):
    """One message that left."""

    sent_ns: int
    size_bytes: int


class Acknowledged(NamedTuple):
    """One message that was answered."""

    sent_ns: int
    answered_ns: int
    size_bytes: int
    # How long the server kept it, by the server's own clock.
    server_ns: int


class Bandwidth(NamedTuple):
    """What is known of the link at one time."""

    in_flight_bytes: int
    sent_bytes: int
    acknowledged_bytes: int
    # Over the last second: what was used, which a link that is not full can exceed.
    acknowledged_bytes_per_s: float
    # Without the time in the server; NaN before the first answer.
    round_trip_ms: float
    min_round_trip_ms: float


class BandwidthEstimator:
    """
    Acknowledgements in, figures out; every time is the robot's monotonic clock in ns.

    Only differences of the server's clock are used, so the two clocks need not agree.
    """

    def __init__(self) -> None:
        self._unanswered: dict[int, Sent] = {}
        self._recent: deque[Acknowledged] = deque()
        self._sent_bytes = 0
        self._acknowledged_bytes = 0
        self._round_trip_ns = float('nan')

    @property
    def in_flight_bytes(self) -> int:
        """Return the bytes that were sent and not yet answered."""
        return sum(sent.size_bytes for sent in self._unanswered.values())

    def oldest_sent_ns(self) -> int | None:
        """Return when the oldest unanswered message was sent; None: all are answered."""
        return min((sent.sent_ns for sent in self._unanswered.values()), default=None)

    def sent(self, sequence: int, size_bytes: int, now_ns: int) -> None:
        """Note that a message left."""
        self._unanswered[sequence] = Sent(now_ns, size_bytes)
        self._sent_bytes += size_bytes

    def answered(self, sequence: int, server_ns: int, now_ns: int) -> bool:
        """
        Note that a message was answered, after server_ns in the server.

        Return False where no such message is unanswered: it is then not counted.
        """
        sent = self._unanswered.pop(sequence, None)
        if sent is None:
            return False
        self._recent.append(Acknowledged(sent.sent_ns, now_ns, sent.size_bytes, max(0, server_ns)))
        self._acknowledged_bytes += sent.size_bytes
        self._round_trip_ns = _round_trip_ns(self._recent[-1])
        return True

    def lost(self) -> int:
        """Forget what is unanswered because its stream ended; return how many messages."""
        number = len(self._unanswered)
        self._unanswered.clear()
        return number

    def estimate(self, now_ns: int) -> Bandwidth:
        """Return the figures as of now."""
        while self._recent and self._recent[0].answered_ns < now_ns - ROUND_TRIP_WINDOW_NS:
            self._recent.popleft()
        in_window = [a for a in self._recent if a.answered_ns > now_ns - RATE_WINDOW_NS]
        round_trips_ns = [_round_trip_ns(a) for a in self._recent]
        return Bandwidth(
            in_flight_bytes=self.in_flight_bytes,
            sent_bytes=self._sent_bytes,
            acknowledged_bytes=self._acknowledged_bytes,
            acknowledged_bytes_per_s=sum(a.size_bytes for a in in_window) * 1e9 / RATE_WINDOW_NS,
            round_trip_ms=self._round_trip_ns / 1e6,
            min_round_trip_ms=min(round_trips_ns, default=float('nan')) / 1e6,
        )


def _round_trip_ns(acknowledged: Acknowledged) -> int:
    # A server whose clock runs fast must not make the round trip negative.
    elapsed_ns = acknowledged.answered_ns - acknowledged.sent_ns
    return max(0, elapsed_ns - acknowledged.server_ns)
