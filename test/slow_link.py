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
"""A thin link on this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Slow:
    """A link of a given rate on the way to a server: real sockets, small buffers."""

    def __init__(self, address: str, bytes_per_s: float) -> None:
        self._target = address.rpartition(':')
        self._bytes_per_s = bytes_per_s
        self._listener = socket.socket()
        # What is accepted inherits it: else the kernel would take a second's worth at once.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self._listener.bind(('127.0.0.1', 0))
        self._listener.listen()
        self.address = f'127.0.0.1:{self._listener.getsockname()[1]}'
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((self._target[0], int(self._target[2])))
                for one, other, rate in ((near, far, self._bytes_per_s), (far, near, 1e9)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(
                        target=self._pump, args=(one, other, rate), daemon=True
                    ).start()

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket, bytes_per_s: float) -> None:
        free_s = 0.0
        with contextlib.suppress(OSError):
            while data := one.recv(512):
                free_s = max(free_s, time.monotonic()) + len(data) / bytes_per_s
                time.sleep(max(0.0, free_s - time.monotonic()))
                other.sendall(data)
        for side in (one, other):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
