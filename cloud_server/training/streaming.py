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
Streaming accuracy: the label held at each instant of a 30 Hz clock against the truth of then.

Between two frames a robot goes on believing the last label, so low frame rates and slow methods
both cost. Five methods are compared on the same frames: the frame alone, the mean and the mode of
the last 30 frames (the paper's window), an exponential average and the LSTM as it is served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from cloud_server import calibration
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.training.clips import (
    CLOCK_HZ,
    ClipConfig,
    Schedule,
    arrivals,
    draw,
    on_rate,
    render,
)
from cloud_server.training.ferplus import Faces, majority

SIDES_PX = (48, 32, 16)
RATES_FPS = (30.0, 15.0, 5.0, 2.0)
WINDOW_FRAMES = 30  # of mean and mode: the paper's
AVERAGE_S = 0.5  # time constant of the exponential average, tuned on training clips by train-video
SIMPLE = ('frame', 'mean_of_30', 'mode_of_30', 'exponential')
METHODS = (*SIMPLE, 'lstm')
SEED = 77
BATCH = 64
RESAMPLES = 2000

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Held:
    """
    What a method believed.

    Attributes:
        labels: [C,T] at each tick of the 30 Hz clock.
        truth: [C,T].
        middle: [C], tick at which a cross-fade is half-way; T where nothing changes.

    """

    labels: Labels
    truth: Labels
    middle: npt.NDArray[np.int64]

    def accuracy(self) -> npt.NDArray[np.float64]:
        """Return the share of the time [C] in which the label was true."""
        return np.asarray((self.labels == self.truth).mean(1), np.float64)

    def delays_s(self) -> npt.NDArray[np.float64]:
        """
        Return the time from the middle of each cross-fade between two emotions to the new label.

        Infinite where the new label never comes; one that was there early came after 0 s.
        """
        found = []
        for labels, truth, middle in zip(self.labels, self.truth, self.middle, strict=True):
            if middle < len(truth):
                right = np.flatnonzero(labels[middle:] == truth[middle:])
                found.append(right[0] / CLOCK_HZ if len(right) else np.inf)
        return np.array(found)

    def false_flips_per_min(self) -> float:
        """Return how often the label changes to one that is not true at that instant."""
        changed = self.labels[:, 1:] != self.labels[:, :-1]
        wrong = self.labels[:, 1:] != self.truth[:, 1:]
        return float((changed & wrong).sum() / (self.labels.size / CLOCK_HZ / 60))


def grid(
    engine: OnnxEngine, faces: Faces, clips: int, average_s: float = AVERAGE_S
) -> dict[str, Any]:
    """
    Return what every method reaches at every size and rate.

    Only faces with a majority are shown, the same scenes in every cell; half of them cross-fade.
    """
    shown = faces.subset(majority(faces.votes) >= 0)
    scenes = draw(ClipConfig(), clips, len(shown), SEED)
    cells = []
    bar = tqdm(SIDES_PX, desc='streaming', unit='size', leave=False)
    for side in bar:
        every = scenes.sent_as(side, CLOCK_HZ)
        features = encode(engine, shown, every).reshape(clips, ClipConfig().ticks, -1)
        for rate in RATES_FPS:
            held = believed(engine, shown, scenes, features, side, rate, average_s)
            cells.append({'face_size_px': side, 'frame_rate_fps': rate, **_figures(held)})
    return {
        'clips': clips, 'seconds_each': ClipConfig().length_s, 'seed': SEED,
        'methods': list(METHODS), 'exponential_s': average_s, 'cells': cells,
    }


def believed(
    engine: OnnxEngine, faces: Faces, scenes: Schedule, features: Floats, side_px: int,
    rate_fps: float, average_s: float,
) -> dict[str, Held]:
    """
    Return what each method believes when frames come at an even rate.

    Args:
        engine: the model.
        faces: whom the scenes show.
        scenes: C of them.
        features: [C,T,F] of every tick's frame at this size.
        side_px: the size.
        rate_fps: the rate.
        average_s: time constant of the exponential average.

    """
    truth, middle = truths(faces, scenes), middles(faces, scenes)
    ticks = np.flatnonzero(on_rate(np.arange(truth.shape[1]), rate_fps))
    seen = features[:, ticks]
    last = np.searchsorted(ticks, np.arange(truth.shape[1]), side='right') - 1
    found = answers(engine, seen, ticks, side_px, average_s)
    return {name: Held(labels[:, last], truth, middle) for name, labels in found.items()}


def answers(
    engine: OnnxEngine, features: Floats, ticks: npt.NDArray[np.int64], side_px: int,
    average_s: float,
) -> dict[str, Labels]:
    """Return each method's label [C,n] at each of n frames that come at some ticks."""
    clips, frames = features.shape[:2]
    sides = np.full(clips * frames, side_px, np.float32)

    def served(logits: Floats) -> Floats:
        flat = logits.reshape(clips * frames, -1)
        return calibration.probabilities(flat, sides, engine.info).reshape(clips, frames, -1)

    own = served(features[:, :, : len(engine.info.labels)])
    streamed = served(stream_together(engine, features, ticks, side_px))
    return {
        'frame': own.argmax(2),
        'mean_of_30': window_sum(own).argmax(2),
        'mode_of_30': window_sum((own == own.max(2, keepdims=True)).astype(np.float32)
                                 + own * 1e-4).argmax(2),  # of equals the likelier
        'exponential': exponential(own, ticks / CLOCK_HZ, average_s).argmax(2),
        'lstm': streamed.argmax(2),
    }


def _figures(held: dict[str, Held]) -> dict[str, Any]:
    """Return accuracy, delay and false flips, and the LSTM's gain over the best simple method."""
    accuracy = {name: each.accuracy() for name, each in held.items()}
    best = max(SIMPLE, key=lambda name: float(accuracy[name].mean()))
    mean, low, high = paired_interval(accuracy['lstm'] - accuracy[best])
    return {
        'accuracy': {name: round(float(each.mean()), 4) for name, each in accuracy.items()},
        'gain': {'over': best, 'mean': round(mean, 4), 'low': round(low, 4),
                 'high': round(high, 4)},
        'delay_s': {name: _median(each.delays_s()) for name, each in held.items()},
        'false_flips_per_min': {name: round(each.false_flips_per_min(), 2)
                                for name, each in held.items()},
    }


def paired_interval(differences: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean of paired differences [C] and its 95 % bootstrap interval over clips."""
    rng = np.random.default_rng(SEED)
    count = len(differences)
    means = differences[rng.integers(0, count, (RESAMPLES, count))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(differences.mean()), float(low), float(high)


def _median(delays_s: npt.NDArray[np.float64]) -> float | None:
    """Return the median, None where it is infinite or nothing was to be detected."""
    middle = float(np.median(delays_s)) if len(delays_s) else np.inf
    return round(middle, 3) if np.isfinite(middle) else None


def truths(faces: Faces, scenes: Schedule) -> Labels:
    """Return the true class [C,T] of each tick: the face that is more than half visible."""
    known = majority(faces.votes)[scenes.faces]
    return np.where(scenes.share > 0.5, known[:, 1:], known[:, :1])


def middles(faces: Faces, scenes: Schedule) -> npt.NDArray[np.int64]:
    """Return the first tick [C] of the new truth, T where the truth stays the same."""
    truth = truths(faces, scenes)
    changed = truth != truth[:, :1]
    return np.where(changed.any(1), changed.argmax(1), truth.shape[1]).astype(np.int64)


def encode(engine: OnnxEngine, faces: Faces, scenes: Schedule) -> Floats:
    """Return the features [B,F] of every frame that arrives, in the order of `arrivals`."""
    luma = torch.from_numpy(faces.luma).unsqueeze(1)
    clip, tick = arrivals(scenes)
    parts = []
    bar = tqdm(range(0, len(clip), BATCH), desc='encoding clips', unit='batch', leave=False)
    for start in bar:
        part = slice(start, start + BATCH)
        parts.append(engine.encode(render(luma, scenes, clip[part], tick[part])[:, 0].numpy()))
    return np.concatenate(parts)


def stream(
    engine: OnnxEngine, features: Floats, ticks: npt.NDArray[np.int64], side_px: Floats
) -> Floats:
    """Return the LSTM's logits [B,8] of one face's frames, step by step as `serve` does it."""
    state = np.zeros((1, engine.info.state_size), np.float32)
    h: Floats = state
    c: Floats = state
    found = []
    for index in range(len(features)):
        gap_s = (ticks[index] - ticks[index - 1]) / CLOCK_HZ if index else 0.0
        logits, h, c = engine.step(
            features[index : index + 1], np.array([gap_s], np.float32),
            side_px[index : index + 1], h, c,
        )
        found.append(logits)
    return np.concatenate(found)


def stream_together(
    engine: OnnxEngine, features: Floats, ticks: npt.NDArray[np.int64], side_px: float
) -> Floats:
    """Return the LSTM's logits [C,n,8] of clips [C,n,F] whose frames come at the same ticks."""
    clips = len(features)
    h: Floats = np.zeros((clips, engine.info.state_size), np.float32)
    c: Floats = h
    side = np.full(clips, side_px, np.float32)
    gaps_s = np.diff(ticks, prepend=ticks[:1]) / CLOCK_HZ
    found = []
    for index, gap_s in enumerate(gaps_s):
        logits, h, c = engine.step(
            np.ascontiguousarray(features[:, index]), np.full(clips, gap_s, np.float32), side, h, c
        )
        found.append(logits)
    return np.stack(found, 1)


def window_sum(values: Floats, frames: int = WINDOW_FRAMES) -> Floats:
    """Return the sum [C,n,K] over the last frames up to each."""
    total = np.cumsum(values.astype(np.float64), 1)
    total[:, frames:] -= total[:, :-frames].copy()
    return total.astype(np.float32)


def exponential(
    probabilities: Floats, times_s: npt.NDArray[np.float64], constant_s: float
) -> Floats:
    """Return the exponential average [C,n,K] of distributions at some times [n]."""
    average = probabilities.copy()
    keep = np.exp(-np.diff(times_s) / constant_s).astype(np.float32)
    for index in range(1, average.shape[1]):
        new = probabilities[:, index] * (1 - keep[index - 1])
        average[:, index] = keep[index - 1] * average[:, index - 1] + new
    return average


def table(figures: dict[str, Any]) -> str:
    """Return the grid for people."""
    head = ''.join(f'{name:>13}' for name in METHODS)
    lines = [f'streaming accuracy, {figures["clips"]} clips',
             f'{"px":>4}{"fps":>5}{head}  lstm over the best simple [95 %]   delay  flips/min']
    for row in figures['cells']:
        cells = ''.join(f'{row["accuracy"][name]:>13.4f}' for name in METHODS)
        gain, delay = row['gain'], row['delay_s']['lstm']
        lines.append(
            f'{row["face_size_px"]:>4}{row["frame_rate_fps"]:>5.0f}{cells}'
            f'  {100 * gain["mean"]:+6.2f} [{100 * gain["low"]:+.2f}, {100 * gain["high"]:+.2f}]'
            f' {"(" + gain["over"] + ")":<14}{"inf" if delay is None else f"{delay:.2f}":>6}'
            f'{row["false_flips_per_min"]["lstm"]:>8.1f}'
        )
    return '\n'.join(lines)
