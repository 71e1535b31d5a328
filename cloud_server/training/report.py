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
"""`ferros-cloud report`: one page of all that was run, beside what the paper printed."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from cloud_server.training import paper_rows, study
from cloud_server.training import report_figures as figures
from cloud_server.training import report_tables as tables
from cloud_server.training.report_figures import Picture
from cloud_server.training.report_read import (
    ImageScores,
    Run,
    Shipped,
    is_shipped,
    read_runs,
    read_shipped,
    scores_of,
)
from cloud_server.training.report_table import Table
from cloud_server.training.report_tables import CLASSIFIERS
from cloud_server.training.study import StudyError

DEFAULT_MODEL = Path(__file__).resolve().parent.parent / 'weights' / 'default'
PAGE = 'study.html'
TABLES_FOLDER, FIGURES_FOLDER = 'study_tables', 'study_figures'


@dataclass(frozen=True)
class Configuration:
    """How one run was made."""

    title: str
    command: str
    settings: str
    smoke: bool


class Report:
    """Everything the page shows, drawn and written into a folder as it is asked for."""

    def __init__(self, runs: Sequence[Run], shipped: Shipped, out: Path) -> None:
        self.runs, self.shipped = runs, shipped
        self.tables, self.figures = out / TABLES_FOLDER, out / FIGURES_FOLDER
        for folder in (self.tables, self.figures):
            folder.mkdir(parents=True, exist_ok=True)
        self.kinds = {kind: [run for run in runs if run.record.kind == kind]
                      for kind in study.KINDS}
        self.scores = [*shipped.scores, *(scores_of(run) for run in self.kinds['image']
                                          if not is_shipped(run, shipped))]

    def page(self) -> str:
        """Return the page, and leave its tables and figures as files."""
        smoke_count = sum(run.record.smoke for run in self.runs)
        template = resources.files('cloud_server.training').joinpath('report.html.j2')
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
        return environment.from_string(template.read_text('utf-8')).render(
            runs=self.runs, shipped=self.shipped, kinds=self.kinds, smoke_count=smoke_count,
            all_smoke=smoke_count == len(self.runs), **self._images(), **self._video(),
            clips=[self._clips(run) for run in self.kinds['clips']],
            sizes=self._kept(tables.sizes(self.shipped)), curves=list(self._curves()),
            searches=[self._search(run) for run in self.kinds['search']],
            overview=self._keep(tables.overview(self.runs)),
            configurations=list(self._configurations()),
        )

    def _images(self) -> dict[str, Any]:
        return {
            'table_1': self._keep(tables.table_1(self.scores)),
            'summary': self._keep(tables.summaries(self.scores)),
            'arithmetic': self._keep(tables.arithmetic()), 'sums': tables.sums(),
            'other_tables': self._kept(tables.other_classes(self.scores)),
            'confusions': [self._confusion(each) for each in self.scores if each.confusion],
            'disgust_paper': paper_rows.DISGUST_TAKEN_FOR_ANGER,
            'disgust': [text for each in self.scores if (text := _disgust(each))],
        }

    def _confusion(self, scores: ImageScores) -> Picture:
        return self._matrix(f'confusion_{scores.slug}', f'{scores.name}, {scores.data}',
                            list(scores.per_class), scores.confusion, 'faces', scores.smoke)

    def _matrix(
        self, slug: str, title: str, labels: Sequence[str], matrix: Sequence[Sequence[int]],
        what: str, smoke: bool,
    ) -> Picture:
        self._lines(slug, ('truth', *labels), (
            (label, *row) for label, row in zip(labels, matrix, strict=True)))
        return figures.save(figures.confusion(labels, matrix, what), self.figures, slug, title,
                            smoke=smoke)

    def _video(self) -> dict[str, Any]:
        blocks = tables.video(self.runs)
        for block in blocks:
            self._kept(block.grids)
        return {
            'video': blocks, 'video_notes': paper_rows.VIDEO_NOTES,
            'video_real': any(not run.record.smoke for run in self.kinds['video']),
            'video_confusions': [
                self._video_matrix(run, method, found, head)
                for run in self.kinds['video'] for head in (False, True)
                for method, found in run.record.result.get(
                    'confusions_of_the_head' if head else 'confusions', {}).items()],
        }

    def _video_matrix(
        self, run: Run, method: str, found: dict[str, Any], head: bool
    ) -> Picture:
        (width, height), way = found['resolution'], ' of the eight-class head' * head
        return self._matrix(
            f'video_{run.slug}_{method}{"_head" * head}_confusion',
            f'{CLASSIFIERS.get(method, method)}{way}, {run.record.network}, {width}×{height} at '
            f'{found["rate_fps"]:g} fps', run.record.result['labels'], found['matrix'], 'clips',
            run.record.smoke)

    def _clips(self, run: Run) -> dict[str, Any]:
        record = run.record
        picture = figures.save(
            figures.streaming(record.result), self.figures, f'clips_{run.slug}',
            'Streaming accuracy on simulated clips made of stills, by face size and frame rate',
            smoke=record.smoke)
        return {'run': run, 'picture': picture, 'tables': self._kept(tables.clips(run))}

    def _search(self, run: Run) -> dict[str, Any]:
        drawn = figures.searching(run.record.result)
        picture = None if drawn is None else figures.save(
            drawn, self.figures, f'search_{run.slug}', f'Search for {run.record.network}',
            smoke=run.record.smoke)
        return {'run': run, 'picture': picture, 'trials': self._keep(tables.search(run)),
                'space': self._keep(tables.space(run))}

    def _curves(self) -> Iterable[Picture]:
        histories = [(self._shipped_title(key), f'shipped_{key}', found['history'], False)
                     for key, found in self.shipped.runs]
        histories += [(f'{run.record.network} ({run.record.kind})', run.slug, run.record.history,
                       run.record.smoke) for run in self.runs]
        for title, slug, history, smoke in histories:
            if drawn := figures.learning(history):
                keys = list(dict.fromkeys(key for entry in history for key in entry))
                self._lines(f'learning_{slug}', keys,
                            ([entry.get(key, '') for key in keys] for entry in history))
                yield figures.save(drawn, self.figures, f'learning_{slug}', title, smoke=smoke)

    def _configurations(self) -> Iterable[Configuration]:
        for key, found in self.shipped.runs:
            yield Configuration(self._shipped_title(key), str(found.get('command', '')),
                                _yaml(found.get('settings', {})), False)
        for run in self.runs:
            record = run.record
            yield Configuration(f'{record.network}: {record.kind} ({run.source})', record.command,
                                _yaml(record.settings), record.smoke)

    def _shipped_title(self, key: str) -> str:
        return f'{self.shipped.name}: {key.replace("_", " ")}'

    def _kept(self, made: Sequence[Table]) -> list[Table]:
        return [self._keep(each) for each in made]

    def _keep(self, table: Table) -> Table:
        table.save(self.tables)
        return table

    def _lines(self, slug: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        with (self.tables / f'{slug}.csv').open('w', newline='', encoding='utf-8') as file:
            csv.writer(file).writerows([head, *rows])


def _disgust(scores: ImageScores) -> str:
    """Say how many disgusted faces were called angry, which the paper says of its own."""
    labels = list(scores.per_class)
    if scores.smoke or not scores.confusion or not {'disgust', 'anger'} <= set(labels):
        return ''
    row = scores.confusion[labels.index('disgust')]
    if not sum(row):
        return ''
    angry = row[labels.index('anger')]
    return f'{angry} of {sum(row)} by the {scores.name}'


def _yaml(settings: Any) -> str:
    return yaml.safe_dump(settings, sort_keys=False, default_flow_style=None,
                          allow_unicode=True, width=96) if settings else ''


def write(runs: Sequence[Run], shipped: Shipped, out: Path) -> Path:
    """Write the page and, beside it, its tables as CSV and its figures as PNG; return the page."""
    out.mkdir(parents=True, exist_ok=True)
    page = out / PAGE
    page.write_text(Report(runs, shipped, out).page(), 'utf-8')
    return page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `report`."""
    parser.add_argument('--runs', type=Path, nargs='+', required=True, metavar='PLACE',
                        help=f'records (*{study.SUFFIX}), or folders with records in them')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER',
                        help=f'where to write {PAGE}, {TABLES_FOLDER}/ and {FIGURES_FOLDER}/')
    parser.add_argument('--model', type=Path, default=DEFAULT_MODEL, metavar='FOLDER',
                        help='model folder with evaluation.json; default: the shipped one')


def run(args: argparse.Namespace) -> int:
    """Run `report`."""
    try:
        page = write(read_runs(args.runs), read_shipped(args.model), args.out)
    except (StudyError, OSError) as err:
        print(f'ferros-cloud report: {err}', file=sys.stderr)
        return 1
    print(f'wrote {page}')
    return 0
