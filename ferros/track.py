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
"""
Ids that stay with a face from image to image.

Pure: what was found and the image's time go in, tracks come out; no clock is read. A face lives
through three times: it is confirmed after `confirm_hits` detections, reported until `keep_ms`
after it was last seen, so that it does not flicker with the detector, and keeps its id until
`forget_ms` after that.

`update` is for images that were searched whole; `observe` for those of a camera, in which faces
are mostly followed by what they show and only some places are searched.
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ferros.appearance import Appearance
from ferros.types import Box, Track

_NS_PER_MS: Final = 1_000_000
_NS_PER_S: Final = 1_000_000_000

# A face that moved by more than its own size, or changed its size by more than this factor, is
# another face.
_MAX_DISTANCE_SIDES: Final = 1.0
_MAX_GROWTH: Final = 1.8
# Boxes of which one covers more of the other are on one face.
_ONE_FACE_SHARE: Final = 0.55
# While nobody sees it, it may go further astray: sides per second, and for how long.
_ASTRAY_SIDES_PER_S: Final = 0.8
_MAX_ASTRAY_NS: Final = 1000 * _NS_PER_MS
# The time over which the velocity is averaged, for where it is in the next image and for where it
# comes out again, and for how long it is believed after the face was last seen.
_VELOCITY_NS: Final = 70 * _NS_PER_MS
_COURSE_NS: Final = 350 * _NS_PER_MS
_MAX_PREDICTION_NS: Final = 1200 * _NS_PER_MS
# Unseen for longer than this, or at once if it vanishes so many sides beside another one, it is
# out of view: it may have stopped on its way, and has to look like itself when it is back.
_HIDDEN_NS: Final = 200 * _NS_PER_MS
_BEHIND_SIDES: Final = 1.3
# Between two images of a slow camera it is not; after a longer gap nobody knows.
_LONGEST_INTERVAL_NS: Final = 600 * _NS_PER_MS
_MIN_LIKENESS: Final = 0.2
# At once only if it surely looks like itself; else once it has been in view for _HOLD_NS: at first
# it may be half hidden still.
_SURE_LIKENESS: Final = 0.55
_HOLD_NS: Final = 300 * _NS_PER_MS
# How much a look counts beside the place: an overlap that is complete counts 2.
_APPEARANCE_WEIGHT: Final = 0.7
# Of a face out of view little is known of where it is.
_HIDDEN_PLACE_WEIGHT: Final = 0.3
_HIDDEN_APPEARANCE_WEIGHT: Final = 1.5
# What a face looked like is remembered for so many moments so far apart.
_LOOKS: Final = 4
_LOOK_APART_NS: Final = 250 * _NS_PER_MS
# How much of a detection is taken over by a face that is followed: followed boxes are smooth but
# drift, detected ones jitter but stay.
_CORRECTION: Final = 0.4
# Looks in vain that end a face which is not confirmed yet.
_MAX_MISSES: Final = 2
# Characters of an id's random part: what is unlikely to be misread. 4 of them make 810,000
# prefixes.
_ALPHABET: Final = '23456789abcdefghijkmnpqrstuvwz'
_PREFIX_LENGTH: Final = 4


class Sighting(NamedTuple):
    """A face that was detected."""

    box: Box
    appearance: Appearance | None = None
    # How much it counts towards confirming a face.
    weight: float = 1.0
    # Whether all of the face is in view, as far as can be told, so that its look is worth keeping.
    is_clear: bool = True


class _Velocity(NamedTuple):
    """In pixels per second."""

    x: float
    y: float


_STILL: Final = _Velocity(0.0, 0.0)


@dataclass(eq=False)
class Face:
    """A face under way: where it is and what is needed to find it in the next image."""

    # Counted up; no two faces of one tracker share it.
    number: int
    box: Box
    # The images in which it was last detected or followed, and last detected.
    seen_ns: int
    detected_ns: int
    looks: list[Appearance] = field(default_factory=list)
    is_confirmed: bool = False
    # Detections, by their weight.
    hits: float = 1.0
    # Looks in vain since it was last detected.
    misses: int = 0
    # Of the centre, in pixels per second, over a moment and over longer.
    velocity: _Velocity = _STILL
    course: _Velocity = _STILL
    # How long both have been measured, up to now and up to the last detection.
    measured_ns: int = 0
    # Where it was last detected, and the course it had then: what is followed behind something
    # slows down with what it is behind.
    detected_box: Box = field(init=False)
    detected_course: _Velocity = _STILL

    def __post_init__(self) -> None:
        self.detected_box = self.box
        self.first_ns = self._looked_ns = self.seen_ns

    def predict(self, now_ns: int) -> Box:
        """Return where the face would be now if it went on as before."""
        if now_ns - self.seen_ns <= _HIDDEN_NS:
            return _moved(self.box, self.velocity, now_ns - self.seen_ns)
        elapsed_ns = min(now_ns - self.detected_ns, _MAX_PREDICTION_NS)
        return _moved(self.detected_box, self.detected_course, elapsed_ns)

    def follow(self, box: Box, now_ns: int) -> None:
        """Take over where the face is now."""
        elapsed_ns = now_ns - self.seen_ns
        if elapsed_ns > 0:
            elapsed_s = elapsed_ns / _NS_PER_S
            (x, y), (old_x, old_y) = box.centre, self.box.centre
            measured = _Velocity((x - old_x) / elapsed_s, (y - old_y) / elapsed_s)
            self.measured_ns += elapsed_ns
            self.velocity = self._averaged(self.velocity, measured, elapsed_ns, _VELOCITY_NS)
            self.course = self._averaged(self.course, measured, elapsed_ns, _COURSE_NS)
        self.box, self.seen_ns = box, now_ns

    def remember(self, found: Sighting, now_ns: int) -> None:
        """Add a look to those remembered, if it is clear and the last one was long enough ago."""
        is_due = found.is_clear and now_ns - self._looked_ns >= _LOOK_APART_NS
        if found.appearance is not None and (is_due or not self.looks):
            self.looks = [*self.looks[1 - _LOOKS :], found.appearance]
            self._looked_ns = now_ns

    def likeness(self, look: Appearance) -> float | None:
        """Return how much a look is like one of those remembered; None: there are none."""
        return max((known.likeness(look) for known in self.looks), default=None)

    def _averaged(
        self, old: _Velocity, new: _Velocity, elapsed_ns: int, over_ns: int
    ) -> _Velocity:
        # As long as less was measured than is averaged over, all of it counts the same.
        gain = max(1 - math.exp(-elapsed_ns / over_ns), elapsed_ns / self.measured_ns)
        return _Velocity(old.x + gain * (new.x - old.x), old.y + gain * (new.y - old.y))

    def detect(self, found: Sighting, followed: Box | None, now_ns: int) -> None:
        """Take over a detection."""
        self.follow(followed or found.box, now_ns)
        if followed is not None:
            # After the velocity was taken: a correction is no motion.
            self.box = Box(
                *(
                    old + _CORRECTION * (new - old)
                    for old, new in zip(followed, found.box, strict=True)
                )
            )
        self.remember(found, now_ns)
        self.detected_ns, self.hits, self.misses = now_ns, self.hits + found.weight, 0
        self.detected_box, self.detected_course = self.box, self.course


class Tracker:
    """Keeps one id per face; see the module's description."""

    def __init__(
        self,
        keep_ms: int = 300,
        forget_ms: int = 1000,
        confirm_hits: int = 2,
        random_source: random.Random | None = None,
    ) -> None:
        """
        Start without any face.

        keep_ms: how long a face that is not seen is still reported; at most forget_ms.
        forget_ms: how long it can return under its id.
        confirm_hits: detections before a face is reported, in a row where every image is searched;
        1 for still images.
        random_source: where the random part of the ids is taken from; the operating system's by
        default.
        """
        if not 0 <= keep_ms <= forget_ms:
            raise ValueError(
                f'keep_ms is {keep_ms}, forget_ms {forget_ms}, expected 0 <= keep_ms <= forget_ms'
            )
        if confirm_hits < 1:
            raise ValueError(f'confirm_hits is {confirm_hits}, expected at least 1')
        source = random_source or secrets.SystemRandom()
        # Two trackers, or one before and after a restart, must not call different people by the
        # same id.
        self._prefix = ''.join(source.choice(_ALPHABET) for _ in range(_PREFIX_LENGTH))
        self._keep_ns = keep_ms * _NS_PER_MS
        self._forget_ns = forget_ms * _NS_PER_MS
        self._confirm_hits = confirm_hits
        self._faces: list[Face] = []
        self._aside: list[Face] = []
        self._newest_ns: int | None = None
        self._count = 0

    @property
    def faces(self) -> Sequence[Face]:
        """Return all faces that are known, those not yet confirmed and those unseen too."""
        return self._faces

    def reset(self) -> None:
        """Forget every face, as after a jump of time; ids are not used again."""
        self._faces = []
        self._aside = []
        self._newest_ns = None

    def set_aside(self, but: Collection[int]) -> None:
        """
        Take no find for one of the faces any more: the camera shows another view.

        but: the numbers of those that are known to be still there.
        """
        self._aside = [face for face in self._faces if face.number not in but]
        self._faces = [face for face in self._faces if face.number in but]

    def bring_back(self) -> None:
        """Undo set_aside: the view is back. Faces that were unseen for too long are forgotten."""
        self._faces, self._aside = [*self._aside, *self._faces], []

    def update(self, boxes: Sequence[Box], now_ns: int) -> list[Track]:
        """
        Take the boxes of an image that was searched whole and return the faces that are there.

        now_ns: the image's time. Where it is before the last image's, every face is forgotten: its
        age is unknown. The longest known face comes first.
        """
        self.observe([Sighting(box) for box in boxes], now_ns)
        # A face that was never confirmed and is missed at once was none.
        self._faces = [face for face in self._faces if face.seen_ns == now_ns or face.is_confirmed]
        return self.tracks(now_ns)

    def observe(
        self,
        found: Sequence[Sighting],
        now_ns: int,
        followed: Mapping[int, Box] | None = None,
        looked_for: Collection[int] = (),
        doubtful: Collection[int] = (),
    ) -> list[int]:
        """
        Take what was found in an image and return the number of the face that each find is.

        0: it is a second box on a face that was followed.

        followed: where faces, by their numbers, were followed to. looked_for: faces that have
        surely been missed if they are not among those found. doubtful: followed ones that are
        then not believed to be there. now_ns: as in update.
        """
        if self._newest_ns is not None and now_ns < self._newest_ns:
            self.reset()
        followed = followed or {}
        self._faces = [face for face in self._faces if now_ns - face.seen_ns <= self._forget_ns]
        hidden = [
            face
            for face in self._faces
            if face.number not in followed and self._is_hidden(face, followed.values(), now_ns)
        ]
        numbers = self._assign(hidden, found, now_ns, followed, doubtful)
        self._adopt(hidden, found, now_ns, numbers)
        for face in self._faces:
            if face.detected_ns == now_ns:
                continue
            is_missed = face.number in looked_for
            face.misses += is_missed
            if face.number in followed and not (is_missed and face.number in doubtful):
                face.follow(followed[face.number], now_ns)
        self._faces = [
            face for face in self._faces if face.is_confirmed or face.misses < _MAX_MISSES
        ]
        self._confirm(hidden, now_ns)
        self._newest_ns = now_ns
        return numbers

    def _is_hidden(self, face: Face, others: Iterable[Box], now_ns: int) -> bool:
        """Tell whether a face is out of view, not just between two images."""
        unseen_ns = now_ns - face.seen_ns
        was_just_seen = face.seen_ns == self._newest_ns and unseen_ns <= _LONGEST_INTERVAL_NS
        if not face.is_confirmed or was_just_seen:
            return False
        expected = face.predict(now_ns)
        # Who vanishes beside somebody else is behind him.
        return unseen_ns > _HIDDEN_NS or any(
            _distance_sides(expected, other) < _BEHIND_SIDES for other in others
        )

    def _assign(
        self,
        hidden: Sequence[Face],
        found: Sequence[Sighting],
        now_ns: int,
        followed: Mapping[int, Box],
        doubtful: Collection[int],
    ) -> list[int]:
        """Give each find to the face in view that it is, a new one where there is none."""
        sure = {number: box for number, box in followed.items() if number not in doubtful}
        owners = [_owner(one.box, sure) for one in found]
        faces = [face for face in self._faces if face not in hidden]
        places = []
        for face in faces:
            expected = followed.get(face.number) or face.predict(now_ns)
            unseen_ns = 0 if face.number in followed else now_ns - face.seen_ns
            places.append(
                [
                    # What was surely followed is not suddenly elsewhere.
                    _fit(expected, one.box, unseen_ns)
                    if owner == (face.number if face.number in sure else 0)
                    else 0.0
                    for one, owner in zip(found, owners, strict=True)
                ]
            )
        numbers = [0] * len(found)
        for row, column in match(_in_view(faces, found, places)):
            faces[row].detect(found[column], followed.get(faces[row].number), now_ns)
            numbers[column] = faces[row].number
        for column, one in enumerate(found):
            # A second box on a face that was followed is not a new face.
            if not numbers[column] and not owners[column]:
                self._count += 1
                numbers[column] = self._count
                face = Face(self._count, one.box, now_ns, now_ns, hits=one.weight)
                face.remember(one, now_ns)
                self._faces.append(face)
        return numbers

    def _adopt(
        self, hidden: Sequence[Face], found: Sequence[Sighting], now_ns: int, numbers: list[int]
    ) -> None:
        """Let hidden faces be those that are not confirmed yet, if that is what they look like."""
        new = [
            (face, numbers.index(face.number))
            for face in self._faces
            if not face.is_confirmed and face.number in numbers
        ]
        places = [
            [_place_hidden(face, found[column].box, now_ns) for _, column in new]
            for face in hidden
        ]
        likeness = [
            [
                _likeness_hidden(face, found[column], place)
                for (_, column), place in zip(new, row, strict=True)
            ]
            for face, row in zip(hidden, places, strict=True)
        ]
        for row, index in match([[value for value, _ in line] for line in likeness]):
            face, column = new[index]
            rivals = sum(line[index] > 0 for line in places)
            # Who is not sure yet is asked again with the next detection, among all who may be it.
            if likeness[row][index][1] >= _least_likeness(rivals, now_ns - face.first_ns):
                self._faces = [other for other in self._faces if other is not face]
                hidden[row].detect(found[column], None, now_ns)
                numbers[column] = hidden[row].number

    def _confirm(self, hidden: Sequence[Face], now_ns: int) -> None:
        """Confirm the faces that were detected often enough and cannot be anybody hidden."""
        hidden = [face for face in hidden if face.seen_ns != now_ns]
        for face in self._faces:
            if face.is_confirmed or face.hits < self._confirm_hits:
                continue
            may_be_known = bool(face.looks) and any(
                _place_hidden(other, face.box, now_ns) > 0 for other in hidden
            )
            # When it was in view for long enough, not before it was asked once more.
            was_asked = face.detected_ns == now_ns and now_ns - face.first_ns >= _HOLD_NS
            face.is_confirmed = was_asked or not may_be_known

    def tracks(self, now_ns: int) -> list[Track]:
        """Return the faces that are there, the longest known first."""
        return [
            Track(f'face_{self._prefix}_{face.number}', face.box, face.seen_ns)
            for face in self._faces
            if face.is_confirmed and now_ns - face.seen_ns <= self._keep_ns
        ]


