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
"""Levels and parts of an image, and where their pixels lie in the image that was published."""

from __future__ import annotations

import operator
import types
from typing import Any

import cv2
import numpy as np
import pytest

from ferros.image import decode_reduced
from ferros.pyramid import Pyramid
from ferros.types import Box, CameraFrame

# Even, odd, and odd again after halving.
SIZES = [(256, 192), (251, 187), (246, 190), (203, 255)]


def place_shown(size: tuple[int, int], reduction: int, down: bool, cut: Any) -> np.ndarray:
    """
    Return which columns or rows of the published image are shown by those of a part of it.

    Read off a ramp, whose grey level is the column or row, and off its negative: what rounding
    grey levels does to the one it undoes to the other. cut: takes the part out of a pyramid.
    """
    rows, columns = np.mgrid[: size[1], : size[0]]
    ramp = (rows if down else columns).astype(np.uint8)
    rising, falling = (
        cut(decoded(image, reduction)).mean(axis=1 if down else 0) for image in (ramp, 255 - ramp)
    )
    return (rising + 255 - falling) / 2


def is_close(shown: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether places agree, but for what whole grey levels and JPEG leave uncertain."""
    away_px = shown - expected
    return bool(np.abs(away_px).max() < 1.2 and abs(away_px.mean()) < 0.25)


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width)).astype(np.uint8)


def whole(image: np.ndarray) -> Pyramid:
    return Pyramid(CameraFrame(image, 0, 0))


def decoded(image: np.ndarray, reduction: int) -> Pyramid:
    """Return an image's pyramid after it came as a JPEG and was decoded that much smaller."""
    _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 98])
    message = types.SimpleNamespace(data=data.reshape(-1), format='jpeg')
    small = decode_reduced(message, lambda width, height: reduction)
    return Pyramid(CameraFrame(small.luma, 0, 0, '', small.reduction, small.size_px))


