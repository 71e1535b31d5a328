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
"""What the robots of one run share: what is sent where, and between which times."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from cloud_server.load.plan import Plan
from cloud_server.load.target import Target
from ferros_proto import recognition_pb2 as wire

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000


@dataclass
class Run:
    """One run of the load generator; its clock is the monotonic one of this machine."""

    plan: Plan
    target: Target
    # Side in px -> encoded crops.
    crops: Mapping[int, tuple[bytes, ...]]
    codec: wire.Codec
    # When the first robot begins.
    begin_ns: int
    # The slowest turn of the event loop in the last second, see health.py.
    recent_lag_ns: int = 0
    # When it was cut short; 0: it was not.
    stopped_ns: int = 0

    @property
    def measured_from_ns(self) -> int:
        """Return when ramp and warm-up are over."""
        return self.begin_ns + round((self.plan.ramp_s + self.plan.warm_up_s) * NS_PER_S)

    @property
    def end_ns(self) -> int:
        """Return when the last frame leaves."""
        planned_ns = self.begin_ns + round(self.plan.whole_s * NS_PER_S)
        return min(planned_ns, self.stopped_ns) if self.stopped_ns else planned_ns


def now_ns() -> int:
    """Return the time of the run's clock."""
    return time.monotonic_ns()
