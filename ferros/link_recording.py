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
"""A link's trace (see trace.py) read again, and what it comes to in figures; pure but for read."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class PointUsed(NamedTuple):
    """How a face was sent at one time."""

    face_size_px: int
    frame_rate_fps: float
    codec: str
    quality: int
    bytes_p50: int
    accuracy: float


class Frame(NamedTuple):
    """One frame that was answered; times in ns of the robot's clock."""

    rank: int
    captured_ns: int
    sent_ns: int
    answered_ns: int
    # Spent in the server.
    server_ns: int
    status: str
    face_size_px: int
    codec: str
    quality: int
    message_bytes: int

    @property
    def age_ms(self) -> float:
        """Return how old the image was when its answer came."""
        return (self.answered_ns - self.captured_ns) / 1e6

    @property
    def round_trip_ms(self) -> float:
        """Return the time it took without that in the server."""
        return (self.answered_ns - self.sent_ns - self.server_ns) / 1e6


class State(NamedTuple):
    """How the link stood at one time; NaN where something is not known."""

    now_ns: int
    rate_bytes_per_s: float
    acknowledged_bytes_per_s: float
    queue_ms: float
    points: tuple[PointUsed, ...]

    @property
    def accuracy(self) -> float:
        """Return the mean expected accuracy of the faces; NaN without any."""
        if not self.points:
            return math.nan
        return sum(point.accuracy for point in self.points) / len(self.points)


class Change(NamedTuple):
    """A change of the connection."""

    now_ns: int
    state: str
    detail: str


class Recording(NamedTuple):
    """A trace; all of it in its order."""

    frames: tuple[Frame, ...]
    # Only those while it was connected.
    states: tuple[State, ...]
    changes: tuple[Change, ...]

    @property
    def began_ns(self) -> int:
        """Return when the connection was there first; the first line where it never was."""
        for change in self.changes:
            if change.state == 'connected':
                return change.now_ns
        return self.changes[0].now_ns if self.changes else 0


class Spread(NamedTuple):
    """Of many values; NaN where there was none."""

    least: float
    median: float
    p95: float


class Settled(NamedTuple):
    """A way of sending that was in use, and for how much of the time and the faces."""

    face_size_px: int
    codec: str
    quality: int
    # Its mean, as it varies with the rate.
    frame_rate_fps: float
    accuracy: float
    share: float


class Summary(NamedTuple):
    """What a trace comes to; rate, points and accuracy are those of its second half."""

    answered: int
    # Of the frames that were answered with something else.
    refused: dict[str, int]
    rate_bytes_per_s: float
    round_trip_ms: Spread
    queue_ms: Spread
    # From the image to its answer.
    age_ms: Spread
    server_ms: Spread
    settled: tuple[Settled, ...]
    # Mean over the faces, and of the primary one.
    accuracy: float
    primary_accuracy: float
    # How much longer messages were than those of the accuracy grid.
    bytes_ratio: float
    # How often the connection was lost, and why it was the last time.
    interruptions: int
    detail: str


def read(path: Path) -> Recording:
    """
    Return what a trace file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is not one of a trace.

    """
    with path.open(encoding='utf-8') as file:
        return parse(file)


def parse(lines: Iterable[str]) -> Recording:
    """
    Return what the lines of a trace hold.

    Raises:
        ValueError: a line is not one of a trace.

    """
    frames, states, changes = [], [], []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if entry['kind'] == 'frame':
                frames.append(Frame(**{name: entry[name] for name in Frame._fields}))
            elif entry['kind'] == 'state' and entry['link'] == 'connected':
                states.append(_state(entry))
            elif entry['kind'] == 'link':
                changes.append(Change(entry['now_ns'], entry['state'], entry['detail']))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f'line {number} is none of a trace: {error!r}') from error
    return Recording(tuple(frames), tuple(states), tuple(changes))


def summarise(recording: Recording) -> Summary:
    """Return the figures."""
    answered = [frame for frame in recording.frames if frame.status == 'ok']
    refused = Counter(frame.status for frame in recording.frames if frame.status != 'ok')
    later = later_half(recording.states)
    lost = _losses(recording.changes)
    return Summary(
        answered=len(answered),
        refused=dict(refused),
        rate_bytes_per_s=_spread([state.rate_bytes_per_s for state in later]).median,
        round_trip_ms=_spread([frame.round_trip_ms for frame in answered]),
        queue_ms=_spread([state.queue_ms for state in recording.states]),
        age_ms=_spread([frame.age_ms for frame in answered]),
        server_ms=_spread([frame.server_ns / 1e6 for frame in answered]),
        settled=_settled(later),
        accuracy=_mean([state.accuracy for state in later]),
        primary_accuracy=_mean([state.points[0].accuracy for state in later if state.points]),
        bytes_ratio=_bytes_ratio(recording),
        interruptions=len(lost),
        detail=lost[-1].detail if lost else '',
    )


def _losses(changes: Sequence[Change]) -> list[Change]:
    """Return how the link was lost; where a server sent the robot away, only if none took it."""
    lost = []
    was_connected = False
    for change in changes:
        if change.state == 'connected':
            was_connected = True
        elif change.state == 'waiting' and was_connected:
            lost.append(change)
            was_connected = False
    return lost


def later_half(states: Sequence[State]) -> Sequence[State]:
    """Return the states of the second half: by then the link has found its way."""
    return states[len(states) // 2 :]


def _state(entry: dict[str, Any]) -> State:
    def number(name: str) -> float:
        return math.nan if entry[name] is None else float(entry[name])

    return State(
        now_ns=entry['now_ns'],
        rate_bytes_per_s=number('rate_bytes_per_s'),
        acknowledged_bytes_per_s=number('acknowledged_bytes_per_s'),
        queue_ms=number('queue_ms'),
        points=tuple(PointUsed(*point) for point in entry['points'].values()),
    )


def _settled(states: Sequence[State]) -> tuple[Settled, ...]:
    """Return the points in use, those most used first."""
    used: dict[tuple[int, str, int], list[PointUsed]] = defaultdict(list)
    for point in (point for state in states for point in state.points):
        used[point.face_size_px, point.codec, point.quality].append(point)
    total = sum(map(len, used.values()))
    settled = [
        Settled(
            *key,
            frame_rate_fps=_mean([point.frame_rate_fps for point in points]),
            accuracy=_mean([point.accuracy for point in points]),
            share=len(points) / total,
        )
        for key, points in used.items()
    ]
    return tuple(sorted(settled, key=lambda point: -point.share))


def _bytes_ratio(recording: Recording) -> float:
    """Return the median of the messages' lengths over those that the grid expects."""
    expected = {
        (point.face_size_px, point.codec, point.quality): point.bytes_p50
        for state in recording.states
        for point in state.points
    }
    ratios = [
        frame.message_bytes / expected[key]
        for frame in recording.frames
        if (key := (frame.face_size_px, frame.codec, frame.quality)) in expected
    ]
    return _spread(ratios).median


def _spread(values: Sequence[float]) -> Spread:
    known = np.array([value for value in values if math.isfinite(value)])
    if not len(known):
        return Spread(math.nan, math.nan, math.nan)
    median, p95 = np.percentile(known, (50, 95))
    return Spread(float(known.min()), float(median), float(p95))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
