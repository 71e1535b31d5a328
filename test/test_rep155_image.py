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
"""The picture of a face as REP-155 has it: scaled, centred, padded with zeros, and read back."""

from __future__ import annotations

import numpy as np
import pytest

from ferros.rep155_image import padded, unpadded
from ferros.types import Box

SIDE_PX = 128


def camera_image(channels: int = 3) -> np.ndarray:
    """Return an image in which every pixel is lit and every value tells where it is from."""
    rows, columns = np.mgrid[0:240, 0:320]
    planes = [1 + (rows + 2 * columns + 50 * k) % 255 for k in range(channels)]
    image = np.stack(planes, axis=2).astype(np.uint8)
    return image if channels > 1 else image[:, :, 0]


@pytest.mark.parametrize('channels', [1, 3])
def test_a_face_of_the_pictures_size_is_copied_as_it_is(channels):
    image = camera_image(channels)
    picture = padded(image, Box(40, 30, SIDE_PX, SIDE_PX))
    assert picture is not None
    assert np.array_equal(picture, image[30:158, 40:168])


@pytest.mark.parametrize('side_px', [16, 32, 64, 100, 200])
def test_a_square_face_fills_the_picture_whatever_its_size(side_px):
    picture = padded(camera_image(), Box(10, 10, side_px, side_px))
    assert picture is not None
    assert picture.shape == (SIDE_PX, SIDE_PX, 3) and picture.dtype == np.uint8
    assert (picture.max(axis=2) > 0).all()


def test_a_face_at_the_border_is_centred_and_padded_with_zeros():
    image = camera_image()
    # A square of 128, a quarter of which is left of the image.
    picture = padded(image, Box(-32, 60, SIDE_PX, SIDE_PX))
    assert picture is not None
    assert not picture[:, :16].any() and not picture[:, 112:].any()
    assert np.array_equal(picture[:, 16:112], image[60:188, :96])


def test_a_face_in_the_corner_keeps_its_proportions():
    # 50 x 100 of it are in the image: scaled by 1.28.
    picture = padded(camera_image(), Box(320 - 50, 240 - 100, 100, 100))
    assert picture is not None
    lit = np.flatnonzero(picture.any(axis=(0, 2)))
    assert (lit[0], lit[-1] + 1) == (32, 96)
    assert picture.any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    'box', [Box(-200, 0, 100, 100), Box(0, 240, 10, 10), Box(20, 20, 0, 0), Box(5, 5, 0.3, 0.3)]
)
def test_a_face_outside_the_image_has_no_picture(box):
    assert padded(camera_image(), box) is None


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('left_px', [-60, -1, 0, 90])
def test_what_was_padded_is_found_again(channels, left_px):
    image = camera_image(channels)
    picture = padded(image, Box(left_px, 30, SIDE_PX, SIDE_PX))
    assert picture is not None
    face = unpadded(picture)
    assert face is not None
    assert np.array_equal(face, image[30:158, max(0, left_px) : left_px + SIDE_PX])


def test_dark_pixels_inside_a_face_are_no_padding():
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[10:30, 5:55, 1] = 9
    picture[15:25, 20:40] = 0
    face = unpadded(picture)
    assert face is not None and face.shape == (20, 50, 3)


def test_a_picture_that_is_all_black_holds_no_face():
    assert unpadded(np.zeros((SIDE_PX, SIDE_PX), np.uint8)) is None
