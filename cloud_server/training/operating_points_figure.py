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
"""The picture of `ferros-cloud operating-points`: what accuracy costs, and what limits cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from cloud_server.training.operating_grid import Grid
from cloud_server.training.pareto import Point, global_front

INK = '#2b2f33'
FAINT = '#8a9097'
# Even steps in lightness, so that sizes keep their order in grey and for every eye.
SIZES = 'viridis'
# Filled and hollow as well as round and square.
MARKERS = {'webp': 'o', 'jpeg': 's'}
# Okabe and Ito's colours, each with a stroke of its own.
LIMITS: tuple[tuple[str, str, Any, Callable[[Point], bool]], ...] = (
    ('no limit', INK, '-', lambda point: True),
    ('at most 24 px', '#0072b2', (0, (6, 2)), lambda point: point.face_size_px <= 24),
    ('at most 5 frames/s', '#009e73', (0, (1, 1)), lambda point: point.frame_rate_fps <= 5),
    ('JPEG only', '#d55e00', (0, (4, 1, 1, 1)), lambda point: point.codec == 'jpeg'),
    ('at most 16 px', '#cc79a7', (0, (3, 3)), lambda point: point.face_size_px <= 16),
)
KBIT_S = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def draw(path: Path, grid: Grid, model: str, clips: int) -> None:
    """Draw accuracy against kbit/s per face: the points, and the best within some limits."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12.5, 6.2), dpi=120, layout='constrained', sharey=True,
    )
    _draw_points(left, grid)
    _draw_limits(right, grid.points)
    for axes in (left, right):
        _tidy(axes)
    left.set_ylabel('streaming accuracy (%)', fontsize=9, color=INK)
    figure.supxlabel(
        f'{model}; {clips} simulated clips of FER+ validation faces; made monotone; bytes are'
        ' those of whole messages on the link',
        x=0.995, ha='right', fontsize=7, color=FAINT,
    )
    figure.savefig(path)
    plt.close(figure)


def _kbit_s(point: Point) -> float:
    return point.bytes_per_s * 8 / 1000


def _draw_points(axes: Any, grid: Grid) -> None:
    sizes = sorted({cell.point.face_size_px for cell in grid.cells})
    shades = matplotlib.colormaps[SIZES].resampled(len(sizes) + 1)
    colours = {size: shades(index) for index, size in enumerate(sizes)}
    for cell in grid.cells:
        point = cell.point
        colour = colours[point.face_size_px] if cell.kept else FAINT
        axes.plot(
            _kbit_s(point), 100 * point.accuracy, MARKERS[point.codec],
            ms=5.5 if cell.kept else 2, alpha=0.9 if cell.kept else 0.35, color=colour,
            mfc=colour if point.codec == 'webp' else 'none', mew=1.1, zorder=3 if cell.kept else 2,
        )
    front = global_front(grid.points)
    axes.step([_kbit_s(point) for point in front], [100 * point.accuracy for point in front],
              where='post', color=INK, lw=1.3, zorder=2.5)
    _name_some(axes, front)
    _draw_noise(axes, grid)
    handles = [
        *(Line2D([], [], ls='', marker='o', color=colours[size], label=f'{size} px')
          for size in reversed(sizes)),
        Line2D([], [], ls='', marker='o', color=INK, label='WebP'),
        Line2D([], [], ls='', marker='s', color=INK, mfc='none', label='JPEG'),
        Line2D([], [], color=INK, lw=1.3, label='front without limits'),
        Line2D([], [], ls='', marker='o', ms=2, color=FAINT, label='measured, left out'),
    ]
    axes.legend(handles=handles, fontsize=7.5, frameon=False, ncols=6, loc='upper center',
                bbox_to_anchor=(0.5, -0.11))
    axes.set_title('every operating point', fontsize=10, color=INK)


def _draw_noise(axes: Any, grid: Grid) -> None:
    lowest = 100 * min(cell.point.accuracy for cell in grid.cells)
    place, step = axes.get_yaxis_transform(), 100 * grid.noise.step
    axes.errorbar(0.985, lowest + step, step, color=INK, lw=1, capsize=2, transform=place)
    axes.annotate('standard error of a step\nto a neighbouring cell', (0.985, lowest + step),
                  xycoords=place, xytext=(-6, 0), textcoords='offset points', ha='right',
                  va='center', size=7, color=FAINT)


def _name_some(axes: Any, front: Sequence[Point]) -> None:
    """Write what they are beside a few points of the front that are far enough apart."""
    named = float('inf')
    for point in reversed(front):
        if _kbit_s(point) <= named / 2.2:
            named = _kbit_s(point)
            first = point is front[0] or named / _kbit_s(front[0]) < 2  # at the left edge
            axes.annotate(
                f'{point.face_size_px} px  {point.frame_rate_fps:g}/s  q{point.quality}',
                (named, 100 * point.accuracy), xytext=(6, -9) if first else (-4, 5),
                textcoords='offset points', ha='left' if first else 'right', size=6.5, color=INK,
            )


def _draw_limits(axes: Any, points: Sequence[Point]) -> None:
    dearest = max(_kbit_s(point) for point in points)
    for name, colour, stroke, may_send in LIMITS:
        front = global_front(point for point in points if may_send(point))
        if front:
            costs = [*(_kbit_s(point) for point in front), dearest]
            gains = [100 * point.accuracy for point in front]
            axes.step(costs, [*gains, gains[-1]], where='post', color=colour, ls=stroke, lw=1.6,
                      label=name)
    axes.legend(fontsize=7.5, frameon=False, ncols=3, loc='upper center',
                bbox_to_anchor=(0.5, -0.11))
    axes.set_title('the best within a limit', fontsize=10, color=INK)


def _tidy(axes: Any) -> None:
    axes.set_xscale('log')
    axes.set_xticks(KBIT_S)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axes.set_xlabel('kbit/s per face', fontsize=9, color=INK)
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['left', 'bottom']].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8, length=3)
    axes.grid(alpha=0.2)
    axes.set_axisbelow(True)
