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
How soon the robot answers when the server falls silent, and how soon it hands back.

The real node reads a face that a camera shows 30 times a second; the real server is frozen
(SIGSTOP, SIGCONT), killed (SIGKILL) and started again, and comes and goes every 400 ms.

    fallback_ms   from the signal that silences the server to the first message of the robot on
                  /emotion
    handback_ms   to the first message of the server on /emotion: of a frozen one from the signal
                  that lets it go on, of a killed one from the first answer of its successor that
                  reached the robot (the node's trace has the time)
    switches      changes of the source on /emotion while the server comes and goes

Messages are timed when they arrive here. Of two servers that fall silent within ten seconds the
second one is on probation for longer (ferros/fallback.py), so both kinds are measured.

    python -m bench.robot.fallback [--quick] [--json FILE]
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from bench.robot import command
from demo import clip, processes
from demo.recorder import Heard, Recorder, recorder
from ferros.types import Source

FACE_AT_S = 3.0
CAMERA_HZ = 30.0
WAIT_S = 30.0
# For how long the server speaks before it is silenced, and is silent.
SPEAKS_S, SILENT_S = 1.5, 2.0
# Short enough that a server, which stands still, takes the robot back when it goes on.
FROZEN_S = 2.5
FLAPS_EVERY_S = 0.4
# What the server said last may still be on its way to /emotion when it is silenced.
UNDER_WAY_S = 0.1


def measure(quick: bool = False) -> dict[str, Any]:
    """
    Return the times of all rounds, their medians and worst; in about 70 s, quick in 25 s.

    Raises:
        RuntimeError: a process did not start, or nobody spoke in time.

    """
    rounds, flaps_for_s = (1, 4.0) if quick else (4, 10.0)
    with tempfile.TemporaryDirectory() as folder:
        with processes.own_domain() as domain_id, _robot(domain_id, Path(folder)) as robot:
            frozen = [robot.freeze() for _ in range(rounds)]
            killed = [robot.kill() for _ in range(rounds)]
            flapping = robot.flap(flaps_for_s)
        # The trace is complete now.
        killed = [robot.with_handback(each) for each in killed]
    everything = [*frozen, *killed]
    return {
        **_summary('fallback_ms', everything),
        **_summary('handback_ms', everything),
        'longest_gap_ms': max(each['longest_gap_ms'] for each in [*everything, flapping]),
        'unknown': sum(each['unknown'] for each in [*everything, flapping]),
        'switches': flapping['switches'],
        'rounds': {'frozen': frozen, 'killed': killed, 'flapping': flapping},
    }


def _summary(name: str, rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    values = [each[name] for each in rounds]
    return {name: max(values), f'{name}_median': round(statistics.median(values), 1)}


class _Robot:
    """The node, its server and what is heard of both."""

    def __init__(
        self, heard: Recorder, server: _Server, trace: Path, is_alive: Callable[[], bool]
    ) -> None:
        self._heard = heard
        self._server = server
        self._trace = trace
        self._is_alive = is_alive

    def freeze(self) -> dict[str, float]:
        """Freeze the server for a while; return the times of the round."""
        self._let_server_speak()
        silenced_s = self._server.signal(signal.SIGSTOP)
        robot_s = self._first(Source.ROBOT, silenced_s)
        time.sleep(max(0.0, silenced_s + FROZEN_S - time.monotonic()))
        released_s = self._server.signal(signal.SIGCONT)
        server_s = self._first(Source.CLOUD, released_s)
        return {
            'fallback_ms': _ms(robot_s - silenced_s),
            'handback_ms': _ms(server_s - released_s),
            **self._said(silenced_s, server_s),
        }

    def kill(self) -> dict[str, float]:
        """Kill the server and start another one; return the times, but for the hand-back."""
        self._let_server_speak()
        silenced_s = self._server.signal(signal.SIGKILL)
        robot_s = self._first(Source.ROBOT, silenced_s)
        time.sleep(max(0.0, silenced_s + SILENT_S - time.monotonic()))
        self._server.start()
        server_s = self._first(Source.CLOUD, silenced_s + UNDER_WAY_S)
        return {
            'fallback_ms': _ms(robot_s - silenced_s),
            'silenced_s': silenced_s,
            'handed_back_s': server_s,
            **self._said(silenced_s, server_s),
        }

    def with_handback(self, times: Mapping[str, float]) -> dict[str, float]:
        """Return a round with the time since the first answer of the new server."""
        rest = dict(times)
        silenced_s, handed_back_s = rest.pop('silenced_s'), rest.pop('handed_back_s')
        answered_s = min(at_s for at_s in _answers_s(self._trace) if at_s > silenced_s + SILENT_S)
        return {**rest, 'handback_ms': _ms(handed_back_s - answered_s)}

    def flap(self, for_s: float) -> dict[str, float]:
        """Let the server come and go; return how often the source changed."""
        self._let_server_speak()
        begin_s = time.monotonic()
        while time.monotonic() < begin_s + for_s:
            for each in (signal.SIGSTOP, signal.SIGCONT):
                self._server.signal(each)
                time.sleep(FLAPS_EVERY_S)
        return self._said(begin_s - SPEAKS_S / 2, time.monotonic())

    def _let_server_speak(self) -> None:
        """Wait until the server speaks and has done so for a while."""
        self._first(Source.CLOUD, time.monotonic())
        time.sleep(SPEAKS_S)

    def _first(self, source: Source, from_s: float) -> float:
        """Wait for the first message of a source after a time; return when it came."""
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s and self._is_alive():
            for heard in self._since(from_s):
                if heard.message.source == source:
                    return heard.at_s
            time.sleep(0.005)
        raise RuntimeError(f'no answer of {source.name} within {WAIT_S:.0f} s')

    def _since(self, from_s: float) -> list[Heard]:
        return [heard for heard in list(self._heard.emotions) if heard.at_s >= from_s]

    def _said(self, begin_s: float, end_s: float) -> dict[str, float]:
        """Return what the messages of a time were like."""
        heard = [each for each in self._since(begin_s) if each.at_s <= end_s]
        times_s = [begin_s, *(each.at_s for each in heard), end_s]
        sources = [each.message.source for each in heard]
        return {
            'longest_gap_ms': _ms(max(b - a for a, b in itertools.pairwise(times_s))),
            'switches': sum(a != b for a, b in itertools.pairwise(sources)),
            'unknown': sources.count(Source.NONE),
        }


class _Server:
    """A server that can be started again where it was."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        self._environment = environment
        self._stack = contextlib.ExitStack()
        self._number = 0
        self.address = ''
        self.start()

    def start(self) -> None:
        """Start it, at the address it had before if it had one."""
        self.close()
        self._number += 1
        port = ['--port', self.address.rpartition(':')[2]] if self.address else []
        # Each has a log of its own, where its address stands.
        log = self._log.with_suffix(f'.{self._number}')
        running = processes.server(log, self._environment, *port)
        self.address, self._child = self._stack.enter_context(running)

    def signal(self, number: signal.Signals) -> float:
        """Send a signal; return just before when."""
        at_s = time.monotonic()
        os.kill(self._child.pid, number)
        return at_s

    def close(self) -> None:
        """End it."""
        if self.address:
            # One that stands still would not hear that it is to end.
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
        self._stack.close()


@contextlib.contextmanager
def _robot(domain_id: int, folder: Path) -> Iterator[_Robot]:
    """Run camera, node and server until the end of the block."""
    environment = processes.environment(domain_id)
    image, trace = folder / 'face.png', folder / 'trace.jsonl'
    cv2.imwrite(str(image), _face())
    with contextlib.ExitStack() as stack:
        server = _Server(folder / 'server', environment)
        stack.callback(server.close)
        heard = stack.enter_context(recorder(domain_id))
        node = stack.enter_context(
            processes.node(
                folder / 'node.log',
                environment,
                server_address=server.address,
                trace_file=str(trace),
            )
        )
        camera = ['--rate-hz', str(CAMERA_HZ), '--loop']
        stack.enter_context(
            processes.player(str(image), folder / 'camera.log', environment, *camera)
        )
        try:
            yield _Robot(heard, server, trace, lambda: node.poll() is None)
        except RuntimeError as error:
            raise RuntimeError(f'{error}\n{(folder / "node.log").read_text()}') from error


def _face() -> clip.Image:
    return next(image for time_s, image in clip.frames() if time_s >= FACE_AT_S)


def _answers_s(trace: Path) -> list[float]:
    """Return when the server's answers reached the robot, by the monotonic clock."""
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    return [
        line['answered_ns'] / 1e9
        for line in lines
        if line['kind'] == 'frame' and line['status'] == 'ok'
    ]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


if __name__ == '__main__':
    sys.exit(command.run('bench.robot.fallback', measure))
