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
"""Who speaks, whatever the server, the link, the camera and the faces do."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from ferros.config import RobotConfig
from ferros.fallback import LONG_PROBATION_NS, LONGEST_INTERVAL_NS, MISSED_INTERVALS, Fallback
from ferros.types import Source

MS = 1_000_000
CONFIG = RobotConfig()
AFTER_NS = CONFIG.fallback_after_ms * MS
HAND_BACK_NS = CONFIG.hand_back_after_ms * MS
LONGEST_LIMIT_NS = round(MISSED_INTERVALS * LONGEST_INTERVAL_NS)
CAMERA_NS = 33 * MS
ROBOT_NS = 200 * MS


class Phase(NamedTuple):
    """How the server does for a while."""

    for_ms: int
    # 0: it does not answer.
    answers_every_ms: int
    # Of the answers the first comes so late.
    late_ms: int = 0
    is_connected: bool = True
    face: bool = True
    interval_ms: int = 66


class Run:
    """What came of some phases; whoever runs the decision wakes when it says, and no later."""

    def __init__(self, phases: list[Phase]) -> None:
        self.fallback = Fallback(CONFIG)
        # Who spoke from when on.
        self.speakers: list[tuple[int, Source]] = [(0, Source.CLOUD)]
        # When something was said: an answer of the one who spoke then.
        self.said_ns: list[int] = []
        self.now_ns = 0
        self.read_ns = -ROBOT_NS
        for phase in phases:
            self.go_through(phase)

    def go_through(self, phase: Phase) -> None:
        begin_ns, end_ns = self.now_ns, self.now_ns + phase.for_ms * MS
        answer_ns = begin_ns + phase.late_ms * MS if phase.answers_every_ms else end_ns
        image_ns = begin_ns
        while self.now_ns < end_ns:
            self.fallback.on_link(phase.is_connected, phase.interval_ms * MS)
            if self.now_ns >= image_ns:
                self.fallback.on_image(phase.face, self.now_ns)
                image_ns += CAMERA_NS
            if self.now_ns >= answer_ns:
                self.fallback.on_cloud_answer(self.now_ns)
                answer_ns += phase.answers_every_ms * MS
                if self.fallback.decide(self.now_ns) is Source.CLOUD:
                    self.said_ns.append(self.now_ns)
            self.look(phase.face)
            wait_ns = self.fallback.wait_ns(self.now_ns)
            steps = [image_ns, answer_ns, end_ns]
            if wait_ns is not None:
                steps.append(self.now_ns + wait_ns)
            if phase.face and self.fallback.wants_robot(self.now_ns):
                steps.append(self.read_ns + ROBOT_NS)
            self.now_ns = max(min(steps), self.now_ns + 1000)

    def look(self, face: bool) -> None:
        speaker = self.fallback.decide(self.now_ns)
        if speaker is not self.speakers[-1][1]:
            self.speakers.append((self.now_ns, speaker))
            if speaker is Source.ROBOT and self.read_ns > self.now_ns - ROBOT_NS:
                # It had read ahead.
                self.said_ns.append(self.now_ns)
        wants = self.fallback.wants_robot(self.now_ns)
        if face and wants and self.now_ns >= self.read_ns + ROBOT_NS:
            self.read_ns = self.now_ns
            if speaker is Source.ROBOT:
                self.said_ns.append(self.now_ns)

    def since(self, source: Source) -> list[int]:
        """Return when a speaker began to speak, each time."""
        return [at_ns for at_ns, speaker in self.speakers[1:] if speaker is source]


phases_of_anything = st.lists(
    st.builds(
        Phase,
        for_ms=st.integers(1, 2500),
        answers_every_ms=st.one_of(st.just(0), st.integers(1, 1200)),
        late_ms=st.integers(0, 400),
        is_connected=st.booleans(),
        face=st.booleans(),
        interval_ms=st.integers(10, 10_000),
    ),
    max_size=12,
)
# A face that is there all the time, a link that is what it is planned as.
phases_of_a_server = st.lists(
    st.builds(
        Phase,
        for_ms=st.integers(1, 2500),
        answers_every_ms=st.one_of(st.just(0), st.integers(1, 300)),
        late_ms=st.integers(0, 300),
        is_connected=st.just(True),
        face=st.just(True),
        interval_ms=st.just(66),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(phases_of_anything, phases_of_a_server))
def test_the_two_never_take_turns_quickly(phases: list[Phase]) -> None:
    run = Run(phases)
    handed_back = run.since(Source.CLOUD)
    for earlier, later in itertools.pairwise(handed_back):
        assert later - earlier >= AFTER_NS + LONG_PROBATION_NS
    for begun in run.since(Source.ROBOT):
        ends = [at_ns for at_ns in handed_back if at_ns > begun]
        assert not ends or ends[0] - begun >= HAND_BACK_NS
    # What follows of that for the switches within any time.
    switches = [at_ns for at_ns, _ in run.speakers[1:]]
    for index, first in enumerate(switches):
        for number, last in enumerate(switches[index:], start=1):
            assert number <= 3 + 2 * (last - first) / (AFTER_NS + LONG_PROBATION_NS)


@settings(max_examples=150, deadline=None)
@given(phases_of_a_server)
def test_a_face_is_never_without_an_answer_for_longer_than_the_limit(phases: list[Phase]) -> None:
    run = Run([*phases, Phase(1000, 0)])
    said_ns = [0, *run.said_ns, run.now_ns]
    gaps_ns = [later - earlier for earlier, later in itertools.pairwise(said_ns)]
    # Nothing is told before its time, and a step is a microsecond.
    assert max(gaps_ns) <= AFTER_NS + MS


@settings(max_examples=150, deadline=None)
@given(phases_of_anything)
def test_a_silence_is_never_longer_than_the_slowest_link_allows(phases: list[Phase]) -> None:
    run = Run([*phases, Phase(LONGEST_LIMIT_NS // MS + 100, 0)])
    assert run.fallback.decide(run.now_ns) is Source.ROBOT


@settings(max_examples=150, deadline=None)
@given(phases_of_anything, st.integers(1, 350), st.booleans())
def test_a_server_that_goes_on_answering_speaks_within_two_and_a_half_seconds(
    phases: list[Phase], answers_every_ms: int, pauses: bool
) -> None:
    before = [*phases, Phase(2000, 0)] if pauses else phases
    run = Run([*before, Phase(2500, answers_every_ms)])
    assert run.fallback.decide(run.now_ns) is Source.CLOUD
    handed_back = [at_ns for at_ns in run.since(Source.CLOUD) if at_ns > run.now_ns - 2500 * MS]
    assert all(run.now_ns - at_ns >= 0 for at_ns in handed_back)
    if pauses:
        assert len(handed_back) == 1
        took_ns = handed_back[0] - (run.now_ns - 2500 * MS)
        assert HAND_BACK_NS <= took_ns <= LONG_PROBATION_NS + answers_every_ms * MS


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 950), st.integers(AFTER_NS // MS + 20, 900), st.integers(1, 60)),
        min_size=5, max_size=30,
    )
)
def test_a_server_that_comes_and_goes_every_few_hundred_milliseconds_is_left_once(
    times: list[tuple[int, int, int]],
) -> None:
    phases = [Phase(2000, 50)]
    for on_ms, off_ms, answers_every_ms in times:
        phases += [Phase(on_ms, answers_every_ms), Phase(off_ms, 0)]
    assert [speaker for _, speaker in Run(phases).speakers] == [Source.CLOUD, Source.ROBOT]
