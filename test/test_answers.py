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
from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from ferros.answers import Answers, Publication, nobody
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.types import UNKNOWN, Box, CameraFrame, Observation, Source, Track

MS = 1_000_000
IMAGE = np.zeros((100, 200, 3), np.uint8)


def frame(at_ms: int) -> CameraFrame:
    """One image whose stamp is an hour ahead of the monotonic clock, as stamps may be."""
    return CameraFrame(IMAGE, stamp(at_ms), at_ms * MS, 'camera')


def stamp(at_ms: int) -> int:
    return 3_600_000_000_000 + at_ms * MS


def track(face_id: str = 'a', at_ms: int = 0, side: float = 50) -> Track:
    return Track(face_id, Box(10, 10, side, side), stamp(at_ms))


def answer(at_ms: int, face_id: str = 'a', label: str = 'happiness') -> Observation:
    return nobody(frame(at_ms))._replace(
        face_id=face_id,
        label=label,
        confidence=0.9,
        labels=('neutral', 'happiness'),
        probabilities=(0.1, 0.9),
        source=Source.CLOUD,
    )


def robots(at_ms: int, face_id: str = 'a', label: str = 'neutral') -> Observation:
    """An answer of the robot itself."""
    return answer(at_ms, face_id, label)._replace(source=Source.ROBOT, model='small 1')


def make(**parameters: Any) -> Answers:
    return Answers(RobotConfig(**{'fallback': False, **parameters}), Drops())


def with_fallback(drops: Drops | None = None, **parameters: Any) -> Answers:
    """Return the answers of a robot that is connected and sends ten frames a second."""
    answers = Answers(RobotConfig(**parameters), drops or Drops())
    answers.on_link(True, 100 * MS)
    return answers


def hear(answers: Answers, observation: Observation, at_ms: int | None = None) -> None:
    """Hand over an answer, just when its image came if nothing else is said."""
    answers.on_answer(observation, observation.captured_ns if at_ms is None else at_ms * MS)


def due(answers: Answers, at_ms: int) -> Publication:
    publication = answers.due(at_ms * MS)
    assert publication is not None
    return publication


def test_nothing_is_published_before_the_first_image() -> None:
    assert make().due(0) is None


def test_an_image_without_a_face_is_published_once() -> None:
    answers = make()
    answers.on_image(frame(0), [], 0)
    publication = due(answers, 1)
    assert publication.emotion is not None
    assert publication.emotion.face_id == '' and publication.emotion.label == ''
    assert publication.emotion.source is Source.NONE
    assert publication.faces == ()
    assert answers.due(500 * MS) is None


def test_an_answer_carries_the_stamp_of_its_image_and_the_array_that_of_the_newest() -> None:
    answers = make()
    answers.on_image(frame(0), [track()], 0)
    answers.on_image(frame(33), [track()], 33 * MS)
    hear(answers, answer(0))
    publication = due(answers, 40)
    assert publication.emotion == answer(0)
    assert publication.faces == (answer(0),)
    assert publication.newest.stamp_ns == stamp(33)


def test_a_face_without_an_answer_is_unknown_and_stamped_with_the_newest_image() -> None:
    answers = make()
    answers.on_image(frame(66), [track()], 66 * MS)
    # An answer may still come, which could not repeat the stamp.
    assert answers.due(70 * MS) is None
    assert answers.wait_ns(70 * MS) == 296 * MS
    emotion = due(answers, 366).emotion
    assert emotion is not None
    assert (emotion.label, emotion.face_id, emotion.stamp_ns) == (UNKNOWN, 'a', stamp(66))
    assert emotion.box == Box(10, 10, 50, 50)


def test_an_answer_that_grew_too_old_turns_into_unknown() -> None:
    answers = make(max_age_ms=300)
    answers.on_image(frame(0), [track()], 0)
    hear(answers, answer(0))
    assert due(answers, 10).emotion == answer(0)
    answers.on_image(frame(300), [track()], 300 * MS)
    assert answers.due(300 * MS) is None  # as old as may be, and said before
    answers.on_image(frame(600), [track()], 600 * MS)
    emotion = due(answers, 600).emotion
    assert emotion is not None and emotion.label == UNKNOWN and emotion.stamp_ns == stamp(600)


