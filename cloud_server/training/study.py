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
What a command of the study leaves behind: one `NAME.study.json` that `ferros-cloud report` reads.

A record is one run of one kind:

    image    the network on single faces    result: labels, confusion [K,K] (rows are the truth),
                                            accuracy, macro_f1, count, per_class
    video    classifiers of whole clips     result: labels, variants, tables, confusions
    clips    streaming accuracy             result: cells, one per face size and frame rate
    search   hyper-parameters               result: criterion, space, trials, best

The details of each result are checked where they are drawn, in report.py.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

FORMAT = 1
KINDS = ('image', 'video', 'clips', 'search')
SUFFIX = '.study.json'
SMOKE_BELOW = 1000  # faces to measure on: fewer only prove that the command works


class StudyError(ValueError):
    """A file that is no record of a run; says which file, what was expected and what was found."""


@dataclass(frozen=True)
class Record:
    """
    One run.

    Attributes:
        kind: one of KINDS.
        network: what was trained or measured, as a row's name (`ResNet-50 on VGGFace2`).
        command: what made it, to be typed again.
        data: what it was measured on, in words (`FER+ validation, 2857 faces`).
        smoke: whether it only proves that the command works; its figures then mean nothing.
        result: the figures, see the module.
        settings: everything that decided the run.
        history: one mapping per epoch, with `epoch` and whatever was measured.
        notes: what a reader must know beside the figures.

    """

    kind: str
    network: str
    command: str
    data: str
    smoke: bool
    result: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse a kind that no report can draw."""
        if self.kind not in KINDS:
            raise StudyError(f'kind must be one of {KINDS}, got {self.kind!r}')

    def save(self, path: Path) -> None:
        """Write the record; the name of the file must end in SUFFIX."""
        if not path.name.endswith(SUFFIX):
            raise StudyError(f'{path}: the name of a record ends in {SUFFIX}')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({'format': FORMAT, **asdict(self)}, indent=1) + '\n', 'utf-8')


def load(path: Path) -> Record:
    """Read a record. Raises StudyError where the file holds something else."""
    try:
        stored = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError) as err:
        raise StudyError(f'{path}: cannot be read ({err})') from err
    found = stored.get('format') if isinstance(stored, dict) else None
    if found != FORMAT:
        raise StudyError(f'{path}: expected a record of format {FORMAT}, found {found!r}')
    known = {each.name for each in fields(Record)}
    given = {key: value for key, value in stored.items() if key != 'format'}
    try:
        return Record(**given)
    except TypeError as err:
        raise StudyError(f'{path}: expected the fields {sorted(known)}, found '
                         f'{sorted(given)}') from err


def find(places: list[Path]) -> list[Path]:
    """
    Return the records among files and folders, sorted.

    Raises:
        StudyError: a place does not exist or has none.

    """
    found: list[Path] = []
    for place in places:
        here = [place] if place.is_file() else sorted(place.rglob(f'*{SUFFIX}'))
        if not here:
            raise StudyError(f'{place}: expected a file or folder with records (*{SUFFIX})')
        found += here
    return sorted(set(found))


def command_of(name: str, args: argparse.Namespace, *given: str) -> str:
    """Return the command to be typed again; of paths outside this folder the last name alone."""
    words = ['ferros-cloud', name]
    for option in ('config', 'data', 'out', *given):
        value = getattr(args, option, None)
        if isinstance(value, list):
            value = ' '.join(str(each.name if isinstance(each, Path) else each) for each in value)
        if isinstance(value, str) and '://' not in value and Path(value).is_absolute():
            value = Path(value)
        if isinstance(value, Path):
            value = value.name if value.is_absolute() or '..' in value.parts else value
        if value not in (None, ''):
            words.append(f'--{option} {value}')
    return ' '.join(words)
