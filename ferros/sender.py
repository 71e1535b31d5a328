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
"""What is sent next, when and how: the outbox, the link's figures and the grid joined; pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ferros import accuracy_grid
from ferros.bandwidth import Allowance, Bandwidth, BandwidthEstimator
from ferros.config import RobotConfig
from ferros.data_limit import DataLimit
from ferros.drops import Drops
from ferros.operating_point import (
    ACKNOWLEDGEMENT_BYTES,
    LEAST_LIMIT_FPS,
    Limits,
    OperatingPointChooser,
    Plan,
)
from ferros.outbox import Outbox, interval_ns
from ferros.types import GridPoint, OfferedFace

# The share of the link's rate that is planned with: the rest drains queues and covers messages
# that are longer than the median.
RATE_SHARE = 0.87
# A message may take so long to pass the link by itself; the queue it makes comes on top.
MESSAGE_NS = 65_000_000
# Very short ones hold too little of a face, so on a slow link up to these bytes may take longer.
SHORT_MESSAGE_BYTES = 490
LONGEST_MESSAGE_NS = 180_000_000
# More is spent only after there was room for it for so long: a point that comes and goes makes
# queues. Less is spent at once.
RAISE_AFTER_NS = 250_000_000
# A plan holds until the faces change, or the budget or what faces cost by more than this.
PLAN_TOLERANCE = 0.03
# Images further apart than this say nothing of the camera's rate.
PAUSE_NS = 1_000_000_000
# Between probes, the first after one that raised the rate, the last after several that did not.
PROBE_AFTER_RAISE_NS = 300_000_000
SHORTEST_PROBE_INTERVAL_NS = 1_000_000_000
LONGEST_PROBE_INTERVAL_NS = 4_000_000_000
# Of a probe's two messages the second leaves within these times of the first.
PROBE_GAP_NS = (15_000_000, 150_000_000)
# A queue below this is none.
CLEAN_QUEUE_NS = 6_000_000
# What a message takes of the link besides its own bytes: 5 of gRPC, 9 of HTTP/2, and TCP (with
# timestamps) and IPv4 for each segment; as in the accuracy grid's bytes.
FRAMING_BYTES = 14
SEGMENT_BYTES = 1448
SEGMENT_HEADER_BYTES = 52
# Messages that may be unanswered before the server has named its credits.
FIRST_CREDITS = 4
# For a server that names no limit.
UNLIMITED_FPS = 1000.0


class ServerTerms(NamedTuple):
    """What the server said in its Welcome, as far as sending goes."""

    input_size_px: int
    # Messages that may be unanswered.
    credits: int
    # Of all faces together.
    frame_rate_fps: float


class Ready(NamedTuple):
    """A face that is to be sent now, and how."""

    face: OfferedFace
    point: GridPoint
    # 0: the primary face.
    rank: int


class InFlight(NamedTuple):
    """A face that was sent."""

    ready: Ready
    sent_ns: int
    message_bytes: int


def message_bytes(request_bytes: int) -> int:
    """Return what a request of that many bytes takes of the link, in bytes."""
    stream_bytes = request_bytes + FRAMING_BYTES
    return stream_bytes + math.ceil(stream_bytes / SEGMENT_BYTES) * SEGMENT_HEADER_BYTES


def make_sender(config: RobotConfig, drops: Drops, now_ns: int) -> Sender:
    """
    Return the sender that steers by the robot's own grid until a server brings a better one.

    Raises:
        GridError: the grid cannot be read.

    """
    path = Path(config.accuracy_grid_file or accuracy_grid.default_path())
    return Sender(config, accuracy_grid.read(path), drops, now_ns)


class Sender:
    """
    Decides what leaves; every time is the robot's monotonic clock in ns.

    Between connect() and disconnect() faces are offered and, as the link has room, taken. What is
    unanswered is capped, because every byte beyond what the path holds only makes answers older.
    """

    def __init__(
        self, config: RobotConfig, grid: Sequence[GridPoint], drops: Drops, now_ns: int
    ) -> None:
        self._own_grid = tuple(grid)
        self._chooser = OperatingPointChooser(config, grid)
        self._estimator = BandwidthEstimator()
        self._outbox = Outbox(drops)
        self._data_limit = DataLimit(config.data_limit_bytes_per_s, now_ns)
        self._sequence = 0
        self._in_flight: dict[int, InFlight] = {}
        self._faces: list[tuple[str, float]] = []
        self._frame_interval_ns = _Smoothed()
        self._offered_ns: int | None = None
        # Actual over expected bytes: what faces here cost, compared with those of the grid.
        self._byte_ratio = _Smoothed(initial=1.0, weight=0.1)
        self._terms: ServerTerms | None = None
        self._suggested_fps = math.inf
        self._suggested_until_ns = 0
        self._planned_for: object = None
        self._forget_plan()
        self._probe = _Probe()

    def configure(self, config: RobotConfig, now_ns: int) -> None:
        """Take over pins and data limits; what is known of the link stays known."""
        self._chooser.configure(config)
        if config.data_limit_bytes_per_s != self._data_limit.limit_bytes_per_s:
            self._data_limit.change(config.data_limit_bytes_per_s, now_ns)
        # The next face has a new plan made for it.
        self._planned_for = None

    # -- the connection ------------------------------------------------------------------------

    def connect(self) -> None:
        """
        Begin a stream, of which nothing is known yet.

        A few faces may leave before the server's terms are here: that saves a round trip.
        """
        largest_px = max(point.face_size_px for point in self._own_grid)
        self._terms = ServerTerms(largest_px, FIRST_CREDITS, UNLIMITED_FPS)
        self._chooser.set_grid(self._own_grid)
        self._sequence = 0
        self._in_flight.clear()
        self._estimator.restart()
        self._suggested_fps = math.inf
        self._forget_plan()
        self._probe = _Probe()

    def welcome(self, terms: ServerTerms, grid: Sequence[GridPoint]) -> None:
        """Take the server's terms; grid is the one of its model, empty where it has none."""
        self._terms = terms
        if grid:
            self._chooser.set_grid(grid)
        self._forget_plan()

    def disconnect(self, reason: str) -> int:
        """End the stream; return how many messages will never be answered."""
        self._terms = None
        self._outbox.clear(reason)
        self._in_flight.clear()
        return self._estimator.restart()

    def suggest(self, frame_rate_fps: float, until_ns: int) -> None:
        """Send no more than this of all faces together, until then: the server's word."""
        self._suggested_fps, self._suggested_until_ns = frame_rate_fps, until_ns

    # -- what goes out -------------------------------------------------------------------------

    def offer(self, faces: Sequence[OfferedFace], now_ns: int) -> None:
        """Take the faces of one camera image, the primary first."""
        # A pause of the camera, or of the connection, is not its rate.
        if faces and self._offered_ns is not None and now_ns - self._offered_ns < PAUSE_NS:
            self._frame_interval_ns.add(now_ns - self._offered_ns)
        self._outbox.offer(faces, now_ns, self._frame_interval_ns.value)
        self._offered_ns = now_ns if faces else None
        # Sides in steps of two pixels: a box that breathes is not another face.
        self._faces = [(face.face_id, 2 * round(face.box.width / 2)) for face in faces]

    def take(self, now_ns: int) -> Ready | None:
        """Return the face to send now; None: none is due, or there is no room for it."""
        if self._terms is None or self._outbox.is_empty:
            return None
        allowance = self._estimator.allowance(now_ns)
        plan = self._make_plan(allowance, now_ns)
        wanted = plan.wanted_bytes_per_s * self._byte_ratio.value
        self._probe.plan(wanted > self._budget_bytes_per_s, allowance)
        probing = self._probe.is_open(now_ns)
        face = self._outbox.next(now_ns, plan.points, ahead_of_time=probing)
        if face is None or self._data_limit.wait_ns(now_ns) > 0:
            return None
        point = plan.points[face.face_id]
        if not self._has_room(point, allowance, probing):
            return None
        self._outbox.take(face, now_ns, interval_ns(point))
        rank = next(i for i, (face_id, _) in enumerate(self._faces) if face_id == face.face_id)
        return Ready(face, point, rank)

    def wait_ns(self, now_ns: int) -> int | None:
        """Return after what time take() may have a face; None: not before something happens."""
        if self._terms is None or self._outbox.is_empty:
            return None
        waits_ns = (self._data_limit.wait_ns(now_ns), self._probe.opens_ns(now_ns))
        return max((wait_ns for wait_ns in waits_ns if wait_ns), default=None)

    @property
    def next_sequence(self) -> int:
        """Return the sequence number of what is sent next."""
        return self._sequence + 1

    def sent(self, ready: Ready, request_bytes: int, now_ns: int) -> int:
        """Note that a face is being sent in a request of that length; return its sequence."""
        self._sequence += 1
        size_bytes = message_bytes(request_bytes)
        self._in_flight[self._sequence] = InFlight(ready, now_ns, size_bytes)
        self._estimator.sent(self._sequence, size_bytes + ACKNOWLEDGEMENT_BYTES, now_ns)
        self._data_limit.use(size_bytes + ACKNOWLEDGEMENT_BYTES)
        self._byte_ratio.add(size_bytes / ready.point.bytes_p50)
        self._probe.sent(self._sequence, now_ns)
        return self._sequence

    # -- what comes back -----------------------------------------------------------------------

    def answered(
        self, sequence: int, received_ns: int, server_ns: int, answer_bytes: int, now_ns: int
    ) -> InFlight | None:
        """Note an answer; return what it answers, None where that is not known."""
        acknowledged = self._estimator.answered(sequence, received_ns, server_ns, now_ns)
        self._data_limit.use(message_bytes(answer_bytes) + SEGMENT_HEADER_BYTES)
        if acknowledged is None:
            return None
        if self._probe.is_probe(sequence):
            if acknowledged.queue_ns < CLEAN_QUEUE_NS:
                self._estimator.confirm(now_ns)
            self._probe.answered(self._estimator.allowance(now_ns).rate_bytes_per_s, now_ns)
        return self._in_flight.pop(sequence)

    # -- what is known -------------------------------------------------------------------------

    def oldest_sent_ns(self) -> int | None:
        """Return when the oldest unanswered message was sent; None: all are answered."""
        return self._estimator.oldest_sent_ns()

    def path_ns(self, now_ns: int) -> int:
        """Return the smallest round trip of late."""
        return self._estimator.path_ns(now_ns)

    def bandwidth(self, now_ns: int) -> Bandwidth:
        """Return the link's figures as of now."""
        return self._estimator.estimate(now_ns)

    @property
    def grid(self) -> tuple[GridPoint, ...]:
        """Return the robot's own grid."""
        return self._own_grid

    @property
    def plan(self) -> Plan | None:
        """Return what is sent of each face; None before the first."""
        return self._plan

    @property
    def interval_ns(self) -> int | None:
        """Return the time between two frames sent of the primary face; None: nothing is sent."""
        points = self._plan.points if self._plan is not None and self._terms is not None else {}
        return next((interval_ns(point) for point in points.values()), None)

    @property
    def budget_bytes_per_s(self) -> float:
        """Return what the plan may cost."""
        return self._budget_bytes_per_s

    # -- the plan ------------------------------------------------------------------------------

    def _forget_plan(self) -> None:
        self._plan: Plan | None = None
        self._planned_for = None
        self._planned_ratio = 1.0
        self._budget_bytes_per_s = 0.0
        self._budgets: deque[tuple[int, float]] = deque()

    def _make_plan(self, allowance: Allowance, now_ns: int) -> Plan:
        budget = self._steady_budget(allowance, now_ns)
        limit_fps = self._frame_rate_limit_fps(now_ns)
        ratio = min(max(self._byte_ratio.value, 0.25), 16.0)
        inputs = (self._faces, limit_fps)
        if (
            self._plan is not None
            and inputs == self._planned_for
            and abs(budget / self._budget_bytes_per_s - 1) < PLAN_TOLERANCE
            and abs(ratio / self._planned_ratio - 1) < PLAN_TOLERANCE
        ):
            return self._plan
        assert self._terms is not None
        rate = min(allowance.rate_bytes_per_s, budget / RATE_SHARE)
        self._plan = self._chooser.choose(
            self._faces,
            Limits(
                budget_bytes_per_s=budget / ratio,
                longest_message_bytes=longest_message_bytes(rate) / ratio,
                frame_rate_fps=limit_fps,
                input_size_px=self._terms.input_size_px,
                camera_fps=self._camera_fps(),
            ),
        )
        self._planned_for, self._planned_ratio = inputs, ratio
        self._budget_bytes_per_s = budget
        return self._plan

    def _steady_budget(self, allowance: Allowance, now_ns: int) -> float:
        """Return the smallest of the recent budgets: down at once, up when it has lasted."""
        budget = RATE_SHARE * allowance.lasting_rate_bytes_per_s
        while self._budgets and self._budgets[-1][1] >= budget:
            self._budgets.pop()
        self._budgets.append((now_ns, budget))
        while len(self._budgets) > 1 and self._budgets[0][0] < now_ns - RAISE_AFTER_NS:
            self._budgets.popleft()
        # An answer, and what acknowledges it, costs about as much as a small face.
        paid = self._data_limit.limit_bytes_per_s / 2
        return min(self._budgets[0][1], RATE_SHARE * allowance.rate_bytes_per_s, paid)

    def _frame_rate_limit_fps(self, now_ns: int) -> float:
        """Return what one face may have: the camera's rate, its share of the server's limits."""
        assert self._terms is not None
        together_fps = UNLIMITED_FPS
        if now_ns < self._suggested_until_ns:
            together_fps = min(together_fps, self._suggested_fps)
        # Written so that what is no rate, NaN among it, is no limit.
        if self._terms.frame_rate_fps > 0:
            together_fps = min(together_fps, self._terms.frame_rate_fps)
        # A little above, so that a camera of 30 frames is not taken for one of 29.
        limit_fps = min(together_fps / max(1, len(self._faces)), 1.1 * self._camera_fps())
        return max(LEAST_LIMIT_FPS, float(f'{limit_fps:.2g}'))

    def _camera_fps(self) -> float:
        interval_ns = self._frame_interval_ns.value
        return float(f'{1e9 / interval_ns:.2g}') if interval_ns > 0 else math.inf

    def _has_room(self, point: GridPoint, allowance: Allowance, probing: bool) -> bool:
        assert self._terms is not None
        if len(self._in_flight) >= self._terms.credits:
            return False
        if not self._in_flight:
            return True
        expected_bytes = point.bytes_p50 * self._byte_ratio.value
        if probing:
            expected_bytes = 0.0
        return self._estimator.in_flight_bytes + expected_bytes <= allowance.window_bytes


