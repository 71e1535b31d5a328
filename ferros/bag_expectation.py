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
"""
What a bag is expected to show, and whether what the node said of it fulfils that; pure.

An expectation file is a list. Times are seconds of the bag, counted from its first image:

    - {from_s: 0.5, to_s: 2.5, label: happiness, min_share: 0.7}
    - {from_s: 7.6, to_s: 8.7, face: false}
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

# What an expectation holds for if it does not say for how large a share of the messages.
MIN_SHARE: Final = 0.6
# How a message without a face is counted; no label can be called that.
NO_FACE: Final = 'no face'
SOURCES: Final = ('none', 'cloud', 'robot')
_WINDOW: Final = {'from_s', 'to_s'}
_ASKED: Final = {'label', 'labels', 'face', 'source', 'min_confidence'}
_KNOWN: Final = _WINDOW | _ASKED | {'min_share'}


class ExpectationError(ValueError):
    """An expectation file cannot be used; one line that says where and why."""


class Heard(NamedTuple):
    """One message of the node."""

    # Of the image that it is about, since the bag's first image.
    at_s: float
    face: bool
    label: str
    # 0 to 1.
    confidence: float
    # One of SOURCES.
    source: str
    face_id: str = ''
    # The labels that the model knows; empty where no model answered.
    labels: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Return the label, or NO_FACE."""
        return self.label if self.face else NO_FACE


@dataclass(frozen=True)
class Expectation:
    """What the messages about the images of a window have to say."""

    # Seconds of the bag, the first included, the last not.
    from_s: float
    to_s: float
    # One of these; empty: any.
    labels: tuple[str, ...] = ()
    # Whether a face is to be there; None: either.
    face: bool | None = None
    # One of SOURCES; empty: any.
    source: str = ''
    # 0 to 1.
    min_confidence: float = 0.0
    # The share of the window's messages of which all of that has to be true, above 0, at most 1.
    min_share: float = MIN_SHARE

    def __str__(self) -> str:
        """Return what is expected, without its window."""
        parts = [' or '.join(self.labels)] if self.labels else []
        if self.face is not None and not (self.face and self.labels):
            parts.append('a face' if self.face else NO_FACE)
        if self.min_confidence:
            parts.append(f'sure by {self.min_confidence:g}')
        if self.source:
            parts.append(f'from {self.source}')
        return f'{", ".join(parts)} in {100 * self.min_share:g} %'

    def fits(self, heard: Heard) -> bool:
        """Tell whether a message says what is expected."""
        return (
            (not self.labels or (heard.face and heard.label in self.labels))
            and (self.face is None or heard.face == self.face)
            and (not self.source or heard.source == self.source)
            and heard.confidence >= self.min_confidence
        )


class Verdict(NamedTuple):
    """What was heard of one expectation."""

    expectation: Expectation
    # Messages that fit, of all in the window.
    fitting: int
    messages: int
    # All messages of the window by label or NO_FACE.
    kinds: Counter[str]
    # Why it is not fulfilled; empty where it is.
    failure: str

    @property
    def passed(self) -> bool:
        """Tell whether the expectation is fulfilled."""
        return not self.failure

    @property
    def share(self) -> float:
        """Return the share of the messages that fit, 0 to 1; NaN without messages."""
        return self.fitting / self.messages if self.messages else math.nan


def parse(document: object, duration_s: float) -> list[Expectation]:
    """
    Return the expectations in what a YAML file held.

    duration_s: from the bag's first image to its last; no window may begin later.

    Raises:
        ExpectationError: naming the entry, what is wrong with it, and what was expected.

    """
    if not isinstance(document, list) or not document:
        raise ExpectationError('expected a list of expectations, each with from_s and to_s')
    found = [_entry(item, f'entry {index}') for index, item in enumerate(document, 1)]
    for index, expectation in enumerate(found, 1):
        if expectation.from_s > duration_s:
            raise ExpectationError(
                f'entry {index}: from_s is {expectation.from_s:g}, but the bag has images for '
                f'{duration_s:.2f} s'
            )
    return found


def judge(expectations: Sequence[Expectation], heard: Sequence[Heard]) -> list[Verdict]:
    """Return for each expectation whether the messages heard in its window fulfil it."""
    known = {label for message in heard for label in message.labels}
    return [_verdict(expectation, heard, known) for expectation in expectations]


