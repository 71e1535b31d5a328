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
"""The parts of ferros as processes of their own, on a ROS graph that no other run hears."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Above 101, DDS ports run into the ports that Linux hands out to clients.
DOMAIN_IDS = range(10, 102)
SERVER_START_S = 60.0
STOP_S = 10.0


@contextlib.contextmanager
def own_domain() -> Iterator[int]:
    """Hold a ROS domain id that no other run on this machine holds."""
    for domain_id in DOMAIN_IDS:
        # The file stays: removing it would let two runs hold locks on two files of one name.
        path = Path(tempfile.gettempdir()) / f'ferros-domain-{os.getuid()}-{domain_id}.lock'
        with path.open('w') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain_id
            return
    raise RuntimeError(f'all ROS domain ids from {DOMAIN_IDS[0]} to {DOMAIN_IDS[-1]} are in use')


def environment(domain_id: int) -> dict[str, str]:
    """Return the environment of a process on that domain, on this machine only."""
    return {
        **os.environ,
        'ROS_DOMAIN_ID': str(domain_id),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'PYTHONUNBUFFERED': '1',
        'PYTHONPATH': os.pathsep.join(
            part for part in (str(ROOT), os.environ.get('PYTHONPATH', '')) if part
        ),
    }


@contextlib.contextmanager
def process(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    stop: signal.Signals = signal.SIGINT,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command, its output in the file log, and stop it at the end if it still runs."""
    with log.open('ab') as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=dict(environment)
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(stop)
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextlib.contextmanager
def server(
    log: Path, environment: Mapping[str, str], *arguments: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the server on a free port of this machine; yield its address and its process."""
    command = [sys.executable, '-m', 'cloud_server', 'serve', '--port', '0', *arguments]
    with process(command, log, environment, signal.SIGTERM) as child:
        yield _address(child, log), child


def _address(child: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for the line `listening on HOST:PORT` in the log."""
    deadline_s = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline_s and child.poll() is None:
        for line in log.read_text(errors='replace').splitlines():
            if line.startswith('listening on '):
                return line.removeprefix('listening on ').strip()
        select.select([], [], [], 0.05)
    raise RuntimeError(f'the server did not start:\n{log.read_text(errors="replace")}')


def node(
    log: Path, environment: Mapping[str, str], **parameters: object
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Run emotion_node with these parameters."""
    return process(
        [sys.executable, '-m', 'ferros.node', '--ros-args', *_parameters(parameters)],
        log,
        environment,
    )


def player(
    source: str, log: Path, environment: Mapping[str, str], *arguments: str, **parameters: object
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Run camera_player on a source."""
    command = [sys.executable, '-m', 'ferros.camera_player', source, *arguments]
    if parameters:
        command += ['--ros-args', *_parameters(parameters)]
    return process(command, log, environment)


def _parameters(parameters: Mapping[str, object]) -> list[str]:
    words = []
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words += ['-p', f'{name}:={text}']
    return words
