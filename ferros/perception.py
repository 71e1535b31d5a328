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
Finds and follows the faces of one camera, image by image.

What is known is followed by what it shows (follow.py), which takes a fraction of a millisecond;
the detector looks closely at a face when following it is unsure and from time to time (lookout.py
says when), and searches for new faces piece by piece, so that no image has to pay for a whole
search. Ids are the tracker's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from ferros.appearance import appearance
from ferros.config import RobotConfig
from ferros.detect import CameraDetector, DetectorError, HaarDetector, make_detector
from ferros.follow import Floats, face_patch, follow, likeness
from ferros.lookout import Glance, Known, Pace, Rounds, glances, margin
from ferros.pieces import View
from ferros.pyramid import Pyramid
from ferros.scenery import Change, Scenery
from ferros.timeline import Continuity, Timeline
from ferros.track import Face, Sighting, Tracker, is_one_face
from ferros.types import Box, CameraFrame, Track

# How much the place that a face was followed to has to look like the face when it was detected,
# and what share of its points has to have arrived there. With less it is looked at in the same
# image, and not there unless it is found; where the whole view has changed, more is needed.
_MAYBE: Final = 0.5
_SURE: Final = 0.8
_SURE_ELSEWHERE: Final = 0.9
_SURE_SHARE: Final = 0.65
_CLEAR_SHARE: Final = 0.9
# A face that was not detected for so long is no longer believed to be where it was followed to: it
# may have turned away, and what is followed is hair or a wall.
_MAX_FOLLOWED_NS: Final = 1_000_000_000
# Faces whose centres are within so many sides may come before each other.
_CROWDED_SIDES: Final = 1.6
# At most this many places that may be faces are looked at in an image; so many may wait.
_SUSPECTS: Final = 2
_MAX_WAITING: Final = 8
# How much a detection counts towards reporting a new face: two from the front, three from the
# side, where the cascade is less sure.
_WEIGHT: Final = {View.FRONT: 1.0, View.LEFT: 0.67, View.RIGHT: 0.67}
# At most, where a known face was looked for.
_KNOWN_WEIGHT: Final = 0.75
# The most that an image is reduced by when it is decoded.
_MAX_REDUCTION: Final = 4


@dataclass
class _Sight:
    """What is remembered of a face beside where it is."""

    # What it showed when it was last detected, and from where it was seen.
    patch: Floats
    view: View
    looked_ns: int


class _Find(NamedTuple):
    """A face that was detected."""

    box: Box
    view: View
    # How much it counts towards reporting a new face.
    weight: float


class _Step(NamedTuple):
    """Where a face was followed to."""

    box: Box
    # How much the place looks like the face when it was detected.
    alike: float
    # The share of its points that arrived, 0..1.
    share: float
    is_sure: bool


