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

from collections.abc import Mapping, Sequence

from ferros.drops import Drops
from ferros.pacing import Pacer
from ferros.types import GridPoint, OfferedFace

# How long a face may wait for its turn; where the camera goes on, it is replaced long before.
MAX_WAIT_NS = 300_000_000


class Outbox:
    """
    Holds the newest image of each face until its turn comes; times are monotonic ns.

    A newer image of a face replaces the one that waits. Whether a face is due is decided when
    its image comes: one that is not due then waits for the camera's next, never for its time
    while it grows old. Of several faces that are due the first one offered, the primary face,
    goes first, then the one that waited longest: none starves, as each has a rate of its own.
    """

    def __init__(self, drops: Drops) -> None:
        self._drops = drops
        self._waiting: dict[str, OfferedFace] = {}
        self._offered_ns = 0
        self._early_ns: int | None = None
        self._primary = ''
        self._pacers: dict[str, Pacer] = {}
        self._last_sent_ns: dict[str, int] = {}

    def offer(
        self, faces: Sequence[OfferedFace], now_ns: int, frame_interval_ns: float = 0.0
    ) -> None:
        """
        Take the faces of one camera image, the primary first; others than these are gone.

        frame_interval_ns is the camera's: of its images the one nearest to a face's time is
        sent. 0: not known.
        """
        offered = {face.face_id: face for face in faces}
        for face_id in self._waiting:
            self._drops.count('superseded' if face_id in offered else 'face_gone')
        self._waiting, self._offered_ns = offered, now_ns
        self._early_ns = round(frame_interval_ns / 2) if frame_interval_ns > 0 else None
        self._primary = next(iter(offered), '')
        for face_id in self._pacers.keys() - offered.keys():
            del self._pacers[face_id]
            self._last_sent_ns.pop(face_id, None)

    def next(
        self, now_ns: int, points: Mapping[str, GridPoint], ahead_of_time: bool = False
    ) -> OfferedFace | None:
        """
        Return the face to send now; None: none is due yet. It stays until it is taken.

        Args:
            now_ns: the time.
            points: how each face is sent.
            ahead_of_time: a face that waits is due whatever its interval.

        """
        self._drop_old(now_ns)
        due = [
            face
            for face in self._waiting.values()
            if ahead_of_time or self._is_due(face.face_id, points)
        ]
        return min(due, key=self._turn, default=None)

    def take(self, face: OfferedFace, now_ns: int, interval_ns: int) -> None:
        """Remove a face that waits and count it as sent."""
        del self._waiting[face.face_id]
        pacer = self._pacers.setdefault(face.face_id, Pacer())
        pacer.happened(self._offered_ns, interval_ns, self._early_ns)
        self._last_sent_ns[face.face_id] = now_ns

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing waits."""
        return not self._waiting

    def clear(self, reason: str) -> None:
        """Drop what waits, counted under reason."""
        if self._waiting:
            self._drops.count(reason, len(self._waiting))
        self._waiting.clear()

    def _drop_old(self, now_ns: int) -> None:
        if now_ns - self._offered_ns > MAX_WAIT_NS:
            self.clear('waited_too_long')

    def _is_due(self, face_id: str, points: Mapping[str, GridPoint]) -> bool:
        pacer = self._pacers.get(face_id)
        if pacer is None:
            return True
        return not pacer.wait_ns(self._offered_ns, interval_ns(points[face_id]), self._early_ns)

    def _turn(self, face: OfferedFace) -> tuple[bool, int]:
        return face.face_id != self._primary, self._last_sent_ns.get(face.face_id, -1)


def interval_ns(point: GridPoint) -> int:
    """Return the time between two frames of a face at this point."""
    return round(1e9 / point.frame_rate_fps)
