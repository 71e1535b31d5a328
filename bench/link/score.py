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
"""
What a run of the bench comes to: how old, how accurate and how frugal its answers were.

Definitions. A face slot is a place in the scene, taken by one face after another. An outage is a
time of more than 500 ms in which the uplink could not deliver anything, because of its trace or by
the scenario; what was captured from 250 ms before one to 1 s after it is left out of ages, delays
and accuracies, and how much of the run that is, is said.

- age: from the capture of a frame to the publication of its answer, over all published answers.
- network delay: from sending a frame to its answer's arrival, less the time the server had it.
- utilisation: bytes that the uplink delivered over those it could have, after the first 2 s.
- expected accuracy: see bench.link.expected; at ten instants per second, the mean over the slots.
- realised accuracy: share of the ticks of labelled clips at which the newest published answer of
  the slot had the true label; the first 0.5 s are left out.
- oracle accuracy: expected accuracy of a sender that knows the future; see bench.link.oracle.
- startup: from the start of the scene until the mean of the last 0.5 s of expected accuracy is
  80 % of its mean over the last half of the run.
- recovery: from the end of the scenario's outage to the first publication of an answer that is at
  most 300 ms old or to a frame from after the outage. In it is the wait for TCP: from that end to
  the first byte that the uplink delivered (to 0.1 s), before which no sender can do anything.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.link import oracle, recording
from bench.link.accuracy import CHANCE, Accuracies
from bench.link.expected import (
    INSTANT_NS,
    Held,
    Sent,
    accuracies_in_force,
    in_force,
    inside,
    instants_ns,
)
from bench.link.oracle import KnownLink, OracleFrame
from bench.link.outages import Window, recovery
from bench.link.recording import Answer, Frame, Recording
from bench.link.scenarios import Scenario, uplink
from bench.link.schedule import NS_PER_MS, NS_PER_S, Interval

Run = dict[str, Any]
Floats = npt.NDArray[np.float64]

ORACLE = 'oracle'
# Its frames are larger than any of the grid, and it is given the benefit of the doubt.
CREDITED_WITH_BEST = 'fixed_high'

# Of utilisation: senders may feel their way first.
WARM_UP_NS = 2 * NS_PER_S
# Of realised accuracy: nothing can be known yet.
BLIND_NS = NS_PER_S // 2
STARTED_AT = 0.8
STARTUP_INSTANTS = 5
# More answers than this share without a line in the trace: the trace is not of this run.
MAX_UNMATCHED = 0.01


class ScoreError(ValueError):
    """The files of a run contradict each other."""


def score_run(folder: Path, scenario: Scenario, sender: str, accuracies: Accuracies) -> Run:
    """
    Return what a run comes to, from the folder that it wrote.

    Raises:
        RecordingError: a file is missing or not what it should be.
        ScoreError: the files contradict each other.
        GridError: a frame was sent in a way that the grid does not know.
    """
    return score(recording.read(folder), scenario, sender, accuracies)


def score(run: Recording, scenario: Scenario, sender: str, accuracies: Accuracies) -> Run:
    """Return what a run comes to; the keys that bench/results/link.json has for it."""
    window = _window(run, scenario)
    left_out = window.left_out
    ages = _ages_ms(run.answers, left_out)
    delays = _delays_ms(run.frames, left_out)
    instants = instants_ns(window.start_ns, window.end_ns, left_out)
    credit = accuracies.best if sender == CREDITED_WITH_BEST else None
    expected, unmatched = _expected(run, instants, scenario, accuracies, credit)
    known, play = _oracle(window, accuracies)
    bound = _oracle_expected(play, known, window, accuracies)
    delivered = delivered_bytes(run, window.start_ns, window.end_ns)
    drops = run.drops
    return {
        'scenario': scenario.name,
        'sender': sender,
        'age_p50_ms': percentile(ages, 50),
        'age_p95_ms': percentile(ages, 95),
        'network_delay_p95_ms': percentile(delays, 95),
        'min_rtt_ms': percentile(delays, 0),
        'rtt_ms': scenario.rtt_ms,
        'utilisation': _utilisation(run, window),
        'useful_utilisation': _useful_utilisation(run, window),
        'expected_accuracy': mean(expected),
        'oracle_accuracy': mean(bound),
        'realised_accuracy': _realised(run, left_out) if scenario.realised else None,
        'outage_share': round(window.outage_share, 4),
        'startup_s': startup_s(expected),
        **recovery(run, window),
        # Frames still on their way at the end are in neither.
        'sent': len(run.frames) + drops.get('unanswered', 0),
        'answered': len(run.frames),
        'published': len(run.answers),
        'answers_without_frame': unmatched,
        'dropped': drops,
        'kbit_per_s': round(delivered * 8e6 / (window.end_ns - window.start_ns), 2),
        'link_dropped': dict(run.link.get('dropped', {})),
        'link_late_p99_ms': run.link.get('late_p99_ms'),
        'backend': run.link.get('backend'),
    }


def oracle_run(run: Recording, scenario: Scenario, accuracies: Accuracies) -> Run:
    """Return what the oracle comes to in the time that was judged of a run; it was not run."""
    window = _window(run, scenario)
    known, play = _oracle(window, accuracies)
    expected = _oracle_expected(play, known, window, accuracies)
    shift_ns = window.start_ns - known.start_ns
    kept = ~inside(np.array([frame.captured_ns + shift_ns for frame in play], np.int64),
                   window.left_out)
    ages = [(frame.published_ns - frame.captured_ns) / NS_PER_MS
            for frame, is_kept in zip(play, kept, strict=True) if is_kept]
    begin_ns, end_ns = known.start_ns + WARM_UP_NS, known.start_ns + known.duration_ns
    carried = sum(frame.coding.bytes_p50 for frame in play if begin_ns <= frame.left_ns < end_ns)
    utilisation = ratio(carried, known.uplink.capacity_bytes(begin_ns, max(begin_ns, end_ns)))
    total = sum(frame.coding.bytes_p50 for frame in play)
    return {
        'scenario': scenario.name,
        'sender': ORACLE,
        'age_p50_ms': percentile(ages, 50),
        'age_p95_ms': percentile(ages, 95),
        # It is on its way all the time from its capture to its answer.
        'network_delay_p95_ms': percentile(ages, 95),
        'min_rtt_ms': percentile(ages, 0),
        'rtt_ms': scenario.rtt_ms,
        'utilisation': utilisation,
        'useful_utilisation': utilisation,
        'expected_accuracy': mean(expected),
        'oracle_accuracy': mean(expected),
        'realised_accuracy': None,
        'outage_share': round(window.outage_share, 4),
        'startup_s': startup_s(expected),
        'sent': len(play),
        'answered': len(play),
        'published': len(play),
        'kbit_per_s': round(total * 8e6 / known.duration_ns, 2),
        'backend': 'computed',
    }


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return a percentile, linear between values, to 0.01; None: there are no values."""
    return round(float(np.percentile(values, percent)), 2) if len(values) else None


