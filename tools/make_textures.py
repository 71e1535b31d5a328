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
Draw the faces that the simulated world shows, worlds/textures/*.png; no photograph of anyone.

    python tools/make_textures.py           write them
    python tools/make_textures.py FOLDER    write them there

The same call gives the same images, whichever version of OpenCV or numpy draws them, up to a grey
level or two.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Point = tuple[float, float]
Colour = tuple[int, int, int]

FOLDER: Final = Path(__file__).resolve().parent.parent / 'worlds' / 'textures'
# Side of a texture. A camera of 640 px that sees the whole plane at a metre needs no more.
SIDE_PX: Final = 320
# Drawn larger and shrunk, for smooth edges.
_SCALE: Final = 4
_BIG_PX: Final = SIDE_PX * _SCALE

# BGR.
_WALL: Final = (150, 156, 158)
_HAIR: Final = (34, 46, 62)
_SKIN: Final = (132, 164, 212)
_SHADE: Final = (104, 134, 184)
_LIP: Final = (96, 92, 176)
_WHITE: Final = (236, 240, 242)
_DARK: Final = (28, 30, 36)
_SHIRT: Final = (120, 86, 62)


class Look(NamedTuple):
    """What the muscles do; lengths are shares of the side of the texture."""

    # How far the corners of the mouth are above its middle; below where negative.
    corners: float
    mouth_width: float
    # How far the lips are apart.
    parted: float
    # How far the inner and the outer ends of the brows are lifted.
    inner_brow: float
    outer_brow: float
    # Half the height of the eyes' opening.
    lids: float
    # How clear the folds from the nose to the corners of the mouth are, 0 to 1.
    folds: float


LOOKS: Final = {
    'happiness': Look(0.036, 0.125, 0.050, 0.004, 0.006, 0.016, 1.0),
    'sadness': Look(-0.024, 0.080, 0.0, 0.030, -0.024, 0.012, 0.5),
}


def draw(look: Look) -> Image:
    """Return a face that looks like that, uint8 BGR [SIDE_PX, SIDE_PX, 3]."""
    image: Image = np.full((_BIG_PX, _BIG_PX, 3), _WALL, np.uint8)
    _ellipse(image, (0.50, 1.12), (0.40, 0.26), _SHIRT)
    _ellipse(image, (0.50, 0.92), (0.11, 0.14), _SHADE)
    _ellipse(image, (0.50, 0.43), (0.265, 0.335), _HAIR)
    for x in (0.265, 0.735):
        _ellipse(image, (x, 0.52), (0.030, 0.062), _SHADE)
    _ellipse(image, (0.50, 0.52), (0.225, 0.315), _SKIN)
    image = np.where(_head(), _shaded(image), image)
    _eyes(image, look)
    _nose(image)
    _mouth(image, look)
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.6 * _SCALE), np.uint8)
    return np.asarray(
        cv2.resize(image, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA), np.uint8
    )


def _head() -> NDArray[np.bool_]:
    """Return where the head is, bool [_BIG_PX, _BIG_PX, 1]."""
    mask: Image = np.zeros((_BIG_PX, _BIG_PX, 3), np.uint8)
    _ellipse(mask, (0.50, 0.43), (0.265, 0.335), _WHITE)
    _ellipse(mask, (0.50, 0.52), (0.235, 0.315), _WHITE)
    return mask[:, :, :1] > 0


def _shaded(image: Image) -> Image:
    """Return the head as light from the front and a little from above leaves it."""
    rows, columns = np.mgrid[0:_BIG_PX, 0:_BIG_PX].astype(np.float32) / _BIG_PX
    round_off = ((columns - 0.5) / 0.30) ** 2 + ((rows - 0.46) / 0.42) ** 2
    light = np.clip(1.10 - 0.24 * round_off, 0.55, 1.1)
    # Sockets of the eyes and the hollow below the lip.
    for x, y, width, height, depth in (
        (0.405, 0.455, 0.075, 0.045, 0.16), (0.595, 0.455, 0.075, 0.045, 0.16),
        (0.50, 0.765, 0.06, 0.02, 0.08),
    ):
        light -= depth * np.exp(-((columns - x) / width) ** 2 - ((rows - y) / height) ** 2)
    # Cheeks and the ridge of the nose.
    for x, y, width, height, gain in (
        (0.385, 0.585, 0.06, 0.05, 0.06), (0.615, 0.585, 0.06, 0.05, 0.06),
        (0.50, 0.54, 0.022, 0.09, 0.08), (0.50, 0.33, 0.14, 0.06, 0.05),
    ):
        light += gain * np.exp(-((columns - x) / width) ** 2 - ((rows - y) / height) ** 2)
    return np.asarray(np.clip(image * light[:, :, None], 0, 255), np.uint8)


def _eyes(image: Image, look: Look) -> None:
    for side in (-1, 1):
        x, y = 0.50 + side * 0.095, 0.463
        _ellipse(image, (x, y), (0.046, look.lids), _WHITE)
        _ellipse(image, (x, y), (0.021, min(0.021, look.lids)), (52, 62, 78))
        _ellipse(image, (x, y), (0.010, min(0.010, look.lids)), _DARK)
        _ellipse(image, (x - 0.006, y - 0.007), (0.004, 0.004), _WHITE)
        # The upper lid, its fold, and the lower one.
        _ellipse(image, (x, y), (0.048, look.lids), _DARK, (185, 355), 0.008)
        _ellipse(image, (x, y - 0.012), (0.050, look.lids + 0.006), _SHADE, (200, 340), 0.004)
        _ellipse(image, (x, y), (0.046, look.lids), _SHADE, (10, 170), 0.004)
        inner, outer = 0.50 + side * 0.045, 0.50 + side * 0.155
        middle_y = 0.398 - max(look.inner_brow, look.outer_brow) / 2
        _curve(
            image,
            (inner, 0.412 - look.inner_brow),
            ((inner + outer) / 2, middle_y - 0.008),
            (outer, 0.414 - look.outer_brow),
            _HAIR,
            0.016,
        )


def _nose(image: Image) -> None:
    _curve(image, (0.478, 0.47), (0.470, 0.56), (0.458, 0.605), _SHADE, 0.006)
    _curve(image, (0.450, 0.605), (0.455, 0.632), (0.478, 0.628), _SHADE, 0.007)
    _curve(image, (0.550, 0.605), (0.545, 0.632), (0.522, 0.628), _SHADE, 0.007)
    _ellipse(image, (0.478, 0.625), (0.012, 0.006), (62, 78, 116))
    _ellipse(image, (0.522, 0.625), (0.012, 0.006), (62, 78, 116))


def _mouth(image: Image, look: Look) -> None:
    middle, y = 0.50, 0.712
    left = (middle - look.mouth_width, y - look.corners)
    right = (middle + look.mouth_width, y - look.corners)
    if look.parted:
        _lips(image, left, right, y - 0.4 * look.corners, y + look.parted + 0.012, _LIP)
        _lips(image, left, right, y - 0.1 * look.corners, y + look.parted, _WHITE)
        _curve(image, left, (middle, y - 0.1 * look.corners), right, (70, 66, 120), 0.005)
    else:
        # A closed mouth: thin lips along the line between them, which the corners pull down.
        crest = y + look.corners / 2
        _lips(image, left, right, crest - 0.014, crest + 0.024, _LIP)
        _curve(image, left, (middle, 2 * crest - left[1]), right, (60, 56, 104), 0.008)
    fold = tuple(
        round(look.folds * dark + (1 - look.folds) * light)
        for dark, light in zip(_SHADE, _SKIN, strict=True)
    )
    for side, corner in ((-1, left), (1, right)):
        _curve(
            image,
            (middle + side * 0.058, 0.610),
            (middle + side * (look.mouth_width + 0.012), 0.640),
            (corner[0] + side * 0.020, corner[1] + 0.014),
            fold,
            0.007,
        )


def _lips(
    image: Image, left: Point, right: Point, top: float, bottom: float, colour: Colour
) -> None:
    """Fill what lies between an upper and a lower curve from corner to corner."""
    upper = _along(left, (0.5, 2 * top - (left[1] + right[1]) / 2), right)
    lower = _along(right, (0.5, 2 * bottom - (left[1] + right[1]) / 2), left)
    cv2.fillPoly(image, [np.concatenate([upper, lower])], colour, cv2.LINE_AA)


def _along(start: Point, pull: Point, end: Point) -> NDArray[np.int32]:
    """Return points of the curve (a quadratic Bezier curve), int32 [33, 2] px."""
    share = np.linspace(0, 1, 33)[:, None]
    points = (
        (1 - share) ** 2 * np.array(start)
        + 2 * share * (1 - share) * np.array(pull)
        + share**2 * np.array(end)
    )
    return np.asarray(np.rint(points * _BIG_PX), np.int32)


def _curve(
    image: Image, start: Point, pull: Point, end: Point, colour: Any, thickness: float
) -> None:
    pixels = max(1, round(thickness * _BIG_PX))
    cv2.polylines(image, [_along(start, pull, end)], False, colour, pixels, cv2.LINE_AA)


def _ellipse(
    image: Image,
    centre: Point,
    axes: Point,
    colour: Colour,
    arc_deg: tuple[float, float] = (0, 360),
    thickness: float = 0.0,
) -> None:
    """Draw an ellipse; all places and lengths are shares of the side; thickness 0: filled."""
    pixels = max(1, round(thickness * _BIG_PX)) if thickness else -1
    cv2.ellipse(
        image,
        (round(centre[0] * _BIG_PX), round(centre[1] * _BIG_PX)),
        (round(axes[0] * _BIG_PX), max(1, round(axes[1] * _BIG_PX))),
        0, arc_deg[0], arc_deg[1], colour, pixels, cv2.LINE_AA,
    )


def main() -> int:
    """Write the textures and return the exit status."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, look in LOOKS.items():
        path = folder / f'{name}.png'
        if not cv2.imwrite(str(path), draw(look), [cv2.IMWRITE_PNG_COMPRESSION, 9]):
            print(f'make_textures: {path} cannot be written', file=sys.stderr)
            return 1
        print(f'{path}, {path.stat().st_size} bytes')
    return 0


if __name__ == '__main__':
    sys.exit(main())
