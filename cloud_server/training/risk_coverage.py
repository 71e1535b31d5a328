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
What it costs to answer more often: risk against coverage, as the `unknown` threshold moves.

Coverage is the share of faces that get a label, risk the share of those whose label is wrong
(El-Yaniv and Wiener, On the Foundations of Noise-free Selective Classification, JMLR 11, 2010).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def risk_coverage(
    confidence: npt.NDArray[Any], right: npt.NDArray[Any]
) -> tuple[Floats, Floats]:
    """
    Return the curve over all thresholds, from the surest faces to all of them.

    Args:
        confidence: [N] of the top class.
        right: [N], 1 where it is right, 0 where not, between where several labels share.

    Returns:
        coverage [M] in (0, 1], rising to 1, and risk [M] in 0..1: one point for each confidence
        that occurs, since no threshold tells equally sure faces apart. Both empty for no faces.

    """
    order = np.argsort(-np.asarray(confidence), kind='stable')
    sure = np.asarray(confidence)[order]
    last = np.flatnonzero(np.diff(sure, append=-np.inf))
    named = np.arange(1, len(sure) + 1)[last]
    hits = np.cumsum(np.asarray(right, np.float64)[order])[last]
    return named / max(len(sure), 1), 1 - hits / named


def threshold_at(coverage: float, confidence: npt.NDArray[Any]) -> float:
    """
    Return the highest threshold that leaves at least this share of the faces with a label.

    Args:
        coverage: in (0, 1].
        confidence: [N]; a face keeps its label where it is not below the threshold.

    Raises:
        ValueError: another coverage, or no faces.

    """
    if not 0 < coverage <= 1:
        raise ValueError(f'coverage is {coverage}, expected above 0 and at most 1')
    if not len(confidence):
        raise ValueError('no faces, expected at least one')
    # A billionth less, so that 0.9 of 10 faces are 9 and not, by rounding, 10.
    fewest = math.ceil(coverage * len(confidence) - 1e-9)
    return float(np.sort(np.asarray(confidence))[len(confidence) - fewest])


def accuracy_at(
    coverage: float, confidence: npt.NDArray[Any], right: npt.NDArray[Any]
) -> float:
    """Return the share of right labels, 0..1, among the surest faces of this share of all."""
    shown = np.asarray(confidence) >= threshold_at(coverage, confidence)
    return float(np.asarray(right, np.float64)[shown].mean())


def thinned(curve: tuple[Floats, Floats], points: int = 100) -> dict[str, list[float]]:
    """Return a curve as JSON has it, with as many points at most, evenly taken, the last kept."""
    coverage, risk = curve
    rows = np.unique(np.linspace(0, len(coverage) - 1, min(points, len(coverage))).round())
    taken = rows.astype(int)
    return {'coverage': np.round(coverage[taken], 4).tolist(),
            'risk': np.round(risk[taken], 4).tolist()}
