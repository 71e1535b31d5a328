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
"""The server under test: started, asked what it holds, and ended."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.server import machine, recorded
from bench.server.machine import Usage
from bench.server.recorded import Batch

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
# The bench decides itself how much is sent, and to whom.
OPEN = {
    'port': 0, 'full_at_load': 100, 'max_frame_rate_fps': 100_000, 'log_level': 'error',
    'max_streams_per_robot': 100_000,
}


class StartError(RuntimeError):
    """The server did not begin to listen; the message ends with what it said."""


class UnderTest:
    """A server process that listens."""

    def __init__(self, process: subprocess.Popen[str], address: str, record: Path) -> None:
        self.address = address
        self._process = process
        self._record = record

    @property
    def pid(self) -> int:
        """Return the number of its process."""
        return self._process.pid

    def usage(self) -> Usage:
        """Return what it holds now."""
        return machine.usage(self._process.pid)

    def stop(self) -> int:
        """End it; return its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(STOP_TIMEOUT_S)

    def batches(self, from_ns: int = 0, to_ns: int = 2**63) -> list[Batch]:
        """Return its batches of a time, once it has ended."""
        return recorded.read(self._record, from_ns, to_ns)


@contextlib.contextmanager
def serving(name: str, settings: Mapping[str, Any]) -> Iterator[UnderTest]:
    """
    Run a server on the server's core.

    Args:
        name: of its files in out/bench/server.
        settings: of the server; those of OPEN hold besides.

    Raises:
        StartError: it did not begin to listen.

    """
    machine.OUT.mkdir(parents=True, exist_ok=True)
    record = machine.OUT / f'{name}.batches'
    flags = _flags({**OPEN, **settings})
    core = machine.cores().server
    with open(machine.OUT / f'{name}.log', 'w', encoding='utf-8') as log, machine.child(
        'bench.server.recorded', [str(record), *flags], core, log
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith('listening on '):
            raise StartError(f'the server did not start: {Path(log.name).read_text()[-2000:]}')
        under_test = UnderTest(process, line.removeprefix('listening on ').strip(), record)
        yield under_test
        if process.poll() is None:
            under_test.stop()


def _flags(settings: Mapping[str, Any]) -> list[str]:
    flags = []
    for setting, value in settings.items():
        flag = '--' + setting.replace('_', '-')
        if value is True:
            flags.append(flag)
        elif value is not False:
            flags += [flag, str(value)]
    return flags


def now_ns() -> int:
    """Return the clock of the batches."""
    return time.monotonic_ns()
