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
"""The tables of the report: the paper's figures and those of the runs, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cloud_server.training import paper_rows
from cloud_server.training.report_check import CALM, SIMPLE
from cloud_server.training.report_read import ImageScores, Run, Shipped
from cloud_server.training.report_table import (
    NONE,
    Cell,
    Group,
    Row,
    Table,
    mark,
    mark_columns,
    number,
)

NOT_RUN = 'not run'
# What Table 1 has a place for, whether or not somebody had the GPU to train it.
FULL_TRAININGS = ('ResNet-50 on VGGFace2', 'ResNet-50 on ImageNet')
METHODS = {
    'frame': 'frame alone', 'mean_of_30': 'mean of 30', 'mode_of_30': 'mode of 30',
    'exponential': 'exponential', 'lstm': 'LSTM',
}
CLASSIFIERS = {'mean': 'Mean of the frame scores', 'mode': 'Mode of the frame classes',
               'lstm': 'LSTM'}


def table_1(rows: Sequence[ImageScores]) -> Table:
    """Return the paper's Table 1, printed and corrected, and every network of seven classes."""
    labels = paper_rows.LABELS
    groups = [
        Group('the paper as printed, FER+ test split', mark_columns(
            [_paper_row(name, row, labels) for name, row in paper_rows.TABLE_1.items()])),
        Group('the paper with neutral and sadness exchanged (see below), FER+ test split',
              mark_columns([_paper_row(name, row, labels)
                            for name, row in paper_rows.TABLE_1_CORRECTED.items()])),
    ]
    fitting = [row for row in rows if set(row.per_class) == set(labels)]
    groups += _by_data(fitting, labels)
    done = {row.name for row in fitting if not row.smoke}
    proven = any(row.smoke and row.name.startswith('ResNet') for row in fitting)
    missing = [
        Row(name, span=NOT_RUN + (' in full; the command ran at smoke size, see below'
                                  if proven else ''))
        for name in FULL_TRAININGS if name not in done
    ]
    smoke = [group for group in groups if group.smoke]
    groups = [group for group in groups if not group.smoke]
    if missing:
        groups.append(Group('ResNet-50, the paper’s network', tuple(missing)))
    return Table('table_1', 'Recall and F1 per class, and accuracy', 'network',
                 (*('recall', 'F1') * len(labels), 'accuracy'), (*groups, *smoke),
                 spans=(*((label, 2) for label in labels), ('overall', 1)))


def other_classes(rows: Sequence[ImageScores]) -> list[Table]:
    """Return a table like Table 1 for every other list of classes that was measured."""
    tables: list[Table] = []
    others = [row for row in rows if set(row.per_class) != set(paper_rows.LABELS)]
    for labels in dict.fromkeys(tuple(sorted(row.per_class)) for row in others):
        mine = [row for row in others if tuple(sorted(row.per_class)) == labels]
        order = tuple(mine[0].per_class)
        tables.append(Table(
            f'table_{len(order)}_classes' + (f'_{len(tables)}' if tables else ''),
            f'The same with {len(order)} classes', 'network',
            (*('recall', 'F1') * len(order), 'accuracy'), tuple(_by_data(mine, order)),
            spans=(*((label, 2) for label in order), ('overall', 1)),
        ))
    return tables


def _by_data(rows: Sequence[ImageScores], labels: Sequence[str]) -> list[Group]:
    """Group rows by what they were measured on: only those compare. Smoke runs come last."""
    kinds = sorted(dict.fromkeys((row.smoke, row.data) for row in rows), key=lambda kind: kind[0])
    found = [
        Group(data, tuple(
            Row(row.name, (*(cell for label in labels for cell in (
                number(row.per_class[label]['recall'], 2),
                number(row.per_class[label]['f1'], 2))), number(row.accuracy, 3)))
            for row in rows if (row.smoke, row.data) == (smoke, data)
        ), smoke)
        for smoke, data in kinds
    ]
    return [group if group.smoke else replace(group, rows=mark_columns(group.rows))
            for group in found]


