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
"""Which links the bench plays, and which senders it plays them with."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from bench.link import schedule
from bench.link.schedule import NS_PER_S, Schedule

ROOT = Path(__file__).resolve().parent.parent.parent
# Made up, and part of the repository; the recorded ones are not.
SHIPPED_TRACES = Path(__file__).resolve().parent / 'traces'

GROUPS = ('const', 'loss', 'trace', 'faces', 'outage')
OUTAGE_START_S = 5.0
# How long a run goes on after its outage.
AFTER_OUTAGE_S = 7.0


@dataclass(frozen=True)
class Scenario:
    """
    One link, and how many faces are seen over it.

    Either rate_bit_per_s or trace_file says what the uplink carries. Raises ValueError at
    construction, naming what is wrong.

    Attributes:
        name: its group (one of GROUPS), an underscore, and what is special about it.
        rate_bit_per_s: what the uplink carries at any time.
        trace_file: name of a trace: of those in bench/link/traces, else of the recorded ones.
        start_s: where in the trace the run begins.
        mean_bit_per_s: the trace is scaled to this mean; None: it is played as recorded.
        rtt_ms: round trip of the empty path, half of it each way.
        queue_bytes: what the drop-tail queue in front of the link holds, each way.
        loss: probability with which a packet is lost, for each packet of both directions.
        outages_s: (start, length) of the times at which nothing passes, in both directions.
        down_bit_per_s: what the downlink carries; None: as much as the uplink. Traces are of
            uplinks, and the other direction of such a network is the faster one.
        faces: how many faces are in the picture at any time.
        realised: whether the labels that are answered are compared with the truth too.

    """

    name: str
    rtt_ms: float = 40.0
    duration_s: float = 20.0
    rate_bit_per_s: float | None = None
    trace_file: str | None = None
    start_s: float = 0.0
    mean_bit_per_s: float | None = None
    queue_bytes: int = 150_000
    loss: float = 0.0
    outages_s: tuple[tuple[float, float], ...] = ()
    down_bit_per_s: float | None = None
    faces: int = 1
    realised: bool = False

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f'name is {self.name!r}, expected it to begin with one of {GROUPS}')
        if (self.rate_bit_per_s is None) == (self.trace_file is None):
            raise ValueError(f'{self.name}: expected one of rate_bit_per_s and trace_file')
        for name, value in (('rate_bit_per_s', self.rate_bit_per_s), ('rtt_ms', self.rtt_ms),
                            ('duration_s', self.duration_s), ('queue_bytes', self.queue_bytes),
                            ('mean_bit_per_s', self.mean_bit_per_s),
                            ('down_bit_per_s', self.down_bit_per_s), ('faces', self.faces)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f'{self.name}: {name} is {value!r}, expected more than 0')
        if not 0 <= self.loss < 1:
            raise ValueError(f'{self.name}: loss is {self.loss!r}, expected 0 or more, below 1')
        if self.start_s < 0 or any(start < 0 or length <= 0 for start, length in self.outages_s):
            raise ValueError(
                f'{self.name}: start_s is {self.start_s!r}, outages_s {self.outages_s!r}, '
                'expected no time below 0 and no empty outage'
            )

    @property
    def group(self) -> str:
        """Return what the scenario belongs to: the first part of its name."""
        return self.name.partition('_')[0]

    @property
    def trace_path(self) -> Path | None:
        """Return the path of the trace, whether the file is there or not; None: there is none."""
        if self.trace_file is None:
            return None
        shipped = SHIPPED_TRACES / self.trace_file
        return shipped if shipped.is_file() else recorded_traces() / self.trace_file

    @property
    def not_runnable(self) -> str:
        """Return why the scenario cannot be run here; empty: it can."""
        path = self.trace_path
        return '' if path is None or path.is_file() else f'no trace {path.name} in {path.parent}'

    @property
    def constant(self) -> bool:
        """Return whether the link carries the same at any time and loses nothing."""
        return self.rate_bit_per_s is not None and not self.loss and not self.outages_s


def recorded_traces() -> Path:
    """Return the folder of the recorded traces, whether it is there or not."""
    return Path(os.environ.get('FERROS_TEST_DATA') or ROOT.parent / 'shared') / 'traces'


def uplink(scenario: Scenario) -> Schedule:
    """
    Return when the uplink of a scenario can deliver how much; time 0 is the run's.

    Raises:
        ScheduleError: its trace is missing or no trace.
    """
    if scenario.rate_bit_per_s is not None:
        return _with_outages(scenario, schedule.constant(scenario.rate_bit_per_s))
    path = scenario.trace_path
    assert path is not None  # one of the two is there
    return _with_outages(scenario, schedule.read_trace(
        path, start_s=scenario.start_s, mean_bit_per_s=scenario.mean_bit_per_s,
        mean_over_s=None if scenario.mean_bit_per_s is None else scenario.duration_s,
    ))


def downlink(scenario: Scenario) -> Schedule:
    """Return what uplink() does, of the downlink."""
    if scenario.down_bit_per_s is None:
        return uplink(scenario)
    return _with_outages(scenario, schedule.constant(scenario.down_bit_per_s))


def _with_outages(scenario: Scenario, link: Schedule) -> Schedule:
    return link.with_outages([
        (round(start * NS_PER_S), round(length * NS_PER_S))
        for start, length in scenario.outages_s
    ])


RATES = {'64k': 64e3, '250k': 250e3, '1m': 1e6, '5m': 5e6}
# Of a mobile network's other direction.
DOWN_BIT_PER_S = 10e6
# Name, file and start of what is played of each recorded trace; all for a minute.
TRACES = (
    ('trace_att', 'ATT-LTE-driving-2016.up', 0.0),
    ('trace_verizon_lte', 'Verizon-LTE-short.up', 0.0),
    ('trace_norway', 'norway_bus_1', 0.0),
    ('trace_verizon_evdo', 'Verizon-EVDO-driving.up', 300.0),
)
# Scenarios that are played with labelled clips, and judged by the answers' labels too.
REALISED = ('const_64k_rtt40', 'const_250k_rtt40', 'trace_att')


def _const(rate: str, rtt_ms: int) -> Scenario:
    name = f'const_{rate}_rtt{rtt_ms}'
    return Scenario(name, rtt_ms, rate_bit_per_s=RATES[rate], realised=name in REALISED)


def _trace(name: str, file: str, start_s: float) -> Scenario:
    return Scenario(name, duration_s=60.0, trace_file=file, start_s=start_s,
                    down_bit_per_s=DOWN_BIT_PER_S, realised=name in REALISED)


def _outage(length_s: int) -> Scenario:
    return Scenario(f'outage_{length_s}s', duration_s=OUTAGE_START_S + length_s + AFTER_OUTAGE_S,
                    rate_bit_per_s=1e6, outages_s=((OUTAGE_START_S, float(length_s)),))


SCENARIOS: tuple[Scenario, ...] = (
    *(_const(rate, rtt_ms) for rate in RATES for rtt_ms in (40, 200)),
    Scenario('loss_1', rate_bit_per_s=1e6, loss=0.01),
    Scenario('loss_5', rate_bit_per_s=1e6, loss=0.05),
    *(_trace(*trace) for trace in TRACES),
    replace(_trace('trace_att_100k', 'ATT-LTE-driving-2016.up', 0.0), mean_bit_per_s=100e3),
    Scenario('faces_4_250k', rate_bit_per_s=250e3, faces=4),
    Scenario('faces_8_250k', rate_bit_per_s=250e3, faces=8),
    *(_outage(length_s) for length_s in (1, 3, 10)),
)

# What the quick bench plays: enough to see that nothing is broken, too short to judge by.
QUICK: tuple[Scenario, ...] = (
    replace(_const('64k', 40), duration_s=8.0),
    replace(_const('1m', 40), duration_s=8.0),
    Scenario('trace_drive', duration_s=8.0, trace_file='drive.up', down_bit_per_s=DOWN_BIT_PER_S),
    replace(_outage(1), duration_s=8.0, outages_s=((3.0, 1.0),)),
    Scenario('faces_4_250k', duration_s=8.0, rate_bit_per_s=250e3, faces=4),
)

FERROS = 'ferros'
# What ferros is compared with, and what is done there instead.
BASELINES = {
    'fixed_high': '224 px, 30 per second, JPEG quality 90, as a plain video client would; '
                  "credited with the grid's best accuracy",
    'fixed_mid': '48 px, 5 per second, WebP quality 50',
    'fixed_low': '24 px, 5 per second, WebP quality 50',
    'uncapped': 'ferros without the cap on bytes in flight',
}
SENDERS = (FERROS, *BASELINES)

# (scenario, sender) of each run of the quick bench; the one baseline shows that the link is thin.
QUICK_RUNS: tuple[tuple[Scenario, str], ...] = (
    *((scenario, FERROS) for scenario in QUICK),
    (QUICK[0], 'fixed_high'),
)


def runs(quick: bool) -> tuple[tuple[Scenario, str], ...]:
    """Return the scenario and the sender of every run, also of those that cannot be run here."""
    if quick:
        return QUICK_RUNS
    return tuple((scenario, sender) for scenario in SCENARIOS for sender in SENDERS)
