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
import math
import time
from collections.abc import Sequence
from typing import Any

import pytest

from ferros import accuracy_grid
from ferros.config import RobotConfig
from ferros.operating_point import (
    MIN_FACE_SIZE_PX,
    MIN_FRAME_RATE_FPS,
    PRIMARY_WEIGHT,
    Limits,
    OperatingPointChooser,
    Plan,
    bytes_per_s,
)
from ferros.types import Codec, GridPoint

# The shipped one.
GRID = accuracy_grid.read(accuracy_grid.default_path())
BEST = max(GRID, key=lambda p: p.accuracy)
# Above the cost of the best point, and below that of the cheapest.
PLENTY_BYTES_PER_S, NEXT_TO_NOTHING_BYTES_PER_S = 1e9, 5.0
# Rising by 3 % each, over all that one to eight faces can make use of.
BUDGETS = [20 * 1.03**step for step in range(310)]
# The longest message of the limits is rounded down by so much at most.
LENGTH_STEP = 1.1
ROUNDING = 1 + 1e-9
# Well below what the grid can tell apart, whose standard errors are 0.016 and more.
HARDLY = 0.0025


def make(grid: Sequence[GridPoint] = GRID, **pinned: Any) -> OperatingPointChooser:
    return OperatingPointChooser(RobotConfig(**pinned), grid)


def limits(
    budget_bytes_per_s: float = PLENTY_BYTES_PER_S,
    longest_message_bytes: float = math.inf,
    frame_rate_fps: float = 30.0,
    input_size_px: int = 48,
) -> Limits:
    return Limits(budget_bytes_per_s, longest_message_bytes, frame_rate_fps, input_size_px)


def of(number: int, side_px: float = 48.0) -> list[tuple[str, float]]:
    """Return that many faces of one size; f0 is the primary one."""
    return [(f'f{index}', side_px) for index in range(number)]


def one(chooser: OperatingPointChooser, between: Limits, side_px: float = 48.0) -> GridPoint:
    return chooser.choose(of(1, side_px), between).points['f0']


def accuracies(plan: Plan) -> list[float]:
    return [point.accuracy for point in plan.points.values()]


def worth(plan: Plan) -> float:
    primary, *others = accuracies(plan)
    return PRIMARY_WEIGHT * primary + sum(others)


@pytest.mark.parametrize('side_px', [13, 20, 33, 48, 200])
@pytest.mark.parametrize('rate_limit_fps', [2.0, 12.0, 33.0])
@pytest.mark.parametrize('longest_bytes', [250, 500, 1200, math.inf])
def test_no_point_that_fits_the_link_is_noticeably_better_than_the_chosen_one(
    side_px: int, rate_limit_fps: float, longest_bytes: float
) -> None:
    chooser = make()
    compared = 0
    for budget in BUDGETS:
        chosen = one(chooser, limits(budget, longest_bytes, rate_limit_fps), side_px)
        fitting = [
            point.accuracy
            for point in GRID
            if bytes_per_s(point) <= budget
            and point.face_size_px <= min(side_px, 48)
            and point.frame_rate_fps <= rate_limit_fps
            and point.bytes_p95 <= longest_bytes / LENGTH_STEP
        ]
        assert chosen.accuracy >= max(fitting, default=0.0) - HARDLY
        compared += bool(fitting)
        assert chosen.frame_rate_fps <= rate_limit_fps
        assert chosen.face_size_px <= min(side_px, 48)
    assert compared > 20


@pytest.mark.parametrize('longest_bytes', [250, 500, 1200])
def test_no_longer_message_is_chosen_where_a_shorter_one_exists(longest_bytes: int) -> None:
    for budget in BUDGETS:
        assert one(make(), limits(budget, longest_bytes)).bytes_p95 <= longest_bytes
    # Where none is that short, the shortest has to do.
    shortest = min(point.bytes_p95 for point in GRID)
    assert one(make(), limits(longest_message_bytes=10)).bytes_p95 == shortest


def test_on_a_link_with_plenty_the_best_point_is_chosen_and_not_a_dearer_one() -> None:
    chosen = one(make(), limits())
    assert BEST.accuracy - HARDLY <= chosen.accuracy <= BEST.accuracy
    assert bytes_per_s(chosen) <= min(
        bytes_per_s(point) for point in GRID if point.accuracy == BEST.accuracy
    )


