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
"""
LSTM states that a robot carries from one server to the next, without reading or changing them.

A sealed state is what `StateSealer.seal` returns, big-endian:

    head, in clear    format 1 byte, sealed at 8 (ms since 1970), time to live 4 (ms),
                      digest of robot and camera 16, digest of the model 16
    nonce             12
    AES-256-GCM of    faces 2 bytes, state_size 4,
                      for each face: length of its id 1, its id, stamp_ns 8,
                      h of each face, c of each face: float32, little-endian
    tag               16

The head is GCM's associated data. That is 79 bytes, and 9, its id and its state for each face:
1.2 kB for one face of the default model. GCM's random nonces allow some 2^32 states under one key
(NIST SP 800-38D, 8.3).
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloud_server.model_info import ENCODER_FILE, TEMPORAL_FILE, ModelInfo
from cloud_server.session import MAX_FACE_ID_CHARS, FaceSnapshot

# 32 faces of the default model take 39 kB at most. On a link of 64 kbit/s this is 8 s, and the
# wire's messages have 256 KB.
MAX_SEALED_BYTES = 65_536
KEY_BYTES = 32
# By which the clocks of two servers may differ.
CLOCK_SKEW_S = 5.0
FORMAT = 1
MS_PER_S = 1000

_DIGEST_BYTES = 16
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEAD = struct.Struct(f'>BQI{_DIGEST_BYTES}s{_DIGEST_BYTES}s')
_COUNTS = struct.Struct('>HI')
_ID_LENGTH = struct.Struct('>B')
_STAMP = struct.Struct('>q')
_FLOAT = np.dtype('<f4')
_ENVELOPE_BYTES = _HEAD.size + _NONCE_BYTES + _TAG_BYTES
# What the key of the file is used for; another use would have another text.
_USE = b'ferros sealed LSTM state 1'

log = logging.getLogger(__name__)


class SealError(ValueError):
    """A sealed state that cannot be resumed; the message is a reason fit for a log."""


class StateKeyError(ValueError):
    """A key file that cannot be used; the message names the file and never what is in it."""


class _Head(NamedTuple):
    format: int
    sealed_at_ms: int
    ttl_ms: int
    robot: bytes
    model: bytes


def new_key() -> bytes:
    """
    Return a key of 32 random bytes.

    For a server without a key file: what it seals can be resumed only where this very key is,
    that is in this process and in the workers it was handed to.
    """
    return os.urandom(KEY_BYTES)


def key_text(key: bytes) -> str:
    """Return a key as a line of a key file has it, without the end of the line."""
    return key.hex()


def read_state_keys(path: Path) -> tuple[bytes, ...]:
    """
    Read a key file: lines of 64 hex digits, the first key seals, all of them open.

    Blank lines and those that begin with # are passed over.

    Raises:
        StateKeyError: naming the file and every line that is wrong.

    """
    try:
        text = path.read_text(encoding='ascii')
    except OSError as error:
        raise StateKeyError(f'{path}: cannot be read ({error.strerror})') from error
    except UnicodeDecodeError:
        raise StateKeyError(
            f'{path}: not a text; `ferros-cloud keys state` makes a key file'
        ) from None
    keys, wrong = [], []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if word and not word.startswith('#'):
            key = _key(word)
            if key is None:
                wrong.append(f'line {number}')
            else:
                keys.append(key)
    if wrong:
        raise StateKeyError(
            f'{path}: {", ".join(wrong)}: expected {2 * KEY_BYTES} hex digits, one key in a line'
        )
    if not keys:
        raise StateKeyError(f'{path}: no key in it; `ferros-cloud keys state` makes one')
    return tuple(keys)


def state_identity(info: ModelInfo) -> str:
    """
    Return a text that two models share only if one can go on with the states of the other.

    It holds the digests of the graphs, so it tells apart models whose name and version were left
    as they were. The precision of the encoder is not in it: the state is the temporal part's.
    """
    graphs = [f'{name} {info.sha256[name]}' for name in (ENCODER_FILE, TEMPORAL_FILE)
              if name in info.sha256]
    return '\n'.join([info.name, info.version, str(info.state_size), *graphs])


class StateSealer:
    """Seals states and opens sealed ones; pure but for its random nonces."""

    def __init__(self, keys: Sequence[bytes], ttl_s: float) -> None:
        """
        Derive the keys of this use.

        Args:
            keys: of 32 bytes each; the first seals, all of them open.
            ttl_s: for how long a sealed state can be opened, above 0.

        """
        if not keys or not all(isinstance(key, bytes) and len(key) == KEY_BYTES for key in keys):
            raise ValueError(f'expected one key or more of {KEY_BYTES} bytes each')
        if not 0 < ttl_s < math.inf:
            raise ValueError(f'ttl_s is {ttl_s}, expected above 0')
        self._ciphers = [AESGCM(_derived(key)) for key in keys]
        self._ttl_ms = max(round(ttl_s * MS_PER_S), 1)

    def seal(
        self,
        snapshots: Sequence[FaceSnapshot],
        robot_id: str,
        camera: str,
        model: str,
        now_s: float,
    ) -> bytes:
        """
        Return the sealed states; empty if there are none.

        Faces beyond MAX_SEALED_BYTES are left out, from the last, and it is logged how many.

        Args:
            snapshots: states of one size, all numbers finite, the most important face first.
            robot_id: of the robot that will bring them back; its proven identity, where it has
                one.
            camera: of the stream that will go on with them.
            model: state_identity of the model.
            now_s: seconds since 1970.

        """
        fitting = _fitting(snapshots)
        if len(fitting) < len(snapshots):
            log.warning(
                'the states of %d faces were left out: more than %d bytes',
                len(snapshots) - len(fitting), MAX_SEALED_BYTES,
            )
        if not fitting:
            return b''
        head = _HEAD.pack(
            FORMAT,
            round(now_s * MS_PER_S),
            self._ttl_ms,
            _digest(robot_id, camera),
            _digest(model),
        )
        nonce = os.urandom(_NONCE_BYTES)
        return head + nonce + self._ciphers[0].encrypt(nonce, _packed(fitting), head)

    def open(
        self, sealed: bytes, robot_id: str, camera: str, model: str, now_s: float
    ) -> tuple[FaceSnapshot, ...]:
        """
        Return the states as they were sealed, bit for bit.

        Args:
            sealed: anything.
            robot_id: of the robot that brought it; its proven identity, where it has one.
            camera: of the stream that goes on with it.
            model: state_identity of the model that runs.
            now_s: seconds since 1970, by a clock that agrees with the sealing server's within
                5 s.

        Raises:
            SealError: and nothing else, whatever `sealed` holds.

        """
        if len(sealed) > MAX_SEALED_BYTES:
            raise SealError(f'{len(sealed)} bytes, at most {MAX_SEALED_BYTES} are expected')
        if len(sealed) < _ENVELOPE_BYTES or sealed[0] != FORMAT:
            raise SealError('of another format')
        content = self._decrypted(sealed)
        head = _Head(*_HEAD.unpack_from(sealed))
        if head.robot != _digest(robot_id, camera):
            raise SealError('of another robot or camera')
        if head.model != _digest(model):
            raise SealError('of another model')
        _check_age(now_s - head.sealed_at_ms / MS_PER_S, min(head.ttl_ms, self._ttl_ms) / MS_PER_S)
        return _unpacked(content)

    def _decrypted(self, sealed: bytes) -> bytes:
        head, rest = sealed[:_HEAD.size], sealed[_HEAD.size:]
        nonce, encrypted = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, encrypted, head)
            except InvalidTag:
                continue
        raise SealError('altered, or sealed with a key that is not known here')


def _key(word: str) -> bytes | None:
    try:
        key = bytes.fromhex(word)
    except ValueError:
        return None
    return key if len(key) == KEY_BYTES and len(word) == 2 * KEY_BYTES else None


def _derived(key: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=_USE).derive(key)


def _digest(*texts: str) -> bytes:
    """Return a digest of texts that cannot be mistaken for other texts with the same joint."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(struct.pack('>I', len(encoded)) + encoded)
    return digest.digest()[:_DIGEST_BYTES]


