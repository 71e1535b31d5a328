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
Which operating points are worth keeping, and what noise does to a grid of them; pure.

A chooser takes the highest accuracy under a byte rate. It may also have to keep to one codec, to a
face size (the face's own, the model's, a parameter), to a frame rate (the camera's, the server's,
a parameter) and, on a thin link, to a length of one message. Under such a limit the plain Pareto
front may have no good point, or none at all, so what is kept is the front within every combination
of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Grid = npt.NDArray[np.float64]

# The largest change at which a smoothed grid counts as settled, far below any rounding.
SETTLED = 1e-10
MAX_ROUNDS = 20_000


class Point(NamedTuple):
    """What is sent of a face, what it costs and what it is worth; the fields of the YAML file."""

    face_size_px: int
    frame_rate_fps: float
    # 'jpeg' or 'webp'.
    codec: str
    # 1..100 in the codec's own scale.
    quality: int
    # Of one message: the median, and what one in twenty exceeds.
    bytes_p50: int
    bytes_p95: int
    # Streaming accuracy, 0..1.
    accuracy: float

    @property
    def bytes_per_s(self) -> float:
        """Return what one face at this point takes of a link."""
        return self.frame_rate_fps * self.bytes_p50


def front(points: Iterable[Point]) -> list[Point]:
    """
    Return the points that are the best within some limits, sorted by bytes per second.

    A point goes when another of its codec is in no respect worse: not larger, not more frequent,
    not longer (median and 95th percentile) and not less accurate. Whatever limits on these let
    the one pass let the other pass too, so the best accuracy within any limits is still there.
    """
    return _kept(points, _replaces)


def global_front(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other one beats in bytes per second and accuracy, sorted."""
    return _kept(points, _beats)


def _kept(points: Iterable[Point], is_covered_by: Callable[[Point, Point], bool]) -> list[Point]:
    kept: list[Point] = []
    # Whoever covers a point comes before it in this order, so it meets all that could.
    for point in sorted(points, key=_order):
        if not any(is_covered_by(point, other) for other in kept):
            kept.append(point)
    return kept


def _order(point: Point) -> tuple[float | str, ...]:
    return (point.bytes_per_s, -point.accuracy, point.face_size_px, point.frame_rate_fps,
            point.bytes_p50, point.bytes_p95, point.codec, point.quality)


def _replaces(point: Point, other: Point) -> bool:
    return (
        other.codec == point.codec
        and other.face_size_px <= point.face_size_px
        and other.frame_rate_fps <= point.frame_rate_fps
        and other.bytes_p50 <= point.bytes_p50
        and other.bytes_p95 <= point.bytes_p95
        and other.accuracy >= point.accuracy
    )


def _beats(point: Point, other: Point) -> bool:
    return other.bytes_per_s <= point.bytes_per_s and other.accuracy >= point.accuracy


def monotone(grid: Grid) -> Grid:
    """
    Return the nearest grid that falls along no axis.

    More pixels, more frames and a higher quality cannot make a face harder to read on average; on
    a few hundred clips neighbours still come out in the wrong order. This is isotonic regression
    by least squares over the whole grid: runs in the wrong order are replaced by their mean
    (pool adjacent violators) along each axis in turn, with Dykstra's correction, which makes the
    turns end at the projection onto all axes at once (Dykstra and Robertson, An Algorithm for
    Isotonic Regression for Two or More Independent Variables, Annals of Statistics 10, 1982).

    Args:
        grid: any number of axes, each in the order in which the values should rise.

    """
    values = np.array(grid, np.float64)
    corrections = [np.zeros_like(values) for _ in range(values.ndim)]
    for _ in range(MAX_ROUNDS):
        before = values
        for axis in range(values.ndim):
            open_values = values + corrections[axis]
            values = np.apply_along_axis(pool_adjacent, axis, open_values)
            corrections[axis] = open_values - values
        if np.abs(values - before).max(initial=0) < SETTLED:
            break
    # What is left of the last round's error must not look like a fall.
    for axis in range(values.ndim):
        values = np.maximum.accumulate(values, axis)
    return values


def pool_adjacent(values: Grid) -> Grid:
    """Return the nearest values [n] that do not fall, by least squares."""
    means: list[float] = []
    counts: list[int] = []
    for value in values:
        means.append(float(value))
        counts.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            total = counts[-2] + counts[-1]
            means[-2] = (means[-2] * counts[-2] + means[-1] * counts[-1]) / total
            counts[-2] = total
            del means[-1], counts[-1]
    return np.repeat(np.array(means, np.float64), counts)
