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

"""`ferros-cloud evaluate`: figures by known protocols, from the code that serves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_ferplus import make_faces, write_folder, write_zip

from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model import Encoder, EncoderConfig, Temporal, TemporalConfig
from cloud_server.training import bootstrap, report_read
from cloud_server.training.evaluate import DEFAULT_MODEL
from cloud_server.training.export import Serving, export, write_model_json
from cloud_server.training.ferplus import EMOTIONS, load, majority
from cloud_server.training.quantize import quantize
from cloud_server.training.scores import (
    Scores,
    calibration_error,
    confidence_figures,
    first_frame,
    plurality,
    served,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a small network of random weights."""
    torch.manual_seed(1)
    encoder = Encoder(EncoderConfig(stem_channels=4, widths=(4, 6), blocks=(1, 1)))
    temporal = Temporal(TemporalConfig(embedding_size=6, projection_size=3, units=5))
    torch.nn.init.normal_(temporal.head.weight)
    folder = tmp_path_factory.mktemp('model')
    export(encoder, temporal, folder, Serving())
    quantize(folder / 'encoder.onnx', folder / 'encoder_int8.onnx', make_faces(35, 3).luma, 48)
    write_model_json(folder, encoder, temporal, Serving())
    return folder


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp('ferplus'), {'valid': make_faces(35, 2)})


