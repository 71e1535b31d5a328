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
"""Image and video files as sequences of images with their times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cloud_server.decode import BadImageError, jpeg_size

# A container's own count of its frames is an estimate: whole files were seen to be 3 of 98 short.
MAX_MISSING_SHARE = 0.1
MAX_MISSING_FRAMES = 5
ASSUMED_FPS = 25.0
UNREADABLE = 'not an image or video that can be read'


class MediaError(ValueError):
    """A file that cannot be read, or not to its end; the message says why, without its name."""


@dataclass(frozen=True)
class Media:
    """A file that was opened: one image, or a video."""

    is_still: bool
    # As the file says; 0 if it does not.
    frame_count: int
    # Pairs of the time from the first image on, in seconds and rising, and the image, uint8
    # [h, w, 3] blue-green-red. Raises MediaError where a video ends before its end.
    frames: Iterator[tuple[float, NDArray[np.uint8]]]


def open_media(path: Path) -> Media:
    """
    Open an image or a video file.

    Raises:
        MediaError: if it is neither, or a truncated image.

    """
    if not path.exists():
        raise MediaError('no such file')
    if not path.is_file():
        raise MediaError('not a file')
    try:
        with path.open('rb') as file:
            start = file.read(6)
    except OSError as error:
        raise MediaError(f'cannot be read ({error.strerror})') from error
    if not start:
        raise MediaError('empty file')
    # A GIF is an image to OpenCV, but its reader knows the first frame only.
    is_still = not start.startswith(b'GIF8') and cv2.haveImageReader(str(path))
    if is_still:
        return Media(True, 1, iter([(0.0, _read_still(path))]))
    return _open_video(path)


class FrameClock:
    """Gives each frame of a video its time: the container's, or by its number where that fails."""

    def __init__(self, frame_rate_fps: float) -> None:
        is_plausible = 0.01 < frame_rate_fps <= 1000
        self._interval_s = 1 / (frame_rate_fps if is_plausible else ASSUMED_FPS)
        self._first_s: float | None = None
        self._last_s = 0.0

    def time_s(self, container_time_s: float) -> float:
        """Return the time of the next frame from the first one on; always later than the last."""
        if self._first_s is None:
            self._first_s = container_time_s
            return 0.0
        time_s = container_time_s - self._first_s
        if not time_s > self._last_s:
            time_s = self._last_s + self._interval_s
        self._last_s = time_s
        return time_s


def _read_still(path: Path) -> NDArray[np.uint8]:
    data = path.read_bytes()
    if data[:2] == b'\xff\xd8':
        try:
            # Older decoders return a truncated JPEG with its rest in grey.
            jpeg_size(data)
        except (BadImageError, IndexError) as error:
            raise MediaError('truncated or damaged image') from error
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise MediaError('truncated or damaged image')
    return image  # type: ignore[return-value]


def _open_video(path: Path) -> Media:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise MediaError(UNREADABLE)
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    expected = int(count) if 0 < count < 1e9 else 0
    return Media(False, expected, _video_frames(capture, expected))


def _video_frames(
    capture: cv2.VideoCapture, expected: int
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    clock = FrameClock(capture.get(cv2.CAP_PROP_FPS))
    count = 0
    try:
        while capture.grab():
            # The position is that of the frame just grabbed; before the grab it is the one before.
            time_s = clock.time_s(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            is_read, image = capture.retrieve()
            if not is_read:
                break
            count += 1
            yield time_s, image  # type: ignore[misc]
    finally:
        capture.release()
    missing = expected - count
    if count == 0:
        raise MediaError(UNREADABLE)
    if missing > max(MAX_MISSING_FRAMES, MAX_MISSING_SHARE * expected):
        raise MediaError(f'truncated or damaged video: {count} of {expected} frames can be read')
