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
The pictures of the link bench: one per recorded link, and all senders beside each other.

Colours are Okabe and Ito's (2008), which colour-blind readers can tell apart; markers differ too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.link.accuracy import CHANCE, Accuracies
from bench.link.outages import Window
from bench.link.recording import Frame, Recording
from bench.link.scenarios import FERROS, GROUPS, Scenario
from bench.link.schedule import NS_PER_S

Floats = npt.NDArray[np.float64]

INK = '#2b2f33'
FAINT = '#8a9097'
BLUE, ORANGE, GREEN, PINK = '#0072b2', '#d55e00', '#009e73', '#cc79a7'
SENDERS: dict[str, dict[str, Any]] = {
    FERROS: {'marker': 'o', 'color': ORANGE, 'ms': 8, 'zorder': 5},
    'oracle': {'marker': '+', 'color': INK, 'ms': 9, 'mew': 1.6, 'zorder': 4},
    'uncapped': {'marker': 'o', 'color': ORANGE, 'mfc': 'none', 'ms': 9, 'zorder': 3},
    'fixed_high': {'marker': 's', 'color': BLUE, 'ms': 6.5, 'zorder': 3},
    'fixed_mid': {'marker': '^', 'color': GREEN, 'ms': 7, 'zorder': 3},
    'fixed_low': {'marker': 'D', 'color': PINK, 'ms': 6, 'zorder': 3},
}
TITLES = {
    'const': 'constant links, 64 kbit/s to 5 Mbit/s',
    'loss': '1 Mbit/s with 1 % and 5 % loss',
    'trace': 'recorded links',
    'faces': 'four and eight faces on 250 kbit/s',
    'outage': '1 Mbit/s with outages',
}
DPI = 100
# Even steps in lightness, so that more accurate is brighter in grey too.
SHADES = 'viridis'
RATE_TICKS = (1, 10, 100, 1000, 10_000, 100_000)
AGE_TICKS_MS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
SIZE_TICKS_PX = (12, 16, 24, 32, 48)
FPS_TICKS = (1, 2, 5, 10, 15, 30)
# A step of the operating point is not drawn on when no frame followed for so long.
LONGEST_STEP_S = 1.5
# Where senders are drawn of whose frames no answer ever came.
NO_ANSWER_MS = 20_000.0