def _verdict(expectation: Expectation, heard: Sequence[Heard], known: set[str]) -> Verdict:
    inside = [item for item in heard if expectation.from_s <= item.at_s < expectation.to_s]
    fitting = sum(expectation.fits(item) for item in inside)
    kinds = Counter(item.kind for item in inside)
    failure = ''
    if not inside:
        failure = 'no message about an image of this window'
    elif fitting < expectation.min_share * len(inside):
        failure = f'{fitting} of {len(inside)}'
        strange = sorted(set(expectation.labels) - known - {'unknown'})
        if known and strange:
            failure += f'; no model knows {", ".join(strange)}'
    return Verdict(expectation, fitting, len(inside), kinds, failure)


def _entry(item: object, place: str) -> Expectation:
    if not isinstance(item, Mapping):
        raise ExpectationError(f'{place} is {item!r}, expected from_s, to_s and what is expected')
    unknown = sorted(str(key) for key in item if key not in _KNOWN)
    if unknown:
        raise ExpectationError(
            f'{place}: {", ".join(unknown)} is nothing that can be expected; there are '
            f'{", ".join(sorted(_KNOWN))}'
        )
    for name in sorted(_WINDOW):
        if name not in item:
            raise ExpectationError(f'{place}: {name} is missing')
    if not _ASKED & set(item):
        raise ExpectationError(
            f'{place}: nothing is expected; there are {", ".join(sorted(_ASKED))}'
        )
    found = Expectation(
        from_s=_number(item, 'from_s', place, 0, math.inf),
        to_s=_number(item, 'to_s', place, 0, math.inf),
        labels=_labels(item, place),
        face=_face(item, place),
        source=_source(item, place),
        min_confidence=_number(item, 'min_confidence', place, 0, 1, 0.0),
        min_share=_number(item, 'min_share', place, 0, 1, MIN_SHARE),
    )
    _check(found, place)
    return found


def _check(found: Expectation, place: str) -> None:
    if found.to_s <= found.from_s:
        raise ExpectationError(
            f'{place}: to_s is {found.to_s:g}, expected more than from_s, {found.from_s:g}'
        )
    if found.min_share == 0:
        raise ExpectationError(f'{place}: min_share is 0, expected more: it would always hold')
    if found.face is False and (found.labels or found.min_confidence):
        raise ExpectationError(
            f'{place}: face is false, expected no label and no min_confidence beside it'
        )


def _number(
    item: Mapping[Any, Any],
    name: str,
    place: str,
    lowest: float,
    highest: float,
    default: float = math.nan,
) -> float:
    value = item.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpectationError(f'{place}: {name} is {value!r}, expected a number')
    # Written so that NaN is refused too; infinite times are no times.
    if not lowest <= value <= highest or math.isinf(value):
        expected = '0 or more' if math.isinf(highest) else f'{lowest:g} to {highest:g}'
        raise ExpectationError(f'{place}: {name} is {value:g}, expected {expected}')
    return float(value)


def _labels(item: Mapping[Any, Any], place: str) -> tuple[str, ...]:
    if 'label' in item and 'labels' in item:
        raise ExpectationError(f'{place}: expected one of label and labels, not both')
    if 'label' in item:
        labels: object = [item['label']]
    elif 'labels' in item:
        labels = item['labels']
    else:
        return ()
    if (
        not isinstance(labels, list)
        or not labels
        or not all(isinstance(label, str) and label for label in labels)
    ):
        name = 'label' if 'label' in item else 'labels'
        expected = 'a label' if name == 'label' else 'a list of labels'
        raise ExpectationError(f'{place}: {name} is {item[name]!r}, expected {expected}')
    return tuple(labels)


def _face(item: Mapping[Any, Any], place: str) -> bool | None:
    face = item.get('face')
    if 'face' in item and not isinstance(face, bool):
        raise ExpectationError(f'{place}: face is {face!r}, expected true or false')
    return face


def _source(item: Mapping[Any, Any], place: str) -> str:
    source = item.get('source', '')
    if 'source' in item and source not in SOURCES:
        raise ExpectationError(
            f'{place}: source is {source!r}, expected one of {", ".join(SOURCES)}'
        )
    return str(source)
