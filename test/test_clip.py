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
"""The demo's clip shows a face that a detector finds, and stretches without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo import clip
from ferros.detect import make_detector
from ferros.track import Tracker
from ferros.types import Track

# Around the stretch without a face she is half in the image: found or not, both is right.
HALF_S = 0.9


@pytest.fixture(scope='module', autouse=True)
def portrait() -> None:
    try:
        clip.portrait()
    except RuntimeError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope='module')
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """Return the clip as a player reads it back from its file."""
    path = tmp_path_factory.mktemp('clip') / 'clip.mp4'
    clip.render(path)
    capture, found = cv2.VideoCapture(str(path)), []
    assert capture.get(cv2.CAP_PROP_FPS) == clip.FRAME_RATE_FPS
    while True:
        done, image = capture.read()
        if not done:
            return found
        found.append(image)


@pytest.fixture(scope='module')
def followed(rendered: list[np.ndarray]) -> list[tuple[float, list[Track]]]:
    """Return the time and the faces of every third image, as many as a busy robot sees."""
    detector, tracker = make_detector('haar'), Tracker()
    seen = []
    for index in range(0, len(rendered), 3):
        time_s = index / clip.FRAME_RATE_FPS
        tracks = tracker.update(detector.detect(rendered[index]), round(time_s * 1e9))
        seen.append((time_s, tracks))
    return seen


def test_it_has_the_length_and_size_it_says(rendered: list[np.ndarray]) -> None:
    assert len(rendered) == clip.DURATION_S * clip.FRAME_RATE_FPS
    assert {image.shape for image in rendered} == {(clip.HEIGHT_PX, clip.WIDTH_PX, 3)}


def test_her_face_is_found_whenever_it_is_in_view(
    followed: list[tuple[float, list[Track]]],
) -> None:
    away_from_s, away_to_s = clip.AWAY_S
    in_view = [
        len(tracks)
        for time_s, tracks in followed
        if 0.1 < time_s < away_from_s - HALF_S or time_s > away_to_s + HALF_S
    ]
    assert in_view == [1] * len(in_view)


def test_no_face_is_found_while_she_is_away(followed: list[tuple[float, list[Track]]]) -> None:
    away_from_s, away_to_s = clip.AWAY_S
    away = [tracks for time_s, tracks in followed if away_from_s <= time_s <= away_to_s]
    assert len(away) >= 10
    assert not any(away)


def test_she_comes_near_and_is_another_face_when_she_is_back(
    followed: list[tuple[float, list[Track]]],
) -> None:
    sides_px = [tracks[0].box.width for _, tracks in followed if tracks]
    assert max(sides_px) > 1.6 * min(sides_px)
    assert len({track.face_id for _, tracks in followed for track in tracks}) == 2


def test_no_image_has_an_empty_border(rendered: list[np.ndarray]) -> None:
    for image in rendered[::10]:
        for border in (image[:3], image[-3:], image[:, :3], image[:, -3:]):
            assert border.mean() > 15


def test_it_is_the_same_every_time() -> None:
    one, other = clip.frames(), clip.frames()
    for _ in range(5):
        (time_s, image), (other_time_s, other_image) = next(one), next(other)
        assert time_s == other_time_s
        assert np.array_equal(image, other_image)


def test_the_portrait_is_found_without_importing_the_package() -> None:
    code = (
        'import sys; from demo import clip; image = clip.portrait(); '
        "assert image.shape == (512, 512, 3); assert 'skimage' not in sys.modules"
    )
    root = Path(clip.__file__).resolve().parent.parent
    subprocess.run([sys.executable, '-c', code], cwd=root, check=True, timeout=60)


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        clip.render(tmp_path / 'missing' / 'clip.mp4')
