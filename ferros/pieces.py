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
The pieces that searching a whole image for faces is cut into, so that no image has to pay for all.

Pure. A piece is a part of the image, at one size, in which faces of a range of sizes and of one
view are looked for. Together the pieces of an image cover every place and size.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Final, NamedTuple

from ferros.types import Box


class View(Enum):
    """From where a face is seen: the Haar cascades know it from the front and from one side."""

    FRONT = 'front'
    # Towards which side of the image it looks.
    LEFT = 'left'
    RIGHT = 'right'


class Piece(NamedTuple):
    """One piece of the search."""

    # In px of the published image.
    region: Box
    # Px that the detector gets per px of the published image.
    scale: float
    # The sides of the faces that are looked for, in px of the published image.
    smallest_px: float
    largest_px: float
    view: View
    # What it costs, about: in ms of one core of a machine of 2023. Only the ratios matter.
    work: float


# A Haar cascade's window is 20 px wide, and below 24 px nearly all it finds is texture. An octave
# of sizes is looked for in one image, the next one in one of half the size: above 40 px OpenCV
# moves the window by one pixel at a time instead of two, so that large faces in a large image
# would take most of the time.
_HAAR_SMALLEST_PX: Final = 24
_HAAR_LARGEST_PX: Final = 48
# ms per 1000 px of the detector's image, measured with OpenCV 4.14 and 4.6.
_HAAR_WORK: Final = {View.FRONT: 0.07, View.LEFT: 0.12, View.RIGHT: 0.12}
_YUNET_WORK: Final = 0.055
# The most that one piece may cost; what is more is cut into tiles.
_MAX_WORK: Final = 2.5


def haar_pieces(width_px: int, height_px: int, longest_side_px: int, view: View) -> list[Piece]:
    """
    Return the pieces of an image for one view, those of large faces first.

    longest_side_px: of the image in which the smallest faces are looked for.
    """
    if min(width_px, height_px) < 1:
        return []
    scale = min(1.0, longest_side_px / max(width_px, height_px))
    pieces: list[Piece] = []
    while min(width_px, height_px) * scale >= _HAAR_SMALLEST_PX:
        pieces = [
            *(
                Piece(
                    tile, scale, _HAAR_SMALLEST_PX / scale, _HAAR_LARGEST_PX / scale, view,
                    tile.area_px * scale**2 / 1000 * _HAAR_WORK[view],
                )
                for tile in tiles(
                    width_px, height_px, _HAAR_LARGEST_PX / scale,
                    _MAX_WORK / _HAAR_WORK[view] * 1000 / scale**2,
                )
            ),
            *pieces,
        ]  # fmt: skip
        scale /= 2
    return pieces


def yunet_pieces(width_px: int, height_px: int, longest_side_px: int) -> list[Piece]:
    """Return the one piece of an image: the network sees every size at once."""
    if min(width_px, height_px) < 1:
        return []
    scale = min(1.0, longest_side_px / max(width_px, height_px))
    whole = Box(0, 0, width_px, height_px)
    work = whole.area_px * scale**2 / 1000 * _YUNET_WORK
    return [Piece(whole, scale, 0.0, float(max(width_px, height_px)), View.FRONT, work)]


def tiles(width_px: int, height_px: int, overlap_px: float, max_area_px: float) -> list[Box]:
    """
    Return parts of about equal size that cover an image, cut across its longer side.

    overlap_px: by how much neighbours overlap, so that what is not larger lies whole in one of
    them. max_area_px: how large a part may be before the overlap is added.
    """
    length_px, breadth_px = max(width_px, height_px), min(width_px, height_px)
    count = max(1, math.ceil(length_px * breadth_px / max_area_px))
    # More parts would be little but overlap.
    count = min(count, max(1, int(length_px / (2 * overlap_px))))
    stride_px = (length_px - overlap_px) / count if count > 1 else float(length_px)
    extent_px = stride_px + (overlap_px if count > 1 else 0)
    starts = [index * stride_px for index in range(count)]
    if width_px >= height_px:
        return [Box(start, 0, extent_px, height_px) for start in starts]
    return [Box(0, start, width_px, extent_px) for start in starts]
