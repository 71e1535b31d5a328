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
"""The robot's small model: exported, calibrated and measured as cv2.dnn computes it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tiny_ferplus import make_faces, write_folder
from torch.nn import functional

from cloud_server.__main__ import main
from cloud_server.model import (
    LABELS,
    Encoder,
    EncoderConfig,
    Temporal,
    TemporalConfig,
    WeightsError,
    load_encoder,
    multiply_adds,
    save_weights,
)
from cloud_server.model_info import ModelError
from cloud_server.training import settings, study
from cloud_server.training.evaluate_fallback import GRAPH_FILE, INFO_FILE, Fallback, shrunk
from cloud_server.training.fallback import (
    LARGEST_BYTES,
    Serving,
    build_graph,
    calibrate,
    export_fallback,
    quantise,
)
from cloud_server.training.ferplus import Faces, load, majority
from cloud_server.training.image import ImageConfig
from cloud_server.training.scores import confidence_figures
from ferros.local_model import LocalModel

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / 'ferros' / 'models'
SEVEN = tuple(range(7))
SPLIT = {'held_out': 40, 'temporal': 0, 'seed': 1}

pytestmark = pytest.mark.usefixtures('one_thread')


def make_encoder(**config: object) -> Encoder:
    """Return random weights that a training could have left: statistics that are not 0 and 1."""
    torch.manual_seed(4)
    encoder = Encoder(EncoderConfig(**{
        'stem_channels': 6, 'widths': (8, 12), 'blocks': (1, 2), **config}))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.3, 0.3, generator=generator)
        encoder.head.weight.normal_(0, 0.5, generator=generator)
        encoder.train()
        luma = torch.from_numpy(make_faces(14, 0).luma).unsqueeze(1)
        for _ in range(8):
            encoder(luma)
    return encoder.eval()


def noisy(count: int, seed: int) -> Faces:
    """Return faces that a small network cannot all tell apart."""
    faces = make_faces(count, seed)
    noise = np.random.default_rng(seed).normal(0, 20, faces.luma.shape)
    return replace(faces, luma=np.clip(faces.luma + noise, 0, 255).astype(np.uint8))


def taught(encoder: Encoder) -> Encoder:
    """Fit the head by least squares, so that the network guesses better than chance."""
    faces = noisy(210, 6)
    with torch.no_grad():
        embedding = encoder(torch.from_numpy(faces.luma).unsqueeze(1))[:, len(LABELS):]
        mean = embedding.mean(0)
        wanted = functional.one_hot(torch.from_numpy(majority(faces.votes)), len(LABELS)) * 8.0
        fitted = torch.linalg.lstsq(embedding - mean, wanted - wanted.mean(0)).solution
        encoder.head.weight.copy_(fitted.T)
        encoder.head.bias.copy_(wanted.mean(0) - mean @ fitted)
    return encoder


@pytest.fixture(scope='module')
def encoder() -> Encoder:
    return make_encoder()


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('weights') / 'encoder.safetensors'
    save_weights(taught(make_encoder()), path, {'split': SPLIT})
    return path


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp('ferplus'), {
        'train': make_faces(120, 1), 'valid': make_faces(70, 2),
    })


@pytest.fixture(scope='module')
def exported(weights: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('exported')
    assert main(['export-fallback', '--encoder', str(weights), '--data', str(data), '--out',
                 str(folder), '--keep', str(folder / 'kept' / 'encoder.safetensors')]) == 0
    return folder


def logits_of(encoder: Encoder, luma: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return encoder.logits(encoder(torch.from_numpy(luma).unsqueeze(1)))[:, :7].numpy()


def test_opencv_computes_what_torch_does(encoder: Encoder, tmp_path: Path) -> None:
    export_fallback(encoder, tmp_path, Serving())
    luma = np.concatenate((make_faces(14, 3).luma, np.full((1, 48, 48), 9, np.uint8)))
    found = Fallback.load(tmp_path).logits(luma, progress=False)
    assert found == pytest.approx(logits_of(quantise(encoder), luma), abs=1e-4)
    assert np.abs(found).max() > 1


def test_a_shortcut_stride_and_width_of_every_kind_is_exported(tmp_path: Path) -> None:
    for config in ({'widths': (8, 8, 8), 'blocks': (1, 1, 1)}, {'widths': (6,), 'blocks': (2,)},
                   {'input_size_px': 32}):
        encoder = make_encoder(**config)
        export_fallback(encoder, tmp_path, Serving())
        luma = make_faces(3, 3).luma[:, : encoder.config.input_size_px,
                                     : encoder.config.input_size_px]
        luma = np.ascontiguousarray(luma)
        found = Fallback.load(tmp_path).logits(luma, progress=False)
        assert found == pytest.approx(logits_of(quantise(encoder), luma), abs=1e-4)


def test_other_runtimes_compute_it_too_for_any_number_of_faces(
    encoder: Encoder, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip('onnxruntime')
    export_fallback(encoder, tmp_path, Serving())
    session = onnxruntime.InferenceSession(
        str(tmp_path / GRAPH_FILE), providers=['CPUExecutionProvider'])
    luma = make_faces(5, 3).luma
    (found,) = session.run(['logits'], {'luma': luma[:, None].astype(np.float32)})
    assert found == pytest.approx(logits_of(quantise(encoder), luma), abs=1e-4)


def test_weights_are_rounded_to_the_nearest_of_255_steps_per_channel(encoder: Encoder) -> None:
    rounded = quantise(encoder)
    pairs = [(one.weight, other.weight) for one, other in
             zip(encoder.modules(), rounded.modules(), strict=True)
             if isinstance(one, torch.nn.Conv2d)]
    assert len(pairs) == 2 + 2 * 3 + 1
    for before, after in pairs:
        step = before.abs().amax((1, 2, 3), keepdim=True) / 127
        assert ((before - after).abs() <= step * 0.5001).all()
        assert (before - after).abs().max() > 0
    again = build_graph(rounded, SEVEN).SerializeToString()
    assert again == build_graph(encoder, SEVEN).SerializeToString()


def test_a_channel_of_zeros_is_exported(tmp_path: Path) -> None:
    encoder = make_encoder()
    with torch.no_grad():
        encoder.stem[0].weight[1] = 0
    export_fallback(encoder, tmp_path, Serving())
    luma = make_faces(3, 3).luma
    found = Fallback.load(tmp_path).logits(luma, progress=False)
    assert found == pytest.approx(logits_of(quantise(encoder), luma), abs=1e-4)


def test_every_convolution_but_the_head_is_stored_in_8_bits(encoder: Encoder) -> None:
    graph = build_graph(encoder, SEVEN).graph
    arrays = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
    whole = sum(array.size for array in arrays if array.dtype == np.int8)
    assert whole == sum(module.weight.numel() for module in encoder.modules()
                        if isinstance(module, torch.nn.Conv2d))
    assert {array.dtype for array in arrays if array.ndim == 4 and array.shape[0] != 7} == {
        np.dtype(np.int8)}


def test_a_network_too_large_for_the_robot_is_refused_with_its_size() -> None:
    with pytest.raises(WeightsError, match=rf'has \d{{7}} bytes, at most {LARGEST_BYTES}'):
        build_graph(Encoder(EncoderConfig()), SEVEN)


def test_the_shipped_settings_train_a_network_that_fits() -> None:
    config = settings.read(ImageConfig, ROOT / 'config' / 'train_fallback.yaml', {})
    encoder = Encoder(config.encoder).eval()
    assert multiply_adds(encoder) <= 40e6
    assert build_graph(encoder, SEVEN).ByteSize() <= LARGEST_BYTES


def test_the_command_writes_both_files_and_the_weights_they_are_made_from(
    exported: Path, weights: Path, data: Path, tmp_path: Path
) -> None:
    info = json.loads((exported / INFO_FILE).read_text())
    assert info['labels'] == list(LABELS[:7]) and info['affect']['happiness'] == [0.81, 0.51]
    assert list(info['affect']) == info['labels']
    assert [size for size, _ in info['temperature']] == [12, 16, 24, 32, 48]
    kept = exported / 'kept' / 'encoder.safetensors'
    assert load_encoder(kept).config == load_encoder(weights).config
    assert main(['export-fallback', '--encoder', str(kept), '--data', str(data),
                 '--out', str(tmp_path)]) == 0
    for name in (GRAPH_FILE, INFO_FILE):
        assert (tmp_path / name).read_bytes() == (exported / name).read_bytes()


def test_the_graph_names_its_input_and_output(exported: Path) -> None:
    graph = onnx.load(exported / GRAPH_FILE).graph
    assert [value.name for value in graph.input] == ['luma']
    assert [value.name for value in graph.output] == ['logits']


def test_the_robot_says_what_was_measured(exported: Path) -> None:
    robot, measured = LocalModel(exported), Fallback.load(exported)
    for side_px in (12, 20, 48):
        luma = shrunk(make_faces(6, 5).luma, side_px)
        expected = measured.probabilities(measured.logits(luma, progress=False), side_px)
        found = [answer.probabilities for answer in robot.predict(list(luma))]
        assert np.array(found) == pytest.approx(expected, abs=1e-6)


def test_temperatures_are_the_best_and_a_tenth_lies_under_the_threshold(exported: Path) -> None:
    faces = noisy(140, 7)
    model = Fallback.load(exported)
    found = calibrate(model, faces, progress=False)
    truth = majority(faces.votes)

    def loss(logits: np.ndarray, temperature: float) -> float:
        plain = Fallback(model.net, 48, model.labels, ((48.0, temperature),), 0.0, '')
        chosen = plain.probabilities(logits, 48)[np.arange(len(truth)), truth]
        return float(-np.log(np.maximum(chosen, 1e-30)).mean())

    for side_px, temperature in found['temperature']:
        assert 0.21 < temperature < 4.9
        logits = model.logits(shrunk(faces.luma, int(side_px)), progress=False)
        best = loss(logits, temperature)
        assert best <= min(loss(logits, temperature * factor) for factor in (0.9, 1.1))
    calibrated = Fallback(model.net, 48, model.labels, found['temperature'], 0.0, '')
    confidence = calibrated.probabilities(
        calibrated.logits(faces.luma, progress=False), 48).max(1)
    assert (confidence < found['unknown_below']).mean() == pytest.approx(0.1, abs=0.011)


def failed(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    assert main([*map(str, options)]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(f'ferros-cloud {options[0]}: ')
    return message


def test_weights_that_cannot_be_exported_are_named(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def export(path: Path, *options: object) -> str:
        return failed(capsys, 'export-fallback', '--encoder', path, '--out', tmp_path / 'out',
                      '--data', *(options or [data]))

    missing = tmp_path / 'none.safetensors'
    assert f'{missing}: cannot be read' in export(missing)
    temporal = tmp_path / 'temporal.safetensors'
    save_weights(Temporal(TemporalConfig()), temporal, {})
    assert f'{temporal}: ' in export(temporal)
    unknown = tmp_path / 'unknown.safetensors'
    save_weights(load_encoder(weights), unknown, {})
    assert f'{unknown}: does not say which faces were held out' in export(unknown)
    assert not (tmp_path / 'out').exists()
    assert str(tmp_path / 'nowhere') in export(weights, tmp_path / 'nowhere')


def evaluate(*options: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process where importing torch or onnx fails."""
    code = ('import sys; sys.modules["torch"] = sys.modules["onnx"] = None\n'
            'from cloud_server.__main__ import main; sys.exit(main(sys.argv[1:]))')
    return subprocess.run(
        [sys.executable, '-c', code, 'evaluate-fallback', *map(str, options)], cwd=ROOT, text=True,
        capture_output=True, timeout=120, check=False)


