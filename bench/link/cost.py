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
"""What the estimator and the chooser cost: their time per frame, over a simulated link."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench.link import run, senders
from bench.link.scenarios import Scenario
from bench.link.simulation import Simulation
from ferros.config import RobotConfig
from ferros.drops import Drops

NS_PER_S = 1_000_000_000
REPEATS = 9
# Of a sender: what estimates, and what chooses.
PARTS = ('_estimator', '_chooser')


class _Timed:
    """Passes every call on and adds up the time."""

    def __init__(self, inner: Any) -> None:
        self.total_ns = 0
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return self._timed(value) if callable(value) else value

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began_ns = time.perf_counter_ns()
            try:
                return call(*args, **kwargs)
            finally:
                self.total_ns += time.perf_counter_ns() - began_ns

        return timed


def us_per_frame(scenario: Scenario) -> float:
    """Return the median over some runs of the time per sent frame, in microseconds."""
    return statistics.median(_once(scenario) for _ in range(REPEATS))


def _once(scenario: Scenario) -> float:
    scenario = replace(scenario, realised=False)
    sender = senders.make('ferros', RobotConfig(), Drops(), 0)
    parts = []
    for name in PARTS:
        timed = _Timed(getattr(sender, name))
        setattr(sender, name, timed)
        parts.append(timed)
    simulation = Simulation(sender, *run.pipes(scenario), scenario.faces)
    simulation.run(round(scenario.duration_s * NS_PER_S))
    return sum(part.total_ns for part in parts) / 1e3 / len(simulation.answers)
