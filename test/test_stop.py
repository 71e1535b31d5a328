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
"""A program that is told to end, in whatever way and however often, ends once and with 0."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys, threading, time
from ferros.stop import Stop
stop = Stop()
if 'by-a-thread' in sys.argv:
    threading.Timer(0.2, stop.set).start()
print('waiting', flush=True)
if 'polling' in sys.argv:
    while not stop.is_set():
        time.sleep(0.01)
else:
    stop.wait()
assert stop.is_set()
stop.finish()
print('ended', flush=True)
time.sleep(0.2)
"""


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, '-c', PROGRAM, *arguments], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == 'waiting\n'
    return child


@pytest.mark.parametrize('how', ['waiting', 'polling'])
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_it(root: Path, number: signal.Signals, how: str) -> None:
    child = start(root, how)
    child.send_signal(number)
    assert child.communicate(timeout=10)[0] == 'ended\n'
    assert child.returncode == 0


def test_a_burst_of_signals_neither_hangs_nor_kills_it(root: Path) -> None:
    for _ in range(8):
        child = start(root)
        # What comes when the interpreter is all but gone is not ours to catch.
        end_s = time.monotonic() + 0.15
        while child.poll() is None and time.monotonic() < end_s:
            for number in (signal.SIGINT, signal.SIGTERM):
                child.send_signal(number)
            time.sleep(0.001)
        assert child.communicate(timeout=10)[0] == 'ended\n'
        assert child.returncode == 0


def test_one_of_its_threads_can_end_it(root: Path) -> None:
    child = start(root, 'by-a-thread')
    assert child.communicate(timeout=10)[0] == 'ended\n'
    assert child.returncode == 0
