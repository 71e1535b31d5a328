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
"""The gRPC service: from the wire to the batcher and back."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib import metadata
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from cloud_server.batch import Batcher, ComputeError, ExpiredError, QueueFullError
from cloud_server.config import ServerConfig
from cloud_server.decode import BadImageError, ImageLimitError, ImageLimits
from cloud_server.engine import Engine
from cloud_server.model_info import ModelInfo
from cloud_server.recognizer import EncodedCrop, OutputError, Recognition, Recognizer
from cloud_server.session import LimitError, RateLimit, Session
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

PROTOCOL_VERSION = 1
MAX_ID_CHARS = 64
# A stream is drained before the age at which gRPC closes its connection (which varies by 10 %).
STREAM_AGE_FRACTION = 0.85
# Robots that a shutdown sends away wait this long, so that a restarted server can be there.
RECONNECT_AFTER_MS = 200

_CODECS = {wire.JPEG: 'jpeg', wire.WEBP: 'webp'}
# What the errors of the steps are on the wire; anything else is a fault of ours and is logged.
_STATUSES: dict[type[BaseException], wire.Status] = {
    BadImageError: wire.BAD_IMAGE,
    ImageLimitError: wire.LIMIT_EXCEEDED,
    LimitError: wire.LIMIT_EXCEEDED,
    ExpiredError: wire.DROPPED_STALE,
    QueueFullError: wire.OVERLOADED,
    ComputeError: wire.UNAVAILABLE_MODEL,
    OutputError: wire.UNAVAILABLE_MODEL,
}

Requests = AsyncIterator[wire.RecognizeRequest]

log = logging.getLogger(__name__)


class _RefusalError(Exception):
    """Ends a stream with a status and a text for the robot."""

    def __init__(self, code: grpc.StatusCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class RecognitionService(recognition_pb2_grpc.RecognitionServicer):
    """Serves one engine to many streams; create it on the event loop that serves."""

    def __init__(self, engine: Engine, config: ServerConfig) -> None:
        self._info = engine.info
        self._device = engine.device
        self._config = config
        limits = ImageLimits(config.max_image_bytes, config.max_image_pixels)
        self._batcher: Batcher[EncodedCrop, Recognition] = Batcher(
            Recognizer(engine, limits).recognize_encoded,
            max_batch=config.max_batch,
            max_queue=config.max_queue,
            slots=config.slots,
        )
        self._draining = asyncio.Event()
        self._streams: set[asyncio.Task[Any]] = set()
        self._stream_numbers = itertools.count(1)

    async def Describe(  # noqa: N802
        self, request: wire.DescribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> wire.DescribeResponse:
        """Tell what this server runs."""
        return wire.DescribeResponse(
            protocol_versions=[PROTOCOL_VERSION],
            model=self._info.display,
            labels=self._info.served_labels,
            input_size_px=self._info.input_size_px,
            state_reset=_state_reset(self._info),
            limits=_limits(self._config),
            device=self._device,
            version=_version(),
        )

    async def Recognize(  # noqa: N802
        self, request_iterator: Requests, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Serve one stream; the only place where what went wrong becomes a status."""
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            await self._serve(request_iterator, context)
        except _RefusalError as refusal:
            log.warning('%s: stream refused: %s', context.peer(), refusal)
            await context.abort(refusal.code, str(refusal))
        except DecodeError as error:
            log.warning('%s: not a message of ours: %s', context.peer(), error)
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

    async def close(self) -> None:
        """Wait for what is being computed and let the worker threads go."""
        await self._batcher.close()

    async def _serve(
        self, requests: Requests, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        if self._draining.is_set():
            raise _RefusalError(grpc.StatusCode.UNAVAILABLE, 'the server is shutting down')
        hello = _checked_hello(await anext(requests, None))
        number = next(self._stream_numbers)
        stream = _Stream(
            requests=requests,
            context=context,
            session=Session(
                info=self._info,
                max_faces=self._config.max_faces,
                face_idle_ns=self._config.face_idle_ms * 1_000_000,
                rate=RateLimit(self._config.max_frame_rate_fps),
            ),
            batcher=self._batcher,
            config=self._config,
            name=f'stream {number} {hello.robot_id}/{hello.camera}',
            suggested_frame_rate_fps=lambda: self._batcher.service_rate_hz / len(self._streams),
        )
        await stream.run(self._welcome(), self._draining)

    def _welcome(self) -> wire.Welcome:
        return wire.Welcome(
            protocol_version=PROTOCOL_VERSION,
            model=self._info.display,
            labels=self._info.served_labels,
            input_size_px=self._info.input_size_px,
            state_reset=_state_reset(self._info),
            credits=self._config.credits,
            limits=_limits(self._config),
            accuracy_grid=self._info.accuracy_grid,
        )


class _Stream:
    """
    One stream, from Welcome to its end.

    A frame counts as unanswered until its answer was handed to the transport. Above `credits`
    frames are refused, and at twice that no more are read: a robot that does not read its answers
    costs no more memory.
    """

    def __init__(
        self,
        requests: Requests,
        context: grpc.aio.ServicerContext[Any, Any],
        session: Session,
        batcher: Batcher[EncodedCrop, Recognition],
        config: ServerConfig,
        name: str,
        suggested_frame_rate_fps: Callable[[], float],
    ) -> None:
        self._requests = requests
        self._context = context
        self._session = session
        self._batcher = batcher
        self._config = config
        self._name = name
        self._suggested_frame_rate_fps = suggested_frame_rate_fps
        self._outbox: asyncio.Queue[wire.RecognizeResponse | None] = asyncio.Queue()
        self._pending: set[asyncio.Future[Recognition]] = set()
        self._unanswered = 0
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._outcomes: Counter[str] = Counter()

    async def run(self, welcome: wire.Welcome, draining: asyncio.Event) -> None:
        """Serve until the robot ends the stream, the server drains or the stream is too old."""
        log.info('%s: opened by %s', self._name, self._context.peer())
        # For the Welcome: on a link of 64 kbit/s its accuracy grid would take 0.4 s.
        self._context.set_compression(grpc.Compression.Gzip)
        self._outbox.put_nowait(wire.RecognizeResponse(welcome=welcome))
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        drained = asyncio.create_task(draining.wait())
        try:
            age_s = STREAM_AGE_FRACTION * self._config.max_connection_age_s
            await _first_of(reader, writer, drained, timeout_s=age_s)
            if not reader.done() and not writer.done():
                self._outbox.put_nowait(
                    wire.RecognizeResponse(
                        drain=wire.Drain(
                            reconnect_after_ms=RECONNECT_AFTER_MS if drained.done() else 0
                        )
                    )
                )
                await _first_of(reader, writer, timeout_s=self._config.drain_ms / 1000)
            if reader.done():
                reader.result()
            reader.cancel()
            self._outbox.put_nowait(None)
            await writer
        finally:
            for task in (reader, writer, drained):
                task.cancel()
            for future in list(self._pending):
                future.cancel()
            log.info('%s: closed after %s', self._name, dict(self._outcomes) or 'no frame')

    async def _read(self) -> None:
        async for request in self._requests:
            kind = request.WhichOneof('request')
            if kind != 'frame':
                got = 'a second Hello' if kind == 'hello' else 'a request without content'
                raise _RefusalError(
                    grpc.StatusCode.FAILED_PRECONDITION, f'{got}, expected a FaceFrame'
                )
            self._receive(request.frame)
            await self._may_read.wait()

    async def _write(self) -> None:
        """Write what is in the outbox; after a None, until every frame is answered."""
        is_closing = False
        while not is_closing or self._unanswered:
            response = await self._outbox.get()
            if response is None:
                is_closing = True
                continue
            is_answer = response.WhichOneof('response') == 'answer'
            if is_answer:
                response.answer.server_reply_monotonic_ns = time.monotonic_ns()
                self._context.disable_next_message_compression()
            await self._context.write(response)
            if is_answer:
                self._count_unanswered(-1)

    def _receive(self, frame: wire.FaceFrame) -> None:
        now_ns = time.monotonic_ns()
        self._count_unanswered(+1)
        answer = wire.Answer(
            sequence=frame.sequence,
            capture_monotonic_ns=frame.capture_monotonic_ns,
            server_receive_monotonic_ns=now_ns,
        )
        try:
            if self._unanswered > self._config.credits:
                raise LimitError(f'more than {self._config.credits} unanswered frames')
            face = self._session.admit(frame.sequence, frame.face_id, now_ns)
        except LimitError as error:
            self._refuse(answer, error)
            return
        crop = EncodedCrop(
            frame.image, _CODECS.get(frame.codec, ''), face, frame.stamp_ns, frame.interval_ms
        )
        deadline_ns = now_ns + self._config.deadline_ms * 1_000_000
        future = self._batcher.submit(face, crop, deadline_ns)
        self._pending.add(future)
        future.add_done_callback(partial(self._settle, answer, frame.face_id))

    def _settle(
        self, answer: wire.Answer, face_id: str, future: asyncio.Future[Recognition]
    ) -> None:
        self._pending.discard(future)
        self._session.release(face_id)
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self._refuse(answer, error)
            return
        recognition = future.result()
        answer.status = wire.OK
        answer.label = recognition.label
        answer.probabilities.extend(recognition.probabilities)
        answer.state_reset = recognition.state_reset
        if not math.isnan(recognition.valence):
            answer.valence = recognition.valence
            answer.arousal = recognition.arousal
        self._reply(answer)

    def _refuse(self, answer: wire.Answer, error: BaseException) -> None:
        status = _STATUSES.get(type(error))
        if status is None:
            log.error('%s: a frame failed', self._name, exc_info=error)
            status = wire.UNAVAILABLE_MODEL
            answer.detail = 'internal error, see the server log'
        else:
            answer.detail = str(error)
        answer.status = status
        if status == wire.OVERLOADED:
            answer.suggested_frame_rate_fps = self._suggested_frame_rate_fps()
        name = wire.Status.Name(status)
        if name not in self._outcomes:
            log.warning('%s: %s: %s (logged once)', self._name, name, answer.detail)
        self._reply(answer)

    def _reply(self, answer: wire.Answer) -> None:
        self._outcomes[wire.Status.Name(answer.status)] += 1
        self._outbox.put_nowait(wire.RecognizeResponse(answer=answer))

    def _count_unanswered(self, change: int) -> None:
        self._unanswered += change
        if self._unanswered < 2 * self._config.credits:
            self._may_read.set()
        else:
            self._may_read.clear()


async def _first_of(*tasks: asyncio.Task[Any], timeout_s: float) -> None:
    await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


def _checked_hello(request: wire.RecognizeRequest | None) -> wire.Hello:
    if request is None or request.WhichOneof('request') != 'hello':
        raise _RefusalError(
            grpc.StatusCode.FAILED_PRECONDITION, 'the first request of a stream must be Hello'
        )
    hello = request.hello
    if hello.protocol_version != PROTOCOL_VERSION:
        raise _RefusalError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f'the robot speaks protocol version {hello.protocol_version},'
            f' this server version {PROTOCOL_VERSION}',
        )
    for name, text in (('robot_id', hello.robot_id), ('camera', hello.camera)):
        if len(text) > MAX_ID_CHARS or not text.isprintable():
            raise _RefusalError(
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


def _version() -> str:
    try:
        return metadata.version('ferros')
    except metadata.PackageNotFoundError:
        return ''
