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
"""Where a batch is computed: the interface that service, session and batcher know."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloud_server.model_info import ModelInfo

Floats = NDArray[np.float32]


class Engine(Protocol):
    """Computes one model; called from worker threads, several at a time."""

    @property
    def info(self) -> ModelInfo:
        """Return the description of the model."""

    @property
    def kind(self) -> str:
        """Return what computes, e.g. 'onnx'."""

    @property
    def device(self) -> str:
        """Return where it computes, e.g. 'CPU'."""

    def encode(self, luma: NDArray[np.uint8]) -> Floats:
        """
        Encode faces, without any state.

        Args:
            luma: [N, S, S] with S = info.input_size_px, N >= 1.

        Returns:
            The features [N, info.feature_size].

        """

    def step(
        self, features: Floats, interval_s: Floats, face_size_px: Floats, h: Floats, c: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """
        Take one step of N faces in time.

        Args:
            features: [N, info.feature_size].
            interval_s: [N], seconds since each face's previous frame, 0 after a reset.
            face_size_px: [N], side of each crop as it was sent.
            h: [N, info.state_size], zero after a reset.
            c: [N, info.state_size], zero after a reset.

        Returns:
            logits [N, len(info.labels)] and the next h and c.

        """
