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

"""`make study-smoke`: all commands of the study follow each other, and the page shows them all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cloud_server.training import report, study
from cloud_server.training.report_read import read_runs

ROOT = Path(__file__).resolve().parent.parent
CPU_LIMIT_S = 90


@pytest.fixture(scope='module')
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run it as `make study-smoke` does; return its folder and what it printed."""
    out = tmp_path_factory.mktemp('study') / 'smoke'
    ended = subprocess.run(
        [sys.executable, 'test/study_smoke.py', '--out', str(out)], cwd=ROOT, check=False,
        capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return out, ended.stdout


pytestmark = pytest.mark.timeout(1800)  # most of it is waiting, on a machine that others use too


def page(out: Path) -> str:
    return (out / 'report' / report.PAGE).read_text('utf-8')


def test_it_stays_within_its_time_and_says_where_the_page_is(ran: tuple[Path, str]) -> None:
    out, said = ran
    spent = re.search(r'([\d.]+) s of CPU in all', said)
    assert spent and float(spent[1]) < CPU_LIMIT_S
    assert said.rstrip().endswith(str(out / 'report' / report.PAGE))
    steps = re.findall(r's CPU  ferros-cloud ([a-z-]+)', said)
    assert set(steps) == {'train-image', 'train-video', 'export', 'evaluate', 'search', 'report'}
    assert steps.count('train-image') == steps.count('train-video') == 2  # both recipes


def test_every_kind_of_record_is_left_and_all_are_smoke_runs(ran: tuple[Path, str]) -> None:
    records = [run.record for run in read_runs([ran[0]])]
    assert {record.kind for record in records} == set(study.KINDS)
    assert all(record.smoke for record in records)


def test_the_page_has_every_table_and_marks_them_as_smoke(ran: tuple[Path, str]) -> None:
    html = page(ran[0])
    assert 'Smoke test of the study' in html
    assert html.count('smoke run: means nothing') >= 8  # in the figures themselves
    for heading in ('Table 1', 'Figure 2', 'tables a to c', 'simulated clips', 'Learning curves',
                    'Hyper-parameters', 'Runs and their configuration'):
        assert heading in html, heading
    names = {path.name for path in (ran[0] / 'report' / report.TABLES_FOLDER).iterdir()}
    for expected in ('table_1.csv', 'runs.csv', 'clips_.*_accuracy.csv', 'clips_.*_delays.csv',
                     'search_.*_space.csv', 'confusion_resnet_image.csv',
                     'video_.*_mean_calm_wrong.csv', 'video_.*_mode_eight_class_head.csv',
                     'video_.*_lstm.csv', 'learning_encoder_image.csv'):
        assert any(re.fullmatch(expected, name) for name in names), expected
    table_1 = (ran[0] / 'report' / report.TABLES_FOLDER / 'table_1.csv').read_text()
    assert table_1.count('not run in full; the command ran at smoke size') == 2 * 15


def test_the_page_is_one_file(ran: tuple[Path, str]) -> None:
    html = page(ran[0])
    assert not re.search(r'<(script|link|img|image|iframe)\b', html)
    assert not re.search(r'(src|href)="(?!#)', html)
