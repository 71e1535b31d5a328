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

from cloud_server.session import (
    Face,
    FaceSnapshot,
    LimitError,
    RateLimit,
    ResetRule,
    Session,
)

S = 1_000_000_000
MS = 1_000_000
RULE = ResetRule(gap_s=2.0, intervals=3.0)


def seen_face(stamp_ns: int) -> Face:
    face = Face.new(4)
    face.advance(stamp_ns, np.full(4, 2, np.float32), np.full(4, 3, np.float32))
    return face


def session(max_faces=2, face_idle_ns=5 * S, rate_hz=1000.0) -> Session:
    info = SimpleNamespace(state_size=4, reset_gap_s=2.0, reset_gap_intervals=3.0)
    return Session(info, max_faces, face_idle_ns, RateLimit(rate_hz))


def see(
    stream: Session, face_id: str, now_ns: int, interval_ms: int = 33, number: int = 7
) -> None:
    """Take a face one step on, as a frame does whose stamp is an hour ahead of our clock."""
    face = stream.admit(stream.last_sequence + 1, face_id, now_ns, interval_ms)
    state = np.full(4, number, np.float32)
    face.advance(now_ns + 3600 * S, state, -state)
    stream.release(face_id)


def snapshot_of(face_id: str, size: int = 4) -> FaceSnapshot:
    return FaceSnapshot(face_id, 7 * S, np.ones(size, np.float32), np.ones(size, np.float32))


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


def test_a_face_goes_on_in_the_next_stream_where_it_stopped():
    before, after = session(), session()
    see(before, 'a', 1 * S, number=5)
    # Another server: its clock has nothing to do with the first one's.
    assert after.restore(before.snapshot(1 * S), 900 * S) == 1
    step = after.admit(1, 'a', 900 * S).next_step(3601 * S + 250 * MS, 33, RULE)
    assert not step.is_reset
    assert step.interval_s == pytest.approx(0.25)
    assert step.h.tolist() == [5] * 4
    assert step.c.tolist() == [-5] * 4


def test_a_restored_face_still_begins_anew_after_too_long_a_gap():
    stream = session()
    stream.restore([snapshot_of('a')], 0)
    assert stream.admit(1, 'a', 0).next_step(7 * S + 2 * S + 1, 33, RULE).is_reset


def test_the_next_stream_counts_sequence_numbers_and_the_rate_afresh():
    before, after = session(rate_hz=1), session(rate_hz=1)
    see(before, 'a', 0)
    after.restore(before.snapshot(0), 0)
    assert after.last_sequence == 0
    see(after, 'a', 0)


def test_faces_leave_in_the_order_of_their_last_use():
    stream = session(max_faces=3)
    for face_id, now_ns in (('old', 0), ('new', 200 * MS), ('middle', 100 * MS)):
        see(stream, face_id, now_ns)
    assert [face.face_id for face in stream.snapshot(S)] == ['new', 'middle', 'old']


@pytest.mark.parametrize(('interval_ms', 'longest_ns'), [(33, 2 * S), (1000, 3 * S)])
def test_a_face_whose_next_frame_would_reset_it_stays_behind(interval_ms, longest_ns):
    stream = session()
    see(stream, 'a', 0, interval_ms)
    assert len(stream.snapshot(longest_ns)) == 1
    assert stream.snapshot(longest_ns + 1) == ()


def test_faces_without_a_state_stay_behind():
    stream = session()
    stream.admit(1, 'never computed', 0)
    stream.admit(2, 'forgotten', 0).forget()
    assert stream.snapshot(0) == ()


def test_a_snapshot_keeps_its_state_when_the_face_goes_on():
    stream = session()
    see(stream, 'a', 0, number=5)
    (taken,) = stream.snapshot(0)
    see(stream, 'a', MS, number=6)
    assert taken.stamp_ns == 3600 * S
    assert taken.h.tolist() == [5] * 4


def test_more_restored_faces_than_a_stream_may_have_are_left_out_from_the_last():
    stream = session(max_faces=2)
    assert stream.restore([snapshot_of(face_id) for face_id in 'abc'], 0) == 2
    with pytest.raises(LimitError, match='more than 2 faces'):
        stream.admit(1, 'c', 0)
    assert not stream.admit(2, 'a', 0).next_step(7 * S, 33, RULE).is_reset
    assert not stream.admit(3, 'b', 0).next_step(7 * S, 33, RULE).is_reset


def test_a_restored_face_that_is_not_seen_makes_room_like_any_other():
    stream = session(max_faces=1, face_idle_ns=5 * S)
    stream.restore([snapshot_of('gone')], 100 * S)
    stream.admit(1, 'new', 105 * S)
    assert len(stream) == 1


def test_a_restored_face_can_be_carried_on_once_more():
    first, second = session(), session()
    see(first, 'a', 0)
    second.restore(first.snapshot(0), 50 * S)
    assert second.snapshot(51 * S) == first.snapshot(0)


def test_states_come_before_the_first_frame_or_not_at_all():
    stream = session()
    see(stream, 'a', 0)
    with pytest.raises(ValueError, match='before the first frame'):
        stream.restore([snapshot_of('b')], 0)
    refused = session()
    with pytest.raises(LimitError):
        refused.admit(1, '', 0)
    with pytest.raises(ValueError, match='before the first frame'):
        refused.restore([snapshot_of('b')], 0)


def test_states_of_another_size_are_refused_and_none_is_kept():
    stream = session()
    with pytest.raises(ValueError, match=r'shape \(5,\), expected \(4,\)'):
        stream.restore([snapshot_of('a'), snapshot_of('b', size=5)], 0)
    assert len(stream) == 0
