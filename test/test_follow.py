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
"""A face's square followed from image to image: by fractions of a pixel, and not onto others."""

from __future__ import annotations

import functools
import types

import cv2
import numpy as np
import pytest

from bench.robot import scenes
from ferros.follow import Followed, face_patch, follow, likeness, normalised
from ferros.image import decode_reduced
from ferros.pyramid import Pyramid
from ferros.types import Box, CameraFrame

pytestmark = pytest.mark.usefixtures('one_thread')

# A face in the portrait's image, and as large a place in a room: what moves need not be a face.
FACE = Box(226.7, 88.0, 118.7, 118.7)
SHIFTS = [(0, 0), (0.5, 0.25), (3.3, -2.7), (-12.4, 7.6), (25.5, 0), (-1.7, -31.2)]
NO_GUESS = (0.0, 0.0)


@pytest.fixture(params=['portrait', 'room'])
def image(request: pytest.FixtureRequest) -> np.ndarray:
    if request.param == 'room':
        return scenes.room(0)
    try:
        return request.getfixturevalue('happy')
    except RuntimeError as err:
        pytest.skip(str(err))


@pytest.fixture
def portrait(request: pytest.FixtureRequest) -> np.ndarray:
    try:
        return request.getfixturevalue('happy')
    except RuntimeError as err:
        pytest.skip(str(err))


def pyramid(image: np.ndarray) -> Pyramid:
    return Pyramid(CameraFrame(image, 0, 0))


def decoded(image: np.ndarray, reduction: int) -> Pyramid:
    """Return an image's pyramid after it came as a JPEG and was decoded that much smaller."""
    _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    message = types.SimpleNamespace(data=data.reshape(-1), format='jpeg')
    small = decode_reduced(message, lambda width, height: reduction)
    return Pyramid(CameraFrame(small.luma, 0, 0, '', small.reduction, small.size_px))


def moved(
    image: np.ndarray, shift_px: tuple[float, float], factor: float = 1.0, box: Box = FACE
) -> np.ndarray:
    """Return an image that has grown about a box's centre and then moved."""
    # The first pixel's centre is at 0.5.
    (x, y), (shift_x, shift_y) = box.centre, shift_px
    turn = np.array(
        [
            [factor, 0, (1 - factor) * (x - 0.5) + shift_x],
            [0, factor, (1 - factor) * (y - 0.5) + shift_y],
        ]
    )
    size = image.shape[1], image.shape[0]
    return cv2.warpAffine(image, turn, size, borderMode=cv2.BORDER_REPLICATE)


def expect(
    found: Followed | None, shift_px: tuple[float, float], factor: float = 1.0, box: Box = FACE
) -> None:
    """Compare with the truth: to half a pixel, and where it grew to a fiftieth of its side."""
    assert found is not None
    near_px = 0.5 if factor == 1 else 0.02 * box.width
    assert found.box.centre[0] == pytest.approx(box.centre[0] + shift_px[0], abs=near_px)
    assert found.box.centre[1] == pytest.approx(box.centre[1] + shift_px[1], abs=near_px)
    assert found.box.width == pytest.approx(factor * box.width, rel=0.012)
    assert found.box.height == pytest.approx(factor * box.height, rel=0.012)


# -- where it went -------------------------------------------------------------------------------


@pytest.mark.parametrize('shift_px', SHIFTS)
def test_a_face_that_moved_is_found_to_half_a_pixel(
    image: np.ndarray, shift_px: tuple[float, float]
) -> None:
    now = pyramid(moved(image, shift_px))
    expect(follow(pyramid(image), now, FACE, NO_GUESS), shift_px)


def test_a_face_that_stood_still_is_where_it_was_with_all_its_points(image: np.ndarray) -> None:
    found = follow(pyramid(image), pyramid(image), FACE, NO_GUESS)
    assert found is not None
    assert found.box == pytest.approx(FACE, abs=0.02)
    assert found.share > 0.85


@pytest.mark.parametrize('off_px', [(0, 0), (12, -9), (-10, 11)])
def test_a_motion_of_most_of_a_face_is_found_where_it_is_guessed_about(
    image: np.ndarray, off_px: tuple[float, float]
) -> None:
    shift_px = (-88.5, 41.25)
    guess_px = shift_px[0] + off_px[0], shift_px[1] + off_px[1]
    found = follow(pyramid(image), pyramid(moved(image, shift_px)), FACE, guess_px)
    expect(found, shift_px)


