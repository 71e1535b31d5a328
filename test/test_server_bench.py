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
"""Tests of how the server bench judges and reports; what it measures is the bench's own run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bench.server import bounds, machine, report
from bench.server.bounds import FULL, QUICK
from bench.server.machine import Usage
from bench.server.recorded import Batch, read


def row(load: float, ok_per_s: float, **more: object) -> dict[str, object]:
    return {
        'load': load, 'offered_per_s': 700 * load, 'ok_per_s': ok_per_s, 'p50_ms': 5.0,
        'p99_ms': 40.0, 'age_p99_ms': 150.0, 'age_max_ms': 190.0, 'batch_faces': 3.0,
        'batch_ms': 6.0, 'answers': {'OK': 100, 'OVERLOADED': 7}, **more,
    }


CURVE = [row(0.5, 350), row(0.8, 560), row(1.0, 690), row(1.5, 660)]


def met(results: dict[str, object], limits=FULL) -> dict[str, bool | None]:
    return {bound.name: bound.met for bound in bounds.check(results, limits)}


def test_what_was_not_run_is_neither_met_nor_missed():
    assert set(met({}).values()) == {None}


@pytest.mark.parametrize(('ratio', 'is_met'), [(0.71, True), (0.69, False)])
def test_a_ratio_is_held_to_its_limit(ratio, is_met):
    found = met({'over_raw': {'default': {'ratio': ratio}}})
    assert found['end to end over the raw loop, shipped model'] is is_met
    assert found['end to end over the raw loop, ResNet-50 int8'] is None


def test_one_frame_without_an_answer_misses_also_the_quick_bound():
    for limits in (FULL, QUICK):
        found = met({'restart': {'unanswered': 1, 'states_lost': 0}}, limits)
        assert found['rolling restart: frames without an answer'] is False
        assert found['rolling restart: LSTM states lost'] is True


def test_the_worst_fault_counts_and_nothing_unexpected_is_let_pass():
    good = {'p99_ratio': 1.0, 'unexpected': {}, 'good_unanswered': 0}
    name = 'p99 of good robots beside faulty ones over alone, worst'
    assert met({'faults': {'a': good, 'b': {**good, 'p99_ratio': 1.3}}})[name] is False
    strange = {**good, 'unexpected': {'UNKNOWN': 1}}
    found = met({'faults': {'a': good, 'b': strange}})
    assert found[name] is True
    assert found['unexpected answers to faulty robots, and none to good ones'] is False


def test_the_slope_is_that_of_a_straight_line_per_minute():
    points = [(s, 100 + 0.5 * s / 60) for s in range(0, 600, 10)]
    assert machine.slope_per_min(points) == pytest.approx(0.5)


def test_a_process_is_watched_until_another_one_ends():
    with subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1.5)']) as child:
        samples = machine.watch(os.getpid(), child)
    assert len(samples) >= 2
    for at_s, usage in samples:
        assert isinstance(usage, Usage)
        assert 0 <= at_s < 10
        assert 1 < usage.rss_mb < 5000
        assert usage.threads >= 1 and usage.descriptors >= 1


def test_batches_are_read_back_by_their_time(tmp_path):
    path = tmp_path / 'batches'
    path.write_text('100 3 7\n200 4 8\n300 5 9\n')
    assert read(path, 150, 250) == [Batch(200, 4, 8)]


def test_the_report_writes_json_tables_and_pictures_and_leaves_the_rest_of_the_page(tmp_path):
    results = {
        'about': {'date': '2000-01-01', 'processor': 'none', 'python': '3', 'grpcio': '1',
                  'onnxruntime': '1'},
        'capacity_per_s': 690.0,
        'curve': CURVE,
    }
    places = report.Places(tmp_path / 'server.json', tmp_path / 'server.md', tmp_path / 'figures')
    places.document.write_text(f'before\n{report.BEGIN}\nold\n{report.END}\nafter\n')
    report.write(results, bounds.check(results, FULL), places)
    page = places.document.read_text()
    assert page.startswith('before\n') and page.endswith('\nafter\n')
    assert 'old' not in page
    assert '| 150 % | 1050 | 660 |' in page
    assert (places.figures / 'load.png').stat().st_size > 10_000
    document = json.loads(places.json.read_text())
    assert document['p99_ms'] == {'0.5': 40.0, '0.8': 40.0, '0.95': None}
    assert document['overload_goodput_over_peak'] is None
    assert document['ray_speedup_2'] is None


def test_a_page_without_the_marks_is_not_written_over(tmp_path):
    places = report.Places(tmp_path / 'server.json', tmp_path / 'server.md', tmp_path / 'figures')
    places.document.write_text('something else\n')
    with pytest.raises(report.ReportError, match='once each'):
        report.write({'about': {}}, [], places)
    assert places.document.read_text() == 'something else\n'
