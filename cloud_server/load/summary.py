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
"""From the logs of a run to its result. Pure: everything is an argument."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_server.load import faults
from cloud_server.load.plan import Plan
from cloud_server.load.result import (
    Fault,
    Frames,
    Generator,
    Idle,
    Latency,
    Result,
    Streams,
    Timeline,
)
from cloud_server.load.run import NS_PER_S
from cloud_server.load.tally import (
    ANSWERED,
    HELD,
    UNANSWERED,
    Columns,
    Outcome,
    StreamLog,
    Tally,
)

OK = Outcome(ANSWERED, 'OK')
# A frame that leaves later after its time is late; the event loop wakes up to 1 ms late.
LATE_US = 10_000
# With more late frames, and an event loop as late, the run shows the generator's limit.
LIMITED_LATE_SHARE = 0.01
LIMITED_LAG_MS = 10.0
LIMITED_CPU_SHARE = 0.95
# A run that is called carried. The latency is what the server's own deadline defaults to.
CARRIED_SHARE = 0.99
CARRIED_P99_MS = 200.0
# Robots that send so much of what the server lets a stream send are held by that.
HELD_SHARE = 0.9
STEPS_S = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900)
MAX_STEPS = 120


class Server(NamedTuple):
    """What the server said of itself."""

    model: str = ''
    device: str = ''
    version: str = ''
    credits: int = 0
    max_frame_rate_fps: float = 0.0


class Times(NamedTuple):
    """When the parts of the run were, by its clock."""

    begin_ns: int
    measured_from_ns: int
    end_ns: int

    @property
    def measured_s(self) -> float:
        """Return how long was measured; above 0."""
        return max(self.end_ns - self.measured_from_ns, 1) / NS_PER_S


class HealthFigures(NamedTuple):
    """What the generator measured of itself in the measured part."""

    lags_us: Sequence[int]
    cpu_s: float
    measured_s: float


class IdleFigures(NamedTuple):
    """Idle streams with a Welcome at the beginning and at the end of the sending."""

    open_at_begin: int
    open_at_end: int


def summarise(
    plan: Plan,
    server: Server,
    times: Times,
    good: Tally,
    faulty: Mapping[str, Tally],
    idle: tuple[IdleFigures, Tally] | None,
    health: HealthFigures,
) -> Result:
    """Return the result of a run from all that was noted in it."""
    every = good.frames.columns()
    measured = every.where(_between(every.planned_ns, times))
    frames = count_frames(measured)
    ok = measured.where(measured.has(OK))
    generator = _generator(plan, measured, frames, health)
    from_planned = None if plan.saturate else latency(ok.from_planned_us)
    fault_results = {
        kind: _fault(kind, count, faulty[kind]) for kind, count in plan.faults
    }
    idle_result = None if idle is None else Idle(
        plan.idle, idle[0].open_at_begin, idle[0].open_at_end, _streams(idle[1].streams)
    )
    logs = [good.streams, *(tally.streams for tally in faulty.values())]
    if idle is not None:
        logs.append(idle[1].streams)
    errors = _added([log.protocol_errors for log in logs])
    arrived_ns = every.planned_ns + every.from_planned_us.astype(np.int64) * 1000
    in_time = _between(arrived_ns, times) & every.has(OK)
    is_cut_short = times.end_ns < times.begin_ns + round(plan.whole_s * NS_PER_S)
    result = Result(
        plan=plan_document(plan),
        model=server.model,
        device=server.device,
        server_version=server.version,
        credits=server.credits,
        max_frame_rate_fps=server.max_frame_rate_fps,
        measured_s=round(times.measured_s, 3),
        is_cut_short=is_cut_short,
        planned_per_s=round(frames.planned / times.measured_s, 3),
        sent_per_s=round(frames.sent / times.measured_s, 3),
        ok_per_s=round(int(in_time.sum()) / times.measured_s, 3),
        frames=frames,
        from_planned=from_planned,
        from_sent=latency(ok.from_sent_us),
        in_server=latency(ok.server_us),
        outside_server=latency(ok.from_sent_us.astype(np.int64) - ok.server_us),
        whole_run=count_frames(every),
        streams=_streams(good.streams),
        protocol_errors=errors,
        faults=fault_results,
        idle=idle_result,
        generator=generator,
        is_carried=is_carried(plan, frames, from_planned, generator),
        notes=[],
        timeline=_timeline(every, times),
    )
    result.notes.extend(notes(result))
    return result


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON has it; it holds names of files, and nothing of what is in them."""
    document = dataclasses.asdict(plan)
    document['sizes'] = [list(pair) for pair in plan.sizes]
    document['faults'] = [list(pair) for pair in plan.faults]
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in document.items()
    }


