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
from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

import pytest

from cloud_server.batch import (
    Batcher,
    BatchQueue,
    ComputeError,
    Entry,
    ExpiredError,
    QueueFullError,
    QueueLimits,
)

FOREVER = 10**18
MS = 1_000_000
UNLUCKY = 666


def entry_of(key, item, sender='robot', deadline_ns=FOREVER) -> Entry[int]:
    return Entry(key, sender, item, 0, deadline_ns)


def queue_of(*pairs: tuple[str, int], max_batch=8, max_queue=100, **limits) -> BatchQueue[int]:
    queue: BatchQueue[int] = BatchQueue(QueueLimits(max_batch, max_queue, **limits))
    for key, item in pairs:
        assert queue.offer(entry_of(key, item)) is None
    return queue


def serve(queue: BatchQueue[int], batch_size: int, busy_ns: int) -> None:
    """Let a batch of new keys pass."""
    for item in range(batch_size):
        queue.offer(entry_of(('served', item), item))
    batch = queue.take(0).batch
    assert len(batch) == batch_size
    queue.finish(batch, busy_ns)


def items(entries: Sequence[Entry[int]]) -> list[int]:
    return [entry.item for entry in entries]


def test_items_of_different_keys_leave_together_in_the_order_of_their_arrival():
    queue = queue_of(('a', 1), ('b', 2), ('c', 3))
    assert items(queue.take(0).batch) == [1, 2, 3]
    assert len(queue) == 0


def test_while_the_slot_is_busy_items_gather_and_then_leave_as_one_batch():
    queue = queue_of(('a', 1))
    first = queue.take(0).batch
    for key, item in (('b', 2), ('c', 3)):
        queue.offer(entry_of(key, item))
        assert queue.take(0).batch == []
    queue.finish(first, 1000)
    assert items(queue.take(0).batch) == [2, 3]


def test_a_batch_is_never_larger_than_the_largest():
    queue = queue_of(*((str(i), i) for i in range(5)), max_batch=2, slots=3)
    assert [items(queue.take(0).batch) for _ in range(4)] == [[0, 1], [2, 3], [4], []]


def test_a_batch_holds_one_item_of_a_key_and_a_key_keeps_its_order():
    queue = queue_of(('a', 1), ('a', 2), ('b', 3), ('a', 4))
    order = []
    for _ in range(3):
        batch = queue.take(0).batch
        order.append(items(batch))
        queue.finish(batch, 1)
    assert order == [[1, 3], [2], [4]]


def test_a_key_that_is_being_computed_waits_although_a_slot_is_free():
    queue = queue_of(('a', 1), ('a', 2), slots=2)
    first = queue.take(0).batch
    assert items(first) == [1]
    assert queue.take(0).batch == []
    queue.finish(first, 1)
    assert items(queue.take(0).batch) == [2]


def test_an_item_beyond_its_deadline_is_handed_out_as_expired_and_not_computed():
    queue = queue_of(max_queue=10)
    queue.offer(entry_of('a', 1, deadline_ns=99))
    queue.offer(entry_of('b', 2, deadline_ns=100))
    taken = queue.take(100)
    assert (items(taken.batch), items(taken.expired)) == ([2], [1])


def test_an_expired_item_does_not_hold_up_the_next_of_its_key():
    queue = queue_of()
    queue.offer(entry_of('a', 1, deadline_ns=5))
    queue.offer(entry_of('a', 2, deadline_ns=50))
    assert items(queue.take(10).batch) == [2]


def test_a_full_queue_refuses_and_takes_again_once_there_is_room():
    queue = queue_of(('a', 1), ('b', 2), max_queue=2)
    refused = entry_of('c', 3)
    assert queue.offer(refused) is refused
    queue.take(0)
    assert queue.offer(entry_of('c', 3)) is None


def test_in_a_full_queue_the_newest_of_the_sender_with_most_gives_way_to_one_with_less():
    queue = queue_of(('a', 1), ('b', 2), ('c', 3), max_queue=3)
    refused = queue.offer(entry_of('d', 4, sender='other robot'))
    assert refused is not None and refused.item == 3
    # Now it has two and the other one: one more would only turn it round.
    again = entry_of('e', 5, sender='other robot')
    assert queue.offer(again) is again
    assert items(queue.take(0).batch) == [1, 2, 4]


def test_a_queue_that_is_full_of_the_same_share_of_all_refuses_the_one_that_comes():
    queue = queue_of(max_queue=3)
    for sender in 'xyz':
        queue.offer(entry_of(sender, 0, sender=sender))
    late = entry_of('late', 1, sender='x')
    assert queue.offer(late) is late


def test_a_discarded_item_is_not_computed_and_leaves_its_room():
    queue = queue_of(('a', 1), max_queue=2)
    entry = entry_of('b', 2)
    queue.offer(entry)
    queue.discard(entry)
    assert queue.offer(entry_of('c', 3)) is None
    assert items(queue.take(0).batch) == [1, 3]