def draw_trace(
    path: Path, recording: Recording, scenario: Scenario, accuracies: Accuracies
) -> None:
    """Draw what a link carried, what a sender made of it, and how old its answers were."""
    window = Window(scenario, int(recording.link['started_ns']), recording.started_ns,
                    recording.ended_ns)
    figure, panels = plt.subplots(
        4, 1, figsize=(12, 9), dpi=DPI, layout='constrained', sharex=True,
        height_ratios=[2.4, 1.7, 1.1, 1.1],
    )
    _draw_rates(panels[0], recording)
    _draw_ages(panels[1], recording)
    _draw_point(panels[2:], recording, accuracies)
    for axes in panels:
        _shade_outages(axes, recording, window)
        _tidy(axes)
    for axes in panels[:2]:
        _legend(axes, with_outages=bool(window.left_out))
    panels[0].set_title(_title(scenario), loc='left', fontsize=11, color=INK)
    panels[-1].set_xlabel('time (s)', fontsize=9, color=INK)
    panels[-1].set_xlim(0, (recording.ended_ns - recording.started_ns) / NS_PER_S)
    figure.align_ylabels(panels)
    scale = ScalarMappable(_norm(accuracies), SHADES)
    bar = figure.colorbar(scale, ax=panels[2:], pad=0.01, aspect=14)
    bar.set_label('expected accuracy', fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    figure.savefig(path)
    plt.close(figure)


def draw_overview(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Draw age against expected accuracy of every run, a panel for each group of scenarios."""
    groups = [group for group in GROUPS if any(_group(run) == group for run in runs)]
    figure, panels = plt.subplots(
        2, 3, figsize=(12, 7.4), dpi=DPI, layout='constrained', sharex=True, sharey=True,
    )
    for axes, group in zip(panels.flat, groups, strict=False):
        _draw_group(axes, group, [run for run in runs if _group(run) == group])
    for axes in panels.flat[len(groups):]:
        axes.set_axis_off()
    for column in range(3):
        shown = [row for row in range(2) if 3 * row + column < len(groups)]
        if shown:
            panels[shown[-1], column].tick_params(labelbottom=True)
            panels[shown[-1], column].set_xlabel(
                'age of the answers, p95 (ms; none: no answer came)', fontsize=9, color=INK
            )
    for axes in panels[:, 0]:
        axes.set_ylabel('expected accuracy', fontsize=9, color=INK)
    _draw_senders(figure, runs)
    figure.savefig(path)
    plt.close(figure)


def _title(scenario: Scenario) -> str:
    source = '' if scenario.trace_file is None else f': {scenario.trace_file}'
    scaled = ('' if scenario.mean_bit_per_s is None
              else f', scaled to a mean of {scenario.mean_bit_per_s / 1000:g} kbit/s')
    return f'{scenario.name}{source} from {scenario.start_s:g} s on{scaled}'


def _seconds(recording: Recording, times_ns: Sequence[int]) -> Floats:
    return (np.array(times_ns, np.float64) - recording.started_ns) / NS_PER_S


def _draw_rates(axes: Any, recording: Recording) -> None:
    link = recording.link
    bin_s = link['bin_ms'] / 1000
    capacity = np.array(link['up']['capacity_bytes'], np.float64) * 8 / 1000 / bin_s
    begin_s = (link['started_ns'] - recording.started_ns) / NS_PER_S
    starts = begin_s + bin_s * np.arange(len(capacity))
    axes.fill_between(starts, np.where(capacity > 0, capacity, np.nan), 0.1, step='post',
                      color=FAINT, alpha=0.30, lw=0, label='capacity (per 0.1 s)')
    sent_s = _seconds(recording, [frame.sent_ns for frame in recording.frames])
    seconds = np.arange(int((recording.ended_ns - recording.started_ns) / NS_PER_S) + 2)
    sent, _ = np.histogram(sent_s, seconds, weights=[f.message_bytes for f in recording.frames])
    axes.stairs(np.where(sent > 0, sent * 8 / 1000, np.nan), seconds, color=ORANGE, lw=2,
                baseline=None, label='sent (per s)')
    states = recording.states
    estimated = np.array([state['rate_bytes_per_s'] or np.nan for state in states], np.float64)
    axes.plot(_seconds(recording, [state['now_ns'] for state in states]), estimated * 8 / 1000,
              color=BLUE, lw=1.2, label='estimated')
    top = np.nanmax([*capacity, *estimated * 8 / 1000, 100.0])
    low = np.nanmin([*(sent[sent > 0] * 8 / 1000), 20.0])
    _log(axes, low / 2, 3 * top, RATE_TICKS)
    axes.set_ylabel('kbit/s', fontsize=9, color=INK)


def _draw_ages(axes: Any, recording: Recording) -> None:
    answers = recording.answers
    ages = np.array([(a.published_ns - a.captured_ns) / 1e6 for a in answers], np.float64)
    axes.plot(_seconds(recording, [answer.published_ns for answer in answers]), ages, '.', ms=3,
              color=INK, alpha=0.6, mew=0, label='age of an answer')
    axes.axhline(250, color=FAINT, lw=0.9, ls=(0, (4, 3)), label='250 ms')
    # Room for the legend above the points.
    _log(axes, min(20.0, *ages, 20.0) * 0.8, max(1000.0, 4 * max(ages, default=0.0)),
         AGE_TICKS_MS)
    axes.set_ylabel('age (ms)', fontsize=9, color=INK)


def _draw_point(panels: Sequence[Any], recording: Recording, accuracies: Accuracies) -> None:
    """Draw face size and frame rate of the primary face's frames as coloured steps."""
    slot_of = recording.slot_of
    frames = sorted((frame for frame in recording.frames if slot_of[frame.face_id] == 0),
                    key=lambda frame: frame.captured_ns)
    times = _seconds(recording, [frame.captured_ns for frame in frames])
    lengths = np.minimum(np.diff(times, append=times[-1:] + 0.1), LONGEST_STEP_S)
    worth = [_nominal(frame, accuracies) for frame in frames]
    for axes, name, ticks, values in (
        (panels[0], 'face size (px)', SIZE_TICKS_PX, [frame.face_size_px for frame in frames]),
        (panels[1], 'frames per s', FPS_TICKS, [frame.frame_rate_fps for frame in frames]),
    ):
        lines = LineCollection(
            [((time, value), (time + length, value))
             for time, length, value in zip(times, lengths, values, strict=True)],
            array=np.array(worth), norm=_norm(accuracies), cmap=SHADES, linewidths=5,
        )
        axes.step(times, values, where='post', color=FAINT, lw=0.6, zorder=1.5)
        axes.add_collection(lines)
        _log(axes, min([ticks[0], *values]) * 0.8, max([ticks[-1], *values]) * 1.25, ticks)
        axes.set_ylabel(name, fontsize=9, color=INK)


def _nominal(frame: Frame, accuracies: Accuracies) -> float:
    coding = accuracies.coding(frame.face_size_px, frame.codec, frame.quality)
    return accuracies.at(coding, frame.frame_rate_fps)


def _norm(accuracies: Accuracies) -> Normalize:
    # What is below this is as good as useless, and the shades are for what lies above.
    return Normalize(max(CHANCE, accuracies.best - 0.25), accuracies.best, clip=True)


def _shade_outages(axes: Any, recording: Recording, window: Window) -> None:
    for start_ns, end_ns in window.left_out:
        start, end = _seconds(recording, [start_ns, end_ns])
        axes.axvspan(start, end, color=PINK, alpha=0.16, lw=0, zorder=0)


def _legend(axes: Any, *, with_outages: bool) -> None:
    handles, _ = axes.get_legend_handles_labels()
    if with_outages:
        handles.append(Patch(color=PINK, alpha=0.16, lw=0, label='left out: around an outage'))
    axes.legend(handles=handles, loc='upper right', ncols=len(handles), fontsize=8,
                frameon=False, borderaxespad=0.1)


def _group(run: Mapping[str, Any]) -> str:
    return str(run['scenario']).partition('_')[0]


def _draw_group(axes: Any, group: str, runs: Sequence[Mapping[str, Any]]) -> None:
    axes.axhline(CHANCE, color=FAINT, lw=0.9, ls=(0, (4, 3)))
    for run in runs:
        age_ms = run['age_p95_ms']
        if run['expected_accuracy'] is None or run['sender'] not in SENDERS:
            continue
        axes.plot(NO_ANSWER_MS if age_ms is None else age_ms, run['expected_accuracy'], ls='',
                  alpha=0.85, **SENDERS[run['sender']])
    count = len({run['scenario'] for run in runs})
    axes.set_title(f'{TITLES[group]} ({count})', loc='left', fontsize=9.5, color=INK)
    _log(axes, 30, 30_000, (50, 100, 200, 500, 1000, 2000, 5000, NO_ANSWER_MS), along='x')
    axes.set_ylim(0.1, 0.9)
    _tidy(axes)


def _draw_senders(figure: Any, runs: Sequence[Mapping[str, Any]]) -> None:
    shown = {run['sender'] for run in runs}
    handles = [Line2D([], [], ls='', label=name, **style)
               for name, style in SENDERS.items() if name in shown]
    handles.append(Line2D([], [], color=FAINT, lw=0.9, ls=(0, (4, 3)), label='a guess'))
    figure.legend(handles=handles, loc='outside upper center', ncols=len(handles), fontsize=9,
                  frameon=False)


def _log(axes: Any, low: float, high: float, ticks: Sequence[float], along: str = 'y') -> None:
    axis = axes.yaxis if along == 'y' else axes.xaxis
    axes.set(**{f'{along}scale': 'log', f'{along}lim': (low, high)})
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_tick))


def _tick(value: float, _: int) -> str:
    return 'none' if value == NO_ANSWER_MS else f'{value:g}'


def _tidy(axes: Any) -> None:
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['left', 'bottom']].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8, length=3)
    axes.grid(axis='y', alpha=0.25)
    axes.set_axisbelow(True)
