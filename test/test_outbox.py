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

from ferros.drops import Drops
from ferros.outbox import Outbox, Ready
from ferros.types import Box, CameraFrame, Codec, OfferedFace, OperatingPoint

MS = 1_000_000
IMAGE = np.zeros((10, 10), np.uint8)


def at_10_fps(face_side_px: float) -> OperatingPoint:
    return OperatingPoint(48, 10.0, Codec.WEBP, 80)


def large_faces_more_often(face_side_px: float) -> OperatingPoint:
    return OperatingPoint(48, 10.0 if face_side_px > 50 else 1.0, Codec.WEBP, 80)


def face(face_id: str, stamp_ms: int, side: float = 60) -> OfferedFace:
    return OfferedFace(face_id, Box(0, 0, side, side), CameraFrame(IMAGE, stamp_ms * MS, 0))


def sent(ready: Ready | None) -> tuple[str, int]:
    assert ready is not None
    return ready.face.face_id, ready.face.frame.stamp_ns // MS


def test_what_waits_is_always_the_newest_image() -> None:
    drops = Drops()
    outbox = Outbox(drops)
    for stamp_ms in (0, 33, 66):
        outbox.offer([face('a', stamp_ms)])
    assert sent(outbox.take(70 * MS, at_10_fps)) == ('a', 66)
    assert outbox.take(70 * MS, at_10_fps) is None
    assert drops.counts() == {'superseded': 2}


def test_a_face_that_is_gone_is_not_sent() -> None:
    drops = Drops()
    outbox = Outbox(drops)
    outbox.offer([face('a', 0), face('b', 0)])
    outbox.offer([face('b', 33)])
    assert sent(outbox.take(40 * MS, at_10_fps)) == ('b', 33)
    assert outbox.take(40 * MS, at_10_fps) is None
    assert drops.counts() == {'superseded': 1, 'face_gone': 1}


def test_the_face_that_waited_longest_goes_first() -> None:
    outbox = Outbox(Drops())
    order = []
    for index in range(9):
        outbox.offer([face(name, index) for name in 'abc'])
        # Room for only one face each time, and all are due.
        order.append(sent(outbox.take(index * 500 * MS, at_10_fps))[0])
    assert sorted(order[:3]) == sorted(order[3:6]) == sorted(order[6:]) == ['a', 'b', 'c']


def test_each_face_has_a_rate_of_its_own() -> None:
    outbox = Outbox(Drops())
    counts = {'near': 0, 'far': 0}
    for now_ms in range(0, 10_000, 20):
        outbox.offer([face('near', now_ms, 100), face('far', now_ms, 20)])
        while (ready := outbox.take(now_ms * MS, large_faces_more_often)) is not None:
            counts[ready.face.face_id] += 1
    assert 95 <= counts['near'] <= 102
    assert 9 <= counts['far'] <= 12


def test_it_says_how_long_until_something_is_due() -> None:
    outbox = Outbox(Drops())
    assert outbox.wait_ns(0, at_10_fps) is None
    outbox.offer([face('a', 0)])
    outbox.take(0, at_10_fps)
    assert outbox.wait_ns(10 * MS, at_10_fps) is None
    outbox.offer([face('a', 33)])
    assert outbox.take(33 * MS, at_10_fps) is None
    wait_ns = outbox.wait_ns(33 * MS, at_10_fps)
    assert wait_ns is not None and 0 < wait_ns < 100 * MS
    assert sent(outbox.take(33 * MS + wait_ns, at_10_fps)) == ('a', 33)


def test_what_is_thrown_away_is_counted_with_the_reason() -> None:
    drops = Drops()
    outbox = Outbox(drops)
    outbox.offer([face('a', 0), face('b', 0)])
    outbox.clear('connection_lost')
    outbox.clear('connection_lost')
    assert drops.counts() == {'connection_lost': 2}
    assert outbox.take(10 * MS, at_10_fps) is None
