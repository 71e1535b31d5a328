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
`ferros-cloud evaluate-fallback`: the figures of the robot's small model, from the graph it loads.

cv2.dnn computes as on the robot; `preprocess.to_input` and the temperatures of fallback.json do
what ferros/local_model.py does, which a test compares. `ferplus` measures faces, one pass, no
mirror, no ensemble; `speed` needs no data: milliseconds for one face on one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from cloud_server.model_info import ModelError
from cloud_server.preprocess import to_input
from cloud_server.training import bootstrap
from cloud_server.training.evaluate import SPLITS, record
from cloud_server.training.ferplus import EMOTIONS, SIDE_PX, DatasetError, Faces, load, majority
from cloud_server.training.scores import Floats, Scores, confidence_figures
from cloud_server.training.study import SMOKE_BELOW, SUFFIX, Record

GRAPH_FILE = 'fallback.onnx'
INFO_FILE = 'fallback.json'
DEFAULT_FOLDER = Path('ferros/models')
SIZES_PX = (48, 32, 24, 16, 12)
SPEED_RUNS = 300


@dataclass(frozen=True)
class Fallback:
    """The graph, and how its logits become probabilities."""

    net: cv2.dnn.Net
    input_size_px: int
    labels: tuple[str, ...]
    temperature: tuple[tuple[float, float], ...]
    unknown_below: float
    display: str

    @classmethod
    def load(cls, folder: Path) -> Fallback:
        """Read both files. Raises ModelError where they are not one model."""
        path = folder / INFO_FILE
        try:
            info = json.loads(path.read_text('utf-8'))
            data = (folder / GRAPH_FILE).read_bytes()
            expected, found = info['sha256'][GRAPH_FILE], hashlib.sha256(data).hexdigest()
            if found != expected:
                raise ModelError(f'{folder / GRAPH_FILE}: sha256 is {found}, {path} says '
                                 f'{expected}: damaged or of another model')
            return cls(
                read_graph(folder / GRAPH_FILE), int(info['input_size_px']),
                tuple(info['labels']), tuple((s, t) for s, t in info['temperature']),
                float(info['unknown_below']), f'{info["name"]} {info["version"]}',
            )
        except OSError as err:
            raise ModelError(f'{err.filename}: cannot be read ({err.strerror})') from err
        except (TypeError, KeyError) as err:
            raise ModelError(f'{path}: no description of a fallback model ({err!r})') from err
        except json.JSONDecodeError as err:
            raise ModelError(f'{path}: not JSON ({err})') from err

    def logits(self, luma: npt.NDArray[np.uint8], *, progress: bool = True) -> Floats:
        """Return [N,K] of crops uint8 [N,s,s], one at a time, as the robot computes them."""
        rows = []
        for face in tqdm(luma, desc='evaluating', unit='face', disable=not progress, leave=False):
            self.net.setInput(cv2.dnn.blobFromImage(to_input(face, self.input_size_px)))
            rows.append(np.asarray(self.net.forward(), np.float32)[0])
        return np.stack(rows)

    def probabilities(self, logits: Floats, face_size_px: float) -> Floats:
        """Return [N,K], rows of sum 1, of faces of one size."""
        sizes, temperatures = zip(*self.temperature, strict=True)
        scaled = logits.astype(np.float64) / np.interp(face_size_px, sizes, temperatures)
        weights = np.exp(scaled - scaled.max(1, keepdims=True))
        return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def read_graph(path: Path) -> cv2.dnn.Net:
    """Read a graph for the processor. Raises ModelError where this OpenCV cannot."""
    try:
        net = cv2.dnn.readNetFromONNX(str(path))
    except cv2.error as err:
        raise ModelError(f'{path}: OpenCV {cv2.__version__} cannot read it '
                         f'({" ".join(str(err).split())})') from err
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
    return net


def shrunk(luma: npt.NDArray[np.uint8], side_px: int) -> npt.NDArray[np.uint8]:
    """Return faces [N,s,s] at a smaller side, area averaged, as the robot crops them."""
    if side_px >= luma.shape[-1]:
        return luma
    return np.stack([cv2.resize(face, (side_px, side_px), interpolation=cv2.INTER_AREA)
                     for face in luma]).astype(np.uint8, copy=False)


