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
A server whose encoder sleeps on a Ray cluster: it stands for a GPU, which was not at hand.

    python -m bench.server.sleeper RAY_ADDRESS REPLICAS

What a GPU would do for so long costs this machine nothing, so that the way to it and back is what
limits the server: one call per batch, the replicas in parallel.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_server import logs, server
from cloud_server.config import DEFAULT_MODEL, ServerConfig
from cloud_server.engine.ray import RayEngine
from cloud_server.model_info import ModelInfo

SLEEP_MS = 50.0
MAX_BATCH = 8
# Of one replica: it sleeps.
CPUS = 0.1

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sleeper:
    """Makes itself an encoder in each replica; its features are zero."""

    feature_size: int
    replicas: int

    def __call__(self) -> Sleeper:
        """Return the encoder of a replica."""
        return self

    def encode(self, luma: NDArray[np.uint8]) -> Floats:
        """Sleep, whatever the size of the batch."""
        time.sleep(SLEEP_MS / 1000)
        return np.zeros((len(luma), self.feature_size), np.float32)


def main() -> None:
    """Serve until a signal comes."""
    # By its name as the replicas can import it, and not as this process's __main__.
    from bench.server.sleeper import Sleeper as Importable

    address, replicas = sys.argv[1], int(sys.argv[2])
    config = ServerConfig(
        port=0, engine='ray', ray_address=address, ray_min_replicas=replicas,
        ray_max_replicas=replicas, max_batch=MAX_BATCH, deadline_ms=10_000, max_queue_ms=10_000,
        full_at_load=100, max_frame_rate_fps=100_000, log_level='warning',
    )
    logs.setup(config)
    engine = RayEngine(
        DEFAULT_MODEL, address=address, min_replicas=replicas, max_replicas=replicas, cpus=CPUS,
        max_batch=MAX_BATCH,
        encoder=Importable(ModelInfo.load(DEFAULT_MODEL).feature_size, replicas),
    )
    try:
        asyncio.run(server.serve(config, engine))
    finally:
        engine.close()


if __name__ == '__main__':
    main()
