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
The demo's clip: a real face that a camera looks at, approaches, loses and finds again.

A camera with a hand's unsteadiness moves over a photograph: the portrait of the astronaut Eileen
Collins (NASA, public domain), which scikit-image carries. She smiles, so happiness is what the
demo has to show. The photograph is widened by a blurred backdrop, over which the camera can turn
away from her. The same call gives the same images.

    python demo/clip.py clip.mp4
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

WIDTH_PX: Final = 640
HEIGHT_PX: Final = 360
FRAME_RATE_FPS: Final = 30
DURATION_S: Final = 12.0
# While the camera looks elsewhere: between these times no part of the face is in the image.
AWAY_S: Final = (7.5, 8.8)

# The middle of her face in the photograph, and the face's height, in its pixels.
_FACE: Final = (224.0, 118.0)
# How far the backdrop reaches beyond the photograph on every side, in its pixels.
_MARGIN_PX: Final = 560
_FEATHER_PX: Final = 60
_BACKDROP_SIGMA_PX: Final = 38.0
# Standard deviation of the sensor's noise in grey levels.
_NOISE: Final = 2.0
_SEED: Final = 20


class View(NamedTuple):
    """Where the camera looks."""

    # Of the image's centre, from the face's centre, in pixels of the photograph.
    right: float
    down: float
    # Pixels of the image per pixel of the photograph.
    zoom: float


# The views at some times, with a smooth way between them.
_PATH: Final = (
    (0.0, View(40, 40, 0.95)),
    (1.5, View(-30, 30, 1.0)),
    (3.0, View(30, 25, 1.2)),
    (5.0, View(-10, 15, 1.75)),  # Near.
    (6.0, View(10, 15, 1.7)),
    (7.4, View(-440, 30, 1.1)),  # Gone, and back from there.
    (8.9, View(-440, 20, 1.05)),
    (10.2, View(-20, 30, 1.05)),
    (12.0, View(20, 25, 1.3)),
)


def portrait() -> Image:
    """
    Return the photograph, uint8 BGR [512, 512, 3], out of the scikit-image package.

    The package is only found, not imported: the demo has it without its dependencies.

    Raises:
        RuntimeError: it is not installed or has no such file.

    """
    found = importlib.util.find_spec('skimage')
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / 'data' / 'astronaut.png'
        if path.is_file():
            return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), np.uint8)
    raise RuntimeError('the astronaut portrait is missing: pip install --no-deps scikit-image')


def frames() -> Iterator[tuple[float, Image]]:
    """Yield the time in seconds and the image, uint8 BGR [360, 640, 3], of each of its frames."""
    scene = _scene(portrait())
    random = np.random.default_rng(_SEED)
    noise = random.normal(0, _NOISE, (2 * HEIGHT_PX, 2 * WIDTH_PX, 3)).astype(np.float32)
    for index in range(round(DURATION_S * FRAME_RATE_FPS)):
        time_s = index / FRAME_RATE_FPS
        light = _look(scene, time_s).astype(np.float32) * _exposure(time_s)
        # Another cut-out of the same noise each time: drawing it anew would cost most of the time.
        top, left = random.integers(HEIGHT_PX), random.integers(WIDTH_PX)
        light = light + noise[top : top + HEIGHT_PX, left : left + WIDTH_PX]
        yield time_s, np.clip(light, 0, 255).astype(np.uint8)


def render(path: str | Path) -> None:
    """
    Write the clip as an MP4 file.

    Raises:
        RuntimeError: OpenCV cannot write it, or the portrait is missing.

    """
    codec = cv2.VideoWriter.fourcc(*'mp4v')
    writer = cv2.VideoWriter(str(path), codec, FRAME_RATE_FPS, (WIDTH_PX, HEIGHT_PX))
    if not writer.isOpened():
        raise RuntimeError(f'OpenCV {cv2.__version__} cannot write {path}')
    try:
        for _, image in frames():
            writer.write(image)
    finally:
        writer.release()


def _scene(photograph: Image) -> Image:
    """Return the photograph amid a backdrop that is made of its own blurred mirror images."""
    margin = (_MARGIN_PX,) * 4
    wide = cv2.copyMakeBorder(photograph, *margin, cv2.BORDER_REFLECT)
    # Blurred at a quarter of the size, which looks the same and takes a sixteenth of the time.
    small = cv2.resize(wide, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), _BACKDROP_SIGMA_PX / 4)
    backdrop = cv2.resize(small, (wide.shape[1], wide.shape[0]), interpolation=cv2.INTER_CUBIC)
    inside = np.zeros(wide.shape[:2], np.float32)
    first, last = _MARGIN_PX + _FEATHER_PX // 2, _MARGIN_PX + photograph.shape[0]
    inside[_MARGIN_PX:last, first : last - _FEATHER_PX // 2] = 1
    inside = cv2.GaussianBlur(inside, (0, 0), _FEATHER_PX / 5)[:, :, None]
    return np.asarray(wide * inside + backdrop * (1 - inside), np.uint8)


def _look(scene: Image, time_s: float) -> Image:
    """Return what the camera sees at a time."""
    view = _view(time_s)
    # A hand's unsteadiness: sines whose periods share no multiple within the clip.
    roll_deg = 1.5 * math.sin(2.1 * time_s) + 0.5 * math.sin(5.3 * time_s)
    sway_x = 3.0 * math.sin(3.7 * time_s) + 1.2 * math.sin(9.1 * time_s)
    sway_y = 2.5 * math.sin(2.9 * time_s + 1) + 1.0 * math.sin(7.7 * time_s)
    centre = (
        _MARGIN_PX + _FACE[0] + view.right + sway_x,
        _MARGIN_PX + _FACE[1] + view.down + sway_y,
    )
    turn = np.asarray(cv2.getRotationMatrix2D(centre, roll_deg, view.zoom), np.float64)
    turn[:, 2] += np.array([WIDTH_PX / 2, HEIGHT_PX / 2]) - centre
    # Where the camera shrinks, linear interpolation between four pixels is still enough.
    image = cv2.warpAffine(scene, turn, (WIDTH_PX, HEIGHT_PX), flags=cv2.INTER_LINEAR)
    return np.asarray(image, np.uint8)


def _view(time_s: float) -> View:
    """Return the view at a time: from one point of the path to the next along half a cosine."""
    for (start_s, start), (end_s, end) in itertools.pairwise(_PATH):
        if time_s <= end_s:
            share = 0.5 - 0.5 * math.cos(math.pi * (time_s - start_s) / (end_s - start_s))
            return View(*(old + share * (new - old) for old, new in zip(start, end, strict=True)))
    return _PATH[-1][1]


def _exposure(time_s: float) -> float:
    """Return the slowly changing factor of the camera's automatic exposure."""
    return 1 + 0.06 * math.sin(1.3 * time_s)


if __name__ == '__main__':
    render(sys.argv[1] if len(sys.argv) > 1 else 'clip.mp4')
