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
"""A stream that is opened by hand, to see what a server says and how its link takes a burst."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, NamedTuple

import cv2
import grpc

from ferros import synthetic_face
from ferros.channel import REFUSALS, AccessError, explain, is_refusal, read_access
from ferros.config import RobotConfig
from ferros.encode import encode
from ferros.link import PROTOCOL_VERSION, hello
from ferros.link_burst import Burst
from ferros.sender import message_bytes
from ferros.types import Codec
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

# The smallest image of a burst; the rest of its bytes is a comment in the file.
_BURST_FACE_PX: Final = 16
_BURST_QUALITY: Final = 20
# Each message is another face, so that the server may compute them together.
_BURST_FACES: Final = 16
# A comment of a JPEG holds no more, besides the two bytes of its length.
_COMMENT_BYTES: Final = 65_533
# How long the last answers of a burst are waited for.
_STRAGGLERS_NS: Final = 2_000_000_000


class CheckError(Exception):
    """Why nothing can be measured: one line for whoever called the command."""


class Connection(NamedTuple):
    """How the server was reached and what it said."""

    # Name or address to number, the TCP handshake (one round trip), and what then comes, TLS
    # among it, until the Welcome.
    resolve_ms: float
    tcp_ms: float
    welcome_ms: float
    welcome: wire.Welcome


class Probe:
    """
    One stream to the server, from Hello and Welcome to the end of the `with`.

    Raises:
        CheckError: on entering it, where there is no ferros server, it will not serve us, or a
            file that the connection needs cannot be used.

    """

    def __init__(self, config: RobotConfig) -> None:
        self._config = config
        self._requests: queue.SimpleQueue[wire.RecognizeRequest | None] = queue.SimpleQueue()
        self._responses: queue.SimpleQueue[wire.RecognizeResponse | Exception | None] = (
            queue.SimpleQueue()
        )
        self.connection: Connection

    def __enter__(self) -> Probe:
        timeout_s = self._config.connect_timeout_ms / 1000
        resolve_ms, tcp_ms = reach(self._config.server_address, timeout_s)
        try:
            access = read_access(self._config)
        except AccessError as error:
            raise CheckError(str(error)) from None
        self._channel = channel = access.open()
        try:
            stub = recognition_pb2_grpc.RecognitionStub(channel)  # type: ignore[no-untyped-call]
            began_s = time.monotonic()
            self._call: Any = stub.Recognize(self._sent(), metadata=access.metadata)
            threading.Thread(target=self._read, name='ferros-probe', daemon=True).start()
            welcome = self._welcome(timeout_s)
        except BaseException:
            self._close()
            raise
        welcome_ms = (time.monotonic() - began_s) * 1000
        self.connection = Connection(resolve_ms, tcp_ms, welcome_ms, welcome)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def send(self, frame: wire.FaceFrame) -> int:
        """Hand a frame over to be sent; return how many bytes the link will carry for it."""
        request = wire.RecognizeRequest(frame=frame)
        self._requests.put(request)
        return message_bytes(request.ByteSize())

    def receive(self, timeout_s: float) -> wire.Answer | None:
        """
        Return the next answer; None: there was none in that time.

        Raises:
            CheckError: the stream ended.

        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                response = self._responses.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                return None
            if response is None or isinstance(response, Exception):
                raise CheckError(_ended(self._config, response))
            if response.WhichOneof('response') == 'answer':
                return response.answer

    def _close(self) -> None:
        self._requests.put(None)
        if hasattr(self, '_call'):
            self._call.cancel()
        self._channel.close()

    def _sent(self) -> Iterator[wire.RecognizeRequest]:
        yield hello(self._config)
        while (request := self._requests.get()) is not None:
            yield request

    def _read(self) -> None:
        try:
            for response in self._call:
                self._responses.put(response)
            self._responses.put(None)
        except Exception as error:
            self._responses.put(error)

    def _welcome(self, timeout_s: float) -> wire.Welcome:
        address = self._config.server_address
        try:
            response = self._responses.get(timeout=timeout_s)
        except queue.Empty:
            raise CheckError(
                f'{address} took the connection but sent no Welcome within {timeout_s:g} s:'
                ' something else than a ferros server, or one that hangs'
            ) from None
        if response is None or isinstance(response, Exception):
            raise CheckError(_ended(self._config, response))
        if response.WhichOneof('response') != 'welcome':
            raise CheckError(f'{address} answered without a Welcome: not a ferros server of ours')
        welcome = response.welcome
        if welcome.protocol_version != PROTOCOL_VERSION:
            raise CheckError(
                f'{address} speaks protocol version {welcome.protocol_version}, this robot'
                f' version {PROTOCOL_VERSION}: update the older of the two'
            )
        if not welcome.labels or not welcome.credits or not welcome.input_size_px:
            raise CheckError(f'the Welcome of {address} lacks labels, credits or an input size')
        return welcome


