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
"""From a decoded camera image to the faces in it: continuity, detection, tracking; no ROS here."""

from __future__ import annotations

from ferros.detect import Detector
from ferros.timeline import Continuity, Timeline
from ferros.track import Tracker
from ferros.types import CameraFrame, Track


class Perception:
    """
    Finds and follows the faces of one camera.

    process() returns the tracks in a frame, or None where the frame is not newer than the one
    before and is left alone. `jumped` tells, after a call, that what was known before it no
    longer holds: time was set back or the image has another size.
    """

    def __init__(self, detector: Detector, tracker: Tracker) -> None:
        self._detector = detector
        self._tracker = tracker
        self._timeline = Timeline()
        self._shape: tuple[int, ...] | None = None
        self.jumped = ''

    def process(self, frame: CameraFrame) -> list[Track] | None:
        """Return the faces of the frame, or None where it is not newer than the one before."""
        self.jumped = ''
        continuity = self._timeline.follow(frame.stamp_ns)
        if continuity is Continuity.BACKWARDS:
            return None
        shape = frame.image.shape[:2]
        if continuity is Continuity.JUMP:
            self._forget('the image stamps were set back')
        elif self._shape not in (None, shape):
            self._forget(f'the image size changed from {self._shape} to {shape}')
        self._shape = shape
        return self._tracker.update(self._detector.detect(frame.image), frame.stamp_ns)

    def reset(self) -> None:
        """Forget the faces and the time line."""
        self._tracker.reset()
        self._timeline.reset()

    def _forget(self, why: str) -> None:
        self._tracker.reset()
        self.jumped = why
