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
"""The data that travel through the robot half; this module imports nothing of ours."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# An image of uint8: [height, width] luma or [height, width, 3] blue-green-red.
Image = NDArray[np.uint8]

# The label of a face that is there but for which no trustworthy answer exists.
UNKNOWN = 'unknown'


class Box(NamedTuple):
    """
    A square or rectangle in pixels of the camera image, origin top left.

    x and y are the top left corner and may be negative: a face at the border is boxed whole.
    """

    x: float
    y: float
    width: float
    height: float

    @property
    def area_px(self) -> float:
        """Return the area in square pixels."""
        return self.width * self.height

    @property
    def centre(self) -> tuple[float, float]:
        """Return the centre as (x, y) in pixels."""
        return self.x + self.width / 2, self.y + self.height / 2

    def scaled(self, factor: float) -> Box:
        """Return the box of the same thing in an image that is factor times as large each way."""
        return Box(*(factor * value for value in self))

    def clipped(self, width_px: int, height_px: int) -> Box:
        """Return the part inside an image of that size, in whole pixels; it may be empty."""
        left, top = round(self.x), round(self.y)
        # Rounded on its own, so that a square stays one.
        right, bottom = left + round(self.width), top + round(self.height)
        left, right = (min(max(x, 0), width_px) for x in (left, right))
        top, bottom = (min(max(y, 0), height_px) for y in (top, bottom))
        return Box(left, top, right - left, bottom - top)


class Track(NamedTuple):
    """A face that is being followed: its id stays while the face stays."""

    face_id: str
    # The square that the model was trained on (see detect.py), as last seen.
    box: Box
    # Stamp of the image in which the face was last detected or followed.
    seen_ns: int


class CameraFrame(NamedTuple):
    """
    One decoded camera image with the two times that belong to it.

    All boxes are in pixels of the image as the camera node publishes it, which `image` may be a
    smaller copy of.
    """

    # uint8 [height, width] luma or [height, width, 3] BGR.
    image: Image
    # The stamp in the image's header.
    stamp_ns: int
    # The monotonic clock when the message arrived.
    captured_ns: int
    # The message's frame_id.
    frame_id: str = ''
    # How many times smaller `image` is than the published one, each way.
    reduction: int = 1
    # Width and height of the published image; (0, 0): those of `image`.
    published_size_px: tuple[int, int] = (0, 0)

    @property
    def size_px(self) -> tuple[int, int]:
        """Return width and height of the published image, in pixels."""
        if self.published_size_px != (0, 0):
            return self.published_size_px
        height_px, width_px = self.image.shape[:2]
        return width_px, height_px

    def in_image(self, box: Box) -> Box:
        """Return a box of the published image in pixels of `image`."""
        return box if self.reduction == 1 else box.scaled(1 / self.reduction)


class OfferedFace(NamedTuple):
    """A face of a camera frame that may be sent; it is cropped and encoded only if it is."""

    face_id: str
    box: Box
    frame: CameraFrame


class Source(IntEnum):
    """Who computed an answer; the values are those of ferros_msgs/Emotion."""

    NONE = 0
    CLOUD = 1
    ROBOT = 2


class Observation(NamedTuple):
    """What is known of one face from one camera frame."""

    face_id: str
    # The stamp, frame_id and arrival (monotonic) of the camera image it was computed from.
    stamp_ns: int
    frame_id: str
    captured_ns: int
    box: Box
    label: str
    # Of the top class, also when the label is unknown.
    confidence: float
    labels: tuple[str, ...]
    # One per label, sum 1; empty when nothing was computed.
    probabilities: tuple[float, ...]
    # -1..1, NaN if not known.
    valence: float
    arousal: float
    source: Source
    model: str


class Codec(IntEnum):
    """How a crop is compressed; the values are those of the wire."""

    JPEG = 1
    WEBP = 2


class OperatingPoint(NamedTuple):
    """What is sent of a face: how many pixels, how often and how compressed."""

    face_size_px: int
    frame_rate_fps: float
    codec: Codec
    # 1..100 in the codec's own scale.
    quality: int


class GridPoint(NamedTuple):
    """What one way of sending a face costs and is worth: a row of the accuracy grid."""

    face_size_px: int
    frame_rate_fps: float
    codec: Codec
    # 1..100 in the codec's own scale.
    quality: int
    # Of one message on the link, headers included: median and 95th percentile.
    bytes_p50: int
    bytes_p95: int
    # Streaming accuracy, 0..1.
    accuracy: float
