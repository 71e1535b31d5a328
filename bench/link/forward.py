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
The process that carries packets between two namespaces through two pipes; Lab starts it.

It reads a Link, a line of JSON, and then one command per line from its standard input, and
answers each with one line of JSON: first {"congestion_control": ...} or {"error": ...} once the
link is up; `start` lets time 0 of the schedules be now, before it the link is wide open, with
only the delay; `stop` answers with the record. It makes the namespaces and removes them itself,
at the end of its input too: so nothing is left over however the process ends that started it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from bench.link import namespaces
from bench.link.capacity import NS_PER_S, Looped
from bench.link.pipe import MTU_BYTES, Pipe
from bench.link.record import link_record

ROBOT_ADDRESS = '10.99.0.1'
SERVER_ADDRESS = '10.99.0.2'
# Before the start: what no server or robot notices.
OPEN_BYTES_PER_S = 1e9
OPEN_QUEUE_BYTES = 10**8
# One direction must not keep the other waiting.
PACKETS_PER_TURN = 64

_PR_SET_TIMERSLACK = 29  # From linux/prctl.h.


class Link(NamedTuple):
    """What Lab asks for: names of two namespaces that are not there yet, and the pipes."""

    robot: str
    server: str
    up: Pipe
    down: Pipe
    congestion_control: str

    def to_json(self) -> dict[str, Any]:
        """Return what from_json() makes the same link of."""
        return {**self._asdict(), 'up': self.up.to_json(), 'down': self.down.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Link:
        """Return the link whose to_json() gave this."""
        pipes = {name: Pipe.from_json(document[name]) for name in ('up', 'down')}
        return cls(**{**document, **pipes})


class _Direction:
    """Carries from one device to another; times are CLOCK_MONOTONIC ns."""

    def __init__(self, source: int, sink: int, delay_ns: int, now_ns: int) -> None:
        self.source = source
        self._sink = sink
        wide_open = Looped((0, NS_PER_S), (0.0, OPEN_BYTES_PER_S))
        # (pipe, its time 0): the last takes packets in, one before it still has some to give.
        self._pipes = [(Pipe(wide_open, delay_ns, OPEN_QUEUE_BYTES), now_ns)]

    def start(self, pipe: Pipe, now_ns: int) -> None:
        """Carry what is read from now on through another pipe."""
        self._pipes.append((pipe, now_ns))
        pipe.drops['refused'] = 0

    def read(self) -> None:
        """Take in what the namespace has sent."""
        pipe, origin_ns = self._pipes[-1]
        with suppress(BlockingIOError):
            for _ in range(PACKETS_PER_TURN):
                pipe.push(os.read(self.source, MTU_BYTES), time.monotonic_ns() - origin_ns)

    def write(self) -> None:
        """Give out what is due."""
        for pipe, origin_ns in self._pipes:
            for packet in pipe.pop(time.monotonic_ns() - origin_ns):
                try:
                    os.write(self._sink, packet)
                except OSError:
                    # The device is down, or its namespace is: nobody is there to receive.
                    pipe.drops['refused'] = pipe.drops.get('refused', 0) + 1
        if len(self._pipes) > 1 and self._pipes[0][0].next_ns() is None:
            del self._pipes[0]

    def next_ns(self) -> int | None:
        """Return when something is due next."""
        due = [(pipe.next_ns(), origin_ns) for pipe, origin_ns in self._pipes]
        return min((at + origin_ns for at, origin_ns in due if at is not None), default=None)


class _Forwarder:
    """The two directions of a link, and the commands about them."""

    def __init__(self, link: Link, robot_device: int, server_device: int, commands: int) -> None:
        now_ns = time.monotonic_ns()
        self._link = link
        self._up = _Direction(robot_device, server_device, link.up.delay_ns, now_ns)
        self._down = _Direction(server_device, robot_device, link.down.delay_ns, now_ns)
        self._commands = commands
        self._started_ns: int | None = None
        self._started_cpu_s = 0.0

    def run(self) -> None:
        """Carry packets until the command to stop or the end of the commands."""
        directions = (self._up, self._down)
        sources = [self._up.source, self._down.source, self._commands]
        while True:
            ready, _, _ = select.select(sources, (), (), self._wait_s())
            for direction in directions:
                if direction.source in ready:
                    direction.read()
                direction.write()
            if self._commands in ready and not self._obey():
                return

    def _wait_s(self) -> float | None:
        due = [at for at in (self._up.next_ns(), self._down.next_ns()) if at is not None]
        return max(0, min(due) - time.monotonic_ns()) / NS_PER_S if due else None

    def _obey(self) -> bool:
        """Read and do what is asked; return whether to go on."""
        command = os.read(self._commands, 64).strip()
        if command == b'start' and self._started_ns is None:
            self._started_ns = time.monotonic_ns()
            self._started_cpu_s = time.process_time()
            self._up.start(self._link.up, self._started_ns)
            self._down.start(self._link.down, self._started_ns)
            _answer({'started_ns': self._started_ns})
            return True
        if command == b'stop':
            _answer(self._record())
        return False

    def _record(self) -> dict[str, Any]:
        link = self._link
        record = link_record(link.up, link.down, self._started_ns, time.monotonic_ns(), 'tun')
        return {**record, 'cpu_s': round(time.process_time() - self._started_cpu_s, 3)}


def _answer(document: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):  # Whoever asked is gone; the end of the commands follows.
        print(json.dumps(document), flush=True)


def _be_punctual() -> Callable[[], None]:
    """Let this process run as soon as it wakes up, if allowed; return how to undo it."""
    gc.disable()  # There are no cycles to collect.
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with suppress(OSError):
        # A link does not wait for a processor; it uses a few percent of one.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    return lambda: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _empty(device: int) -> None:
    """Throw away what setting up has sent."""
    with suppress(BlockingIOError):
        while True:
            os.read(device, MTU_BYTES)


def _carry(link: Link) -> None:
    ends = (
        (link.robot, ROBOT_ADDRESS, SERVER_ADDRESS), (link.server, SERVER_ADDRESS, ROBOT_ADDRESS),
    )
    robot_device, server_device = (namespaces.open_tun(*end, MTU_BYTES) for end in ends)
    in_force = [
        namespaces.use_congestion_control(*end, link.congestion_control) for end in ends
    ]
    for device in (robot_device, server_device):
        _empty(device)
    forwarder = _Forwarder(link, robot_device, server_device, sys.stdin.fileno())
    _answer({'congestion_control': dict(zip(('robot', 'server'), in_force, strict=True))})
    back_to_normal = _be_punctual()
    try:
        forwarder.run()
    finally:
        back_to_normal()


def main() -> int:
    """Make the namespaces, carry packets, remove the namespaces."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    line = sys.stdin.buffer.readline()
    if not line.endswith(b'\n'):  # Whoever started this is gone.
        return 1
    link = Link.from_json(json.loads(line))
    try:
        namespaces.create(link.robot)
        namespaces.create(link.server)
        _carry(link)
    except (namespaces.NamespaceError, OSError) as err:
        _answer({'error': str(err)})
        return 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        namespaces.remove(link.robot)
        namespaces.remove(link.server)
    return 0


if __name__ == '__main__':
    sys.exit(main())
