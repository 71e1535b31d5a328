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
The schedules of links: a constant rate, recorded delivery opportunities, recorded rates.

What a schedule can tell (capacity between two times, the delivery of a packet, gaps) is in
capacity.py, whose names are here too.
"""

from __future__ import annotations

import math
from itertools import accumulate, chain, pairwise
from pathlib import Path
from statistics import median

from bench.link.capacity import (
    NS_PER_MS,
    NS_PER_S,
    OUTAGE_NS,
    Delivery,
    Interval,
    Looped,
    Schedule,
    ScheduleError,
)

__all__ = [
    'NS_PER_MS', 'NS_PER_S', 'OPPORTUNITY_BYTES', 'OUTAGE_NS', 'Delivery', 'Interval', 'Looped',
    'Schedule', 'ScheduleError', 'constant', 'read_mahimahi', 'read_rates',
    'read_trace',
]

OPPORTUNITY_BYTES = 1500  # What one line of a mahimahi trace delivers at most.


def constant(rate_bit_per_s: float) -> Looped:
    """
    Return a link that serialises at one rate, smoothly.

    Raises:
        ScheduleError: the rate is not a positive number.
    """
    _check_positive(rate_bit_per_s, 'the rate', ' bit/s')
    return Looped((0, NS_PER_S), (0.0, rate_bit_per_s / 8))


def read_trace(
    path: Path,
    start_s: float = 0.0,
    scale: float = 1.0,
    mean_bit_per_s: float | None = None,
    mean_over_s: float | None = None,
) -> Looped:
    """Read a trace of either kind: one column is read_mahimahi's, more are read_rates'."""
    _, line = _lines(path)[0]
    read = read_mahimahi if len(line.split()) == 1 else read_rates
    return read(path, start_s, scale, mean_bit_per_s, mean_over_s)


def read_mahimahi(
    path: Path,
    start_s: float = 0.0,
    scale: float = 1.0,
    mean_bit_per_s: float | None = None,
    mean_over_s: float | None = None,
) -> Looped:
    """
    Read a trace of delivery opportunities in the format of mahimahi's mm-link.

    One integer per line, the ms since the start, never falling: at each the link delivers up to
    1500 bytes. Equal lines add up, the last line is the length of the loop, and an opportunity
    with nothing waiting is lost. Source: Netravali et al., Mahimahi, USENIX ATC 2015.

    A trace is scaled in the bytes of each opportunity, and its times are left alone: gaps,
    fades and bursts, which are what makes a recorded link hard, stay where and as long as they
    were. Dropping lines would add gaps, stretching the time would lengthen them.

    Args:
        path: the trace.
        start_s: the place in the trace that is time 0.
        scale: bytes of an opportunity over 1500.
        mean_bit_per_s: scales to this mean instead.
        mean_over_s: the mean is taken over so long from start_s on; None: over the whole trace.

    Raises:
        ScheduleError: the file cannot be read or is no such trace, or a figure is out of range.
    """
    lines = _lines(path)
    times_ms = [_opportunity_ms(path, number, line) for number, line in lines]
    for (number, _), (before, after) in zip(lines[1:], pairwise(times_ms), strict=True):
        if after < before:
            raise ScheduleError(f'{path}, line {number}: {after} after {before}: times must rise')
    period_ms = times_ms[-1]
    if period_ms == 0:
        raise ScheduleError(f'{path}: all opportunities are at 0 ms; expected a trace of some ms')
    steps = [float(OPPORTUNITY_BYTES) * count for count in range(len(times_ms) + 1)]
    corners_ns = [time_ms * NS_PER_MS for time_ms in times_ms for _ in range(2)]
    unscaled = Looped(
        [0, *corners_ns], [0.0, *chain.from_iterable(pairwise(steps))],
        _start_ns(path, start_s, period_ms * NS_PER_MS),
    )
    return _scaled(unscaled, scale, mean_bit_per_s, mean_over_s)


def read_rates(
    path: Path,
    start_s: float = 0.0,
    scale: float = 1.0,
    mean_bit_per_s: float | None = None,
    mean_over_s: float | None = None,
) -> Looped:
    """
    Read a trace of rates: a time in s and a rate in Mbit/s per line, parted by a tab or spaces.

    A rate holds until the next line; the last one as long as half of the others do at least
    (their median). Times count from the first line. Arguments and errors as of read_mahimahi.
    """
    lines = _lines(path)
    rows = [_rate_row(path, number, line) for number, line in lines]
    lengths_s = [after[0] - before[0] for before, after in pairwise(rows)]
    for (number, _), length_s in zip(lines[1:], lengths_s, strict=True):
        if length_s <= 0:
            raise ScheduleError(f'{path}, line {number}: not later than the line before')
    if not lengths_s:
        raise ScheduleError(f'{path}: one line only; expected two or more')
    lengths_ns = [round(s * NS_PER_S) for s in (*lengths_s, median(lengths_s))]
    amounts = [
        rate * 1e6 / 8 * length_ns / NS_PER_S
        for (_, rate), length_ns in zip(rows, lengths_ns, strict=True)
    ]
    if not any(amounts):
        raise ScheduleError(f'{path}: all rates are 0; expected one above')
    unscaled = Looped(
        [0, *accumulate(lengths_ns)], [0.0, *accumulate(amounts)],
        _start_ns(path, start_s, sum(lengths_ns)),
    )
    return _scaled(unscaled, scale, mean_bit_per_s, mean_over_s)


def _scaled(
    schedule: Looped, scale: float, mean_bit_per_s: float | None, mean_over_s: float | None
) -> Looped:
    _check_positive(scale, 'the scale', '')
    if mean_bit_per_s is not None:
        if scale != 1.0:
            raise ScheduleError(
                f'scale {scale} and mean_bit_per_s {mean_bit_per_s}: expected one of the two'
            )
        _check_positive(mean_bit_per_s, 'the mean rate', ' bit/s')
        scale = mean_bit_per_s / _mean_bit_per_s(schedule, mean_over_s)
    return schedule.scaled(scale)


def _mean_bit_per_s(schedule: Looped, over_s: float | None) -> float:
    if over_s is not None:
        _check_positive(over_s, 'the time of the mean', ' s')
    over_ns = schedule.period_ns if over_s is None else round(over_s * NS_PER_S)
    mean = schedule.capacity_bytes(0, over_ns) * 8 * NS_PER_S / over_ns
    if mean <= 0:
        raise ScheduleError(f'the trace has no capacity in {over_s} s: no scale gives it a mean')
    return mean


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a trace that are not blank, with their numbers."""
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as err:
        raise ScheduleError(f'{path}: not readable as a trace: {err}') from err
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise ScheduleError(f'{path}: no line in it; expected a trace')
    return lines


