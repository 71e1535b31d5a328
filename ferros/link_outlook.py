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
"""What a link's rate buys: expected accuracy, and how many faces fit; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from ferros import synthetic_face
from ferros.config import RobotConfig
from ferros.operating_point import Limits, OperatingPointChooser
from ferros.sender import RATE_SHARE, UNLIMITED_FPS, longest_message_bytes
from ferros.types import GridPoint

# What is taken for the same accuracy.
TOLERANCE: Final = 0.003
# Where more than this is there, it buys nothing for any number of faces.
_PLENTY_BYTES_PER_S: Final = 1e9
# The rates at which the accuracy is given: from 7.8 kbit/s, so that 1 Mbit/s is one, to 8 Mbit/s.
_LOWEST_BYTES_PER_S: Final = 125_000 / 128
STEPS_PER_DOUBLING: Final = 4
_DOUBLINGS: Final = 10


class Terms(NamedTuple):
    """What the server allows, as far as it matters here."""

    input_size_px: int
    max_faces: int
    # Of all faces together.
    frame_rate_fps: float


class Buys(NamedTuple):
    """What a rate buys."""

    rate_bytes_per_s: float
    # Mean over the faces.
    accuracy: float


class Outlook(NamedTuple):
    """What the rate means, now and with more of it."""

    # The rate that all of this was computed for.
    rate_bytes_per_s: float
    # What the accuracy of so many faces would be, over the rate.
    faces: int
    curve: tuple[Buys, ...]
    # At this rate, and with all that could be used.
    accuracy: float
    best_accuracy: float
    # From this rate on it is the best; None: never, for the server limits it.
    enough_bytes_per_s: float | None
    # Of one face alone.
    face_best_accuracy: float
    # How many faces get that at this rate, and how many the server would allow at any rate.
    faces_that_fit: int
    faces_allowed: int


def look_ahead(
    grid: Sequence[GridPoint], terms: Terms, faces: int, rate_bytes_per_s: float
) -> Outlook:
    """
    Return what a rate buys for a number of faces, and how many faces it would do for.

    Only the link and the server's limits count here, not how much the server can compute.
    """
    chooser = OperatingPointChooser(RobotConfig(), grid)

    def accuracy(count: int, rate: float) -> float:
        return expected_accuracy(chooser, terms, count, rate)

    best = accuracy(faces, _PLENTY_BYTES_PER_S)
    face_best = accuracy(1, _PLENTY_BYTES_PER_S)
    curve = [
        Buys(rate, accuracy(faces, rate))
        for rate in (
            _LOWEST_BYTES_PER_S * 2 ** (step / STEPS_PER_DOUBLING)
            for step in range(STEPS_PER_DOUBLING * _DOUBLINGS + 1)
        )
    ]
    enough = [rate for rate, reached in curve if reached >= best - TOLERANCE]
    return Outlook(
        rate_bytes_per_s=rate_bytes_per_s,
        faces=faces,
        curve=tuple(curve),
        accuracy=accuracy(faces, rate_bytes_per_s),
        best_accuracy=best,
        enough_bytes_per_s=min(enough, default=None),
        face_best_accuracy=face_best,
        faces_that_fit=_most_faces(chooser, terms, rate_bytes_per_s, face_best),
        faces_allowed=_most_faces(chooser, terms, _PLENTY_BYTES_PER_S, face_best),
    )


def expected_accuracy(
    chooser: OperatingPointChooser, terms: Terms, faces: int, rate_bytes_per_s: float
) -> float:
    """Return the mean expected accuracy of so many faces on a steady link of that rate."""
    together_fps = terms.frame_rate_fps or UNLIMITED_FPS
    limits = Limits(
        budget_bytes_per_s=RATE_SHARE * rate_bytes_per_s,
        longest_message_bytes=longest_message_bytes(rate_bytes_per_s),
        frame_rate_fps=min(synthetic_face.FRAME_RATE_FPS, together_fps / faces),
        input_size_px=terms.input_size_px,
    )
    people = [(f'face {number}', float(synthetic_face.SIZE_PX)) for number in range(faces)]
    points = chooser.choose(people, limits).points.values()
    return math.fsum(point.accuracy for point in points) / faces


def _most_faces(
    chooser: OperatingPointChooser, terms: Terms, rate_bytes_per_s: float, face_best: float
) -> int:
    """Return how many faces are as accurate as one alone can be."""
    for faces in range(max(1, terms.max_faces), 0, -1):
        reached = expected_accuracy(chooser, terms, faces, rate_bytes_per_s)
        if reached >= face_best - TOLERANCE:
            return faces
    return 0
