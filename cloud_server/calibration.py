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
"""From logits to the probabilities and the label that an answer carries; numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cloud_server.model_info import UNKNOWN, ModelInfo

Floats = NDArray[np.float32]


def probabilities(logits: Floats, face_size_px: Floats, info: ModelInfo) -> Floats:
    """
    Return the distribution over the served labels.

    Temperature scaling (Guo et al., On Calibration of Modern Neural Networks, ICML 2017):
    softmax(logits / T), with T interpolated linearly between the face sizes it was fitted at, and
    held beyond them, because a face of few pixels deserves less trust. Masked labels are taken out
    before the softmax, so the rest sums to 1.

    Args:
        logits: [N, len(info.labels)].
        face_size_px: [N], side of the crop as it was sent.
        info: the model's description.

    Returns:
        [N, len(info.served_labels)], each row 0..1 with sum 1.

    """
    sizes, temperatures = zip(*info.temperature, strict=True)
    temperature = np.interp(face_size_px, sizes, temperatures)
    served = logits[:, list(info.served_indices)].astype(np.float64) / temperature[:, None]
    weights = np.exp(served - served.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def label(probabilities: Floats, info: ModelInfo) -> tuple[str, float]:
    """
    Return the label of one distribution and the confidence in it.

    Args:
        probabilities: [len(info.served_labels)], sum 1.
        info: the model's description.

    Returns:
        The top label, or `unknown` where its probability is below info.unknown_below; and that
        probability, 0..1, in both cases.

    """
    top = int(np.argmax(probabilities))
    confidence = float(probabilities[top])
    if confidence < info.unknown_below:
        return UNKNOWN, confidence
    return info.served_labels[top], confidence
