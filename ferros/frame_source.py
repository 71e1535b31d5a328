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
Where camera_player takes its images from: a video, an image, a webcam or a rosbag2 folder.

A source yields images with the times at which they are due; it neither waits nor knows of ROS.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import cv2
import numpy as np

from ferros.image import BadImage, decode, decode_compressed
from ferros.types import Image

_IMAGE_TYPE: Final = 'sensor_msgs/msg/Image'
_COMPRESSED_TYPE: Final = 'sensor_msgs/msg/CompressedImage'
_NS_PER_S: Final = 1_000_000_000


class SourceError(RuntimeError):
    """A source cannot be opened; the message is one line that names it and the reason."""


class SourceFrame(NamedTuple):
    """One image of a source."""

    # When it is due, since the source's first image.
    time_s: float
    image: Image
    # Only from a bag: the message's stamp and frame_id, and its data where it was compressed.
    stamp_ns: int | None = None
    frame_id: str = ''
    compressed_format: str = ''
    compressed: bytes = b''


class FrameSource(Protocol):
    """A source that was found to be readable."""

    # What it is, for a line on the terminal.
    description: str
    # Whether the device itself sets the pace, so that nothing is to be waited for.
    live: bool
    # Images that could not be read, by reason.
    skipped: Counter[str]

    def frames(self) -> Iterator[SourceFrame]:
        """Yield the images from the first on, with times that never decrease."""
        ...


def open_source(source: str, *, rate_hz: float = 10.0, bag_topic: str = '') -> FrameSource:
    """
    Return the source behind a name.

    source: a video or image file, a webcam's index or /dev/video*, or a rosbag2 folder.
    rate_hz: how often a single image is repeated. bag_topic: the image topic to play; empty means
    the one with the most messages.

    Raises:
        SourceError: there is no such thing, or it cannot be read.

    """
    path = Path(source)
    if not source:
        raise SourceError('no source: name a video, an image, a camera index or a rosbag2 folder')
    if source.isdecimal() or source.startswith('/dev/video'):
        return WebcamSource(source)
    if not path.exists():
        raise SourceError(f'source {source} does not exist')
    if path.is_dir():
        return BagSource(path, bag_topic)
    if path.stat().st_size == 0:
        raise SourceError(f'source {source} is empty')
    if path.suffix in ('.db3', '.mcap'):
        raise SourceError(f'source {source} is part of a rosbag2: name its folder')
    return ImageSource(path, rate_hz) if cv2.haveImageReader(source) else VideoSource(path)


def repeat(source: FrameSource, loop: bool, max_seconds: float) -> Iterator[SourceFrame]:
    """
    Yield a source's images, from the beginning again where loop is set, their times going on.

    max_seconds: images due at or after this time are left out; 0 means no limit.
    """
    offset_s, last_s, interval_s = 0.0, 0.0, 0.0
    while True:
        count = 0
        for frame in source.frames():
            due_s = offset_s + frame.time_s
            if max_seconds and due_s >= max_seconds:
                return
            if count:
                interval_s = due_s - last_s
            count, last_s = count + 1, due_s
            yield frame._replace(time_s=due_s)
        if not loop or not count:
            return
        # The next round's first image follows like any other.
        offset_s = last_s + (interval_s or 1.0)


