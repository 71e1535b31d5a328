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
"""When and where to look for faces, so that each image costs little; pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ferros.pieces import Piece, View
from ferros.types import Box

_NS_PER_S: Final = 1_000_000_000

# detect_every_n_frames counts images of a camera with this rate; a slower one is searched in the
# same time, in fewer images.
_NOMINAL_RATE_FPS: Final = 30.0
_NOMINAL_INTERVAL_NS: Final = round(_NS_PER_S / _NOMINAL_RATE_FPS)
# The camera's interval is the one that a quarter of the last intervals are below: images that were
# missed make some longer.
_INTERVALS: Final = 16

# Of the camera's interval, what an image may take before less is looked for, and below what more
# is; by how much then, and the least. The rest of the core is the robot's: 10 ms at 30 fps are a
# third of it.
_BUSY: Final = 0.3
_IDLE: Final = 0.24
_LESS: Final = 0.9
_MORE: Final = 0.01
_MIN_SHARE: Final = 0.15
# How much the newest processing time counts in the average.
_NEWEST: Final = 0.2

# What looking for faces may cost in one image, in the unit of Piece.work, at the nominal rate.
_MAX_WORK: Final = 6.0
# How often the face of a track is detected anew, and how often where two faces are close.
REDETECT_NS: Final = 170_000_000
REDETECT_CROWDED_NS: Final = 70_000_000
# Where time is short this becomes rarer, but not beyond what a face may be followed for.
_MIN_GLANCE_SHARE: Final = 0.35
# A face that is gone is looked for in every image for a moment, then less often.
_EAGER_NS: Final = 200_000_000
_PATIENT_NS: Final = 100_000_000
# How much is looked at around a face, in its sides: where it was followed, where it is suspected,
# and how that grows with the time since it was seen.
_MARGIN_FOLLOWED: Final = 0.25
_MARGIN: Final = 0.35
_MARGIN_PER_S: Final = 1.2
_MAX_MARGIN: Final = 0.8


class Pace:
    """
    How much of the search one image gets: all that is due, or less where time is short.

    The times that images take and the camera's interval go in; what comes out is a share of what
    would be looked at with time enough. It falls quickly and rises slowly, so that an image takes
    less than a third of the interval where that can be.
    """

    def __init__(self, every_n_images: int = 10) -> None:
        self.every_n_images = every_n_images
        self.share = 1.0
        self._took_ns = 0.0
        self.restart()

    def restart(self) -> None:
        """Forget the stamps, as after a jump of time."""
        self._newest_ns: int | None = None
        self._intervals: deque[int] = deque(maxlen=_INTERVALS)

    def image(self, stamp_ns: int) -> None:
        """Note an image's stamp."""
        if self._newest_ns is not None and stamp_ns > self._newest_ns:
            self._intervals.append(stamp_ns - self._newest_ns)
        self._newest_ns = stamp_ns

    @property
    def interval_ns(self) -> int:
        """Return the camera's interval by its stamps; that of 30 fps before there are any."""
        if not self._intervals:
            return _NOMINAL_INTERVAL_NS
        return sorted(self._intervals)[len(self._intervals) // 4]

    def spent(self, processing_ns: int, interval_ns: int = 0) -> None:
        """
        Note how long an image took from message to sent crops.

        interval_ns: the camera's, where it is known better than from the stamps of those images
        that were processed; 0: it is not.
        """
        interval_ns = interval_ns or self.interval_ns
        self._took_ns += _NEWEST * (processing_ns - self._took_ns)
        if self._took_ns > _BUSY * interval_ns:
            self.share = max(_MIN_SHARE, _LESS * self.share)
        elif self._took_ns < _IDLE * interval_ns:
            self.share = min(1.0, self.share + _MORE)

    @property
    def images_per_round(self) -> float:
        """Return in how many images the whole image is to be searched."""
        round_ns = self.every_n_images * _NOMINAL_INTERVAL_NS
        images = min(self.every_n_images, max(2.0, round_ns / self.interval_ns))
        return max(1.0, images) / self.share

    @property
    def max_work(self) -> float:
        """Return what looking for faces may cost in one image, in the unit of Piece.work."""
        slower = max(1.0, min(4.0, self.interval_ns / _NOMINAL_INTERVAL_NS))
        # A user who asks for a search of every image gets it.
        whole = math.inf if self.every_n_images == 1 and self.share == 1.0 else 0.0
        return max(whole, _MAX_WORK * slower * max(0.25, self.share))


class Rounds:
    """
    Which pieces of the search are due in an image.

    Faces from the front are searched for in every round, those from the left and from the right
    in every second. A piece is due when its work has been saved up.
    """

    def __init__(self, pieces_of: Callable[[View], list[Piece]], views: Sequence[View]) -> None:
        front = pieces_of(View.FRONT)
        sides = [pieces_of(view) for view in (View.LEFT, View.RIGHT) if view in views]
        self._rounds = [_mixed(front, side) for side in sides] or [front]
        work = [sum(piece.work for piece in pieces) for pieces in self._rounds]
        # The mean over the rounds, so that every image costs the same.
        self._work = sum(work) / len(work)
        self._order = [piece for pieces in self._rounds for piece in pieces]
        # What the largest piece costs.
        self.largest = max((piece.work for piece in self._order), default=0.0)
        self.restart()

    def restart(self) -> None:
        """Begin anew, with what is found soonest: large faces."""
        self._next = 0
        # The first piece at once.
        self._saved = self.largest

    def due(self, images_per_round: float, left: float) -> list[Piece]:
        """
        Return the pieces for the next image and note them as searched.

        left: how much work there is room for, in the unit of Piece.work; what does not fit waits,
        but is not added up.
        """
        if not self._order:
            return []
        step = self._work / images_per_round
        self._saved = min(self._saved + step, max(2 * step, self.largest))
        found: list[Piece] = []
        for _ in self._order:
            piece = self._order[self._next]
            if piece.work > self._saved or piece.work > left:
                break
            self._saved -= piece.work
            left -= piece.work
            found.append(piece)
            self._next = (self._next + 1) % len(self._order)
        return found


class Known(NamedTuple):
    """What there is to know about a face to decide whether to look at it."""

    number: int
    # Where it is or should be now.
    box: Box
    is_confirmed: bool
    # Whether it was surely followed into this image.
    is_followed: bool
    # Whether another face is near.
    is_crowded: bool
    # When it was last seen, detected, looked for.
    seen_ns: int
    detected_ns: int
    looked_ns: int


class Glance(NamedTuple):
    """A close look to take."""

    number: int
    box: Box
    # How much to look at around the box, in its sides.
    margin: float
    # Whether a face was there for sure, so that less is enough to find it again.
    is_known: bool


def glances(faces: Sequence[Known], now_ns: int, share: float) -> list[Glance]:
    """
    Return the close looks that are due, the most urgent first.

    A new face is looked at again at once, so that it can be reported; then comes one that was
    lost; then those that have been followed long enough to be off.

    share: Pace.share; where it is low, faces are followed for longer.
    """
    share = max(share, _MIN_GLANCE_SHARE)
    due = [(_urgency(face, now_ns, share), face) for face in faces]
    due = sorted((item for item in due if item[0] > 0), key=lambda item: -item[0])
    return [
        Glance(face.number, face.box, _margin_of(face, now_ns), face.is_confirmed)
        for _, face in due
    ]


def margin(unseen_ns: int) -> float:
    """Return how much to look at around where a face is expected, in its sides."""
    return min(_MAX_MARGIN, _MARGIN + _MARGIN_PER_S * unseen_ns / _NS_PER_S)


def _margin_of(face: Known, now_ns: int) -> float:
    return _MARGIN_FOLLOWED if face.is_followed else margin(now_ns - face.seen_ns)


def _urgency(face: Known, now_ns: int, share: float) -> float:
    """Return how urgent a close look is; 0: it is not due."""
    if not face.is_confirmed:
        return 1e3
    unlooked_ns = now_ns - face.looked_ns
    if not face.is_followed:
        gone_ns = now_ns - face.seen_ns
        pause_ns = 0 if gone_ns <= _EAGER_NS else _PATIENT_NS
        return 10.0 + unlooked_ns / _NS_PER_S if unlooked_ns * share >= pause_ns else 0.0
    pause_ns = REDETECT_CROWDED_NS if face.is_crowded else REDETECT_NS
    # In vain the last time: once more soon, before it has been followed for too long.
    if face.looked_ns > face.detected_ns:
        pause_ns //= 2
    return unlooked_ns / pause_ns if unlooked_ns * share >= pause_ns else 0.0


def _mixed(front: list[Piece], side: list[Piece]) -> list[Piece]:
    """Return both lists in one, each in its order and spread evenly."""
    ranked = [
        ((index + 0.5) / len(pieces), piece)
        for pieces in (front, side)
        for index, piece in enumerate(pieces)
    ]
    return [piece for _, piece in sorted(ranked, key=lambda item: item[0])]