def count_frames(columns: Columns) -> Frames:
    """Return what became of the frames of a log."""
    held = columns.counts(HELD)
    return Frames(
        planned=len(columns.planned_ns),
        sent=len(columns.planned_ns) - sum(held.values()),
        held=held,
        answers=columns.counts(ANSWERED),
        unanswered=columns.counts(UNANSWERED),
    )


def latency(times_us: NDArray[Any]) -> Latency:
    """Return mean, maximum and linearly interpolated percentiles of times, in ms to 1 us."""
    if not len(times_us):
        return Latency(0, None, None, None, None, None)
    figures = (times_us.mean(), *np.percentile(times_us, (50, 90, 99)), times_us.max())
    mean, p50, p90, p99, highest = (round(float(figure) / 1000, 3) for figure in figures)
    return Latency(len(times_us), mean, p50, p90, p99, highest)


def is_carried(
    plan: Plan, frames: Frames, from_planned: Latency | None, generator: Generator
) -> bool | None:
    """Return whether the server carried what was planned; None: this run cannot tell."""
    if from_planned is None or generator.is_limited or not frames.planned:
        return None
    return not reasons_not_carried(frames, from_planned)


def reasons_not_carried(frames: Frames, from_planned: Latency) -> list[str]:
    """Return what keeps a load from being called carried; of at least one frame."""
    reasons = []
    share, lost = frames.answers.get('OK', 0) / frames.planned, sum(frames.unanswered.values())
    if share < CARRIED_SHARE:
        reasons.append(f'{share:.1%} of the frames were answered OK, expected {CARRIED_SHARE:.0%}')
    if from_planned.p99_ms is not None and from_planned.p99_ms > CARRIED_P99_MS:
        reasons.append(
            f'p99 from planned is {from_planned.p99_ms:.0f} ms, expected {CARRIED_P99_MS:.0f}'
        )
    if lost:
        reasons.append(f'{lost} frames got no answer')
    return reasons


def is_held_by_limit(result: Result) -> bool:
    """Tell whether saturating robots did not saturate: they kept to the server's limit."""
    most_per_s = result.plan['robots'] * result.max_frame_rate_fps
    return bool(result.plan['saturate'] and result.sent_per_s > HELD_SHARE * most_per_s > 0)


def notes(result: Result) -> list[str]:
    """Return what a reader of the figures should know."""
    said = []
    if result.is_cut_short:
        said.append(f'The run was cut short: {result.measured_s:g} s were measured.')
    if result.generator.is_limited:
        said.append(
            'Limited by the generator: this machine did not send in time, so the figures say'
            ' little of the server. Give the generator a core of its own, or plan less.'
        )
    limit_fps, plan = result.max_frame_rate_fps, result.plan
    if limit_fps and not plan['saturate'] and plan['rate_fps'] > limit_fps:
        said.append(
            f'The server lets one stream send {limit_fps:g} frames/s, and {plan["rate_fps"]:g}'
            ' were planned: it refuses the others (LIMIT_EXCEEDED).'
        )
    if is_held_by_limit(result):
        said.append(
            f'Limited by the plan: the server lets one stream send {limit_fps:g} frames/s, and'
            ' the robots sent as many. It may carry more: plan more robots.'
        )
    if result.frames.held.get('no_credit'):
        said.append(
            f'no_credit: the server lets {result.credits} frames of a stream be unanswered, and'
            ' a robot that has as many sends no more.'
        )
    if result.protocol_errors:
        said.append('The server broke the protocol; see protocol errors.')
    for kind, fault in result.faults.items():
        if fault.unexpected:
            said.append(f'Robots with the fault {kind} got what a sound server does not answer.')
    if result.idle is not None and result.idle.open_at_end < result.idle.wanted:
        said.append(
            f'{result.idle.wanted - result.idle.open_at_end} of {result.idle.wanted} idle streams'
            ' were not open at the end.'
        )
    return said


def _fault(kind: str, robots: int, tally: Tally) -> Fault:
    frames, streams = count_frames(tally.frames.columns()), _streams(tally.streams)
    seen = _added([frames.answers, streams.refused, streams.ended])
    about = faults.FAULTS[kind]
    unexpected = {
        status: number for status, number in seen.items() if not about.is_expected(status)
    }
    return Fault(robots, frames, streams, unexpected)


