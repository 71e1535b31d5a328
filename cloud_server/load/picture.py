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
"""The picture of `ferros-cloud load --plot`: latency and outcomes over the time of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np

from cloud_server.load.result import Result

COLOURS = {
    'OK': '#3f9a4e',
    'DROPPED_STALE': '#e8a200',
    'OVERLOADED': '#cf3a32',
    'BAD_IMAGE': '#8e5bd0',
    'LIMIT_EXCEEDED': '#c2559d',
    'UNAVAILABLE_MODEL': '#8a6d3b',
    'no_credit': '#7f8c9b',
    'not_connected': '#b9c0c7',
    'blocked': '#5d6b78',
    'generator_late': '#d4d8dc',
}
# Of what is not listed: a frame that got no answer.
UNANSWERED_COLOUR = '#1b1e21'
LATENCY_COLOUR = '#2f7fc1'
INK = '#2b2f33'
FAINT = '#8a9097'


def draw(path: Path, result: Result) -> None:
    """Draw p50 and p99 of the OK answers, below them the outcomes per second; as PNG or SVG."""
    timeline = result.timeline
    starts_s = np.arange(len(timeline.p50_ms)) * timeline.step_s
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(10, 6), dpi=120, sharex=True, layout='constrained', height_ratios=[1, 1.2]
    )
    _draw_latency(above, starts_s, result)
    _draw_outcomes(below, starts_s, result)
    for axes in (above, below):
        if timeline.measured_from_s > 0:
            axes.axvspan(0, timeline.measured_from_s, color=FAINT, alpha=0.12, lw=0)
        _tidy(axes)
    below.set_xlim(0, timeline.measured_to_s)
    below.set_xlabel('time (s); grey: not measured', fontsize=8, color=INK)
    plan = result.plan
    rate = 'saturating' if plan['saturate'] else f'{plan["rate_fps"]:g} frames/s each'
    figure.suptitle(
        f'{plan["robots"]} robots, {rate}: {result.ok_per_s:.1f} frames/s answered OK',
        x=0.01, ha='left', fontsize=11, color=INK,
    )
    where = f'{result.model} on {result.device}'
    figure.supxlabel(where, x=0.995, ha='right', fontsize=7, color=FAINT)
    figure.savefig(path)
    plt.close(figure)


def _draw_latency(axes: Any, starts_s: Any, result: Result) -> None:
    timeline = result.timeline
    middles_s = starts_s + timeline.step_s / 2
    origin = 'sent' if result.plan['saturate'] else 'planned'
    for name, values, width in (('p50', timeline.p50_ms, 1.6), ('p99', timeline.p99_ms, 0.9)):
        figures = np.array([np.nan if value is None else value for value in values])
        axes.plot(middles_s, figures, color=LATENCY_COLOUR, lw=width, label=name)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f'OK answers, from {origin} (ms)', fontsize=8, color=INK)
    axes.legend(
        frameon=False, fontsize=8, loc='lower right', bbox_to_anchor=(1, 1), ncols=2, borderpad=0
    )


def _draw_outcomes(axes: Any, starts_s: Any, result: Result) -> None:
    timeline = result.timeline
    # The last step may be shorter.
    lengths_s = np.minimum(timeline.step_s, timeline.measured_to_s - starts_s)
    lengths_s = np.maximum(lengths_s, 1e-9)
    floor = np.zeros(len(starts_s))
    order = [*COLOURS, *(name for name in timeline.outcomes if name not in COLOURS)]
    for name in order:
        if name not in timeline.outcomes:
            continue
        rates = np.array(timeline.outcomes[name]) / lengths_s
        axes.bar(
            starts_s, rates, lengths_s, bottom=floor, align='edge', lw=0, label=name,
            color=COLOURS.get(name, UNANSWERED_COLOUR),
        )
        floor = floor + rates
    axes.set_ylabel('frames/s', fontsize=8, color=INK)
    if timeline.outcomes:
        axes.legend(frameon=False, fontsize=8, loc='upper right', ncols=4)
        axes.set_ylim(0, max(1.0, 1.25 * float(floor.max())))


def _tidy(axes: Any) -> None:
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['left', 'bottom']].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8, length=3)
    axes.grid(axis='y', alpha=0.25)
    axes.set_axisbelow(True)
