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
"""A chart drawn with OpenCV, for a robot that has nothing else to draw with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np

from ferros.types import Image

# Everything is given in pixels of a page of this scale, and drawn in so many more.
SCALE: Final = 2
# Blue, green, red.
INK: Final = (40, 36, 33)
GREY: Final = (125, 118, 112)
PALE: Final = (228, 224, 220)
BLUE: Final = (176, 110, 26)
ORANGE: Final = (20, 112, 230)
GREEN: Final = (70, 140, 40)

Colour = tuple[int, int, int]

_FONT: Final = cv2.FONT_HERSHEY_DUPLEX
# Of a font of size 1 in this face, in pixels.
_FONT_PX: Final = 22.0
_DASH_PX: Final = 7


class Chart:
    """A white page to draw on."""

    def __init__(self, width_px: int, height_px: int) -> None:
        self._image: Image = np.full((height_px * SCALE, width_px * SCALE, 3), 255, np.uint8)

    def write(self, path: Path) -> None:
        """
        Write the page as the kind of file that its name asks for.

        Raises:
            OSError: it cannot be written.

        """
        done, data = cv2.imencode(path.suffix, self._image)
        if not done:
            raise OSError(f'OpenCV {cv2.__version__} cannot write {path.suffix}')
        path.write_bytes(data.tobytes())

    def text(
        self, text: str, x: float, y: float, size_px: float = 12, colour: Colour = INK,
        align: float = 0.0,
    ) -> None:
        """Write a line on the baseline y; align 0, 0.5 and 1: x is its left, middle, right."""
        left = x - align * self.text_width(text, size_px)
        cv2.putText(
            self._image, text.encode('ascii', 'replace').decode(), _place(left, y), _FONT,
            SCALE * size_px / _FONT_PX, colour, max(1, round(SCALE * size_px / 20)), cv2.LINE_AA,
        )

    @staticmethod
    def text_width(text: str, size_px: float = 12) -> float:
        """Return how long a line is."""
        (width, _), _ = cv2.getTextSize(
            text, _FONT, SCALE * size_px / _FONT_PX, max(1, round(SCALE * size_px / 20))
        )
        return width / SCALE

    def line(
        self, points: Sequence[tuple[float, float]], colour: Colour, width_px: float = 1.0
    ) -> None:
        """Draw a line through points."""
        places = np.array([[_place(x, y)] for x, y in points], np.int32)
        cv2.polylines(
            self._image, [places], False, colour, max(1, round(SCALE * width_px)), cv2.LINE_AA
        )

    def dashed(
        self, start: tuple[float, float], end: tuple[float, float], colour: Colour,
        width_px: float = 1.0,
    ) -> None:
        """Draw a straight dashed line."""
        (x, y), (to_x, to_y) = start, end
        dashes = max(1, round(math.hypot(to_x - x, to_y - y) / _DASH_PX))
        for dash in range(0, dashes, 2):
            from_share, to_share = dash / dashes, min(1.0, (dash + 1.1) / dashes)
            self.line(
                [
                    (x + share * (to_x - x), y + share * (to_y - y))
                    for share in (from_share, to_share)
                ],
                colour, width_px,
            )

    def dot(self, x: float, y: float, radius_px: float, colour: Colour) -> None:
        """Draw a dot."""
        radius = max(1, round(radius_px * SCALE))
        cv2.circle(self._image, _place(x, y), radius, colour, cv2.FILLED, cv2.LINE_AA)

    def tint(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill a rectangle with a very light shade of a colour."""
        (x, y), (to_x, to_y) = _place(left, top), _place(right, bottom)
        part = self._image[y:to_y, x:to_x]
        part[:] = np.asarray(0.88 * part + 0.12 * np.array(colour), np.uint8)


