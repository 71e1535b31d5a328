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
"""A face is followed by what it shows, and not where that is gone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from demo import clip
from ferros.follow import face_patch, follow, likeness
from ferros.pyramid import Pyramid
from ferros.types import Box, CameraFrame

# The face in the portrait.
FACE = Box(224 - 51, 118 - 51, 102, 102)


@pytest.fixture(scope='module')
def portrait() -> np.ndarray:
    try:
        colour = clip.portrait()
    except RuntimeError as missing:
        pytest.skip(str(missing))
    return cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)


def pyramid(image: np.ndarray, reduction: int = 1) -> Pyramid:
    size_px = image.shape[1], image.shape[0]
    if reduction > 1:
        image = cv2.resize(
            image, None, fx=1 / reduction, fy=1 / reduction, interpolation=cv2.INTER_AREA
        )
    return Pyramid(CameraFrame(image, 0, 0, '', reduction, size_px))


def moved(image: np.ndarray, right: float, down: float, zoom: float = 1.0) -> np.ndarray:
    """Return the image after the camera moved: zoomed about the face, then shifted."""
    turn = cv2.getRotationMatrix2D(FACE.centre, 0, zoom)
    turn[:, 2] += right, down
    return cv2.warpAffine(
        image, turn, (image.shape[1], image.shape[0]), borderMode=cv2.BORDER_REFLECT
    )


def noisy(image: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 2, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('reductions', [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize(
    ('right', 'down', 'zoom'),
    [(0, 0, 1.0), (3.4, -2.1, 1.0), (-21, 9, 1.0), (0, 0, 1.06), (0, 0, 0.95), (12, 5, 1.04)],
)
def test_it_is_found_where_it_went(
    portrait: np.ndarray, right: float, down: float, zoom: float, reductions: tuple[int, int]
) -> None:
    """However the images before and after were decoded."""
    before = pyramid(noisy(portrait, 1), reductions[0])
    now = pyramid(noisy(moved(portrait, right, down, zoom), 2), reductions[1])
    found = follow(before, now, FACE, (0, 0))
    assert found is not None
    assert found.share > 0.9
    x, y = found.box.centre
    assert x == pytest.approx(FACE.centre[0] + right, abs=1.5)
    assert y == pytest.approx(FACE.centre[1] + down, abs=1.5)
    assert found.box.width == pytest.approx(zoom * FACE.width, rel=0.02)
    assert found.box.width == found.box.height


def test_over_many_images_it_hardly_drifts(portrait: np.ndarray) -> None:
    box, before = FACE, pyramid(noisy(portrait, 0))
    for index in range(1, 31):
        right, down = 60 * np.sin(index / 5), 20 * np.sin(index / 3)
        now = pyramid(noisy(moved(portrait, right, down), index))
        found = follow(before, now, box, (0, 0))
        assert found is not None
        box, before = found.box, now
    assert box.centre[0] == pytest.approx(FACE.centre[0] + right, abs=4)
    assert box.centre[1] == pytest.approx(FACE.centre[1] + down, abs=4)
    assert box.width == pytest.approx(FACE.width, rel=0.06)


def test_a_guess_finds_what_has_moved_far(portrait: np.ndarray) -> None:
    before, now = pyramid(portrait), pyramid(moved(portrait, 150, 0))
    found = follow(before, now, FACE, (140, 10))
    assert found is not None
    assert found.box.centre[0] == pytest.approx(FACE.centre[0] + 150, abs=1.5)


def test_what_is_gone_is_not_found_or_does_not_look_the_same(portrait: np.ndarray) -> None:
    random = np.random.default_rng(5)
    coarse = random.integers(0, 256, (40, 40)).astype(np.uint8)
    wall = cv2.resize(coarse, (512, 512), interpolation=cv2.INTER_CUBIC)
    before = pyramid(portrait)
    reference = face_patch(before, FACE)
    for now in (pyramid(wall), pyramid(np.full((512, 512), 90, np.uint8))):
        found = follow(before, now, FACE, (0, 0))
        assert found is None or likeness(face_patch(now, found.box), reference) < 0.5


def test_partly_hidden_it_keeps_its_size_and_fewer_points_arrive(portrait: np.ndarray) -> None:
    now = moved(portrait, 4, 0)
    now[:, 160:196] = 60
    found = follow(pyramid(portrait), pyramid(now), FACE, (0, 0))
    assert found is not None
    assert found.share < 0.9
    assert found.box.width == pytest.approx(FACE.width, rel=0.05)
    assert found.box.centre[0] == pytest.approx(FACE.centre[0] + 4, abs=3)


def test_a_face_that_leaves_the_image_is_lost(portrait: np.ndarray) -> None:
    edge = portrait[:, 250:]
    assert follow(pyramid(edge), pyramid(edge), Box(-300, 60, 100, 100), (0, 0)) is None


def test_images_of_odd_size_may_be_a_pixel_apart(portrait: np.ndarray) -> None:
    odd = portrait[:511, :509]
    whole = pyramid(odd)
    # Reduced by a decoder the size is rounded up.
    half = cv2.resize(odd, (255, 256), interpolation=cv2.INTER_AREA)
    reduced = Pyramid(CameraFrame(half, 0, 0, '', 2, (509, 511)))
    found = follow(whole, reduced, FACE, (0, 0))
    assert found is not None
    assert found.box.centre == pytest.approx(FACE.centre, abs=1.5)


def test_patches_are_compared_whatever_the_light(portrait: np.ndarray) -> None:
    dark = np.clip(portrait * 0.4 + 10, 0, 255).astype(np.uint8)
    one, other = face_patch(pyramid(portrait), FACE), face_patch(pyramid(dark), FACE)
    assert likeness(one, other) > 0.98
    assert likeness(one, one) == pytest.approx(1)


def test_where_nothing_varies_nothing_is_alike() -> None:
    flat = face_patch(pyramid(np.full((300, 300), 77, np.uint8)), Box(50, 50, 100, 100))
    assert likeness(flat, flat) == 0
