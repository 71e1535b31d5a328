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
The picture of a face as REP-155 has it, made and read back; no ROS here.

REP-155 asks for the face's part of the camera image, scaled, centred and padded with zeros to 128
by 128 pixels.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from ferros.types import Box, Image

# What REP-155 names as the default of its parameters for width and height.
SIDE_PX: Final = 128


def padded(image: Image, box: Box, side_px: int = SIDE_PX) -> Image | None:
    """
    Return the face in a box as uint8 [side_px, side_px] or [side_px, side_px, 3], like the image.

    The part of the box that is inside the image is scaled, with its proportions, until its longer
    side fills the picture, and lies in the picture's middle; all else is 0. None where no pixel
    of the box is inside.

    image: uint8, [height, width] luma or [height, width, 3] BGR.
    box: in pixels of the image.
    """
    height_px, width_px = image.shape[:2]
    x, y, width, height = (int(value) for value in box.clipped(width_px, height_px))
    if width == 0 or height == 0:
        return None
    scale = side_px / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # Averaging is right for shrinking only; for enlarging it would repeat pixels in blocks.
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    face = cv2.resize(image[y : y + height, x : x + width], size, interpolation=how)
    picture: Image = np.zeros((side_px, side_px, *image.shape[2:]), np.uint8)
    left, top = (side_px - size[0]) // 2, (side_px - size[1]) // 2
    picture[top : top + size[1], left : left + size[0]] = face
    return picture


def unpadded(picture: Image) -> Image | None:
    """
    Return the part of a picture that holds the face, as a view; None where all of it is black.

    What is cut off are the rows and columns at the border in which every value is 0.

    picture: uint8, [height, width] luma or [height, width, 3] BGR, of any size.
    """
    lit = picture if picture.ndim == 2 else picture.max(axis=2)
    rows = np.flatnonzero(lit.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(lit.any(axis=0))
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
