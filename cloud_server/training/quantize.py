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

"""
The encoder in int8: ONNX Runtime's static quantisation of its convolutions, for CPUs.

Weights are int8 per channel, activations uint8 per tensor, their ranges those that faces give. The
weights use seven of their eight bits, because CPUs without VNNI add pairs of such products in
16 bits, which eight would overflow. What comes before the second convolution stays float (with one
channel there is nothing to gain), and so do pooling and head.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from tqdm import tqdm

from cloud_server.preprocess import to_input
from cloud_server.training.calibrate import SIZES_PX, smaller

FACES = 200
SEED = 5
BATCH = 20
OPERATORS = ('Conv', 'Add')

Images = npt.NDArray[np.uint8]


def quantize(source: Path, target: Path, luma: Images, input_size_px: int) -> None:
    """
    Write the int8 form of an encoder; the same faces give the same file.

    Args:
        source: encoder.onnx.
        target: where to.
        luma: uint8 [N,s,s], faces to find the ranges of activations with; FACES of them are taken,
            each at all SIZES_PX as the server would get it. Never those it will be judged on.
        input_size_px: side of the encoder's input.

    """
    graph = onnx.load(source)
    with _quiet():
        quantize_static(
            source, target, _Feed(graph.graph.input[0].name, luma, input_size_px),
            quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=list(OPERATORS), nodes_to_exclude=_float_nodes(graph),
        )
    written = onnx.load(target)
    written.ir_version = graph.ir_version
    onnx.checker.check_model(written, full_check=True)
    onnx.save(written, target)


class _Feed:
    """Hands the quantiser its batches: a CalibrationDataReader by its one method."""

    def __init__(self, name: str, luma: Images, input_size_px: int) -> None:
        chosen = np.random.default_rng(SEED).permutation(len(luma))[:FACES]
        faces = luma[np.sort(chosen)]
        inputs = np.stack([
            to_input(face, input_size_px) for side in SIZES_PX for face in smaller(faces, side)
        ])[:, None]
        batches = [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]
        bar = tqdm(batches, desc='quantising', unit='batch', leave=False)
        self._feeds: Iterator[dict[str, Any]] = ({name: batch} for batch in bar)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch by the input's name, None after the last."""
        return next(self._feeds, None)


def _float_nodes(graph: Any) -> list[str]:
    """Return the names of the nodes up to the first convolution, which see raw pixels."""
    names: list[str] = []
    for node in graph.graph.node:
        names.append(node.name)
        if node.op_type == 'Conv':
            return names
    raise ValueError('the encoder has no convolution to quantise')


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back the quantiser's advice to fuse a graph first that the export fused already."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