@pytest.mark.parametrize('side', [30.0, 60.0, 200.0])
def test_a_face_is_followed_at_any_size(portrait: np.ndarray, side: float) -> None:
    scale = side / FACE.width
    size = round(scale * portrait.shape[1]), round(scale * portrait.shape[0])
    image = cv2.resize(portrait, size, interpolation=cv2.INTER_AREA)
    box, shift_px = FACE.scaled(scale), (0.06 * side, -0.11 * side)
    now = pyramid(moved(image, shift_px, box=box))
    expect(follow(pyramid(image), now, box, NO_GUESS), shift_px, box=box)


@pytest.mark.parametrize('factor', [0.91, 0.95, 1.05, 1.1])
@pytest.mark.parametrize('shift_px', [(0, 0), (6.5, -4.25)])
def test_a_face_that_comes_nearer_grows_and_one_that_goes_shrinks(
    image: np.ndarray, factor: float, shift_px: tuple[float, float]
) -> None:
    now = pyramid(moved(image, shift_px, factor))
    expect(follow(pyramid(image), now, FACE, NO_GUESS), shift_px, factor)


@pytest.mark.parametrize('factor', [0.91, 1.1])
@pytest.mark.parametrize('at_left', [True, False])
def test_a_face_half_outside_the_image_grows_about_its_middle(
    portrait: np.ndarray, factor: float, at_left: bool
) -> None:
    # A column of points is lost, so that the rest lies to one side of the middle.
    cut = slice(252, None) if at_left else slice(None, 318)
    left = 252 if at_left else 0
    box = FACE._replace(x=FACE.x - left)
    before, now = portrait[:, cut], moved(portrait, (0, 0), factor)[:, cut]
    found = follow(
        pyramid(np.ascontiguousarray(before)), pyramid(np.ascontiguousarray(now)), box, NO_GUESS
    )
    assert found is not None and found.share < 1
    assert found.box.width == pytest.approx(factor * box.width, rel=0.012)
    assert found.box.centre[0] == pytest.approx(box.centre[0], abs=0.6)


@pytest.mark.parametrize(
    ('before', 'now'), [(1, 1), (2, 2), (4, 4), (1, 4), (4, 1), (2, 4), (2, 1)]
)
def test_how_small_the_images_were_decoded_makes_no_difference(
    portrait: np.ndarray, before: int, now: int
) -> None:
    # Of odd size, which the decoder rounds up and a pyramid down.
    image, shift_px = np.ascontiguousarray(portrait[:353, :635]), (7.5, -3.25)
    found = follow(decoded(image, before), decoded(moved(image, shift_px), now), FACE, NO_GUESS)
    expect(found, shift_px)


# -- what is not followed ------------------------------------------------------------------------


@pytest.mark.parametrize('factor', [0.75, 1.4])
def test_what_grows_or_shrinks_at_once_as_no_face_does_is_not_followed(
    portrait: np.ndarray, factor: float
) -> None:
    now = pyramid(moved(portrait, (0, 0), factor))
    assert follow(pyramid(portrait), now, FACE, NO_GUESS) is None


@functools.lru_cache
def someone(look: int | None, room: int = 0) -> tuple[np.ndarray, Box]:
    """Return an image of a room with someone in it, and the square of the face."""
    place = scenes.Place(640, 260, 140)
    actors = () if look is None else (scenes.Actor('someone', look, lambda time_s: place),)
    scene = scenes.Scene('still', 1.0, actors, cuts_s=(0.0,) * room)
    try:
        return next(scenes.render(scene)).image, scenes.face_box(place)
    except RuntimeError as err:
        pytest.skip(str(err))


@pytest.mark.parametrize('room', [0, 1])
def test_a_face_that_is_gone_is_not_followed(room: int) -> None:
    (before, box), (now, _) = someone(0), someone(None, room)
    assert follow(pyramid(before), pyramid(now), box, NO_GUESS) is None


@pytest.mark.parametrize('room', [0, 1])
@pytest.mark.parametrize('look', [1, 2, 3])
def test_somebody_else_at_the_same_place_is_not_taken_for_the_face(look: int, room: int) -> None:
    (before, box), (now, _) = someone(0), someone(look, room)
    assert follow(pyramid(before), pyramid(now), box, NO_GUESS) is None
    first, other = face_patch(pyramid(before), box), face_patch(pyramid(now), box)
    assert likeness(first, other) < 0.6


def test_the_same_face_is_followed_into_another_room() -> None:
    (before, box), (now, _) = someone(0), someone(0, 1)
    expect(follow(pyramid(before), pyramid(now), box, NO_GUESS), (0, 0), box=box)


def hide(image: np.ndarray, share: float) -> np.ndarray:
    """Return an image in which something stands before the right part of where the face was."""
    left = int(FACE.x + (1 - share) * FACE.width)
    hidden = image.copy()
    hidden[:, left : left + 200] = scenes.room(5)[: image.shape[0], left : left + 200]
    return hidden


