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
"""Serves a text of metrics over HTTP, in threads of its own."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from cloud_server.address import bracketed

CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
# A scraper asks once in some seconds; who keeps more connections than these is none.
MAX_SCRAPES = 8
SCRAPE_TIMEOUT_S = 10.0
ACCEPT_PAUSE_S = 0.2

log = logging.getLogger(__name__)


class MetricsError(OSError):
    """The address of the metrics cannot be had; the message names it."""


class Endpoint:
    """Answers GET /metrics in threads of its own."""

    def __init__(self, text: Callable[[], str], host: str, port: int) -> None:
        """
        Listen.

        Args:
            text: called for each scrape, in a thread; what it raises is a status 500.
            host: address of this machine.
            port: 0: any free one.

        Raises:
            MetricsError: the address cannot be had.

        """
        try:
            self._server = _Server(text, host, port)
        except OSError as error:
            reason = error.strerror or str(error)
            raise MetricsError(
                f'cannot serve metrics on {bracketed(host)}:{port}: {reason}'
            ) from error
        self.address = f'{bracketed(host)}:{self._server.server_address[1]}'
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name='metrics', daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, TCPServer):
    daemon_threads = True
    block_on_close = False
    # A server that is started again finds its port though connections of before linger.
    allow_reuse_address = True

    def __init__(self, text: Callable[[], str], host: str, port: int) -> None:
        self.text = text
        self._places = threading.BoundedSemaphore(MAX_SCRAPES)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, address = found[0][0], found[0][4]
        super().__init__(address, _Handler)  # type: ignore[arg-type]

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except OSError:
            # Out of descriptors: the connection stays in the queue, and without a pause the
            # thread would take a core until one is free.
            time.sleep(ACCEPT_PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug('a scrape broke off', exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    # Of each wait for the client.
    timeout = SCRAPE_TIMEOUT_S
    server_version = 'ferros'
    sys_version = ''

    def do_GET(self) -> None:
        if self.path.partition('?')[0] != '/metrics':
            self._reply(404, 'text/plain', 'the metrics are at /metrics\n')
            return
        try:
            text = self.server.text()
        except Exception:
            log.exception('the metrics failed')
            self._reply(500, 'text/plain', 'internal error, see the server log\n')
            return
        self._reply(200, CONTENT_TYPE, text)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug('metrics: ' + format, *args)

    def _reply(self, status: int, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header('Content-Type', content_type)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
