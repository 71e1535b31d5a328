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
"""The senders that are compared: ferros, and what is done elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from ferros.bandwidth import Allowance
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.operating_point import Plan
from ferros.sender import Sender, make_sender
from ferros.types import Codec, GridPoint

# What the baselines send whatever the link; the lengths are only expectations.
FIXED = {
    'fixed_high': GridPoint(224, 30.0, Codec.JPEG, 90, 12_000, 16_000, 0.0),
    'fixed_mid': GridPoint(48, 5.0, Codec.WEBP, 50, 475, 661, 0.0),
    'fixed_low': GridPoint(24, 5.0, Codec.WEBP, 50, 293, 353, 0.0),
}


class Uncapped(Sender):
    """Ferros without the cap on what is in flight: only the server's credits hold it."""

    def _has_room(self, point: GridPoint, allowance: Allowance, probing: bool) -> bool:
        assert self._terms is not None
        return len(self._in_flight) < self._terms.credits


class Fixed(Uncapped):
    """Sends one operating point, come what may, as a plain client does."""

    def __init__(
        self, point: GridPoint, config: RobotConfig, grid: Sequence[GridPoint], drops: Drops,
        now_ns: int,
    ) -> None:
        super().__init__(config, grid, drops, now_ns)
        self._point = point

    def _make_plan(self, allowance: Allowance, now_ns: int) -> Plan:
        points = {face_id: self._point for face_id, _ in self._faces}
        self._plan = Plan(points, cost_bytes_per_s=0.0, wanted_bytes_per_s=0.0)
        return self._plan


def make(name: str, config: RobotConfig, drops: Drops, now_ns: int) -> Sender:
    """
    Return the sender of that name.

    Raises:
        ValueError: there is none.

    """
    ferros = make_sender(config, drops, now_ns)
    if name == 'ferros':
        return ferros
    if name == 'uncapped':
        return Uncapped(config, ferros.grid, drops, now_ns)
    if name in FIXED:
        return Fixed(FIXED[name], config, ferros.grid, drops, now_ns)
    raise ValueError(f'sender is {name!r}, expected ferros, uncapped or one of {list(FIXED)}')
