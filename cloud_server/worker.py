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
One of several server processes, started by workers.py as `python -m cloud_server.worker FD`.

FD is its channel to the process above, one of a pair of sockets, with one JSON object a line:

    down    {"worker", "settings", "state_key"}, once; then {"ask": "metrics"} for each scrape
    up      {"model": text} when it is loaded, {"ready": address} when it listens, or
            {"failed": text} and exit status 2; {"metrics": text} for each question

The key of the sealed states is in no argument and no environment. At the end of the channel,
however the process above ended, the worker drains and ends as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from cloud_server import config as settings
from cloud_server import logs
from cloud_server.config import ServerConfig

if TYPE_CHECKING:
    from cloud_server.server import Running

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
# A worker drains for twice drain_ms at most; with this on top it is killed.
STOP_MARGIN_NS = 5 * NS_PER_S
# Exit status of a worker that told why it cannot serve.
EXPLAINED_STATUS = 2

log = logging.getLogger(__name__)


def longest_drain_ns(config: ServerConfig) -> int:
    """Return how long a worker that was told to end may take."""
    return 2 * config.drain_ms * NS_PER_MS + STOP_MARGIN_NS


def line_of(message: dict[str, Any]) -> bytes:
    """Return a message as a line of the channel."""
    return json.dumps(message).encode() + b'\n'


class _Above:
    """The process above, as a worker sees it."""

    def __init__(self, descriptor: int) -> None:
        # Not for what the worker itself starts: the end of the channel is its own end.
        os.set_inheritable(descriptor, False)
        self._channel = socket.socket(fileno=descriptor)
        self._lines = self._channel.makefile('rb')
        self._lock = threading.Lock()
        self._running: Running | None = None

    def order(self) -> dict[str, Any] | None:
        """Wait for number, settings and key; None: the process above is gone."""
        line = self._lines.readline()
        order: dict[str, Any] | None = json.loads(line) if line else None
        return order

    def on_ready(self, running: Running) -> None:
        """Say that the server listens."""
        self._running = running
        self.say({'ready': running.address})

    def say(self, message: dict[str, Any]) -> None:
        """Send a message; if nobody is there to hear it, that is found out by `listen`."""
        with contextlib.suppress(OSError), self._lock:
            self._channel.sendall(line_of(message))

    def listen(self, longest_drain_s: float) -> None:
        """Answer questions; when the process above is gone, drain and end."""
        with contextlib.suppress(OSError):
            for line in self._lines:
                if json.loads(line) == {'ask': 'metrics'}:
                    self.say({'metrics': self._metrics()})
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(longest_drain_s)
        os._exit(1)

    def _metrics(self) -> str:
        try:
            return self._running.metrics.text() if self._running is not None else ''
        except Exception:
            log.exception('the metrics failed')
            return ''


def work(descriptor: int) -> int:
    """
    Serve as one of several processes; return the exit status.

    Args:
        descriptor: of the channel to the process above.

    """
    # Until the server takes the signals itself there is nothing to shut down.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    above = _Above(descriptor)
    order = above.order()
    if order is None:
        return 0
    config = settings.load(order['settings'], {}, None)
    logs.setup(config, order['worker'])
    longest_drain_s = longest_drain_ns(config) / NS_PER_S
    threading.Thread(
        target=above.listen, args=(longest_drain_s,), name='above', daemon=True
    ).start()
    try:
        return _serve(above, config, bytes.fromhex(order['state_key']))
    except Exception:
        log.exception('the worker failed')
        return 1


def _serve(above: _Above, config: ServerConfig, state_key: bytes) -> int:
    from cloud_server import server

    try:
        engine = server.load_engine(config)
        above.say({'model': f'model {engine.info.display} on {engine.device} ({engine.kind})'})
        with contextlib.closing(engine):
            asyncio.run(server.serve(
                config, engine, reuse_port=True, ready=above.on_ready, state_key=state_key,
            ))
    except server.EXPLAINED as error:
        above.say({'failed': str(error)})
        return EXPLAINED_STATUS
    return 0


if __name__ == '__main__':
    sys.exit(work(int(sys.argv[1])))
