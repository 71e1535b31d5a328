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
"""From images to crops with ids in one step."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from demo import clip
from ferros.detect import DetectorError
from ferros.faces import FaceSource

FRAME_NS = 33_333_333


@pytest.fixture(scope='module')
def portrait() -> np.ndarray:
    try:
        return clip.portrait()
    except RuntimeError as missing:
        pytest.skip(str(missing))


def test_a_still_image_gives_its_faces_at_once(portrait: np.ndarray) -> None:
    ((face_id, (x, y, width, height), luma),) = FaceSource(still=True).update(portrait, 0)
    assert face_id[0].isalpha()
    assert width == height
    assert (x < 224 < x + width, y < 118 < y + height) == (True, True)
    assert (luma.shape, luma.dtype) == ((48, 48), np.uint8)


def test_still_images_have_nobody_in_common(portrait: np.ndarray) -> None:
    source = FaceSource(still=True)
    (first,), (second,) = source.update(portrait, 0), source.update(portrait, 0)
    assert first[0] != second[0]


def test_in_a_video_a_face_keeps_its_id_from_its_second_image_on(portrait: np.ndarray) -> None:
    source = FaceSource()
    seen = [source.update(portrait, index * FRAME_NS) for index in range(4)]
    assert seen[0] == []
    assert len({face_id for faces in seen for face_id, _, _ in faces}) == 1


def test_where_the_face_is_not_seen_there_is_no_crop(portrait: np.ndarray) -> None:
    source = FaceSource()
    for index in range(3):
        source.update(portrait, index * FRAME_NS)
    assert source.update(np.zeros_like(portrait), 3 * FRAME_NS) == []


def test_the_crop_has_the_size_asked_for_but_never_more_than_the_face(
    portrait: np.ndarray,
) -> None:
    ((_, _, luma),) = FaceSource(crop_size_px=64, still=True).update(portrait, 0)
    assert luma.shape == (64, 64)
    small = np.asarray(cv2.resize(portrait, (200, 200), interpolation=cv2.INTER_AREA), np.uint8)
    ((_, box, luma),) = FaceSource(crop_size_px=64, still=True).update(small, 0)
    assert luma.shape == (round(box[2]), round(box[2]))
    assert 30 < len(luma) < 48


def test_a_detector_that_cannot_be_made_is_said() -> None:
    with pytest.raises(DetectorError, match='/nowhere/model'):
        FaceSource('yunet', '/nowhere/model')
    with pytest.raises(ValueError, match='crop_size_px is 0'):
        FaceSource(crop_size_px=0)
