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
The figures of the report, each as a PNG file and as SVG inside the page.

In the page the ink is the page's own text colour, so that a figure reads on light and on dark. The
colours are Okabe and Ito's (2008), told apart by colour-blind readers; markers and lines differ
too.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from cloud_server.training.report_tables import METHODS

INK = '#24292e'
FAINT = '#8a9097'
BLUE, ORANGE = '#0f7ec2', '#d55e00'
STYLES: dict[str, dict[str, Any]] = {
    'frame': {'color': FAINT, 'marker': 'o', 'linestyle': ':'},
    'mean_of_30': {'color': '#56b4e9', 'marker': 's', 'linestyle': '--'},
    'mode_of_30': {'color': '#cc79a7', 'marker': 'D', 'linestyle': '--'},
    'exponential': {'color': '#009e73', 'marker': '^', 'linestyle': '-.'},
    'lstm': {'color': ORANGE, 'marker': 'o', 'linestyle': '-', 'linewidth': 2.4},
}
OTHER_STYLE: dict[str, Any] = {'color': '#e69f00', 'marker': 'x', 'linestyle': '-'}
# What is not a measure of how well an epoch went.
NOT_DRAWN = ('epoch', 'seconds', 'learning_rate', 'rate', 'step', 'steps', 'trial')
TEXT: dict[Any, Any] = {
    'font.size': 10, 'axes.titlesize': 10.5, 'axes.labelsize': 10, 'text.color': INK,
    'axes.labelcolor': INK, 'axes.titlecolor': INK, 'xtick.color': INK, 'ytick.color': INK,
    'axes.edgecolor': FAINT, 'axes.spines.top': False, 'axes.spines.right': False,
    'axes.grid': True, 'grid.color': FAINT, 'grid.alpha': 0.25, 'axes.axisbelow': True,
    'legend.frameon': False, 'svg.fonttype': 'none', 'svg.hashsalt': 'ferros',
    'figure.constrained_layout.use': True,
}
PNG_DPI = 140


@dataclass(frozen=True)
class Picture:
    """A drawn figure: the name of its PNG, its SVG for the page, and what it shows in words."""

    name: str
    svg: str
    title: str
    smoke: bool


def save(figure: Figure, folder: Path, slug: str, title: str, *, smoke: bool) -> Picture:
    """Write SLUG.png and return the figure for the page."""
    if smoke:
        figure.text(0.5, 0.5, 'smoke run: means nothing', rotation=18, ha='center', va='center',
                    fontsize=20, color=ORANGE, alpha=0.45, zorder=10)
    text = io.StringIO()
    with plt.rc_context(TEXT):
        figure.savefig(folder / f'{slug}.png', dpi=PNG_DPI, facecolor='white',
                       metadata={'Software': None})
        figure.savefig(text, format='svg', transparent=True, metadata={'Date': None})
    plt.close(figure)
    return Picture(f'{slug}.png', _inline(text.getvalue(), slug, title), title, smoke)


def _inline(svg: str, slug: str, title: str) -> str:
    """Make an SVG file a part of a page: no head, ids of its own, the page's ink, a name."""
    svg = svg[svg.index('<svg'):]
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', '<g', svg)
    svg = re.sub(r'(id="|url\(#|href="#)', rf'\1{slug}-', svg)
    svg = re.sub(r'<!--.*?-->', '', svg, flags=re.DOTALL)
    svg = re.sub(r'font-family: [^;"]*;? ?', '', svg)  # the page has one for all of them
    svg = re.sub(r'\s+', ' ', svg).replace(INK, 'currentColor')
    name = title.replace('&', '&amp;').replace('<', '&lt;').replace('"', '&quot;')
    return svg.replace('<svg ', f'<svg role="img" aria-label="{name}" ', 1)


def confusion(
    labels: Sequence[str], matrix: Sequence[Sequence[int]], what: str = 'faces'
) -> Figure:
    """Draw a confusion matrix: counts, coloured by their share of the true class."""
    counts = np.asarray(matrix, np.int64)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(labels)
    with plt.rc_context(TEXT):
        figure, axes = plt.subplots(figsize=(0.62 * size + 1.6, 0.52 * size + 1.5))
        axes.grid(visible=False)
        for row, column in itertools.product(range(size), repeat=2):
            value = share[row, column]
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=BLUE, edgecolor='none',
                                         alpha=0.05 + 0.9 * value))
            axes.text(column + 0.5, row + 0.5, f'{counts[row, column]}', ha='center', va='center',
                      color='#ffffff' if value > 0.5 else INK, fontsize=9,
                      alpha=1 if counts[row, column] else 0.4,
                      fontweight='bold' if row == column else 'normal')
        places = np.arange(size) + 0.5
        axes.set(xlim=(0, size), ylim=(size, 0), xlabel='guess', ylabel=f'truth ({what})')
        axes.set_xticks(places, labels, rotation=35, ha='right', rotation_mode='anchor')
        axes.set_yticks(places, [f'{label} ({total})' for label, total in
                                 zip(labels, counts.sum(1), strict=True)])
        axes.tick_params(length=0)
        axes.spines[['left', 'bottom']].set_visible(False)
    return figure


