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
"""Which of the faces is the one that matters now; pure."""

from __future__ import annotations

from collections.abc import Sequence

from ferros.types import Track

_NS_PER_MS = 1_000_000


class PrimaryFace:
    """
    Follows the largest face, with hysteresis in size and in time.

    Both may be set while it runs.
    """

    def __init__(self, area_ratio: float = 1.2, take_over_ms: int = 500) -> None:
        """
        Start without a face.

        area_ratio: another face takes over only when it is this many times as large, in area ...
        take_over_ms: ... for this long: two people at one distance would else take turns.
        """
        self.area_ratio = area_ratio
        self.take_over_ms = take_over_ms
        self._face_id: str | None = None
        self._challenger: str | None = None
        self._challenged_ns = 0

    def choose(self, tracks: Sequence[Track], now_ns: int) -> str | None:
        """Return the id of the primary face; None where tracks is empty."""
        if not tracks:
            self.reset()
            return None
        areas_px = {track.face_id: track.box.area_px for track in tracks}
        largest = max(areas_px, key=areas_px.__getitem__)
        held_area_px = areas_px.get(self._face_id or '')
        if held_area_px is None:
            return self._hold(largest)
        larger = areas_px[largest] > held_area_px
        if not larger or areas_px[largest] < held_area_px * self.area_ratio:
            self._challenger = None
            return self._face_id
        if largest != self._challenger:
            self._challenger, self._challenged_ns = largest, now_ns
        if now_ns - self._challenged_ns >= self.take_over_ms * _NS_PER_MS:
            return self._hold(largest)
        return self._face_id

    def reset(self) -> None:
        """Forget the face that is held."""
        self._face_id = self._challenger = None

    def _hold(self, face_id: str) -> str:
        self._face_id, self._challenger = face_id, None
        return face_id
