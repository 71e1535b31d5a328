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
How far a figure could have come out differently: the bootstrap over faces.

A resample draws as many faces as there are, with replacement (Efron, The Annals of Statistics 7,
1979). Faces that count alike are interchangeable, so what is drawn is how many of each kind come:
a multinomial, which is the same and thousands of times faster. The interval holds the middle
95 % of the resamples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
SEED = 0

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def resamples(counts: Counts, seed: int = SEED) -> Counts:
    """
    Return how many faces of each kind come in each resample: [RESAMPLES, *counts.shape].

    Args:
        counts: how many faces of each kind there are, in any shape; a confusion matrix is one.
        seed: the same seed gives the same resamples.

    Raises:
        ValueError: there is no face.

    """
    total = int(counts.sum())
    if not total:
        raise ValueError('no faces, expected at least one')
    drawn = np.random.default_rng(seed).multinomial(
        total, counts.ravel() / total, size=RESAMPLES)
    return np.asarray(drawn.reshape(RESAMPLES, *counts.shape), np.int64)


def interval(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Return the bounds of the middle 95 % of a figure's values in the resamples [R]."""
    low, high = np.quantile(values, (0.025, 0.975))
    return round(float(low), 5), round(float(high), 5)
