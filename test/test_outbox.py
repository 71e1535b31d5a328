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

from collections import Counter

import numpy as np
import pytest

from ferros.drops import Drops
from ferros.outbox import MAX_WAIT_NS, Outbox, interval_ns
from ferros.types import Box, CameraFrame, Codec, GridPoint, OfferedFace

MS = 1_000_000
S = 1_000_000_000
IMAGE = np.zeros((10, 10), np.uint8)
FRAME_NS = S // 30


def face(face_id: str, stamp_ms: int = 0) -> OfferedFace:
    return OfferedFace(face_id, Box(0, 0, 60, 60), CameraFrame(IMAGE, stamp_ms * MS, 0))


def at_fps(**rates_fps: float) -> dict[str, GridPoint]:
    return {
        face_id: GridPoint(48, rate_fps, Codec.WEBP, 80, 600, 800, 0.8)
        for face_id, rate_fps in rates_fps.items()
    }


def take(outbox: Outbox, now_ns: int, points: dict[str, GridPoint]) -> tuple[str, int] | None:
    """Take the face to send now; return its id and its stamp in ms."""
    found = outbox.next(now_ns, points)
    if found is None:
        return None
    outbox.take(found, now_ns, interval_ns(points[found.face_id]))
    return found.face_id, found.frame.stamp_ns // MS


def count(points: dict[str, GridPoint], seconds: int, at_once: int = 100) -> Counter[str]:
    """Offer a camera of 30 images per second; return how often each face is sent."""
    outbox, sent = Outbox(Drops()), Counter[str]()
    for index in range(30 * seconds):
        now_ns = index * FRAME_NS
        outbox.offer([face(name) for name in points], now_ns, FRAME_NS)
        for _ in range(at_once):
            taken = take(outbox, now_ns, points)
            if taken is not None:
                sent[taken[0]] += 1
    return sent


def test_what_waits_is_always_the_newest_image() -> None:
    drops = Drops()
    outbox = Outbox(drops)
    for stamp_ms in (0, 33, 66):
        outbox.offer([face('a', stamp_ms)], stamp_ms * MS)
    assert take(outbox, 70 * MS, at_fps(a=10)) == ('a', 66)
    assert take(outbox, 70 * MS, at_fps(a=10)) is None
    assert outbox.is_empty
    assert drops.counts() == {'superseded': 2}


def test_looking_removes_nothing_and_taking_removes_one() -> None:
    outbox = Outbox(Drops())
    outbox.offer([face('a'), face('b')], 0)
    for _ in range(3):
        found = outbox.next(0, at_fps(a=10, b=10))
        assert found is not None and found.face_id == 'a'
    assert take(outbox, 0, at_fps(a=10, b=10)) == ('a', 0)
    found = outbox.next(0, at_fps(a=10, b=10))
    assert found is not None and found.face_id == 'b'


def test_a_face_that_is_gone_is_not_sent() -> None:
    drops = Drops()
    outbox = Outbox(drops)
    outbox.offer([face('a', 0), face('b', 0)], 0)
    outbox.offer([face('b', 33)], 33 * MS)
    assert take(outbox, 40 * MS, at_fps(b=10)) == ('b', 33)
    assert take(outbox, 40 * MS, at_fps(b=10)) is None
    assert drops.counts() == {'superseded': 1, 'face_gone': 1}


def test_the_primary_face_goes_first_then_the_one_that_waited_longest() -> None:
    outbox = Outbox(Drops())
    order = []
    points = at_fps(a=10, b=10, c=10, d=10)
    for index in range(8):
        now_ns = index * 500 * MS
        outbox.offer([face(name) for name in 'abcd'], now_ns)
        # Room for two faces each time, and all are due.
        for _ in range(2):
            taken = take(outbox, now_ns, points)
            assert taken is not None
            order.append(taken[0])
    assert order[::2] == ['a'] * 8
    assert order[1::2] == ['b', 'c', 'd', 'b', 'c', 'd', 'b', 'c']


