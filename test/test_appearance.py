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
"""A person looks like himself in other light, at another size and place, and not like others."""

from __future__ import annotations

import functools
import itertools
import math

import cv2
import numpy as np
import pytest

from bench.robot import scenes
from ferros.appearance import Appearance, appearance
from ferros.pyramid import Pyramid
from ferros.types import Box, CameraFrame

pytestmark = pytest.mark.usefixtures('one_thread')

PEOPLE = (0, 1, 2, 3)
# So much more than anybody else is somebody like himself.
CLEARLY = 0.2


def look_of(image: np.ndarray, box: Box) -> Appearance:
    return appearance(Pyramid(CameraFrame(image, 0, 0)), box)


@functools.lru_cache
def someone(
    person: int, x: float = 640, y: float = 260, side: float = 140, room: int = 0
) -> tuple[np.ndarray, Box]:
    """Return an image of a person in a room, and the square of the face."""
    place = scenes.Place(x, y, side)
    actor = scenes.Actor('someone', person, lambda time_s: place)
    scene = scenes.Scene('still', 1.0, (actor,), cuts_s=(0.0,) * room)
    try:
        return next(scenes.render(scene)).image, scenes.face_box(place)
    except RuntimeError as err:
        pytest.skip(str(err))


@pytest.fixture(scope='module')
def known() -> dict[int, Appearance]:
    """Return what everybody looks like."""
    return {person: look_of(*someone(person)) for person in PEOPLE}


def expect_only(known: dict[int, Appearance], person: int, look: Appearance) -> None:
    """Compare a look with everybody, either way."""
    for one, other in ((0, 1), (1, 0)):
        alike = {}
        for number, their in known.items():
            pair = (their, look)
            alike[number] = pair[one].likeness(pair[other])
        own = alike.pop(person)
        assert own > max(alike.values()) + CLEARLY
        assert own > 0.4


# -- who it is -----------------------------------------------------------------------------------


@pytest.mark.parametrize('person', PEOPLE)
def test_a_person_is_wholly_like_himself_and_unlike_others(
    known: dict[int, Appearance], person: int
) -> None:
    assert known[person].likeness(known[person]) == pytest.approx(1, abs=1e-4)
    assert known[person].likeness(known[person]) <= 1
    expect_only(known, person, known[person])


@pytest.mark.parametrize('person', PEOPLE)
@pytest.mark.parametrize('gain', [0.4, 0.7, 1.3])
def test_a_person_is_known_in_other_light(
    known: dict[int, Appearance], person: int, gain: float
) -> None:
    image, box = someone(person)
    lit = np.clip(gain * image.astype(np.float64), 0, 255).astype(np.uint8)
    expect_only(known, person, look_of(lit, box))


@pytest.mark.parametrize('person', PEOPLE)
@pytest.mark.parametrize('side', [60, 90, 220])
def test_a_person_is_known_nearer_and_further_away_and_elsewhere(
    known: dict[int, Appearance], person: int, side: float
) -> None:
    expect_only(known, person, look_of(*someone(person, 500, 290, side, room=2)))


@pytest.mark.parametrize('person', PEOPLE)
@pytest.mark.parametrize('off', [(0.1, 0, 1), (-0.1, 0.05, 1), (0, -0.03, 1.1), (0.04, 0, 0.9)])
def test_a_square_that_is_somewhat_off_still_shows_the_person(
    known: dict[int, Appearance], person: int, off: tuple[float, float, float]
) -> None:
    image, box = someone(person)
    right, down, factor = off
    (x, y), side = box.centre, factor * box.width
    square = Box(x + right * box.width - side / 2, y + down * box.width - side / 2, side, side)
    expect_only(known, person, look_of(image, square))


@pytest.mark.parametrize('person', PEOPLE)
@pytest.mark.parametrize('reduction', [2, 4])
def test_a_person_is_known_in_an_image_that_was_decoded_small(
    known: dict[int, Appearance], person: int, reduction: int
) -> None:
    image, box = someone(person)
    height, width = image.shape[:2]
    size = width // reduction, height // reduction
    luma = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
    frame = CameraFrame(small, 0, 0, '', reduction, (width, height))
    look = appearance(Pyramid(frame), box)
    expect_only(known, person, look)
    assert look.clothes == pytest.approx(known[person].clothes, abs=0.02)
    assert look.hair == pytest.approx(known[person].hair, abs=0.02)


