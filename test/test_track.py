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

from ferros.track import Sighting, Tracker, is_one_face, match
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


class Look:
    """What a person looks like: 1 for the same one, 0 for another, unless it is only half seen."""

    def __init__(self, name: str, blurred: float = 0.0) -> None:
        self.name, self.blurred = name, blurred

    def likeness(self, other: Look) -> float:
        return (1.0 if self.name == other.name else 0.0) - self.blurred - other.blurred


def sight(name: str, x: float, blurred: float = 0.0, **where: float) -> Sighting:
    return Sighting(box(x, **where), Look(name, blurred))  # type: ignore[arg-type]


def see(following: Tracker, found: list[Sighting], at_ms: int) -> list[Track]:
    following.observe(found, at_ms * MS)
    return following.tracks(at_ms * MS)


def met(following: Tracker, *found: Sighting, until_ms: int = 330) -> list[str]:
    """Let faces be in view for a moment; return their ids."""
    for at_ms in range(0, until_ms + 1, FRAME_MS):
        tracks = see(following, list(found), at_ms)
    assert len(tracks) == len(found)
    return ids(tracks)


def unseen(following: Tracker, from_ms: int, to_ms: int) -> None:
    """Show images without a face."""
    for at_ms in range(from_ms, to_ms, FRAME_MS):
        see(following, [], at_ms)


def test_a_face_that_is_followed_counts_as_seen() -> None:
    following = tracker()
    (anna,) = met(following, sight('anna', 100))
    for at_ms in range(363, 900, FRAME_MS):
        x = 100 + (at_ms - 330) / 10
        following.observe([], at_ms * MS, {1: box(x)})
        (track,) = following.tracks(at_ms * MS)
        assert track == Track(anna, box(x), at_ms * MS)


def test_a_detection_corrects_a_followed_box_without_a_jump() -> None:
    following = tracker()
    met(following, sight('anna', 100))
    following.observe([sight('anna', 120)], 363 * MS, {1: box(110)})
    (track,) = following.tracks(363 * MS)
    assert 110 < track.box.centre[0] < 120


def test_a_correction_is_not_taken_for_motion() -> None:
    following = tracker()
    met(following, sight('anna', 100))
    following.observe([sight('anna', 118)], 363 * MS, {1: box(100)})
    (face,) = following.faces
    still = face.box.centre[0]
    assert face.predict(563 * MS).centre[0] == pytest.approx(still, abs=1)


def test_a_second_box_on_a_followed_face_is_no_new_face() -> None:
    following = tracker()
    met(following, sight('anna', 100))
    numbers = following.observe(
        [sight('anna', 101), sight('anna', 110, side=50)], 363 * MS, {1: box(100)}
    )
    assert numbers == [1, 0]
    assert len(following.faces) == 1


def test_what_was_surely_followed_is_not_suddenly_elsewhere() -> None:
    following = tracker()
    met(following, sight('anna', 100))
    following.observe([sight('wall', 165)], 363 * MS, {1: box(100)})
    (track,) = following.tracks(363 * MS)
    assert track.box == box(100)


def test_a_doubtful_face_that_was_looked_for_in_vain_is_not_seen() -> None:
    following = tracker()
    met(following, sight('anna', 100))
    following.observe([], 363 * MS, {1: box(104)}, looked_for={1}, doubtful={1})
    (track,) = following.tracks(363 * MS)
    assert track.seen_ns == 330 * MS
    assert following.faces[0].misses == 1


def test_a_new_face_that_is_not_found_again_ends() -> None:
    following = tracker()
    see(following, [sight('wall', 100)], 0)
    following.observe([], 33 * MS, {1: box(100)}, looked_for={1})
    assert len(following.faces) == 1
    following.observe([], 66 * MS, {1: box(100)}, looked_for={1})
    assert not following.faces


def test_less_sure_detections_confirm_later() -> None:
    following = tracker()
    for at_ms, reported in ((0, 0), (33, 0), (66, 1)):
        found = sight('anna', 100)._replace(weight=0.67)
        assert len(see(following, [found], at_ms)) == reported


def test_who_comes_out_from_behind_something_has_his_id_back() -> None:
    following = tracker(forget_ms=1500)
    for at_ms in range(0, 600, FRAME_MS):
        (track,) = see(following, [sight('anna', 100 + at_ms / 5)], at_ms) or [None]
    unseen(following, 627, 1594)
    (back,) = see(following, [sight('anna', 100 + 1594 / 5)], 1594)
    assert back.face_id == track.face_id


