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
from __future__ import annotations

import dataclasses
import json
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cloud_server import sealed_state
from cloud_server.model_info import ModelInfo
from cloud_server.sealed_state import (
    MAX_SEALED_BYTES,
    SealError,
    StateKeyError,
    StateSealer,
    key_text,
    new_key,
    read_state_keys,
    state_identity,
)
from cloud_server.session import FaceSnapshot

# The same in every run.
SOME = settings(max_examples=150, deadline=None, derandomize=True, database=None)
KEY = bytes(range(32))
NOW_S = 1_800_000_000.25
WHERE = ('robot-1', 'front', 'tiny 0.1')
DEFAULT_STATE_SIZE = 136

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
FACE_IDS = st.text(min_size=1, max_size=32)


@st.composite
def faces_lists(draw) -> list[FaceSnapshot]:
    size = draw(st.integers(1, 20))
    states = arrays.arrays(np.float32, size, elements=FINITE)
    return [
        FaceSnapshot(face_id, draw(st.integers(-(2**63), 2**63 - 1)), draw(states), draw(states))
        for face_id in draw(st.lists(FACE_IDS, min_size=1, max_size=5, unique=True))
    ]


def face(face_id: str = 'f1a2b3c4', size: int = DEFAULT_STATE_SIZE) -> FaceSnapshot:
    numbers = np.random.default_rng(len(face_id)).normal(size=(2, size)).astype(np.float32)
    return FaceSnapshot(face_id, 1_700_000_000_123_456_789, numbers[0], numbers[1])


def sealer(*keys: bytes, ttl_s: float = 30.0) -> StateSealer:
    return StateSealer(keys or [KEY], ttl_s)


SEALED = sealer().seal([face('a', 3), face('bc', 3)], *WHERE, NOW_S)


def bits(snapshots) -> list[tuple[str, int, bytes, bytes]]:
    return [(f.face_id, f.stamp_ns, f.h.tobytes(), f.c.tobytes()) for f in snapshots]


@SOME
@given(faces_lists())
def test_states_come_back_bit_for_bit(faces):
    sealed = sealer().seal(faces, *WHERE, NOW_S)
    opened = sealer().open(sealed, *WHERE, NOW_S)
    assert bits(opened) == bits(faces)
    assert all(f.h.dtype == f.c.dtype == np.float32 for f in opened)


@SOME
@given(st.integers(0, 8 * len(SEALED) - 1))
def test_any_flipped_bit_is_refused(bit):
    altered = bytearray(SEALED)
    altered[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealError, match=r'altered|format'):
        sealer().open(bytes(altered), *WHERE, NOW_S)


def test_any_truncation_is_refused():
    for length in range(len(SEALED)):
        with pytest.raises(SealError, match=r'altered|format'):
            sealer().open(SEALED[:length], *WHERE, NOW_S)


@SOME
@given(st.binary(min_size=1, max_size=300))
def test_anything_added_is_refused(more):
    for altered in (SEALED + more, more + SEALED):
        with pytest.raises(SealError, match=r'altered|format'):
            sealer().open(altered, *WHERE, NOW_S)


@SOME
@given(st.binary(max_size=400), st.booleans())
def test_garbage_is_refused(garbage, of_our_format):
    sealed = bytes([sealed_state.FORMAT]) + garbage if of_our_format else garbage
    with pytest.raises(SealError):
        sealer().open(sealed, *WHERE, NOW_S)


@SOME
@given(st.binary(max_size=400), st.integers(0, 3))
def test_an_authentic_content_of_any_bytes_is_read_or_refused_and_nothing_else_happens(
    content, count
):
    # As a server of another version might seal it with our key.
    for text in (content, struct.pack('>HI', count, 2) + content):
        try:
            faces = sealer().open(authentic(text), *WHERE, NOW_S)
        except SealError as error:
            assert 'of another format' in str(error)
        else:
            assert all(f.h.shape == f.c.shape for f in faces)


def authentic(content: bytes) -> bytes:
    """Seal any content under the head of a good one."""
    head, nonce = SEALED[:sealed_state._HEAD.size], bytes(12)
    return head + nonce + sealer()._ciphers[0].encrypt(nonce, content, head)


