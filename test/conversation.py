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
A conversation with a server over one link, as the estimator sees it; simulated.

The link serialises: a message arrives when all before it have, and its own bytes took their time.
Answers come straight back.
"""

from __future__ import annotations

from collections.abc import Callable

from ferros.bandwidth import Acknowledged, Bandwidth, BandwidthEstimator

MS = 1_000_000
S = 1_000_000_000


class Conversation:
    """
    Sends messages over a link of a rate and hands the answers to an estimator in their time.

    Args:
        estimator: what is tested; one that has a history may be given.
        rate_bytes_per_s: the link's; may be changed at any time, for what is sent from then on.
        round_trip_ns: of the empty path.
        server_clock_ns: of a time of the robot's clock, what the server's clock shows then.
        now_ns: when the conversation begins.

    """

    def __init__(
        self,
        estimator: BandwidthEstimator,
        rate_bytes_per_s: float,
        round_trip_ns: int = 40 * MS,
        server_clock_ns: Callable[[int], int] = lambda now_ns: now_ns,
        now_ns: int = 0,
        first_sequence: int = 1,
    ) -> None:
        self.estimator = estimator
        self.rate_bytes_per_s = rate_bytes_per_s
        self.round_trip_ns = round_trip_ns
        self.now_ns = now_ns
        self.acknowledged: list[Acknowledged] = []
        self._server_clock_ns = server_clock_ns
        self._next_sequence = first_sequence
        self._link_free_ns = now_ns
        # When it arrives at the server, when its answer is back, its sequence number.
        self._on_the_way: list[tuple[int, int, int]] = []

    def send(
        self, size_bytes: int, held_until_ns: int = 0, answer_held_until_ns: int = 0
    ) -> None:
        """Send a message now; it arrives no sooner than held_until_ns, nor do those after it."""
        self.estimator.sent(self._next_sequence, size_bytes, self.now_ns)
        began_ns = max(self.now_ns, self._link_free_ns)
        self._link_free_ns = began_ns + round(1e9 * size_bytes / self.rate_bytes_per_s)
        arrived_ns = max(self._link_free_ns + self.round_trip_ns // 2, held_until_ns)
        if self._on_the_way:
            arrived_ns = max(arrived_ns, self._on_the_way[-1][0])
        answered_ns = max(arrived_ns + self.round_trip_ns // 2, answer_held_until_ns)
        self._on_the_way.append((arrived_ns, answered_ns, self._next_sequence))
        self._next_sequence += 1

    def advance_to(self, now_ns: int) -> None:
        """Let the time pass and the answers come."""
        while self._on_the_way and self._on_the_way[0][1] <= now_ns:
            self.next_answer()
        self.now_ns = max(self.now_ns, now_ns)

    def next_answer(self) -> None:
        """Let the time pass until the next answer comes."""
        arrived_ns, answered_ns, sequence = self._on_the_way.pop(0)
        self.now_ns = max(self.now_ns, answered_ns)
        message = self.estimator.answered(
            sequence, self._server_clock_ns(arrived_ns), 0, self.now_ns
        )
        assert message is not None
        self.acknowledged.append(message)

    def settle(self) -> None:
        """Let the time pass until all is answered."""
        while self._on_the_way:
            self.next_answer()

    def send_every(self, interval_ns: int, size_bytes: int, count: int) -> None:
        """Send messages at an even pace, whatever comes back."""
        for _ in range(count):
            self.send(size_bytes)
            self.advance_to(self.now_ns + interval_ns)

    def send_as_allowed(
        self, size_bytes: int, until_ns: int, probes: bool = True
    ) -> None:
        """
        Send as a sender with endless data would: within the window, or when all is answered.

        Once a second one message more follows the last one, as the sender's probes do where
        nothing queues.
        """
        probed_ns = self.now_ns
        while self.now_ns < until_ns:
            while self.may_send(size_bytes):
                self.send(size_bytes)
            if probes and self.now_ns - probed_ns > S:
                probed_ns = self.now_ns
                self.send(size_bytes)
            self.next_answer()

    def may_send(self, size_bytes: int) -> bool:
        """Tell whether the estimator has room for a message."""
        figures = self.figures
        return (
            not figures.in_flight_bytes
            or figures.in_flight_bytes + size_bytes <= figures.window_bytes
        )

    @property
    def unanswered(self) -> int:
        """Return how many messages are on the way."""
        return len(self._on_the_way)

    @property
    def figures(self) -> Bandwidth:
        """Return the estimator's figures as of now."""
        return self.estimator.estimate(self.now_ns)
