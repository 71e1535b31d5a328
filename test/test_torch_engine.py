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
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cloud_server.engine import EngineError
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.engine.torch import Batched, TorchEngine, batch_sizes, padded
from cloud_server.model import (
    Encoder,
    EncoderConfig,
    Temporal,
    TemporalConfig,
    save_weights,
)
from cloud_server.model_info import ENCODER_FILE, ModelError
from cloud_server.training.export import Serving, export, write_graph, write_model_json
from cloud_server.training.resnet import ResNet, ResNetConfig, save_resnet

SHIPPED = Path(__file__).resolve().parent.parent / 'cloud_server' / 'weights' / 'default'
CPU = torch.device('cpu')
# Where one is, what runs only there is tested as well.
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')


def faces(count: int, side: int = 48) -> np.ndarray:
    """Smooth noise: as coarse as faces are, so that no activation is far from its usual range."""
    random = np.random.default_rng(count)
    return np.stack([
        cv2.resize(random.integers(0, 256, (coarse, coarse), np.uint8), (side, side),
                   interpolation=cv2.INTER_CUBIC)
        for coarse in random.integers(4, side // 2, count)
    ])


def step(engine, features, h=None, c=None, interval_s=0.0):
    count, zeros = len(features), np.zeros((len(features), engine.info.state_size), np.float32)
    return engine.step(
        features, np.full(count, interval_s, np.float32), np.full(count, 40, np.float32),
        zeros if h is None else h, zeros if c is None else c,
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.fixture(scope='module', autouse=True)
def threads_of_torch() -> Iterator[None]:
    """Give other tests back what the engine sets for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder whose halves are small, of the shipped kind."""
    torch.manual_seed(1)
    encoder = Encoder(EncoderConfig(stem_channels=4, widths=(4, 6), blocks=(1, 1)))
    with torch.no_grad():  # so that the normalisations are none of identity
        encoder.train()(torch.rand(16, 1, 48, 48) * 255)
    temporal = Temporal(TemporalConfig(embedding_size=6, projection_size=3, units=5))
    folder = tmp_path_factory.mktemp('small')
    export(encoder.eval(), temporal.eval(), folder, Serving())
    return folder


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    """Return a copy of it that may be spoilt."""
    return shutil.copytree(small, tmp_path / 'model')


def test_on_a_cpu_in_fp32_every_answer_is_that_of_onnx_runtime():
    engines = [OnnxEngine(SHIPPED), TorchEngine(SHIPPED, device='cpu')]
    assert [engine.kind for engine in engines] == ['onnx', 'torch']
    assert [engine.device for engine in engines] == ['CPU', 'CPU']
    luma = faces(11)
    features = [engine.encode(luma) for engine in engines]
    np.testing.assert_allclose(features[1], features[0], atol=1e-4)
    states = [step(engine, values) for engine, values in zip(engines, features, strict=True)]
    for _ in range(5):
        for one, other in zip(*states, strict=True):
            assert one.dtype == other.dtype == np.float32
            np.testing.assert_allclose(one, other, atol=1e-4)
        states = [
            step(engine, values, h, c, interval_s=0.1)
            for engine, values, (_, h, c) in zip(engines, features, states, strict=True)
        ]


@pytest.mark.parametrize(('precision', 'tolerance'), [('bf16', 0.02), ('fp16', 0.003)])
def test_half_the_bits_change_no_probability_by_much(precision, tolerance):
    luma = faces(9)
    engine = TorchEngine(SHIPPED, precision, 'cpu')
    assert engine.kind == f'torch {precision}'
    features, expected = engine.encode(luma), OnnxEngine(SHIPPED).encode(luma)
    assert features.dtype == np.float32
    labels = len(engine.info.labels)
    change = np.abs(softmax(features[:, :labels]) - softmax(expected[:, :labels])).max()
    assert 0 < change < tolerance


def test_a_folder_with_a_resnet_is_served_too(tmp_path):
    torch.manual_seed(2)
    labels = EncoderConfig().labels
    network = ResNet(ResNetConfig(
        labels=labels, input_size_px=32, width=4, blocks=(1, 2, 1, 1), hidden_size=8,
    ))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith('bn3.weight'):  # zero at the beginning of a training
                weight.fill_(0.5)
        network.train()(torch.rand(16, 1, 32, 32) * 255)
    size = network.config.embedding_size
    temporal = Temporal(TemporalConfig(embedding_size=size, projection_size=4, units=5)).eval()
    standing_in = Encoder(EncoderConfig(input_size_px=32, widths=(size,), blocks=(1,)))
    export(standing_in.eval(), temporal, tmp_path, Serving())

    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, luma):
            embedding = self.network.embedding(luma)
            return torch.cat((self.network.head(embedding), embedding), 1)

    write_graph(
        Features(), (torch.zeros(2, 1, 32, 32, dtype=torch.uint8),), ['luma'], ['features'],
        tmp_path / ENCODER_FILE,
    )
    save_resnet(network, tmp_path / 'encoder.safetensors', {})
    write_model_json(tmp_path, standing_in, temporal, Serving())
    luma = faces(5, 32)
    engine, expected = TorchEngine(tmp_path, device='cpu'), OnnxEngine(tmp_path).encode(luma)
    assert expected.std(0).max() > 0.01
    np.testing.assert_allclose(engine.encode(luma), expected, atol=1e-4)
    assert step(engine, expected)[0].shape == (5, 8)


def test_a_gpu_computes_few_batch_sizes_and_a_cpu_every_one():
    assert batch_sizes(32, few=True) == (1, 2, 4, 8, 16, 32)
    assert batch_sizes(48, few=True) == (1, 2, 4, 8, 16, 32, 48)
    assert batch_sizes(1, few=True) == (1,)
    assert batch_sizes(5, few=False) == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(('count', 'size'), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 12)])
