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

"""How right a model is on single faces, and how right it is to be as sure as it is; pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from cloud_server import calibration
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.preprocess import to_input
from cloud_server.training import bootstrap
from cloud_server.training.ferplus import SIDE_PX, Faces, authors_majority, majority
from cloud_server.training.risk_coverage import accuracy_at

BATCH = 32
CALIBRATION_BINS = 15
COVERAGE = 0.9
# So few faces of FER+ validation have them that their F1 is mostly chance.
RARE = ('disgust', 'fear')

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
