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
"""How near the server comes to the speed of its model, and what batches across robots bring."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.server import driver, raw, under_test

ROBOTS = 16


@dataclass(frozen=True)
class Model:
    """A model that is served."""

    name: str
    folder: Path
    precision: str
    # Side of the crops that robots send: what the model can use.
    face_size_px: int

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of a server of it, on one core."""
        return {'model': self.folder, 'precision': self.precision, 'slots': 1}


def end_to_end(model: Model, name: str, duration_s: float, **settings: Any) -> dict[str, Any]:
    """Return frames per second through the whole server under 16 saturating robots."""
    with under_test.serving(name, {**model.settings, **settings}) as server:
        result = driver.drive(
            server.address, robots=ROBOTS, saturate=True, duration_s=duration_s, warm_up_s=2.0,
            sizes=((model.face_size_px, 1.0),),
        )
        ended_ns = under_test.now_ns()
        server.stop()
        batches = server.batches(ended_ns - round(1e9 * duration_s), ended_ns)
    sizes = [batch.faces for batch in batches]
    return {
        'frames_per_s': round(result.ok_per_s, 1),
        'p99_ms': result.from_sent.p99_ms,
        'batch_faces_mean': round(statistics.fmean(sizes), 2),
        'sizes': sizes,
        'generator_cpu_share': result.generator.cpu_share,
    }


def over_raw(model: Model, trials: int, duration_s: float) -> dict[str, Any]:
    """Return the server's speed over that of the raw loop on the same batches, trial by trial."""
    rows = []
    for trial in range(trials):
        served = end_to_end(model, f'capacity_{model.name}', duration_s)
        sizes = served.pop('sizes')
        loop_per_s = raw.measure(
            model.folder, model.precision, model.face_size_px, sizes, duration_s
        )
        rows.append({
            'trial': trial, **served, 'raw_frames_per_s': round(loop_per_s, 1),
            'ratio': round(served['frames_per_s'] / loop_per_s, 3),
        })
    return {
        'ratio': statistics.median(row['ratio'] for row in rows),
        'frames_per_s': statistics.median(row['frames_per_s'] for row in rows),
        'raw_frames_per_s': statistics.median(row['raw_frames_per_s'] for row in rows),
        'batch_faces_mean': statistics.median(row['batch_faces_mean'] for row in rows),
        'trials': rows,
    }


def cross_robot_gain(model: Model, trials: int, duration_s: float) -> dict[str, Any]:
    """Return the capacity with batches across robots over that with one robot in a batch."""
    rows = []
    for trial in range(trials):
        together = end_to_end(model, 'together', duration_s)
        alone = end_to_end(model, 'alone', duration_s, max_batch=1)
        rows.append({
            'trial': trial,
            'together_per_s': together['frames_per_s'],
            'alone_per_s': alone['frames_per_s'],
            'gain': round(together['frames_per_s'] / alone['frames_per_s'], 3),
        })
    return {'gain': statistics.median(row['gain'] for row in rows), 'trials': rows}
