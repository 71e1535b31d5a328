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
"""Robots that break the protocol, each in its way: real misbehaviour, on the wire."""

from __future__ import annotations

import asyncio
import itertools
import random
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import grpc
import numpy as np

from cloud_server.load import faces
from cloud_server.load.behaviour import Behaviour, Request
from cloud_server.load.line import Line, cuttable_line, own_line
from cloud_server.load.plan import Address
from cloud_server.load.stream import Stream
from cloud_server.load.target import Target
from ferros_proto import recognition_pb2 as wire

# How often a slow reader reads an answer.
SLOW_READ_S = 1.0
# The transport of one who does not read takes no more: the server feels it within seconds.
_SMALL_WINDOW = (('grpc.http2.lookahead_bytes', 1024),)
# Over what the server takes in one message (262,144), packed or not.
_TOO_LARGE_BYTES = 300_000
_ZIPPED_BYTES = 1_000_000
# Tags of field 15, which no message of ours has: a group's begin and end, and a number.
_GROUP, _END_GROUP, _NUMBER = b'\x7b', b'\x7c', b'\x78'
# Of RecognizeRequest.frame without content.
_EMPTY_FRAME = b'\x12\x00'
# protobuf gives up at 100.
_DEEP = 10_000
# Of two bytes each: within the server's limit for one message.
_MANY = 100_000

# What a loaded server may answer any frame with, and how any stream may end with a server.
LOAD_ANSWERS = frozenset({'OVERLOADED', 'DROPPED_STALE'})
USUAL_ENDS = frozenset({'OK', 'UNAVAILABLE', 'RESOURCE_EXHAUSTED', 'WRITE_FAILED'})


class Fault(NamedTuple):
    """A way to break the protocol, and what a sound server makes of it."""

    text: str
    make: Callable[[random.Random, float], Behaviour]
    # Statuses of answers, and with which streams end; besides those of any load.
    answers: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()

    def is_expected(self, status: str) -> bool:
        """Tell whether a sound server answers a frame of such a robot, or ends its stream, so."""
        return status in self.answers | self.ends | LOAD_ANSWERS | USUAL_ENDS


class _Faulty(Behaviour):
    """What all have in common: they come back soon, and nobody waits for their answers."""

    waits_for_answers = False
    gives_up = False
    backs_off = False


class _SlowReader(_Faulty):
    """Sends as planned, whatever is unanswered, and reads one answer a second."""

    obeys_credits = False

    def connect(self, target: Target, address: Address) -> AbstractAsyncContextManager[Line]:
        return own_line(target, address, _SMALL_WINDOW)

    def reader(self, call: Any) -> Callable[[], Awaitable[Any]]:
        async def read() -> Any:
            await asyncio.sleep(SLOW_READ_S)
            return await call.read()

        return read


class _NeverReads(_Faulty):
    """Sends as planned and reads nothing, not even its Welcome."""

    obeys_credits = False
    waits_for_welcome = False

    def connect(self, target: Target, address: Address) -> AbstractAsyncContextManager[Line]:
        return own_line(target, address, _SMALL_WINDOW)

    def reader(self, call: Any) -> Callable[[], Awaitable[Any]]:
        async def read() -> Any:
            await call.code()
            return await call.read()

        return read


class _Breaks(_Faulty):
    """Ends its streams about once a second, with frames on their way."""

    def __init__(self, random_: random.Random, rate_fps: float) -> None:
        self._frames = max(1, round(rate_fps))
        # So that they do not all do it at once.
        self._left = random_.randint(1, self._frames)

    def after_write(self, stream: Stream) -> None:
        self._left -= 1
        if self._left <= 0:
            self._left = self._frames
            self.end(stream)

    def end(self, stream: Stream) -> None:
        raise NotImplementedError


class _Cancel(_Breaks):
    """Cancels its call."""

    def end(self, stream: Stream) -> None:
        stream.give_up('cancelled')