class VideoSource:
    """A video file at the times its container gives."""

    live = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.skipped: Counter[str] = Counter()
        capture = self._open()
        width, height = (
            int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        self._frame_rate_fps = capture.get(cv2.CAP_PROP_FPS) or 30.0
        self.description = f'video {path}, {width}x{height}, {self._frame_rate_fps:.3g} fps'
        capture.release()

    def frames(self) -> Iterator[SourceFrame]:
        """Yield the video's images."""
        capture = self._open()
        first_s, last_s = 0.0, -1.0 / self._frame_rate_fps
        for index in itertools.count():
            done, image = capture.read()
            if not done:
                break
            position_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            first_s = first_s if index else position_s
            time_s = position_s - first_s
            if index and time_s <= last_s:  # The container gives no times, or not in order.
                time_s = last_s + 1 / self._frame_rate_fps
            last_s = time_s
            yield SourceFrame(time_s, np.asarray(image, np.uint8))
        capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened() or not capture.grab():
            raise SourceError(
                f'source {self._path} is neither an image nor a video OpenCV can read'
            )
        capture.release()
        return cv2.VideoCapture(str(self._path))


class ImageSource:
    """One image, again and again."""

    live = False

    def __init__(self, path: Path, rate_hz: float) -> None:
        if rate_hz <= 0:
            raise SourceError(f'rate_hz is {rate_hz}, expected above 0')
        image = cv2.imread(str(path), cv2.IMREAD_ANYCOLOR)
        if image is None:
            raise SourceError(f'source {path} is a damaged image')
        self._image = np.asarray(image, np.uint8)
        self._rate_hz = rate_hz
        self.skipped: Counter[str] = Counter()
        height, width = image.shape[:2]
        self.description = f'image {path}, {width}x{height}, {rate_hz:.3g} Hz'

    def frames(self) -> Iterator[SourceFrame]:
        """Yield the image without end."""
        for index in itertools.count():
            yield SourceFrame(index / self._rate_hz, self._image)


class WebcamSource:
    """A camera of this computer, at the rate it delivers."""

    live = True

    def __init__(self, device: str) -> None:
        self._device = device
        self.skipped: Counter[str] = Counter()
        # It stays open: not every camera can be opened again at once.
        self._capture = cv2.VideoCapture(int(device) if device.isdecimal() else device)
        if not self._capture.isOpened():
            raise SourceError(f'camera {device} cannot be opened')
        # Otherwise up to four old images wait in the driver.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self.description = f'camera {device}'

    def frames(self) -> Iterator[SourceFrame]:
        """Yield the images as they come, until the camera is gone."""
        start_s = time.monotonic()
        while True:
            done, image = self._capture.read()
            if not done:
                return
            yield SourceFrame(time.monotonic() - start_s, np.asarray(image, np.uint8))


class BagSource:
    """An image topic of a rosbag2 folder, spaced as it was recorded, as `ros2 bag play` does."""

    live = False

    def __init__(self, folder: Path, topic: str = '') -> None:
        self._folder = folder
        self.skipped: Counter[str] = Counter()
        if not (folder / 'metadata.yaml').is_file():
            raise SourceError(f'source {folder} is no rosbag2 folder: it has no metadata.yaml')
        with self._open() as reader:
            counts: Counter[str] = Counter()
            for connection in reader.connections:  # One per publisher and topic.
                if connection.msgtype in (_IMAGE_TYPE, _COMPRESSED_TYPE):
                    counts[connection.topic] += connection.msgcount
        if not counts:
            raise SourceError(f'bag {folder} has no topic of images')
        if topic and topic not in counts:
            raise SourceError(f'bag {folder} has no images on {topic}, but on {", ".join(counts)}')
        self._topic = topic or max(counts, key=lambda name: counts[name])
        self.description = f'bag {folder}, {self._topic}, {counts[self._topic]} images'

    @property
    def is_compressed(self) -> bool:
        """Tell whether the topic holds sensor_msgs/CompressedImage."""
        with self._open() as reader:
            kinds = [item.msgtype for item in reader.connections if item.topic == self._topic]
        return _COMPRESSED_TYPE in kinds

    def stamps_ns(self) -> list[int]:
        """Return the stamps of the topic's images in the order of recording, none decoded."""
        with self._open() as reader:
            chosen = [item for item in reader.connections if item.topic == self._topic]
            return [
                _stamp_ns(reader.deserialize(data, connection.msgtype).header)
                for connection, _, data in reader.messages(connections=chosen)
            ]

    def frames(self) -> Iterator[SourceFrame]:
        """Yield the topic's images; those that cannot be decoded are counted and left out."""
        with self._open() as reader:
            chosen = [item for item in reader.connections if item.topic == self._topic]
            first_ns: int | None = None
            for connection, recorded_ns, data in reader.messages(connections=chosen):
                first_ns = recorded_ns if first_ns is None else first_ns
                message = reader.deserialize(data, connection.msgtype)
                try:
                    yield _from_message(
                        message, connection.msgtype, (recorded_ns - first_ns) / _NS_PER_S
                    )
                except BadImage as bad:
                    self.skipped[bad.reason] += 1

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            from rosbags.highlevel import AnyReader
            from rosbags.typesys import Stores, get_typestore
        except ImportError as err:
            raise SourceError('a bag needs the rosbags library: pip install rosbags') from err
        try:
            # Older bags do not carry their messages' definitions; those of images never changed.
            types = get_typestore(Stores.ROS2_JAZZY)
            reader = AnyReader([self._folder], default_typestore=types)
            reader.open()
        except (
            Exception
        ) as err:  # Storage plugins raise errors of their own, sqlite3's among them.
            raise SourceError(f'bag {self._folder} cannot be read: {err!r}') from err
        try:
            yield reader
        finally:
            reader.close()


def _from_message(message: Any, kind: str, time_s: float) -> SourceFrame:
    header = message.header
    stamp_ns = _stamp_ns(header)
    if kind == _IMAGE_TYPE:
        return SourceFrame(time_s, decode(message), stamp_ns, header.frame_id)
    image = decode_compressed(message)
    return SourceFrame(
        time_s, image, stamp_ns, header.frame_id, message.format, bytes(message.data)
    )


def _stamp_ns(header: Any) -> int:
    return int(header.stamp.sec) * _NS_PER_S + int(header.stamp.nanosec)
