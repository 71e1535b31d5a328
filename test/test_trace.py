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

import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferros.bandwidth import BandwidthEstimator
from ferros.operating_point import Plan
from ferros.sender import InFlight, Ready
from ferros.trace import Trace
from ferros.types import Box, CameraFrame, Codec, GridPoint, OfferedFace

POINT = GridPoint(48, 8.4242, Codec.WEBP, 80, 685, 921, 0.84567)


def in_flight(rank: int = 0, point: GridPoint = POINT) -> InFlight:
    frame = CameraFrame(np.zeros((9, 9), np.uint8), stamp_ns=5, captured_ns=70)
    face = OfferedFace('a"\n\u00e9', Box(0, 0, 9, 9), frame)
    return InFlight(Ready(face, point, rank), sent_ns=80, message_bytes=700)


def lines(path: Path) -> list[dict[str, Any]]:
    def no_such_number(text: str) -> None:
        raise AssertionError(f'{text} is no JSON')

    return [
        json.loads(line, parse_constant=no_such_number)
        for line in path.read_text(encoding='utf-8').splitlines()
    ]


def test_an_answered_frame_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / 'trace.jsonl'
    trace = Trace(path)
    trace.frame(in_flight(rank=2), answered_ns=123, server_ns=-4, status='dropped_stale')
    trace.close()
    assert lines(path) == [
        {
            'kind': 'frame', 'face_id': 'a"\n\u00e9', 'rank': 2, 'captured_ns': 70, 'sent_ns': 80,
            'answered_ns': 123, 'server_ns': -4, 'status': 'dropped_stale', 'face_size_px': 48,
            'frame_rate_fps': 8.4242, 'codec': 'webp', 'quality': 80, 'message_bytes': 700,
        }
    ]


def test_a_change_of_the_connection_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / 'trace.jsonl'
    trace = Trace(path)
    trace.link(5, 'waiting', 'UNAVAILABLE: "nobody"\nis there')
    trace.close()
    assert lines(path) == [
        {'kind': 'link', 'now_ns': 5, 'state': 'waiting',
         'detail': 'UNAVAILABLE: "nobody"\nis there'}
    ]


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    path = tmp_path / 'trace.jsonl'
    bandwidth = BandwidthEstimator().estimate(0)
    trace = Trace(path)
    trace.state(9, 'connected', bandwidth, math.inf, None, {})
    trace.close()
    (line,) = lines(path)
    assert {name for name, value in line.items() if value is None} == {
        'round_trip_ms', 'min_round_trip_ms', 'queue_ms', 'budget_bytes_per_s'
    }
    assert line['points'] == {} and line['drops'] == {} and line['in_flight_bytes'] == 0


def test_how_the_link_stands_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / 'trace.jsonl'
    estimator = BandwidthEstimator()
    estimator.sent(1, 900, 0)
    estimator.answered(1, 0, 0, 40_000_000)
    estimator.sent(2, 300, 41_000_000)
    bandwidth = estimator.estimate(50_000_000)
    plan = Plan({'near': POINT, 'far': POINT._replace(face_size_px=20)}, 100.0, 200.0)
    trace = Trace(path)
    trace.state(50_000_000, 'connected', bandwidth, 1234.5678, plan, {'superseded': 3})
    trace.close()
    assert lines(path) == [
        {
            'kind': 'state', 'now_ns': 50_000_000, 'link': 'connected',
            'rate_bytes_per_s': round(bandwidth.rate_bytes_per_s, 3),
            'acknowledged_bytes_per_s': 1800.0, 'round_trip_ms': 40.0,
            'min_round_trip_ms': 40.0, 'queue_ms': 0.0, 'in_flight_bytes': 300,
            'window_bytes': bandwidth.window_bytes, 'budget_bytes_per_s': 1234.568,
            'points': {
                'near': [48, 8.42, 'webp', 80, 685, 0.8457],
                'far': [20, 8.42, 'webp', 80, 685, 0.8457],
            },
            'drops': {'superseded': 3},
        }
    ]


def test_the_file_is_written_anew_and_nothing_after_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / 'trace.jsonl'
    path.write_text('an older trace\n')
    trace = Trace(path)
    trace.link(1, 'connecting', '')
    trace.close()
    trace.link(2, 'connected', '')
    trace.close()
    assert [line['now_ns'] for line in lines(path)] == [1]


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / 'trace.jsonl'
    trace = Trace(path)

    def write(state: str) -> None:
        for now_ns in range(500):
            trace.link(now_ns, state, 'x' * 200)

    threads = [threading.Thread(target=write, args=(f'state {i}',)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trace.close()
    written = lines(path)
    assert len(written) == 2000
    for index in range(4):
        of_one = [line['now_ns'] for line in written if line['state'] == f'state {index}']
        assert of_one == list(range(500))


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match='no/such/folder'):
        Trace(tmp_path / 'no/such/folder/trace.jsonl')
