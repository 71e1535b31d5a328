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
"""Who speaks, the server or the robot; time is simulated, a millisecond at a time."""

from __future__ import annotations

import pytest

from ferros.config import RobotConfig
from ferros.fallback import LONG_PROBATION_NS, READ_AHEAD_NS, RELAPSE_NS, Fallback
from ferros.types import Source

MS = 1_000_000
AFTER_MS, HAND_BACK_MS = 350, 1000
LONG_PROBATION_MS = LONG_PROBATION_NS // MS


class Robot:
    """A camera of 30 frames per second, a link, and who spoke since when."""

    def __init__(self, **parameters: object) -> None:
        self.fallback = Fallback(RobotConfig(**parameters))  # type: ignore[arg-type]
        self.now_ms = 0
        self.camera_ms = 33
        self.is_connected = True
        self.interval_ms = 100
        self.switches: list[tuple[int, Source]] = []
        self.began_to_read_ms: int | None = None

    def run(self, for_ms: int, answers_every_ms: int = 0, face: bool = True) -> Robot:
        """Go on; answers come from now on, the first one now; 0: none do."""
        begin_ms = self.now_ms
        while self.now_ms < begin_ms + for_ms:
            now_ns = self.now_ms * MS
            self.fallback.on_link(self.is_connected, self.interval_ms * MS)
            if self.now_ms % self.camera_ms == 0:
                self.fallback.on_image(face, now_ns)
            if answers_every_ms and (self.now_ms - begin_ms) % answers_every_ms == 0:
                self.fallback.on_cloud_answer(now_ns)
            before = self.switches[-1][1] if self.switches else Source.CLOUD
            speaker = self.fallback.decide(now_ns)
            if speaker is not before:
                self.switches.append((self.now_ms, speaker))
            if not self.fallback.wants_robot(now_ns):
                self.began_to_read_ms = None
            elif self.began_to_read_ms is None:
                self.began_to_read_ms = self.now_ms
            self.now_ms += 1
        return self

    def fall_silent(self) -> int:
        """Let the server answer for two seconds and then no more; return when it last did."""
        self.run(2000, answers_every_ms=50)
        answered_ms = self.now_ms - 50
        self.run(2000)
        return answered_ms


def test_a_server_that_answers_speaks() -> None:
    robot = Robot().run(20_000, answers_every_ms=100)
    assert robot.switches == [] and robot.fallback.switches == 0
    assert robot.began_to_read_ms is None


def test_the_robot_speaks_once_no_answer_is_younger_than_the_limit() -> None:
    robot = Robot()
    answered_ms = robot.fall_silent()
    assert robot.switches == [(answered_ms + AFTER_MS, Source.ROBOT)]
    assert robot.fallback.switches == 1


def test_the_robot_begins_to_read_a_little_before_it_has_to_speak() -> None:
    robot = Robot()
    answered_ms = robot.fall_silent()
    assert robot.began_to_read_ms == answered_ms + AFTER_MS - READ_AHEAD_NS // MS


def test_it_is_known_when_to_ask_again() -> None:
    fallback = Fallback(RobotConfig())
    fallback.on_link(True, None)
    assert fallback.wait_ns(0) is None
    fallback.on_image(True, 0)
    fallback.on_cloud_answer(10 * MS)
    fallback.on_image(True, 20 * MS)
    assert fallback.wait_ns(20 * MS) == (260 - 20) * MS
    assert fallback.wait_ns(260 * MS) == 100 * MS
    assert fallback.wait_ns(359 * MS) == MS
    assert fallback.wait_ns(360 * MS) == 0 == fallback.wait_ns(400 * MS)
    assert fallback.decide(359 * MS) is Source.CLOUD
    assert fallback.decide(360 * MS) is Source.ROBOT
    # Only an answer can change it now.
    assert fallback.wait_ns(400 * MS) is None


def test_the_server_speaks_again_when_it_has_answered_for_a_while() -> None:
    robot = Robot()
    robot.fall_silent()
    returned_ms = robot.now_ms
    robot.run(3000, answers_every_ms=50)
    assert robot.switches[1:] == [(returned_ms + HAND_BACK_MS, Source.CLOUD)]


def test_how_long_either_takes_can_be_set_and_changed() -> None:
    robot = Robot(fallback_after_ms=200, hand_back_after_ms=0)
    answered_ms = robot.fall_silent()
    robot.run(100, answers_every_ms=50)
    assert robot.switches == [
        (answered_ms + 200, Source.ROBOT), (robot.now_ms - 100, Source.CLOUD)
    ]
    robot.fallback.configure(RobotConfig(fallback_after_ms=700))
    robot.run(2000)
    # Of the two answers of that time the last came 50 ms before its end.
    assert robot.switches[2:] == [(robot.now_ms - 2000 - 50 + 700, Source.ROBOT)]


