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
no ensemble. `clips` renders clips of the same faces and needs torch for that alone. `speed` needs
no data: faces per second through the encoder, eight at a time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from cloud_server import calibration
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model_info import ModelError
from cloud_server.preprocess import to_input
from cloud_server.training.ferplus import (
    EMOTIONS,
    SIDE_PX,
    DatasetError,
    Faces,
    authors_majority,
    load,
    majority,
)

DEFAULT_MODEL = Path(__file__).resolve().parent.parent / 'weights' / 'default'
BATCH = 32
SPEED_BATCH = 8
SPEED_RUNS = 300
CALIBRATION_BINS = 15

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Scores:
    """
    How guesses compare with the truth over K classes.

    Attributes:
        labels: K names.
        confusion: int [K,K], rows are the truth, columns the guess.

    """

    labels: tuple[str, ...]
    confusion: npt.NDArray[np.int64]

    @classmethod
    def of(cls, truth: Indices, guess: Indices, labels: tuple[str, ...]) -> Scores:
        """Count the faces whose truth is known (not -1)."""
        known = truth >= 0
        confusion = np.zeros((len(labels), len(labels)), np.int64)
        np.add.at(confusion, (truth[known], guess[known]), 1)
        return cls(labels, confusion)

    @property
    def count(self) -> int:
        """Number of faces."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of faces guessed right, 0 where there are none."""
        return float(np.trace(self.confusion) / max(self.count, 1))

    @property
    def recall(self) -> npt.NDArray[np.float64]:
        """Per class [K]; 0 for a class without faces."""
        hits = np.diag(self.confusion) / np.maximum(self.confusion.sum(1), 1)
        return np.asarray(hits, np.float64)

    @property
    def f1(self) -> npt.NDArray[np.float64]:
        """Per class [K], 2 TP / (2 TP + FP + FN); 0 for a class without faces or guesses."""
        made = self.confusion.sum(0) + self.confusion.sum(1)
        return np.asarray(2 * np.diag(self.confusion) / np.maximum(made, 1), np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return accuracy, macro_f1 (the mean over all classes), count and per_class."""
        counts = self.confusion.sum(1)
        return {
            'accuracy': round(self.accuracy, 5),
            'macro_f1': round(float(self.f1.mean()), 5),
            'count': self.count,
            'per_class': {
                label: {'recall': round(float(recall), 5), 'f1': round(float(f1), 5),
                        'count': int(count)}
                for label, recall, f1, count in zip(
                    self.labels, self.recall, self.f1, counts, strict=True)
            },
        }

    def table(self, title: str) -> str:
        """Return a table for people: the confusion matrix, recall and F1."""
        head = ''.join(f'{label[:9]:>10}' for label in self.labels)
        lines = [f'{title}: accuracy {self.accuracy:.4f}, macro F1 {self.f1.mean():.4f}, '
                 f'{self.count} faces', f'{"truth / guess":<14}{head}{"recall":>9}{"F1":>7}']
        for label, row, recall, f1 in zip(
            self.labels, self.confusion, self.recall, self.f1, strict=True
        ):
            cells = ''.join(f'{cell:>10}' for cell in row)
            lines.append(f'{label:<14}{cells}{recall:>9.3f}{f1:>7.3f}')
        return '\n'.join(lines)


def first_frame(
    engine: OnnxEngine, luma: npt.NDArray[np.uint8], *, progress: bool = True
) -> Floats:
    """
    Return what `serve` computes of each face's first frame.

    Args:
        engine: the model.
        luma: uint8 [N,s,s], as the robot sends them.
        progress: a bar on standard error.

    Returns:
        logits float32 [N,8].

    """
    info, size_px = engine.info, luma.shape[-1]
    parts = []
    for start in tqdm(range(0, len(luma), BATCH), desc='evaluating', unit='batch',
                      disable=not progress, leave=False):
        batch = np.stack([to_input(face, info.input_size_px)
                          for face in luma[start : start + BATCH]])
        state = np.zeros((len(batch), info.state_size), np.float32)
        features = engine.encode(batch)
        logits, _, _ = engine.step(
            features, np.zeros(len(batch), np.float32),
            np.full(len(batch), size_px, np.float32), state, state,
        )
        parts.append(logits)
    return np.concatenate(parts)


def served(engine: OnnxEngine, logits: Floats, size_px: float) -> Floats:
    """Return the probabilities [N,7] that an answer would carry."""
    sizes = np.full(len(logits), size_px, np.float32)
    return calibration.probabilities(logits, sizes, engine.info)


def plurality(votes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """
    Return, for every face, how right each of the seven labels is: [N,7] with row sums 1 or 0.

    The emotion with most votes is right, ties share; where contempt has most, none is. Unlike the
    majority this covers all faces, ambiguous ones too, as a camera meets them.
    """
    counts = votes[:, :8].astype(np.float64)
    best = counts.max(1, keepdims=True)
    top = (counts == best) & (best > 0)
    shares = top / np.maximum(top.sum(1, keepdims=True), 1)
    return np.asarray(shares[:, :7], np.float64)


def calibration_error(
    confidence: npt.NDArray[Any], right: npt.NDArray[Any], bins: int = CALIBRATION_BINS
) -> float:
    """Return the expected calibration error over equally wide bins (Guo et al., ICML 2017)."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    weight = np.bincount(place, minlength=bins)
    gap = np.abs(np.bincount(place, confidence, bins) - np.bincount(place, right, bins))
    return float(gap.sum() / max(weight.sum(), 1))


def confidence_figures(
    probabilities: Floats, votes: npt.NDArray[np.uint8], unknown_below: float
) -> dict[str, float]:
    """Return calibration error, and coverage and accuracy at the threshold, over all faces."""
    counted = votes[:, :8].sum(1) > 0
    guess, confidence = probabilities.argmax(1), probabilities.max(1)
    right = np.take_along_axis(plurality(votes), guess[:, None], 1)[:, 0]
    shown = counted & (confidence >= unknown_below)
    truth = majority(votes)
    sure = shown & (truth >= 0)
    return {
        'ece_all_faces': round(calibration_error(confidence[counted], right[counted]), 4),
        'accuracy_all_faces': round(float(right[counted].mean()), 4),
        'coverage_all_faces': round(float(shown.sum() / max(counted.sum(), 1)), 4),
        'covered_accuracy_all_faces': round(float(right[shown].mean()) if shown.any() else 0, 4),
        'coverage_majority_faces': round(float(sure.sum() / max((truth >= 0).sum(), 1)), 4),
        'covered_accuracy_majority_faces': round(
            float((guess[sure] == truth[sure]).mean()) if sure.any() else 0, 4),
    }


def protocols(engine: OnnxEngine, faces: Faces, logits: Floats) -> tuple[Scores, Scores]:
    """Return the scores in the seven-class and in the authors' eight-class protocol."""
    guess = served(engine, logits, SIDE_PX).argmax(1)
    seven = Scores.of(majority(faces.votes), guess, engine.info.served_labels)
    eight = Scores.of(authors_majority(faces.votes), logits.argmax(1), engine.info.labels)
    return seven, eight


def record(path: Path, key: str, figures: dict[str, Any]) -> None:
    """Put figures, and the command that made them, under a key of a JSON file."""
    stored = json.loads(path.read_text('utf-8')) if path.exists() else {}
    stored[key] = figures
    path.write_text(json.dumps(stored, indent=1) + '\n', 'utf-8')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `evaluate`."""
    parser.add_argument('what', choices=('ferplus', 'clips', 'speed'),
                        help='single faces, clips rendered from them (needs torch), or speed')
    parser.add_argument('--data', type=Path,
                        help='FER+: folder, zip, or fer2013.csv beside fer2013new.csv')
    parser.add_argument('--split', choices=('train', 'valid', 'test'), default='valid')
    parser.add_argument('--model', type=Path, default=DEFAULT_MODEL, help='model folder')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--clips', type=int, default=200, help='how many clips are rendered')
    parser.add_argument('--json', action='store_true', help='one line of JSON, last on stdout')
    parser.add_argument('--record', type=Path, help='JSON file to put the figures into')


def run(args: argparse.Namespace) -> int:
    """Run `evaluate`."""
    try:
        engine = OnnxEngine(args.model, threads=args.threads)
        if engine.info.labels != EMOTIONS:
            raise ModelError(f'{args.model} answers {engine.info.labels}, FER+ has {EMOTIONS}')
        if args.what == 'speed':
            figures = _speed(args, engine)
        elif args.data is None:
            raise DatasetError('--data is missing: the folder, zip or CSV pair of FER+')
        else:
            figures = {'ferplus': _ferplus, 'clips': _clips}[args.what](
                args, engine, load(args.data, args.split))
    except (DatasetError, ModelError) as err:
        print(f'ferros-cloud evaluate: {err}', file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(figures))
    return 0


def _ferplus(args: argparse.Namespace, engine: OnnxEngine, faces: Faces) -> dict[str, Any]:
    logits = first_frame(engine, faces.luma)
    seven, eight = protocols(engine, faces, logits)
    confidence = confidence_figures(
        served(engine, logits, SIDE_PX), faces.votes, engine.info.unknown_below
    )
    print(f'{engine.info.name} {engine.info.version}, FER+ {args.split} split, {len(faces)} faces')
    print(seven.table('\n7 classes, more than half of all ten columns'))
    print(eight.table("\n8 classes, the authors' protocol"))
    print('\nconfidence:', ', '.join(f'{name} {value}' for name, value in confidence.items()))
    figures = {**seven.to_json(), 'eight_class': eight.to_json()}
    if args.record:
        record(args.record, f'ferplus_{args.split}', {
            'command': f'ferros-cloud evaluate ferplus --split {args.split}',
            **figures, 'confidence': confidence,
            'by_face_size_px': _by_size(engine, faces),
            'confusion': seven.confusion.tolist(),
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
        truth = majority(faces.votes)
        found[str(side)] = {
            'accuracy': Scores.of(truth, scores.argmax(1), engine.info.served_labels).accuracy,
            **confidence_figures(scores, faces.votes, engine.info.unknown_below),
        }
    return found


def _speed(args: argparse.Namespace, engine: OnnxEngine) -> dict[str, Any]:
    side = engine.info.input_size_px
    luma = np.random.default_rng(0).integers(0, 256, (SPEED_BATCH, side, side), np.uint8)
    rates = []
    for _ in tqdm(range(SPEED_RUNS), desc='measuring', leave=False):
        began = time.perf_counter()
        engine.encode(luma)
        rates.append(SPEED_BATCH / (time.perf_counter() - began))
    figures = {'faces_per_s_median': round(float(np.median(rates))),
               'faces_per_s_best': round(float(np.max(rates))),
               'batch': SPEED_BATCH, 'threads': args.threads}
    print(', '.join(f'{name} {value}' for name, value in figures.items()))
    if args.record:
        record(args.record, 'speed', {
            'command': f'ferros-cloud evaluate speed --threads {args.threads}', **figures,
        })
    return figures


def _clips(args: argparse.Namespace, engine: OnnxEngine, faces: Faces) -> dict[str, Any]:
    from cloud_server.training import streaming

    figures = streaming.grid(engine, faces, args.clips)
    print(streaming.table(figures))
    if args.record:
        record(args.record, f'clips_{args.split}', {
            'command': f'ferros-cloud evaluate clips --split {args.split} --clips {args.clips}',
            **figures,
        })
    return figures
