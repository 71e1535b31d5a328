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
"""How a robot behaves on the wire. Here is the one that keeps to the protocol; see faults.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc

from cloud_server.load.line import Line, SharedLine, own_line
from cloud_server.load.plan import Address
from cloud_server.load.stream import Stream
from cloud_server.load.target import Target
from ferros_proto import recognition_pb2 as wire

# Bytes are sent as they are.
Request = wire.RecognizeRequest | bytes


class Behaviour:
    """
    A robot that keeps to the protocol.

    One object belongs to one robot and lives as long as that does, over all its streams.
    """

    # Sends no frame while as many as the server allows are unanswered.
    obeys_credits = True
    # Reads the Welcome before its first frame.
    waits_for_welcome = True
    # Waits for its last answers when the run is over.
    waits_for_answers = True
    # Ends a stream whose server has become silent.
    gives_up = True
    # Waits longer and longer between attempts to connect.
    backs_off = True
    compression: grpc.Compression | None = None

    def connect(self, target: Target, address: Address) -> AbstractAsyncContextManager[Line]:
        """Return the connection for one stream."""
        return own_line(target, address)

    def opening(self, hello: wire.Hello) -> Request:
        """Return the first request of a stream."""
        return wire.RecognizeRequest(hello=hello)

    def request(self, frame: wire.FaceFrame, stream: Stream) -> tuple[int, Request]:
        """
        Return what is sent in a frame's place.

        Args:
            frame: what a robot that keeps to the protocol would send.
            stream: the stream, before it leaves.

        Returns:
            The sequence number that an answer would carry, and the request.

        """
        return frame.sequence, wire.RecognizeRequest(frame=frame)

    def reader(self, call: Any) -> Callable[[], Awaitable[Any]]:
        """Return what waits for the next response of a call."""
        read: Callable[[], Awaitable[Any]] = call.read
        return read

    def after_write(self, stream: Stream) -> None:
        """Do what the robot does after a frame has left."""


class IdleBehaviour(Behaviour):
    """Sends no frames; shares its connection with others."""

    def __init__(self, line: SharedLine) -> None:
        self._line = line

    def connect(self, target: Target, address: Address) -> AbstractAsyncContextManager[Line]:
        """Return the shared connection."""
        return self._line.use(address)
