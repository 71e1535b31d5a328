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
"""The burst that finds a link's rate, on simulated links."""

from __future__ import annotations

import heapq

import cv2
import numpy as np
import pytest

from ferros.link_burst import LONGEST_NS, MOST_BYTES, Burst, BurstLimits, Capacity, Limit
from ferros.link_probe import padded, smallest_image
from ferros.sender import message_bytes

MS = 1_000_000
SERVER_CLOCK_NS = 77_000_000_000
USUAL = BurstLimits(credits=16, image_bytes=65_536, frame_rate_fps=240.0)


class Link:
    """A simulated link: a queue that never drops, a delay, and a server behind it."""

    def __init__(self, rate_bytes_per_s: float, round_trip_ms: float, server_ms: float) -> None:
        self.rate = rate_bytes_per_s
        self.delay_ns = round(round_trip_ms * MS / 2)
        self.server_ns = round(server_ms * MS)
        self.free_ns = self.computed_ns = 0
        self.answers: list[tuple[int, int, int, int]] = []
        self.most_unanswered = 0
        self.images: list[int] = []

    def send(self, sequence: int, image_bytes: int, now_ns: int) -> None:
        size_bytes = on_the_link(image_bytes)
        self.free_ns = max(self.free_ns, now_ns) + round(size_bytes * 1e9 / self.rate)
        received_ns = self.free_ns + self.delay_ns
        self.computed_ns = max(self.computed_ns, received_ns) + self.server_ns
        in_server_ns = self.computed_ns - received_ns
        answered_ns = self.computed_ns + self.delay_ns
        heapq.heappush(self.answers, (answered_ns, sequence, received_ns, in_server_ns))
        self.most_unanswered = max(self.most_unanswered, len(self.answers))
        self.images.append(image_bytes)


def on_the_link(image_bytes: int) -> int:
    """Return what a frame with that image takes."""
    return message_bytes(image_bytes + 60)


def measure(
    rate_bytes_per_s: float,
    round_trip_ms: float = 40,
    server_ms: float = 1,
    limits: BurstLimits = USUAL,
    believed_bytes_per_s: float = 12_000,
) -> tuple[Capacity | None, Link]:
    """Send a burst over a link of which only believed_bytes_per_s was proved before."""
    link = Link(rate_bytes_per_s, round_trip_ms, server_ms)
    now_ns = sequence = 0
    burst = Burst(
        min(believed_bytes_per_s, rate_bytes_per_s), round_trip_ms * MS, limits, now_ns
    )
    while not burst.is_over(now_ns) or link.answers:
        while link.answers and link.answers[0][0] <= now_ns:
            answered_ns, number, received_ns, in_server_ns = heapq.heappop(link.answers)
            burst.answered(number, received_ns + SERVER_CLOCK_NS, in_server_ns, answered_ns)
        image_bytes = None if burst.is_over(now_ns) else burst.next_bytes(now_ns)
        if image_bytes is None:
            now_ns += MS
            continue
        sequence += 1
        link.send(sequence, image_bytes, now_ns)
        burst.sent(sequence, on_the_link(image_bytes), now_ns)
    assert burst.in_flight == 0
    return burst.capacity(), link


@pytest.mark.parametrize('round_trip_ms', [5, 40, 90])
@pytest.mark.parametrize('kbit_per_s', [64, 250, 1000, 3000])
def test_the_rate_of_a_link_is_found(kbit_per_s: float, round_trip_ms: float) -> None:
    capacity, _ = measure(kbit_per_s * 125, round_trip_ms)
    assert capacity is not None
    assert capacity.limit is Limit.LINK
    assert capacity.rate_bytes_per_s == pytest.approx(kbit_per_s * 125, rel=0.05)


@pytest.mark.parametrize('round_trip_ms', [1, 40, 600])
@pytest.mark.parametrize('kbit_per_s', [1000, 20_000, 1_000_000])
def test_what_is_said_to_be_the_least_is_no_more_than_the_link_carries(
    kbit_per_s: float, round_trip_ms: float
) -> None:
    capacity, _ = measure(kbit_per_s * 125, round_trip_ms)
    assert capacity is not None
    assert 0.1 * 125_000 < capacity.rate_bytes_per_s <= 1.05 * kbit_per_s * 125


@pytest.mark.parametrize('kbit_per_s', [16, 250, 5000, 1_000_000])
def test_a_burst_takes_no_more_than_its_time_and_its_bytes(kbit_per_s: float) -> None:
    capacity, link = measure(kbit_per_s * 125)
    assert sum(link.images) < MOST_BYTES
    if capacity is not None:
        assert capacity.sent_bytes <= MOST_BYTES
        # What was on its way then is still waited for.
        assert capacity.seconds <= LONGEST_NS / 1e9 + 1


def test_a_slow_server_is_told_from_a_slow_link() -> None:
    capacity, _ = measure(1_250_000, server_ms=60)
    assert capacity is not None
    assert capacity.limit is Limit.SERVER


def test_no_more_is_sent_than_the_server_allows() -> None:
    limits = BurstLimits(credits=2, image_bytes=900, frame_rate_fps=20.0)
    capacity, link = measure(1_250_000, limits=limits)
    assert capacity is not None
    assert capacity.limit is Limit.SERVER
    assert link.most_unanswered <= 2
    assert max(link.images) <= 900
    assert len(link.images) <= 20 * (1 + LONGEST_NS / 1e9)


def test_no_answers_prove_nothing() -> None:
    burst = Burst(10_000, 40 * MS, USUAL, 0)
    burst.sent(1, 500, 0)
    burst.answered(1, 30 * MS, MS, 41 * MS)
    burst.answered(7, 30 * MS, MS, 41 * MS)
    assert burst.capacity() is None


@pytest.mark.parametrize('size_bytes', [0, 400, 5000, 65_536, 200_000])
def test_a_padded_image_is_that_long_and_shows_the_same(size_bytes: int) -> None:
    image = smallest_image()
    longer = padded(image, size_bytes)
    assert max(size_bytes, len(image)) - 4 < len(longer) <= max(size_bytes, len(image))
    shown = [
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        for data in (image, longer)
    ]
    assert shown[0] is not None
    assert (shown[0] == shown[1]).all()
