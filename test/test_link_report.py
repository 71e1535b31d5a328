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
"""What is concluded from a check of the link, and how it is shown; the traces are made up."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from ferros import accuracy_grid, link_picture, link_recording, synthetic_face, text_plot
from ferros.bandwidth import BandwidthEstimator
from ferros.chart import BLUE, GREEN, ORANGE, SCALE, ticks
from ferros.crop import crop
from ferros.encode import encode
from ferros.link_burst import Capacity, Limit
from ferros.link_outlook import Terms, look_ahead
from ferros.link_recording import Recording, summarise
from ferros.link_report import as_json, connection_lines, report_lines
from ferros.link_trial import Totals, Trial
from ferros.link_verdict import Check, Findings, Reached, conclude, rate_text, verdict
from ferros.operating_point import Plan
from ferros.sender import InFlight, Ready, message_bytes
from ferros.trace import Trace
from ferros.types import Box, CameraFrame, Codec, GridPoint, OfferedFace
from ferros_proto import recognition_pb2 as wire

MS = 1_000_000
GRID = accuracy_grid.read(accuracy_grid.default_path())
BEST = GridPoint(48, 15.0, Codec.WEBP, 80, 685, 990, 0.849)
IMAGE = np.zeros((48, 48), np.uint8)
POOR = GridPoint(24, 5.0, Codec.WEBP, 50, 293, 353, 0.78)
TERMS = Terms(48, 32, 240.0)
WELCOME = wire.Welcome(
    protocol_version=1, model='ferros-fer 1.1.0', labels=['neutral', 'anger'], input_size_px=48,
    credits=16, limits=wire.Limits(max_faces=32, max_frame_rate_fps=240.0),
)


def record(
    path: Path,
    points: Sequence[GridPoint] = (BEST,),
    age_ms: float = 60,
    server_ms: float = 4,
    lost: Sequence[str] = (),
    refused: int = 0,
    faces: int = 1,
) -> Recording:
    """Write a trace, with what writes real ones, of a link that uses each point for a second."""
    trace = Trace(path)
    trace.link(0, 'connecting', 'connecting to a:1')
    trace.link(1000, 'connected', '')
    estimator, now_ns = BandwidthEstimator(), 1000
    for number, point in enumerate(points):
        for _ in range(10):
            now_ns += 100 * MS
            frame = CameraFrame(IMAGE, now_ns, now_ns - 2 * MS)
            offered = [OfferedFace(f'f{rank}', Box(0, 0, 48, 48), frame) for rank in range(faces)]
            # The primary face fares best.
            points_now = [point if rank == 0 else POOR for rank in range(faces)]
            for rank, face in enumerate(offered):
                sent = InFlight(
                    Ready(face, points_now[rank], rank), now_ns, points_now[rank].bytes_p50 + 20
                )
                estimator.sent(now_ns + rank, sent.message_bytes, now_ns)
                answered_ns = now_ns + round((age_ms - 2) * MS)
                status = 'overloaded' if refused > 0 else 'ok'
                refused -= 1
                estimator.answered(now_ns + rank, now_ns, round(server_ms * MS), answered_ns)
                trace.frame(sent, answered_ns, round(server_ms * MS), status)
            ids = [face.face_id for face in offered]
            plan = Plan(dict(zip(ids, points_now, strict=True)), 0.0, 0.0)
            trace.state(
                now_ns + 60 * MS, 'connected', estimator.estimate(now_ns + 60 * MS), 9000.0,
                plan, {'superseded': 3},
            )
        if number < len(lost):
            trace.link(now_ns, 'waiting', lost[number])
            trace.link(now_ns, 'connected', '')
    trace.close()
    return link_recording.read(path)


def found(
    path: Path,
    capacity: Capacity | None = None,
    completed: bool = True,
    drops: dict[str, int] | None = None,
    **recorded: object,
) -> Findings:
    recording = record(path, **recorded)  # type: ignore[arg-type]
    reached = Reached('robot.lan:50051', 1.0, 12.0, 30.0, WELCOME, GRID, '126 operating points')
    totals = Totals(len(recording.states) / 10, 100_000, 30_000, drops or {'superseded': 3}, '')
    faces = int(str(recorded.get('faces', 1)))
    return conclude(Check(reached, faces, Trial(recording, totals), capacity, '', completed))


def link_of(kbit_per_s: float, limit: Limit = Limit.LINK) -> Capacity:
    return Capacity(kbit_per_s * 125, limit, 100_000, 40, 2.0)


def told(findings: Findings) -> str:
    return ' '.join(verdict(findings))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'trace.jsonl'


def test_what_a_trace_says_is_read_back(path: Path) -> None:
    recording = record(path, [BEST])
    assert len(recording.frames) == len(recording.states) == 10
    assert recording.began_ns == 1000
    frame = recording.frames[0]
    assert (frame.age_ms, frame.round_trip_ms) == pytest.approx((60, 54))
    assert (frame.status, frame.face_size_px, frame.quality) == ('ok', 48, 80)
    assert recording.states[0].accuracy == 0.849
    assert not math.isnan(recording.states[0].rate_bytes_per_s)


@pytest.mark.parametrize('line', ['{', '[]', '{"kind": "frame"}', '{"kind": "state"}', '3'])
def test_a_line_that_is_none_of_a_trace_is_named(line: str) -> None:
    with pytest.raises(ValueError, match='line 2'):
        link_recording.parse(['{"kind": "link", "now_ns": 1, "state": "a", "detail": ""}', line])


def test_what_the_link_settled_on_is_that_of_the_second_half(path: Path) -> None:
    summary = summarise(record(path, [POOR, POOR, POOR, BEST, BEST, BEST]))
    assert [point.face_size_px for point in summary.settled] == [48]
    assert summary.accuracy == pytest.approx(0.849)
    assert summary.bytes_ratio == pytest.approx(1.05, abs=0.03)


def test_an_empty_trace_is_no_error_and_no_figure() -> None:
    summary = summarise(Recording((), (), ()))
    assert summary.answered == 0
    assert math.isnan(summary.round_trip_ms.median)
    assert math.isnan(summary.accuracy)
    assert summary.settled == ()


def test_lost_connections_and_refused_frames_are_counted_and_told(path: Path) -> None:
    findings = found(path, points=[BEST] * 4, lost=['no answer for 5 s'], refused=3)
    assert findings.summary.interruptions == 1
    assert findings.summary.refused == {'overloaded': 3}
    assert 'The connection was lost once: no answer for 5 s.' in told(findings)
    assert 'refused frames: 3 overloaded' in told(findings)


@pytest.mark.parametrize(
    ('age_ms', 'server_ms', 'expected'),
    [
        (60, 4, 'Fresh: an answer comes 60 ms after its image'),
        (600, 4, 'Late: an answer comes 600 ms after its image (95 %: 600 ms); the path alone'),
        (600, 550, 'the server takes 550 ms'),
        (1500, 4, 'max_age_ms (1000) is published as `unknown`'),
    ],
)
def test_the_verdict_says_whether_answers_are_fresh_and_what_delays_them(
    path: Path, age_ms: float, server_ms: float, expected: str
) -> None:
    assert expected in told(found(path, age_ms=age_ms, server_ms=server_ms))


def test_stale_answers_are_told_as_a_share(path: Path) -> None:
    assert '50 % of the answers' in told(found(path, drops={'answer_stale': 5}))
    assert 'stale' not in told(found(path))


def test_a_fast_link_does_for_many_faces_and_more_of_it_buys_nothing(path: Path) -> None:
    findings = found(path, link_of(5000))
    text = told(findings)
    assert 'One face at 48 px and 15 fps (WebP, quality 80) fits: expected accuracy 0.849' in text
    assert 'the best there is' in text
    assert 'More bandwidth buys nothing for one face' in text
    assert 'what the server allows, not the link' in text
    assert findings.outlook.faces_that_fit == findings.outlook.faces_allowed > 10


def test_a_thin_link_is_told_what_more_of_it_would_buy(path: Path) -> None:
    findings = found(path, link_of(32), points=[POOR])
    text = told(findings)
    assert 'expected accuracy 0.780; 0.849 would be the best' in text
    assert 'Not even one face fits at full accuracy' in text
    assert 'Twice the rate would give one face 0.8' in text
    assert 'the best there is, 0.849, takes 1' in text


def test_only_a_link_that_was_full_has_no_more_to_give(path: Path) -> None:
    assert not found(path, link_of(500)).is_at_least
    findings = found(path, link_of(500, Limit.BYTES))
    assert findings.is_at_least
    assert 'At least 6 faces' in told(findings)
    assert '500 kbit/s' in '\n'.join(report_lines(findings))


def test_several_faces_are_told_as_a_mean_and_the_primary_one(path: Path) -> None:
    text = told(found(path, link_of(250), faces=3))
    assert '3 faces, mostly at 24 px and 5 fps (WebP, quality 50)' in text
    assert 'a mean expected accuracy of 0.803, the primary one 0.849' in text


def test_a_check_that_was_ended_early_says_so(path: Path) -> None:
    assert 'ended early' in told(found(path, completed=False))


def test_a_higher_rate_never_costs_accuracy_nor_faces() -> None:
    outlooks = [look_ahead(GRID, TERMS, 3, 1000.0 * 2**power) for power in range(11)]
    accuracies = [outlook.accuracy for outlook in outlooks]
    fits = [outlook.faces_that_fit for outlook in outlooks]
    assert all(b >= a - 0.005 for a, b in itertools.pairwise(accuracies))
    assert fits == sorted(fits)
    assert fits[0] == 0 and fits[-1] > 10
    assert outlooks[-1].accuracy == pytest.approx(outlooks[-1].best_accuracy)


def test_the_servers_limits_bound_how_many_faces_fit() -> None:
    assert look_ahead(GRID, Terms(48, 3, 240.0), 1, 1e7).faces_that_fit == 3
    slow = look_ahead(GRID, Terms(48, 32, 60.0), 2, 1e7)
    assert 2 <= slow.faces_that_fit == slow.faces_allowed < 8


def test_the_report_holds_every_figure_and_is_plain_ascii_where_it_must_be(path: Path) -> None:
    findings = found(path, link_of(250), drops={'superseded': 12, 'something_new': 1})
    text = '\n'.join([*connection_lines(findings.check.reached), *report_lines(findings, True)])
    assert text.isascii()
    for part in (
        'TCP in 12.0 ms', 'neutral, anger', '12 superseded: a newer image', '1 something_new',
        '250 kbit/s: the link was full', '<- this link', 'MB per hour', 'answer age',
    ):
        assert part in text, part
    assert max(map(len, text.splitlines())) < 110
    assert '█' in '\n'.join(report_lines(findings))


def test_the_json_is_strict_and_has_no_number_that_is_none(path: Path) -> None:
    document = as_json(found(path, link_of(250)))
    text = json.dumps(document, allow_nan=False)
    assert json.loads(text) == document
    assert document['capacity']['kbit_per_s'] == 250
    assert document['trial']['expected_accuracy'] == 0.849
    assert document['trial']['mb_per_hour'] == pytest.approx(468)
    assert as_json(found(path))['capacity'] is None


@pytest.mark.parametrize('suffix', link_picture.SUFFIXES)
def test_the_picture_shows_rate_delay_and_point(path: Path, tmp_path: Path, suffix: str) -> None:
    findings = found(path, link_of(500), points=[POOR, BEST, BEST], faces=2)
    file = tmp_path / f'picture{suffix}'
    link_picture.write(file, findings)
    image = cv2.imread(str(file))
    assert image.shape == (860 * SCALE, 1240 * SCALE, 3)
    for top, bottom in ((110, 300), (368, 528), (596, 786)):
        panel = image[top * SCALE : bottom * SCALE, 90 * SCALE : 760 * SCALE].astype(int)
        for colour in (BLUE, ORANGE):
            near = np.abs(panel - np.array(colour)).max(axis=2) < 40
            assert near.sum() > 200, (top, colour)
    curve = image[110 * SCALE : 360 * SCALE, 850 * SCALE : 1200 * SCALE].astype(int)
    assert (np.abs(curve - np.array(GREEN)).max(axis=2) < 40).sum() > 200


def test_a_picture_is_drawn_of_what_little_there_is(path: Path, tmp_path: Path) -> None:
    link_picture.write(tmp_path / 'a.png', found(path, completed=False))
    assert (tmp_path / 'a.png').stat().st_size > 10_000


def test_a_row_of_characters_is_as_high_as_the_largest_value_in_each() -> None:
    assert text_plot.row([0, 1, 2, 3, 4, 5, 6, 8], 8, 8) == '▁▂▃▄▅▆▇█'
    assert text_plot.row([0, 8, 0, 0], 2, 8) == '█▁'
    assert text_plot.row([math.nan, 8], 5, 8, ascii_only=True) == ' #'
    assert text_plot.row([], 5, 8) == ''
    assert text_plot.row([0, 0], 2, 0) == '▁▁'
    assert text_plot.bar(5, 10, 8, ascii_only=True) == '####'
    assert text_plot.bar(math.nan, 10, 8) == text_plot.bar(-1, 10, 8) == ''
    assert text_plot.bar(99, 10, 8) == '█' * 8


def test_only_a_stream_that_can_show_more_than_ascii_is_sent_it() -> None:
    assert text_plot.can_show('utf-8')
    for encoding in ('ascii', 'latin-1', 'nonsense', None):
        assert not text_plot.can_show(encoding)


@pytest.mark.parametrize(
    ('bytes_per_s', 'text'),
    [
        (100, '0.8 kbit/s'), (7812.5, '62.5 kbit/s'), (124_990, '1 Mbit/s'),
        (1_562_500, '12.5 Mbit/s'), (1.25e8, '1 Gbit/s'), (math.nan, 'unknown'),
    ],
)
def test_a_rate_is_said_as_people_say_it(bytes_per_s: float, text: str) -> None:
    assert rate_text(bytes_per_s) == text


def test_ticks_are_round_and_within_the_axis() -> None:
    assert ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.75, 0.9, 3) == [0.75, 0.8, 0.85, 0.9]
    assert ticks(3, 3, 4) == ticks(0, math.nan, 4) == []


def test_drawn_faces_move_and_cost_about_what_photographed_ones_do() -> None:
    images = synthetic_face.frames()
    assert len(images) == synthetic_face.COUNT
    assert all((images[0] == again).all() for again in [synthetic_face.frame(0)])
    assert np.abs(images[0].astype(int) - images[15]).mean() > 5
    ratios = []
    for point in GRID:
        box = Box(0, 0, synthetic_face.SIZE_PX, synthetic_face.SIZE_PX)
        lengths = [
            len(encode(crop(image, box, point.face_size_px), point.codec, point.quality))
            for image in images[::20]
        ]
        # Around the image: the fields of the frame, and what the link adds.
        ratios.append((message_bytes(0) + 43 + float(np.median(lengths))) / point.bytes_p50)
    assert 0.9 < np.median(ratios) < 1.15
    assert all(0.8 < ratio < 1.3 for ratio in ratios)
