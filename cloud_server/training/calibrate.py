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

"""How sure the model may sound: temperatures and the `unknown` threshold, from held-out faces."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cloud_server.engine.onnx import OnnxEngine
from cloud_server.training import streaming
from cloud_server.training.clips import ClipConfig, arrivals, draw
from cloud_server.training.ferplus import Faces, majority
from cloud_server.training.risk_coverage import (
    accuracy_at,
    risk_coverage,
    thinned,
    threshold_at,
)
from cloud_server.training.scores import first_frame, plurality

SIZES_PX = (12, 16, 24, 32, 48)
COVERAGE = 0.9
SEED = 9

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Selective:
    """
    What it costs some faces to be called unknown less often.

    Attributes:
        faces: how many.
        accuracy: of all of them.
        accuracy_covered: of the surest, COVERAGE of them.
        curve: coverage and risk, see risk_coverage.py.

    """

    faces: int
    accuracy: float
    accuracy_covered: float
    curve: dict[str, list[float]]


@dataclass(frozen=True)
class Calibration:
    """
    How sure the model may sound.

    Attributes:
        temperature: for model.json, ((face_size_px, temperature), ...).
        unknown_below: for model.json, the threshold.
        every: what the threshold costs over all faces; right is the emotion with most votes.
        majority: the same over the faces on whose emotion more than half of the taggers agree.

    """

    temperature: tuple[tuple[float, float], ...]
    unknown_below: float
    every: Selective
    majority: Selective

    def to_json(self) -> dict[str, Any]:
        """Return everything, as calibration.json has it."""
        return {
            'temperature': [list(point) for point in self.temperature],
            'coverage': COVERAGE, 'unknown_below': self.unknown_below,
            'all_faces': asdict(self.every), 'majority_faces': asdict(self.majority),
        }


def calibrate(engine: OnnxEngine, faces: Faces, clips: int) -> Calibration:
    """
    Fit on faces that neither the encoder nor the LSTM has seen.

    The temperature fits what is served: half of the weight is on first frames of all faces, half
    on the LSTM's later answers within clips, so that its growing sureness is covered too. Right is
    the emotion with most votes, over all faces, ambiguous ones too. The threshold is the point of
    the risk-coverage curve of single faces at full size where COVERAGE of them keep a label.
    """
    points = []
    full_size: Floats = np.zeros((0, len(engine.info.labels)), np.float32)
    counted = faces.votes[:, :8].sum(1) > 0
    known = faces.subset(counted)
    for side in SIZES_PX:
        first = first_frame(engine, smaller(known.luma, side))
        later, right = streamed(engine, known, side, clips)
        weight = np.concatenate((np.full(len(first), 1 / len(first)),
                                 np.full(len(later), 1 / len(later))))
        points.append((float(side), round(fit_temperature(
            np.concatenate((first, later))[:, list(engine.info.served_indices)],
            np.concatenate((plurality(known.votes), right)), weight,
        ), 3)))
        if side == SIZES_PX[-1]:
            full_size = first
    served = full_size[:, list(engine.info.served_indices)] / points[-1][1]
    confidence, guess = np.exp(served.max(1) - _log_sum(served)), served.argmax(1)
    truth = majority(known.votes)
    right = np.take_along_axis(plurality(known.votes), guess[:, None], 1)[:, 0]
    return Calibration(
        temperature=tuple(points),
        # Rounded down, so that no face loses its label by it.
        unknown_below=math.floor(1000 * threshold_at(COVERAGE, confidence)) / 1000,
        every=_selective(confidence, right),
        majority=_selective(confidence[truth >= 0], (guess == truth)[truth >= 0]),
    )


def smaller(luma: npt.NDArray[np.uint8], side_px: int) -> npt.NDArray[np.uint8]:
    """Return faces [N,side_px,side_px] as a robot shrinks them; those of that side as they are."""
    if luma.shape[-1] == side_px:
        return luma
    return np.stack([cv2.resize(face, (side_px, side_px), interpolation=cv2.INTER_AREA)
                     for face in luma])


def _selective(
    confidence: npt.NDArray[np.floating], right: npt.NDArray[Any]
) -> Selective:
    return Selective(
        faces=len(right), accuracy=round(float(right.mean()), 4),
        accuracy_covered=round(accuracy_at(COVERAGE, confidence, right), 4),
        curve=thinned(risk_coverage(confidence, right)),
    )


def streamed(
    engine: OnnxEngine, faces: Faces, side_px: int, clips: int
) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Return the LSTM's answers [B,8] within clips at one size, and what was right [B,7]."""
    scenes = draw(ClipConfig(sides_px=(side_px,)), clips, len(faces), SEED)
    features = streaming.encode(engine, faces, scenes)
    clip, tick = arrivals(scenes)
    parts = [streaming.stream(engine, features[clip == row], tick[clip == row],
                              np.full(int((clip == row).sum()), side_px, np.float32))
             for row in range(len(scenes))]
    share = scenes.share[clip, tick][:, None]
    right = plurality(faces.votes)[scenes.faces[clip]]
    return np.concatenate(parts), right[:, 0] * (1 - share) + right[:, 1] * share


def fit_temperature(
    logits: npt.NDArray[np.floating], right: npt.NDArray[np.floating],
    weight: npt.NDArray[np.floating],
) -> float:
    """
    Return the temperature in [0.2, 5] with the least cross-entropy.

    Args:
        logits: [N,K].
        right: [N,K], how right each class is; rows that sum to 0 teach nothing.
        weight: [N].

    """
    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        each = right.sum(1) * _log_sum(scaled) - (right * scaled).sum(1)
        return float((each * weight).sum())

    low, high = np.log(0.2), np.log(5.0)
    ratio = (np.sqrt(5) - 1) / 2
    while high - low > 1e-4:  # golden section: the loss has one minimum
        left, middle = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, middle) if loss(left) < loss(middle) else (left, high)
    return float(np.exp((low + high) / 2))


def _log_sum(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    top = values.max(1, keepdims=True)
    return np.asarray(np.log(np.exp(values - top).sum(1)) + top[:, 0], np.float64)
