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
"""Keeps a robot's stream open, and counts all that comes back on it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

from cloud_server.load.behaviour import Behaviour, Request
from cloud_server.load.run import NS_PER_S, Run, now_ns
from cloud_server.load.stream import Stream
from cloud_server.load.tally import Tally
from ferros_proto import recognition_pb2 as wire

METHOD = '/ferros.v1.Recognition/Recognize'
PROTOCOL_VERSION = 1

# As the robot's own link has them, see ferros/link.py.
FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 2.0
REFUSED_BACKOFF_S = 10.0
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_NS = 5 * NS_PER_S
# A server that said Drain has so long to end the stream.
DRAIN_TIMEOUT_NS = 30 * NS_PER_S

# Nothing but a change of software, or of a file, can end these.
LASTING_REFUSALS = frozenset({
    'FAILED_PRECONDITION', 'UNIMPLEMENTED', 'UNAUTHENTICATED', 'PERMISSION_DENIED',
})
# When to try again after a refusal (gRFC A6).
PUSHBACK = 'grpc-retry-pushback-ms'
# What grpc.aio says of a stream that broke under a message.
_NO_STATUS = 'Internal error from Core'
# Why a stream was ended that the run did not need any more.
END_OF_RUN = 'end_of_run'


class Name(NamedTuple):
    """Which robot it is."""

    kind: str
    # Among those of its kind, from 0.
    number: int


class _End(NamedTuple):
    """How a stream ended."""

    # A gRPC status, or in capitals why we ended it.
    status: str
    text: str = ''
    # When the server wants us back; negative: it did not say.
    pause_ms: int = -1


class Connection:
    """
    One stream after another, as a robot's own link keeps them.

    Args:
        run: what all robots share.
        name: which robot it is.
        behaviour: what it does on the wire.
        tally: what became of its frames and streams.
        is_served_by: tells of a stream that has ended whether the server served us in it; then
            the next attempt is soon.

    """

    def __init__(
        self,
        run: Run,
        name: Name,
        behaviour: Behaviour,
        tally: Tally,
        is_served_by: Callable[[Stream], bool],
    ) -> None:
        self._run = run
        self._name = name
        self._behaviour = behaviour
        self._tally = tally
        self._is_served_by = is_served_by
        self._random = random.Random(f'{run.plan.seed}/{name.kind}/{name.number}/pauses')
        self._attempts = name.number
        self._sealed_state = b''
        # Faces that had an answer: their state is, or was, in the server.
        self._known_faces: set[int] = set()
        # A stream that has ended is not replaced.
        self._is_over = False
        # Its task is being cancelled.
        self._is_dead = False
        # The stream that frames can be sent in; None: there is none.
        self.stream: Stream | None = None
        self.is_welcomed = asyncio.Event()
        # Called when the stream, or what waits in it, has changed.
        self.on_change: Callable[[], None] = lambda: None
        # Called with the rate that the server suggests with OVERLOADED; 0: it suggests none.
        self.on_overloaded: Callable[[float], None] = lambda rate_fps: None

    async def keep(self) -> None:
        """Connect, read, connect again, until end() or abandon()."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            stream, end = await self._serve()
            if self._is_over:
                return
            self._attempts += 1
            pause_s = backoff_s
            if end.pause_ms >= 0:
                pause_s = end.pause_ms / 1000
            elif end.status in LASTING_REFUSALS and self._behaviour.backs_off:
                pause_s = REFUSED_BACKOFF_S
            elif stream is not None and self._is_served_by(stream):
                backoff_s = pause_s = FIRST_BACKOFF_S
            await asyncio.sleep(pause_s * self._random.uniform(0.8, 1.2))
            if self._behaviour.backs_off:
                backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)

    def look_after(self, at_ns: int) -> None:
        """Give up a stream whose server has become silent; to be called now and then."""
        stream = self.stream
        if stream is None or not self._behaviour.gives_up:
            return
        oldest = next(iter(stream.pending.values()), None)
        if oldest is not None and at_ns - oldest.sent_ns > ANSWER_TIMEOUT_NS:
            stream.give_up('answer_timeout')
        elif stream.drained_ns is not None and at_ns - stream.drained_ns > DRAIN_TIMEOUT_NS:
            stream.give_up('drain_timeout')

    async def end(self) -> None:
        """Send no more in this stream; keep() returns when the server has ended it."""
        self._is_over = True
        if self.stream is not None:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self.stream.half_close()

    def abandon(self) -> None:
        """End the stream at once; what is unanswered stays so."""
        self._is_over = True
        if self.stream is not None:
            self.stream.give_up(END_OF_RUN)

    def die(self) -> None:
        """Know that keep() is about to be cancelled."""
        self._is_over = self._is_dead = True

    async def _serve(self) -> tuple[Stream | None, _End]:
        """Run one stream from its opening to its end."""
        target = self._run.target
        address = target.addresses[self._attempts % len(target.addresses)]
        stream: Stream | None = None
        try:
            async with self._behaviour.connect(target, address) as line:
                make_call: Any = line.channel.stream_stream(
                    METHOD,
                    request_serializer=_serialize,
                    response_deserializer=wire.RecognizeResponse.FromString,
                )
                call = make_call(
                    metadata=target.metadata(self._name.number),
                    compression=self._behaviour.compression,
                )
                stream = Stream(call, line, now_ns())
                end = await self._talk(stream)
        except OSError as error:
            # No socket to be had for a relay: all file descriptors are used.
            end = _End('UNAVAILABLE', error.strerror or 'no connection')
        return stream, end

    async def _talk(self, stream: Stream) -> _End:
        """Open the stream and read it to its end."""
        try:
            await asyncio.wait_for(self._open(stream), CONNECT_TIMEOUT_S)
            await self._read(stream)
            end = _End('OK', pause_ms=-1 if stream.drained_ns is None else stream.pause_ms)
        except grpc.aio.AioRpcError as error:
            end = _from_error(error)
        except asyncio.InvalidStateError:
            # The call was over before we wrote: its status says why.
            end = _End((await stream.call.code()).name, await stream.call.details() or '')
        except asyncio.TimeoutError:
            end = _End('NO_WELCOME', f'within {CONNECT_TIMEOUT_S:g} s')
        except asyncio.CancelledError:
            # Reading a call that we gave up ends like this, and so does this task.
            if not stream.given_up or self._is_dead:
                stream.given_up = END_OF_RUN
                raise
            end = _End('CANCELLED')
        finally:
            self._close(stream)
        if stream.given_up:
            end = end._replace(status=stream.given_up.upper(), text='')
        self._count_end(stream, end)
        self._lose(stream, stream.given_up or f'ended_{end.status.lower()}')
        return end

    async def _open(self, stream: Stream) -> None:
        # The server knows a robot with a certificate or a token: it names nobody else.
        is_identified = self._run.target.is_identified
        kind, number = self._name
        hello = wire.Hello(
            protocol_version=PROTOCOL_VERSION,
            robot_id='' if is_identified else f'load-{kind}-{number}',
            camera=f'load-{kind}-{number}' if is_identified else 'load',
            resume_state=self._sealed_state,
        )
        await stream.call.write(self._behaviour.opening(hello))
        if self._behaviour.waits_for_welcome:
            response: Any = await stream.call.read()
            # An end without a Welcome is found again by reading on.
            if response is _EOF:
                return
            if response.WhichOneof('response') != 'welcome':
                self._tally.streams.protocol_errors['no_welcome_first'] += 1
                stream.give_up('no_welcome_first')
                return
            self._on_welcome(stream, response.welcome)
        self.stream = stream
        self.is_welcomed.set()
        self.on_change()

    def _on_welcome(self, stream: Stream, welcome: wire.Welcome) -> None:
        counts = self._tally.streams
        stream.welcome = welcome
        self._tally.welcome = self._tally.welcome or welcome
        self._tally.open += 1
        counts.opened += 1
        if self._sealed_state:
            counts.resumed += welcome.resumed
            counts.not_resumed += not welcome.resumed
        elif welcome.resumed:
            counts.protocol_errors['resumed_unasked'] += 1
        if self.is_welcomed.is_set():
            counts.reconnected += 1
            counts.without_state += not self._sealed_state
            stream.awaited_faces = set(self._known_faces)
        # It is good for one server.
        self._sealed_state = b''

    async def _read(self, stream: Stream) -> None:
        read = self._behaviour.reader(stream.call)
        errors = self._tally.streams.protocol_errors
        while (response := await read()) is not _EOF:
            kind = response.WhichOneof('response')
            if kind == 'answer':
                self._on_answer(stream, response.answer)
            elif kind == 'drain':
                self._on_drain(stream, response.drain)
                await stream.half_close()
            elif kind == 'welcome' and not self._behaviour.waits_for_welcome:
                pass
            else:
                errors['second_welcome' if kind == 'welcome' else 'empty_response'] += 1

    def _on_drain(self, stream: Stream, drain: wire.Drain) -> None:
        if stream.drained_ns is None:
            stream.drained_ns = now_ns()
            self._tally.streams.drained += 1
        stream.pause_ms = max(stream.pause_ms, drain.reconnect_after_ms)
        self._sealed_state = drain.sealed_state or self._sealed_state

    def _on_answer(self, stream: Stream, answer: wire.Answer) -> None:
        at_ns = now_ns()
        errors = self._tally.streams.protocol_errors
        sent = stream.take(answer.sequence)
        if sent is None:
            was_sent = 0 < answer.sequence < stream.next_sequence
            errors['answered_again' if was_sent else 'answered_unasked'] += 1
            return
        if answer.capture_monotonic_ns != sent.planned_ns:
            errors['wrong_echo'] += 1
        server_ns = answer.server_reply_monotonic_ns - answer.server_receive_monotonic_ns
        status = answer.status
        self._tally.frames.answered(status, sent.planned_ns, sent.sent_ns, at_ns, server_ns)
        if status == wire.OK:
            self._on_recognised(stream, answer, sent.face)
        elif answer.detail:
            self._tally.streams.note(_status_name(status), answer.detail)
        if status == wire.OVERLOADED:
            self.on_overloaded(answer.suggested_frame_rate_fps)
        self.on_change()

    def _on_recognised(self, stream: Stream, answer: wire.Answer, face: int) -> None:
        stream.served = True
        self._known_faces.add(face)
        welcome = stream.welcome
        if welcome is not None and len(answer.probabilities) != len(welcome.labels):
            self._tally.streams.protocol_errors['malformed_answer'] += 1
        if face in stream.awaited_faces:
            stream.awaited_faces.discard(face)
            self._tally.streams.states_lost += answer.state_reset
            self._tally.streams.states_kept += not answer.state_reset

    def _close(self, stream: Stream) -> None:
        if self.stream is stream:
            self.stream = None
        if stream.welcome is not None:
            self._tally.open -= 1
        stream.call.cancel()
        if stream.given_up == END_OF_RUN:
            self._lose(stream, END_OF_RUN)

    def _lose(self, stream: Stream, reason: str) -> None:
        at_ns = now_ns()
        for sent in stream.take_all():
            self._tally.frames.unanswered(reason, sent.planned_ns, sent.sent_ns, at_ns)
        self.on_change()

    def _count_end(self, stream: Stream, end: _End) -> None:
        if stream.given_up == END_OF_RUN:
            return
        counts = self._tally.streams
        is_refusal = stream.welcome is None and self._behaviour.waits_for_welcome
        (counts.refused if is_refusal else counts.ended)[end.status] += 1
        if end.text:
            counts.note(end.status, end.text)


# Of grpc.aio, whose types do not have it.
_EOF: Any = vars(grpc.aio)['EOF']


def _status_name(status: int) -> str:
    known: Any = wire.Status.DESCRIPTOR.values_by_number
    return known[status].name if status in known else f'STATUS_{status}'


def _serialize(request: Request) -> bytes:
    return request if isinstance(request, bytes) else bytes(request.SerializeToString())


def _from_error(error: grpc.aio.AioRpcError) -> _End:
    pause_ms = -1
    metadata: Any = error.trailing_metadata() or ()
    for key, value in metadata:
        if key == PUSHBACK and str(value).isdigit():
            pause_ms = int(value)
    status, text = error.code().name, error.details() or ''
    if status == 'INTERNAL' and text == _NO_STATUS:
        # Ours, not the server's: a message could not be written, and its status was not here yet.
        return _End('WRITE_FAILED')
    return _End(status, text, pause_ms)
