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
Rendered camera images of 1280x720 px in which it is known who is where.

There is one photograph of a face that may be shipped along, the portrait of Eileen Collins (NASA,
public domain, see demo/clip.py). The first person of a scene is cut out of it. The second one and
further ones are made of the same photograph and are nobody: mirrored, made broader or narrower,
with other light on the face, other hair and other clothes. They are about as unlike as two people
are for a detector and for a coarse grey pattern, not for a person.

The same call gives the same images.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from demo import clip
from ferros.perception import Perception
from ferros.track import iou
from ferros.types import Box, CameraFrame, Image, Track

WIDTH_PX: Final = 1280
HEIGHT_PX: Final = 720
RATE_FPS: Final = 30.0
# Stamps do not begin at 0: nothing may take 0 for "never".
START_NS: Final = 1_000_000_000

# The face in the portrait: its middle, and the side of the training frame around it.
_FACE: Final = (224.0, 118.0)
_FACE_PX: Final = 102.0
# Standard deviation of the sensor's noise in grey levels.
_NOISE: Final = 2.0
_SEED: Final = 6
# What pillars look like: a piece of another room.
_PILLAR_ROOM: Final = 5
# A face counts as in view when at least so much of it is inside the image and in front.
_IN_VIEW: Final = 0.95
# A reported box is a person's when it overlaps the face by this.
_MATCH_IOU: Final = 0.3

_NO_IMAGE: Final = np.empty((0, 0), np.uint8)

Floats = NDArray[np.float32]


class SceneFrame(NamedTuple):
    """One image and who is in view in it."""

    stamp_ns: int
    image: Image
    # By name, the training-frame square of each face that is in view whole.
    faces: dict[str, Box]
    # The same of everybody, hidden or not.
    people: dict[str, Box]


class Place(NamedTuple):
    """Where a person is in the image: the middle of the face, and its side, in px."""

    x: float
    y: float
    side: float


class Actor(NamedTuple):
    """Someone in a scene; None where he is not there. Those listed later are nearer."""

    name: str
    look: int
    place: Callable[[float], Place | None]


class Pillar(NamedTuple):
    """Something in front of everybody, as high as the image, between two columns and two times."""

    left_px: int
    right_px: int
    start_s: float = 0.0
    end_s: float = math.inf


class Scene(NamedTuple):
    """What happens, for how long, in which room."""

    name: str
    duration_s: float
    actors: tuple[Actor, ...]
    pillars: tuple[Pillar, ...] = ()
    # Times at which the room changes: a recording is cut there.
    cuts_s: tuple[float, ...] = ()


def render(scene: Scene, rate_fps: float = RATE_FPS, seconds: float = 0.0) -> Iterator[SceneFrame]:
    """
    Yield a scene's images, uint8 BGR [720, 1280, 3], and who is in view.

    rate_fps: of the camera. seconds: how much of the scene; 0: all of it.

    Raises:
        RuntimeError: the portrait is not installed.

    """
    random = np.random.default_rng(_SEED)
    # Another cut-out of the same noise each time: drawing it anew would cost most of the time.
    noise = random.normal(0, _NOISE, (HEIGHT_PX + 64, WIDTH_PX + 64, 3)).round().astype(np.int16)
    for index in range(round((seconds or scene.duration_s) * rate_fps)):
        time_s = index / rate_fps
        faces, people = _who_is_in_view(scene, time_s)
        top, left = (int(value) for value in random.integers(64, size=2))
        grain = noise[top : top + HEIGHT_PX, left : left + WIDTH_PX]
        image = np.asarray(cv2.add(_picture(scene, time_s), grain, dtype=cv2.CV_8U), np.uint8)
        yield SceneFrame(START_NS + round(time_s * 1e9), image, faces, people)


def _picture(scene: Scene, time_s: float) -> Image:
    """Return what a camera without noise would see, uint8 BGR [720, 1280, 3]."""
    image = room(sum(time_s >= cut_s for cut_s in scene.cuts_s)).copy()
    for actor in scene.actors:
        place = actor.place(time_s)
        if place is not None:
            _draw(image, actor.look, place)
    for pillar in _pillars(scene, time_s):
        columns = slice(pillar.left_px, pillar.right_px)
        image[:, columns] = room(_PILLAR_ROOM)[:, columns]
    return image


def _who_is_in_view(scene: Scene, time_s: float) -> tuple[dict[str, Box], dict[str, Box]]:
    """Return the faces that are in view whole, by name, and those of everybody."""
    faces: dict[str, Box] = {}
    people: dict[str, Box] = {}
    hidden = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    for pillar in _pillars(scene, time_s):
        hidden[:, pillar.left_px : pillar.right_px] = 1
    # From front to back.
    for actor in reversed(scene.actors):
        place = actor.place(time_s)
        if place is None:
            continue
        box = people[actor.name] = face_box(place)
        if _seen_share(box, hidden) >= _IN_VIEW:
            faces[actor.name] = box
        _cover(hidden, place)
    return faces, people


