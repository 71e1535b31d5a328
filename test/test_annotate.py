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
"""The image with the faces drawn in: legible, inside, and never an exception."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from typing import Any

import numpy as np
import pytest
from node_reports import WAITING, link

from ferros.annotate import COLOURS, DARK, AnnotatedRate, annotate, status_line
from ferros.operating_point import Plan
from ferros.types import Box, CameraFrame, Codec, GridPoint, Observation, Source, Track

S = 1_000_000_000
# Brighter than ink, and no colour of ours.
BRIGHT = 210
STATUS = 'cloud answers | link 512 kbit/s 41 ms | 48 px 8.42 fps webp 80'


def frame(width_px: int = 1280, height_px: int = 720, **changes: Any) -> CameraFrame:
    return CameraFrame(np.full((height_px, width_px, 3), BRIGHT, np.uint8), 1, 1, **changes)


def observed(face_id: str, source: Source, **changes: Any) -> Observation:
    observation = Observation(
        face_id, 1, '', 1, Box(0, 0, 9, 9), 'happiness', 0.93, ('happiness',), (1.0,), 0.0, 0.0,
        source, 'model 1',
    )
    return observation._replace(**changes)


def drawn_in(image: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """Return left, top, right and bottom, inclusive, of what is drawn in exactly this colour."""
    rows, columns = np.nonzero((image == colour).all(axis=2))
    if not rows.size:
        return None
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_the_image_that_was_given_stays_as_it_was() -> None:
    shown = frame()
    before = shown.image.copy()
    image = annotate(shown, [Track('a', Box(600, 300, 90, 90), 1)], [], 'a', STATUS)
    assert (shown.image == before).all() and (image != before).any()
    assert (image.shape, image.dtype) == ((720, 1280, 3), np.uint8)
    bare = annotate(shown, [], [], None)
    assert (bare == before).all() and not np.shares_memory(bare, shown.image)


def test_a_grey_image_becomes_a_colour_image() -> None:
    grey = CameraFrame(np.full((240, 320), 90, np.uint8), 1, 1)
    image = annotate(grey, [Track('a', Box(100, 100, 60, 60), 1)], [], 'a')
    assert image.shape == (240, 320, 3)
    assert drawn_in(image, COLOURS[Source.NONE]) is not None


def test_a_view_that_opencv_cannot_draw_into_is_drawn_all_the_same() -> None:
    wide = np.full((240, 640, 3), 90, np.uint8)
    for view in (wide[:, ::2], wide[:, :, ::-1], np.asfortranarray(wide)):
        image = annotate(CameraFrame(view, 1, 1), [Track('a', Box(9, 99, 60, 60), 1)], [], None)
        assert drawn_in(image, COLOURS[Source.NONE]) is not None


@pytest.mark.parametrize('source', Source)
def test_the_colour_tells_who_answered(source: Source) -> None:
    tracks = [Track('a', Box(600, 300, 90, 90), 1)]
    image = annotate(frame(), tracks, [observed('a', source)], 'a')
    found = {each for each in Source if drawn_in(image, COLOURS[each]) is not None}
    assert found == {source}
    unread = annotate(frame(), tracks, [observed('b', source)], 'a')
    assert drawn_in(unread, COLOURS[Source.NONE]) is not None


def test_the_words_differ_for_those_who_see_no_colours() -> None:
    tracks = [Track('a', Box(600, 300, 90, 90), 1)]
    images = [
        annotate(frame(), tracks, [observed('a', source)], 'a').mean(axis=2) < 100
        for source in Source
    ]
    for one, other in itertools.combinations(images, 2):
        assert (one != other).any()


def test_the_primary_faces_box_is_thicker() -> None:
    tracks = [Track('a', Box(300, 300, 200, 200), 1), Track('b', Box(800, 300, 200, 200), 1)]
    image = annotate(frame(), tracks, [], 'b')
    row = (image[400] == COLOURS[Source.NONE]).all(axis=1)
    assert row[:640].sum() > 0
    assert row[640:].sum() >= 2 * row[:640].sum() - 2


def test_boxes_are_those_of_the_published_image_however_small_the_copy_is() -> None:
    track = Track('a', Box(400, 400, 200, 200), 1)
    small = frame(640, 360, reduction=2, published_size_px=(1280, 720))
    image = annotate(small, [track], [], None)
    found = drawn_in(image[200:], COLOURS[Source.NONE])
    assert found is not None
    left, _, right, bottom = found
    assert abs(left - 200) <= 3 and abs(right - 300) <= 3 and abs(bottom + 200 - 300) <= 3


@pytest.mark.parametrize(
    'box',
    [
        Box(-40, -40, 90, 90),
        Box(0, 0, 320, 240),
        Box(300, 220, 90, 90),
        Box(150, -5, 20, 300),
        Box(0, 200, 40, 39),
        Box(318, 238, 2, 2),
        Box(-1e12, -1e12, 1e13, 1e13),
        Box(0.4, 0.4, 0.2, 0.2),
    ],
)
@pytest.mark.parametrize('size_px', [(320, 240), (1920, 1080)])
def test_a_label_is_whole_and_inside_wherever_the_face_is(
    box: Box, size_px: tuple[int, int]
) -> None:
    width_px, height_px = size_px
    track = Track('fa1b2c3', box.scaled(height_px / 240), 1)
    middle = Track('fa1b2c3', Box(width_px / 3, height_px / 2, 1, 1), 1)
    answers = [observed('fa1b2c3', Source.CLOUD)]

    def label(shown: Track) -> int:
        """Return how much of the label's ink is to be seen."""
        image = annotate(frame(*size_px), [shown], answers, None)
        return int((image.mean(axis=2) < 100).sum())

    assert label(middle) > 50
    assert label(track) == pytest.approx(label(middle), rel=0.02)


