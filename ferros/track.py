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
Ids that stay with a face from image to image.

Pure: boxes and the image's time go in, tracks come out; no clock is read. A track lives through
three times: it is confirmed after `confirm_hits` detections in a row, reported until `keep_ms`
after the last detection, so that a face does not flicker with the detector, and keeps its id until
`forget_ms` after it.
"""

from __future__ import annotations

import math
import random
import secrets
from dataclasses import dataclass
from typing import Final

from ferros.types import Box, Track

_NS_PER_MS: Final = 1_000_000
_NS_PER_S: Final = 1_000_000_000

# A face that moved by more than its own size, or changed its size by more than this factor, is
# another face.
_MAX_DISTANCE_SIDES: Final = 1.0
_MAX_GROWTH: Final = 1.8
# How much a new measurement of the velocity counts, and for how long a velocity is believed after
# the last detection.
_VELOCITY_GAIN: Final = 0.5
_MAX_PREDICTION_NS: Final = 500 * _NS_PER_MS
# Characters of an id's random part: what is unlikely to be misread. 4 of them make 810,000
# prefixes.
_ALPHABET: Final = '23456789abcdefghijkmnpqrstuvwz'
_PREFIX_LENGTH: Final = 4


@dataclass
class _Followed:
    """A face under way: the track and what is needed to find it in the next image."""

    number: int
    box: Box
    seen_ns: int
    hits: int = 1
    # Of the centre, in pixels per second.
    velocity_x: float = 0.0
    velocity_y: float = 0.0

    def predict(self, now_ns: int) -> Box:
        """Return where the face would be now if it kept its velocity."""
        elapsed_s = min(now_ns - self.seen_ns, _MAX_PREDICTION_NS) / _NS_PER_S
        return self.box._replace(
            x=self.box.x + self.velocity_x * elapsed_s, y=self.box.y + self.velocity_y * elapsed_s
        )

    def see(self, box: Box, now_ns: int) -> None:
        """Take over a detection."""
        elapsed_s = (now_ns - self.seen_ns) / _NS_PER_S
        if elapsed_s > 0:
            (old_x, old_y), (new_x, new_y) = self.box.centre, box.centre
            # The first measurement has nothing to be averaged with.
            gain = _VELOCITY_GAIN if self.hits > 1 else 1.0
            self.velocity_x += gain * ((new_x - old_x) / elapsed_s - self.velocity_x)
            self.velocity_y += gain * ((new_y - old_y) / elapsed_s - self.velocity_y)
        self.box, self.seen_ns, self.hits = box, now_ns, self.hits + 1


class Tracker:
    """Keeps one id per face; see the module's description."""

    def __init__(
        self,
        keep_ms: int = 300,
        forget_ms: int = 1000,
        confirm_hits: int = 2,
        random_source: random.Random | None = None,
    ) -> None:
        """
        Start without any face.

        keep_ms: how long a face that is not detected is still reported.
        forget_ms: how long it can return under its id.
        confirm_hits: detections in a row before a face is reported; 1 for still images.
        random_source: where the random part of the ids is taken from; the operating system's by
        default.
        """
        if not 0 <= keep_ms <= forget_ms:
            raise ValueError(
                f'keep_ms is {keep_ms}, forget_ms {forget_ms}, expected 0 <= keep_ms <= forget_ms'
            )
        if confirm_hits < 1:
            raise ValueError(f'confirm_hits is {confirm_hits}, expected at least 1')
        source = random_source or secrets.SystemRandom()
        # Two trackers, or one before and after a restart, must not call different people by the
        # same id.
        self._prefix = ''.join(source.choice(_ALPHABET) for _ in range(_PREFIX_LENGTH))
        self._keep_ns = keep_ms * _NS_PER_MS
        self._forget_ns = forget_ms * _NS_PER_MS
        self._confirm_hits = confirm_hits
        self._faces: list[_Followed] = []
        self._newest_ns: int | None = None
        self._count = 0

    def reset(self) -> None:
        """Forget every face, as after a jump of time; ids are not used again."""
        self._faces = []
        self._newest_ns = None

    def update(self, boxes: list[Box], now_ns: int) -> list[Track]:
        """
        Take the boxes of one image and return the faces that are there, the longest known first.

        now_ns: the image's time. Where it is before the last image's, every face is forgotten: its
        age is unknown.
        """
        if self._newest_ns is not None and now_ns < self._newest_ns:
            self.reset()
        self._newest_ns = now_ns
        self._faces = [face for face in self._faces if now_ns - face.seen_ns <= self._forget_ns]
        expected = [face.predict(now_ns) for face in self._faces]
        pairs = match([[_likeness(old, new) for new in boxes] for old in expected])
        for row, column in pairs:
            self._faces[row].see(boxes[column], now_ns)
        # A face that was never confirmed and is missed at once was none.
        self._faces = [
            face for face in self._faces if face.seen_ns == now_ns or self._is_confirmed(face)
        ]
        taken = {column for _, column in pairs}
        for column, box in enumerate(boxes):
            if column not in taken:
                self._count += 1
                self._faces.append(_Followed(self._count, box, now_ns))
        return [
            Track(f'face_{self._prefix}_{face.number}', face.box, face.seen_ns)
            for face in self._faces
            if self._is_confirmed(face) and now_ns - face.seen_ns <= self._keep_ns
        ]

    def _is_confirmed(self, face: _Followed) -> bool:
        return face.hits >= self._confirm_hits