@pytest.mark.parametrize(
    ('faces', 'numbers', 'reason'),
    [
        ([(b'a', 1)], np.array([1, np.nan], '<f4'), 'not finite'),
        ([(b'a', 1)], np.array([np.inf, 1], '<f4'), 'not finite'),
        ([(b'a', 1)], np.zeros(3, '<f4'), '12 bytes of numbers, expected 8'),
        ([(b'a', 1)], np.zeros(1, '<f4'), '4 bytes of numbers, expected 8'),
        ([(b'a', 1), (b'a', 2)], np.zeros(4, '<f4'), 'twice'),
        ([(b'', 1)], np.zeros(2, '<f4'), 'wrong length'),
        ([(b'x' * 33, 1)], np.zeros(2, '<f4'), 'wrong length'),
        ([(b'\xff', 1)], np.zeros(2, '<f4'), 'utf-8'),
    ],
)
def test_a_content_that_does_not_add_up_is_refused_with_its_reason(faces, numbers, reason):
    content = struct.pack('>HI', len(faces), 1)
    for face_id, stamp_ns in faces:
        content += struct.pack('>B', len(face_id)) + face_id + struct.pack('>q', stamp_ns)
    with pytest.raises(SealError, match=reason):
        sealer().open(authentic(content + numbers.tobytes()), *WHERE, NOW_S)


def test_a_good_content_made_by_hand_is_read():
    content = struct.pack('>HIB1sq', 1, 1, 1, b'a', 5) + np.array([2, 3], '<f4').tobytes()
    (read,) = sealer().open(authentic(content), *WHERE, NOW_S)
    assert (read.face_id, read.stamp_ns, read.h, read.c) == ('a', 5, [2], [3])


@pytest.mark.parametrize(
    ('where', 'reason'),
    [
        (('robot-2', 'front', 'tiny 0.1'), 'another robot or camera'),
        (('robot-1', 'rear', 'tiny 0.1'), 'another robot or camera'),
        # The same letters in a row.
        (('robot-1f', 'ront', 'tiny 0.1'), 'another robot or camera'),
        (('robot-1', 'front', 'tiny 0.2'), 'another model'),
    ],
)
def test_a_state_is_good_for_its_robot_camera_and_model_only(where, reason):
    with pytest.raises(SealError, match=reason):
        sealer().open(SEALED, *where, NOW_S)


@pytest.mark.parametrize(
    ('later_s', 'reason'),
    [(-5.1, 'in the future'), (-5, None), (0, None), (30, None), (30.1, 'expired')],
)
def test_a_state_is_good_for_its_time_with_some_room_for_clocks_that_differ(later_s, reason):
    if reason is None:
        assert len(sealer().open(SEALED, *WHERE, NOW_S + later_s)) == 2
    else:
        with pytest.raises(SealError, match=reason):
            sealer().open(SEALED, *WHERE, NOW_S + later_s)


@pytest.mark.parametrize(('sealing_s', 'opening_s'), [(10, 30), (30, 10)])
def test_of_two_times_to_live_the_shorter_one_counts(sealing_s, opening_s):
    sealed = sealer(ttl_s=sealing_s).seal([face()], *WHERE, NOW_S)
    opener = sealer(ttl_s=opening_s)
    assert opener.open(sealed, *WHERE, NOW_S + 10)
    with pytest.raises(SealError, match='expired: sealed 11 s ago, good for 10 s'):
        opener.open(sealed, *WHERE, NOW_S + 11)


def test_another_key_does_not_open_and_says_nothing_of_keys():
    with pytest.raises(SealError) as refused:
        sealer(new_key()).open(SEALED, *WHERE, NOW_S)
    assert 'a key that is not known here' in str(refused.value)
    assert KEY.hex()[:8] not in str(refused.value)


def test_an_older_key_opens_and_the_first_one_seals():
    old, new = new_key(), new_key()
    rotated = sealer(new, old)
    assert rotated.open(sealer(old).seal([face()], *WHERE, NOW_S), *WHERE, NOW_S)
    sealed = rotated.seal([face()], *WHERE, NOW_S)
    assert sealer(new).open(sealed, *WHERE, NOW_S)
    with pytest.raises(SealError):
        sealer(old).open(sealed, *WHERE, NOW_S)


def test_the_robot_learns_nothing_and_no_two_seals_are_alike():
    snapshot = face()
    one, other = (sealer().seal([snapshot], *WHERE, NOW_S) for _ in range(2))
    assert one[45:] != other[45:]
    for sealed in (one, other):
        assert snapshot.face_id.encode() not in sealed
        assert snapshot.h.tobytes()[:8] not in sealed
        assert b'robot-1' not in sealed


def test_a_face_costs_its_state_and_less_than_a_hundred_bytes():
    state_bytes = 2 * 4 * DEFAULT_STATE_SIZE
    assert len(sealer().seal([face('f1a2b3c4')], *WHERE, NOW_S)) - state_bytes < 100
    two = sealer().seal([face('f1a2b3c4'), face('f5')], *WHERE, NOW_S)
    assert len(two) - 2 * state_bytes < 115


