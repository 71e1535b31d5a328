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
A run without namespaces, TCP and a server, for where the real ones cannot be.

The sender's real decisions (ferros/sender.py) meet the lab's real pipes on a simulated clock.
Simulated are the camera, the length of the messages, the server's time and TCP: a message's
segments are sent at once, a lost one again after RETRANSMISSION_NS, and what follows it waits.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bench.link.pipe import Pipe
from ferros.sender import InFlight, Sender, ServerTerms
from ferros.types import Box, CameraFrame, GridPoint, OfferedFace

SERVER_NS = 3_000_000
RETRANSMISSION_NS = 240_000_000
FRAME_NS = 33_333_333
SEGMENT_BYTES = 1500
ANSWER_BYTES = 240
# What acknowledges an answer and updates gRPC's window, on the way to the server.
ACKNOWLEDGEMENT_BYTES = 40
# Of a message, what the sender adds to the request by itself: gRPC, HTTP/2, TCP and IPv4.
HEADER_BYTES = 66
# Messages are about as long as those of the grid: the standard deviation of the logarithm.
LENGTH_SPREAD = 0.18
# The server's clock has nothing to do with the robot's.
SERVER_CLOCK_NS = -7_000_000_000_000
FACE_SIDE_PX = 48
TERMS = ServerTerms(input_size_px=48, credits=32, frame_rate_fps=240.0)


class Answered(NamedTuple):
    """A frame that came back; times are ns of the simulated clock, which begins at 0."""

    sent: InFlight
    answered_ns: int

    @property
    def face_id(self) -> str:
        """Return whose face it is."""
        return self.sent.ready.face.face_id

    @property
    def point(self) -> GridPoint:
        """Return how it was sent."""
        return self.sent.ready.point

    @property
    def captured_ns(self) -> int:
        """Return when its image was taken."""
        return self.sent.ready.face.frame.captured_ns


class _Stream:
    """What TCP makes of a pipe: messages arrive whole and in order, or later."""

    def __init__(self, pipe: Pipe, deliver: Callable[[int, int], None]) -> None:
        self._pipe = pipe
        self._deliver = deliver
        self._missing: dict[int, int] = {}
        self._again: list[tuple[int, bytes]] = []

    def send(self, number: int, size_bytes: int, now_ns: int) -> None:
        lengths = [SEGMENT_BYTES] * (size_bytes // SEGMENT_BYTES)
        rest = size_bytes % SEGMENT_BYTES
        lengths += [max(rest, 8)] if rest else []
        self._missing[number] = len(lengths)
        for length in lengths:
            self._push(number.to_bytes(8, 'big') + bytes(length - 8), now_ns)

    def fetch(self, now_ns: int) -> None:
        while self._again and self._again[0][0] <= now_ns:
            self._push(heapq.heappop(self._again)[1], now_ns)
        for packet in self._pipe.pop(now_ns):
            number = int.from_bytes(packet[:8], 'big')
            if number:
                self._missing[number] -= 1
        while self._missing:
            number, left = next(iter(self._missing.items()))
            if left:
                break
            del self._missing[number]
            self._deliver(number, now_ns)

    def next_ns(self) -> int | None:
        times = [time for time in (self._pipe.next_ns(), *(a[0] for a in self._again[:1])) if time]
        return min(times, default=None)

    def _push(self, packet: bytes, now_ns: int) -> None:
        if not self._pipe.push(packet, now_ns) and packet[:8] != bytes(8):
            heapq.heappush(self._again, (now_ns + RETRANSMISSION_NS, packet))


class Simulation:
    """One sender, one link, one server."""

    def __init__(self, sender: Sender, up: Pipe, down: Pipe, faces: int, seed: int = 0) -> None:
        self.answers: list[Answered] = []
        self.now_ns = 0
        self._sender = sender
        self._up_pipe = up
        self._up = _Stream(up, self._serve)
        self._down = _Stream(down, self._answer)
        self._faces = faces
        self._random = random.Random(seed)
        self._image = np.zeros((1, 1), np.uint8)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._received_ns: dict[int, int] = {}
        self._woken = False
        self._wake_ns: int | None = None
        sender.connect()
        sender.welcome(TERMS, ())
        self._at(0, self._camera)

    def run(self, until_ns: int, watch: Callable[[int], None] = lambda now_ns: None) -> None:
        """Go on until then; watch is called after each step."""
        while True:
            times = [self._up.next_ns(), self._down.next_ns(), self._wake_ns]
            times.append(self._events[0][0] if self._events else None)
            next_ns = min(time for time in times if time is not None)
            if next_ns > until_ns:
                break
            self.now_ns = max(self.now_ns, next_ns)
            while self._events and self._events[0][0] <= self.now_ns:
                heapq.heappop(self._events)[2]()
            self._up.fetch(self.now_ns)
            self._down.fetch(self.now_ns)
            if self._woken or (self._wake_ns is not None and self._wake_ns <= self.now_ns):
                self._send()
            watch(self.now_ns)

    def _at(self, time_ns: int, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_ns, next(self._order), event))

    def _camera(self) -> None:
        frame = CameraFrame(self._image, self.now_ns, self.now_ns)
        box = Box(0, 0, FACE_SIDE_PX, FACE_SIDE_PX)
        self._sender.offer(
            [OfferedFace(f'f{slot}', box, frame) for slot in range(self._faces)], self.now_ns
        )
        self._at(self.now_ns + FRAME_NS, self._camera)
        self._woken = True

    def _send(self) -> None:
        """Do what the link's thread does when it is woken, or has waited long enough."""
        while (ready := self._sender.take(self.now_ns)) is not None:
            factor = self._random.lognormvariate(0.0, LENGTH_SPREAD)
            request_bytes = max(60, round(ready.point.bytes_p50 * factor) - HEADER_BYTES)
            sequence = self._sender.sent(ready, request_bytes, self.now_ns)
            self._up.send(sequence, request_bytes + HEADER_BYTES, self.now_ns)
        wait_ns = self._sender.wait_ns(self.now_ns)
        self._wake_ns = None if wait_ns is None else self.now_ns + max(wait_ns, 1_000_000)
        self._woken = False

    def _serve(self, number: int, now_ns: int) -> None:
        self._received_ns[number] = now_ns
        self._at(now_ns + SERVER_NS, lambda: self._down.send(number, ANSWER_BYTES, self.now_ns))

    def _answer(self, number: int, now_ns: int) -> None:
        self._up_pipe.push(bytes(ACKNOWLEDGEMENT_BYTES), now_ns)
        received_ns = self._received_ns.pop(number) + SERVER_CLOCK_NS
        sent = self._sender.answered(
            number, received_ns, SERVER_NS, ANSWER_BYTES - HEADER_BYTES, now_ns
        )
        self._woken = True
        if sent is not None:
            self.answers.append(Answered(sent, now_ns))
