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
From camera messages and answers to what is published: the node's work, without ROS.

One thread uses it. What takes long besides, the link and the model on the robot, has threads of
its own, to which faces are offered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from ferros.answers import Answers
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.image import BadImage, decode, decode_compressed, decode_reduced
from ferros.perception import Perception
from ferros.types import CameraFrame, Image, OfferedFace, Track

# How often the same reason to start afresh is said, at most.
_SAID_AGAIN_NS = 1_000_000_000
# Reads an image message of an encoding that is not known here, as BGR.
Convert = Callable[[Any], Any]


class Reader(Protocol):
    """What reads faces: the link to the server, or the model on the robot."""

    def offer(self, faces: Sequence[OfferedFace]) -> None:
        """Take the faces of one image, the most important first; never waits."""
        ...


class Processed(NamedTuple):
    """One image that was looked at."""

    # The image as it came.
    message: Any
    frame: CameraFrame
    tracks: list[Track]
    # From the start of decoding to the offered faces.
    processing_ns: int


class Pipeline:
    """Looks for faces in images and offers them to whoever reads them."""

    def __init__(
        self,
        config: RobotConfig,
        drops: Drops,
        perception: Perception,
        answers: Answers,
        readers: Sequence[Reader],
        convert: Convert,
        warn: Callable[[str], None],
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._config = config
        self._drops = drops
        self._perception = perception
        self._answers = answers
        self._readers = readers
        self._convert = convert
        # Why and when it was said last that everything begins anew.
        self._forgot, self._forgot_ns = '', 0
        self._warn = warn
        self._clock_ns = clock_ns

    def configure(self, config: RobotConfig) -> None:
        """Take over parameters that may change while it runs."""
        self._config = config
        self._perception.configure(config)
        self._answers.configure(config)

    def set_usable_px(self, usable_px: int) -> None:
        """Say how many pixels of a face, along its side, can be used; 0: it is not known."""
        if usable_px:
            self._perception.usable_px = usable_px

    def reset(self, why: str) -> None:
        """Forget the images before, and what was answered to them."""
        self._perception.reset()
        self._forget(why)

    def process(
        self, message: Any, arrived_ns: int, interval_ns: int = 0
    ) -> Processed | None:
        """
        Look for faces in an image and offer them; None where it cannot be used.

        interval_ns: the camera's, by all images that arrive, so that less is looked for where
        time is short; 0: not known.
        """
        started_ns = self._clock_ns()
        frame = self._decode(message, arrived_ns)
        if frame is None:
            return None
        tracks = self._perception.process(frame)
        if tracks is None:
            if self._drops.count('time_backwards'):
                self._warn('an image was dropped: its stamp is not after the one before')
            return None
        if self._perception.jumped:
            self._forget(self._perception.jumped)
        self._answers.on_image(frame, tracks, self._clock_ns())
        faces = by_importance(tracks, self._answers.primary_id, frame)[: self._config.max_faces]
        for reader in self._readers:
            reader.offer(faces)
        processing_ns = self._clock_ns() - started_ns
        self._perception.spent(processing_ns, interval_ns)
        return Processed(message, frame, tracks, processing_ns)

    def _decode(self, message: Any, arrived_ns: int) -> CameraFrame | None:
        """Return the image, or None where it cannot be read, which is counted and said once."""
        reduction, size_px = 1, (0, 0)
        try:
            if self._config.image_transport == 'compressed':
                image, reduction, size_px = decode_reduced(message, self._perception.reduction)
            else:
                image = decode(message, self._convert)
        except BadImage as error:
            if self._drops.count(f'image_{error.reason}'):
                self._warn(f'an image was dropped: {error}')
            return None
        stamp = message.header.stamp
        return CameraFrame(
            image,
            # A field of ROS may hold more nanoseconds than there are in a second.
            stamp.sec * 1_000_000_000 + min(stamp.nanosec, 999_999_999),
            arrived_ns,
            message.header.frame_id,
            reduction,
            size_px,
        )

    def _forget(self, why: str) -> None:
        now_ns = self._clock_ns()
        # Two cameras on one topic would fill the log; all are counted.
        if why != self._forgot or now_ns - self._forgot_ns > _SAID_AGAIN_NS:
            self._warn(f'starting afresh: {why}')
            self._forgot, self._forgot_ns = why, now_ns
        self._drops.count('restarted')
        self._answers.reset()


def in_colour(message: Any, convert: Convert) -> Image:
    """
    Return an image message that was processed before as BGR, in its full size.

    Looking for faces does without colour; whoever wants to see them pays for it.

    Raises:
        BadImage: it cannot be read, which is not to be expected of one that was.

    """
    compressed = hasattr(message, 'format')
    image = decode_compressed(message) if compressed else decode(message, convert)
    return image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))


def by_importance(
    tracks: Sequence[Track], primary_id: str | None, frame: CameraFrame
) -> list[OfferedFace]:
    """Return the faces that this very image shows, the primary first, then by size."""
    seen = [track for track in tracks if track.seen_ns == frame.stamp_ns]
    seen.sort(key=lambda track: (track.face_id != primary_id, -track.box.area_px))
    return [OfferedFace(track.face_id, track.box, frame) for track in seen]
