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
What a face and its surroundings look like, to tell who comes back from behind something.

Luma only: cameras may be grey, and compressed images are decoded so.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import cv2
import numpy as np

from ferros.pyramid import Pyramid
from ferros.types import Box, Image

# Coarse enough for an expression not to matter much.
_FACE_PX: Final = 12
# A detector's boxes differ from image to image: the one face is searched for in the other's
# surroundings, this much wider on each side, at these sizes.
_RIM_PX: Final = 3
_SIZES: Final = (0.8, 0.9, 1.0, 1.12, 1.25)
_AROUND_PX: Final = 8
# The parts of the clothes and of the hair that are compared, in sides of the square: how far right
# and below its corner, and how large.
_CLOTHES: Final = Box(-0.15, 1.2, 1.3, 0.8)
_HAIR: Final = Box(0.2, -0.3, 0.6, 0.3)
# At this difference of brightness against the face, in factors of e, nothing of the likeness is
# left.
_OTHER_CLOTHES: Final = 1.0
_OTHER_HAIR: Final = 1.6


class Appearance(NamedTuple):
    """What a face looked like in one image."""

    # uint8 [12, 12], and its surroundings at several sizes, uint8 [18, 18] each.
    face: Image
    surroundings: tuple[Image, ...]
    # Natural logarithm of their mean luma over the face's; NaN: outside the image.
    clothes: float
    hair: float

    def likeness(self, other: Appearance) -> float:
        """
        Return how much two looks agree, -2..1.

        On video of a stage and on rendered people, a second apart: the same person mostly 0.4 to
        0.9, two people mostly -1 to 0.2.
        """
        value = max(
            float(cv2.matchTemplate(around, self.face, cv2.TM_CCOEFF_NORMED).max())
            for around in other.surroundings
        )
        # A face in which nothing varies is like anything to OpenCV.
        if not math.isfinite(value) or self.face.min() == self.face.max():
            value = 0.0
        for one, another, limit in (
            (self.clothes, other.clothes, _OTHER_CLOTHES),
            (self.hair, other.hair, _OTHER_HAIR),
        ):
            if not math.isnan(one + another):
                value -= min(1.0, abs(one - another) / limit)
        return min(value, 1.0)


def appearance(pyramid: Pyramid, box: Box) -> Appearance:
    """Return the look of the face in a square of an image."""
    face = pyramid.patch(box, _FACE_PX)
    level = math.log(1.0 + float(face.mean()))
    side_px = _FACE_PX + 2 * _RIM_PX
    return Appearance(
        face,
        tuple(pyramid.patch(_about(box, size * side_px / _FACE_PX), side_px) for size in _SIZES),
        _brightness(pyramid, box, _CLOTHES) - level,
        _brightness(pyramid, box, _HAIR) - level,
    )


def _about(box: Box, factor: float) -> Box:
    """Return a box of the same centre and so many times the size."""
    (x, y), width, height = box.centre, factor * box.width, factor * box.height
    return Box(x - width / 2, y - height / 2, width, height)


def _brightness(pyramid: Pyramid, face: Box, place: Box) -> float:
    """Return the logarithm of the mean luma of a place beside the face; NaN: it is outside."""
    side = face.width
    box = Box(
        face.x + place.x * side, face.y + place.y * side, place.width * side, place.height * side
    )
    inside = box.clipped(pyramid.width_px, pyramid.height_px)
    # What is mostly outside would be the image's border repeated.
    if inside.area_px < 0.5 * box.area_px:
        return math.nan
    return math.log(1.0 + float(np.mean(pyramid.patch(inside, _AROUND_PX))))
