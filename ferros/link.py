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
"""The stream to the server: faces in, answers out by callback; no caller ever waits for it."""

from __future__ import annotations

import logging
import math
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from ferros import accuracy_grid
from ferros.accuracy_grid import GridError
from ferros.bandwidth import Bandwidth
from ferros.channel import (
    LONGEST_DETAIL,
    AccessError,
    describe,
    is_refusal,
    pushback_s,
    read_access,
)
from ferros.config import RobotConfig
from ferros.crop import crop
from ferros.drops import Drops
from ferros.encode import encode
from ferros.operating_point import Plan
from ferros.outbox import interval_ns
from ferros.resume import Resume
from ferros.sender import Ready, Sender, ServerTerms, make_sender
from ferros.trace import STATE_INTERVAL_NS, Trace
from ferros.types import UNKNOWN, GridPoint, Observation, OfferedFace, Source
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

PROTOCOL_VERSION = 1

# A server that left a frame unanswered for so long is gone, or the path to it: a new connection
# is through sooner than what TCP, doubling its pauses, sends again in the old one. The LSTM's
# state has been given up by then (it resets after 2 s).
ANSWER_TIMEOUT_NS = 5_000_000_000
# Between two attempts; doubled each time, with jitter so that a fleet does not come back at once.
FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 2.0
# After a refusal that only a change of software can end.
REFUSED_BACKOFF_S = 10.0
# For how long a server's suggested rate holds.
SUGGESTION_NS = 2_000_000_000
# A drained stream is left by then even where the server forgets to end it.
DRAIN_TIMEOUT_NS = 5_000_000_000
# One that another address or other credentials end, by then: the answers in flight are not worth
# more.
LEAVE_TIMEOUT_NS = 1_000_000_000
ASKED_TO_CONNECT_ANEW = 'the server asked this robot to connect anew'
# What the messages hold (ferros_msgs/Emotion).
LABELS = 16
LABEL_CHARS = 16
# How soon and how late a robot comes back that a draining server sent away.
RECONNECT_S = (0.05, 10.0)


class LinkState(Enum):
    """Where the connection to the server stands."""

    STOPPED = 'stopped'
    CONNECTING = 'connecting'
    CONNECTED = 'connected'
    # The stream ends as planned: the server asked for it, or the address was changed. What is in
    # flight is still answered, then the robot connects anew by itself.
    DRAINING = 'draining'
    # The connection failed or was lost; the next attempt follows.
    WAITING = 'waiting'


class LinkReport(NamedTuple):
    """What the link did so far and how it stands."""

    state: LinkState
    # Why it is not connected; empty while it is.
    detail: str
    model: str
    sent_frames: int
    answered_frames: int
    bandwidth: Bandwidth
    # What may be sent, and is planned to be.
    budget_bytes_per_s: float
    # What is sent of each face, the primary first; None before the first frame.
    plan: Plan | None
    # The side that the server's model can use, by the newest Welcome; 0: not known.
    input_size_px: int = 0
    # The time between two frames sent of the primary face; None: nothing is sent.
    interval_ns: int | None = None


class _RefusedError(Exception):
    """The server will not serve us before something is changed; the text says why."""


class _Ending(NamedTuple):
    """How a stream ended."""

    detail: str
    # What the server asked us to wait; None: that is for us to say.
    asked_s: float | None = None
    # The next attempt would end in the same way, as far as we know.
    is_refusal: bool = False
    # No server has read the Hello.
    is_unheard: bool = False
    # The robot left because it was asked to.
    is_planned: bool = False


