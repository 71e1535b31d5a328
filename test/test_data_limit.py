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

import itertools
import math
import random

import pytest

from ferros.data_limit import BURST_S, DataLimit

S = 1_000_000_000


def greedy(
    limit: DataLimit, noise: random.Random, until_ns: int, longest_bytes: int
) -> list[tuple[int, int]]:
    """Use as much as is allowed, with pauses; return the time and size of each use."""
    used, now_ns = [], 0
    while now_ns < until_ns:
        wait_ns = limit.wait_ns(now_ns)
        if not wait_ns:
            size_bytes = noise.randint(1, longest_bytes)
            limit.use(size_bytes)
            used.append((now_ns, size_bytes))
            wait_ns = noise.choice([0, 0, 1, 10_000_000])
        # Now and then nobody asks for a long time.
        now_ns += wait_ns + noise.choice([0] * 50 + [5 * S])
    return used


@pytest.mark.parametrize('limit_bytes_per_s', [139.0, 8_000.0, 1e6])
@pytest.mark.parametrize('seed', range(5))
def test_over_any_time_the_use_is_within_the_limit_two_seconds_and_a_message(
    limit_bytes_per_s: float, seed: int
) -> None:
    longest_bytes = round(limit_bytes_per_s * 0.3)
    used = greedy(
        DataLimit(limit_bytes_per_s, 0), random.Random(seed), 60 * S, longest_bytes
    )
    assert len(used) > 100
    sums = [0, *itertools.accumulate(size for _, size in used)]
    for first, last in itertools.combinations_with_replacement(range(len(used)), 2):
        elapsed_s = (used[last][0] - used[first][0]) / 1e9
        allowed = limit_bytes_per_s * (elapsed_s + BURST_S) + longest_bytes
        assert sums[last + 1] - sums[first] <= allowed * (1 + 1e-9)


def test_who_uses_all_that_is_allowed_reaches_the_limit() -> None:
    limit, used_bytes, now_ns = DataLimit(1000.0, 0), 0, 0
    while now_ns < 100 * S:
        now_ns += limit.wait_ns(now_ns)
        limit.use(300)
        used_bytes += 300
    assert used_bytes == pytest.approx(100 * 1000 + 2000, rel=0.01)


def test_the_wait_is_as_long_as_it_says_and_no_longer() -> None:
    limit = DataLimit(1000.0, 0)
    limit.use(2500)
    wait_ns = limit.wait_ns(0)
    assert wait_ns == S // 2
    assert limit.wait_ns(wait_ns - 1_000_000) > 0
    assert limit.wait_ns(wait_ns) == 0


def test_a_pause_saves_up_no_more_than_two_seconds() -> None:
    limit = DataLimit(1000.0, 0)
    assert limit.wait_ns(10_000 * S) == 0
    limit.use(2000)
    assert limit.wait_ns(10_000 * S) == 0
    limit.use(1)
    assert limit.wait_ns(10_000 * S) > 0


def test_time_that_runs_backwards_gives_nothing_twice() -> None:
    limit = DataLimit(1000.0, 10 * S)
    limit.use(4000)
    wait_ns = limit.wait_ns(11 * S)
    for now_ns in (5 * S, 0, -(10**18), 11 * S):
        assert limit.wait_ns(now_ns) == wait_ns
    assert limit.wait_ns(11 * S + wait_ns) == 0


def test_without_a_limit_nobody_waits() -> None:
    limit = DataLimit(math.inf, 0)
    for now_ns in (0, 0, S, -S):
        limit.use(10**12)
        assert limit.wait_ns(now_ns) == 0
    assert limit.limit_bytes_per_s == math.inf


@pytest.mark.parametrize('seed', range(5))
def test_limits_that_change_hold_from_then_on(seed: int) -> None:
    """Over any time what is used is within the limits of that time, and a burst and a message."""
    noise = random.Random(seed)
    limit_bytes_per_s = 1000.0
    limit, used, limits = DataLimit(limit_bytes_per_s, 0), [], [(0, limit_bytes_per_s)]
    now_ns = 0
    while now_ns < 60 * S:
        if noise.random() < 0.02:
            limit_bytes_per_s = noise.choice([200.0, 1000.0, 5000.0])
            limit.change(limit_bytes_per_s, now_ns)
            limits.append((now_ns, limit_bytes_per_s))
        wait_ns = min(limit.wait_ns(now_ns), S // 10)
        if not wait_ns:
            used.append((now_ns, noise.randint(1, 300)))
            limit.use(used[-1][1])
        now_ns += wait_ns + 1_000_000

    def allowed(from_ns: int, to_ns: int) -> float:
        ends = [at_ns for at_ns, _ in limits[1:]] + [now_ns]
        return sum(
            rate * max(0, min(end, to_ns) - max(begin, from_ns)) / 1e9
            for (begin, rate), end in zip(limits, ends, strict=True)
        )

    most = max(rate for _, rate in limits) * BURST_S + 300
    for first in range(0, len(used), 7):
        total = 0
        for at_ns, size_bytes in used[first:]:
            total += size_bytes
            assert total <= allowed(used[first][0], at_ns) + most


def test_what_was_overdrawn_is_owed_under_another_limit_too() -> None:
    limit = DataLimit(1000.0, 0)
    limit.use(4000)
    limit.change(500.0, 0)
    assert limit.limit_bytes_per_s == 500.0
    assert limit.wait_ns(0) == 4 * S
    limit.change(2000.0, S)
    # 500 bytes of the 2000 were paid in that second.
    assert limit.wait_ns(S) == 3 * S // 4


def test_no_more_is_left_than_a_lower_limit_saves_up() -> None:
    limit = DataLimit(10_000.0, 0)
    limit.change(100.0, 0)
    limit.use(200)
    assert limit.wait_ns(0) == 0
    limit.use(10)
    assert limit.wait_ns(0) == S // 10


def test_a_limit_can_come_and_go() -> None:
    limit = DataLimit(math.inf, 0)
    limit.use(10**9)
    # What was used while there was none is not owed.
    limit.change(1000.0, 5 * S)
    limit.use(2000)
    assert limit.wait_ns(5 * S) == 0
    limit.use(1000)
    assert limit.wait_ns(5 * S) == S
    limit.change(math.inf, 5 * S)
    assert limit.wait_ns(5 * S) == 0
    limit.use(10**9)
    limit.change(1000.0, 9 * S)
    assert limit.wait_ns(9 * S) == 0
