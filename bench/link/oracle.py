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
What a sender could reach that knows the link's future; computed, not run.

The oracle takes frames from a camera of 30 per second. Of each it sends the coding, and waits the
time, that make the mean accuracy over the whole run highest, on two conditions: the frame's last
byte is at the server within 200 ms of its capture (half of the round trip is in that), behind all
that the oracle sent before; and its face is due again only after the interval for which the frame
was credited. So it never spends what the link does not carry, and looks ahead as far as it pays: a
frame that would spoil the next ones is not sent.

How: time goes in camera ticks, and what matters at a tick is how many bytes still wait in front of
the link. For every tick, from the last to the first, and 256 amounts of waiting bytes, the best
choice and its worth are tabulated (dynamic programming). The future is then known, and the run is
played forward with exact times of delivery, each choice by the table's worth of what it leaves.
Several faces share the link: a choice costs the table as much for each of them, in the forward
play each takes its own when its turn comes. What a change of frame rate costs the rate in force
is not in the table, so it is also played at each of some rates alone, and with the faces' first
frames at one tick or apart; the play counts that is judged the best.

Why it bounds a real sender, and what of: a message costs its median length, nothing is lost or
sent twice, no acknowledgement, no handshake and no other traffic is on the uplink, encoding and
the server take no time, the answer only half of a round trip. It bounds senders that keep to the
200 ms: one whose answers are older can use moments in which the oracle does not send, because an
answer counts as fresh for a little longer than that. Amounts of waiting bytes are rounded up in
the table, by 0.4 % of the most that may wait, and a smaller first frame could be back an instant
earlier; so another play may be better, by about 0.001 over 20 s.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.link.accuracy import CHANCE, Accuracies, Coding
from bench.link.expected import Held, Sent, accuracies_in_force, in_force, instants_ns
from bench.link.schedule import NS_PER_MS, NS_PER_S, Schedule

CAMERA_FPS = 30
DEADLINE_NS = 200 * NS_PER_MS
# A choice may take a face for so many ticks; the longest is the slowest rate of the grid, and as
# long as an answer of it counts as fresh.
SPACINGS_TICKS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 39)
# Those at which it also plays all the time.
STEADY_TICKS = (2, 3, 4, 5, 6, 8, 10, 15, 30)
LEVELS = 256
# Over how many ticks the first frames of several faces are spread.
STAGGERS_TICKS = (0, 3)

Floats = npt.NDArray[np.float64]


class Option(NamedTuple):
    """A coding and for how many ticks its face is then not due again; None: nothing is sent."""

    coding: Coding | None
    spacing_ticks: int
    # What it adds to chance, in accuracy x ticks.
    gain: float


class OracleFrame(NamedTuple):
    """A frame of the oracle; times in ns, on the schedule's clock."""

    slot: int
    captured_ns: int
    # When its last byte has left the link, and when its answer is back.
    left_ns: int
    published_ns: int
    coding: Coding
    frame_rate_fps: float


