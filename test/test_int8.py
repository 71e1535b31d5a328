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
"""The encoder in int8: made by the export, served on request, as right as the float one."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tiny_ferplus import make_faces, write_folder

from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model import Encoder, EncoderConfig, Temporal, TemporalConfig, save_weights
from cloud_server.model_info import ModelError
from cloud_server.training import export
from cloud_server.training.evaluate import DEFAULT_MODEL
from cloud_server.training.ferplus import load, majority
from cloud_server.training.quantize import quantize
from cloud_server.training.scores import first_frame, served

ROOT = Path(__file__).resolve().parent.parent
SPLIT = {'held_out': 40, 'seed': 1, 'temporal': 0}
CONFIG = EncoderConfig(stem_channels=8, widths=(8, 16), blocks=(1, 1))


@pytest.fixture(scope='module')
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the options of an export of an untrained network, and of a tiny FER+."""
    folder = tmp_path_factory.mktemp('weights')
    data = write_folder(folder / 'ferplus', {
        'train': make_faces(120, 1), 'valid': make_faces(14, 2)})
    torch.manual_seed(3)
    encoder = Encoder(CONFIG)
    with torch.no_grad():
        luma = torch.from_numpy(make_faces(64, 5).luma).unsqueeze(1)
        encoder.train()(luma)  # statistics that are not 0 and 1
    temporal = Temporal(TemporalConfig(embedding_size=CONFIG.widths[-1], units=5))
    save_weights(encoder.eval(), folder / 'e', {'split': SPLIT})
    save_weights(temporal, folder / 't', {'split': SPLIT})
    return ['--encoder', str(folder / 'e'), '--temporal', str(folder / 't'), '--data', str(data),
            '--clips', '2']


