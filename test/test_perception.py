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
from __future__ import annotations

import numpy as np

from ferros.perception import Perception
from ferros.track import Tracker
from ferros.types import Box, CameraFrame, Image

MS = 1_000_000


class Found:
    """A detector that finds one face, always at the same place."""

    def detect(self, image: Image) -> list[Box]:
        return [Box(10, 10, 40, 40)]


def frame(at_ms: int, width_px: int = 160) -> CameraFrame:
    return CameraFrame(np.zeros((120, width_px), np.uint8), at_ms * MS, 0)


def follow(perception: Perception, *at_ms: int) -> str:
    """Process images at these times; return the face's id in the last."""
    tracks = [perception.process(frame(at)) for at in at_ms][-1]
    assert tracks is not None
    return tracks[0].face_id


def test_a_face_keeps_its_id_from_image_to_image() -> None:
    perception = Perception(Found(), Tracker())
    first = follow(perception, 5000, 5033)
    assert follow(perception, 5066, 5100) == first
    assert perception.jumped == ''


def test_an_image_that_is_not_newer_is_left_alone() -> None:
    perception = Perception(Found(), Tracker())
    first = follow(perception, 5000, 5033)
    assert perception.process(frame(5010)) is None
    assert perception.process(frame(5033)) is None
    assert follow(perception, 5066) == first


def test_faces_are_new_after_time_was_set_back_and_that_is_told_once() -> None:
    perception = Perception(Found(), Tracker())
    first = follow(perception, 5000, 5033)
    perception.process(frame(1000))
    assert perception.jumped == 'the image stamps were set back'
    assert follow(perception, 1033) != first
    assert perception.jumped == ''


def test_faces_are_new_where_the_image_has_another_size() -> None:
    perception = Perception(Found(), Tracker())
    first = follow(perception, 5000, 5033)
    perception.process(frame(5066, width_px=320))
    assert perception.jumped == 'the image size changed from (120, 160) to (120, 320)'
    tracks = perception.process(frame(5100, width_px=320))
    assert tracks is not None and tracks[0].face_id != first