def test_stamps_only_increase_even_when_answers_come_after_unknown() -> None:
    answers = make(max_age_ms=600)
    answers.on_image(frame(1000), [track()], 1000 * MS)
    assert due(answers, 1300).emotion is not None  # unknown, stamped 1000
    hear(answers, answer(950))
    answers.on_image(frame(1333), [track()], 1333 * MS)
    publication = answers.due(1400 * MS)
    assert publication is None or publication.emotion is None
    hear(answers, answer(1333))
    answers.on_image(frame(1450), [track()], 1450 * MS)
    assert due(answers, 1550).emotion == answer(1333)


@pytest.mark.parametrize('interval_ms', [1000, 1400])
def test_a_slow_camera_has_its_answers_though_each_is_old_when_the_next_image_comes(
    interval_ms: int,
) -> None:
    answers = make()
    for at_ms in range(0, 6 * interval_ms, interval_ms):
        answers.on_image(frame(at_ms), [track()], at_ms * MS)
        assert answers.due(at_ms * MS) is None, 'nothing is overdue yet'
        hear(answers, answer(at_ms))
        assert due(answers, at_ms + 40).emotion == answer(at_ms)


def test_faces_that_nobody_answers_are_unknown_however_fast_the_camera_is() -> None:
    answers = make()
    published = []
    for at_ms in range(0, 3000, 33):
        answers.on_image(frame(at_ms), [track()], at_ms * MS)
        publication = answers.due(at_ms * MS)
        if publication is not None and publication.emotion is not None:
            published.append(at_ms)
    assert published[0] <= 330
    assert all(later - earlier <= 133 for earlier, later in itertools.pairwise(published))


def test_at_most_ten_messages_a_second_are_published_and_the_newest_first() -> None:
    answers = make(publish_rate_hz=10.0)
    published = []
    for index in range(300):
        at_ms = index * 100 // 3
        answers.on_image(frame(at_ms), [track()], at_ms * MS)
        hear(answers, answer(at_ms))
        publication = answers.due(at_ms * MS)
        if publication is not None:
            assert publication.emotion == answer(at_ms)
            published.append(at_ms)
    assert 95 <= len(published) <= 101


def test_nothing_is_published_while_the_camera_is_silent() -> None:
    answers = make(max_age_ms=100)
    answers.on_image(frame(0), [track()], 0)
    hear(answers, answer(0))
    assert due(answers, 0).emotion is not None
    for at_ms in range(0, 5000, 50):
        publication = answers.due(at_ms * MS)
        assert publication is None or publication.emotion is None or at_ms < 200
    assert answers.wait_ns(5000 * MS) is None


def test_what_must_wait_for_the_rate_is_published_when_its_time_comes() -> None:
    answers = make(publish_rate_hz=10.0)
    answers.on_image(frame(0), [], 0)
    due(answers, 0)
    answers.on_image(frame(33), [], 33 * MS)
    wait_ns = answers.wait_ns(33 * MS)
    assert wait_ns is not None and 0 < wait_ns <= 100 * MS
    assert answers.due(33 * MS) is None
    assert answers.due(33 * MS + wait_ns) is not None
    assert answers.wait_ns(33 * MS + wait_ns) is None


def test_an_answer_for_a_face_that_is_gone_is_counted() -> None:
    drops = Drops()
    answers = Answers(RobotConfig(fallback=False), drops)
    answers.on_image(frame(0), [track('b')], 0)
    hear(answers, answer(0, 'a'))
    hear(answers, answer(0, 'b'))
    hear(answers, answer(0, 'b'))
    assert drops.counts() == {'answer_face_gone': 1, 'answer_out_of_order': 1}