class _Disconnect(_Breaks):
    """Resets its TCP connection."""

    def connect(self, target: Target, address: Address) -> AbstractAsyncContextManager[Line]:
        return cuttable_line(target, address)

    def end(self, stream: Stream) -> None:
        assert stream.line.cut is not None
        stream.line.cut()
        stream.given_up = 'disconnected'


class _BadImage(_Faulty):
    """Sends one kind of broken image after another."""

    def __init__(self, random_: random.Random) -> None:
        self._images = itertools.cycle(bad_images(random_))

    def request(self, frame: wire.FaceFrame, stream: Stream) -> tuple[int, Request]:
        frame.codec, frame.image = next(self._images)
        return super().request(frame, stream)


class _BadFace(_Faulty):
    """Sends faces without a name, with too long a one, and ever new ones."""

    def __init__(self) -> None:
        self._frames = 0

    def request(self, frame: wire.FaceFrame, stream: Stream) -> tuple[int, Request]:
        self._frames += 1
        frame.face_id = ('', 'x' * 1000, f'another {self._frames}')[self._frames % 3]
        return super().request(frame, stream)


class _Sequence(_Faulty):
    """Sends sequence numbers again, out of their order, and 0."""

    def __init__(self) -> None:
        self._frames = 0

    def request(self, frame: wire.FaceFrame, stream: Stream) -> tuple[int, Request]:
        self._frames += 1
        right = frame.sequence
        wrong = (right, right - 1, right, max(1, right - 5), right, 0)
        frame.sequence = wrong[self._frames % len(wrong)]
        return super().request(frame, stream)


class _Garbage(_Faulty):
    """Sends bytes that are no message."""

    def __init__(self, random_: random.Random) -> None:
        self._garbage = itertools.cycle((b'\xff' * 100, b'\x12\x7f', random_.randbytes(2000)))

    def request(self, frame: wire.FaceFrame, stream: Stream) -> tuple[int, Request]:
        return frame.sequence, next(self._garbage)


class _Bomb(_Faulty):
    """Sends messages that cost their reader more than their sender, and one that is too large."""

    # The deep and the large end a stream, and what follows them before that is known is lost.
    _ORDER = ('unknown', 'empty', 'deep', 'empty', 'unknown', 'large', 'unknown')

    def __init__(self) -> None:
        self._kinds = itertools.cycle(self._ORDER)

    def request(self, frame: wire.FaceFrame, stream: Stream) -> tuple[int, Request]:
        good = wire.RecognizeRequest(frame=frame).SerializeToString()
        kind = next(self._kinds)
        if kind == 'deep':
            return frame.sequence, good + _GROUP * _DEEP + _END_GROUP * _DEEP
        if kind == 'unknown':
            return frame.sequence, good + (_NUMBER + b'\x01') * _MANY
        if kind == 'empty':
            return frame.sequence, _EMPTY_FRAME * _MANY + good
        frame.image = bytes(_TOO_LARGE_BYTES)
        return super().request(frame, stream)


class _ZipBomb(_Faulty):
    """Sends a small packed message that is too large when it is unpacked."""

    compression = grpc.Compression.Gzip

    def request(self, frame: wire.FaceFrame, stream: Stream) -> tuple[int, Request]:
        frame.image = bytes(_ZIPPED_BYTES)
        return super().request(frame, stream)


class _NoHello(_Faulty):
    """Begins with a frame."""

    def opening(self, hello: wire.Hello) -> Request:
        return wire.RecognizeRequest(frame=wire.FaceFrame(sequence=1, face_id='face'))


class _SecondHello(_Faulty):
    """Says Hello again where a frame is expected."""

    def request(self, frame: wire.FaceFrame, stream: Stream) -> tuple[int, Request]:
        return frame.sequence, wire.RecognizeRequest(hello=wire.Hello(protocol_version=1))