@dataclass(frozen=True)
class KnownLink:
    """What the oracle knows: the uplink's future, the round trip, and how long it may play."""

    uplink: Schedule
    rtt_ns: int
    start_ns: int
    duration_ns: int
    faces: int = 1

    @property
    def ticks(self) -> int:
        """Return how many camera frames there are."""
        return max(1, self.duration_ns * CAMERA_FPS // NS_PER_S)

    def tick_ns(self, tick: int) -> int:
        """Return when a camera frame is taken."""
        return self.start_ns + tick * NS_PER_S // CAMERA_FPS


def frames(link: KnownLink, accuracies: Accuracies) -> list[OracleFrame]:
    """Return all frames that the oracle sends, in the order in which they are sent."""
    choices = options(accuracies)
    staggers = STAGGERS_TICKS if link.faces > 1 else (0,)
    plays = [
        _play(link, table, stagger)
        for spacings in (SPACINGS_TICKS, *((spacing,) for spacing in STEADY_TICKS))
        for table in [_Table(link, [each for each in choices if each.coding is None
                                    or each.spacing_ticks in spacings])]
        for stagger in staggers
    ]
    return max(plays, key=lambda play: judged(link, play, accuracies))


def judged(link: KnownLink, play: list[OracleFrame], accuracies: Accuracies) -> float:
    """Return the expected accuracy of a play over all of its time, as runs are judged."""
    instants = instants_ns(link.start_ns, link.start_ns + link.duration_ns)
    return float(np.mean([
        in_force(held(play, slot, accuracies), instants, link.rtt_ns)
        for slot in range(link.faces)
    ]))


def held(sent: list[OracleFrame], slot: int, accuracies: Accuracies) -> list[Held]:
    """Return the oracle's answers of a slot with what each is worth; see expected.in_force."""
    mine = [frame for frame in sent if frame.slot == slot]
    worth = accuracies_in_force(
        [Sent(frame.captured_ns, frame.coding, frame.frame_rate_fps) for frame in mine],
        accuracies,
    )
    return [
        Held(frame.captured_ns, frame.published_ns, round(NS_PER_S / frame.frame_rate_fps), value)
        for frame, value in zip(mine, worth, strict=True)
    ]


def options(accuracies: Accuracies) -> tuple[Option, ...]:
    """Return what is worth considering for a face; the first is to send nothing for one tick."""
    found = [Option(None, 1, 0.0)]
    for spacing in SPACINGS_TICKS:
        rate_fps = CAMERA_FPS / spacing
        best = CHANCE
        for coding in sorted(accuracies.codings, key=lambda coding: coding.bytes_p50):
            accuracy = accuracies.at(coding, rate_fps)
            # Twice as many frames that are worth no more are left out, however cheap.
            if accuracy > max(best, accuracies.at(coding, rate_fps / 2)):
                best = accuracy
                found.append(Option(coding, spacing, spacing * (accuracy - CHANCE)))
    return tuple(found)


class _Table:
    """What is still to be gained from each tick on, for each amount of waiting bytes."""

    def __init__(self, link: KnownLink, choices: Sequence[Option]) -> None:
        self.choices = choices
        self._faces = link.faces
        self._spacing = np.array([choice.spacing_ticks for choice in choices])
        self.bytes = np.array([0 if c.coding is None else c.coding.bytes_p50 for c in choices])
        self._gain = np.array([choice.gain for choice in choices])
        ticks, beyond = link.ticks, int(self._spacing.max())
        self.before = np.array([link.uplink.bytes_before(link.tick_ns(tick))
                                for tick in range(ticks + beyond + 1)])
        # The deadline itself is still in time.
        window_ns = max(0, DEADLINE_NS - link.rtt_ns // 2) + 1
        self.window = np.array([link.uplink.bytes_before(link.tick_ns(tick) + window_ns)
                                for tick in range(ticks)]) - self.before[:ticks]
        # No more can wait than was sent in the time a frame may take, one per tick and face.
        most = (window_ns * CAMERA_FPS // NS_PER_S + 2) * int(self.bytes.max()) * link.faces
        self._level_bytes = max(1.0, min(most, float(self.window.max()))) / (LEVELS - 1)
        self._worth = np.zeros((ticks + beyond + 1, LEVELS))
        self._fill(ticks)

    def _fill(self, ticks: int) -> None:
        waiting = (np.arange(LEVELS) * self._level_bytes)[:, None]
        cost = waiting + self._faces * self.bytes
        arriving = waiting + self.bytes
        flat, sending = self._worth.ravel(), self.bytes > 0
        for tick in range(ticks - 1, -1, -1):
            after = tick + self._spacing
            left = cost - (self.before[after] - self.before[tick])
            # Rounded up, so that what the table promises can be kept.
            level = np.ceil(np.maximum(left, 0.0) / self._level_bytes).astype(np.int64)
            ok = (level < LEVELS) & ~((arriving > self.window[tick]) & sending)
            np.minimum(level, LEVELS - 1, out=level)
            worth = flat[after * LEVELS + level] + self._gains(tick, ticks)
            self._worth[tick] = np.where(ok, worth, 0.0).max(axis=1)

    def _gains(self, tick: int, ticks: int) -> Floats:
        """Return what each choice adds, cut off where the run ends."""
        if tick + int(self._spacing.max()) <= ticks:
            return self._gain
        return np.asarray(
            self._gain * np.minimum(1.0, (ticks - tick) / self._spacing), np.float64
        )

    def best(self, tick: int, waiting_bytes: float) -> Option:
        """Return the best choice for a face that is due while so many bytes wait."""
        after = tick + self._spacing
        left = waiting_bytes + self._faces * self.bytes - (self.before[after] - self.before[tick])
        place = np.minimum(np.maximum(left, 0.0) / self._level_bytes, LEVELS - 1)
        low = place.astype(np.int64)
        share = place - low
        high = np.minimum(low + 1, LEVELS - 1)
        worth = (1 - share) * self._worth[after, low] + share * self._worth[after, high]
        worth += self._gains(tick, len(self.window))
        in_time = (self.bytes == 0) | (waiting_bytes + self.bytes <= self.window[tick])
        return self.choices[int(np.where(in_time, worth, -1.0).argmax())]


def _play(link: KnownLink, table: _Table, stagger_ticks: int) -> list[OracleFrame]:
    """Send as the table says, with exact times of delivery."""
    due = [(slot * stagger_ticks // link.faces, slot) for slot in range(link.faces)]
    heapq.heapify(due)
    used, sent = 0.0, []
    while due[0][0] < link.ticks:
        tick, slot = heapq.heappop(due)
        choice = table.best(tick, max(0.0, used - float(table.before[tick])))
        if choice.coding is not None:
            now_ns = link.tick_ns(tick)
            left_ns, used = link.uplink.deliver(choice.coding.bytes_p50, now_ns, used)
            sent.append(OracleFrame(slot, now_ns, left_ns, left_ns + link.rtt_ns, choice.coding,
                                    CAMERA_FPS / choice.spacing_ticks))
        heapq.heappush(due, (tick + choice.spacing_ticks, slot))
    return sent
