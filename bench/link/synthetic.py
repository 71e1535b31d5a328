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
The traces that ship with the bench: made up from formulae, the same each time.

`python -m bench.link.synthetic` writes bench/link/traces anew (or another folder, its argument),
in the format of mahimahi: a line per opportunity to deliver 1500 bytes, its time in ms.

steps.up    10 s each of 2 Mbit/s, 128 kbit/s, 1 Mbit/s, 64 kbit/s, 4 Mbit/s and 250 kbit/s.
drive.up    60 s with a mean of 1 Mbit/s. The logarithm of the rate is a random walk that is drawn
            back to its middle, as a moving receiver's rate is; every 6 s or so there is nothing
            at all for 100 to 900 ms, as while a phone changes cells.
edge.up     60 s with a mean of 80 kbit/s that swings slowly, and every 9 s or so fades to a
            twentieth for 1 to 3 s.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.link.schedule import OPPORTUNITY_BYTES

FOLDER = Path(__file__).resolve().parent / 'traces'
LENGTH_MS = 60_000
STEP_MS = 100  # How often a rate is drawn anew.

STEPS_BIT_PER_S = (2e6, 128e3, 1e6, 64e3, 4e6, 250e3)

DRIVE_BIT_PER_S = 1e6
DRIVE_PULL = 0.05  # Share of the way back to the middle per step: the rate forgets in 2 s.
DRIVE_SPREAD = 0.22  # Of the logarithm, per step: 0.7 in the long run, a factor of two.
DRIVE_GAP_EVERY_MS = 6_000.0
DRIVE_GAP_MS = (100, 900)

EDGE_BIT_PER_S = 80e3
EDGE_SWING_MS = 17_000
EDGE_FADE_EVERY_MS = 9_000.0
EDGE_FADE_MS = (1_000, 3_000)
EDGE_FADE = 0.05


def steps() -> list[float]:
    """Return the rates of steps.up, one per STEP_MS."""
    each = LENGTH_MS // STEP_MS // len(STEPS_BIT_PER_S)
    return [rate for rate in STEPS_BIT_PER_S for _ in range(each)]


def drive() -> list[float]:
    """Return the rates of drive.up, one per STEP_MS."""
    chance = random.Random('drive')
    logarithm, rates = 0.0, []
    for _ in range(LENGTH_MS // STEP_MS):
        logarithm += -DRIVE_PULL * logarithm + chance.gauss(0, DRIVE_SPREAD)
        rates.append(math.exp(logarithm))
    gaps = _spans(chance, DRIVE_GAP_EVERY_MS, DRIVE_GAP_MS)
    return _to_mean(_with_factor(rates, gaps, 0.0), DRIVE_BIT_PER_S)


def edge() -> list[float]:
    """Return the rates of edge.up, one per STEP_MS."""
    chance = random.Random('edge')
    rates = [
        1 + 0.5 * math.sin(2 * math.pi * step * STEP_MS / EDGE_SWING_MS)
        for step in range(LENGTH_MS // STEP_MS)
    ]
    fades = _spans(chance, EDGE_FADE_EVERY_MS, EDGE_FADE_MS)
    return _to_mean(_with_factor(rates, fades, EDGE_FADE), EDGE_BIT_PER_S)


TRACES: dict[str, Callable[[], list[float]]] = {
    'steps.up': steps, 'drive.up': drive, 'edge.up': edge,
}


def opportunities_ms(rates_bit_per_s: Sequence[float]) -> list[int]:
    """Return when the opportunities of such rates are, one rate per STEP_MS; ms, rising."""
    per_ms = [rate / 8 / 1000 for rate in rates_bit_per_s for _ in range(STEP_MS)]
    times_ms, ready_bytes = [], 0.0
    for time_ms, amount_bytes in enumerate(per_ms, 1):
        ready_bytes += amount_bytes
        while ready_bytes >= OPPORTUNITY_BYTES:
            ready_bytes -= OPPORTUNITY_BYTES
            times_ms.append(time_ms)
    if times_ms[-1] < len(per_ms):
        times_ms.append(len(per_ms))  # The last line is the length of the loop.
    return times_ms


def trace(name: str) -> str:
    """Return the text of a trace, one of TRACES."""
    return ''.join(f'{time_ms}\n' for time_ms in opportunities_ms(TRACES[name]()))


def _spans(
    chance: random.Random, every_ms: float, length_ms: tuple[int, int]
) -> list[tuple[float, float]]:
    """Draw (start, end) of what happens every so often for some time, ms."""
    drawn: list[tuple[float, float]] = []
    at_ms = chance.expovariate(1 / every_ms)
    while at_ms < LENGTH_MS:
        end_ms = at_ms + chance.uniform(*length_ms)
        drawn.append((at_ms, end_ms))
        at_ms = end_ms + chance.expovariate(1 / every_ms)
    return drawn


def _with_factor(
    rates: Sequence[float], spans_ms: Sequence[tuple[float, float]], factor: float
) -> list[float]:
    """Multiply the rates within the spans."""
    return [
        rate * (factor if any(a <= step * STEP_MS < b for a, b in spans_ms) else 1)
        for step, rate in enumerate(rates)
    ]


def _to_mean(rates: Sequence[float], mean: float) -> list[float]:
    return [rate * mean * len(rates) / sum(rates) for rate in rates]


def main(arguments: Sequence[str]) -> int:
    """Write the traces."""
    folder = Path(arguments[0]) if arguments else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in TRACES:
        (folder / name).write_text(trace(name), encoding='ascii')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
