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
"""What REP-155 asks of names, labels and numbers, and who may list the faces; no ROS here."""

from __future__ import annotations

import math
import random
import re
from typing import Final, NamedTuple

from ferros.types import Box, Observation

# The labels of hri_msgs/Expression for ours. Contempt, calm and `unknown` have none.
EXPRESSIONS: Final = {
    'neutral': 'neutral',
    'happiness': 'happy',
    'surprise': 'surprised',
    'sadness': 'sad',
    'anger': 'angry',
    'disgust': 'disgusted',
    'fear': 'scared',
}

# What Emotion.face_id and the server take.
MAX_ID_CHARS: Final = 32
# A part of a ROS 2 topic's name; REP-155 itself would allow a digit in front.
_ID: Final = re.compile(r'[A-Za-z_][A-Za-z0-9_]*', re.ASCII)

# From what the graph knows being right to somebody new on it being known, on one machine.
DISCOVERY_NS: Final = 300_000_000
CHECK_NS: Final = 1_000_000_000
# How long the topic has to have been free; drawn, so that two who wait do not begin together.
MIN_WAIT_NS: Final = 200_000_000
MAX_WAIT_NS: Final = 1_700_000_000


class Expression(NamedTuple):
    """The values of a hri_msgs/Expression."""

    # One of REP-155's labels; empty: none of them.
    expression: str
    # -1..1, NaN if not known.
    valence: float
    arousal: float
    # 0..1.
    confidence: float

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing at all is said of the face."""
        return not self.expression and math.isnan(self.valence) and math.isnan(self.arousal)


class Region(NamedTuple):
    """A rectangle in shares of the image's width and height, 0..1, origin top left."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float

    @property
    def area(self) -> float:
        """Return the area as a share of the image's."""
        return (self.xmax - self.xmin) * (self.ymax - self.ymin)

    @property
    def is_valid(self) -> bool:
        """Tell whether this is a part of an image."""
        # Written so that NaN is none.
        return 0 <= self.xmin < self.xmax <= 1 and 0 <= self.ymin < self.ymax <= 1


def expression_of(observation: Observation) -> Expression:
    """
    Return how REP-155 says what was observed.

    A label that REP-155 does not know leaves `expression` empty: a message may describe a face by
    valence and arousal alone.
    """
    confidence = observation.confidence
    return Expression(
        EXPRESSIONS.get(observation.label, ''),
        _clamped(observation.valence, -1.0, 1.0),
        _clamped(observation.arousal, -1.0, 1.0),
        0.0 if math.isnan(confidence) else _clamped(confidence, 0.0, 1.0),
    )


def _clamped(value: float, minimum: float, maximum: float) -> float:
    """Return the value or the limit it is beyond; NaN stays NaN."""
    return value if math.isnan(value) else min(max(value, minimum), maximum)


def region_of(box: Box, size_px: tuple[int, int]) -> Region | None:
    """
    Return where a box is in an image; None where it is outside.

    size_px: width and height of the image in whose pixels the box is.
    """
    width_px, height_px = size_px
    inside = box.clipped(width_px, height_px)
    if inside.area_px == 0:
        return None
    return Region(
        inside.x / width_px,
        inside.y / height_px,
        (inside.x + inside.width) / width_px,
        (inside.y + inside.height) / height_px,
    )


def id_fault(face_id: str) -> str:
    """Return the reason to refuse a face's id, as it is counted; empty: there is none."""
    if len(face_id) > MAX_ID_CHARS:
        return 'rep155_id_too_long'
    return '' if _ID.fullmatch(face_id) else 'rep155_id_invalid'


class Turn:
    """
    Decides whether we may publish the list of faces: not while somebody else does.

    Whoever listens takes each list for the whole truth, so two who publish make faces come and go.
    Where two of us began at once both stop, and begin again after times that are drawn.
    """

    def __init__(self, now_ns: int, random_source: random.Random | None = None) -> None:
        """Begin at now_ns, the monotonic clock; whoever is on the graph is not known at once."""
        self._random = random_source or random.Random()
        self._wait_ns = DISCOVERY_NS
        self._free_since_ns: int | None = now_ns
        self._check_at_ns = now_ns

    def is_check_due(self, now_ns: int) -> bool:
        """Tell whether to look how many others there are: once a second, or to begin."""
        return now_ns >= self._check_at_ns

    def decide(self, others: int, now_ns: int) -> bool:
        """Return whether we may publish from now to the next check; others: who else does."""
        self._check_at_ns = now_ns + CHECK_NS
        if others:
            self._wait_ns = self._random.randint(MIN_WAIT_NS, MAX_WAIT_NS)
            self._free_since_ns = None
            return False
        if self._free_since_ns is None:
            self._free_since_ns = now_ns
        begin_ns = self._free_since_ns + self._wait_ns
        if now_ns >= begin_ns:
            return True
        self._check_at_ns = min(self._check_at_ns, begin_ns)
        return False
