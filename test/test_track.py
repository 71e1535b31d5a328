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
"""A face keeps its id while it stays, and nobody else gets it."""

from __future__ import annotations

import itertools
import math
import random
import re

import pytest

from ferros.track import Tracker, match
from ferros.types import Box, Track

MS = 1_000_000
FRAME_MS = 33


def box(x: float, y: float = 100, side: float = 80) -> Box:
    """Return a square around a centre."""
    return Box(x - side / 2, y - side / 2, side, side)


def tracker(**settings: int) -> Tracker:
    return Tracker(random_source=random.Random(1), **settings)


def ids(tracks: list[Track]) -> list[str]:
    return [track.face_id for track in tracks]


def run(
    following: Tracker, images: list[list[Box]], start_ms: int = 0, step_ms: int = FRAME_MS
) -> list[list[Track]]:
    """Show the images' boxes one after the other."""
    return [
        following.update(boxes, (start_ms + index * step_ms) * MS)
        for index, boxes in enumerate(images)
    ]


def test_a_face_that_stays_keeps_its_id() -> None:
    seen = run(tracker(), [[box(100 + index)] for index in range(100)])
    assert len({face_id for tracks in seen[1:] for face_id in ids(tracks)}) == 1


def test_an_id_starts_with_a_letter_is_short_and_differs_between_trackers() -> None:
    found = set()
    for seed in range(50):
        following = Tracker(confirm_hits=1, random_source=random.Random(seed))
        (track,) = following.update([box(100)], 0)
        assert re.fullmatch('[a-z][a-z0-9_]{2,31}', track.face_id)
        found.add(track.face_id)
    assert len(found) == 50


def test_without_a_random_source_two_trackers_differ() -> None:
    assert ids(Tracker(confirm_hits=1).update([box(0)], 0)) != ids(
        Tracker(confirm_hits=1).update([box(0)], 0)
    )


def test_a_face_is_reported_from_its_second_detection_on() -> None:
    first, second = run(tracker(), [[box(100)], [box(101)]])
    assert first == []
    assert [track.box for track in second] == [box(101)]


def test_a_single_false_detection_never_becomes_a_face() -> None:
    images = [[box(100)] if index % 2 else [] for index in range(20)]
    assert not any(run(tracker(), images))


def test_with_one_confirmation_a_still_image_has_its_faces_at_once() -> None:
    assert len(tracker(confirm_hits=1).update([box(100), box(400)], 0)) == 2


def test_a_missed_face_is_reported_a_little_longer_where_it_was_last_seen() -> None:
    following = tracker(keep_ms=300)
    run(following, [[box(100)], [box(100)]], step_ms=100)
    assert [track.box for track in following.update([], 350 * MS)] == [box(100)]
    (track,) = following.update([], 400 * MS)
    assert track.seen_ns == 100 * MS
    assert following.update([], 401 * MS) == []


def test_a_face_returns_under_its_id_within_a_second() -> None:
    following = tracker(forget_ms=1000)
    _, (before,) = run(following, [[box(100)], [box(100)]], step_ms=100)
    assert following.update([], 700 * MS) == []
    assert ids(following.update([box(110)], 1100 * MS)) == [before.face_id]


def test_a_face_that_returns_later_is_another() -> None:
    following = tracker(forget_ms=1000)
    _, (before,) = run(following, [[box(100)], [box(100)]], step_ms=100)
    assert following.update([box(100)], 1101 * MS) == []
    (after,) = following.update([box(100)], 1130 * MS)
    assert after.face_id != before.face_id


def test_a_gap_of_images_forgets_as_well() -> None:
    following = tracker()
    (*_, (before,)) = run(following, [[box(100)]] * 3)
    (*_, (after,)) = run(following, [[box(100)]] * 3, start_ms=60_000)
    assert after.face_id != before.face_id


def test_a_face_elsewhere_after_a_cut_is_another() -> None:
    seen = run(tracker(keep_ms=0), [[box(100)]] * 5 + [[box(500)]] * 5)
    assert ids(seen[4]) != ids(seen[9])


def test_a_face_of_quite_another_size_is_another() -> None:
    seen = run(tracker(keep_ms=0), [[box(100, side=50)]] * 5 + [[box(100, side=120)]] * 5)
    assert ids(seen[4]) != ids(seen[9])


