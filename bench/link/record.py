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
"""What a link did, as link.json keeps it; the same for a real link and a simulated one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench.link.capacity import NS_PER_MS
from bench.link.pipe import BIN_NS, Pipe


def link_record(
    up: Pipe, down: Pipe, started_ns: int | None, ended_ns: int, backend: str
) -> dict[str, Any]:
    """
    Return the record of a link whose pipes began at started_ns.

    Args:
        up: from the robot to the server.
        down: the other way.
        started_ns: CLOCK_MONOTONIC at time 0 of the schedules; None: they never began.
        ended_ns: CLOCK_MONOTONIC at the end.
        backend: 'tun' or 'simulation'.
    """
    until_ns = 0 if started_ns is None else ended_ns - started_ns
    pipes = {'up': up, 'down': down}
    return {
        'backend': backend,
        'started_ns': started_ns,
        'ended_ns': ended_ns,
        'bin_ms': BIN_NS // NS_PER_MS,
        **{name: asdict(pipe.bins(until_ns)) for name, pipe in pipes.items()},
        'dropped': _dropped(pipes),
        'late_p99_ms': _late_p99_ms([*up.late_ns, *down.late_ns]),
    }


def _dropped(pipes: Mapping[str, Pipe]) -> dict[str, int]:
    return {
        f'{name}_{reason}': count
        for name, pipe in pipes.items()
        for reason, count in pipe.drops.items()
    }


def _late_p99_ms(late_ns: list[int]) -> float | None:
    """Return what 99 of 100 packets were at most late by; None: there were no packets."""
    if not late_ns:
        return None
    return sorted(late_ns)[-1 - len(late_ns) // 100] / NS_PER_MS