def test_the_service_rate_is_that_of_full_slots_and_follows_a_change():
    queue = queue_of(slots=2, max_batch=4)
    assert queue.service_rate_hz == 0
    serve(queue, 4, 10_000_000)
    assert queue.service_rate_hz == pytest.approx(2 * 4 / 0.01, rel=0.02)
    for _ in range(300):
        serve(queue, 4, 40_000_000)
    assert queue.service_rate_hz == pytest.approx(2 * 4 / 0.04, rel=0.03)


def test_a_batch_is_kept_so_small_that_it_takes_no_longer_than_asked_for():
    queue = queue_of(max_batch=32, max_batch_ns=25 * MS)
    assert queue.batch_limit == 32
    for size in (1, 4, 2, 8, 3):
        serve(queue, size, (3 + 2 * size) * MS)
    assert queue.batch_limit in (10, 11)
    for item in range(20):
        queue.offer(entry_of(item, item))
    assert len(queue.take(0).batch) == queue.batch_limit


def test_a_model_slower_than_the_longest_batch_computes_two_at_a_time_at_most():
    queue = queue_of(max_batch=32, max_batch_ns=25 * MS)
    serve(queue, 4, 400 * MS)
    assert queue.batch_limit == 2


def test_where_a_batch_takes_long_whatever_its_size_it_may_be_large():
    queue = queue_of(max_batch=32, max_batch_ns=25 * MS)
    limits = []
    for _ in range(5):
        limits.append(queue.batch_limit if limits else 1)
        serve(queue, limits[-1], 50 * MS)
    assert limits[:2] == [1, 2]
    assert limits[-1] == 32


def test_what_may_wait_is_what_is_served_in_the_time_of_the_queue():
    queue = queue_of(max_batch=8, max_queue=1000, max_queue_ns=100 * MS)
    assert queue.room == 1000
    serve(queue, 8, 16 * MS)
    # 500 a second.
    assert queue.room == pytest.approx(50, abs=1)
    for item in range(queue.room):
        assert queue.offer(entry_of(item, item)) is None
    one_more = entry_of('one more', 0)
    assert queue.offer(one_more) is one_more


def test_a_batch_that_failed_is_no_measure_of_the_rate():
    queue = queue_of(('a', 1))
    queue.finish(queue.take(0).batch, None)
    assert queue.service_rate_hz == 0
    assert queue.offer(entry_of('a', 2)) is None
    assert items(queue.take(0).batch) == [2]


