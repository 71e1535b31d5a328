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
The faces that another node publishes as REP-155 has it, put together; pure, no ROS here.

A list of ids, and of each face its picture and its region, come as messages of their own, in
whatever order. A `Scene` is what is known of all faces after some of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ferros.drops import Drops
from ferros.rep155_image import unpadded
from ferros.rep155_rules import Region, id_fault
from ferros.timeline import Continuity, Timeline
from ferros.types import Box, CameraFrame, Image

# Faces that are followed at once, so that a list without end costs no subscriptions without end.
MAX_TRACKED: Final = 64


class Rep155Face(NamedTuple):
    """The newest picture of a face."""

    face_id: str
    # The picture without its padding; stamp and frame_id of its message, arrival of the same.
    frame: CameraFrame
    # All of the picture, in its pixels.
    box: Box
    # Of the face as a share of the camera image's; NaN if not known.
    area: float


class Scene(NamedTuple):
    """What is known of the faces; a newer scene holds all that an older one does."""

    # The newest image that the scene tells of.
    stamp_ns: int
    frame_id: str
    # The monotonic clock when the newest message of it arrived.
    captured_ns: int
    # All faces that are there, in the order of their list.
    ids: tuple[str, ...]
    # Those of which a picture came, the largest first, those of unknown size last.
    faces: tuple[Rep155Face, ...]


