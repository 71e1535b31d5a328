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
"""What one run of the bench left behind: read, checked, and joined."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class RecordingError(ValueError):
    """A file of a run is missing or not what it should be; names file and line."""


class Frame(NamedTuple):
    """A frame that the server answered; times are the robot's monotonic clock in ns."""

    face_id: str
    captured_ns: int
    sent_ns: int
    answered_ns: int
    # How long the server had it.
    server_ns: int
    # 'ok', or why there was no answer in the answer.
    status: str
    face_size_px: int
    # Of the operating point, not the achieved one.
    frame_rate_fps: float
    codec: str
    quality: int
    message_bytes: int


class Answer(NamedTuple):
    """An answer that the robot published; times as of Frame."""

    face_id: str
    captured_ns: int
    published_ns: int
    # The most probable class.
    label: str


class SceneFace(NamedTuple):
    """A clip: one face after another is seen in each slot of the scene."""

    face_id: str
    # 0 is the primary face.
    slot: int
    start_tick: int
    # One label for each tick; None: the clip is not labelled.
    truth: tuple[str, ...] | None


@dataclass(frozen=True)
class Recording:
    """
    One run: what was sent and answered, what was published, what was true, what the link did.

    Attributes:
        frames: in the order of their answers.
        states: the sender's state, ten lines per second.
        answers: in the order of publication.
        faces: every clip of the scene.
        tick_hz: ticks of the scene per second.
        started_ns, ended_ns: of the scene, on the robot's monotonic clock.
        link: what the link wrote down; see bench.link.pipe.

    """

    frames: tuple[Frame, ...]
    states: tuple[Mapping[str, Any], ...]
    answers: tuple[Answer, ...]
    faces: tuple[SceneFace, ...]
    tick_hz: float
    started_ns: int
    ended_ns: int
    link: Mapping[str, Any]

    @property
    def slots(self) -> tuple[int, ...]:
        """Return the numbers of the slots, rising."""
        return tuple(sorted({face.slot for face in self.faces}))

    @property
    def slot_of(self) -> dict[str, int]:
        """Return the slot of each face."""
        return {face.face_id: face.slot for face in self.faces}

    @property
    def drops(self) -> dict[str, int]:
        """Return how many frames and answers the robot dropped, by reason."""
        return dict(self.states[-1]['drops']) if self.states else {}


def read(folder: Path) -> Recording:
    """
    Read trace.jsonl, answers.jsonl, scene.json and link.json of a run.

    Raises:
        RecordingError: naming the file, and the line and what is wrong with it.
    """
    lines = list(_lines(folder / 'trace.jsonl'))
    frames = tuple(_frame(folder, line) for line in lines if line.get('kind') == 'frame')
    answers = tuple(_answer(folder, line) for line in _lines(folder / 'answers.jsonl'))
    scene, link = _object(folder / 'scene.json'), _object(folder / 'link.json')
    try:
        recording = Recording(
            frames, tuple(line for line in lines if line.get('kind') == 'state'), answers,
            tuple(_scene_face(face) for face in scene['faces']), float(scene['tick_hz']),
            int(scene['started_ns']), int(scene['ended_ns']), link,
        )
    except (KeyError, TypeError, ValueError) as err:
        raise RecordingError(f'{folder}/scene.json: not a scene: {err!r}') from err
    _check(folder, recording)
    return recording


def _check(folder: Path, recording: Recording) -> None:
    if recording.ended_ns <= recording.started_ns:
        raise RecordingError(f'{folder}/scene.json: expected ended_ns after started_ns')
    if not recording.faces:
        raise RecordingError(f'{folder}/scene.json: no faces, expected one or more')
    missing = {'started_ns', 'bin_ms', 'up'} - recording.link.keys()
    if missing:
        raise RecordingError(f'{folder}/link.json: {sorted(missing)} not in it')
    if not isinstance(recording.link['started_ns'], int):
        raise RecordingError(f'{folder}/link.json: started_ns is '
                             f"{recording.link['started_ns']!r}: the link never began")
    known = recording.slot_of
    for name, lines in (('trace', recording.frames), ('answers', recording.answers)):
        for line in lines:
            if line.face_id not in known:
                raise RecordingError(
                    f'{folder}/{name}.jsonl: face {line.face_id!r} is not in scene.json'
                )


def _frame(folder: Path, line: Mapping[str, Any]) -> Frame:
    try:
        return Frame(*(line[name] for name in Frame._fields))
    except KeyError as err:
        raise RecordingError(f'{folder}/trace.jsonl: {line}: expected {err} in it') from err


def _answer(folder: Path, line: Mapping[str, Any]) -> Answer:
    try:
        return Answer(*(line[name] for name in Answer._fields))
    except KeyError as err:
        raise RecordingError(f'{folder}/answers.jsonl: {line}: expected {err} in it') from err


def _scene_face(face: Mapping[str, Any]) -> SceneFace:
    truth = face['truth']
    return SceneFace(str(face['face_id']), int(face['slot']), int(face['start_tick']),
                     None if truth is None else tuple(truth))


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as err:
        raise RecordingError(f'{path}: cannot be read: {err}') from err
    if not isinstance(value, dict):
        raise RecordingError(f'{path}: expected an object')
    return value


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding='utf-8')
    except OSError as err:
        raise RecordingError(f'{path}: cannot be read: {err}') from err
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as err:
            raise RecordingError(f'{path}, line {number}: {err}') from err
        if not isinstance(value, dict):
            raise RecordingError(f'{path}, line {number}: expected an object')
        yield value
