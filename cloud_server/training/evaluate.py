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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from cloud_server import calibration
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model_info import PRECISIONS, ModelError
from cloud_server.preprocess import to_input
from cloud_server.training import bootstrap
from cloud_server.training.ferplus import (
    EMOTIONS,
    SIDE_PX,
    DatasetError,
    Faces,
    authors_majority,
    load,
    majority,
)
from cloud_server.training.risk_coverage import accuracy_at
from cloud_server.training.study import SUFFIX, Record

DEFAULT_MODEL = Path(__file__).resolve().parent.parent / 'weights' / 'default'
BATCH = 32
CALIBRATION_BINS = 15
COVERAGE = 0.9
# So few faces of FER+ validation have them that their F1 is mostly chance.
RARE = ('disgust', 'fear')
SPLITS = {'train': 'training', 'valid': 'validation', 'test': 'test'}
SMOKE_BELOW = 1000  # faces: fewer only prove that the command works

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
        return f1_of(self.confusion)

    @property
    def common(self) -> list[int]:
        """Return the places of the classes that are not rare."""
        return [place for place, label in enumerate(self.labels) if label not in RARE]

    @property
    def common_macro_f1(self) -> float:
        """Mean F1 of the classes that are not rare: five of FER+'s seven; over all faces."""
        return float(self.f1[self.common].mean())

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return 95 % bootstrap intervals of accuracy and macro-F1; none without faces."""
        if not self.count:
            return {}
        drawn = bootstrap.resamples(self.confusion)
        f1 = f1_of(drawn)
        hits = np.trace(drawn, axis1=1, axis2=2)
        return {
            'accuracy': bootstrap.interval(hits / self.count),
            'macro_f1': bootstrap.interval(f1.mean(1)),
            'common_macro_f1': bootstrap.interval(f1[:, self.common].mean(1)),
        }

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


def f1_of(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return F1 per class [...,K] of confusion matrices [...,K,K]."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    made = confusion.sum(-1) + confusion.sum(-2)
    return np.asarray(2 * hits / np.maximum(made, 1), np.float64)


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
    """
    Return how far confidence can be trusted, over all faces and over those with a majority.

    That is calibration error, coverage and accuracy at the threshold, and the accuracy when the
    surest nine tenths of the faces get a label. Right is the emotion with most votes.
    """
    counted = votes[:, :8].sum(1) > 0
    guess, confidence = probabilities.argmax(1), probabilities.max(1)
    right = np.take_along_axis(plurality(votes), guess[:, None], 1)[:, 0]
    shown = counted & (confidence >= unknown_below)
    truth = majority(votes)
    known = truth >= 0
    sure = shown & known
    figures = {
        'ece_all_faces': calibration_error(confidence[counted], right[counted]),
        'accuracy_all_faces': _mean(right[counted]),
        'coverage_all_faces': shown.sum() / max(counted.sum(), 1),
        'covered_accuracy_all_faces': _mean(right[shown]),
        'coverage_majority_faces': sure.sum() / max(known.sum(), 1),
        'covered_accuracy_majority_faces': _mean(guess[sure] == truth[sure]),
    }
    for name, rows, hits in (('all_faces', counted, right), ('majority_faces', known,
                                                             guess == truth)):
        figures[f'accuracy_at_{COVERAGE}_coverage_{name}'] = (
            accuracy_at(COVERAGE, confidence[rows], hits[rows]) if rows.any() else 0.0)
    return {name: round(float(value), 4) for name, value in figures.items()}


def _mean(values: npt.NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else 0.0


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
