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
"""Scenes out of the messages of another node, in whatever order those come."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ferros.drops import Drops
from ferros.rep155_rules import Region
from ferros.rep155_scene import MAX_TRACKED, Scene, SceneBuilder

START_NS = 1_000_000_000_000
IMAGE_NS = 33_000_000


class Upstream:
    """Feeds a builder the way a node publishes; image n has its stamp and its grey value."""

    def __init__(self, max_faces: int = 8) -> None:
        self.drops = Drops()
        self.said: list[str] = []
        self.builder = SceneBuilder(self.drops, max_faces, self.said.append)
        self.now_ns = 5

    def list(self, number: int, *ids: str, stamp_ns: int | None = None) -> Scene | None:
        self.now_ns += 1
        return self.builder.on_tracked(ids, self._stamp(number, stamp_ns), 'camera', self.now_ns)

    def picture(self, number: int, face_id: str, stamp_ns: int | None = None) -> Scene | None:
        self.now_ns += 1
        picture = np.full((128, 128), number + 1, np.uint8)
        return self.builder.on_picture(
            face_id, picture, self._stamp(number, stamp_ns), 'camera', self.now_ns
        )

    @staticmethod
    def _stamp(number: int, stamp_ns: int | None) -> int:
        return START_NS + number * IMAGE_NS if stamp_ns is None else stamp_ns


def stamps(scene: Scene | None) -> dict[str, int]:
    """Return of each face the number of the image that its picture is from."""
    assert scene is not None
    return {face.face_id: (face.frame.stamp_ns - START_NS) // IMAGE_NS for face in scene.faces}


def test_pictures_before_their_list_make_one_scene_an_image() -> None:
    upstream = Upstream()
    upstream.list(0, 'a', 'b')
    for number in range(1, 6):
        assert upstream.picture(number, 'a') is None
        assert upstream.picture(number, 'b') is None
        scene = upstream.list(number, 'a', 'b')
        assert stamps(scene) == {'a': number, 'b': number}
        assert scene is not None and scene.stamp_ns == START_NS + number * IMAGE_NS


def test_pictures_after_their_list_make_one_scene_an_image_too() -> None:
    upstream = Upstream()
    upstream.list(0, 'a', 'b')
    upstream.picture(0, 'a')
    upstream.picture(0, 'b')
    for number in range(1, 6):
        assert upstream.list(number, 'a', 'b') is None
        assert upstream.picture(number, 'b') is None
        assert stamps(upstream.picture(number, 'a')) == {'a': number, 'b': number}


def test_a_new_face_is_not_waited_for() -> None:
    upstream = Upstream()
    upstream.list(0, 'a')
    assert stamps(upstream.picture(0, 'a')) == {'a': 0}
    assert upstream.list(1, 'a', 'b') is None
    assert stamps(upstream.picture(1, 'a')) == {'a': 1}
    assert stamps(upstream.picture(1, 'b')) == {'a': 1, 'b': 1}


@pytest.mark.parametrize('next_is', ['list', 'picture'])
def test_a_picture_that_does_not_come_is_waited_for_until_the_next_image(next_is: str) -> None:
    upstream = Upstream()
    upstream.list(0, 'a', 'b')
    upstream.picture(0, 'a')
    upstream.picture(0, 'b')
    # b is there, and is not seen any more.
    assert upstream.list(1, 'a', 'b') is None
    assert upstream.picture(1, 'a') is None
    if next_is == 'list':
        late, then = upstream.list(2, 'a', 'b'), upstream.picture(2, 'a')
    else:
        late, then = upstream.picture(2, 'a'), upstream.list(2, 'a', 'b')
    assert late is not None and late.stamp_ns == START_NS + IMAGE_NS
    assert stamps(late) == {'a': 1, 'b': 0}
    # It is waited for once.
    assert stamps(then) == {'a': 2, 'b': 0}
    assert upstream.list(3, 'a', 'b') is None
    assert stamps(upstream.picture(3, 'a')) == {'a': 3, 'b': 0}


def test_faces_that_nobody_sees_any_more_hold_no_scene_back() -> None:
    upstream = Upstream()
    upstream.list(0, 'a')
    upstream.picture(0, 'a')
    assert upstream.list(1, 'a') is None
    for number in range(2, 5):
        scene = upstream.list(number, 'a')
        assert scene is not None and scene.stamp_ns == START_NS + number * IMAGE_NS
    # Gone, it is not waited for either.
    upstream.picture(5, 'a')
    upstream.list(5, 'a')
    scene = upstream.list(6)
    assert scene is not None and scene.faces == ()


def test_pictures_go_on_where_lists_come_only_when_they_change() -> None:
    upstream = Upstream()
    upstream.list(0, 'a')
    assert upstream.picture(1, 'a') is None
    for number in range(2, 6):
        assert stamps(upstream.picture(number, 'a')) == {'a': number - 1}


def test_an_empty_list_makes_a_scene_without_faces() -> None:
    upstream = Upstream()
    upstream.list(0, 'a')
    upstream.picture(0, 'a')
    scene = upstream.list(1)
    assert scene is not None
    assert (scene.ids, scene.faces, scene.frame_id) == ((), (), 'camera')
    assert scene.stamp_ns == START_NS + IMAGE_NS and scene.captured_ns == upstream.now_ns
    # What comes late of a face that is gone does not bring it back.
    assert upstream.picture(1, 'a') is None
    assert upstream.drops.counts() == {'rep155_face_gone': 1}


def test_a_face_that_no_picture_came_of_is_there_all_the_same() -> None:
    upstream = Upstream()
    upstream.list(0, 'a', 'b')
    scene = upstream.picture(0, 'b')
    assert scene is not None and scene.ids == ('a', 'b')
    assert [face.face_id for face in scene.faces] == ['b']


def test_a_face_is_its_picture_without_the_padding() -> None:
    upstream = Upstream()
    upstream.list(0, 'a')
    picture = np.zeros((96, 128, 3), np.uint8)
    picture[:, 30:98] = 7
    scene = upstream.builder.on_picture('a', picture, START_NS, 'head', 77)
    assert scene is not None
    (face,) = scene.faces
    assert face.frame.image.shape == (96, 68, 3) and (face.frame.image == 7).all()
    assert face.box == (0, 0, 68, 96)
    assert (face.frame.stamp_ns, face.frame.captured_ns) == (START_NS, 77)
    assert (face.frame.frame_id, face.frame.size_px) == ('head', (68, 96))


def test_the_largest_faces_are_shown_first_and_only_so_many() -> None:
    upstream = Upstream(max_faces=3)
    upstream.list(0, 'small', 'unknown', 'large', 'middle')
    for name, side in (('small', 0.1), ('large', 0.5), ('middle', 0.3)):
        upstream.builder.on_region(name, Region(0.2, 0.2, 0.2 + side, 0.2 + side))
    for name in ('unknown', 'small', 'large'):
        upstream.picture(0, name)
    scene = upstream.picture(0, 'middle')
    assert scene is not None
    assert [face.face_id for face in scene.faces] == ['large', 'middle', 'small']
    assert scene.faces[0].area == pytest.approx(0.25)
    upstream.builder.max_faces = 4
    scene = upstream.list(0, *scene.ids)
    assert scene is not None and scene.faces[3].face_id == 'unknown'
    assert math.isnan(scene.faces[3].area)


@pytest.mark.parametrize(
    'region',
    [
        Region(math.nan, 0, 1, 1),
        Region(0, 0, 0, 1),
        Region(0.5, 0, 0.4, 1),
        Region(-0.1, 0, 0.5, 0.5),
        Region(0, 0, 320, 240),
        Region(0, 0, math.inf, 1),
    ],
)
def test_a_region_that_is_none_is_counted_and_leaves_the_size_unknown(region: Region) -> None:
    upstream = Upstream()
    upstream.list(0, 'a')
    upstream.builder.on_region('a', Region(0, 0, 0.5, 0.5))
    upstream.builder.on_region('a', region)
    scene = upstream.picture(0, 'a')
    assert scene is not None and math.isnan(scene.faces[0].area)
    assert upstream.drops.counts() == {'rep155_roi_invalid': 1}


def test_ids_that_cannot_be_read_are_counted_by_reason_and_the_others_are_read() -> None:
    upstream = Upstream()
    scene = upstream.list(0, 'a', '23bd5', 'f' * 33, 'b', 'a', 'x' * 100_000, 'a/b')
    assert scene is not None and scene.ids == ('a', 'b')
    assert upstream.drops.counts() == {'rep155_id_invalid': 2, 'rep155_id_too_long': 2}
    # Said once for each reason, and not at length.
    assert len(upstream.said) == 2 and all(len(text) < 200 for text in upstream.said)


def test_a_list_without_end_is_cut_and_those_that_were_there_stay() -> None:
    upstream = Upstream()
    upstream.list(0, 'first', 'second')
    ids = [f'new_{k}' for k in range(200)]
    scene = upstream.list(1, *ids, 'second', 'first')
    assert scene is not None and len(scene.ids) == MAX_TRACKED
    assert {'first', 'second', 'new_0'} < set(scene.ids)
    assert upstream.drops.counts() == {'rep155_too_many_faces': 202 - MAX_TRACKED}


def test_what_comes_out_of_order_or_twice_is_counted() -> None:
    upstream = Upstream()
    upstream.list(5, 'a')
    assert upstream.list(4, 'a', 'b') is None
    assert upstream.builder.ids == ('a',)
    # A list may be repeated for an image: its ids may have changed.
    assert upstream.list(5, 'a', 'b') is not None
    upstream.picture(5, 'a')
    assert upstream.picture(5, 'a') is None
    assert upstream.picture(3, 'a') is None
    assert upstream.drops.counts() == {'rep155_time_backwards': 3}


def test_pictures_without_a_stamp_are_counted_and_lists_without_one_are_followed() -> None:
    upstream = Upstream()
    assert upstream.list(0, 'a', stamp_ns=0) is not None
    assert upstream.picture(0, 'a', stamp_ns=0) is None
    assert upstream.drops.counts() == {'rep155_unstamped': 2}
    upstream.picture(1, 'a')
    scene = upstream.list(0, 'a', 'b', stamp_ns=0)
    assert stamps(scene) == {'a': 1}
    assert scene is not None and scene.stamp_ns == START_NS + IMAGE_NS


@pytest.mark.parametrize('first', ['list', 'picture'])
def test_a_time_that_is_set_back_begins_anew(first: str) -> None:
    upstream = Upstream()
    upstream.list(100, 'a', 'b')
    upstream.picture(100, 'a')
    upstream.picture(100, 'b')
    if first == 'list':
        scene = upstream.list(1, 'a', 'b')
    else:
        assert upstream.picture(1, 'a') is None
        scene = upstream.list(1, 'a', 'b')
    assert scene is not None and scene.stamp_ns == START_NS + IMAGE_NS
    # No picture of the time before is left.
    assert stamps(scene) == ({} if first == 'list' else {'a': 1})
    upstream.picture(2, 'a')
    upstream.picture(2, 'b')
    scene = upstream.list(2, 'a', 'b')
    assert scene is not None and stamps(scene)['b'] == 2
    assert upstream.drops.counts() == {}


def test_a_black_picture_is_counted() -> None:
    upstream = Upstream()
    upstream.list(0, 'a')
    black = np.zeros((128, 128, 3), np.uint8)
    assert upstream.builder.on_picture('a', black, START_NS, '', 1) is None
    assert upstream.drops.counts() == {'rep155_crop_black': 1}
