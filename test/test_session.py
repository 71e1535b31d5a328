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

from types import SimpleNamespace

import numpy as np
import pytest

from cloud_server.session import Face, LimitError, RateLimit, ResetRule, Session

S = 1_000_000_000
MS = 1_000_000
RULE = ResetRule(gap_s=2.0, intervals=3.0)


def seen_face(stamp_ns: int) -> Face:
    face = Face.new(4)
    face.advance(stamp_ns, np.full(4, 2, np.float32), np.full(4, 3, np.float32))
    return face


def session(max_faces=2, face_idle_ns=5 * S, rate_hz=1000.0) -> Session:
    return Session(SimpleNamespace(state_size=4), max_faces, face_idle_ns, RateLimit(rate_hz))


def test_a_new_face_begins_with_a_zero_state_and_no_interval():
    step = Face.new(4).next_step(123, 33, RULE)
    assert step.is_reset
    assert step.interval_s == 0
    assert not step.h.any()
    assert not step.c.any()


def test_the_next_frame_gets_the_state_and_the_difference_of_the_stamps():
    step = seen_face(10 * S).next_step(10 * S + 250 * MS, 33, RULE)
    assert not step.is_reset
    assert step.interval_s == pytest.approx(0.25)
    assert step.h.tolist() == [2] * 4
    assert step.c.tolist() == [3] * 4


@pytest.mark.parametrize(
    ('interval_ms', 'longest_gap_ns'),
    [(0, 2 * S), (33, 2 * S), (666, 2 * S), (1000, 3 * S), (5000, 15 * S)],
)
def test_the_state_survives_a_gap_of_two_seconds_or_three_intervals_and_no_longer(
    interval_ms, longest_gap_ns
):
    face = seen_face(7 * S)
    kept = face.next_step(7 * S + longest_gap_ns, interval_ms, RULE)
    assert not kept.is_reset
    assert kept.interval_s == pytest.approx(longest_gap_ns / S)
    lost = face.next_step(7 * S + longest_gap_ns + 1, interval_ms, RULE)
    assert lost.is_reset
    assert lost.interval_s == 0
    assert not lost.h.any()


def test_stamps_that_go_backwards_reset_the_state_and_equal_ones_do_not():
    assert seen_face(7 * S).next_step(7 * S - 1, 33, RULE).is_reset
    same = seen_face(7 * S).next_step(7 * S, 33, RULE)
    assert not same.is_reset
    # 0 would be the model's word for a first frame.
    assert same.interval_s == pytest.approx(0.001)


def test_asking_for_a_step_changes_nothing_until_it_is_kept():
    face = seen_face(7 * S)
    assert face.next_step(6 * S, 33, RULE).is_reset
    assert not face.next_step(8 * S, 33, RULE).is_reset


def test_a_face_that_was_forgotten_begins_anew():
    face = seen_face(7 * S)
    face.forget()
    assert face.next_step(7 * S + 1, 33, RULE).is_reset


def test_a_face_keeps_its_state_within_a_stream_and_shares_it_with_no_other_stream():
    one, other = session(), session()
    face = one.admit(1, 'a', 0)
    assert one.admit(2, 'a', 1) is face
    assert one.admit(3, 'b', 2) is not face
    assert other.admit(1, 'a', 3) is not face


@pytest.mark.parametrize('sequence', [0, 4, 5])
def test_a_sequence_number_that_does_not_rise_is_refused_by_name(sequence):
    stream = session()
    stream.admit(5, 'a', 0)
    with pytest.raises(LimitError, match=f'sequence {sequence} does not follow 5'):
        stream.admit(sequence, 'a', 1)
    stream.admit(6, 'a', 2)


@pytest.mark.parametrize('face_id', ['', 'x' * 33])
def test_a_face_id_of_a_wrong_length_is_refused(face_id):
    with pytest.raises(LimitError, match='face_id of'):
        session().admit(1, face_id, 0)
    session().admit(1, 'x' * 32, 0)


def test_one_face_too_many_is_refused_while_the_others_are_in_use():
    stream = session(max_faces=2)
    for sequence, face_id in ((1, 'a'), (2, 'b')):
        stream.admit(sequence, face_id, 0)
        stream.release(face_id)
    with pytest.raises(LimitError, match='more than 2 faces'):
        stream.admit(3, 'c', 5 * S - 1)
    assert len(stream) == 2


def test_the_face_that_was_idle_longest_makes_room_once_its_time_is_over():
    stream = session(max_faces=2)
    old, young = stream.admit(1, 'old', 0), stream.admit(2, 'young', 1 * S)
    stream.release('old')
    stream.release('young')
    stream.admit(3, 'new', 5 * S)
    assert stream.admit(4, 'young', 5 * S) is young
    assert len(stream) == 2
    stream.release('young')
    stream.release('new')
    assert stream.admit(5, 'old', 20 * S) is not old


def test_a_face_with_a_frame_still_waiting_is_never_forgotten():
    stream = session(max_faces=1)
    stream.admit(1, 'a', 0)
    with pytest.raises(LimitError):
        stream.admit(2, 'b', 100 * S)
    stream.release('a')
    stream.admit(3, 'b', 100 * S)


def test_a_burst_of_one_second_passes_and_after_it_only_the_sustained_rate():
    limit = RateLimit(10)
    assert sum(limit.allows(0) for _ in range(50)) == 10
    passed = sum(limit.allows(now_ms * MS) for now_ms in range(0, 10_000, 5))
    assert passed == pytest.approx(100, abs=2)


def test_a_steady_sender_below_the_rate_is_never_refused():
    limit = RateLimit(30)
    assert all(limit.allows(i * S // 30) for i in range(3000))


def test_frames_over_the_rate_are_refused_by_name():
    stream = session(rate_hz=2)
    stream.admit(1, 'a', 0)
    stream.admit(2, 'a', 0)
    with pytest.raises(LimitError, match='max_frame_rate_fps'):
        stream.admit(3, 'a', 0)
    stream.admit(4, 'a', S)
