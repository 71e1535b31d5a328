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
The raw loop: decode, encoder and LSTM step on given batches, without gRPC, on one core.

    python -m bench.server.raw '{"model": ..., "precision": ..., "face_size_px": ..., ...}'
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2

from bench.server import machine
from cloud_server.decode import ImageLimits
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.load import faces
from cloud_server.load.plan import Plan
from cloud_server.recognizer import EncodedCrop, Recognizer

FRAME_INTERVAL_NS = 66_000_000
WARM_UP_BATCHES = 10


def measure(
    model: Path, precision: str, face_size_px: int, sizes: Sequence[int], duration_s: float
) -> float:
    """
    Return the frames per second of the loop on the server's core.

    Args:
        model: a model folder.
        precision: of its encoder.
        face_size_px: side of the crops.
        sizes: faces of each batch, as the server computed them.
        duration_s: how long the loop runs.

    """
    document = {
        'model': str(model), 'precision': precision, 'face_size_px': face_size_px,
        'sizes': list(sizes), 'duration_s': duration_s,
    }
    with machine.child(
        'bench.server.raw', [], machine.cores().server, subprocess.PIPE,
        {'FERROS_RAW_LOOP': json.dumps(document)},
    ) as process:
        stdout, stderr = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f'the raw loop failed: {stderr[-2000:]}')
    return float(stdout)


def loop(document: dict[str, Any]) -> float:
    """Return the frames per second of the loop here and now."""
    cv2.setNumThreads(1)
    side_px = document['face_size_px']
    images = faces.crops(Plan('127.0.0.1:1', sizes=((side_px, 1.0),)))[side_px]
    engine = OnnxEngine(Path(document['model']), 1, document['precision'])
    recognizer = Recognizer(engine, ImageLimits(65_536, 262_144))
    sizes = document['sizes']
    people = [recognizer.new_face() for _ in range(max(sizes))]
    pictures = cycle(images)
    began_s, frames, stamp_ns = 0.0, 0, 0
    for number, size in enumerate(cycle(sizes)):
        if number == WARM_UP_BATCHES:
            began_s, frames = time.perf_counter(), 0
        elif number > WARM_UP_BATCHES and time.perf_counter() - began_s > document['duration_s']:
            break
        stamp_ns += FRAME_INTERVAL_NS
        recognizer.recognize_encoded([
            EncodedCrop(next(pictures), 'webp', face, stamp_ns, FRAME_INTERVAL_NS // 1_000_000)
            for face in people[:size]
        ])
        frames += size
    return frames / (time.perf_counter() - began_s)


if __name__ == '__main__':
    import os

    print(loop(json.loads(os.environ['FERROS_RAW_LOOP'])))
    sys.stdout.flush()
