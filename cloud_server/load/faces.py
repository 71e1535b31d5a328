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
"""The faces that are sent: drawn by us or from a folder, encoded before the run begins."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cloud_server.load.plan import Plan

# Different images of each size: the server can gain nothing from seeing one again.
VARIANTS = 16
# Of a folder so many are used at most.
MAX_IMAGES = 64
SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')

_CANVAS_PX = 128
# Standard deviations, in grey levels, of what is drawn over the face, and of the camera's noise.
# Chosen so that a crop of 48 px takes as many bytes as those of photographs in
# config/operating_points.yaml (WebP of quality 80: 576 without what is around it).
_GRAIN = 13.0
_NOISE = 3.0

Luma = NDArray[np.uint8]


class ImagesError(ValueError):
    """The folder of images cannot be used; the message names what is wrong with it."""


def crops(plan: Plan) -> Mapping[int, tuple[bytes, ...]]:
    """
    Return side in px -> encoded square crops, the same for the same plan.

    Raises:
        ImagesError: the folder of images cannot be used.

    """
    random_ = random.Random(f'{plan.seed}/faces')
    sources = read(plan.images) if plan.images is not None else None
    made = {}
    for size_px, _ in plan.sizes:
        lumas = (
            [render(size_px, random_.getrandbits(32)) for _ in range(VARIANTS)]
            if sources is None
            else [_fitted(source, size_px) for source in sources]
        )
        made[size_px] = tuple(encode(luma, plan.codec, plan.quality) for luma in lumas)
    return made


def encode(luma: Luma, codec: str, quality: int) -> bytes:
    """Return an image file of uint8 [h, w]; codec is 'webp' or 'jpeg', quality 1..100."""
    flag = cv2.IMWRITE_WEBP_QUALITY if codec == 'webp' else cv2.IMWRITE_JPEG_QUALITY
    done, data = cv2.imencode({'webp': '.webp', 'jpeg': '.jpg'}[codec], luma, [flag, quality])
    if not done:
        raise RuntimeError(f'OpenCV cannot encode {codec}')
    return data.tobytes()


def render(size_px: int, seed: int) -> Luma:
    """
    Draw a face, uint8 [size_px, size_px].

    Head, eyes, brows, nose and mouth in random places near their own, with detail of all sizes.
    It costs the server what a real face costs; which emotion it gets means nothing.
    """
    draw = np.random.default_rng(seed)
    image = np.full((_CANVAS_PX, _CANVAS_PX), draw.integers(60, 130), np.uint8)
    skin = int(draw.integers(130, 210))
    _ellipse(image, 0.50, 0.42, 0.43, 0.46, skin // 3)
    _ellipse(image, 0.50, 0.54, 0.36 + 0.03 * draw.random(), 0.45, skin)
    apart, open_ = 0.15 + 0.03 * draw.random(), 0.02 + 0.02 * draw.random()
    for x in (0.5 - apart, 0.5 + apart):
        _ellipse(image, x, 0.47, 0.075, open_, 225)
        _ellipse(image, x, 0.47, 0.03, open_, 35)
        _ellipse(image, x, 0.39 - 0.02 * draw.random(), 0.09, 0.012, skin // 3)
    _ellipse(image, 0.5, 0.60, 0.035, 0.06, skin - 30)
    _ellipse(image, 0.5, 0.77, 0.10 + 0.05 * draw.random(), 0.01 + 0.05 * draw.random(), skin // 2)
    rough = image + _grain(draw)
    shrinks = size_px < _CANVAS_PX
    resized = cv2.resize(
        rough, (size_px, size_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    noisy = resized + draw.normal(0, _NOISE, resized.shape)
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def read(folder: Path) -> list[Luma]:
    """
    Read the images of a folder as luma, uint8 [side, side] each, cut to squares about the centre.

    Raises:
        ImagesError: no such folder, no images in it, or one that cannot be read.

    """
    if not folder.is_dir():
        raise ImagesError(f'{folder}: no such folder')
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ImagesError(f'{folder}: no images, expected files with {", ".join(SUFFIXES)}')
    images = []
    for path in paths[:MAX_IMAGES]:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise ImagesError(f'{path}: not an image')
        side = min(image.shape)
        top, left = ((length - side) // 2 for length in image.shape)
        images.append(np.asarray(image[top : top + side, left : left + side], np.uint8))
    return images


def _fitted(luma: Luma, size_px: int) -> Luma:
    shrinks = size_px < luma.shape[0]
    resized = cv2.resize(
        luma, (size_px, size_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    return np.asarray(resized, np.uint8)


def _grain(draw: np.random.Generator) -> NDArray[np.float32]:
    """Return detail of all sizes, the finer the fainter, as photographs have it."""
    grain: NDArray[np.float32] = np.zeros((_CANVAS_PX, _CANVAS_PX), np.float32)
    for cells in (4, 8, 16, 32, 64):
        part = (draw.normal(0, 1, (cells, cells)) / cells).astype(np.float32)
        large = cv2.resize(part, (_CANVAS_PX, _CANVAS_PX), interpolation=cv2.INTER_CUBIC)
        grain = grain + np.asarray(large, np.float32)
    return np.asarray(_GRAIN * grain / grain.std(), np.float32)


def _ellipse(image: Luma, x: float, y: float, wide: float, high: float, grey: int) -> None:
    """Fill an ellipse; centre and half axes are shares of the image's side."""
    centre = (round(x * _CANVAS_PX), round(y * _CANVAS_PX))
    axes = (round(wide * _CANVAS_PX), max(1, round(high * _CANVAS_PX)))
    cv2.ellipse(image, centre, axes, 0, 0, 360, grey, -1, cv2.LINE_AA)
