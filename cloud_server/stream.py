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
"""One stream, from Welcome to its end: frames in, answers out, its state when it is drained."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import grpc

from cloud_server.batch import Batcher, ComputeError, ExpiredError, QueueFullError
from cloud_server.config import ServerConfig
from cloud_server.decode import BadImageError, ImageLimitError
from cloud_server.recognizer import EncodedCrop, OutputError, Recognition
from cloud_server.session import LimitError, Session
from ferros_proto import recognition_pb2 as wire

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
_OUTCOMES = {number: wire.Status.Name(number).lower() for number in wire.Status.values()}

Requests = AsyncIterator[wire.RecognizeRequest]


class RefusalError(Exception):
    """Ends a stream with a status and a text for the robot."""

    def __init__(self, code: grpc.StatusCode, detail: str, retry_ms: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        # When the robot should try again; None: it is not said.
        self.retry_ms = retry_ms


class Counts(Protocol):
    """Who counts what the streams do; see metrics.Metrics."""

    def frame_received(self, robot: str, size_bytes: int) -> None:
        """Count a frame that arrived."""

    def frame_answered(self, robot: str, outcome: str, age_ns: int) -> None:
        """Count an answer and how long after the frame it left."""

    def faces(self, change: int) -> None:
        """Count faces that got a state, or lost it."""


class Surroundings(NamedTuple):
    """What all streams of a server share."""

    config: ServerConfig
    batcher: Batcher[EncodedCrop, Recognition]
    counts: Counts
    # Called with the stream's number for each frame that is to be computed, and the time.
    on_arrival: Callable[[int, int], None]
    # The frames per second that each stream could have now.
    fair_rate_fps: Callable[[], float]
    # From the session of the stream to what the robot carries to the next server.
    seal: Callable[[Session], bytes]


class StreamName(NamedTuple):
    """Which stream it is, for logs and counts."""

    number: int
    robot: str
    camera: str


class Stream:
    """
    One stream, from Welcome to its end.

    A frame takes a credit until its answer begins to leave: the robot may have it, and send the
    next frame, before the transport says that it was taken. Until then it counts as unanswered. A
    frame without a credit is refused, and at twice as many unanswered ones no more are read: a
    robot that does not read its answers costs no more memory.
    """

    def __init__(
        self,
        requests: Requests,
        context: grpc.aio.ServicerContext[Any, Any],
        session: Session,
        name: StreamName,
        surroundings: Surroundings,
    ) -> None:
        self._requests = requests
        self._context = context
        self._session = session
        self._name = name
        self._shared = surroundings
        self._config = surroundings.config
        self._log = logging.LoggerAdapter(
            logging.getLogger(__name__),
            {'robot': name.robot, 'camera': name.camera, 'stream': name.number},
        )
        self._outbox: asyncio.Queue[wire.RecognizeResponse | None] = asyncio.Queue()
        self._pending: set[asyncio.Future[Recognition]] = set()
        self._credits_taken = 0
        self._unanswered = 0
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._outcomes: Counter[str] = Counter()

    async def run(self, welcome: wire.Welcome, draining: asyncio.Event) -> None:
        """Serve until the robot ends the stream, the server drains or the stream is too old."""
        resumed = ', resumed' if welcome.resumed else ''
        self._log.info('opened by %s%s', self._context.peer(), resumed)
        # For the Welcome: on a link of 64 kbit/s its accuracy grid would take 0.4 s.
        self._context.set_compression(grpc.Compression.Gzip)
        self._outbox.put_nowait(wire.RecognizeResponse(welcome=welcome))
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        drained = asyncio.create_task(draining.wait())
        self._shared.counts.faces(len(self._session))
        try:
            age_s = STREAM_AGE_FRACTION * self._config.max_connection_age_s
            await _first_of(reader, writer, drained, timeout_s=age_s)
            is_sent_away = not reader.done() and not writer.done()
            if is_sent_away:
                # Frames that are on their way are still read and answered.
                reconnect_after_ms = RECONNECT_AFTER_MS if drained.done() else 0
                self._put_drain(reconnect_after_ms)
                await _first_of(reader, writer, timeout_s=self._config.drain_ms / 1000)
            if reader.done():
                reader.result()
            reader.cancel()
            if is_sent_away:
                await self._all_computed(writer)
                self._put_drain(reconnect_after_ms, self._shared.seal(self._session))
            self._outbox.put_nowait(None)
            await writer
        finally:
            for task in (reader, writer, drained):
                task.cancel()
            for future in list(self._pending):
                self._count('stream_ended', 0)
                future.cancel()
            self._shared.counts.faces(-len(self._session))
            self._log.info('closed after %s', dict(self._outcomes) or 'no frame')

    def _put_drain(self, reconnect_after_ms: int, sealed_state: bytes = b'') -> None:
        drain = wire.Drain(sealed_state=sealed_state, reconnect_after_ms=reconnect_after_ms)
        self._outbox.put_nowait(wire.RecognizeResponse(drain=drain))

    async def _all_computed(self, writer: asyncio.Task[None]) -> None:
        """Wait until no frame is waiting or being computed: only then the state is whole."""
        while self._pending and not writer.done():
            waits: set[asyncio.Future[Any]] = {writer, *self._pending}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        # What follows a result, such as its answer, comes in the loop's next turn.
        await asyncio.sleep(0)

    async def _read(self) -> None:
        async for request in self._requests:
            kind = request.WhichOneof('request')
            if kind != 'frame':
                got = 'a second Hello' if kind == 'hello' else 'a request without content'
                raise RefusalError(
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
                self._credits_taken -= 1
            if response.WhichOneof('response') != 'welcome':
                self._context.disable_next_message_compression()
            await self._context.write(response)
            if is_answer:
                self._count_unanswered(-1)

    def _receive(self, frame: wire.FaceFrame) -> None:
        now_ns = time.monotonic_ns()
        self._shared.counts.frame_received(self._name.robot, len(frame.image))
        self._credits_taken += 1
        self._count_unanswered(+1)
        answer = wire.Answer(
            sequence=frame.sequence,
            capture_monotonic_ns=frame.capture_monotonic_ns,
            server_receive_monotonic_ns=now_ns,
        )
        faces_before = len(self._session)
        try:
            if self._credits_taken > self._config.credits:
                raise LimitError(f'more than {self._config.credits} unanswered frames')
            if len(frame.image) > self._config.max_image_bytes:
                # Now, not when it is decoded: until then it would take memory.
                raise LimitError(
                    f'image of {len(frame.image)} bytes, at most {self._config.max_image_bytes}'
                )
            face = self._session.admit(
                frame.sequence, frame.face_id, now_ns, frame.interval_ms
            )
        except LimitError as error:
            self._refuse(answer, error)
            return
        # Only what may be computed is load: frames over a limit must not close the server.
        self._shared.on_arrival(self._name.number, now_ns)
        if len(self._session) != faces_before:
            self._shared.counts.faces(len(self._session) - faces_before)
        crop = EncodedCrop(
            frame.image, _CODECS.get(frame.codec, ''), face, frame.stamp_ns, frame.interval_ms
        )
        deadline_ns = now_ns + self._config.deadline_ms * 1_000_000
        future = self._shared.batcher.submit(face, self._name.number, crop, deadline_ns)
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
            self._log.error('a frame failed', exc_info=error)
            status = wire.UNAVAILABLE_MODEL
            answer.detail = 'internal error, see the server log'
        else:
            answer.detail = str(error)
        answer.status = status
        if status == wire.OVERLOADED:
            answer.suggested_frame_rate_fps = self._shared.fair_rate_fps()
        if _OUTCOMES[status] not in self._outcomes:
            name = wire.Status.Name(status)
            self._log.warning('%s: %s (logged once)', name, answer.detail)
        self._reply(answer)

    def _reply(self, answer: wire.Answer) -> None:
        age_ns = time.monotonic_ns() - answer.server_receive_monotonic_ns
        self._count(_OUTCOMES[answer.status], age_ns)
        self._outbox.put_nowait(wire.RecognizeResponse(answer=answer))

    def _count(self, outcome: str, age_ns: int) -> None:
        """Count what became of a frame: the status of its answer, or that none was wanted."""
        self._outcomes[outcome] += 1
        self._shared.counts.frame_answered(self._name.robot, outcome, age_ns)

    def _count_unanswered(self, change: int) -> None:
        self._unanswered += change
        if self._unanswered < 2 * self._config.credits:
            self._may_read.set()
        else:
            self._may_read.clear()


async def _first_of(*tasks: asyncio.Task[Any], timeout_s: float) -> None:
    await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
