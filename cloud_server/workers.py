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
Several server processes on one port (`--workers N`), and the process above them.

The kernel spreads new connections over the processes that listen on the port (SO_REUSEPORT). The
process above them serves nothing: it holds the port, starts the workers, replaces one that died,
passes signals on and joins their metrics. Each worker is a new interpreter, never a fork; what it
runs is worker.py, which describes the channel between the two.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import logging
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from cloud_server import logs
from cloud_server.config import ConfigError, ServerConfig
from cloud_server.metrics import SupervisorMetrics
from cloud_server.metrics_endpoint import Endpoint
from cloud_server.shared_port import WorkersError, reserved
from cloud_server.worker import EXPLAINED_STATUS, line_of, longest_drain_ns

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
# A worker that died is replaced after the first time, those that die young after longer ones.
FIRST_DELAY_NS = 250 * NS_PER_MS
LONGEST_DELAY_NS = 5 * NS_PER_S
YOUNG_NS = 10 * NS_PER_S
# One Ctrl-C may come from the terminal and from a launcher.
SAME_SIGNAL_NS = NS_PER_S
STATE_KEY_BYTES = 32
SCRAPE_TIMEOUT_S = 2.0
MAX_UNANSWERED_SCRAPES = 4
# Settings of the process above; only its restart changes them.
FIXED = ('host', 'port', 'workers', 'metrics_host', 'metrics_port')

log = logging.getLogger(__name__)


def supervise(config: ServerConfig, reload: Callable[[], ServerConfig]) -> int:
    """
    Run `config.workers` servers on one port until SIGTERM or SIGINT; for the main thread.

    SIGHUP replaces the workers one after the other, with the settings that `reload` then gives.

    Args:
        config: the settings to begin with.
        reload: reads the settings anew; may raise ConfigError.

    Returns:
        The exit status: 0, 1 if a worker had to be killed, 128 + signal at the second one.

    Raises:
        WorkersError: the port cannot be had, or a worker cannot serve with these settings.
        MetricsError: the address of the metrics cannot be had.

    """
    with contextlib.ExitStack() as stack:
        inbox = stack.enter_context(_signal_inbox())
        port = stack.enter_context(reserved(config.host, config.port))
        supervisor = _Supervisor(config, reload, port, inbox)
        stack.callback(supervisor.close)
        return supervisor.run()


class Restarts:
    """After how long a worker that died is replaced. Pure: times are arguments."""

    def __init__(self) -> None:
        self._delay_ns = FIRST_DELAY_NS

    def delay_ns(self, lived_ns: int) -> int:
        """Return how long to wait after the death of a worker that lived so long."""
        if lived_ns >= YOUNG_NS:
            self._delay_ns = FIRST_DELAY_NS
        delay_ns = self._delay_ns
        self._delay_ns = min(2 * delay_ns, LONGEST_DELAY_NS)
        return delay_ns


