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
"""What bag_check says: a table of the expectations, and a time line as text; pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from ferros.bag_expectation import Heard, Verdict
from ferros.text_plot import row

_WIDTHS: Final = (12, 60)


class Round(NamedTuple):
    """What came of playing the bag once."""

    heard: Sequence[Heard]
    verdicts: Sequence[Verdict]
    # Of two messages in a row, how often the second was not about a newer image.
    not_increasing: int
    images: int

    @property
    def passed(self) -> bool:
        """Tell whether all was as expected."""
        return not self.not_increasing and all(verdict.passed for verdict in self.verdicts)


def table(verdicts: Sequence[Verdict]) -> str:
    """Return a line for each expectation: its window, what was expected, what was heard."""
    head = ('', 'from', 'to', 'expected', 'heard')
    rows = [head, *(_row(verdict) for verdict in verdicts)]
    widths = [max(len(line[column]) for line in rows) for column in range(len(head))]
    return '\n'.join(
        '  '.join(
            cell.rjust(width) if column in (1, 2) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in rows
    )


def timeline(heard: Sequence[Heard], duration_s: float, ascii_only: bool = False) -> str:
    """
    Return a row for each label: how large its share of the messages was over the bag's time.

    A blank is a time without a message, the lowest mark a share of none.
    """
    kinds = Counter(item.kind for item in heard)
    if not kinds:
        return '(no message)'
    span_s = max(duration_s, max(item.at_s for item in heard), 1e-3)
    # Two messages for each column, or a steady rate would leave holes.
    columns = min(max(len(heard) // 2, _WIDTHS[0]), _WIDTHS[1])
    bins: list[Counter[str]] = [Counter() for _ in range(columns)]
    for item in heard:
        bins[min(max(int(item.at_s / span_s * columns), 0), columns - 1)][item.kind] += 1
    name_width = max(len(kind) for kind in kinds)
    lines = [f'{"":{name_width}}  0{f"{span_s:.1f} s":>{columns - 1}}']
    for kind, _ in kinds.most_common():
        shares = [one[kind] / one.total() if one else math.nan for one in bins]
        lines.append(f'{kind:{name_width}}  {row(shares, columns, 1.0, ascii_only)}'.rstrip())
    return '\n'.join(lines)


def as_json(
    rounds: Sequence[Round], drops: Mapping[str, int], **about: object
) -> dict[str, Any]:
    """Return everything as what json.dumps takes."""
    return {
        **about,
        'passed': all(one.passed for one in rounds),
        'drops': dict(drops),
        'rounds': [
            {
                'passed': one.passed,
                'images': one.images,
                'messages': len(one.heard),
                'not_increasing': one.not_increasing,
                'kinds': dict(Counter(item.kind for item in one.heard)),
                'face_ids': sorted({item.face_id for item in one.heard if item.face_id}),
                'expectations': [_as_json(verdict) for verdict in one.verdicts],
            }
            for one in rounds
        ],
    }


def _row(verdict: Verdict) -> tuple[str, str, str, str, str]:
    expectation = verdict.expectation
    return (
        'ok' if verdict.passed else 'FAILED',
        f'{expectation.from_s:.2f}',
        f'{expectation.to_s:.2f}',
        str(expectation),
        _heard(verdict),
    )


def _heard(verdict: Verdict) -> str:
    if not verdict.messages:
        return verdict.failure
    kinds = ', '.join(f'{kind} {count}' for kind, count in verdict.kinds.most_common())
    text = f'{verdict.fitting} of {verdict.messages} ({100 * verdict.share:.0f} %): {kinds}'
    # What a failure says beyond the numbers.
    reason = verdict.failure.partition('; ')[2]
    return f'{text}; {reason}' if reason else text


def _as_json(verdict: Verdict) -> dict[str, Any]:
    expectation = verdict.expectation
    return {
        'from_s': expectation.from_s,
        'to_s': expectation.to_s,
        'expected': str(expectation),
        'passed': verdict.passed,
        'fitting': verdict.fitting,
        'messages': verdict.messages,
        'kinds': dict(verdict.kinds),
        'failure': verdict.failure,
    }
