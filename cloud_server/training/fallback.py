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
`ferros-cloud export-fallback`: a small encoder to the two files that the robot answers with.

The graph keeps to what cv2.dnn has computed alike since OpenCV 4.6 (Debian 12, Ubuntu 24.04):

- Weights are whole numbers of 8 bits, cast to floats when the file is read, so that a file of 1.5
  MB holds a million and a half of them. The scale of each channel and all of its batch
  normalisation are one BatchNormalization behind the convolution, which OpenCV folds into it.
  (FLOAT16 tensors are refused by 4.6, and so is DequantizeLinear of a weight.)
- 4.6 does not subtract or divide by one number per image, so the mean and the deviation are
  enlarged to whole images first. (A transposed convolution would do too, but costs OpenCV 5 twelve
  milliseconds.)

Any number of faces fits in, but a network must be given the same number each time: OpenCV 4.8 to
4.14 fold the normalisation into the convolutions once more when the number changes, and then
compute nonsense. Robot and evaluation give it one.

Contempt has no logit there, which is the same as masking it before the softmax.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from cloud_server.affect import known_places
from cloud_server.model import (
    Encoder,
    WeightsError,
    load_encoder,
    read_about,
    save_weights,
)
from cloud_server.model_info import ModelError
from cloud_server.training.calibrate import COVERAGE, SIZES_PX, fit_temperature
from cloud_server.training.evaluate_fallback import (
    GRAPH_FILE,
    INFO_FILE,
    Fallback,
    shrunk,
)
from cloud_server.training.ferplus import DatasetError, Faces, load_splits
from cloud_server.training.risk_coverage import threshold_at
from cloud_server.training.scores import plurality
from cloud_server.training.settings import write_atomically

OPSET = 13
IR_VERSION = 7
LARGEST_BYTES = 1_500_000
LARGEST_WEIGHT = 127  # symmetric about 0


@dataclass(frozen=True)
class Serving:
    """What fallback.json says besides the graph: see the fields of the same names there."""

    name: str = 'ferros-fallback'
    version: str = '1.0.0'
    masked_labels: tuple[str, ...] = ('contempt',)
    temperature: tuple[tuple[float, float], ...] = ((48.0, 1.0),)
    unknown_below: float = 0.4


def quantise(encoder: Encoder) -> Encoder:
    """Return an encoder whose convolutions have the weights that the graph can hold."""
    rounded = copy.deepcopy(encoder).cpu().float().eval()
    for module in rounded.modules():
        if isinstance(module, nn.Conv2d):
            whole, scale = whole_numbers(module)
            with torch.no_grad():
                module.weight.copy_(torch.from_numpy(whole * scale[:, None, None, None]))
    return rounded