def test_evaluation_reports_records_and_needs_no_torch(
    exported: Path, data: Path, tmp_path: Path
) -> None:
    ended = evaluate('ferplus', '--model', exported, '--data', data, '--json',
                     '--record', tmp_path / 'e.json', '--study', tmp_path / 'study')
    assert ended.returncode == 0, ended.stderr
    printed = json.loads(ended.stdout.splitlines()[-1])
    faces = load(data, 'valid', progress=False)
    answers = LocalModel(exported).predict(list(faces.luma))
    guess = np.array([np.argmax(answer.probabilities) for answer in answers])
    expected = (guess == majority(faces.votes)).mean()
    assert printed['accuracy'] == pytest.approx(expected, abs=1e-4) and printed['count'] == 70
    assert list(printed['by_face_size_px']) == ['48', '32', '24', '16', '12']
    stored = json.loads((tmp_path / 'e.json').read_text())['ferplus_valid']
    assert stored['by_face_size_px'] == printed['by_face_size_px']
    assert stored['opencv'] == cv2.__version__
    assert stored['command'] == 'ferros-cloud evaluate-fallback ferplus --split valid'
    record = study.load(tmp_path / 'study' / 'image_fallback.study.json')
    assert record.kind == 'image' and record.smoke
    assert np.sum(record.result['confusion']) == 70