def test_an_approaching_face_keeps_its_id() -> None:
    images = [[box(200, side=40 * 1.03**index)] for index in range(60)]
    seen = run(tracker(), images)
    assert len({face_id for tracks in seen[1:] for face_id in ids(tracks)}) == 1


def test_a_fast_face_keeps_its_id() -> None:
    # Each image it is nearly its own width further; only its velocity ties it together.
    seen = run(tracker(), [[box(70 * index)] for index in range(15)])
    assert len({face_id for tracks in seen[1:] for face_id in ids(tracks)}) == 1


def test_two_people_keep_their_ids_in_whatever_order_they_are_detected() -> None:
    images = [
        [box(100 + index), box(300 - index)][:: 1 if index % 2 else -1] for index in range(50)
    ]
    seen = run(tracker(), images)
    left = {track.face_id for tracks in seen for track in tracks if track.box.centre[0] < 200}
    right = {track.face_id for tracks in seen for track in tracks if track.box.centre[0] > 200}
    assert (len(left), len(right), left & right) == (1, 1, set())


@pytest.mark.parametrize('hidden', [0, 4, 8])
def test_two_people_who_pass_each_other_keep_their_ids(hidden: int) -> None:
    """The one behind is not detected for some images around the meeting."""
    frames, speed_px = 60, 8
    images, meeting = [], frames // 2
    for index in range(frames):
        walker, other = box(100 + speed_px * index), box(100 + speed_px * (frames - index), y=110)
        gone = abs(index - meeting) < hidden / 2
        images.append([walker] if gone else [walker, other])
    seen = run(tracker(), images)
    first = {track.box.centre[1]: track.face_id for track in seen[5]}
    last = {track.box.centre[1]: track.face_id for track in seen[-1]}
    assert len(first) == 2
    assert first == last


def test_a_new_face_beside_a_known_one_does_not_take_its_id() -> None:
    following = tracker()
    (*_, (known,)) = run(following, [[box(100)]] * 5)
    seen = run(following, [[box(190), box(101)]] * 3, start_ms=200)
    by_place = {track.box.centre[0]: track.face_id for track in seen[-1]}
    assert by_place[101] == known.face_id
    assert len(set(by_place.values())) == 2


def test_time_set_back_forgets_every_face_and_no_id_is_used_again() -> None:
    following = tracker()
    (*_, (before,)) = run(following, [[box(100)]] * 3, start_ms=50_000)
    first, (after,) = run(following, [[box(100)]] * 2, start_ms=1_000)
    assert first == []
    assert after.face_id != before.face_id


def test_reset_forgets_every_face() -> None:
    following = tracker()
    (*_, (before,)) = run(following, [[box(100)]] * 3)
    following.reset()
    assert following.update([], 100 * MS) == []
    _, (after,) = run(following, [[box(100)]] * 2, start_ms=133)
    assert after.face_id != before.face_id


def test_the_same_time_twice_is_no_harm() -> None:
    following = tracker()
    seen = [following.update([box(100)], 5 * MS) for _ in range(3)]
    assert len(seen[2]) == 1


@pytest.mark.parametrize(
    'settings', [{'keep_ms': 1001}, {'keep_ms': -1}, {'confirm_hits': 0}, {'forget_ms': 10}]
)
def test_settings_that_contradict_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match='expected'):
        tracker(**settings)


@pytest.mark.parametrize('seed', range(40))
def test_the_assignment_is_the_best_of_all(seed: int) -> None:
    source = random.Random(seed)
    rows, columns = source.randint(1, 5), source.randint(1, 5)
    likeness = [
        [source.choice([0.0, source.random() * 2]) for _ in range(columns)] for _ in range(rows)
    ]
    pairs = match(likeness)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert all(likeness[row][column] > 0 for row, column in pairs)
    # Every way to give each row a column or, past the last, none.
    best = max(
        sum(likeness[row][place] for row, place in enumerate(places) if place < columns)
        for places in itertools.permutations(range(columns + rows), rows)
    )
    assert math.isclose(sum(likeness[row][column] for row, column in pairs), best)


def test_nobody_or_nothing_to_assign_gives_no_pairs() -> None:
    assert match([]) == []
    assert match([[], []]) == []
