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
"""What may be concluded from emotions, by made-up times."""

from __future__ import annotations

import math

import pytest

from ferros.emotion_memory import (
    Changes,
    Newest,
    Seen,
    Shown,
    check_labels,
    check_share,
    check_time_ns,
)

S = 1_000_000_000
MS = 1_000_000
STEP_NS = 100 * MS


def see(
    memory: Shown | Changes,
    label: str,
    start_ns: int,
    seconds: float,
    face_id: str = 'fa',
    confidence: float = 0.9,
) -> int:
    """Let a face show a label ten times a second; return when it is shown next."""
    number = round(seconds * 10)
    for index in range(number):
        memory.see(Seen(start_ns + index * STEP_NS, face_id, label, confidence))
    return start_ns + number * STEP_NS


def sad_for(for_s: float) -> Shown:
    return Shown(('sadness',), 0.5, round(for_s * S), S)


def test_a_label_is_shown_at_once_where_no_time_is_asked_for() -> None:
    shown = sad_for(0)
    assert shown.at(0) == (False, 'no emotion was heard of yet')
    shown.see(Seen(S, 'fa', 'sadness', 0.5))
    assert shown.at(S) == (True, 'sadness (0.50) for 0.0 s')
    shown.see(Seen(S + STEP_NS, 'fa', 'sadness', 0.49))
    assert shown.at(S + STEP_NS) == (False, 'sadness (0.49)')
    shown.see(Seen(S + 2 * STEP_NS, 'fa', 'anger', 0.9))
    assert not shown.at(S + 2 * STEP_NS).holds
    shown.see(Seen(S + 3 * STEP_NS, '', '', 0.0))
    assert shown.at(S + 3 * STEP_NS) == (False, 'no face is there')


def test_a_label_has_to_be_shown_for_long_enough_by_messages_not_by_waiting() -> None:
    shown = sad_for(2.0)
    end_ns = see(shown, 'sadness', 0, 2.0)
    # The last message came at 1.9 s: nobody knows what is shown since.
    assert shown.at(end_ns + 500 * MS) == (False, 'sadness (0.90) for 1.9 s of 2.0 s')
    shown.see(Seen(end_ns, 'fa', 'sadness', 0.9))
    assert shown.at(end_ns).holds


@pytest.mark.parametrize(
    'interruption',
    [
        Seen(1500 * MS, 'fa', 'neutral', 0.9),
        Seen(1500 * MS, 'fa', 'unknown', 0.9),
        Seen(1500 * MS, 'fa', 'sadness', 0.3),
        Seen(1500 * MS, 'fb', 'sadness', 0.9),
        Seen(1500 * MS, '', '', 0.0),
    ],
)
def test_whatever_comes_between_begins_anew(interruption: Seen) -> None:
    shown = sad_for(2.0)
    see(shown, 'sadness', 0, 1.5)
    shown.see(interruption)
    end_ns = see(shown, 'sadness', 1600 * MS, 2.0)
    assert not shown.at(end_ns).holds
    see(shown, 'sadness', end_ns, 0.1)
    assert shown.at(end_ns).holds


def test_a_pause_of_the_messages_begins_anew() -> None:
    shown = sad_for(2.0)
    end_ns = see(shown, 'sadness', 0, 2.1)
    assert shown.at(end_ns).holds
    see(shown, 'sadness', end_ns + S, 0.1)
    assert shown.at(end_ns + S) == (False, 'sadness (0.90) for 0.0 s of 2.0 s')


def test_what_is_too_old_holds_no_more() -> None:
    shown = sad_for(0)
    shown.see(Seen(5 * S, 'fa', 'sadness', 0.9))
    assert shown.at(6 * S).holds
    assert shown.at(6 * S + 100 * MS) == (False, 'no emotion for 1.1 s')


def test_a_clock_that_is_set_back_proves_nothing() -> None:
    shown = sad_for(2.0)
    see(shown, 'sadness', 100 * S, 3.0)
    assert shown.at(2 * S) == (False, 'the clock was set back')
    end_ns = see(shown, 'sadness', 0, 2.0)
    assert not shown.at(end_ns).holds
    see(shown, 'sadness', end_ns, 0.1)
    assert shown.at(end_ns).holds


def test_any_of_several_labels_will_do_and_they_count_as_one() -> None:
    shown = Shown(('sadness', 'fear'), 0.5, 2 * S, S)
    end_ns = see(shown, 'fear', see(shown, 'sadness', 0, 1.0), 1.1)
    assert shown.at(end_ns).holds


def settling(for_s: float = 0.5, with_unknown: bool = False) -> Changes:
    return Changes(0.5, round(for_s * S), S, with_unknown)