def _owner(box: Box, followed: Mapping[int, Box]) -> int:
    """Return the number of the followed face that a box is surely on; 0: there is none."""
    on_it = [number for number, other in followed.items() if is_one_face(box, other)]
    return max(on_it, key=lambda number: iou(followed[number], box), default=0)


def _in_view(
    faces: Sequence[Face], found: Sequence[Sighting], places: Sequence[Sequence[float]]
) -> list[list[float]]:
    """
    Return how well finds fit faces in view in place and look, [faces][found], 0 for not at all.

    places: the same in place only.
    """
    claims = [sum(row[column] > 0 for row in places) for column in range(len(found))]
    return [
        [
            # Where only one face and one find are near each other, looks are not asked for.
            place + _APPEARANCE_WEIGHT * _alike(face, one)
            if place > 0 and (claims[column] > 1 or sum(other > 0 for other in row) > 1)
            else place
            for column, (one, place) in enumerate(zip(found, row, strict=True))
        ]
        for face, row in zip(faces, places, strict=True)
    ]


def _alike(face: Face, found: Sighting) -> float:
    """Return how much a find looks like a face; 0 where that is not known."""
    alike = None if found.appearance is None else face.likeness(found.appearance)
    return 0.0 if alike is None else alike


def _place_hidden(face: Face, found: Box, now_ns: int) -> float:
    """Return how well the place of a find fits a face out of view: 0 for not at all, up to 2."""
    way_end = face.predict(now_ns)
    return _fit(nearest_on_way(face.detected_box, way_end, found), found, now_ns - face.seen_ns)