def _opportunity_ms(path: Path, number: int, line: str) -> int:
    text = line.strip()
    if not (text.isascii() and text.isdigit()):
        raise ScheduleError(
            f'{path}, line {number}: {text!r}; expected one integer, ms, from 0 on'
        )
    return int(text)


def _rate_row(path: Path, number: int, line: str) -> tuple[float, float]:
    try:
        time_s, rate_mbit_per_s = map(float, line.split())
    except ValueError as err:
        raise ScheduleError(
            f'{path}, line {number}: {line.strip()!r}; expected two numbers, s and Mbit/s'
        ) from err
    if not (math.isfinite(time_s) and math.isfinite(rate_mbit_per_s) and rate_mbit_per_s >= 0):
        raise ScheduleError(
            f'{path}, line {number}: {line.strip()!r}; expected a rate of 0 or more, both finite'
        )
    return time_s, rate_mbit_per_s


def _start_ns(path: Path, start_s: float, period_ns: int) -> int:
    if not 0 <= start_s * NS_PER_S < period_ns:
        raise ScheduleError(
            f'{path}: start_s {start_s}; expected 0 to less than its {period_ns / NS_PER_S} s'
        )
    return round(start_s * NS_PER_S)


def _check_positive(number: float, name: str, unit: str) -> None:
    if not (math.isfinite(number) and number > 0):
        raise ScheduleError(f'{name}: {number}{unit}; expected a finite number above 0')
