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
"""The processes that bag_check starts: the node and, where it is asked for one, a server."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

_STOP_S: Final = 10.0
# Enough of a process's last words to see why it ended.
_LAST_LINES: Final = 12


class InputError(RuntimeError):
    """What was asked for cannot be done: exit status 2, one line that says why."""


class Child:
    """A process that is ended at the end."""

    def __init__(self, name: str, command: Sequence[str], log: Path, stop: signal.Signals) -> None:
        self.name = name
        self.log = log
        self._stop = stop
        with log.open('wb') as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, 'PYTHONUNBUFFERED': '1'},
            )

    def ended(self) -> str:
        """Return how it ended and what it said last; empty while it runs."""
        status = self._process.poll()
        if status is None:
            return ''
        said = self.log.read_text(errors='replace').splitlines()[-_LAST_LINES:]
        return '\n'.join([f'{self.name} ended with {status}:', *said])

    def close(self) -> None:
        """End it, by force where it does not end by itself."""
        if self._process.poll() is None:
            self._process.send_signal(self._stop)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start_server(command: str, log: Path, timeout_s: float) -> tuple[Child, str]:
    """Start a server on a free port; return it and its address; raises InputError."""
    words = [os.path.expanduser(word) for word in shlex.split(command)]
    if not words or shutil.which(words[0]) is None:
        raise InputError(f'--start-server: {command!r} was not found')
    child = Child('the server', [*words, '--port', '0'], log, signal.SIGTERM)

    def address() -> str:
        for line in log.read_text(errors='replace').splitlines():
            if line.startswith('listening on '):
                return line.removeprefix('listening on ').strip()
        return ''

    try:
        wait_for(lambda: bool(address()), timeout_s, child)
    except BaseException:
        child.close()
        raise
    return child, address()


def wait_for(condition: Callable[[], bool], timeout_s: float, child: Child | None) -> bool:
    """Wait; return whether it came true in time; raises InputError where the process ended."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if child is not None and (how := child.ended()):
            raise InputError(how)
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True
