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
"""
The micro-batcher: gathers items of many senders into batches; knows neither gRPC nor a model.

A batch leaves at once while a slot is free; while all are busy, items gather. So batches grow with
the load, and an idle server answers without any timer in the way. Items of one key keep their
order, and a batch holds at most one of them, because the next depends on the result of the one
before. No batch is larger than what is computed in a set time, and no more waits than what is
served in another: a server that is full says so at once instead of getting slow. The room is
shared: when it is full, the sender that holds most of it gives way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from cloud_server.batch_times import BatchTimes

NS_PER_S = 1_000_000_000
# A batch may always take this much longer than one item alone.
MUCH_LONGER = 1.5
# Two are always tried: from one alone nobody learns what a larger batch would take.
SMALLEST_LIMIT = 2
# The faces of one picture come together. So many may wait on a server however slow, as long as
# they can begin before their deadline: that is no sign of too many robots.
BURST = 8
# So many of the last items that were computed tell who was served most.
SERVED_MEMORY = 256

Item = TypeVar('Item')
Result = TypeVar('Result')

log = logging.getLogger(__name__)


class BatchError(Exception):
    """
    An item that got no result.

    BatchError
    +-- QueueFullError      too many are waiting; refused at once
    +-- ExpiredError        waited beyond its deadline; not computed
    +-- ComputeError        the computation of its batch failed
    """


class QueueFullError(BatchError):
    """Too many items are waiting."""

    def __init__(self, service_rate_hz: float) -> None:
        super().__init__('the server is full')
        # Items per second that are being served; 0 if nothing was measured yet.
        self.service_rate_hz = service_rate_hz


class ExpiredError(BatchError):
    """The item waited beyond its deadline."""

    def __init__(self, waited_ms: int) -> None:
        super().__init__(f'waited {waited_ms} ms')


class ComputeError(BatchError):
    """The computation of the item's batch failed; its cause is in the log."""


@dataclass(eq=False)
class Entry(Generic[Item]):
    """An item that waits."""

    key: Hashable
    # Whose item it is: senders share the room.
    sender: Hashable
    item: Item
    arrived_ns: int
    deadline_ns: int


@dataclass(frozen=True)
class Taken(Generic[Item]):
    """What leaves the queue at one moment."""

    batch: list[Entry[Item]]
    expired: list[Entry[Item]]


@dataclass(frozen=True)
class QueueLimits:
    """How much is computed and waits at one time; raises ValueError for what is below 1."""

    # Items in one batch at most.
    max_batch: int
    # Items that wait at most.
    max_queue: int
    # Batches that are computed at one time.
    slots: int = 1
    # A batch is kept so small that it takes no longer than this, by what was measured, or than
    # half as long again as one item alone.
    max_batch_ns: int = 3600 * NS_PER_S
    # No more waits than what is served in this time, by what was measured.
    max_queue_ns: int = 3600 * NS_PER_S
    # Within it the items of a burst have to begin; no burst waits longer.
    max_wait_ns: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f'{name} is {value}, expected at least 1')