def evaluate(*options: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process where importing torch fails."""
    code = (
        'import argparse, sys; sys.modules["torch"] = None\n'
        'from cloud_server.training import evaluate as e\n'
        'p = argparse.ArgumentParser(); e.add_arguments(p); sys.exit(e.run(p.parse_args()))'
    )
    return subprocess.run([sys.executable, '-c', code, *map(str, options)], cwd=ROOT, text=True,
                          capture_output=True, timeout=120, check=False)


def test_accuracy_recall_and_f1_are_those_of_the_confusion_matrix() -> None:
    scores = Scores.of(np.array([0, 0, 0, 1, 1, -1]), np.array([0, 0, 1, 1, 0, 2]),
                       ('a', 'b', 'c'))
    assert scores.confusion.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert scores.count == 5 and scores.accuracy == pytest.approx(0.6)
    assert scores.recall.tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert scores.f1.tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    found = scores.to_json()
    assert found['macro_f1'] == pytest.approx((2 / 3 + 1 / 2) / 3, abs=1e-4)
    assert found['per_class']['b'] == {'recall': 0.5, 'f1': 0.5, 'count': 2}


def test_the_command_prints_tables_and_one_line_of_json_last_and_needs_no_torch(
    data: Path, model: Path, tmp_path: Path
) -> None:
    for path in (data, write_zip(tmp_path / 'all.zip', data)):
        result = evaluate('ferplus', '--data', path, '--split', 'valid', '--model', model,
                          '--json')
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        figures = json.loads(lines[-1])
        assert set(figures) == {'accuracy', 'macro_f1', 'count', 'per_class', 'eight_class'}
        assert figures['count'] == 35 and len(figures['per_class']) == 7
        assert len(figures['eight_class']['per_class']) == 8
        assert figures['eight_class']['per_class']['contempt']['count'] == 0
        assert any('truth / guess' in line for line in lines)
        matrix = [line for line in lines if line.startswith('surprise ')]
        assert len(matrix) == 2


def test_figures_are_recorded_with_their_command(data: Path, model: Path, tmp_path: Path) -> None:
    file = tmp_path / 'evaluation.json'
    file.write_text('{"before": 1}')
    result = evaluate('ferplus', '--data', data, '--model', model, '--record', file)
    assert result.returncode == 0, result.stderr
    stored = json.loads(file.read_text())
    assert stored['before'] == 1
    assert stored['ferplus_valid']['command'].startswith('ferros-cloud evaluate ferplus')
    found = stored['ferplus_valid']
    assert set(found['by_face_size_px']) == {'32', '24', '16', '12'}
    low, high = found['intervals']['accuracy']
    assert low <= found['accuracy'] <= high
    low, high = found['eight_class']['intervals']['macro_f1']
    assert low <= found['eight_class']['macro_f1'] <= high
    assert {'accuracy_at_0.9_coverage_all_faces', 'accuracy_at_0.9_coverage_majority_faces'} <= (
        set(found['confidence']))


def test_int8_is_measured_by_name_and_kept_beside_fp32(
    data: Path, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / 'evaluation.json'
    for precision in ('fp32', 'int8'):
        result = evaluate('ferplus', '--data', data, '--model', model, '--record', file,
                          '--precision', precision)
        assert result.returncode == 0, result.stderr
    stored = json.loads(file.read_text())
    assert set(stored) == {'ferplus_valid', 'int8_ferplus_valid'}
    assert '--precision int8' in stored['int8_ferplus_valid']['command']
    assert '--precision' not in stored['ferplus_valid']['command']


def test_a_model_without_int8_says_how_to_make_it(data: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'model'
    shutil.copytree(model, folder)
    about = json.loads((folder / 'model.json').read_text())
    del about['sha256']['encoder_int8.onnx']
    (folder / 'model.json').write_text(json.dumps(about))
    result = evaluate('ferplus', '--data', data, '--model', folder, '--precision', 'int8')
    assert result.returncode == 1 and 'export --int8' in result.stderr
    assert 'Traceback' not in result.stderr


def test_the_study_gets_a_row_of_its_tables(data: Path, model: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, '-m', 'cloud_server', 'evaluate', 'ferplus', '--data', str(data),
         '--model', str(model), '--precision', 'int8', '--study', str(tmp_path)],
        cwd=ROOT, text=True, capture_output=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    [path] = tmp_path.iterdir()
    assert path.name == f'image_{model.name}_int8.study.json'
    [run] = report_read.read_runs([tmp_path])
    assert 'M multiply-adds, int8)' in run.record.network
    assert run.record.smoke and run.record.data == 'FER+ validation, 35 faces with a majority'
    scores = report_read.scores_of(run)
    assert scores.accuracy == run.record.result['accuracy'] and len(scores.per_class) == 7


def test_the_study_has_no_table_of_speed(model: Path, tmp_path: Path) -> None:
    result = evaluate('speed', '--model', model, '--study', tmp_path)
    assert result.returncode == 1 and '--study' in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('what', ['clips', 'robustness'])
def test_what_needs_torch_says_so_where_it_is_missing(data: Path, model: Path, what: str) -> None:
    result = evaluate(what, '--data', data, '--model', model)
    assert result.returncode == 1 and "'torch'" in result.stderr
    assert 'Traceback' not in result.stderr


def test_a_missing_split_and_a_missing_set_are_one_clear_line(data: Path, model: Path) -> None:
    for options in (('--data', data, '--split', 'test'), ('--data', data / 'nowhere')):
        result = evaluate('ferplus', *options, '--model', model)
        assert result.returncode == 1 and result.stdout == ''
        assert 'Traceback' not in result.stderr
    assert 'no such file' in result.stderr
    assert '--data is missing' in evaluate('ferplus', '--model', model).stderr


def test_the_speed_is_that_of_eight_faces_at_a_time(model: Path) -> None:
    result = evaluate('speed', '--model', model, '--json')
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures['batch'] == 8 and figures['threads'] == 1
    assert 0 < figures['faces_per_s_median'] <= figures['faces_per_s_best']
    assert set(figures['by_batch']) == {'1', '8', '32'}
    assert figures['by_batch']['8']['faces_per_s_best'] == figures['faces_per_s_best']
    assert figures['gemm_gflops'] > 0.1 and figures['processor'] and figures['precision'] == 'fp32'


def test_the_five_class_macro_f1_leaves_out_the_two_rare_classes_but_no_face() -> None:
    confusion = np.zeros((7, 7), np.int64)
    confusion[:5, :5] = np.diag([10, 10, 10, 10, 10])
    confusion[5, 4] = 10  # disgust taken for anger
    scores = Scores(EMOTIONS[:7], confusion)
    anger = 2 * 10 / (10 + 20)
    assert scores.common_macro_f1 == pytest.approx((4 + anger) / 5)
    assert scores.f1.mean() == pytest.approx((4 + anger) / 7)


def test_intervals_hold_the_figure_repeat_and_narrow_with_the_faces() -> None:
    few = Scores(('a', 'b'), np.array([[40, 10], [10, 40]]))
    many = Scores(('a', 'b'), few.confusion * 100)
    for scores in (few, many):
        for name, (low, high) in scores.intervals().items():
            assert low < 0.8 < high, name
    assert few.intervals() == few.intervals()
    wide, narrow = (np.ptp(scores.intervals()['accuracy']) for scores in (few, many))
    # What the binomial says, 2 x 1.96 sqrt(p (1 - p) / n), and ten times narrower.
    assert wide == pytest.approx(3.92 * np.sqrt(0.16 / 100), rel=0.1)
    assert narrow == pytest.approx(wide / 10, rel=0.15)
    assert Scores(('a', 'b'), np.zeros((2, 2), np.int64)).intervals() == {}


def test_the_bootstrap_draws_what_drawing_faces_one_by_one_draws() -> None:
    counts = np.array([[30, 5], [3, 12]])
    drawn = bootstrap.resamples(counts)
    assert drawn.shape == (bootstrap.RESAMPLES, 2, 2) and (drawn.sum((1, 2)) == 50).all()
    rng = np.random.default_rng(7)
    faces = np.repeat(np.arange(4), counts.ravel())
    one_by_one = np.stack([np.bincount(rng.choice(faces, 50), minlength=4) for _ in range(4000)])
    np.testing.assert_allclose(drawn.reshape(-1, 4).mean(0), counts.ravel(), rtol=0.05)
    np.testing.assert_allclose(drawn.reshape(-1, 4).std(0), one_by_one.std(0), rtol=0.1)
    with pytest.raises(ValueError, match='no faces'):
        bootstrap.resamples(np.zeros((2, 2), np.int64))


def test_the_surest_nine_tenths_are_what_accuracy_at_coverage_counts() -> None:
    votes = np.zeros((10, 10), np.uint8)
    votes[:, 0] = 10
    votes[9] = 0
    votes[9, [0, 1, 8]] = 3, 3, 4  # two emotions share, no majority
    scores = np.full((10, 7), 0.01, np.float32)
    scores[np.arange(10), [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]] = np.linspace(0.9, 0.3, 10)
    found = confidence_figures(scores, votes, 0.0)
    assert found['accuracy_at_0.9_coverage_all_faces'] == pytest.approx(8 / 9, abs=1e-4)
    assert found['accuracy_at_0.9_coverage_majority_faces'] == pytest.approx(8 / 9, abs=1e-4)
    votes[8] = votes[9]
    found = confidence_figures(scores, votes, 0.0)
    assert found['accuracy_at_0.9_coverage_all_faces'] == pytest.approx(8.5 / 9, abs=1e-4)
    assert found['accuracy_at_0.9_coverage_majority_faces'] == 1


def test_the_first_frame_is_what_serving_computes_from_zero_state(model: Path) -> None:
    engine, faces = OnnxEngine(model), make_faces(5, 2)
    logits = first_frame(engine, faces.luma, progress=False)
    for row in range(5):
        zero = np.zeros((1, engine.info.state_size), np.float32)
        alone, _, _ = engine.step(
            engine.encode(faces.luma[row : row + 1]), np.zeros(1, np.float32),
            np.full(1, 48, np.float32), zero, zero,
        )
        np.testing.assert_allclose(logits[row], alone[0], atol=1e-4)
    np.testing.assert_allclose(served(engine, logits, 48).sum(1), 1, atol=1e-5)


def test_plurality_covers_ambiguous_faces_and_shares_ties() -> None:
    votes = np.zeros((4, 10), np.uint8)
    votes[0, [0, 4, 8]] = 3, 4, 3
    votes[1, [1, 2]] = 5, 5
    votes[2, [7, 0]] = 6, 4
    votes[3, 9] = 10
    shares = plurality(votes)
    assert shares[0].tolist() == [0, 0, 0, 0, 1, 0, 0]
    assert shares[1].tolist() == [0, 0.5, 0.5, 0, 0, 0, 0]
    assert shares[2].sum() == 0 and shares[3].sum() == 0


def test_calibration_error_is_the_gap_between_confidence_and_truth() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.2, 1, 50_000)
    right = rng.random(50_000) < confidence
    assert calibration_error(confidence, right) < 0.01
    assert calibration_error(confidence, right * 0.0) == pytest.approx(0.6, abs=0.01)
    assert calibration_error(np.full(10, 0.9), np.full(10, 0.7)) == pytest.approx(0.2)


def test_the_threshold_trades_coverage_for_accuracy() -> None:
    votes = np.zeros((4, 10), np.uint8)
    votes[:, 0] = 10
    scores = np.full((4, 7), 0.02, np.float32)
    scores[[0, 1, 2, 3], [0, 0, 1, 0]] = 0.9, 0.8, 0.4, 0.35
    all_shown, some = (confidence_figures(scores, votes, below) for below in (0.0, 0.5))
    assert all_shown['coverage_all_faces'] == 1
    assert all_shown['covered_accuracy_all_faces'] == 0.75
    assert some['coverage_all_faces'] == 0.5
    assert some['covered_accuracy_majority_faces'] == 1


def test_the_shipped_model_reaches_its_bar_on_validation(shared_data: Path) -> None:
    path = shared_data / 'data' / 'ferplus_trainvalid.zip'
    if not path.is_file():
        pytest.skip(f'{path} is missing')
    faces = load(path, 'valid', progress=False)
    sure = faces.subset(majority(faces.votes) >= 0)
    assert len(sure) == 2857
    engine = OnnxEngine(DEFAULT_MODEL, threads=2)
    guess = served(engine, first_frame(engine, sure.luma, progress=False), 48).argmax(1)
    assert (guess == majority(sure.votes)).mean() >= 0.885
