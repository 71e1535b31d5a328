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
What a record must have so that the report can draw it.

Every function raises StudyError, which says where, what was expected and what was found; `where`
begins with the path of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cloud_server.training.study import Record, StudyError

# The simple classifiers of whole clips, and the three ways to count the clips that are calm.
SIMPLE = ('mean', 'mode')
CALM = {
    'calm_wrong': 'calm always wrong',
    'calm_as_neutral': 'calm counted as neutral',
    'eight_class_head': 'eight-class frame head',
}
# By how much a rounded accuracy may differ from its confusion matrix.
TOLERANCE = 2e-3


def check(record: Record, where: str) -> None:
    """Refuse a record of which something that is drawn is missing or cannot be."""
    for name in ('network', 'command', 'data'):
        if not isinstance(value := getattr(record, name), str) or not value.strip():
            raise StudyError(f'{where}: {name}: expected a text, found {value!r}')
    if not isinstance(record.smoke, bool):
        raise StudyError(f'{where}: smoke: expected true or false, found {record.smoke!r}')
    need(record.settings, (), f'{where}: settings')
    if not isinstance(record.notes, list) or not all(isinstance(n, str) for n in record.notes):
        raise StudyError(f'{where}: notes: expected a list of texts, found {record.notes!r}')
    check_history(record.history, where)
    {'image': _check_image, 'video': _check_video, 'clips': _check_clips,
     'search': _check_search}[record.kind](record.result, f'{where}: result')


def _check_image(result: Any, where: str) -> None:
    need(result, ('labels', 'confusion', 'accuracy', 'per_class'), where)
    labels = _labels(result['labels'], where)
    check_matrix(result['confusion'], len(labels), f'{where}: confusion')
    check_per_class(result['per_class'], labels, where)
    accuracy = share(result['accuracy'], f'{where}: accuracy')
    check_summary(result, where)
    total = sum(map(sum, result['confusion']))
    right = sum(row[index] for index, row in enumerate(result['confusion']))
    if total and abs(right / total - accuracy) > TOLERANCE:
        raise StudyError(f'{where}: accuracy is {accuracy}, the confusion matrix gives '
                         f'{right}/{total} = {right / total:.4f}')


def _check_video(result: Any, where: str) -> None:
    need(result, ('labels', 'resolutions', 'rates_fps', 'tables'), where)
    labels = _labels(result['labels'], where)
    need(result['tables'], (*SIMPLE, 'lstm'), f'{where}: tables')
    shape = tuple(len(_list(result[key], f'{where}: {key}'))
                  for key in ('resolutions', 'rates_fps'))
    for index, size in enumerate(result['resolutions']):
        _size(size, f'{where}: resolutions[{index}]')
    for index, rate in enumerate(result['rates_fps']):
        _number(rate, f'{where}: rates_fps[{index}]')
    for method in SIMPLE:
        ways = result['tables'][method]
        need(ways, ('calm_wrong',), f'{where}: tables: {method}')
        if strangers := sorted(set(ways) - set(CALM)):
            raise StudyError(f'{where}: tables: {method}: expected {sorted(CALM)}, found '
                             f'{strangers}')
        for way, table in ways.items():
            _check_table(table, shape, f'{where}: tables: {method}: {way}')
    _check_table(result['tables']['lstm'], shape, f'{where}: tables: lstm')
    for key in ('confusions', 'confusions_of_the_head'):
        need(result.get(key, {}), (), f'{where}: {key}')
        for method, found in result.get(key, {}).items():
            inside = f'{where}: {key}: {method}'
            need(found, ('resolution', 'rate_fps', 'matrix'), inside)
            _size(found['resolution'], f'{inside}: resolution')
            _number(found['rate_fps'], f'{inside}: rate_fps')
            check_matrix(found['matrix'], len(labels), inside)


def _size(found: Any, where: str) -> None:
    if not isinstance(found, list) or len(found) != 2 or not all(
            isinstance(side, int) and side > 0 for side in found):
        raise StudyError(f'{where}: expected [width, height] in px, found {found!r}')


def _check_clips(result: Any, where: str) -> None:
    need(result, ('clips', 'seconds_each', 'methods', 'cells'), where)
    methods = _labels(result['methods'], where, 'methods')
    for key in ('clips', 'seconds_each', 'exponential_s'):
        if key in result:
            _number(result[key], f'{where}: {key}')
    for index, cell in enumerate(_list(result['cells'], f'{where}: cells')):
        inside = f'{where}: cells[{index}]'
        need(cell, ('face_size_px', 'frame_rate_fps', 'accuracy', 'gain', 'delay_s',
                     'false_flips_per_min'), inside)
        for key in ('face_size_px', 'frame_rate_fps'):
            _number(cell[key], f'{inside}: {key}')
        for key in ('accuracy', 'delay_s', 'false_flips_per_min'):
            need(cell[key], methods, f'{inside}: {key}')
        for method in methods:
            share(cell['accuracy'][method], f'{inside}: accuracy: {method}')
            for key in ('delay_s', 'false_flips_per_min'):
                if key != 'delay_s' or cell[key][method] is not None:  # None: infinite
                    _number(cell[key][method], f'{inside}: {key}: {method}')
        gain = cell['gain']
        need(gain, ('over', 'mean', 'low', 'high'), f'{inside}: gain')
        for key in ('mean', 'low', 'high'):
            _number(gain[key], f'{inside}: gain: {key}')
        if gain['over'] not in methods:
            raise StudyError(f'{inside}: gain: over: expected one of {methods}, found '
                             f'{gain["over"]!r}')
        if not gain['low'] <= gain['mean'] <= gain['high']:
            raise StudyError(f'{inside}: gain: expected low <= mean <= high, found {gain}')