def _likeness_hidden(face: Face, found: Sighting, place: float) -> tuple[float, float]:
    """
    Return how well a find fits a face out of view, 0 for not at all, and how alike they look.

    Where looks are not known they are taken for the same.
    """
    alike = None if found.appearance is None else face.likeness(found.appearance)
    if place <= 0 or alike is None:
        return place, 1.0
    fit = _HIDDEN_PLACE_WEIGHT * place + _HIDDEN_APPEARANCE_WEIGHT * alike
    return (fit if alike >= _MIN_LIKENESS else 0.0), alike


def _least_likeness(hidden: int, in_view_ns: int) -> float:
    """
    Return how much a find has to look like a hidden face to be that one.

    hidden: how many faces it may be by its place. in_view_ns: for how long it has been seen.
    """
    if in_view_ns >= _HOLD_NS:
        return _MIN_LIKENESS
    return _SURE_LIKENESS if hidden < 2 else math.inf


def _moved(box: Box, velocity: _Velocity, elapsed_ns: int) -> Box:
    elapsed_s = elapsed_ns / _NS_PER_S
    return box._replace(x=box.x + velocity.x * elapsed_s, y=box.y + velocity.y * elapsed_s)


def nearest_on_way(start: Box, end: Box, found: Box) -> Box:
    """Return the box on the way from start to end whose centre is nearest to that of found."""
    (x, y), (end_x, end_y), (found_x, found_y) = start.centre, end.centre, found.centre
    way_x, way_y = end_x - x, end_y - y
    length = way_x**2 + way_y**2
    if length == 0:
        return start
    share = ((found_x - x) * way_x + (found_y - y) * way_y) / length
    share = min(max(share, 0.0), 1.0)
    return start._replace(x=start.x + share * way_x, y=start.y + share * way_y)


