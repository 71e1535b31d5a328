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
"""A square around a face, cut out as luma; only the face's own pixels are converted."""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np

from ferros.types import Box, Image

# A box of more than this many times the image's longer side is a mistake, not a face.
_MAX_SIDE: Final = 2


def native_size_px(box: Box) -> int:
    """Return the side that a box has in the camera image; a larger crop adds no detail."""
    return max(1, round(max(box.width, box.height)))


def crop(image: Image, box: Box, size_px: int) -> Image:
    """
    Return the luma of the square around a box as uint8 [size_px, size_px].

    image: uint8, [height, width] luma or [height, width, 3] BGR. Luma is 0.299 R + 0.587 G + 0.114
    B (ITU-R BT.601), which is also what a grey camera, a JPEG and a WebP carry, so that all
    cameras agree.
    box: in pixels of the image, squared around its centre by its longer side; what lies outside
    the image repeats the image's border.
    size_px: the side of the result; the caller keeps it at or below `native_size_px` where
    enlarging is no use.

    Raises:
        ValueError: the box is not finite, has no area or is far larger than the image; size_px is
        below 1.

    """
    if size_px < 1:
        raise ValueError(f'size_px is {size_px}, expected at least 1')
    luma = _to_luma(_region(image, box))
    side_px = luma.shape[0]
    if side_px == size_px:
        return np.ascontiguousarray(luma)
    # Averaging is right for shrinking only; for enlarging it would repeat pixels in blocks.
    how = cv2.INTER_AREA if size_px < side_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(luma, (size_px, size_px), interpolation=how), np.uint8)


def _region(image: Image, box: Box) -> Image:
    """Return the pixels of the square, a view where it lies inside the image."""
    if not all(math.isfinite(value) for value in box):
        raise ValueError(f'{box} is not finite')
    if box.width <= 0 or box.height <= 0:
        raise ValueError(f'{box} has no area')
    height, width = image.shape[:2]
    if max(box.width, box.height) > _MAX_SIDE * max(height, width):
        raise ValueError(
            f'{box} is more than {_MAX_SIDE} times as large as the image of {width}x{height}'
        )
    side_px = native_size_px(box)
    centre_x, centre_y = box.centre
    left = _start(centre_x, side_px, width)
    top = _start(centre_y, side_px, height)
    if left >= 0 and top >= 0 and left + side_px <= width and top + side_px <= height:
        return image[top : top + side_px, left : left + side_px]
    columns = np.clip(np.arange(left, left + side_px), 0, width - 1)
    rows = np.clip(np.arange(top, top + side_px), 0, height - 1)
    return image[rows[:, None], columns]


def _start(centre: float, side_px: int, length_px: int) -> int:
    """Return where the square starts along one axis, at most just outside: further is the same."""
    return round(min(max(centre - side_px / 2, -side_px), length_px))


def _to_luma(image: Image) -> Image:
    if image.ndim == 2:
        return image
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
