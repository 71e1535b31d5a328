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
"""Writes what the robot bench found: robot.json, the tables of docs/robot.md, the picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.robot import bounds, figures
from bench.robot.bounds import Bound
from demo.processes import ROOT

# What lies between these two lines of the document is written anew, and nothing else.
BEGIN = '<!-- From here on: written by make bench-robot. -->'
END = '<!-- Up to here: written by make bench-robot. -->'
HEAD = f'# What the robot half costs\n\n{BEGIN}\n{END}\n'
NOT_RUN = 'not run'


class ReportError(ValueError):
    """The document has no place for what was measured."""


@dataclass(frozen=True)
class Places:
    """Where the results go."""

    json: Path
    document: Path
    picture: Path


FULL = Places(
    ROOT / 'bench' / 'results' / 'robot.json',
    ROOT / 'docs' / 'robot.md',
    ROOT / 'docs' / 'robot.png',
)
_OUT = ROOT / 'out' / 'bench'
QUICK = Places(_OUT / 'robot.json', _OUT / 'robot.md', _OUT / 'robot.png')


def headline(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures that others look up, from all that was measured."""
    fallback = measured.get('fallback', {})
    identities = measured.get('identities', {})
    run = [row['id_switches'] for row in identities.values() if row]
    return {
        'frame_ms': {
            name: bounds.worse(measured.get('frame', {}).get(name)) or None
            for name in ('haar', 'yunet')
        },
        'executor_block_ms_p99': measured.get('executor', {}).get('p99_ms'),
        'id_switches': sum(run) if run else None,
        'fallback_ms': fallback.get('fallback_ms'),
        'handback_ms': fallback.get('handback_ms'),
    }


def write(measured: Mapping[str, Any], checked: Sequence[Bound], places: Places) -> None:
    """
    Write the results, the picture, and the tables into the document.

    Raises:
        ReportError: the document has not the two lines between which the tables go.

    """
    document = places.document.read_text(encoding='utf-8') if places.document.exists() else HEAD
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ReportError(f'{places.document} lacks the lines {BEGIN!r} and {END!r}')
    places.json.parent.mkdir(parents=True, exist_ok=True)
    content = {**headline(measured), 'measured': measured}
    places.json.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')
    figures.draw(places.picture, measured)
    tables = '\n'.join(_tables(measured, checked, places.picture.name))
    places.document.write_text(f'{before}{BEGIN}\n\n{tables}\n{END}{after}', encoding='utf-8')


def _tables(measured: Mapping[str, Any], checked: Sequence[Bound], picture: str) -> list[str]:
    about = measured['about']
    return [
        f'Measured on {about["date"]}: {about["processor"]}, {about["cores"]} cores, Python '
        f'{about["python"]}, OpenCV {about["opencv"]}, rclpy {about["rclpy"]}.',
        '',
        f'![What an image costs, and who answers when]({picture})',
        '',
        *_held_to(checked),
        *_frame(measured.get('frame', {})),
        *_identities(measured.get('identities', {})),
        *_executor(measured.get('executor', {})),
        *_fallback(measured.get('fallback', {})),
    ]


def _held_to(checked: Sequence[Bound]) -> list[str]:
    words = {True: 'met', False: '**missed**', None: NOT_RUN}
    return [
        '| held to | at most | measured | |',
        '|---|---|---|---|',
        *(
            f'| {bound.name} | {bound.limit:g} {bound.unit} | {_number(bound.measured)} | '
            f'{words[bound.met]} |'
            for bound in checked
        ),
        '',
    ]


def _frame(frame: Mapping[str, Any]) -> list[str]:
    lines = [
        '## What an image costs',
        '',
        '| detector | images | p50 ms | p99 ms | a fixed loop beside it, ms | faces reported |',
        '|---|---|---|---|---|---|',
    ]
    notes = []
    for name in ('haar', 'yunet'):
        rows = bounds.transports(frame.get(name))
        if not rows:
            lines.append(f'| {name} | {NOT_RUN} | | | | |')
            continue
        lines += [
            f'| {name} | {transport} | {row["p50_ms"]:.2f} | {row["p99_ms"]:.2f} | '
            f'{row["fixed_loop_ms"]:.1f} | {100 * row["recall"]:.1f} % |'
            for transport, row in rows.items()
        ]
        every = frame[name].get('recall_with_detection_in_every_image')
        if every is not None:
            notes.append(f'{100 * every:.1f} % with {name}')
    if notes:
        notes = [
            'A search of each whole image, without following anybody, would have reported '
            f'{" and ".join(notes)}.',
            '',
        ]
    return [*lines, '', *notes]


def _identities(identities: Mapping[str, Any]) -> list[str]:
    run = {name: row for name, row in identities.items() if row}
    if not run:
        return []
    names = list(run)
    scenes = list(next(iter(run.values()))['scenes'])
    lines = [
        '## Ids and recall',
        '',
        '| scene | ' + ' | '.join(f'{n}: id switches | {n}: faces reported' for n in names) + ' |',
        '|---|' + '---|---|' * len(names),
    ]
    for scene in scenes:
        cells = []
        for name in names:
            row = run[name]['scenes'][scene]
            cells += [str(row['id_switches']), _share(row)]
        lines.append(f'| {scene} | ' + ' | '.join(cells) + ' |')
    totals = []
    for name in names:
        totals += [str(run[name]['id_switches']), _share(run[name])]
    return [*lines, '| all | ' + ' | '.join(totals) + ' |', '']


def _share(row: Mapping[str, Any]) -> str:
    if not row['faces']:
        return f'nobody there, {row["elsewhere"]} reported'
    return f'{100 * row["reported"] / row["faces"]:.1f} % of {row["faces"]}'


def _executor(executor: Mapping[str, Any]) -> list[str]:
    if not executor:
        return []
    return [
        '## How long the executor is held up',
        '',
        '| images | p50 ms | p99 ms | longest ms | images looked at per second |',
        '|---|---|---|---|---|',
        *(
            f'| {name} | {row["p50_ms"]:.2f} | {row["p99_ms"]:.2f} | {row["max_ms"]:.1f} | '
            f'{row["images_per_s"]:.1f} |'
            for name, row in executor['rows'].items()
        ),
        '',
    ]


def _fallback(fallback: Mapping[str, Any]) -> list[str]:
    if not fallback:
        return []
    rounds = fallback['rounds']
    lines = [
        '## Who answers when',
        '',
        '| the server is | from silence to the robot, ms | from its return to its answer, ms | '
        'longest time without a message, ms |',
        '|---|---|---|---|',
    ]
    for name in ('frozen', 'killed'):
        columns = [
            ', '.join(f'{each[figure]:.0f}' for each in rounds[name])
            for figure in ('fallback_ms', 'handback_ms', 'longest_gap_ms')
        ]
        lines.append(f'| {name} | ' + ' | '.join(columns) + ' |')
    flapping = rounds['flapping']
    return [
        *lines,
        '',
        f'While the server comes and goes every 400 ms: changes of who speaks: '
        f'{flapping["switches"]}; messages without an answer: {flapping["unknown"]}; '
        f'{flapping["longest_gap_ms"]:.0f} ms at most without a message.',
        '',
    ]


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.4g}'