def test_a_batch_is_padded_to_the_next_size(count, size):
    assert padded(count, batch_sizes(12, few=True)) == size


class Double:
    """Doubles numbers, and notes the batches it was given."""

    def __init__(self) -> None:
        self.sizes = []

    def __call__(self, numbers: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(numbers))
        return numbers * 2


def doubling(function, max_batch=8, lanes=1) -> Batched:
    pair = [(torch.float32, (2,))]
    return Batched(function, pair, pair, CPU, batch_sizes(max_batch, few=True), lanes)


def test_padding_changes_no_answer_and_what_an_earlier_batch_left_in_it_neither():
    double = Double()
    batched = doubling(double)
    double.sizes.clear()
    batched(np.full((8, 2), np.nan, np.float32))
    for count in (1, 3, 5, 7):
        numbers = np.random.default_rng(count).random((count, 2), np.float32)
        np.testing.assert_array_equal(batched(numbers)[0], numbers * 2)
    assert double.sizes == [8, 1, 4, 8, 8]


def test_a_batch_beyond_the_largest_size_is_divided():
    double = Double()
    batched = doubling(double)
    double.sizes.clear()
    numbers = np.arange(38, dtype=np.float32).reshape(19, 2)
    np.testing.assert_array_equal(batched(numbers)[0], numbers * 2)
    assert double.sizes == [8, 8, 4]


def test_threads_beyond_the_lanes_wait_and_each_gets_its_own_answer():
    inside, most, lock = 0, 0, threading.Lock()

    def slow(numbers):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.002)
        with lock:
            inside -= 1
        return numbers * 2

    batched = doubling(slow, lanes=2)
    wrong = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(20):
            numbers = random.random((random.integers(1, 20), 2), np.float32)
            if not np.array_equal(batched(numbers)[0], numbers * 2):
                wrong.append(seed)

    run_together(work, 5)
    assert wrong == []
    assert most == 2


def test_a_failure_gives_its_lane_back():
    def broken(numbers):
        if numbers[0, 0] == 1:
            raise RuntimeError('out of luck')
        return numbers

    batched = doubling(broken)
    for _ in range(3):
        with pytest.raises(RuntimeError, match='out of luck'):
            batched(np.ones((2, 2), np.float32))
    assert batched(np.zeros((2, 2), np.float32))[0].shape == (2, 2)