def _check_search(result: Any, where: str) -> None:
    need(result, ('criterion', 'direction', 'space', 'trials', 'best'), where)
    if result['direction'] not in ('maximize', 'minimize'):
        raise StudyError(f'{where}: direction: expected maximize or minimize, found '
                         f'{result["direction"]!r}')
    if not isinstance(result['criterion'], str):
        raise StudyError(f'{where}: criterion: expected a name, found {result["criterion"]!r}')
    need(result['space'], (), f'{where}: space')
    for index, trial in enumerate(_list(result['trials'], f'{where}: trials')):
        inside = f'{where}: trials[{index}]'
        need(trial, ('number', 'params', 'value', 'state'), inside)
        need(trial['params'], (), f'{inside}: params')
        _number(trial['number'], f'{inside}: number')
        for key in ('value', 'seconds'):
            if trial.get(key) is not None:
                _number(trial[key], f'{inside}: {key}')
    if result['best'] is not None:
        need(result['best'], ('params', 'value'), f'{where}: best')
        need(result['best']['params'], (), f'{where}: best: params')
        _number(result['best']['value'], f'{where}: best: value')


def check_history(history: Any, where: str) -> None:
    """Refuse what is no list of epochs."""
    if not isinstance(history, list) or not all(isinstance(each, dict) for each in history):
        raise StudyError(f'{where}: history: expected a list of mappings, one per epoch, found '
                         f'{str(history)[:80]}')


def check_per_class(found: Any, labels: Sequence[str], where: str) -> None:
    """Refuse classes without recall, F1 and number of faces."""
    need(found, labels, f'{where}: per_class')
    for label in labels:
        inside = f'{where}: per_class: {label}'
        need(found[label], ('recall', 'f1', 'count'), inside)
        for key in ('recall', 'f1'):
            share(found[label][key], f'{inside}: {key}')


def check_summary(found: Mapping[str, Any], where: str) -> None:
    """Refuse figures over all classes, and intervals of them, that cannot be; none is needed."""
    for key in ('macro_f1', 'common_macro_f1', 'five_class_macro_f1'):
        if key in found:
            share(found[key], f'{where}: {key}')
    need(found.get('intervals', {}), (), f'{where}: intervals')
    for name, ends in found.get('intervals', {}).items():
        inside = f'{where}: intervals: {name}'
        if len(_list(ends, inside)) != 2:
            raise StudyError(f'{inside}: expected [low, high], found {ends!r}')
        for end in ends:
            share(end, inside)


def check_matrix(matrix: Any, size: int, where: str) -> None:
    """Refuse what is no square matrix of counts."""
    whole = isinstance(matrix, list) and len(matrix) == size and all(
        isinstance(row, list) and len(row) == size
        and all(isinstance(count, int) and count >= 0 for count in row) for row in matrix)
    if not whole:
        raise StudyError(f'{where}: expected {size} rows of {size} counts, found '
                         f'{str(matrix)[:80]}')


def _check_table(table: Any, shape: tuple[int, ...], where: str) -> None:
    rows, columns = shape
    if not isinstance(table, list) or len(table) != rows or not all(
            isinstance(row, list) and len(row) == columns for row in table):
        raise StudyError(f'{where}: expected {rows} rows (resolutions) of {columns} columns '
                         f'(frame rates), found {str(table)[:80]}')
    for value in (value for row in table for value in row if value is not None):
        share(value, where)


def _labels(found: Any, where: str, name: str = 'labels') -> list[str]:
    if not isinstance(found, list) or len(found) < 2 or not all(
            isinstance(label, str) for label in found) or len(set(found)) < len(found):
        raise StudyError(f'{where}: {name}: expected at least two different names, found '
                         f'{found!r}')
    return found


def _list(found: Any, where: str) -> list[Any]:
    if not isinstance(found, list) or not found:
        raise StudyError(f'{where}: expected a list that is not empty, found {found!r}')
    return found


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise StudyError(f'{where}: expected a number, found {value!r}')
    return float(value)


def share(value: Any, where: str) -> float:
    """Return a number from 0 to 1."""
    if not 0 <= _number(value, where) <= 1:
        raise StudyError(f'{where}: expected a share from 0 to 1, found {value!r}')
    return float(value)


def need(found: Any, keys: Iterable[str], where: str) -> None:
    """Refuse what is no mapping, or one that lacks a key."""
    if not isinstance(found, dict):
        raise StudyError(f'{where}: expected a mapping, found {type(found).__name__}')
    if missing := [key for key in keys if key not in found]:
        raise StudyError(f'{where}: expected {missing}, found only {sorted(found)}')
