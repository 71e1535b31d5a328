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
"""Tests of how the time of a batch is told from its size."""

from __future__ import annotations

import random

import pytest

from cloud_server.batch_times import BatchTimes

MS = 1_000_000


def times_of(*batches: tuple[int, float]) -> BatchTimes:
    times = BatchTimes()
    for size, busy_ms in batches:
        times.add(size, round(busy_ms * MS))
    return times


def test_nothing_is_known_before_the_first_batch():
    times = BatchTimes()
    assert not times
    assert times.time_ns(8) == 0


def test_one_size_alone_promises_no_gain_from_larger_batches():
    times = times_of(*[(1, 2.0)] * 10)
    assert times.time_ns(1) == pytest.approx(2 * MS, rel=0.01)
    assert times.time_ns(10) == pytest.approx(20 * MS, rel=0.01)
    assert times.largest_within(25 * MS) == 12


def test_several_sizes_tell_the_fixed_part_from_that_of_each_item():
    rng = random.Random(1)
    sizes = [rng.randint(1, 20) for _ in range(100)]
    times = times_of(*((size, 3 + 1.5 * size + rng.uniform(-0.2, 0.2)) for size in sizes))
    assert times.time_ns(1) == pytest.approx(4.5 * MS, rel=0.1)
    assert times.time_ns(20) == pytest.approx(33 * MS, rel=0.03)
    assert times.largest_within(24 * MS) in (13, 14)


def test_a_slower_machine_is_believed_after_some_batches():
    times = times_of(*[(4, 8.0)] * 200, *[(4, 16.0)] * 40)
    assert times.time_ns(4) == pytest.approx(16 * MS, rel=0.05)


def test_a_thousand_batches_of_one_size_do_not_make_the_others_forgotten():
    """An encoder that takes 50 ms whatever the size, as a GPU does for small batches."""
    times = times_of((1, 50.0), (2, 50.0), (4, 50.0), *[(8, 50.0)] * 1000)
    assert times.time_ns(1) == pytest.approx(45 * MS, rel=0.15)
    assert times.largest_within(75 * MS) >= 16


@pytest.mark.parametrize(
    'batches', [((1, 10.0), (20, 1.0)), ((1, 0.0), (2, 0.0)), ((5, 1.0), (5, 9.0), (6, 0.1))]
)
def test_times_that_fit_no_line_still_give_positive_times_that_grow(batches):
    times = times_of(*batches)
    assert 0 < times.time_ns(1) < times.time_ns(2) < times.time_ns(100)
    assert times.largest_within(1) == 1
