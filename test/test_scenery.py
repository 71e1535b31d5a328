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
"""A cut is told from a turn of the camera, from light and from what passes before it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bench.robot.scenes import room
from ferros.pyramid import Pyramid
from ferros.scenery import Scenery
from ferros.types import CameraFrame


def pyramid(image: np.ndarray) -> Pyramid:
    return Pyramid(CameraFrame(image, 0, 0))


def noisy(image: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 3, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def test_the_first_image_is_no_change() -> None:
    change = Scenery().change(pyramid(room(0)))
    assert (change.same, change.is_other, change.is_back) == (1.0, False, False)


def test_a_view_that_stays_is_the_same() -> None:
    scenery = Scenery()
    scenery.change(pyramid(noisy(room(0), 1)))
    change = scenery.change(pyramid(noisy(room(0), 2)))
    assert change.same > 0.95
    assert not change.is_other


@pytest.mark.parametrize('number', range(1, 9))
def test_another_room_is_another_view(number: int) -> None:
    scenery = Scenery()
    scenery.change(pyramid(room(0)))
    assert scenery.change(pyramid(room(number))).is_other


@pytest.mark.parametrize(('right', 'down'), [(40, 0), (-120, 30), (200, -60)])
def test_a_turn_of_the_camera_is_measured_and_is_no_cut(right: int, down: int) -> None:
    scenery = Scenery()
    wide = cv2.resize(room(0), (1800, 1012))
    scenery.change(pyramid(wide[140:860, 260:1540]))
    change = scenery.change(pyramid(wide[140 - down : 860 - down, 260 - right : 1540 - right]))
    assert not change.is_other
    assert change.shift_x_px == pytest.approx(right, abs=20)
    assert change.shift_y_px == pytest.approx(down, abs=20)


def test_what_passes_before_the_camera_is_no_cut() -> None:
    scenery = Scenery()
    scenery.change(pyramid(room(0)))
    covered = room(0).copy()
    covered[:, 400:880] = room(3)[:, 400:880]
    assert not scenery.change(pyramid(covered)).is_other


@pytest.mark.parametrize(('gain', 'offset'), [(0.5, 0), (1.4, 0), (0.8, 40)])
def test_other_light_is_no_cut(gain: float, offset: float) -> None:
    scenery = Scenery()
    scenery.change(pyramid(room(0)))
    lit = np.clip(gain * room(0) + offset, 0, 255).astype(np.uint8)
    assert not scenery.change(pyramid(lit)).is_other


def test_of_a_covered_lens_nothing_is_said() -> None:
    scenery = Scenery()
    black = np.full((720, 1280), 4, np.uint8)
    for image in (room(0), black, black, room(0)):
        assert not scenery.change(pyramid(image)).is_other


def test_a_view_that_was_left_is_known_when_it_is_back_and_told_once() -> None:
    scenery = Scenery()
    told = [
        (change.is_other, change.is_back)
        for image in (0, 0, 1, 1, 0, 0)
        for change in [scenery.change(pyramid(noisy(room(image))))]
    ]
    assert told == [
        (False, False), (False, False), (True, False), (False, False), (True, True),
        (False, False),
    ]  # fmt: skip


def test_another_view_than_the_one_that_was_left_is_not_back() -> None:
    scenery = Scenery()
    for image in (0, 1, 2):
        assert not scenery.change(pyramid(room(image))).is_back


def test_reset_forgets_the_view() -> None:
    scenery = Scenery()
    scenery.change(pyramid(room(0)))
    scenery.reset()
    assert not scenery.change(pyramid(room(1))).is_other


@pytest.mark.parametrize('size_px', [(1, 1), (40, 30), (200, 3)])
def test_the_smallest_images_are_taken(size_px: tuple[int, int]) -> None:
    scenery = Scenery()
    for seed in range(3):
        image = np.random.default_rng(seed).integers(0, 256, size_px[::-1]).astype(np.uint8)
        scenery.change(pyramid(image))