def _paper_row(name: str, row: paper_rows.ImageRow, labels: Sequence[str]) -> Row:
    return Row(name, (*(number(value, 2) for label in labels for value in row.classes[label]),
                      number(row.accuracy, 2)))


def arithmetic() -> Table:
    """Return what the printed recalls add up to, before and after the exchange."""
    splits = paper_rows.STAND_IN_COUNTS
    rows = tuple(
        Row(name, (*(number(paper_rows.weighted_recall(row.recalls(), counts), 3)
                     for counts in splits.values()
                     for row in (printed, paper_rows.TABLE_1_CORRECTED[name])),
                   number(printed.accuracy, 2)))
        for name, printed in paper_rows.TABLE_1.items()
    )
    return Table(
        'table_1_arithmetic', 'What the printed recalls add up to', 'network',
        (*('as printed', 'exchanged') * len(splits), 'in the paper'), (Group('', rows),),
        spans=(*((f'{split} shares', 2) for split in splits), ('accuracy', 1)))


def sums() -> list[str]:
    """Return the arithmetic on the validation split, to be checked by hand."""
    counts = paper_rows.STAND_IN_COUNTS['validation']
    return [
        f'{name}, {how}: (' + ' + '.join(
            f'{counts[label]} × {row.classes[label][0]:.2f}' for label in paper_rows.LABELS)
        + f') / {sum(counts.values())} = '
          f'{paper_rows.weighted_recall(row.recalls(), counts):.3f}, printed {row.accuracy:.2f}'
        for name in paper_rows.TABLE_1
        for how, row in (('as printed', paper_rows.TABLE_1[name]),
                         ('exchanged', paper_rows.TABLE_1_CORRECTED[name]))
    ]


def summaries(rows: Sequence[ImageScores]) -> Table:
    """Return accuracy and macro-F1 of the seven-class rows that mean something, with intervals."""
    names = {'accuracy': 'accuracy', 'macro_f1': 'macro F1',
             'common_macro_f1': 'macro F1 without disgust and fear'}
    mine = [row for row in rows if set(row.per_class) == set(paper_rows.LABELS) and not row.smoke]
    groups = tuple(
        Group(data, mark_columns([
            Row(row.name, tuple(cell for name in names for cell in _with_interval(row, name)))
            for row in mine if row.data == data]))
        for data in dict.fromkeys(row.data for row in mine)
    )
    return Table('table_1_summary', 'Over all classes', 'network',
                 ('value', '95 % interval') * len(names), groups,
                 spans=tuple((text, 2) for text in names.values()),
                 note='Intervals: bootstrap over the faces; – where a run recorded none. Disgust '
                      'and fear have few faces, so macro F1 moves by chance.')


def _with_interval(row: ImageScores, name: str) -> tuple[Cell, Cell]:
    value, interval = row.summary.get(name, (None, ()))
    return (number(value, 3), Cell(f'{interval[0]:.3f} to {interval[1]:.3f}') if interval
            else Cell(NONE, ''))


def sizes(shipped: Shipped) -> list[Table]:
    """Return the shipped model on faces that are sent smaller, a table for each measurement."""
    columns = ('accuracy, 7 classes', 'calibration error', 'accuracy, all faces')
    keys = ('accuracy', 'ece_all_faces', 'accuracy_all_faces')
    return [
        Table('face_sizes' + (f'_{index + 1}' if index else ''),
              'The default network on smaller stills', 'side of the face, px', columns,
              (Group(what, tuple(Row(str(side), tuple(number(row.get(key), 3) for key in keys))
                                 for side, row in sorted(rows.items(), reverse=True))),),
              note='All faces: also those without a majority; right is then the emotion with '
                   'most votes.')
        for index, (what, rows) in enumerate(shipped.sizes.items())
    ]


