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
"""The processes of the bench: each on a core of its own, watched from outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = ROOT / 'out' / 'bench' / 'server'
# One thread in every library: what is compared computes on one core.
ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1')
PAGE_BYTES = os.sysconf('SC_PAGE_SIZE')
TICKS_PER_S = os.sysconf('SC_CLK_TCK')
MB = 1e6


class Cores(NamedTuple):
    """Which cores the server and the load generator have."""

    server: int
    load: int

    @property
    def are_apart(self) -> bool:
        """Tell whether each has a core of its own."""
        return self.server != self.load


def cores() -> Cores:
    """Return the first core for the server and the second, where there is one, for the load."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[min(1, len(usable) - 1)])


@contextlib.contextmanager
def child(
    module: str,
    arguments: Sequence[str],
    core: int | None,
    log: IO[str] | int = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run a module on one core (None: on all); it is killed if it is still there at the end."""

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    with subprocess.Popen(
        [sys.executable, '-m', module, *arguments], cwd=ROOT, text=True, preexec_fn=pin,
        stdout=subprocess.PIPE, stderr=log,
        env={**os.environ, **ONE_THREAD, **(environment or {})},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Usage(NamedTuple):
    """What a process holds and has used."""

    rss_mb: float
    cpu_s: float
    threads: int
    descriptors: int


def usage(pid: int) -> Usage:
    """Return what a process holds now."""
    folder = Path('/proc', str(pid))
    # The name, in parentheses, may hold spaces.
    fields = (folder / 'stat').read_text().rpartition(')')[2].split()
    resident_pages = int((folder / 'statm').read_text().split()[1])
    return Usage(
        rss_mb=resident_pages * PAGE_BYTES / MB,
        cpu_s=(int(fields[11]) + int(fields[12])) / TICKS_PER_S,
        threads=int(fields[17]),
        descriptors=len(list((folder / 'fd').iterdir())),
    )


def watch(
    pid: int, until: subprocess.Popen[str], title: str = ''
) -> list[tuple[float, Usage]]:
    """Return what a process holds, once a second, with the time in s, until another ends."""
    began_s, samples = time.monotonic(), []
    while until.poll() is None:
        samples.append((time.monotonic() - began_s, usage(pid)))
        if title and len(samples) % 60 == 0:
            last = samples[-1][1]
            print(f'{title}: {len(samples)} s, {last.rss_mb:.1f} MB, {last.descriptors} '
                  'descriptors', file=sys.stderr, flush=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            until.wait(max(0.0, began_s + len(samples) - time.monotonic()))
    return samples


def slope_per_min(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of a straight line through (s, value), by least squares, per minute."""
    times_s, values = np.array(points).T
    return float(np.polyfit(times_s, values, 1)[0] * 60)