def figures(model: Fallback, faces: Faces, *, progress: bool = True) -> dict[str, Any]:
    """Return accuracy, F1, calibration and coverage at full size, and the same by face size."""
    truth, by_size = majority(faces.votes), {}
    full: Scores | None = None
    for side_px in SIZES_PX:
        logits = model.logits(shrunk(faces.luma, side_px), progress=progress)
        probabilities = model.probabilities(logits, side_px)
        scores = Scores.of(truth, probabilities.argmax(1), model.labels)
        full = full or scores
        by_size[str(side_px)] = {
            'accuracy': round(scores.accuracy, 5),
            **confidence_figures(probabilities, faces.votes, model.unknown_below),
        }
    assert full is not None
    return {
        **full.to_json(), 'five_class_macro_f1': round(full.common_macro_f1, 5),
        'intervals': full.intervals(), 'resamples': bootstrap.RESAMPLES,
        'by_face_size_px': by_size, 'confusion': full.confusion.tolist(),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `evaluate-fallback`."""
    parser.add_argument('what', choices=('ferplus', 'speed'), help='single faces, or speed')
    parser.add_argument('--data', type=Path,
                        help='FER+: folder, zip, or fer2013.csv beside fer2013new.csv')
    parser.add_argument('--split', choices=('train', 'valid', 'test'), default='valid')
    parser.add_argument('--model', type=Path, default=DEFAULT_FOLDER,
                        help=f'folder of {GRAPH_FILE} and {INFO_FILE}')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--json', action='store_true', help='one line of JSON, last on stdout')
    parser.add_argument('--record', type=Path, help='JSON file to put the figures into')
    parser.add_argument('--study', type=Path,
                        help=f'folder to leave image_fallback{SUFFIX} in, for a report')


def run(args: argparse.Namespace) -> int:
    """Run `evaluate-fallback`."""
    cv2.setNumThreads(args.threads)
    try:
        model = Fallback.load(args.model)
        found = _speed(model, args) if args.what == 'speed' else _ferplus(model, args)
    except (DatasetError, ModelError) as err:
        print(f'ferros-cloud evaluate-fallback: {err}', file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(found))
    return 0


def _ferplus(model: Fallback, args: argparse.Namespace) -> dict[str, Any]:
    if args.data is None:
        raise DatasetError('--data is missing: the folder, zip or CSV pair of FER+')
    if model.labels != EMOTIONS[: len(model.labels)]:
        raise ModelError(f'{args.model} answers {model.labels}, FER+ has {EMOTIONS}')
    faces = load(args.data, args.split)
    found = figures(model, faces)
    scores = Scores(model.labels, np.array(found['confusion']))
    print(f'{model.display}, FER+ {args.split} split, {len(faces)} faces, OpenCV '
          f'{cv2.__version__}')
    print(scores.table('\n7 classes, more than half of all ten columns'))
    for side_px, row in found['by_face_size_px'].items():
        print(f'\n{side_px} px:', ', '.join(f'{name} {value}' for name, value in row.items()))
    command = f'ferros-cloud evaluate-fallback ferplus --split {args.split}'
    if args.record:
        record(args.record, f'ferplus_{args.split}',
               {'command': command, 'opencv': cv2.__version__, **found})
    if args.study:
        Record(
            kind='image', network=f'ferros robot ({model.display})', command=command,
            data=f'FER+ {SPLITS[args.split]}, {found["count"]} faces with a majority',
            smoke=found['count'] < SMOKE_BELOW, result={'labels': list(model.labels), **found},
            settings={'model': model.display, 'opencv': cv2.__version__, 'split': args.split},
            notes=['The graph that the robot computes, one pass, no mirror, no ensemble.'],
        ).save(args.study / f'image_fallback{SUFFIX}')
    return found


def _speed(model: Fallback, args: argparse.Namespace) -> dict[str, Any]:
    face = np.random.default_rng(0).integers(0, 256, (1, SIDE_PX, SIDE_PX), np.uint8)
    times_ms = []
    for _ in tqdm(range(SPEED_RUNS), desc='measuring', leave=False):
        began = time.perf_counter()
        model.logits(face, progress=False)
        times_ms.append((time.perf_counter() - began) * 1e3)
    found = {'ms_per_face_median': round(float(np.median(times_ms)), 3),
             'ms_per_face_best': round(float(np.min(times_ms)), 3),
             'threads': args.threads, 'opencv': cv2.__version__}
    print(', '.join(f'{name} {value}' for name, value in found.items()))
    if args.record:
        record(args.record, 'speed', {
            'command': f'ferros-cloud evaluate-fallback speed --threads {args.threads}', **found,
        })
    return found