class Perception:
    """
    Finds and follows the faces of one camera.

    process() returns the tracks in a frame, or None where the frame is not newer than the one
    before and is left alone. `jumped` tells, after a call, that what was known before it no
    longer holds: time was set back or the image has another size.

    One thread at a time may use it. The same images and times give the same tracks, save for the
    random part of the ids, as long as spent() is told the same.
    """

    def __init__(
        self, detector: CameraDetector, tracker: Tracker, every_n_images: int = 10
    ) -> None:
        """
        Start without any face.

        every_n_images: after how many images the whole image is to have been searched.
        """
        self._detector = detector
        self._tracker = tracker
        self._timeline = Timeline()
        self._pace = Pace(every_n_images)
        self._scenery = Scenery()
        # The side in px of the smallest face crop that is not worth less for being small.
        self.usable_px = 48
        self.jumped = ''
        # Images in which not all was looked at that was due, for want of time.
        self.hurried = 0
        self._size_px: tuple[int, int] | None = None
        self._rounds: Rounds | None = None
        self._before: Pyramid | None = None
        self._before_ns = 0
        self._sights: dict[int, _Sight] = {}
        # What may be faces and was not looked at yet.
        self._waiting: deque[tuple[Box, View]] = deque(maxlen=_MAX_WAITING)

    def configure(self, config: RobotConfig) -> None:
        """
        Take over what may change while the node runs.

        Raises:
            DetectorError: faces from the side are wanted and their cascade cannot be read; then
            nothing is changed.

        """
        if (
            isinstance(self._detector, HaarDetector)
            and (View.LEFT in self._detector.views) != config.detect_profiles
        ):
            self._detector.look_for_profiles(config.detect_profiles, config.profile_cascade_file)
            self._rounds = None
        self._pace.every_n_images = config.detect_every_n_frames

    def process(self, frame: CameraFrame) -> list[Track] | None:
        """Return the faces of the frame, or None where it is not newer than the one before."""
        self.jumped = ''
        continuity = self._timeline.follow(frame.stamp_ns)
        if continuity is Continuity.BACKWARDS:
            return None
        size_px = frame.size_px
        if continuity is Continuity.JUMP:
            self._forget('the image stamps were set back')
        elif self._size_px not in (None, size_px):
            old, new = (f'{width}x{height}' for width, height in (self._size_px, size_px))
            self._forget(f'the image size changed from {old} to {new}')
        if self._rounds is None or size_px != self._size_px:
            self._rounds = Rounds(
                lambda view: self._detector.pieces(*size_px, view), self._detector.views
            )
        self._size_px = size_px
        self._pace.image(frame.stamp_ns)
        self._see(Pyramid(frame), frame.stamp_ns, self._rounds)
        return self._tracker.tracks(frame.stamp_ns)

    def reset(self) -> None:
        """Forget the faces and the time line."""
        self._timeline.reset()
        self._forget('')

    def spent(self, processing_ns: int, interval_ns: int = 0) -> None:
        """
        Note how long the last image took, from its message to the crops; pure but for this.

        interval_ns: the camera's, by all images that arrive; 0: as the stamps of those that were
        processed have it.
        """
        self._pace.spent(processing_ns, interval_ns)

    @property
    def share(self) -> float:
        """Return how much of what is due is looked at, 0..1: less than 1 where time is short."""
        return self._pace.share

    def reduction(self, width_px: int, height_px: int) -> int:
        """
        Return how many times smaller the next image may be decoded: 1, 2 or 4.

        Every face keeps usable_px pixels or what it has, and the search its own.

        width_px, height_px: of the published image.
        """
        sides_px = [face.box.width for face in self._tracker.faces]
        reduction = 1
        while (
            reduction < _MAX_REDUCTION
            and max(width_px, height_px) / (2 * reduction) >= self._detector.longest_side_px
            and all(side / (2 * reduction) >= self.usable_px for side in sides_px)
        ):
            reduction *= 2
        return reduction

    # -- one image -------------------------------------------------------------------------------

    def _see(self, pyramid: Pyramid, now_ns: int, rounds: Rounds) -> None:
        """Follow, look and search in one image, and tell the tracker."""
        change = self._scenery.change(pyramid)
        steps = self._follow(pyramid, now_ns, change)
        if change.is_other:
            # A cut: whoever is at the same place now is somebody else.
            self._tracker.set_aside(steps)
            self._waiting.clear()
            rounds.restart()
        if change.is_back:
            # It was none, but something that passed before the camera.
            self._tracker.bring_back()
        search = _Search(self._detector, pyramid, self._pace.max_work)
        looked_for = self._look_closely(search, steps, now_ns, rounds)
        self._look_for_new(search, [step.box for step in steps.values()], rounds)
        numbers = self._tracker.observe(
            [
                Sighting(
                    find.box,
                    appearance(pyramid, find.box),
                    find.weight,
                    _is_clear(find.box, steps.values()),
                )
                for find in search.found
            ],
            now_ns,
            {number: step.box for number, step in steps.items()},
            looked_for,
            {number for number, step in steps.items() if not step.is_sure},
        )
        faces = {face.number: face for face in self._tracker.faces}
        for number, find in zip(numbers, search.found, strict=True):
            if number in faces:
                patch = face_patch(pyramid, faces[number].box)
                self._sights[number] = _Sight(patch, find.view, now_ns)
        for number in [number for number in self._sights if number not in faces]:
            del self._sights[number]
        self._before, self._before_ns = pyramid, now_ns

    def _follow(self, pyramid: Pyramid, now_ns: int, change: Change) -> dict[int, _Step]:
        """Return where the faces of the image before are now, by their numbers."""
        if self._before is None:
            return {}
        steps: dict[int, _Step] = {}
        for face in self._tracker.faces:
            if (
                face.seen_ns == self._before_ns
                and now_ns - face.detected_ns <= _MAX_FOLLOWED_NS
                and face.number in self._sights
            ):
                step = self._follow_one(self._before, pyramid, face, now_ns, change)
                if step is not None and _is_inside(step.box, pyramid):
                    steps[face.number] = step
        return _one_each(steps)

    def _follow_one(
        self, before: Pyramid, pyramid: Pyramid, face: Face, now_ns: int, change: Change
    ) -> _Step | None:
        """Return where a face went; None: nothing looks like it there."""
        expected = face.predict(now_ns)
        guesses = [(expected.x - face.box.x, expected.y - face.box.y)]
        if math.hypot(change.shift_x_px, change.shift_y_px) > 0.3 * face.box.width:
            # The camera itself turns.
            guesses.append((change.shift_x_px, change.shift_y_px))
        best: _Step | None = None
        for guess_px in guesses:
            found = follow(before, pyramid, face.box, guess_px)
            if found is None:
                continue
            patch = face_patch(pyramid, found.box)
            alike = likeness(patch, self._sights[face.number].patch)
            sure = _SURE_ELSEWHERE if change.is_other else _SURE
            is_sure = found.share >= _SURE_SHARE and alike >= sure
            if alike >= (best.alike if best else _MAYBE) and (is_sure or not change.is_other):
                best = _Step(found.box, alike, found.share, is_sure)
            if is_sure:
                break
        return best

    def _look_closely(
        self, search: _Search, steps: dict[int, _Step], now_ns: int, rounds: Rounds
    ) -> set[int]:
        """Look at the faces that are due; return their numbers."""
        due = glances(self._known(steps, now_ns, search.pyramid), now_ns, self._pace.share)
        looked_for = set()
        for index, glance in enumerate(due):
            # One at least, and room for a piece of the search, so that neither starves the other.
            if index and search.left < rounds.largest:
                self.hurried += 1
                break
            sight = self._sights[glance.number]
            sight.looked_ns = now_ns
            step = steps.get(glance.number)
            # Where little is enough to find a face again, nothing else is to be found.
            only = glance.box if step is not None and step.is_sure and glance.is_known else None
            search.look(glance.box, glance.margin, self._view_of(glance), glance.is_known, only)
            looked_for.add(glance.number)
        return looked_for

    def _view_of(self, glance: Glance) -> View:
        """Return from where a face is to be seen in this look."""
        views, last = self._detector.views, self._sights[glance.number].view
        if not glance.is_known or last not in views:
            return last
        misses = next(f.misses for f in self._tracker.faces if f.number == glance.number)
        # Its last view every other time, the others in turn.
        turn = 0 if misses % 2 == 0 else 1 + misses // 2 % max(1, len(views) - 1)
        return views[(views.index(last) + turn) % len(views)]

    def _known(self, steps: dict[int, _Step], now_ns: int, pyramid: Pyramid) -> list[Known]:
        places = {
            face.number: steps[face.number].box if face.number in steps else face.predict(now_ns)
            for face in self._tracker.faces
        }
        sure = {number for number, step in steps.items() if step.is_sure}
        return [
            Known(
                face.number,
                places[face.number],
                face.is_confirmed,
                face.number in sure,
                any(
                    _distance_sides(places[face.number], box) < _CROWDED_SIDES
                    for number, box in places.items()
                    if number != face.number
                ),
                face.seen_ns,
                face.detected_ns,
                self._sights[face.number].looked_ns,
            )
            for face in self._tracker.faces
            if face.number in self._sights and _is_inside(places[face.number], pyramid)
        ]

    def _look_for_new(self, search: _Search, taken: list[Box], rounds: Rounds) -> None:
        """Search the pieces that are due, and look at what may be faces there."""
        for piece in rounds.due(self._pace.images_per_round, max(search.left, rounds.largest)):
            search.left -= piece.work
            for box in self._detector.propose(search.pyramid, piece):
                self._waiting.append((box, piece.view))
        looks = 0
        while self._waiting and looks < _SUSPECTS:
            box, view = self._waiting.popleft()
            if any(is_one_face(box, other) for other in [*taken, *(f.box for f in search.found)]):
                continue
            looks += 1
            search.look(box, margin(0), view, False)

    def _forget(self, why: str) -> None:
        self._tracker.reset()
        self._pace.restart()
        self._scenery.reset()
        self._clear()
        if self._rounds is not None:
            self._rounds.restart()
        self.jumped = why

    def _clear(self) -> None:
        """Forget what the images showed."""
        self._before = None
        self._sights.clear()
        self._waiting.clear()