@pytest.mark.parametrize('side_px', [3.0, 12.0, 15.9, 31.6, 47.0, 500.0])
@pytest.mark.parametrize('input_size_px', [24, 48, 224])
def test_never_more_pixels_are_sent_than_the_face_has_and_the_model_uses(
    side_px: float, input_size_px: int
) -> None:
    for budget in (NEXT_TO_NOTHING_BYTES_PER_S, 2000, PLENTY_BYTES_PER_S):
        size_px = one(make(), limits(budget, input_size_px=input_size_px), side_px).face_size_px
        assert MIN_FACE_SIZE_PX <= size_px <= max(MIN_FACE_SIZE_PX, round(side_px))
        assert size_px <= input_size_px


def test_a_face_smaller_than_every_point_is_sent_as_it_is() -> None:
    grid = [point for point in GRID if point.face_size_px >= 24]
    chosen = one(make(grid), limits(), side_px=18)
    assert chosen.face_size_px == 18
    pinned = one(make(face_size_px=96), limits(input_size_px=224), side_px=40)
    assert pinned.face_size_px == 40


@pytest.mark.parametrize(
    ('pinned', 'expected'),
    [
        ({'face_size_px': 32}, {'face_size_px': 32}),
        ({'frame_rate_fps': 5.0}, {'frame_rate_fps': 5.0}),
        ({'quality': 20}, {'quality': 20}),
        ({'codec': 'jpeg'}, {'codec': Codec.JPEG}),
        # None of these is in the grid: the nearest one's figures stand for them.
        ({'face_size_px': 30}, {'face_size_px': 30}),
        ({'frame_rate_fps': 8.4}, {'frame_rate_fps': 8.4}),
        ({'quality': 77}, {'quality': 77}),
        (
            {'face_size_px': 41, 'frame_rate_fps': 3.3, 'quality': 60, 'codec': 'jpeg'},
            {'face_size_px': 41, 'frame_rate_fps': 3.3, 'quality': 60, 'codec': Codec.JPEG},
        ),
    ],
)
def test_what_is_pinned_is_sent_on_any_link_that_carries_it(
    pinned: dict[str, Any], expected: dict[str, Any]
) -> None:
    chooser = make(**pinned)
    for budget in (8000, 50_000, PLENTY_BYTES_PER_S):
        chosen = one(chooser, limits(budget))
        assert {name: getattr(chosen, name) for name in expected} == expected
        assert bytes_per_s(chosen) <= budget * ROUNDING


def test_a_pinned_point_too_dear_for_the_link_is_sent_less_often() -> None:
    chooser = make(face_size_px=48, frame_rate_fps=30.0, quality=80, codec='webp')
    assert one(chooser, limits()).frame_rate_fps == 30
    slow = one(chooser, limits(2000))
    assert (slow.face_size_px, slow.quality, slow.codec) == (48, 80, Codec.WEBP)
    assert slow.frame_rate_fps < 10
    assert bytes_per_s(slow) <= 2000 * ROUNDING
    assert slow.accuracy < one(chooser, limits()).accuracy


def test_a_pinned_size_is_still_no_more_than_the_face_has() -> None:
    chooser = make(face_size_px=48)
    assert one(chooser, limits(), side_px=31.6).face_size_px == 32
    assert one(chooser, limits(input_size_px=24), side_px=100).face_size_px == 24


def test_a_codec_that_the_grid_lacks_is_used_where_it_is_pinned() -> None:
    grid = [point for point in GRID if point.codec is Codec.WEBP]
    chosen = one(make(grid, codec='jpeg'), limits())
    assert chosen.codec is Codec.JPEG


@pytest.mark.parametrize('rate_limit_fps', [0.03, 0.5, 4.0, 10.0, 12.5, 15.0, 30.0])
def test_nothing_is_sent_faster_than_the_camera_or_the_server_allow(
    rate_limit_fps: float,
) -> None:
    for budget in (NEXT_TO_NOTHING_BYTES_PER_S, *BUDGETS[::30], PLENTY_BYTES_PER_S):
        plan = make().choose(of(4), limits(budget, frame_rate_fps=rate_limit_fps))
        assert all(p.frame_rate_fps <= rate_limit_fps for p in plan.points.values())
    pinned = make(frame_rate_fps=20.0)
    assert one(pinned, limits(frame_rate_fps=rate_limit_fps)).frame_rate_fps <= rate_limit_fps