@pytest.mark.parametrize(
    'box',
    [
        Box(math.nan, 0, 9, 9),
        Box(0, 0, math.inf, 9),
        Box(0, math.nan, math.nan, math.nan),
        Box(5000, 5000, 40, 40),
        Box(-90, -90, 40, 40),
        Box(10, 10, 0, 0),
        Box(10, 10, -5, -5),
    ],
)
def test_a_box_that_is_none_is_left_out(box: Box) -> None:
    image = annotate(frame(320, 240), [Track('a', box, 1)], [observed('a', Source.CLOUD)], 'a')
    assert (image == BRIGHT).all()


@pytest.mark.parametrize('size_px', [(1, 1), (3, 200), (200, 3), (17, 9), (4096, 16)])
def test_no_image_is_too_small(size_px: tuple[int, int]) -> None:
    tracks = [Track('a', Box(0, 0, *size_px), 1)]
    image = annotate(frame(*size_px), tracks, [observed('a', Source.ROBOT)], 'a', STATUS)
    assert image.shape == (size_px[1], size_px[0], 3)


def test_what_is_not_known_is_no_trouble() -> None:
    odd = observed('a', Source.CLOUD, confidence=math.nan, label='gl\u00fccklich \u2603' * 40)
    annotate(frame(), [Track('a', Box(600, 300, 90, 90), 1)], [odd], 'nobody', 'x' * 5000)


def test_the_status_is_on_top_and_hidden_by_no_label() -> None:
    bare = annotate(frame(320, 240), [], [], None, STATUS)
    found = drawn_in(bare, DARK)
    assert found is not None and found[1] == 0 and found[3] < 24
    tracks = [Track('a', Box(5, 1, 300, 200), 1)]
    image = annotate(frame(320, 240), tracks, [observed('a', Source.CLOUD)], 'a', STATUS)
    assert (image[: found[3] + 1] == bare[: found[3] + 1]).mean() > 0.97


def test_the_text_grows_with_the_image() -> None:
    heights_px = []
    for height_px in (240, 720, 1080):
        image = annotate(frame(height_px * 16 // 9, height_px), [], [], None, STATUS)
        found = drawn_in(image, DARK)
        assert found is not None
        heights_px.append(found[3] + 1)
    assert 12 <= heights_px[0] < heights_px[1] < heights_px[2] < 60


def test_it_costs_little(one_thread: None) -> None:
    shown = frame()
    tracks = [Track(f'f{index}', Box(100 + 300 * index, 200, 150, 150), 1) for index in range(4)]
    answers = [observed(track.face_id, Source.CLOUD) for track in tracks]
    times_ms = []
    for _ in range(30):
        start_ns = time.perf_counter_ns()
        annotate(shown, tracks, answers, 'f0', STATUS)
        times_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
    # 0.5 ms on a quiet machine; what interrupts it says nothing.
    assert statistics.median(sorted(times_ms)[:10]) <= 3.0


def test_the_status_line_says_who_answers_and_what_is_sent() -> None:
    point = GridPoint(48, 8.4242, Codec.WEBP, 80, 685, 921, 0.84567)
    planned = link(plan=Plan({'near': point}, 1.0, 2.0))
    line = status_line(planned, Source.CLOUD)
    assert line.startswith('cloud answers | link ')
    assert line.endswith(' kbit/s 40 ms | 48 px 8.42 fps webp 80')
    assert status_line(planned, Source.ROBOT).startswith('robot answers | link ')
    assert status_line(WAITING, Source.ROBOT) == 'robot answers | link waiting'
    assert status_line(WAITING, Source.CLOUD) == 'nobody answers | link waiting'
    fresh = link(bandwidth=link().bandwidth._replace(round_trip_ms=math.nan))
    assert 'nan' not in status_line(fresh, Source.CLOUD)


def test_it_is_drawn_only_while_somebody_listens_and_not_too_often() -> None:
    rate = AnnotatedRate()
    images_ns = [index * S // 30 for index in range(90)]
    drawn = [now_ns for now_ns in images_ns[:30] if rate.wants(1, now_ns, 10.0)]
    assert drawn[0] == 0 and len(drawn) in (10, 11)
    assert not any(rate.wants(0, now_ns, 10.0) for now_ns in images_ns[30:60])
    again = [now_ns for now_ns in images_ns[60:] if rate.wants(2, now_ns, 10.0)]
    # At once, and nothing that was missed is made up for.
    assert again[0] == images_ns[60] and len(again) in (10, 11)
    # A slower rate holds at once.
    assert sum(rate.wants(1, 3 * S + now_ns, 1.0) for now_ns in images_ns) in (2, 3, 4)
