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
The server as `ferros-cloud serve` runs it, with a note of each batch: when, how many, how long.

    python -m bench.server.recorded BATCHES.txt [flags of serve]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_server import config as settings
from cloud_server import logs, server
from cloud_server.engine import Engine, Floats
from cloud_server.model_info import ModelInfo


class Batch(NamedTuple):
    """One batch of the encoder."""

    # Of CLOCK_MONOTONIC, when it was done.
    ended_ns: int
    faces: int
    busy_ns: int


class RecordingEngine:
    """An engine whose batches are written down."""

    def __init__(self, engine: Engine, record: IO[str]) -> None:
        self._engine = engine
        self._record = record

    @property
    def info(self) -> ModelInfo:
        """Return the engine's."""
        return self._engine.info

    @property
    def kind(self) -> str:
        """Return the engine's."""
        return self._engine.kind

    @property
    def device(self) -> str:
        """Return the engine's."""
        return self._engine.device

    @property
    def slots(self) -> int:
        """Return the engine's."""
        return self._engine.slots

    @property
    def batch_ms(self) -> int:
        """Return the engine's."""
        return self._engine.batch_ms

    def encode(self, luma: NDArray[np.uint8]) -> Floats:
        """Encode, and write down how long it took."""
        began_ns = time.monotonic_ns()
        features = self._engine.encode(luma)
        ended_ns = time.monotonic_ns()
        self._record.write(f'{ended_ns} {len(luma)} {ended_ns - began_ns}\n')
        return features

    def step(
        self, features: Floats, interval_s: Floats, face_size_px: Floats, h: Floats, c: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Take one step in time."""
        return self._engine.step(features, interval_s, face_size_px, h, c)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


def read(path: Path, from_ns: int = 0, to_ns: int = 2**63) -> list[Batch]:
    """Return the batches that ended within a time; call it when the server has ended."""
    lines = (line.split() for line in path.read_text().splitlines())
    batches = [Batch(*map(int, fields)) for fields in lines]
    return [batch for batch in batches if from_ns <= batch.ended_ns <= to_ns]


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument('record', type=Path)
    settings.add_arguments(parser)
    args = parser.parse_args()
    config = settings.from_arguments(args, {})
    logs.setup(config)
    engine = server.load_engine(config)
    with open(args.record, 'w', encoding='utf-8') as record:
        asyncio.run(server.serve(config, RecordingEngine(engine, record)))
    engine.close()
    sys.stdout.flush()
    os._exit(0)


if __name__ == '__main__':
    main()
