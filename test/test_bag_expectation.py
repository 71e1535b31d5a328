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
"""What an expectation file may say, how it is judged by what was heard, how that is said."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

import pytest

from ferros.bag_expectation import Expectation, ExpectationError, Heard, judge, parse
from ferros.bag_report import Round, as_json, table, timeline

# -- what a file may say --------------------------------------------------------------------------


def one(**entry: object) -> Expectation:
    (found,) = parse([{'from_s': 1, 'to_s': 2, **entry}], 10.0)
    return found


def test_an_expectation_has_a_window_and_what_is_to_be_true_in_it() -> None:
    assert one(label='anger') == Expectation(1.0, 2.0, ('anger',))
    assert one(labels=['anger', 'fear'], min_share=1).labels == ('anger', 'fear')
    assert one(face=False, source='none').face is False
    found = one(label='anger', min_confidence=0.5, source='cloud', min_share=0.8)
    assert str(found) == 'anger, sure by 0.5, from cloud in 80 %'


@pytest.mark.parametrize(
    ('entry', 'reason'),
    [
        ({'label': 'anger', 'to_s': 1}, r'entry 1: to_s is 1, expected more than from_s, 1'),
        ({'label': 'anger', 'from_s': -1}, r'from_s is -1, expected 0 or more'),
        ({'label': 'anger', 'from_s': float('nan')}, r'from_s is nan, expected 0 or more'),
        ({'label': 'anger', 'to_s': float('inf')}, r'to_s is inf, expected 0 or more'),
        ({'label': 'anger', 'to_s': 'soon'}, r"to_s is 'soon', expected a number"),
        ({'label': 'anger', 'min_share': 1.5}, r'min_share is 1.5, expected 0 to 1'),
        ({'label': 'anger', 'min_share': 0}, r'min_share is 0, expected more'),
        ({'label': 'anger', 'min_share': True}, r'min_share is True, expected a number'),
        ({'label': 'anger', 'labels': ['fear']}, r'one of label and labels, not both'),
        ({'label': ''}, r"label is '', expected a label"),
        ({'labels': 'anger'}, r"labels is 'anger', expected a list of labels"),
        ({'labels': []}, r'labels is \[\], expected a list of labels'),
        ({'face': 'no'}, r"face is 'no', expected true or false"),
        ({'source': 'moon'}, r"source is 'moon', expected one of none, cloud, robot"),
        ({'face': False, 'label': 'anger'}, r'face is false, expected no label'),
        ({'labl': 'anger'}, r'entry 1: labl is nothing that can be expected'),
        ({}, r'entry 1: nothing is expected'),
        ({'label': 'anger', 'from_s': 11, 'to_s': 12}, r'the bag has images for 10.00 s'),
    ],
)
def test_an_expectation_that_makes_no_sense_is_refused_with_the_reason(
    entry: dict[str, object], reason: str
) -> None:
    with pytest.raises(ExpectationError, match=reason):
        one(**entry)


@pytest.mark.parametrize('document', [None, {}, [], 'happiness', {'from_s': 1}])
def test_a_file_without_a_list_is_refused(document: object) -> None:
    with pytest.raises(ExpectationError, match='expected a list of expectations'):
        parse(document, 10.0)


def test_an_entry_that_is_no_mapping_or_lacks_its_window_is_named() -> None:
    good = {'from_s': 1, 'to_s': 2, 'face': True}
    with pytest.raises(ExpectationError, match="entry 2 is 'happiness'"):
        parse([good, 'happiness'], 10.0)
    with pytest.raises(ExpectationError, match='entry 2: to_s is missing'):
        parse([good, {'from_s': 1, 'face': True}], 10.0)


# -- how it is judged -----------------------------------------------------------------------------

KNOWN = ('neutral', 'happiness', 'anger')


def said(at_s: float, label: str, confidence: float = 0.9, source: str = 'cloud') -> Heard:
    return Heard(at_s, True, label, confidence, source, 'f1', KNOWN)


def nobody(at_s: float) -> Heard:
    return Heard(at_s, False, '', 0.0, 'none')


def passes(heard: Sequence[Heard], **entry: object) -> bool:
    (verdict,) = judge([one(**entry)], heard)
    return verdict.passed


def test_only_the_messages_of_the_window_count_its_end_not_included() -> None:
    heard = [said(0.99, 'anger'), said(1.0, 'happiness'), said(1.99, 'happiness'),
             said(2.0, 'anger')]
    (verdict,) = judge([one(label='happiness')], heard)
    assert (verdict.fitting, verdict.messages, verdict.share) == (2, 2, 1.0)
    assert verdict.passed and verdict.kinds == {'happiness': 2}


def test_the_share_decides() -> None:
    heard = [*(said(1.1, 'happiness') for _ in range(7)), *(said(1.2, 'anger') for _ in range(3))]
    assert passes(heard, label='happiness', min_share=0.7)
    assert not passes(heard, label='happiness', min_share=0.71)
    assert passes(heard, labels=['happiness', 'anger'], min_share=1)


def test_silence_fulfils_nothing() -> None:
    for entry in ({'label': 'anger'}, {'face': False}, {'source': 'none'}):
        (verdict,) = judge([one(**entry)], [said(0.5, 'anger')])
        assert verdict.failure == 'no message about an image of this window'


def test_a_message_without_a_face_has_no_label() -> None:
    heard = [nobody(1.5)]
    assert passes(heard, face=False) and not passes(heard, face=True)
    assert not passes([Heard(1.5, False, 'anger', 1.0, 'cloud')], label='anger')


def test_confidence_and_source_count_too() -> None:
    heard = [said(1.5, 'anger', 0.4, 'robot')]
    assert passes(heard, label='anger', source='robot', min_confidence=0.4)
    assert not passes(heard, label='anger', source='cloud')
    assert not passes(heard, label='anger', min_confidence=0.41)


def test_a_label_that_no_model_knows_is_told_apart_from_one_that_was_not_seen() -> None:
    (misspelt, absent) = judge(
        [one(label='hapiness'), one(label='neutral')], [said(1.5, 'happiness')]
    )
    assert misspelt.failure == '0 of 1; no model knows hapiness'
    assert absent.failure == '0 of 1'


# -- how it is said -------------------------------------------------------------------------------


def test_the_table_says_what_was_expected_and_what_was_heard() -> None:
    heard = [said(1.1, 'happiness'), said(1.2, 'happiness'), said(1.3, 'anger'), nobody(2.5)]
    expectations = [
        one(label='happiness'), one(face=False), one(label='anger', from_s=5, to_s=6)
    ]
    assert table(judge(expectations, heard)) == textwrap.dedent("""\
                from    to  expected           heard
        ok      1.00  2.00  happiness in 60 %  2 of 3 (67 %): happiness 2, anger 1
        FAILED  1.00  2.00  no face in 60 %    0 of 3 (0 %): happiness 2, anger 1
        FAILED  5.00  6.00  anger in 60 %      no message about an image of this window""")


def test_the_time_line_shows_when_which_label_was_there() -> None:
    # Twelve columns of a second each.
    heard = [
        *(said(index + 0.5, 'happiness') for index in range(5)),
        *(nobody(index + 0.5) for index in (5, 6)),
        said(9.2, 'anger'), said(9.8, 'happiness'), said(11.5, 'anger'),
    ]
    # A blank where nothing was heard, half a mark where half of the messages said so.
    assert timeline(heard, 12.0, ascii_only=True) == textwrap.dedent("""\
                   0     12.0 s
        happiness  #####__  + _
        no face    _____##  _ _
        anger      _______  + #""")
    assert timeline([], 4.0) == '(no message)'


def test_a_round_with_stamps_that_do_not_increase_has_failed() -> None:
    heard = [said(1.5, 'happiness')]
    verdicts = judge([one(label='happiness')], heard)
    assert Round(heard, verdicts, 0, 30).passed and not Round(heard, verdicts, 1, 30).passed
    told = as_json([Round(heard, verdicts, 1, 30)], {'late': 2}, bag='b', rate=5.0)
    assert json.loads(json.dumps(told))['rounds'][0]['kinds'] == {'happiness': 1}
    assert (told['passed'], told['drops'], told['rate']) == (False, {'late': 2}, 5.0)
    assert told['rounds'][0]['face_ids'] == ['f1']