def streaming(result: Mapping[str, Any]) -> Figure:
    """Draw, for each face size, accuracy over frame rate and the gain with its interval."""
    cells = result['cells']
    sides = list(dict.fromkeys(cell['face_size_px'] for cell in cells))
    rates = sorted({cell['frame_rate_fps'] for cell in cells})
    with plt.rc_context(TEXT):
        figure, axes = plt.subplots(
            2, len(sides), sharex=True, sharey='row', squeeze=False,
            figsize=(1.2 + 2.9 * len(sides), 5.6), height_ratios=[2, 1],
        )
        for column, side in enumerate(sides):
            mine = sorted((cell for cell in cells if cell['face_size_px'] == side),
                          key=lambda cell: float(cell['frame_rate_fps']))
            place = [rates.index(cell['frame_rate_fps']) for cell in mine]
            _accuracies(axes[0, column], place, mine, result['methods'])
            _gains(axes[1, column], place, mine)
            axes[0, column].set_title(f'face of {side:g} px')
            axes[1, column].set_xlabel('frame rate, fps')
        axes[1, 0].set_xticks(range(len(rates)), [f'{rate:g}' for rate in rates])
        axes[1, 0].set_xlim(-0.35, len(rates) - 0.65)
        axes[0, 0].set_ylabel('streaming accuracy on simulated clips')
        axes[1, 0].set_ylabel('LSTM minus best\nsimple, points')
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc='outside upper center', ncols=len(names))
    return figure


def _accuracies(
    axes: Any, place: Sequence[int], cells: Sequence[Mapping[str, Any]], methods: Sequence[str]
) -> None:
    for method in methods:
        axes.plot(place, [cell['accuracy'][method] for cell in cells], markersize=5,
                  label=METHODS.get(method, method), **STYLES.get(method, OTHER_STYLE))


def _gains(axes: Any, place: Sequence[int], cells: Sequence[Mapping[str, Any]]) -> None:
    mean, low, high = (np.array([100 * cell['gain'][key] for cell in cells])
                       for key in ('mean', 'low', 'high'))
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.errorbar(place, mean, yerr=np.stack([mean - low, high - mean]), color=ORANGE, fmt='o',
                  markersize=5, capsize=3, linewidth=1.6)


def measures(history: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return what of a history is drawn: shares (accuracy and the like), and losses."""
    numbers: dict[str, list[float]] = {}
    for entry in history:
        for key, value in entry.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                numbers.setdefault(key, []).append(value)
    drawn = [key for key in numbers if key not in NOT_DRAWN and not key.endswith('_s')]
    losses = [key for key in drawn if 'loss' in key]
    shares = [key for key in drawn if key not in losses
              and all(0 <= value <= 1 for value in numbers[key])]
    return shares, losses


def learning(history: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw losses and shares over the epochs; None where nothing was measured."""
    shares, losses = measures(history)
    panels = [(keys, name) for keys, name in ((losses, 'loss'), (shares, 'share')) if keys]
    if not panels:
        return None
    epochs = [entry.get('epoch') for entry in history]
    whole = [epoch for epoch in epochs if isinstance(epoch, int)]
    # A training in stages may count its epochs anew in each.
    numbered = len(whole) == len(history) and whole == sorted(set(whole))
    x = whole if numbered else list(range(1, len(history) + 1))
    with plt.rc_context(TEXT):
        figure, axes = plt.subplots(1, len(panels), squeeze=False, figsize=(7.4, 2.9))
        for panel, (keys, name) in zip(axes[0], panels, strict=True):
            for index, key in enumerate(keys):
                _curve(panel, x, [entry.get(key) for entry in history], key, index)
            panel.set(xlabel='epoch',
                      ylabel=name if len(keys) > 1 else keys[0].replace('_', ' '))
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            if len(keys) > 1:
                panel.legend(fontsize=9, loc='best' if len(x) < 200 else 'upper right')
            _stages(panel, x, history)
    return figure


def _curve(axes: Any, x: Sequence[Any], values: Sequence[Any], key: str, index: int) -> None:
    styles = ((BLUE, 'o', '-'), (ORANGE, 's', '--'), ('#009e73', '^', '-.'),
              ('#cc79a7', 'D', ':'))
    colour, marker, line = styles[index % len(styles)]
    points = [(place, value) for place, value in zip(x, values, strict=True)
              if isinstance(value, (int, float))]
    axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linestyle=line,
              markersize=3, linewidth=1.6, label=key.replace('_', ' '))


def _stages(axes: Any, x: Sequence[Any], history: Sequence[Mapping[str, Any]]) -> None:
    """Mark where a training goes from one stage to the next, as from the top to all layers."""
    named = [entry.get('stage', entry.get('phase')) for entry in history]
    for index in range(1, len(named)):
        if named[index] != named[index - 1] and named[index] is not None:
            axes.axvline((x[index - 1] + x[index]) / 2, color=FAINT, linewidth=1, linestyle=':')
            axes.annotate(f' {named[index]}', ((x[index - 1] + x[index]) / 2, 1),
                          xycoords=('data', 'axes fraction'), va='top', fontsize=8, color=INK)


def searching(result: Mapping[str, Any]) -> Figure | None:
    """Draw what each trial gave, and the best so far; None where no trial ended."""
    ended = [trial for trial in result['trials'] if trial['value'] is not None]
    if not ended:
        return None
    best = np.maximum if result['direction'] == 'maximize' else np.minimum
    numbers, values = ([trial[key] for trial in ended] for key in ('number', 'value'))
    with plt.rc_context(TEXT):
        figure, axes = plt.subplots(figsize=(6.2, 2.9))
        axes.plot(numbers, values, 'o', color=BLUE, markersize=5, label='trial')
        axes.step(numbers, best.accumulate(values), where='post', color=ORANGE, linewidth=2,
                  label='best so far')
        axes.set(xlabel='trial', ylabel=result['criterion'].replace('_', ' '))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=9, loc='lower right' if result['direction'] == 'maximize'
                    else 'upper right')
    return figure
