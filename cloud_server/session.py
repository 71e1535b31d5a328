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
"""The state of one stream: its faces and what it may still send. Pure: times are arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_server.model_info import ModelInfo

MAX_FACE_ID_CHARS = 32
NS_PER_S = 1_000_000_000
SHORTEST_INTERVAL_NS = 1_000_000
NS_PER_MS = 1_000_000

Floats = NDArray[np.float32]


class LimitError(ValueError):
    """A frame over one of the stream's limits; the message names which."""


class ResetRule(NamedTuple):
    """A face starts anew after a gap longer than max(gap_s, intervals x its interval)."""

    gap_s: float
    intervals: float

    def gap_ns(self, interval_ms: int) -> int:
        """Return the longest gap that the state survives, for a sender of this interval."""
        return max(round(self.gap_s * NS_PER_S), round(self.intervals * interval_ms * NS_PER_MS))


class FaceSnapshot(NamedTuple):
    """The recurrent state of one face, on its way from one stream to the next."""

    face_id: str
    # Stamp of the last frame that was computed: the next interval is counted from it.
    stamp_ns: int
    # float32 [state_size], finite.
    h: Floats
    c: Floats


class Step(NamedTuple):
    """What a face brings to one step in time."""

    # Seconds since its previous frame; 0 after a reset.
    interval_s: float
    h: Floats
    c: Floats
    is_reset: bool


@dataclass(eq=False)
class Face:
    """
    The recurrent state of one face.

    One batch at a time may hold a face: the batcher sees to it by the face's key.
    """

    h: Floats
    c: Floats
    # Stamp of the last frame that was computed; None before the first.
    stamp_ns: int | None = None

    @classmethod
    def new(cls, state_size: int) -> Face:
        """Return a face that has not been seen yet."""
        zero = np.zeros(state_size, np.float32)
        return cls(zero, zero)

    def next_step(self, stamp_ns: int, interval_ms: int, rule: ResetRule) -> Step:
        """
        Return what goes into the step of a frame; changes nothing.

        The face starts anew when it is new, when its gap is longer than the rule allows and when
        its stamps go backwards.
        """
        gap_ns = None if self.stamp_ns is None else stamp_ns - self.stamp_ns
        if gap_ns is None or not 0 <= gap_ns <= rule.gap_ns(interval_ms):
            zero = np.zeros_like(self.h)
            return Step(0.0, zero, zero, True)
        # An interval of 0 is the model's word for a first frame: one image sent twice is none.
        return Step(max(gap_ns, SHORTEST_INTERVAL_NS) / NS_PER_S, self.h, self.c, False)

    def advance(self, stamp_ns: int, h: Floats, c: Floats) -> None:
        """Keep the state after a step."""
        self.stamp_ns, self.h, self.c = stamp_ns, h, c

    def forget(self) -> None:
        """Begin anew with the next frame."""
        self.stamp_ns = None


class RateLimit:
    """
    Lets through a sustained rate with bursts of up to one second's worth.

    It is the virtual scheduling form of the generic cell rate algorithm (ITU-T I.371).
    """

    def __init__(self, rate_hz: float) -> None:
        self._period_ns = round(NS_PER_S / rate_hz)
        self._scheduled_ns = 0

    def allows(self, now_ns: int) -> bool:
        """Return whether something may pass now, and count it if so."""
        scheduled_ns = max(self._scheduled_ns, now_ns)
        if scheduled_ns + self._period_ns - now_ns > NS_PER_S:
            return False
        self._scheduled_ns = scheduled_ns + self._period_ns
        return True


@dataclass
class _Tracked:
    face: Face
    used_ns: int
    # The sender's interval between frames of this face, as it last said; 0 if it has none.
    interval_ms: int = 0
    # Frames that are waiting or being computed.
    pending: int = 0


