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
"""Luma of an image at halved sizes, and parts of it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ferros.pyramid import Pyramid
from ferros.types import Box, CameraFrame


def picture(width_px: int = 640, height_px: int = 360) -> np.ndarray:
    """Return a colour image with structure of every size."""
    random = np.random.default_rng(3)
    image = np.zeros((height_px, width_px, 3), np.float32)
    for cells in (4, 16, 64):
        coarse = random.normal(0, 30, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + 128, 0, 255).astype(np.uint8)


def pyramid(image: np.ndarray, reduction: int = 1, size_px: tuple[int, int] = (0, 0)) -> Pyramid:
    return Pyramid(CameraFrame(image, 0, 0, '', reduction, size_px))


def test_each_level_is_half_the_one_before() -> None:
    levels = pyramid(picture())
    assert [levels.level(number).shape for number in range(4)] == [
        (360, 640), (180, 320), (90, 160), (45, 80),
    ]  # fmt: skip
    assert np.array_equal(levels.level(0), cv2.cvtColor(picture(), cv2.COLOR_BGR2GRAY))
    # Beyond the coarsest there is only the coarsest.
    assert levels.level(99).shape == levels.level(levels.coarsest).shape
    assert max(levels.level(99).shape) >= 48


def test_a_grey_image_is_taken_as_it_is() -> None:
    grey = cv2.cvtColor(picture(), cv2.COLOR_BGR2GRAY)
    assert pyramid(grey).level(0) is grey


@pytest.mark.parametrize('reduction', [2, 4])
def test_a_reduced_image_has_the_levels_of_the_whole_one(reduction: int) -> None:
    whole = pyramid(picture())
    small = cv2.resize(
        cv2.cvtColor(picture(), cv2.COLOR_BGR2GRAY), None, fx=1 / reduction, fy=1 / reduction,
        interpolation=cv2.INTER_AREA,
    )  # fmt: skip
    reduced = pyramid(small, reduction, (640, 360))
    assert (reduced.width_px, reduced.height_px) == (640, 360)
    assert reduced.finest == {2: 1, 4: 2}[reduction]
    for level in range(reduced.finest, 4):
        difference = np.abs(reduced.level(level).astype(int) - whole.level(level))
        assert difference.max() <= 2
    # What is finer is not there.
    assert reduced.level(0) is reduced.level(reduced.finest)


@pytest.mark.parametrize('reduction', [1, 2])
@pytest.mark.parametrize('scale', [1.3, 1.0, 0.75, 0.5, 0.2])
def test_a_part_knows_where_its_pixels_lie(reduction: int, scale: float) -> None:
    image = np.zeros((360, 640), np.uint8)
    image[100:140, 200:260] = 255
    if reduction == 2:
        image = cv2.resize(image, (320, 180), interpolation=cv2.INTER_AREA)
    part = pyramid(image, reduction, (640, 360)).part(Box(150, 60, 200, 150), scale)
    assert part is not None
    rows, columns = np.nonzero(part.image > 127)
    left, top = columns.min(), rows.min()
    box = part.outside(left, top, columns.max() + 1 - left, rows.max() + 1 - top)
    for found, expected in zip(box, (200, 100, 60, 40), strict=True):
        assert found == pytest.approx(expected, abs=1.2 * reduction / scale)


def test_of_a_region_only_what_is_inside_is_given() -> None:
    part = pyramid(picture()).part(Box(-100, 300, 200, 200), 1.0)
    assert part is not None
    assert part.image.shape == (60, 100)
    assert (part.left, part.top) == (0, 300)
    assert pyramid(picture()).part(Box(-200, 0, 100, 100), 1.0) is None
    assert pyramid(picture()).part(Box(0, 400, 100, 100), 0.5) is None


def test_a_patch_is_cut_to_a_fraction_of_a_pixel() -> None:
    slope = np.tile(np.arange(200, dtype=np.uint8), (200, 1))
    levels = pyramid(slope)
    # Pixel n of the patch covers the columns from 50.5 + n on; their middle is at 50.5 + n.
    patch = levels.patch(Box(50.5, 20, 24, 24), 24)
    assert patch[0].astype(int) == pytest.approx(np.arange(24) + 50.5, abs=0.51)
    # Averaged over two columns each: the level of half the size is taken.
    coarse = levels.patch(Box(50, 20, 48, 48), 24)
    assert coarse[0].astype(int) == pytest.approx(50.5 + 2 * np.arange(24), abs=1.01)


def test_beyond_the_image_a_patch_repeats_its_border() -> None:
    levels = pyramid(np.tile(np.arange(200, dtype=np.uint8), (200, 1)))
    patch = levels.patch(Box(-24, -24, 24, 24), 24)
    assert patch.max() == 0
    assert levels.patch(Box(300, 50, 24, 24), 24).min() == 199


@pytest.mark.parametrize('size_px', [(1, 1), (1, 3000), (3000, 1), (5, 4)])
def test_the_smallest_images_have_levels_too(size_px: tuple[int, int]) -> None:
    levels = pyramid(np.full(size_px[::-1], 9, np.uint8))
    assert levels.level(levels.coarsest).size >= 1
    assert levels.patch(Box(0, 0, 1, 1), 8).tolist() == [[9] * 8] * 8


def test_a_reduction_that_no_decoder_makes_is_refused() -> None:
    with pytest.raises(ValueError, match='reduction is 3'):
        pyramid(picture(), 3, (1920, 1080))
