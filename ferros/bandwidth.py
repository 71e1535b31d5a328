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
"""How fast the link is, from what was sent and what the server acknowledged; pure."""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import NamedTuple

from ferros.windowed import Gaps, WindowedMaximum, WindowedMinimum

# What may be unanswered before the first answer, in bytes: a few small faces.
START_WINDOW_BYTES = 1_400
# What is counted on before anything was measured: 64 kbit/s.
START_BYTES_PER_S = 8_000.0
# And on a new connection at least.
RESTART_BYTES_PER_S = 2_000.0
# So that whatever the measurements say, a smallest frame still leaves now and then.
MIN_BYTES_PER_S = 100.0
# A path may change: older minima are forgotten. BBR and SCReAM take 10 s, too.
MINIMUM_WINDOW_NS = 10_000_000_000
# Fewer gaps than these measure stutters, not a rate.
ENOUGH_GAPS = 6
# A longer gap is no measure of a rate: the link stood still.
STANDSTILL_NS = 500_000_000
# Over which the gaps between messages that queued are added up.
GAPS_WINDOW_NS = 2_500_000_000
# Links stutter: of the rates measured in so long the highest counts.
MEASURED_WINDOW_NS = 1_000_000_000
# Over which the acknowledged rate is taken (GCC: 500 ms).
RATE_WINDOW_NS = 500_000_000
# A queue that so many messages in a row met stands; one may have met a stutter of the link.
STANDING_MESSAGES = 3
# The server reads several messages at a time, and clocks and schedulers are off by some ms: a
# rate is taken over no less than this.
RESOLUTION_NS = 20_000_000
# A queue that stands above the first is drained until it is below the second.
DRAIN_ABOVE_NS = 50_000_000
DRAINED_BELOW_NS = 20_000_000
# The share of the acknowledged rate that is sent while a queue drains (GCC's beta).
DRAIN_SHARE = 0.85
# What in flight is allowed to wait in queues, besides being on its way.
TARGET_QUEUE_NS = 70_000_000
# A delay below this may be chance.
JITTER_NS = 15_000_000
# Before the first round trip was measured.
ASSUMED_ROUND_TRIP_NS = 100_000_000
# By how much a clean probe may raise the rate beyond what it proved.
GROWTH = 1.25
# Before so many messages were answered, nobody knows what no queue is.
ENOUGH_TO_COMPARE = 4
# So many of the latest messages are looked at for the rate that they prove.
LONGEST_RUN = 12


class Acknowledged(NamedTuple):
    """One message that was answered."""

    sent_ns: int
    # The server's clock.
    received_ns: int
    # The robot's clock.
    answered_ns: int
    size_bytes: int
    # The time it waited in queues on its way to the server.
    queue_ns: int
    # It had queued before the one before it arrived, so the link was never idle between them.
    is_busy: bool


class Bandwidth(NamedTuple):
    """What is known of the link at one time."""

    # What may be counted on now.
    rate_bytes_per_s: float
    # Of the last 500 ms: what was used, which a link that is not full can exceed.
    acknowledged_bytes_per_s: float
    # Without the time in the server; NaN before the first answer.
    round_trip_ms: float
    # Without the time that the message itself took to pass, where the link's rate is known.
    min_round_trip_ms: float
    # That the newest messages waited on their way to the server.
    queue_ms: float
    # A standing queue is being drained.
    is_draining: bool
    # The messages that may be unanswered, in bytes.
    window_bytes: int
    in_flight_bytes: int
    sent_bytes: int
    acknowledged_bytes: int


class Allowance(NamedTuple):
    """What a sender needs of the above for each message."""

    # What may be counted on now.
    rate_bytes_per_s: float
    # The same, but for a message that is overdue: what may be counted on when it is there.
    lasting_rate_bytes_per_s: float
    # The messages that may be unanswered, in bytes.
    window_bytes: int
    # That the newest message waited in queues; NaN before the first answer.
    queue_ns: float
    is_draining: bool


class _Sent(NamedTuple):
    sent_ns: int
    size_bytes: int
    # Nothing else was unanswered when it left.
    is_alone: bool


