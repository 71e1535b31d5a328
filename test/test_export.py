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
"""`ferros-cloud export` from weights as the trainings leave them, with an untrained network."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_ferplus import make_faces, write_folder

from cloud_server.affect import RUSSELL_MEHRABIAN_1977
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model import (
    Encoder,
    EncoderConfig,
    Temporal,
    TemporalConfig,
    read_about,
    save_weights,
)
from cloud_server.training import export
from cloud_server.training.ferplus import load_splits
from cloud_server.training.scores import (
    calibration_error,
    first_frame,
    plurality,
    served,
)

SPLIT = {'held_out': 40, 'seed': 1, 'temporal': 0}
CONFIG = EncoderConfig(stem_channels=4, widths=(4, 6), blocks=(1, 1))


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp('ferplus'), {
        'train': make_faces(120, 1), 'valid': make_faces(14, 2),
    })


@pytest.fixture(scope='module')
def encoder() -> Encoder:
    torch.manual_seed(3)
    encoder = Encoder(CONFIG)
    with torch.no_grad():
        encoder.train()(torch.rand(16, 1, 48, 48) * 255)
        encoder.head.weight.mul_(60)  # far surer than anything untrained may be
    return encoder.eval()


def write(folder: Path, encoder: Encoder, first: Any, second: Any) -> list[str]:
    """Write both halves with what is said about them; return the options that name them."""
    temporal = Temporal(TemporalConfig(embedding_size=CONFIG.widths[-1], units=5))
    save_weights(encoder, folder / 'e', first)
    save_weights(temporal, folder / 't', second)
    return ['--encoder', str(folder / 'e'), '--temporal', str(folder / 't')]


def command(*options: object) -> int:
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    return export.run(parser.parse_args([str(option) for option in options]))


def test_an_lstm_may_come_from_an_encoder_that_left_faces_for_it(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    other = {**SPLIT, 'temporal': 30}
    held_out = [load_splits(data, **split, progress=False).held_out.names
                for split in (SPLIT, other)]
    assert held_out[0] == held_out[1]
    names = write(tmp_path, encoder, {'split': SPLIT}, {'split': other})
    assert command(*names, '--out', tmp_path / 'model') == 0
    assert read_about(tmp_path / 'model' / 'encoder.safetensors') == {'split': SPLIT}
    assert read_about(tmp_path / 'model' / 'temporal.safetensors') == {'split': other}


@pytest.mark.parametrize('change', [{'held_out': 41}, {'seed': 2}])
def test_halves_with_other_held_out_faces_are_refused(
    encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, int]
) -> None:
    names = write(tmp_path, encoder, {'split': SPLIT}, {'split': {**SPLIT, **change}})
    assert command(*names, '--out', tmp_path / 'model') == 1
    said = capsys.readouterr().err
    assert 'held_out and seed must agree' in said
    assert str(SPLIT) in said and str({**SPLIT, **change}) in said
    assert not (tmp_path / 'model').exists()


def test_what_cannot_be_fitted_is_one_clear_line(
    encoder: Encoder, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*write(tmp_path, encoder, {}, {}), '--out', tmp_path / 'model']
    assert command(*options, '--int8') == 1
    assert '--data is missing' in capsys.readouterr().err
    assert command(*options, '--data', data) == 1
    assert 'does not say which faces were held out' in capsys.readouterr().err
    large = {'split': {**SPLIT, 'held_out': 5000}}
    write(tmp_path, encoder, large, large)
    assert command(*options, '--data', data) == 1
    assert f'{data}: 120 faces cannot give parts' in capsys.readouterr().err
    assert not (tmp_path / 'model').exists()


@pytest.fixture(scope='module')
def calibrated(encoder: Encoder, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('calibrated')
    names = write(folder, encoder, {'split': SPLIT}, {'split': SPLIT})
    assert command(*names, '--data', data, '--clips', 3, '--out', folder / 'model') == 0
    return folder / 'model'


def test_a_network_that_is_surer_than_right_is_made_to_sound_less_sure(
    calibrated: Path, data: Path
) -> None:
    engine = OnnxEngine(calibrated)
    assert [size for size, _ in engine.info.temperature] == [12, 16, 24, 32, 48]
    held_out = load_splits(data, **SPLIT, progress=False).held_out
    logits = first_frame(engine, held_out.luma, progress=False)[:, :7]
    plain = np.exp(logits - logits.max(1, keepdims=True))
    error = []
    for chances in (plain / plain.sum(1, keepdims=True), served(engine, logits_of(logits), 48)):
        right = np.take_along_axis(plurality(held_out.votes), chances.argmax(1)[:, None], 1)[:, 0]
        error.append(calibration_error(chances.max(1), right))
    assert engine.info.temperature[-1][1] > 1.5
    assert error[1] < 0.7 * error[0]


def logits_of(seven: np.ndarray) -> np.ndarray:
    """Put the masked label back, which is not looked at."""
    return np.concatenate((seven, np.zeros_like(seven[:, :1])), 1)


def test_nine_tenths_of_the_held_out_faces_keep_a_label(calibrated: Path, data: Path) -> None:
    engine = OnnxEngine(calibrated)
    held_out = load_splits(data, **SPLIT, progress=False).held_out
    chances = served(engine, first_frame(engine, held_out.luma, progress=False), 48)
    named = chances.max(1) >= engine.info.unknown_below
    assert 0.9 <= named.mean() < 1
    stored = json.loads((calibrated / 'calibration.json').read_text())
    assert (stored['coverage'], stored['unknown_below']) == (0.9, engine.info.unknown_below)
    assert stored['split'] == SPLIT
    for kind in ('all_faces', 'majority_faces'):
        curve = stored[kind]['curve']
        assert curve['coverage'][-1] == 1
        assert curve['risk'][-1] == pytest.approx(1 - stored[kind]['accuracy'], abs=1e-3)
        assert 0 <= stored[kind]['accuracy_covered'] <= 1
    right = np.take_along_axis(plurality(held_out.votes), chances.argmax(1)[:, None], 1)[:, 0]
    assert stored['all_faces']['accuracy'] == pytest.approx(right.mean(), abs=1e-3)


def test_the_summary_names_threshold_and_both_accuracies(
    encoder: Encoder, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = write(tmp_path, encoder, {'split': SPLIT}, {'split': SPLIT})
    capsys.readouterr()
    assert command(*names, '--data', data, '--clips', 2, '--out', tmp_path / 'model') == 0
    said = capsys.readouterr().out
    stored = json.loads((tmp_path / 'model' / 'calibration.json').read_text())
    assert f'unknown below {stored["unknown_below"]}' in said
    for kind in ('all_faces', 'majority_faces'):
        assert f'{stored[kind]["accuracy_covered"]:.4f}' in said


def test_the_exported_model_says_where_its_labels_lie(calibrated: Path) -> None:
    assert OnnxEngine(calibrated).info.affect == RUSSELL_MEHRABIAN_1977
