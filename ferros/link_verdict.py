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
"""What a check of the link found, and what that means in words; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from ferros.config import RobotConfig
from ferros.link_burst import Capacity, Limit
from ferros.link_outlook import TOLERANCE, Outlook, Terms, look_ahead
from ferros.link_recording import Summary, summarise
from ferros.link_trial import Trial
from ferros.types import GridPoint
from ferros_proto import recognition_pb2 as wire

# An answer that is no older than this feels like one to what just happened.
FRESH_MS: Final = 250.0
CODECS: Final = {'webp': 'WebP', 'jpeg': 'JPEG'}


class Reached(NamedTuple):
    """How the server was reached and what it said, as it is reported."""

    address: str
    resolve_ms: float
    tcp_ms: float
    welcome_ms: float
    welcome: wire.Welcome
    # The points to steer by, and whose they are.
    grid: tuple[GridPoint, ...]
    grid_note: str
    is_encrypted: bool = False

    @property
    def terms(self) -> Terms:
        """Return what the server allows."""
        limits = self.welcome.limits
        return Terms(self.welcome.input_size_px, limits.max_faces, limits.max_frame_rate_fps)


class Check(NamedTuple):
    """All that a check found, so far."""

    reached: Reached
    faces: int
    trial: Trial
    # None: not measured, and why.
    capacity: Capacity | None
    capacity_note: str
    # False: it was ended before it was through.
    completed: bool


class Findings(NamedTuple):
    """What it comes to."""

    check: Check
    summary: Summary
    # The rate to count on, and whether the link may well carry more.
    rate_bytes_per_s: float
    is_at_least: bool
    outlook: Outlook


def conclude(check: Check) -> Findings:
    """Return what a check comes to; some frames must have been answered."""
    summary = summarise(check.trial.recording)
    rate, is_at_least = summary.rate_bytes_per_s, False
    if check.capacity is not None and check.capacity.limit is Limit.LINK:
        rate = check.capacity.rate_bytes_per_s
    elif check.capacity is not None:
        rate, is_at_least = max(rate, check.capacity.rate_bytes_per_s), True
    outlook = look_ahead(check.reached.grid, check.reached.terms, check.faces, rate)
    if check.capacity is None:
        # The link proves no more than it needs.
        is_at_least = outlook.accuracy >= outlook.best_accuracy - TOLERANCE
    return Findings(check, summary, rate, is_at_least, outlook)


def verdict(found: Findings) -> list[str]:
    """Return what the figures mean for whoever wants to use the link, a sentence or two each."""
    told = [_freshness(found.summary), _point(found), _faces(found), _more(found)]
    return [*told, *_problems(found)]


def _freshness(summary: Summary) -> str:
    age = summary.age_ms
    figures = f'an answer comes {age.median:.0f} ms after its image (95 %: {age.p95:.0f} ms)'
    if age.p95 <= FRESH_MS:
        return f'Fresh: {figures}.'
    cause = _slowest(summary)
    if age.p95 <= RobotConfig.max_age_ms:
        return f'Late: {figures}; {cause}. A reaction to a face will be seen to lag.'
    return (
        f'Too late: {figures}; {cause}. A face whose answer is older than max_age_ms'
        f' ({RobotConfig.max_age_ms}) is published as `unknown`.'
    )


def _slowest(summary: Summary) -> str:
    """Say what takes most of the time."""
    parts = {
        'the path alone takes': summary.round_trip_ms.least,
        'the server takes': summary.server_ms.p95,
        'queues take': summary.round_trip_ms.p95 - summary.round_trip_ms.least,
    }
    text = max(parts, key=lambda name: parts[name])
    return f'{text} {parts[text]:.0f} ms'


def _point(found: Findings) -> str:
    summary, faces = found.summary, found.check.faces
    best = found.outlook.best_accuracy
    if not summary.settled:
        return 'No operating point was settled on in this time.'
    point = summary.settled[0]
    how = f'{point.face_size_px} px and {point.frame_rate_fps:.3g} fps'
    coding = f'{CODECS.get(point.codec, point.codec)}, quality {point.quality}'
    reached = f'{summary.accuracy:.3f}'
    is_best = summary.accuracy >= best - TOLERANCE
    rest = 'the best there is' if is_best else f'{best:.3f} would be the best'
    if faces == 1:
        return f'One face at {how} ({coding}) fits: expected accuracy {reached}; {rest}.'
    return (
        f'{faces} faces, mostly at {how} ({coding}), have a mean expected accuracy of {reached},'
        f' the primary one {summary.primary_accuracy:.3f}; {rest}.'
    )


def _faces(found: Findings) -> str:
    outlook = found.outlook
    full = f'full accuracy ({outlook.face_best_accuracy:.3f})'
    if outlook.faces_that_fit >= outlook.faces_allowed:
        return (
            f'Up to {faces_text(outlook.faces_allowed)} fit{_s(outlook.faces_allowed)} at {full}:'
            ' that is what the server allows, not the link.'
        )
    if outlook.faces_that_fit == 0:
        return f'Not even one face fits at {full}.'
    begin = 'At least' if found.is_at_least else 'Up to'
    fit = outlook.faces_that_fit
    return f'{begin} {faces_text(fit)} fit{_s(fit)} at {full}.'


def _more(found: Findings) -> str:
    outlook = found.outlook
    enough = outlook.enough_bytes_per_s
    if outlook.accuracy >= outlook.best_accuracy - TOLERANCE:
        least = '' if enough is None else f': {rate_text(enough)} would do'
        return f'More bandwidth buys nothing for {faces_text(outlook.faces)}{least}.'
    doubled = _at(outlook, 2 * outlook.rate_bytes_per_s)
    best = f'the best there is, {outlook.best_accuracy:.3f},'
    needs = 'the server does not allow' if enough is None else f'takes {rate_text(enough)}'
    return (
        f'Twice the rate would give {faces_text(outlook.faces)} {doubled:.3f} instead of'
        f' {outlook.accuracy:.3f}; {best} {needs}.'
    )


def _problems(found: Findings) -> Iterator[str]:
    check, summary = found.check, found.summary
    stale = check.trial.totals.drops.get('answer_stale', 0)
    if stale > 0.02 * summary.answered:
        yield (
            f'{100 * stale / summary.answered:.0f} % of the answers came more than'
            f' {RobotConfig.stale_after_ms} ms later than the quickest: they are dropped as stale.'
        )
    if summary.interruptions:
        yield f'The connection was lost {_times(summary.interruptions)}: {summary.detail}.'
    if summary.refused:
        reasons = ', '.join(f'{count} {status}' for status, count in summary.refused.items())
        yield f'The server refused frames: {reasons}.'
    if summary.answered and summary.server_ms.p95 > FRESH_MS / 2:
        yield f'The server is slow: it takes {summary.server_ms.p95:.0f} ms (95 %) for a frame.'
    if not check.completed:
        yield 'The check was ended early: these are the figures until then.'


def _at(outlook: Outlook, rate_bytes_per_s: float) -> float:
    """Return the accuracy at the rate of the curve that is nearest."""
    return min(
        outlook.curve, key=lambda buys: abs(math.log(buys.rate_bytes_per_s / rate_bytes_per_s))
    ).accuracy


def rate_text(bytes_per_s: float) -> str:
    """Return a rate as people say it."""
    bit_per_s = 8 * bytes_per_s
    if not math.isfinite(bit_per_s):
        return 'unknown'
    for unit, name in ((1e9, 'Gbit/s'), (1e6, 'Mbit/s')):
        if bit_per_s >= 0.9995 * unit:
            return f'{bit_per_s / unit:.3g} {name}'
    return f'{bit_per_s / 1e3:.3g} kbit/s'


def faces_text(faces: int) -> str:
    """Return a number of faces as people say it."""
    return 'one face' if faces == 1 else f'{faces} faces'


def _s(faces: int) -> str:
    return 's' if faces == 1 else ''


def _times(count: int) -> str:
    return 'once' if count == 1 else f'{count} times'
