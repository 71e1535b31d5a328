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
"""A check of the link as text with plots of characters, and as JSON; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ferros import text_plot
from ferros.link_burst import MOST_BYTES, Limit
from ferros.link_outlook import STEPS_PER_DOUBLING, Buys
from ferros.link_recording import Spread
from ferros.link_trial import Trial
from ferros.link_verdict import (
    CODECS,
    Check,
    Findings,
    Reached,
    faces_text,
    rate_text,
    verdict,
)

_PLOT_WIDTH: Final = 40
_DROPS: Final = {
    'superseded': 'a newer image took their place: the camera has more than are sent',
    'face_gone': 'the face was gone',
    'not_connected': 'there was no connection',
    'connection_lost': 'the connection was lost',
    'waited_too_long': 'the link had no room for them in time',
    'unanswered': 'they were never answered',
    'answer_stale': 'the answer came too late',
    'link_stopped': 'this check had ended',
    'server_dropped_stale': 'they waited too long in the server',
    'server_overloaded': 'the server was full',
    'server_limit_exceeded': 'over a limit of the server',
}
_LIMITS: Final = {
    Limit.LINK: 'the link was full',
    Limit.SERVER: 'the server, not the link, was the limit',
    Limit.WINDOW: 'gRPC keeps no more than 64 KB on the way, and no queue showed',
    Limit.BYTES: f'{MOST_BYTES / 1e6:g} MB were through before a queue showed',
    Limit.TIME: 'the time was over before a queue showed',
}


def connection_lines(reached: Reached) -> list[str]:
    """Return how the server was reached and what it said."""
    welcome = reached.welcome
    limits = welcome.limits
    encryption = 'encrypted (TLS)' if reached.is_encrypted else 'not encrypted'
    return [
        *_entry('server', f'{reached.address}, {encryption}'),
        *_entry(
            'reached',
            f'name in {reached.resolve_ms:.1f} ms, TCP in {reached.tcp_ms:.1f} ms,'
            f' Welcome in {reached.welcome_ms:.1f} ms',
        ),
        *_entry('model', f'{welcome.model}, input of {welcome.input_size_px} px'),
        *_entry('labels', ', '.join(welcome.labels)),
        *_entry('grid', reached.grid_note),
        *_entry(
            'limits',
            f'{limits.max_faces} faces, {limits.max_frame_rate_fps:g} frames/s,'
            f' {welcome.credits} unanswered',
        ),
    ]


def report_lines(found: Findings, ascii_only: bool = False) -> list[str]:
    """Return what was measured, its plots and the verdict."""
    check = found.check
    return [
        '',
        f'As ferros sends {faces_text(check.faces)}, {check.trial.totals.seconds:.1f} s'
        ' (drawn faces at 30 images/s):',
        *_trial_lines(found, ascii_only),
        '',
        'What the link carries:',
        *_capacity_lines(check),
        '',
        f'What a rate buys, {faces_text(check.faces)}:',
        *_rate_lines(found, ascii_only),
        '',
        *_wrapped(verdict(found)),
    ]


def _trial_lines(found: Findings, ascii_only: bool) -> Iterator[str]:
    summary, trial = found.summary, found.check.trial
    states = trial.recording.states
    rates = [state.rate_bytes_per_s for state in states]
    yield from _plotted(
        'rate', f'{rate_text(summary.rate_bytes_per_s)} counted on', rates, ascii_only
    )
    used = [state.acknowledged_bytes_per_s for state in states]
    yield from _plotted(
        'used', rate_text(trial.totals.sent_bytes / trial.totals.seconds), used, ascii_only,
        top=_largest(rates),
    )
    yield from _plotted(
        'round trip', _times_ms(summary.round_trip_ms),
        [frame.round_trip_ms for frame in trial.recording.frames], ascii_only,
    )
    yield from _plotted(
        'queue', _times_ms(summary.queue_ms), [state.queue_ms for state in states], ascii_only,
        top=max(_largest([state.queue_ms for state in states]), 20.0),
    )
    yield from _entry('server', _times_ms(summary.server_ms))
    yield from _entry('answer age', _times_ms(summary.age_ms))
    for point in summary.settled[:3]:
        yield from _entry(
            'point' if point is summary.settled[0] else '',
            f'{point.face_size_px} px, {point.frame_rate_fps:.3g} fps, '
            f'{CODECS.get(point.codec, point.codec)} quality {point.quality}: expected accuracy'
            f' {point.accuracy:.3f} ({100 * point.share:.0f} % of the second half)',
        )
    yield from _entry('data', _data(trial))
    yield from _entry(
        'messages', f'{summary.bytes_ratio:.2f} times as long as the grid says'
        ' (that of a photographed face: 1)'
    )
    for reason, count in sorted(trial.totals.drops.items()):
        words = _DROPS.get(reason)
        yield from _entry('dropped', f'{count} {reason}' + (f': {words}' if words else ''))


def _capacity_lines(check: Check) -> Iterator[str]:
    capacity = check.capacity
    if capacity is None:
        yield f'  {check.capacity_note}'
        return
    begin = '' if capacity.limit is Limit.LINK else 'at least '
    yield f'  {begin}{rate_text(capacity.rate_bytes_per_s)}: {_LIMITS[capacity.limit]}'
    yield (
        f'  ({capacity.messages} messages, {capacity.sent_bytes / 1000:.0f} kB in'
        f' {capacity.seconds:.1f} s)'
    )


def _rate_lines(found: Findings, ascii_only: bool) -> Iterator[str]:
    """Yield a bar for each doubling of the rate, up to the one from which more buys nothing."""
    outlook = found.outlook
    lowest, highest = outlook.curve[0].accuracy, outlook.best_accuracy
    # The bars begin below the least accuracy, so that differences show.
    floor = max(0.0, lowest - 0.25 * (highest - lowest) - 0.01)
    enough = outlook.enough_bytes_per_s or math.inf
    here = Buys(found.rate_bytes_per_s, outlook.accuracy)
    doublings = outlook.curve[::STEPS_PER_DOUBLING]
    shown = [buys for buys in doublings if buys.rate_bytes_per_s < 2 * enough]
    for buys in sorted([*shown, here]):
        length = text_plot.bar(
            buys.accuracy - floor, highest - floor, _PLOT_WIDTH, ascii_only
        )
        more = ', or more' if found.is_at_least else ''
        note = f' <- this link{more}' if buys is here else ''
        yield f'  {rate_text(buys.rate_bytes_per_s):>11}  {buys.accuracy:.3f}  {length}{note}'


def _plotted(
    name: str,
    text: str,
    values: Sequence[float],
    ascii_only: bool,
    top: float | None = None,
) -> Iterator[str]:
    top = _largest(values) if top is None else top
    plot = text_plot.row(values, _PLOT_WIDTH, top, ascii_only)
    yield f'  {name:<11} {plot:<{_PLOT_WIDTH}}  {text}'


def _entry(name: str, text: str) -> Iterator[str]:
    yield f'  {name:<11} {text}'


def _wrapped(sentences: Sequence[str]) -> Iterator[str]:
    for sentence in sentences:
        line = '*'
        for word in sentence.split():
            if len(line) + 1 + len(word) > 96:
                yield line
                line = ' '
            line = f'{line} {word}'
        yield line


def _times_ms(spread: Spread) -> str:
    if not math.isfinite(spread.median):
        return 'unknown'
    return f'{spread.least:.3g} ms least, {spread.median:.3g} median, {spread.p95:.3g} p95'


def _data(trial: Trial) -> str:
    seconds = trial.totals.seconds
    sent, received = trial.totals.sent_bytes / seconds, trial.totals.received_bytes / seconds
    return (
        f'{rate_text(sent)} sent, {rate_text(received)} received:'
        f' {megabytes_per_hour(trial):.3g} MB per hour with faces in view'
    )


def megabytes_per_hour(trial: Trial) -> float:
    """Return what goes both ways, in MB per hour."""
    totals = trial.totals
    return (totals.sent_bytes + totals.received_bytes) / totals.seconds * 3600 / 1e6


def _largest(values: Sequence[float]) -> float:
    return max((value for value in values if math.isfinite(value)), default=0.0)


def as_json(found: Findings) -> dict[str, Any]:
    """Return everything as JSON has it: null for what is not known, names with their units."""
    check, summary, outlook = found.check, found.summary, found.outlook
    reached, totals, capacity = check.reached, check.trial.totals, check.capacity
    welcome = reached.welcome
    document = {
        'address': reached.address,
        'encrypted': reached.is_encrypted,
        'completed': check.completed,
        'connection': {
            'resolve_ms': reached.resolve_ms,
            'tcp_ms': reached.tcp_ms,
            'welcome_ms': reached.welcome_ms,
            'model': welcome.model,
            'labels': list(welcome.labels),
            'input_size_px': welcome.input_size_px,
            'credits': welcome.credits,
            'max_faces': welcome.limits.max_faces,
            'max_frame_rate_fps': welcome.limits.max_frame_rate_fps,
            'grid_points': len(reached.grid),
            'grid_note': reached.grid_note,
        },
        'trial': {
            'faces': check.faces,
            'seconds': totals.seconds,
            'answered': summary.answered,
            'refused': summary.refused,
            'rate_kbit_per_s': summary.rate_bytes_per_s / 125,
            'round_trip_ms': summary.round_trip_ms._asdict(),
            'queue_ms': summary.queue_ms._asdict(),
            'server_ms': summary.server_ms._asdict(),
            'age_ms': summary.age_ms._asdict(),
            'points': [point._asdict() for point in summary.settled],
            'expected_accuracy': summary.accuracy,
            'primary_expected_accuracy': summary.primary_accuracy,
            'sent_kbit_per_s': totals.sent_bytes / totals.seconds / 125,
            'received_kbit_per_s': totals.received_bytes / totals.seconds / 125,
            'mb_per_hour': megabytes_per_hour(check.trial),
            'message_bytes_over_grid': summary.bytes_ratio,
            'interruptions': summary.interruptions,
            'drops': totals.drops,
        },
        'capacity': None if capacity is None else {
            'kbit_per_s': capacity.rate_bytes_per_s / 125,
            'at_least': capacity.limit is not Limit.LINK,
            'limited_by': capacity.limit.value,
            'sent_bytes': capacity.sent_bytes,
            'messages': capacity.messages,
            'seconds': capacity.seconds,
        },
        'capacity_note': check.capacity_note,
        'outlook': {
            'kbit_per_s': outlook.rate_bytes_per_s / 125,
            'at_least': found.is_at_least,
            'expected_accuracy': outlook.accuracy,
            'best_accuracy': outlook.best_accuracy,
            'enough_kbit_per_s': (
                None if outlook.enough_bytes_per_s is None else outlook.enough_bytes_per_s / 125
            ),
            'faces_at_full_accuracy': outlook.faces_that_fit,
            'faces_the_server_allows': outlook.faces_allowed,
            'accuracy_by_kbit_per_s': [
                [buys.rate_bytes_per_s / 125, buys.accuracy] for buys in outlook.curve
            ],
        },
        'verdict': verdict(found),
    }
    return {name: _plain(value) for name, value in document.items()}


def _plain(value: Any) -> Any:
    """Return a value with numbers rounded, and None where JSON has none for them."""
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f'{value:.6g}') if math.isfinite(value) else None
    return value
