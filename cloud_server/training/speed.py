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
How fast the encoder is on this processor, beside how fast its core multiplies matrices.

Faces per second mean little without the core they were measured on. So the fastest that numpy, and
torch where it is installed, multiply float32 matrices on one thread of it is measured before and
after: a yardstick of the core, and of other work on it, not a ceiling (neither uses the widest
registers of every processor, ONNX Runtime may).
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cloud_server.engine.onnx import OnnxEngine

BATCHES = (1, 8, 32)
MAIN_BATCH = 8
FACES = 2400  # that pass at each batch size
GEMM_SIDES = (256, 512, 1024)
GEMM_S = 0.3  # for each: the best of as many runs as fit, so that others on the core matter less

# A process of its own: BLAS asks for its number of threads when numpy is loaded.
_GEMM = """
import sys, time
import numpy as np
try:
    import torch
except ModuleNotFoundError:
    torch = None
else:
    torch.set_num_threads(1)
for side in map(int, sys.argv[2:]):
    rng = np.random.default_rng(0)
    a, b = (rng.random((side, side), np.float32) for _ in range(2))
    for x, y in [(a, b)] + ([(torch.from_numpy(a), torch.from_numpy(b))] if torch else []):
        best, started = 1e9, time.perf_counter()
        while (began := time.perf_counter()) < started + float(sys.argv[1]):
            x @ y
            best = min(best, time.perf_counter() - began)
        print(2 * side**3 / best / 1e9, side)
"""
_ONE_THREAD = ('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS',
               'VECLIB_MAXIMUM_THREADS')


def measure(engine: OnnxEngine, faces: int = FACES) -> dict[str, Any]:
    """Return median and best faces/s at each batch size, and the fastest GEMM before and after."""
    peaks = [gemm_peak()]
    by_batch = {str(batch): _rates(engine, batch, faces) for batch in BATCHES}
    peaks.append(gemm_peak())
    gflops, side = max(peaks)
    return {
        **by_batch[str(MAIN_BATCH)], 'batch': MAIN_BATCH, 'by_batch': by_batch,
        'gemm_gflops': round(gflops, 1), 'gemm_side': side,
        'processor': processor(), 'load_average': round(os.getloadavg()[0], 1),
    }


def _rates(engine: OnnxEngine, batch: int, faces: int) -> dict[str, int]:
    side = engine.info.input_size_px
    luma = np.random.default_rng(0).integers(0, 256, (batch, side, side), np.uint8)
    rates = []
    for _ in tqdm(range(-(-faces // batch)), desc=f'batch {batch}', leave=False):
        began = time.perf_counter()
        engine.encode(luma)
        rates.append(batch / (time.perf_counter() - began))
    return {'faces_per_s_median': round(float(np.median(rates))),
            'faces_per_s_best': round(float(np.max(rates)))}


def gemm_peak() -> tuple[float, int]:
    """Return the most GFLOP/s of one thread multiplying square matrices, and their side."""
    alone = {**os.environ, **dict.fromkeys(_ONE_THREAD, '1')}
    ended = subprocess.run(
        [sys.executable, '-c', _GEMM, str(GEMM_S), *map(str, GEMM_SIDES)], env=alone, check=True,
        capture_output=True, text=True)
    rows = [line.split() for line in ended.stdout.splitlines()]
    return max((float(gflops), int(side)) for gflops, side in rows)


def processor() -> str:
    """Return what the processor calls itself."""
    path = Path('/proc/cpuinfo')
    lines = path.read_text('utf-8').splitlines() if path.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = [f'encoder, {figures["precision"]}, {figures["threads"]} thread(s), '
             f'{figures["processor"]}, load average {figures["load_average"]}',
             f'{"batch":>6}{"faces/s, median":>18}{"best":>8}']
    for batch, rates in figures['by_batch'].items():
        lines.append(f'{batch:>6}{rates["faces_per_s_median"]:>18}{rates["faces_per_s_best"]:>8}')
    lines.append(f'GEMM of numpy or torch on one thread, at best: {figures["gemm_gflops"]} '
                 f'GFLOP/s (float32, {figures["gemm_side"]} x {figures["gemm_side"]})')
    return '\n'.join(lines)