def test_speed_is_measured_without_data(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['evaluate-fallback', 'speed', '--model', str(exported), '--json',
                 '--record', str(tmp_path / 'e.json')]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < printed['ms_per_face_best'] <= printed['ms_per_face_median']
    stored = json.loads((tmp_path / 'e.json').read_text())['speed']
    assert stored['ms_per_face_best'] == printed['ms_per_face_best']


def test_a_model_that_cannot_be_measured_is_named(
    exported: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*options: object) -> str:
        return failed(capsys, 'evaluate-fallback', 'ferplus', '--model', tmp_path, *options)

    assert f'{tmp_path / INFO_FILE}: cannot be read' in measure('--data', data)
    (tmp_path / INFO_FILE).write_text('{')
    assert f'{tmp_path / INFO_FILE}: not JSON' in measure('--data', data)
    (tmp_path / INFO_FILE).write_text('{}')
    (tmp_path / GRAPH_FILE).write_bytes(b'')
    assert 'no description of a fallback model' in measure('--data', data)
    (tmp_path / INFO_FILE).write_bytes((exported / INFO_FILE).read_bytes())
    assert 'damaged or of another model' in measure('--data', data)
    (tmp_path / GRAPH_FILE).write_bytes((exported / GRAPH_FILE).read_bytes())
    assert '--data is missing' in measure()
    with pytest.raises(ModelError, match=r'OpenCV .* cannot read it'):
        Fallback.load(_with_graph(tmp_path, b'no graph'))


def _with_graph(folder: Path, data: bytes) -> Path:
    """Put other bytes in the graph's place, with their digest."""
    (folder / GRAPH_FILE).write_bytes(data)
    info = json.loads((folder / INFO_FILE).read_text())
    info['sha256'][GRAPH_FILE] = hashlib.sha256(data).hexdigest()
    (folder / INFO_FILE).write_text(json.dumps(info))
    return folder


def test_the_shipped_model_reaches_its_recorded_figures(shared_data: Path) -> None:
    recorded = json.loads((SHIPPED / 'evaluation.json').read_text())['ferplus_valid']
    faces = load(shared_data / 'data' / 'ferplus_trainvalid.zip', 'valid', progress=False)
    model = Fallback.load(SHIPPED)
    # Every third face, at the two ends of the sizes; all of them take a minute.
    part = faces.subset(np.arange(len(faces)) % 3 == 0)
    for side_px, error in ((48, 0.03), (16, 0.05)):
        row = recorded['by_face_size_px'][str(side_px)]
        assert row['ece_all_faces'] <= error
        found = confidence_figures(
            model.probabilities(
                model.logits(shrunk(part.luma, side_px), progress=False), side_px),
            part.votes, model.unknown_below)
        assert found['accuracy_all_faces'] == pytest.approx(row['accuracy_all_faces'], abs=0.04)
        assert found['coverage_all_faces'] == pytest.approx(row['coverage_all_faces'], abs=0.04)
    assert recorded['accuracy'] >= 0.88


def test_the_model_card_says_what_was_recorded() -> None:
    card = (SHIPPED / 'MODEL_CARD.md').read_text()
    recorded = json.loads((SHIPPED / 'evaluation.json').read_text())['ferplus_valid']
    info = json.loads((SHIPPED / INFO_FILE).read_text())
    assert f'**accuracy {recorded["accuracy"]:.4f}**' in card
    assert f'macro F1 {recorded["macro_f1"]:.4f}' in card
    assert f'{info["name"]} {info["version"]}' in card and str(info['unknown_below']) in card
    for side_px, row in recorded['by_face_size_px'].items():
        cells = [f'{row["accuracy"]:.4f}', *(f'{row[name]:.3f}' for name in (
            'ece_all_faces', 'coverage_all_faces', 'covered_accuracy_all_faces',
            'covered_accuracy_majority_faces'))]
        assert re.search(rf'^\| {side_px} \| ' + r' \| '.join(map(re.escape, cells)), card, re.M)
    for label, row in recorded['per_class'].items():
        expected = f'| {label} | {row["count"]} | {row["recall"]:.3f} | {row["f1"]:.3f} |'
        assert expected in card