def test_where_there_is_room_for_one_face_at_a_time_nobody_starves() -> None:
    sent = count(at_fps(a=15, b=5, c=5, d=5), seconds=10, at_once=1)
    assert sent['a'] == pytest.approx(150, rel=0.05)
    for name in 'bcd':
        assert sent[name] == pytest.approx(50, rel=0.1)


@pytest.mark.parametrize('rate_fps', [1.0, 5.0, 8.4, 10.0, 15.0, 30.0])
def test_each_face_has_a_rate_of_its_own_and_keeps_it_on_average(rate_fps: float) -> None:
    sent = count(at_fps(near=rate_fps, far=2), seconds=20)
    assert sent['near'] == pytest.approx(20 * rate_fps, rel=0.03, abs=1)
    assert sent['far'] == pytest.approx(40, abs=2)


def test_whether_a_face_is_due_is_decided_when_its_image_comes() -> None:
    """One that came too early is not sent later: it would be old by then."""
    outbox = Outbox(Drops())
    points = at_fps(a=10)
    outbox.offer([face('a')], 0, FRAME_NS)
    assert take(outbox, 0, points)
    outbox.offer([face('a')], 2 * FRAME_NS, FRAME_NS)
    for late_ms in (0, 30, 60, 200):
        assert take(outbox, 2 * FRAME_NS + late_ms * MS, points) is None
    # The next one is, however long it has to wait for room.
    outbox.offer([face('a')], 3 * FRAME_NS, FRAME_NS)
    assert outbox.next(3 * FRAME_NS, points) is not None
    assert take(outbox, 3 * FRAME_NS + 90 * MS, points)
    # Having waited for room does not delay the one after it.
    outbox.offer([face('a')], 6 * FRAME_NS, FRAME_NS)
    assert take(outbox, 6 * FRAME_NS, points)


def test_ahead_of_time_any_face_is_due() -> None:
    outbox = Outbox(Drops())
    outbox.offer([face('a')], 0, FRAME_NS)
    assert take(outbox, 0, at_fps(a=1))
    outbox.offer([face('a')], FRAME_NS, FRAME_NS)
    assert outbox.next(FRAME_NS, at_fps(a=1)) is None
    assert outbox.next(FRAME_NS, at_fps(a=1), ahead_of_time=True) is not None


def test_an_image_that_waited_too_long_is_dropped_and_counted() -> None:
    drops = Drops()
    outbox = Outbox(drops)
    outbox.offer([face('a'), face('b')], 0)
    assert outbox.next(MAX_WAIT_NS, at_fps(a=10, b=10)) is not None
    assert outbox.next(MAX_WAIT_NS + 1, at_fps(a=10, b=10)) is None
    assert outbox.is_empty
    assert drops.counts() == {'waited_too_long': 2}


def test_a_face_that_left_and_came_back_is_sent_at_once() -> None:
    outbox = Outbox(Drops())
    outbox.offer([face('a')], 0)
    assert take(outbox, 0, at_fps(a=0.1))
    outbox.offer([], FRAME_NS)
    outbox.offer([face('a')], 2 * FRAME_NS)
    assert take(outbox, 2 * FRAME_NS, at_fps(a=0.1))


def test_what_is_thrown_away_is_counted_with_the_reason() -> None:
    drops = Drops()
    outbox = Outbox(drops)
    outbox.offer([face('a'), face('b')], 0)
    outbox.clear('connection_lost')
    outbox.clear('connection_lost')
    assert drops.counts() == {'connection_lost': 2}
    assert take(outbox, 10 * MS, at_fps(a=10, b=10)) is None


def test_every_image_is_sent_or_counted() -> None:
    drops = Drops()
    outbox = Outbox(drops)
    offered = sent = 0
    points = at_fps(**dict.fromkeys('abcdef', 14))
    for index in range(300):
        faces = [face(name) for name in 'abcdef'[: 1 + index % 6]]
        offered += len(faces)
        outbox.offer(faces, index * FRAME_NS, FRAME_NS)
        while take(outbox, index * FRAME_NS, points) is not None:
            sent += 1
    outbox.clear('link_stopped')
    assert sent > 100
    assert offered == sent + sum(drops.counts().values())
