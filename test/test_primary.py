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

from ferros.primary import PrimaryFace
from ferros.types import Box, Track

MS = 1_000_000


def face(face_id: str, side: float) -> Track:
    return Track(face_id, Box(0, 0, side, side), 0)


def test_the_largest_face_is_the_primary_one() -> None:
    assert PrimaryFace().choose([face('a', 20), face('b', 30)], 0) == 'b'
    assert PrimaryFace().choose([], 0) is None


def test_two_people_at_one_distance_do_not_take_turns() -> None:
    primary = PrimaryFace()
    chosen = {
        primary.choose([face('a', 30 + index % 3), face('b', 31)], index * 33 * MS)
        for index in range(100)
    }
    assert len(chosen) == 1


def test_a_face_that_comes_much_nearer_takes_over_after_a_moment() -> None:
    primary = PrimaryFace()
    primary.choose([face('a', 30), face('b', 20)], 0)
    assert primary.choose([face('a', 30), face('b', 60)], 100 * MS) == 'a'
    assert primary.choose([face('a', 30), face('b', 60)], 500 * MS) == 'a'
    assert primary.choose([face('a', 30), face('b', 60)], 601 * MS) == 'b'


def test_the_primary_face_passes_on_at_once_when_it_is_gone() -> None:
    primary = PrimaryFace()
    primary.choose([face('a', 30), face('b', 20)], 0)
    assert primary.choose([face('b', 20)], 1) == 'b'


def test_how_much_larger_and_for_how_long_can_be_set() -> None:
    primary = PrimaryFace(area_ratio=4.0, take_over_ms=2000)
    primary.choose([face('a', 30), face('b', 20)], 0)
    assert primary.choose([face('a', 30), face('b', 59)], 100 * MS) == 'a'
    assert primary.choose([face('a', 30), face('b', 59)], 9000 * MS) == 'a'
    assert primary.choose([face('a', 30), face('b', 61)], 9100 * MS) == 'a'
    assert primary.choose([face('a', 30), face('b', 61)], 11000 * MS) == 'a'
    assert primary.choose([face('a', 30), face('b', 61)], 11100 * MS) == 'b'


def test_both_can_be_set_while_it_runs() -> None:
    primary = PrimaryFace()
    primary.choose([face('a', 30), face('b', 20)], 0)
    assert primary.choose([face('a', 30), face('b', 60)], 100 * MS) == 'a'
    primary.take_over_ms = 100
    assert primary.choose([face('a', 30), face('b', 60)], 200 * MS) == 'b'
    primary.area_ratio = 100.0
    assert primary.choose([face('a', 90), face('b', 60)], 9000 * MS) == 'b'
    assert primary.choose([face('a', 90), face('b', 60)], 9900 * MS) == 'b'


def test_without_a_delay_the_larger_face_takes_over_at_once() -> None:
    primary = PrimaryFace(area_ratio=1.0, take_over_ms=0)
    primary.choose([face('a', 30), face('b', 20)], 0)
    assert primary.choose([face('a', 30), face('b', 31)], 33 * MS) == 'b'


def test_two_faces_of_one_size_do_not_take_turns_even_without_hysteresis() -> None:
    primary = PrimaryFace(area_ratio=1.0, take_over_ms=0)
    chosen = {
        primary.choose([face('a', 30), face('b', 30)][:: 1 if index % 2 else -1], index * 33 * MS)
        for index in range(10)
    }
    assert len(chosen) == 1


def test_a_challenger_that_falls_back_starts_anew() -> None:
    primary = PrimaryFace()
    primary.choose([face('a', 30), face('b', 20)], 0)
    for at_ms, side in ((100, 60), (400, 20), (450, 60), (700, 60), (949, 60)):
        assert primary.choose([face('a', 30), face('b', side)], at_ms * MS) == 'a'
    assert primary.choose([face('a', 30), face('b', 60)], 950 * MS) == 'b'