class Series(NamedTuple):
    """Values over an axis; NaN breaks the line."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: Colour


class Panel:
    """One pair of axes on a page."""

    def __init__(
        self,
        chart: Chart,
        place: tuple[float, float, float, float],
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        log_x: bool = False,
    ) -> None:
        """Take the place (left, top, width, height) and what it stands for."""
        self.chart = chart
        self.left, self.top, self.width, self.height = place
        self._x_range = x_range
        self._y_range = y_range
        self._log_x = log_x

    def x(self, value: float) -> float:
        """Return where a value of the horizontal axis is; at its end where it is beyond."""
        return self.left + self.width * _share(value, self._x_range, self._log_x)

    def y(self, value: float) -> float:
        """Return where a value of the vertical axis is; at its end where it is beyond."""
        return self.top + self.height * (1 - _share(value, self._y_range, False))

    def axes(self, title: str, x_title: str, x_ticks: Sequence[tuple[float, str]]) -> None:
        """Draw the axes, their grid and their titles."""
        right, bottom = self.left + self.width, self.top + self.height
        for value in ticks(*self._y_range, 4):
            self.chart.line([(self.left, self.y(value)), (right, self.y(value))], PALE)
            self.chart.text(f'{value:g}', self.left - 8, self.y(value) + 4, 11, GREY, 1.0)
        for value, name in x_ticks:
            self.chart.line([(self.x(value), bottom), (self.x(value), bottom + 4)], GREY)
            self.chart.text(name, self.x(value), bottom + 18, 11, GREY, 0.5)
        self.chart.line([(self.left, self.top), (self.left, bottom), (right, bottom)], GREY)
        self.chart.text(title, self.left, self.top - 12, 14)
        if x_title:
            self.chart.text(x_title, right, bottom + 36, 11, GREY, 1.0)

    def legend(self, names: Sequence[tuple[str, Colour]]) -> None:
        """Name the series, right above the panel."""
        x = self.left + self.width
        for name, colour in reversed(names):
            self.chart.text(name, x, self.top - 12, 12, colour, 1.0)
            x -= self.chart.text_width(name, 12) + 22

    def steps(self, series: Series, width_px: float = 1.8) -> None:
        """Draw values that hold until the next."""
        places: list[tuple[float, float]] = []
        for x, y in zip(series.xs, series.ys, strict=True):
            if not math.isfinite(y):
                self._flush(places, series.colour, width_px)
                continue
            if places:
                places.append((self.x(x), places[-1][1]))
            places.append((self.x(x), self.y(y)))
        self._flush(places, series.colour, width_px)

    def curve(self, series: Series, width_px: float = 1.8) -> None:
        """Draw values joined by straight lines."""
        places: list[tuple[float, float]] = []
        for x, y in zip(series.xs, series.ys, strict=True):
            if math.isfinite(y):
                places.append((self.x(x), self.y(y)))
            else:
                self._flush(places, series.colour, width_px)
        self._flush(places, series.colour, width_px)

    def dots(self, series: Series, radius_px: float = 1.6) -> None:
        """Draw a dot for each value."""
        for x, y in zip(series.xs, series.ys, strict=True):
            if math.isfinite(y):
                self.chart.dot(self.x(x), self.y(y), radius_px, series.colour)

    def across(self, value: float, colour: Colour) -> None:
        """Draw a dashed line at a value of the vertical axis."""
        y = self.y(value)
        self.chart.dashed((self.left, y), (self.left + self.width, y), colour)

    def upright(self, value: float, colour: Colour) -> None:
        """Draw a dashed line at a value of the horizontal axis."""
        x = self.x(value)
        self.chart.dashed((x, self.top), (x, self.top + self.height), colour)

    def _flush(
        self, places: list[tuple[float, float]], colour: Colour, width_px: float
    ) -> None:
        if len(places) == 1:
            self.chart.dot(*places[0], width_px, colour)
        elif places:
            self.chart.line(places, colour, width_px)
        places.clear()


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about so many round numbers between two."""
    raw = (high - low) / max(1, count)
    if not raw > 0 or not math.isfinite(raw):
        return []
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _share(value: float, between: tuple[float, float], logarithmic: bool) -> float:
    low, high = between
    if logarithmic:
        low, high, value = math.log(low), math.log(high), math.log(max(value, 1e-300))
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _place(x: float, y: float) -> tuple[int, int]:
    return round(x * SCALE), round(y * SCALE)
