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
The engine for GPUs: PyTorch, from the safetensors of a model folder. Computes on a CPU as well.

On a GPU each half of the model is a CUDA graph for each of a few batch sizes, recorded at the
start, so that a batch costs one launch. Several threads share the device through lanes: a lane is
staging memory, a stream and its graphs, and one thread at a time has it. So one batch is copied
while another is computed.

What only runs on a GPU is in `_GpuLane`; no GPU was at hand when it was written, and it has not
been run. All else, padding and lanes included, is the same code on a CPU.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cloud_server.engine import EngineError
from cloud_server.model import WeightsError, load_encoder, load_temporal
from cloud_server.model_info import ModelError, ModelInfo

if TYPE_CHECKING:
    from cloud_server.training.resnet import ResNet

Floats = NDArray[np.float32]
Function = Callable[..., tuple[Tensor, ...]]
# Of a tensor: its type, and the size of each axis after the batch's.
Shape = tuple[torch.dtype, tuple[int, ...]]

ENCODER_WEIGHTS = 'encoder.safetensors'
TEMPORAL_WEIGHTS = 'temporal.safetensors'
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
# On a GPU: one batch is computed, one is copied or waits on the device, and the images of a third
# are decoded.
GPU_LANES = 2
GPU_SLOTS = 3
# How long a batch should take.
GPU_BATCH_MS = 50
CPU_BATCH_MS = 25
WARM_UPS = 3

log = logging.getLogger(__name__)


