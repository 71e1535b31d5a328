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
"""Where a batch is computed: the interface that the server knows, and how an engine is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloud_server.config import ServerConfig
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

    @property
    def slots(self) -> int:
        """Return how many batches at a time keep it busy."""

    @property
    def batch_ms(self) -> int:
        """Return how long a batch should take at most, where the settings do not say."""

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

    def close(self) -> None:
        """Let go of what it holds; nothing is computed after."""


def load(config: ServerConfig) -> Engine:
    """
    Load the engine that the settings name; only its own libraries are imported.

    Raises:
        ModelError: the model cannot be served.
        EngineError: the engine cannot be had.

    """
    try:
        return _LOADERS[config.engine](config)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        extra = _EXTRAS[error.name]
        raise EngineError(
            f'the engine {config.engine} needs the Python module {error.name!r}:'
            f" pip install 'ferros[{extra}]'"
        ) from None


class EngineError(Exception):
    """An engine that cannot be had: a library, a device or a cluster is missing."""


def _load_onnx(config: ServerConfig) -> Engine:
    from cloud_server.engine.onnx import OnnxEngine

    return OnnxEngine(config.model, config.threads, config.precision)


def _load_torch(config: ServerConfig) -> Engine:
    from cloud_server.engine.torch import TorchEngine

    return TorchEngine(
        config.model,
        config.precision,
        device=config.device,
        threads=config.threads,
        max_batch=config.max_batch,
    )


def _load_ray(config: ServerConfig) -> Engine:
    from cloud_server.engine.ray import RayEngine

    return RayEngine(
        config.model,
        config.precision,
        address=config.ray_address,
        min_replicas=config.ray_min_replicas,
        max_replicas=config.ray_max_replicas,
        cpus=config.ray_cpus,
        gpus=config.ray_gpus,
        max_batch=config.max_batch,
        threads=config.threads,
    )


_LOADERS: dict[str, Callable[[ServerConfig], Engine]] = {
    'onnx': _load_onnx,
    'torch': _load_torch,
    'ray': _load_ray,
}
# Modules that only some engines need, and the extra that brings them.
_EXTRAS = {'torch': 'torch', 'safetensors': 'torch', 'ray': 'ray'}