def test_a_change_is_told_once() -> None:
    changes = settling()
    assert changes.why_none(0) == 'no emotion was heard of yet'
    end_ns = see(changes, 'neutral', 0, 1.0)
    assert changes.take(end_ns) is None
    assert changes.why_none(end_ns) == 'still neutral'
    end_ns = see(changes, 'happiness', end_ns, 0.5)
    assert changes.take(end_ns) is None
    end_ns = see(changes, 'happiness', end_ns, 0.5)
    change = changes.take(end_ns)
    assert change is not None and (change.before, change.after) == ('neutral', 'happiness')
    assert changes.take(end_ns) is None


def test_a_flicker_is_no_change() -> None:
    changes = settling()
    end_ns = see(changes, 'neutral', 0, 1.0)
    for _ in range(10):
        end_ns = see(changes, 'happiness', end_ns, 0.4)
        end_ns = see(changes, 'neutral', end_ns, 0.4)
        assert changes.take(end_ns) is None


@pytest.mark.parametrize(
    ('label', 'face_id', 'confidence'), [('unknown', 'fa', 0.9), ('anger', 'fa', 0.2), ('', '', 0)]
)
def test_what_says_nothing_is_no_label_unless_it_is_asked_for(
    label: str, face_id: str, confidence: float
) -> None:
    for with_unknown in (False, True):
        changes = settling(with_unknown=with_unknown)
        end_ns = see(changes, 'neutral', 0, 1.0)
        end_ns = see(changes, label, end_ns, 1.0, face_id, confidence)
        change = changes.take(end_ns)
        assert (change is not None) == with_unknown
        if change is not None:
            assert (change.before, change.after) == ('neutral', 'unknown' if face_id else '')
        end_ns = see(changes, 'neutral', end_ns, 1.0)
        assert (changes.take(end_ns) is not None) == with_unknown
        end_ns = see(changes, 'sadness', end_ns, 1.0)
        change = changes.take(end_ns)
        assert change is not None and (change.before, change.after) == ('neutral', 'sadness')


def test_another_person_begins_anew() -> None:
    changes = settling()
    end_ns = see(changes, 'neutral', 0, 1.0)
    end_ns = see(changes, 'happiness', end_ns, 1.0, 'fb')
    assert changes.take(end_ns) is None
    end_ns = see(changes, 'sadness', end_ns, 1.0, 'fb')
    change = changes.take(end_ns)
    assert change is not None and (change.before, change.after) == ('happiness', 'sadness')


def test_a_change_that_nobody_asked_for_in_time_is_old_news() -> None:
    changes = settling()
    end_ns = see(changes, 'happiness', see(changes, 'neutral', 0, 1.0), 0.6)
    assert changes.take(end_ns + 2 * S) is None
    assert changes.take(end_ns) is None


def test_of_several_changes_between_two_questions_the_last_counts() -> None:
    changes = settling()
    end_ns = see(changes, 'happiness', see(changes, 'neutral', 0, 1.0), 1.0)
    end_ns = see(changes, 'sadness', end_ns, 1.0)
    change = changes.take(end_ns)
    assert change is not None and (change.before, change.after) == ('happiness', 'sadness')
    assert changes.take(end_ns) is None


def test_the_newest_message_is_worth_something_while_it_is_young() -> None:
    newest = Newest(S)
    assert newest.at(0) is None
    assert not newest.see(Seen(S, 'fa', 'fear', 0.4))
    assert newest.see(Seen(2 * S, 'fa', 'fear', 0.4))
    assert newest.at(3 * S) is not None
    assert newest.at(3 * S + 1) is None and newest.at(2 * S - 1) is None
    assert not newest.see(Seen(3 * S + 1, 'fa', 'fear', 0.4))


def test_labels_that_no_message_can_carry_are_refused_and_the_known_ones_named() -> None:
    assert check_labels('calm') == ('calm',)
    assert check_labels(['sadness', 'fear']) == ('sadness', 'fear')
    for bad in ('', 'x' * 17, [], ['sadness', ''], [7]):
        with pytest.raises(ValueError, match=r'expected .*neutral, happiness, surprise, sadness'):
            check_labels(bad)  # type: ignore[arg-type]


def test_values_out_of_range_are_refused_by_name() -> None:
    assert check_share('min_confidence', 1) == 1
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=f'min_confidence is {bad}, expected 0 to 1'):
            check_share('min_confidence', bad)
    assert check_time_ns('for_s', 0, may_be_0=True) == 0
    assert check_time_ns('for_s', 0.25) == 250 * MS
    for bad in (-1, 0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r'max_age_s is .*, expected seconds, more than 0'):
            check_time_ns('max_age_s', bad)
