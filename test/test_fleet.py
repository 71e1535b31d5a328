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
"""Tests of the robot's real link with the real server: encrypted, sent away, and turned away."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model

from cloud_server.__main__ import main
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.link import Link
from ferros.types import Box, CameraFrame, Observation, OfferedFace

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory) -> Path:
    return tiny_model.write_or_shipped(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def keys(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('keys')
    for command in (
        ['ca', str(folder)], ['server', str(folder), '--host', '127.0.0.1'],
        ['robot', str(folder), 'r1'], ['token', str(folder), 'r1'],
        ['state', str(folder / 'state.key')],
    ):
        assert main(['keys', *command]) == 0
    return folder


@contextlib.contextmanager
def server(model_folder: Path, *flags: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, '-m', 'cloud_server', 'serve', '--model', model_folder, *flags]
    with subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith('listening on '), line
            yield process, line.removeprefix('listening on ').strip()
        finally:
            process.kill()


class Robot:
    """The robot's link, with what it said and was told."""

    def __init__(self, **parameters: Any) -> None:
        self.answers: list[Observation] = []
        self.changes: list[str] = []
        self.drops = Drops()
        self.link = Link(
            RobotConfig(camera='front', **parameters), self.drops, self.answers.append,
            lambda state, detail: self.changes.append(f'{state.value} {detail}'),
        )
        rows, columns = np.mgrid[0:120, 0:160]
        self._image = ((rows + columns) * 255 // (rows + columns).max()).astype(np.uint8)

    def look_until(self, done: Callable[[], bool], within_s: float = 20.0) -> None:
        """Show it the same face, thirty times a second."""
        began_s = time.monotonic()
        while not done():
            assert time.monotonic() - began_s < within_s, (self.changes, self.drops.counts())
            frame = CameraFrame(self._image, time.time_ns(), time.monotonic_ns())
            self.link.offer([OfferedFace('f1', Box(40, 20, 64, 64), frame)])
            time.sleep(0.03)

    def look_for_answers(self, count: int) -> None:
        wanted = len(self.answers) + count
        self.look_until(lambda: len(self.answers) >= wanted)


@contextlib.contextmanager
def looking(**parameters: Any) -> Iterator[Robot]:
    robot = Robot(**parameters)
    robot.link.start()
    try:
        yield robot
    finally:
        robot.link.stop()


def tls(keys: Path) -> list[object]:
    folder = keys / 'server'
    return ['--tls-cert-file', folder / 'cert.pem', '--tls-key-file', folder / 'key.pem']


def test_a_robot_with_a_certificate_and_one_with_a_token_are_answered(model_folder, keys):
    own = keys / 'robots' / 'r1'
    ca = {'tls_ca_file': str(own / 'ca.pem')}
    certificate = {'tls_cert_file': str(own / 'cert.pem'), 'tls_key_file': str(own / 'key.pem')}
    flags = [*tls(keys), '--tls-client-ca-file', keys / 'server' / 'ca.pem']
    with server(model_folder, '--port', 0, *flags) as (_, address), looking(
        server_address=address, **ca, **certificate
    ) as robot:
        robot.look_for_answers(3)
    flags = [*tls(keys), '--token-file', keys / 'server' / 'tokens']
    with server(model_folder, '--port', 0, *flags) as (_, address), looking(
        server_address=address, **ca, token_file=str(own / 'token')
    ) as robot:
        robot.look_for_answers(3)


def test_a_robot_without_a_token_is_told_why_it_is_not_served(model_folder, keys):
    flags = ['--port', 0, '--token-file', keys / 'server' / 'tokens']
    with server(model_folder, *flags) as (_, address), looking(server_address=address) as robot:
        robot.look_until(lambda: any('token' in change for change in robot.changes))
        assert not robot.answers


def test_a_restart_of_the_server_costs_neither_an_answer_nor_the_state(model_folder, keys):
    flags = ['--state-key-file', keys / 'state.key']
    log = keys / 'second.log'
    with (
        server(model_folder, '--port', 0, *flags) as (first, address),
        looking(server_address=address, robot_id='r1') as robot,
    ):
        robot.look_for_answers(10)
        first.send_signal(signal.SIGTERM)
        robot.look_until(lambda: first.poll() is not None)
        assert first.returncode == 0
        port = address.rpartition(':')[2]
        with server_with_log(model_folder, log, '--port', port, *flags):
            robot.look_for_answers(10)
        assert 'unanswered' not in robot.drops.counts()
    assert re.search(r'\[r1/front #1\] opened by .*, resumed', log.read_text())


@contextlib.contextmanager
def server_with_log(model_folder: Path, log: Path, *flags: object) -> Iterator[None]:
    command = [sys.executable, '-m', 'cloud_server', 'serve', '--model', model_folder, *flags]
    with open(log, 'w', encoding='utf-8') as stream, subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=stream,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith('listening on ')
            yield
        finally:
            process.terminate()
            process.wait(20)


def test_a_robot_that_a_full_server_turns_away_comes_back_when_there_is_room(model_folder):
    flags = ['--port', 0, '--max-streams', 1]
    with (
        server(model_folder, *flags) as (_, address),
        looking(server_address=address, robot_id='first') as first,
    ):
        first.look_for_answers(2)
        with looking(server_address=address, robot_id='second') as second:
            second.look_until(lambda: any('1 streams' in text for text in second.changes))
            first.link.stop()
            second.look_for_answers(2)
