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
"""When and where faces are looked for: decisions with numbers."""

from __future__ import annotations

import itertools
import random

import pytest

from ferros.lookout import (
    REDETECT_CROWDED_NS,
    REDETECT_NS,
    Known,
    Pace,
    Rounds,
    glances,
    margin,
)
from ferros.pieces import Piece, View, haar_pieces, yunet_pieces
from ferros.types import Box

MS = 1_000_000
S = 1_000 * MS
BOX = Box(100, 100, 80, 80)


def paced(interval_ms: float, images: int = 30, every: int = 10) -> Pace:
    pace = Pace(every)
    for index in range(images):
        pace.image(round(index * interval_ms * MS))
    return pace


@pytest.mark.parametrize(
    ('rate_fps', 'every', 'images'),
    [(30, 10, 10), (60, 10, 10), (15, 10, 5), (10, 10, 10 / 3), (5, 10, 2), (1, 10, 2),
     (30, 1, 1), (5, 1, 1), (30, 30, 30), (10, 30, 10), (30, 300, 300)],
)  # fmt: skip
def test_a_slow_camera_is_searched_in_fewer_images(
    rate_fps: float, every: int, images: float
) -> None:
    assert paced(1000 / rate_fps, every=every).images_per_round == pytest.approx(images, rel=0.01)


def test_images_that_were_missed_do_not_make_the_camera_slow() -> None:
    pace, stamp_ns = Pace(), 0
    source = random.Random(2)
    for _ in range(40):
        stamp_ns += source.choice([33, 33, 33, 67, 100]) * MS
        pace.image(stamp_ns)
    assert pace.interval_ns == 33 * MS


def test_with_time_enough_all_is_looked_at() -> None:
    pace = paced(33.3)
    for _ in range(100):
        pace.spent(6 * MS)
    assert pace.share == 1.0


def test_less_is_looked_for_before_images_are_missed() -> None:
    """A third of the camera's interval is what an image may take; all of it would be too late."""
    pace = paced(33.3)
    most_ms = 0.0
    for _ in range(300):
        # A slow machine: what is looked for takes 25 ms, the rest 4.
        took_ms = 4 + 25 * pace.share
        pace.spent(round(took_ms * MS))
        most_ms = max(most_ms, took_ms)
    assert most_ms < 33.3
    assert 8 <= took_ms <= 10.5
    assert 0.15 < pace.share < 0.3


def test_a_hundred_times_too_slow_still_leaves_some_search() -> None:
    pace = paced(33.3)
    for _ in range(100):
        pace.spent(5 * S)
    assert pace.share == pytest.approx(0.15)
    assert pace.images_per_round == pytest.approx(10 / 0.15)


def test_the_search_comes_back_when_there_is_time_again() -> None:
    pace = paced(33.3)
    for _ in range(100):
        pace.spent(50 * MS)
    for _ in range(150):
        pace.spent(5 * MS)
    assert pace.share == 1.0


def test_the_interval_that_is_told_counts_before_the_stamps() -> None:
    # By the stamps there are 100 ms for an image, but only every third one gets this far.
    pace = paced(100)
    for _ in range(20):
        pace.spent(20 * MS, interval_ns=33 * MS)
    assert pace.share < 1.0


def test_a_slow_camera_may_cost_more_per_image_and_never_without_bound() -> None:
    at_30, at_10, at_1 = (paced(1000 / rate).max_work for rate in (30, 10, 1))
    assert at_10 == pytest.approx(3 * at_30, rel=0.01)
    assert at_1 == pytest.approx(4 * at_30, rel=0.01)


def pieces_of(view: View) -> list[Piece]:
    return haar_pieces(1280, 720, 480 if view is View.FRONT else 288, view)


@pytest.mark.parametrize('images_per_round', [10.0, 2.0, 1.0, 37.0])
def test_in_a_round_every_piece_from_the_front_has_its_turn(images_per_round: float) -> None:
    rounds = Rounds(pieces_of, tuple(View))
    searched: list[Piece] = []
    # The first round is that of the left side, the second that of the right.
    for _ in range(round(2 * images_per_round) + 1):
        searched += rounds.due(images_per_round, left=100.0)
    for piece in pieces_of(View.FRONT):
        assert searched.count(piece) >= 2
    for view in (View.LEFT, View.RIGHT):
        assert all(piece in searched for piece in pieces_of(view))


