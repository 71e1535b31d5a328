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

import pytest

from ferros.drops import Drops
from ferros.types import Box, Codec, GridPoint, OperatingPoint
from ferros_proto import recognition_pb2 as wire


@pytest.mark.parametrize(
    ('box', 'clipped'),
    [
        (Box(10.4, 10.6, 30, 30), Box(10, 11, 30, 30)),
        (Box(-10, -10, 30, 30), Box(0, 0, 20, 20)),
        (Box(90, 40, 30, 30), Box(90, 40, 10, 10)),
        (Box(-50, 0, 30, 30), Box(0, 0, 0, 30)),
        (Box(500, 500, 30, 30), Box(100, 50, 0, 0)),
    ],
)
def test_a_box_is_clipped_to_the_image(box: Box, clipped: Box) -> None:
    assert box.clipped(100, 50) == clipped


def test_the_first_of_a_reason_is_told_from_the_others() -> None:
    drops = Drops()
    assert drops.count('late')
    assert not drops.count('late', 2)
    assert drops.counts() == {'late': 3}


def test_codecs_and_points_are_those_of_the_wire() -> None:
    assert {codec.name: codec.value for codec in Codec} == {
        name: number for name, number in wire.Codec.items() if number
    }
    fields = [field.name for field in wire.OperatingPoint.DESCRIPTOR.fields]
    assert set(GridPoint._fields) == set(fields)
    # How a face is sent is said alike with and without what it costs and is worth.
    assert GridPoint._fields[:4] == OperatingPoint._fields