def mean_of_four(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[0] // 2, image.shape[1] // 2
    four = image[: 2 * height, : 2 * width].astype(int).reshape(height, 2, width, 2)
    return (four.sum(axis=(1, 3)) + 2) // 4


# -- levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', SIZES)
def test_each_level_is_the_mean_of_four_pixels_of_the_one_below(size: tuple[int, int]) -> None:
    pyramid = whole(noise(*size))
    assert np.array_equal(pyramid.level(0), noise(*size))
    assert pyramid.coarsest >= 2
    for level in range(pyramid.coarsest):
        expected = mean_of_four(pyramid.level(level))
        assert np.array_equal(pyramid.level(level + 1), expected)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('reduction', [1, 2, 4])
def test_a_pixel_of_a_level_shows_its_own_place_in_the_published_image(
    size: tuple[int, int], reduction: int
) -> None:
    pyramid = decoded(noise(*size), reduction)
    assert (pyramid.width_px, pyramid.height_px) == size
    for level in range(pyramid.finest, pyramid.coarsest + 1):
        for down in (False, True):
            count = size[down] >> level
            # But for what the decoder adds beyond an odd border.
            shown = place_shown(size, reduction, down, operator.methodcaller('level', level))
            expected = (np.arange(count) + 0.5) * 2**level - 0.5
            assert is_close(shown[:count], expected)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('reduction', [2, 4])
def test_an_image_decoded_small_has_the_levels_of_the_whole_one(
    size: tuple[int, int], reduction: int
) -> None:
    image = cv2.GaussianBlur(noise(*size), (0, 0), 4)
    full, small = whole(image), decoded(image, reduction)
    assert 2**small.finest == reduction
    assert small.coarsest == full.coarsest
    for level in range(small.finest, small.coarsest + 1):
        one, other = full.level(level).astype(int), small.level(level).astype(int)
        height, width = one.shape
        assert 0 <= other.shape[0] - height <= 1 and 0 <= other.shape[1] - width <= 1
        assert np.abs(one - other[:height, :width]).max() <= 3


def test_what_is_finer_or_coarser_than_there_is_gives_the_nearest_level() -> None:
    small = decoded(noise(256, 192), 4)
    assert small.finest == 2
    assert np.array_equal(small.level(0), small.level(2))
    assert np.array_equal(small.level(99), small.level(small.coarsest))
    assert small.level(2).shape == (48, 64)


def test_an_image_of_twice_the_size_has_one_level_more_and_the_same_coarsest_one() -> None:
    one, two = whole(noise(256, 192)), whole(noise(512, 384))
    assert two.coarsest == one.coarsest + 1
    assert two.level(two.coarsest).shape == one.level(one.coarsest).shape
    # Small, yet not so small that nothing is to be seen.
    assert 24 <= max(two.level(two.coarsest).shape) <= 128


@pytest.mark.parametrize('size', [(1, 1), (5, 3), (640, 1), (1, 640), (97, 2)])
def test_an_image_that_is_hardly_there_has_levels_too(size: tuple[int, int]) -> None:
    pyramid = whole(noise(*size))
    for level in range(12):
        assert min(pyramid.level(level).shape) >= 1


def test_colour_counts_as_its_luma() -> None:
    coloured = np.random.default_rng(4).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    # ITU-R BT.601.
    luma = coloured @ np.array([0.114, 0.587, 0.299])
    assert np.abs(whole(coloured).level(0) - luma).max() <= 1


# -- which level ---------------------------------------------------------------------------------


def test_the_level_for_a_scale_is_the_coarsest_that_has_enough_pixels() -> None:
    pyramid = whole(noise(1280, 720))
    assert [pyramid.level_for(scale) for scale in (3, 1, 0.51, 0.5, 0.26, 0.25)] == [
        0, 0, 0, 1, 1, 2,
    ]  # fmt: skip
    for scale in np.linspace(0.11, 1, 40):
        level = pyramid.level_for(scale)
        assert 2.0**-level >= scale > 2.0 ** -(level + 1)
    assert pyramid.level_for(1e-6) == pyramid.coarsest


def test_a_scale_that_the_decoder_left_out_gets_the_finest_level_there_is() -> None:
    small = decoded(noise(256, 192), 4)
    assert small.level_for(1) == small.level_for(0.3) == 2


# -- parts ---------------------------------------------------------------------------------------


REGIONS = [Box(40, 30, 64, 48), Box(37, 53, 61, 71), Box(33.4, 20.7, 90.2, 77.9)]


@pytest.mark.parametrize('region', REGIONS)
@pytest.mark.parametrize('scale', [1.5, 1, 0.8, 0.5, 0.37, 0.25, 0.21])
@pytest.mark.parametrize('reduction', [1, 2, 4])
def test_a_part_says_where_its_pixels_lie_in_the_published_image(
    region: Box, scale: float, reduction: int
) -> None:
    part = decoded(noise(251, 187), reduction).part(region, scale)
    assert part is not None
    # Interpolated at the rim, a pixel is repeated: not compared.
    rim = 1 + int(scale * reduction)
    for down, start, per_px in ((False, part.left, part.scale_x), (True, part.top, part.scale_y)):
        shown = place_shown(
            (251, 187), reduction, down, lambda pyramid: pyramid.part(region, scale).image
        )
        expected = start + (np.arange(len(shown)) + 0.5) / per_px - 0.5
        assert is_close(shown[rim:-rim], expected[rim:-rim])
        # A side is a whole number of pixels: as near as that allows.
        assert abs(len(shown) - len(shown) / per_px * scale) <= 0.5 + 1e-6


@pytest.mark.parametrize('region', REGIONS)
@pytest.mark.parametrize('scale', [1, 0.5, 0.37, 0.21])
def test_a_part_holds_its_region_and_less_than_a_pixel_more(region: Box, scale: float) -> None:
    pyramid = whole(noise(251, 187))
    part = pyramid.part(region, scale)
    assert part is not None
    height, width = part.image.shape
    outside = part.outside(0, 0, width, height)
    pixel = 2 ** pyramid.level_for(scale)
    assert 0 <= region.x - outside.x < pixel
    assert 0 <= region.y - outside.y < pixel
    assert 0 <= outside.x + outside.width - region.x - region.width < pixel
    assert 0 <= outside.y + outside.height - region.y - region.height < pixel


def test_a_box_of_a_part_is_told_in_the_published_image() -> None:
    part = whole(noise(256, 192)).part(Box(64, 32, 128, 64), 0.25)
    assert part is not None
    assert part.image.shape == (16, 32)
    assert part.outside(2, 1, 8, 4) == Box(72, 36, 32, 16)


def test_a_part_at_full_size_is_those_very_pixels() -> None:
    image = noise(251, 187)
    part = whole(image).part(Box(20, 10, 100, 90), 1)
    assert part is not None
    assert np.array_equal(part.image, image[10:100, 20:120])


def test_of_a_region_across_the_border_there_is_what_is_inside() -> None:
    image = noise(251, 187)
    pyramid = whole(image)
    first = pyramid.part(Box(-30, -20, 50, 60), 1)
    last = pyramid.part(Box(231, 170, 50, 60), 1)
    assert first is not None and last is not None
    assert first[1:3] == (0, 0) and np.array_equal(first.image, image[:40, :20])
    assert last[1:3] == (231, 170) and np.array_equal(last.image, image[170:, 231:])


@pytest.mark.parametrize(
    'region',
    [
        Box(-60, 40, 60, 60), Box(256, 40, 60, 60), Box(40, -60, 60, 60), Box(40, 192, 60, 60),
        Box(40, 40, 0, 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize('scale', [1, 0.5, 0.3])
def test_where_nothing_is_inside_there_is_no_part(region: Box, scale: float) -> None:
    assert whole(noise(256, 192)).part(region, scale) is None


# -- patches -------------------------------------------------------------------------------------


@pytest.mark.parametrize('box', [Box(60, 40, 96, 96), Box(40.3, 50.6, 77.7, 77.7)])
@pytest.mark.parametrize('size_px', [12, 24, 48, 100, 150])
@pytest.mark.parametrize('reduction', [1, 2, 4])
def test_a_patch_is_its_box_to_a_fraction_of_a_pixel(
    box: Box, size_px: int, reduction: int
) -> None:
    for down, start, side in ((False, box.x, box.width), (True, box.y, box.height)):
        shown = place_shown(
            (251, 187), reduction, down, operator.methodcaller('patch', box, size_px)
        )
        expected = start + (np.arange(size_px) + 0.5) * side / size_px - 0.5
        assert len(shown) == size_px
        assert is_close(shown, expected)


def test_a_patch_at_full_size_is_those_very_pixels() -> None:
    image = noise(251, 187)
    assert np.array_equal(whole(image).patch(Box(21, 33, 50, 50), 50), image[33:83, 21:71])


def test_beyond_the_image_a_patch_repeats_the_border() -> None:
    image = noise(256, 192)
    patch = whole(image).patch(Box(-20, 172, 40, 40), 40)
    assert np.array_equal(patch[:20, 20:], image[172:, :20])
    assert np.array_equal(patch[:20, :20], np.repeat(image[172:, :1], 20, axis=1))
    assert np.array_equal(patch[20:, 20:], np.repeat(image[-1:, :20], 20, axis=0))