def test_who_stops_behind_something_and_comes_back_has_his_id_too() -> None:
    following = tracker(forget_ms=1500)
    for at_ms in range(0, 600, FRAME_MS):
        (track,) = see(following, [sight('anna', 100 + at_ms / 5)], at_ms) or [None]
    unseen(following, 627, 1594)
    (back,) = see(following, [sight('anna', 215)], 1594)
    assert back.face_id == track.face_id


def test_somebody_else_at_the_same_place_is_somebody_else() -> None:
    following = tracker(forget_ms=1500)
    (anna,) = met(following, sight('anna', 100))
    unseen(following, 363, 900)
    seen = [
        track
        for at_ms in range(900, 1500, FRAME_MS)
        for track in see(following, [sight('ben', 102)], at_ms)
    ]
    assert {track.face_id for track in seen} == {seen[0].face_id} != {anna}
    # Reported, but not before it was certain that it is not anna, half hidden still.
    assert 1100 * MS < seen[0].seen_ns < 1300 * MS


def test_after_a_gap_of_images_looks_are_asked_for_too() -> None:
    following = tracker(forget_ms=1500)
    (anna,) = met(following, sight('anna', 100))
    assert see(following, [sight('ben', 102)], 1100) == []
    assert ids(see(following, [sight('anna', 102)], 1133)) == [anna]


def test_with_a_slow_camera_a_face_keeps_its_id() -> None:
    following = tracker()
    seen = [
        track
        for at_ms in range(0, 5000, 500)
        for track in see(following, [sight('anna', 100 + at_ms / 20, 0.3)], at_ms)
    ]
    assert len(seen) == 9
    assert len(set(ids(seen))) == 1


def test_a_face_that_is_half_hidden_at_first_is_known_when_it_is_in_view() -> None:
    following = tracker(forget_ms=1500)
    (anna,) = met(following, sight('anna', 100))
    unseen(following, 363, 900)
    seen = []
    for at_ms in range(900, 1500, FRAME_MS):
        # From looking like nobody to looking like herself.
        blurred = max(0.0, 1 - (at_ms - 900) / 400)
        seen += see(following, [sight('anna', 102, blurred)], at_ms)
    assert {track.face_id for track in seen} == {anna}


def test_two_who_vanished_together_are_told_apart_by_their_looks() -> None:
    """Each comes out where the other one went in."""
    following = tracker(forget_ms=1500)
    anna, ben = met(following, sight('anna', 100), sight('ben', 200))
    unseen(following, 363, 900)
    for at_ms in range(900, 1500, FRAME_MS):
        tracks = see(following, [sight('ben', 110), sight('anna', 190)], at_ms)
    assert {track.face_id: round(track.box.centre[0]) for track in tracks} == {ben: 110, anna: 190}


def test_who_vanishes_beside_somebody_is_not_found_in_his_hair() -> None:
    following = tracker()
    _, ben = met(following, sight('anna', 100), sight('ben', 180))
    followed = {2: box(170)}
    following.observe([], 363 * MS, followed, looked_for={1})
    following.observe([sight('hair', 110)], 396 * MS, followed)
    assert [t.face_id for t in following.tracks(396 * MS) if t.seen_ns == 396 * MS] == [ben]


def test_faces_of_a_view_that_was_left_take_no_find() -> None:
    following = tracker()
    _, ben = met(following, sight('anna', 100), sight('ben', 300))
    following.set_aside({2})
    tracks = see(following, [sight('anna', 100), sight('ben', 300)], 363)
    assert ids(tracks) == [ben]


def test_faces_are_back_with_the_view() -> None:
    following = tracker()
    (anna,) = met(following, sight('anna', 100))
    following.set_aside(())
    assert see(following, [], 400) == []
    following.bring_back()
    assert ids(see(following, [sight('anna', 100)], 600)) == [anna]


def test_faces_that_were_set_aside_for_too_long_are_forgotten() -> None:
    following = tracker(forget_ms=1000)
    (anna,) = met(following, sight('anna', 100))
    following.set_aside(())
    see(following, [], 400)
    following.bring_back()
    assert see(following, [sight('anna', 100)], 1400) == []
    assert anna not in ids(see(following, [sight('anna', 100)], 1433))


def test_one_box_within_another_is_on_one_face() -> None:
    assert is_one_face(box(100), box(110))
    assert is_one_face(box(100, side=200), box(120, side=40))
    assert not is_one_face(box(100), box(150))


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
