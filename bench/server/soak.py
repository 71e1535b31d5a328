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
"""Whether anything piles up while robots come and go, break off and send rubbish."""

from __future__ import annotations

from typing import Any

from bench.server import driver, machine, under_test
from bench.server.capacity import Model

ROBOTS = 12
# Of the capacity, by the good robots.
LOAD = 0.5
# Faulty robots beside them, all the time.
FAULTS = (('disconnect', 3), ('cancel', 3), ('bad-image', 2), ('garbage', 1), ('slow-reader', 1))
# What a process takes in its first minutes (pools, arenas, code) is not a leak.
SETTLED_S = 120.0


def measure(model: Model, capacity_per_s: float, duration_s: float) -> dict[str, Any]:
    """Return the slopes of memory, descriptors and threads of the server over the run."""
    settled_s = min(SETTLED_S, duration_s / 3)
    with under_test.serving('soak', {**model.settings, 'max_connection_age_s': 20}) as server:
        with driver.begun(
            server.address, robots=ROBOTS, rate_fps=LOAD * capacity_per_s / ROBOTS, faces=2,
            sizes=((model.face_size_px, 1.0),), duration_s=duration_s, warm_up_s=1.0,
            faults=FAULTS,
        ) as load:
            samples = machine.watch(server.pid, load.process, 'soak')
            result = driver.finish(load)
        status = server.stop()
    late = [(at_s, usage) for at_s, usage in samples if at_s > settled_s]
    slopes = {
        name: machine.slope_per_min([(at_s, float(getattr(usage, name))) for at_s, usage in late])
        for name in ('rss_mb', 'descriptors', 'threads')
    }
    return {
        'duration_s': duration_s, 'settled_s': settled_s,
        'rss_slope_mb_per_min': round(slopes['rss_mb'], 3),
        'descriptors_slope_per_min': round(slopes['descriptors'], 3),
        'threads_slope_per_min': round(slopes['threads'], 3),
        'rss_mb': [round(usage.rss_mb, 1) for _, usage in samples],
        'at_s': [round(at_s, 1) for at_s, _ in samples],
        'frames': result.whole_run.sent, 'answers': result.whole_run.answers,
        'unanswered': result.whole_run.unanswered,
        'reconnected': result.streams.reconnected, 'states_lost': result.streams.states_lost,
        'protocol_errors': result.protocol_errors,
        'faults': {
            kind: {'answers': fault.frames.answers,
                   'ended': {**fault.streams.refused, **fault.streams.ended},
                   'unexpected': fault.unexpected}
            for kind, fault in result.faults.items()
        },
        'exit_status': status,
    }
