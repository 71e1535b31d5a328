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
The paper's figures, verbatim, and the arithmetic by which two of them must have been exchanged.

The paper is Maclean 2021, "Facial Expression Recognition for Cloud Robotics". A classifier's
accuracy is its recalls weighted by the shares of the classes. Weighted so, the recalls of its
Table 1 give its own accuracies only with neutral and sadness exchanged: of all 21 exchanges of two
classes no other one fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

# (width, height) in px -> frames per second -> accuracy.
Grid = Mapping[tuple[int, int], Mapping[int, float]]

# The order of the columns in its Table 1.
LABELS = ('anger', 'disgust', 'fear', 'happiness', 'neutral', 'sadness', 'surprise')
EXCHANGED = ('neutral', 'sadness')
NOT_IN_SOURCE = 'n/a'


@dataclass(frozen=True)
class ImageRow:
    """
    One row of Table 1.

    Attributes:
        classes: label -> (recall, F1), both in [0, 1].
        accuracy: the overall accuracy, in [0, 1].

    """

    classes: Mapping[str, tuple[float, float]]
    accuracy: float

    def recalls(self) -> dict[str, float]:
        """Return label -> recall."""
        return {label: recall for label, (recall, _) in self.classes.items()}


def _row(accuracy: float, *figures: tuple[float, float]) -> ImageRow:
    return ImageRow(MappingProxyType(dict(zip(LABELS, figures, strict=True))), accuracy)


def _exchanged(row: ImageRow) -> ImageRow:
    """Return a row with the figures of neutral and sadness exchanged."""
    one, other = EXCHANGED
    return ImageRow(MappingProxyType({
        **row.classes, one: row.classes[other], other: row.classes[one],
    }), row.accuracy)


# "Classification results on the test set of the FER+ dataset", as printed: (recall, F1) in the
# order of LABELS.
TABLE_1: Mapping[str, ImageRow] = MappingProxyType({
    'RN50 on VGG': _row(
        0.86, (0.86, 0.85), (0.33, 0.45), (0.49, 0.58), (0.95, 0.94), (0.65, 0.71), (0.85, 0.86),
        (0.91, 0.88)),
    'RN50 on ImageNet': _row(
        0.78, (0.63, 0.67), (0.0, 0.0), (0.21, 0.34), (0.89, 0.88), (0.44, 0.53), (0.81, 0.80),
        (0.90, 0.82)),
})
TABLE_1_CORRECTED: Mapping[str, ImageRow] = MappingProxyType({
    name: _exchanged(row) for name, row in TABLE_1.items()
})
# Its text on Figure 2: this share of the disgust faces is taken for anger by RN50 on VGG.
DISGUST_TAKEN_FOR_ANGER = 0.47

# Faces per class in the seven-class majority protocol (ferplus.majority: more than half of all ten
# columns), counted in two splits of FER+. The paper's figures are of the third, the test split,
# whose counts are not used here: these stand in for them. Their shares differ from each other by
# up to three points (neutral, happiness), and both lead to the same finding.
STAND_IN_COUNTS: Mapping[str, Mapping[str, int]] = MappingProxyType({
    'validation': MappingProxyType({
        'neutral': 1062, 'happiness': 845, 'surprise': 381, 'sadness': 277, 'anger': 235,
        'disgust': 16, 'fear': 41,
    }),
    'training': MappingProxyType({
        'neutral': 7485, 'happiness': 7080, 'surprise': 2748, 'sadness': 2388, 'anger': 1648,
        'disgust': 52, 'fear': 346,
    }),
})
TOLERANCE = 0.005  # the accuracies are printed to two digits


def weighted_recall(recalls: Mapping[str, float], counts: Mapping[str, int]) -> float:
    """
    Return the accuracy that recalls amount to: their mean weighted by the class counts.

    Args:
        recalls: label -> recall in [0, 1].
        counts: label -> number of faces, for the same labels.

    Raises:
        ValueError: the labels differ, or there are no faces.

    """
    if set(recalls) != set(counts) or sum(counts.values()) < 1:
        raise ValueError(f'recalls of {sorted(recalls)} cannot be weighted by {dict(counts)}')
    return sum(recalls[label] * count for label, count in counts.items()) / sum(counts.values())