# -- nobody is silent where there is nothing to say -----------------------------------------------


def test_without_a_face_nobody_is_silent() -> None:
    robot = Robot().run(1000, answers_every_ms=50)
    robot.run(10_000, face=False)
    assert robot.switches == [] and robot.fallback.wait_ns(robot.now_ms * MS) is None


def test_a_face_that_came_just_now_is_given_the_limit() -> None:
    robot = Robot().run(1000, face=False)
    came_ms = -(-robot.now_ms // robot.camera_ms) * robot.camera_ms
    robot.run(1000)
    assert robot.switches == [(came_ms + AFTER_MS, Source.ROBOT)]


@pytest.mark.parametrize('hidden_ms', [40, 150, 300])
def test_a_face_that_is_lost_for_a_moment_now_and_then_puts_nothing_off(hidden_ms: int) -> None:
    robot = Robot().run(1000, answers_every_ms=50)
    answered_ms = robot.now_ms - 50
    for _ in range(5):
        robot.run(66)
        robot.run(hidden_ms, face=False)
    # It is not before it is seen that the robot can speak.
    at_ms, speaker = robot.switches[0]
    assert speaker is Source.ROBOT
    assert 0 <= at_ms - answered_ms - AFTER_MS <= hidden_ms + robot.camera_ms


def test_a_camera_that_stops_is_no_fault_of_the_server() -> None:
    robot = Robot().run(1000, answers_every_ms=50)
    robot.camera_ms = 10**9
    robot.run(100, answers_every_ms=50)
    robot.run(5000)
    robot.camera_ms = 33
    robot.run(100)
    assert robot.switches == []


@pytest.mark.parametrize('camera_ms', [33, 500, 1000, 2000])
@pytest.mark.parametrize('is_planned', [True, False])
def test_whatever_the_camera_a_server_that_answers_speaks_and_a_dead_one_does_not(
    camera_ms: int, is_planned: bool
) -> None:
    robot = Robot()
    robot.camera_ms, robot.interval_ms = camera_ms, camera_ms if is_planned else 33
    for _ in range(10):
        robot.run(100)
        robot.run(camera_ms - 100 if camera_ms > 100 else 1, answers_every_ms=10**6)
    assert robot.switches == []
    robot.run(2 * camera_ms + 2 * AFTER_MS)
    assert [speaker for _, speaker in robot.switches] == [Source.ROBOT]


# -- slow links -----------------------------------------------------------------------------------


@pytest.mark.parametrize(('interval_ms', 'limit_ms'), [(100, 350), (400, 600), (1000, 1500)])
def test_a_link_that_carries_few_frames_is_not_silent_between_them(
    interval_ms: int, limit_ms: int
) -> None:
    robot = Robot()
    robot.interval_ms = interval_ms
    robot.run(10_000, answers_every_ms=interval_ms)
    assert robot.switches == []
    answered_ms = robot.now_ms - interval_ms
    robot.run(3000)
    assert robot.switches == [(answered_ms + limit_ms, Source.ROBOT)]


def test_a_link_that_carries_less_than_a_frame_in_a_second_is_not_waited_for() -> None:
    robot = Robot()
    robot.interval_ms = 5000
    robot.run(30_000, answers_every_ms=5000)
    assert [speaker for _, speaker in robot.switches] == [Source.ROBOT]
    assert robot.switches[0][0] == 1500


def test_a_plan_that_shrinks_while_nothing_comes_back_is_no_reason_to_wait() -> None:
    robot = Robot().run(2000, answers_every_ms=50)
    answered_ms = robot.now_ms - 50
    for interval_ms in range(50, 2000, 50):
        robot.interval_ms = interval_ms
        robot.run(50)
    assert robot.switches == [(answered_ms + AFTER_MS, Source.ROBOT)]


def test_a_plan_that_shrank_during_a_silence_makes_no_silence_of_none() -> None:
    robot = Robot()
    robot.fall_silent()
    for _ in range(10):
        # At the first answer the plan is still that of the silence.
        robot.interval_ms = 900
        robot.run(50, answers_every_ms=50)
        robot.interval_ms = 66
        robot.run(300, answers_every_ms=50)
        robot.run(500)
    assert len(robot.switches) == 1


def test_a_rate_that_is_pinned_anew_is_no_silence() -> None:
    robot = Robot().run(2000, answers_every_ms=50)
    robot.fallback.configure(RobotConfig(frame_rate_fps=1.0))
    robot.interval_ms = 1000
    robot.run(950)
    robot.run(10_000, answers_every_ms=1000)
    assert robot.switches == []


# -- the connection -------------------------------------------------------------------------------


def test_where_there_is_no_server_the_robot_speaks_at_once() -> None:
    robot = Robot()
    robot.is_connected = False
    robot.run(1000)
    assert robot.switches == [(0, Source.ROBOT)]


@pytest.mark.parametrize('interval_ms', [50, 200, 1000])
def test_a_lost_connection_is_a_silence_since_the_last_answer_however_slow_the_link(
    interval_ms: int,
) -> None:
    robot = Robot()
    robot.interval_ms = interval_ms
    robot.run(5000, answers_every_ms=interval_ms)
    answered_ms = robot.now_ms - interval_ms
    robot.is_connected = False
    robot.run(1000)
    assert robot.switches == [(max(5000, answered_ms + AFTER_MS), Source.ROBOT)]


def test_a_server_that_is_changed_for_another_within_the_limit_leaves_no_trace() -> None:
    robot = Robot().run(2000, answers_every_ms=50)
    robot.is_connected = False
    robot.run(250)
    robot.is_connected = True
    robot.run(3000, answers_every_ms=50)
    assert robot.switches == []


# -- servers that come and go ---------------------------------------------------------------------


@pytest.mark.parametrize('on_ms', [100, 200, 400, 600, 950])
@pytest.mark.parametrize('off_ms', [400, 500, 900])
def test_a_server_that_comes_and_goes_is_left_once(on_ms: int, off_ms: int) -> None:
    robot = Robot().run(2000, answers_every_ms=50)
    while robot.now_ms < 30_000:
        robot.run(on_ms, answers_every_ms=50)
        robot.run(off_ms)
    assert [speaker for _, speaker in robot.switches] == [Source.ROBOT]


@pytest.mark.parametrize('off_ms', [50, 100, 200, 250])
def test_pauses_below_the_limit_are_none(off_ms: int) -> None:
    robot = Robot().run(2000, answers_every_ms=50)
    while robot.now_ms < 10_000:
        robot.run(400, answers_every_ms=50)
        robot.run(off_ms)
    assert robot.switches == []


def test_a_server_that_falls_silent_soon_after_it_was_believed_is_believed_later() -> None:
    robot = Robot()
    robot.fall_silent()
    robot.run(1500, answers_every_ms=50)
    robot.run(500)
    assert [speaker for _, speaker in robot.switches] == [
        Source.ROBOT, Source.CLOUD, Source.ROBOT
    ]
    # What was enough the first time is none the second.
    for _ in range(10):
        robot.run(1500, answers_every_ms=50)
        robot.run(500)
    assert len(robot.switches) == 3
    returned_ms = robot.now_ms
    robot.run(RELAPSE_NS // MS + 5000, answers_every_ms=50)
    assert robot.switches[3:] == [(returned_ms + LONG_PROBATION_MS, Source.CLOUD)]
    # It has been good for long enough for that to be forgotten.
    robot.run(1000)
    returned_ms = robot.now_ms
    robot.run(2000, answers_every_ms=50)
    assert robot.switches[5:] == [(returned_ms + HAND_BACK_MS, Source.CLOUD)]


def test_a_trial_is_over_with_the_first_silence_in_it() -> None:
    robot = Robot()
    robot.fall_silent()
    robot.run(900, answers_every_ms=50)
    robot.run(AFTER_MS)
    returned_ms = robot.now_ms
    robot.run(2000, answers_every_ms=50)
    assert robot.switches[1:] == [(returned_ms + HAND_BACK_MS, Source.CLOUD)]


# -- without it -----------------------------------------------------------------------------------


def test_without_the_fallback_the_robot_never_speaks() -> None:
    robot = Robot(fallback=False)
    robot.fall_silent()
    robot.is_connected = False
    robot.run(5000)
    assert robot.switches == [] and robot.began_to_read_ms is None
    assert robot.fallback.wait_ns(robot.now_ms * MS) is None


def test_a_fallback_that_is_turned_off_hands_back_at_once() -> None:
    robot = Robot()
    robot.fall_silent()
    robot.fallback.configure(RobotConfig(fallback=False))
    off_ms = robot.now_ms
    robot.run(1000)
    assert robot.switches[1:] == [(off_ms, Source.CLOUD)]
    assert robot.began_to_read_ms is None