def test_the_primary_face_comes_first_and_is_the_one_on_emotion() -> None:
    answers = make()
    answers.on_image(frame(0), [track('small', side=30), track('large', side=60)], 0)
    hear(answers, answer(0, 'small', 'neutral'))
    hear(answers, answer(0, 'large'))
    publication = due(answers, 1)
    assert publication.emotion == answer(0, 'large')
    assert publication.faces == (answer(0, 'large'), answer(0, 'small', 'neutral'))


def test_who_sends_the_faces_is_told_which_one_is_the_primary_face() -> None:
    answers = make()
    assert answers.primary_id is None
    answers.on_image(frame(0), [track('small', side=30), track('large', side=60)], 0)
    assert answers.primary_id == 'large'
    # It stays so while another one is hardly larger, or not for long.
    answers.on_image(frame(33), [track('small', side=61), track('large', side=60)], 33 * MS)
    assert answers.primary_id == 'large'
    answers.on_image(frame(66), [track('small', side=30)], 66 * MS)
    assert answers.primary_id == 'small'
    answers.on_image(frame(99), [], 99 * MS)
    assert answers.primary_id is None
    answers.on_image(frame(132), [track('small')], 132 * MS)
    answers.reset()
    assert answers.primary_id is None


def test_an_answer_about_another_face_is_published_in_the_array_alone() -> None:
    answers = make()
    faces = [track('small', side=30), track('large', side=60)]
    answers.on_image(frame(0), faces, 0)
    hear(answers, answer(0, 'small'))
    hear(answers, answer(0, 'large'))
    due(answers, 0)
    answers.on_image(frame(200), faces, 200 * MS)
    hear(answers, answer(200, 'small'))
    publication = due(answers, 200)
    assert publication.emotion is None
    assert publication.faces == (answer(0, 'large'), answer(200, 'small'))


def test_after_a_reset_older_stamps_are_published_again() -> None:
    answers = make()
    answers.on_image(frame(5000), [], 5000 * MS)
    due(answers, 5000)
    answers.reset()
    answers.on_image(frame(0), [], 5100 * MS)
    assert due(answers, 5100).emotion is not None


def test_time_that_is_set_back_again_and_again_does_not_get_round_the_rate() -> None:
    answers = make(publish_rate_hz=10.0)
    published = 0
    for at_ms in range(0, 2000, 20):
        answers.reset()
        answers.on_image(frame(at_ms), [], at_ms * MS)
        published += answers.due(at_ms * MS) is not None
    assert published <= 21


def test_a_label_that_is_less_sure_than_wanted_is_published_as_unknown() -> None:
    answers = make(min_confidence=0.95)
    answers.on_image(frame(0), [track()], 0)
    hear(answers, answer(0))
    emotion = due(answers, 0).emotion
    assert emotion is not None and emotion == answer(0)._replace(label=UNKNOWN)
    assert (emotion.confidence, emotion.probabilities) == (0.9, (0.1, 0.9))
    answers.configure(RobotConfig(fallback=False, min_confidence=0.85))
    answers.on_image(frame(200), [track(at_ms=200)], 200 * MS)
    hear(answers, answer(200))
    assert due(answers, 200).emotion == answer(200)


def test_rate_and_greatest_age_can_be_changed_while_it_runs() -> None:
    answers = make(publish_rate_hz=1.0, max_age_ms=60_000)
    answers.on_image(frame(0), [track()], 0)
    hear(answers, answer(0))
    due(answers, 0)
    answers.on_image(frame(100), [track()], 100 * MS)
    hear(answers, answer(90))
    assert answers.due(200 * MS) is None
    answers.configure(RobotConfig(fallback=False, publish_rate_hz=20.0, max_age_ms=200))
    assert answers.wait_ns(201 * MS) == 50 * MS
    assert due(answers, 251).emotion == answer(90)
    answers.on_image(frame(310), [track()], 310 * MS)
    emotion = due(answers, 551).emotion
    assert emotion is not None and emotion.label == UNKNOWN


# -- two that answer ------------------------------------------------------------------------------


