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
What runs on the machines of a Ray cluster: a replica of the encoder, which keeps no state.

An encoder travels as its file, inside the settings of the deployment, which the cluster keeps: so
a replica can be started on any machine at any time, whether or not the server that deployed it
runs on. Ray is not imported here; it wraps the class.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cloud_server.model_info import ENCODER_FILE, ENCODER_FILES, TEMPORAL_FILE, ModelError

Floats = NDArray[np.float32]

# Batches that a replica with a GPU works on: while one is computed, the next is copied.
GPU_BATCHES = 2


class Encoder(Protocol):
    """What a replica computes with; called from `Scale.at_once` threads at a time."""

    def encode(self, luma: NDArray[np.uint8]) -> Floats:
        """Encode faces [N, S, S] to features [N, F]."""


class Scale(NamedTuple):
    """How an encoder is spread over a cluster."""

    min_replicas: int
    max_replicas: int
    # Of one replica.
    cpus: float
    gpus: float
    # Batches that one replica computes at one time.
    at_once: int

    @classmethod
    def of(
        cls, min_replicas: int, max_replicas: int, cpus: float, gpus: float, threads: int
    ) -> Scale:
        """Return the scale at which replicas that compute a batch on so many threads are busy."""
        at_once = GPU_BATCHES if gpus else max(1, int(cpus // threads))
        return cls(min_replicas, max_replicas, cpus, gpus, at_once)


@dataclass(frozen=True)
class EncoderFile:
    """
    An encoder as bytes, that becomes one wherever it is called.

    Attributes:
        engine: onnx, or torch.
        device: where torch computes; onnx does on the CPU.
        model_json: text of the model folder's model.json.
        encoder: bytes of the graph or of the weights.
        sha256: hex digest of `encoder`.
        temporal: bytes of the temporal half's graph, which the onnx engine wants beside; empty
            with torch.
        precision: of the encoder.
        threads: cores that one batch may use.
        max_batch: faces in one batch.

    """

    engine: str
    device: str
    model_json: str
    encoder: bytes
    sha256: str
    temporal: bytes
    precision: str
    threads: int
    max_batch: int

    def __call__(self) -> Encoder:
        """
        Load the encoder.

        Raises:
            ModelError: the bytes are not those that were sent, or cannot be computed.
            EngineError: there is no GPU.

        """
        actual = hashlib.sha256(self.encoder).hexdigest()
        if actual != self.sha256:
            raise ModelError(f'the encoder arrived with sha256 {actual}, expected {self.sha256}')
        with tempfile.TemporaryDirectory(prefix='ferros-encoder-') as name:
            return self._load(Path(name))

    def _load(self, folder: Path) -> Encoder:
        if self.engine == 'torch':
            from cloud_server.engine.torch import ENCODER_WEIGHTS, TorchEncoder

            path = folder / ENCODER_WEIGHTS
            path.write_bytes(self.encoder)
            return TorchEncoder(
                path, self.precision, self.device, self.threads, self.max_batch
            )
        from cloud_server.engine.onnx import OnnxEngine

        # A folder of one encoder: whatever its precision, it lies there under the first name.
        (folder / ENCODER_FILE).write_bytes(self.encoder)
        (folder / TEMPORAL_FILE).write_bytes(self.temporal)
        document = json.loads(self.model_json)
        digests = document['sha256']
        document['sha256'] = {
            ENCODER_FILE: digests[ENCODER_FILES[self.precision]],
            TEMPORAL_FILE: digests[TEMPORAL_FILE],
        }
        (folder / 'model.json').write_text(json.dumps(document), encoding='utf-8')
        return OnnxEngine(folder, self.threads)


class Replica:
    """One of the processes that encode batches."""

    def __init__(self, make: Callable[[], Encoder], scale: Scale) -> None:
        self._encoder = make()
        self._scale = scale
        self._workers = ThreadPoolExecutor(scale.at_once, thread_name_prefix='encode')

    async def encode(self, luma: NDArray[np.uint8]) -> Floats:
        """Encode faces [N, S, S] to features [N, F]."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, self._encoder.encode, luma)

    def describe(self) -> tuple[Scale, str]:
        """Return how the deployment is spread, and what computes, e.g. 'CPU'."""
        return self._scale, str(getattr(self._encoder, 'device', 'CPU'))
