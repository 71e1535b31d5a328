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
"""Run a plan against a server: `generate(plan)` is all that a bench or a test needs."""

from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

from cloud_server.load import faces
from cloud_server.load.behaviour import Behaviour, IdleBehaviour
from cloud_server.load.faults import FAULTS
from cloud_server.load.health import Health
from cloud_server.load.line import SharedLine
from cloud_server.load.plan import Plan
from cloud_server.load.result import Result
from cloud_server.load.robot import GOOD, IdleRobot, Robot
from cloud_server.load.run import NS_PER_MS, NS_PER_S, Run, now_ns
from cloud_server.load.summary import HealthFigures, IdleFigures, Server, Times, summarise
from cloud_server.load.tally import Tally
from cloud_server.load.target import Target
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

# As many as the server allows in one connection.
IDLE_STREAMS_PER_LINE = 8
# Idle streams that are being opened at one time, and how long all may take.
OPENING = 16
OPENING_TIMEOUT_S = 60.0
DESCRIBE_TIMEOUT_S = 10.0
# Between the last preparation and the first frame.
LEAD_NS = 50 * NS_PER_MS
# Sockets: of one with a relay; of all that is not a robot.
FILES_PER_FAULTY_ROBOT = 4
OTHER_FILES = 64


class UnreachableError(ConnectionError):
    """No server of ours answers where one was expected."""


class TooManyFilesError(OSError):
    """The plan asks for more connections than this process may have."""


class Progress(NamedTuple):
    """How far a run is; for a display."""

    elapsed_s: float
    whole_s: float
    # OK answers so far.
    ok: int
    open_streams: int


async def generate(
    plan: Plan,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    stop: asyncio.Event | None = None,
) -> Result:
    """
    Load a server as planned and return what was found.

    Args:
        plan: what to do.
        on_progress: called twice a second.
        stop: set it to end the run before its time; what was measured until then is returned.

    Raises:
        TargetError, faces.ImagesError: a file that the plan names cannot be used.
        UnreachableError: no server there at the beginning, or it refuses us.
        TooManyFilesError: this process may not have so many connections.

    """
    target = Target(plan)
    crops = faces.crops(plan)
    _allow_files(plan)
    described = await _describe(target)
    codec: Any = wire.Codec.Value(plan.codec.upper())
    run = Run(plan, target, crops, codec, begin_ns=now_ns())
    return await _Generation(run, described, on_progress).live(stop or asyncio.Event())


