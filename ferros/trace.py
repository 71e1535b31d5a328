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
"""What the link does, as lines of JSON in a file: for plots, and for judging it afterwards."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ferros.bandwidth import Bandwidth
from ferros.operating_point import Plan
from ferros.sender import InFlight

STATE_INTERVAL_NS = 100_000_000


class Trace:
    """
    Writes one JSON object per line; may be used from several threads.

    Each has a `kind`: `frame` (one per answered frame), `state` (ten per second) or `link` (at
    each change of the connection). Times are the robot's monotonic clock in ns; what is not known
    is null. The file is written anew each time.

    Raises:
        OSError: the file cannot be written.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] = path.open('w', encoding='utf-8')
        self._lock = threading.Lock()

    def frame(self, sent: InFlight, answered_ns: int, server_ns: int, status: str) -> None:
        """Write a line about a frame that was answered."""
        face, point, rank = sent.ready
        self._write({
            'kind': 'frame', 'face_id': face.face_id, 'rank': rank,
            'captured_ns': face.frame.captured_ns, 'sent_ns': sent.sent_ns,
            'answered_ns': answered_ns, 'server_ns': server_ns, 'status': status,
            'face_size_px': point.face_size_px, 'frame_rate_fps': point.frame_rate_fps,
            'codec': point.codec.name.lower(), 'quality': point.quality,
            'message_bytes': sent.message_bytes,
        })

    def link(self, now_ns: int, state: str, detail: str) -> None:
        """Write a line about a change of the connection."""
        self._write({'kind': 'link', 'now_ns': now_ns, 'state': state, 'detail': detail})

    def state(
        self,
        now_ns: int,
        link: str,
        bandwidth: Bandwidth,
        budget_bytes_per_s: float,
        plan: Plan | None,
        drops: Mapping[str, int],
    ) -> None:
        """Write a line about how the link stands."""
        points = plan.points if plan is not None else {}
        self._write({
            'kind': 'state', 'now_ns': now_ns, 'link': link,
            'rate_bytes_per_s': _number(bandwidth.rate_bytes_per_s),
            'acknowledged_bytes_per_s': _number(bandwidth.acknowledged_bytes_per_s),
            'round_trip_ms': _number(bandwidth.round_trip_ms),
            'min_round_trip_ms': _number(bandwidth.min_round_trip_ms),
            'queue_ms': _number(bandwidth.queue_ms),
            'in_flight_bytes': bandwidth.in_flight_bytes,
            'window_bytes': bandwidth.window_bytes,
            'budget_bytes_per_s': _number(budget_bytes_per_s),
            'points': {
                face_id: [
                    p.face_size_px, round(p.frame_rate_fps, 2), p.codec.name.lower(), p.quality,
                    p.bytes_p50, round(p.accuracy, 4),
                ]
                for face_id, p in points.items()
            },
            'drops': dict(drops),
        })

    @property
    def closed(self) -> bool:
        """Tell whether nothing more is written."""
        return self._file.closed

    def close(self) -> None:
        """Write what is left and close the file; what comes later is not written."""
        with self._lock:
            try:
                self._file.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Write no more: what is traced matters more than its trace."""
        logging.getLogger('ferros.trace').warning('%s: not written on: %s', self._path, error)
        # What it still holds cannot be written either.
        with contextlib.suppress(OSError):
            self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        text = json.dumps(line, allow_nan=False)
        with self._lock:
            if self._file.closed:
                return
            try:
                self._file.write(text + '\n')
            except OSError as error:
                self._give_up(error)


def _number(value: float) -> float | None:
    """Return the number rounded, None where JSON has none for it."""
    return round(value, 3) if math.isfinite(value) else None