@pytest.fixture(scope='module')
def model(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('model')
    assert command(*options, '--out', folder, '--int8') == 0
    return folder


def command(*given: object) -> int:
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    return export.run(parser.parse_args([str(option) for option in given]))


def test_the_features_of_int8_are_those_of_fp32_but_for_rounding(model: Path) -> None:
    luma = make_faces(42, 8).luma
    fp32, int8 = (OnnxEngine(model, precision=name).encode(luma) for name in ('fp32', 'int8'))
    assert int8.shape == fp32.shape
    spread = fp32.std(0)
    assert (np.abs(int8 - fp32).mean(0) < 0.15 * spread + 0.01).all()
    assert np.abs(int8 - fp32).max() > 0  # another graph was computed indeed


def test_every_convolution_but_the_first_is_int8_per_channel_and_the_head_is_float(
    model: Path,
) -> None:
    graph = onnx.load(model / 'encoder_int8.onnx').graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    kinds = []
    for node in graph.node:
        if node.op_type not in ('Conv', 'Gemm'):
            continue
        source = made_by.get(node.input[1])
        kinds.append((node.op_type, 'float' if source is None else source.op_type))
        if source is not None:
            stored, scale = (weights[name] for name in source.input[:2])
            assert stored.dtype == np.int8 and scale.shape == stored.shape[:1]
            assert np.abs(stored.astype(int)).max() <= 64  # no overflow where VNNI is missing
    first, *others = kinds
    assert first == ('Conv', 'float') and others[-1] == ('Gemm', 'float')
    assert set(others[:-1]) == {('Conv', 'DequantizeLinear')} and len(others) == 7


def test_the_int8_graph_is_one_file_that_older_runtimes_read(model: Path) -> None:
    graph = onnx.load(model / 'encoder_int8.onnx', load_external_data=False)
    assert graph.ir_version <= 8
    assert {(each.domain, each.version) for each in graph.opset_import} == {('', 17)}
    assert not any(tensor.external_data for tensor in graph.graph.initializer)


def test_the_same_faces_give_the_same_file(model: Path, tmp_path: Path) -> None:
    luma = make_faces(30, 4).luma
    for name in ('one', 'two'):
        quantize(model / 'encoder.onnx', tmp_path / name, luma, CONFIG.input_size_px)
    assert (tmp_path / 'one').read_bytes() == (tmp_path / 'two').read_bytes()


def test_the_quantiser_keeps_its_advice_to_itself(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quantize(model / 'encoder.onnx', tmp_path / 'int8', make_faces(8, 4).luma, 48)
    assert not caplog.records


def test_a_folder_without_it_serves_fp32_and_refuses_int8_in_one_line(
    model: Path, tmp_path: Path
) -> None:
    folder = without_int8(model, tmp_path / 'model')
    assert OnnxEngine(folder).kind == 'onnx'
    with pytest.raises(ModelError, match=r'no encoder_int8\.onnx in it'):
        OnnxEngine(folder, precision='int8')
    ended = serve('--model', folder, '--precision', 'int8')
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        f'ferros-cloud serve: {folder}: no encoder_int8.onnx in it, which the precision int8'
        ' needs: use fp32, or make one with `ferros-cloud export --int8`'
    ]


def without_int8(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    (folder / 'encoder_int8.onnx').unlink()
    document = json.loads((folder / 'model.json').read_text())
    del document['sha256']['encoder_int8.onnx']
    (folder / 'model.json').write_text(json.dumps(document))
    return folder


def serve(*flags: object) -> subprocess.CompletedProcess[str]:
    """Run a server that cannot start to its end."""
    given = [sys.executable, '-m', 'cloud_server', 'serve', '--port', '0', *map(str, flags)]
    return subprocess.run(given, cwd=ROOT, text=True, capture_output=True, timeout=60, check=False)


def test_the_server_says_which_precision_it_serves(model: Path) -> None:
    given = [sys.executable, '-m', 'cloud_server', 'serve', '--port', '0', '--model', str(model),
             '--precision', 'int8']
    with subprocess.Popen(
        given, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline().startswith('listening on ')
            assert child.stdout.readline().rstrip() == 'model ferros-fer 1.0.0 on CPU (onnx int8)'
        finally:
            child.terminate()


@pytest.mark.parametrize('precision', ['fp32', 'int8'])
def test_a_damaged_int8_graph_is_found_whatever_is_served(
    model: Path, tmp_path: Path, precision: str
) -> None:
    folder = tmp_path / 'model'
    shutil.copytree(model, folder)
    with (folder / 'encoder_int8.onnx').open('ab') as file:
        file.write(b'x')
    with pytest.raises(ModelError, match=r'encoder_int8\.onnx: sha256 is'):
        OnnxEngine(folder, precision=precision)


def test_an_export_without_int8_leaves_none_of_another_encoder(
    model: Path, options: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / 'model'
    shutil.copytree(model, folder)
    halves = options[: options.index('--data')]
    assert command(*halves, '--out', folder) == 0
    assert not (folder / 'encoder_int8.onnx').exists()
    assert set(json.loads((folder / 'model.json').read_text())['sha256']) == {
        'encoder.onnx', 'temporal.onnx'}


def test_the_export_says_what_int8_costs(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*options, '--out', tmp_path / 'model', '--int8') == 0
    last = capsys.readouterr().out.splitlines()[-2]
    assert last.startswith('int8: accuracy ') and 'the same label for ' in last


def test_int8_of_the_shipped_model_costs_at_most_half_a_point_on_validation(
    shared_data: Path,
) -> None:
    path = shared_data / 'data' / 'ferplus_trainvalid.zip'
    if not path.is_file():
        pytest.skip(f'{path} is missing')
    faces = load(path, 'valid', progress=False)
    truth = majority(faces.votes)
    sure = faces.subset(truth >= 0)
    accuracy = {}
    for precision in ('fp32', 'int8'):
        engine = OnnxEngine(DEFAULT_MODEL, precision=precision)
        guess = served(engine, first_frame(engine, sure.luma, progress=False), 48).argmax(1)
        accuracy[precision] = (guess == truth[truth >= 0]).mean()
    assert accuracy['int8'] >= accuracy['fp32'] - 0.005
