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
`make bench-server`: one server, many robots; writes bench/results/server.json and its pages.

    python -m bench.server                      all, in about 25 minutes
    python -m bench.server --only curve,ray     some; the rest stays as it was measured before
    python -m bench.server --only soak          ten minutes more (`make soak`)
    QUICK=1 python -m bench.server              two minutes: is anything broken?
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from bench.server import (
    bounds,
    capacity,
    curve,
    faults,
    idle,
    machine,
    overload,
    ray_scaling,
    report,
    resnet50,
    restart,
    soak,
)
from bench.server.capacity import Model
from cloud_server.config import DEFAULT_MODEL
from cloud_server.load.faults import FAULTS
from cloud_server.training.speed import processor

RESNET50 = machine.OUT.parent / 'resnet50'


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    trials: int
    duration_s: float
    loads: tuple[float, ...]
    idle_streams: int
    fault_kinds: tuple[str, ...]
    restart_s: float
    kill_run_s: float
    soak_s: float


FULL = Sizes(
    trials=5, duration_s=8.0, loads=(0.1, 0.25, 0.5, 0.65, 0.8, 0.95, 1.0, 1.25, 1.5, 2.0),
    idle_streams=1000, fault_kinds=tuple(FAULTS), restart_s=14.0,
    kill_run_s=15.0, soak_s=600.0,
)
QUICK = Sizes(
    trials=1, duration_s=2.5, loads=(0.8,), idle_streams=200,
    fault_kinds=('bad-image',), restart_s=8.0, kill_run_s=8.0, soak_s=20.0,
)


class Bench:
    """The scenes in their order; each adds what it measured."""

    def __init__(self, sizes: Sizes, results: dict[str, Any]) -> None:
        self.results = results
        self._sizes = sizes
        self._default = Model('default', DEFAULT_MODEL, 'fp32', 48)
        self.scenes: dict[str, Callable[[], None]] = {
            'over_raw': self._over_raw,
            'cross_robot': self._cross_robot,
            'curve': self._curve,
            'overload': self._overload,
            'idle': self._idle,
            'faults': self._faults,
            'restart': self._restart,
            'ray': self._ray,
            'soak': self._soak,
        }

    def _over_raw(self) -> None:
        sizes = self._sizes
        if not (RESNET50 / 'model.json').exists():
            resnet50.write(RESNET50)
        heavy = Model('resnet50_int8', RESNET50, 'int8', resnet50.INPUT_SIZE_PX)
        self.results['over_raw'] = {
            model.name: capacity.over_raw(model, sizes.trials, sizes.duration_s)
            for model in (self._default, heavy)
        }

    def _cross_robot(self) -> None:
        sizes = self._sizes
        self.results['cross_robot'] = capacity.cross_robot_gain(
            self._default, sizes.trials, sizes.duration_s
        )

    def _curve(self) -> None:
        sizes = self._sizes
        # Measured anew: the machine may be faster or slower than some minutes ago.
        served = capacity.end_to_end(self._default, 'capacity', sizes.duration_s)
        self.results['capacity_per_s'] = served['frames_per_s']
        self.results['curve'] = curve.measure(
            self._default, served['frames_per_s'], sizes.loads, sizes.duration_s
        )

    def _overload(self) -> None:
        sizes = self._sizes
        self.results['overload'] = overload.measure(
            self._default, sizes.trials, sizes.duration_s
        )

    def _idle(self) -> None:
        sizes = self._sizes
        self.results['idle'] = idle.measure(
            self._default, self._capacity_per_s(), sizes.idle_streams, sizes.trials,
            sizes.duration_s,
        )

    def _faults(self) -> None:
        sizes = self._sizes
        measured = faults.measure(
            self._default, self._capacity_per_s(), min(3, sizes.trials),
            min(4.0, sizes.duration_s), sizes.fault_kinds,
        )
        self.results['faults'] = {**self.results.get('faults', {}), **measured}

    def _restart(self) -> None:
        # Both cores are the workers', and the load generator's: half of one is plenty.
        rate_fps = 0.4 * self._capacity_per_s() / restart.ROBOTS
        self.results['restart'] = restart.measure(rate_fps, self._sizes.restart_s)

    def _ray(self) -> None:
        self.results['ray'] = ray_scaling.measure(
            self._sizes.duration_s, self._sizes.kill_run_s
        )

    def _soak(self) -> None:
        self.results['soak'] = soak.measure(
            self._default, self._capacity_per_s(), self._sizes.soak_s
        )

    def _capacity_per_s(self) -> float:
        if 'capacity_per_s' not in self.results:
            served = capacity.end_to_end(self._default, 'capacity', self._sizes.duration_s)
            self.results['capacity_per_s'] = served['frames_per_s']
        return float(self.results['capacity_per_s'])


def main() -> int:
    """Run the bench; return 1 where a bound of the quick one is missed."""
    parser = argparse.ArgumentParser(prog='python -m bench.server')
    parser.add_argument('--only', help='names of scenes, parted by commas')
    parser.add_argument('--faults', help='kinds of faults, parted by commas, instead of all')
    parser.add_argument('--report', action='store_true', help='only judge what was run before')
    args = parser.parse_args()
    quick = os.environ.get('QUICK', '') not in ('', '0')
    places = report.QUICK if quick else report.FULL
    before = {} if quick or not places.json.exists() else json.loads(
        places.json.read_text(encoding='utf-8'))['measured']
    sizes = QUICK if quick else FULL
    if args.faults:
        sizes = replace(sizes, fault_kinds=tuple(args.faults.split(',')))
    bench = Bench(sizes, before)
    chosen = _chosen(bench, args.only, quick)
    if unknown := set(chosen) - set(bench.scenes):
        parser.error(f'--only: no scene {", ".join(unknown)}; there are {", ".join(bench.scenes)}')
    if not machine.cores().are_apart:
        print('bench-server: one core only: server and load generator share it', file=sys.stderr)
    if not args.report:
        _play(bench, chosen)
        bench.results['about'] = _about()
    checked = bounds.check(bench.results, bounds.QUICK if quick else bounds.FULL)
    report.write(bench.results, checked, places)
    for bound in checked:
        if bound.met is not None:
            mark = 'met   ' if bound.met else 'MISSED'
            print(f'{mark} {bound.name}: {bound.measured:.4g} '
                  f'({bound.sense} {bound.limit:g} {bound.unit})')
    missed = [bound for bound in checked if bound.met is False]
    return 1 if quick and missed else 0


def _chosen(bench: Bench, only: str | None, quick: bool) -> list[str]:
    if only:
        return only.split(',')
    # Ten minutes of soaking have a command of their own, and in seconds nothing piles up.
    return [name for name in bench.scenes if name != 'soak']


def _play(bench: Bench, chosen: list[str]) -> None:
    began_s = time.monotonic()
    for number, name in enumerate(chosen):
        print(f'bench-server {number + 1}/{len(chosen)}: {name} '
              f'({time.monotonic() - began_s:.0f} s so far)', file=sys.stderr, flush=True)
        bench.scenes[name]()
    print(f'bench-server: {time.monotonic() - began_s:.0f} s', file=sys.stderr)


def _about() -> dict[str, object]:
    """Return what the figures were measured with."""
    return {
        'date': datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        'python': platform.python_version(),
        'processor': f'{processor()}, {os.cpu_count()} cores',
        **{name: metadata.version(name) for name in ('grpcio', 'onnxruntime', 'ray')},
    }


if __name__ == '__main__':
    sys.exit(main())
