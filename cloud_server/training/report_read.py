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
What the report is made from: the records of runs, and the shipped model's evaluation.json.

A file is refused with its path, what was expected and what was found, before anything is drawn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloud_server.training import study
from cloud_server.training.report_check import (
    check,
    check_history,
    check_matrix,
    check_per_class,
    check_summary,
    need,
    share,
)
from cloud_server.training.study import Record, StudyError

SPLITS = {'valid': 'validation', 'test': 'test split', 'train': 'training'}
FULL_SIDE_PX = 48
# Some records say it, some do not; all seven-class figures are of such faces.
MAJORITY = ' with a majority'


@dataclass(frozen=True)
class Run:
    """A record and where it was: slug names its files, source says where it was found."""

    slug: str
    source: str
    record: Record


@dataclass(frozen=True)
class ImageScores:
    """
    What Table 1 shows of one network.

    Attributes:
        name: of the network.
        data: what it was measured on.
        smoke: whether the figures mean nothing.
        slug: names the files of its confusion matrix.
        accuracy: over all faces.
        per_class: label to recall, F1 and number of faces.
        confusion: [K][K], rows are the truth in the order of per_class; empty where not recorded.
        summary: name of a figure over all classes to its value and 95 % interval, if it has one.

    """

    name: str
    data: str
    smoke: bool
    slug: str
    accuracy: float
    per_class: Mapping[str, Mapping[str, float]]
    confusion: Sequence[Sequence[int]] = ()
    summary: Mapping[str, tuple[float, Sequence[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Shipped:
    """
    The model that ships.

    Attributes:
        name: with its version.
        scores: seven classes first, then eight, for each split that was measured.
        sha256: of its graphs.
        sizes: what was measured to faces sent smaller: side in px to the figures at it.
        runs: the trainings that made it; of each the key, the command, settings and history.

    """

    name: str
    sha256: Mapping[str, str]
    scores: tuple[ImageScores, ...]
    sizes: Mapping[str, Mapping[int, Mapping[str, float]]]
    runs: tuple[tuple[str, Mapping[str, Any]], ...]


def read_runs(places: Sequence[Path]) -> list[Run]:
    """
    Read and check every record in files and folders.

    Raises:
        StudyError: a place without records, or a record that cannot be drawn.

    """
    runs: list[Run] = []
    for path in study.find(list(places)):
        record = _load(path)
        check(record, str(path))
        source = _source(path, places)
        name = '_'.join(Path(source.removesuffix(study.SUFFIX)).parts[-2:])
        slug = _free_name(re.sub(r'[^\w-]+', '_', name), {run.slug for run in runs})
        runs.append(Run(slug, source, record))
    return runs


def _load(path: Path) -> Record:
    try:
        return study.load(path)
    except StudyError as err:
        if str(path) in str(err):
            raise
        raise StudyError(f'{path}: {err}') from err


def _free_name(name: str, taken: set[str]) -> str:
    names = (name, *(f'{name}_{number}' for number in range(2, len(taken) + 2)))
    return next(each for each in names if each not in taken)


def _source(path: Path, places: Sequence[Path]) -> str:
    """Return the path as seen from the place that was named, which may be anywhere."""
    for place in places:
        if place.is_dir() and path.is_relative_to(place):
            return str(path.relative_to(place))
    return path.name


def read_shipped(folder: Path) -> Shipped:
    """
    Read model.json and evaluation.json of a model folder.

    Raises:
        StudyError: one of them cannot be read, or lacks what the tables show.

    """
    about, figures = _json(folder / 'model.json'), _json(folder / 'evaluation.json')
    where = str(folder / 'evaluation.json')
    need(about, ('name', 'version', 'sha256'), str(folder / 'model.json'))
    name = f'default network, {about["name"]} {about["version"]}'
    scores: list[ImageScores] = []
    sizes: dict[str, Mapping[int, Mapping[str, float]]] = {}
    for key in sorted(figures, key=lambda key: (not key.startswith('ferplus_'), key)):
        precision, ferplus, split = key.rpartition('ferplus_')
        if not ferplus:
            continue
        title = ', '.join([name, *([precision.rstrip('_')] if precision else [])])
        data = f'FER+ {SPLITS.get(split, split)}'
        found = figures[key]
        seven = _shipped_scores(found, title, data, f'shipped_{key}', f'{where}: {key}')
        scores.append(seven)
        if 'eight_class' in found:
            scores.append(_shipped_scores(found['eight_class'], title, data, '',
                                          f'{where}: {key}: eight_class'))
        if small := found.get('by_face_size_px'):
            sizes[f'{title}, {data}'] = _sizes(seven, found, small, f'{where}: {key}')
    if not scores:
        raise StudyError(f'{where}: expected figures under a key ferplus_SPLIT, found '
                         f'{sorted(figures)}; write them with `ferros-cloud evaluate ferplus '
                         f'--record {where}`')
    runs = tuple((key, value) for key, value in figures.items()
                 if isinstance(value, dict) and isinstance(value.get('history'), list))
    for key, value in runs:
        check_history(value['history'], f'{where}: {key}')
    return Shipped(name, about['sha256'], tuple(scores), sizes, runs)


def _sizes(
    full: ImageScores, found: Mapping[str, Any], small: Mapping[str, Any], where: str
) -> dict[int, Mapping[str, float]]:
    for side, row in small.items():
        need(row, ('accuracy',), f'{where}: by_face_size_px: {side}')
    whole = {'accuracy': full.accuracy, **found.get('confidence', {})}
    return {FULL_SIDE_PX: whole} | {int(side): row for side, row in small.items()}


def _shipped_scores(found: Any, name: str, data: str, slug: str, where: str) -> ImageScores:
    need(found, ('accuracy', 'count', 'per_class'), where)
    need(found['per_class'], (), f'{where}: per_class')
    check_per_class(found['per_class'], list(found['per_class']), where)
    check_summary(found, where)
    confusion = found.get('confusion', [])
    if confusion:
        check_matrix(confusion, len(found['per_class']), where)
    return ImageScores(name, f'{data}, {found["count"]} faces', False, slug,
                       share(found['accuracy'], f'{where}: accuracy'), found['per_class'],
                       confusion, _summary(found))


def _summary(found: Mapping[str, Any]) -> dict[str, tuple[float, Sequence[float]]]:
    """Return the figures over all classes: of five classes under one name, as files differ."""
    values = {
        'accuracy': found['accuracy'], 'macro_f1': found.get('macro_f1'),
        'common_macro_f1': found.get('common_macro_f1', found.get('five_class_macro_f1')),
    }
    intervals = found.get('intervals', {})
    return {name: (value, intervals.get(name, ())) for name, value in values.items()
            if value is not None}


def scores_of(run: Run) -> ImageScores:
    """Return what Table 1 shows of a run of kind `image`."""
    record, result = run.record, run.record.result
    return ImageScores(record.network, record.data.removesuffix(MAJORITY), record.smoke, run.slug,
                       result['accuracy'],
                       {label: result['per_class'][label] for label in result['labels']},
                       result['confusion'], _summary(result))


def is_shipped(run: Run, shipped: Shipped) -> bool:
    """Return whether a run measured the shipped graphs again, which have their row already."""
    settings = run.record.settings
    return (not run.record.smoke and settings.get('sha256') == shipped.sha256
            and any(run.record.data.removesuffix(MAJORITY) == row.data
                    and settings.get('precision') in ('fp32', None) for row in shipped.scores))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError) as err:
        raise StudyError(f'{path}: cannot be read ({err})') from err
    if not isinstance(found, dict):
        raise StudyError(f'{path}: expected an object, found {type(found).__name__}')
    return found
