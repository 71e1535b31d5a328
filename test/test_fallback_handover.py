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
The server comes and goes, the robot reads meanwhile: link, reader and answers joined, without ROS.

The server speaks the wire over a real socket, the model on the robot is the shipped one, and the
face is a real one.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from scripted import WAIT_S, Scripted, ok, serving

from demo import clip
from ferros.answers import Answers
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.inbox import Inbox
from ferros.link import Link, LinkState
from ferros.local_model import LocalModel
from ferros.local_reader import LocalReader
from ferros.types import Box, CameraFrame, Observation, OfferedFace, Source, Track
from ferros_proto import recognition_pb2 as wire

FACE = Box(162, 58, 122, 122)
CAMERA_S = 1 / 30
# From the last answer of the server to the robot's first, and between any two: the issue's.
LONGEST_S = 0.5
# A loaded machine may keep a thread waiting.
SLACK_S = 0.15

pytestmark = pytest.mark.usefixtures('one_thread')


class Said(NamedTuple):
    """What was published on `emotion`, and when."""

    at_s: float
    emotion: Observation


class Frozen(Scripted):
    """A server that answers while its gate is open; what came meanwhile is answered late."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.gate = threading.Event()
        self.gate.set()

    def _answer(
        self, servicer: Scripted, frame: wire.FaceFrame
    ) -> Iterator[wire.RecognizeResponse]:
        self.gate.wait(30)
        yield ok(frame)


class Robot:
    """A camera that sees a face, the link, the reader, and a thread that joins them."""

    def __init__(self, image: np.ndarray, port: int, **parameters: object) -> None:
        config = RobotConfig(
            **{'server_address': f'127.0.0.1:{port}', **parameters}  # type: ignore[arg-type]
        )
        self.image = image
        self.drops = Drops()
        self.answers = Answers(config, self.drops)
        self.inbox = Inbox(self.drops)
        self.link = Link(config, self.drops, self.inbox.put_answer)
        self.reader = LocalReader(LocalModel(), self.drops, self.inbox.put_answer)
        self.said: list[Said] = []
        self.failures: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._look, self._work)
        ]

    def __enter__(self) -> Robot:
        self.link.start()
        self.reader.start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self.inbox.close()
        for thread in self._threads:
            thread.join()
        self.reader.stop()
        self.link.stop()
        assert self.failures == []

    def until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s, (self.speakers(0), self.drops.counts())
            time.sleep(0.005)

    def be_answered(self) -> None:
        """Wait until the server speaks and has done so for a while."""
        self.until(lambda: bool(self.said) and self.said[-1].emotion.source is Source.CLOUD)
        time.sleep(0.5)

    def since(self, begin_s: float) -> list[Said]:
        return [said for said in list(self.said) if said.at_s >= begin_s]

    def speakers(self, begin_s: float) -> list[Source]:
        """Return who spoke since then, one after the other; NONE: the face was `unknown`."""
        sources = [said.emotion.source for said in self.since(begin_s)]
        return [source for source, _ in itertools.groupby(sources)]

    def longest_gap_s(self, begin_s: float) -> float:
        times_s = [begin_s, *(said.at_s for said in self.since(begin_s)), time.monotonic()]
        return max(later - earlier for earlier, later in itertools.pairwise(times_s))

    def _look(self) -> None:
        due_s = time.monotonic()
        while not self._stop.wait(max(0.0, due_s - time.monotonic())):
            due_s += CAMERA_S
            self.inbox.put_image(time.time_ns(), time.monotonic_ns())

    def _work(self) -> None:
        try:
            while (mail := self.inbox.take(self.answers.wait_ns(time.monotonic_ns()))) is not None:
                report = self.link.report()
                self.answers.on_link(report.state is LinkState.CONNECTED, report.interval_ns)
                for answer in mail.answers:
                    self.answers.on_answer(answer, time.monotonic_ns())
                if mail.message is not None:
                    frame = CameraFrame(self.image, mail.message, mail.arrived_ns, 'camera')
                    track = Track('f1', FACE, frame.stamp_ns)
                    self.answers.on_image(frame, [track], time.monotonic_ns())
                    for reader in (self.link, self.reader):
                        reader.offer([OfferedFace('f1', FACE, frame)])
                publication = self.answers.due(time.monotonic_ns())
                if publication is not None and publication.emotion is not None:
                    self.said.append(Said(time.monotonic(), publication.emotion))
                self.reader.want(self.answers.wants_robot(time.monotonic_ns()))
        except BaseException as error:
            self.failures.append(error)


@pytest.fixture(scope='module')
def portrait() -> np.ndarray:
    try:
        return np.asarray(cv2.cvtColor(clip.portrait(), cv2.COLOR_BGR2GRAY), np.uint8)
    except RuntimeError as error:
        pytest.skip(str(error))


def test_a_server_that_freezes_is_stood_in_for_and_handed_back_to(portrait: np.ndarray) -> None:
    servicer = Frozen()
    with serving(servicer) as port, Robot(portrait, port) as robot:
        robot.be_answered()
        assert not robot.answers.wants_robot(time.monotonic_ns())
        frozen_s = time.monotonic()
        servicer.gate.clear()
        robot.until(lambda: Source.ROBOT in robot.speakers(frozen_s))
        first = next(
            said for said in robot.since(frozen_s) if said.emotion.source is Source.ROBOT
        )
        assert first.at_s - frozen_s <= LONGEST_S + SLACK_S
        assert first.emotion.label == 'happiness'
        time.sleep(0.7)
        thawed_s = time.monotonic()
        servicer.gate.set()
        robot.until(lambda: Source.CLOUD in robot.speakers(thawed_s + 0.2))
        took_s = time.monotonic() - thawed_s
        time.sleep(0.5)
        gap_s = robot.longest_gap_s(frozen_s)
    assert 0.9 < took_s < 2.5
    assert robot.speakers(thawed_s) == [Source.ROBOT, Source.CLOUD]
    assert gap_s <= LONGEST_S + SLACK_S
    stamps_ns = [said.emotion.stamp_ns for said in robot.said]
    assert stamps_ns == sorted(set(stamps_ns))


def test_a_server_that_ends_and_comes_back_is_no_different(portrait: np.ndarray) -> None:
    with contextlib.ExitStack() as stack:
        with serving(Frozen()) as port:
            robot = stack.enter_context(Robot(portrait, port))
            robot.be_answered()
        ended_s = time.monotonic()
        robot.until(lambda: Source.ROBOT in robot.speakers(ended_s))
        with serving(Frozen(), port):
            robot.until(lambda: robot.said[-1].emotion.source is Source.CLOUD)
            time.sleep(0.5)
            gap_s = robot.longest_gap_s(ended_s)
    assert gap_s <= LONGEST_S + SLACK_S
    # What the server said last may come out just after its end.
    assert robot.speakers(ended_s)[-2:] == [Source.ROBOT, Source.CLOUD]


@pytest.mark.parametrize(
    ('on_s', 'off_s', 'speaks_last'),
    [
        # Five changes in a second, below what is called a silence; above it.
        (0.2, 0.2, Source.CLOUD),
        (0.4, 0.45, Source.ROBOT),
    ],
)
def test_a_server_that_comes_and_goes_makes_nothing_flicker(
    portrait: np.ndarray, on_s: float, off_s: float, speaks_last: Source
) -> None:
    servicer = Frozen()
    with serving(servicer) as port, Robot(portrait, port) as robot:
        robot.be_answered()
        begin_s, switches = time.monotonic(), robot.answers.report(0).switches
        while time.monotonic() < begin_s + 3:
            servicer.gate.clear()
            time.sleep(off_s)
            servicer.gate.set()
            time.sleep(on_s)
        speakers = robot.speakers(begin_s)
        gap_s = robot.longest_gap_s(begin_s)
        switches = robot.answers.report(0).switches - switches
    # Whatever the machine does to these times, nobody speaks a second time.
    assert len(speakers) == switches + (speakers[0] is Source.CLOUD) <= 2
    assert speakers[-1] is speaks_last or switches
    assert gap_s <= LONGEST_S + SLACK_S


def test_while_the_server_speaks_the_robot_does_not_read(portrait: np.ndarray) -> None:
    with serving(Frozen()) as port, Robot(portrait, port) as robot:
        robot.be_answered()
        before = robot.reader.report().answers
        time.sleep(1.0)
        assert robot.reader.report().answers == before


def test_without_a_server_the_robot_reads_at_its_own_rate(portrait: np.ndarray) -> None:
    with contextlib.ExitStack() as stack:
        with serving(Frozen()) as port:
            pass
        begin_s = time.monotonic()
        robot = stack.enter_context(Robot(portrait, port))
        robot.until(lambda: Source.ROBOT in robot.speakers(0))
        assert time.monotonic() - begin_s < 1.0
        time.sleep(1.5)
        answers = [said for said in robot.said if said.emotion.source is Source.ROBOT]
        elapsed_s = time.monotonic() - begin_s
    assert 5 <= len(answers) <= 5 * elapsed_s + 1.5
    assert {said.emotion.label for said in answers} == {'happiness'}
    assert robot.answers.report(0).switches == 1