class _Followed:
    """A face of the list."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.area = math.nan
        self.face: Rep155Face | None = None
        # Of the newest picture.
        self.stamp_ns = 0
        # Whether it is in no scene yet.
        self.is_pending = False


class SceneBuilder:
    """
    Makes scenes of messages: as a rule one for each image, as soon as it is complete.

    An image is complete when there is its list, and a picture of each listed face of which there
    was one of the image before. What does not come is not waited for beyond the next image. A
    picture that comes after that, of a face that is new, makes another scene.

    Times in ns; now_ns is the monotonic clock.
    """

    def __init__(
        self, drops: Drops, max_faces: int, warn: Callable[[str], None] = lambda text: None
    ) -> None:
        """
        Start without any face.

        max_faces: of which a scene shows pictures, the largest; may be changed at any time.
        warn: told the first of each reason for which something is dropped.
        """
        self.max_faces = max_faces
        self._drops = drops
        self._warn = warn
        self._faces: dict[str, _Followed] = {}
        self._timeline = Timeline()
        self._listed_ns = 0
        # Whose pictures the listed image's scene waits for.
        self._missing: set[str] = set()
        self._stamp_ns = 0
        self._frame_id = ''
        self._captured_ns = 0

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the faces that are there, in the order of their list."""
        return tuple(self._faces)

    def on_tracked(
        self, ids: Sequence[str], stamp_ns: int, frame_id: str, now_ns: int
    ) -> Scene | None:
        """Take a list of all faces; None where it is older than the one before, or waits."""
        before_ns = self._listed_ns
        if stamp_ns == 0:
            self._refuse('rep155_unstamped', 'a list of faces has no stamp')
        elif not self._is_new_list(stamp_ns):
            self._refuse('rep155_time_backwards', 'a list of faces was dropped: it is an old one')
            return None
        missing = {
            face_id
            for face_id, followed in self._faces.items()
            if 0 < before_ns <= followed.stamp_ns < stamp_ns and face_id in ids
        }
        # The image before was never complete.
        late = self._scene() if missing and self._missing else None
        accepted = self._accept(ids)
        self._faces = {face_id: self._faces.get(face_id) or _Followed() for face_id in accepted}
        self._missing = missing
        self._see(stamp_ns, frame_id, now_ns)
        return late if missing else self._scene()

    def on_region(self, face_id: str, region: Region) -> None:
        """Take a face's place in the camera image."""
        followed = self._faces.get(face_id)
        if followed is None:
            return
        if not region.is_valid:
            self._refuse(
                'rep155_roi_invalid',
                f'the roi of {face_id} is {tuple(region)}, expected a part of an image, 0 to 1',
            )
        followed.area = region.area if region.is_valid else math.nan

    def on_picture(
        self, face_id: str, picture: Image, stamp_ns: int, frame_id: str, now_ns: int
    ) -> Scene | None:
        """Take a picture of a face; None where it makes no scene yet, or is dropped."""
        if face_id not in self._faces:
            self._drops.count('rep155_face_gone')
            return None
        face = unpadded(picture)
        if face is None:
            self._refuse(
                'rep155_crop_black', f'a picture of {face_id} was dropped: it is all black'
            )
            return None
        if not self._is_new_picture(face_id, stamp_ns):
            return None
        followed = self._faces[face_id]
        is_ahead = stamp_ns > self._listed_ns
        # What its image lacks will not come any more, be it a picture or, for the last one of this
        # face, the list.
        late = self._scene() if is_ahead and (self._missing or followed.is_pending) else None
        height_px, width_px = face.shape[:2]
        frame = CameraFrame(face, stamp_ns, now_ns, frame_id)
        followed.face = Rep155Face(face_id, frame, Box(0, 0, width_px, height_px), math.nan)
        followed.stamp_ns, followed.is_pending = stamp_ns, True
        if is_ahead:
            return late
        self._missing.discard(face_id)
        return None if self._missing else self._scene()

    def _is_new_list(self, stamp_ns: int) -> bool:
        # The same image's faces may be listed again.
        if stamp_ns == self._listed_ns:
            return True
        continuity = self._timeline.follow(stamp_ns)
        if continuity is Continuity.JUMP:
            self._set_back()
            self._timeline.follow(stamp_ns)
        if continuity is not Continuity.BACKWARDS:
            self._listed_ns = stamp_ns
        return continuity is not Continuity.BACKWARDS

    def _is_new_picture(self, face_id: str, stamp_ns: int) -> bool:
        if stamp_ns == 0:
            self._refuse('rep155_unstamped', f'a picture of {face_id} was dropped: no stamp')
            return False
        continuity = self._faces[face_id].timeline.follow(stamp_ns)
        if continuity is Continuity.BACKWARDS:
            self._refuse(
                'rep155_time_backwards', f'a picture of {face_id} was dropped: it is an old one'
            )
            return False
        if continuity is Continuity.JUMP:
            self._set_back()
            self._faces[face_id].timeline.follow(stamp_ns)
        return True

    def _accept(self, ids: Sequence[str]) -> list[str]:
        """Return the ids that can be followed, each once."""
        accepted = []
        for face_id in dict.fromkeys(ids):
            fault = id_fault(face_id)
            if fault:
                self._refuse(fault, f'a face is not read for its id, {face_id[:80]!r}: {fault}')
            else:
                accepted.append(face_id)
        if len(accepted) > MAX_TRACKED:
            # Those that are followed stay.
            kept = sorted(accepted, key=lambda face_id: face_id not in self._faces)[:MAX_TRACKED]
            self._refuse(
                'rep155_too_many_faces',
                f'{len(accepted)} faces, of which {MAX_TRACKED} are read',
                len(accepted) - MAX_TRACKED,
            )
            accepted = [face_id for face_id in accepted if face_id in kept]
        return accepted

    def _scene(self) -> Scene:
        """Return the scene, with the pictures that waited for it."""
        faces = []
        for followed in self._faces.values():
            if followed.face is None:
                continue
            faces.append(followed.face._replace(area=followed.area))
            if followed.is_pending:
                frame = followed.face.frame
                self._see(frame.stamp_ns, frame.frame_id, frame.captured_ns)
                followed.is_pending = False
        faces.sort(key=_importance)
        self._missing = set()
        return Scene(
            self._stamp_ns,
            self._frame_id,
            self._captured_ns,
            self.ids,
            tuple(faces[: self.max_faces]),
        )

    def _see(self, stamp_ns: int, frame_id: str, now_ns: int) -> None:
        """Note which image is the newest."""
        self._captured_ns = max(self._captured_ns, now_ns)
        if stamp_ns > self._stamp_ns:
            self._stamp_ns, self._frame_id = stamp_ns, frame_id

    def _set_back(self) -> None:
        """Forget all but which faces are there."""
        self._faces = {face_id: _Followed() for face_id in self._faces}
        self._timeline = Timeline()
        self._listed_ns = 0
        self._missing = set()
        self._stamp_ns = 0
        self._frame_id = ''
        self._captured_ns = 0

    def _refuse(self, reason: str, detail: str, number: int = 1) -> None:
        if self._drops.count(reason, number):
            self._warn(detail)


def _importance(face: Rep155Face) -> tuple[float, int]:
    """Return what sorts the largest first, then the newest; those of unknown size come last."""
    return (math.inf if math.isnan(face.area) else -face.area, -face.frame.stamp_ns)
