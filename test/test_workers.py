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
from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest
import tiny_model
from robots import Robot, channel_to, robot_at

from cloud_server import sealed_state, workers
from cloud_server.config import ConfigError, ServerConfig
from cloud_server.shared_port import reserved
from cloud_server.workers import FIRST_DELAY_NS, LONGEST_DELAY_NS, YOUNG_NS, Restarts
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent
MS = 1_000_000


# -- what is decided without a process ------------------------------------------------------------


def test_workers_that_die_young_are_replaced_ever_later_up_to_a_limit():
    restarts = Restarts()
    delays = [restarts.delay_ns(lived_ns=1) for _ in range(7)]
    assert [delay // MS for delay in delays] == [250, 500, 1000, 2000, 4000, 5000, 5000]


def test_a_worker_that_lived_long_is_replaced_soon_whatever_was_before():
    restarts = Restarts()
    for _ in range(7):
        restarts.delay_ns(YOUNG_NS - 1)
    assert restarts.delay_ns(YOUNG_NS - 1) == LONGEST_DELAY_NS
    assert restarts.delay_ns(YOUNG_NS) == FIRST_DELAY_NS


@pytest.mark.parametrize(
    ('settings', 'cores', 'slots'),
    [
        ({'workers': 2}, 8, 4),
        ({'workers': 2, 'threads': 2}, 8, 2),
        ({'workers': 4}, 2, 1),
        ({'workers': 2, 'slots': 3}, 8, 3),
        # Not of this machine's cores.
        ({'workers': 2, 'engine': 'torch'}, 8, 0),
        ({'workers': 2, 'engine': 'ray'}, 8, 0),
    ],
)
def test_a_worker_computes_on_its_part_of_the_cores(settings, cores, slots):
    shared = workers.share(ServerConfig(**settings), cores)
    assert (shared.slots, shared.workers) == (slots, 1)


def test_the_key_the_workers_share_is_one_for_sealed_states():
    assert workers.STATE_KEY_BYTES == sealed_state.KEY_BYTES


# -- the port -------------------------------------------------------------------------------------


def listener(port: int, family: int = socket.AF_INET, *, shares: bool = True) -> socket.socket:
    """Listen as gRPC does."""
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
    listening.bind(('::1' if family == socket.AF_INET6 else '127.0.0.1', port))
    listening.listen()
    return listening


def test_a_port_that_is_held_is_for_those_who_share_it_and_they_get_all_connections():
    with reserved('127.0.0.1', 0) as port:
        assert port > 0
        with pytest.raises(OSError, match='in use'):
            listener(port, shares=False)
        with listener(port) as one, listener(port) as other:
            for _ in range(20):
                socket.create_connection(('127.0.0.1', port), timeout=5).close()
            for each in (one, other):
                each.setblocking(False)
            assert accepted(one) + accepted(other) == 20


def accepted(listening: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listening.accept()[0].close()
            count += 1
    return count


def test_a_port_where_somebody_listens_is_not_shared_without_being_asked():
    with listener(0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ConfigError) as error, reserved('127.0.0.1', port):
            pass
    assert str(error.value) == f'cannot listen on 127.0.0.1:{port}: Address already in use'


def test_a_port_that_is_held_cannot_be_held_a_second_time():
    with (
        reserved('127.0.0.1', 0) as port,
        pytest.raises(ConfigError, match='in use'),
        reserved('127.0.0.1', port),
    ):
        pass


@pytest.mark.parametrize('shares', [True, False])
def test_a_port_whose_last_connections_linger_can_be_had_again(shares):
    with listener(0, shares=shares) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(('127.0.0.1', port)) as client:
            # The side that closes first lingers.
            listening.accept()[0].close()
            assert client.recv(1) == b''
    with reserved('127.0.0.1', port) as held, listener(held):
        assert held == port


def test_a_name_with_two_addresses_is_held_at_both():
    families = {family for family, *_ in socket.getaddrinfo('localhost', 0)}
    with reserved('localhost', 0) as port:
        for family in families:
            with pytest.raises(OSError, match='in use'):
                listener(port, family, shares=False)


@pytest.mark.parametrize('host', ['192.0.2.1', 'no-such-host.invalid'])
def test_a_host_that_is_not_this_machine_is_named(host):
    with pytest.raises(ConfigError, match=f'cannot listen on {host}:50051: '), \
            reserved(host, 50051):
        pass


# -- the processes --------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp('model'))


class Server:
    """`ferros-cloud serve --workers 2` and what it said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._read = 0
        self._gathering = threading.Thread(target=self._gather, daemon=True)
        self._gathering.start()

    def _gather(self) -> None:
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def line(self, pattern: str, timeout_s: float = 20) -> re.Match[str]:
        """Wait for a line of the log, after the last one waited for."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            for number in range(self._read, len(self.log)):
                found = re.search(pattern, self.log[number])
                if found:
                    self._read = number + 1
                    return found
            self._read = len(self.log)
            try:
                line = self._lines.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f'no line {pattern!r} in:\n{"".join(self.log)}'
            self.log.append(line)

    def announced(self) -> str:
        """Wait until it serves; return its address."""
        line = self.process.stdout.readline()
        assert line.startswith('listening on '), f'{line!r} {self.end(10)}'
        return line.removeprefix('listening on ').strip()

    def pids(self) -> set[int]:
        """Return the processes that it started and that have not ended."""
        return children(self.process.pid)

    def end(self, timeout_s: float = 20) -> tuple[int, str]:
        """Wait for its end; return its status and its whole log."""
        status = self.process.wait(timeout_s)
        while (line := self._lines.get(timeout=timeout_s)) is not None:
            self.log.append(line)
        log = ''.join(self.log)
        assert 'Traceback' not in log, log
        return status, log

    def kill(self) -> None:
        """End what is left of it; its workers have to see that by themselves."""
        pids = self.pids()
        self.process.kill()
        assert gone(pids), 'a worker remained'
        self._gathering.join(10)


@contextlib.contextmanager
def serving(
    *flags: object,
    stdin: int = subprocess.DEVNULL,
    program: Sequence[str] = ('-m', 'cloud_server'),
) -> Iterator[Server]:
    command = [sys.executable, *program, 'serve', '--workers', '2', '--port', '0',
               '--drain-ms', '500', *map(str, flags)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        server = Server(process)
        try:
            yield server
        finally:
            server.kill()


def children(pid: int) -> set[int]:
    found = set()
    for path in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(') ')[2].split()[:2]
            if int(parent) == pid and state != 'Z':
                found.add(int(path.parent.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rpartition(') ')[2].split()[0]
    except OSError:
        return False
    return state != 'Z'


def gone(pids: set[int], timeout_s: float = 10) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while any(map(is_alive, pids)) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return not any(map(is_alive, pids))


def describe(address: str) -> None:
    """Ask the server on a new connection; one that is refused raises."""
    options = [('grpc.use_local_subchannel_pool', 1)]
    with grpc.insecure_channel(address, options) as channel:
        stub = recognition_pb2_grpc.RecognitionStub(channel)
        assert stub.Describe(wire.DescribeRequest(), timeout=10).model == 'tiny 0.1'


async def use(address: str, robots: int, frames: int) -> None:
    """Let robots come one after the other, each with a connection of its own."""
    for number in range(robots):
        async with robot_at(address, robot_id=f'r{number}') as robot:
            for _ in range(frames):
                assert (await robot.exchange()).status == wire.OK
            await robot.end()


def metrics_at(server: Server) -> dict[str, float]:
    """Return the metrics, at the address that the server says next."""
    line = server.process.stdout.readline()
    address = re.fullmatch(r'metrics on (http://\S+/metrics)\n', line).group(1)
    with urllib.request.urlopen(address, timeout=10) as response:
        lines = response.read().decode().splitlines()
    return {name: float(value)
            for name, _, value in (line.rpartition(' ') for line in lines if line[0] != '#')}


def test_both_workers_serve_and_a_sigterm_ends_them_all(model):
    with serving('--model', model, '--metrics-port', '0') as server:
        address = server.announced()
        assert server.process.stdout.readline() == 'model tiny 0.1 on CPU (onnx)\n'
        assert server.process.stdout.readline() == '2 workers\n'
        pids = server.pids()
        assert len(pids) == 2
        asyncio.run(asyncio.wait_for(use(address, robots=24, frames=3), 30))
        found = metrics_at(server)
        server.process.terminate()
        status, log = server.end()
        assert status == 0, log
        assert not any(map(is_alive, pids))
    opened = [found[f'ferros_streams_opened_total{{worker="{number}"}}'] for number in (1, 2)]
    assert sum(opened) == 24
    assert min(opened) > 0, 'the kernel gave one worker everything'
    answered = [value for name, value in found.items() if name.startswith('ferros_frames_total')]
    assert sum(answered) == 72
    assert (found['ferros_workers'], found['ferros_workers_wanted']) == (2, 2)
    assert re.search(r'INFO worker [12] \[r0/front #1\] opened', log)


def test_a_worker_that_is_killed_is_replaced_while_the_other_serves(model):
    with serving('--model', model) as server:
        address = server.announced()
        before = server.pids()
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        server.line(rf'worker \d \(pid {victim}\) was ended by SIGKILL; another starts in 0\.25 s')
        for _ in range(10):
            describe(address)
        successor = int(server.line(r'worker \d \(pid (\d+)\) serves').group(1))
        while successor in before:
            successor = int(server.line(r'worker \d \(pid (\d+)\) serves').group(1))
        after = server.pids()
        assert after == before - {victim} | {successor}
        for _ in range(10):
            describe(address)
        server.process.terminate()
        assert server.end()[0] == 0


class Wanderer:
    """A robot that follows every Drain to the next server and brings its state along."""

    def __init__(self, address: str) -> None:
        self.sent = self.answered = 0
        self.resumed: list[bool] = []
        self.is_done = False
        self._address = address
        self._state = b''

    async def run(self) -> None:
        while not self.is_done:
            async with channel_to(self._address) as channel:
                robot = Robot(channel)
                try:
                    welcome = await robot.hello(robot_id='r1', resume_state=self._state)
                except grpc.aio.AioRpcError as error:
                    assert was_cut_off(error)
                    continue
                if self._state:
                    self.resumed.append(welcome.resumed)
                await self._send_until_drained(robot)

    async def _send_until_drained(self, robot: Robot) -> None:
        while not self.is_done:
            await robot.send(stamp_ns=time.monotonic_ns())
            self.sent += 1
            response = await robot.call.read()
            if response.WhichOneof('response') == 'drain':
                await robot.call.done_writing()
                assert (await robot.answer()).status == wire.OK
                self.answered += 1
                self._state = (await robot.drain()).sealed_state
                assert await robot.call.read() is grpc.aio.EOF
                return
            assert response.answer.status == wire.OK
            self.answered += 1
            await asyncio.sleep(0.01)
        await robot.end()


def was_cut_off(error: grpc.RpcError) -> bool:
    """
    Tell whether it came to a worker that stopped listening in that very moment.

    The kernel had chosen that one already (docs/operation.md). Refused means that none listened.
    """
    cut_off = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    return cut_off and 'refused' not in error.details()


async def visitors(address: str, until: asyncio.Future) -> tuple[int, int]:
    """Come one after the other; return how many were served and how many cut off."""
    served = cut_off = 0
    while not until.done():
        try:
            await asyncio.to_thread(describe, address)
            served += 1
        except grpc.RpcError as error:
            assert was_cut_off(error), error
            cut_off += 1
    return served, cut_off


def test_a_sighup_replaces_all_workers_and_robots_lose_neither_answer_nor_state(model):
    async def visit() -> tuple[Wanderer, int, int]:
        robot = Wanderer(address)
        running = asyncio.create_task(robot.run())
        await asyncio.sleep(0.2)
        server.process.send_signal(signal.SIGHUP)
        replaced = asyncio.create_task(
            asyncio.to_thread(server.line, 'all workers were replaced'))
        served, cut_off = await visitors(address, replaced)
        await replaced
        robot.is_done = True
        await running
        return robot, served, cut_off

    with serving('--model', model) as server:
        address = server.announced()
        before = server.pids()
        robot, served, cut_off = asyncio.run(asyncio.wait_for(visit(), 30))
        after = server.pids()
        assert len(after) == 2
        assert not before & after
        assert robot.sent == robot.answered > 20
        assert robot.resumed
        assert all(robot.resumed)
        assert served > 20
        assert cut_off <= 2
        server.process.terminate()
        assert server.end()[0] == 0


def test_a_sighup_with_settings_that_are_wrong_leaves_the_workers_as_they_are(model, tmp_path):
    path = tmp_path / 'server.yaml'
    path.write_text(f'model: {model}\n')
    with serving('--config', path) as server:
        address = server.announced()
        before = server.pids()
        path.write_text(f'model: {model}\ncredits: 0\n')
        server.process.send_signal(signal.SIGHUP)
        server.line('the new settings are not used: credits is 0, expected 1 to 1024')
        path.write_text('model: /nowhere\n')
        server.process.send_signal(signal.SIGHUP)
        server.line(r'the new worker 3 .* ended with status 2 \(/nowhere/model\.json: .*\)')
        server.line('the rolling replacement stops: 0 of 2 workers are new')
        assert server.pids() == before
        describe(address)
        path.write_text(f'model: {model}\nmetrics_port: 1\nlog_format: json\n')
        server.process.send_signal(signal.SIGHUP)
        server.line('metrics_port stays -1 until the server is started anew')
        server.line('{.*"message": "all workers were replaced"')
        assert not server.pids() & before
        describe(address)
        server.process.terminate()
        assert server.end()[0] == 0


def test_when_the_process_above_is_killed_its_workers_drain_and_end(model):
    with serving('--model', model) as server:
        address = server.announced()
        pids = server.pids()

        async def visit() -> None:
            async with robot_at(address) as robot:
                assert (await robot.exchange()).status == wire.OK
                server.process.kill()
                await robot.drain()
                assert await robot.leave() != b''

        asyncio.run(asyncio.wait_for(visit(), 30))
        assert gone(pids)


def test_a_model_that_cannot_be_served_is_said_once_and_ends_it(tmp_path):
    with serving('--model', tmp_path / 'none') as server:
        status, log = server.end()
        assert server.process.stdout.read() == ''
    assert status == 2
    assert log == (
        f'ferros-cloud serve: {tmp_path}/none/model.json: cannot be read'
        ' (No such file or directory)\n'
    )


def test_a_port_in_use_is_said_at_once():
    with listener(0) as listening:
        port = listening.getsockname()[1]
        with serving('--port', port) as server:
            status, log = server.end()
    assert status == 2
    assert log == (
        f'ferros-cloud serve: cannot listen on 127.0.0.1:{port}: Address already in use\n'
    )


def test_a_metrics_port_in_use_is_said_at_once():
    with listener(0) as listening:
        port = listening.getsockname()[1]
        with serving('--metrics-port', port) as server:
            status, log = server.end()
    assert status == 2
    assert f'cannot serve metrics on 127.0.0.1:{port}: Address already in use' in log


def test_a_second_signal_well_after_the_first_ends_all_at_once(model):
    with serving('--model', model, '--drain-ms', '60000') as server:
        address = server.announced()
        pids = server.pids()

        async def visit() -> None:
            async with robot_at(address) as robot:
                server.process.send_signal(signal.SIGINT)
                server.process.send_signal(signal.SIGINT)
                await robot.drain()
                await asyncio.sleep(1.2)
                assert server.process.poll() is None, 'the same Ctrl-C twice is one signal'
                server.process.send_signal(signal.SIGINT)
                assert await asyncio.to_thread(server.process.wait, 5) == 128 + signal.SIGINT

        asyncio.run(asyncio.wait_for(visit(), 30))
        assert not any(map(is_alive, pids))


def test_a_worker_that_is_stuck_is_missing_in_the_metrics_and_killed_in_the_end(model):
    with serving('--model', model, '--drain-ms', '0', '--metrics-port', '0') as server:
        server.announced()
        stuck = min(server.pids())
        os.kill(stuck, signal.SIGSTOP)
        server.process.stdout.readline()
        server.process.stdout.readline()
        found = metrics_at(server)
        assert (found['ferros_workers'], found['ferros_workers_wanted']) == (1, 2)
        server.process.terminate()
        status, log = server.end()
    assert status == 1
    assert re.search(rf'\(pid {stuck}\) does not end; it is killed', log)


# Stands for a machine that has no room for processes for a while.
NO_ROOM_AT_FIRST = """
import subprocess, sys
from cloud_server import __main__
start, refusals = subprocess.Popen, [1, 2, 3]
def refuse(*args, **kwargs):
    if refusals:
        refusals.pop()
        raise BlockingIOError(11, 'Resource temporarily unavailable')
    return start(*args, **kwargs)
subprocess.Popen = refuse
sys.exit(__main__.main(sys.argv[1:]))
"""


def test_a_machine_without_room_for_another_process_is_asked_again(model):
    with serving('--model', model, program=['-c', NO_ROOM_AT_FIRST]) as server:
        server.line('worker 1 cannot be started: .*Resource temporarily unavailable')
        describe(server.announced())
        server.process.terminate()
        assert server.end()[0] == 0


def test_a_sighup_from_a_terminal_that_is_closed_ends_the_server(model):
    ours, theirs = pty.openpty()
    try:
        with serving('--model', model, stdin=theirs) as server:
            server.announced()
            os.close(theirs)
            os.close(ours)
            server.process.send_signal(signal.SIGHUP)
            server.line('SIGHUP: shutting down')
            assert server.end()[0] == 0
    finally:
        for descriptor in (ours, theirs):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@pytest.mark.parametrize('delay_s', [0.0, 0.3, 0.8])
def test_a_sigterm_at_any_moment_of_the_start_ends_it_with_status_0(model, delay_s):
    with serving('--model', model) as server:
        while len(server.pids()) < 2:
            time.sleep(0.005)
        pids = server.pids()
        time.sleep(delay_s)
        server.process.terminate()
        status, log = server.end()
        assert status == 0, log
        assert not any(map(is_alive, pids))