def test_a_rate_limit_holds_whatever_limit_held_before() -> None:
    chooser = make()
    for rate_limit_fps in (12.04, 12.0, 1.04, 1.0, 0.14, 0.06, 0.04, 0.01, 0.002):
        chosen = one(chooser, limits(frame_rate_fps=rate_limit_fps))
        assert chosen.frame_rate_fps <= rate_limit_fps


def test_rates_between_those_that_were_measured_are_used_and_worth_what_lies_between() -> None:
    measured = {point.frame_rate_fps for point in GRID}
    chooser, between = make(), 0
    for budget in BUDGETS:
        chosen = one(chooser, limits(budget))
        if chosen.frame_rate_fps < 1 or chosen.frame_rate_fps in measured:
            continue
        between += 1
        coding = chosen[0], chosen[2], chosen[3]
        of_it = [p for p in GRID if (p[0], p[2], p[3]) == coding]
        slower = max(p.accuracy for p in of_it if p.frame_rate_fps < chosen.frame_rate_fps)
        faster = min(p.accuracy for p in of_it if p.frame_rate_fps > chosen.frame_rate_fps)
        assert slower < chosen.accuracy < faster
    assert between > 20


@pytest.mark.parametrize('number', [1, 2, 5, 16, 64])
def test_the_cost_is_never_above_the_budget_but_for_faces_at_the_lowest_rate(
    number: int,
) -> None:
    chooser = make()
    for budget in (0.0, NEXT_TO_NOTHING_BYTES_PER_S, *BUDGETS):
        plan = chooser.choose(of(number), limits(budget))
        points = plan.points.values()
        assert len(points) == number
        assert plan.cost_bytes_per_s == pytest.approx(sum(map(bytes_per_s, points)))
        assert all(point.frame_rate_fps >= MIN_FRAME_RATE_FPS for point in points)
        at_the_floor = sum(
            bytes_per_s(p) for p in points if p.frame_rate_fps <= MIN_FRAME_RATE_FPS * 1.001
        )
        assert plan.cost_bytes_per_s <= budget * ROUNDING + at_the_floor


@pytest.mark.parametrize('number', [1, 2, 4, 8])
def test_what_is_left_over_would_buy_hardly_anything(number: int) -> None:
    chooser = make()
    for budget in BUDGETS:
        plan = chooser.choose(of(number), limits(budget))
        left = budget - plan.cost_bytes_per_s
        for chosen in plan.points.values():
            for point in GRID:
                if bytes_per_s(point) <= bytes_per_s(chosen) + left:
                    assert point.accuracy <= chosen.accuracy + 2 * HARDLY


def test_one_face_is_never_worse_off_for_a_higher_budget() -> None:
    chooser = make()
    accuracy = [one(chooser, limits(20 * 1.002**step)).accuracy for step in range(4000)]
    assert max(less - more for less, more in itertools.pairwise(accuracy)) < HARDLY
    assert accuracy[0] < 0.7 and accuracy[-1] >= BEST.accuracy - HARDLY


@pytest.mark.parametrize('number', [2, 3, 8])
def test_several_faces_together_are_hardly_ever_worse_off_for_a_higher_budget(
    number: int,
) -> None:
    """Points are not divisible: a dearer one may leave a little less for the others."""
    chooser = make()
    values = [worth(chooser.choose(of(number), limits(budget))) for budget in BUDGETS]
    best = itertools.accumulate(values, max)
    assert all(value >= 0.99 * least for value, least in zip(values, best, strict=True))
    assert values[-1] >= (PRIMARY_WEIGHT + number - 1) * (BEST.accuracy - HARDLY)


@pytest.mark.parametrize('number', [2, 4, 8])
def test_the_primary_face_is_never_given_less_than_another_of_its_size(number: int) -> None:
    chooser = make()
    for budget in (NEXT_TO_NOTHING_BYTES_PER_S, *BUDGETS, PLENTY_BYTES_PER_S):
        primary, *others = accuracies(chooser.choose(of(number), limits(budget)))
        assert primary >= max(others) - HARDLY


