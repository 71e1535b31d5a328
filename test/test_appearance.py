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
"""The look of a face tells who comes back from behind something."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.robot import scenes
from ferros.appearance import appearance
from ferros.pyramid import Pyramid
from ferros.types import Box, CameraFrame


@pytest.fixture(scope='module')
def looks() -> list[tuple[str, object]]:
    """Return the looks of several people over some seconds, in boxes as a detector draws them."""
    random = np.random.default_rng(1)
    found = []
    try:
        for scene in (scenes.CROSSING, scenes.FEW):
            for frame in scenes.render(scene, rate_fps=2):
                pyramid = Pyramid(CameraFrame(frame.image, 0, 0))
                for name, (x, y, width, height) in frame.faces.items():
                    side = width * random.uniform(0.9, 1.15)
                    shift = random.normal(0, 0.05, 2) * width
                    left, top = x + (width - side) / 2, y + (height - side) / 2
                    box = Box(left + shift[0], top + shift[1], side, side)
                    found.append((f'{scene.name}/{name}', appearance(pyramid, box)))
    except RuntimeError as missing:
        pytest.skip(str(missing))
    return found


def test_the_same_person_looks_more_alike_than_two_people(
    looks: list[tuple[str, object]],
) -> None:
    same, other = [], []
    for index, (name, look) in enumerate(looks):
        for other_name, another in looks[index + 1 :]:
            if name.split('/')[0] == other_name.split('/')[0]:
                (same if name == other_name else other).append(look.likeness(another))
    assert len(same) > 100
    assert len(other) > 100
    # What a face that comes back has to reach at once, and after a moment in view (track.py).
    assert np.percentile(same, 10) > 0.55
    assert np.percentile(other, 90) < 0.55
    assert np.percentile(other, 75) < 0.2


def test_a_look_is_like_itself(looks: list[tuple[str, object]]) -> None:
    assert looks[0][1].likeness(looks[0][1]) == pytest.approx(1, abs=0.02)


def test_what_is_outside_the_image_does_not_count() -> None:
    image = np.random.default_rng(2).integers(0, 256, (200, 200)).astype(np.uint8)
    look = appearance(Pyramid(CameraFrame(image, 0, 0)), Box(60, 120, 80, 80))
    assert math.isnan(look.clothes)
    assert not math.isnan(look.hair)
    above = appearance(Pyramid(CameraFrame(image, 0, 0)), Box(60, -5, 80, 80))
    assert math.isnan(above.hair)
    assert look.likeness(look._replace(clothes=3.0)) == pytest.approx(1, abs=0.02)


def test_where_nothing_varies_nothing_can_be_said() -> None:
    flat = appearance(
        Pyramid(CameraFrame(np.full((200, 200), 50, np.uint8), 0, 0)), Box(60, 60, 80, 80)
    )
    assert -2 <= flat.likeness(flat) <= 1