def whole_numbers(
    convolution: nn.Conv2d,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return the nearest int8 weights [O,I,k,k] and each channel's scale [O]."""
    weight = convolution.weight.detach().numpy()
    scale = np.abs(weight).max((1, 2, 3)) / LARGEST_WEIGHT
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.rint(weight / scale[:, None, None, None]).astype(np.int8), scale


class _Graph:
    """Nodes and tensors as they come; every node's output has a name of its own."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        name = f'{kind.lower()}_{len(self.nodes)}'
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def tensor(self, values: npt.NDArray[Any]) -> str:
        """Append a constant and return its name."""
        name = f'constant_{len(self.tensors)}'
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def normalise(self, luma: str, side_px: int) -> str:
        """Take the mean out and divide by the deviation + 4, as Encoder.forward does."""
        nothing = self.tensor(np.zeros(0, np.float32))
        factors = self.tensor(np.array([1, 1, side_px, side_px], np.float32))

        def spread(value: str) -> str:
            return self.add('Resize', value, nothing, factors, mode='nearest',
                            nearest_mode='floor', coordinate_transformation_mode='asymmetric')

        centred = self.add('Sub', luma, spread(self.add('GlobalAveragePool', luma)))
        variance = self.add('GlobalAveragePool', self.add('Mul', centred, centred))
        four = self.tensor(np.array([4], np.float32))
        deviation = self.add('Add', self.add('Sqrt', variance), four)
        return self.add('Div', centred, spread(deviation))

    def convolve(self, x: str, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> str:
        """Append a convolution without bias and the normalisation behind it."""
        whole, scale = whole_numbers(convolution)
        weight = self.add('Cast', self.tensor(whole), to=TensorProto.FLOAT)
        pad, stride = int(convolution.padding[0]), convolution.stride[0]
        x = self.add('Conv', x, weight, kernel_shape=list(convolution.kernel_size),
                     strides=[stride, stride], pads=[pad] * 4)
        assert norm.running_mean is not None and norm.running_var is not None
        gain = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
        bias = (norm.bias - norm.running_mean * gain).detach()
        channels = len(scale)
        return self.add(
            'BatchNormalization', x, self.tensor(gain.numpy() * scale),
            self.tensor(bias.numpy()), self.tensor(np.zeros(channels, np.float32)),
            self.tensor(np.ones(channels, np.float32)), epsilon=0.0,
        )

    def model(self, output: str, side_px: int, classes: int) -> onnx.ModelProto:
        """Return the whole, checked."""
        graph = helper.make_graph(
            [*self.nodes, helper.make_node('Flatten', [output], ['logits'], axis=1)], 'fallback',
            [helper.make_tensor_value_info('luma', TensorProto.FLOAT, ['N', 1, side_px, side_px])],
            [helper.make_tensor_value_info('logits', TensorProto.FLOAT, ['N', classes])],
            self.tensors,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', OPSET)],
                                  ir_version=IR_VERSION, producer_name='ferros')
        onnx.checker.check_model(model, full_check=True)
        return model


def build_graph(encoder: Encoder, served: tuple[int, ...]) -> onnx.ModelProto:
    """
    Return the graph luma float [N,1,S,S], 0..255 -> logits [N,K] of the served labels.

    Raises:
        WeightsError: its file would be larger than the robot's share of the package.

    """
    encoder = encoder.cpu().float().eval()
    side_px, graph = encoder.config.input_size_px, _Graph()
    x = graph.normalise('luma', side_px)
    stem: list[Any] = list(encoder.stem)
    for convolution, norm in zip(stem[0::3], stem[1::3], strict=True):
        x = graph.add('Relu', graph.convolve(x, convolution, norm))
    blocks: list[Any] = list(encoder.stages)
    for block in blocks:
        y = graph.add('Relu', graph.convolve(x, block.conv1, block.norm1))
        y = graph.convolve(y, block.conv2, block.norm2)
        if shortcut := list(block.shortcut.children()):
            x = graph.convolve(x, shortcut[0], shortcut[1])
        x = graph.add('Relu', graph.add('Add', y, x))
    rows = list(served)
    weight = encoder.head.weight.detach().numpy()[rows][:, :, None, None]
    bias = encoder.head.bias.detach().numpy()[rows]
    x = graph.add('Conv', graph.add('GlobalAveragePool', x), graph.tensor(weight),
                  graph.tensor(bias), kernel_shape=[1, 1])
    model = graph.model(x, side_px, len(rows))
    if model.ByteSize() > LARGEST_BYTES:
        raise WeightsError(
            f'the graph of {encoder.config} has {model.ByteSize()} bytes, at most '
            f'{LARGEST_BYTES} are meant for a robot: narrower widths or fewer blocks'
        )
    return model


def export_fallback(encoder: Encoder, folder: Path, serving: Serving) -> None:
    """Write fallback.onnx and fallback.json. Raises WeightsError where the graph is too large."""
    known = encoder.config.labels
    served = tuple(i for i, label in enumerate(known) if label not in serving.masked_labels)
    labels = [known[index] for index in served]
    data = build_graph(encoder, served).SerializeToString()
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / GRAPH_FILE, data)
    info = {
        'format': 1,
        'name': serving.name,
        'version': serving.version,
        'labels': labels,
        'input_size_px': encoder.config.input_size_px,
        'temperature': [list(point) for point in serving.temperature],
        'unknown_below': serving.unknown_below,
        'affect': {label: list(place) for label, place in known_places(labels).items()},
        'sha256': {GRAPH_FILE: hashlib.sha256(data).hexdigest()},
    }
    write_atomically(folder / INFO_FILE, (json.dumps(info, indent=2) + '\n').encode())


def calibrate(model: Fallback, faces: Faces, *, progress: bool = True) -> dict[str, Any]:
    """
    Return `temperature` and `unknown_below`, fitted on faces that training has not seen.

    As for the cloud's model, but over single frames, which is all the robot's knows: at every
    face size the temperature of least cross-entropy towards the emotion with most votes, over all
    faces, ambiguous ones too; at full size COVERAGE of them keep their label.
    """
    known = faces.subset(faces.votes[:, :8].sum(1) > 0)
    right, weight = plurality(known.votes), np.full(len(known), 1 / max(len(known), 1))
    points = []
    for side_px in sorted(SIZES_PX):
        logits = model.logits(shrunk(known.luma, side_px), progress=progress)
        points.append((float(side_px), round(fit_temperature(logits, right, weight), 3)))
    # The largest size came last: its logits are those at full size.
    confidence = replace(model, temperature=tuple(points)).probabilities(
        logits, points[-1][0]).max(1)
    # Rounded down, so that no face loses its label by it.
    return {'temperature': tuple(points),
            'unknown_below': math.floor(1000 * threshold_at(COVERAGE, confidence)) / 1000}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `export-fallback`."""
    parser.add_argument('--encoder', type=Path, required=True, help='encoder.safetensors')
    parser.add_argument('--data', type=Path, required=True,
                        help='FER+; calibrates on the faces held out from training')
    parser.add_argument('--out', type=Path, required=True, help='folder to write')
    parser.add_argument('--keep', type=Path,
                        help='also write the weights in fp16, to train or export from again')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--name', default=Serving.name)
    parser.add_argument('--version', default=Serving.version)


def run(args: argparse.Namespace) -> int:
    """Run `export-fallback`."""
    cv2.setNumThreads(args.threads)
    try:
        encoder, about = load_encoder(args.encoder), read_about(args.encoder)
        split = about.get('split') or {}
        if not {'held_out', 'temporal', 'seed'} <= set(split):
            raise WeightsError(f'{args.encoder}: does not say which faces were held out from it '
                               f'(its split is {split}), so nothing can be fitted to them')
        encoder.load_state_dict({name: value.half().float() if value.is_floating_point() else value
                                 for name, value in encoder.state_dict().items()})
        if args.keep:
            args.keep.parent.mkdir(parents=True, exist_ok=True)
            save_weights(encoder, args.keep, about, half=True)
        serving = Serving(name=args.name, version=args.version)
        export_fallback(encoder, args.out, serving)
        held_out = load_splits(args.data, **split).held_out
        found = calibrate(Fallback.load(args.out), held_out)
        export_fallback(encoder, args.out, replace(serving, **found))
    except (DatasetError, ModelError, WeightsError) as err:
        print(f'ferros-cloud export-fallback: {err}', file=sys.stderr)
        return 1
    size = (args.out / GRAPH_FILE).stat().st_size
    print(f'wrote {args.out / GRAPH_FILE} ({size} bytes); temperature by face size '
          f'{found["temperature"]}, unknown below {found["unknown_below"]}')
    return 0
