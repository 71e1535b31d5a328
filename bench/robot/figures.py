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
The picture of the robot bench: what an image costs, and how soon who answers.

Colours are Okabe and Ito's (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.robot.bounds import FULL, transports

INK, FAINT = '#2b2f33', '#8a9097'
BLUE, ORANGE = '#0072b2', '#d55e00'
DPI = 100


def draw(path: Path, measured: Mapping[str, Any]) -> None:
    """Draw all there is into one picture."""
    figure, (costs, times) = plt.subplots(2, 1, figsize=(8, 6.8), height_ratios=(3, 2))
    _draw_costs(costs, measured.get('frame', {}))
    _draw_times(times, measured.get('fallback', {}))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def _draw_costs(axes: Axes, frame: Mapping[str, Any]) -> None:
    rows = [
        (f'{detector}, {transport}', row)
        for detector, figures in frame.items()
        for transport, row in transports(figures).items()
    ]
    for place, (_, row) in enumerate(rows):
        axes.barh(place, row['p99_ms'], height=0.6, color=BLUE, alpha=0.25)
        axes.barh(place, row['p50_ms'], height=0.6, color=BLUE)
        for figure, shift in (('p50_ms', 4), ('p99_ms', 4)):
            axes.annotate(
                f'{row[figure]:.1f}',
                (row[figure], place),
                xytext=(shift, 0),
                va='center',
                textcoords='offset points',
                color=INK,
                fontsize=9,
            )
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    for limit, name in ((FULL.frame_p50_ms, 'p50'), (FULL.frame_p99_ms, 'p99')):
        axes.axvline(limit, color=ORANGE, lw=1)
        axes.annotate(
            f'{name} at most',
            (limit, 1.0),
            xycoords=('data', 'axes fraction'),
            color=ORANGE,
            xytext=(-3, 2),
            textcoords='offset points',
            ha='right',
            fontsize=9,
        )
    axes.set_xlim(0, 1.15 * FULL.frame_p99_ms)
    _dress(
        axes,
        'An image of 1280x720 px on one core, from its message to the encoded crops:\n'
        'median (dark) and p99',
    )


def _draw_times(axes: Axes, fallback: Mapping[str, Any]) -> None:
    rounds = fallback.get('rounds', {})
    rows = [
        ('the server is silent,\nthe robot answers', 'fallback_ms', FULL.fallback_ms),
        ('the server is back,\nand is published', 'handback_ms', FULL.handback_ms),
    ]
    for place, (_, figure, limit) in enumerate(rows):
        values = [each[figure] for kind in ('frozen', 'killed') for each in rounds.get(kind, ())]
        axes.scatter(values, [place] * len(values), color=BLUE, alpha=0.6, zorder=3)
        axes.plot([limit, limit], [place - 0.3, place + 0.3], color=ORANGE, lw=1.5)
        axes.annotate(
            'at most',
            (limit, place - 0.3),
            xytext=(-3, 2),
            textcoords='offset points',
            color=ORANGE,
            ha='right',
            fontsize=9,
        )
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.1 * FULL.handback_ms)
    _dress(axes, 'Who answers when: each dot one time that the server was frozen or killed')


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, loc='left', fontsize=10, color=INK, pad=18)
    axes.set_xlabel('ms', color=FAINT)
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(colors=INK)
