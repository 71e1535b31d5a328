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
"""When frames are planned to leave. Fixed before the run: no answer, fast or slow, moves it."""

from __future__ import annotations

import random
from collections.abc import Iterator

NS_PER_S = 1_000_000_000
# Successive multiples of it, modulo 1, are spread as evenly as any (the golden ratio's part).
_GOLDEN = 0.6180339887498949


def planned_ns(
    rate_fps: float, begin_ns: int, end_ns: int, arrivals: str, random_: random.Random
) -> Iterator[int]:
    """
    Yield the times at which one robot's frames leave, rising, in [begin_ns, end_ns).

    Args:
        rate_fps: frames per second, above 0.
        begin_ns: time of any clock.
        end_ns: of the same clock.
        arrivals: 'even': the same interval each time, beginning at a random part of it;
            'poisson': intervals drawn from the exponential distribution of that mean.
        random_: the only source of chance.

    """
    interval_ns = NS_PER_S / rate_fps
    if arrivals == 'even':
        first_ns, number = begin_ns + random_.random() * interval_ns, 0
        # Multiplied, not added up: no rounding grows over the run.
        while (at_ns := int(first_ns + number * interval_ns)) < end_ns:
            yield at_ns
            number += 1
        return
    late_ns = random_.expovariate(1) * interval_ns
    while (at_ns := begin_ns + int(late_ns)) < end_ns:
        yield at_ns
        late_ns += random_.expovariate(1) * interval_ns


def begins_ns(robot: int, robots: int, ramp_ns: int) -> int:
    """Return when a robot (from 0) begins, counted from the start of the run."""
    return ramp_ns * robot // robots


def size_of_face_px(face: int, sizes: tuple[tuple[int, float], ...]) -> int:
    """
    Return the side of a face's crops.

    Any number of successive faces have the sizes in very nearly the shares asked for.

    Args:
        face: number of the face among those of all robots.
        sizes: side in px and its share; the shares sum to 1.

    """
    place = (0.5 + face * _GOLDEN) % 1
    for size_px, share in sizes:
        place -= share
        if place < 0:
            return size_px
    return sizes[-1][0]