def _fit(expected: Box, found: Box, unseen_ns: int) -> float:
    """Return how well a box fits where a face is expected: 0 for not at all, up to 2."""
    side, found_side = math.sqrt(expected.area_px), math.sqrt(found.area_px)
    if max(side, found_side) > _MAX_GROWTH * min(side, found_side):
        return 0.0
    distance_sides = _distance_sides(expected, found)
    astray_s = max(0, min(unseen_ns, _MAX_ASTRAY_NS) - _HIDDEN_NS) / _NS_PER_S
    reach_sides = _MAX_DISTANCE_SIDES + _ASTRAY_SIDES_PER_S * astray_s
    if distance_sides >= reach_sides:
        return 0.0
    # The overlap tells sizes apart, the distance still tells a fast face from nothing when no
    # overlap is left.
    return iou(expected, found) + 1 - distance_sides / reach_sides


def _distance_sides(one: Box, other: Box) -> float:
    """Return the distance of two boxes' centres in sides of the larger one."""
    (x, y), (other_x, other_y) = one.centre, other.centre
    return math.hypot(other_x - x, other_y - y) / math.sqrt(max(one.area_px, other.area_px))


def iou(one: Box, other: Box) -> float:
    """Return the intersection over the union of two boxes."""
    shared_px = _shared_px(one, other)
    return shared_px / (one.area_px + other.area_px - shared_px)


