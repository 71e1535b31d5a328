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
)

FOREVER = 10**18
UNLUCKY = 666


def queue_of(*pairs: tuple[str, int], max_batch=8, max_queue=100, slots=1) -> BatchQueue[int]:
    queue: BatchQueue[int] = BatchQueue(max_batch, max_queue, slots)
    for key, item in pairs:
        assert queue.offer(Entry(key, item, 0, FOREVER))
    return queue


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
        queue.offer(Entry(key, item, 0, FOREVER))
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
    queue.offer(Entry('a', 1, 0, deadline_ns=99))
    queue.offer(Entry('b', 2, 0, deadline_ns=100))
    taken = queue.take(100)
    assert (items(taken.batch), items(taken.expired)) == ([2], [1])


def test_an_expired_item_does_not_hold_up_the_next_of_its_key():
    queue = queue_of()
    queue.offer(Entry('a', 1, 0, deadline_ns=5))
    queue.offer(Entry('a', 2, 0, deadline_ns=50))
    assert items(queue.take(10).batch) == [2]


def test_a_full_queue_refuses_and_takes_again_once_there_is_room():
    queue = queue_of(('a', 1), ('b', 2), max_queue=2)
    assert not queue.offer(Entry('c', 3, 0, FOREVER))
    queue.take(0)
    assert queue.offer(Entry('c', 3, 0, FOREVER))


def test_a_discarded_item_is_not_computed_and_leaves_its_room():
    queue = queue_of(('a', 1), max_queue=2)
    entry = Entry('b', 2, 0, FOREVER)
    queue.offer(entry)
    queue.discard(entry)
    assert queue.offer(Entry('c', 3, 0, FOREVER))
    assert items(queue.take(0).batch) == [1, 3]


def test_the_service_rate_is_that_of_full_slots_and_follows_a_change():
    queue = queue_of(slots=2)
    assert queue.service_rate_hz == 0

    def serve(batch_size: int, busy_ns: int) -> None:
        for item in range(batch_size):
            queue.offer(Entry(item, item, 0, FOREVER))
        queue.finish(queue.take(0).batch, busy_ns)

    serve(4, 10_000_000)
    assert queue.service_rate_hz == pytest.approx(2 * 4 / 0.01)
    for _ in range(60):
        serve(4, 40_000_000)
    assert queue.service_rate_hz == pytest.approx(2 * 4 / 0.04, rel=0.01)


@pytest.mark.parametrize('sizes', [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_sizes_below_one_are_refused_by_name(sizes):
    with pytest.raises(ValueError, match='is 0, expected at least 1'):
        BatchQueue(*sizes)


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
        batcher: Batcher[int, int] = Batcher(
            compute, **{'max_batch': 8, 'max_queue': 8, **settings}
        )
        try:
            return await asyncio.wait_for(body(batcher, compute), 30)
        finally:
            compute.gate.set()
            await batcher.close()

    return asyncio.run(main())


def test_every_submitter_gets_its_own_result_computed_in_another_thread():
    async def body(batcher, compute):
        results = await asyncio.gather(*(batcher.submit(n, n, FOREVER) for n in range(6)))
        assert results == [0, 1, 4, 9, 16, 25]
        assert threading.current_thread().name not in compute.threads
        # They were submitted in one turn of the loop.
        assert compute.batches == [[0, 1, 2, 3, 4, 5]]

    batched(body)


def test_an_item_that_fails_alone_does_not_touch_the_others_of_its_batch():
    async def body(batcher, compute):
        good, bad = batcher.submit('a', 3, FOREVER), batcher.submit('b', -3, FOREVER)
        with pytest.raises(ArithmeticError, match='negative'):
            await bad
        assert await good == 9
        assert compute.batches == [[3, -3]]

    batched(body)


def test_a_failed_batch_fails_all_its_items_is_logged_once_and_the_next_batch_works(caplog):
    async def body(batcher, compute):
        for _ in range(3):
            futures = [batcher.submit(n, n, FOREVER) for n in (UNLUCKY, 2)]
            for future in futures:
                with pytest.raises(ComputeError):
                    await future
        assert await batcher.submit('a', 4, FOREVER) == 16

    with caplog.at_level(logging.ERROR):
        batched(body)
    assert len(caplog.records) == 1
    assert 'unlucky' in str(caplog.records[0].exc_info)


def test_a_full_queue_refuses_at_once_and_names_the_rate():
    async def body(batcher, compute):
        await batcher.submit('warm', 1, FOREVER)
        await compute.has_started()
        compute.gate.clear()
        running = batcher.submit('a', 2, FOREVER)
        await compute.has_started()
        waiting = [batcher.submit(n, n, FOREVER) for n in (3, 4)]
        refused = batcher.submit('b', 5, FOREVER)
        assert refused.done()
        with pytest.raises(QueueFullError) as error:
            await refused
        assert error.value.service_rate_hz > 0
        compute.gate.set()
        assert await asyncio.gather(running, *waiting) == [4, 9, 16]

    batched(body, max_queue=2)


def test_an_item_that_waited_too_long_expires_and_is_never_computed():
    now_ns = 0

    async def body(batcher, compute):
        nonlocal now_ns
        compute.gate.clear()
        running = batcher.submit('a', 2, FOREVER)
        await compute.has_started()
        late = batcher.submit('b', 3, deadline_ns=100_000_000)
        patient = batcher.submit('c', 4, FOREVER)
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
        running = [batcher.submit(n, n, FOREVER) for n in (2, 3)]
        await compute.has_started()
        waiting = [batcher.submit(n, n, FOREVER) for n in (4, 5)]
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
            *(batcher.submit(n % 3, n, FOREVER) for n in range(60)),
        )
        assert results == [n * n for n in range(60)]
        for key in range(3):
            order = [n for batch in compute.batches for n in batch if n % 3 == key]
            assert order == sorted(order)
        assert all(len({n % 3 for n in batch}) == len(batch) for batch in compute.batches)

    batched(body, slots=3, max_queue=60)


def test_a_compute_that_loses_a_result_fails_its_batch_instead_of_mixing_up_the_others():
    async def main():
        batcher: Batcher[int, int] = Batcher(lambda numbers: [1], max_batch=4, max_queue=4)
        with pytest.raises(ComputeError):
            await asyncio.gather(batcher.submit('a', 1, FOREVER), batcher.submit('b', 2, FOREVER))
        await batcher.close()

    asyncio.run(main())


def test_closing_cancels_what_waits_and_waits_for_what_is_being_computed():
    async def body(batcher, compute):
        compute.gate.clear()
        running = batcher.submit('a', 2, FOREVER)
        await compute.has_started()
        waiting = batcher.submit('b', 3, FOREVER)
        compute.gate.set()
        await batcher.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert running.cancelled()
        assert compute.batches == [[2]]

    batched(body)