def longest_message_bytes(rate_bytes_per_s: float) -> float:
    """Return how long a message may be on a link of that rate, in bytes."""
    normal = rate_bytes_per_s * MESSAGE_NS / 1e9
    slow = rate_bytes_per_s * LONGEST_MESSAGE_NS / 1e9
    return max(normal, min(SHORT_MESSAGE_BYTES, slow))


class _Smoothed:
    """An exponential average."""

    def __init__(self, initial: float = 0.0, weight: float = 0.1) -> None:
        self.value = initial
        self._weight = weight

    def add(self, value: float) -> None:
        if self.value == 0.0:
            self.value = value
        self.value += self._weight * (value - self.value)


class _Probe:
    """
    When a message leaves ahead of its time, right behind another one.

    Frames that are paced to a link's rate never queue, and so say nothing of how much more it
    would carry. Two that leave together do: the second arrives as late as the first one's bytes
    take, or at once. Both are frames that the model uses.
    """

    def __init__(self) -> None:
        self._wanted = False
        self._due_ns = 0
        self._interval_ns = SHORTEST_PROBE_INTERVAL_NS
        self._first_sent_ns: int | None = None
        self._sequence: int | None = None
        self._rate_before = 0.0

    def plan(self, could_use_more: bool, allowance: Allowance) -> None:
        """Note whether a higher rate would be of use."""
        is_clean = not allowance.is_draining and not allowance.queue_ns > 3 * CLEAN_QUEUE_NS
        self._wanted = could_use_more and is_clean
        self._rate_before = allowance.rate_bytes_per_s

    def is_open(self, now_ns: int) -> bool:
        """Tell whether the next message is to follow the last one at once."""
        if self._first_sent_ns is None:
            return False
        nearest_ns, furthest_ns = PROBE_GAP_NS
        return nearest_ns <= now_ns - self._first_sent_ns <= furthest_ns

    def opens_ns(self, now_ns: int) -> int | None:
        """Return how long it is until the second message may leave; None: none is wanted."""
        if self._first_sent_ns is None or now_ns - self._first_sent_ns > PROBE_GAP_NS[1]:
            return None
        return max(0, self._first_sent_ns + PROBE_GAP_NS[0] - now_ns)

    def sent(self, sequence: int, now_ns: int) -> None:
        if self.is_open(now_ns):
            self._sequence = sequence
            self._first_sent_ns = None
            self._due_ns = now_ns + self._interval_ns
        elif self._wanted and now_ns >= self._due_ns:
            self._first_sent_ns = now_ns

    def is_probe(self, sequence: int) -> bool:
        return sequence == self._sequence

    def answered(self, rate_bytes_per_s: float, now_ns: int) -> None:
        """Note what a probe led to."""
        self._sequence = None
        if rate_bytes_per_s > 1.1 * self._rate_before:
            self._interval_ns = SHORTEST_PROBE_INTERVAL_NS
            self._due_ns = now_ns + PROBE_AFTER_RAISE_NS
        else:
            self._interval_ns = min(2 * self._interval_ns, LONGEST_PROBE_INTERVAL_NS)
