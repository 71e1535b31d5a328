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
"""Luma of one camera image at halved sizes, and parts of it at any size."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import cv2
import numpy as np

from ferros.types import Box, CameraFrame, Image

# Halving goes on while the longer side keeps at least this many pixels.
_COARSEST_PX: Final = 48


class Part(NamedTuple):
    """A part of an image at some size, and how its pixels lie in the published image."""

    image: Image
    # Of the part's top left corner, in px of the published image.
    left: float
    top: float
    # Px of the part per px of the published image.
    scale_x: float
    scale_y: float

    def outside(self, x: float, y: float, width: float, height: float) -> Box:
        """Return a box of the part in px of the published image."""
        return Box(
            self.left + x / self.scale_x,
            self.top + y / self.scale_y,
            width / self.scale_x,
            height / self.scale_y,
        )


class Pyramid:
    """
    Luma of one image at its own size, half of it, a quarter and so on.

    A level is made when it is first asked for. Level k is 2**k times smaller than the published
    image, so that it is the same whether the image was decoded whole or reduced; what lies below
    a reduced image's own level is not there.
    """

    def __init__(self, frame: CameraFrame) -> None:
        """
        Take over a frame's image, or its luma.

        Raises:
            ValueError: the frame's reduction is not a power of two.

        """
        if frame.reduction < 1 or frame.reduction & (frame.reduction - 1):
            raise ValueError(f'reduction is {frame.reduction}, expected a power of two')
        self.width_px, self.height_px = frame.size_px
        self.finest = frame.reduction.bit_length() - 1
        self._levels = [_luma(frame.image)]
        longest_px = max(self.width_px, self.height_px)
        self.coarsest = max(self.finest, int(math.log2(max(1.0, longest_px / _COARSEST_PX))))

    def level(self, level: int) -> Image:
        """Return level `finest` to `coarsest`, or the nearest there is, uint8 [height, width]."""
        wanted = min(max(level, self.finest), self.coarsest) - self.finest
        while len(self._levels) <= wanted:
            # Averaging four pixels; OpenCV has a fast way for exactly that.
            height, width = self._levels[-1].shape
            size = max(1, width // 2), max(1, height // 2)
            # An odd row or column would shift the pixels of every further level.
            even = self._levels[-1][: 2 * size[1], : 2 * size[0]]
            self._levels.append(
                np.asarray(cv2.resize(even, size, interpolation=cv2.INTER_AREA), np.uint8)
            )
        return self._levels[wanted]

    def level_for(self, scale: float) -> int:
        """Return the coarsest level that has at least scale px per px of the published image."""
        halvings = math.floor(-math.log2(scale) + 1e-6) if scale < 1 else 0
        return min(max(halvings, self.finest), self.coarsest)

    def part(self, region: Box, scale: float) -> Part | None:
        """
        Return what is inside the image of a region, with scale px per px of the published image.

        None where nothing is inside.
        """
        level = self.level_for(scale)
        image = self.level(level)
        shrink = 2**level
        height, width = image.shape
        left, top = max(0, math.floor(region.x / shrink)), max(0, math.floor(region.y / shrink))
        right = min(width, math.ceil((region.x + region.width) / shrink))
        bottom = min(height, math.ceil((region.y + region.height) / shrink))
        if right <= left or bottom <= top:
            return None
        cut = image[top:bottom, left:right]
        size = (
            max(1, round((right - left) * shrink * scale)),
            max(1, round((bottom - top) * shrink * scale)),
        )
        if size != (right - left, bottom - top):
            # By less than two each way, so that averaging would bring nothing.
            cut = np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_LINEAR), np.uint8)
        return Part(
            cut,
            left * shrink,
            top * shrink,
            size[0] / ((right - left) * shrink),
            size[1] / ((bottom - top) * shrink),
        )

    def patch(self, box: Box, size_px: int) -> Image:
        """
        Return a box as uint8 [size_px, size_px], to a fraction of a pixel.

        Beyond the image its border is repeated.
        """
        level = self.level_for(size_px / max(box.width, 1e-6))
        image = self.level(level)
        step_x, step_y = (side / size_px / 2**level for side in (box.width, box.height))
        # Pixel centres: the first one of the patch lies half a step inside the box.
        turn = np.array(
            [
                [step_x, 0, box.x / 2**level + step_x / 2 - 0.5],
                [0, step_y, box.y / 2**level + step_y / 2 - 0.5],
            ]
        )
        return np.asarray(
            cv2.warpAffine(
                image,
                turn,
                (size_px, size_px),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            ),
            np.uint8,
        )


def _luma(image: Image) -> Image:
    if image.ndim == 2:
        return image
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