def _likeness(expected: Box, found: Box) -> float:
    """Return how well a box fits where a face is expected: 0 for not at all, up to 2."""
    side, found_side = math.sqrt(expected.area_px), math.sqrt(found.area_px)
    if max(side, found_side) > _MAX_GROWTH * min(side, found_side):
        return 0.0
    (x, y), (found_x, found_y) = expected.centre, found.centre
    distance_sides = math.hypot(found_x - x, found_y - y) / max(side, found_side)
    if distance_sides >= _MAX_DISTANCE_SIDES:
        return 0.0
    # The overlap tells sizes apart, the distance still tells a fast face from nothing when no
    # overlap is left.
    return _iou(expected, found) + 1 - distance_sides / _MAX_DISTANCE_SIDES


def _iou(one: Box, other: Box) -> float:
    """Return the intersection over the union of two boxes."""
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    shared = max(0.0, width) * max(0.0, height)
    return shared / (one.area_px + other.area_px - shared)


def match(likeness: list[list[float]]) -> list[tuple[int, int]]:
    """
    Return the pairs (row, column) whose likenesses have the largest sum.

    Each row and each column is used at most once.

    likeness: [rows][columns], 0 or less for pairs that must not be made.

    The Hungarian method with potentials, row by row along the cheapest augmenting path (Jonker and
    Volgenant 1987), in time rows^2 x columns.
    """
    if not likeness or not likeness[0]:
        return []
    rows, columns = len(likeness), len(likeness[0])
    if rows > columns:
        turned = [[likeness[row][column] for row in range(rows)] for column in range(columns)]
        return sorted((row, column) for column, row in match(turned))
    cost = [[-max(0.0, value) for value in row] for row in likeness]
    # Index 0 stands for nothing, in rows and in columns, so both are counted from 1 here.
    row_price, column_price = [0.0] * (rows + 1), [0.0] * (columns + 1)
    row_of = [0] * (columns + 1)
    for row in range(1, rows + 1):
        row_of[0] = row
        _augment(cost, row_price, column_price, row_of)
    pairs = [
        (row_of[column] - 1, column - 1) for column in range(1, columns + 1) if row_of[column]
    ]
    return sorted((row, column) for row, column in pairs if likeness[row][column] > 0)


def _augment(
    cost: list[list[float]], row_price: list[float], column_price: list[float], row_of: list[int]
) -> None:
    """Give the row in row_of[0] a column, moving other rows where that is cheaper, in place."""
    columns = len(column_price) - 1
    reach = [math.inf] * (columns + 1)
    came_from = [0] * (columns + 1)
    visited = [False] * (columns + 1)
    column = 0
    while row_of[column]:
        visited[column] = True
        row, nearest = row_of[column], 0
        for other in range(1, columns + 1):
            if visited[other]:
                continue
            reduced = cost[row - 1][other - 1] - row_price[row] - column_price[other]
            if reduced < reach[other]:
                reach[other], came_from[other] = reduced, column
            if nearest == 0 or reach[other] < reach[nearest]:
                nearest = other
        step = reach[nearest]
        for other in range(columns + 1):
            if visited[other]:
                row_price[row_of[other]] += step
                column_price[other] -= step
            else:
                reach[other] -= step
        column = nearest
    while column:
        row_of[column] = row_of[came_from[column]]
        column = came_from[column]
