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
"""One direction of an emulated link: loss, a drop-tail queue, a schedule, a delay; pure."""

from __future__ import annotations

import random
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from bench.link import capacity
from bench.link.capacity import NS_PER_MS, Interval, Schedule

BIN_NS = 100 * NS_PER_MS
MTU_BYTES = 1500
QUEUE_BYTES = 150_000


class _Packet(NamedTuple):
    left_ns: int
    packet: bytes


@dataclass(frozen=True)
class Bins:
    """What a pipe did per 100 ms since time 0; an entry per bin, bytes."""

    capacity_bytes: list[int]
    delivered_bytes: list[int]  # At the moment a packet leaves the queue, as the capacity is.
    queue_bytes: list[int]  # The largest queue within the bin.


class Pipe:
    """
    Takes packets at one end and gives them back, later or not at all, at the other.

    A packet is first lost or not, then waits in the queue, leaves it when the schedule has
    delivered all of its bytes, and arrives the delay later. When it leaves is known as soon as
    it comes: nothing overtakes in a drop-tail queue. Times are ns since the schedule's time 0
    and never go back.

    Args:
        schedule: when the link delivers how much.
        delay_ns: one-way propagation, 0 or more.
        queue_bytes: bound of what waits, the packet in service with all its bytes among it.
        loss: probability of each packet to be lost before it reaches the queue, 0 to below 1.
        outages: (start_ns, length_ns) of each: nothing is delivered, and the queue is kept.
        seed: of the loss; the same packets are lost each time.

    Raises:
        ValueError: naming the argument that is out of range.
    """

    def __init__(
        self,
        schedule: Schedule,
        delay_ns: int,
        queue_bytes: int = QUEUE_BYTES,
        loss: float = 0.0,
        outages: Sequence[Interval] = (),
        seed: int = 0,
    ) -> None:
        if delay_ns < 0:
            raise ValueError(f'delay_ns {delay_ns}: expected 0 or more')
        if queue_bytes < MTU_BYTES:
            raise ValueError(f'queue_bytes {queue_bytes}: expected {MTU_BYTES} (a packet) or more')
        if not 0 <= loss < 1:
            raise ValueError(f'loss {loss}: expected 0 to below 1')
        self.schedule = schedule.with_outages(outages)
        self.delay_ns = delay_ns
        self.drops = {'loss': 0, 'queue': 0}
        self.late_ns = array('q')  # How late each packet was fetched with pop, in order.
        self._bound_bytes = queue_bytes
        self._loss = loss
        self._seed = seed
        self._random = random.Random(seed)
        self._waiting: deque[_Packet] = deque()
        self._flying: deque[_Packet] = deque()
        self._queued_bytes = 0
        self._used_bytes = 0.0
        self._delivered_bins: list[int] = []
        self._queue_bins: list[int] = []

    def to_json(self) -> dict[str, Any]:
        """Return what from_json() makes a pipe like this one of, that nothing went through yet."""
        return {
            'schedule': self.schedule.to_json(), 'delay_ns': self.delay_ns,
            'queue_bytes': self._bound_bytes, 'loss': self._loss, 'seed': self._seed,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Pipe:
        """Return the pipe whose to_json() gave this."""
        return cls(**{**document, 'schedule': capacity.from_json(document['schedule'])})

    def push(self, packet: bytes, now_ns: int) -> bool:
        """Take a packet in; return False where it is dropped, which is counted with the reason."""
        self._leave(now_ns)
        if self._loss and self._random.random() < self._loss:
            self.drops['loss'] += 1
            return False
        if self._queued_bytes + len(packet) > self._bound_bytes:
            self.drops['queue'] += 1
            return False
        left_ns, self._used_bytes = self.schedule.deliver(len(packet), now_ns, self._used_bytes)
        self._waiting.append(_Packet(left_ns, packet))
        self._queued_bytes += len(packet)
        self._note_queue(now_ns)
        return True

    def pop(self, now_ns: int) -> list[bytes]:
        """Return the packets that arrived by now and were not fetched yet, in order."""
        self._leave(now_ns)
        arrived = []
        while self._flying and self._flying[0].left_ns + self.delay_ns <= now_ns:
            left_ns, packet = self._flying.popleft()
            self.late_ns.append(now_ns - left_ns - self.delay_ns)
            arrived.append(packet)
        return arrived

    def next_ns(self) -> int | None:
        """Return when the next packet arrives; None: there is none on the way."""
        on_the_way = self._flying or self._waiting
        return on_the_way[0].left_ns + self.delay_ns if on_the_way else None

    @property
    def queued_bytes(self) -> int:
        """What waited at the time of the last call, bytes."""
        return self._queued_bytes

    def bins(self, until_ns: int) -> Bins:
        """Return what happened from time 0 to a time that has come, the last bin in part."""
        self._leave(until_ns)
        count = -(-until_ns // BIN_NS)
        ends_ns = [min(i * BIN_NS, until_ns) for i in range(count + 1)]
        # Rounded sums, so that the bins add up to the whole.
        sums = [round(self.schedule.bytes_before(end_ns)) for end_ns in ends_ns]
        return Bins(
            [after - before for before, after in pairwise(sums)],
            self._delivered_bins[:count],
            self._queue_bins[:count],
        )

    def _leave(self, now_ns: int) -> None:
        """Move what has left the queue by now on to its flight."""
        while self._waiting and self._waiting[0].left_ns <= now_ns:
            item = self._waiting.popleft()
            self._note_queue(item.left_ns)
            self._flying.append(item)
            self._queued_bytes -= len(item.packet)
            self._delivered_bins[item.left_ns // BIN_NS] += len(item.packet)
        self._note_queue(now_ns)

    def _note_queue(self, now_ns: int) -> None:
        """Keep the largest queue of each bin up to now."""
        missing = now_ns // BIN_NS + 1 - len(self._queue_bins)
        self._queue_bins.extend([self._queued_bytes] * missing)
        self._delivered_bins.extend([0] * missing)
        self._queue_bins[-1] = max(self._queue_bins[-1], self._queued_bytes)