FAULTS: dict[str, Fault] = {
    'slow-reader': Fault(
        'reads one answer a second, minds no credits',
        lambda random_, rate_fps: _SlowReader(),
        answers=frozenset({'OK', 'LIMIT_EXCEEDED'}),
    ),
    'never-reads': Fault(
        'reads nothing, minds no credits',
        lambda random_, rate_fps: _NeverReads(),
        ends=frozenset({'ABORTED', 'DEADLINE_EXCEEDED'}),
    ),
    'disconnect': Fault(
        'resets its connection once a second, with frames on their way',
        _Disconnect,
        answers=frozenset({'OK'}),
        ends=frozenset({'DISCONNECTED'}),
    ),
    'cancel': Fault(
        'cancels its call once a second, with frames on their way',
        _Cancel,
        answers=frozenset({'OK'}),
        ends=frozenset({'CANCELLED'}),
    ),
    'bad-image': Fault(
        'sends what is no image, or claims to be a huge one',
        lambda random_, rate_fps: _BadImage(random_),
        answers=frozenset({'BAD_IMAGE', 'LIMIT_EXCEEDED'}),
    ),
    'bad-face': Fault(
        'sends faces without a name, with too long a one, and ever new ones',
        lambda random_, rate_fps: _BadFace(),
        answers=frozenset({'OK', 'LIMIT_EXCEEDED'}),
    ),
    'sequence': Fault(
        'repeats and reorders sequence numbers',
        lambda random_, rate_fps: _Sequence(),
        answers=frozenset({'OK', 'LIMIT_EXCEEDED'}),
    ),
    'garbage': Fault(
        'sends bytes that are no message',
        lambda random_, rate_fps: _Garbage(random_),
        ends=frozenset({'INVALID_ARGUMENT'}),
    ),
    'bomb': Fault(
        'sends messages that are deep, full of unknown or empty parts, or too large',
        lambda random_, rate_fps: _Bomb(),
        answers=frozenset({'OK', 'BAD_IMAGE', 'LIMIT_EXCEEDED'}),
        ends=frozenset({'INVALID_ARGUMENT', 'RESOURCE_EXHAUSTED'}),
    ),
    'zip-bomb': Fault(
        'sends packed messages that are too large when they are unpacked',
        lambda random_, rate_fps: _ZipBomb(),
        # Unpacked and found too large, or not unpacked and so no message.
        ends=frozenset({'INVALID_ARGUMENT', 'RESOURCE_EXHAUSTED'}),
    ),
    'no-hello': Fault(
        'begins with a frame',
        lambda random_, rate_fps: _NoHello(),
        ends=frozenset({'FAILED_PRECONDITION'}),
    ),
    'second-hello': Fault(
        'says Hello again',
        lambda random_, rate_fps: _SecondHello(),
        ends=frozenset({'FAILED_PRECONDITION'}),
    ),
}


def bad_images(random_: random.Random) -> Sequence[tuple[wire.Codec, bytes]]:
    """Return images that no server may decode: the codec they claim to have, and their bytes."""
    luma = faces.render(48, random_.getrandbits(32))
    jpeg, webp = faces.encode(luma, 'jpeg', 80), faces.encode(luma, 'webp', 80)
    oblong = faces.encode(np.ascontiguousarray(luma[:, :32]), 'jpeg', 80)
    return (
        (wire.WEBP, random_.randbytes(800)),
        (wire.JPEG, jpeg[: len(jpeg) // 2]),
        (wire.WEBP, webp[: len(webp) // 2]),
        (wire.WEBP, _huge_webp(webp)),
        (wire.JPEG, _huge_jpeg(jpeg)),
        (wire.JPEG, webp),
        (wire.CODEC_UNSPECIFIED, jpeg),
        (wire.WEBP, b''),
        (wire.JPEG, oblong),
    )


def _huge_webp(webp: bytes) -> bytes:
    """Return the file with 16383 x 16383 px in the header of its VP8 frame (RFC 6386, 9.1)."""
    place = webp.index(b'\x9d\x01\x2a') + 3
    return webp[:place] + struct.pack('<HH', 16383, 16383) + webp[place + 4 :]


def _huge_jpeg(jpeg: bytes) -> bytes:
    """Return the file with 65500 x 65500 px in its frame header (ITU-T T.81, B.2.2)."""
    place = jpeg.index(b'\xff\xc0') + 5
    return jpeg[:place] + struct.pack('>HH', 65500, 65500) + jpeg[place + 4 :]
