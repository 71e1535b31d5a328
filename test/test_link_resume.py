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
"""Drain, Hello: how the faces' states go from one server to the next, over real sockets."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from scripted import Running, Scripted, answer_all, ok, serving
from slow_link import Slow

from ferros import link as link_module
from ferros import resume as resume_module
from ferros.drops import Drops
from ferros.link import LinkState
from ferros.resume import LARGEST_BYTES, LONGEST_AGE_NS, Resume
from ferros_proto import recognition_pb2 as wire

STATE = b'sealed' * 100
S = 1_000_000_000


def drain(sealed_state: bytes = b'', reconnect_after_ms: int = 0) -> wire.RecognizeResponse:
    return wire.RecognizeResponse(
        drain=wire.Drain(sealed_state=sealed_state, reconnect_after_ms=reconnect_after_ms)
    )


def draining(sealed_state: bytes = STATE, after_ms: int = 0, times: int = 1) -> Scripted:
    """
    Return a server that drains as ours does: asks to stop, answers, hands the state over.

    It does so behind the third frame of the first streams, as often as it is told.
    """

    def answer(servicer: Scripted, frame: wire.FaceFrame) -> Iterator[wire.RecognizeResponse]:
        yield ok(frame)
        if frame.sequence == 3 and len(servicer.hellos) <= times:
            yield drain()

    servicer = Scripted(answer)
    servicer.farewell = [drain(sealed_state, after_ms)]
    return servicer


def has_left(running: Running) -> bool:
    """Tell whether the robot left a server that drained, and waits to connect anew."""
    report = running.link.report()
    return report.state is LinkState.DRAINING and ' anew, in ' in report.detail


def resume_drops(running: Running) -> dict[str, int]:
    counts = running.drops.counts()
    return {reason: counts[reason] for reason in counts if reason.startswith('resume_state')}


def test_a_state_goes_into_the_next_hello_and_into_no_other() -> None:
    def give_no_other(servicer: Scripted, context: Any) -> None:
        if len(servicer.called_s) == 2:
            servicer.farewell = [drain()]

    servicer = draining(times=2)
    servicer.welcome.resumed = True
    servicer.admit = give_no_other
    with serving(servicer) as port, Running(port) as running:
        running.offer_until(lambda: len(servicer.hellos) == 3)
    assert [hello.resume_state for hello in servicer.hellos] == [b'', STATE, b'']
    assert resume_drops(running) == {}


def test_every_frame_is_answered_before_the_robot_leaves() -> None:
    servicer = draining(times=3)
    with serving(servicer) as port, Running(port) as running:
        running.offer_until(lambda: len(servicer.hellos) == 4)
        running.link.offer([])
        running.until(lambda: running.link.report().bandwidth.in_flight_bytes == 0)
        assert 'unanswered' not in running.drops.counts()
        assert running.link.report().sent_frames == len(servicer.frames)


def test_of_two_states_the_later_one_is_kept_and_one_drain_is_enough_for_it() -> None:
    def drain_at_once(
        servicer: Scripted, frame: wire.FaceFrame
    ) -> Iterator[wire.RecognizeResponse]:
        if len(servicer.hellos) == 2:
            servicer.farewell = [drain(b'late')]
        yield ok(frame)
        yield drain(b'early')

    servicer = Scripted(drain_at_once)
    with serving(servicer) as port, Running(port) as running:
        running.offer_until(lambda: len(servicer.hellos) == 3)
    assert [hello.resume_state for hello in servicer.hellos] == [b'', b'early', b'late']


def test_a_server_that_begins_afresh_is_counted() -> None:
    servicer = draining()
    with serving(servicer) as port, Running(port) as running:
        running.offer_until(lambda: len(servicer.hellos) == 2)
        running.connect()
        assert resume_drops(running) == {'resume_state_refused': 1}


def test_the_state_waits_for_a_server_that_comes_late() -> None:
    first, second = draining(), Scripted(answer_all)
    second.welcome.resumed = True
    with contextlib.ExitStack() as stack:
        with serving(first) as port:
            running = stack.enter_context(Running(port))
            running.offer_until(lambda: len(running.answers) >= 3)
            running.until(lambda: has_left(running))
        running.until(lambda: 'UNAVAILABLE' in running.link.report().detail)
        with serving(second, port):
            running.until(lambda: len(second.hellos) == 1)
            running.connect()
    # It may have come back to the first one before that was gone.
    assert [hello.resume_state for hello in first.hellos[:1] + second.hellos] == [b'', STATE]


def test_a_full_server_that_says_when_to_come_back_has_not_used_the_state() -> None:
    def full_the_second_time(servicer: Scripted, context: Any) -> None:
        if len(servicer.called_s) == 2:
            context.set_trailing_metadata((('grpc-retry-pushback-ms', '100'),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, 'full')

    servicer = draining()
    servicer.admit = full_the_second_time
    with serving(servicer) as port, Running(port) as running:
        running.offer_until(lambda: len(servicer.hellos) == 2)
    assert len(servicer.called_s) >= 3
    assert servicer.hellos[1].resume_state == STATE


def test_a_state_that_a_server_fails_on_is_not_shown_again() -> None:
    def fail_the_second_time(servicer: Scripted, context: Any) -> None:
        if len(servicer.called_s) == 2:
            context.abort(grpc.StatusCode.INTERNAL, 'oh')

    servicer = draining()
    servicer.admit = fail_the_second_time
    with serving(servicer) as port, Running(port) as running:
        running.offer_until(lambda: len(servicer.hellos) == 2)
        assert any(detail == 'INTERNAL: oh' for _, detail in running.changes)
        assert resume_drops(running) == {'resume_state_lost': 1}
    assert servicer.hellos[1].resume_state == b''


def test_a_state_that_is_too_large_is_counted_and_not_kept() -> None:
    servicer = draining(b'x' * (LARGEST_BYTES + 1))
    with serving(servicer) as port, Running(port) as running:
        running.offer_until(lambda: len(servicer.hellos) == 2)
        assert resume_drops(running) == {'resume_state_too_large': 1}
    assert servicer.hellos[1].resume_state == b''


def test_a_state_that_is_too_old_is_counted_and_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume_module, 'LONGEST_AGE_NS', 100_000_000)
    servicer = draining(after_ms=300)
    with serving(servicer) as port, Running(port) as running:
        running.offer_until(lambda: len(servicer.hellos) == 2)
        assert resume_drops(running) == {'resume_state_expired': 1}
    assert servicer.hellos[1].resume_state == b''


def test_a_stopped_link_forgets_the_state() -> None:
    servicer = draining(after_ms=5000)
    with serving(servicer) as port:
        running = Running(port)
        with running:
            running.offer_until(lambda: has_left(running))
        servicer.farewell = []
        with running:
            running.connect()
    assert [hello.resume_state for hello in servicer.hellos] == [b'', b'']
    assert resume_drops(running) == {'resume_state_lost': 1}


def test_frames_do_not_leave_behind_a_state_but_after_the_welcome() -> None:
    servicer = draining()
    with serving(servicer) as port, Running(port, stale_after_ms=60_000) as running:
        running.offer_until(lambda: has_left(running))
        servicer.welcome_after_s = 0.4
        sent = running.link.report().sent_frames
        before: list[int] = []

        def connected() -> bool:
            report = running.link.report()
            if report.state is not LinkState.CONNECTED:
                before.append(report.sent_frames)
            return report.state is LinkState.CONNECTED

        running.offer_until(connected)
        assert set(before) == {sent}
        running.offer_until(lambda: running.link.report().sent_frames > sent)


def test_a_long_hello_on_a_thin_link_does_not_make_it_look_slow_or_long() -> None:
    """12 kB take a second there: a frame right behind them would be that late."""
    servicer = draining(b'x' * 12_000)
    with serving(servicer) as port:
        thin = Slow(f'127.0.0.1:{port}', 12_500)
        try:
            with Running(int(thin.address.rpartition(':')[2])) as running:
                running.offer_until(lambda: len(servicer.hellos) == 2)
                answered = len(running.answers)
                running.offer_until(lambda: len(running.answers) > answered)
                first = running.link.report().bandwidth
                running.offer_until(lambda: len(running.answers) > answered + 10)
                figures = running.link.report().bandwidth
        finally:
            thin.close()
    assert len(servicer.hellos[1].resume_state) == 12_000
    assert first.min_round_trip_ms < 300
    assert figures.min_round_trip_ms < 150
    assert figures.rate_bytes_per_s > 5_000
    assert 'answer_stale' not in running.drops.counts()


# -- when the robot comes back --------------------------------------------------------------------


@pytest.mark.parametrize(('asked_ms', 'least_s', 'most_s'), [(0, 0.03, 0.3), (1000, 0.79, 1.5)])
def test_the_robot_comes_back_when_the_server_asked_it_to(
    asked_ms: int, least_s: float, most_s: float
) -> None:
    ended_s: list[float] = []

    def farewell() -> Iterator[wire.RecognizeResponse]:
        yield drain(STATE, asked_ms)
        ended_s.append(time.monotonic())

    servicer = draining()
    servicer.farewell = farewell()  # type: ignore[assignment]
    with serving(servicer) as port, Running(port) as running:
        running.offer_until(lambda: len(servicer.called_s) == 2)
    assert least_s <= servicer.called_s[1] - ended_s[0] <= most_s
    assert (LinkState.DRAINING, 'the server asked this robot to connect anew') in running.changes


def test_a_server_cannot_send_a_robot_away_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert link_module.RECONNECT_S[1] == 10
    monkeypatch.setattr(link_module, 'RECONNECT_S', (0.05, 0.2))
    servicer = draining(after_ms=4_000_000_000, times=2)
    with serving(servicer) as port, Running(port) as running:
        running.offer_until(lambda: len(servicer.called_s) == 3)


def test_a_robot_without_faces_follows_a_drain_too() -> None:
    class DrainingAtOnce(Scripted):
        def Recognize(self, requests: Any, context: Any) -> Iterator[wire.RecognizeResponse]:
            self.hellos.append(next(requests).hello)
            yield wire.RecognizeResponse(welcome=self.welcome)
            yield drain()
            assert next(requests, None) is None
            yield drain(STATE)

    servicer = DrainingAtOnce(answer_all)
    began_s = time.monotonic()
    with serving(servicer) as port, Running(port) as running:
        running.until(lambda: len(servicer.hellos) == 3)
    assert [hello.resume_state for hello in servicer.hellos] == [b'', STATE, STATE]
    # A server that only ever drains is not asked in a tight loop.
    assert time.monotonic() - began_s > 2 * 0.8 * link_module.FIRST_BACKOFF_S


def test_a_server_that_drains_and_then_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, 'DRAIN_TIMEOUT_NS', 300_000_000)

    def hang() -> Iterator[wire.RecognizeResponse]:
        servicer.release.wait(10)
        yield drain()

    servicer = draining()
    servicer.farewell = hang()  # type: ignore[assignment]
    with serving(servicer) as port, Running(port) as running:
        running.offer_until(lambda: len(servicer.hellos) == 2)
        servicer.release.set()
        assert 'unanswered' not in running.drops.counts()


# -- the decision itself --------------------------------------------------------------------------


def test_a_state_is_kept_for_half_a_minute() -> None:
    drops = Drops()
    resume = Resume(drops)
    resume.keep(STATE, 1e6, 5 * S)
    assert resume.state(5 * S + LONGEST_AGE_NS) == STATE
    assert resume.state(5 * S + LONGEST_AGE_NS + 1) == b''
    assert resume.state(5 * S) == b''
    assert drops.counts() == {'resume_state_expired': 1}


def test_a_state_is_given_until_a_server_took_it() -> None:
    drops = Drops()
    resume = Resume(drops)
    resume.keep(STATE, 1e6, 0)
    assert resume.state(1) == resume.state(2) == STATE
    resume.welcomed(resumed=True)
    assert resume.state(3) == b''
    assert drops.counts() == {}


@pytest.mark.parametrize(
    ('size_bytes', 'rate_bytes_per_s', 'reason'),
    [
        (LARGEST_BYTES, 1e6, None),
        (LARGEST_BYTES + 1, 1e9, 'too_large'),
        # What crosses the link for more than two seconds arrives when the states have reset.
        (16_000, 8_000.0, None),
        (16_001, 8_000.0, 'slow_link'),
    ],
)
def test_a_state_that_is_too_long_is_not_carried(
    size_bytes: int, rate_bytes_per_s: float, reason: str | None
) -> None:
    drops = Drops()
    resume = Resume(drops)
    resume.keep(b'x' * size_bytes, rate_bytes_per_s, 0)
    assert bool(resume.state(0)) is (reason is None)
    assert drops.counts() == ({} if reason is None else {f'resume_state_{reason}': 1})


def test_nothing_to_forget_is_nothing_to_count() -> None:
    drops = Drops()
    resume = Resume(drops)
    resume.drop('lost')
    resume.welcomed(resumed=False)
    assert resume.state(10**18) == b''
    assert drops.counts() == {}
