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
"""A drawn face that moves: something to send where no camera is, and no photograph of anyone."""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ferros.types import Image

FRAME_RATE_FPS: Final = 30
# The face's side in the image: one at the distance of a conversation.
SIZE_PX: Final = 160
# After so many frames the movement begins again.
COUNT: Final = 60

# It is drawn larger and shrunk, for smooth edges.
_SCALE: Final = 2
_SIDE_PX: Final = SIZE_PX * _SCALE
# Grey levels of the skin's and the hair's detail, and of the camera's noise. Chosen so that the
# crops take about as many bytes as the photographed ones that the accuracy grid was measured on.
_GRAIN: Final = 16.0
_NOISE: Final = 3.0
_SEED: Final = 4

_BACKGROUND, _HAIR, _SKIN, _WHITE, _DARK, _LIP = 96, 44, 172, 214, 36, 112

Floats = NDArray[np.float32]


def frames() -> list[Image]:
    """
    Return one round of the movement, uint8 luma [SIZE_PX, SIZE_PX] each; always the same.

    The face turns a little, blinks and opens its mouth to a smile.
    """
    return [frame(index) for index in range(COUNT)]


def frame(index: int) -> Image:
    """Return the image of that number of the round, uint8 luma [SIZE_PX, SIZE_PX]."""
    grain, noise = _textures()
    phase = 2 * math.pi * index / COUNT
    face = _draw(phase).astype(np.float32) + grain
    centre = (_SIDE_PX / 2, _SIDE_PX / 2)
    turned: NDArray[Any] = np.asarray(
        cv2.getRotationMatrix2D(centre, 4 * math.sin(phase), 1.0), np.float64
    )
    turned[:, 2] += (8 * math.sin(phase), 5 * math.sin(2 * phase))
    shrunk = cv2.resize(
        _moved(face, turned), (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA
    )
    # Another cut-out of the same noise each time.
    top, left = np.random.default_rng(index).integers(SIZE_PX, size=2)
    image = shrunk + noise[top : top + SIZE_PX, left : left + SIZE_PX]
    return np.asarray(np.clip(image, 0, 255), np.uint8)


@functools.cache
def _textures() -> tuple[Floats, Floats]:
    """Return the detail that is on the face and the noise that is on the image."""
    random = np.random.default_rng(_SEED)
    noise = random.normal(0, _NOISE, (2 * SIZE_PX, 2 * SIZE_PX)).astype(np.float32)
    return _grain(random), noise


def _moved(image: Floats, matrix: NDArray[np.float64]) -> Floats:
    size = (_SIDE_PX, _SIDE_PX)
    moved = cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(moved, np.float32)


def _grain(random: np.random.Generator) -> Floats:
    """Return detail of all sizes, the finer the fainter, as photographs have it."""
    grain: Floats = np.zeros((_SIDE_PX, _SIDE_PX), np.float32)
    for cells in (5, 10, 20, 40, 80, 160):
        part = (random.normal(0, 1, (cells, cells)) / cells).astype(np.float32)
        large = cv2.resize(part, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_CUBIC)
        grain = grain + np.asarray(large, np.float32)
    return np.asarray(_GRAIN * grain / grain.std(), np.float32)


def _draw(phase: float) -> Image:
    """Draw the face at one moment of its round, uint8 [_SIDE_PX, _SIDE_PX]."""
    image: Image = np.full((_SIDE_PX, _SIDE_PX), _BACKGROUND, np.uint8)
    _ellipse(image, (0.50, 0.40), (0.44, 0.46), _HAIR)
    _ellipse(image, (0.50, 1.04), (0.20, 0.26), _SKIN - 26)
    _ellipse(image, (0.50, 0.54), (0.37, 0.46), _SKIN)
    # Light from the upper left.
    rows, columns = np.mgrid[0:_SIDE_PX, 0:_SIDE_PX] / _SIDE_PX
    image = np.asarray(image * (1.16 - 0.22 * columns - 0.16 * rows), np.uint8)
    smile = 0.5 - 0.5 * math.cos(phase)
    # A blink in each round.
    lid = 0.012 if math.cos(phase - 2.2) > 0.985 else 0.032
    for x in (0.345, 0.655):
        _ellipse(image, (x, 0.47), (0.075, lid), _WHITE)
        _ellipse(image, (x + 0.012 * math.sin(phase), 0.47), (0.030, min(0.032, lid)), _DARK)
        _ellipse(image, (x, 0.40 - 0.02 * smile), (0.095, 0.035), _HAIR, 200, 340, thickness=9)
    _ellipse(image, (0.50, 0.63), (0.055, 0.035), _SKIN - 62, 20, 160, thickness=6)
    _ellipse(image, (0.455, 0.56), (0.02, 0.10), _SKIN - 40, 120, 250, thickness=5)
    _mouth(image, smile)
    return image


def _mouth(image: Image, smile: float) -> None:
    width, height = 0.11 + 0.06 * smile, 0.018 + 0.060 * smile
    _ellipse(image, (0.50, 0.765), (width, height), _LIP, 0, 180)
    _ellipse(image, (0.50, 0.765), (0.8 * width, 0.6 * height), _WHITE, 0, 180)
    _ellipse(image, (0.50, 0.765), (width, 0.012), _DARK + 20)


def _ellipse(
    image: Image,
    centre: tuple[float, float],
    axes: tuple[float, float],
    grey: int,
    from_degrees: float = 0,
    to_degrees: float = 360,
    thickness: int = -1,
) -> None:
    """Draw an ellipse; all places and lengths are shares of the image's side."""
    options: dict[str, Any] = {'thickness': thickness, 'lineType': cv2.LINE_AA}
    cv2.ellipse(
        image,
        (round(centre[0] * _SIDE_PX), round(centre[1] * _SIDE_PX)),
        (round(axes[0] * _SIDE_PX), round(axes[1] * _SIDE_PX)),
        0, from_degrees, to_degrees, grey, **options,
    )
