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
`make bench-robot`: what the robot half costs and how it behaves; bench/results/robot.json.

    python -m bench.robot                        all, in under five minutes
    python -m bench.robot --only frame,executor  some; the rest stays as it was measured before
    QUICK=1 python -m bench.robot                less than a minute: is anything broken?
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.robot import bounds, report
from cloud_server.training.speed import processor
from demo import processes

# Each in a process of its own, so that none finds what another one left behind.
SCENES = ('frame', 'identities', 'executor', 'fallback')
MODULES = {
    'frame': 'bench.robot.frame_cost',
    'identities': 'bench.robot.identities',
    'executor': 'bench.robot.executor_block',
    'fallback': 'bench.robot.fallback',
}


def main() -> int:
    """Run the bench; return 1 where a bound of the quick one is missed."""
    parser = argparse.ArgumentParser(prog='python -m bench.robot')
    parser.add_argument('--only', help='names of scenes, parted by commas')
    parser.add_argument('--report', action='store_true', help='only judge what was run before')
    args = parser.parse_args()
    quick = os.environ.get('QUICK', '') not in ('', '0')
    places = report.QUICK if quick else report.FULL
    chosen = args.only.split(',') if args.only else list(SCENES)
    if unknown := set(chosen) - set(SCENES):
        parser.error(f'--only: no scene {", ".join(unknown)}; there are {", ".join(SCENES)}')
    measured = {}
    if places.json.exists() and (args.report or not quick):
        measured = json.loads(places.json.read_text(encoding='utf-8'))['measured']
    if not args.report:
        _play(chosen, quick, measured)
        measured['about'] = _about()
    checked = bounds.check(measured, bounds.QUICK if quick else bounds.FULL)
    report.write(measured, checked, places)
    for bound in checked:
        print(bound.line)
    print(f'see {places.json} and {places.document}')
    return int(quick and any(bound.met is False for bound in checked))


def _play(chosen: list[str], quick: bool, measured: dict[str, Any]) -> None:
    started_s = time.monotonic()
    for number, name in enumerate(chosen, 1):
        print(
            f'[{time.monotonic() - started_s:4.0f} s] {number} of {len(chosen)}: {name}',
            flush=True,
        )
        measured[name] = _run(MODULES[name], quick)


def _run(module: str, quick: bool) -> Any:
    """Run a scene in a process of its own; return what it found."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / 'result.json'
        command = [sys.executable, '-m', module, '--json', str(result)]
        subprocess.run(
            command + ['--quick'] * quick,
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=processes.ROOT,
        )
        return json.loads(result.read_text())


def _about() -> dict[str, Any]:
    return {
        'date': datetime.date.today().isoformat(),
        'processor': processor(),
        'cores': len(os.sched_getaffinity(0)),
        'python': platform.python_version(),
        'opencv': metadata.version('opencv-python-headless'),
        'rclpy': metadata.version('ros-jazzy-rclpy'),
    }


if __name__ == '__main__':
    sys.exit(main())