def test_no_image_pays_for_a_whole_search_and_all_pay_about_the_same() -> None:
    rounds = Rounds(pieces_of, tuple(View))
    work = [sum(piece.work for piece in rounds.due(10, left=6.0)) for _ in range(100)]
    whole = sum(piece.work for piece in pieces_of(View.FRONT) + pieces_of(View.LEFT))
    assert max(work) < 0.25 * whole
    # Over any five images: what is due in half a round, up to one piece more.
    for start in range(95):
        assert sum(work[start : start + 5]) <= 0.5 * whole + rounds.largest + 0.01


def test_large_faces_are_searched_for_in_the_very_first_image() -> None:
    rounds = Rounds(pieces_of, (View.FRONT,))
    assert rounds.due(10, left=6.0)[0] == pieces_of(View.FRONT)[0]
    rounds.due(10, left=6.0)
    rounds.restart()
    assert rounds.due(10, left=6.0)[0] == pieces_of(View.FRONT)[0]


def test_what_does_not_fit_waits_and_is_not_added_up() -> None:
    rounds = Rounds(pieces_of, (View.FRONT,))
    assert [rounds.due(10, left=0.0) for _ in range(50)] == [[]] * 50
    step = sum(piece.work for piece in pieces_of(View.FRONT)) / 10
    first = sum(piece.work for piece in rounds.due(10, left=100.0))
    assert first <= max(2 * step, rounds.largest)


def test_yunet_looks_at_the_whole_image_once_a_round() -> None:
    rounds = Rounds(
        lambda view: yunet_pieces(1280, 720, 320) if view is View.FRONT else [], (View.FRONT,)
    )
    due = [index for index in range(60) if rounds.due(10, left=6.0)]
    assert due[0] == 0
    assert {later - earlier for earlier, later in itertools.pairwise(due)} == {10}


def test_an_image_too_small_for_a_face_has_nothing_due() -> None:
    assert Rounds(lambda view: [], tuple(View)).due(10, 6.0) == []


def known(number: int = 1, **changes: object) -> Known:
    face = Known(number, BOX, True, True, False, 10 * S, 10 * S, 10 * S)
    return face._replace(**changes)  # type: ignore[arg-type]


def numbers(faces: list[Known], now_ns: int, share: float = 1.0) -> list[int]:
    return [glance.number for glance in glances(faces, now_ns, share)]


def test_a_face_that_is_followed_is_looked_at_from_time_to_time() -> None:
    assert numbers([known()], 10 * S + REDETECT_NS - 1) == []
    assert numbers([known()], 10 * S + REDETECT_NS) == [1]


def test_beside_another_face_it_is_looked_at_more_often() -> None:
    assert numbers([known(is_crowded=True)], 10 * S + REDETECT_CROWDED_NS) == [1]


def test_after_a_look_in_vain_it_is_looked_at_again_sooner() -> None:
    face = known(looked_ns=10 * S + 200 * MS)
    assert numbers([face], 10 * S + 200 * MS + REDETECT_NS // 2) == [1]


def test_where_time_is_short_it_is_followed_for_longer_but_not_for_too_long() -> None:
    assert numbers([known()], 10 * S + REDETECT_NS, share=0.5) == []
    assert numbers([known()], 10 * S + 2 * REDETECT_NS, share=0.5) == [1]
    # A second is for how long a face is believed without a detection.
    assert numbers([known()], 10 * S + 500 * MS, share=0.01) == [1]


def test_a_new_face_comes_before_a_lost_one_and_that_before_those_that_are_followed() -> None:
    now_ns = 10 * S + 400 * MS
    before_ns = now_ns - 33 * MS
    faces = [
        known(1),
        known(2, is_followed=False, seen_ns=before_ns, looked_ns=before_ns),
        known(3, is_confirmed=False, looked_ns=before_ns),
    ]
    assert numbers(faces, now_ns) == [3, 2, 1]


def test_a_lost_face_is_looked_for_in_every_image_and_then_less_often() -> None:
    def looked(gone_ms: int, since_ms: int) -> bool:
        now_ns = 20 * S
        face = known(
            is_followed=False, seen_ns=now_ns - gone_ms * MS, looked_ns=now_ns - since_ms * MS
        )
        return bool(numbers([face], now_ns))

    assert looked(gone_ms=100, since_ms=33)
    assert not looked(gone_ms=500, since_ms=33)
    assert looked(gone_ms=500, since_ms=100)


def test_the_longer_a_face_is_gone_the_wider_it_is_looked_for() -> None:
    assert margin(0) < margin(300 * MS) < margin(10 * S) <= 1.0
    (glance,) = glances([known(is_followed=False, seen_ns=9 * S, looked_ns=9 * S)], 10 * S, 1.0)
    assert glance.margin == margin(S)
    assert glance.is_known
    (new,) = glances([known(is_confirmed=False)], 10 * S + 33 * MS, 1.0)
    assert not new.is_known
