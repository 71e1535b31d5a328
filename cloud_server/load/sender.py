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
"""Sends the frames of one robot: as planned, whatever comes back, or as many as fit a window."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import NamedTuple

import grpc

from cloud_server.load import schedule
from cloud_server.load.behaviour import Behaviour
from cloud_server.load.connection import Connection
from cloud_server.load.run import NS_PER_MS, NS_PER_S, Run, now_ns
from cloud_server.load.stream import Sent, Stream
from cloud_server.load.tally import FrameLog
from ferros_proto import recognition_pb2 as wire

# A frame that cannot leave within this time is not sent: a robot has a newer one by then.
LONGEST_HOLD_NS = 250 * NS_PER_MS
# A saturating robot that is told no rate with OVERLOADED leaves a place of its window empty for
# so long; and for no longer than the other, whatever it is told.
OVERLOADED_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


class Face(NamedTuple):
    """What a robot sends of one face."""

    face_id: str
    images: tuple[bytes, ...]


class Sender:
    """
    The sending half of one robot.

    Args:
        run: what all robots share.
        begins_ns: when this robot begins to send.
        first_face: number of its first face among those of all robots.
        random_: the only source of chance.
        connection: where the frames go.
        behaviour: what becomes of a frame on the way.
        log: where frames that do not leave are noted.

    """

    def __init__(
        self,
        run: Run,
        begins_ns: int,
        first_face: int,
        random_: random.Random,
        connection: Connection,
        behaviour: Behaviour,
        log: FrameLog,
    ) -> None:
        self._run = run
        self._begins_ns = begins_ns
        self._random = random_
        self._connection = connection
        self._behaviour = behaviour
        self._log = log
        self._faces = _faces(run, first_face, random_)
        self._interval_ms = round(1000 * run.plan.faces / run.plan.rate_fps)
        self._frames = 0
        self._write_ended_ns = 0
        # Places in the window that are left empty, as the server asked for.
        self._resting = 0
        # The server's limit of frames per second is kept by not sending before this.
        self._paced_ns = 0
        # What the task sleeps on.
        self._sleeper: asyncio.Future[None] | None = None
        # It is about to be cancelled.
        self._is_dead = False

    async def send_as_planned(self) -> None:
        """Send each frame at its time, whatever became of those before it."""
        plan = self._run.plan
        planned: Iterator[int] = schedule.planned_ns(
            plan.rate_fps, self._begins_ns, self._run.end_ns, plan.arrivals, self._random
        )
        for planned_ns in planned:
            while (at_ns := now_ns()) < planned_ns <= self._run.end_ns:
                await self._sleep_until(planned_ns)
            if planned_ns > self._run.end_ns:
                return
            reason = self._reason_to_hold(planned_ns, at_ns)
            stream = self._connection.stream
            if reason or stream is None:
                self._log.held(reason, planned_ns, at_ns)
            else:
                await self._write(stream, planned_ns, at_ns, self._interval_ms)

    async def send_in_a_window(self) -> None:
        """Keep a number of frames unanswered, within what the server allows."""
        self._connection.on_change = self.wake
        self._connection.on_overloaded = self._rest
        while (at_ns := now_ns()) < self._begins_ns:
            await self._sleep_until(self._begins_ns)
        while (at_ns := now_ns()) < self._run.end_ns:
            stream = self._connection.stream
            if stream is None or not self._fits(stream):
                await self._sleep_until(self._run.end_ns)
            elif self._paced_ns > at_ns:
                await self._sleep_until(min(self._paced_ns, self._run.end_ns))
            else:
                self._pace(stream, at_ns)
                await self._write(stream, at_ns, at_ns, 0)

    def wake(self) -> None:
        """Look again: something has changed."""
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def die(self) -> None:
        """Know that the task that sends is about to be cancelled."""
        self._is_dead = True

    def _reason_to_hold(self, planned_ns: int, at_ns: int) -> str:
        """Return why a frame cannot leave now; empty: it can."""
        if at_ns - planned_ns > LONGEST_HOLD_NS:
            # Was it the transport, which took its time for the one before, or we ourselves?
            was_blocked = self._write_ended_ns - planned_ns > LONGEST_HOLD_NS // 2
            is_swift = self._run.recent_lag_ns < LONGEST_HOLD_NS // 4
            return 'blocked' if was_blocked and is_swift else 'generator_late'
        stream = self._connection.stream
        if stream is None or not stream.may_send:
            return 'not_connected'
        if (
            self._behaviour.obeys_credits
            and stream.welcome is not None
            and stream.unanswered >= stream.welcome.credits
        ):
            return 'no_credit'
        return ''

    def _fits(self, stream: Stream) -> bool:
        """Tell whether one more frame may be on its way in that stream."""
        if stream.welcome is None or not stream.may_send:
            return False
        window = min(self._run.plan.frames_in_flight, stream.welcome.credits)
        return len(stream.pending) + self._resting < window

    def _pace(self, stream: Stream, at_ns: int) -> None:
        """Keep to the server's limit: no answer to a frame above it says what it can compute."""
        limit_fps = stream.welcome.limits.max_frame_rate_fps if stream.welcome else 0
        if limit_fps > 0:
            # What the event loop was late by may be caught up with.
            began_ns = max(self._paced_ns, at_ns - NS_PER_MS)
            self._paced_ns = began_ns + int(NS_PER_S / limit_fps)

    def _rest(self, suggested_fps: float) -> None:
        """Leave a place of the window empty, so that the robot sends at the rate suggested."""
        pause_s = OVERLOADED_PAUSE_S
        if suggested_fps > 0:
            pause_s = min(self._run.plan.frames_in_flight / suggested_fps, LONGEST_PAUSE_S)
        self._resting += 1
        asyncio.get_running_loop().call_later(pause_s, self._end_rest)

    def _end_rest(self) -> None:
        self._resting -= 1
        self.wake()

    async def _write(
        self, stream: Stream, planned_ns: int, at_ns: int, interval_ms: int
    ) -> None:
        turn, number = divmod(self._frames, len(self._faces))
        face = self._faces[number]
        self._frames += 1
        frame = wire.FaceFrame(
            sequence=stream.next_sequence,
            face_id=face.face_id,
            stamp_ns=planned_ns,
            capture_monotonic_ns=planned_ns,
            interval_ms=interval_ms,
            codec=self._run.codec,
            image=face.images[turn % len(face.images)],
        )
        sequence, request = self._behaviour.request(frame, stream)
        stream.register(sequence, Sent(planned_ns, at_ns, number))
        stream.next_sequence += 1
        stream.is_writing = True
        try:
            await stream.call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # It is over; who reads it counts what is lost.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if not stream.given_up or self._is_dead:
                raise
            await asyncio.sleep(0)
        finally:
            stream.is_writing = False
            self._write_ended_ns = now_ns()
        if stream.call.done():
            return
        self._behaviour.after_write(stream)
        if stream.drained_ns is not None:
            await stream.half_close()

    async def _sleep_until(self, at_ns: int) -> None:
        """Sleep until that time, or until something has changed."""
        pause_s = max(at_ns - now_ns(), 0) / NS_PER_S
        self._sleeper = asyncio.get_running_loop().create_future()
        timer = asyncio.get_running_loop().call_later(pause_s, self.wake)
        try:
            await self._sleeper
        finally:
            timer.cancel()
            self._sleeper = None


def _faces(run: Run, first: int, random_: random.Random) -> tuple[Face, ...]:
    made = []
    for number in range(run.plan.faces):
        images = run.crops[schedule.size_of_face_px(first + number, run.plan.sizes)]
        # Each face begins with another image.
        begin = random_.randrange(len(images))
        made.append(Face(f'face{number}', images[begin:] + images[:begin]))
    return tuple(made)