@dataclass(frozen=True)
class VideoTables:
    """The grids of one classifier side by side: the paper's, then every run's."""

    classifier: str
    grids: tuple[Table, ...]


def video(runs: Sequence[Run]) -> list[VideoTables]:
    """Return the grids of resolution and frame rate for the three classifiers."""
    runs = sorted((run for run in runs if run.record.kind == 'video'),
                  key=lambda run: run.record.smoke)
    blocks = []
    for method, title in CLASSIFIERS.items():
        grids = [_paper_grid(method)]
        if all(run.record.smoke for run in runs):
            grids.append(_empty_grid(f'video_{method}_not_run', 'our own run', NOT_RUN))
        for run in runs:
            grids += _run_grids(method, run)
        blocks.append(VideoTables(title, tuple(grids)))
    return blocks


def _paper_grid(method: str) -> Table:
    grid = paper_rows.VIDEO.get(method)
    if grid is None:
        return _empty_grid(f'video_{method}_paper', 'the paper', paper_rows.NOT_IN_SOURCE)
    rates = tuple(next(iter(grid.values())))
    return _grid(f'video_{method}_paper', 'the paper', [*grid], rates,
                 [[grid[resolution][rate] for rate in rates] for resolution in grid])


def _empty_grid(slug: str, title: str, text: str) -> Table:
    known = next(grid for grid in paper_rows.VIDEO.values() if grid is not None)
    rates = tuple(next(iter(known.values())))
    return Table(slug, title, 'px', tuple(f'{rate:g} fps' for rate in rates), (Group('', tuple(
        Row(_resolution(size), (Cell(text),) * len(rates)) for size in known)),))


def _run_grids(method: str, run: Run) -> list[Table]:
    result, record = run.record.result, run.record
    tables, slug = result['tables'][method], f'video_{run.slug}_{method}'
    axes = result['resolutions'], result['rates_fps']
    if method not in SIMPLE:
        return [_grid(slug, record.network, *axes, tables, smoke=record.smoke)]
    return [
        _grid(f'{slug}_{way}', f'{record.network}, {said}', *axes, tables[way], smoke=record.smoke)
        if way in tables else _empty_grid(f'{slug}_{way}', f'{record.network}, {said}', NOT_RUN)
        for way, said in CALM.items()
    ]


def _grid(
    slug: str, title: str, sizes_px: Sequence[Sequence[int]], rates: Sequence[float],
    values: Sequence[Sequence[float | None]], *, smoke: bool = False,
) -> Table:
    known = {value for row in values for value in row if value is not None}
    top = max(known) if len(known) > 1 and not smoke else None
    rows = tuple(
        Row(_resolution(size), tuple(
            replace(number(value, 2, tint=value), best=value is not None and value == top)
            for value in row))
        for size, row in zip(sizes_px, values, strict=True)
    )
    return Table(slug, title, 'px', tuple(f'{rate:g} fps' for rate in rates),
                 (Group('', rows, smoke),))


def _resolution(size: Sequence[int]) -> str:
    return f'{size[0]}×{size[1]}'


def clips(run: Run) -> list[Table]:
    """Return streaming accuracy with the gain, and delay with false flips, of a `clips` run."""
    record, result = run.record, run.record.result
    methods = result['methods']
    heads = tuple(METHODS.get(method, method) for method in methods)
    marked = tuple if record.smoke else mark
    accuracy = _by_size(result['cells'], record.smoke, lambda cell: (
        *marked(number(cell['accuracy'][method], 3) for method in methods),
        *_gain(cell['gain'])))
    delays = _by_size(result['cells'], record.smoke, lambda cell: (
        *(_delay(cell['delay_s'][method]) for method in methods),
        *(number(cell['false_flips_per_min'][method], 1) for method in methods)))
    return [
        Table(f'clips_{run.slug}_accuracy', 'Streaming accuracy', 'frame rate',
              (*heads, 'points', '95 % interval', 'over'), accuracy,
              spans=(('share of the time that the held label is right', len(heads)),
                     ('LSTM against the best simple method', 3)),
              note=f'The exponential average has a time constant of '
                   f'{result["exponential_s"]:g} s.' if 'exponential_s' in result else ''),
        Table(f'clips_{run.slug}_delays', 'Delay and false flips', 'frame rate',
              heads * 2, delays,
              spans=(('median delay from the middle of a cross-fade, s', len(heads)),
                     ('false flips a minute', len(heads))),
              note='∞: in at least half of the cross-fades the new label never came.'),
    ]


