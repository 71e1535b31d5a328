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
"""The picture of a check of the link: rate, delay and operating point over time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ferros.chart import BLUE, GREEN, GREY, INK, ORANGE, Chart, Panel, Series, ticks
from ferros.link_burst import Limit
from ferros.link_outlook import Buys
from ferros.link_recording import State
from ferros.link_verdict import (
    CODECS,
    FRESH_MS,
    Findings,
    faces_text,
    rate_text,
    verdict,
)

SUFFIXES: Final = ('.png', '.jpg', '.webp')

_WIDTH_PX: Final = 1240
_HEIGHT_PX: Final = 860
_LEFT_PX: Final = 78
_PANEL_PX: Final = 690
_RIGHT_PX: Final = 850
_RIGHT_PANEL_PX: Final = 350
# A label needs this much room of a panel.
_LABEL_SHARE: Final = 0.22


def write(path: Path, found: Findings) -> None:
    """
    Draw what was found and write it as a PNG, or what else the file's name asks for.

    Raises:
        OSError: it cannot be written.

    """
    chart = Chart(_WIDTH_PX, _HEIGHT_PX)
    check = found.check
    chart.text(f'The link to {check.reached.address}', _LEFT_PX, 38, 19)
    chart.text(
        f'{faces_text(check.faces)} sent for {check.trial.totals.seconds:.0f} s,'
        f' as the robot would; {check.reached.welcome.model}',
        _LEFT_PX, 60, 12, GREY,
    )
    _draw_rate(chart, found)
    _draw_delay(chart, found)
    _draw_points(chart, found)
    _draw_outlook(chart, found)
    _draw_verdict(chart, found)
    chart.write(path)


def _draw_rate(chart: Chart, found: Findings) -> None:
    states = found.check.trial.recording.states
    counted = [state.rate_bytes_per_s / 125 for state in states]
    used = [state.acknowledged_bytes_per_s / 125 for state in states]
    highest = max(_highest(counted), _highest(used), 1.0)
    capacity = found.check.capacity
    burst = math.nan if capacity is None else capacity.rate_bytes_per_s / 125
    # A link that is far faster than what is used would leave nothing to see of that.
    shown = burst < 2.5 * highest
    top = 1.12 * max(highest, burst) if shown else 1.12 * highest
    panel = _timed(chart, found, (110, 190), top, 'rate, kbit/s')
    times_s = _times_s(found, [state.now_ns for state in states])
    panel.steps(Series('', times_s, used, ORANGE))
    panel.steps(Series('', times_s, counted, BLUE), 2.4)
    names = [('counted on', BLUE), ('used', ORANGE)]
    if capacity is not None:
        least = '' if capacity.limit is Limit.LINK else 'at least '
        beyond = '' if shown else ' (above)'
        rate = rate_text(capacity.rate_bytes_per_s)
        names.append((f'burst: {least}{rate}{beyond}', GREEN))
        if shown:
            panel.across(burst, GREEN)
    panel.legend(names)


def _draw_delay(chart: Chart, found: Findings) -> None:
    recording = found.check.trial.recording
    answered = [frame for frame in recording.frames if frame.status == 'ok']
    ages_ms = [frame.age_ms for frame in answered]
    # One late answer must not flatten all the others.
    usual_ms = found.summary.age_ms.p95
    top = 1.15 * max(min(_highest(ages_ms), 3 * usual_ms), 20.0)
    panel = _timed(chart, found, (368, 160), top, 'delay, ms')
    times_s = _times_s(found, [frame.answered_ns for frame in answered])
    panel.dots(Series('', times_s, ages_ms, ORANGE), 1.7)
    panel.dots(Series('', times_s, [frame.round_trip_ms for frame in answered], BLUE), 1.7)
    states = recording.states
    panel.steps(
        Series(
            '', _times_s(found, [state.now_ns for state in states]),
            [state.queue_ms for state in states], GREEN,
        ),
        1.4,
    )
    if top > FRESH_MS:
        panel.across(FRESH_MS, GREY)
    panel.legend([('round trip', BLUE), ('age of the answer', ORANGE), ('queue', GREEN)])


def _draw_points(chart: Chart, found: Findings) -> None:
    states = [state for state in found.check.trial.recording.states if state.points]
    primary = [state.points[0].accuracy for state in states]
    mean = [state.accuracy for state in states]
    best = found.outlook.face_best_accuracy
    values = [*primary, *mean, best]
    low = max(0.0, math.floor(20 * min(values) - 0.6) / 20)
    high = min(1.0, math.ceil(20 * max(values) + 0.6) / 20)
    panel = _timed(
        chart, found, (596, 190), high, 'expected accuracy', low,
        'time since the connection, s',
    )
    panel.across(best, GREY)
    names = [('the best there is', GREY), ('primary face', BLUE)]
    times_s = _times_s(found, [state.now_ns for state in states])
    if found.check.faces > 1:
        panel.steps(Series('', times_s, mean, ORANGE))
        names.append(('mean of all', ORANGE))
    panel.steps(Series('', times_s, primary, BLUE), 2.4)
    panel.legend(names)
    _name_points(panel, times_s, states, found.check.trial.totals.seconds)


def _name_points(
    panel: Panel, times_s: Sequence[float], states: Sequence[State], seconds: float
) -> None:
    """Write what was sent of the primary face under each stretch that has room for it."""
    bottom = panel.top + panel.height
    for number, (begin, end) in enumerate(_stretches(states)):
        until_s = times_s[end] if end < len(times_s) else seconds
        left, right = panel.x(times_s[begin]), panel.x(until_s)
        if number % 2:
            panel.chart.tint(left, panel.top, right, bottom, BLUE)
        if right - left < _LABEL_SHARE * panel.width:
            continue
        points = [state.points[0] for state in states[begin:end]]
        fps = sum(point.frame_rate_fps for point in points) / len(points)
        codec = CODECS.get(points[0].codec, points[0].codec)
        middle = (left + right) / 2
        panel.chart.text(f'{points[0].face_size_px} px, {fps:.3g} fps', middle, bottom - 26, 12,
                         INK, 0.5)
        panel.chart.text(f'{codec} {points[0].quality}', middle, bottom - 10, 12, GREY, 0.5)


def _stretches(states: Sequence[State]) -> Iterator[tuple[int, int]]:
    """Yield from where to where the primary face was coded in the same way."""
    begin = 0
    for _, group in itertools.groupby(
        states, lambda s: (s.points[0].face_size_px, s.points[0].codec, s.points[0].quality)
    ):
        end = begin + len(list(group))
        yield begin, end
        begin = end


def _draw_outlook(chart: Chart, found: Findings) -> None:
    curve = found.outlook.curve
    rates = [buys.rate_bytes_per_s / 125 for buys in curve]
    accuracies = [buys.accuracy for buys in curve]
    low = max(0.0, math.floor(10 * min(accuracies)) / 10)
    high = min(1.0, math.ceil(20 * max(accuracies) + 0.4) / 20)
    panel = Panel(
        chart, (_RIGHT_PX, 110, _RIGHT_PANEL_PX, 250), (rates[0], rates[-1]), (low, high),
        log_x=True,
    )
    names = [(10, '10k'), (30, '30k'), (100, '100k'), (300, '300k'), (1e3, '1M'), (3e3, '3M')]
    panel.axes(f'what a rate buys {faces_text(found.check.faces)}', 'rate, bit/s', names)
    chart.text('expected accuracy', _RIGHT_PX + 8, 124, 11, GREY)
    panel.curve(Series('', rates, accuracies, BLUE), 2.2)
    here = found.rate_bytes_per_s / 125
    panel.upright(here, GREEN)
    chart.dot(panel.x(here), panel.y(_accuracy_at(curve, here)), 4, GREEN)
    name = f'{rate_text(found.rate_bytes_per_s)}{" or more" if found.is_at_least else ""}'
    align = 1.0 if panel.x(here) > panel.left + 0.5 * panel.width else 0.0
    chart.text(name, panel.x(here) + (7 if align == 0 else -7), panel.top + panel.height - 12, 12,
               GREEN, align)


def _accuracy_at(curve: Sequence[Buys], kbit_per_s: float) -> float:
    rate = kbit_per_s * 125
    return min(curve, key=lambda b: abs(math.log(b.rate_bytes_per_s / rate))).accuracy


def _draw_verdict(chart: Chart, found: Findings) -> None:
    y = 440.0
    for sentence in verdict(found):
        for line in _lines(sentence, chart, _RIGHT_PANEL_PX):
            chart.text(line, _RIGHT_PX, y, 12.5)
            y += 19
        y += 9


def _lines(sentence: str, chart: Chart, width_px: float) -> Iterator[str]:
    line = ''
    for word in sentence.split():
        longer = f'{line} {word}'.strip()
        if line and chart.text_width(longer, 12.5) > width_px:
            yield line
            longer = word
        line = longer
    yield line


def _timed(
    chart: Chart,
    found: Findings,
    place: tuple[float, float],
    top_value: float,
    title: str,
    low_value: float = 0.0,
    x_title: str = '',
) -> Panel:
    """Return a panel over the time of the trial; place is its top and height."""
    seconds = max(found.check.trial.totals.seconds, 0.1)
    panel = Panel(
        chart, (_LEFT_PX, place[0], _PANEL_PX, place[1]), (0, seconds), (low_value, top_value)
    )
    marks = [(value, f'{value:g}') for value in ticks(0, seconds, 8)]
    panel.axes(title, x_title, marks)
    return panel


def _times_s(found: Findings, times_ns: Sequence[int]) -> list[float]:
    began_ns = found.check.trial.recording.began_ns
    return [(time_ns - began_ns) / 1e9 for time_ns in times_ns]


def _highest(values: Sequence[float]) -> float:
    return max((value for value in values if math.isfinite(value)), default=0.0)