def is_one_face(one: Box, other: Box) -> bool:
    """Tell whether two boxes lie on each other so far that only one face can be in both."""
    return _shared_px(one, other) > _ONE_FACE_SHARE * min(one.area_px, other.area_px)


def _shared_px(one: Box, other: Box) -> float:
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    return max(0.0, width) * max(0.0, height)


def match(likeness: list[list[float]]) -> list[tuple[int, int]]:
    """
    Return the pairs (row, column) whose likenesses have the largest sum.

    Each row and each column is used at most once.

    likeness: [rows][columns], 0 or less for pairs that must not be made.

    The Hungarian method with potentials, row by row along the cheapest augmenting path (Jonker and
    Volgenant 1987), in time rows^2 x columns.
    """
    if not likeness or not likeness[0]:
        return []
    rows, columns = len(likeness), len(likeness[0])
    if rows > columns:
        turned = [[likeness[row][column] for row in range(rows)] for column in range(columns)]
        return sorted((row, column) for column, row in match(turned))
    cost = [[-max(0.0, value) for value in row] for row in likeness]
    # Index 0 stands for nothing, in rows and in columns, so both are counted from 1 here.
    row_price, column_price = [0.0] * (rows + 1), [0.0] * (columns + 1)
    row_of = [0] * (columns + 1)
    for row in range(1, rows + 1):
        row_of[0] = row
        _augment(cost, row_price, column_price, row_of)
    pairs = [
        (row_of[column] - 1, column - 1) for column in range(1, columns + 1) if row_of[column]
    ]
    return sorted((row, column) for row, column in pairs if likeness[row][column] > 0)


def _augment(
    cost: list[list[float]], row_price: list[float], column_price: list[float], row_of: list[int]
) -> None:
    """Give the row in row_of[0] a column, moving other rows where that is cheaper, in place."""
    columns = len(column_price) - 1
    reach = [math.inf] * (columns + 1)
    came_from = [0] * (columns + 1)
    visited = [False] * (columns + 1)
    column = 0
    while row_of[column]:
        visited[column] = True
        row, nearest = row_of[column], 0
        for other in range(1, columns + 1):
            if visited[other]:
                continue
            reduced = cost[row - 1][other - 1] - row_price[row] - column_price[other]
            if reduced < reach[other]:
                reach[other], came_from[other] = reduced, column
            if nearest == 0 or reach[other] < reach[nearest]:
                nearest = other
        step = reach[nearest]
        for other in range(columns + 1):
            if visited[other]:
                row_price[row_of[other]] += step
                column_price[other] -= step
            else:
                reach[other] -= step
        column = nearest
    while column:
        row_of[column] = row_of[came_from[column]]
        column = came_from[column]
