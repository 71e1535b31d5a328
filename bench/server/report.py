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
"""Writes what the server bench found: server.json, the tables of docs/server.md, the pictures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.server import bounds, figures
from bench.server.bounds import Bound
from bench.server.machine import OUT, ROOT

# What lies between these two lines of the document is written anew, and nothing else.
BEGIN = '<!-- From here on: written by make bench-server. -->'
END = '<!-- Up to here: written by make bench-server. -->'
HEAD = f'# A server for a fleet\n\n{BEGIN}\n{END}\n'
NOTHING = '–'


class ReportError(ValueError):
    """The document has no place for what was measured."""


@dataclass(frozen=True)
class Places:
    """Where the results go."""

    json: Path
    document: Path
    figures: Path


FULL = Places(
    ROOT / 'bench' / 'results' / 'server.json', ROOT / 'docs' / 'server.md',
    ROOT / 'docs' / 'server_figures',
)
QUICK = Places(
    OUT.with_name('server.json'), OUT.with_name('server.md'), OUT.with_name('server_figures')
)


def headline(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures that others look up, from all that was measured."""
    curve = results.get('curve')
    loads = {'0.5': 0.5, '0.8': 0.8, '0.95': 0.95}
    over_raw = results.get('over_raw', {})
    return {
        'e2e_over_raw': {
            name: over_raw.get(name, {}).get('ratio') for name in ('default', 'resnet50_int8')
        },
        'p99_ms': {text: bounds.at(curve, load, 'p99_ms') for text, load in loads.items()},
        'batch_ms': {text: bounds.at(curve, load, 'batch_ms') for text, load in loads.items()},
        'overload_goodput_over_peak': results.get('overload', {}).get('goodput_over_peak'),
        'cross_robot_gain': results.get('cross_robot', {}).get('gain'),
        'idle_streams_mb': results.get('idle', {}).get('more_mb'),
        'ray_speedup_2': results.get('ray', {}).get('speedup'),
        'rolling_restart_unanswered': results.get('restart', {}).get('unanswered'),
        'soak_rss_slope_mb_per_min': results.get('soak', {}).get('rss_slope_mb_per_min'),
    }


def write(results: Mapping[str, Any], checked: Sequence[Bound], places: Places) -> None:
    """Write the JSON, the pictures and the tables."""
    document = {
        **headline(results), 'bounds': [bound._asdict() for bound in checked],
        'measured': results,
    }
    places.json.parent.mkdir(parents=True, exist_ok=True)
    places.json.write_text(json.dumps(document, indent=1) + '\n', encoding='utf-8')
    _draw(results, places.figures)
    before = places.document.read_text(encoding='utf-8') if places.document.exists() else HEAD
    if before.count(BEGIN) != 1 or before.count(END) != 1:
        raise ReportError(f'{places.document}: expected the lines {BEGIN} and {END}, once each')
    head, _, rest = before.partition(BEGIN)
    tail = rest.partition(END)[2]
    body = '\n\n'.join(_sections(results, checked, places.figures.name))
    places.document.write_text(f'{head}{BEGIN}\n\n{body}\n\n{END}{tail}', encoding='utf-8')


def _draw(results: Mapping[str, Any], folder: Path) -> None:
    if 'curve' in results:
        figures.draw_load(folder / 'load.png', results['curve'], results['capacity_per_s'])
    if 'ray' in results:
        figures.draw_ray(folder / 'ray.png', results['ray'])
    if 'soak' in results:
        figures.draw_soak(folder / 'soak.png', results['soak'])


def _sections(
    results: Mapping[str, Any], checked: Sequence[Bound], figures_folder: str
) -> list[str]:
    about = results['about']
    sections = [
        '## What was measured',
        f'On {about["date"]}, {about["processor"]}: the server on one core, the load generator on '
        f'another, Python {about["python"]}, grpcio {about["grpcio"]}, ONNX Runtime '
        f'{about["onnxruntime"]}. Ratios are of runs one after the other, and medians of several. '
        'The faces are rendered: they cost what real ones cost. No GPU was at hand.',
        _bounds_table(checked),
    ]
    if 'over_raw' in results:
        sections += ['### Against the model itself', _over_raw(results)]
    if 'curve' in results:
        sections += [
            '### From a quiet server to one that drowns', _curve(results['curve']),
            f'![Throughput, latency and batch sizes against load]({figures_folder}/load.png)',
        ]
    if 'overload' in results:
        sections += ['### Half as much again as it can serve', _overload(results['overload'])]
    if 'idle' in results:
        sections += ['### Streams that send nothing', _idle(results['idle'])]
    if 'faults' in results:
        sections += ['### Robots that break the protocol', _faults(results['faults'])]
    if 'restart' in results:
        sections += ['### A rolling restart under load', _restart(results['restart'])]
    if 'ray' in results:
        sections += [
            '### On a Ray cluster', _ray(results['ray']),
            f'![Frames per second over the number of replicas]({figures_folder}/ray.png)',
        ]
    if 'soak' in results:
        sections += [
            '### Ten minutes of trouble', _soak(results['soak']),
            f'![Resident memory over the run]({figures_folder}/soak.png)',
        ]
    return sections


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    return '\n'.join(lines + ['| ' + ' | '.join(row) + ' |' for row in rows])


def _number(value: float | None, digits: int = 3) -> str:
    return NOTHING if value is None else f'{value:.{digits}g}' if abs(value) < 100 else (
        f'{value:.0f}')


