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
"""The gRPC service: who is let in, and what all streams share."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections import Counter
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from cloud_server.admission import Load, retry_ms
from cloud_server.batch import Batcher, BatchReport, QueueLimits
from cloud_server.config import ServerConfig
from cloud_server.decode import ImageLimits
from cloud_server.engine import Engine
from cloud_server.identity import Authenticator, UnauthenticatedError
from cloud_server.metrics import Metrics
from cloud_server.model_info import ModelInfo
from cloud_server.recognizer import EncodedCrop, Recognition, Recognizer
from cloud_server.sealed_state import SealError, StateSealer, state_identity
from cloud_server.session import RateLimit, Session
from cloud_server.stream import RefusalError, Requests, Stream, StreamName, Surroundings
from cloud_server.version import version
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

PROTOCOL_VERSION = 1
MAX_ID_CHARS = 64
# A stream whose Hello does not come holds a place for nothing.
HELLO_TIMEOUT_S = 10.0
# After the drain, what is still being computed has so long; a model may hang.
CLOSE_TIMEOUT_S = 3.0
# Of each reason for which streams are refused.
REFUSALS_LOGGED_HZ = 5.0
# How often the load is looked at.
WATCH_INTERVAL_S = 0.1
# gRFC A6: how a server says when to try again.
RETRY_METADATA = 'grpc-retry-pushback-ms'

Context = grpc.aio.ServicerContext[Any, Any]

log = logging.getLogger(__name__)


class Parts(NamedTuple):
    """What the service is put together from."""

    engine: Engine
    authenticator: Authenticator
    sealer: StateSealer
    metrics: Metrics


class RecognitionService(recognition_pb2_grpc.RecognitionServicer):
    """Serves one engine to many streams; create it on the event loop that serves."""

    def __init__(self, parts: Parts, config: ServerConfig) -> None:
        engine = parts.engine
        self._parts = parts
        self._info = engine.info
        self._device = engine.device
        self._config = config
        self._state_identity = state_identity(engine.info)
        limits = ImageLimits(config.max_image_bytes, config.max_image_pixels)
        self._recognizer = Recognizer(engine, limits, config.decode_threads)
        self._batcher: Batcher[EncodedCrop, Recognition] = Batcher(
            self._recognizer.recognize_encoded,
            QueueLimits(
                max_batch=config.max_batch,
                max_queue=config.max_queue,
                slots=config.slots or engine.slots,
                max_batch_ns=(config.max_batch_ms or engine.batch_ms) * 1_000_000,
                max_queue_ns=config.max_queue_ms * 1_000_000,
                max_wait_ns=config.deadline_ms * 1_000_000,
            ),
            on_batch=self._on_batch,
        )
        self._load = Load()
        self._draining = asyncio.Event()
        self._streams: set[asyncio.Task[Any]] = set()
        self._streams_of: Counter[str] = Counter()
        # Streams without a Hello yet, of robots that proved who they are.
        self._silent_of: Counter[str] = Counter()
        self._refusals_logged: dict[str, RateLimit] = {}
        self._stream_numbers = itertools.count(1)
        self._watcher = asyncio.create_task(self._watch())

    async def Describe(  # noqa: N802
        self, request: wire.DescribeRequest, context: Context
    ) -> wire.DescribeResponse:
        """Tell what this server runs."""
        try:
            self._identify(context)
        except RefusalError as refusal:
            await self._abort(context, refusal)
        return wire.DescribeResponse(
            protocol_versions=[PROTOCOL_VERSION],
            model=self._info.display,
            labels=self._info.served_labels,
            input_size_px=self._info.input_size_px,
            state_reset=_state_reset(self._info),
            limits=_limits(self._config),
            device=self._device,
            version=version(),
        )

    async def Recognize(  # noqa: N802
        self, request_iterator: Requests, context: Context
    ) -> None:
        """Serve one stream; the only place where what went wrong becomes a status."""
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            await self._serve(request_iterator, context)
        except RefusalError as refusal:
            self._note_refusal(context, refusal.code.name.lower(), str(refusal))
            await self._abort(context, refusal)
        except DecodeError as error:
            self._note_refusal(context, 'not_a_message', str(error))
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, 'not a ferros.v1.RecognizeRequest'
            )
        except grpc.aio.InternalError as error:
            log.info('a connection broke: %s', error)
        except Exception:
            log.exception('a stream failed')
            await context.abort(grpc.StatusCode.INTERNAL, 'internal error, see the server log')
        finally:
            self._streams.discard(task)

    async def drain(self) -> None:
        """Send every robot away; return when all are gone, or the time for it is over."""
        self._draining.set()
        if self._streams:
            # Once for robots that go on sending, once for answers still on their way.
            timeout_s = 2 * self._config.drain_ms / 1000 + 0.5
            await asyncio.wait(self._streams, timeout=timeout_s)

    async def close(self) -> bool:
        """Let the worker threads go; return False where the model does not come back."""
        self._watcher.cancel()
        is_done = await self._batcher.close(CLOSE_TIMEOUT_S)
        if is_done:
            self._recognizer.close()
        return is_done

    # -- letting streams in ----------------------------------------------------------------------

    async def _serve(self, requests: Requests, context: Context) -> None:
        if self._draining.is_set():
            raise RefusalError(grpc.StatusCode.UNAVAILABLE, 'the server is shutting down')
        identity = self._identify(context)
        if len(self._streams) > self._config.max_streams:
            raise self._full(f'more than {self._config.max_streams} streams')
        hello = _checked_hello(await self._first(requests, identity))
        robot = self._robot(hello, identity)
        self._admit(robot)
        name = StreamName(next(self._stream_numbers), robot, hello.camera)
        session = Session(
            info=self._info,
            max_faces=self._config.max_faces,
            face_idle_ns=self._config.face_idle_ms * 1_000_000,
            rate=RateLimit(self._config.max_frame_rate_fps),
        )
        welcome = self._welcome(self._resume(session, name, hello.resume_state))
        self._streams_of[robot] += 1
        self._parts.metrics.stream_opened(robot)
        try:
            stream = Stream(requests, context, session, name, self._surroundings(name))
            await stream.run(welcome, self._draining)
        finally:
            self._load.left(name.number)
            self._parts.metrics.stream_closed(robot)
            self._streams_of[robot] -= 1
            if not self._streams_of[robot]:
                del self._streams_of[robot]

    async def _first(
        self, requests: Requests, identity: str | None
    ) -> wire.RecognizeRequest | None:
        """Return the first request; a server that stops waits for none."""
        name = identity or ''
        if name and self._silent_of[name] >= self._config.max_streams_per_robot:
            raise self._full('too many streams without a Hello')
        self._silent_of[name] += 1
        first = asyncio.ensure_future(anext(requests, None))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait(
                (first, draining), timeout=HELLO_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if first.done():
                return first.result()
        finally:
            first.cancel()
            draining.cancel()
            self._silent_of[name] -= 1
            if not self._silent_of[name]:
                del self._silent_of[name]
        if self._draining.is_set():
            raise RefusalError(grpc.StatusCode.UNAVAILABLE, 'the server is shutting down')
        raise RefusalError(
            grpc.StatusCode.DEADLINE_EXCEEDED, f'no Hello within {HELLO_TIMEOUT_S:g} s'
        )

    def _identify(self, context: Context) -> str | None:
        try:
            proofs = {name: tuple(values) for name, values in context.auth_context().items()}
            return self._parts.authenticator.identify(
                proofs, context.invocation_metadata() or (), time.time()
            )
        except UnauthenticatedError as error:
            raise RefusalError(grpc.StatusCode.UNAUTHENTICATED, str(error)) from error

    def _robot(self, hello: wire.Hello, identity: str | None) -> str:
        if identity is None:
            return hello.robot_id
        if hello.robot_id not in ('', identity):
            raise RefusalError(
                grpc.StatusCode.PERMISSION_DENIED,
                f'the robot calls itself {hello.robot_id!r}, its certificate or token'
                f' {identity!r}',
            )
        return identity

    def _admit(self, robot: str) -> None:
        if self._streams_of[robot] >= self._config.max_streams_per_robot:
            most = self._config.max_streams_per_robot
            raise self._full(f'more than {most} streams of the robot {robot!r}')
        load = self._load_value()
        if load >= self._config.full_at_load:
            raise self._full(f'the server is full (load {load:.2f})')

    def _full(self, detail: str) -> RefusalError:
        return RefusalError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            detail,
            retry_ms(self._load_value(), random.random()),
        )

    def _note_refusal(self, context: Context, reason: str, text: str) -> None:
        """Count it; of each reason some are logged, or whoever is refused could fill a disk."""
        self._parts.metrics.stream_refused(reason)
        limit = self._refusals_logged.setdefault(reason, RateLimit(REFUSALS_LOGGED_HZ))
        if limit.allows(time.monotonic_ns()):
            log.warning('%s: stream refused: %s', context.peer(), text)

    async def _abort(self, context: Context, refusal: RefusalError) -> None:
        retry = () if refusal.retry_ms is None else ((RETRY_METADATA, str(refusal.retry_ms)),)
        await context.abort(refusal.code, str(refusal), retry)

    # -- what streams share ----------------------------------------------------------------------

    def _surroundings(self, name: StreamName) -> Surroundings:
        return Surroundings(
            config=self._config,
            batcher=self._batcher,
            counts=self._parts.metrics,
            on_arrival=self._load.arrived,
            fair_rate_fps=self._fair_rate_fps,
            seal=lambda session: self._seal(session, name),
        )

    def _fair_rate_fps(self) -> float:
        # What robots are asked for must leave the server open to others.
        usable = min(1.0, self._config.full_at_load)
        return usable * self._load.fair_rate_fps(
            self._batcher.service_rate_hz, time.monotonic_ns()
        )

    def _seal(self, session: Session, name: StreamName) -> bytes:
        snapshots = session.snapshot(time.monotonic_ns())
        if not snapshots:
            return b''
        return self._parts.sealer.seal(
            snapshots, name.robot, name.camera, self._state_identity, time.time()
        )

    def _resume(self, session: Session, name: StreamName, sealed: bytes) -> bool:
        """Bring back the states a robot carries; return whether that was done."""
        if not sealed:
            return False
        try:
            snapshots = self._parts.sealer.open(
                sealed, name.robot, name.camera, self._state_identity, time.time()
            )
        except SealError as error:
            extra = {'robot': name.robot, 'camera': name.camera, 'stream': name.number}
            log.warning('its state is not resumed: %s', error, extra=extra)
            self._parts.metrics.state_resumed(False)
            return False
        session.restore(snapshots, time.monotonic_ns())
        self._parts.metrics.state_resumed(True)
        return True

    def _on_batch(self, report: BatchReport) -> None:
        self._parts.metrics.batch_computed(
            len(report.waited_ns), report.waited_ns, report.busy_ns
        )

    def _load_value(self) -> float:
        return self._load.value(self._batcher.service_rate_hz, time.monotonic_ns())

    async def _watch(self) -> None:
        """Keep the figures of the load, and how late the loop itself is."""
        while True:
            due_ns = time.monotonic_ns() + round(1e9 * WATCH_INTERVAL_S)
            await asyncio.sleep(WATCH_INTERVAL_S)
            self._load.loop_was_late(max(0, time.monotonic_ns() - due_ns))
            self._parts.metrics.load(self._load_value())
            self._parts.metrics.queue(self._batcher.waiting)

    def _welcome(self, resumed: bool) -> wire.Welcome:
        return wire.Welcome(
            protocol_version=PROTOCOL_VERSION,
            model=self._info.display,
            labels=self._info.served_labels,
            input_size_px=self._info.input_size_px,
            state_reset=_state_reset(self._info),
            credits=self._config.credits,
            limits=_limits(self._config),
            accuracy_grid=self._info.accuracy_grid,
            resumed=resumed,
        )


def _checked_hello(request: wire.RecognizeRequest | None) -> wire.Hello:
    if request is None or request.WhichOneof('request') != 'hello':
        raise RefusalError(
            grpc.StatusCode.FAILED_PRECONDITION, 'the first request of a stream must be Hello'
        )
    hello = request.hello
    if hello.protocol_version != PROTOCOL_VERSION:
        raise RefusalError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f'the robot speaks protocol version {hello.protocol_version},'
            f' this server version {PROTOCOL_VERSION}',
        )
    for name, text in (('robot_id', hello.robot_id), ('camera', hello.camera)):
        if len(text) > MAX_ID_CHARS or not text.isprintable():
            raise RefusalError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f'{name} of {len(text)} characters,'
                f' expected at most {MAX_ID_CHARS} printable ones',
            )
    return hello


def _state_reset(info: ModelInfo) -> wire.StateReset:
    return wire.StateReset(
        min_gap_ms=round(1000 * info.reset_gap_s), intervals=info.reset_gap_intervals
    )


def _limits(config: ServerConfig) -> wire.Limits:
    return wire.Limits(
        max_image_bytes=config.max_image_bytes,
        max_image_pixels=config.max_image_pixels,
        max_faces=config.max_faces,
        max_frame_rate_fps=config.max_frame_rate_fps,
    )