def reach(address: str, timeout_s: float) -> tuple[float, float]:
    """
    Return how long it takes to resolve host:port and to connect to it by TCP, in ms.

    Raises:
        CheckError: it has no such host, or nobody there listens.

    """
    host, _, port = address.rpartition(':')
    began_s = time.monotonic()
    try:
        found = socket.getaddrinfo(host.strip('[]'), int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, 'strerror', None) or str(error)
        raise CheckError(f'no host is known as {host!r}: {reason}') from error
    resolved_s = time.monotonic()
    failure = OSError('no address')
    for family, kind, protocol, _, place in found:
        tried_s = time.monotonic()
        try:
            with socket.socket(family, kind, protocol) as tcp:
                tcp.settimeout(timeout_s)
                tcp.connect(place)
            return (resolved_s - began_s) * 1000, (time.monotonic() - tried_s) * 1000
        except OSError as error:
            failure = error
    if isinstance(failure, ConnectionRefusedError):
        text = (
            f'nothing listens on {address}: is the server running there (ferros-cloud serve), on'
            ' this port, and may other machines reach it (--host)?'
        )
    elif isinstance(failure, TimeoutError):
        text = f'no reply from {address} within {timeout_s:g} s: a wrong address, or a firewall'
    else:
        text = f'{address} cannot be reached: {failure.strerror or failure}'
    raise CheckError(text) from failure


def run_burst(probe: Probe, burst: Burst) -> None:
    """
    Send what the burst asks for until it is over and all is answered.

    Raises:
        CheckError: the stream ended.

    """
    image = smallest_image()
    sequence = 0
    while not burst.is_over(now_ns := time.monotonic_ns()):
        image_bytes = burst.next_bytes(now_ns)
        if image_bytes is None:
            _receive(probe, burst, 0.005)
            continue
        sequence += 1
        frame = wire.FaceFrame(
            sequence=sequence,
            face_id=f'burst-{sequence % _BURST_FACES}',
            stamp_ns=time.time_ns(),
            capture_monotonic_ns=now_ns,
            codec=wire.JPEG,
            image=padded(image, image_bytes),
        )
        burst.sent(sequence, probe.send(frame), now_ns)
    deadline_ns = time.monotonic_ns() + _STRAGGLERS_NS
    while burst.in_flight and time.monotonic_ns() < deadline_ns:
        _receive(probe, burst, 0.1)


def _receive(probe: Probe, burst: Burst, timeout_s: float) -> None:
    answer = probe.receive(timeout_s)
    if answer is not None:
        received_ns = answer.server_receive_monotonic_ns
        server_ns = answer.server_reply_monotonic_ns - received_ns
        burst.answered(answer.sequence, received_ns, server_ns, time.monotonic_ns())


def smallest_image() -> bytes:
    """Return a valid JPEG of a few hundred bytes."""
    side_px = (_BURST_FACE_PX, _BURST_FACE_PX)
    face = cv2.resize(synthetic_face.frame(0), side_px, interpolation=cv2.INTER_AREA)
    return encode(face, Codec.JPEG, _BURST_QUALITY)  # type: ignore[arg-type]


def padded(jpeg: bytes, size_bytes: int) -> bytes:
    """
    Return the JPEG made that long by comments of random bytes; it shows the same image.

    Nothing on the way can compress it, and it costs the server no more time than the short one.
    """
    missing = size_bytes - len(jpeg)
    comments = []
    while missing >= 4:
        # A rest too short for a comment of its own is left out.
        text = os.urandom(min(missing - 4, _COMMENT_BYTES))
        comments.append(b'\xff\xfe' + (len(text) + 2).to_bytes(2, 'big') + text)
        missing -= len(comments[-1])
    return jpeg[:2] + b''.join(comments) + jpeg[2:]


def _ended(config: RobotConfig, error: Exception | None) -> str:
    """Return in words how a stream to a server ended."""
    address = config.server_address
    if error is None:
        return f'{address} ended the stream'
    if not isinstance(error, grpc.RpcError):
        return f'the stream to {address} failed: {error}'
    code = error.code()
    detail = explain(str(error.details() or ''), config)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f'{address} is a gRPC server, but not one of ferros ({detail})'
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return f'{address} is full: {detail}'
    if code in REFUSALS:
        return f'{address} refuses this robot: {detail}'
    if code is grpc.StatusCode.UNAVAILABLE and is_refusal(error):
        return f'{address}: {detail}'
    if code is grpc.StatusCode.UNAVAILABLE:
        return f'{address} is no ferros server, or closed the stream: {detail}'
    return f'{address} ended the stream: {code.name}: {detail}'
