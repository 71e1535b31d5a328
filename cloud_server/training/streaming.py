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
Streaming accuracy: the label held at each instant of a 30 Hz clock against the truth at it.

Between two frames a robot goes on believing the last label, so low frame rates and slow methods
both cost. Four methods are compared on the same frames: the frame alone, the LSTM, the mean of the
last 30 frames' distributions (the paper's window) and an exponential average.
"""

from __future__ import annotations

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
    render,
)
from cloud_server.training.ferplus import Faces, majority

SIDES_PX = (48, 32, 16)
RATES_FPS = (30.0, 5.0, 2.0)
MEAN_FRAMES = 30
AVERAGE_S = 0.3  # time constant of the exponential average
METHODS = ('frame', 'lstm', 'mean_of_30', 'exponential')
SEED = 77
BATCH = 64

Floats = npt.NDArray[np.float32]


def grid(engine: OnnxEngine, faces: Faces, clips: int) -> dict[str, Any]:
    """
    Return the streaming accuracy of every method at every size and rate.

    Only faces with a majority are shown, the same scenes in every cell; half of them cross-fade.
    """
    sure = majority(faces.votes) >= 0
    shown = faces.subset(sure)
    scenes = draw(ClipConfig(), clips, len(shown), SEED)
    cells = [(side, rate) for side in SIDES_PX for rate in RATES_FPS]
    bar = tqdm(cells, desc='streaming', unit='cell', leave=False)
    return {
        'clips': clips, 'seconds_each': ClipConfig().length_s, 'seed': SEED,
        'exponential_s': AVERAGE_S,
        'streaming_accuracy': [
            {'face_size_px': side, 'frame_rate_fps': rate,
             **{name: round(value, 4) for name, value in
                cell(engine, shown, scenes.sent_as(side, rate)).items()}}
            for side, rate in bar
        ],
    }


def cell(engine: OnnxEngine, faces: Faces, scenes: Schedule) -> dict[str, float]:
    """Return the streaming accuracy of each method on some scenes."""
    truth = truths(faces, scenes)
    features = encode(engine, faces, scenes)
    clip, tick = arrivals(scenes)
    held = {name: np.zeros(truth.shape, np.intp) for name in METHODS}
    for row in range(len(scenes)):
        mine = clip == row
        ticks, side = tick[mine], scenes.side_px[row, tick[mine]].astype(np.float32)
        frames = features[mine]
        last = np.searchsorted(ticks, np.arange(truth.shape[1]), side='right') - 1
        own = frames[:, : len(engine.info.labels)]
        frame_p = calibration.probabilities(own, side, engine.info)
        guesses = {
            'frame': frame_p,
            'lstm': calibration.probabilities(stream(engine, frames, ticks, side), side,
                                              engine.info),
            'mean_of_30': _mean_of_last(frame_p, MEAN_FRAMES),
            'exponential': _exponential(frame_p, ticks / CLOCK_HZ, AVERAGE_S),
        }
        for name, guess in guesses.items():
            held[name][row] = guess.argmax(1)[last]
    return {name: float((labels == truth).mean()) for name, labels in held.items()}


def truths(faces: Faces, scenes: Schedule) -> npt.NDArray[np.intp]:
    """Return the true class [C,T] of each tick: the face that is more than half visible."""
    known = majority(faces.votes)[scenes.faces]
    return np.where(scenes.share > 0.5, known[:, 1:], known[:, :1])


def encode(engine: OnnxEngine, faces: Faces, scenes: Schedule) -> Floats:
    """Return the features [B,F] of every frame that arrives, in the order of `arrivals`."""
    luma = torch.from_numpy(faces.luma).unsqueeze(1)
    clip, tick = arrivals(scenes)
    parts = []
    for start in range(0, len(clip), BATCH):
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


def _mean_of_last(probabilities: Floats, frames: int) -> Floats:
    total = np.cumsum(probabilities, 0)
    total[frames:] = total[frames:] - total[:-frames]
    return total


def _exponential(probabilities: Floats, times_s: npt.NDArray[np.float64], constant_s: float) -> (
        Floats):
    average = probabilities.copy()
    for index in range(1, len(average)):
        keep = np.exp(-(times_s[index] - times_s[index - 1]) / constant_s)
        average[index] = keep * average[index - 1] + (1 - keep) * probabilities[index]
    return average


def table(figures: dict[str, Any]) -> str:
    """Return the grid for people."""
    head = ''.join(f'{name:>13}' for name in METHODS)
    lines = [f'streaming accuracy, {figures["clips"]} clips', f'{"px":>4}{"fps":>5}{head}']
    for row in figures['streaming_accuracy']:
        cells = ''.join(f'{row[name]:>13.4f}' for name in METHODS)
        lines.append(f'{row["face_size_px"]:>4}{row["frame_rate_fps"]:>5.0f}{cells}')
    return '\n'.join(lines)