def share(config: ServerConfig, cores: int) -> ServerConfig:
    """
    Return the settings of one worker.

    Where the engine computes on this machine's cores and `slots` leaves it to the engine, each
    worker gets slots for its part of the cores.

    Args:
        config: of all workers together.
        cores: that they may use.

    """
    slots = config.slots
    if config.engine == 'onnx' and slots == 0:
        slots = max(1, cores // (config.workers * config.threads))
    return dataclasses.replace(config, workers=1, slots=slots, metrics_port=-1)


class _Worker:
    """One server process, as the process above sees it."""

    def __init__(self, number: int, config: ServerConfig, state_key: bytes, now_ns: int) -> None:
        self.number = number
        self.config = config
        self.started_ns = now_ns
        # HOST:PORT once it serves.
        self.address: str | None = None
        self.model = ''
        # What it said before it ended with EXPLAINED_STATUS.
        self.failure = ''
        # When it is killed if it has not ended; None: it was not told to end.
        self.kill_ns: int | None = None
        self.is_killed = False
        self._lock = threading.Lock()
        self._asked: deque[Future[str]] = deque()
        self._received = b''
        self.channel, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as on_error:
            on_error.callback(self.channel.close)
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'cloud_server.worker', str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # stdout is for what this process announces.
                stdout=2,
                # A Ctrl-C reaches the workers through this process alone.
                start_new_session=True,
                env=_environment(),
            )
            on_error.pop_all()
        self._send({
            'worker': number,
            'settings': _as_json(config),
            'state_key': state_key.hex(),
        })

    def __str__(self) -> str:
        return f'worker {self.number} (pid {self.process.pid})'

    def read(self) -> None:
        """Take in what it says; does not wait."""
        while True:
            try:
                data = self.channel.recv(1 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b''
            *lines, self._received = (self._received + data).split(b'\n')
            for line in lines:
                self._take(json.loads(line))
            if not data:
                raise EOFError

    def ask_metrics(self) -> Future[str]:
        """Ask for its metrics; the answer comes by `read`. For any thread."""
        future: Future[str] = Future()
        with self._lock:
            if len(self._asked) < MAX_UNANSWERED_SCRAPES:
                self._asked.append(future)
                self._send({'ask': 'metrics'})
            else:
                future.cancel()
        return future

    def tell_to_end(self, now_ns: int) -> None:
        """Let it drain and end; it is told once."""
        if self.kill_ns is None:
            self.kill_ns = now_ns + longest_drain_ns(self.config)
            self.process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self.is_killed = True
        self.process.kill()

    def close(self) -> None:
        """Forget it, after it ended."""
        with self._lock:
            for future in self._asked:
                future.cancel()
        self.channel.close()

    def _take(self, message: dict[str, Any]) -> None:
        if 'ready' in message:
            self.address = message['ready']
        elif 'model' in message:
            self.model = message['model']
        elif 'failed' in message:
            self.failure = message['failed']
        else:
            with self._lock:
                self._asked.popleft().set_result(message['metrics'])

    def _send(self, message: dict[str, Any]) -> None:
        # If it has ended, that is found out elsewhere.
        with contextlib.suppress(OSError):
            self.channel.sendall(line_of(message))


@dataclasses.dataclass(eq=False)
class _Seat:
    """A worker there should always be."""

    config: ServerConfig
    restarts: Restarts = dataclasses.field(default_factory=Restarts)
    worker: _Worker | None = None
    # When to start one, where there is none.
    due_ns: int = 0


@dataclasses.dataclass
class _Rolling:
    """A replacement of all workers, one after the other."""

    config: ServerConfig
    seats: list[_Seat]
    # The successor of the worker in the first of the seats, until it serves.
    incoming: _Worker | None = None
    # Its predecessor, until it has ended.
    leaving: _Worker | None = None


class _Supervisor:
    def __init__(
        self,
        config: ServerConfig,
        reload: Callable[[], ServerConfig],
        port: int,
        inbox: socket.socket,
    ) -> None:
        self._config = config
        self._reload = reload
        self._port = port
        self._inbox = inbox
        self._state_key = secrets.token_bytes(STATE_KEY_BYTES)
        self._cores = len(os.sched_getaffinity(0))
        self._terminals = [descriptor for descriptor in range(3) if os.isatty(descriptor)]
        self._seats = [_Seat(self._for_worker(config)) for _ in range(config.workers)]
        self._workers: list[_Worker] = []
        self._rolling: _Rolling | None = None
        self._is_announced = False
        self._reload_is_due = False
        self._stopped_ns: int | None = None
        # What the run ends with: why the start failed, and the exit status.
        self._failure = ''
        self._status = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(inbox, selectors.EVENT_READ)
        self._metrics: SupervisorMetrics | None = None
        self._endpoint: Endpoint | None = None
        if config.metrics_port >= 0:
            self._metrics = SupervisorMetrics(config.workers)
            self._endpoint = Endpoint(self._scrape, config.metrics_host, config.metrics_port)

    def run(self) -> int:
        """Run until all workers have ended because they were told to."""
        while self._stopped_ns is None or self._workers:
            now_ns = time.monotonic_ns()
            self._reap(now_ns)
            self._start_due(now_ns)
            self._roll(now_ns)
            self._kill_due(now_ns)
            self._announce()
            if self._stopped_ns is None or self._workers:
                self._wait()
        if self._failure:
            raise WorkersError(self._failure.splitlines())
        return self._status

    def close(self) -> None:
        """Leave nothing behind, whatever happened."""
        for worker in self._workers:
            worker.kill()
            worker.process.wait()
            worker.close()
        if self._endpoint is not None:
            self._endpoint.stop()
        self._selector.close()

    # -- what happens ----------------------------------------------------------------------------

    def _wait(self) -> None:
        """Take in messages and signals, until a time at which something is due at the latest."""
        due_ns = [seat.due_ns for seat in self._empty_seats()]
        due_ns += [
            worker.kill_ns for worker in self._workers
            if worker.kill_ns is not None and not worker.is_killed
        ]
        timeout_s = None
        if due_ns:
            timeout_s = max(0.0, min(due_ns) - time.monotonic_ns()) / NS_PER_S
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                for number in self._inbox.recv(64):
                    self._on_signal(signal.Signals(number), time.monotonic_ns())
            else:
                self._read(key.data)

    def _read(self, worker: _Worker) -> None:
        was_serving = worker.address is not None
        try:
            worker.read()
        except EOFError:
            self._selector.unregister(worker.channel)
        if worker.address is not None and not was_serving:
            log.info('%s serves', worker)

    def _on_signal(self, number: signal.Signals, now_ns: int) -> None:
        if number == signal.SIGCHLD:
            return
        if number == signal.SIGHUP and not self._has_hung_up():
            self._reload_is_due = True
        elif self._stopped_ns is None:
            log.info('%s: shutting down', number.name)
            self._stop(now_ns)
        elif now_ns - self._stopped_ns > SAME_SIGNAL_NS:
            self._status = 128 + number
            for worker in self._workers:
                worker.kill()

    def _has_hung_up(self) -> bool:
        """Tell whether the terminal this was started from is gone, and nobody wants a reload."""
        return any(not os.isatty(descriptor) for descriptor in self._terminals)

    def _reap(self, now_ns: int) -> None:
        for worker in list(self._workers):
            status = worker.process.poll()
            if status is None:
                continue
            with contextlib.suppress(KeyError):
                self._read(worker)
                self._selector.unregister(worker.channel)
            self._workers.remove(worker)
            worker.close()
            self._on_end(worker, status, now_ns)

    def _on_end(self, worker: _Worker, status: int, now_ns: int) -> None:
        seat = next((seat for seat in self._seats if seat.worker is worker), None)
        if seat is not None:
            seat.worker = None
        if worker.is_killed:
            return
        if worker.kill_ns is not None:
            # Before it is a server it dies of the signal, or of what keeps it from serving.
            if status not in (0, -signal.SIGTERM, EXPLAINED_STATUS):
                log.error('%s %s', worker, _how_it_ended(status))
        elif seat is None:
            log.error('the new %s %s%s', worker, _how_it_ended(status), _because(worker))
            self._stop_rolling()
        elif status == EXPLAINED_STATUS and not self._is_announced:
            # The others would say the same.
            self._failure = worker.failure or f'{worker} {_how_it_ended(status)}'
            self._stop(now_ns)
        else:
            self._replace(seat, worker, status, now_ns)

    def _replace(self, seat: _Seat, worker: _Worker, status: int, now_ns: int) -> None:
        if self._metrics is not None:
            self._metrics.worker_died()
        delay_ns = seat.restarts.delay_ns(now_ns - worker.started_ns)
        seat.due_ns = now_ns + delay_ns
        log.error(
            '%s %s%s; another starts in %.2f s', worker, _how_it_ended(status),
            _because(worker), delay_ns / NS_PER_S,
        )

    # -- what is done ----------------------------------------------------------------------------

    def _empty_seats(self) -> list[_Seat]:
        if self._stopped_ns is not None:
            return []
        # The successor of a rolling replacement is on its way.
        coming = self._rolling.seats[0] if self._rolling and self._rolling.incoming else None
        return [seat for seat in self._seats if seat.worker is None and seat is not coming]

    def _start_due(self, now_ns: int) -> None:
        for seat in self._empty_seats():
            if seat.due_ns <= now_ns:
                seat.worker = self._start(seat.config, now_ns)
                if seat.worker is None:
                    seat.due_ns = now_ns + seat.restarts.delay_ns(0)

    def _start(self, config: ServerConfig, now_ns: int) -> _Worker | None:
        """Start a worker; None: this machine has no room for another process."""
        used = {worker.number for worker in self._workers}
        number = next(number for number in range(1, len(used) + 2) if number not in used)
        try:
            worker = _Worker(number, config, self._state_key, now_ns)
        except OSError as error:
            log.error('worker %d cannot be started: %s', number, error)
            return None
        self._workers.append(worker)
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        return worker

    def _kill_due(self, now_ns: int) -> None:
        for worker in self._workers:
            is_due = worker.kill_ns is not None and worker.kill_ns <= now_ns
            if is_due and not worker.is_killed:
                log.error('%s does not end; it is killed', worker)
                worker.kill()
                if self._stopped_ns is not None:
                    self._status = 1

    def _stop(self, now_ns: int) -> None:
        self._stopped_ns = now_ns
        self._rolling = None
        for worker in self._workers:
            worker.tell_to_end(now_ns)

    def _announce(self) -> None:
        """Say once that all serve: before, the robots would all come to the first that does."""
        workers = [seat.worker for seat in self._seats if seat.worker and seat.worker.address]
        if self._is_announced or len(workers) < len(self._seats):
            return
        self._is_announced = True
        print(f'listening on {workers[0].address}', flush=True)
        print(workers[0].model, flush=True)
        print(f'{len(workers)} workers', flush=True)
        if self._endpoint is not None:
            print(f'metrics on http://{self._endpoint.address}/metrics', flush=True)

    def _for_worker(self, config: ServerConfig) -> ServerConfig:
        return dataclasses.replace(share(config, self._cores), port=self._port)

    # -- rolling replacement ---------------------------------------------------------------------

    def _roll(self, now_ns: int) -> None:
        """Take the next step, if it is time for one."""
        if self._stopped_ns is not None:
            return
        if self._reload_is_due and self._is_announced and self._rolling is None:
            self._begin_rolling()
        rolling = self._rolling
        if rolling is None or rolling.leaving in self._workers:
            return
        if rolling.incoming is not None:
            if rolling.incoming.address is None:
                return
            seat = rolling.seats.pop(0)
            rolling.leaving = seat.worker
            seat.worker, seat.config = rolling.incoming, rolling.config
            rolling.incoming = None
            if rolling.leaving is not None:
                rolling.leaving.tell_to_end(now_ns)
                return
        if rolling.seats:
            rolling.incoming = self._start(rolling.config, now_ns)
            if rolling.incoming is None:
                self._stop_rolling()
        else:
            logs.setup(rolling.config)
            log.info('all workers were replaced')
            self._rolling = None

    def _begin_rolling(self) -> None:
        self._reload_is_due = False
        try:
            wanted = self._reload()
            fixed = {name: getattr(self._config, name) for name in FIXED}
            config = dataclasses.replace(wanted, **fixed)
        except ConfigError as error:
            for line in error.problems:
                log.error('the new settings are not used: %s', line)
            return
        for name, stays in fixed.items():
            if getattr(wanted, name) != stays:
                log.warning('%s stays %r until the server is started anew', name, stays)
        log.info('SIGHUP: the workers are replaced one after the other')
        self._rolling = _Rolling(self._for_worker(config), list(self._seats))

    def _stop_rolling(self) -> None:
        assert self._rolling is not None
        done = len(self._seats) - len(self._rolling.seats)
        self._rolling = None
        log.error(
            'the rolling replacement stops: %d of %d workers are new', done, len(self._seats)
        )

    def _scrape(self) -> str:
        """Return the metrics of all; called in the threads of the endpoint."""
        assert self._metrics is not None
        asked = {
            worker.number: worker.ask_metrics()
            for worker in list(self._workers) if worker.address is not None
        }
        concurrent.futures.wait(asked.values(), SCRAPE_TIMEOUT_S)
        return self._metrics.text({
            number: future.result()
            for number, future in asked.items() if future.done() and not future.cancelled()
        })


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f'ended with status {status}'
    with contextlib.suppress(ValueError):
        return f'was ended by {signal.Signals(-status).name}'
    return f'was ended by signal {-status}'


def _because(worker: _Worker) -> str:
    return f' ({"; ".join(worker.failure.splitlines())})' if worker.failure else ''


@contextlib.contextmanager
def _signal_inbox() -> Iterator[socket.socket]:
    """Give a socket with a byte for each signal that came, its number."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    inbox, outbox = socket.socketpair()
    with inbox, outbox:
        outbox.setblocking(False)
        before = signal.set_wakeup_fd(outbox.fileno())
        handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}
        try:
            yield inbox
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)


def _environment() -> dict[str, str]:
    """Return that of this process; modules are found where this process finds them."""
    if os.getcwd() in sys.path or '' in sys.path:
        return dict(os.environ)
    # Else `-m` would look in the working directory first.
    return {**os.environ, 'PYTHONSAFEPATH': '1'}


def _as_json(config: ServerConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    return {name: os.fspath(value) if isinstance(value, os.PathLike) else value
            for name, value in values.items()}
