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
"""What a camera's view does from image to image: it stays, it turns, or it is another one."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from bench.robot import scenes
from ferros.pyramid import Pyramid
from ferros.scenery import NONE, Change, Scenery
from ferros.types import CameraFrame

pytestmark = pytest.mark.usefixtures('one_thread')

ROOMS = range(3)
WIDTH, HEIGHT = scenes.WIDTH_PX, scenes.HEIGHT_PX


def pyramid(image: np.ndarray, reduction: int = 1) -> Pyramid:
    """Return the pyramid of an image that was decoded that much smaller."""
    height, width = image.shape[:2]
    if reduction > 1:
        size = width // reduction, height // reduction
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return Pyramid(CameraFrame(image, 0, 0, '', reduction, (width, height)))


def changes(*images: np.ndarray) -> list[Change]:
    scenery = Scenery()
    return [scenery.change(pyramid(image)) for image in images]


@functools.lru_cache
def wide(room: int) -> np.ndarray:
    """Return a view of which a camera sees a part."""
    return cv2.resize(scenes.room(room), None, fx=1.5, fy=1.5)


def looking(
    room: int, right: int, down: int, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> np.ndarray:
    """Return what a camera sees that has turned by so many px."""
    left, top = 320 + right, 180 + down
    return np.ascontiguousarray(wide(room)[top : top + size[1], left : left + size[0]])


def exposed(image: np.ndarray, gain: float, offset: float = 0.0) -> np.ndarray:
    return np.clip(gain * image.astype(np.float64) + offset, 0, 255).astype(np.uint8)


def play(scene: scenes.Scene, seconds: float = 0.0) -> Iterator[tuple[float, Change]]:
    """Yield the time in seconds of each image of a scene and what is told of it."""
    scenery = Scenery()
    try:
        for frame in scenes.render(scene, rate_fps=5, seconds=seconds):
            time_s = (frame.stamp_ns - scenes.START_NS) / 1e9
            yield time_s, scenery.change(pyramid(frame.image))
    except RuntimeError as err:
        pytest.skip(str(err))


# -- it stays ------------------------------------------------------------------------------------


@pytest.mark.parametrize('room', ROOMS)
def test_a_camera_that_stands_still_sees_the_same(room: int) -> None:
    assert changes(*[scenes.room(room)] * 3) == [NONE, NONE, NONE]
    assert NONE == (1.0, False, False, 0.0, 0.0)


@pytest.mark.parametrize('room', ROOMS)
@pytest.mark.parametrize(
    ('gain', 'offset'), [(0.5, 0), (0.7, 0), (1.3, 0), (1.5, 0), (1, 40), (1, -40), (0.7, 50)]
)
def test_another_exposure_is_no_other_view_and_no_turn(
    room: int, gain: float, offset: float
) -> None:
    view = scenes.room(room)
    for _, *told in (changes(view, exposed(view, gain, offset)),
                     changes(exposed(view, gain, offset), view)):  # fmt: skip
        assert told[0].same > 0.9
        assert told[0][1:] == NONE[1:]


@pytest.mark.parametrize('scene', [scenes.MOVING, scenes.APPROACH], ids=['moving', 'approach'])
def test_someone_who_walks_through_is_no_cut_and_no_turn(scene: scenes.Scene) -> None:
    for _, change in play(scene, seconds=2.5):
        assert change.same > 0.5
        assert change[1:] == NONE[1:]


def test_people_who_pass_each_other_are_no_cut() -> None:
    for _, change in play(scenes.CROSSING_FAST, seconds=2.5):
        assert not change.is_other and not change.is_back


@pytest.mark.parametrize('room', ROOMS)
def test_how_small_an_image_was_decoded_makes_no_difference(room: int) -> None:
    scenery = Scenery()
    for reduction in (1, 4, 2, 8, 1):
        change = scenery.change(pyramid(scenes.room(room), reduction))
        assert change.same > 0.98
        assert change[1:] == NONE[1:]


# -- it turns ------------------------------------------------------------------------------------

TURNS = [(60, 0), (-100, 0), (200, 0), (0, 100), (0, -100), (-60, -140), (110, -70)]


@pytest.mark.parametrize('room', ROOMS)
@pytest.mark.parametrize(('right', 'down'), TURNS)
def test_when_the_camera_turns_the_view_moves_the_other_way(
    room: int, right: int, down: int
) -> None:
    _, change = changes(looking(room, 0, 0), looking(room, right, down))
    # To the pixel of what is compared.
    assert change.shift_x_px == pytest.approx(-right, abs=WIDTH / 64)
    assert change.shift_y_px == pytest.approx(-down, abs=HEIGHT / 36)
    # Of what is still in the image, all is the same.
    assert change.same > 0.75
    assert not change.is_other and not change.is_back


@pytest.mark.parametrize('size', [(640, 480), (480, 640), (333, 251), (1280, 720)])
@pytest.mark.parametrize('reduction', [1, 4])
def test_a_turn_is_told_in_px_of_the_published_image_whatever_its_shape(
    size: tuple[int, int], reduction: int
) -> None:
    right, down = size[0] // 8, -size[1] // 8
    scenery = Scenery()
    scenery.change(pyramid(looking(1, 0, 0, size), reduction))
    change = scenery.change(pyramid(looking(1, right, down, size), reduction))
    assert change.shift_x_px == pytest.approx(-right, abs=size[0] / 64)
    assert change.shift_y_px == pytest.approx(-down, abs=size[1] / 36)


@pytest.mark.parametrize('room', ROOMS)
def test_a_turn_is_told_from_the_image_just_before_and_through_a_change_of_exposure(
    room: int,
) -> None:
    views = [looking(room, right, 0) for right in (0, 100, 100, 0)]
    views = [exposed(view, gain) for view, gain in zip(views, (1, 0.7, 1, 0.8), strict=True)]
    shifts = [change.shift_x_px for change in changes(*views)]
    assert shifts == pytest.approx([0, -100, 0, 100], abs=WIDTH / 64)
    assert shifts[0] == shifts[2] == 0


# -- it is another one ---------------------------------------------------------------------------


@pytest.mark.parametrize('first', ROOMS)
def test_a_cut_is_another_view_and_none_that_was_turned_to(first: int) -> None:
    for second in range(first + 1, 7):
        _, change = changes(scenes.room(first), scenes.room(second))
        assert change.is_other and not change.is_back
        assert change.same < 0.4
        assert (change.shift_x_px, change.shift_y_px) == (0, 0)


def test_a_recording_is_cut_where_it_is_cut_and_nowhere_else() -> None:
    cuts_s = [time_s for time_s, change in play(scenes.CUT) if change.is_other]
    assert cuts_s == pytest.approx(scenes.CUT.cuts_s)


def test_the_view_that_was_left_is_known_again_once_it_is_back() -> None:
    here, there = scenes.room(0), scenes.room(1)
    told = changes(here, there, there, exposed(here, 0.8), here, here)
    assert [change.is_other for change in told] == [False, True, False, True, False, False]
    assert [change.is_back for change in told] == [False, False, False, True, False, False]


def test_a_third_view_is_not_the_first_one_back() -> None:
    told = changes(scenes.room(0), scenes.room(1), scenes.room(2), scenes.room(1))
    assert [change.is_other for change in told] == [False, True, True, True]
    # It is the view just left that may be back, not one from before.
    assert [change.is_back for change in told] == [False, False, False, True]


def test_after_a_reset_nothing_is_known_of_views_before() -> None:
    scenery = Scenery()
    scenery.change(pyramid(scenes.room(0)))
    assert scenery.change(pyramid(scenes.room(1))).is_other
    scenery.reset()
    assert scenery.change(pyramid(scenes.room(2))) == NONE
    assert scenery.change(pyramid(scenes.room(2))) == NONE
    scenery.reset()
    scenery.change(pyramid(scenes.room(1)))
    assert not scenery.change(pyramid(scenes.room(0))).is_back


# -- nothing to compare --------------------------------------------------------------------------


@pytest.mark.parametrize('grey', [0, 128, 255])
def test_an_image_in_which_nothing_varies_tells_nothing(grey: int) -> None:
    random = np.random.default_rng(5)
    wall = np.full((HEIGHT, WIDTH), grey, np.uint8)
    noisy = exposed(wall + random.normal(0, 2, wall.shape), 1)
    assert changes(wall, wall, noisy, wall) == [NONE] * 4
    # The lens was covered, and the view after that has none to be compared with.
    assert changes(scenes.room(0), wall, scenes.room(1)) == [NONE] * 3


@pytest.mark.parametrize('size', [(1, 1), (5, 3), (60, 40), (97, 2)])
def test_a_tiny_image_is_compared_too(size: tuple[int, int]) -> None:
    image = cv2.resize(scenes.room(0), size, interpolation=cv2.INTER_AREA)
    assert changes(image, image)[1] == NONE