@dataclass
class Session:
    """What one stream has: its faces, its last sequence number, its rate."""

    info: ModelInfo
    max_faces: int
    # A face that was not seen for this long makes room for another when all places are taken.
    face_idle_ns: int
    rate: RateLimit
    last_sequence: int = 0
    _faces: dict[str, _Tracked] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._faces)

    def admit(self, sequence: int, face_id: str, now_ns: int, interval_ms: int = 0) -> Face:
        """
        Accept a frame and return the state of its face; `release` it once it is answered.

        Args:
            sequence: above all before it.
            face_id: 1 to 32 characters.
            now_ns: the server's monotonic clock.
            interval_ms: the sender's interval between frames of this face; 0 if it has none.

        Raises:
            LimitError: if the frame must not be computed.

        """
        if sequence <= self.last_sequence:
            raise LimitError(f'sequence {sequence} does not follow {self.last_sequence}')
        self.last_sequence = sequence
        if not 1 <= len(face_id) <= MAX_FACE_ID_CHARS:
            raise LimitError(
                f'face_id of {len(face_id)} characters, expected 1 to {MAX_FACE_ID_CHARS}'
            )
        if not self.rate.allows(now_ns):
            raise LimitError('over max_frame_rate_fps')
        tracked = self._faces.get(face_id) or self._add(face_id, now_ns)
        tracked.used_ns = now_ns
        tracked.interval_ms = interval_ms
        tracked.pending += 1
        return tracked.face

    def release(self, face_id: str) -> None:
        """Note that a frame of this face was answered."""
        self._faces[face_id].pending -= 1

    def snapshot(self, now_ns: int) -> tuple[FaceSnapshot, ...]:
        """
        Return the states that another stream can go on with, the last used face first.

        Faces without a state are left out, and those unseen for longer than their state would
        survive by the model's reset rule. Call it when no frame is waiting or being computed.

        Args:
            now_ns: the server's monotonic clock, as for `admit`.

        """
        rule = ResetRule(self.info.reset_gap_s, self.info.reset_gap_intervals)
        found = []
        for face_id, tracked in self._faces.items():
            face, idle_ns = tracked.face, now_ns - tracked.used_ns
            if face.stamp_ns is not None and idle_ns <= rule.gap_ns(tracked.interval_ms):
                found.append((idle_ns, FaceSnapshot(face_id, face.stamp_ns, face.h, face.c)))
        found.sort(key=lambda entry: entry[0])
        return tuple(snapshot for _, snapshot in found)

    def restore(self, snapshots: Sequence[FaceSnapshot], now_ns: int) -> int:
        """
        Take over the states of a stream before, and return how many faces had room.

        The first `max_faces` of them are taken, which are those used last. Sequence numbers and
        the rate start afresh; whether a state still counts is decided, as ever, by the stamp of
        the face's next frame.

        Args:
            snapshots: what `snapshot` gave, of the same model.
            now_ns: the server's monotonic clock, as for `admit`.

        Raises:
            ValueError: after the first frame, or for states of another size.

        """
        if self._faces or self.last_sequence:
            raise ValueError('states can be restored before the first frame only')
        expected = (self.info.state_size,)
        for snapshot in snapshots:
            for state in (snapshot.h, snapshot.c):
                if state.shape != expected:
                    raise ValueError(f'a state of shape {state.shape}, expected {expected}')
        for face_id, stamp_ns, h, c in snapshots[:self.max_faces]:
            self._faces[face_id] = _Tracked(Face(h, c, stamp_ns), now_ns)
        return len(self._faces)

    def _add(self, face_id: str, now_ns: int) -> _Tracked:
        if len(self._faces) >= self.max_faces:
            self._forget_oldest_idle(now_ns)
        self._faces[face_id] = tracked = _Tracked(Face.new(self.info.state_size), now_ns)
        return tracked

    def _forget_oldest_idle(self, now_ns: int) -> None:
        idle = [
            (tracked.used_ns, face_id)
            for face_id, tracked in self._faces.items()
            if tracked.pending == 0 and now_ns - tracked.used_ns >= self.face_idle_ns
        ]
        if not idle:
            raise LimitError(f'more than {self.max_faces} faces in this stream')
        del self._faces[min(idle)[1]]
