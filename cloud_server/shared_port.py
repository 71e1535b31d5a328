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
"""A port for several processes of one user, held while they come and go."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from cloud_server.address import bracketed
from cloud_server.config import ConfigError


class WorkersError(ConfigError):
    """Settings that the workers cannot serve with, though each by itself may be right."""


@contextlib.contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """
    Hold a port for processes of this user that share it; 0: any free one.

    The sockets that hold it never listen, so the kernel gives them no connection.

    Raises:
        WorkersError: it is in use, or not of this machine.

    """
    with contextlib.ExitStack() as stack:
        try:
            found = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            # A name such as localhost has an address of each family, and one port for them all.
            held = port
            for family, _, _, _, address in found:
                holder = stack.enter_context(_hold(family, (address[0], held, *address[2:])))
                held = holder.getsockname()[1]
        except OSError as error:
            where = f'{bracketed(host)}:{port}'
            raise WorkersError([f'cannot listen on {where}: {error.strerror or error}']) from error
        yield held


def _hold(family: int, address: tuple[Any, ...]) -> socket.socket:
    """Bind a socket that others of this user may share, if nobody has the address now."""
    if address[1]:
        # Sockets that share a port are let in without a word: ask as one that would not share.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    try:
        return _bound(family, address, socket.SO_REUSEPORT)
    except OSError:
        # Connections of a server before that linger. Only then: with this option two that begin
        # at the same moment would not see each other.
        return _bound(family, address, socket.SO_REUSEPORT, socket.SO_REUSEADDR)


def _bound(family: int, address: tuple[Any, ...], *options: int) -> socket.socket:
    holder = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            holder.setsockopt(socket.SOL_SOCKET, option, 1)
        holder.bind(address)
    except OSError:
        holder.close()
        raise
    return holder