def _bounds_table(checked: Sequence[Bound]) -> str:
    marks = {True: 'met', False: '**missed**', None: 'not run'}
    return _table(
        ('held to', 'limit', 'measured', ''),
        [(b.name, f'{b.sense} {b.limit:g} {b.unit}'.strip(),
          f'{_number(b.measured)} {b.unit}'.strip(), marks[b.met]) for b in checked],
    )


def _over_raw(results: Mapping[str, Any]) -> str:
    rows = [
        (name, _number(row['raw_frames_per_s']), _number(row['frames_per_s']),
         _number(row['ratio']), _number(row['batch_faces_mean']))
        for name, row in results['over_raw'].items()
    ]
    gain = results.get('cross_robot', {}).get('gain')
    text = (
        '\n\nThe raw loop decodes, encodes and steps the same batches in the same order, without '
        'gRPC. The ResNet-50 has random weights: its speed is that of a trained one.'
    )
    if gain is not None:
        text += f' With one robot in a batch the shipped model carries {gain:.2f} times less.'
    return _table(
        ('model', 'raw loop, frames/s', 'end to end, frames/s', 'ratio', 'faces in a batch'), rows
    ) + text


def _curve(curve: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (f'{100 * row["load"]:.0f} %', _number(row['offered_per_s']), _number(row['ok_per_s']),
         _number(row['p50_ms']), _number(row['p99_ms']), _number(row['age_p99_ms']),
         _number(row['batch_faces']), _number(row['batch_ms']),
         ', '.join(f'{count} {status}' for status, count in row['answers'].items()
                   if status != 'OK') or NOTHING)
        for row in curve
    ]
    return _table(
        ('load', 'offered/s', 'answered/s', 'p50, ms', 'p99, ms', 'age p99, ms',
         'faces in a batch', 'a batch, ms', 'other answers'), rows
    ) + (
        '\n\np50 and p99 count from the time at which a frame was planned to leave (open loop), '
        'the age from its receipt by the server to its answer.'
    )


def _overload(overload: Mapping[str, Any]) -> str:
    rows = [
        (str(row['trial'] + 1), _number(row['peak_per_s']), _number(row['goodput_per_s']),
         _number(row['ratio']), _number(row['age_p99_ms']), _number(row['age_max_ms']),
         _number(row['rss_mb']))
        for row in overload['trials']
    ]
    return _table(
        ('trial', 'peak, frames/s', 'answered OK at 150 %, frames/s', 'ratio', 'age p99, ms',
         'age max, ms', 'memory, MB'), rows
    ) + (
        '\n\nThe peak is a closed loop, the overload an open one that heeds no suggestion; each '
        'trial measures both, so that a slower minute of the machine is in both.'
    )


def _idle(idle: Mapping[str, Any]) -> str:
    alone, beside = (
        statistics.median(row[name] for row in idle['trials'])
        for name in ('p99_alone_ms', 'p99_beside_ms')
    )
    return (
        f'{idle["open_streams"]} of them take {_number(idle["more_mb"])} MB when they are opened '
        f'for the first time, and {_number(min(row["more_mb"] for row in idle["trials"]))} MB in '
        f'later trials. p99 of sixteen robots at half load is {_number(beside)} ms beside them '
        f'and {_number(alone)} ms without.'
    )


def _faults(faults: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (kind, _outcomes(row['answers']), _outcomes(row['ended']), _number(row['p99_ratio']))
        for kind, row in faults.items()
    ]
    return _table(
        ('two robots that', 'their frames', 'their streams', 'p99 of the good ones over alone'),
        rows)


def _outcomes(counts: Mapping[str, int]) -> str:
    return ', '.join(f'{count} {name}' for name, count in counts.items() if count) or NOTHING


def _restart(restart: Mapping[str, Any]) -> str:
    return (
        f'{restart["robots"]} robots at {restart["rate_fps"]:g} frames/s, {restart["workers"]} '
        f'workers replaced {restart["restarts"]} times (SIGHUP): {restart["frames"]} frames sent, '
        f'{restart["unanswered"]} without an answer; {restart["drained"]} streams were sent away, '
        f'{restart["resumed"]} resumed, {restart["states_kept"]} LSTM states went on, '
        f'{restart["states_lost"]} were lost.'
    )


def _ray(ray: Mapping[str, Any]) -> str:
    rows = [(str(row['replicas']), _number(row['frames_per_s'])) for row in ray['scaling']]
    return _table(('replicas', 'frames/s'), rows) + (
        f'\n\nThe encoder sleeps {ray["sleep_ms"]:.0f} ms for a batch and computes nothing: it '
        'stands for a GPU, which was not at hand; what is measured is the way there and back. '
        f'A replica was killed under load: {ray["frames"]} frames, {ray["unanswered"]} without '
        f'an answer ({_outcomes(ray["answers"])}); answers that were not OK, or took twice as '
        f'long as usual, came within {ray["recovery_s"]:.1f} s.'
    )


def _soak(soak: Mapping[str, Any]) -> str:
    return (
        f'{soak["duration_s"] / 60:.0f} minutes, {soak["frames"]} frames of robots that '
        f'reconnected {soak["reconnected"]} times, beside others that broke off, cancelled, sent '
        f'bad images and garbage or read slowly: memory {soak["rss_slope_mb_per_min"]:+.2f} '
        f'MB/min after the first {soak["settled_s"] / 60:.0f}, descriptors '
        f'{soak["descriptors_slope_per_min"]:+.2f} and threads '
        f'{soak["threads_slope_per_min"]:+.2f} per minute.'
    )