# -- what else tells people apart, of anything that has a pattern --------------------------------

PLACE = Box(560, 200, 120, 120)


def dyed(image: np.ndarray, rows: slice, gain: float) -> np.ndarray:
    """Return an image of which some rows are darker or brighter."""
    other = image.astype(np.float64)
    other[rows] *= gain
    return np.clip(other, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('room', range(4))
def test_a_place_is_like_itself_in_other_light_and_size_and_unlike_another(room: int) -> None:
    image = scenes.room(room)
    look = look_of(image, PLACE)
    dark = look_of(dyed(image, slice(None), 0.5), PLACE)
    small = cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    for own in (dark, look_of(small, PLACE.scaled(0.6))):
        assert look.likeness(own) > 0.9
        assert own.likeness(look) > 0.9
    assert look.likeness(look_of(scenes.room(room + 4), PLACE)) < 0.6


@pytest.mark.parametrize('rows', [slice(335, None), slice(None, 200)], ids=['clothes', 'hair'])
def test_other_clothes_or_other_hair_make_one_less_alike_the_more_they_differ(
    rows: slice,
) -> None:
    image = (20 + 0.3 * scenes.room(0)).astype(np.uint8)
    look = look_of(image, PLACE)
    for gains in ((1, 0.8, 0.6, 0.4), (1, 1.3, 1.7, 2.2)):
        others = [look_of(dyed(image, rows, gain), PLACE) for gain in gains]
        alike = [look.likeness(other) for other in others]
        assert all(more > less + 0.05 for more, less in itertools.pairwise(alike))
        assert alike == pytest.approx([other.likeness(look) for other in others], abs=0.1)
        # The face is the same: what is measured beside it is how much darker that is.
        which = 'clothes' if rows.stop is None else 'hair'
        for gain, other in zip(gains, others, strict=True):
            change = getattr(other, which) - getattr(look, which)
            assert change == pytest.approx(math.log(gain), abs=0.08)


def test_however_unlike_clothes_and_hair_are_they_count_for_so_much_only() -> None:
    image = scenes.room(0)
    look = look_of(image, PLACE)
    black = dyed(dyed(image, slice(335, None), 0.0), slice(None, 200), 0.0)
    assert -1.05 <= look.likeness(look_of(black, PLACE)) < 0


@pytest.mark.parametrize('person', PEOPLE)
def test_a_person_at_the_border_is_known_by_the_face_alone(
    known: dict[int, Appearance], person: int
) -> None:
    below = look_of(*someone(person, 640, 640))
    assert math.isnan(below.clothes) and math.isfinite(below.hair)
    above = look_of(*someone(person, 640, 80))
    assert math.isnan(above.hair) and math.isfinite(above.clothes)
    for look in (above, below):
        assert known[person].likeness(look) > 0.7
        assert look.likeness(known[person]) > 0.7
        for other in set(PEOPLE) - {person}:
            assert known[person].likeness(look) > known[other].likeness(look)


def test_what_is_not_to_be_seen_counts_neither_for_nor_against() -> None:
    image = scenes.room(0)
    look = look_of(image, PLACE)
    # The same image, ending below the face.
    cut = look_of(np.ascontiguousarray(image[:345]), PLACE)
    assert math.isnan(cut.clothes)
    assert look.likeness(cut) == pytest.approx(1, abs=0.02)
    assert cut.likeness(cut) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize('grey', [0, 90, 255])
def test_a_face_is_not_like_one_in_which_nothing_varies(grey: int) -> None:
    blank = look_of(np.full((720, 1280), grey, np.uint8), PLACE)
    assert look_of(scenes.room(0), PLACE).likeness(blank) <= 0.01


@pytest.mark.xfail(strict=True, reason='OpenCV correlates a flat template with anything as 1')
@pytest.mark.parametrize('grey', [0, 90, 255])
def test_one_in_which_nothing_varies_is_not_like_a_face(grey: int) -> None:
    blank = look_of(np.full((720, 1280), grey, np.uint8), PLACE)
    assert blank.likeness(look_of(scenes.room(0), PLACE)) <= 0.01
