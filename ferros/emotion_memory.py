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
"""What a robot may conclude from the emotions it has heard of, and for how long; pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from ferros.types import UNKNOWN

# The constants of ferros_msgs/Emotion; a model may know more.
KNOWN_LABELS = (
    'neutral', 'happiness', 'surprise', 'sadness', 'anger', 'disgust', 'fear', 'contempt', UNKNOWN,
)
# As long as the message's field.
LONGEST_LABEL = 16


class Seen(NamedTuple):
    """What one message said of the primary face."""

    # On the clock of whoever asks.
    arrived_ns: int
    # Empty: there was no face.
    face_id: str
    label: str
    # Of the top class, 0..1.
    confidence: float


class Verdict(NamedTuple):
    """An answer and the reason for it."""

    holds: bool
    why: str


class Change(NamedTuple):
    """One settled label followed another."""

    at_ns: int
    before: str
    after: str


def check_labels(labels: str | Iterable[str]) -> tuple[str, ...]:
    """
    Return the labels as a tuple.

    Raises ValueError where there is none, or one that no message can carry.
    """
    names = (labels,) if isinstance(labels, str) else tuple(labels)
    known = f'one or several of {", ".join(KNOWN_LABELS)}, or what the model knows besides'
    if not names:
        raise ValueError(f'label is {labels!r}, expected {known}')
    for name in names:
        if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_LABEL:
            raise ValueError(
                f'label is {name!r}, expected 1 to {LONGEST_LABEL} characters: {known}'
            )
    return names


def check_share(name: str, value: float) -> float:
    """Return a value from 0 to 1; raise ValueError for any other."""
    if not 0 <= value <= 1:
        raise ValueError(f'{name} is {value!r}, expected 0 to 1')
    return value


def check_time_ns(name: str, value_s: float, may_be_0: bool = False) -> int:
    """Return a time in ns; raise ValueError for one that is negative, or no time at all."""
    if not (math.isfinite(value_s) and (value_s > 0 or (may_be_0 and value_s == 0))):
        expected = 'seconds, 0 or more' if may_be_0 else 'seconds, more than 0'
        raise ValueError(f'{name} is {value_s!r}, expected {expected}')
    return round(value_s * 1e9)


class Newest:
    """
    The newest message, for as long as it is worth anything.

    One that is older than max_age_ns, or younger than now (the clock was set back), is worth
    nothing. All times in ns, on one clock.
    """

    def __init__(self, max_age_ns: int) -> None:
        self.max_age_ns = max_age_ns
        self._seen: Seen | None = None

    def see(self, seen: Seen) -> bool:
        """Note a message; return whether it follows the last one without a break."""
        last, self._seen = self._seen, seen
        return last is not None and 0 <= seen.arrived_ns - last.arrived_ns <= self.max_age_ns

    def at(self, now_ns: int) -> Seen | None:
        """Return the newest message; None: there is none, or it is too old."""
        if self._seen is None or not 0 <= now_ns - self._seen.arrived_ns <= self.max_age_ns:
            return None
        return self._seen

    def why_none(self, now_ns: int) -> str:
        """Say why there is no message to go by."""
        if self._seen is None:
            return 'no emotion was heard of yet'
        if now_ns < self._seen.arrived_ns:
            return 'the clock was set back'
        return f'no emotion for {(now_ns - self._seen.arrived_ns) / 1e9:.1f} s'


class _Run:
    """For how long one thing has been seen in one face, without interruption."""

    def __init__(self) -> None:
        self.key: tuple[str, ...] | None = None
        self._since_ns = self._until_ns = 0

    def see(self, key: tuple[str, ...] | None, at_ns: int, follows: bool) -> None:
        """Note what was seen, None: not what is looked for; follows: there was no break."""
        if key is None or key != self.key or not follows:
            self.key, self._since_ns = key, at_ns
        self._until_ns = at_ns

    @property
    def length_ns(self) -> int:
        """Return the time from the first to the last message of the run."""
        return self._until_ns - self._since_ns if self.key is not None else 0


class Shown:
    """
    Tells whether the primary face has shown one of the labels for long enough.

    The time is that between messages, not up to now, so that it is proved. It counts for one
    face: another one begins anew. Several labels count as one: from sadness to anger is no
    interruption, if both are wanted.
    """

    def __init__(
        self, labels: tuple[str, ...], min_confidence: float, for_ns: int, max_age_ns: int
    ) -> None:
        self._labels = labels
        self._min_confidence = min_confidence
        self._for_ns = for_ns
        self._newest = Newest(max_age_ns)
        self._run = _Run()

    def see(self, seen: Seen) -> None:
        """Note a message."""
        matches = (
            bool(seen.face_id)
            and seen.label in self._labels
            and seen.confidence >= self._min_confidence
        )
        follows = self._newest.see(seen)
        self._run.see((seen.face_id,) if matches else None, seen.arrived_ns, follows)

    def at(self, now_ns: int) -> Verdict:
        """Tell whether it is so now."""
        seen = self._newest.at(now_ns)
        if seen is None:
            return Verdict(False, self._newest.why_none(now_ns))
        if not seen.face_id:
            return Verdict(False, 'no face is there')
        what = f'{seen.label} ({seen.confidence:.2f})'
        if self._run.key is None:
            return Verdict(False, what)
        held = f'{what} for {self._run.length_ns / 1e9:.1f} s'
        if self._run.length_ns < self._for_ns:
            return Verdict(False, f'{held} of {self._for_ns / 1e9:.1f} s')
        return Verdict(True, held)


class Changes:
    """
    Tells when the settled label of a face becomes another one.

    A label is settled when a face has shown it for for_ns. The first of a face is no change.
    Without with_unknown, `unknown`, a label less sure than min_confidence and the absence of a
    face say nothing: happiness, unknown, happiness is no change. With it they are a label like the
    others, the absence of a face being the empty one, which every face follows and is followed by.
    """

    def __init__(
        self, min_confidence: float, for_ns: int, max_age_ns: int, with_unknown: bool = False
    ) -> None:
        self._min_confidence = min_confidence
        self._for_ns = for_ns
        self._with_unknown = with_unknown
        self._newest = Newest(max_age_ns)
        self._run = _Run()
        self._settled: tuple[str, ...] | None = None
        self._change: Change | None = None

    def see(self, seen: Seen) -> None:
        """Note a message."""
        follows = self._newest.see(seen)
        is_sure = seen.confidence >= self._min_confidence and seen.label != UNKNOWN
        label = '' if not seen.face_id else seen.label if is_sure else UNKNOWN
        counts = self._with_unknown or label not in ('', UNKNOWN)
        self._run.see((seen.face_id, label) if counts else None, seen.arrived_ns, follows)
        if self._run.key is not None and self._run.length_ns >= self._for_ns:
            self._settle(self._run.key, seen.arrived_ns)

    def take(self, now_ns: int) -> Change | None:
        """
        Return the newest change, once; None: there is none.

        One that nobody took for max_age_ns is forgotten: it would be old news.
        """
        change, self._change = self._change, None
        if change is None or not 0 <= now_ns - change.at_ns <= self._newest.max_age_ns:
            return None
        return change

    def why_none(self, now_ns: int) -> str:
        """Say what there is instead of a change."""
        if self._newest.at(now_ns) is None:
            return self._newest.why_none(now_ns)
        return f'still {self._settled[1] or "nobody"}' if self._settled else 'nothing settled yet'

    def _settle(self, key: tuple[str, ...], at_ns: int) -> None:
        before, self._settled = self._settled, key
        if before is None or before[1] == key[1]:
            return
        # Another face: what it shows is no change of the first one's.
        if before[0] == key[0] or '' in (before[0], key[0]):
            self._change = Change(at_ns, before[1], key[1])
