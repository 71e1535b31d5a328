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
"""Writes what the link bench found: link.json, the tables of docs/bandwidth.md, the pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.link import figures, recording
from bench.link.accuracy import Accuracies
from bench.link.bounds import Bound
from bench.link.scenarios import BASELINES, FERROS, ROOT, Scenario
from bench.link.score import ORACLE, Run

# What lies between these two lines of the document is written anew, and nothing else.
BEGIN = '<!-- From here on: written by make bench-link. -->'
END = '<!-- Up to here: written by make bench-link. -->'
HEAD = f'# Fresh answers on any link\n\n{BEGIN}\n{END}\n'
NOTHING = '–'

REPEAT = """## Repeat it

    make bench-link            # all of the above, most of an hour; wants root for the link
    QUICK=1 make bench-link    # the short one that `make test` runs, into out/bench/

The link lives in network namespaces and a TUN device, which takes root; without it the command
says so and plays everything in one process on a simulated clock and TCP. The recorded links are
not part of this repository: `FERROS_TEST_DATA` names the folder in whose `traces/` they lie
([mahimahi](https://github.com/ravinet/mahimahi)'s traces, and
[those](https://github.com/confiwent/Real-world-bandwidth-traces) of a Norwegian bus). Without them
these scenarios are not run, and are listed as that."""


class ReportError(ValueError):
    """The document has no place for what was measured."""


@dataclass(frozen=True)
class Places:
    """Where the results go."""

    json: Path
    document: Path
    figures: Path


FULL = Places(ROOT / 'bench' / 'results' / 'link.json', ROOT / 'docs' / 'bandwidth.md',
              ROOT / 'docs' / 'bandwidth_figures')
QUICK = Places(*(ROOT / 'out' / 'bench' / name
                 for name in ('link.json', 'bandwidth.md', 'bandwidth_figures')))


@dataclass(frozen=True)
class Bench:
    """
    All that the bench found.

    Attributes:
        scenarios: all that should have been run, in order.
        runs: the scores of what was run, the oracle among the senders.
        not_run: why a (scenario, sender) was not run; empty: everything was.
        folders: the folder of each (scenario, sender) that was run.
        bounds: from bounds.check.
        bytes_ratio: bytes of whole pictures over ours; None: not measured.
        cost_us_per_frame: of estimator and chooser; None: not measured.
        about: what it was measured with: versions, congestion control, backend, processors,
            date, model.

    """

    scenarios: Sequence[Scenario]
    runs: Sequence[Run]
    not_run: Mapping[tuple[str, str], str]
    folders: Mapping[tuple[str, str], Path]
    bounds: Sequence[Bound]
    bytes_ratio: float | None
    cost_us_per_frame: float | None
    about: Mapping[str, Any]

    def run(self, scenario: str, sender: str) -> Run | None:
        """Return the score of a run; None: it was not run."""
        for run in self.runs:
            if (run['scenario'], run['sender']) == (scenario, sender):
                return run
        return None


def write(bench: Bench, accuracies: Accuracies, places: Places) -> None:
    """
    Write the JSON file, the pictures and the document's part.

    Raises:
        ReportError: the document is there and has no place for the tables.
        RecordingError: a folder of a run cannot be read.
    """
    places.json.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(to_json(bench), indent=1, ensure_ascii=False)
    places.json.write_text(text + '\n', encoding='utf-8')
    pictures = _draw(bench, accuracies, places.figures)
    old = places.document.read_text(encoding='utf-8') if places.document.is_file() else HEAD
    part = document(bench, pictures, places.figures.name)
    places.document.write_text(replaced(old, part, places.document), encoding='utf-8')


def to_json(bench: Bench) -> dict[str, Any]:
    """Return the object that the JSON file holds."""
    return {
        'about': dict(bench.about),
        'bytes_ratio': bench.bytes_ratio,
        'cost_us_per_frame': bench.cost_us_per_frame,
        'recovery_s': {
            scenario.name: None if run is None else run.get('recovery_s')
            for scenario in bench.scenarios if scenario.group == 'outage'
            for run in [bench.run(scenario.name, FERROS)]
        },
        'bounds': [bound._asdict() for bound in bench.bounds],
        'not_run': [{'scenario': scenario, 'sender': sender, 'reason': reason}
                    for (scenario, sender), reason in bench.not_run.items()],
        'runs': [dict(run) for run in bench.runs],
    }


def replaced(old: str, part: str, path: Path) -> str:
    """Return a document with what lies between its two marks replaced by a part."""
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ReportError(f'{path}: expected the lines {BEGIN!r} and {END!r} in it')
    return f'{before}{BEGIN}\n\n{part.strip()}\n\n{END}{after}'


def document(bench: Bench, pictures: Mapping[str, str], folder: str) -> str:
    """
    Return the tables and pictures as Markdown.

    Args:
        bench: what was found.
        pictures: file name of the picture of each scenario that has one, and of 'overview'.
        folder: where they lie, as seen from the document.
    """
    parts = [
        _intro(bench), _results(bench), _senders(bench, pictures, folder), _held_to(bench),
        _outages(bench), _traces(bench, pictures, folder), _left_out(bench), REPEAT,
    ]
    return '\n\n'.join(part for part in parts if part)


def bounds_table(bounds: Sequence[Bound]) -> str:
    """Return every bound as a line of text for the terminal, the missed ones marked."""
    lines = []
    for bound in bounds:
        mark = {True: 'met   ', False: 'MISSED', None: '      '}[bound.met]
        lines.append(f'{mark} {bound.scenario or "bench":20s} {bound.name:42s} '
                     f'{_with_unit(bound.measured, bound.unit):>14s}  {bound.sense} '
                     f'{_with_unit(bound.limit, bound.unit)}  {bound.note}'.rstrip())
    return '\n'.join(lines)


def _draw(bench: Bench, accuracies: Accuracies, folder: Path) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for scenario in bench.scenarios:
        run_folder = bench.folders.get((scenario.name, FERROS))
        scored = bench.run(scenario.name, FERROS) is not None
        if scenario.group == 'trace' and run_folder is not None and scored:
            pictures[scenario.name] = f'{scenario.name}.png'
            figures.draw_trace(folder / pictures[scenario.name], recording.read(run_folder),
                               scenario, accuracies)
    if bench.runs:
        pictures['overview'] = 'overview.png'
        figures.draw_overview(folder / 'overview.png', bench.runs)
    return pictures


def _intro(bench: Bench) -> str:
    simulated = any(run.get('backend') == 'simulation' for run in bench.runs)
    what = (
        '**These figures are of a simulation**: the real decisions of the sender on a simulated '
        'clock, link and TCP. They are not measurements.'
        if simulated else
        'The real sender, the real server and real TCP, as processes of their own, over a link '
        'that carries what a schedule allows: bytes wait in a drop-tail queue of 150 kB, then '
        'take half of the round trip.'
    )
    about = ', '.join(f'{name.replace("_", " ")}: {value}' for name, value in bench.about.items())
    return f"""## What was measured

{what} Constant links carry as much in both directions; recorded ones are uplinks, and their
downlink carries 10 Mbit/s. Loss strikes packets of both directions, and so do outages.

A camera of 30 images a second sees faces of 48 pixels, which are handed to the sender as they
are: finding them, and what ROS adds, is not in the ages. Played are simulated clips of FER+
validation faces, where the data are there, one face after another every six seconds.

Measured with {about}."""


def _results(bench: Bench) -> str:
    head = ('scenario', 'age p50', 'age p95', 'network delay p95', 'round trip', 'link used',
            'kbit/s', 'expected accuracy', 'oracle', 'share of it', 'labels right', 'start')
    rows = []
    for scenario in bench.scenarios:
        run = bench.run(scenario.name, FERROS)
        if run is None:
            rows.append([scenario.name, 'not run', *[''] * (len(head) - 2)])
            continue
        accuracy, oracle = run['expected_accuracy'], run['oracle_accuracy']
        rows.append([
            scenario.name, *(_ms(run[key]) for key in
                             ('age_p50_ms', 'age_p95_ms', 'network_delay_p95_ms', 'rtt_ms')),
            _percent(run['utilisation']), _number(run['kbit_per_s'], '.1f'),
            _percent(accuracy), _percent(oracle),
            _percent(accuracy / oracle if accuracy is not None and oracle else None),
            _percent(run['realised_accuracy']), _with_unit(run['startup_s'], 's'),
        ])
    return f"""## What ferros does

{_table(head, rows)}

*Age*: from the camera image's arrival to the publication of its answer, in ms; *network delay*:
from sending to the answer, without the server's time. *Expected accuracy*: at ten instants per
second, what the [accuracy grid](operating_points.png) says of the way in which the newest answer's
frame was sent, at the frame rate that really came through; a guess (1/7) where that frame is older
than its interval, 300 ms and a round trip. *Oracle*: the same for a sender that knows what the
link will carry and gets each frame there within 200 ms; computed, not run. *Labels right*: share
of time in which the label that was held was the true one, on simulated clips of FER+ validation
faces, where that was measured. *Start*: until accuracy is at 80 % of what it comes to."""


def _senders(bench: Bench, pictures: Mapping[str, str], folder: str) -> str:
    senders = (FERROS, *BASELINES, ORACLE)
    rows = [
        [scenario.name, *(_age_and_accuracy(bench.run(scenario.name, sender))
                          for sender in senders)]
        for scenario in bench.scenarios
    ]
    what = '\n'.join(f'- `{name}`: {text}' for name, text in BASELINES.items())
    picture = ''
    if 'overview' in pictures:
        picture = ('\n\n![Age of the answers against expected accuracy, for every sender and '
                   f'scenario]({folder}/{pictures["overview"]})')
    return f"""## Beside other ways of sending

Age (95th percentile, ms) / expected accuracy (%):

{_table(('scenario', *senders), rows)}

{what}{picture}"""


def _held_to(bench: Bench) -> str:
    if not bench.bounds:
        return ''
    names = list(dict.fromkeys(bound.name for bound in bench.bounds))
    rows = []
    for name in names:
        all_of_it = [bound for bound in bench.bounds if bound.name == name]
        judged = [bound for bound in all_of_it if bound.met is not None]
        if not judged:
            rows.append([name, _limit(all_of_it[0]), NOTHING, NOTHING, 'not run'])
            continue
        worst = min(judged, key=lambda bound: (bound.margin is not None, bound.margin or 0.0))
        met = sum(bound.met is True for bound in judged)
        share = 'yes' if met == len(judged) else f'**{met} of {len(judged)}**'
        rows.append([name, _limit(worst, all_of_it), _measured(worst),
                     _with_unit(worst.margin, worst.unit), share])
    missed = [
        f'- {bound.scenario or "bench"}: {bound.name} {_with_unit(bound.measured, bound.unit)}, '
        f'held to {_limit(bound)}{f" ({bound.note})" if bound.note else ""}'
        for bound in bench.bounds if bound.met is False
    ]
    close = [f'- {bound.scenario}: {bound.note}' for bound in bench.bounds
             if bound.met and 'within the noise' in bound.note]
    parts = [_table(('bound', 'held to', 'worst', 'inside by', 'met'), rows)]
    if missed:
        parts.append('Missed:\n\n' + '\n'.join(missed))
    if close:
        parts.append('Baselines that are better in both by less than two runs of one sender '
                     'differ (5 ms and 0.5 points), which is not counted as a miss:\n\n'
                     + '\n'.join(close))
    return '## What it is held to\n\n' + '\n\n'.join(parts)


def _outages(bench: Bench) -> str:
    rows = []
    for scenario in bench.scenarios:
        run = bench.run(scenario.name, FERROS)
        if scenario.outages_s and run is not None:
            rows.append([
                scenario.name, _with_unit(run['recovery_s'], 's'),
                _with_unit(run['tcp_wait_s'], 's'), str(run['old_answers']),
                str(run['old_frames_sent']),
            ])
    if not rows:
        return ''
    head = ('scenario', 'first fresh answer after', "of it TCP's wait", 'old answers published',
            'old frames sent')
    return f"""## After an outage

{_table(head, rows)}

*TCP's wait*: from the end of the outage to the first byte on the uplink; TCP asks again at growing
intervals, and before it does nobody can send. *Old*: more than 300 ms after the capture."""


def _traces(bench: Bench, pictures: Mapping[str, str], folder: str) -> str:
    parts = []
    for scenario in bench.scenarios:
        run = bench.run(scenario.name, FERROS)
        if scenario.name in pictures and run is not None:
            parts.append(
                f'![{scenario.name}: capacity, sent and estimated rate, age of the answers, '
                f'operating point]({folder}/{pictures[scenario.name]})\n\n'
                f'*{scenario.name}*: p95 age {_ms(run["age_p95_ms"])} ms, expected accuracy '
                f'{_percent(run["expected_accuracy"])}, of the oracle\'s '
                f'{_percent(run["oracle_accuracy"])}.'
            )
    return '## Recorded links\n\n' + '\n\n'.join(parts) if parts else ''


def _left_out(bench: Bench) -> str:
    shares = []
    for scenario in bench.scenarios:
        run = bench.run(scenario.name, FERROS)
        if run is not None and run['outage_share']:
            shares.append(f'{scenario.name} {_percent(run["outage_share"])}')
    text = (
        'Where a link can deliver nothing for more than 500 ms, no sender can be fresh: what was '
        'captured from 250 ms before such an outage to 1 s after it is left out of ages, delays '
        f'and accuracies. Share of the time left out: {", ".join(shares) or "none"}.'
    )
    missing = '\n'.join(f'- {scenario}, {sender}: {reason}'
                        for (scenario, sender), reason in bench.not_run.items())
    return f'## What was left out\n\n{text}' + (f'\n\nNot run:\n\n{missing}' if missing else '')


def _limit(bound: Bound, same: Sequence[Bound] = ()) -> str:
    limits = sorted({each.limit for each in same or (bound,)})
    unit = f' {bound.unit}' if bound.unit else ''
    return f'{bound.sense} {" / ".join(f"{limit:g}" for limit in limits)}{unit}'


def _measured(bound: Bound) -> str:
    place = f' ({bound.scenario})' if bound.scenario else ''
    return _with_unit(bound.measured, bound.unit) + place


def _age_and_accuracy(run: Run | None) -> str:
    if run is None:
        return 'not run'
    return f'{_ms(run["age_p95_ms"])} / {_number(run["expected_accuracy"], ".1f", 100)}'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ['---', *['---:'] * (len(head) - 1)], *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return NOTHING if value is None else format(scale * value, form)


def _ms(value: float | None) -> str:
    return _number(value, '.0f')


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f'{100 * value:.1f} %'


def _with_unit(value: float | None, unit: str) -> str:
    if value is None:
        return NOTHING
    return f'{value:.4g} {unit}'.strip()
