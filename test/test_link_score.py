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
"""The link bench's figures: hand-made runs whose figures are known, the oracle, the bounds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.link import accuracy, bounds, oracle, recording, report, scenarios, schedule
from bench.link.accuracy import CHANCE, Accuracies, Coding, GridError
from bench.link.expected import Sent, accuracies_in_force, achieved_fps
from bench.link.oracle import KnownLink
from bench.link.outages import Window
from bench.link.recording import RecordingError
from bench.link.scenarios import SCENARIOS, Scenario
from bench.link.score import ScoreError, oracle_run, score_run, startup_s

MS, S = 10**6, 10**9
# Runs begin at an odd time, and the link's schedule half a second before the scene.
LINK_NS = 7_000_000_123
START_NS = LINK_NS + S // 2
BIG = {'face_size_px': 48, 'codec': 'webp', 'quality': 80}
CONST = Scenario('const_x', rtt_ms=40, duration_s=10, rate_bit_per_s=1e6)


@pytest.fixture(scope='module')
def grid() -> Accuracies:
    return accuracy.read()


def frame(captured_ms: float, **changes: Any) -> dict[str, Any]:
    """A frame taken so long after the start, answered 50 ms later, of which the server had 10."""
    captured_ns = START_NS + round(captured_ms * MS)
    return {'kind': 'frame', 'face_id': 'f0', 'rank': 0, 'captured_ns': captured_ns,
            'sent_ns': captured_ns + 2 * MS, 'answered_ns': captured_ns + 50 * MS,
            'server_ns': 10 * MS, 'status': 'ok', 'frame_rate_fps': 10.0, 'message_bytes': 700,
            **BIG, **changes}


def answer(of: dict[str, Any], age_ms: float = 50, label: str = 'anger') -> dict[str, Any]:
    return {'face_id': of['face_id'], 'captured_ns': of['captured_ns'],
            'published_ns': of['captured_ns'] + round(age_ms * MS), 'label': label}


def state(at_ms: float, **changes: Any) -> dict[str, Any]:
    return {'kind': 'state', 'now_ns': START_NS + round(at_ms * MS), 'link': 'connected',
            'rate_bytes_per_s': 60_000.0, 'drops': {}, **changes}


def write(
    folder: Path, frames: Sequence[dict[str, Any]], answers: Iterable[dict[str, Any]],
    states: Sequence[dict[str, Any]] = (), faces: Sequence[dict[str, Any]] | None = None,
    duration_s: float = 10, capacity: int = 12_500, delivered: Sequence[int] | None = None,
) -> Path:
    """Write the four files of a run; the link carries 1 Mbit/s unless capacity says otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / 'trace.jsonl', [*frames, *states])
    write_lines(folder / 'answers.jsonl', answers)
    faces = faces or [{'face_id': 'f0', 'slot': 0, 'start_tick': 0, 'truth': None}]
    scene = {'tick_hz': 30, 'started_ns': START_NS, 'faces': faces,
             'ended_ns': START_NS + round(duration_s * S)}
    (folder / 'scene.json').write_text(json.dumps(scene))
    bins = round(duration_s * 10) + 10
    up = {'capacity_bytes': [capacity] * bins, 'queue_bytes': [0] * bins,
          'delivered_bytes': list(delivered or [700] * bins)}
    link = {'started_ns': LINK_NS, 'bin_ms': 100, 'up': up, 'down': up, 'backend': 'tun',
            'dropped': {'up_queue': 3}, 'late_p99_ms': 0.4}
    (folder / 'link.json').write_text(json.dumps(link))
    return folder


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def steady(every_ms: float = 100, until_ms: float = 10_000, **changes: Any) -> list[Any]:
    count = int(until_ms / every_ms)
    return [frame(index * every_ms, **changes) for index in range(count)]


# --- scoring ---------------------------------------------------------------------------------


def test_a_steady_run_has_exactly_the_age_the_delay_and_the_accuracy_of_its_point(
    tmp_path: Path, grid: Accuracies
) -> None:
    frames = steady()
    run = score_run(write(tmp_path, frames, map(answer, frames)), CONST, 'ferros', grid)
    assert (run['age_p50_ms'], run['age_p95_ms']) == (50, 50)
    # Answered 50 ms after the capture, sent after 2, with the server for 10.
    assert (run['network_delay_p95_ms'], run['min_rtt_ms'], run['rtt_ms']) == (38, 38, 40)
    # 100 instants; nothing is known at the first one.
    at_ten = grid.at(grid.coding(48, 'webp', 80), 10)
    assert run['expected_accuracy'] == pytest.approx((CHANCE + 99 * at_ten) / 100, abs=1e-4)
    assert (run['answered'], run['published'], run['sent']) == (100, 100, 100)
    assert run['realised_accuracy'] is None
    assert run['outage_share'] == 0
    assert 'recovery_s' not in run


def test_answers_that_are_too_old_are_worth_a_guess(tmp_path: Path, grid: Accuracies) -> None:
    frames = steady()
    limit_ms = 100 + 300 + 40  # one interval, 300 ms, the round trip
    at_ten = grid.at(grid.coding(48, 'webp', 80), 10)
    for age_ms, known in ((limit_ms - 101, True), (limit_ms + 1, False)):
        folder = write(tmp_path / str(age_ms), frames, [answer(f, age_ms) for f in frames])
        run = score_run(folder, CONST, 'ferros', grid)
        if known:
            assert run['expected_accuracy'] > at_ten - 0.05
        else:
            assert run['expected_accuracy'] == pytest.approx(CHANCE, abs=1e-4)
        assert run['age_p95_ms'] == age_ms


