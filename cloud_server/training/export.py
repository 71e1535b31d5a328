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

from cloud_server.affect import known_places
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
from cloud_server.model_info import ENCODER_FILE, ENCODER_FILES, TEMPORAL_FILE
from cloud_server.training.calibrate import COVERAGE, Calibration, calibrate
from cloud_server.training.ferplus import SIDE_PX, DatasetError, Faces, load_splits, majority
from cloud_server.training.quantize import quantize
from cloud_server.training.scores import first_frame, served

OPSET = 17
CALIBRATION_FILE = 'calibration.json'  # what the held-out faces said; serving does not read it
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
    about: Mapping[str, Any] | None = None, temporal_about: Mapping[str, Any] | None = None,
) -> None:
    """
    Write encoder.onnx, temporal.onnx, model.json and the fp16 safetensors into a folder.

    The graphs are made from the fp16 weights, so that they and the safetensors are one model. An
    encoder_int8.onnx or calibration.json that lies there is removed: it is another model's.

    Args:
        encoder: the one half.
        temporal: the other half.
        folder: where to, made where it is missing.
        serving: what else model.json says.
        about: what stays with the encoder's safetensors.
        temporal_about: with the temporal model's; the same where it is not given.

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
    save_weights(temporal, folder / 'temporal.safetensors',
                 (about if temporal_about is None else temporal_about) or {}, half=True)
    encoder = load_encoder(folder / 'encoder.safetensors')
    temporal = load_temporal(folder / 'temporal.safetensors')
    side, size = config.input_size_px, config.feature_size
    write_graph(
        encoder, (torch.zeros(2, 1, side, side, dtype=torch.uint8),), ['luma'], ['features'],
        folder / ENCODER_FILE,
    )
    zeros = torch.zeros(2, state)
    write_graph(
        temporal, (torch.zeros(2, size), torch.zeros(2), torch.full((2,), 48.0), zeros, zeros),
        ['features', 'interval_s', 'face_size_px', 'h', 'c'], ['logits', 'h_out', 'c_out'],
        folder / TEMPORAL_FILE,
    )
    for name in (ENCODER_FILES['int8'], CALIBRATION_FILE):
        (folder / name).unlink(missing_ok=True)
    write_model_json(folder, encoder, temporal, serving)


def write_model_json(
    folder: Path, encoder: Encoder, temporal: Temporal, serving: Serving
) -> None:
    """Write model.json for the graphs that lie in the folder already."""
    graphs = [name for name in (*ENCODER_FILES.values(), TEMPORAL_FILE)
              if (folder / name).exists()]
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
                   for name in graphs},
    }
    shown = [label for label in encoder.config.labels if label not in serving.masked_labels]
    if places := known_places(shown):
        info['affect'] = {label: list(place) for label, place in places.items()}
    (folder / 'model.json').write_text(json.dumps(info, indent=2) + '\n')


def write_graph(
    module: nn.Module, example: tuple[torch.Tensor, ...], inputs: list[str], outputs: list[str],
    path: Path,
) -> None:
    """
    Write one half as an ONNX graph with an open batch axis.

    Args:
        module: called with the inputs in their order.
        example: inputs of two faces.
        inputs: their names.
        outputs: names of what it returns.
        path: where to.

    """
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
    # With 25 clips the calibration error of streamed answers came out three times too large.
    parser.add_argument('--clips', type=int, default=200, help='per face size, for calibration')
    parser.add_argument('--int8', action='store_true',
                        help='write encoder_int8.onnx too, which is faster on CPUs; needs --data')
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
    if args.int8 and args.data is None:
        raise DatasetError('--data is missing: --int8 finds the ranges of activations with faces')
    split = _common_split(args.encoder, args.temporal)
    encoder, temporal = load_encoder(args.encoder), load_temporal(args.temporal)
    held_out = None if args.data is None else _held_out(args, split)
    serving = Serving(name=args.name, version=args.version)
    export(encoder, temporal, args.out, serving, read_about(args.encoder),
           read_about(args.temporal))
    if held_out is None:
        return
    found = calibrate(OnnxEngine(args.out, args.threads), held_out, args.clips)
    if args.int8:
        quantize(args.out / ENCODER_FILE, args.out / ENCODER_FILES['int8'], held_out.luma,
                 encoder.config.input_size_px)
    serving = replace(serving, temperature=found.temperature, unknown_below=found.unknown_below)
    write_model_json(args.out, encoder, temporal, serving)
    (args.out / CALIBRATION_FILE).write_text(json.dumps({
        'command': f'ferros-cloud export --data PATH --clips {args.clips}',
        'split': split, **found.to_json(),
    }, indent=1) + '\n')
    print(_summary(found))
    if args.int8:
        print(_int8_summary(args.out, args.threads, held_out))


def _common_split(encoder: Path, temporal: Path) -> dict[str, Any]:
    """
    Return how the data of both halves was divided; only what was held out must be the same.

    The LSTM may have been trained on the features of another encoder, which left faces for it.

    Raises:
        WeightsError: one of them may have seen faces that are held out from the other.

    """
    split, other = (read_about(path).get('split') or {} for path in (encoder, temporal))
    same = all(split.get(key) == other.get(key) for key in ('held_out', 'seed'))
    if not same:
        raise WeightsError(f'{temporal}: trained on the division {other} of the data, {encoder} '
                           f'on {split}: held_out and seed must agree')
    return dict(split)


def _held_out(args: argparse.Namespace, split: Mapping[str, Any]) -> Faces:
    if not {'held_out', 'seed'} <= set(split):
        raise WeightsError(f'{args.encoder}: does not say which faces were held out from it '
                           f'(its split is {dict(split)}), so nothing can be fitted to them')
    try:
        return load_splits(args.data, held_out=split['held_out'],
                           temporal=split.get('temporal', 0), seed=split['seed']).held_out
    except DatasetError:
        raise
    except ValueError as err:
        raise DatasetError(f'{args.data}: {err}') from err


def _summary(found: Calibration) -> str:
    points = ', '.join(f'{size:.0f} px {value}' for size, value in found.temperature)
    return (
        f'temperature: {points}\n'
        f'unknown below {found.unknown_below}: {COVERAGE:.0%} of the {found.every.faces} held-out '
        f'faces get a label\n'
        f'accuracy at {COVERAGE:.0%} coverage, of all held-out faces '
        f'{found.every.accuracy_covered:.4f} ({found.every.accuracy:.4f} of 100%), of the '
        f'{found.majority.faces} with a majority {found.majority.accuracy_covered:.4f} '
        f'({found.majority.accuracy:.4f} of 100%)'
    )


def _int8_summary(folder: Path, threads: int, held_out: Faces) -> str:
    """Return what int8 costs on the held-out faces; validation stays out of every choice."""
    truth = majority(held_out.votes)
    guess = {}
    for precision in ENCODER_FILES:
        engine = OnnxEngine(folder, threads, precision)
        guess[precision] = served(engine, first_frame(engine, held_out.luma), SIDE_PX).argmax(1)
    known = truth >= 0
    fp32, int8 = (float((guess[name] == truth)[known].mean()) for name in ('fp32', 'int8'))
    same = float((guess['fp32'] == guess['int8']).mean())
    return (f'int8: accuracy {int8:.4f} on the held-out faces with a majority, fp32 {fp32:.4f}; '
            f'the same label for {same:.1%} of all')