def mean(values: Floats) -> float | None:
    """Return the mean to 0.0001; None: there are no values."""
    return round(float(values.mean()), 4) if len(values) else None


def ratio(part: float, whole: float) -> float | None:
    """Return a share to 0.0001; None: of nothing."""
    return round(part / whole, 4) if whole > 0 else None


def startup_s(expected: Floats) -> float | None:
    """
    Return how long expected accuracy took to come up; None: it never did.

    Args:
        expected: of the instants that were judged, ten per second, the first at the start.
    """
    if len(expected) < 2 * STARTUP_INSTANTS:
        return None
    final = expected[len(expected) // 2:].mean()
    running = np.convolve(expected, np.full(STARTUP_INSTANTS, 1 / STARTUP_INSTANTS), 'valid')
    reached = np.flatnonzero(running >= STARTED_AT * final)
    if final <= CHANCE or not len(reached):
        return None
    return round((int(reached[0]) + STARTUP_INSTANTS - 1) * INSTANT_NS / NS_PER_S, 2)


def delivered_bytes(run: Recording, start_ns: int, end_ns: int) -> int:
    """Return the bytes that the uplink delivered in the bins within a time."""
    delivered, _ = _bins(run, start_ns, end_ns)
    return delivered


def _bins(run: Recording, start_ns: int, end_ns: int) -> tuple[int, float]:
    """Return (delivered, capacity) of the uplink's bins that lie within a time, in bytes."""
    bin_ns = round(run.link['bin_ms'] * NS_PER_MS)
    zero_ns, up = run.link['started_ns'], run.link['up']
    first = max(0, -((zero_ns - start_ns) // bin_ns))
    last = max(first, (end_ns - zero_ns) // bin_ns)
    return sum(up['delivered_bytes'][first:last]), sum(up['capacity_bytes'][first:last])


def _utilisation(run: Recording, window: Window) -> float | None:
    return ratio(*_bins(run, window.start_ns + WARM_UP_NS, window.end_ns))


def _useful_utilisation(run: Recording, window: Window) -> float | None:
    """Return the share of the capacity that carried frames that were answered with a label."""
    start_ns = window.start_ns + WARM_UP_NS
    useful = sum(frame.message_bytes for frame in run.frames
                 if frame.status == 'ok' and start_ns <= frame.answered_ns < window.end_ns)
    return ratio(useful, _bins(run, start_ns, window.end_ns)[1])


def _window(run: Recording, scenario: Scenario) -> Window:
    return Window(scenario, int(run.link['started_ns']), run.started_ns, run.ended_ns)


def _rtt_ns(scenario: Scenario) -> int:
    return round(scenario.rtt_ms * NS_PER_MS)


def _ages_ms(answers: Sequence[Answer], left_out: Sequence[Interval]) -> list[float]:
    kept = ~inside(np.array([answer.captured_ns for answer in answers], np.int64), left_out)
    return [(answer.published_ns - answer.captured_ns) / NS_PER_MS
            for answer, is_kept in zip(answers, kept, strict=True) if is_kept]


def _delays_ms(frames: Sequence[Frame], left_out: Sequence[Interval]) -> list[float]:
    kept = ~inside(np.array([frame.captured_ns for frame in frames], np.int64), left_out)
    return [(frame.answered_ns - frame.sent_ns - frame.server_ns) / NS_PER_MS
            for frame, is_kept in zip(frames, kept, strict=True) if is_kept]


def _expected(
    run: Recording, instants: npt.NDArray[np.int64], scenario: Scenario, accuracies: Accuracies,
    credit: float | None,
) -> tuple[Floats, int]:
    """Return expected accuracy at the instants, and how many answers have no frame."""
    slots, unmatched = [], 0
    for slot in run.slots:
        answers, without = _held(run, slot, accuracies, credit)
        unmatched += without
        slots.append(in_force(answers, instants, _rtt_ns(scenario)))
    if unmatched > max(1.0, MAX_UNMATCHED * len(run.answers)):
        raise ScoreError(
            f'{scenario.name}: {unmatched} of {len(run.answers)} published answers are to frames '
            'that trace.jsonl does not have'
        )
    return np.mean(slots, axis=0), unmatched


def _held(
    run: Recording, slot: int, accuracies: Accuracies, credit: float | None
) -> tuple[list[Held], int]:
    slot_of = run.slot_of
    frames = {(frame.face_id, frame.captured_ns): frame for frame in run.frames
              if frame.status == 'ok' and slot_of[frame.face_id] == slot}
    worth = _worth(frames, accuracies, credit)
    held, without = [], 0
    for answer in run.answers:
        key = (answer.face_id, answer.captured_ns)
        if key in frames:
            interval_ns = round(NS_PER_S / frames[key].frame_rate_fps)
            held.append(Held(answer.captured_ns, answer.published_ns, interval_ns, worth[key]))
        elif slot_of[answer.face_id] == slot:
            without += 1
    return held, without


def _worth(
    frames: Mapping[tuple[str, int], Frame], accuracies: Accuracies, credit: float | None
) -> dict[tuple[str, int], float]:
    if credit is not None:
        return dict.fromkeys(frames, credit)
    # A face takes the slot over from the one before at a tick: the row of frames goes on.
    ordered = sorted(frames.items(), key=lambda item: item[1].captured_ns)
    sent = [
        Sent(frame.captured_ns,
             accuracies.coding(frame.face_size_px, frame.codec, frame.quality),
             frame.frame_rate_fps)
        for _, frame in ordered
    ]
    return dict(zip((key for key, _ in ordered), accuracies_in_force(sent, accuracies),
                    strict=True))


def _oracle(window: Window, accuracies: Accuracies) -> tuple[KnownLink, list[OracleFrame]]:
    """Return what the oracle knows of the link in the time that is judged, and what it sends."""
    start_ns, duration_ns = window.start_ns - window.link_ns, window.end_ns - window.start_ns
    if window.scenario.constant:
        # When a run of it begins makes no difference, nor do a few ms at its end.
        start_ns, duration_ns = 0, INSTANT_NS * max(1, round(duration_ns / INSTANT_NS))
    return _play(window.scenario, start_ns, duration_ns, accuracies)


@functools.lru_cache(maxsize=16)
def _play(
    scenario: Scenario, start_ns: int, duration_ns: int, accuracies: Accuracies
) -> tuple[KnownLink, list[OracleFrame]]:
    known = KnownLink(uplink(scenario), _rtt_ns(scenario), start_ns, duration_ns, scenario.faces)
    return known, oracle.frames(known, accuracies)


def _oracle_expected(
    play: list[OracleFrame], known: KnownLink, window: Window, accuracies: Accuracies
) -> Floats:
    shift_ns = known.start_ns - window.start_ns
    left_out = [(start + shift_ns, end + shift_ns) for start, end in window.left_out]
    instants = instants_ns(known.start_ns, known.start_ns + known.duration_ns, left_out)
    return np.asarray(np.mean(
        [in_force(oracle.held(play, slot, accuracies), instants, known.rtt_ns)
         for slot in range(known.faces)], axis=0,
    ), np.float64)


def _realised(run: Recording, left_out: Sequence[Interval]) -> float | None:
    """Return the share of ticks at which the label that was held was the true one."""
    right = [hit for slot in run.slots for hit in _hits(run, slot, left_out)]
    return ratio(sum(right), len(right))


def _hits(run: Recording, slot: int, left_out: Sequence[Interval]) -> Iterable[bool]:
    slot_of = run.slot_of
    answers = sorted((answer for answer in run.answers if slot_of[answer.face_id] == slot),
                     key=lambda answer: answer.published_ns)
    truth = {face.start_tick + index: label for face in run.faces if face.slot == slot
             for index, label in enumerate(face.truth or ())}
    ticks = np.array(sorted(truth), np.int64)
    times = run.started_ns + np.round(ticks * (NS_PER_S / run.tick_hz)).astype(np.int64)
    judged = (times >= run.started_ns + BLIND_NS) & (times < run.ended_ns)
    judged &= ~inside(times, left_out)
    position, newest = 0, None
    for tick, now_ns in zip(ticks[judged], times[judged], strict=True):
        while position < len(answers) and answers[position].published_ns <= now_ns:
            if newest is None or answers[position].captured_ns >= newest.captured_ns:
                newest = answers[position]
            position += 1
        yield newest is not None and newest.label == truth[int(tick)]
