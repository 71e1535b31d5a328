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
"""A model folder small enough to compute by hand, with a state, for tests of what surrounds it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np

INPUT_PX, FEATURES, STATE = 16, 8, 6
LABELS = [
    'neutral',
    'happiness',
    'surprise',
    'sadness',
    'anger',
    'disgust',
    'fear',
    'contempt',
]
SHIPPED = Path(__file__).resolve().parent.parent / 'cloud_server' / 'weights' / 'default'


def write_or_shipped(folder: Path) -> Path:
    """Write the tiny model, or return the shipped one where the onnx package is missing."""
    return write(folder) if importlib.util.find_spec('onnx') else SHIPPED


def write(folder: Path, **changes: object) -> Path:
    """Write the model folder; changes go into model.json."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_encoder(folder / 'encoder.onnx')
    _write_temporal(folder / 'temporal.onnx')
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob('*.onnx')
    }
    document = {
        'format': 1,
        'name': 'tiny',
        'version': '0.1',
        'labels': LABELS,
        'masked_labels': ['contempt'],
        'input_size_px': INPUT_PX,
        'feature_size': FEATURES,
        'state_size': STATE,
        'reset_gap_s': 2.0,
        'reset_gap_intervals': 3.0,
        'temperature': [[12, 1.5], [48, 1.0]],
        'unknown_below': 0.2,
        'sha256': digests,
    }
    (folder / 'model.json').write_text(json.dumps({**document, **changes}))
    return folder


def _weights(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def _write_encoder(path: Path) -> None:
    """Features = tanh(pixels x W)."""
    from onnx import TensorProto, helper

    pixels = INPUT_PX * INPUT_PX
    nodes = [
        helper.make_node('Cast', ['luma'], ['float'], to=TensorProto.FLOAT),
        helper.make_node('Flatten', ['float'], ['flat']),
        helper.make_node('MatMul', ['flat', 'W'], ['product']),
        helper.make_node('Tanh', ['product'], ['features']),
    ]
    _save(
        path,
        nodes,
        inputs={'luma': (TensorProto.UINT8, ['N', 1, INPUT_PX, INPUT_PX])},
        outputs={'features': (TensorProto.FLOAT, ['N', FEATURES])},
        weights={'W': _weights(pixels, FEATURES, seed=1) / 255 / INPUT_PX},
    )


def _write_temporal(path: Path) -> None:
    """Compute h' = tanh([features, interval, size / 100, h] x U), c' = (c + h') / 2, logits."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node('Unsqueeze', ['interval_s', 'axis'], ['interval']),
        helper.make_node('Unsqueeze', ['face_size_px', 'axis'], ['size_px']),
        helper.make_node('Div', ['size_px', 'hundred'], ['size']),
        helper.make_node('Concat', ['features', 'interval', 'size', 'h'], ['all'], axis=1),
        helper.make_node('MatMul', ['all', 'U'], ['mixed']),
        helper.make_node('Tanh', ['mixed'], ['h_out']),
        helper.make_node('Add', ['c', 'h_out'], ['sum']),
        helper.make_node('Div', ['sum', 'two'], ['c_out']),
        helper.make_node('Add', ['h_out', 'c_out'], ['state']),
        helper.make_node('MatMul', ['state', 'V'], ['logits']),
    ]
    number = TensorProto.FLOAT
    _save(
        path,
        nodes,
        inputs={
            'features': (number, ['N', FEATURES]),
            'interval_s': (number, ['N']),
            'face_size_px': (number, ['N']),
            'h': (number, ['N', STATE]),
            'c': (number, ['N', STATE]),
        },
        outputs={
            'logits': (number, ['N', len(LABELS)]),
            'h_out': (number, ['N', STATE]),
            'c_out': (number, ['N', STATE]),
        },
        weights={
            'U': _weights(FEATURES + 2 + STATE, STATE, seed=2),
            'V': _weights(STATE, len(LABELS), seed=3),
            'hundred': np.array([100], np.float32),
            'two': np.array([2], np.float32),
            'axis': np.array([1], np.int64),
        },
    )


def _save(path, nodes, inputs, outputs, weights) -> None:
    import onnx
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(name, *shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, *shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