class TorchEngine:
    """Computes both halves of a model folder; see engine.Engine."""

    def __init__(
        self,
        folder: Path,
        precision: str = 'fp32',
        device: str = 'auto',
        threads: int = 1,
        max_batch: int = 32,
    ) -> None:
        """
        Load, check and warm up both halves.

        The temporal half is computed in float32 on the same device: beside the encoder it is
        small, and its state runs on for as long as a face is seen.

        Args:
            folder: a model folder, with encoder.safetensors and temporal.safetensors in it.
            precision: of the encoder: fp32, bf16 or fp16.
            device: cpu, cuda, cuda:N, or auto: a GPU where there is one.
            threads: cores that one call may use on a CPU, at least 1; holds for all of PyTorch in
                this process.
            max_batch: faces computed at one time; larger batches are divided.

        Raises:
            ModelError: naming the file and what is wrong with it.
            EngineError: the device is not there, or cannot compute in this precision.
            ValueError: an argument that cannot be.

        """
        self.info = ModelInfo.load(folder)
        self._encoder = TorchEncoder(
            folder / ENCODER_WEIGHTS, precision, device, threads, max_batch
        )
        self.kind = 'torch' if precision == 'fp32' else f'torch {precision}'
        self.device = self._encoder.device
        self.slots = self._encoder.slots
        self.batch_ms = self._encoder.batch_ms
        self._check_encoder(folder / ENCODER_WEIGHTS)
        self._temporal = self._load_temporal(folder / TEMPORAL_WEIGHTS, max_batch)

    def encode(self, luma: NDArray[np.uint8]) -> Floats:
        """Encode faces [N, S, S] to features [N, F]."""
        return self._encoder.encode(luma)

    def step(
        self, features: Floats, interval_s: Floats, face_size_px: Floats, h: Floats, c: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Take one step in time: logits [N, labels], h and c [N, H]."""
        logits, h_out, c_out = self._temporal(features, interval_s, face_size_px, h, c)
        return logits, h_out, c_out

    def close(self) -> None:
        """Nothing is held that would need it."""

    def _check_encoder(self, path: Path) -> None:
        info, encoder = self.info, self._encoder
        _compare(path, {
            'labels': (encoder.labels, info.labels),
            'input_size_px': (encoder.input_size_px, info.input_size_px),
            'feature_size': (encoder.feature_size, info.feature_size),
        })

    def _load_temporal(self, path: Path, max_batch: int) -> Batched:
        info = self.info
        temporal = _read(path, load_temporal)
        _compare(path, {
            'labels': (temporal.config.labels, info.labels),
            'feature_size': (temporal.config.feature_size, info.feature_size),
            'state_size': (temporal.config.state_size, info.state_size),
        })
        number = torch.float32
        features, state = (number, (info.feature_size,)), (number, (info.state_size,))
        return Batched(
            temporal.to(self._encoder.place),
            inputs=[features, (number, ()), (number, ()), state, state],
            outputs=[(number, (len(info.labels),)), state, state],
            place=self._encoder.place,
            sizes=batch_sizes(max_batch, self._encoder.place.type == 'cuda'),
            lanes=self._encoder.lanes,
        )


class TorchEncoder:
    """The encoder alone, which is all that a replica on another machine computes."""

    def __init__(
        self, path: Path, precision: str, device: str, threads: int, max_batch: int
    ) -> None:
        """
        Load and warm up an encoder; the arguments and errors are those of TorchEngine.

        Args:
            path: an encoder.safetensors: the project's own network, or a ResNet.
            precision: as in TorchEngine.
            device: likewise.
            threads: likewise.
            max_batch: likewise.

        """
        if precision not in DTYPES:
            raise ValueError(f'precision is {precision!r}, expected one of {tuple(DTYPES)}')
        for name, number in (('threads', threads), ('max_batch', max_batch)):
            if number < 1:
                raise ValueError(f'{name} is {number}, expected at least 1')
        self.place = place = _place(device)
        on_gpu = place.type == 'cuda'
        self.device = torch.cuda.get_device_name(place) if on_gpu else 'CPU'
        cores = max(1, len(os.sched_getaffinity(0)) // threads)
        self.slots = GPU_SLOTS if on_gpu else cores
        # On a GPU the size of a batch costs little time.
        self.batch_ms = GPU_BATCH_MS if on_gpu else CPU_BATCH_MS
        self.lanes = GPU_LANES if on_gpu else cores
        torch.set_num_threads(threads)
        if on_gpu:
            # fp32 means fp32, not TensorFloat-32; and with few batch sizes a search pays off.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.benchmark = True
        network = _read(path, _read_network)
        self.labels = network.labels
        self.input_size_px = side = network.input_size_px
        self.feature_size = network.feature_size
        try:
            self._encode = Batched(
                _convert(network.module, DTYPES[precision]).to(place),
                inputs=[(torch.uint8, (1, side, side))],
                outputs=[(torch.float32, (self.feature_size,))],
                place=place,
                sizes=batch_sizes(max_batch, on_gpu),
                lanes=self.lanes,
            )
        except RuntimeError as error:
            raise EngineError(
                f'{self.device} cannot compute {path} in {precision} ({_first_line(error)})'
            ) from error

    def encode(self, luma: NDArray[np.uint8]) -> Floats:
        """Encode faces [N, S, S] to features [N, F]."""
        return self._encode(luma[:, None])[0]


class Batched:
    """A function of tensors, for batches of any size, called by several threads at once."""

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Shape],
        outputs: Sequence[Shape],
        place: torch.device,
        sizes: Sequence[int],
        lanes: int,
    ) -> None:
        """
        Prepare and warm up.

        Args:
            function: takes tensors [N, ...], returns one [N, ...] or a tuple of them; what it
                says of one row may not depend on the others.
            inputs: of one row.
            outputs: likewise, float32.
            place: the device.
            sizes: of the batches that are computed, rising; smaller ones are padded to the next,
                larger ones divided.
            lanes: threads that may compute at one time; further ones wait.

        """
        self._sizes = tuple(sizes)
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        kind = _GpuLane if place.type == 'cuda' else _Lane
        for _ in range(lanes):
            self._lanes.put(kind(_as_tuple(function), inputs, outputs, place, self._sizes))

    def __call__(self, *arrays: NDArray[Any]) -> list[Floats]:
        """Compute the outputs [N, ...] of inputs [N, ...], N at least 1."""
        most = self._sizes[-1]
        lane = self._lanes.get()
        try:
            parts = [
                lane.run([array[start : start + most] for array in arrays])
                for start in range(0, len(arrays[0]), most)
            ]
        finally:
            self._lanes.put(lane)
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(same) for same in zip(*parts, strict=True)]


def batch_sizes(max_batch: int, few: bool) -> tuple[int, ...]:
    """Return the sizes to compute: every one, or, where each costs a graph, powers of two."""
    if not few:
        return tuple(range(1, max_batch + 1))
    powers = (1 << power for power in range(max_batch.bit_length()))
    return tuple(sorted({*powers, max_batch}))


def padded(count: int, sizes: Sequence[int]) -> int:
    """Return the smallest of the sizes, which rise, that holds so many rows."""
    return next(size for size in sizes if size >= count)


class _Lane:
    """What one thread at a time computes with; on a CPU the staging memory is the input."""

    def __init__(
        self,
        function: Function,
        inputs: Sequence[Shape],
        outputs: Sequence[Shape],
        place: torch.device,
        sizes: Sequence[int],
    ) -> None:
        self._function, self._place, self._sizes = function, place, sizes
        self._staged = [self._staging(shape) for shape in inputs]
        # The same memory, for numpy.
        self._arrays = [tensor.numpy() for tensor in self._staged]
        self._prepare(outputs)

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[Floats]:
        """Compute one batch that is no larger than the largest size."""
        count = len(arrays[0])
        # What lies in the rows of the padding, from an earlier batch, is of no concern.
        for memory, array in zip(self._arrays, arrays, strict=True):
            memory[:count] = array
        return self._compute(count, padded(count, self._sizes))

    def _staging(self, shape: Shape) -> Tensor:
        dtype, axes = shape
        return torch.zeros((self._sizes[-1], *axes), dtype=dtype)

    def _prepare(self, outputs: Sequence[Shape]) -> None:
        """Compute once: what cannot be computed is found here, not by a robot."""
        self._compute(1, self._sizes[0])

    @torch.inference_mode()
    def _compute(self, count: int, size: int) -> list[Floats]:
        results = self._function(*(tensor[:size] for tensor in self._staged))
        return [result[:count].numpy() for result in results]


class _GpuLane(_Lane):
    """A lane on a GPU: pinned memory, a stream, and a CUDA graph for each batch size."""

    def _staging(self, shape: Shape) -> Tensor:
        # Pinned: the device reads it by itself, while the host does other things.
        return super()._staging(shape).pin_memory()

    def _prepare(self, outputs: Sequence[Shape]) -> None:
        self._inputs = [tensor.to(self._place) for tensor in self._staged]
        self._results = [self._staging(shape) for shape in outputs]
        self._stream = torch.cuda.Stream(self._place)  # type: ignore[no-untyped-call]
        # Waits without spinning: the core decodes images meanwhile.
        self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]] = {}
        self._compute(1, self._sizes[-1])
        try:
            self._record()
        except RuntimeError as error:
            self._graphs.clear()
            self._stream = torch.cuda.Stream(self._place)  # type: ignore[no-untyped-call]
            log.warning(
                'no CUDA graphs, so each batch is slower: they cannot be recorded (%s)',
                _first_line(error),
            )
        self._compute(1, self._sizes[-1])

    @torch.inference_mode()
    def _record(self) -> None:
        """Record a graph for each size, the largest first, so that the others find its memory."""
        pool = torch.cuda.graph_pool_handle()
        with torch.cuda.device(self._place):
            for size in reversed(self._sizes):
                inputs = [tensor[:size] for tensor in self._inputs]
                with torch.cuda.stream(self._stream):
                    for _ in range(WARM_UPS):
                        self._function(*inputs)
                self._stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                    results = self._function(*inputs)
                # As long as the results are held, no other graph of the pool writes over them.
                self._graphs[size] = (graph, results)

    @torch.inference_mode()
    def _compute(self, count: int, size: int) -> list[Floats]:
        with torch.cuda.device(self._place), torch.cuda.stream(self._stream):
            for there, here in zip(self._inputs, self._staged, strict=True):
                there[:size].copy_(here[:size], non_blocking=True)
            for here, there in zip(self._results, self._launch(size), strict=True):
                here[:size].copy_(there, non_blocking=True)
            self._done.record(self._stream)
        self._done.synchronize()
        return [result[:count].numpy().copy() for result in self._results]

    def _launch(self, size: int) -> tuple[Tensor, ...]:
        if size not in self._graphs:
            return self._function(*(tensor[:size] for tensor in self._inputs))
        graph, results = self._graphs[size]
        graph.replay()
        return results


class _Network(NamedTuple):
    """An encoder, luma [N,1,S,S] -> features [N,F], and what model.json must agree with."""

    module: nn.Module
    labels: tuple[str, ...]
    input_size_px: int
    feature_size: int


class _ResNetFeatures(nn.Module):
    """A trained ResNet as the encoder of a model folder: luma -> [logits (K) | embedding (E)]."""

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, luma: Tensor) -> Tensor:
        embedding = self.network.embedding(luma)
        return torch.cat((self.network.head(embedding).float(), embedding), 1)


def _read_network(path: Path) -> _Network:
    """Return the encoder of a weight file, whichever kind it holds."""
    with safetensors.safe_open(path, 'pt') as file:
        about = json.loads((file.metadata() or {}).get('ferros', '{}'))
    if about.get('kind') == 'resnet':
        # Of the training: the server needs it for this kind alone.
        from cloud_server.training.resnet import load_resnet

        resnet = load_resnet(path)
        labels, side = resnet.config.labels, resnet.config.input_size_px
        size = len(labels) + resnet.config.embedding_size
        return _Network(_ResNetFeatures(resnet).eval(), labels, side, size)
    encoder = load_encoder(path)
    config = encoder.config
    return _Network(encoder, config.labels, config.input_size_px, config.feature_size)


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """Read a weight file; whatever is wrong with it is a ModelError."""
    if not path.is_file():
        raise ModelError(
            f'{path.parent}: no {path.name} in it, which PyTorch computes from:'
            ' `ferros-cloud export` writes it'
        )
    try:
        return reader(path)
    except WeightsError as error:
        raise ModelError(str(error)) from error
    except (OSError, RuntimeError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise ModelError(f'{path}: cannot be read ({_first_line(error)})') from error


def _compare(path: Path, found: dict[str, tuple[Any, Any]]) -> None:
    for name, (here, told) in found.items():
        if here != told:
            raise ModelError(f'{path}: {name} is {here}, model.json says {told}')


def _convert(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """
    Fold the normalisations into the convolutions, and let those compute in another type.

    The rest, which is small, stays in float32: the image's own normalisation and the top layers.
    """
    for module in list(network.modules()):
        _fold(module)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
            weight = module.weight.data
            module.weight.data = weight.contiguous(memory_format=torch.channels_last)
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))
    return network


def _fold(parent: nn.Module) -> None:
    """Fold each normalisation into the convolution that its parent names right before it."""
    children = list(parent.named_children())
    for (name, convolution), (after, norm) in itertools.pairwise(children):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
            setattr(parent, after, nn.Identity())


def _as_tuple(function: Callable[..., Any]) -> Function:
    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        results = function(*inputs)
        return results if isinstance(results, tuple) else (results,)

    return call


def _place(device: str) -> torch.device:
    """
    Return the device of a name.

    Raises:
        ValueError: no such name.
        EngineError: no such device here.

    """
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if device == 'cpu':
        return torch.device('cpu')
    if not re.fullmatch(r'cuda(:\d+)?', device):
        raise ValueError(f'device is {device!r}, expected auto, cpu, cuda or cuda:N')
    if not torch.cuda.is_available():
        raise EngineError(
            f'device is {device}: PyTorch {torch.__version__} finds no GPU here; use cpu, or'
            ' install a build of it for CUDA and the driver'
        )
    place = torch.device(device if ':' in device else 'cuda:0')
    count = torch.cuda.device_count()
    if place.index >= count:
        raise EngineError(f'device is {device}: this machine has {count} (from cuda:0 on)')
    return place


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
