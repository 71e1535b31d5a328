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
"""The real link with drawn faces in front of it, for some seconds; what it did is its trace."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from ferros import accuracy_grid, link_recording, synthetic_face
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.link import Link, LinkReport, LinkState
from ferros.link_probe import CheckError
from ferros.link_recording import Recording
from ferros.sender import SEGMENT_HEADER_BYTES, InFlight, Sender, message_bytes
from ferros.types import Box, CameraFrame, GridPoint, Image, OfferedFace

# How long the last answers are waited for.
_FLUSH_S: Final = 0.5
# Of the connection's timeout, for the link to say itself what is wrong.
_PATIENCE: Final = 1.5

_INTERVAL_NS: Final = round(1e9 / synthetic_face.FRAME_RATE_FPS)


class Totals(NamedTuple):
    """What the trace does not hold."""

    seconds: float
    # All that was sent, and the answers, with their headers.
    sent_bytes: int
    received_bytes: int
    drops: dict[str, int]
    # Why there is no connection at the end; empty where there is one.
    lost: str


class Trial(NamedTuple):
    """All that is known of a trial."""

    recording: Recording
    totals: Totals


class Faces:
    """A camera in front of which some drawn faces move, each a little ahead of the last."""

    def __init__(self, count: int) -> None:
        self._images: list[Image] = synthetic_face.frames()
        self._count = count
        self._tick = 0

    def next(self, stamp_ns: int, captured_ns: int) -> list[OfferedFace]:
        """Return the faces of the next camera image."""
        box = Box(0, 0, synthetic_face.SIZE_PX, synthetic_face.SIZE_PX)
        self._tick += 1
        return [
            OfferedFace(
                f'check-{number}',
                box,
                CameraFrame(
                    self._images[(self._tick + 7 * number) % len(self._images)],
                    stamp_ns,
                    captured_ns,
                ),
            )
            for number in range(self._count)
        ]


class _Metered(Sender):
    """A sender that also counts what comes back."""

    def __init__(
        self, config: RobotConfig, grid: Sequence[GridPoint], drops: Drops, now_ns: int
    ) -> None:
        super().__init__(config, grid, drops, now_ns)
        self.received_bytes = 0

    def answered(
        self, sequence: int, received_ns: int, server_ns: int, answer_bytes: int, now_ns: int
    ) -> InFlight | None:
        # The segment that acknowledges a message comes back too.
        self.received_bytes += message_bytes(answer_bytes) + SEGMENT_HEADER_BYTES
        return super().answered(sequence, received_ns, server_ns, answer_bytes, now_ns)


def run(
    config: RobotConfig,
    faces: int,
    seconds: float,
    progress: Callable[[float, LinkReport], None],
) -> tuple[Trial, bool]:
    """
    Send what ferros would send of so many faces; return what was seen, and whether all of it.

    Ctrl-C ends it early; progress is called with the seconds so far, several times a second.

    Raises:
        CheckError: no connection.
        GridError: the robot has no accuracy grid of its own.

    """
    with tempfile.TemporaryDirectory(prefix='ferros-') as folder:
        path = Path(folder) / 'trace.jsonl'
        config = replace(config, trace_file=str(path))
        drops = Drops()
        grid = accuracy_grid.read(Path(config.accuracy_grid_file or accuracy_grid.default_path()))
        sender = _Metered(config, grid, drops, time.monotonic_ns())
        link = Link(config, drops, lambda answer: None, sender=sender)
        camera = Faces(faces)
        link.start()
        began_s = time.monotonic()
        completed = False
        try:
            _connect(link, config)
            began_s = time.monotonic()
            _drive(link, camera, seconds, progress)
            completed = True
        except KeyboardInterrupt:
            pass
        finally:
            # What is dropped by ending is none of the link's doing.
            driven_s, counts = time.monotonic() - began_s, drops.counts()
            _flush(link)
            report = link.report()
            link.stop()
        totals = Totals(
            driven_s,
            report.bandwidth.sent_bytes,
            sender.received_bytes,
            counts,
            '' if report.state is LinkState.CONNECTED else report.detail or report.state.value,
        )
        return Trial(link_recording.read(path), totals), completed


def _connect(link: Link, config: RobotConfig) -> None:
    """Wait for the connection."""
    deadline_s = time.monotonic() + _PATIENCE * config.connect_timeout_ms / 1000
    while (report := link.report()).state is not LinkState.CONNECTED:
        if time.monotonic() > deadline_s or report.state is LinkState.WAITING:
            raise CheckError(f'the link does not come up: {report.detail}')
        time.sleep(0.005)


def _drive(
    link: Link, camera: Faces, seconds: float, progress: Callable[[float, LinkReport], None]
) -> None:
    """Offer faces at the camera's rate."""
    began_ns = due_ns = time.monotonic_ns()
    while (now_ns := time.monotonic_ns()) - began_ns < seconds * 1e9:
        link.offer(camera.next(time.time_ns(), now_ns))
        progress((now_ns - began_ns) / 1e9, link.report())
        # After a stall the missed images are not made up for.
        due_ns = max(due_ns + _INTERVAL_NS, now_ns)
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)


def _flush(link: Link) -> None:
    """Let what is in flight be answered."""
    deadline_s = time.monotonic() + _FLUSH_S
    while link.report().bandwidth.in_flight_bytes and time.monotonic() < deadline_s:
        time.sleep(0.01)
