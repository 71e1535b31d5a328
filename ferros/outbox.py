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
"""One slot per face: what waits to be sent is always the newest image of it; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ferros.drops import Drops
from ferros.pacing import Pacer
from ferros.types import OfferedFace, OperatingPoint

# Chooses what is sent of a face whose box is that many pixels wide in the camera image.
ChoosePoint = Callable[[float], OperatingPoint]


class Ready(NamedTuple):
    """A face that is to be sent now, and how."""

    face: OfferedFace
    point: OperatingPoint


class Outbox:
    """
    Holds the newest image of each face until its turn comes; times are monotonic ns.

    A newer image of a face replaces the one that waits. Of several faces that are due, the one
    that waited longest goes first, so none starves on a thin link.
    """

    def __init__(self, drops: Drops) -> None:
        self._drops = drops
        self._waiting: dict[str, OfferedFace] = {}
        self._pacers: dict[str, Pacer] = {}
        self._last_sent_ns: dict[str, int] = {}

    def offer(self, faces: Sequence[OfferedFace]) -> None:
        """Take the faces of one camera image; faces not among them are gone."""
        offered = {face.face_id: face for face in faces}
        for face_id in self._waiting:
            self._drops.count('superseded' if face_id in offered else 'face_gone')
        self._waiting = offered
        for face_id in self._pacers.keys() - offered.keys():
            del self._pacers[face_id]
            self._last_sent_ns.pop(face_id, None)

    def take(self, now_ns: int, choose: ChoosePoint) -> Ready | None:
        """Return the face to send now and count it as sent; None: none is due yet."""
        due = []
        for face in self._waiting.values():
            point = choose(face.box.width)
            pacer = self._pacers.setdefault(face.face_id, Pacer())
            if pacer.wait_ns(now_ns, interval_ns(point)) == 0:
                due.append(Ready(face, point))
        if not due:
            return None
        ready = min(due, key=lambda r: self._last_sent_ns.get(r.face.face_id, -1))
        face_id = ready.face.face_id
        del self._waiting[face_id]
        self._pacers[face_id].happened(now_ns, interval_ns(ready.point))
        self._last_sent_ns[face_id] = now_ns
        return ready

    def wait_ns(self, now_ns: int, choose: ChoosePoint) -> int | None:
        """Return how long until a face that waits is due; None: none waits."""
        return min(
            (
                self._pacers[face.face_id].wait_ns(now_ns, interval_ns(choose(face.box.width)))
                for face in self._waiting.values()
                if face.face_id in self._pacers
            ),
            default=None,
        )

    def clear(self, reason: str) -> None:
        """Drop what waits, counted under reason."""
        if self._waiting:
            self._drops.count(reason, len(self._waiting))
        self._waiting.clear()


def interval_ns(point: OperatingPoint) -> int:
    """Return the time between two frames of a face at this point."""
    return round(1e9 / point.frame_rate_fps)