def adds_up(row: ImageRow, split: str = 'validation') -> bool:
    """Return whether a row's recalls amount to its own accuracy, within TOLERANCE."""
    amount = weighted_recall(row.recalls(), STAND_IN_COUNTS[split])
    return abs(amount - row.accuracy) <= TOLERANCE


def arithmetic() -> list[str]:
    """Return, line by line and to be read, why the exchanged rows are the right ones."""
    counts = STAND_IN_COUNTS['validation']
    named = ', '.join(f'{label} {count}' for label, count in counts.items())
    lines = [
        'Recalls weighted by class counts are the accuracy. The counts of the FER+ test split are '
        'not known here; those of its validation split stand in for them '
        f'(majority of all ten columns: {named}; {sum(counts.values())} faces).',
    ]
    for name, row in TABLE_1.items():
        printed, right = (weighted_recall(each.recalls(), counts)
                          for each in (row, TABLE_1_CORRECTED[name]))
        lines.append(
            f'{name}: as printed the recalls amount to {printed:.3f}, with '
            f'{" and ".join(EXCHANGED)} exchanged to {right:.3f}; the paper says '
            f'{row.accuracy:.2f}.'
        )
    return lines


def _grid(*rows: tuple[tuple[int, int], tuple[float, float, float]]) -> Grid:
    return MappingProxyType({
        size: MappingProxyType(dict(zip((30, 15, 5), figures, strict=True)))
        for size, figures in rows
    })


# "Classification accuracy on the RAVDESS test set", tables a and c; table b (mode) is missing in
# the source.
VIDEO: Mapping[str, Grid | None] = MappingProxyType({
    'mean': _grid(
        ((1280, 720), (0.26, 0.31, 0.30)), ((640, 360), (0.33, 0.30, 0.28)),
        ((256, 144), (0.33, 0.29, 0.31))),
    'mode': None,
    'lstm': _grid(
        ((1280, 720), (0.67, 0.81, 0.77)), ((640, 360), (0.77, 0.77, 0.75)),
        ((256, 144), (0.80, 0.81, 0.76))),
})
# Its abstract: "81% accuracy on high resolution video", "a minimum 67% accuracy".
ABSTRACT_BEST, ABSTRACT_LEAST = 0.81, 0.67
VIDEO_NOTES = (
    'The paper prints no table for the mode of the frames (its table b is missing in the source): '
    f'{NOT_IN_SOURCE}.',
    'Its 0.81 on "high resolution video" (1280x720 at 15 fps) occurs at 256x144 and 15 fps too, '
    'and its minimum of 0.67 is at its highest resolution and rate (1280x720 at 30 fps).',
    'Its tables say 640x360 where its text says 480x360; its split of RAVDESS is not stated.',
)


def beside(network: str, per_class: Mapping[str, Mapping[str, Any]], accuracy: float) -> str:
    """
    Return Table 1 for people: our row, then the paper's as printed and as corrected.

    Args:
        network: the name of our row.
        per_class: label -> recall and f1, as scores.Scores.to_json gives them.
        accuracy: ours, in [0, 1].

    """
    ours = ImageRow({label: (figures['recall'], figures['f1'])
                     for label, figures in per_class.items()}, accuracy)
    rows = {
        f'{network} (ours, validation)': ours,
        **{f'{name} (the paper, test)': row for name, row in TABLE_1.items()},
        **{f'{name} (neutral, sadness exchanged)': row for name, row in TABLE_1_CORRECTED.items()},
    }
    width = max(map(len, rows)) + 2
    head = ''.join(f'{label:>12}' for label in LABELS)
    lines = [f'{"recall / F1":<{width}}{head}{"accuracy":>10}']
    for name, row in rows.items():
        cells = ''.join(
            '{:>12}'.format('{:.2f} / {:.2f}'.format(*row.classes[label]))
            if label in row.classes else f'{NOT_IN_SOURCE:>12}' for label in LABELS
        )
        lines.append(f'{name:<{width}}{cells}{row.accuracy:>10.2f}')
    return '\n'.join(lines)