def test_thirty_two_faces_of_the_default_model_fit():
    # The longest ids that there are.
    faces = [face(chr(0x10000 + i) * 32) for i in range(32)]
    sealed = sealer().seal(faces, *WHERE, NOW_S)
    assert len(sealed) < 40_000
    assert bits(sealer().open(sealed, *WHERE, NOW_S)) == bits(faces)


def test_faces_that_do_not_fit_are_left_out_from_the_last_and_said(caplog):
    faces = [face(f'face {i}', size=2048) for i in range(6)]
    with caplog.at_level(logging.WARNING):
        sealed = sealer().seal(faces, *WHERE, NOW_S)
    assert len(sealed) <= MAX_SEALED_BYTES
    assert bits(sealer().open(sealed, *WHERE, NOW_S)) == bits(faces[:3])
    assert 'the states of 3 faces were left out' in caplog.text


def test_what_is_too_large_is_refused_before_it_is_decrypted():
    with pytest.raises(SealError, match=f'{MAX_SEALED_BYTES + 1} bytes, at most'):
        sealer().open(SEALED[:1] * (MAX_SEALED_BYTES + 1), *WHERE, NOW_S)


def test_no_faces_make_no_state_and_an_empty_state_is_refused():
    assert sealer().seal([], *WHERE, NOW_S) == b''
    with pytest.raises(SealError, match='another format'):
        sealer().open(b'', *WHERE, NOW_S)


@pytest.mark.parametrize(
    'changes',
    [
        {'h': np.full(3, np.nan, np.float32)},
        {'c': np.full(3, np.inf, np.float32)},
        {'h': np.zeros(4, np.float32)},
        {'c': np.zeros(3, np.float64)},
        {'face_id': ''},
        {'face_id': 'x' * 33},
    ],
)
def test_what_no_session_holds_is_not_sealed(changes):
    with pytest.raises(ValueError, match=r'a state|face_id'):
        sealer().seal([face('a', 3), face('b', 3)._replace(**changes)], *WHERE, NOW_S)


@pytest.mark.parametrize('keys', [[], [b'short'], [KEY, KEY[:-1]], KEY])
def test_a_sealer_wants_keys_of_32_bytes(keys):
    with pytest.raises(ValueError, match='32 bytes'):
        StateSealer(keys, 30)


@pytest.mark.parametrize('ttl_s', [0, -1, float('inf'), float('nan')])
def test_a_sealer_wants_a_time_to_live(ttl_s):
    with pytest.raises(ValueError, match='ttl_s'):
        StateSealer([KEY], ttl_s)


def test_a_key_file_may_hold_several_keys_and_comments(tmp_path):
    path = tmp_path / 'key'
    older = new_key()
    path.write_text(f'# of 2026\n{key_text(KEY)}\n\n  {key_text(older).upper()}  \n')
    assert read_state_keys(path) == (KEY, older)


@pytest.mark.parametrize(
    ('content', 'fault'),
    [
        (b'', 'no key in it'),
        (b'# nothing\n', 'no key in it'),
        (KEY, 'expected 64 hex digits'),
        (b'\xff\xfe', 'not a text'),
        (b'ab\n' + KEY.hex().encode() + b'\nsecret words\n', 'line 1, line 3: expected 64 hex'),
        (KEY.hex(' ').encode(), 'line 1: expected 64 hex digits'),
    ],
)
def test_a_key_file_that_is_none_is_refused_without_showing_it(tmp_path, content, fault):
    path = tmp_path / 'key'
    path.write_bytes(content)
    with pytest.raises(StateKeyError, match=fault) as refused:
        read_state_keys(path)
    assert str(path) in str(refused.value)
    assert 'secret' not in str(refused.value)
    assert '0102' not in str(refused.value)


def test_a_key_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(StateKeyError, match=r'missing: cannot be read \(No such file'):
        read_state_keys(tmp_path / 'missing')


def test_new_keys_differ():
    assert len({new_key() for _ in range(100)}) == 100


def test_models_are_told_apart_by_their_graphs_even_under_one_name(root: Path):
    folder = root / 'cloud_server' / 'weights' / 'default'
    info = ModelInfo.from_json(json.loads((folder / 'model.json').read_text()))
    identity = state_identity(info)
    for changes in (
        {'version': '9'},
        {'state_size': 8},
        {'sha256': {**info.sha256, 'encoder.onnx': '0' * 64}},
        {'sha256': {**info.sha256, 'temporal.onnx': '0' * 64}},
    ):
        assert state_identity(dataclasses.replace(info, **changes)) != identity
    # The state is the temporal part's, in whatever arithmetic the encoder is served.
    int8 = {**info.sha256, 'encoder_int8.onnx': '0' * 64}
    assert state_identity(dataclasses.replace(info, sha256=int8)) == identity
