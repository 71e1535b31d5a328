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
"""Parameters of the link that change while it runs, against real servers."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import Running, Scripted, answer_all, face, ok, serving

from ferros import link as link_module
from ferros.channel import AccessError
from ferros.config import RobotConfig
from ferros.link import LinkState
from ferros_proto import recognition_pb2 as wire

STATES = [LinkState.CONNECTING, LinkState.CONNECTED, LinkState.DRAINING]


def change(running: Running, port: int, **parameters: Any) -> None:
    """Give the link the parameters that Running gives it, with these changed."""
    address = {'server_address': f'127.0.0.1:{port}', 'robot_id': 'r'}
    running.link.reconfigure(RobotConfig(**{**address, **parameters}))  # type: ignore[arg-type]


def states(running: Running) -> list[LinkState]:
    return [state for state, _ in running.changes]


class Departure(Scripted):
    """A server that notes whether a robot left it in an orderly way."""

    def __init__(self) -> None:
        super().__init__(answer_all)
        self.half_closed = threading.Event()
        self.farewell = self._on_half_close()  # type: ignore[assignment]

    def _on_half_close(self) -> Iterator[wire.RecognizeResponse]:
        # Only asked for when the robot has ended its half of the stream.
        self.half_closed.set()
        yield from ()


# -- pins and limits ------------------------------------------------------------------------------


def test_pins_hold_from_the_next_face_on_and_the_stream_goes_on() -> None:
    servicer = Scripted(answer_all)
    with serving(servicer) as port, Running(port) as running:
        running.offer_until(lambda: len(running.answers) >= 30)
        before = running.link.report().bandwidth
        change(
            running, port, face_size_px=20, codec='jpeg', quality=30, frame_rate_fps=20.0
        )
        sent = len(servicer.frames)
        running.offer_until(lambda: len(servicer.frames) >= sent + 10)
        report = running.link.report()
        pinned = servicer.frames[sent + 1 : sent + 10]
        change(running, port)
        sent = len(servicer.frames)
        running.offer_until(lambda: len(servicer.frames) >= sent + 10)
        free = servicer.frames[sent + 1 :]
    assert all(frame.codec == wire.JPEG and frame.interval_ms == 50 for frame in pinned)
    assert report.plan is not None
    point = report.plan.points['a']
    assert (point.face_size_px, point.quality, report.interval_ns) == (20, 30, 50_000_000)
    assert all(frame.codec == wire.WEBP for frame in free)
    # What was known of the path is not learnt anew.
    assert report.bandwidth.sent_bytes > before.sent_bytes
    assert report.bandwidth.rate_bytes_per_s >= before.rate_bytes_per_s / 2
    assert report.bandwidth.min_round_trip_ms <= before.min_round_trip_ms + 5
    assert len(servicer.hellos) == 1 and states(running) == [*STATES[:2], LinkState.STOPPED]
    assert 'unanswered' not in running.drops.counts()


def test_a_data_limit_holds_at_once_and_no_longer_than_it_is_set() -> None:
    servicer = Scripted(answer_all)
    with serving(servicer) as port, Running(port) as running:
        running.offer_until(lambda: len(running.answers) >= 30)

        def sent_in(seconds: float) -> int:
            began_s, sent = time.monotonic(), len(servicer.frames)
            running.offer_until(lambda: time.monotonic() - began_s > seconds)
            return len(servicer.frames) - sent

        free = sent_in(0.7)
        change(running, port, data_limit_kbit_per_s=2.0)
        # Two seconds' worth may leave at once.
        sent_in(0.3)
        limited = sent_in(0.7)
        change(running, port)
        sent_in(0.3)
        freed = sent_in(0.7)
    assert limited <= 2 < free / 2 and freed > free / 2
    assert len(servicer.hellos) == 1


def test_when_an_answer_is_too_old_can_be_changed() -> None:
    def answer_slowly(
        servicer: Scripted, frame: wire.FaceFrame
    ) -> Iterator[wire.RecognizeResponse]:
        # The first ones are quick, so that the path is known as short.
        time.sleep(0.12 if frame.sequence > 5 else 0.0)
        yield ok(frame)

    patient = {'stale_after_ms': 60_000}
    with serving(Scripted(answer_slowly)) as port, Running(port, **patient) as running:
        running.offer_until(lambda: len(running.answers) >= 8)
        assert 'answer_stale' not in running.drops.counts()
        change(running, port, stale_after_ms=60)
        running.offer_until(lambda: running.drops.counts().get('answer_stale', 0) >= 3)
        change(running, port, **patient)
        before = len(running.answers)
        running.offer_until(lambda: len(running.answers) >= before + 3)


def test_an_attempt_that_takes_too_long_by_a_new_limit_is_given_up() -> None:
    with contextlib.closing(socket.create_server(('127.0.0.1', 0))) as silent:
        port = silent.getsockname()[1]
        with Running(port, connect_timeout_ms=60_000) as running:
            running.until(lambda: bool(running.changes))
            change(running, port, connect_timeout_ms=200)
            running.until(lambda: running.link.report().state is LinkState.WAITING)
            assert 'within 200 ms' in running.link.report().detail


def test_changing_parameters_takes_its_caller_no_time() -> None:
    with serving(Scripted(answer_all)) as port, Running(port) as running:
        running.connect()
        took_s = []
        for number in range(100):
            running.link.offer([face('a'), face('b')])
            began_s = time.monotonic()
            change(running, port, quality=1 + number, data_limit_kbit_per_s=100.0 + number)
            took_s.append(time.monotonic() - began_s)
            time.sleep(0.005)
        running.offer_until(lambda: len(running.answers) >= 3)
    assert statistics.median(took_s) < 0.005


# -- another server -------------------------------------------------------------------------------


def test_the_old_server_is_left_in_order_and_the_new_one_connected_at_once() -> None:
    old, new = Departure(), Scripted(answer_all)
    new.welcome.model, new.welcome.input_size_px = 'other 2', 40
    with serving(old) as port, serving(new) as other_port, Running(port) as running:
        assert running.link.report().input_size_px == 0
        running.offer_until(lambda: len(running.answers) >= 10)
        assert running.link.report().input_size_px == 48
        change(running, other_port)
        changed_s = time.monotonic()
        running.offer_until(lambda: bool(new.frames))
        report = running.link.report()
        assert old.half_closed.is_set()
        assert new.called_s[0] - changed_s < 0.5
        assert (report.model, report.input_size_px) == ('other 2', 40)
        running.offer_until(lambda: len(new.frames) > 3)
    # All that the old one was sent it has answered.
    assert 'unanswered' not in running.drops.counts()
    assert states(running) == [*STATES, *STATES[:2], LinkState.STOPPED]
    assert (LinkState.DRAINING, f'leaving for 127.0.0.1:{other_port}') in running.changes
    assert len(old.hellos) == len(new.hellos) == 1


def test_what_is_in_flight_is_still_answered() -> None:
    def answer_late(servicer: Scripted, frame: wire.FaceFrame) -> Iterator[wire.RecognizeResponse]:
        servicer.release.wait(5)
        time.sleep(0.1)
        yield ok(frame)

    old = Scripted(answer_late)
    with serving(old) as port, serving(Scripted(answer_all)) as other_port:
        with Running(port, stale_after_ms=60_000) as running:
            running.connect()
            running.offer_until(lambda: bool(old.frames))
            running.link.offer([])
            change(running, other_port, stale_after_ms=60_000)
            running.until(lambda: running.link.report().state is LinkState.DRAINING)
            old.release.set()
            running.until(lambda: bool(running.answers))
            running.connect()
        assert 'unanswered' not in running.drops.counts()
        assert running.link.report().model == 'scripted 1'


def test_a_server_that_does_not_answer_keeps_nobody_from_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, 'LEAVE_TIMEOUT_NS', 300_000_000)

    def hang(servicer: Scripted, frame: wire.FaceFrame) -> Iterator[wire.RecognizeResponse]:
        servicer.release.wait(10)
        yield ok(frame)

    old, new = Scripted(hang), Scripted(answer_all)
    with serving(old) as port, serving(new) as other_port, Running(port) as running:
        running.connect()
        running.offer_until(lambda: bool(old.frames))
        change(running, other_port)
        changed_s = time.monotonic()
        running.offer_until(lambda: bool(running.answers))
        assert 0.25 < new.called_s[0] - changed_s < 2
        assert running.drops.counts()['unanswered'] >= 1
        old.release.set()


def test_a_pause_before_the_next_attempt_ends_with_a_new_address() -> None:
    refusing = Scripted(answer_all)
    refusing.welcome.protocol_version = 7
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serving(refusing))
        other_port = stack.enter_context(serving(Scripted(answer_all)))
        running = stack.enter_context(Running(port))
        running.wait()
        assert 'protocol version 7' in running.link.report().detail
        change(running, other_port)
        changed_s = time.monotonic()
        running.connect()
        # A refusal is followed by ten seconds.
        assert time.monotonic() - changed_s < 3


def test_an_attempt_that_hangs_is_given_up_for_another_address() -> None:
    with contextlib.closing(socket.create_server(('127.0.0.1', 0))) as silent:
        port = silent.getsockname()[1]
        with serving(Scripted(answer_all)) as other_port, Running(port) as running:
            running.until(lambda: bool(running.changes))
            time.sleep(0.1)
            change(running, other_port, connect_timeout_ms=60_000)
            changed_s = time.monotonic()
            running.connect()
            assert time.monotonic() - changed_s < 3
            assert LinkState.WAITING not in states(running)


def test_of_several_addresses_the_last_one_counts() -> None:
    servicers = [Scripted(answer_all) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(serving(servicer)) for servicer in servicers]
        running = stack.enter_context(Running(ports[0]))
        for number in range(31):
            change(running, ports[number % 3])
            time.sleep(0.02 * (number % 4))
        running.offer_until(lambda: len(servicers[0].frames) > 3)
        running.until(lambda: running.link.report().state is LinkState.CONNECTED)
        time.sleep(0.2)
        before = [len(servicer.frames) for servicer in servicers]
        running.offer_until(lambda: len(servicers[0].frames) > before[0] + 5)
        assert [len(servicer.frames) for servicer in servicers[1:]] == before[1:]


def test_a_server_may_come_back_where_it_was() -> None:
    first, second = Departure(), Departure()
    with serving(first) as port, serving(second) as other_port, Running(port) as running:
        running.offer_until(lambda: len(running.answers) >= 3)
        change(running, other_port)
        running.offer_until(lambda: len(second.frames) >= 3)
        change(running, port)
        running.offer_until(lambda: len(first.hellos) == 2)
        assert second.half_closed.is_set()


def test_another_token_is_shown_to_the_same_server_in_a_new_stream(tmp_path: Path) -> None:
    servicer = Scripted(answer_all)
    files = []
    for word in ('one', 'two'):
        files.append(tmp_path / word)
        files[-1].write_text(word)
    with serving(servicer) as port, Running(port, token_file=str(files[0])) as running:
        running.offer_until(lambda: bool(running.answers))
        change(running, port, token_file=str(files[1]))
        running.offer_until(lambda: len(servicer.hellos) == 2)
    assert [call['authorization'] for call in servicer.metadata] == ['Bearer one', 'Bearer two']


@pytest.mark.parametrize('name', ['tls_ca_file', 'token_file'])
def test_a_file_that_cannot_be_used_is_refused_and_nothing_changes(
    name: str, tmp_path: Path
) -> None:
    path = str(tmp_path / 'missing')
    servicer = Scripted(answer_all)
    with serving(servicer) as port, Running(port) as running:
        running.offer_until(lambda: len(running.answers) >= 3)
        with pytest.raises(AccessError, match=f'{name} is .*missing'):
            change(running, port + 1, **{name: path}, face_size_px=20)
        before = len(running.answers)
        running.offer_until(lambda: len(running.answers) >= before + 5)
        plan = running.link.report().plan
        assert plan is not None and plan.points['a'].face_size_px != 20
    assert len(servicer.hellos) == 1


def test_parameters_may_change_before_the_link_is_started_and_after_it_was_stopped() -> None:
    first, second = Scripted(answer_all), Scripted(answer_all)
    with serving(first) as port, serving(second) as other_port:
        running = Running(1)
        change(running, port)
        with running:
            running.connect()
        change(running, other_port)
        with running:
            running.connect()
    assert len(first.hellos) == len(second.hellos) == 1


# -- what is left behind --------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='needs /proc/self/fd')
def test_fifty_starts_and_stops_leave_neither_threads_nor_descriptors() -> None:
    servicer = Scripted(answer_all)

    def left() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir('/proc/self/fd'))

    with serving(servicer) as port:
        running = Running(port)

        def once() -> None:
            with running:
                running.connect()
                answered = len(running.answers)
                running.offer_until(lambda: len(running.answers) > answered)

        # gRPC makes some of its own at first, and keeps them.
        for _ in range(5):
            once()
        threads, descriptors = left()
        for _ in range(50):
            once()
        # Some versions of gRPC close a few of their sockets later, which is no leak.
        running.until(lambda: left()[0] <= threads + 2 and left()[1] <= descriptors + 20)
    assert len(servicer.hellos) == 55