class BatchQueue(Generic[Item]):
    """Decides which items leave together, and when. Pure: no clock, no thread, no future."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._free_slots = limits.slots
        # A dict as an ordered set: entries leave from anywhere in it.
        self._waiting: dict[Entry[Item], None] = {}
        self._waiting_of: Counter[Hashable] = Counter()
        self._busy_keys: set[Hashable] = set()
        # Items of each sender among about the last SERVED_MEMORY that were computed.
        self._served_of: Counter[Hashable] = Counter()
        self._times = BatchTimes()
        # What follows from the times; before any was measured the limits in numbers hold alone.
        self._batch_limit = limits.max_batch
        self._room = limits.max_queue
        self._service_rate_hz = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def batch_limit(self) -> int:
        """Return how many items the next batch may hold."""
        return self._batch_limit

    @property
    def room(self) -> int:
        """Return how many items may wait."""
        return self._room

    @property
    def service_rate_hz(self) -> float:
        """Return the items per second that full slots serve; 0 if nothing was measured yet."""
        return self._service_rate_hz

    def offer(self, entry: Entry[Item]) -> Entry[Item] | None:
        """
        Let an entry wait.

        Returns:
            The entry there was no room for: this one, or the newest of the sender that has most,
            if that is more than this sender has. What a sender was served lately counts like what
            waits: else, where there is less room than senders, the one that is quickest to fill a
            place that becomes free would have them all. None: there was room.

        """
        refused = None
        if len(self._waiting) >= self._room:
            greediest = max(self._waiting_of, key=self._use_of)
            if self._use_of(greediest) <= self._use_of(entry.sender) + 1:
                return entry
            refused = next(old for old in reversed(self._waiting) if old.sender == greediest)
            self.discard(refused)
        self._waiting[entry] = None
        self._waiting_of[entry.sender] += 1
        return refused

    def discard(self, entry: Entry[Item]) -> None:
        """Take out an entry that nobody waits for any more; one that is not there is no error."""
        if entry not in self._waiting:
            return
        del self._waiting[entry]
        self._waiting_of[entry.sender] -= 1
        if not self._waiting_of[entry.sender]:
            del self._waiting_of[entry.sender]

    def take(self, now_ns: int) -> Taken[Item]:
        """
        Take the oldest entries that may be computed now, and those met on the way that expired.

        Both are empty while no slot is free. A batch that is not empty occupies a slot and its
        keys until `finish`.
        """
        batch: list[Entry[Item]] = []
        expired: list[Entry[Item]] = []
        if self._free_slots == 0:
            return Taken(batch, expired)
        for entry in self._waiting:
            if entry.deadline_ns < now_ns:
                expired.append(entry)
            elif entry.key not in self._busy_keys:
                self._busy_keys.add(entry.key)
                batch.append(entry)
                if len(batch) == self._batch_limit:
                    break
        for entry in (*batch, *expired):
            self.discard(entry)
        if batch:
            self._free_slots -= 1
            self._count_served(batch)
        return Taken(batch, expired)

    def finish(
        self, batch: Sequence[Entry[Item]], busy_ns: int | None, computed: int | None = None
    ) -> None:
        """
        Free the slot and the keys of a batch.

        Args:
            batch: as `take` gave it.
            busy_ns: how long it took; None if it failed.
            computed: how many of its items were computed; None: all. Items that fail on the way
                to the model cost hardly anything, and are no measure of its rate.

        """
        self._free_slots += 1
        self._busy_keys.difference_update(entry.key for entry in batch)
        size = len(batch) if computed is None else computed
        if busy_ns is not None and size:
            self._times.add(size, busy_ns)
            self._adapt()

    def _use_of(self, sender: Hashable) -> int:
        """Return how much of the server a sender has: items that wait, or were computed lately."""
        return self._waiting_of.get(sender, 0) + self._served_of.get(sender, 0)

    def _count_served(self, batch: Sequence[Entry[Item]]) -> None:
        self._served_of.update(entry.sender for entry in batch)
        if self._served_of.total() > 2 * SERVED_MEMORY:
            halves = {sender: count // 2 for sender, count in self._served_of.items()}
            self._served_of = Counter({s: count for s, count in halves.items() if count})

    def _adapt(self) -> None:
        limits = self._limits
        # Where the fixed part of a batch is the larger one, more items cost hardly any time.
        limit_ns = max(limits.max_batch_ns, round(MUCH_LONGER * self._times.time_ns(1)))
        size = max(SMALLEST_LIMIT, self._times.largest_within(limit_ns))
        size = min(limits.max_batch, size)
        self._batch_limit = size
        self._service_rate_hz = limits.slots * size * NS_PER_S / self._times.time_ns(size)
        in_time = int(self._service_rate_hz * limits.max_queue_ns / NS_PER_S)
        of_burst = min(BURST, int(self._service_rate_hz * limits.max_wait_ns / NS_PER_S))
        self._room = min(limits.max_queue, max(1, in_time, of_burst))


class BatchReport(NamedTuple):
    """One batch that was computed."""

    # How long each of its items had waited.
    waited_ns: list[int]
    # How long it was computed.
    busy_ns: int


class Batcher(Generic[Item, Result]):
    """Runs a BatchQueue on the event loop and its batches in worker threads."""

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        limits: QueueLimits,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        on_batch: Callable[[BatchReport], None] = lambda report: None,
    ) -> None:
        """
        Create a batcher; use it on one event loop.

        Args:
            compute: called in worker threads with the items of a batch; returns one result for
                each, in their order. An exception among them is raised to that item's submitter
                alone.
            limits: of the queue; a thread computes in each slot.
            clock_ns: the clock of the deadlines.
            on_batch: called on the event loop with what each computed batch took.

        """
        self._compute = compute
        self._clock_ns = clock_ns
        self._on_batch = on_batch
        self._queue: BatchQueue[Item] = BatchQueue(limits)
        self._futures: dict[Entry[Item], asyncio.Future[Result]] = {}
        self._workers = ThreadPoolExecutor(limits.slots, thread_name_prefix='batch')
        # Batches that are being computed.
        self._running: set[asyncio.Future[Sequence[Result | Exception]]] = set()
        self._pump_is_due = False
        self._failed_before = False
        self._is_closed = False

    @property
    def service_rate_hz(self) -> float:
        """Return the items per second that full slots serve; 0 if nothing was measured yet."""
        return self._queue.service_rate_hz

    @property
    def waiting(self) -> int:
        """Return how many items wait."""
        return len(self._queue)

    def submit(
        self, key: Hashable, sender: Hashable, item: Item, deadline_ns: int
    ) -> asyncio.Future[Result]:
        """
        Let an item be computed; await the result, or cancel it.

        Args:
            key: items of one key are computed one after the other, in the order of submission.
            sender: whose item it is; where there is no room, the sender with most of it gives way.
            item: what compute gets.
            deadline_ns: an item whose computation has not begun by then is not computed.

        Returns:
            A future of the result; it raises QueueFullError, ExpiredError, ComputeError, or the
            exception that compute returned for this item.

        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        entry = Entry(key, sender, item, self._clock_ns(), deadline_ns)
        self._futures[entry] = future
        refused = self._queue.offer(entry)
        if refused is not None:
            self._fail(refused, QueueFullError(self._queue.service_rate_hz))
        future.add_done_callback(lambda _: self._settled(entry))
        if not self._pump_is_due:
            # Not at once: what arrived in the same turn of the loop leaves in the same batch.
            self._pump_is_due = True
            loop.call_soon(self._pump)
        return future

    async def close(self, timeout_s: float | None = None) -> bool:
        """
        Cancel what waits, wait for what is being computed and let the threads go.

        Returns:
            False if a batch is still being computed after the time; its thread is left behind, and
            the process cannot end by itself before it does.

        """
        self._is_closed = True
        for future in list(self._futures.values()):
            future.cancel()
        if self._running:
            await asyncio.wait(set(self._running), timeout=timeout_s)
        is_done = not self._running
        self._workers.shutdown(wait=is_done)
        return is_done

    def _settled(self, entry: Entry[Item]) -> None:
        self._futures.pop(entry, None)
        self._queue.discard(entry)

    def _pump(self) -> None:
        self._pump_is_due = False
        while not self._is_closed:
            now_ns = self._clock_ns()
            taken = self._queue.take(now_ns)
            for entry in taken.expired:
                waited_ms = (now_ns - entry.arrived_ns) // 1_000_000
                self._fail(entry, ExpiredError(waited_ms))
            if not taken.batch:
                return
            self._start(taken.batch, now_ns)

    def _start(self, batch: list[Entry[Item]], now_ns: int) -> None:
        items = [entry.item for entry in batch]
        loop = asyncio.get_running_loop()
        try:
            running = loop.run_in_executor(self._workers, self._results, items)
        except RuntimeError as error:
            # No thread can be had; the next batch may get one.
            self._give_up(batch, error)
            return
        self._running.add(running)
        running.add_done_callback(lambda done: self._finished(batch, now_ns, done))

    def _results(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        try:
            results = self._compute(items)
        except StopIteration as error:
            # A future cannot hold it (before Python 3.12): the batch would never be finished.
            raise RuntimeError('compute raised StopIteration') from error
        if len(results) != len(items):
            raise RuntimeError(f'compute returned {len(results)} results for {len(items)} items')
        return results

    def _finished(
        self,
        batch: list[Entry[Item]],
        started_ns: int,
        done: asyncio.Future[Sequence[Result | Exception]],
    ) -> None:
        self._running.discard(done)
        busy_ns = self._clock_ns() - started_ns
        if done.cancelled() or done.exception() is not None:
            self._give_up(batch, None if done.cancelled() else done.exception())
        else:
            computed = sum(not isinstance(result, Exception) for result in done.result())
            self._queue.finish(batch, busy_ns, computed)
            self._on_batch(
                BatchReport([started_ns - entry.arrived_ns for entry in batch], busy_ns)
            )
            self._failed_before = False
            for entry, result in zip(batch, done.result(), strict=True):
                if isinstance(result, Exception):
                    self._fail(entry, result)
                elif (future := self._futures.get(entry)) is not None and not future.done():
                    future.set_result(result)
        self._pump()

    def _give_up(self, batch: list[Entry[Item]], error: BaseException | None) -> None:
        self._queue.finish(batch, None)
        self._log_failure(error)
        for entry in batch:
            self._fail(entry, ComputeError('the model failed on this batch'))

    def _fail(self, entry: Entry[Item], error: Exception) -> None:
        future = self._futures.get(entry)
        if future is not None and not future.done():
            future.set_exception(error)

    def _log_failure(self, error: BaseException | None) -> None:
        """Log the first of a row of failures: a model that is broken fails many times a second."""
        if not self._failed_before:
            self._failed_before = True
            log.error('a batch failed', exc_info=error)
