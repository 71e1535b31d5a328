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
"""A result as a text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cloud_server.load.result import Fault, Frames, Latency, Result, Streams
from cloud_server.load.summary import is_held_by_limit, reasons_not_carried

_WIDTH = 96


def text(result: Result) -> str:
    """Return the report, lines of at most about 100 characters."""
    return '\n'.join(_lines(result)) + '\n'


def _lines(result: Result) -> Iterator[str]:
    yield _headline(result)
    yield ''
    if result.plan['robots']:
        yield from _frames(result)
        yield ''
        yield from _latencies(result)
        yield ''
        yield _row('streams', _streams_line(result.streams))
        yield from _texts(result.streams)
    if result.idle is not None:
        idle = result.idle
        yield _row(
            'idle streams',
            f'{idle.wanted} wanted, open {idle.open_at_begin} before and {idle.open_at_end} after;'
            f' {_streams_line(idle.streams)}',
        )
        yield from _texts(idle.streams)
    if result.protocol_errors:
        yield _row('protocol errors', _counts(result.protocol_errors))
    yield _row('generator', _generator_line(result))
    if result.faults:
        yield ''
        yield from _faults(result.faults)
    yield ''
    yield _row('carried', _verdict(result))
    for note in result.notes:
        yield _row('note', note)


def _verdict(result: Result) -> str:
    if result.is_carried is not None and result.from_planned is not None:
        reasons = reasons_not_carried(result.frames, result.from_planned)
        return f'no: {"; ".join(reasons)}' if reasons else 'yes'
    is_held = result.generator.is_limited or is_held_by_limit(result)
    if result.plan['saturate'] and not is_held:
        return f'at most {result.ok_per_s:.0f} frames/s; try 80 % of that, and look at p99'
    return 'this run cannot tell'


def _headline(result: Result) -> str:
    plan = result.plan
    sizes = ', '.join(
        f'{size} px' if share == 1 else f'{size} px ({share:.0%})' for size, share in plan['sizes']
    )
    what = (
        f'{plan["window"] or 2 * plan["faces"]} frames unanswered each'
        if plan['saturate']
        else f'{plan["rate_fps"]:g} frames/s each'
    )
    model = f'{result.model or "unknown model"} on {result.device or "an unknown device"}'
    return (
        f'{plan["address"]}: {model}\n'
        f'{plan["robots"]} robots, {what}, {plan["faces"]} face{"s"[: plan["faces"] != 1]} of'
        f' {sizes} in {plan["codec"]} {plan["quality"]}; {result.measured_s:g} s measured'
    )


def _frames(result: Result) -> Iterator[str]:
    frames = result.frames
    planned = '' if result.plan['saturate'] else (
        f'planned {frames.planned} ({result.planned_per_s:.1f}/s)   '
    )
    share = frames.answers.get('OK', 0) / frames.planned if frames.planned else 0.0
    yield _row(
        'frames',
        f'{planned}sent {frames.sent} ({result.sent_per_s:.1f}/s)'
        f'   OK {frames.answers.get("OK", 0)} ({result.ok_per_s:.1f}/s, {share:.1%})',
    )
    if frames.held:
        yield _row('  not sent', _counts(frames.held))
    if frames.answers.keys() - {'OK'}:
        yield _row('  answers', _counts(frames.answers))
    yield _row('  unanswered', _counts(frames.unanswered))
    lost = result.whole_run.unanswered
    if lost != frames.unanswered:
        yield _row('', f'{_counts(lost)}, ramp and warm-up included')


def _latencies(result: Result) -> Iterator[str]:
    yield _row('latency of OK, ms', f'{"p50":>9}{"p90":>9}{"p99":>9}{"max":>9}')
    rows: list[tuple[str, Latency | None]] = [
        ('  from planned', result.from_planned),
        ('  from sent', result.from_sent),
        ('  in the server', result.in_server),
        ('  outside of it', result.outside_server),
    ]
    for name, latency in rows:
        if latency is not None:
            figures = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms)
            yield _row(name, ''.join(f'{"–":>9}' if f is None else f'{f:9.1f}' for f in figures))


def _streams_line(streams: Streams) -> str:
    parts = [f'{streams.opened} opened']
    if streams.reconnected:
        parts.append(f'{streams.reconnected} of them again')
    for number, name in (
        (streams.drained, 'drained'),
        (streams.resumed, 'resumed'),
        (streams.not_resumed, 'not resumed'),
        (streams.without_state, 'without a state to resume'),
    ):
        if number:
            parts.append(f'{number} {name}')
    if streams.states_kept or streams.states_lost:
        parts.append(f'states of faces kept {streams.states_kept}, lost {streams.states_lost}')
    if streams.refused:
        parts.append(f'refused: {_counts(streams.refused)}')
    broken = {status: number for status, number in streams.ended.items() if status != 'OK'}
    if broken:
        parts.append(f'ended: {_counts(broken)}')
    return ', '.join(parts)


def _texts(streams: Streams) -> Iterator[str]:
    for status, said in streams.texts.items():
        yield _row('', f'{status}: {said}')


def _generator_line(result: Result) -> str:
    generator = result.generator
    parts = ['LIMITED' if generator.is_limited else 'ok']
    if generator.lateness_p99_ms is not None and generator.late_share is not None:
        parts.append(
            f'frames late by {generator.lateness_p99_ms:.1f} ms (p99),'
            f' {generator.late_share:.2%} by more than 10 ms'
        )
    if generator.lag_p99_ms is not None:
        parts.append(f'event loop by {generator.lag_p99_ms:.1f} ms (p99)')
    if generator.cpu_share is not None:
        parts.append(f'{generator.cpu_share:.0%} of a core')
    return ', '.join(parts)


def _faults(results: Mapping[str, Fault]) -> Iterator[str]:
    yield f'{"fault":14}{"robots":>7}{"sent":>8}  what the server answered'
    for kind, fault in results.items():
        figures = f'{kind:14}{fault.robots:>7}{fault.frames.sent:>8}'
        yield _row(figures, _treatment(fault), indent=31)
        if fault.unexpected:
            yield _row('', f'UNEXPECTED: {_counts(fault.unexpected)}', indent=31)


def _treatment(fault: Fault) -> str:
    frames, streams = fault.frames, fault.streams
    parts = []
    if frames.answers:
        parts.append(_counts(frames.answers))
    broken = {status: number for status, number in streams.ended.items() if status != 'OK'}
    if broken:
        parts.append(f'streams ended: {_counts(broken)}')
    if streams.refused:
        parts.append(f'streams refused: {_counts(streams.refused)}')
    lost = _lost(frames)
    if lost:
        parts.append(f'{lost} without answer')
    if frames.held.get('blocked'):
        parts.append(f'{frames.held["blocked"]} not taken by the transport')
    return '; '.join(parts) or 'nothing'


def _lost(frames: Frames) -> int:
    return sum(frames.unanswered.values())


def _counts(counts: Mapping[str, int]) -> str:
    return '   '.join(f'{name} {number}' for name, number in counts.items()) or 'none'


def _row(name: str, value: str, indent: int = 19) -> str:
    lines = _wrapped(value, _WIDTH - indent)
    return '\n'.join(
        f'{(name if number == 0 else "").ljust(indent)}{line}'.rstrip()
        for number, line in enumerate(lines)
    )


def _wrapped(value: str, width: int) -> list[str]:
    """Break at spaces; runs of spaces within a line are kept, for they align columns."""
    lines = []
    while len(value) > width:
        place = value.rfind(' ', 0, width)
        if place <= 0:
            break
        lines.append(value[:place].rstrip())
        value = value[place:].lstrip()
    return [*lines, value]
