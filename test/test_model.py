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

"""The network, its files and its graphs: the same answers everywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model import (
    Encoder,
    EncoderConfig,
    Temporal,
    TemporalConfig,
    load_encoder,
    load_temporal,
    multiply_adds,
    read_about,
    save_weights,
)
from cloud_server.preprocess import to_input
from cloud_server.training.export import Serving, export

SMALL = EncoderConfig(stem_channels=4, widths=(4, 6), blocks=(1, 1))
SMALL_TEMPORAL = TemporalConfig(embedding_size=6, projection_size=3, units=5)
DEFAULT = Path(__file__).resolve().parent.parent / 'cloud_server' / 'weights' / 'default'


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(3)
    encoder = Encoder(SMALL)
    with torch.no_grad():
        encoder.train()(torch.rand(16, 1, 48, 48) * 255)  # statistics that are not 0 and 1
    return encoder.eval()


@pytest.fixture
def temporal() -> Temporal:
    torch.manual_seed(4)
    temporal = Temporal(SMALL_TEMPORAL)
    torch.nn.init.normal_(temporal.head.weight)
    torch.nn.init.normal_(temporal.gate.weight)
    return temporal.eval()


def faces(count: int, side: int = 48) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, side, side), np.uint8)


def test_an_untrained_lstm_gives_the_exponential_average_of_the_frames() -> None:
    torch.manual_seed(7)
    features, interval_s = torch.randn(2, 6, SMALL.feature_size), torch.rand(2, 6)
    interval_s[:, 0] = 0
    untrained = Temporal(replace(SMALL_TEMPORAL, average_s=0.4)).eval()
    found = untrained.unroll(features, interval_s, torch.full((2, 6), 24.0)).softmax(-1)
    seen = features[..., :8].softmax(-1)
    average = seen[:, 0]
    for frame in range(6):
        keep = torch.exp(-interval_s[:, frame : frame + 1] / 0.4)
        average = keep * average + (1 - keep) * seen[:, frame] if frame else average
        torch.testing.assert_close(found[:, frame], average, atol=1e-5, rtol=1e-4)


def test_logits_alone_decide_where_there_is_no_projection() -> None:
    torch.manual_seed(8)
    temporal = Temporal(replace(SMALL_TEMPORAL, projection_size=0)).eval()
    torch.nn.init.normal_(temporal.head.weight)
    features = torch.randn(3, 5, SMALL.feature_size)
    other = torch.cat((features[..., :8], torch.randn(3, 5, 6)), -1)
    times, sides = torch.full((3, 5), 0.1), torch.full((3, 5), 48.0)
    torch.testing.assert_close(temporal.unroll(other, times, sides),
                               temporal.unroll(features, times, sides))


def test_a_first_frame_is_the_encoders_answer_whatever_the_lstm_has_learnt(
    encoder: Encoder, temporal: Temporal
) -> None:
    features = encoder(torch.from_numpy(faces(6)).unsqueeze(1))
    state, side_px = torch.zeros(6, SMALL_TEMPORAL.state_size), torch.full((6,), 24.0)
    first, h, c = temporal(features, torch.zeros(6), side_px, state, state)
    torch.testing.assert_close(first.softmax(1), encoder.logits(features).softmax(1),
                               atol=1e-5, rtol=1e-4)
    second, _, _ = temporal(features, torch.full((6,), 0.1), side_px, h, c)
    assert not torch.allclose(second, first)


def test_step_by_step_gives_what_the_whole_clip_gives(temporal: Temporal) -> None:
    torch.manual_seed(6)
    features = torch.randn(3, 9, SMALL.feature_size)
    interval_s, side_px = torch.rand(3, 9), torch.randint(12, 49, (3, 9)).float()
    interval_s[:, 0] = 0
    whole = temporal.unroll(features, interval_s, side_px)
    h = c = torch.zeros(3, SMALL_TEMPORAL.state_size)
    for frame in range(9):
        logits, h, c = temporal(features[:, frame], interval_s[:, frame], side_px[:, frame], h, c)
        torch.testing.assert_close(logits, whole[:, frame], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(whole[:, -1], features[:, -1, :8])


def test_light_and_contrast_hardly_change_the_features(encoder: Encoder) -> None:
    luma = torch.from_numpy(faces(8)).unsqueeze(1).float()
    bright = encoder(luma * 0.6 + 60)
    torch.testing.assert_close(bright, encoder(luma), atol=0.1, rtol=0.1)
    assert torch.isfinite(encoder(torch.full((1, 1, 48, 48), 200, dtype=torch.uint8))).all()


def test_one_face_does_not_depend_on_the_others_in_its_batch(encoder: Encoder) -> None:
    luma = torch.from_numpy(faces(5)).unsqueeze(1)
    torch.testing.assert_close(encoder(luma)[3:4], encoder(luma[3:4]), atol=1e-5, rtol=1e-5)


def test_the_default_network_is_within_its_budget() -> None:
    assert 50e6 < multiply_adds(Encoder(EncoderConfig())) < 150e6
    assert TemporalConfig().units <= 256


def test_multiply_adds_are_counted() -> None:
    tiny = Encoder(EncoderConfig(input_size_px=4, stem_channels=2, widths=(3,), blocks=(1,)))
    convolutions = 16 * 1 * 9 * 2 + 4 * 2 * 9 * 3 + 2 * (4 * 3 * 9 * 3)
    assert multiply_adds(tiny) == convolutions + 3 * 8


def test_weights_carry_their_own_configuration(
    encoder: Encoder, temporal: Temporal, tmp_path: Path
) -> None:
    save_weights(encoder, tmp_path / 'e', {'split': {'seed': 1}})
    save_weights(temporal, tmp_path / 't', {})
    assert load_encoder(tmp_path / 'e').config == SMALL
    assert load_temporal(tmp_path / 't').config == SMALL_TEMPORAL
    assert read_about(tmp_path / 'e') == {'split': {'seed': 1}}
    luma = torch.from_numpy(faces(2)).unsqueeze(1)
    torch.testing.assert_close(load_encoder(tmp_path / 'e')(luma), encoder(luma))


def test_a_file_of_another_kind_or_format_is_refused(
    encoder: Encoder, temporal: Temporal, tmp_path: Path
) -> None:
    save_weights(temporal, tmp_path / 't', {})
    with pytest.raises(ValueError, match='holds a temporal, expected a encoder'):
        load_encoder(tmp_path / 't')
    save_weights(encoder, tmp_path / 'e', {})
    with safe_open(tmp_path / 'e', 'pt') as file:
        stored = json.loads(file.metadata()['ferros'])
    tensors = load_file(tmp_path / 'e')
    save_file(tensors, tmp_path / 'newer', {'ferros': json.dumps({**stored, 'format': 2})})
    with pytest.raises(ValueError, match='format 2, this code reads 1'):
        load_encoder(tmp_path / 'newer')
    save_file(tensors, tmp_path / 'bare')
    with pytest.raises(ValueError, match='not a weight file'):
        load_encoder(tmp_path / 'bare')
    stored['config']['wings'] = 2
    save_file(tensors, tmp_path / 'odd', {'ferros': json.dumps(stored)})
    with pytest.raises(ValueError, match='wings'):
        load_encoder(tmp_path / 'odd')


@pytest.mark.parametrize('change', [
    {'widths': (4,)}, {'widths': (0, 4)}, {'dropout': 1.0}, {'blocks': ()},
])
def test_a_network_that_cannot_be_built_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        replace(SMALL, **change)
    with pytest.raises(ValueError, match='units'):
        replace(SMALL_TEMPORAL, units=0)


def test_exported_graphs_answer_like_the_network(
    encoder: Encoder, temporal: Temporal, tmp_path: Path
) -> None:
    export(encoder, temporal, tmp_path, Serving())
    stored_encoder = load_encoder(tmp_path / 'encoder.safetensors')
    stored_temporal = load_temporal(tmp_path / 'temporal.safetensors')
    engine = OnnxEngine(tmp_path)
    rng = np.random.default_rng(7)
    for count in (1, 2, 7):
        luma = faces(count)
        features = engine.encode(luma)
        expected = stored_encoder(torch.from_numpy(luma).unsqueeze(1)).detach()
        np.testing.assert_allclose(features, expected, atol=1e-4)
        h, c = rng.normal(size=(2, count, SMALL_TEMPORAL.state_size)).astype(np.float32)
        times = rng.random(count, np.float32)
        side = rng.uniform(12, 48, count).astype(np.float32)
        found = engine.step(features, times, side, h, c)
        wanted = stored_temporal(*(torch.from_numpy(x) for x in (features, times, side, h, c)))
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other.detach(), atol=1e-5)


def test_graphs_are_single_files_that_older_runtimes_read(
    encoder: Encoder, temporal: Temporal, tmp_path: Path
) -> None:
    export(encoder, temporal, tmp_path, Serving())
    for name in ('encoder.onnx', 'temporal.onnx'):
        graph = onnx.load(tmp_path / name, load_external_data=False)
        assert graph.ir_version <= 8 and graph.opset_import[0].version <= 17
        assert not any(tensor.external_data for tensor in graph.graph.initializer)
        assert not any(node.op_type == 'LSTM' for node in graph.graph.node)


def test_halves_that_do_not_fit_are_not_exported(encoder: Encoder, tmp_path: Path) -> None:
    other = Temporal(replace(SMALL_TEMPORAL, embedding_size=7))
    with pytest.raises(ValueError, match='do not fit'):
        export(encoder, other, tmp_path, Serving())


def test_the_shipped_graphs_are_the_shipped_weights() -> None:
    engine = OnnxEngine(DEFAULT)
    encoder = load_encoder(DEFAULT / 'encoder.safetensors')
    luma = faces(3)
    expected = encoder(torch.from_numpy(luma).unsqueeze(1)).detach()
    np.testing.assert_allclose(engine.encode(luma), expected, atol=2e-3)
    assert multiply_adds(encoder) < 150e6
    assert engine.info.state_size <= 256
    assert sum(file.stat().st_size for file in DEFAULT.iterdir()) < 20e6


@pytest.mark.parametrize('shape', [(48, 48), (100, 100), (12, 12), (1, 1), (50, 47)])
def test_every_crop_becomes_the_encoders_input(shape: tuple[int, int]) -> None:
    luma = np.random.default_rng(8).integers(0, 256, shape, np.uint8)
    scaled = to_input(luma, 48)
    assert scaled.shape == (48, 48) and scaled.dtype == np.uint8
    assert abs(float(scaled.mean()) - float(luma.mean())) < 6
    if shape == (48, 48):
        np.testing.assert_array_equal(scaled, luma)


def test_shrinking_averages_so_that_fine_patterns_do_not_alias() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (96, 48))
    assert np.ptp(to_input(stripes, 48)) <= 1


@pytest.mark.parametrize('bad', [
    np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8), np.zeros((4, 4), np.float32),
])
def test_what_is_no_luma_image_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match='expected a non-empty uint8 image'):
        to_input(bad, 48)
