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
"""What the node noticed since it last said so, for the diagnostics; several threads write."""

from __future__ import annotations

import math
import threading

from ferros.health import CameraReport, FacesReport

# Of one gap between two images in the camera's interval.
_GAP_WEIGHT = 0.1


class Watch:
    """Gathers figures of the camera and the faces; all times in ns of the monotonic clock."""

    def __init__(self, now_ns: int) -> None:
        self._lock = threading.Lock()
        self._images = 0
        self._reported_ns = now_ns
        self._last_image_ns: int | None = None
        self._interval_ns = 0.0
        self._processing_ms: list[float] = []
        self._faces = 0
        self._primary_id = ''
        self._somebody_since_ns: int | None = None

    def image_arrived(self, now_ns: int) -> None:
        """Note that the camera sent an image."""
        with self._lock:
            self._images += 1
            if self._last_image_ns is not None:
                gap_ns = now_ns - self._last_image_ns
                # Images may arrive in bunches; what counts is how many there are.
                weight = _GAP_WEIGHT if self._interval_ns else 1.0
                self._interval_ns += weight * (gap_ns - self._interval_ns)
            self._last_image_ns = now_ns

    @property
    def interval_ns(self) -> int:
        """Return the camera's interval, by all images that arrived of late; 0: not known yet."""
        with self._lock:
            return round(self._interval_ns)

    def processed(
        self, faces: int, primary_id: str | None, processing_ns: int, now_ns: int
    ) -> None:
        """Note what was seen in an image."""
        with self._lock:
            self._processing_ms.append(processing_ns / 1e6)
            self._faces, self._primary_id = faces, primary_id or ''
            if not faces:
                self._somebody_since_ns = None
            elif self._somebody_since_ns is None:
                self._somebody_since_ns = now_ns

    def camera(self, topic: str, now_ns: int) -> CameraReport:
        """Return the figures since the last call."""
        with self._lock:
            elapsed_s = max((now_ns - self._reported_ns) / 1e9, 1e-3)
            report = CameraReport(
                topic=topic,
                rate_hz=self._images / elapsed_s,
                silent_s=_since_s(self._last_image_ns, now_ns),
                processing_ms=tuple(self._processing_ms),
            )
            self._images, self._reported_ns = 0, now_ns
            self._processing_ms = []
            return report

    def faces(self, max_faces: int, now_ns: int) -> FacesReport:
        """Return who is in the newest image."""
        with self._lock:
            there_s = _since_s(self._somebody_since_ns, now_ns)
            return FacesReport(self._faces, self._primary_id, there_s, max_faces)


def _since_s(then_ns: int | None, now_ns: int) -> float:
    return math.nan if then_ns is None else (now_ns - then_ns) / 1e9
