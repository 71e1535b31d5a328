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
"""A robot of the load generator, from the beginning of the run to its last answer."""

from __future__ import annotations

import asyncio
import random

from cloud_server.load import schedule
from cloud_server.load.behaviour import Behaviour
from cloud_server.load.connection import Connection, Name
from cloud_server.load.run import NS_PER_S, Run, now_ns
from cloud_server.load.sender import Sender
from cloud_server.load.tally import Tally

# The kind of robot that keeps to the protocol, and of streams without frames.
GOOD = 'good'
IDLE = 'idle'
# How long the last answers are waited for.
LAST_ANSWERS_S = 5.0
# How long one that does not wait for them has to note what it could not send.
LAST_NOTES_S = 1.0


class IdleRobot:
    """Keeps a stream open and sends nothing; may begin before the run does."""

    def __init__(self, run: Run, number: int, behaviour: Behaviour, tally: Tally) -> None:
        self._connection = Connection(
            run, Name(IDLE, number), behaviour, tally,
            lambda stream: stream.welcome is not None,
        )
        self._is_stopped = asyncio.Event()

    @property
    def is_welcomed(self) -> asyncio.Event:
        """Return what is set when the server has greeted it once."""
        return self._connection.is_welcomed

    def look_after(self, at_ns: int) -> None:
        """Give up a stream whose server has become silent; to be called now and then."""
        self._connection.look_after(at_ns)

    def stop(self) -> None:
        """End."""
        self._is_stopped.set()

    async def live(self) -> None:
        """Stay connected until stopped."""
        keeping = asyncio.create_task(self._connection.keep())
        stopped = asyncio.create_task(self._is_stopped.wait())
        try:
            await asyncio.wait({keeping, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._connection.die()
            await _end(keeping, stopped)


class Robot:
    """
    Stays connected, sends its frames and waits for the last answers.

    Args:
        run: what all robots share.
        kind: where it is counted, and part of its name.
        number: among those of its kind, from 0.
        count: of its kind.
        behaviour: what it does on the wire.
        tally: what became of its frames and streams.

    """

    def __init__(
        self, run: Run, kind: str, number: int, count: int, behaviour: Behaviour, tally: Tally
    ) -> None:
        self._run = run
        self._kind = kind
        self._number = number
        self._count = count
        self._behaviour = behaviour
        self._tally = tally
        self._connection = Connection(
            run, Name(kind, number), behaviour, tally, lambda stream: stream.served
        )
        self._sender: Sender | None = None
        self._is_stopped = asyncio.Event()

    def look_after(self, at_ns: int) -> None:
        """Give up a stream whose server has become silent; to be called now and then."""
        self._connection.look_after(at_ns)

    def stop(self) -> None:
        """Send no more: the run was cut short."""
        self._is_stopped.set()
        if self._sender is not None:
            self._sender.wake()

    async def live(self) -> None:
        """Stay connected and send until the run is over, and wait for the last answers."""
        self._sender = sender = self._make_sender()
        saturates = self._run.plan.saturate and self._kind == GOOD
        keeping = asyncio.create_task(self._connection.keep())
        sending = asyncio.create_task(
            sender.send_in_a_window() if saturates else sender.send_as_planned()
        )
        stopped = asyncio.create_task(self._is_stopped.wait())
        try:
            # The sender knows when it is done, unless the transport keeps it.
            await asyncio.wait(
                {sending, keeping, stopped},
                timeout=(self._run.end_ns - now_ns()) / NS_PER_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            await self._finish(keeping, sending)
        finally:
            sender.die()
            self._connection.die()
            await _end(keeping, sending, stopped)

    async def _finish(self, keeping: asyncio.Task[None], sending: asyncio.Task[None]) -> None:
        """Wait for the last answers."""
        if self._behaviour.waits_for_answers and self._connection.stream is not None:
            await asyncio.wait({sending}, timeout=LAST_ANSWERS_S)
            await self._connection.end()
            await asyncio.wait({keeping}, timeout=LAST_ANSWERS_S)
        self._connection.abandon()
        await asyncio.wait({sending}, timeout=LAST_NOTES_S)

    def _make_sender(self) -> Sender:
        plan = self._run.plan
        begins_ns = self._run.begin_ns + schedule.begins_ns(
            self._number, self._count, round(plan.ramp_s * NS_PER_S)
        )
        return Sender(
            self._run,
            begins_ns,
            self._number * plan.faces,
            random.Random(f'{plan.seed}/{self._kind}/{self._number}'),
            self._connection,
            self._behaviour,
            self._tally.frames,
        )


async def _end(*tasks: asyncio.Task[object]) -> None:
    """Cancel the tasks and wait for them; raises what one of them failed with."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
