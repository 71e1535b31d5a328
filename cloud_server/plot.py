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
"""The picture of `ferros-cloud predict --plot`: the probabilities of each face over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from cloud_server.model_info import UNKNOWN, ModelInfo
from cloud_server.readings import FileResult, Reading

COLOURS = {
    'neutral': '#7f8c9b',
    'happiness': '#e8a200',
    'surprise': '#8e5bd0',
    'sadness': '#2f7fc1',
    'anger': '#cf3a32',
    'disgust': '#3f9a4e',
    'fear': '#c2559d',
    'contempt': '#8a6d3b',
    UNKNOWN: '#d4d8dc',
}
# Of labels that are not listed.
OTHER_COLOUR = '#2f4858'
INK = '#2b2f33'
FAINT = '#8a9097'
MAX_PANELS = 8
# A curve is not drawn across a longer pause, nor across one of more than three usual steps.
LONGEST_PAUSE_S = 0.5


def draw(path: Path, results: Sequence[FileResult], info: ModelInfo) -> None:
    """
    Draw one panel for each face of a video and for each face of an image.

    Where there are more than 8 faces, those with the most readings are drawn.
    """
    every = [
        (result, face_id, readings)
        for result in results
        for face_id, readings in result.faces().items()
    ]
    longest = sorted(every, key=lambda panel: -len(panel[2]))[:MAX_PANELS]
    panels = [panel for panel in every if panel in longest]
    heights = [1.0 if result.is_still else 1.35 for result, _, _ in panels]
    figure = plt.figure(figsize=(11, 0.9 + 1.65 * sum(heights)), dpi=120, layout='constrained')
    grid = figure.add_gridspec(len(panels), 2, width_ratios=[1, 7.5], height_ratios=heights)
    for row, (result, face_id, readings) in enumerate(panels):
        _draw_portrait(figure.add_subplot(grid[row, 0]), result.portraits.get(face_id))
        axes = figure.add_subplot(grid[row, 1])
        title = f'{Path(result.name).name}   {face_id}'
        axes.set_title(title, loc='left', fontsize=10, color=INK)
        if result.is_still:
            _draw_bars(axes, readings[0], info)
        else:
            _draw_curves(axes, result, readings, info)
    if not all(result.is_still for result, _, _ in panels):
        _draw_legend(figure, info)
    shown = f'{len(panels)} of {len(every)} faces, ' if len(every) > len(panels) else ''
    figure.supxlabel(f'{shown}{info.display}', x=0.995, ha='right', fontsize=7, color=FAINT)
    figure.savefig(path)
    plt.close(figure)


def colour(label: str) -> str:
    """Return the colour of a label as #rrggbb."""
    return COLOURS.get(label, OTHER_COLOUR)


def _draw_portrait(axes: Any, portrait: Any) -> None:
    axes.set_axis_off()
    if portrait is not None:
        axes.imshow(portrait, cmap='gray', vmin=0, vmax=255, interpolation='bicubic')


def _draw_curves(
    axes: Any, result: FileResult, readings: Sequence[Reading], info: ModelInfo
) -> None:
    times_s = np.array([reading.time_s for reading in readings])
    rows = np.array([reading.probabilities for reading in readings])
    usual_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.1
    longest_s = max(LONGEST_PAUSE_S, 3 * usual_s)
    breaks = np.flatnonzero(np.diff(times_s) > longest_s) + 1
    broken_s = np.insert(times_s, breaks, np.nan)
    broken_rows = np.insert(rows, breaks, np.nan, axis=0)
    for label, row in zip(info.served_labels, broken_rows.T, strict=True):
        axes.fill_between(broken_s, row, color=colour(label), alpha=0.10, lw=0)
        axes.plot(broken_s, row, color=colour(label), lw=1.6, solid_capstyle='round')
    for reading, step_s in zip(readings, [*np.diff(times_s), usual_s], strict=True):
        # The label of every moment as a colour below the curves.
        bar = [(reading.time_s, step_s if step_s <= longest_s else usual_s)]
        axes.broken_barh(bar, (-0.13, 0.08), color=colour(reading.label), lw=0)
    axes.axhline(info.unknown_below, color=FAINT, lw=0.8, ls=(0, (2, 3)))
    axes.annotate(
        'unknown\nbelow',
        (1.005, info.unknown_below),
        xycoords=('axes fraction', 'data'),
        va='center',
        size=6.5,
        color=FAINT,
    )
    axes.set_xlim(0, max(result.duration_s, 0.1))
    axes.set_ylim(-0.15, 1.03)
    axes.set_yticks([-0.09, 0, 0.5, 1], ['label', '0', '0.5', '1'])
    axes.set_ylabel('probability', fontsize=8, color=INK)
    axes.set_xlabel('time (s)', fontsize=8, color=INK)
    _tidy(axes)


def _draw_bars(axes: Any, reading: Reading, info: ModelInfo) -> None:
    labels = info.served_labels
    places = np.arange(len(labels))
    colours = [colour(label) for label in labels]
    axes.bar(places, reading.probabilities, color=colours, width=0.72)
    for place, p in zip(places, reading.probabilities, strict=True):
        axes.text(place, p + 0.03, f'{p:.2f}', ha='center', fontsize=8, color=INK)
    axes.set_xticks(places, labels, fontsize=8)
    axes.set_ylim(0, 1.15)
    axes.set_yticks([0, 0.5, 1], ['0', '0.5', '1'])
    axes.set_ylabel('probability', fontsize=8, color=INK)
    _tidy(axes)


def _draw_legend(figure: Any, info: ModelInfo) -> None:
    handles = [
        Line2D([], [], color=colour(label), lw=4, label=label)
        for label in (*info.served_labels, UNKNOWN)
    ]
    figure.legend(
        handles=handles, loc='outside upper center', ncols=len(handles), frameon=False, fontsize=9
    )


def _tidy(axes: Any) -> None:
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['left', 'bottom']].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8, length=3)
    axes.grid(axis='y', alpha=0.25)
    axes.set_axisbelow(True)
