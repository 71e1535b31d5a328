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
The node's work where the faces come from another node, as REP-155 has them.

Stands where `pipeline.Pipeline` stands otherwise; nothing is looked for, so there is no camera
image: what is known of a face is its crop and the share of the camera image that it takes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from ferros.answers import Answers
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.pipeline import Processed, Reader
from ferros.rep155_scene import Rep155Face, Scene
from ferros.timeline import Continuity, Timeline
from ferros.types import Box, CameraFrame, OfferedFace, Track

# The side of an imagined camera image, to say how large faces are against each other.
_SIDE_PX = 1000.0
_NO_IMAGE = np.zeros((1, 1), np.uint8)


class ScenePipeline:
    """Offers the faces of scenes to whoever reads them; one thread uses it."""

    def __init__(
        self,
        config: RobotConfig,
        drops: Drops,
        answers: Answers,
        readers: Sequence[Reader],
        warn: Callable[[str], None],
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._config = config
        self._drops = drops
        self._answers = answers
        self._readers = readers
        self._warn = warn
        self._clock_ns = clock_ns
        self._timeline = Timeline()
        # The stamps of the crops that were offered, by face.
        self._offered_ns: dict[str, int] = {}

    def configure(self, config: RobotConfig) -> None:
        """Take over parameters that may change while it runs."""
        self._config = config
        self._answers.configure(config)

    def set_usable_px(self, usable_px: int) -> None:
        """Leave the crops as they are: they are not made here."""

    def reset(self, why: str) -> None:
        """Forget the scenes before, and what was answered to them."""
        self._timeline.reset()
        self._forget(why)

    def process(
        self, scene: Scene, arrived_ns: int, interval_ns: int = 0
    ) -> Processed | None:
        """
        Offer what is new in a scene; None where it belongs to an image that was processed.

        A crop that comes late is offered with the next image's: what is sent of each face depends
        on all.
        """
        started_ns = self._clock_ns()
        continuity = self._timeline.follow(scene.stamp_ns)
        if continuity is Continuity.BACKWARDS:
            return None
        if continuity is Continuity.JUMP:
            self._forget('the stamps of the faces were set back')
        frame = CameraFrame(_NO_IMAGE, scene.stamp_ns, scene.captured_ns, scene.frame_id)
        tracks = _tracks(scene)
        self._answers.on_image(frame, tracks, self._clock_ns())
        faces = self._new_faces(scene)[: self._config.max_faces]
        for reader in self._readers:
            reader.offer(faces)
        return Processed(scene, frame, tracks, self._clock_ns() - started_ns)

    def _forget(self, why: str) -> None:
        self._offered_ns.clear()
        self._warn(f'starting afresh: {why}')
        self._drops.count('restarted')
        self._answers.reset()

    def _new_faces(self, scene: Scene) -> list[OfferedFace]:
        """Return the faces with a crop that was not offered yet, the primary one first."""
        new = [face for face in scene.faces if self._is_new(face)]
        self._offered_ns = {face.face_id: face.frame.stamp_ns for face in scene.faces}
        # Those of a scene are in the order of their size.
        new.sort(key=lambda face: face.face_id != self._answers.primary_id)
        return [OfferedFace(face.face_id, face.box, face.frame) for face in new]

    def _is_new(self, face: Rep155Face) -> bool:
        return self._offered_ns.get(face.face_id) != face.frame.stamp_ns


def _tracks(scene: Scene) -> list[Track]:
    """Return the faces with boxes that are as large as theirs are in a camera image."""
    crops = {face.face_id: face for face in scene.faces}
    tracks = []
    for face_id in scene.ids:
        crop = crops.get(face_id)
        area = crop.area if crop is not None and not math.isnan(crop.area) else 0.0
        side_px = _SIDE_PX * math.sqrt(area)
        seen_ns = crop.frame.stamp_ns if crop is not None else scene.stamp_ns
        tracks.append(Track(face_id, Box(0, 0, side_px, side_px), seen_ns))
    return tracks
