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
"""What the sender is held to, as data: each bound with what was measured of it; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.link.scenarios import BASELINES, FERROS, Scenario

Run = Mapping[str, Any]
# A link of which the sender leaves a seventh free has a use for more as long as the best point
# for all faces needs more than it is meant to use.
USED_SHARE = 0.85


@dataclass(frozen=True)
class Limits:
    """
    The figures of all bounds.

    Attributes:
        delay_over_rtt_ms: network delay (95th percentile) above the path's round trip.
        utilisation: least share of the capacity, where the grid has a use for it.
        trace_age_ms: greatest age (95th percentile) of answers over a recorded link.
        oracle_share: least expected accuracy, as a share of the oracle's.
        recovery_s: longest wait for a fresh answer after an outage, TCP's own not counted.
        loss_share: least expected accuracy under loss, as a share of that without.
        startup_s: longest time until accuracy has come up.
        bytes_ratio: how many times fewer bytes than whole pictures.
        cost_us: longest time that estimator and chooser take for a frame.
        age_noise_ms: by how much less a baseline's age must be to count as less.
        accuracy_noise: by how much more its accuracy.

    """

    delay_over_rtt_ms: float = 100.0
    utilisation: float = USED_SHARE
    trace_age_ms: float = 250.0
    oracle_share: float = 0.95
    recovery_s: float = 1.0
    loss_share: float = 0.90
    startup_s: float = 2.0
    bytes_ratio: float = 100.0
    cost_us: float = 50.0
    # Two runs of one sender differ by so much.
    age_noise_ms: float = 5.0
    accuracy_noise: float = 0.005


FULL = Limits()
# Eight seconds, of which the start is a large part, beside other tests on a machine of two cores:
# whatever a busy machine delays gets several times the room, and what the start costs of the mean
# is allowed. What no load can change (nothing old is published, the bytes) is held to in full.
QUICK = Limits(delay_over_rtt_ms=250.0, utilisation=0.45, trace_age_ms=400.0, oracle_share=0.80,
               recovery_s=2.5, startup_s=4.0, cost_us=250.0, age_noise_ms=50.0,
               accuracy_noise=0.03)


class Bound(NamedTuple):
    """
    One bound on one run (or on the whole bench), and how it came out.

    met is None where the scenario was not run; then measured is None too. A run that has no
    figure (no answer ever came) misses its bound.
    """

    # What is bounded: the same for all scenarios.
    name: str
    # Empty: of the whole bench.
    scenario: str
    measured: float | None
    # 'at most' or 'at least'.
    sense: str
    limit: float
    unit: str
    met: bool | None
    # How far inside the limit, in the unit; negative: how far outside.
    margin: float | None
    note: str = ''


def check(
    scenarios: Sequence[Scenario],
    runs: Sequence[Run],
    best_bytes_per_s: float,
    bytes_ratio: float | None,
    cost_us_per_frame: float | None,
    limits: Limits = FULL,
) -> list[Bound]:
    """
    Return every bound, in the order of the scenarios.

    Args:
        scenarios: all that should have been run.
        runs: of all senders; what is not among them was not run.
        best_bytes_per_s: what one face takes at the grid's best point.
        bytes_ratio: bytes of whole pictures over ours; None: not measured.
        cost_us_per_frame: of estimator and chooser; None: not measured.
        limits: the figures.
    """
    found = {(run['scenario'], run['sender']): run for run in runs}
    bounds: list[Bound] = []
    for scenario in scenarios:
        ours = found.get((scenario.name, FERROS))
        bounds += _of_one(scenario, ours, best_bytes_per_s, limits)
        if scenario.group == 'loss':
            bounds.append(_loss(scenario, ours, found.get(('const_1m_rtt40', FERROS)), limits))
        bounds += _baselines(scenario, ours, found, limits)
    bounds.append(_at_least('bytes: whole pictures over ours', '', bytes_ratio,
                            limits.bytes_ratio, 'times'))
    bounds.append(_at_most('cost of estimator and chooser', '', cost_us_per_frame,
                           limits.cost_us, 'us per frame'))
    return bounds


def has_use(scenario: Scenario, best_bytes_per_s: float) -> bool:
    """Return whether the grid has a use for all that a constant link is meant to carry."""
    if not scenario.constant or scenario.rate_bit_per_s is None:
        return False
    return USED_SHARE * scenario.rate_bit_per_s / 8 < scenario.faces * best_bytes_per_s


def failures(bounds: Sequence[Bound]) -> list[Bound]:
    """Return the bounds that were measured and missed."""
    return [bound for bound in bounds if bound.met is False]


def _of_one(
    scenario: Scenario, ours: Run | None, best_bytes_per_s: float, limits: Limits
) -> Iterator[Bound]:
    name, group = scenario.name, scenario.group
    if group == 'const':
        yield _at_most('network delay, p95', name, _figure(ours, 'network_delay_p95_ms'),
                       scenario.rtt_ms + limits.delay_over_rtt_ms, 'ms', ours)
    if has_use(scenario, best_bytes_per_s):
        yield _at_least('utilisation', name, _figure(ours, 'utilisation'), limits.utilisation, '',
                        ours)
    if group == 'trace':
        yield _at_most('age, p95', name, _figure(ours, 'age_p95_ms'), limits.trace_age_ms, 'ms',
                       ours)
    if group in ('const', 'trace'):
        yield _at_least('expected accuracy over the oracle', name,
                        _over(ours, 'expected_accuracy', ours, 'oracle_accuracy'),
                        limits.oracle_share, '', ours)
    if scenario.outages_s:
        yield from _outage(scenario, ours, limits)
    yield _at_most('startup', name, _figure(ours, 'startup_s'), limits.startup_s, 's', ours)


def _outage(scenario: Scenario, ours: Run | None, limits: Limits) -> Iterator[Bound]:
    recovery, wait = _figure(ours, 'recovery_s'), _figure(ours, 'tcp_wait_s')
    both = recovery is not None and wait is not None
    beyond = max(0.0, recovery - wait) if recovery is not None and wait is not None else None
    note = f'{recovery:.2f} s in all, TCP silent for {wait:.1f} s of them' if both else ''
    yield _at_most("recovery, beyond TCP's wait", scenario.name, beyond, limits.recovery_s, 's',
                   ours, note)
    yield _at_most('answers older than 300 ms published', scenario.name,
                   _figure(ours, 'old_answers'), 0, '', ours)
    yield _at_most('frames sent that had waited 300 ms', scenario.name,
                   _figure(ours, 'old_frames_sent'), 0, '', ours)


def _loss(scenario: Scenario, ours: Run | None, without: Run | None, limits: Limits) -> Bound:
    both = ours if without is not None else None
    return _at_least(
        'expected accuracy over that without loss', scenario.name,
        _over(both, 'expected_accuracy', without, 'expected_accuracy'), limits.loss_share, '',
        both,
    )


def _baselines(
    scenario: Scenario, ours: Run | None, found: Mapping[tuple[str, str], Run], limits: Limits
) -> Iterator[Bound]:
    rivals = [run for sender in BASELINES if (run := found.get((scenario.name, sender)))]
    if not rivals:
        return
    if ours is None:
        yield _at_most('baselines better in age and accuracy', scenario.name, None, 0, '', None)
        return
    clearly = [run for run in rivals
               if _better(run, ours, limits.age_noise_ms, limits.accuracy_noise)]
    barely = [run['sender'] for run in rivals if _better(run, ours, 0.0, 0.0)
              and run not in clearly]
    names = [run['sender'] for run in clearly]
    note = ', '.join([*names, *(f'{sender} within the noise' for sender in barely)])
    yield _at_most('baselines better in age and accuracy', scenario.name, len(clearly), 0, '',
                   ours, note)


def _better(run: Run, ours: Run, age_noise_ms: float, accuracy_noise: float) -> bool:
    """Return whether a run beats ours in age and in expected accuracy, by more than the noise."""
    age, our_age = (_or_infinite(_figure(each, 'age_p95_ms')) for each in (run, ours))
    accuracy, our_accuracy = (_figure(each, 'expected_accuracy') or 0.0 for each in (run, ours))
    return age < our_age - age_noise_ms and accuracy > our_accuracy + accuracy_noise


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value


def _figure(run: Run | None, key: str) -> float | None:
    value = None if run is None else run.get(key)
    return None if value is None else float(value)


def _over(part: Run | None, key: str, whole: Run | None, whole_key: str) -> float | None:
    value, base = _figure(part, key), _figure(whole, whole_key)
    return None if value is None or not base else value / base


def _at_most(
    name: str, scenario: str, measured: float | None, limit: float, unit: str,
    run: Run | None = None, note: str = '',
) -> Bound:
    return _bound(name, scenario, measured, 'at most', limit, unit, run, note)


def _at_least(
    name: str, scenario: str, measured: float | None, limit: float, unit: str,
    run: Run | None = None, note: str = '',
) -> Bound:
    return _bound(name, scenario, measured, 'at least', limit, unit, run, note)


def _bound(
    name: str, scenario: str, measured: float | None, sense: str, limit: float, unit: str,
    run: Run | None, note: str,
) -> Bound:
    if measured is None:
        if run is None:
            return Bound(name, scenario, None, sense, limit, unit, None, None, 'not run')
        note = note or 'there is no figure: nothing came back'
        return Bound(name, scenario, None, sense, limit, unit, False, None, note)
    margin = limit - measured if sense == 'at most' else measured - limit
    return Bound(name, scenario, round(measured, 4), sense, limit, unit, margin >= 0,
                 round(margin, 4), note)
