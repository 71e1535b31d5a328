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
"""The default engine: ONNX Runtime on the CPU, in this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cloud_server.model_info import ENCODER_FILES, TEMPORAL_FILE, ModelError, ModelInfo

Floats = NDArray[np.float32]
# A tensor of a graph: name, element type, size of each axis after the batch's.
Tensor = tuple[str, str, tuple[int, ...]]


class OnnxEngine:
    """Computes the encoder and temporal.onnx of a model folder; see engine.Engine."""

    device = 'CPU'
    # Larger batches than these are hardly faster per face, and later.
    batch_ms = 25

    def __init__(self, folder: Path, threads: int = 1, precision: str = 'fp32') -> None:
        """
        Load, check and warm up both graphs.

        Args:
            folder: a model folder.
            threads: cores that one call may use, at least 1.
            precision: fp32 (encoder.onnx) or int8 (encoder_int8.onnx, which a folder may lack).

        Raises:
            ModelError: naming the file and what is wrong with it.

        """
        if threads < 1:
            raise ValueError(f'threads is {threads}, expected at least 1')
        if precision not in ENCODER_FILES:
            expected = ' or '.join(ENCODER_FILES)
            raise ValueError(f'precision is {precision!r}, expected {expected}')
        self.info = info = ModelInfo.load(folder)
        # One batch on each core that this process may use.
        self.slots = max(1, len(os.sched_getaffinity(0)) // threads)
        self.kind = 'onnx' if precision == 'fp32' else f'onnx {precision}'
        side, features, state = info.input_size_px, info.feature_size, info.state_size
        self._encoder = _Graph(
            _encoder_path(folder, info, precision),
            threads,
            inputs=[('luma', 'uint8', (1, side, side))],
            outputs=[('features', 'float', (features,))],
        )
        self._temporal = _Graph(
            folder / TEMPORAL_FILE,
            threads,
            inputs=[
                ('features', 'float', (features,)),
                ('interval_s', 'float', ()),
                ('face_size_px', 'float', ()),
                ('h', 'float', (state,)),
                ('c', 'float', (state,)),
            ],
            outputs=[
                ('logits', 'float', (len(info.labels),)),
                ('h_out', 'float', (state,)),
                ('c_out', 'float', (state,)),
            ],
        )

    def encode(self, luma: NDArray[np.uint8]) -> Floats:
        """Encode faces [N, S, S] to features [N, F]."""
        return self._encoder.run(luma[:, None])[0]

    def step(
        self, features: Floats, interval_s: Floats, face_size_px: Floats, h: Floats, c: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Take one step in time: logits [N, labels], h and c [N, H]."""
        logits, h_out, c_out = self._temporal.run(features, interval_s, face_size_px, h, c)
        return logits, h_out, c_out

    def close(self) -> None:
        """Nothing is held that would need it."""


class _Graph:
    """One ONNX graph whose inputs and outputs are what they should be."""

    def __init__(
        self, path: Path, threads: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        self._session = _open(path, threads)
        self._inputs = [name for name, _, _ in inputs]
        self._outputs = [name for name, _, _ in outputs]
        _check(path, 'input', inputs, self._session.get_inputs())
        _check(path, 'output', outputs, self._session.get_outputs())
        self._warm_up(path, inputs, outputs)

    def run(self, *inputs: NDArray[Any]) -> list[Floats]:
        """Compute the outputs, in their order."""
        feed = dict(zip(self._inputs, inputs, strict=True))
        return list(self._session.run(self._outputs, feed))

    def _warm_up(self, path: Path, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Run once with two faces: a graph that does not run is found here, not by a robot."""
        zeros = [np.zeros((2, *axes), _DTYPES[element]) for _, element, axes in inputs]
        try:
            results = self.run(*zeros)
        except Exception as error:
            raise ModelError(f'{path}: cannot be computed ({error})') from error
        for (name, _, axes), result in zip(outputs, results, strict=True):
            if result.shape != (2, *axes):
                raise ModelError(
                    f'{path}: output {name} of 2 faces has shape {result.shape},'
                    f' model.json asks for {(2, *axes)}'
                )


_DTYPES = {'uint8': np.uint8, 'float': np.float32}


def _encoder_path(folder: Path, info: ModelInfo, precision: str) -> Path:
    name = ENCODER_FILES[precision]
    if name not in info.sha256:
        raise ModelError(
            f'{folder}: no {name} in it, which the precision {precision} needs: use fp32, or'
            f' make one with `ferros-cloud export --{precision}`'
        )
    return folder / name


def _open(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning thread wins microseconds and takes a core from decoding and from other processes.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    options.add_session_config_entry('session.inter_op.allow_spinning', '0')
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    except Exception as error:
        raise ModelError(f'{path}: ONNX Runtime cannot load it ({error})') from error


def _check(path: Path, role: str, expected: Sequence[Tensor], actual: Sequence[Any]) -> None:
    """Compare names, element types and sizes; a size that the graph leaves open is accepted."""
    found = {node.name: node for node in actual}
    names = [name for name, _, _ in expected]
    if set(found) != set(names):
        raise ModelError(f'{path}: {role}s are {sorted(found)}, expected {sorted(names)}')
    for name, element, axes in expected:
        node = found[name]
        sizes = node.shape[1:]
        fits = len(sizes) == len(axes) and all(
            not isinstance(size, int) or size == axis
            for size, axis in zip(sizes, axes, strict=False)
        )
        batch_is_open = bool(node.shape) and not isinstance(node.shape[0], int)
        if node.type != f'tensor({element})' or not fits or not batch_is_open:
            raise ModelError(
                f'{path}: {role} {name} is {node.type} {node.shape},'
                f' expected tensor({element}) {["N", *axes]}'
            )
