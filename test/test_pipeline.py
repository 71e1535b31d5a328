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
"""From camera messages to offered faces, without ROS."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from ferros.answers import Answers
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.perception import make_perception
from ferros.pipeline import Pipeline, by_importance, in_colour
from ferros.rep155_scene import Rep155Face, Scene
from ferros.scene_pipeline import ScenePipeline
from ferros.types import Box, CameraFrame, OfferedFace, Track

STEP_NS = 33_000_000


class Offered:
    """A reader that keeps what it is offered."""

    def __init__(self) -> None:
        self.all: list[list[OfferedFace]] = []

    def offer(self, faces: Any) -> None:
        self.all.append(list(faces))

    @property
    def newest(self) -> list[OfferedFace]:
        return self.all[-1]


def message(image: Any, number: int, encoding: str = 'bgr8') -> Any:
    seconds, nanoseconds = divmod(10**12 + number * STEP_NS, 10**9)
    header = SimpleNamespace(
        stamp=SimpleNamespace(sec=seconds, nanosec=nanoseconds), frame_id='camera'
    )
    if encoding == 'jpeg':
        data = cv2.imencode('.jpg', image)[1]
        return SimpleNamespace(header=header, format='jpeg', data=data)
    return SimpleNamespace(
        header=header, height=image.shape[0], width=image.shape[1], encoding=encoding,
        step=image.strides[0], is_bigendian=0, data=image.tobytes(),
    )


def refuse(message: Any) -> Any:
    raise RuntimeError('cv_bridge is not asked for this')


class Bench:
    """A pipeline with all that it needs."""

    def __init__(self, **parameters: Any) -> None:
        config = RobotConfig(**parameters)
        self.drops, self.reader, self.said = Drops(), Offered(), []
        self.answers = Answers(config, self.drops)
        self.pipeline = Pipeline(
            config, self.drops, make_perception(config), self.answers, [self.reader], refuse,
            self.said.append,
        )

    def run(self, image: Any, numbers: range, encoding: str = 'bgr8') -> list[Any]:
        return [
            self.pipeline.process(message(image, number, encoding), number * STEP_NS)
            for number in numbers
        ]


@pytest.mark.parametrize(('transport', 'encoding'), [('raw', 'bgr8'), ('compressed', 'jpeg')])
def test_a_face_is_offered_with_a_box_in_pixels_of_the_published_image(
    happy: Any, transport: str, encoding: str
) -> None:
    large = cv2.resize(happy, None, fx=2, fy=2)
    bench = Bench(image_transport=transport)
    processed = bench.run(large, range(30), encoding)
    assert all(processed)
    frame = processed[-1].frame
    assert frame.size_px == (large.shape[1], large.shape[0])
    assert (frame.reduction > 1) is (transport == 'compressed'), 'a large face, decoded small'
    (offered,) = bench.reader.newest
    height, width = large.shape[:2]
    assert 0 < offered.box.x < width and 0 < offered.box.y < height
    # The portrait's face takes a quarter of the image's height and more.
    assert offered.box.width > 0.2 * height
    assert bench.drops.counts() == {}


def test_what_cannot_be_read_is_counted_and_said_once(happy: Any) -> None:
    bench = Bench()
    for number in range(3):
        broken = message(happy, number)
        broken.step = 7
        assert bench.pipeline.process(broken, 0) is None
    assert bench.drops.counts() == {'image_wrong_step': 3}
    assert len(bench.said) == 1


def test_no_more_faces_are_offered_than_are_read(happy: Any) -> None:
    two = np.hstack([happy, happy])
    bench = Bench()
    bench.run(two, range(30))
    assert len(bench.reader.newest) == 2
    bench.pipeline.configure(RobotConfig(max_faces=1))
    bench.run(two, range(30, 32))
    assert len(bench.reader.newest) == 1


@pytest.mark.parametrize('encoding', ['bgr8', 'rgb8', 'mono8', 'jpeg'])
def test_an_image_that_is_shown_is_in_colour_and_of_full_size(happy: Any, encoding: str) -> None:
    image = happy[:, :, 0] if encoding == 'mono8' else happy
    shown = in_colour(message(np.ascontiguousarray(image), 0, encoding), refuse)
    assert shown.shape == happy.shape
    if encoding == 'rgb8':
        assert np.array_equal(shown, happy[:, :, ::-1])


# -- faces that another node publishes ------------------------------------------------------------


def scene(number: int, *faces: tuple[str, int, float]) -> Scene:
    """Return what is known at an image: of each face its id, its crop's image, its area."""
    stamp_ns = 10**12 + number * STEP_NS
    crops = tuple(
        Rep155Face(
            face_id,
            CameraFrame(np.zeros((64, 64), np.uint8), 10**12 + crop * STEP_NS, crop),
            Box(0, 0, 64, 64),
            area,
        )
        for face_id, crop, area in faces
    )
    return Scene(stamp_ns, 'camera', number, tuple(face[0] for face in faces), crops)


def scene_pipeline() -> tuple[ScenePipeline, Offered, Answers, list[str]]:
    config, drops, reader, said = RobotConfig(), Drops(), Offered(), []
    answers = Answers(config, drops)
    return (
        ScenePipeline(config, drops, answers, [reader], said.append), reader, answers, said
    )


def test_each_crop_is_offered_once_the_primary_one_first() -> None:
    pipeline, reader, answers, _ = scene_pipeline()
    assert pipeline.process(scene(1, ('small', 1, 0.01), ('large', 1, 0.05)), 0)
    assert answers.primary_id == 'large'
    assert [face.face_id for face in reader.newest] == ['large', 'small']
    # Nothing new of the large one.
    pipeline.process(scene(2, ('small', 2, 0.01), ('large', 1, 0.05)), 0)
    assert [face.face_id for face in reader.newest] == ['small']
    assert pipeline.process(scene(2, ('small', 2, 0.01)), 0) is None, 'the same image again'


def test_a_bag_that_begins_again_begins_afresh_though_scenes_were_missed() -> None:
    pipeline, reader, _, said = scene_pipeline()
    pipeline.process(scene(900, ('a', 900, 0.02)), 0)
    assert pipeline.process(scene(5, ('a', 5, 0.02)), 0)
    assert [face.frame.stamp_ns for face in reader.newest] == [10**12 + 5 * STEP_NS]
    assert 'set back' in said[0]


def test_faces_are_offered_the_primary_first_and_then_the_largest() -> None:
    frame = CameraFrame(np.zeros((9, 9), np.uint8), stamp_ns=100, captured_ns=7)
    tracks = [
        Track('small', Box(0, 0, 20, 20), 100),
        Track('large', Box(0, 0, 60, 60), 100),
        Track('middle', Box(0, 0, 40, 40), 100),
        # Not in this image: what was cropped there would be something else.
        Track('hidden', Box(0, 0, 90, 90), 67),
    ]

    def order(primary_id: str | None) -> list[str]:
        return [face.face_id for face in by_importance(tracks, primary_id, frame)]

    assert order('middle') == ['middle', 'large', 'small']
    assert order('hidden') == order(None) == ['large', 'middle', 'small']
    assert all(face.frame is frame for face in by_importance(tracks, 'small', frame))
    assert by_importance([], None, frame) == []
