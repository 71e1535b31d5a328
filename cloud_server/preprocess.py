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

"""What a decoded face becomes before the encoder: shared by training, evaluation and serving."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt


def to_input(luma: npt.NDArray[np.uint8], input_size_px: int) -> npt.NDArray[np.uint8]:
    """
    Scale one face crop to the side the encoder takes.

    Brightness is left alone: the encoder's graph normalises by itself.

    Args:
        luma: uint8 [h, w], one channel, any size from 1 px.
        input_size_px: the encoder's input side S.

    Returns:
        uint8 [S, S], contiguous; area averaging where the crop is larger (no aliasing),
        bilinear where it is smaller.

    Raises:
        ValueError: not a non-empty uint8 image of one channel.

    """
    if luma.ndim != 2 or luma.dtype != np.uint8 or luma.size == 0:
        raise ValueError(f'expected a non-empty uint8 image [h, w], got {luma.dtype} {luma.shape}')
    height, width = luma.shape
    if height == width == input_size_px:
        return np.ascontiguousarray(luma)
    larger = min(height, width) > input_size_px
    interpolation = cv2.INTER_AREA if larger else cv2.INTER_LINEAR
    scaled = cv2.resize(luma, (input_size_px, input_size_px), interpolation=interpolation)
    return cast('npt.NDArray[np.uint8]', scaled)
