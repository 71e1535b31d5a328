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

"""The paper's video tables and Figure 3, from the guesses of every fold, beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_server.training import clip_classifiers as classifiers
from cloud_server.training import paper_rows
from cloud_server.training.ravdess import EMOTIONS, Fold
from cloud_server.training.variants import VariantConfig

# How the seven classes of an image network are held against the eight of RAVDESS.
CALM_WRONG, CALM_AS_NEUTRAL, EIGHT = 'calm_wrong', 'calm_as_neutral', 'eight_class_head'
TITLES = {
    CALM_WRONG: 'calm always wrong', CALM_AS_NEUTRAL: 'calm counted as neutral',
    EIGHT: 'eight-class frame head',
}

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FoldResult:
    """
    What came out of one fold.

    Attributes:
        fold: whom it learnt from and whom it measured.
        rows: which clips were measured, [n].
        truth: their emotions, [n].
        guesses: classifier -> [n,V]: mean and mode of the network and of the head, and lstm.
        history: part -> one mapping per epoch.

    """

    fold: Fold
    rows: Counts
    truth: Counts
    guesses: Mapping[str, Counts]
    history: Mapping[str, list[dict[str, Any]]]


def tabulate(results: Sequence[FoldResult], config: VariantConfig) -> dict[str, Any]:
    """
    Return the tables, the best cells' confusion matrices, and what each fold gave.

    A cell is the mean over the folds of the accuracy in each. The matrices count all folds; those
    of mean and mode are the image network's own, with a row for calm and nothing in its column.
    """
    shape = len(config.resolutions), len(config.rates_fps)
    per_fold = [_accuracies(result) for result in results]
    mean = {key: np.mean([each[key] for each in per_fold], 0) for key in per_fold[0]}
    spread = {key: np.std([each[key] for each in per_fold], 0) for key in per_fold[0]}
    tables, deviations = ({key: np.round(value, 4).reshape(shape).tolist()
                           for key, value in each.items()} for each in (mean, spread))
    return {
        'labels': list(EMOTIONS),
        'resolutions': [list(size) for size in config.sizes_px],
        'rates_fps': list(config.rates_fps),
        'tables': _nested(tables),
        'deviations_over_folds': _nested(deviations),
        'confusions': {
            name: _confusion(results, name, tables[key], config)
            for name, key in (('mean', f'mean {CALM_WRONG}'), ('mode', f'mode {CALM_WRONG}'),
                              ('lstm', 'lstm'))
        },
        'confusions_of_the_head': {
            name: _confusion(results, f'head_{name}', tables[f'{name} {EIGHT}'], config)
            for name in ('mean', 'mode')
        },
        'folds': [
            {**asdict(result.fold), 'test_clips': len(result.rows),
             'tables': _nested({key: np.round(value, 4).reshape(shape).tolist()
                                for key, value in accuracies.items()}),
             'history': dict(result.history)}
            for result, accuracies in zip(results, per_fold, strict=True)
        ],
    }


def _accuracies(result: FoldResult) -> dict[str, Shares]:
    """Return table -> accuracy per cell [V] of one fold."""
    truth, found = result.truth[:, None], {}
    for name in ('mean', 'mode'):
        plain, head = result.guesses[name], result.guesses[f'head_{name}']
        found[f'{name} {CALM_WRONG}'] = classifiers.right(truth, plain).mean(0)
        found[f'{name} {CALM_AS_NEUTRAL}'] = classifiers.right(
            truth, plain, calm_as_neutral=True).mean(0)
        found[f'{name} {EIGHT}'] = classifiers.right(truth, head).mean(0)
    return {**found, 'lstm': classifiers.right(truth, result.guesses['lstm']).mean(0)}


def _nested(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `mean calm_wrong` into a table calm_wrong under mean."""
    return {
        **{name: {way: tables[f'{name} {way}'] for way in TITLES} for name in ('mean', 'mode')},
        'lstm': tables['lstm'],
    }


def _confusion(
    results: Sequence[FoldResult], name: str, table: Sequence[Sequence[float]],
    config: VariantConfig,
) -> dict[str, Any]:
    """Return the counts of all folds in the best cell, the first of equal ones."""
    cell = int(np.argmax(np.ravel(table)))
    (width, height), rate_fps = config.cells[cell]
    matrix = np.zeros((len(EMOTIONS), len(EMOTIONS)), np.int64)
    for result in results:
        np.add.at(matrix, (result.truth, result.guesses[name][:, cell]), 1)
    return {'resolution': [width, height], 'rate_fps': rate_fps, 'matrix': matrix.tolist()}


def learning_curves(results: Sequence[FoldResult]) -> list[dict[str, Any]]:
    """Return, per epoch, the mean over folds and models of what the trainings measured."""
    epochs: dict[int, dict[str, list[float]]] = {}
    for result in results:
        for part, entries in result.history.items():
            for entry in entries:
                kept = epochs.setdefault(entry['epoch'], {})
                for key, value in entry.items():
                    if key not in ('epoch', 'seconds'):
                        kept.setdefault(f'{part.split("_")[0]}_{key}', []).append(value)
    return [
        {'epoch': epoch, **{key: round(float(np.mean(values)), 4)
                            for key, values in epochs[epoch].items()}}
        for epoch in sorted(epochs)
    ]


def text_tables(result: Mapping[str, Any]) -> str:
    """Return the tables for people, each beside the paper's."""
    parts = []
    for name, letter in (('mean', 'a'), ('mode', 'b'), ('lstm', 'c')):
        tables = result['tables'][name]
        ways = {'': tables} if name == 'lstm' else {
            f', {title}': tables[way] for way, title in TITLES.items()}
        for title, table in ways.items():
            parts.append(_text_table(f'({letter}) {name}{title}', table, result,
                                     paper_rows.VIDEO[name]))
    return '\n\n'.join(parts)


def _text_table(
    title: str, table: Sequence[Sequence[float]], result: Mapping[str, Any],
    paper: paper_rows.Grid | None,
) -> str:
    rates = ''.join(f'{f"{rate} fps":>9}' for rate in result['rates_fps'])
    lines = [title, f'{"px":<12}{rates}   |{rates}  (the paper)']
    for (width, height), row in zip(result['resolutions'], table, strict=True):
        theirs = _paper_row(paper, height)
        cells = ''.join(f'{value:>9.2f}' for value in row)
        printed = ''.join(f'{theirs.get(rate, paper_rows.NOT_IN_SOURCE):>9}'
                          for rate in result['rates_fps'])
        lines.append(f'{f"{width}x{height}":<12}{cells}   |{printed}')
    return '\n'.join(lines)


def _paper_row(paper: paper_rows.Grid | None, height: int) -> dict[int, str]:
    """Return rate -> accuracy of the paper's row of a height, whatever width it gives."""
    return {rate: f'{value:.2f}' for size, row in (paper or {}).items() if size[1] == height
            for rate, value in row.items()}
