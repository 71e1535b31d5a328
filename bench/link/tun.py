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
"""The link lab: a robot's and a server's namespace, joined by one link; needs root."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.link import namespaces
from bench.link.forward import ROBOT_ADDRESS, SERVER_ADDRESS, Link
from bench.link.namespaces import unavailable
from bench.link.pipe import Pipe

__all__ = ['Lab', 'LabError', 'unavailable']

ROOT = Path(__file__).resolve().parent.parent.parent
ANSWER_S = 20.0

_number = itertools.count()


class LabError(RuntimeError):
    """The lab cannot be set up or has ended too early; says why."""


class Lab:
    """
    Two namespaces joined by an emulated link, as a context manager.

    What is started with the commands of robot() and server() sees a network with one other
    host in it. Until start() the link passes everything with only the delay, so that setting up
    takes nothing off a trace. Several labs may run at once, they know nothing of each other.

    Whatever happens, an exception, SIGTERM, even SIGKILL, nothing remains: the link's process
    notices, ends what still runs in the namespaces and removes them.

    Args:
        up: from the robot to the server; a pipe that nothing has gone through yet.
        down: the other way.
        record: where stop() writes the link.json; None: nowhere.
        congestion_control: asked for in both namespaces; which one is in force, the attribute
            of the same name and the record say.

    Attributes:
        robot_address, server_address: IPv4, the same in each lab.
        congestion_control: in force, {'robot': name, 'server': name}.

    """

    robot_address = ROBOT_ADDRESS
    server_address = SERVER_ADDRESS

    def __init__(
        self, up: Pipe, down: Pipe, record: Path | None = None, congestion_control: str = 'cubic'
    ) -> None:
        name = f'ferros-{os.getpid()}-{next(_number)}-{secrets.token_hex(2)}'
        self._link = Link(f'{name}-robot', f'{name}-server', up, down, congestion_control)
        self._record = record
        self._process: subprocess.Popen[bytes] | None = None
        self.congestion_control: dict[str, str] = {}

    def __enter__(self) -> Lab:
        reason = unavailable()
        if reason is not None:
            raise LabError(f'no link lab: {reason}')
        try:
            self._open()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._process is not None and kind is None:
                self.stop()
        finally:
            self._remove()

    def robot(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs a command on the robot's side; it keeps its pid."""
        return self._inside(self._link.robot, command)

    def server(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs a command on the server's side; it keeps its pid."""
        return self._inside(self._link.server, command)

    def start(self) -> int:
        """
        Begin the schedules; return their time 0, CLOCK_MONOTONIC ns.

        Raises:
            LabError: the lab has ended or was started before.
        """
        self._tell(b'start\n')
        return int(self._answer()['started_ns'])

    def stop(self) -> dict[str, Any]:
        """
        End the link, write its record where that was asked for, and return it.

        What still runs in the namespaces is ended, and they are gone afterwards.

        Raises:
            LabError: the lab has ended before.
        """
        try:
            self._tell(b'stop\n')
            record = {**self._answer(), 'congestion_control': self.congestion_control}
        finally:
            self._remove()
        if self._record is not None:
            self._record.write_text(json.dumps(record), encoding='utf-8')
        return record

    def _open(self) -> None:
        # A session of its own: Ctrl-C in the terminal is not for the link, it must outlive this.
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'bench.link.forward'], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True, bufsize=0,
        )
        self._tell(json.dumps(self._link.to_json()).encode() + b'\n')
        self.congestion_control = self._answer()['congestion_control']

    def _tell(self, command: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            raise LabError('the lab is not open')
        try:
            view = memoryview(command)
            while view:
                view = view[self._process.stdin.write(view) or 0:]
        except BrokenPipeError as err:
            raise LabError("the link's process has ended") from err

    def _answer(self) -> dict[str, Any]:
        """Return the next answer of the link's process."""
        assert self._process is not None and self._process.stdout is not None
        stdout = self._process.stdout
        text = b''
        while not text.endswith(b'\n'):
            ready, _, _ = select.select([stdout], (), (), ANSWER_S)
            part = stdout.read(1 << 16) if ready else b''
            if not part:
                raise LabError("the link's process has ended or does not answer")
            text += part
        answer: dict[str, Any] = json.loads(text)
        if 'error' in answer:
            raise LabError(f'no link lab: {answer["error"]}')
        return answer

    def _inside(self, namespace: str, command: Sequence[str]) -> list[str]:
        if self._process is None:
            raise LabError('the lab is not open')
        return namespaces.inside(namespace, command)

    def _remove(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        try:
            process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        # It has done so itself, unless it was killed.
        namespaces.remove(self._link.robot)
        namespaces.remove(self._link.server)
