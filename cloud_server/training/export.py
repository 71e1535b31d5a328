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

"""`ferros-cloud export`: trained weights to the folder that `serve` loads, without torch."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model import (
    Encoder,
    Temporal,
    WeightsError,
    load_encoder,
    load_temporal,
    read_about,
    save_weights,
)
from cloud_server.training.calibrate import calibrate
from cloud_server.training.ferplus import DatasetError, load_splits

OPSET = 17
IR_VERSION = 8  # what ONNX Runtime 1.17 and everything newer reads


@dataclass(frozen=True)
class Serving:
    """What model.json says besides the graphs: see the fields of the same names there."""

    name: str = 'ferros-fer'
    version: str = '1.0.0'
    masked_labels: tuple[str, ...] = ('contempt',)
    reset_gap_s: float = 2.0
    reset_gap_intervals: float = 3.0
    temperature: tuple[tuple[float, float], ...] = ((48.0, 1.0),)
    unknown_below: float = 0.4


def export(
    encoder: Encoder, temporal: Temporal, folder: Path, serving: Serving,
    about: Mapping[str, Any] | None = None,
) -> None:
    """
    Write encoder.onnx, temporal.onnx, model.json and the fp16 safetensors into a folder.

    The graphs are made from the fp16 weights, so that they and the safetensors are one model.

    Raises:
        WeightsError: the two halves do not fit each other.

    """
    config, state = encoder.config, temporal.config.state_size
    if (config.labels, config.feature_size) != (
        temporal.config.labels, temporal.config.feature_size
    ):
        raise WeightsError(f'encoder ({config}) and temporal model ({temporal.config}) do not fit')
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(encoder, folder / 'encoder.safetensors', about or {}, half=True)
    save_weights(temporal, folder / 'temporal.safetensors', about or {}, half=True)
    encoder = load_encoder(folder / 'encoder.safetensors')
    temporal = load_temporal(folder / 'temporal.safetensors')
    side, size = config.input_size_px, config.feature_size
    _write_graph(
        encoder, (torch.zeros(2, 1, side, side, dtype=torch.uint8),), ['luma'], ['features'],
        folder / 'encoder.onnx',
    )
    zeros = torch.zeros(2, state)
    _write_graph(
        temporal, (torch.zeros(2, size), torch.zeros(2), torch.full((2,), 48.0), zeros, zeros),
        ['features', 'interval_s', 'face_size_px', 'h', 'c'], ['logits', 'h_out', 'c_out'],
        folder / 'temporal.onnx',
    )
    write_model_json(folder, encoder, temporal, serving)


def write_model_json(
    folder: Path, encoder: Encoder, temporal: Temporal, serving: Serving
) -> None:
    """Write model.json for the graphs that lie in the folder already."""
    info: dict[str, Any] = {
        'format': 1,
        'name': serving.name,
        'version': serving.version,
        'labels': list(encoder.config.labels),
        'masked_labels': list(serving.masked_labels),
        'input_size_px': encoder.config.input_size_px,
        'feature_size': encoder.config.feature_size,
        'state_size': temporal.config.state_size,
        'reset_gap_s': serving.reset_gap_s,
        'reset_gap_intervals': serving.reset_gap_intervals,
        'temperature': [list(point) for point in serving.temperature],
        'unknown_below': serving.unknown_below,
        'sha256': {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
                   for name in ('encoder.onnx', 'temporal.onnx')},
    }
    (folder / 'model.json').write_text(json.dumps(info, indent=2) + '\n')


def _write_graph(
    module: nn.Module, example: tuple[torch.Tensor, ...], inputs: list[str], outputs: list[str],
    path: Path,
) -> None:
    module = module.cpu().float().eval()
    with warnings.catch_warnings():  # the exporter announces its own successor
        warnings.simplefilter('ignore')
        torch.onnx.export(
            module, example, str(path), input_names=inputs, output_names=outputs,
            opset_version=OPSET, dynamo=False,
            dynamic_axes={name: {0: 'N'} for name in (*inputs, *outputs)},
        )
    graph = onnx.load(path)
    graph.ir_version = min(graph.ir_version, IR_VERSION)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `export`."""
    parser.add_argument('--encoder', type=Path, required=True, help='encoder.safetensors')
    parser.add_argument('--temporal', type=Path, required=True, help='temporal.safetensors')
    parser.add_argument('--out', type=Path, required=True, help='folder to write')
    parser.add_argument('--data', type=Path,
                        help='FER+; calibrates on the faces held out from both trainings')
    parser.add_argument('--clips', type=int, default=60, help='per face size, for calibration')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--name', default=Serving.name)
    parser.add_argument('--version', default=Serving.version)


def run(args: argparse.Namespace) -> int:
    """Run `export`."""
    try:
        _export_and_calibrate(args)
    except (DatasetError, WeightsError) as err:
        print(f'ferros-cloud export: {err}', file=sys.stderr)
        return 1
    print(f'wrote {args.out}')
    return 0


def _export_and_calibrate(args: argparse.Namespace) -> None:
    encoder, temporal = load_encoder(args.encoder), load_temporal(args.temporal)
    about = read_about(args.encoder)
    if read_about(args.temporal) != about:
        raise WeightsError(f'{args.temporal}: not trained on the data split of {args.encoder}')
    serving = Serving(name=args.name, version=args.version)
    export(encoder, temporal, args.out, serving, about)
    if args.data is not None:
        held_out = load_splits(args.data, **about['split']).held_out
        found = calibrate(OnnxEngine(args.out, args.threads), held_out, args.clips)
        serving = replace(
            serving, temperature=found.temperature, unknown_below=found.unknown_below
        )
        write_model_json(args.out, encoder, temporal, serving)
        print(f'temperature by face size {found.temperature}, unknown below '
              f'{found.unknown_below}')
