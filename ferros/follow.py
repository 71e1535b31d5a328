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
A face's square followed from one image to the next by what it shows, which costs next to nothing.

Points on the face are followed by their optical flow, there and back (Lucas and Kanade in a
pyramid; "median flow", Kalal, Mikolajczyk and Matas 2010): those that do not come back to where
they started are left out, the median of the rest is the face's motion, the median change of their
distances its growth.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ferros.pyramid import Pyramid
from ferros.types import Box, Image

# The face is followed at the level where it is at most this large.
_FACE_PX: Final = 48
# Points per row and column, over this part of the square: its rim is half background.
_POINTS: Final = 5
_INNER: Final = 0.7
# Side of what is compared around a point, and levels of the pyramid on which that is done: motions
# of half a face are followed.
_WINDOW_PX: Final = 9
_LEVELS: Final = 2
# How much is cut out around the face, in sides.
_MARGIN: Final = 0.75
# How far from its start a point may come back, in px of the level, and how many have to.
_MAX_RETURN_PX: Final = 0.8
_MIN_SHARE: Final = 0.4
_MIN_GROWTH_SHARE: Final = 0.75
# A face does not grow or shrink by more from one image to the next.
_MAX_GROWTH: Final = 1.15
_PATCH_PX: Final = 24

_CRITERIA: Final = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 15, 0.03)

Floats = NDArray[np.float32]


class Followed(NamedTuple):
    """Where a face went."""

    box: Box
    # The share of its points that came back to where they started, 0..1.
    share: float


def follow(
    before: Pyramid, now: Pyramid, box: Box, guess_px: tuple[float, float]
) -> Followed | None:
    """
    Return where what a square showed in the image before is now; None: it cannot be told.

    guess_px: by how much it has probably moved, in px of the published image.
    """
    level = _level(before, now, box)
    shrink = 2.0**level
    cut = _cut(before.level(level), now.level(level), box.scaled(1 / shrink), guess_px, shrink)
    if cut is None:
        return None
    old, new, left, top = cut
    x, y = box.x / shrink - left, box.y / shrink - top
    start = _grid(x - 0.5, y - 0.5, box.width / shrink, box.height / shrink)
    guess = start + np.asarray(guess_px, np.float32) / np.float32(shrink)
    moved = _flow(old, new, start, guess)
    if moved is None:
        return None
    returned = _flow(new, old, moved, start)
    if returned is None:
        return None
    inside = np.all((moved >= 0) & (moved < (new.shape[1], new.shape[0])), axis=1)
    good = inside & (np.linalg.norm(returned - start, axis=1) <= _MAX_RETURN_PX)
    share = float(good.mean())
    if share < _MIN_SHARE:
        return None
    start, moved = start[good], moved[good]
    shift_x, shift_y = (np.median(moved - start, axis=0) * shrink).tolist()
    # Half hidden, a face does not shrink, though the points on its rim come nearer.
    growth = _growth(start, moved) if share >= _MIN_GROWTH_SHARE else 1.0
    if not 1 / _MAX_GROWTH <= growth <= _MAX_GROWTH:
        return None
    centre_x, centre_y = box.centre
    # The median point need not be the square's centre, about which a growing face would shift.
    middle_x, middle_y = (np.median(start, axis=0) + 0.5 + (left, top)).tolist()
    shift_x += (growth - 1) * (centre_x - middle_x * shrink)
    shift_y += (growth - 1) * (centre_y - middle_y * shrink)
    width, height = growth * box.width, growth * box.height
    return Followed(
        Box(centre_x + shift_x - width / 2, centre_y + shift_y - height / 2, width, height), share
    )


def face_patch(pyramid: Pyramid, box: Box) -> Floats:
    """Return what a square shows, float32 [576], with mean 0 and length 1, to be compared."""
    return normalised(pyramid.patch(box, _PATCH_PX))


def normalised(patch: Image) -> Floats:
    """Return a patch as a vector with mean 0 and length 1; all 0 where nothing varies."""
    values = patch.astype(np.float32).reshape(-1)
    values -= values.mean()
    length = float(np.linalg.norm(values))
    # Under a grey level of noise there is nothing to compare.
    return values / length if length > math.sqrt(values.size) else np.zeros_like(values)


def likeness(one: Floats, other: Floats) -> float:
    """Return the correlation of two normalised patches, -1..1."""
    return float(one @ other)


def _level(before: Pyramid, now: Pyramid, box: Box) -> int:
    wanted = math.ceil(math.log2(max(1.0, max(box.width, box.height) / _FACE_PX)))
    finest, coarsest = max(before.finest, now.finest), min(before.coarsest, now.coarsest)
    return min(max(wanted, finest), coarsest)


def _cut(
    before: Image, now: Image, box: Box, guess_px: tuple[float, float], shrink: float
) -> tuple[Image, Image, int, int] | None:
    """Return the same part of both images, around where the face was and may be, and its place."""
    # Reduced by the decoder, an image of odd size has a row or column more.
    height, width = (min(sizes) for sizes in zip(before.shape, now.shape, strict=True))
    extra = _MARGIN * max(box.width, box.height)
    shift_x, shift_y = (value / shrink for value in guess_px)
    left = max(0, math.floor(box.x + min(0.0, shift_x) - extra))
    top = max(0, math.floor(box.y + min(0.0, shift_y) - extra))
    right = min(width, math.ceil(box.x + box.width + max(0.0, shift_x) + extra))
    bottom = min(height, math.ceil(box.y + box.height + max(0.0, shift_y) + extra))
    if right - left < _WINDOW_PX or bottom - top < _WINDOW_PX:
        return None
    return before[top:bottom, left:right], now[top:bottom, left:right], left, top


def _grid(x: float, y: float, width: float, height: float) -> Floats:
    """Return the points to follow, [count, 2]."""
    places = (1 - _INNER) / 2 + _INNER * np.arange(_POINTS) / (_POINTS - 1)
    across, down = np.meshgrid(x + places * width, y + places * height)
    return np.stack([across.reshape(-1), down.reshape(-1)], axis=1).astype(np.float32)


def _flow(old: Image, new: Image, start: Floats, guess: Floats) -> Floats | None:
    """Return where points went, [count, 2]; those that are lost are far away."""
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        old,
        new,
        start.reshape(-1, 1, 2),
        guess.astype(np.float32).reshape(-1, 1, 2),
        winSize=(_WINDOW_PX, _WINDOW_PX),
        maxLevel=_LEVELS,
        criteria=_CRITERIA,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    moved = np.asarray(moved, np.float32).reshape(-1, 2)
    is_lost = np.asarray(found).reshape(-1) == 0
    if is_lost.all():
        return None
    moved[is_lost] = -1e6
    return moved


def _growth(start: Floats, moved: Floats) -> float:
    """Return the median factor by which the points' distances have grown."""
    first, second = np.triu_indices(len(start), 1)
    old = np.linalg.norm(start[first] - start[second], axis=1)
    new = np.linalg.norm(moved[first] - moved[second], axis=1)
    return float(np.median(new / np.maximum(old, 1e-3))) if len(old) else 1.0
