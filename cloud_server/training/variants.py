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

"""
The paper's nine copies of a video, as crops of its face: three resolutions at three frame rates.

A copy is made from the 720p frames: thinned to its rate, scaled down to its resolution by area
averaging, and only then is the face cut out and scaled to what the network takes. Where the face
is, the Haar cascade says once, at 720p; every copy uses that box, scaled. Frames are luma from the
start, as on the wire.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from cloud_server.media import open_media
from cloud_server.preprocess import to_input
from cloud_server.training import settings

SOURCE_PX = (1280, 720)
TAKES = ('middle', 'first', 'uniform')
# A source may be this much slower than a copy: RAVDESS has 29.97 fps, the paper says 30.
MAX_SLOWER = 0.05

HAAR_CASCADE = 'haarcascade_frontalface_alt2.xml'
CASCADE_FOLDER = Path('/usr/share/opencv4/haarcascades')  # of Debian and Ubuntu
SCALE_STEP = 1.1
NEIGHBOURS = 5
# RAVDESS shows head and shoulders: what is smaller is no face, and looking for it takes long.
SMALLEST_FACE_PX = 90
CROP_SCALE = 1.0  # side of the crop in sides of a Haar box, as everywhere in the project
DETECTOR = f'{HAAR_CASCADE} {SCALE_STEP} {NEIGHBOURS} {SMALLEST_FACE_PX}'

Luma = npt.NDArray[np.uint8]


class FootageError(ValueError):
    """A video that is not as RAVDESS's are; says what was expected and what was found."""


class DetectorError(RuntimeError):
    """The cascade is not there; says where it was looked for."""


class Box(NamedTuple):
    """A square in pixels of the 720p frame: its centre and its side."""

    x: float
    y: float
    side: float


@dataclass(frozen=True)
class VariantConfig:
    """
    Which copies are made, and which of their frames are taken.

    Attributes:
        resolutions: WIDTHxHEIGHT in px; rows of the tables.
        rates_fps: columns of the tables.
        frames: how many frames of a copy are taken.
        take: consecutive ones from the `middle` or the `first`, or spread `uniform` over the
            whole. Of a copy with fewer frames all are taken, each repeated in its place.

    """

    resolutions: tuple[str, ...] = ('1280x720', '640x360', '256x144')
    rates_fps: tuple[int, ...] = (30, 15, 5)
    frames: int = 30
    take: str = 'middle'

    def __post_init__(self) -> None:
        """Refuse copies that cannot be made."""
        for text in self.resolutions:
            if not re.fullmatch(r'[1-9]\d*x[1-9]\d*', str(text)):
                raise ValueError(f'resolutions must be WIDTHxHEIGHT, got {text!r}')
        if not self.resolutions or any(
            width > SOURCE_PX[0] or height > SOURCE_PX[1] for width, height in self.sizes_px
        ):
            raise ValueError(f'resolutions must be at most 1280x720, got {self.resolutions}')
        if not self.rates_fps or not all(
            isinstance(rate, int) and 1 <= rate <= 30 for rate in self.rates_fps
        ):
            raise ValueError(f'rates_fps must be whole numbers in 1..30, got {self.rates_fps}')
        if self.frames < 1:
            raise ValueError(f'frames must be at least 1, got {self.frames}')
        if self.take not in TAKES:
            raise ValueError(f'take must be one of {TAKES}, got {self.take!r}')

    @property
    def sizes_px(self) -> tuple[tuple[int, int], ...]:
        """The resolutions as width and height."""
        pairs = (text.split('x') for text in self.resolutions)
        return tuple((int(width), int(height)) for width, height in pairs)

    @property
    def cells(self) -> tuple[tuple[tuple[int, int], int], ...]:
        """Every copy as its size and its rate, resolution by resolution: V of them."""
        return tuple((size, rate) for size in self.sizes_px for rate in self.rates_fps)


def read_frames(path: Path) -> tuple[list[Luma], float]:
    """
    Decode a video.

    Returns:
        its frames as luma [720,1280], and their rate in fps.

    Raises:
        MediaError: it cannot be read, or not to its end.
        FootageError: it has another size, or a single frame.

    """
    frames: list[Luma] = []
    last_s = 0.0
    for time_s, image in open_media(path).frames:
        height, width = image.shape[:2]
        if (width, height) != SOURCE_PX:
            raise FootageError(f'expected {SOURCE_PX[0]}x{SOURCE_PX[1]} px, found '
                               f'{width}x{height}')
        last_s = time_s
        frames.append(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8))
    if len(frames) < 2:
        raise FootageError(f'expected a video, found {len(frames)} frame')
    return frames, (len(frames) - 1) / last_s


