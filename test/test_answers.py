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

import numpy as np

from ferros.answers import Answers, Publication, nobody
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


def make(publish_rate_hz: float = 10.0, max_age_ms: int = 1000) -> Answers:
    return Answers(publish_rate_hz, max_age_ms * MS, Drops())


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
    answers.on_answer(answer(0))
    publication = due(answers, 40)
    assert publication.emotion == answer(0)
    assert publication.faces == (answer(0),)
    assert publication.newest.stamp_ns == stamp(33)


def test_a_face_without_an_answer_is_unknown_and_stamped_with_the_newest_image() -> None:
    answers = make()
    answers.on_image(frame(66), [track()], 66 * MS)
    emotion = due(answers, 70).emotion
    assert emotion is not None
    assert (emotion.label, emotion.face_id, emotion.stamp_ns) == (UNKNOWN, 'a', stamp(66))
    assert emotion.box == Box(10, 10, 50, 50)


def test_an_answer_that_grew_too_old_turns_into_unknown() -> None:
    answers = make(max_age_ms=300)
    answers.on_image(frame(0), [track()], 0)
    answers.on_answer(answer(0))
    assert due(answers, 10).emotion == answer(0)
    answers.on_image(frame(300), [track()], 300 * MS)
    assert answers.due(300 * MS) is None  # as old as may be, and said before
    answers.on_image(frame(600), [track()], 600 * MS)
    emotion = due(answers, 600).emotion
    assert emotion is not None and emotion.label == UNKNOWN and emotion.stamp_ns == stamp(600)


def test_stamps_only_increase_even_when_answers_come_after_unknown() -> None:
    answers = make(max_age_ms=300)
    answers.on_image(frame(1000), [track()], 1000 * MS)
    assert due(answers, 1000).emotion is not None  # unknown, stamped 1000
    answers.on_answer(answer(950))
    answers.on_image(frame(1033), [track()], 1033 * MS)
    publication = answers.due(1100 * MS)
    assert publication is None or publication.emotion is None
    answers.on_answer(answer(1033))
    answers.on_image(frame(1150), [track()], 1150 * MS)
    assert due(answers, 1250).emotion == answer(1033)


def test_at_most_ten_messages_a_second_are_published_and_the_newest_first() -> None:
    answers = make(publish_rate_hz=10)
    published = []
    for index in range(300):
        at_ms = index * 100 // 3
        answers.on_image(frame(at_ms), [track()], at_ms * MS)
        answers.on_answer(answer(at_ms))
        publication = answers.due(at_ms * MS)
        if publication is not None:
            assert publication.emotion == answer(at_ms)
            published.append(at_ms)
    assert 95 <= len(published) <= 101


def test_nothing_is_published_while_the_camera_is_silent() -> None:
    answers = make(max_age_ms=100)
    answers.on_image(frame(0), [track()], 0)
    answers.on_answer(answer(0))
    assert due(answers, 0).emotion is not None
    for at_ms in range(0, 5000, 50):
        publication = answers.due(at_ms * MS)
        assert publication is None or publication.emotion is None or at_ms < 200
    assert answers.wait_ns(5000 * MS) is None


def test_what_must_wait_for_the_rate_is_published_when_its_time_comes() -> None:
    answers = make(publish_rate_hz=10)
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
    answers = Answers(10, 1000 * MS, drops)
    answers.on_image(frame(0), [track('b')], 0)
    answers.on_answer(answer(0, 'a'))
    answers.on_answer(answer(0, 'b'))
    answers.on_answer(answer(0, 'b'))
    assert drops.counts() == {'answer_face_gone': 1, 'answer_out_of_order': 1}


def test_the_primary_face_comes_first_and_is_the_one_on_emotion() -> None:
    answers = make()
    answers.on_image(frame(0), [track('small', side=30), track('large', side=60)], 0)
    answers.on_answer(answer(0, 'small', 'neutral'))
    answers.on_answer(answer(0, 'large'))
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
    answers.on_answer(answer(0, 'small'))
    answers.on_answer(answer(0, 'large'))
    due(answers, 0)
    answers.on_image(frame(200), faces, 200 * MS)
    answers.on_answer(answer(200, 'small'))
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