def _streams(log: StreamLog) -> Streams:
    return Streams(
        opened=log.opened,
        reconnected=log.reconnected,
        drained=log.drained,
        resumed=log.resumed,
        not_resumed=log.not_resumed,
        without_state=log.without_state,
        states_kept=log.states_kept,
        states_lost=log.states_lost,
        refused=dict(log.refused),
        ended=dict(log.ended),
        texts=dict(log.texts),
    )


def _generator(
    plan: Plan, measured: Columns, frames: Frames, health: HealthFigures
) -> Generator:
    lags_ms = np.asarray(health.lags_us, np.float64) / 1000
    lag_p99_ms = round(float(np.percentile(lags_ms, 99)), 3) if len(lags_ms) else None
    cpu_share = health.cpu_s / health.measured_s if health.measured_s else None
    per_frame_us = 1e6 * health.cpu_s / frames.sent if frames.sent else None
    figures: list[float | None] = [None, None, None]
    late_share = None
    if not plan.saturate and frames.planned:
        # For what was held back it is when that was decided.
        late_us = measured.from_planned_us.astype(np.int64) - measured.from_sent_us
        figures = [
            round(float(figure) / 1000, 3)
            for figure in (*np.percentile(late_us, (50, 99)), late_us.max())
        ]
        late_share = round(float((late_us > LATE_US).mean()), 5)
    is_slow = lag_p99_ms is not None and lag_p99_ms > LIMITED_LAG_MS
    # Late frames of a swift generator waited for the transport: that is the server's doing.
    is_late = late_share is not None and late_share > LIMITED_LATE_SHARE
    # Without a plan nothing is late: it sends as fast as it can compute.
    is_full = plan.saturate and cpu_share is not None and cpu_share > LIMITED_CPU_SHARE
    return Generator(
        lateness_p50_ms=figures[0],
        lateness_p99_ms=figures[1],
        lateness_max_ms=figures[2],
        late_share=late_share,
        lag_p99_ms=lag_p99_ms,
        lag_max_ms=round(float(lags_ms.max()), 3) if len(lags_ms) else None,
        cpu_share=None if cpu_share is None else round(cpu_share, 3),
        cpu_us_per_frame=None if per_frame_us is None else round(per_frame_us, 1),
        is_limited=is_full or (is_slow and (is_late or plan.saturate)),
    )


def _timeline(every: Columns, times: Times) -> Timeline:
    whole_s = max(times.end_ns - times.begin_ns, 1) / NS_PER_S
    step_s = next((s for s in STEPS_S if whole_s / s <= MAX_STEPS), STEPS_S[-1])
    count = max(1, int(np.ceil(whole_s / step_s - 1e-9)))
    steps = ((every.planned_ns - times.begin_ns) / (step_s * NS_PER_S)).astype(np.int64)
    steps = np.clip(steps, 0, count - 1)
    outcomes = {}
    for outcome in every.outcomes:
        of_it = steps[every.has(outcome)]
        if len(of_it):
            outcomes[outcome.name] = [int(n) for n in np.bincount(of_it, minlength=count)]
    ok = every.has(OK)
    of_ok, times_us = steps[ok], every.from_planned_us[ok]
    p50_ms: list[float | None] = [None] * count
    p99_ms: list[float | None] = [None] * count
    order = np.argsort(of_ok, kind='stable')
    borders = np.searchsorted(of_ok[order], np.arange(count + 1))
    for step in range(count):
        found = latency(times_us[order[borders[step] : borders[step + 1]]])
        p50_ms[step], p99_ms[step] = found.p50_ms, found.p99_ms
    return Timeline(
        step_s=float(step_s),
        measured_from_s=round((times.measured_from_ns - times.begin_ns) / NS_PER_S, 3),
        measured_to_s=round((times.end_ns - times.begin_ns) / NS_PER_S, 3),
        outcomes=outcomes,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
    )


def _between(at_ns: NDArray[np.int64], times: Times) -> NDArray[np.bool_]:
    return np.asarray((at_ns >= times.measured_from_ns) & (at_ns < times.end_ns))


def _added(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    added: dict[str, int] = {}
    for one in counts:
        for name, number in one.items():
            added[name] = added.get(name, 0) + number
    return added
