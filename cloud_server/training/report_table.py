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
"""What a table of the report is: marked cells in rows, rows in groups that may be compared."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

NONE = '–'


@dataclass(frozen=True)
class Cell:
    """Text for people, value for the CSV, and marks: tint is a share from 0 to 1."""

    text: str
    value: float | str | None = None
    best: bool = False
    tint: float | None = None


@dataclass(frozen=True)
class Row:
    """A row; where span is given, its one text stands in place of all cells."""

    name: str
    cells: tuple[Cell, ...] = ()
    span: str = ''


@dataclass(frozen=True)
class Group:
    """Rows that may be compared with each other, under a title."""

    title: str
    rows: tuple[Row, ...]
    smoke: bool = False


@dataclass(frozen=True)
class Table:
    """
    A table.

    Attributes:
        slug: names its CSV.
        title: what it shows.
        corner: what its rows are.
        columns: their heads.
        groups: the rows.
        spans: heads over several columns, as (text, number of columns), or none.
        note: what is to be known under it.

    """

    slug: str
    title: str
    corner: str
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    spans: tuple[tuple[str, int], ...] = ()
    note: str = ''

    @property
    def smoke(self) -> bool:
        """Whether all of it comes from smoke runs."""
        return bool(self.groups) and all(group.smoke for group in self.groups)

    def save(self, folder: Path) -> None:
        """Write SLUG.csv: the group, whether it is a smoke run, the row and its values."""
        tops = [f'{text} ' for text, width in self.spans for _ in range(width)]
        heads = [top + column for top, column in
                 zip(tops or [''] * len(self.columns), self.columns, strict=True)]
        with (folder / f'{self.slug}.csv').open('w', newline='', encoding='utf-8') as file:
            lines = csv.writer(file)
            lines.writerow(['group', 'smoke', self.corner, *(head.strip() for head in heads)])
            for group in self.groups:
                for row in group.rows:
                    cells = ([row.span] * len(heads) if row.span else
                             [cell.text if cell.value is None else cell.value
                              for cell in row.cells])
                    lines.writerow([group.title, 'yes' if group.smoke else 'no', row.name,
                                    *cells])


def number(value: float | None, digits: int, *, tint: float | None = None) -> Cell:
    """Return the cell of a number, a dash where there is none."""
    return Cell(NONE, '') if value is None else Cell(f'{value:.{digits}f}', value, tint=tint)


def mark_columns(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Mark the largest number of every column, where at least two rows have one."""
    columns = list(zip(*(row.cells for row in rows if not row.span), strict=True))
    marked = [mark(column) for column in columns]
    left = iter(zip(*marked, strict=True))
    return tuple(row if row.span else replace(row, cells=next(left)) for row in rows)


def mark(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """Mark the largest number, where there are at least two and not all are the same."""
    cells = tuple(cells)
    values = [cell.value for cell in cells if isinstance(cell.value, (int, float))]
    top = max(values) if len(values) > 1 and max(values) > min(values) else None
    return tuple(replace(cell, best=top is not None and cell.value == top) for cell in cells)