def _pillars(scene: Scene, time_s: float) -> list[Pillar]:
    return [pillar for pillar in scene.pillars if pillar.start_s <= time_s < pillar.end_s]


def face_box(place: Place) -> Box:
    """Return the training-frame square of a face."""
    return Box(place.x - place.side / 2, place.y - place.side / 2, place.side, place.side)


# -- who and where -------------------------------------------------------------------------------


@functools.lru_cache
def room(number: int) -> Image:
    """Return an empty room, uint8 BGR [720, 1280, 3]: shelves, frames and cloth of many sizes."""
    random = np.random.default_rng(100 + number)
    base = random.normal(0, 1, (9, 16, 3))
    light = cv2.resize(base, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
    image = np.asarray(120 + 25 * light + random.normal(0, 12, 3), np.float32)
    for _ in range(60):
        x, y = random.integers(WIDTH_PX), random.integers(HEIGHT_PX)
        width, height = random.integers(15, 220, 2)
        colour = np.clip(image[y, x] + random.normal(0, 30, 3), 10, 240)
        cv2.rectangle(image, (int(x), int(y)), (int(x + width), int(y + height)), colour.tolist(),
                      int(random.choice([-1, 2, 5])))  # fmt: skip
    return np.clip(cv2.GaussianBlur(image, (0, 0), 1.2), 0, 255).astype(np.uint8)


class _CutOut(NamedTuple):
    """A person without a background: colours uint8 [512, 512, 3], cover float32 [512, 512]."""

    colours: Image
    cover: Floats


@functools.lru_cache
def _person(look: int) -> _CutOut:
    """Return a person: 0 as photographed, others made of the same photograph."""
    colours = clip.portrait().astype(np.float32)
    height, width = colours.shape[:2]
    down, right = np.mgrid[:height, :width].astype(np.float32)
    head = _disc(right, down, 222, 108, 82, 112)
    body = _disc(right, down, 235, 460, 225, 235)
    cover = np.maximum(head, body)
    if look:
        colours = _disguise(colours, head, right, down, look)
        # About the middle of the face, so that it stays where it was.
        turn = np.array([[-1.0 if look % 2 else 1.0, 0, 0], [0, 1, 0]])
        turn[0, 0] *= 1 + 0.12 * math.sin(2.4 * look)
        turn[0, 2] = _FACE[0] * (1 - turn[0, 0])
        colours, cover = (
            np.asarray(cv2.warpAffine(image, turn, (width, height), borderMode=border), np.float32)
            for image, border in ((colours, cv2.BORDER_REPLICATE), (cover, cv2.BORDER_CONSTANT))
        )
    return _CutOut(colours.round().astype(np.uint8), cover)


def _disguise(colours: Floats, head: Floats, right: Floats, down: Floats, look: int) -> Floats:
    """Return the portrait with other hair, other clothes and other light on the face."""
    face = _disc(right, down, 224, 122, 54, 68)
    random = np.random.default_rng(look)
    grey = colours.mean(axis=2, keepdims=True)
    hair = np.float32(random.choice([0.25, 2.6])) * grey + random.normal(0, 8, 3)
    clothes = np.float32(random.choice([0.3, 0.55])) * grey + random.uniform(0, 40, 3)
    # Light from one side, by up to a third.
    slope = np.float32(random.uniform(-1, 1)) * (right - _FACE[0]) / np.float32(160)
    skin = colours * (np.float32(random.uniform(0.6, 0.85)) * (1 + slope[:, :, None]))
    # A beard's shadow, or a forehead in the light: a pattern of its own at the face's own size.
    jaw = _disc(right, down, 224, 165, 50, 26)[:, :, None] * np.float32(random.uniform(0.2, 0.5))
    skin = skin * (1 - jaw)
    head, face = head[:, :, None], face[:, :, None]
    above = np.asarray(hair * head + clothes * (1 - head), np.float32)
    return np.asarray(np.clip(skin * face + above * (1 - face), 0, 255), np.float32)


def _disc(
    right: Floats, down: Floats, x: float, y: float, radius_x: float, radius_y: float
) -> Floats:
    """Return an ellipse with a soft rim, 0..1."""
    distance = np.sqrt(((right - x) / radius_x) ** 2 + ((down - y) / radius_y) ** 2)
    return np.asarray(np.clip((1.04 - distance) / 0.08, 0, 1), np.float32)


def _draw(image: Image, look: int, place: Place) -> None:
    person = _person(look)
    scale = place.side / _FACE_PX
    turn = np.array(
        [[scale, 0, place.x - scale * _FACE[0]], [0, scale, place.y - scale * _FACE[1]]]
    )
    # Only the part of the image in which the person is.
    height, width = person.colours.shape[:2]
    left, top = max(0, math.floor(turn[0, 2])), max(0, math.floor(turn[1, 2]))
    right = min(WIDTH_PX, math.ceil(turn[0, 2] + scale * width))
    bottom = min(HEIGHT_PX, math.ceil(turn[1, 2] + scale * height))
    if right <= left or bottom <= top:
        return
    turn[:, 2] -= left, top
    size = right - left, bottom - top
    colours = cv2.warpAffine(person.colours, turn, size, borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpAffine(person.cover, turn, size)
    behind = image[top:bottom, left:right]
    image[top:bottom, left:right] = cv2.blendLinear(colours, behind, cover, 1 - cover)


def _cover(hidden: NDArray[np.uint8], place: Place) -> None:
    """Note what a person's head and body stand in front of."""
    scale = place.side / _FACE_PX
    for x, y, radius_x, radius_y in ((222, 108, 82, 112), (235, 460, 225, 235)):
        centre = (
            round(place.x + scale * (x - _FACE[0])), round(place.y + scale * (y - _FACE[1]))
        )  # fmt: skip
        axes = round(scale * radius_x), round(scale * radius_y)
        cv2.ellipse(hidden, centre, axes, 0, 0, 360, 1, -1)


def _seen_share(box: Box, hidden: NDArray[np.uint8]) -> float:
    """Return how much of a box is inside the image and not hidden."""
    left, top, width, height = (int(value) for value in box.clipped(WIDTH_PX, HEIGHT_PX))
    seen = width * height - int(hidden[top : top + height, left : left + width].sum())
    return seen / box.area_px


# -- the scenes ----------------------------------------------------------------------------------


def _sway(time_s: float, phase: float = 0.0) -> tuple[float, float]:
    """Return how far a head is from where it would be if people walked like trolleys, in px."""
    return 4 * math.sin(7.1 * time_s + phase), 5 * math.sin(11.3 * time_s + phase)


def _walk(
    start_x: float, speed_px_per_s: float, y: float, side: float, phase: float = 0.0
) -> Callable[[float], Place]:
    def place(time_s: float) -> Place:
        sway_x, sway_y = _sway(time_s, phase)
        return Place(start_x + speed_px_per_s * time_s + sway_x, y + sway_y, side)

    return place


def _pace(
    middle_x: float, reach_px: float, period_s: float, y: float, side: float, phase: float = 0.0
) -> Callable[[float], Place]:
    def place(time_s: float) -> Place:
        sway_x, sway_y = _sway(time_s, phase)
        angle = 2 * math.pi * time_s / period_s + phase
        return Place(middle_x + reach_px * math.sin(angle) + sway_x, y + sway_y, side)

    return place


def _during(
    start_s: float, end_s: float, place: Callable[[float], Place]
) -> Callable[[float], Place | None]:
    return lambda time_s: place(time_s) if start_s <= time_s < end_s else None


def _approach(time_s: float) -> Place:
    sway_x, sway_y = _sway(time_s)
    share = 0.5 - 0.5 * math.cos(math.pi * time_s / 5)
    return Place(640 + 60 * share + sway_x, 250 + sway_y, 78 + 190 * share)


# One person who walks to and fro.
MOVING: Final = Scene('moving', 6.0, (Actor('anna', 0, _pace(640, 380, 4.5, 260, 130)),))
# Two people walk past each other; the nearer one hides the other.
CROSSING: Final = Scene(
    'crossing', 5.0,
    (Actor('ben', 1, _walk(220, 190, 265, 120, 1.0)),
     Actor('anna', 0, _walk(1060, -180, 255, 138))),
)  # fmt: skip
# The same, faster and with the other one in front.
CROSSING_FAST: Final = Scene(
    'crossing_fast', 3.0,
    (Actor('anna', 0, _walk(150, 400, 255, 120)),
     Actor('ben', 3, _walk(1130, -380, 262, 140, 1.0))),
)  # fmt: skip
# Two people meet, stand close together for a moment, and go back where they came from.
MEETING: Final = Scene(
    'meeting', 6.0,
    (Actor('anna', 0, lambda t: Place(640 - 60 - 400 * abs(1 - t / 3), 255 + _sway(t)[1], 125)),
     Actor('ben', 1,
           lambda t: Place(640 + 60 + 400 * abs(1 - t / 3), 265 + _sway(t, 1)[1], 125))),
)  # fmt: skip
# Someone walks behind a pillar, and is hidden for a second.
OCCLUSION: Final = Scene(
    'occlusion', 5.0, (Actor('anna', 0, _walk(200, 200, 260, 130)),), pillars=(Pillar(570, 720),)
)
# Something is held before the face of someone who stands there, for a second.
COVERED: Final = Scene(
    'covered', 5.0, (Actor('anna', 0, _pace(640, 25, 4, 260, 130)),),
    pillars=(Pillar(520, 760, 2.0, 3.0),),
)  # fmt: skip
# Someone walks behind a wide pillar; somebody else comes out on the same side, towards us.
TWO_AND_A_PILLAR: Final = Scene(
    'two_and_a_pillar', 5.0,
    (Actor('anna', 0, _walk(250, 160, 262, 125)),
     Actor('ben', 1, _walk(1030, -160, 258, 125, 1.0))), pillars=(Pillar(570, 710),),
)  # fmt: skip
# A recording is cut from one person to another at the same place, and back.
CUT: Final = Scene(
    'cut', 6.0,
    (Actor('anna', 0, _during(0, 2, _pace(640, 60, 4, 260, 150))),
     Actor('ben', 1, _during(2, 4, _pace(640, 60, 4, 260, 150))),
     Actor('anna_again', 0, _during(4, 6, _pace(640, 60, 4, 260, 150)))), cuts_s=(2.0, 4.0),
)  # fmt: skip
# One leaves, and just after that another one comes in from the same side.
LEAVING: Final = Scene(
    'leaving', 6.0,
    (Actor('anna', 0, _during(0, 3, _walk(500, -320, 260, 130))),
     Actor('ben', 1, _during(2.9, 6, lambda t: _walk(-150, 280, 265, 130)(t - 2.9)))),
)  # fmt: skip
# Someone walks up from afar.
APPROACH: Final = Scene('approach', 5.0, (Actor('anna', 0, _approach),))
# A few people at several distances.
FEW: Final = Scene(
    'few', 6.0,
    (Actor('carl', 2, _pace(1120, 50, 3.1, 170, 80, 2.0)),
     Actor('dora', 5, _pace(150, 70, 3.7, 200, 90, 4.0)),
     Actor('ben', 1, _pace(820, 90, 4.3, 240, 115, 1.0)),
     Actor('anna', 0, _pace(430, 110, 4.9, 300, 150))),
)  # fmt: skip
NOBODY: Final = Scene('nobody', 6.0, ())

SCENES: Final = (
    MOVING, CROSSING, CROSSING_FAST, MEETING, OCCLUSION, COVERED, TWO_AND_A_PILLAR, CUT, LEAVING,
    APPROACH, FEW, NOBODY,
)  # fmt: skip


# -- what came out of it -------------------------------------------------------------------------


class Outcome(NamedTuple):
    """How well the faces of a scene were followed."""

    # Times the id at a person changed, and ids that were at two people.
    id_switches: int
    # Face-images that were reported, of so many.
    reported: int
    faces: int
    # Reported boxes at which nobody is.
    elsewhere: int
    # For each person, seconds from the first image in view to the first report; inf: never.
    first_s: dict[str, float]


def judge(seen: Sequence[tuple[SceneFrame, Sequence[Track]]]) -> Outcome:
    """
    Compare what was reported with what is known.

    Only faces count that were detected or followed in the very image. A box on someone who is
    half hidden is neither right nor wrong.
    """
    ids: dict[str, str] = {}
    people: dict[str, str] = {}
    switches = reported = faces = elsewhere = 0
    entered_ns: dict[str, int] = {}
    first_s: dict[str, float] = {}
    for frame, tracks in seen:
        here = [track for track in tracks if track.seen_ns == frame.stamp_ns]
        for name, box in frame.faces.items():
            faces += 1
            entered_ns.setdefault(name, frame.stamp_ns)
            first_s.setdefault(name, math.inf)
            best = max(here, key=lambda track: iou(track.box, box), default=None)
            if best is None or iou(best.box, box) < _MATCH_IOU:
                continue
            reported += 1
            first_s[name] = min(first_s[name], (frame.stamp_ns - entered_ns[name]) / 1e9)
            switches += ids.setdefault(name, best.face_id) != best.face_id
            switches += people.setdefault(best.face_id, name) != name
            ids[name], people[best.face_id] = best.face_id, name
        elsewhere += sum(
            all(iou(track.box, box) < _MATCH_IOU for box in frame.people.values())
            for track in here
        )
    return Outcome(switches, reported, faces, elsewhere, first_s)


def play(scene: Scene, perception: Perception, rate_fps: float = RATE_FPS) -> Outcome:
    """Show a scene to what finds and follows faces, image by image, and judge what it reports."""
    seen = []
    for frame in render(scene, rate_fps):
        tracks = perception.process(CameraFrame(frame.image, frame.stamp_ns, 0))
        # The images are not kept: a scene has a gigabyte of them.
        seen.append((frame._replace(image=_NO_IMAGE), tracks or []))
    return judge(seen)
