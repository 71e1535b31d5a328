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
The pictures of the server bench: throughput and latency against load, batch sizes, Ray, memory.

Colours are Okabe and Ito's (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

INK, FAINT = '#2b2f33', '#8a9097'
BLUE, ORANGE, GREEN, PINK = '#0072b2', '#d55e00', '#009e73', '#cc79a7'
DPI = 100


def draw_load(path: Path, curve: Sequence[Mapping[str, Any]], capacity_per_s: float) -> None:
    """Draw throughput, latency and batch sizes against what is offered."""
    figure, (rates, latencies, batches) = plt.subplots(3, 1, figsize=(8, 9), sharex=True)
    loads = [100 * row['load'] for row in curve]
    rates.plot(loads, [row['offered_per_s'] for row in curve], color=FAINT, ls=':')
    rates.plot(loads, [row['ok_per_s'] for row in curve], color=BLUE, marker='o')
    rates.axhline(capacity_per_s, color=FAINT, lw=0.8)
    rates.annotate('offered', (loads[-1], curve[-1]['offered_per_s']), color=FAINT, ha='right',
                   va='center', xytext=(-40, 0), textcoords='offset points')
    rates.annotate('answered', (loads[-1], curve[-1]['ok_per_s']), color=BLUE, ha='right',
                   va='top', xytext=(0, -6), textcoords='offset points')
    rates.annotate('capacity (closed loop)', (loads[0], capacity_per_s), color=FAINT,
                   va='bottom', xytext=(0, 2), textcoords='offset points')
    _axis(rates, 'Frames per second', 'frames/s')
    rates.set_ylim(0)
    latencies.plot(loads, [row['p50_ms'] for row in curve], color=GREEN, marker='o')
    latencies.plot(loads, [row['p99_ms'] for row in curve], color=ORANGE, marker='s')
    for name, colour in (('p50_ms', GREEN), ('p99_ms', ORANGE)):
        latencies.annotate(name.removesuffix('_ms'), (loads[-1], curve[-1][name]), color=colour,
                           xytext=(6, 0), textcoords='offset points', va='center')
    latencies.axhline(200, color=FAINT, lw=0.8)
    latencies.annotate('deadline', (loads[0], 200), color=FAINT, va='bottom', xytext=(0, 2),
                       textcoords='offset points')
    _axis(latencies, 'Time from the planned sending to the answer', 'ms')
    latencies.set_ylim(0, max(230, 1.05 * max(row['p99_ms'] for row in curve)))
    batches.plot(loads, [row['batch_faces'] for row in curve], color=PINK, marker='o')
    _axis(batches, 'Faces in a batch, mean', 'faces')
    batches.set_ylim(0)
    batches.set_xlabel('offered load, % of the capacity', color=INK)
    _save(figure, path)


def draw_ray(path: Path, ray: Mapping[str, Any]) -> None:
    """Draw throughput over the number of replicas."""
    figure, axes = plt.subplots(figsize=(6, 3.4))
    replicas = [row['replicas'] for row in ray['scaling']]
    rates = [row['frames_per_s'] for row in ray['scaling']]
    axes.plot(replicas, [rates[0] * n / replicas[0] for n in replicas], color=FAINT, ls=':')
    axes.plot(replicas, rates, color=BLUE, marker='o')
    axes.annotate('in proportion', (replicas[-1], rates[0] * replicas[-1] / replicas[0]),
                  color=FAINT, ha='right', va='bottom', xytext=(0, 4),
                  textcoords='offset points')
    _axis(axes, f'Ray: an encoder that sleeps {ray["sleep_ms"]:.0f} ms, in place of a GPU',
          'frames/s')
    axes.set_xticks(replicas)
    axes.set_xlabel('replicas', color=INK)
    axes.set_ylim(0, 1.2 * max(rates[0] * replicas[-1] / replicas[0], *rates))
    _save(figure, path)


def draw_soak(path: Path, soak: Mapping[str, Any]) -> None:
    """Draw the resident memory over the run."""
    figure, axes = plt.subplots(figsize=(8, 3.2))
    minutes = [at_s / 60 for at_s in soak['at_s']]
    axes.plot(minutes, soak['rss_mb'], color=BLUE)
    axes.axvline(soak['settled_s'] / 60, color=FAINT, lw=0.8)
    _axis(axes, f'Soak: resident memory, {soak["rss_slope_mb_per_min"]:+.2f} MB/min after the '
          'line', 'MB')
    axes.set_xlabel('minutes', color=INK)
    axes.set_ylim(0)
    _save(figure, path)


def _axis(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc='left', color=INK, fontsize=11)
    axes.set_ylabel(unit, color=INK)
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(colors=INK)
    axes.grid(axis='y', color='#e6e8ea', lw=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.06)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
