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
