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
"""What a link carries, found by sending more than it needs for two seconds; pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

from ferros.bandwidth import Acknowledged, BandwidthEstimator
from ferros.sender import message_bytes

# What a burst may cost, in time and on a link that is paid for by the byte.
LONGEST_NS: Final = 2_000_000_000
MOST_BYTES: Final = 2_000_000
# HTTP/2 starts with a window of 65,535 bytes for each stream and our server keeps to it: what is
# beyond that waits in gRPC, where it says nothing of the link.
MOST_IN_FLIGHT_BYTES: Final = 60_000
LEAST_IN_FLIGHT_BYTES: Final = 1_600
# Of what is in flight at most; the more messages, the finer the measurement.
_MESSAGES: Final = 8
# More is sent at once while less than this queues.
_GROW_BELOW_NS: Final = 100_000_000
# The queue that the first messages may make, if the link is as fast as was thought.
_FIRST_QUEUE_NS: Final = 200_000_000
# The fields of a frame besides its image, at most.
_FIELDS_BYTES: Final = 100
# Of the server's frame rate: it allows a second's worth at once.
_RATE_SHARE: Final = 0.9
# By then TCP, which begins with ten segments, has grown beyond what we put in flight.
_SLOW_START_ROUND_TRIPS: Final = 3
# The link was the limit where so many messages queued behind one another for so long.
_BUSY_MESSAGES: Final = 8
_BUSY_NS: Final = 200_000_000
_BUSY_SHARE: Final = 0.6
# The server was the limit where it, or what it allows, was waited for for this share of the time.
_SERVER_SHARE: Final = 0.4
# A shorter time proves no rate: servers read several messages at a time.
_RESOLUTION_NS: Final = 100_000_000


class BurstLimits(NamedTuple):
    """What the server allows."""

    credits: int
    image_bytes: int
    frame_rate_fps: float


class Limit(Enum):
    """What kept a burst from being faster."""

    LINK = 'link'
    SERVER = 'server'
    WINDOW = 'window'
    BYTES = 'bytes'
    TIME = 'time'


class Capacity(NamedTuple):
    """What a burst found."""

    rate_bytes_per_s: float
    # Only LINK means that the link carries no more.
    limit: Limit
    sent_bytes: int
    messages: int
    seconds: float


class Burst:
    """
    Decides what is sent next, and what the answers say; every time is monotonic ns.

    As TCP does it, what is in flight doubles with each round trip until it queues.
    """

    def __init__(
        self, rate_bytes_per_s: float, round_trip_ns: float, limits: BurstLimits, now_ns: int
    ) -> None:
        """Begin with what is known of the link: a rate and its smallest round trip."""
        self._limits = limits
        self._began_ns = self._asked_ns = now_ns
        self._steady_ns = now_ns + round(_SLOW_START_ROUND_TRIPS * round_trip_ns)
        first = rate_bytes_per_s * (round_trip_ns + _FIRST_QUEUE_NS) / 1e9
        self._window_bytes = min(max(first, LEAST_IN_FLIGHT_BYTES), MOST_IN_FLIGHT_BYTES)
        self._estimator = BandwidthEstimator()
        self._sent: dict[int, int] = {}
        self._sent_bytes = 0
        self._messages = 0
        self._answered: list[Acknowledged] = []
        # How long each was in the server.
        self._served_ns: list[int] = []
        self._waited_ns: Counter[Limit] = Counter()

    @property
    def in_flight(self) -> int:
        """Return how many messages are unanswered."""
        return len(self._sent)

    def is_over(self, now_ns: int) -> bool:
        """Tell whether nothing more is to be sent."""
        next_bytes = message_bytes(self._image_bytes() + _FIELDS_BYTES)
        return (
            now_ns - self._began_ns >= LONGEST_NS or self._sent_bytes + next_bytes > MOST_BYTES
        )

    def next_bytes(self, now_ns: int) -> int | None:
        """Return the length of the image to send now; None: none before something is answered."""
        limit = self._limited_by(now_ns)
        if limit is not None:
            self._waited_ns[limit] += now_ns - self._asked_ns
        self._asked_ns = now_ns
        return None if limit is not None else self._image_bytes()

    def sent(self, sequence: int, size_bytes: int, now_ns: int) -> None:
        """Note that a message of that many bytes, headers included, was handed over."""
        self._sent[sequence] = size_bytes
        self._sent_bytes += size_bytes
        self._messages += 1
        self._estimator.sent(sequence, size_bytes, now_ns)

    def answered(self, sequence: int, received_ns: int, server_ns: int, now_ns: int) -> None:
        """Note an answer; received_ns is the server's clock, server_ns the time in it."""
        message = self._estimator.answered(sequence, received_ns, server_ns, now_ns)
        if message is None:
            return
        del self._sent[sequence]
        self._answered.append(message)
        self._served_ns.append(server_ns)
        if message.queue_ns < _GROW_BELOW_NS:
            self._window_bytes = min(
                self._window_bytes + message.size_bytes, MOST_IN_FLIGHT_BYTES
            )

    def capacity(self) -> Capacity | None:
        """Return what was found; None: too few answers to tell."""
        if len(self._answered) < 2:
            return None
        first, last = self._answered[0], self._answered[-1]
        rate = _link_bytes_per_s([m for m in self._answered if m.sent_ns >= self._steady_ns])
        limit = Limit.LINK if rate is not None else self._other_limit()
        return Capacity(
            rate_bytes_per_s=_proved_bytes_per_s(self._answered) if rate is None else rate,
            limit=limit,
            sent_bytes=self._sent_bytes,
            messages=self._messages,
            seconds=(last.answered_ns - first.sent_ns) / 1e9,
        )

    def _image_bytes(self) -> int:
        return min(round(self._window_bytes / _MESSAGES), self._limits.image_bytes)

    def _limited_by(self, now_ns: int) -> Limit | None:
        elapsed_s = (now_ns - self._began_ns) / 1e9
        if len(self._sent) >= self._limits.credits:
            return Limit.SERVER
        if self._messages + 1 > _RATE_SHARE * self._limits.frame_rate_fps * (1 + elapsed_s):
            return Limit.SERVER
        in_flight_bytes = sum(self._sent.values())
        if self._sent and in_flight_bytes + self._image_bytes() > self._window_bytes:
            return Limit.WINDOW
        return None

    def _other_limit(self) -> Limit:
        waited_ns = sum(self._waited_ns.values())
        unanswered_ns = sum(m.answered_ns - m.sent_ns for m in self._answered)
        if (
            self._waited_ns[Limit.SERVER] > _SERVER_SHARE * waited_ns
            or sum(self._served_ns) > _SERVER_SHARE * unanswered_ns
        ):
            return Limit.SERVER
        if self._sent_bytes > 0.9 * MOST_BYTES:
            return Limit.BYTES
        is_full = self._window_bytes >= MOST_IN_FLIGHT_BYTES
        return Limit.WINDOW if is_full else Limit.TIME


def _link_bytes_per_s(messages: Sequence[Acknowledged]) -> float | None:
    """Return the rate at which messages that queued arrived; None: the link was not full."""
    if sum(message.is_busy for message in messages) < _BUSY_SHARE * len(messages):
        return None
    queued = [
        (message.size_bytes, message.received_ns - previous.received_ns)
        for previous, message in itertools.pairwise(messages)
        if message.is_busy
    ]
    busy_ns = sum(gap_ns for _, gap_ns in queued)
    if len(queued) < _BUSY_MESSAGES or busy_ns < _BUSY_NS:
        return None
    return sum(size_bytes for size_bytes, _ in queued) * 1e9 / busy_ns


def _proved_bytes_per_s(messages: Sequence[Acknowledged]) -> float:
    """Return the highest rate at which a row of messages arrived: the link carries as much."""
    best = 0.0
    for start, first in enumerate(messages):
        row_bytes = 0
        for last in messages[start + 1 :]:
            row_bytes += last.size_bytes
            span_ns = max(
                last.received_ns - first.received_ns,
                last.answered_ns - first.answered_ns,
                last.sent_ns - first.sent_ns,
                _RESOLUTION_NS,
            )
            best = max(best, row_bytes * 1e9 / span_ns)
    return best
