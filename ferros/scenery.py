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
"""Whether an image still shows the view of the one before: a camera turns, a recording is cut."""

from __future__ import annotations

from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ferros.pyramid import Pyramid
from ferros.types import Image

# Side by side these are compared: the middle of the view before, searched for in the new one, says
# how far the camera has turned.
_WIDTH_PX: Final = 64
_HEIGHT_PX: Final = 36
_MARGIN_X_PX: Final = 14
_MARGIN_Y_PX: Final = 8
# Below this standard deviation, in grey levels, there is nothing to compare.
_FLAT: Final = 3.0
# A place shows the same when it differs by less than this, in standard deviations of the view.
_SAME: Final = 0.5
# A view that was left is back when so much of it is there again, and another one when so little is
# as it was.
_BACK: Final = 0.75
_OTHER: Final = 0.4
# A turn is believed when the middle of the view is found again this surely.
_FOUND: Final = 0.8

Floats = NDArray[np.float32]


class Change(NamedTuple):
    """How a view relates to the one before."""

    # The share of the view that shows what it showed before, 0..1; 1 where there is nothing to
    # compare. Two views that have nothing in common agree in about a quarter.
    same: float
    # Whether it is another view altogether, and whether it is the one again that was left then.
    is_other: bool
    is_back: bool
    # How far the view has moved within the image, in px of the published image.
    shift_x_px: float
    shift_y_px: float


NONE: Final = Change(1.0, False, False, 0.0, 0.0)


class Scenery:
    """Compares each image's view with the one before."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the view."""
        self._view: Image | None = None
        # The same, whatever the exposure.
        self._exposed: Floats | None = None
        # The view that was left when the camera's was another at once.
        self._left: Floats | None = None

    def change(self, pyramid: Pyramid) -> Change:
        """Return how an image relates to the one before."""
        view = np.asarray(
            cv2.resize(
                pyramid.level(pyramid.level_for(2 * _WIDTH_PX / pyramid.width_px)),
                (_WIDTH_PX, _HEIGHT_PX),
                interpolation=cv2.INTER_AREA,
            ),
            np.uint8,
        )
        exposed = _exposed(view)
        before, self._view = self._view, view
        old, self._exposed = self._exposed, exposed
        if before is None or old is None or before.std() < _FLAT or view.std() < _FLAT:
            return NONE
        same, shift = self._compare(before, view, old, exposed)
        is_other = same < _OTHER
        is_back = self._left is not None and _agreement(self._left, exposed) >= _BACK
        if is_other:
            self._left = old
        elif is_back:
            self._left = None
        return Change(
            same,
            is_other,
            is_back,
            shift[0] * pyramid.width_px / _WIDTH_PX,
            shift[1] * pyramid.height_px / _HEIGHT_PX,
        )

    def _compare(
        self, before: Image, view: Image, old: Floats, exposed: Floats
    ) -> tuple[float, tuple[int, int]]:
        """Return the share that is the same, and by how much the view has moved."""
        still = _agreement(old, exposed)
        middle = before[_MARGIN_Y_PX:-_MARGIN_Y_PX, _MARGIN_X_PX:-_MARGIN_X_PX]
        if middle.std() < _FLAT:
            return still, (0, 0)
        found = cv2.matchTemplate(view, middle, cv2.TM_CCOEFF_NORMED)
        _, best, _, (x, y) = cv2.minMaxLoc(found)
        x, y = x - _MARGIN_X_PX, y - _MARGIN_Y_PX
        if best < _FOUND or (x, y) == (0, 0):
            return still, (0, 0)
        turned = _agreement(*_overlap(old, exposed, x, y))
        return (turned, (x, y)) if turned > still else (still, (0, 0))


def _overlap(before: Floats, view: Floats, x: int, y: int) -> tuple[Floats, Floats]:
    """Return what two views have in common where the later one has moved by x, y."""
    height, width = view.shape
    rows, old_rows = slice(max(0, y), height + min(0, y)), slice(max(0, -y), height - max(0, y))
    columns, old_columns = (
        slice(max(0, x), width + min(0, x)),
        slice(max(0, -x), width - max(0, x)),
    )
    return before[old_rows, old_columns], view[rows, columns]


def _agreement(one: Floats, other: Floats) -> float:
    """Return the share of two views that is alike."""
    return float(np.mean(np.abs(one - other) < _SAME))


def _exposed(view: Image) -> Floats:
    """Return a view in standard deviations from its median."""
    # By quartiles: what comes before the camera must not change the rest.
    low, middle, high = np.percentile(view, [25, 50, 75])
    spread = max(float(high - low), _FLAT) / 1.35
    return np.asarray((view - np.float32(middle)) / np.float32(spread), np.float32)
