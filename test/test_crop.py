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
"""A crop is the square around a face, wherever the face lies and whatever the camera's colours."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from ferros.crop import crop, native_size_px
from ferros.types import Box


def photograph() -> np.ndarray:
    """Return a smooth colourful image, BGR [120, 160, 3]."""
    random = np.random.default_rng(1)
    small = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (160, 120), interpolation=cv2.INTER_CUBIC), np.uint8)


def test_at_its_own_size_the_crop_is_the_luma_of_those_pixels() -> None:
    image = photograph()
    luma = image.astype(np.float64) @ [0.114, 0.587, 0.299]
    found = crop(image, Box(40, 30, 48, 48), 48)
    assert found.dtype == np.uint8
    assert np.abs(found - luma[30:78, 40:88]).max() <= 0.51


def test_grey_and_colour_cameras_agree() -> None:
    image = photograph()
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
    box = Box(20.4, 10.7, 63.2, 63.2)
    assert np.array_equal(crop(image, box, 48), crop(grey, box, 48))


@pytest.mark.parametrize('size_px', [1, 7, 24, 48, 200])
def test_the_result_has_the_size_asked_for(size_px: int) -> None:
    assert crop(photograph(), Box(40, 30, 48, 48), size_px).shape == (size_px, size_px)


def test_shrinking_averages() -> None:
    checkers = (np.indices((100, 100)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(crop(checkers, Box(0, 0, 100, 100), 50).astype(int) - 128).max() <= 1


def test_outside_the_image_its_border_is_repeated() -> None:
    image = np.full((60, 80), 100, np.uint8)
    image[:, 0], image[:, -1], image[0], image[-1] = 10, 20, 30, 40
    corner = crop(image, Box(-20, -20, 40, 40), 40)
    assert (corner[:20, 21:] == 30).all()
    assert (corner[21:, :20] == 10).all()
    assert (corner[22:, 22:] == 100).all()
    assert (crop(image, Box(70, 20, 30, 30), 30)[:, 10:] == 20).all()


@pytest.mark.parametrize(
    'box',
    [
        Box(-500, 10, 40, 40),
        Box(500, 10, 40, 40),
        Box(10, -500, 40, 40),
        Box(1e300, -1e300, 40, 40),
        Box(-30, -30, 150, 150),
        Box(79.99, 59.99, 0.01, 0.01),
    ],
)
def test_any_finite_box_gives_a_crop(box: Box) -> None:
    assert crop(np.full((60, 80), 77, np.uint8), box, 16).tolist() == [[77] * 16] * 16


def test_a_box_that_is_no_square_is_squared_around_its_centre() -> None:
    image = photograph()
    assert np.array_equal(
        crop(image, Box(50, 30, 20, 40), 40), crop(image, Box(40, 30, 40, 40), 40)
    )


@pytest.mark.parametrize(
    'box',
    [
        Box(math.nan, 0, 10, 10),
        Box(0, 0, math.inf, 10),
        Box(0, 0, 0, 0),
        Box(0, 0, 10, 0),
        Box(0, 0, -10, 10),
        Box(0, 0, 1e6, 1e6),
    ],
)
def test_a_box_that_is_none_is_refused(box: Box) -> None:
    with pytest.raises(ValueError, match='Box'):
        crop(photograph(), box, 48)


def test_a_size_below_one_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match='size_px is 0'):
        crop(photograph(), Box(0, 0, 10, 10), 0)


def test_the_native_size_is_the_side_in_whole_pixels() -> None:
    assert native_size_px(Box(0, 0, 37.6, 37.6)) == 38
    assert native_size_px(Box(0, 0, 0.2, 0.2)) == 1


def test_the_image_is_left_as_it_was() -> None:
    image = photograph()
    before = image.copy()
    crop(image, Box(-5, 100, 48, 48), 24)
    assert np.array_equal(image, before)