def watch(answers: Answers, from_ms: int, to_ms: int, **sources: Any) -> list[tuple[int, Any]]:
    """
    Let a face be there from one time to another; return what `emotion` said, and when.

    sources: every how many ms the server (cloud) and the robot, where it is wanted, answer, 40 ms
    and 10 ms after the image; 0: it does not.
    """
    said = []
    for at_ms in range(from_ms, to_ms, 10):
        answers.on_image(frame(at_ms), [track(at_ms=at_ms)], at_ms * MS)
        if sources.get('cloud') and (at_ms - 40) % sources['cloud'] == 0:
            hear(answers, answer(at_ms - 40), at_ms)
        every_ms = sources.get('robot', 0)
        if every_ms and at_ms % every_ms == 10 and answers.wants_robot(at_ms * MS):
            hear(answers, robots(at_ms - 10), at_ms)
        publication = answers.due(at_ms * MS)
        if publication is not None and publication.emotion is not None:
            said.append((at_ms, publication.emotion))
    return said


def changes(said: list[tuple[int, Any]]) -> list[Source]:
    """Return who spoke, one after the other."""
    sources = [emotion.source for _, emotion in said]
    return [b for a, b in zip([None, *sources], sources, strict=False) if a is not b]


def test_the_robots_answers_come_out_when_the_server_fell_silent_and_not_before() -> None:
    answers = with_fallback()
    answers.on_image(frame(0), [track()], 0)
    hear(answers, answer(0))
    due(answers, 0)
    answers.on_image(frame(330), [track(at_ms=330)], 330 * MS)
    hear(answers, robots(330), 335)
    assert answers.due(340 * MS) is None
    wait_ns = answers.wait_ns(340 * MS)
    assert wait_ns is not None and wait_ns <= 10 * MS
    assert due(answers, 350).emotion == robots(330)


def test_while_the_robot_speaks_the_server_does_not_until_it_has_answered_for_a_while() -> None:
    answers = with_fallback()
    said = watch(answers, 0, 2000, cloud=100, robot=200)
    assert changes(said[1:]) == [Source.CLOUD]
    said = watch(answers, 2000, 4000, robot=200)
    assert changes(said) == [Source.ROBOT]
    # The last answer came at 1940 ms; nobody waits for more than the limit, and for the pace.
    assert said[0][0] <= 1940 + 350 + 50
    said = watch(answers, 4000, 6000, cloud=100, robot=200)
    assert changes(said) == [Source.ROBOT, Source.CLOUD]
    first_ms = next(at_ms for at_ms, emotion in said if emotion.source is Source.CLOUD)
    assert 5000 <= first_ms <= 5300


def test_stamps_increase_over_every_change_of_the_speaker() -> None:
    answers = with_fallback(hand_back_after_ms=200)
    said = []
    for begin_ms in range(0, 20_000, 2000):
        said += watch(answers, begin_ms, begin_ms + 1200, cloud=100, robot=200)
        said += watch(answers, begin_ms + 1200, begin_ms + 2000, robot=200)
    stamps_ns = [emotion.stamp_ns for _, emotion in said]
    assert stamps_ns == sorted(set(stamps_ns))
    assert len(changes(said)) > 2


def test_no_old_answer_of_the_server_comes_out_when_it_speaks_again() -> None:
    answers = with_fallback(hand_back_after_ms=0)
    faces = [track('a', 1000, side=60), track('b', 1000)]
    answers.on_image(frame(1000), faces, 1000 * MS)
    hear(answers, robots(1000), 1500)
    assert due(answers, 1500).emotion == robots(1000)
    answers.on_image(frame(1600), faces, 1600 * MS)
    due(answers, 1600)
    # Of an older image; that it came is what lets the server speak.
    hear(answers, answer(900), 1700)
    assert answers.report(1700 * MS).speaker is Source.CLOUD
    publication = answers.due(1710 * MS)
    assert publication is None or publication.emotion is None
    hear(answers, answer(1600), 1750)
    assert due(answers, 1760).emotion == answer(1600)