def _check_age(age_s: float, ttl_s: float) -> None:
    if age_s < -CLOCK_SKEW_S:
        raise SealError(
            f'sealed {-age_s:.0f} s in the future: the clocks of the servers must agree'
            f' within {CLOCK_SKEW_S:.0f} s'
        )
    if age_s > ttl_s:
        raise SealError(f'expired: sealed {age_s:.0f} s ago, good for {ttl_s:.0f} s')


def _fitting(snapshots: Sequence[FaceSnapshot]) -> list[FaceSnapshot]:
    """Return the first of the snapshots, as many as fit."""
    size_bytes = _ENVELOPE_BYTES + _COUNTS.size
    for number, snapshot in enumerate(snapshots):
        _check_sealable(snapshot, snapshots[0].h.shape)
        size_bytes += _ID_LENGTH.size + len(snapshot.face_id.encode()) + _STAMP.size
        size_bytes += 2 * _FLOAT.itemsize * snapshot.h.size
        if size_bytes > MAX_SEALED_BYTES:
            return list(snapshots[:number])
    return list(snapshots)


def _check_sealable(snapshot: FaceSnapshot, shape: tuple[int, ...]) -> None:
    if not 1 <= len(snapshot.face_id) <= MAX_FACE_ID_CHARS:
        raise ValueError(
            f'face_id of {len(snapshot.face_id)} characters, expected 1 to {MAX_FACE_ID_CHARS}'
        )
    for state in (snapshot.h, snapshot.c):
        if state.dtype != np.float32 or state.shape != shape or len(shape) != 1:
            raise ValueError(f'a state of {state.dtype} {state.shape}, expected float32 [size]')
        if not np.isfinite(state).all():
            raise ValueError('a state that is not finite')


