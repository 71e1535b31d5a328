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
"""Whether the generator itself keeps up: how late its event loop is, and what it computes."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable

from cloud_server.load.run import NS_PER_MS, NS_PER_S, Run, now_ns

BEAT_NS = 10 * NS_PER_MS
# How many beats are one look at everything else.
BEATS_PER_LOOK = 50


class Health:
    """Measures the event loop by a beat that should come at a fixed time, every 10 ms."""

    def __init__(self) -> None:
        # Of each beat in the measured part how late it came.
        self.lags_us = array('I')
        # Processor time of this process in the measured part, and how long that was.
        self.cpu_s = 0.0
        self.measured_s = 0.0

    async def watch(self, run: Run, look: Callable[[int], None]) -> None:
        """
        Beat until cancelled; call look(now_ns) twice a second.

        The processor time counts all that this process does: a server in it, too.
        """
        beat_ns, number = now_ns(), 0
        began: tuple[float, int] | None = None
        recent_ns = [0, 0]
        while True:
            beat_ns += BEAT_NS
            await asyncio.sleep(max(beat_ns - now_ns(), 0) / NS_PER_S)
            at_ns = now_ns()
            lag_ns = max(at_ns - beat_ns, 0)
            # A turn that took longer swallowed beats: they are not made up for.
            beat_ns = max(beat_ns, at_ns - BEAT_NS)
            recent_ns[-1] = max(recent_ns[-1], lag_ns)
            run.recent_lag_ns = max(recent_ns)
            if run.measured_from_ns <= at_ns < run.end_ns:
                self.lags_us.append(lag_ns // 1000)
                began = began or (time.process_time(), at_ns)
                self.cpu_s = time.process_time() - began[0]
                self.measured_s = (at_ns - began[1]) / NS_PER_S
            number += 1
            if number % BEATS_PER_LOOK == 0:
                recent_ns = [recent_ns[-1], 0]
                look(at_ns)
