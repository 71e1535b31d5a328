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
"""Small plots out of characters, for a terminal; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

_HEIGHTS: Final = '▁▂▃▄▅▆▇█'
_ASCII_HEIGHTS: Final = '_.-=+*%#'
_BAR: Final = '█'
_ASCII_BAR: Final = '#'


def row(values: Sequence[float], width: int, top: float, ascii_only: bool = False) -> str:
    """
    Return the values as a row of at most width characters, each as high as the largest in it.

    top is the value of the highest character; NaN becomes a blank.
    """
    heights = _ASCII_HEIGHTS if ascii_only else _HEIGHTS
    return ''.join(_height(value, top, heights) for value in _squeezed(values, width))


def bar(value: float, top: float, width: int, ascii_only: bool = False) -> str:
    """Return a bar as long as value, where top would have width characters."""
    share = min(max(value / top, 0.0), 1.0) if top > 0 and math.isfinite(value) else 0.0
    return (_ASCII_BAR if ascii_only else _BAR) * round(share * width)


def can_show(encoding: str | None) -> bool:
    """Tell whether a stream of that encoding can show more than ASCII."""
    try:
        (_HEIGHTS + _BAR).encode(encoding or 'ascii')
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _squeezed(values: Sequence[float], width: int) -> list[float]:
    """Return the largest known value of each of width stretches of equal length."""
    count = min(width, len(values))
    stretches = (
        values[index * len(values) // count : (index + 1) * len(values) // count]
        for index in range(count)
    )
    return [
        max((value for value in stretch if math.isfinite(value)), default=math.nan)
        for stretch in stretches
    ]


def _height(value: float, top: float, heights: str) -> str:
    if not math.isfinite(value):
        return ' '
    share = value / top if top > 0 else 0.0
    return heights[min(max(int(share * len(heights)), 0), len(heights) - 1)]