def test_threads_that_recognise_at_once_do_not_disturb_each_other(small):
    engine = TorchEngine(small, device='cpu', max_batch=8)
    luma = [faces(count) for count in range(1, 11)]
    alone = [engine.encode(images) for images in luma]
    stepped = [step(engine, features)[0] for features in alone]
    wrong = []

    def work(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(0, len(luma), 30):
            features = engine.encode(luma[i])
            logits = step(engine, features)[0]
            if (np.abs(features - alone[i]).max() > 1e-4
                    or np.abs(logits - stepped[i]).max() > 1e-4):
                wrong.append((seed, i))

    run_together(work, 4)
    assert wrong == []


def run_together(work, count: int) -> None:
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize('name', ['encoder.safetensors', 'temporal.safetensors'])
def test_a_missing_weight_file_is_named_with_what_writes_it(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelError) as error:
        TorchEngine(folder, device='cpu')
    assert str(error.value).startswith(f'{folder}: no {name} in it')
    assert '`ferros-cloud export` writes it' in str(error.value)


@pytest.mark.parametrize('name', ['encoder.safetensors', 'temporal.safetensors'])
def test_a_damaged_weight_file_is_named(folder, name):
    (folder / name).write_bytes(b'not weights')
    with pytest.raises(ModelError, match='cannot be read') as error:
        TorchEngine(folder, device='cpu')
    assert str(folder / name) in str(error.value)


def test_weights_of_the_other_half_are_refused(folder):
    shutil.copy(folder / 'temporal.safetensors', folder / 'encoder.safetensors')
    with pytest.raises(ModelError, match=r'encoder\.safetensors: holds a temporal'):
        TorchEngine(folder, device='cpu')


@pytest.mark.parametrize(
    ('change', 'problem'),
    [
        ({'input_size_px': 40}, 'encoder.safetensors: input_size_px is 48, model.json says 40'),
        ({'feature_size': 15}, 'encoder.safetensors: feature_size is 14, model.json says 15'),
        ({'state_size': 9}, 'temporal.safetensors: state_size is 13, model.json says 9'),
    ],
)
def test_weights_that_contradict_model_json_are_refused(folder, change, problem):
    document = json.loads((folder / 'model.json').read_text())
    (folder / 'model.json').write_text(json.dumps({**document, **change}))
    with pytest.raises(ModelError) as error:
        TorchEngine(folder, device='cpu')
    assert problem in str(error.value)


def test_a_network_of_other_labels_is_refused(folder):
    labels = ('calm', *EncoderConfig().labels[1:])
    encoder = Encoder(EncoderConfig(labels=labels, stem_channels=4, widths=(4, 6), blocks=(1, 1)))
    save_weights(encoder, folder / 'encoder.safetensors', {})
    with pytest.raises(ModelError, match=r"labels is \('calm'"):
        TorchEngine(folder, device='cpu')


def test_a_gpu_that_is_not_there_is_said(small, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(EngineError, match=r'device is cuda:1: PyTorch .* finds no GPU here'):
        TorchEngine(small, device='cuda:1')
    assert TorchEngine(small, device='auto').device == 'CPU'


def test_a_gpu_beyond_the_last_is_said(small, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    with pytest.raises(EngineError, match='device is cuda:2: this machine has 2'):
        TorchEngine(small, device='cuda:2')


@pytest.mark.parametrize(
    ('arguments', 'problem'),
    [
        ({'device': 'gpu'}, "device is 'gpu', expected auto, cpu, cuda or cuda:N"),
        ({'precision': 'int8'}, "precision is 'int8', expected one of"),
        ({'threads': 0}, 'threads is 0, expected at least 1'),
        ({'max_batch': 0}, 'max_batch is 0, expected at least 1'),
    ],
)
def test_arguments_that_cannot_be_are_refused(small, arguments, problem):
    with pytest.raises(ValueError) as error:
        TorchEngine(small, **{'device': 'cpu', **arguments})
    assert problem in str(error.value)


@needs_gpu
@pytest.mark.parametrize(('precision', 'tolerance'), [
    ('fp32', 1e-3), ('bf16', 0.02), ('fp16', 0.003),
])
def test_on_a_gpu_every_batch_size_gives_the_answers_of_the_cpu(precision, tolerance, caplog):
    engine, cpu = TorchEngine(SHIPPED, precision, 'cuda'), OnnxEngine(SHIPPED)
    assert engine.device == torch.cuda.get_device_name()
    assert 'no CUDA graphs' not in caplog.text
    labels = len(engine.info.labels)
    for count in (1, 3, 8, 31, 32, 40):
        luma = faces(count)
        features, expected = engine.encode(luma), cpu.encode(luma)
        change = softmax(features[:, :labels]) - softmax(expected[:, :labels])
        assert np.abs(change).max() < tolerance
        for one, other in zip(step(engine, expected), step(cpu, expected), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-3)


@needs_gpu
def test_threads_on_a_gpu_do_not_disturb_each_other():
    engine = TorchEngine(SHIPPED, 'bf16', 'cuda')
    luma = [faces(count) for count in (1, 2, 5, 16, 32)]
    alone = [engine.encode(images) for images in luma]
    wrong = []

    def work(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(0, len(luma), 200):
            if np.abs(engine.encode(luma[i]) - alone[i]).max() > 1e-2:
                wrong.append((seed, i))

    run_together(work, engine.slots)
    assert wrong == []
