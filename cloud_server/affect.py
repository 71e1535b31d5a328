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
"""From the distribution over labels to valence and arousal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cloud_server.model_info import ModelInfo

# Pleasure and arousal, each -1..1, as people rated the words: Russell and Mehrabian, Evidence for
# a three-factor theory of emotions, Journal of Research in Personality 11 (1977) 273-294. Neutral
# is not among their words: it is the origin of their scales by definition.
RUSSELL_MEHRABIAN_1977 = {
    'neutral': (0.0, 0.0),
    'happiness': (0.81, 0.51),
    'surprise': (0.40, 0.67),
    'sadness': (-0.63, -0.27),
    'anger': (-0.51, 0.59),
    'disgust': (-0.60, 0.35),
    'fear': (-0.64, 0.60),
}


def valence_arousal(
    probabilities: Sequence[float] | NDArray[np.float32], info: ModelInfo
) -> tuple[float, float]:
    """
    Return where a distribution lies between unpleasant and pleasant, calm and excited.

    It is the mean of the labels' places, weighted by the probabilities: no new measurement, but
    the distribution in other words, and no surer than it. A face that is half happy and half sad
    is as near the origin as a neutral one.

    Args:
        probabilities: [len(info.served_labels)], sum 1.
        info: the model's description.

    Returns:
        Valence and arousal, each -1..1; both NaN where the model does not say where its labels
        lie.

    """
    if not info.affect:
        return math.nan, math.nan
    places = np.array([info.affect[label] for label in info.served_labels])
    valence, arousal = np.asarray(probabilities, np.float64) @ places
    return float(valence), float(arousal)


def known_places(labels: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the places of these labels, or nothing where the source lacks one of them."""
    if not set(labels) <= set(RUSSELL_MEHRABIAN_1977):
        return {}
    return {label: RUSSELL_MEHRABIAN_1977[label] for label in labels}
