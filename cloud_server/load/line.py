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
"""What a stream runs over: a connection of its own, a shared one, or one that can be cut."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import grpc

from cloud_server.load.plan import Address
from cloud_server.load.relay import Relay
from cloud_server.load.target import Target


class Line(NamedTuple):
    """A channel to the server."""

    channel: grpc.aio.Channel
    # Cuts the connection without a goodbye; None: this one cannot be cut.
    cut: Callable[[], None] | None = None


@contextlib.asynccontextmanager
async def own_line(
    target: Target, address: Address, options: Sequence[tuple[str, int | str]] = ()
) -> AsyncIterator[Line]:
    """Connect for one stream."""
    async with target.dial(address, options) as channel:
        yield Line(channel)


@contextlib.asynccontextmanager
async def cuttable_line(target: Target, address: Address) -> AsyncIterator[Line]:
    """Connect for one stream, through a relay on this machine."""
    relay = await Relay.open(address)
    try:
        # The relay is not to be looked for behind a proxy of the surroundings.
        options = [('grpc.enable_http_proxy', 0)]
        async with target.dial(relay.address, options, name=address.host) as channel:
            yield Line(channel, relay.cut)
    finally:
        await relay.close()


class SharedLine:
    """A connection that several streams use; it is made when the first asks, and kept."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._channels: dict[Address, grpc.aio.Channel] = {}

    @contextlib.asynccontextmanager
    async def use(self, address: Address) -> AsyncIterator[Line]:
        """Give the connection to one more stream."""
        if address not in self._channels:
            self._channels[address] = self._target.dial(address)
        yield Line(self._channels[address])

    async def close(self) -> None:
        """End the connections."""
        for channel in self._channels.values():
            await channel.close(None)