class BandwidthEstimator:
    """
    Acknowledgements in, figures out; every time is the robot's monotonic clock in ns.

    Of the server's clock only differences are used, so the two clocks need not agree, and where
    it is set or runs wrong the round trip, which is measured by the robot's clock alone, bounds
    every conclusion.

    The rate moves by three kinds of evidence:

    * A run of messages that arrived proves their bytes over the time between the first and the
      last, sent or received, whichever is longer (BBR's delivery rate: Cardwell et al. 2016,
      draft-cardwell-iccrg-bbr-congestion-control). The sender may have had no more to send, so
      this can only raise the rate.
    * Messages that queued behind one another measure the link itself: the bytes of each over
      the gap between its arrival and the one's before it (packet pairs, as Salsify takes them
      from the frames themselves: Fouladi et al. 2018). This raises and lowers it, though not
      above what the last 10 s have proved: what TCP held back for a lost segment arrives at once.
    * A message that stays away bounds the rate on every look at it: what is in flight over the
      time it is overdue.

    A queue that stands is drained: 0.85 of the acknowledged rate, until it is gone (GCC: Carlucci
    et al. 2016; the standing queue as in CoDel: Nichols and Jacobson 2012). What is in flight is
    capped to the path and a target queue, as in BBR and SCReAM (RFC 8298).
    """

    def __init__(self) -> None:
        self._sent_bytes = 0
        self._acknowledged_bytes = 0
        self._rate_bytes_per_s = START_BYTES_PER_S
        self._unanswered: dict[int, _Sent] = {}
        self._in_flight_bytes = 0
        self.restart()

    def restart(self) -> int:
        """
        Begin with a new connection: another path, another server's clock.

        Returns how many messages will never be answered, as their stream has ended.
        """
        lost = len(self._unanswered)
        self._unanswered.clear()
        self._in_flight_bytes = 0
        self._restarted_bytes = self._acknowledged_bytes
        self._recent: deque[Acknowledged] = deque()
        self._gaps = Gaps(GAPS_WINDOW_NS)
        self._stood_still = False
        # Of the newest messages, since the link last stood still.
        self._queues_ns: deque[int] = deque(maxlen=STANDING_MESSAGES)
        self._acknowledged: deque[tuple[int, int]] = deque()
        self._acknowledged_in_window_bytes = 0
        self._transits = WindowedMinimum(MINIMUM_WINDOW_NS)
        self._round_trips = WindowedMinimum(MINIMUM_WINDOW_NS)
        self._rates = WindowedMaximum(MINIMUM_WINDOW_NS)
        self._measured = WindowedMaximum(MEASURED_WINDOW_NS)
        self._link_bytes_per_s = math.inf
        self._round_trip_ns = math.nan
        self._queue_ns = math.nan
        self._drain_bytes_per_s = math.inf
        # A thin link is likely to be one still, but what an outage left of the rate is no measure.
        self._rate_bytes_per_s = max(
            RESTART_BYTES_PER_S, min(self._rate_bytes_per_s, START_BYTES_PER_S)
        )
        return lost

    @property
    def in_flight_bytes(self) -> int:
        """Return the bytes that were sent and not yet answered."""
        return self._in_flight_bytes

    def oldest_sent_ns(self) -> int | None:
        """Return when the oldest unanswered message was sent; None: all are answered."""
        # A dict keeps the order in which they left.
        return next((sent.sent_ns for sent in self._unanswered.values()), None)

    def sent(self, sequence: int, size_bytes: int, now_ns: int) -> None:
        """Note that a message left."""
        self._unanswered[sequence] = _Sent(now_ns, size_bytes, not self._unanswered)
        self._in_flight_bytes += size_bytes
        self._sent_bytes += size_bytes

    def answered(
        self, sequence: int, received_ns: int, server_ns: int, now_ns: int
    ) -> Acknowledged | None:
        """
        Note that a message was answered.

        Args:
            sequence: the message's.
            received_ns: when it reached the server, by the server's clock.
            server_ns: how long it was in the server.
            now_ns: when its answer reached the robot.

        Returns None where no such message is unanswered: it is then not counted.

        """
        sent = self._unanswered.pop(sequence, None)
        if sent is None:
            return None
        self._in_flight_bytes -= sent.size_bytes
        self._acknowledged_bytes += sent.size_bytes
        # A server whose clock runs fast must not make the round trip negative.
        round_trip_ns = max(0, now_ns - sent.sent_ns - max(0, server_ns))
        self._round_trip_ns = round_trip_ns
        # It rises only to that of a message that was alone on its way: others wait, and a queue
        # that never drains would be taken for the path, and be allowed to grow.
        self._round_trips.add(now_ns, round_trip_ns, sent.size_bytes, may_rise=sent.is_alone)
        transit_ns = received_ns - sent.sent_ns
        # The clocks drift apart: this minimum has to follow them.
        self._transits.add(now_ns, transit_ns, sent.size_bytes, may_rise=True)
        # The way back may have queued too, and the server's clock may be wrong: the smaller holds.
        self._queue_ns = queue_ns = max(0, min(
            self._excess_ns(self._transits, transit_ns, sent.size_bytes),
            self._excess_ns(self._round_trips, round_trip_ns, sent.size_bytes),
        ))
        message = Acknowledged(
            sent.sent_ns, received_ns, now_ns, sent.size_bytes, queue_ns,
            self._is_busy(sent.sent_ns, received_ns, queue_ns),
        )
        gap_ns = received_ns - self._recent[-1].received_ns if self._recent else 0
        self._remember(message)
        stood_still = message.is_busy and gap_ns > STANDSTILL_NS
        # Twice in a row is no standstill: the link is that slow.
        if stood_still and not self._stood_still:
            self._start_again()
        else:
            self._learn(message, gap_ns)
        self._stood_still = stood_still
        return message

    def confirm(self, now_ns: int) -> None:
        """
        Note that a probe met no queue: a little more than it proved may be tried.

        A probe is the newest message and the one before it, sent in quick succession.
        """
        if len(self._recent) < ENOUGH_TO_COMPARE:
            return
        first, second = self._recent[-2], self._recent[-1]
        span_ns = max(
            second.sent_ns - first.sent_ns, second.received_ns - first.received_ns, RESOLUTION_NS
        )
        self._raise(GROWTH * second.size_bytes * 1e9 / span_ns, now_ns)

    def allowance(self, now_ns: int) -> Allowance:
        """
        Return what may be sent as of now.

        On a new connection a long way and a slow link look the same: the window opens as answers
        come, by as much as was answered (TCP's slow start: Jacobson 1988).
        """
        lasting = max(MIN_BYTES_PER_S, min(self._rate_bytes_per_s, self._drain_bytes_per_s))
        path_ns = self.path_ns(now_ns)
        rate = lasting
        oldest_ns = self.oldest_sent_ns()
        if oldest_ns is not None:
            overdue_ns = now_ns - oldest_ns - path_ns - TARGET_QUEUE_NS
            if overdue_ns > 0:
                possible = self._in_flight_bytes * 1e9 / overdue_ns
                rate = max(MIN_BYTES_PER_S, min(lasting, possible))
        return Allowance(
            rate_bytes_per_s=rate,
            lasting_rate_bytes_per_s=lasting,
            window_bytes=min(
                round(rate * (path_ns + TARGET_QUEUE_NS) / 1e9),
                START_WINDOW_BYTES + self._acknowledged_bytes - self._restarted_bytes,
            ),
            queue_ns=self._queue_ns,
            is_draining=math.isfinite(self._drain_bytes_per_s),
        )

    def estimate(self, now_ns: int) -> Bandwidth:
        """Return the figures as of now."""
        allowance = self.allowance(now_ns)
        return Bandwidth(
            rate_bytes_per_s=allowance.rate_bytes_per_s,
            acknowledged_bytes_per_s=self._acknowledged_bytes_per_s(now_ns),
            round_trip_ms=self._round_trip_ns / 1e6,
            min_round_trip_ms=self._min_round_trip_ns(now_ns) / 1e6,
            queue_ms=self._queue_ns / 1e6,
            is_draining=allowance.is_draining,
            window_bytes=allowance.window_bytes,
            in_flight_bytes=self._in_flight_bytes,
            sent_bytes=self._sent_bytes,
            acknowledged_bytes=self._acknowledged_bytes,
        )

    def _remember(self, message: Acknowledged) -> None:
        self._recent.append(message)
        if len(self._recent) > LONGEST_RUN:
            self._recent.popleft()
        self._acknowledged.append((message.answered_ns, message.size_bytes))
        self._acknowledged_in_window_bytes += message.size_bytes

    def _excess_ns(self, minimum: WindowedMinimum, value_ns: int, size_bytes: int) -> int:
        """Return by how much a delay exceeds the smallest one, apart from the message's length."""
        smallest_ns, smallest_bytes = minimum.least()
        longer_bytes = max(0, size_bytes - smallest_bytes)
        return value_ns - smallest_ns - round(self._passing_ns(longer_bytes))

    def _is_busy(self, sent_ns: int, received_ns: int, queue_ns: int) -> bool:
        """Tell whether a message queued behind the one that was received before it."""
        if not self._recent or queue_ns < JITTER_NS:
            return False
        before = self._recent[-1]
        # By the robot's clock alone: the one before was not answered yet.
        if sent_ns >= before.answered_ns or received_ns < before.received_ns:
            return False
        smallest_ns, smallest_bytes = self._transits.least()
        path_ns = smallest_ns - round(1e9 * smallest_bytes / self._rate_bytes_per_s)
        return sent_ns + path_ns <= before.received_ns

    def _start_again(self) -> None:
        """Note that the link stood still and is back: what it carries now is not known."""
        self._gaps.clear()
        self._queues_ns.clear()
        self._drain_bytes_per_s = math.inf
        self._rate_bytes_per_s = max(self._rate_bytes_per_s, START_BYTES_PER_S)

    def _learn(self, message: Acknowledged, gap_ns: int) -> None:
        now_ns = message.answered_ns
        self._raise(self._proved_bytes_per_s(), now_ns)
        if message.is_busy:
            self._gaps.add(now_ns, message.size_bytes, gap_ns)
            measured = self._gaps_bytes_per_s(now_ns)
            if measured is not None and self._gaps.number >= ENOUGH_GAPS:
                self._settle(measured, now_ns)
        self._drain(message)
        self._rates.add(now_ns, self._rate_bytes_per_s)

    def _settle(self, measured_bytes_per_s: float, now_ns: int) -> None:
        """Move the rate to what was measured, though not above what was proved."""
        self._link_bytes_per_s = measured_bytes_per_s
        self._measured.add(now_ns, measured_bytes_per_s)
        proved = self._rates.value(now_ns) or self._rate_bytes_per_s
        highest = self._measured.value(now_ns) or measured_bytes_per_s
        self._rate_bytes_per_s = max(MIN_BYTES_PER_S, min(highest, proved))

    def _raise(self, rate_bytes_per_s: float, now_ns: int) -> None:
        if rate_bytes_per_s > self._rate_bytes_per_s:
            self._rate_bytes_per_s = rate_bytes_per_s
            self._rates.add(now_ns, rate_bytes_per_s)

    def _proved_bytes_per_s(self) -> float:
        """Return the highest rate that the latest messages prove the link to carry."""
        if not self._recent:
            return 0.0
        best, run_bytes = 0.0, 0
        last = self._recent[-1]
        previous = last
        for message in itertools.islice(reversed(self._recent), 1, None):
            run_bytes += previous.size_bytes
            previous = message
            span_ns = max(
                last.received_ns - previous.received_ns,
                last.answered_ns - previous.answered_ns,
                last.sent_ns - previous.sent_ns,
                RESOLUTION_NS,
            )
            best = max(best, run_bytes * 1e9 / span_ns)
        return best

    def _drain(self, message: Acknowledged) -> None:
        """Begin or end to drain a queue that stands."""
        self._queues_ns.append(message.queue_ns)
        if message.queue_ns < DRAINED_BELOW_NS:
            self._drain_bytes_per_s = math.inf
            return
        is_standing = min(self._queues_ns) > DRAIN_ABOVE_NS
        if is_standing and len(self._queues_ns) == STANDING_MESSAGES:
            now_ns = message.answered_ns
            measured = self._gaps_bytes_per_s(now_ns)
            if measured is None:
                measured = self._acknowledged_bytes_per_s(now_ns)
            self._drain_bytes_per_s = DRAIN_SHARE * measured
            self._measured.clear()
            self._settle(measured, now_ns)

    def _gaps_bytes_per_s(self, now_ns: int) -> float | None:
        """Return the rate at which messages that queued arrived; None: too few to tell."""
        total_bytes, total_ns = self._gaps.totals(now_ns)
        return None if total_ns < RESOLUTION_NS else total_bytes * 1e9 / total_ns

    def _acknowledged_bytes_per_s(self, now_ns: int) -> float:
        while self._acknowledged and self._acknowledged[0][0] <= now_ns - RATE_WINDOW_NS:
            self._acknowledged_in_window_bytes -= self._acknowledged.popleft()[1]
        return self._acknowledged_in_window_bytes * 1e9 / RATE_WINDOW_NS

    def path_ns(self, now_ns: int) -> int:
        """Return the smallest round trip of late, or what is assumed before the first."""
        smallest_ns = self._round_trips.value(now_ns)
        return ASSUMED_ROUND_TRIP_NS if smallest_ns is None else smallest_ns

    def _min_round_trip_ns(self, now_ns: int) -> float:
        smallest_ns = self._round_trips.value(now_ns)
        if smallest_ns is None:
            return math.nan
        _, size_bytes = self._round_trips.least()
        return max(0.0, smallest_ns - self._passing_ns(size_bytes))

    def _passing_ns(self, size_bytes: int) -> float:
        """Return how long some bytes take to pass the link: nothing where its rate is unknown."""
        # A link that was measured to be slow may be fast again: then it is less.
        return 1e9 * size_bytes / max(self._link_bytes_per_s, self._rate_bytes_per_s)
