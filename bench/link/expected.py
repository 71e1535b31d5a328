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
"""Which accuracy is in force at each instant of a run, as the grid has it; pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.link.accuracy import CHANCE, Accuracies, Coding
from bench.link.schedule import NS_PER_MS, NS_PER_S, Interval

Times = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# How much older than its frame interval and the path's round trip an answer may be.
FRESH_NS = 300 * NS_PER_MS
INSTANT_NS = 100 * NS_PER_MS
# The achieved frame rate is taken over so long, and may fall short of the point's by a tenth:
# cameras and links are not metronomes.
RATE_WINDOW_NS = 2 * NS_PER_S
RATE_TOLERANCE = 1.1


class Sent(NamedTuple):
    """An answered frame of one slot and how it was sent."""

    captured_ns: int
    coding: Coding
    # Of the operating point.
    frame_rate_fps: float


class Held(NamedTuple):
    """A published answer of one slot, and what it is worth while it is the newest and fresh."""

    captured_ns: int
    published_ns: int
    # Of the operating point of its frame.
    interval_ns: int
    # 0..1.
    accuracy: float


def instants_ns(start_ns: int, end_ns: int, left_out: Sequence[Interval] = ()) -> Times:
    """Return ten instants per second of [start_ns, end_ns) that lie in none of the intervals."""
    every = np.arange(start_ns, end_ns, INSTANT_NS, np.int64)
    return every[~inside(every, left_out)]


def inside(times_ns: Times, intervals: Sequence[Interval]) -> npt.NDArray[np.bool_]:
    """Return which of the times lie in one of the intervals, ends included."""
    within = np.zeros(len(times_ns), bool)
    for start_ns, end_ns in intervals:
        within |= (times_ns >= start_ns) & (times_ns <= end_ns)
    return within


def in_force(answers: Sequence[Held], instants: Times, min_rtt_ns: int) -> Floats:
    """
    Return the accuracy in force at each instant.

    It is that of the published answer with the newest frame, as long as this frame is at most its
    frame interval, 300 ms and the path's round trip old; else chance.
    """
    published = sorted(answers, key=lambda answer: answer.published_ns)
    newest: list[Held] = []
    for answer in published:
        later = not newest or answer.captured_ns > newest[-1].captured_ns
        newest.append(answer if later else newest[-1])
    times = [answer.published_ns for answer in published]
    values = np.full(len(instants), CHANCE)
    for index, now_ns in enumerate(instants):
        count = bisect_right(times, now_ns)
        if count:
            answer = newest[count - 1]
            if now_ns - answer.captured_ns <= answer.interval_ns + FRESH_NS + min_rtt_ns:
                values[index] = answer.accuracy
    return values


def achieved_fps(captured_ns: Sequence[int]) -> list[float | None]:
    """
    Return the frame rate that was achieved when each frame was taken.

    It is one over the mean spacing of the frames of the 2 s up to it; where it is the only one,
    over the spacing to the frame before; None for the first of all.

    Args:
        captured_ns: when each answered frame of a slot was taken, rising.
    """
    rates: list[float | None] = []
    first = 0
    for index, now_ns in enumerate(captured_ns):
        while captured_ns[first] <= now_ns - RATE_WINDOW_NS:
            first += 1
        begin = min(first, max(index - 1, 0))
        span_ns = now_ns - captured_ns[begin]
        rates.append((index - begin) * NS_PER_S / span_ns if span_ns else None)
    return rates


def accuracies_in_force(frames: Sequence[Sent], accuracies: Accuracies) -> list[float]:
    """
    Return what the grid says of each answered frame of a slot, at the rate in force.

    The rate in force is the point's, or the achieved one (with a tenth of tolerance) where that
    is lower: a point of 15 per second of which the link lets five through is worth five.

    Args:
        frames: by the time at which they were taken, no two at once.
        accuracies: the grid.
    """
    worth = []
    achieved = achieved_fps([frame.captured_ns for frame in frames])
    for frame, rate_fps in zip(frames, achieved, strict=True):
        in_force_fps = frame.frame_rate_fps
        if rate_fps is not None:
            in_force_fps = min(in_force_fps, RATE_TOLERANCE * rate_fps)
        worth.append(accuracies.at(frame.coding, in_force_fps))
    return worth
