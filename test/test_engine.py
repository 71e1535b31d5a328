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

import numpy as np
import pytest
import tiny_model

from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model_info import ModelError, ModelInfo

onnx = pytest.importorskip('onnx', reason='the tiny model is written with the onnx package')


def zeros(count: int) -> list[np.ndarray]:
    return [np.zeros((count, tiny_model.STATE), np.float32) for _ in 'hc']


def test_a_batch_gives_each_face_what_it_gets_alone(tmp_path):
    engine = OnnxEngine(tiny_model.write(tmp_path))
    side = tiny_model.INPUT_PX
    luma = np.random.default_rng(0).integers(0, 256, (5, side, side), np.uint8)
    features = engine.encode(luma)
    assert features.shape == (5, tiny_model.FEATURES)
    interval_s = np.linspace(0, 1, 5, dtype=np.float32)
    size_px = np.full(5, 48, np.float32)
    logits, h, c = engine.step(features, interval_s, size_px, *zeros(5))
    assert (logits.shape, h.shape, c.shape) == ((5, 8), (5, 6), (5, 6))
    for i in range(5):
        one = slice(i, i + 1)
        alone = engine.step(engine.encode(luma[one]), interval_s[one], size_px[one], *zeros(1))
        for batched, single in zip((logits, h, c), alone, strict=True):
            np.testing.assert_allclose(batched[one], single, atol=1e-5)


def test_the_description_knows_what_is_served(tmp_path):
    info = ModelInfo.load(tiny_model.write(tmp_path))
    assert info.display == 'tiny 0.1'
    assert info.served_labels == tuple(tiny_model.LABELS[:-1])
    assert info.served_indices == tuple(range(7))


@pytest.mark.parametrize(
    ('changes', 'problem'),
    [
        ({'format': 2}, 'format is 2, this server reads format 1'),
        ({'labels': ['a']}, "labels is ['a'], expected 2 to 16"),
        ({'labels': ['unknown', 'b']}, "no 'unknown'"),
        ({'labels': ['a', 'a']}, 'different texts'),
        ({'masked_labels': ['joy']}, "masked_labels ['joy'] are not among labels"),
        ({'input_size_px': 0}, 'input_size_px is 0, expected 1 to 1024'),
        ({'state_size': 6.0}, 'state_size is 6.0'),
        ({'reset_gap_s': '2'}, "reset_gap_s is '2'"),
        ({'temperature': []}, 'temperature is []'),
        ({'temperature': [[48, 1], [12, 1]]}, 'sizes rising'),
        ({'temperature': [[48, 0]]}, 'all above 0'),
        ({'unknown_below': 1.5}, 'unknown_below is 1.5, expected 0 to 1'),
        ({'name': 'x' * 70}, 'at most 64 characters'),
        ({'sha256': {}}, 'sha256 is {}'),
        (
            {'sha256': {'encoder.onnx': 'a' * 64, 'temporal.onnx': 'b' * 64,
                        'encoder_int8.onnx': 'c'}},
            'expected hex digests',
        ),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(tmp_path, changes, problem):
    folder = tiny_model.write(tmp_path, **changes)
    with pytest.raises(ModelError) as error:
        ModelInfo.load(folder)
    assert problem in str(error.value)
    assert str(folder / 'model.json') in str(error.value)


def test_all_fields_that_are_missing_are_named_at_once(tmp_path):
    (tmp_path / 'model.json').write_text('{"format": 1}')
    with pytest.raises(ModelError) as error:
        ModelInfo.load(tmp_path)
    for field in ('name', 'labels', 'temperature', 'sha256'):
        assert f'{field} is missing' in str(error.value)


@pytest.mark.parametrize('name', ['model.json', 'encoder.onnx', 'temporal.onnx'])
def test_a_missing_file_is_named_with_its_path(tmp_path, name):
    folder = tiny_model.write(tmp_path)
    (folder / name).unlink()
    with pytest.raises(ModelError, match='cannot be read') as error:
        OnnxEngine(folder)
    assert str(folder / name) in str(error.value)


def test_a_damaged_file_is_named_by_its_digest(tmp_path):
    folder = tiny_model.write(tmp_path)
    data = bytearray((folder / 'encoder.onnx').read_bytes())
    data[100] ^= 1
    (folder / 'encoder.onnx').write_bytes(data)
    with pytest.raises(ModelError, match=r'encoder\.onnx: sha256 is'):
        OnnxEngine(folder)


def test_a_file_that_is_no_graph_is_named(tmp_path):
    folder = tiny_model.write(tmp_path)
    replace_graph(folder, 'temporal.onnx', b'not a graph')
    with pytest.raises(ModelError, match=r'temporal\.onnx: ONNX Runtime cannot load it'):
        OnnxEngine(folder)


@pytest.mark.parametrize(
    ('changes', 'problem'),
    [
        ({'input_size_px': 17}, 'encoder.onnx: input luma is'),
        ({'feature_size': 9}, 'encoder.onnx: output features is'),
        ({'state_size': 7}, 'temporal.onnx: input h is'),
        ({'labels': tiny_model.LABELS[1:]}, 'temporal.onnx: output logits is'),
    ],
)
def test_graphs_that_contradict_model_json_are_refused(tmp_path, changes, problem):
    with pytest.raises(ModelError) as error:
        OnnxEngine(tiny_model.write(tmp_path, **changes))
    assert problem in str(error.value)


def test_graphs_that_are_swapped_are_refused(tmp_path):
    folder = tiny_model.write(tmp_path)
    replace_graph(folder, 'encoder.onnx', (folder / 'temporal.onnx').read_bytes())
    with pytest.raises(ModelError, match=r'encoder\.onnx: inputs are'):
        OnnxEngine(folder)


def replace_graph(folder, name: str, data: bytes) -> None:
    import hashlib

    (folder / name).write_bytes(data)
    document = json.loads((folder / 'model.json').read_text())
    document['sha256'][name] = hashlib.sha256(data).hexdigest()
    (folder / 'model.json').write_text(json.dumps(document))


def test_the_precision_says_which_encoder_is_computed(tmp_path):
    folder = tiny_model.write(tmp_path)
    graph = onnx.load(folder / 'encoder.onnx')
    weights = onnx.numpy_helper.to_array(graph.graph.initializer[0])
    graph.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(-weights, 'W'))
    replace_graph(folder, 'encoder_int8.onnx', graph.SerializeToString())
    side = tiny_model.INPUT_PX
    luma = np.random.default_rng(0).integers(0, 256, (2, side, side), np.uint8)
    engines = [OnnxEngine(folder, 1, precision) for precision in ('fp32', 'int8')]
    assert [engine.kind for engine in engines] == ['onnx', 'onnx int8']
    first, second = (engine.encode(luma) for engine in engines)
    np.testing.assert_allclose(first, -second, atol=1e-6)


def test_an_encoder_that_model_json_lists_must_be_there(tmp_path):
    folder = tiny_model.write(tmp_path)
    replace_graph(folder, 'encoder_int8.onnx', (folder / 'encoder.onnx').read_bytes())
    (folder / 'encoder_int8.onnx').unlink()
    with pytest.raises(ModelError, match=r'encoder_int8\.onnx: cannot be read'):
        OnnxEngine(folder)


def test_a_precision_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="precision is 'fp16', expected fp32 or int8"):
        OnnxEngine(tiny_model.write(tmp_path), precision='fp16')


def test_a_number_of_threads_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match='threads is 0'):
        OnnxEngine(tiny_model.write(tmp_path), threads=0)