def frame_indices(
    count: int, source_fps: float, rate_fps: float, frames: int, take: str
) -> npt.NDArray[np.int64]:
    """
    Return which frames of the source a copy consists of: [frames], never falling.

    Frame k of the copy is the source's frame nearest to time k / rate_fps. A copy of fewer frames
    holds each of them in its place, so that order and pace stay those of the scene.

    Raises:
        FootageError: the source is slower than the copy.

    """
    if source_fps < rate_fps * (1 - MAX_SLOWER):
        raise FootageError(f'expected at least {rate_fps:g} fps, found {source_fps:.2f}')
    step = source_fps / rate_fps
    times = np.floor(np.arange(int(count / step) + 1) * step + 0.5).astype(np.int64)
    copy = np.unique(times[times < count])
    if len(copy) <= frames:
        places = np.arange(frames) * len(copy) // frames
    elif take == 'uniform':
        places = np.floor(np.linspace(0, len(copy) - 1, frames) + 0.5).astype(np.int64)
    else:
        places = np.arange(frames) + ((len(copy) - frames) // 2 if take == 'middle' else 0)
    return np.asarray(copy[places], np.int64)


@dataclass(frozen=True)
class Crops:
    """
    The face in every copy of one clip.

    Attributes:
        faces: uint8 [U,S,S], each different one once.
        rows: int64 [V,T], which of them a copy shows at each step.

    """

    faces: Luma
    rows: npt.NDArray[np.int64]


def make_crops(
    frames: Sequence[Luma], source_fps: float, box: Box, config: VariantConfig, input_size_px: int
) -> Crops:
    """
    Return the face in every copy of a clip.

    Raises:
        FootageError: the clip has a lower frame rate than a copy should have.

    """
    chosen = [frame_indices(len(frames), source_fps, rate, config.frames, config.take)
              for rate in config.rates_fps]
    needed = np.unique(np.concatenate(chosen))
    faces = [
        to_input(cut(frames[index], box, size), input_size_px)
        for size in config.sizes_px for index in needed
    ]
    rows = [
        np.searchsorted(needed, indices) + place * len(needed)
        for place in range(len(config.resolutions)) for indices in chosen
    ]
    return Crops(np.stack(faces), np.stack(rows))


def cut(frame: Luma, box: Box, size_px: tuple[int, int]) -> Luma:
    """
    Scale a 720p frame down and cut the face out of it.

    Args:
        frame: uint8 [720,1280].
        box: in its pixels.
        size_px: width and height to scale to. 480x360 squeezes the picture; scaled to a square
            the face has its proportions again.

    Returns:
        uint8 [h,w], in whole pixels of the small frame; beyond its border the border repeats.

    """
    small = frame if size_px == SOURCE_PX else cv2.resize(
        frame, size_px, interpolation=cv2.INTER_AREA)
    columns = _span(box.x, box.side, SOURCE_PX[0], size_px[0])
    rows = _span(box.y, box.side, SOURCE_PX[1], size_px[1])
    return np.asarray(small[rows[:, None], columns], np.uint8)


def _span(centre: float, side: float, source_px: int, size_px: int) -> npt.NDArray[np.int64]:
    scale = size_px / source_px
    length = max(1, round(CROP_SCALE * side * scale))
    start = round(centre * scale - length / 2)
    return np.clip(np.arange(start, start + length), 0, size_px - 1)


class FaceFinder:
    """The Haar cascade at 720p; any number of threads may use one finder."""

    def __init__(self) -> None:
        self._path = find_cascade()
        self._of_thread = threading.local()  # a cascade serves one thread at a time

    def find(self, frames: Sequence[Luma], looks: int) -> Box | None:
        """
        Return the box of the face in a clip: it sits still, so one serves all frames.

        The largest box in each of some frames evenly over the clip, and of these the median of
        centre and side, which one wrong box does not move.

        Args:
            frames: uint8 [720,1280] each.
            looks: in how many of them to look.

        Returns:
            None where no frame has a face.

        """
        places = np.floor((np.arange(looks) + 0.5) / looks * len(frames)).astype(int)
        found = [box for place in np.unique(places) if (box := self._largest(frames[place]))]
        return Box(*np.median(np.array(found), axis=0).tolist()) if found else None

    def _largest(self, frame: Luma) -> Box | None:
        if not hasattr(self._of_thread, 'cascade'):
            self._of_thread.cascade = cv2.CascadeClassifier(str(self._path))
        boxes = self._of_thread.cascade.detectMultiScale(
            frame, SCALE_STEP, NEIGHBOURS, minSize=(SMALLEST_FACE_PX, SMALLEST_FACE_PX)
        )
        squares = [Box(x + side / 2, y + side / 2, side)
                   for x, y, side, _ in np.asarray(boxes, np.float64).reshape(-1, 4).tolist()]
        return max(squares, key=lambda box: box.side, default=None)


def find_cascade() -> Path:
    """
    Return the cascade's file, of OpenCV from PyPI or of the distribution.

    Raises:
        DetectorError: it is in neither place.

    """
    from_pypi = getattr(getattr(cv2, 'data', None), 'haarcascades', None)
    folders = [*([Path(from_pypi)] if from_pypi else []), CASCADE_FOLDER]
    for folder in folders:
        if (folder / HAAR_CASCADE).is_file():
            return folder / HAAR_CASCADE
    raise DetectorError(f'{HAAR_CASCADE} is not in {" or ".join(map(str, folders))}: '
                        'apt install opencv-data')


class BoxCache:
    """The boxes that were found, in a JSON file; a file that changed is looked at again."""

    def __init__(self, path: Path, looks: int) -> None:
        self._path, self._detector = path, f'{DETECTOR}, {looks} frames'
        self._boxes: dict[str, Any] = {}
        if path.exists():
            try:
                stored = json.loads(path.read_text('utf-8'))
            except ValueError:
                stored = {}  # written by something else; the boxes are found anew
            if isinstance(stored, dict) and stored.get('detector') == self._detector:
                self._boxes = stored['boxes']

    def get(self, file: Path) -> tuple[bool, Box | None]:
        """Return whether a file was looked at, and its box, None where it has no face."""
        entry = self._boxes.get(file.name)
        if entry is None or entry['file'] != fingerprint(file):
            return False, None
        return True, Box(*entry['box']) if entry['box'] else None

    def put(self, file: Path, box: Box | None) -> None:
        """Keep the box of a file."""
        self._boxes[file.name] = {'file': fingerprint(file), 'box': list(box) if box else None}

    def save(self) -> None:
        """Write what was found."""
        text = json.dumps({'detector': self._detector, 'boxes': self._boxes}, sort_keys=True)
        settings.write_atomically(self._path, (text + '\n').encode())


def fingerprint(file: Path) -> list[int]:
    """Return what changes where a file does: its size and its time in ns."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]