class _Generation:
    """All robots of one run, and who looks after them."""

    def __init__(
        self, run: Run, described: Server, on_progress: Callable[[Progress], None]
    ) -> None:
        self._run = run
        self._described = described
        self._on_progress = on_progress
        self._good, self._idle = Tally(), Tally()
        self._faulty = {kind: Tally() for kind, _ in run.plan.faults}
        self._health = Health()
        lines = -(-run.plan.idle // IDLE_STREAMS_PER_LINE)
        self._lines = [SharedLine(run.target) for _ in range(lines)]
        self._idle_robots = [self._idle_robot(number) for number in range(run.plan.idle)]
        self._robots = self._sending_robots()

    async def live(self, stop: asyncio.Event) -> Result:
        tasks: set[asyncio.Task[None]] = set()
        helpers = [asyncio.create_task(self._stop_when(stop))]
        try:
            await self._open_idle(tasks, stop)
            open_at_begin = self._idle.open
            self._run.begin_ns = now_ns() + LEAD_NS
            helpers.append(asyncio.create_task(self._health.watch(self._run, self._look)))
            senders = {asyncio.create_task(robot.live()) for robot in self._robots}
            tasks |= senders
            await self._until_all_are_done(senders, {*tasks, *helpers})
            open_at_end = self._idle.open
            for robot in self._idle_robots:
                robot.stop()
            await asyncio.gather(*tasks)
        finally:
            for task in (*helpers, *tasks):
                task.cancel()
            await asyncio.gather(*helpers, *tasks, return_exceptions=True)
            for line in self._lines:
                await line.close()
        return self._summarise(IdleFigures(open_at_begin, open_at_end))

    async def _until_all_are_done(
        self, senders: set[asyncio.Task[None]], waiting: set[asyncio.Task[None]]
    ) -> None:
        """Wait for the robots that send, or for the first of all tasks that fails: it raises."""
        while True:
            # Without a robot that sends, the time alone ends the run.
            left_s = max((self._run.end_ns - now_ns()) / NS_PER_S, 0)
            done, waiting = await asyncio.wait(
                waiting,
                timeout=None if senders else left_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                task.result()
            if all(task.done() for task in senders) and (senders or now_ns() >= self._run.end_ns):
                return

    async def _open_idle(self, tasks: set[asyncio.Task[None]], stop: asyncio.Event) -> None:
        deadline_ns = now_ns() + round(OPENING_TIMEOUT_S * NS_PER_S)
        opening: set[asyncio.Task[bool]] = set()
        waiting = list(reversed(self._idle_robots))
        while (waiting or opening) and now_ns() < deadline_ns and not stop.is_set():
            while waiting and len(opening) < OPENING:
                robot = waiting.pop()
                tasks.add(asyncio.create_task(robot.live()))
                opening.add(asyncio.create_task(robot.is_welcomed.wait()))
            left_s = (deadline_ns - now_ns()) / NS_PER_S
            _, opening = await asyncio.wait(
                opening, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
        for welcome in opening:
            welcome.cancel()

    async def _stop_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._run.stopped_ns = now_ns()
        for robot in self._robots:
            robot.stop()

    def _look(self, at_ns: int) -> None:
        for robot in self._robots:
            robot.look_after(at_ns)
        for idle in self._idle_robots:
            idle.look_after(at_ns)
        self._on_progress(Progress(
            (at_ns - self._run.begin_ns) / NS_PER_S,
            self._run.plan.whole_s,
            self._good.frames.ok,
            self._good.open + self._idle.open,
        ))

    def _idle_robot(self, number: int) -> IdleRobot:
        behaviour = IdleBehaviour(self._lines[number // IDLE_STREAMS_PER_LINE])
        return IdleRobot(self._run, number, behaviour, self._idle)

    def _sending_robots(self) -> list[Robot]:
        run, plan = self._run, self._run.plan
        robots = [
            Robot(run, GOOD, number, plan.robots, Behaviour(), self._good)
            for number in range(plan.robots)
        ]
        for kind, count in plan.faults:
            for number in range(count):
                random_ = random.Random(f'{plan.seed}/{kind}/{number}/fault')
                behaviour = FAULTS[kind].make(random_, plan.rate_fps)
                robots.append(Robot(run, kind, number, count, behaviour, self._faulty[kind]))
        return robots

    def _summarise(self, idle: IdleFigures) -> Result:
        run, health = self._run, self._health
        server = self._described
        welcome = self._good.welcome or self._idle.welcome
        if welcome is not None:
            limit_fps = welcome.limits.max_frame_rate_fps
            server = server._replace(
                model=welcome.model, credits=welcome.credits, max_frame_rate_fps=limit_fps
            )
        return summarise(
            run.plan,
            server,
            Times(run.begin_ns, run.measured_from_ns, run.end_ns),
            self._good,
            self._faulty,
            (idle, self._idle) if run.plan.idle else None,
            HealthFigures(health.lags_us, health.cpu_s, health.measured_s),
        )


async def _describe(target: Target) -> Server:
    """Ask the first server that answers what it is."""
    said = []
    for address in target.addresses:
        async with target.dial(address) as channel:
            stub: Any = recognition_pb2_grpc.RecognitionStub(channel)  # type: ignore[no-untyped-call]
            try:
                described = await stub.Describe(
                    wire.DescribeRequest(),
                    timeout=DESCRIBE_TIMEOUT_S,
                    metadata=target.metadata(0),
                )
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return Server()
                said.append(f'{address}: {error.code().name}: {error.details()}')
                continue
            return Server(described.model, described.device, described.version)
    raise UnreachableError('no server answers: ' + '; '.join(said))


def _allow_files(plan: Plan) -> None:
    """Let this process have a socket for each connection."""
    faulty = sum(count for _, count in plan.faults)
    lines = -(-plan.idle // IDLE_STREAMS_PER_LINE)
    needed = plan.robots + FILES_PER_FAULTY_ROBOT * faulty + lines + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise TooManyFilesError(
            f'the plan needs {needed} open files, and this process may have {hard}: see ulimit -n'
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
