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
"""The picture of a run: frames, probabilities and the published label over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from demo.palette import colour
from demo.recorder import Heard
from demo.video import annotate, collect, decode, stamp_s

THUMBNAILS = 6
# A curve is broken where no answer came for so long.
GAP_S = 0.75


def write(
    path: Path,
    images: Sequence[Heard],
    arrays: Sequence[Heard],
    emotions: Sequence[Heard],
    summary: dict[str, Any],
) -> None:
    """Draw the run; at least one image."""
    origin_s = stamp_s(images[0].message.header)
    end_s = max(stamp_s(images[-1].message.header) - origin_s, 0.1)
    figure = plt.figure(figsize=(12, 6.4), dpi=110, layout='constrained')
    grid = figure.add_gridspec(3, THUMBNAILS, height_ratios=[1.15, 2.2, 0.22])
    shares = (np.arange(THUMBNAILS) + 0.5) / THUMBNAILS
    faces = collect(arrays)
    for column, share in enumerate(shares):
        chosen = images[int(share * len(images))]
        _draw_frame(figure.add_subplot(grid[0, column]), chosen, faces, origin_s)
    curves = figure.add_subplot(grid[1, :])
    _draw_curves(curves, emotions, origin_s)
    strip = figure.add_subplot(grid[2, :], sharex=curves)
    _draw_strip(strip, emotions, origin_s, end_s)
    curves.set_xlim(0, end_s)
    latency = summary['latency_ms']
    figure.suptitle(
        f'/emotion: {summary["messages"]} messages, camera to message p50 {latency["p50"]} ms, '
        f'p95 {latency["p95"]} ms, {(summary["bytes_per_s"] or 0) / 1000:.1f} kB/s to the server'
    )
    figure.savefig(path)
    plt.close(figure)


def _draw_frame(axes: Axes, image: Heard, faces: dict[str, Any], origin_s: float) -> None:
    axes.set_axis_off()
    picture = decode(image)
    if picture is not None:
        at_s = stamp_s(image.message.header)
        drawn = annotate(picture, faces, at_s)
        axes.imshow(cv2.cvtColor(drawn, cv2.COLOR_BGR2RGB))
        axes.set_title(f'{at_s - origin_s:.1f} s', fontsize=9)


def _draw_curves(axes: Axes, emotions: Sequence[Heard], origin_s: float) -> None:
    """Draw one curve per class: the probabilities of the primary face."""
    answered = [h.message for h in emotions if h.message.probabilities]
    labels = list(answered[0].labels) if answered else []
    times_s = np.array([stamp_s(m.header) - origin_s for m in answered])
    rows = np.array([list(m.probabilities) for m in answered])
    if answered:
        breaks = np.flatnonzero(np.diff(times_s) > GAP_S) + 1
        times_s = np.insert(times_s, breaks, np.nan)
        rows = np.insert(rows, breaks, np.nan, axis=0)
    for index, label in enumerate(labels):
        axes.plot(times_s, rows[:, index], color=colour(label), lw=1.8, label=label)
        axes.fill_between(times_s, rows[:, index], color=colour(label), alpha=0.10, lw=0)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel('probability')
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(labelbottom=False)
    if labels:
        axes.legend(
            ncols=len(labels), loc='lower center', bbox_to_anchor=(0.5, 1.0), frameon=False
        )


def _draw_strip(axes: Axes, emotions: Sequence[Heard], origin_s: float, end_s: float) -> None:
    """Draw the published label as a coloured strip; white: no face."""
    times_s = [stamp_s(h.message.header) - origin_s for h in emotions]
    for heard, from_s, to_s in zip(emotions, times_s, [*times_s[1:], end_s], strict=True):
        if heard.message.face_detected:
            until_s = min(to_s, from_s + GAP_S)
            axes.axvspan(from_s, until_s, color=colour(heard.message.label), lw=0)
    axes.set_yticks([])
    axes.set_ylabel('label', rotation=0, ha='right', va='center')
    axes.set_xlabel('time of the camera image, s')
    axes.spines[['top', 'right', 'left']].set_visible(False)
