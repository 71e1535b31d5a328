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
"""What was read in a file, and the stretches in which a face kept its label."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# A label that held for less is left out of the table; --json has it.
SHORTEST_RUN_S = 0.3
# A face that was away for longer begins a new row.
LONGEST_PAUSE_S = 1.0

Box = tuple[float, float, float, float]
Image = NDArray[np.uint8]


class Reading(NamedTuple):
    """One face at one time."""

    time_s: float
    face_id: str
    # x, y, width, height in px.
    box: Box
    label: str
    confidence: float
    # One per served label, sum 1.
    probabilities: tuple[float, ...]
    # -1..1; NaN where the model does not know them, null in --json.
    valence: float = math.nan
    arousal: float = math.nan

    def as_json(self, file: str, labels: Sequence[str]) -> str:
        """Return the line of --json."""
        return json.dumps(
            {
                'file': file,
                'time_s': round(self.time_s, 3),
                'face_id': self.face_id,
                'box': [round(float(number), 1) for number in self.box],
                'label': self.label,
                'confidence': round(self.confidence, 6),
                'probabilities': {
                    label: round(p, 6) for label, p in zip(labels, self.probabilities, strict=True)
                },
                'valence': _rounded(self.valence),
                'arousal': _rounded(self.arousal),
            }
        )


def _rounded(value: float) -> float | None:
    """Return a number that JSON has; it has no NaN."""
    return None if math.isnan(value) else round(value, 6)


@dataclass
class FileResult:
    """What was found in one file."""

    name: str
    is_still: bool
    readings: list[Reading] = field(default_factory=list)
    # The largest crop of each face: what it looks like.
    portraits: dict[str, Image] = field(default_factory=dict)
    frames: int = 0
    duration_s: float = 0.0
    # Why it could not be read to its end; empty if it could.
    problem: str = ''

    def faces(self) -> dict[str, list[Reading]]:
        """Return the readings of each face, in the order in which the faces came."""
        faces: dict[str, list[Reading]] = {}
        for reading in self.readings:
            faces.setdefault(reading.face_id, []).append(reading)
        return faces


class Run(NamedTuple):
    """A stretch of time in which a face kept its label."""

    face_id: str
    label: str
    start_s: float
    end_s: float
    # Mean over the readings that had this label.
    confidence: float


def runs(readings: Sequence[Reading]) -> list[Run]:
    """
    Join the readings of one face, in their order, to stretches of one label.

    A label that held for less than SHORTEST_RUN_S belongs to the stretch around it.
    """
    stretches: list[_Stretch] = []
    for label, same in itertools.groupby(readings, lambda reading: reading.label):
        for part in _split_at_pauses(list(same)):
            last = stretches[-1] if stretches else None
            if last is None or part[0].time_s - last.readings[-1].time_s > LONGEST_PAUSE_S:
                stretches.append(_Stretch(label, part))
            elif label == last.label or _is_short(part):
                last.readings.extend(part)
            elif _is_short(last.readings):
                stretches[-1] = _Stretch(label, last.readings + part)
            else:
                stretches.append(_Stretch(label, part))
    return [_run(stretch.readings) for stretch in stretches]


class _Stretch(NamedTuple):
    label: str
    readings: list[Reading]


def _split_at_pauses(readings: Sequence[Reading]) -> list[list[Reading]]:
    parts = [[readings[0]]]
    for before, reading in itertools.pairwise(readings):
        if reading.time_s - before.time_s > LONGEST_PAUSE_S:
            parts.append([])
        parts[-1].append(reading)
    return parts


def _is_short(readings: Sequence[Reading]) -> bool:
    # A millisecond less, so that a stretch of just that length is not short by rounding.
    return readings[-1].time_s - readings[0].time_s < SHORTEST_RUN_S - 0.001


def _run(readings: Sequence[Reading]) -> Run:
    label = Counter(reading.label for reading in readings).most_common(1)[0][0]
    own = [reading.confidence for reading in readings if reading.label == label]
    start_s, end_s = readings[0].time_s, readings[-1].time_s
    return Run(readings[0].face_id, label, start_s, end_s, sum(own) / len(own))
