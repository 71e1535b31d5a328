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
"""What the accuracy grid says that a way of sending is worth, at any frame rate; pure."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

# All measured cells: the sender's own list leaves out those that others replace, and the
# baselines may sit on one of them.
CELLS = Path(__file__).resolve().parent.parent.parent / 'docs' / 'operating_points.csv'
# Of a guess among the seven labels that the grid was measured with.
CHANCE = 1 / 7


class GridError(ValueError):
    """A table of cells that cannot be read, or a way of sending that is not in it."""


class Coding(NamedTuple):
    """How one crop is sent, and what it costs: the grid without its frame rates."""

    face_size_px: int
    # 'jpeg' or 'webp'.
    codec: str
    # 1..100 in the codec's own scale.
    quality: int
    # Of one message on the link, headers included.
    bytes_p50: int
    bytes_p95: int


class Accuracies:
    """
    The measured grid, as a function of size, codec, quality and frame rate.

    Args:
        cells: a coding, a frame rate in fps and its streaming accuracy (0..1), in any order;
            each coding at one rate or more.

    Raises:
        GridError: there is no cell.
    """

    def __init__(self, cells: Iterable[tuple[Coding, float, float]]) -> None:
        self._curves: dict[Coding, list[tuple[float, float]]] = {}
        for coding, rate_fps, accuracy in cells:
            self._curves.setdefault(coding, []).append((rate_fps, accuracy))
        if not self._curves:
            raise GridError('the grid has no cell, expected one or more')
        for curve in self._curves.values():
            curve.sort()

    @property
    def codings(self) -> tuple[Coding, ...]:
        """Return every coding that was measured."""
        return tuple(self._curves)

    @property
    def best(self) -> float:
        """Return the highest accuracy of the grid, 0..1."""
        return max(accuracy for curve in self._curves.values() for _, accuracy in curve)

    @property
    def best_bytes_per_s(self) -> float:
        """Return what the cheapest point of the highest accuracy takes of a link."""
        best = self.best
        return min(
            rate_fps * coding.bytes_p50
            for coding, curve in self._curves.items()
            for rate_fps, accuracy in curve if accuracy == best
        )

    def at(self, coding: Coding, rate_fps: float) -> float:
        """
        Return the accuracy of a coding at a frame rate of 0 or more.

        Straight lines between the measured rates; from the lowest one down to chance at 0 fps;
        above the highest one it stays.
        """
        rates, accuracies = zip(*self._curves[coding], strict=True)
        return float(np.interp(rate_fps, (0.0, *rates), (CHANCE, *accuracies)))

    def coding(self, face_size_px: int, codec: str, quality: int) -> Coding:
        """
        Return the measured coding that stands for one: of the largest size that is not larger.

        Raises:
            GridError: the codec, the quality or so small a size was not measured.
        """
        fitting = [
            coding for coding in self._curves
            if coding.codec == codec and coding.quality == quality
            and coding.face_size_px <= face_size_px
        ]
        if not fitting:
            raise GridError(
                f'{face_size_px} px, {codec}, quality {quality} is not in the grid: expected a '
                f'measured codec and quality, and {self._smallest_px} px or more'
            )
        return max(fitting, key=lambda coding: coding.face_size_px)

    @property
    def _smallest_px(self) -> int:
        return min(coding.face_size_px for coding in self._curves)


def read(path: Path = CELLS) -> Accuracies:
    """
    Read the table that `ferros-cloud operating-points --table` writes.

    Raises:
        GridError: naming the file, and the line and what is wrong with it.
    """
    try:
        rows = list(csv.DictReader(path.read_text(encoding='utf-8').splitlines()))
    except OSError as err:
        raise GridError(f'{path}: cannot be read: {err}') from err
    return Accuracies(_cell(path, number, row) for number, row in enumerate(rows, 2))


def _cell(path: Path, number: int, row: dict[str, str]) -> tuple[Coding, float, float]:
    try:
        coding = Coding(int(row['face_size_px']), row['codec'], int(row['quality']),
                        int(row['bytes_p50']), int(row['bytes_p95']))
        return coding, float(row['frame_rate_fps']), float(row['accuracy'])
    except (KeyError, TypeError, ValueError) as err:
        raise GridError(f'{path}, line {number}: {row}: {err!r}; expected numbers') from err