class _Search:
    """What is found in one image, and what may still be spent on it."""

    def __init__(self, detector: CameraDetector, pyramid: Pyramid, left: float) -> None:
        self._detector = detector
        self.pyramid = pyramid
        self.left = left
        self.found: list[_Find] = []

    def look(
        self, near: Box, margin_sides: float, view: View, is_known: bool, only: Box | None = None
    ) -> None:
        """Look closely at a place, for any face or only one on a box."""
        self.left -= self._detector.look_work(margin_sides, view)
        for box in self._detector.look(self.pyramid, near, margin_sides, view, is_known):
            is_new = not any(is_one_face(box, other.box) for other in self.found)
            if is_new and (only is None or is_one_face(box, only)):
                weight = _KNOWN_WEIGHT if is_known else _WEIGHT[view]
                self.found.append(_Find(box, view, min(weight, _WEIGHT[view])))


def make_perception(config: RobotConfig) -> Perception:
    """
    Return what finds and follows faces, as configured, with its files loaded.

    Raises:
        DetectorError: a cascade or model file is missing or unreadable; the message names it.

    """
    detector = make_detector(
        config.detector,
        cascade_file=config.cascade_file,
        model_file=config.detector_model,
        profiles=config.detect_profiles,
        profile_cascade_file=config.profile_cascade_file,
    )
    keep_ms = min(300, config.keep_id_ms)
    tracker = Tracker(keep_ms=keep_ms, forget_ms=config.keep_id_ms)
    return Perception(detector, tracker, config.detect_every_n_frames)


def _one_each(steps: dict[int, _Step]) -> dict[int, _Step]:
    """Leave out faces that were followed to where another is, who looks more like himself."""
    kept: dict[int, _Step] = {}
    for number, step in sorted(steps.items(), key=lambda item: -item[1].alike):
        if not any(is_one_face(step.box, other.box) for other in kept.values()):
            kept[number] = step
    return kept


def _is_clear(box: Box, steps: Iterable[_Step]) -> bool:
    """Tell whether all that is followed to a box came through, so that nothing hides a part."""
    return all(step.share >= _CLEAR_SHARE for step in steps if is_one_face(step.box, box))


def _is_inside(box: Box, pyramid: Pyramid) -> bool:
    """Tell whether at least half of a box is inside the image."""
    inside = box.clipped(pyramid.width_px, pyramid.height_px)
    return inside.area_px >= 0.5 * box.area_px


def _distance_sides(one: Box, other: Box) -> float:
    (x, y), (other_x, other_y) = one.centre, other.centre
    return math.hypot(other_x - x, other_y - y) / max(one.width, other.width)


__all__ = ['DetectorError', 'Perception', 'make_perception']