def _packed(snapshots: Sequence[FaceSnapshot]) -> bytes:
    parts = [_COUNTS.pack(len(snapshots), snapshots[0].h.size)]
    for face_id, stamp_ns, _, _ in snapshots:
        encoded = face_id.encode()
        parts += [_ID_LENGTH.pack(len(encoded)), encoded, _STAMP.pack(stamp_ns)]
    parts += [snapshot.h.astype(_FLOAT).tobytes() for snapshot in snapshots]
    parts += [snapshot.c.astype(_FLOAT).tobytes() for snapshot in snapshots]
    return b''.join(parts)


def _unpacked(content: bytes) -> tuple[FaceSnapshot, ...]:
    """
    Return the faces of a decrypted content.

    It is authentic, so a fault here is one of a server that sealed otherwise: of the format.
    """
    try:
        return _parsed(content)
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise SealError(f'of another format ({error})') from error


def _parsed(content: bytes) -> tuple[FaceSnapshot, ...]:
    count, state_size = _COUNTS.unpack_from(content)
    offset = _COUNTS.size
    heads: dict[str, int] = {}
    for _ in range(count):
        (length,) = _ID_LENGTH.unpack_from(content, offset)
        offset += _ID_LENGTH.size
        face_id = content[offset:offset + length].decode()
        offset += length
        (stamp_ns,) = _STAMP.unpack_from(content, offset)
        offset += _STAMP.size
        if not 1 <= len(face_id) <= MAX_FACE_ID_CHARS or face_id in heads:
            raise ValueError('a face_id of a wrong length, or twice')
        heads[face_id] = stamp_ns
    expected_bytes = 2 * count * state_size * _FLOAT.itemsize
    if len(content) - offset != expected_bytes:
        raise ValueError(f'{len(content) - offset} bytes of numbers, expected {expected_bytes}')
    numbers = np.frombuffer(content, _FLOAT, offset=offset).astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ValueError('numbers that are not finite')
    states = numbers.reshape(2, count, state_size)
    # Copies: a row is a view that would keep all faces in memory.
    return tuple(
        FaceSnapshot(face_id, stamp_ns, states[0, i].copy(), states[1, i].copy())
        for i, (face_id, stamp_ns) in enumerate(heads.items())
    )