def test_when_answers_stop_the_last_one_holds_as_long_as_it_is_fresh(
    tmp_path: Path, grid: Accuracies
) -> None:
    frames = steady(until_ms=5000)  # the last is taken at 4.9 s and is fresh until 5.34 s
    run = score_run(write(tmp_path, frames, map(answer, frames)), CONST, 'ferros', grid)
    at_ten = grid.at(grid.coding(48, 'webp', 80), 10)
    known = 53  # instants 0.1 s to 5.3 s
    assert run['expected_accuracy'] == pytest.approx(
        (known * at_ten + (100 - known) * CHANCE) / 100, abs=1e-4)


def test_what_is_published_late_counts_from_its_publication(
    tmp_path: Path, grid: Accuracies
) -> None:
    frames = steady(every_ms=1000, frame_rate_fps=1.0)
    run = score_run(write(tmp_path, frames, [answer(f, 310) for f in frames]), CONST, 'ferros',
                    grid)
    # In force from 0.31 s on; each is fresh for 1.34 s, longer than until the next one.
    at_one = grid.at(grid.coding(48, 'webp', 80), 1)
    assert run['expected_accuracy'] == pytest.approx((4 * CHANCE + 96 * at_one) / 100, abs=1e-4)


def test_a_point_is_worth_no_more_than_the_rate_that_comes_through(grid: Accuracies) -> None:
    coding = grid.coding(48, 'webp', 80)
    slow = [Sent(index * S // 2, coding, 15.0) for index in range(20)]  # two per second
    worth = accuracies_in_force(slow, grid)
    assert worth[0] == grid.at(coding, 15.0)  # nothing is known of the first one's rate
    assert worth[5:] == [pytest.approx(grid.at(coding, 2.2))] * 15
    brisk = [Sent(index * S // 30, coding, 5.0) for index in range(90)]
    assert set(accuracies_in_force(brisk, grid)) == {grid.at(coding, 5.0)}


def test_the_achieved_rate_is_that_of_the_last_two_seconds() -> None:
    assert achieved_fps([]) == []
    assert achieved_fps([0]) == [None]
    taken = [index * 100 * MS for index in range(31)] + [3100 * MS + index * S for index in
                                                         range(4)]
    rates = achieved_fps(taken)
    assert rates[30] == pytest.approx(10)
    assert rates[31] == pytest.approx(10)  # 0.1 s later
    assert rates[32] == pytest.approx(10 / 1.9 * 1.1, rel=0.2)
    assert rates[34] == pytest.approx(1)
    # Longer than two seconds apart: over that pause.
    assert achieved_fps([0, 5 * S])[1] == pytest.approx(0.2)


def test_the_grid_is_read_at_any_rate_and_for_any_size(grid: Accuracies) -> None:
    coding = grid.coding(48, 'webp', 80)
    five, ten = grid.at(coding, 5), grid.at(coding, 10)
    assert grid.at(coding, 7.5) == pytest.approx((five + ten) / 2)
    assert grid.at(coding, 60) == grid.at(coding, 30)
    assert grid.at(coding, 0.5) == pytest.approx((grid.at(coding, 1) + CHANCE) / 2)
    assert grid.at(coding, 0) == CHANCE
    assert grid.coding(224, 'webp', 80) == coding
    assert grid.coding(47, 'webp', 80).face_size_px == 40
    with pytest.raises(GridError, match='11 px, webp, quality 80 is not in the grid'):
        grid.coding(11, 'webp', 80)
    with pytest.raises(GridError, match='quality 33'):
        grid.coding(48, 'webp', 33)


def test_all_252_cells_are_read_and_the_best_is_found(grid: Accuracies) -> None:
    assert len(grid.codings) == 42
    assert grid.best == max(grid.at(coding, rate) for coding in grid.codings
                            for rate in (1, 2, 5, 10, 15, 30))
    assert grid.best_bytes_per_s == 15 * grid.coding(48, 'webp', 80).bytes_p50


def test_a_table_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / 'cells.csv'
    with pytest.raises(GridError, match=r'cells\.csv: cannot be read'):
        accuracy.read(path)
    path.write_text('face_size_px,codec\n48,webp\n')
    with pytest.raises(GridError, match=r'cells\.csv, line 2'):
        accuracy.read(path)
    path.write_text('face_size_px,codec\n')
    with pytest.raises(GridError, match='no cell'):
        accuracy.read(path)


def test_the_full_video_is_credited_with_the_best_accuracy_while_it_is_fresh(
    tmp_path: Path, grid: Accuracies
) -> None:
    frames = steady(face_size_px=224, codec='jpeg', quality=90, frame_rate_fps=30.0)
    folder = write(tmp_path, frames, map(answer, frames))
    run = score_run(folder, CONST, 'fixed_high', grid)
    assert run['expected_accuracy'] == pytest.approx((CHANCE + 99 * grid.best) / 100, abs=1e-4)
    with pytest.raises(GridError, match='quality 90'):
        score_run(folder, CONST, 'ferros', grid)


def test_the_slots_are_averaged_and_a_new_face_takes_its_slot_over(
    tmp_path: Path, grid: Accuracies
) -> None:
    faces = [{'face_id': 'f0', 'slot': 0, 'start_tick': 0, 'truth': None},
             {'face_id': 'f1', 'slot': 1, 'start_tick': 0, 'truth': None},
             {'face_id': 'f2', 'slot': 0, 'start_tick': 150, 'truth': None}]
    # Slot 0 goes on with another face; of slot 1 nothing is ever answered.
    frames = [{**each, 'face_id': 'f0' if index < 50 else 'f2'}
              for index, each in enumerate(steady())]
    run = score_run(write(tmp_path, frames, map(answer, frames), faces=faces), CONST, 'ferros',
                    grid)
    at_ten = grid.at(grid.coding(48, 'webp', 80), 10)
    first = (CHANCE + 99 * at_ten) / 100
    assert run['expected_accuracy'] == pytest.approx((first + CHANCE) / 2, abs=1e-4)


def test_utilisation_counts_what_the_link_carried_after_two_seconds(
    tmp_path: Path, grid: Accuracies
) -> None:
    frames = steady()
    # A burst in the first two seconds of the scene, which begins half a second into the schedule.
    delivered = [12_500] * 25 + [2_500] * 85
    run = score_run(write(tmp_path, frames, map(answer, frames), delivered=delivered), CONST,
                    'ferros', grid)
    # The scene starts with a bin: 80 bins of 100 ms remain.
    assert run['utilisation'] == 0.2
    assert run['useful_utilisation'] == pytest.approx(700 / 12_500, rel=0.01)
    assert run['kbit_per_s'] == pytest.approx((20 * 12_500 + 80 * 2_500) * 8 / 10 / 1000)


def test_labels_are_compared_with_the_truth_of_every_tick(
    tmp_path: Path, grid: Accuracies
) -> None:
    # Anger for five seconds, then fear; the answers notice it a second late.
    truth = ['anger'] * 150 + ['fear'] * 150
    faces = [{'face_id': 'f0', 'slot': 0, 'start_tick': 0, 'truth': truth}]
    frames = steady()
    answers = [answer(f, label='anger' if index < 60 else 'fear')
               for index, f in enumerate(frames)]
    scenario = replace(CONST, realised=True)
    run = score_run(write(tmp_path, frames, answers, faces=faces), scenario, 'ferros', grid)
    # Ticks 15 to 299 count; 150 to 181 are wrong, as the answer of 6.00 s comes at 6.05 s.
    assert run['realised_accuracy'] == pytest.approx(1 - 32 / 285, abs=1e-4)


def test_ticks_before_the_first_answer_are_wrong_after_half_a_second(
    tmp_path: Path, grid: Accuracies
) -> None:
    faces = [{'face_id': 'f0', 'slot': 0, 'start_tick': 0, 'truth': ['anger'] * 300}]
    frames = [frame(950)]
    run = score_run(write(tmp_path, frames, map(answer, frames), faces=faces),
                    replace(CONST, realised=True), 'ferros', grid)
    assert run['realised_accuracy'] == pytest.approx(270 / 285, abs=1e-4)


def test_startup_is_the_time_until_the_running_mean_is_at_80_percent_of_the_end() -> None:
    up_at_once = np.full(100, 0.8)
    assert startup_s(up_at_once) == 0.4  # the first whole half second ends with the fifth instant
    late = np.array([CHANCE] * 20 + [0.8] * 80)
    # Four of five instants of 0.8 are 0.668, more than 0.64; three are 0.537.
    assert startup_s(late) == 2.3
    assert startup_s(np.full(100, CHANCE)) is None
    assert startup_s(np.array([0.8] * 4)) is None


def test_files_that_contradict_each_other_are_refused(tmp_path: Path, grid: Accuracies) -> None:
    frames = steady()
    folder = write(tmp_path / 'a', frames[:50], map(answer, frames))
    with pytest.raises(ScoreError, match='50 of 100 published answers'):
        score_run(folder, CONST, 'ferros', grid)
    stranger = [frame(0, face_id='f9')]
    with pytest.raises(RecordingError, match=r"trace\.jsonl: face 'f9' is not in scene\.json"):
        score_run(write(tmp_path / 'b', stranger, []), CONST, 'ferros', grid)
    folder = write(tmp_path / 'c', frames, [])
    (folder / 'trace.jsonl').write_text('{"kind": "frame"}\n')
    with pytest.raises(RecordingError, match=r"trace\.jsonl.*expected 'face_id'"):
        recording.read(folder)
    (folder / 'trace.jsonl').write_text('{}\n{"ki')
    with pytest.raises(RecordingError, match=r'trace\.jsonl, line 2'):
        recording.read(folder)
    (folder / 'link.json').unlink()
    with pytest.raises(RecordingError, match=r'link\.json: cannot be read'):
        recording.read(write_nothing_but_trace(folder))


def write_nothing_but_trace(folder: Path) -> Path:
    (folder / 'trace.jsonl').write_text('')
    return folder


def test_a_run_without_any_answer_has_no_age_and_the_accuracy_of_a_guess(
    tmp_path: Path, grid: Accuracies
) -> None:
    folder = write(tmp_path, [], [])
    (folder / 'answers.jsonl').write_text('\n')
    run = score_run(folder, CONST, 'ferros', grid)
    assert run['age_p95_ms'] is None and run['network_delay_p95_ms'] is None
    assert run['expected_accuracy'] == pytest.approx(CHANCE, abs=1e-4)
    assert run['startup_s'] is None


def test_drops_are_carried_over_with_their_reasons(tmp_path: Path, grid: Accuracies) -> None:
    frames = steady()
    states = [state(0), state(5000, drops={'superseded': 7, 'unanswered': 2})]
    run = score_run(write(tmp_path, frames, map(answer, frames), states), CONST, 'ferros', grid)
    assert run['dropped'] == {'superseded': 7, 'unanswered': 2}
    assert run['sent'] == 102
    assert run['link_dropped'] == {'up_queue': 3}


# --- outages ---------------------------------------------------------------------------------

# Half a second of the schedule passes before the scene: in the scene it lasts from 4.5 to 5.5 s.
OUTAGE = Scenario('outage_1s', duration_s=10, rate_bit_per_s=1e6, outages_s=((5.0, 1.0),))


def with_outage() -> tuple[list[Any], list[Any]]:
    """Frames all the time; those taken from 4.4 s to 5.5 s are answered at 5.8 s."""
    frames = steady()
    answers = [
        answer(f, 5800 - 100 * index if 44 <= index < 55 else 50)
        for index, f in enumerate(frames)
    ]
    return frames, answers


def test_what_an_outage_spoils_is_left_out_and_its_share_is_said(
    tmp_path: Path, grid: Accuracies
) -> None:
    frames, answers = with_outage()
    run = score_run(write(tmp_path, frames, answers), OUTAGE, 'ferros', grid)
    assert run['age_p95_ms'] == 50
    assert run['outage_share'] == pytest.approx(0.225)  # 4.25 s to 6.5 s of ten
    at_ten = grid.at(grid.coding(48, 'webp', 80), 10)
    # Instants 4.3 s to 6.5 s are gone.
    assert run['expected_accuracy'] == pytest.approx((CHANCE + 76 * at_ten) / 77, abs=1e-4)
    # Without the outage in the scenario the same files look bad.
    run = score_run(tmp_path, CONST, 'ferros', grid)
    assert run['age_p95_ms'] > 500
    assert run['outage_share'] == 0


def test_the_gaps_of_a_trace_are_outages_if_they_are_longer_than_500_ms(tmp_path: Path) -> None:
    def spared(gap_ms: int) -> tuple[tuple[float, float], ...]:
        path = tmp_path / 'made.up'
        times = [*range(0, 4000, 20), *range(3980 + gap_ms, 10_001, 20)]
        path.write_text('\n'.join(map(str, times)))
        scenario = Scenario('trace_made', duration_s=9, trace_file=str(path))
        window = Window(scenario, LINK_NS, START_NS, LINK_NS + 9 * S)
        return tuple(((a - LINK_NS) / S, (b - LINK_NS) / S) for a, b in window.left_out)

    assert spared(480) == ()
    [(start, end)] = spared(700)
    assert (start, end) == (pytest.approx(3.98 - 0.25), pytest.approx(4.68 + 1.0))


def test_recovery_is_the_first_fresh_answer_after_the_outage(
    tmp_path: Path, grid: Accuracies
) -> None:
    # The outage ends at 5.5 s. The answers of 5.8 s to frames before 5.5 s are old ones; one to
    # a frame taken at 5.5 s comes at 5.55 s.
    frames, answers = with_outage()
    delivered = [700] * 50 + [0] * 12 + [700] * 48  # silent until 6.2 s of the schedule
    run = score_run(write(tmp_path, frames, answers, delivered=delivered), OUTAGE, 'ferros', grid)
    assert run['recovery_s'] == pytest.approx(0.05, abs=0.001)
    assert run['tcp_wait_s'] == pytest.approx(0.2)
    # Taken from 4.4 s to 5.4 s and published at 5.8 s; the last one to come is 0.4 s old.
    assert run['old_answers'] == 11
    assert run['old_frames_sent'] == 0


def test_an_old_answer_is_no_recovery_but_a_young_one_from_before_the_end_is(
    tmp_path: Path, grid: Accuracies
) -> None:
    def recovery(captured_ms: float, published_ms: float) -> Any:
        early = steady(until_ms=4000)
        last = frame(captured_ms)
        answers = [*map(answer, early), answer(last, published_ms - captured_ms)]
        folder = write(tmp_path, [*early, last], answers)
        return score_run(folder, OUTAGE, 'ferros', grid)['recovery_s']

    assert recovery(5400, 5690) == pytest.approx(0.19, abs=0.001)
    assert recovery(5300, 5690) is None
    assert recovery(5600, 9000) == pytest.approx(3.5, abs=0.001)


def test_frames_that_waited_are_counted_even_if_their_answers_are_not_published(
    tmp_path: Path, grid: Accuracies
) -> None:
    frames, answers = with_outage()
    frames[50]['sent_ns'] = frames[50]['captured_ns'] + 301 * MS
    run = score_run(write(tmp_path, frames, answers[:44] + answers[55:]), OUTAGE, 'ferros', grid)
    assert (run['old_answers'], run['old_frames_sent']) == (0, 1)


# --- oracle ----------------------------------------------------------------------------------


def constant_link(rate_bit_per_s: float, rtt_ms: float = 40, faces: int = 1,
                  seconds: int = 20) -> KnownLink:
    return KnownLink(schedule.constant(rate_bit_per_s), round(rtt_ms * MS), 0, seconds * S, faces)


def play_constantly(
    link: KnownLink, coding: Coding, spacing_ticks: int
) -> list[oracle.OracleFrame] | None:
    """Send one point all the time; None: it cannot be kept up, or is late."""
    sent, used = [], 0.0
    for tick in range(0, link.ticks, spacing_ticks):
        for slot in range(link.faces):
            now_ns = link.tick_ns(tick)
            left_ns, used = link.uplink.deliver(coding.bytes_p50, now_ns, used)
            if left_ns + link.rtt_ns // 2 - now_ns > 200 * MS:
                return None
            sent.append(oracle.OracleFrame(slot, now_ns, left_ns, left_ns + link.rtt_ns, coding,
                                           30 / spacing_ticks))
    return sent


def test_on_a_fast_link_the_oracle_sends_the_best_point_all_the_time(grid: Accuracies) -> None:
    link = constant_link(5e6)
    sent = oracle.frames(link, grid)
    assert {(f.coding.face_size_px, f.coding.quality) for f in sent} == {(48, 80)}
    # Instants 0 and nothing else come before the first answer, 41 ms after the start.
    expected = (CHANCE + 199 * grid.best) / 200
    assert oracle.judged(link, sent, grid) == pytest.approx(expected, abs=1e-6)


def test_of_two_codings_the_oracle_sends_the_one_that_the_link_carries() -> None:
    small, large = Coding(24, 'webp', 50, 300, 300), Coding(48, 'webp', 50, 1000, 1000)
    both = Accuracies([(small, 10.0, 0.6), (large, 10.0, 0.8)])
    # 10 per second of the small one are 24 kbit/s; the large one takes 333 ms of this link.
    thin = oracle.frames(constant_link(24e3), both)
    assert {f.coding for f in thin} == {small}
    assert len(thin) == pytest.approx(200, abs=5)
    wide = oracle.frames(constant_link(1e6), both)
    assert {f.coding for f in wide} == {large}


def test_where_nothing_arrives_in_time_the_oracle_sends_nothing() -> None:
    only = Accuracies([(Coding(48, 'webp', 50, 1000, 1000), 10.0, 0.8)])
    assert oracle.frames(constant_link(40e3), only) == []
    assert oracle.frames(constant_link(1e6, rtt_ms=500), only) == []


@pytest.mark.parametrize('rate_bit_per_s', [12e3, 20e3, 30e3, 64e3, 100e3])
def test_no_constant_point_that_the_link_carries_beats_the_oracle(
    rate_bit_per_s: float, grid: Accuracies
) -> None:
    link = constant_link(rate_bit_per_s)
    best = oracle.judged(link, oracle.frames(link, grid), grid)
    plays = [play_constantly(link, coding, spacing) for coding in grid.codings
             for spacing in (30, 15, 8, 6, 5, 3, 2)]
    possible = [oracle.judged(link, play, grid) for play in plays if play]
    assert len(possible) > 4
    assert best >= max(possible) - 0.001


def test_several_faces_do_no_worse_than_at_any_constant_point(grid: Accuracies) -> None:
    link = constant_link(250e3, faces=4, seconds=10)
    sent = oracle.frames(link, grid)
    plays = [play_constantly(link, coding, spacing) for coding in grid.codings
             for spacing in (30, 15, 6, 3, 2)]
    possible = [oracle.judged(link, play, grid) for play in plays if play]
    assert len(possible) > 4
    assert oracle.judged(link, sent, grid) >= max(possible) - 0.0005
    assert {f.slot for f in sent} == {0, 1, 2, 3}


def test_the_oracle_never_sends_more_than_the_link_carries_nor_late(grid: Accuracies) -> None:
    link = KnownLink(schedule.constant(64e3).with_outages([(3 * S, S)]), 40 * MS, S, 8 * S)
    sent = oracle.frames(link, grid)
    assert all(f.left_ns + 20 * MS - f.captured_ns <= 200 * MS for f in sent)
    assert all(f.captured_ns >= S for f in sent)
    for begin, end in ((S, 3 * S), (4 * S, 9 * S)):
        carried = sum(f.coding.bytes_p50 for f in sent if begin <= f.left_ns < end)
        assert 0.9 * 8000 * (end - begin) / S <= carried <= 8000 * (end - begin) / S + 700
    assert not [f for f in sent if 3 * S < f.left_ns < 4 * S]


def test_a_finer_table_finds_no_better_play(
    grid: Accuracies, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = constant_link(50e3, seconds=5)
    coarse = oracle.judged(link, oracle.frames(link, grid), grid)
    monkeypatch.setattr(oracle, 'LEVELS', 1024)
    assert oracle.judged(link, oracle.frames(link, grid), grid) < coarse + 0.001


def oracle_as_files(folder: Path, scenario: Scenario, grid: Accuracies) -> Path:
    """Write the oracle's play down as if it had been a run."""
    seconds = scenario.duration_s
    link = KnownLink(scenarios.uplink(scenario), round(scenario.rtt_ms * MS), S // 2,
                     round(seconds * S), scenario.faces)
    sent = oracle.frames(link, grid)
    frames = [
        frame((f.captured_ns - link.start_ns) / MS, face_id=f'f{f.slot}',
              face_size_px=f.coding.face_size_px, codec=f.coding.codec, quality=f.coding.quality,
              frame_rate_fps=f.frame_rate_fps, message_bytes=f.coding.bytes_p50)
        for f in sent
    ]
    answers = [answer(line, (f.published_ns - f.captured_ns) / MS)
               for line, f in zip(frames, sent, strict=True)]
    faces = [{'face_id': f'f{slot}', 'slot': slot, 'start_tick': 0, 'truth': None}
             for slot in range(scenario.faces)]
    states = [state(100 * index) for index in range(int(seconds * 10))]
    return write(folder, frames, answers, states, faces, seconds)


@pytest.mark.parametrize('scenario', [
    Scenario('const_x', rate_bit_per_s=64e3, duration_s=8),
    Scenario('faces_x', rate_bit_per_s=100e3, duration_s=6, faces=3),
    replace(OUTAGE, duration_s=9),
], ids=lambda scenario: scenario.name)
def test_the_oracle_is_judged_as_a_run_with_its_frames_would_be(
    scenario: Scenario, tmp_path: Path, grid: Accuracies
) -> None:
    folder = oracle_as_files(tmp_path, scenario, grid)
    run = score_run(folder, scenario, 'ferros', grid)
    assert run['expected_accuracy'] == pytest.approx(run['oracle_accuracy'], abs=1e-4)
    computed = oracle_run(recording.read(folder), scenario, grid)
    assert computed['sender'] == 'oracle'
    for key in ('expected_accuracy', 'age_p95_ms', 'startup_s', 'outage_share'):
        assert computed[key] == pytest.approx(run[key], abs=0.011), key


# --- scenarios -------------------------------------------------------------------------------


def test_the_scenarios_are_those_that_were_agreed_on() -> None:
    assert [scenario.name for scenario in SCENARIOS] == [
        'const_64k_rtt40', 'const_64k_rtt200', 'const_250k_rtt40', 'const_250k_rtt200',
        'const_1m_rtt40', 'const_1m_rtt200', 'const_5m_rtt40', 'const_5m_rtt200',
        'loss_1', 'loss_5',
        'trace_att', 'trace_verizon_lte', 'trace_norway', 'trace_verizon_evdo', 'trace_att_100k',
        'faces_4_250k', 'faces_8_250k', 'outage_1s', 'outage_3s', 'outage_10s',
    ]
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    assert by_name['loss_5'].loss == 0.05
    assert by_name['trace_verizon_evdo'].start_s == 300
    assert by_name['outage_10s'].outages_s == ((5.0, 10.0),)
    assert by_name['outage_10s'].duration_s == 22
    assert by_name['const_64k_rtt40'].realised and not by_name['const_64k_rtt200'].realised
    assert all(scenario.rtt_ms == 40 for scenario in SCENARIOS if scenario.group == 'trace')


def test_a_scenario_without_its_trace_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('FERROS_TEST_DATA', str(tmp_path))
    missing = {scenario.name for scenario in SCENARIOS if scenario.not_runnable}
    assert missing == {name for name, *_ in scenarios.TRACES} | {'trace_att_100k'}
    assert 'no trace norway_bus_1 in' in next(
        scenario.not_runnable for scenario in SCENARIOS if scenario.name == 'trace_norway')


@pytest.mark.parametrize(('changes', 'message'), [
    ({'name': 'other_x'}, "name is 'other_x'"),
    ({'trace_file': 'a.up'}, 'one of rate_bit_per_s and trace_file'),
    ({'loss': 1.0}, 'loss is 1.0'),
    ({'faces': 0}, 'faces is 0'),
    ({'duration_s': float('nan')}, 'duration_s is nan'),
    ({'outages_s': ((1.0, 0.0),)}, 'no empty outage'),
])
def test_a_scenario_that_makes_no_sense_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONST, **changes)


def test_recorded_links_are_scaled_to_their_mean(shared_data: Path) -> None:
    scenario = next(each for each in SCENARIOS if each.name == 'trace_att_100k')
    capacity = scenarios.uplink(scenario).capacity_bytes(0, 60 * S)
    assert capacity * 8 / 60 == pytest.approx(100e3, rel=0.001)


def test_the_oracle_keeps_its_deadline_on_a_recorded_link(
    shared_data: Path, grid: Accuracies
) -> None:
    scenario = next(each for each in SCENARIOS if each.name == 'trace_att_100k')
    link = KnownLink(scenarios.uplink(scenario), 40 * MS, 0, 20 * S)
    sent = oracle.frames(link, grid)
    assert len(sent) > 60
    assert all(f.left_ns + 20 * MS - f.captured_ns <= 200 * MS for f in sent)
    assert sum(f.coding.bytes_p50 for f in sent) <= link.uplink.capacity_bytes(0, 21 * S)


# --- bounds ----------------------------------------------------------------------------------


def scored(scenario: str, sender: str = 'ferros', **changes: Any) -> dict[str, Any]:
    """A run that meets every bound."""
    return {'scenario': scenario, 'sender': sender, 'age_p50_ms': 60.0, 'age_p95_ms': 90.0,
            'network_delay_p95_ms': 80.0, 'min_rtt_ms': 41.0, 'rtt_ms': 40.0, 'utilisation': 0.87,
            'useful_utilisation': 0.8, 'expected_accuracy': 0.83, 'oracle_accuracy': 0.84,
            'realised_accuracy': None, 'outage_share': 0.0, 'startup_s': 0.6, 'recovery_s': 0.3,
            'tcp_wait_s': 0.1, 'old_answers': 0, 'old_frames_sent': 0, 'kbit_per_s': 50.0,
            'backend': 'tun', **changes}


def every_run() -> list[dict[str, Any]]:
    return [scored(scenario.name) for scenario in SCENARIOS]


def missed(runs: Sequence[dict[str, Any]], ratio: float | None = 150.0,
           cost_us: float | None = 20.0) -> set[tuple[str, str]]:
    found = bounds.check(SCENARIOS, runs, 10_275, ratio, cost_us)
    return {(bound.scenario, bound.name) for bound in bounds.failures(found)}


def test_runs_that_meet_everything_miss_nothing() -> None:
    assert missed(every_run()) == set()


@pytest.mark.parametrize(('scenario', 'changes', 'name'), [
    ('const_64k_rtt40', {'network_delay_p95_ms': 141.0}, 'network delay, p95'),
    ('const_5m_rtt200', {'network_delay_p95_ms': 301.0}, 'network delay, p95'),
    ('const_64k_rtt200', {'utilisation': 0.84}, 'utilisation'),
    ('faces_8_250k', {'utilisation': 0.84}, 'utilisation'),
    ('trace_att', {'age_p95_ms': 251.0}, 'age, p95'),
    ('trace_att_100k', {'age_p95_ms': None}, 'age, p95'),
    ('const_1m_rtt200', {'expected_accuracy': 0.797}, 'expected accuracy over the oracle'),
    ('trace_norway', {'expected_accuracy': 0.797}, 'expected accuracy over the oracle'),
    ('outage_10s', {'recovery_s': 2.2, 'tcp_wait_s': 1.1}, "recovery, beyond TCP's wait"),
    ('outage_3s', {'recovery_s': None}, "recovery, beyond TCP's wait"),
    ('outage_1s', {'old_answers': 1}, 'answers older than 300 ms published'),
    ('outage_1s', {'old_frames_sent': 1}, 'frames sent that had waited 300 ms'),
    ('loss_5', {'expected_accuracy': 0.74}, 'expected accuracy over that without loss'),
    ('faces_4_250k', {'startup_s': 2.1}, 'startup'),
    ('loss_1', {'startup_s': None}, 'startup'),
])
def test_each_bound_is_missed_by_a_run_that_is_just_outside(
    scenario: str, changes: dict[str, Any], name: str
) -> None:
    runs = [{**run, **changes} if run['scenario'] == scenario else run for run in every_run()]
    assert missed(runs) == {(scenario, name)}


def test_utilisation_is_only_asked_for_where_the_grid_has_a_use_for_it(grid: Accuracies) -> None:
    wanted = {s.name for s in SCENARIOS if bounds.has_use(s, grid.best_bytes_per_s)}
    assert wanted == {'const_64k_rtt40', 'const_64k_rtt200', 'faces_4_250k', 'faces_8_250k'}


def test_the_wait_for_tcp_is_not_counted_as_recovery() -> None:
    runs = [{**run, 'recovery_s': 4.0, 'tcp_wait_s': 3.2} if run['scenario'] == 'outage_10s'
            else run for run in every_run()]
    [bound] = [each for each in bounds.check(SCENARIOS, runs, 10_275, 150.0, 20.0)
               if each.scenario == 'outage_10s' and each.name.startswith('recovery')]
    assert bound.met and bound.measured == pytest.approx(0.8)
    assert bound.note == '4.00 s in all, TCP silent for 3.2 s of them'


def test_a_baseline_counts_only_if_it_is_better_in_both_by_more_than_the_noise() -> None:
    name = 'baselines better in age and accuracy'
    for age_ms, accuracy_value, is_missed in (
        (80.0, 0.84, True), (80.0, 0.82, False), (95.0, 0.84, False),
        (86.0, 0.84, False), (80.0, 0.834, False), (None, 0.9, False),
    ):
        rival = scored('trace_att', 'fixed_low', age_p95_ms=age_ms,
                       expected_accuracy=accuracy_value)
        expected_miss = {('trace_att', name)} if is_missed else set()
        assert missed([*every_run(), rival]) == expected_miss, (age_ms, accuracy_value)
    rival = scored('trace_att', 'uncapped', age_p95_ms=86.0, expected_accuracy=0.84)
    [bound] = [each for each in bounds.check(SCENARIOS, [*every_run(), rival], 10_275, 150, 20)
               if each.name == name]
    assert bound.note == 'uncapped within the noise'


def test_the_bytes_and_the_cost_of_the_whole_bench_are_bounded() -> None:
    assert missed(every_run(), ratio=99.0) == {('', 'bytes: whole pictures over ours')}
    assert missed(every_run(), cost_us=51.0) == {('', 'cost of estimator and chooser')}


def test_what_was_not_run_is_neither_met_nor_missed() -> None:
    runs = [run for run in every_run() if run['scenario'] != 'const_1m_rtt40']
    found = bounds.check(SCENARIOS, runs, 10_275, None, None)
    assert not bounds.failures(found)
    unknown = {(bound.scenario, bound.name) for bound in found if bound.met is None}
    assert ('const_1m_rtt40', 'startup') in unknown
    assert ('loss_1', 'expected accuracy over that without loss') in unknown
    assert ('', 'cost of estimator and chooser') in unknown


def test_the_margin_tells_by_how_much() -> None:
    found = bounds.check(SCENARIOS, every_run(), 10_275, 150.0, 20.0)
    margins = {(bound.scenario, bound.name): bound.margin for bound in found}
    assert margins['const_64k_rtt40', 'network delay, p95'] == 60
    assert margins['const_64k_rtt40', 'utilisation'] == pytest.approx(0.02)
    assert margins['', 'bytes: whole pictures over ours'] == 50


# --- report ----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def bench(tmp_path_factory: pytest.TempPathFactory, grid: Accuracies) -> report.Bench:
    """Three scenarios: one is the oracle's play, one has made-up figures, one was not run."""
    folder = tmp_path_factory.mktemp('runs')
    made = folder / 'made.up'
    made.write_text('\n'.join(map(str, [*range(0, 3000, 40), *range(3700, 9001, 25)])))
    trace = Scenario('trace_made', duration_s=8, trace_file=str(made))
    played = oracle_as_files(folder / 'trace_made', trace, grid)
    runs = [score_run(played, trace, 'ferros', grid),
            oracle_run(recording.read(played), trace, grid),
            scored('trace_made', 'fixed_high', age_p95_ms=None, expected_accuracy=0.15),
            scored('outage_1s')]
    gone = Scenario('trace_gone', duration_s=8, trace_file='gone.up')
    all_of_them = [trace, OUTAGE, gone]
    return report.Bench(
        all_of_them, runs, {('trace_gone', 'ferros'): 'no trace gone.up in there'},
        {('trace_made', 'ferros'): played},
        bounds.check(all_of_them, runs, grid.best_bytes_per_s, 99.0, 12.0), 99.0, 12.0,
        {'backend': 'tun', 'date': '2026-01-01'},
    )


@pytest.fixture
def places(tmp_path: Path) -> report.Places:
    return report.Places(tmp_path / 'results' / 'link.json', tmp_path / 'bandwidth.md',
                         tmp_path / 'bandwidth_figures')


def test_the_report_holds_runs_bounds_and_what_was_not_run(
    bench: report.Bench, places: report.Places, grid: Accuracies
) -> None:
    report.write(bench, grid, places)
    found = json.loads(places.json.read_text())
    assert found['recovery_s'] == {'outage_1s': 0.3}
    assert (found['bytes_ratio'], found['cost_us_per_frame']) == (99.0, 12.0)
    assert found['not_run'] == [{'scenario': 'trace_gone', 'sender': 'ferros',
                                 'reason': 'no trace gone.up in there'}]
    wanted = {'scenario', 'sender', 'age_p50_ms', 'age_p95_ms', 'network_delay_p95_ms',
              'min_rtt_ms', 'utilisation', 'expected_accuracy', 'realised_accuracy'}
    assert all(wanted <= run.keys() for run in found['runs'])
    assert any(bound['met'] is False for bound in found['bounds'])
    text = places.document.read_text()
    assert 'trace_gone, ferros: no trace gone.up in there' in text
    assert '- bench: bytes: whole pictures over ours 99 times, held to at least 100 times' in text
    assert 'simulation' not in text
    for name in ('trace_made.png', 'overview.png'):
        assert f'bandwidth_figures/{name}' in text
        assert (places.figures / name).read_bytes().startswith(b'\x89PNG')


def test_what_others_wrote_in_the_document_stays(
    bench: report.Bench, places: report.Places, grid: Accuracies
) -> None:
    mine, yours = '# Mine\n\nHow it decides.\n\n', '\n\n## Yours\n\nlast words\n'
    places.document.write_text(f'{mine}{report.BEGIN}\nold figures\n{report.END}{yours}')
    report.write(bench, grid, places)
    text = places.document.read_text()
    assert text.startswith(mine) and text.endswith(yours)
    assert 'old figures' not in text and text.count('## What it is held to') == 1
    again = report.replaced(text, 'newer figures', places.document)
    assert again == f'{mine}{report.BEGIN}\n\nnewer figures\n\n{report.END}{yours}'
    with pytest.raises(report.ReportError, match=r'bandwidth\.md: expected the lines'):
        report.replaced('# Mine alone\n', 'newer figures', places.document)


def test_simulated_figures_are_called_that(bench: report.Bench) -> None:
    simulated = replace(bench, runs=[{**run, 'backend': 'simulation'} for run in bench.runs])
    assert '**These figures are of a simulation**' in report.document(simulated, {}, 'figures')


def test_the_table_for_the_terminal_marks_what_was_missed(bench: report.Bench) -> None:
    lines = report.bounds_table(bench.bounds).splitlines()
    assert len(lines) == len(bench.bounds)
    assert [line for line in lines if line.startswith('MISSED') and 'whole pictures' in line]
    assert [line for line in lines if 'trace_gone' in line and line.endswith('not run')]
