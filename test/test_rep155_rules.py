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
"""REP-155's rules: labels, regions, ids, and that only one node lists faces."""

from __future__ import annotations

import math
import random

import pytest

from ferros.rep155_rules import CHECK_NS, Turn, expression_of, id_fault, region_of
from ferros.types import Box, Observation, Source

NAN = float('nan')
MS = 1_000_000


def observation(label: str, **changes: object) -> Observation:
    made = Observation(
        face_id='face_ab2c_1',
        stamp_ns=7,
        frame_id='camera',
        captured_ns=8,
        box=Box(0, 0, 10, 10),
        label=label,
        confidence=0.75,
        labels=(label,),
        probabilities=(1.0,),
        valence=0.5,
        arousal=-0.25,
        source=Source.CLOUD,
        model='m',
    )
    return made._replace(**changes)


@pytest.mark.parametrize(
    ('label', 'expression'),
    [
        ('neutral', 'neutral'),
        ('happiness', 'happy'),
        ('surprise', 'surprised'),
        ('sadness', 'sad'),
        ('anger', 'angry'),
        ('disgust', 'disgusted'),
        ('fear', 'scared'),
    ],
)
def test_a_label_is_said_in_the_words_of_rep_155(label, expression):
    assert expression_of(observation(label)) == (expression, 0.5, -0.25, 0.75)


@pytest.mark.parametrize('label', ['contempt', 'calm', 'unknown', 'a label of tomorrow'])
def test_a_label_that_rep_155_does_not_know_leaves_valence_and_arousal(label):
    said = expression_of(observation(label))
    assert said == ('', 0.5, -0.25, 0.75)
    assert not said.is_empty


def test_what_is_not_known_is_not_a_number_and_never_zero():
    said = expression_of(observation('happiness', valence=NAN, arousal=NAN))
    assert math.isnan(said.valence) and math.isnan(said.arousal)
    assert said.expression == 'happy' and not said.is_empty
    assert expression_of(observation('unknown', valence=NAN, arousal=NAN)).is_empty


def test_values_stay_in_their_ranges():
    said = expression_of(observation('fear', valence=1.5, arousal=-7.0, confidence=1.0000001))
    assert said == ('scared', 1.0, -1.0, 1.0)
    assert expression_of(observation('fear', confidence=NAN)).confidence == 0.0


@pytest.mark.parametrize(
    ('box', 'region'),
    [
        (Box(64, 48, 64, 96), (0.2, 0.2, 0.4, 0.6)),
        (Box(-50, -50, 114, 98), (0.0, 0.0, 0.2, 0.2)),
        (Box(256, 192, 500, 500), (0.8, 0.8, 1.0, 1.0)),
        (Box(-1e4, -1e4, 1e5, 1e5), (0.0, 0.0, 1.0, 1.0)),
    ],
)
def test_a_region_is_the_part_of_the_face_that_is_in_the_image(box, region):
    found = region_of(box, (320, 240))
    assert found == pytest.approx(region)
    assert found is not None and found.is_valid
    assert found.area == pytest.approx((region[2] - region[0]) * (region[3] - region[1]))


def test_a_face_outside_the_image_has_no_region():
    assert region_of(Box(400, 10, 50, 50), (320, 240)) is None


@pytest.mark.parametrize('face_id', ['face_ab2c_1', 'abcde', '_x', 'F' * 32])
def test_an_id_that_can_be_part_of_a_topic_is_taken(face_id):
    assert id_fault(face_id) == ''


@pytest.mark.parametrize(
    'face_id', ['', '23bd5', 'a/b', 'a b', 'a-b', '~', 'face_é', 'a{b}', 'a\n', '../x']
)
def test_an_id_that_cannot_be_part_of_a_topic_is_refused(face_id):
    assert id_fault(face_id) == 'rep155_id_invalid'


def test_an_id_that_the_messages_have_no_room_for_is_refused():
    assert id_fault('f' * 33) == 'rep155_id_too_long'


def turns_until(turn: Turn, others: int, now_ns: int, end_ns: int) -> list[tuple[int, bool]]:
    """Ask as a camera of 100 Hz does; return each decision with its time."""
    decisions = []
    while now_ns < end_ns:
        if turn.is_check_due(now_ns):
            decisions.append((now_ns, turn.decide(others, now_ns)))
        now_ns += 10 * MS
    return decisions


def test_one_who_is_alone_begins_once_the_graph_is_known():
    decisions = turns_until(Turn(0), 0, 0, 3000 * MS)
    assert decisions[0] == (0, False)
    assert decisions[1] == (300 * MS, True)
    assert all(may for _, may in decisions[1:])


def test_the_graph_is_looked_at_once_a_second():
    times = [now_ns for now_ns, _ in turns_until(Turn(0), 0, 400 * MS, 10_400 * MS)]
    assert times == [400 * MS + k * CHECK_NS for k in range(10)]


def test_one_who_meets_another_stops_and_begins_again_when_that_one_is_gone():
    turn = Turn(0)
    assert turns_until(turn, 0, 0, 1000 * MS)[-1][1]
    assert not any(may for _, may in turns_until(turn, 1, 1000 * MS, 9000 * MS))
    again = turns_until(turn, 0, 9000 * MS, 14_000 * MS)
    begin_ns = next(now_ns for now_ns, may in again if may)
    # Looked at within a second, and then free for up to 1.7 s.
    assert 9200 * MS <= begin_ns <= 11_800 * MS


@pytest.mark.parametrize('seed', range(20))
def test_of_two_who_begin_together_one_remains(seed):
    source = random.Random(seed)
    turns = [Turn(0, random.Random(source.random())) for _ in range(2)]
    may, seen = [False, False], [False, False]
    spoke_together_ns = 0
    for now_ns in range(0, 20_000 * MS, 10 * MS):
        # What one does the other sees at its next look.
        for k in range(2):
            if turns[k].is_check_due(now_ns):
                may[k] = turns[k].decide(int(seen[1 - k]), now_ns)
        seen = list(may)
        spoke_together_ns += 10 * MS * all(may)
    assert sum(may) == 1
    assert spoke_together_ns <= 3000 * MS
