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
"""Faces found and followed in rendered scenes in which it is known who is where."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest

from bench.robot import scenes
from ferros.config import RobotConfig
from ferros.detect import DetectorError
from ferros.perception import Perception, make_perception
from ferros.types import CameraFrame

MS = 1_000_000
# The scenes are made of the same portrait as `happy`.
pytestmark = pytest.mark.usefixtures('one_thread', 'happy')


def config(detector: str, request: Any) -> RobotConfig:
    if detector == 'haar':
        return RobotConfig()
    folder = request.getfixturevalue('shared_data')
    model = folder / 'models' / 'face_detection_yunet.onnx'
    return RobotConfig(detector='yunet', detector_model=str(model))


def play(perception: Perception, scene: Any, reduction: int = 1) -> list[Any]:
    """Return each image with the tracks in it, the images made smaller as a JPEG would be."""
    seen = []
    for frame in scenes.render(scene):
        height, width = frame.image.shape[:2]
        image = frame.image
        if reduction > 1:
            size = (width // reduction, height // reduction)
            grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
            image = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        camera = CameraFrame(
            image, frame.stamp_ns, frame.stamp_ns, '', reduction, (width, height)
        )
        tracks = perception.process(camera)
        assert tracks is not None
        seen.append((frame, tracks))
    return seen


@pytest.mark.parametrize(
    ('detector', 'scene'),
    # The bench has all of them.
    [
        ('haar', 'CROSSING_FAST'), ('haar', 'MEETING'), ('haar', 'TWO_AND_A_PILLAR'),
        ('haar', 'LEAVING'), ('yunet', 'CROSSING'),
    ],
)
def test_nobody_takes_over_the_id_of_somebody_else(
    detector: str, scene: str, request: pytest.FixtureRequest
) -> None:
    outcome = scenes.judge(
        play(make_perception(config(detector, request)), getattr(scenes, scene))
    )
    assert outcome.id_switches == 0
    assert outcome.reported >= 0.8 * outcome.faces
    assert max(outcome.first_s.values()) <= 0.6


def test_the_same_holds_for_images_that_were_decoded_small() -> None:
    outcome = scenes.judge(play(make_perception(RobotConfig()), scenes.CROSSING, reduction=2))
    assert outcome.id_switches == 0
    assert outcome.reported >= 0.8 * outcome.faces


def test_after_a_cut_everybody_is_new() -> None:
    outcome = scenes.judge(play(make_perception(RobotConfig()), scenes.CUT))
    assert outcome.id_switches == 0
    assert all(math.isfinite(first_s) for first_s in outcome.first_s.values())


def test_where_nobody_is_nobody_is_reported() -> None:
    assert scenes.judge(play(make_perception(RobotConfig()), scenes.NOBODY)).elsewhere == 0


def faces_in(perception: Perception, image: Any, *at_ms: int) -> list[str]:
    """Process an image at these times; return the ids in the last."""
    tracks = [perception.process(CameraFrame(image, at * MS, 0)) for at in at_ms][-1]
    assert tracks is not None
    return [track.face_id for track in tracks]


STEADY_MS = tuple(range(5000, 6000, 33))


def test_a_face_keeps_its_id_and_what_is_not_newer_is_left_alone(happy: Any) -> None:
    perception = make_perception(RobotConfig())
    (first,) = faces_in(perception, happy, *STEADY_MS)
    assert perception.process(CameraFrame(happy, 5500 * MS, 0)) is None
    assert perception.process(CameraFrame(happy, STEADY_MS[-1] * MS, 0)) is None
    assert faces_in(perception, happy, 6010, 6043) == [first]
    assert perception.jumped == ''


def test_faces_are_new_after_time_was_set_back_and_that_is_told_once(happy: Any) -> None:
    perception = make_perception(RobotConfig())
    before = faces_in(perception, happy, *STEADY_MS)
    perception.process(CameraFrame(happy, 1000 * MS, 0))
    assert perception.jumped == 'the image stamps were set back'
    after = faces_in(perception, happy, *range(1033, 2000, 33))
    assert len(after) == 1 and after != before
    assert perception.jumped == ''


def test_faces_are_new_where_the_image_has_another_size(happy: Any) -> None:
    perception = make_perception(RobotConfig())
    before = faces_in(perception, happy, *STEADY_MS)
    height, width = happy.shape[:2]
    wider = np.pad(happy, ((0, 0), (40, 40), (0, 0)), mode='edge')
    perception.process(CameraFrame(wider, 6000 * MS, 0))
    old, new = f'{width}x{height}', f'{width + 80}x{height}'
    assert perception.jumped == f'the image size changed from {old} to {new}'
    after = faces_in(perception, wider, *range(6033, 7000, 33))
    assert len(after) == 1 and after != before


def test_a_face_that_is_gone_is_gone_soon_and_is_not_followed_onto_the_wall(happy: Any) -> None:
    perception = make_perception(RobotConfig())
    assert len(faces_in(perception, happy, *STEADY_MS)) == 1
    wall = np.full_like(happy, 90)
    assert faces_in(perception, wall, *range(6010, 6700, 33)) == []


def test_less_is_looked_at_where_time_is_short_and_more_again_when_there_is_some(
    happy: Any,
) -> None:
    perception = make_perception(RobotConfig())

    def spend(at_ms: int, milliseconds: float) -> None:
        perception.process(CameraFrame(happy, at_ms * MS, 0))
        perception.spent(int(milliseconds * MS), 33 * MS)

    for at_ms in range(1000, 2000, 33):
        spend(at_ms, 5)
    assert perception.share == 1
    for at_ms in range(2000, 4000, 33):
        spend(at_ms, 60)
    assert perception.share < 0.5
    for at_ms in range(4000, 12000, 33):
        spend(at_ms, 5)
    assert perception.share > 0.9


def test_an_image_is_decoded_small_only_where_all_faces_stay_large_enough(happy: Any) -> None:
    perception = make_perception(RobotConfig())
    large = cv2.resize(happy, (1280, 720))
    # Nobody is known yet: the search says how small it may be.
    assert perception.reduction(1280, 720) == 2
    faces_in(perception, large, *STEADY_MS)
    assert perception.reduction(1280, 720) == 2, 'a face of 200 px has 100 px left'
    perception.usable_px = 224
    assert perception.reduction(1280, 720) == 1
    assert perception.reduction(320, 240) == 1


def test_faces_from_the_side_are_looked_for_where_that_is_wanted() -> None:
    perception = make_perception(RobotConfig(detect_profiles=False))
    perception.configure(RobotConfig(detect_profiles=True, detect_every_n_frames=5))
    with pytest.raises(DetectorError, match=r'/nowhere/side\.xml'):
        make_perception(RobotConfig(profile_cascade_file='/nowhere/side.xml'))