@pytest.mark.parametrize('sizes', [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_sizes_below_one_are_refused_by_name(sizes):
    with pytest.raises(ValueError, match='is 0, expected at least 1'):
        QueueLimits(*sizes)


class Squares:
    """Computes squares; a batch waits while it is held."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)

    def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(numbers))
        self.threads.add(threading.current_thread().name)
        self.started.release()
        assert self.gate.wait(20)
        if UNLUCKY in numbers:
            raise RuntimeError('unlucky')
        return [ArithmeticError('negative') if n < 0 else n * n for n in numbers]

    async def has_started(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=20)


def batched(body, **settings):
    """Run body(batcher, compute) on an event loop."""

    async def main():
        compute = Squares()
        clock = {name: settings.pop(name) for name in ('clock_ns', 'on_batch') if name in settings}
        limits = QueueLimits(**{'max_batch': 8, 'max_queue': 8, **settings})
        batcher: Batcher[int, int] = Batcher(compute, limits, **clock)
        try:
            return await asyncio.wait_for(body(batcher, compute), 30)
        finally:
            compute.gate.set()
            await batcher.close()

    return asyncio.run(main())


def test_every_submitter_gets_its_own_result_computed_in_another_thread():
    async def body(batcher, compute):
        results = await asyncio.gather(*(batcher.submit(n, 'robot', n, FOREVER) for n in range(6)))
        assert results == [0, 1, 4, 9, 16, 25]
        assert threading.current_thread().name not in compute.threads
        # They were submitted in one turn of the loop.
        assert compute.batches == [[0, 1, 2, 3, 4, 5]]

    batched(body)


def test_an_item_that_fails_alone_does_not_touch_the_others_of_its_batch():
    async def body(batcher, compute):
        good = batcher.submit('a', 'robot', 3, FOREVER)
        bad = batcher.submit('b', 'robot', -3, FOREVER)
        with pytest.raises(ArithmeticError, match='negative'):
            await bad
        assert await good == 9
        assert compute.batches == [[3, -3]]

    batched(body)


def test_a_failed_batch_fails_all_its_items_is_logged_once_and_the_next_batch_works(caplog):
    async def body(batcher, compute):
        for _ in range(3):
            futures = [batcher.submit(n, 'robot', n, FOREVER) for n in (UNLUCKY, 2)]
            for future in futures:
                with pytest.raises(ComputeError):
                    await future
        assert await batcher.submit('a', 'robot', 4, FOREVER) == 16

    with caplog.at_level(logging.ERROR):
        batched(body)
    assert len(caplog.records) == 1
    assert 'unlucky' in str(caplog.records[0].exc_info)


def test_a_full_queue_refuses_at_once_and_names_the_rate():
    async def body(batcher, compute):
        await batcher.submit('warm', 'robot', 1, FOREVER)
        await compute.has_started()
        compute.gate.clear()
        running = batcher.submit('a', 'robot', 2, FOREVER)
        await compute.has_started()
        waiting = [batcher.submit(n, 'robot', n, FOREVER) for n in (3, 4)]
        refused = batcher.submit('b', 'robot', 5, FOREVER)
        assert refused.done()
        with pytest.raises(QueueFullError) as error:
            await refused
        assert error.value.service_rate_hz > 0
        compute.gate.set()
        assert await asyncio.gather(running, *waiting) == [4, 9, 16]

    batched(body, max_queue=2)


def test_a_sender_with_less_waiting_is_let_in_and_the_greedy_one_is_told():
    async def body(batcher, compute):
        compute.gate.clear()
        running = batcher.submit('a', 'greedy', 2, FOREVER)
        await compute.has_started()
        waiting = [batcher.submit(n, 'greedy', n, FOREVER) for n in (3, 4)]
        modest = batcher.submit('b', 'modest', 5, FOREVER)
        with pytest.raises(QueueFullError):
            await waiting[1]
        compute.gate.set()
        assert await asyncio.gather(running, waiting[0], modest) == [4, 9, 25]

    batched(body, max_queue=2)


def test_each_batch_is_reported_with_how_long_its_items_waited_and_how_long_it_took():
    now_ns = 0
    reports = []

    async def body(batcher, compute):
        nonlocal now_ns
        compute.gate.clear()
        first = batcher.submit('a', 'robot', 2, FOREVER)
        await compute.has_started()
        now_ns = 10
        second = batcher.submit('b', 'robot', 3, FOREVER)
        await asyncio.sleep(0)
        now_ns = 50
        compute.gate.set()
        await asyncio.gather(first, second)
        assert reports == [([0], 50), ([40], 0)]

    batched(body, clock_ns=lambda: now_ns, on_batch=reports.append)


def test_an_item_that_waited_too_long_expires_and_is_never_computed():
    now_ns = 0

    async def body(batcher, compute):
        nonlocal now_ns
        compute.gate.clear()
        running = batcher.submit('a', 'robot', 2, FOREVER)
        await compute.has_started()
        late = batcher.submit('b', 'robot', 3, deadline_ns=100_000_000)
        patient = batcher.submit('c', 'robot', 4, FOREVER)
        now_ns = 250_000_000
        compute.gate.set()
        with pytest.raises(ExpiredError, match='waited 250 ms'):
            await late
        assert await asyncio.gather(running, patient) == [4, 16]
        assert compute.batches == [[2], [4]]

    batched(body, clock_ns=lambda: now_ns)


def test_cancelled_submitters_do_not_break_their_batch_and_are_not_computed_if_they_wait():
    async def body(batcher, compute):
        compute.gate.clear()
        running = [batcher.submit(n, 'robot', n, FOREVER) for n in (2, 3)]
        await compute.has_started()
        waiting = [batcher.submit(n, 'robot', n, FOREVER) for n in (4, 5)]
        running[0].cancel()
        waiting[0].cancel()
        # The cancellations reach the queue in the next turn of the loop.
        await asyncio.sleep(0)
        compute.gate.set()
        assert await running[1] == 9
        assert await waiting[1] == 25
        assert compute.batches == [[2, 3], [5]]

    batched(body)


def test_items_of_one_key_are_computed_one_after_the_other_on_several_threads():
    async def body(batcher, compute):
        results = await asyncio.gather(
            *(batcher.submit(n % 3, 'robot', n, FOREVER) for n in range(60)),
        )
        assert results == [n * n for n in range(60)]
        for key in range(3):
            order = [n for batch in compute.batches for n in batch if n % 3 == key]
            assert order == sorted(order)
        assert all(len({n % 3 for n in batch}) == len(batch) for batch in compute.batches)

    batched(body, slots=3, max_queue=60)


def test_a_compute_that_loses_a_result_fails_its_batch_instead_of_mixing_up_the_others():
    async def main():
        batcher: Batcher[int, int] = Batcher(lambda numbers: [1], QueueLimits(4, 4))
        with pytest.raises(ComputeError):
            await asyncio.gather(*(batcher.submit(n, 'robot', n, FOREVER) for n in range(2)))
        await batcher.close()

    asyncio.run(main())


def test_closing_cancels_what_waits_and_waits_for_what_is_being_computed():
    async def body(batcher, compute):
        compute.gate.clear()
        running = batcher.submit('a', 'robot', 2, FOREVER)
        await compute.has_started()
        waiting = batcher.submit('b', 'robot', 3, FOREVER)
        compute.gate.set()
        await batcher.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert running.cancelled()
        assert compute.batches == [[2]]

    batched(body)