def test_the_more_of_a_face_is_hidden_the_fewer_points_are_found(portrait: np.ndarray) -> None:
    shift_px = (4.0, 2.0)
    shares = []
    for hidden in (0, 0.25, 0.45):
        now = pyramid(hide(moved(portrait, shift_px), hidden))
        found = follow(pyramid(portrait), now, FACE, NO_GUESS)
        expect(found, shift_px)
        shares.append(found.share if found else 0.0)
    assert shares[0] > shares[1] > shares[2]
    now = pyramid(hide(moved(portrait, shift_px), 0.9))
    assert follow(pyramid(portrait), now, FACE, NO_GUESS) is None


def test_a_face_that_goes_behind_something_does_not_shrink(portrait: np.ndarray) -> None:
    # Points on the pillar's edge stay with the pillar, towards which the others move.
    before, now = hide(portrait, 0.3), hide(moved(portrait, (30, 2)), 0.3)
    found = follow(pyramid(before), pyramid(now), FACE, NO_GUESS)
    assert found is not None
    assert found.box.width == pytest.approx(FACE.width, rel=0.03)


@pytest.mark.parametrize(
    'box',
    [Box(-400, 80, 100, 100), Box(1000, 80, 100, 100), Box(200, 900, 90, 90),
     Box(-400, -400, 100, 100), Box(10, -300, 90, 90)],
)  # fmt: skip
def test_a_square_outside_the_image_is_not_followed(box: Box) -> None:
    room = pyramid(np.ascontiguousarray(scenes.room(0)[:360, :640]))
    assert follow(room, room, box, NO_GUESS) is None


@pytest.mark.parametrize('guess_px', [(5000.0, 0.0), (0.0, -5000.0), (-900.0, 900.0)])
def test_a_guess_outside_the_image_finds_nothing_there(guess_px: tuple[float, float]) -> None:
    room = pyramid(scenes.room(0))
    assert follow(room, room, FACE, guess_px) is None


def test_where_nothing_varies_there_is_nothing_to_follow() -> None:
    wall = pyramid(np.full((360, 640), 90, np.uint8))
    assert follow(pyramid(scenes.room(0)[:360, :640].copy()), wall, FACE, NO_GUESS) is None


# -- how alike two squares are -------------------------------------------------------------------


def test_a_patch_has_mean_0_and_length_1_and_is_itself(image: np.ndarray) -> None:
    patch = face_patch(pyramid(image), FACE)
    assert patch.dtype == np.float32 and patch.ndim == 1
    assert patch.mean() == pytest.approx(0, abs=1e-6)
    assert np.linalg.norm(patch) == pytest.approx(1, abs=1e-5)
    assert likeness(patch, patch) == pytest.approx(1, abs=1e-5)
    assert likeness(patch, -patch) == pytest.approx(-1, abs=1e-5)


def test_light_does_not_change_a_patch_and_its_negative_is_its_opposite() -> None:
    values = np.random.default_rng(1).integers(40, 110, (24, 24)).astype(np.uint8)
    patch = normalised(values)
    assert likeness(patch, normalised(2 * values)) == pytest.approx(1, abs=1e-5)
    assert likeness(patch, normalised(values + np.uint8(90))) == pytest.approx(1, abs=1e-5)
    assert likeness(patch, normalised(255 - values)) == pytest.approx(-1, abs=1e-5)
    assert values.max() < 110  # What was given is left as it was.


def test_a_patch_in_which_only_noise_varies_is_like_nothing(image: np.ndarray) -> None:
    noise = np.random.default_rng(2).integers(90, 92, (24, 24)).astype(np.uint8)
    for dull in (np.full((24, 24), 255, np.uint8), noise):
        assert not normalised(dull).any()
        assert likeness(normalised(dull), face_patch(pyramid(image), FACE)) == 0
        assert likeness(normalised(dull), normalised(dull)) == 0
    # With twice the contrast of noise there is something.
    assert normalised(3 * (noise - np.uint8(60))).any()


def test_a_face_is_most_like_itself_exactly_where_it_is(portrait: np.ndarray) -> None:
    before = face_patch(pyramid(portrait), FACE)
    now = pyramid(moved(portrait, (6.5, -4.25)))
    there = FACE._replace(x=FACE.x + 6.5, y=FACE.y - 4.25)
    alike = likeness(before, face_patch(now, there))
    assert alike > 0.98
    for x, y in ((8, 0), (-8, 0), (0, 8), (0, -8)):
        beside = there._replace(x=there.x + x, y=there.y + y)
        assert likeness(before, face_patch(now, beside)) < alike - 0.02