def _by_size(
    cells: Sequence[Mapping[str, Any]], smoke: bool,
    draw: Callable[[Mapping[str, Any]], tuple[Cell, ...]],
) -> tuple[Group, ...]:
    sides = dict.fromkeys(cell['face_size_px'] for cell in cells)
    return tuple(
        Group(f'face of {side:g} px', tuple(
            Row(f'{cell["frame_rate_fps"]:g} fps', draw(cell))
            for cell in cells if cell['face_size_px'] == side), smoke)
        for side in sides
    )


def _gain(gain: Mapping[str, Any]) -> tuple[Cell, Cell, Cell]:
    mean, low, high = (100 * gain[key] for key in ('mean', 'low', 'high'))
    return (Cell(_signed(mean), round(mean, 2)), Cell(f'{_signed(low)} to {_signed(high)}'),
            Cell(METHODS.get(gain['over'], gain['over'])))


def _signed(points: float) -> str:
    return f'{round(points, 1) + 0.0:+.1f}'.replace('-', '−')


def _delay(delay_s: float | None) -> Cell:
    return Cell('∞', 'inf') if delay_s is None else number(delay_s, 2)


def search(run: Run) -> Table:
    """Return the trials of a search, the best one marked."""
    result = run.record.result
    names = list(dict.fromkeys(name for trial in result['trials'] for name in trial['params']))
    best = result['best'] or {'params': None}
    rows = tuple(
        Row(str(trial['number']), (
            *(_setting(trial['params'].get(name)) for name in names),
            replace(number(trial['value'], 4),
                    best=trial['value'] is not None and trial['params'] == best['params']),
            Cell(str(trial['state']).lower()), number(trial.get('seconds'), 1)))
        for trial in result['trials']
    )
    return Table(f'search_{run.slug}', 'Trials', 'trial',
                 (*names, result['criterion'], 'state', 'seconds'),
                 (Group('', rows, run.record.smoke),))


def space(run: Run) -> Table:
    """Return what a search may choose from, and what it found best."""
    result = run.record.result
    best = (result['best'] or {'params': {}})['params']
    rows = tuple(Row(name, (Cell(_words(spec)), _setting(best.get(name))))
                 for name, spec in result['space'].items())
    return Table(f'search_{run.slug}_space', 'Space and best values', 'setting',
                 ('may be', 'best'), (Group('', rows, run.record.smoke),))


def _words(spec: Any) -> str:
    if isinstance(spec, dict):
        return ', '.join(f'{key} {_words(value)}' for key, value in spec.items())
    return spec if isinstance(spec, str) else json.dumps(spec)


def _setting(value: Any) -> Cell:
    if isinstance(value, float):
        return Cell(f'{value:.4g}', value)
    return Cell(NONE if value is None else _words(value))


def overview(runs: Sequence[Run]) -> Table:
    """Return one row for each record that was read."""
    groups = [
        Group(title, tuple(
            Row(run.source, (Cell(run.record.kind), Cell(run.record.network),
                             Cell(run.record.data)))
            for run in runs if run.record.smoke == smoke), smoke)
        for title, smoke in (('', False), ('they prove that the commands work', True))
    ]
    return Table('runs', 'Records', 'file', ('kind', 'network', 'measured on'),
                 tuple(group for group in groups if group.rows))
