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
"""A relay for one connection, so that it can be cut as a cable is: gRPC would say goodbye."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import cast

from cloud_server.load.plan import Address

# Closing such a socket sends a reset, and what was in its buffers is gone.
_NO_LINGER = struct.pack('ii', 1, 0)


class Relay:
    """Listens on this machine and carries the bytes of what connects to an address, and back."""

    def __init__(self, server: asyncio.Server, ends: set[_End]) -> None:
        self._server = server
        self._ends = ends

    @classmethod
    async def open(cls, to: Address) -> Relay:
        """Listen on a free port; raises OSError where there is none."""
        ends: set[_End] = set()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _NearEnd(to, ends), '127.0.0.1', 0)
        return cls(server, ends)

    @property
    def address(self) -> Address:
        """Return where to connect in place of the server."""
        return Address('127.0.0.1', self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Reset all connections at both ends, with what is on its way."""
        for end in list(self._ends):
            end.reset()

    async def close(self) -> None:
        """Listen no more, and end what is left."""
        self._server.close()
        for end in list(self._ends):
            end.end()
        await self._server.wait_closed()


class _End(asyncio.Protocol):
    """One of the two ends of a connection."""

    def __init__(self, ends: set[_End]) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None
        self._ends = ends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._ends.add(self)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._ends.discard(self)
        if self.other is not None:
            self.other.end()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def end(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        if self.transport is None:
            return
        raw = self.transport.get_extra_info('socket')
        if raw is not None and not self.transport.is_closing():
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()


class _NearEnd(_End):
    """The robot's end; it connects to the server, and what comes before that waits."""

    def __init__(self, to: Address, ends: set[_End]) -> None:
        super().__init__(ends)
        self._to = to
        self._early = bytearray()
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.ensure_future(self._connect())

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early += data
        else:
            super().data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        super().connection_lost(error)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        far = _End(self._ends)
        far.other = self
        try:
            await loop.create_connection(lambda: far, self._to.host, self._to.port)
        except OSError:
            self.end()
            return
        assert far.transport is not None
        self.other = far
        far.transport.write(bytes(self._early))
