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
"""The grid of operating points: what is measured, what is kept of it, and how sure it is."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cloud_server.training import coded_clips, pareto
from cloud_server.training.clips import CLOCK_HZ
from cloud_server.training.coded_clips import Coding, Measured
from cloud_server.training.pareto import Point

SEED = 78
# Of an accuracy; cells that differ by less count as equal.
DECIMALS = 3

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GridConfig:
    """What is measured; sizes above the model's input or the faces' own side are left out."""

    sizes_px: tuple[int, ...] = (12, 16, 20, 24, 32, 40, 48)
    rates_fps: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0)
    codecs: tuple[str, ...] = ('jpeg', 'webp')
    qualities: tuple[int, ...] = (20, 50, 80)
    clips: int = 200
    seed: int = SEED

    def __post_init__(self) -> None:
        """Refuse what cannot be measured or compared."""
        for name, low, high in (('sizes_px', 4, 1024), ('rates_fps', 0.1, CLOCK_HZ),
                                ('qualities', 1, 100)):
            values = getattr(self, name)
            if not values or list(values) != sorted(set(values)):
                raise ValueError(f'{name} must rise, got {values}')
            if values[0] < low or values[-1] > high:
                raise ValueError(f'{name} must be within {low}..{high}, got {values}')
        if not self.codecs or set(self.codecs) - set(coded_clips.ENCODERS):
            known = sorted(coded_clips.ENCODERS)
            raise ValueError(f'codecs must be some of {known}, got {self.codecs}')
        if self.clips < 2:
            raise ValueError(f'clips must be 2 or more, got {self.clips}')

    def codings(self) -> list[Coding]:
        """Return every coding, codec by codec."""
        return [Coding(size, codec, quality) for codec, size, quality in
                itertools.product(self.codecs, self.sizes_px, self.qualities)]


class Cell(NamedTuple):
    """One measured cell of the grid."""

    # Its accuracy is the smoothed one.
    point: Point
    # As measured, mean and standard error over clips.
    measured: float
    standard_error: float
    kept: bool


@dataclass(frozen=True)
class Noise:
    """
    How far the figures may be off, as standard errors over clips; all in accuracy, 0..1.

    Attributes:
        level: of the best cell: all cells are high or low together by about this.
        step: of the difference between neighbouring cells, which see the same scenes; the median.
        step_most: the largest of these.
        moved: the furthest that smoothing moved a cell.

    """

    level: float
    step: float
    step_most: float
    moved: float


@dataclass(frozen=True)
class Grid:
    """All cells, and how sure they are."""

    cells: tuple[Cell, ...]
    noise: Noise

    @property
    def points(self) -> list[Point]:
        """Return the points that are kept, sorted by bytes per second."""
        return pareto.front(cell.point for cell in self.cells if cell.kept)


def build(measured: dict[Coding, Measured], config: GridConfig) -> Grid:
    """Smooth the grid of each codec, and mark the points that are the best under some limits."""
    # [codec, size, quality, rate, clip]
    right = np.stack([measured[coding].right for coding in config.codings()]).reshape(
        len(config.codecs), len(config.sizes_px), len(config.qualities), len(config.rates_fps), -1
    )
    raw = right.mean(-1)
    smooth = np.stack([pareto.monotone(codec) for codec in raw])
    points = [
        Point(coding.face_size_px, float(rate), coding.codec, coding.quality,
              measured[coding].bytes_p50, measured[coding].bytes_p95,
              round(float(accuracy), DECIMALS))
        for (coding, rate), accuracy in zip(
            itertools.product(config.codings(), config.rates_fps), smooth.ravel(), strict=True)
    ]
    kept = set(pareto.front(points))
    errors = _standard_error(right)
    cells = [
        Cell(point, float(mean), float(error), point in kept)
        for point, mean, error in zip(points, raw.ravel(), errors.ravel(), strict=True)
    ]
    steps = np.concatenate([
        _standard_error(np.diff(right, axis=axis)).ravel() for axis in (1, 2, 3)
    ])
    noise = Noise(
        level=float(errors.ravel()[raw.argmax()]),
        step=float(np.median(steps)) if len(steps) else 0.0, step_most=float(steps.max(initial=0)),
        moved=float(np.abs(smooth - raw).max()),
    )
    return Grid(tuple(cells), noise)


def _standard_error(values: Floats) -> Floats:
    """Return the standard error of the mean over the last axis, the clips."""
    return np.asarray(values.std(-1, ddof=1) / np.sqrt(values.shape[-1]), np.float64)
