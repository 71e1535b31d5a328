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
"""One replica, two replicas, and one that is killed: the server in front of a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from bench.server import driver, machine, sleeper
from bench.server.under_test import StartError
from cloud_server.load.result import Result

# Enough in flight that every replica has a full batch and another one waiting.
ROBOTS = 32
FACES = 2
WINDOW = 4
# Of what two replicas carry, while one of them is killed.
LOAD = 0.4
KILL_AT_S = 4.0
# Answers that took so many times longer than usual are a sign of the kill as well.
SLOW = 2.0
# What the cluster calls a replica of ours, as its process's title shows it.
REPLICA = 'ray::ServeReplica:ferros-'


class Cluster(NamedTuple):
    """A Ray cluster on this machine."""

    address: str
    # What processes that use it need in their environment.
    access: dict[str, str]


def measure(duration_s: float, kill_run_s: float) -> dict[str, Any]:
    """Return frames per second with one and two replicas, and what a killed one cost."""
    machine.OUT.mkdir(parents=True, exist_ok=True)
    scaling: list[dict[str, Any]] = []
    with open(machine.OUT / 'ray.log', 'w', encoding='utf-8') as log, _cluster(log) as cluster:
        for replicas in (1, 2):
            with _server(cluster, replicas, log) as address:
                result = driver.drive(
                    address, robots=ROBOTS, faces=FACES, saturate=True, window=WINDOW,
                    duration_s=duration_s, warm_up_s=2.0,
                )
                scaling.append({
                    'replicas': replicas, 'frames_per_s': round(result.ok_per_s, 1),
                    'answers': result.frames.answers,
                })
                if replicas == 2:
                    killed = _kill_one(address, LOAD * result.ok_per_s, kill_run_s)
    one, two = (row['frames_per_s'] for row in scaling)
    return {
        'sleep_ms': sleeper.SLEEP_MS, 'max_batch': sleeper.MAX_BATCH, 'scaling': scaling,
        'speedup': round(two / one, 3), **killed,
    }


def _kill_one(address: str, rate_per_s: float, duration_s: float) -> dict[str, Any]:
    with driver.begun(
        address, robots=ROBOTS, faces=FACES, rate_fps=rate_per_s / ROBOTS,
        duration_s=duration_s, warm_up_s=1.0,
    ) as driving:
        time.sleep(KILL_AT_S)
        os.kill(max(_replicas()), signal.SIGKILL)
        result = driver.finish(driving)
    return {
        'frames': result.whole_run.sent,
        'answers': result.whole_run.answers,
        'unanswered': sum(result.whole_run.unanswered.values()),
        'recovery_s': _trouble_s(result), 'protocol_errors': result.protocol_errors,
    }


def _trouble_s(result: Result) -> float:
    """Return how long it was from the first to the last sign of the kill in what robots saw."""
    timeline = result.timeline
    steps = {
        step for outcome, counts in timeline.outcomes.items() if outcome != 'OK'
        for step, count in enumerate(counts) if count
    }
    usual_ms = statistics.median(p99 for p99 in timeline.p99_ms if p99 is not None)
    steps |= {
        step for step, p99 in enumerate(timeline.p99_ms)
        if p99 is not None and p99 > SLOW * usual_ms
    }
    return (max(steps) - min(steps) + 1) * timeline.step_s if steps else 0.0


def _replicas() -> list[int]:
    """Return the processes of replicas; those that sleep are the youngest."""
    found = []
    for folder in Path('/proc').iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                title = (folder / 'cmdline').read_bytes().decode(errors='replace')
                if title.startswith(REPLICA):
                    found.append(int(folder.name))
    return found


@contextlib.contextmanager
def _cluster(log: IO[str]) -> Iterator[Cluster]:
    """Run `ferros-cloud ray up`, as a user would."""
    environment = {'PYTHONPATH': str(machine.ROOT), 'PYTHONUNBUFFERED': '1'}
    with machine.child(
        'cloud_server', ['ray', 'up', '--num-cpus', '2', '--max-replicas', '1'], None, log,
        environment,
    ) as process:
        assert process.stdout is not None
        said = ''
        for line in process.stdout:
            said += line
            if ' serve --engine ray' in line:
                break
        else:
            raise StartError(f'Ray did not start: {said}{Path(log.name).read_text()[-2000:]}')
        yield _parsed(line)
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _parsed(line: str) -> Cluster:
    """Return what the line for the other terminal says."""
    words = line.split()
    access = dict(word.split('=', 1) for word in words if word.startswith('RAY_'))
    return Cluster(words[words.index('--ray-address') + 1], access)


@contextlib.contextmanager
def _server(cluster: Cluster, replicas: int, log: IO[str]) -> Iterator[str]:
    access: Mapping[str, str] = {'PYTHONPATH': str(machine.ROOT), **cluster.access}
    with machine.child(
        'bench.server.sleeper', [cluster.address, str(replicas)], machine.cores().server, log,
        access,
    ) as process:
        yield _address(process, log)
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _address(process: subprocess.Popen[str], log: IO[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith('listening on '):
            return line.removeprefix('listening on ').strip()
    raise StartError(f'the server did not start: {Path(log.name).read_text()[-2000:]}')