def test_what_the_one_who_does_not_speak_answers_is_counted_unless_it_came_out_later() -> None:
    drops = Drops()
    answers = with_fallback(drops)
    watch(answers, 0, 1000, cloud=100, robot=200)
    # Read ahead by the robot, and not needed as the server went on.
    hear(answers, robots(990), 1000)
    hear(answers, robots(995), 1001)
    assert drops.counts() == {'robot_answer_not_needed': 1}
    watch(answers, 1010, 3000, robot=200)
    watch(answers, 3000, 3500, cloud=100, robot=200)
    counts = drops.counts()
    assert counts['answer_on_probation'] == 4
    answers.on_image(frame(3600), [], 3600 * MS)
    assert drops.counts()['answer_on_probation'] == 5


def test_who_answered_how_often_and_how_long_ago_is_told() -> None:
    answers = with_fallback()
    report = answers.report(0)
    assert (report.speaker, report.switches, report.age_ns) == (Source.NONE, 0, None)
    assert report.published == {Source.NONE: 0, Source.CLOUD: 0, Source.ROBOT: 0}
    said = watch(answers, 0, 2000, cloud=100, robot=200) + watch(answers, 2000, 3000, robot=200)
    report = answers.report(3000 * MS)
    for source in Source:
        assert report.published[source] == sum(emotion.source is source for _, emotion in said)
    assert (report.speaker, report.switches) == (Source.ROBOT, 1)
    assert report.age_ns is not None and 0 < report.age_ns <= 220 * MS


def test_each_answer_about_each_face_is_told_of_once() -> None:
    answers = make()
    faces = [track('small', side=30), track('large', side=60)]
    for at_ms in range(0, 1000, 100):
        answers.on_image(frame(at_ms), faces, at_ms * MS)
        hear(answers, answer(at_ms, 'large'))
        if at_ms in (0, 500):
            hear(answers, answer(at_ms, 'small'))
        answers.due(at_ms * MS)
    assert answers.report(0).published[Source.CLOUD] == 10 + 2


def test_a_face_that_is_only_kept_is_not_waited_for() -> None:
    """A hidden face is not sent, so that the server is silent about it is no wonder."""
    answers = with_fallback()
    watch(answers, 0, 1000, cloud=100)
    for at_ms in range(1000, 3000, 30):
        answers.on_image(frame(at_ms), [track(at_ms=990)], at_ms * MS)
        answers.due(at_ms * MS)
        assert not answers.wants_robot(at_ms * MS)
    assert answers.report(3000 * MS).switches == 0


def test_other_faces_keep_what_the_server_said_until_the_robot_has_read_them() -> None:
    answers = with_fallback()
    faces = [track('large', side=60), track('small', side=30)]
    answers.on_image(frame(0), faces, 0)
    hear(answers, answer(0, 'large'))
    hear(answers, answer(0, 'small'))
    due(answers, 0)
    for at_ms in range(30, 400, 30):
        seen = [face._replace(seen_ns=stamp(at_ms)) for face in faces]
        answers.on_image(frame(at_ms), seen, at_ms * MS)
        answers.due(at_ms * MS)
    assert answers.wants_robot(400 * MS)
    hear(answers, robots(390, 'large'), 400)
    assert due(answers, 400).faces == (robots(390, 'large'), answer(0, 'small'))


def test_a_reset_forgets_the_faces_and_not_who_speaks() -> None:
    answers = with_fallback()
    watch(answers, 0, 1000, cloud=100)
    watch(answers, 1000, 2000, robot=200)
    answers.reset()
    assert answers.report(2000 * MS).speaker is Source.ROBOT
    assert answers.report(2000 * MS).age_ns is None
    said = watch(answers, 2000, 2500, robot=200)
    assert changes(said[1:]) == [Source.ROBOT]


def test_without_the_fallback_the_server_speaks_however_late() -> None:
    answers = make()
    said = watch(answers, 0, 1000, cloud=100) + watch(answers, 1000, 1800, robot=200)
    said += watch(answers, 1800, 2500, cloud=100)
    assert changes(said[1:]) == [Source.CLOUD]
