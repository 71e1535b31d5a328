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
`ferros-cloud evaluate`: the figures of a model, computed by the code that `serve` runs.

`ferplus` needs no torch: shipped graphs, one pass, a face's first frame (zero state), no mirror,
no ensemble. `robustness` changes the same faces as cameras and detectors do, `clips` renders clips
of them; both need torch for that alone. `speed` needs no data.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model_info import PRECISIONS, ModelError
from cloud_server.training import bootstrap
from cloud_server.training.ferplus import (
    EMOTIONS,
    SIDE_PX,
    DatasetError,
    Faces,
    load,
    majority,
)
from cloud_server.training.scores import (
    RARE,
    Scores,
    calibration_error,
    confidence_figures,
    first_frame,
    protocols,
    served,
)
from cloud_server.training.study import SMOKE_BELOW, SUFFIX, Record

DEFAULT_MODEL = Path(__file__).resolve().parent.parent / 'weights' / 'default'
SPLITS = {'train': 'training', 'valid': 'validation', 'test': 'test'}


def record(path: Path, key: str, figures: dict[str, Any]) -> None:
    """Put figures, and the command that made them, under a key of a JSON file."""
    stored = json.loads(path.read_text('utf-8')) if path.exists() else {}
    stored[key] = figures
    path.write_text(json.dumps(stored, indent=1) + '\n', 'utf-8')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `evaluate`."""
    parser.add_argument('what', choices=('ferplus', 'robustness', 'clips', 'speed'),
                        help='single faces, the same faces seen badly (needs torch), clips '
                             'rendered from them (needs torch), or speed')
    parser.add_argument('--data', type=Path,
                        help='FER+: folder, zip, or fer2013.csv beside fer2013new.csv')
    parser.add_argument('--split', choices=tuple(SPLITS), default='valid')
    parser.add_argument('--model', type=Path, default=DEFAULT_MODEL, help='model folder')
    parser.add_argument('--precision', choices=PRECISIONS, default='fp32',
                        help="arithmetic of the encoder; the model's folder must have it")
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--clips', type=int, default=200, help='how many clips are rendered')
    parser.add_argument('--json', action='store_true', help='one line of JSON, last on stdout')
    parser.add_argument('--record', type=Path, help='JSON file to put the figures into')
    parser.add_argument('--study', type=Path, metavar='FOLDER',
                        help='ferplus, clips: also leave a record for `ferros-cloud report` there')


def run(args: argparse.Namespace) -> int:
    """Run `evaluate`."""
    try:
        figures = _figures(args)
    except (DatasetError, ModelError) as err:
        print(f'ferros-cloud evaluate: {err}', file=sys.stderr)
        return 1
    except ModuleNotFoundError as err:
        if err.name != 'torch':
            raise
        print(f'ferros-cloud evaluate: {args.what} needs the Python module {err.name!r}; it comes '
              'with the development environment (`make setup-dev`)', file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(figures))
    return 0


def _figures(args: argparse.Namespace) -> dict[str, Any]:
    if args.study and args.what not in ('ferplus', 'clips'):
        raise DatasetError(f'--study: expected with ferplus or clips, got it with {args.what}')
    engine = OnnxEngine(args.model, args.threads, args.precision)
    if engine.info.labels != EMOTIONS:
        raise ModelError(f'{args.model} answers {engine.info.labels}, FER+ has {EMOTIONS}')
    if args.what == 'speed':
        return _speed(args, engine)
    if args.data is None:
        raise DatasetError('--data is missing: the folder, zip or CSV pair of FER+')
    evaluation = {'ferplus': _ferplus, 'robustness': _robustness, 'clips': _clips}[args.what]
    return evaluation(args, engine, load(args.data, args.split))


def _leave(args: argparse.Namespace, key: str, options: str, figures: dict[str, Any]) -> None:
    """Put figures into the file of --record; those of fp32 have the plain key."""
    if args.record:
        prefix = '' if args.precision == 'fp32' else f'{args.precision}_'
        record(args.record, prefix + key, {'command': _command(args, options), **figures})


def _command(args: argparse.Namespace, options: str) -> str:
    precision = '' if args.precision == 'fp32' else f' --precision {args.precision}'
    return f'ferros-cloud evaluate {args.what}{precision} {options}'


def _leave_study(
    args: argparse.Namespace, options: str, engine: OnnxEngine, kind: str, count: int,
    result: dict[str, Any],
) -> None:
    """Leave the record of a run in the folder of --study."""
    if not args.study:
        return
    precision = '' if args.precision == 'fp32' else f'_{args.precision}'
    model = args.model.resolve().name
    Record(
        kind=kind, network=_network(args, engine), command=_command(args, options),
        data=f'FER+ {SPLITS[args.split]}, {count} faces with a majority',
        smoke=count < SMOKE_BELOW, result=result,
        settings={'model': engine.info.display, 'precision': args.precision,
                  'split': args.split, 'sha256': engine.info.sha256},
        notes=['The graphs that serve computes, one pass, no mirror, no ensemble.'],
    ).save(args.study / f'{kind}_{model}{precision}{SUFFIX}')


def _network(args: argparse.Namespace, engine: OnnxEngine) -> str:
    """Return what a row of the study calls the model."""
    shipped = args.model.resolve() == DEFAULT_MODEL
    name = f'ferros {DEFAULT_MODEL.name}' if shipped else engine.info.display
    weights = args.model / 'encoder.safetensors'
    details = [] if args.precision == 'fp32' else [args.precision]
    if weights.is_file():
        from cloud_server.model import load_encoder, multiply_adds

        count = multiply_adds(load_encoder(weights)) / 1e6
        details.insert(0, f'{count:.0f} M multiply-adds')
    return f'{name} ({", ".join(details)})' if details else name


def _ferplus(args: argparse.Namespace, engine: OnnxEngine, faces: Faces) -> dict[str, Any]:
    logits = first_frame(engine, faces.luma)
    seven, eight = protocols(engine, faces, logits)
    confidence = confidence_figures(
        served(engine, logits, SIDE_PX), faces.votes, engine.info.unknown_below
    )
    intervals = seven.intervals()
    print(f'{engine.info.name} {engine.info.version}, FER+ {args.split} split, {len(faces)} faces')
    print(seven.table('\n7 classes, more than half of all ten columns'))
    print(f'macro F1 without {" and ".join(RARE)}: {seven.common_macro_f1:.4f}')
    print(f'95 % intervals, {bootstrap.RESAMPLES} bootstrap resamples of the faces: ' + ', '.join(
        f'{name} {low:.4f} to {high:.4f}' for name, (low, high) in intervals.items()))
    print(eight.table("\n8 classes, the authors' protocol"))
    print('\nconfidence:', ', '.join(f'{name} {value}' for name, value in confidence.items()))
    figures = {**seven.to_json(), 'eight_class': eight.to_json()}
    options = f'--split {args.split}'
    _leave(args, f'ferplus_{args.split}', options, {
        **figures,
        'eight_class': {**eight.to_json(), 'intervals': eight.intervals()},
        'five_class_macro_f1': round(seven.common_macro_f1, 5),
        'intervals': intervals, 'resamples': bootstrap.RESAMPLES,
        'confidence': confidence,
        'by_face_size_px': _by_size(engine, faces) if args.record else {},
        'confusion': seven.confusion.tolist(),
    })
    _leave_study(args, options, engine, 'image', seven.count, {
        'labels': list(seven.labels), **seven.to_json(),
        'confusion': seven.confusion.tolist(), 'intervals': intervals,
        'common_macro_f1': round(seven.common_macro_f1, 5),
    })
    return figures


def _by_size(engine: OnnxEngine, faces: Faces) -> dict[str, Any]:
    """Return accuracy and calibration of faces sent smaller, area averaged."""
    import cv2

    found = {}
    for side in (32, 24, 16, 12):
        luma = np.stack([cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
                         for face in faces.luma])
        logits = first_frame(engine, luma)
        scores = served(engine, logits, side)
        seven = Scores.of(
            majority(faces.votes), scores.argmax(1), engine.info.served_labels)
        found[str(side)] = {
            'accuracy': round(seven.accuracy, 5),
            'five_class_macro_f1': round(seven.common_macro_f1, 5),
            **confidence_figures(scores, faces.votes, engine.info.unknown_below),
        }
    return found


def _robustness(args: argparse.Namespace, engine: OnnxEngine, faces: Faces) -> dict[str, Any]:
    from cloud_server.training.robustness import measure, table

    figures = measure(engine, faces)
    print(table(figures))
    _leave(args, f'robustness_{args.split}', f'--split {args.split}', figures)
    return figures


def _speed(args: argparse.Namespace, engine: OnnxEngine) -> dict[str, Any]:
    from cloud_server.training import speed

    figures = {**speed.measure(engine), 'threads': args.threads, 'precision': args.precision}
    print(speed.table(figures))
    _leave(args, 'speed', f'--threads {args.threads}', figures)
    return figures


def streamed_ece(engine: OnnxEngine, faces: Faces, clips: int) -> dict[str, float]:
    """
    Return the calibration error of the LSTM's answers by face size.

    Over clips of all faces with an emotion vote, ambiguous ones too, at the frame rates and with
    the losses they are drawn with; right is the emotion with most votes of what is seen.
    """
    from cloud_server.training import calibrate, streaming

    known = faces.subset(faces.votes[:, :8].sum(1) > 0)
    found = {}
    for side in streaming.SIDES_PX:
        logits, shares = calibrate.streamed(engine, known, side, clips)
        scores = served(engine, logits, side)
        right = np.take_along_axis(shares, scores.argmax(1)[:, None], 1)[:, 0]
        found[str(side)] = round(calibration_error(scores.max(1), right), 4)
    return found


def _clips(args: argparse.Namespace, engine: OnnxEngine, faces: Faces) -> dict[str, Any]:
    from cloud_server.training import streaming

    figures = streaming.grid(engine, faces, args.clips)
    figures['streamed_ece_all_faces'] = streamed_ece(engine, faces, args.clips)
    print(streaming.table(figures))
    print('calibration error of the LSTM within clips of all faces:', ', '.join(
        f'{side} px {ece}' for side, ece in figures['streamed_ece_all_faces'].items()))
    options = f'--split {args.split} --clips {args.clips}'
    _leave(args, f'clips_{args.split}', options, figures)
    count = int((majority(faces.votes) >= 0).sum())
    _leave_study(args, options, engine, 'clips', count, figures)
    return figures