@pytest.mark.parametrize('number', [2, 4, 8])
def test_as_the_budget_shrinks_the_primary_face_suffers_last(number: int) -> None:
    chooser = make()
    for share in (0.99, 0.95, 0.9):
        enough = [
            next(
                budget
                for budget in BUDGETS
                if accuracies(chooser.choose(of(number), limits(budget)))[rank]
                >= share * BEST.accuracy
            )
            for rank in range(number)
        ]
        assert all(enough[0] < of_another for of_another in enough[1:])


def test_the_primary_face_keeps_its_rate_where_the_others_can_hardly_be_sent() -> None:
    cheapest = min(map(bytes_per_s, GRID))
    plan = make().choose(of(5), limits(1.2 * cheapest))
    primary, *others = plan.points.values()
    assert primary.frame_rate_fps >= 1
    assert all(0.1 <= point.frame_rate_fps < 0.2 for point in others)


def test_faces_of_different_sizes_get_what_each_can_use() -> None:
    faces = [('near', 100.0), ('far', 20.0), ('farther', 14.0)]
    points = make().choose(faces, limits()).points
    assert list(points) == ['near', 'far', 'farther']
    assert points['near'].face_size_px == 48
    assert points['far'].face_size_px <= 20 and points['farther'].face_size_px <= 14


def test_without_faces_nothing_is_planned() -> None:
    assert make().choose([], limits()) == Plan({}, 0, 0)


def test_what_could_be_used_is_known_on_any_link() -> None:
    for budget in (NEXT_TO_NOTHING_BYTES_PER_S, PLENTY_BYTES_PER_S):
        plan = make().choose(of(3), limits(budget, longest_message_bytes=300))
        best = bytes_per_s(one(make(), limits()))
        assert 3 * best <= plan.wanted_bytes_per_s * ROUNDING <= 4 * best


def test_another_grid_counts_at_once_and_an_empty_one_is_refused() -> None:
    chooser = make()
    one(chooser, limits())
    other = GridPoint(16, 3.0, Codec.JPEG, 50, 500, 600, 0.5)
    chooser.set_grid([other])
    assert one(chooser, limits()) == other
    with pytest.raises(ValueError, match='no point'):
        chooser.set_grid([])
    assert one(chooser, limits()) == other
    with pytest.raises(ValueError, match='no point'):
        make([])


def test_a_grid_of_one_point_is_enough_for_any_face_and_link() -> None:
    only = GridPoint(48, 10.0, Codec.WEBP, 80, 700, 900, 0.8)
    for side_px, budget in itertools.product((5, 48, 300), (0, 1000, PLENTY_BYTES_PER_S)):
        chosen = one(make([only]), limits(budget), side_px)
        assert 0.1 <= chosen.frame_rate_fps <= 10 and chosen.bytes_p50 == 700


def test_sixty_four_faces_are_planned_in_no_time() -> None:
    chooser, faces = make(), [(f'f{i}', 12.0 + i % 40) for i in range(64)]
    chooser.choose(faces, limits())
    times_s = []
    for budget in BUDGETS[::5]:
        began_s = time.perf_counter()
        chooser.choose(faces, limits(budget))
        times_s.append(time.perf_counter() - began_s)
    # Measured: about 1.5 ms; a plan holds for 100 ms.
    assert sorted(times_s)[len(times_s) // 2] < 0.02


def test_pins_can_be_changed_and_the_measured_grid_is_not_lost_by_it() -> None:
    chooser, between = make(), limits(5000.0)
    free = one(chooser, between)
    pins: list[dict[str, Any]] = [
        {'face_size_px': 20}, {'quality': 30, 'codec': 'jpeg'}, {'frame_rate_fps': 2.0}
    ]
    for pinned in pins:
        chooser.configure(RobotConfig(**pinned))
        assert one(chooser, between) == one(make(**pinned), between) != free
    chooser.configure(RobotConfig())
    assert one(chooser, between) == free


def test_a_grid_that_comes_while_pins_are_set_is_pinned_too() -> None:
    chooser = make(face_size_px=20)
    other = tuple(point._replace(bytes_p50=2 * point.bytes_p50) for point in GRID)
    chooser.set_grid(other)
    assert one(chooser, limits()).face_size_px == 20
    chooser.configure(RobotConfig())
    assert one(chooser, limits()) == one(make(other), limits())