class _Stream:
    """The state of one connection; lives from Hello until it ends."""

    def __init__(self, config: RobotConfig, move: int, started_ns: int) -> None:
        # What it is made with, and how often the link had been sent elsewhere by then.
        self.config = config
        self.move = move
        self.started_ns = started_ns
        self.welcome: wire.Welcome | None = None
        self.welcomed_ns = started_ns
        # What the Hello carries of the stream before.
        self.resume_state = b''
        self.ended = False
        # The server said Drain: no frame leaves any more, those in flight are still answered.
        self.draining_ns: int | None = None
        self.reconnect_after_ms = 0
        # The link was sent elsewhere: the same, and it is over soon.
        self.leaving_ns: int | None = None
        self.served = False
        self.error: Exception | None = None

    @property
    def may_send(self) -> bool:
        """Tell whether frames may leave."""
        # A sealed state is long: what left right behind it would seem to queue.
        return self.welcome is not None or not self.resume_state

    def is_proven(self, now_ns: int) -> bool:
        """Tell whether the server has shown that it is worth coming back to at once."""
        return self.served or (
            self.welcome is not None and now_ns - self.welcomed_ns > LONGEST_BACKOFF_S * 1e9
        )


class Link:
    """
    Keeps a stream to the server open and sends what is offered, the newest first.

    offer() returns at once. on_answer(Observation) and on_change(LinkState, detail) are called
    from threads of the link. What is sent when and how is the sender's decision; faces are
    cropped and encoded on the sending thread, and only when they leave.

    Raises:
        AccessError: a file of the TLS or token parameters cannot be used.
        GridError: the accuracy grid cannot be read.
        OSError: the trace file cannot be written.

    """

    def __init__(
        self,
        config: RobotConfig,
        drops: Drops,
        on_answer: Callable[[Observation], None],
        on_change: Callable[[LinkState, str], None] = lambda state, detail: None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sender: Sender | None = None,
    ) -> None:
        self._config = config
        self._drops = drops
        self._on_answer = on_answer
        self._on_change = on_change
        self._clock_ns = clock_ns
        self._log = logging.getLogger('ferros.link')
        # They are read again at each attempt; what is wrong from the start is said at once.
        read_access(config)
        self._sender = make_sender(config, drops, clock_ns()) if sender is None else sender
        self._trace = self._new_trace()
        # Guards all that follows, and the sender.
        self._changed = threading.Condition()
        self._state = LinkState.STOPPED
        self._detail = ''
        self._model = ''
        self._input_size_px = 0
        # How often the link was sent to another server, or with other credentials.
        self._moves = 0
        self._sent_frames = 0
        self._answered_frames = 0
        self._stopping = False
        self._stream: _Stream | None = None
        self._resume = Resume(drops)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to connect, in the background."""
        if self._thread is not None:
            raise RuntimeError('the link was started before')
        if self._trace is not None and self._trace.closed:
            self._trace = self._new_trace()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name='ferros-link', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the stream and the threads; the link can be started again."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._changed:
            self._resume.drop('lost')
        if self._trace is not None:
            self._trace.close()

    def reconfigure(self, config: RobotConfig) -> None:
        """
        Take over parameters while the link runs, or before it does.

        Pins and data limits hold from the next face on; what is known of the path stays known.
        With another address or other credentials the stream is ended, the answers in flight are
        taken for a second at most, and the new server is connected at once. What cannot change
        while the node runs is not looked at.

        Raises:
            AccessError: a file of the TLS or token parameters cannot be used; nothing changed.

        """
        if _target(config) != _target(self._config):
            read_access(config)
        with self._changed:
            self._moves += _target(config) != _target(self._config)
            self._config = config
            self._sender.configure(config, self._clock_ns())
            self._changed.notify_all()

    def offer(self, faces: Sequence[OfferedFace]) -> None:
        """Hand over the faces of one camera image; those not sent in time are replaced."""
        with self._changed:
            # While it is being connected, too: they leave right behind the Hello.
            if self._stream is None or self._is_ending(self._stream):
                if faces:
                    self._drops.count('not_connected', len(faces))
                return
            self._sender.offer(faces, self._clock_ns())
            self._changed.notify_all()

    def report(self) -> LinkReport:
        """Return the figures as of now."""
        with self._changed:
            now_ns = self._clock_ns()
            return LinkReport(
                state=self._state,
                detail=self._detail,
                model=self._model,
                sent_frames=self._sent_frames,
                answered_frames=self._answered_frames,
                bandwidth=self._sender.bandwidth(now_ns),
                budget_bytes_per_s=self._sender.budget_bytes_per_s,
                plan=self._sender.plan,
                input_size_px=self._input_size_px,
                interval_ns=self._sender.interval_ns,
            )

    def _new_trace(self) -> Trace | None:
        return Trace(Path(self._config.trace_file)) if self._config.trace_file else None

    # -- the connection ------------------------------------------------------------------------

    def _run(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._stopping:
            with self._changed:
                stream = _Stream(self._config, self._moves, self._clock_ns())
            self._set_state(LinkState.CONNECTING, f'connecting to {stream.config.server_address}')
            ending = self._serve(stream)
            self._end(stream, ending)
            is_proven = stream.is_proven(self._clock_ns())
            if is_proven:
                backoff_s = FIRST_BACKOFF_S
            if not self._stopping:
                state = LinkState.DRAINING if ending.is_planned else LinkState.WAITING
                pause_s = _pause_s(ending, is_proven, backoff_s) * random.uniform(0.8, 1.2)
                again = f', in {pause_s:.1f} s' if ending.is_planned and pause_s else ''
                self._set_state(state, ending.detail + again)
                if self._pause(stream, pause_s):
                    backoff_s = FIRST_BACKOFF_S
                elif ending.asked_s is None:
                    backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
        self._set_state(LinkState.STOPPED, '')

    def _pause(self, stream: _Stream, pause_s: float) -> bool:
        """Wait before the next attempt; return whether that one is to go elsewhere."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._is_left(stream), pause_s)
            return self._is_left(stream)

    def _is_left(self, stream: _Stream) -> bool:
        """Tell whether the link is to go elsewhere than a stream does."""
        return self._moves != stream.move

    def _is_ending(self, stream: _Stream) -> bool:
        """Tell whether no frame is to leave in a stream any more."""
        return stream.ended or stream.draining_ns is not None or self._is_left(stream)

    def _serve(self, stream: _Stream) -> _Ending:
        """Serve one stream; return how it ended."""
        ending = self._attempt(stream)
        if not self._is_left(stream):
            return ending
        return ending._replace(
            detail=_on_the_way_to(self._config), asked_s=0.0, is_refusal=False, is_planned=True
        )

    def _attempt(self, stream: _Stream) -> _Ending:
        """Serve one stream; return how it ended by itself."""
        try:
            self._connect(stream)
        except _RefusedError as error:
            return _Ending(str(error), is_refusal=True)
        except grpc.RpcError as error:
            is_away = error.code() is grpc.StatusCode.UNAVAILABLE
            # A server that stops may break the connection before the stream has ended.
            if not is_away or stream.draining_ns is None:
                asked_s = pushback_s(error)
                return _Ending(
                    describe(error, stream.config), asked_s, is_refusal(error),
                    is_unheard=is_away or asked_s is not None,
                )
        except (AccessError, TimeoutError) as error:
            return _Ending(str(error))
        except Exception as error:
            self._log.exception('the link failed; it will be tried again')
            return _Ending(repr(error), is_refusal=True)
        if stream.draining_ns is None:
            return _Ending('the server ended the stream')
        least_s, most_s = RECONNECT_S
        if not stream.is_proven(self._clock_ns()):
            least_s = FIRST_BACKOFF_S
        asked_s = min(max(stream.reconnect_after_ms / 1000, least_s), most_s)
        return _Ending(ASKED_TO_CONNECT_ANEW, asked_s, is_planned=True)

    def _connect(self, stream: _Stream) -> None:
        """Serve one stream until it ends; raises what ended it."""
        access = read_access(stream.config)
        channel = access.open()
        call: Any = None
        try:
            with self._changed:
                stream.resume_state = self._resume.state(self._clock_ns())
                self._sender.connect()
                self._stream = stream
            stub = recognition_pb2_grpc.RecognitionStub(channel)  # type: ignore[no-untyped-call]
            call = stub.Recognize(self._requests(stream), metadata=access.metadata)
            reader = threading.Thread(
                target=self._read, args=(stream, call), name='ferros-link-reader', daemon=True
            )
            reader.start()
            self._supervise(stream)
            call.cancel()
            reader.join()
            if stream.error is not None:
                raise stream.error
        finally:
            if call is not None:
                call.cancel()
            channel.close()

    def _supervise(self, stream: _Stream) -> None:
        """Return when the stream ended; raises where the server keeps us waiting."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: stream.ended
                    or self._stopping
                    or (self._is_left(stream) and stream.leaving_ns is None),
                    STATE_INTERVAL_NS / 1e9,
                )
                now_ns = self._clock_ns()
                if stream.ended or self._stopping or self._is_over(stream, now_ns):
                    return
                leaves_now = self._is_left(stream) and stream.leaving_ns is None
                if leaves_now:
                    stream.leaving_ns = now_ns
            # Whoever is told may ask the link something, so it holds nothing then.
            if leaves_now:
                self._set_state(LinkState.DRAINING, _on_the_way_to(self._config))

    def _is_over(self, stream: _Stream, now_ns: int) -> bool:
        """Tell whether a stream is to be left now; raises where the server keeps us waiting."""
        self._trace_state(now_ns)
        if self._is_left(stream) and stream.welcome is None:
            return True
        if stream.leaving_ns is not None:
            return now_ns - stream.leaving_ns > LEAVE_TIMEOUT_NS
        timeout_ms = self._config.connect_timeout_ms
        if stream.welcome is None and now_ns - stream.started_ns > timeout_ms * 1_000_000:
            raise TimeoutError(
                f'no Welcome from {stream.config.server_address} within {timeout_ms} ms'
            )
        oldest_ns = self._sender.oldest_sent_ns()
        if oldest_ns is not None and now_ns - oldest_ns > ANSWER_TIMEOUT_NS:
            raise TimeoutError(f'no answer for {ANSWER_TIMEOUT_NS // 1_000_000_000} s')
        return (
            oldest_ns is None
            and stream.draining_ns is not None
            and now_ns - stream.draining_ns > DRAIN_TIMEOUT_NS
        )

    def _end(self, stream: _Stream, ending: _Ending) -> None:
        with self._changed:
            if stream.resume_state and stream.welcome is None and not ending.is_unheard:
                self._resume.drop('lost')
            stream.ended = True
            self._stream = None
            lost = self._sender.disconnect(
                'link_stopped' if self._stopping else 'connection_lost'
            )
            if lost:
                self._drops.count('unanswered', lost)
            self._changed.notify_all()

    def _set_state(
        self, state: LinkState, detail: str, stream: _Stream | None = None
    ) -> None:
        """Note and tell how the link stands; stream: only if that one has not ended."""
        with self._changed:
            is_known = (state, detail) == (self._state, self._detail)
            if is_known or (stream is not None and stream is not self._stream):
                return
            self._state, self._detail = state, detail
            self._changed.notify_all()
        if self._trace is not None:
            self._trace.link(self._clock_ns(), state.value, detail)
        self._on_change(state, detail)

    # -- sending: runs on a thread of gRPC -------------------------------------------------------

    def _requests(self, stream: _Stream) -> Iterator[wire.RecognizeRequest]:
        yield hello(stream.config, stream.resume_state)
        while (ready := self._next(stream)) is not None:
            request = self._request(stream, ready)
            if request is not None:
                yield request

    def _next(self, stream: _Stream) -> Ready | None:
        """Wait for the next face to send; None: no more are sent in this stream."""
        with self._changed:
            while not (self._is_ending(stream) or self._stopping):
                now_ns = self._clock_ns()
                if not stream.may_send:
                    self._changed.wait()
                    continue
                ready = self._sender.take(now_ns)
                if ready is not None:
                    return ready
                wait_ns = self._sender.wait_ns(now_ns)
                self._changed.wait(None if wait_ns is None else max(wait_ns, 1_000_000) / 1e9)
        return None

    def _request(self, stream: _Stream, ready: Ready) -> wire.RecognizeRequest | None:
        """Crop and encode a face; None where that failed, which is counted."""
        face, point = ready.face, ready.point
        try:
            luma = crop(
                face.frame.image, face.frame.in_image(face.box), point.face_size_px
            )
            image = encode(luma, point.codec, point.quality)
        except ValueError as error:
            if self._drops.count('not_encodable'):
                self._log.warning('a face could not be cropped and encoded: %s', error)
            return None
        with self._changed:
            request = wire.RecognizeRequest(
                frame=wire.FaceFrame(
                    sequence=self._sender.next_sequence,
                    face_id=face.face_id,
                    stamp_ns=face.frame.stamp_ns,
                    capture_monotonic_ns=face.frame.captured_ns,
                    interval_ms=interval_ns(point) // 1_000_000,
                    codec=wire.Codec.Name(int(point.codec)),
                    image=image,
                )
            )
            self._sender.sent(ready, request.ByteSize(), self._clock_ns())
            self._sent_frames += 1
        return request

    def _trace_state(self, now_ns: int) -> None:
        if self._trace is not None:
            self._trace.state(
                now_ns,
                self._state.value,
                self._sender.bandwidth(now_ns),
                self._sender.budget_bytes_per_s,
                self._sender.plan,
                self._drops.counts(),
            )

    # -- receiving: a thread of its own ----------------------------------------------------------

    def _read(self, stream: _Stream, call: Any) -> None:
        try:
            for response in call:
                self._receive(stream, response)
        except Exception as error:
            stream.error = error
        finally:
            with self._changed:
                stream.ended = True
                self._changed.notify_all()

    def _receive(self, stream: _Stream, response: wire.RecognizeResponse) -> None:
        kind = response.WhichOneof('response')
        if kind == 'welcome':
            self._on_welcome(stream, response.welcome)
        elif kind == 'answer' and stream.welcome is not None:
            self._on_wire_answer(stream, stream.welcome, response.answer)
        elif kind == 'drain':
            self._on_drain(stream, response.drain)
        else:
            self._drops.count('unexpected_response')

    def _on_welcome(self, stream: _Stream, welcome: wire.Welcome) -> None:
        if welcome.protocol_version != PROTOCOL_VERSION:
            raise _RefusedError(
                f'the server speaks protocol version {welcome.protocol_version}, '
                f'this robot {PROTOCOL_VERSION}'
            )
        if not welcome.labels or not welcome.credits or not welcome.input_size_px:
            raise _RefusedError('the Welcome lacks labels, credits or an input size')
        if len(welcome.labels) > LABELS or any(len(x) > LABEL_CHARS for x in welcome.labels):
            raise _RefusedError(
                f'the labels of the server are more than {LABELS} or longer than {LABEL_CHARS} '
                'characters, which no message holds'
            )
        with self._changed:
            terms = ServerTerms(
                welcome.input_size_px, welcome.credits, welcome.limits.max_frame_rate_fps
            )
            self._sender.welcome(terms, self._grid(welcome))
            stream.welcome, stream.welcomed_ns = welcome, self._clock_ns()
            self._model = welcome.model
            self._input_size_px = welcome.input_size_px
            if stream.resume_state:
                self._resume.welcomed(welcome.resumed)
            if self._is_left(stream):
                return
        self._set_state(LinkState.CONNECTED, '', stream)

    def _grid(self, welcome: wire.Welcome) -> tuple[GridPoint, ...]:
        """Return the accuracy grid of the server's model; none: the robot's own has to do."""
        try:
            return accuracy_grid.from_welcome(welcome.accuracy_grid)
        except GridError as error:
            if self._drops.count('server_grid_refused'):
                self._log.warning('the accuracy grid of the server is not used: %s', error)
            return ()

    def _on_drain(self, stream: _Stream, drain: wire.Drain) -> None:
        """Send no more; of two Drains, the second, behind the last answer, has the state."""
        with self._changed:
            now_ns = self._clock_ns()
            if stream.draining_ns is None:
                stream.draining_ns = now_ns
            stream.reconnect_after_ms = drain.reconnect_after_ms
            if drain.sealed_state:
                rate_bytes_per_s = min(
                    self._sender.bandwidth(now_ns).rate_bytes_per_s,
                    self._config.data_limit_bytes_per_s,
                )
                self._resume.keep(drain.sealed_state, rate_bytes_per_s, now_ns)
            self._changed.notify_all()
        if not self._is_left(stream):
            self._set_state(LinkState.DRAINING, ASKED_TO_CONNECT_ANEW, stream)

    def _on_wire_answer(
        self, stream: _Stream, welcome: wire.Welcome, answer: wire.Answer
    ) -> None:
        now_ns = self._clock_ns()
        received_ns = answer.server_receive_monotonic_ns
        server_ns = answer.server_reply_monotonic_ns - received_ns
        with self._changed:
            sent = self._sender.answered(
                answer.sequence, received_ns, server_ns, answer.ByteSize(), now_ns
            )
            if sent is None:
                self._drops.count('answer_unasked')
                return
            if answer.status == wire.OVERLOADED and answer.suggested_frame_rate_fps > 0:
                self._sender.suggest(answer.suggested_frame_rate_fps, now_ns + SUGGESTION_NS)
            late_ns = self._config.stale_after_ms * 1_000_000 + self._sender.path_ns(now_ns)
            self._changed.notify_all()
        if self._trace is not None:
            self._trace.frame(sent, now_ns, server_ns, _status(answer))
        if answer.status != wire.OK:
            self._count_refusal(answer)
            return
        observation = _observation(sent.ready.face, welcome, answer)
        if observation is None:
            self._drops.count('answer_malformed')
            return
        stream.served = True
        if now_ns - sent.sent_ns > late_ns:
            self._drops.count('answer_stale')
            return
        with self._changed:
            self._answered_frames += 1
        self._on_answer(observation)

    def _count_refusal(self, answer: wire.Answer) -> None:
        reason = _status(answer)
        if self._drops.count(f'server_{reason}'):
            self._log.warning(
                'the server answered %s: %s', reason, answer.detail[:LONGEST_DETAIL]
            )


def _target(config: RobotConfig) -> tuple[object, ...]:
    """Return what decides which server is talked to, and how."""
    return (
        config.server_address, config.insecure, config.tls_ca_file, config.tls_cert_file,
        config.tls_key_file, config.token_file,
    )


def _on_the_way_to(config: RobotConfig) -> str:
    return f'leaving for {config.server_address}'


def hello(config: RobotConfig, resume_state: bytes = b'') -> wire.RecognizeRequest:
    """Return the first request of a stream."""
    # The server knows the name in a certificate, or behind a token, and takes no other.
    robot_id = '' if config.is_proven else socket.gethostname()[:64]
    return wire.RecognizeRequest(
        hello=wire.Hello(
            protocol_version=PROTOCOL_VERSION,
            robot_id=config.robot_id or robot_id,
            camera=config.camera,
            resume_state=resume_state,
        )
    )


def _pause_s(ending: _Ending, is_proven: bool, backoff_s: float) -> float:
    """Return how long to wait before the next attempt, without jitter."""
    if ending.asked_s is not None:
        return ending.asked_s
    return REFUSED_BACKOFF_S if ending.is_refusal and not is_proven else backoff_s


def _status(answer: wire.Answer) -> str:
    """Return the status in small letters."""
    try:
        return wire.Status.Name(answer.status).lower()
    except ValueError:
        return 'unknown_status'


def _observation(
    face: OfferedFace, welcome: wire.Welcome, answer: wire.Answer
) -> Observation | None:
    """Return what an answer says of a face; None where it cannot be true."""
    labels = tuple(welcome.labels)
    probabilities = tuple(answer.probabilities)
    if len(probabilities) != len(labels) or answer.label not in (*labels, UNKNOWN):
        return None
    valence = answer.valence if answer.HasField('valence') else math.nan
    arousal = answer.arousal if answer.HasField('arousal') else math.nan
    if not all(0 <= p <= 1 for p in probabilities):
        return None
    # NaN is a value of theirs: not known.
    if any(abs(value) > 1 for value in (valence, arousal)):
        return None
    return Observation(
        face_id=face.face_id,
        stamp_ns=face.frame.stamp_ns,
        frame_id=face.frame.frame_id,
        captured_ns=face.frame.captured_ns,
        box=face.box.clipped(*face.frame.size_px),
        label=answer.label,
        confidence=max(probabilities),
        labels=labels,
        probabilities=probabilities,
        valence=valence,
        arousal=arousal,
        source=Source.CLOUD,
        model=welcome.model,
    )
