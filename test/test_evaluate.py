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
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_ferplus import make_faces, write_folder, write_zip

from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model import Encoder, EncoderConfig, Temporal, TemporalConfig
from cloud_server.training import streaming
from cloud_server.training.clips import ClipConfig, draw
from cloud_server.training.evaluate import (
    DEFAULT_MODEL,
    Scores,
    calibration_error,
    confidence_figures,
    first_frame,
    plurality,
    served,
)
from cloud_server.training.export import Serving, export
from cloud_server.training.ferplus import load, majority

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a small network of random weights."""
    torch.manual_seed(1)
    encoder = Encoder(EncoderConfig(stem_channels=4, widths=(4, 6), blocks=(1, 1)))
    temporal = Temporal(TemporalConfig(embedding_size=6, projection_size=3, state_size=5))
    torch.nn.init.normal_(temporal.head.weight)
    folder = tmp_path_factory.mktemp('model')
    export(encoder, temporal, folder, Serving())
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
    assert set(stored['ferplus_valid']['by_face_size_px']) == {'32', '24', '16', '12'}


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


def test_the_first_frame_is_what_serving_computes_from_zero_state(model: Path) -> None:
    engine, faces = OnnxEngine(model), make_faces(5, 2)
    logits = first_frame(engine, faces.luma, progress=False)
    for row in range(5):
        zero = np.zeros((1, 5), np.float32)
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


def test_streaming_accuracy_holds_labels_between_frames(model: Path) -> None:
    engine, faces = OnnxEngine(model), make_faces(14, 4)
    scenes = draw(ClipConfig(length_s=2.0), 6, len(faces), 1)
    truth = streaming.truths(faces, scenes)
    known = majority(faces.votes)
    assert (truth[:, 0] == known[scenes.faces[:, 0]]).all()
    assert (truth[:, -1] == known[scenes.faces[:, 1]]).all()
    full, slow = (streaming.cell(engine, faces, scenes.sent_as(48, rate)) for rate in (30.0, 2.0))
    assert set(full) == set(streaming.METHODS)
    assert all(0 <= value <= 1 for value in (*full.values(), *slow.values()))


def test_a_perfect_frame_is_late_only_by_the_frame_rate(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, faces = OnnxEngine(model), make_faces(14, 4)
    scenes = draw(ClipConfig(length_s=3.0, cross_fade_share=1.0), 12, len(faces), 1)
    truth = streaming.truths(faces, scenes)

    def oracle(engine: OnnxEngine, faces: object, sent: object) -> np.ndarray:
        clip, tick = streaming.arrivals(sent)
        features = np.zeros((len(clip), engine.info.feature_size), np.float32)
        features[np.arange(len(clip)), truth[clip, tick]] = 9.0
        return features

    monkeypatch.setattr(streaming, 'encode', oracle)
    assert streaming.cell(engine, faces, scenes.sent_as(48, 30.0))['frame'] == 1
    held = streaming.cell(engine, faces, scenes.sent_as(48, 2.0))
    assert 0.8 < held['frame'] < 1
    assert held['mean_of_30'] < held['frame']


def test_the_stream_carries_its_state_from_frame_to_frame(model: Path) -> None:
    engine = OnnxEngine(model)
    features = np.random.default_rng(2).normal(size=(6, 14)).astype(np.float32)
    ticks, side = np.arange(6) * 3, np.full(6, 48, np.float32)
    whole = streaming.stream(engine, features, ticks, side)
    np.testing.assert_allclose(streaming.stream(engine, features[:3], ticks[:3], side[:3]),
                               whole[:3], atol=1e-6)
    fresh = streaming.stream(engine, features[3:], ticks[3:], side[3:])
    assert np.abs(fresh - whole[3:]).max() > 1e-3


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


def test_the_model_card_says_what_the_commands_wrote() -> None:
    card = (DEFAULT_MODEL / 'MODEL_CARD.md').read_text()
    figures = json.loads((DEFAULT_MODEL / 'evaluation.json').read_text())
    found = figures['ferplus_valid']
    assert found['count'] == 2857 and found['eight_class']['count'] == 3191
    assert f'accuracy {found["accuracy"]:.4f}' in card
    assert f'accuracy {found["eight_class"]["accuracy"]:.4f}' in card
    for label, scores in found['per_class'].items():
        row = f'| {label} | {scores["count"]} | {scores["recall"]:.3f} | {scores["f1"]:.3f} |'
        assert row in card
    for row in figures['clips_valid']['streaming_accuracy']:
        cells = ' | '.join(f'{row[method]:.3f}' for method in streaming.METHODS)
        assert f'| {row["face_size_px"]} | {row["frame_rate_fps"]:.0f} | {cells} |' in card
    assert str(OnnxEngine(DEFAULT_MODEL).info.unknown_below) in card
