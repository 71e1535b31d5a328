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
`make bench-link`: every sender over every link; writes bench/results/link.json and its pages.

    python -m bench.link                     all, in about half an hour
    python -m bench.link --only trace_att    some; what was run before stays in out/bench/link
    QUICK=1 python -m bench.link             a minute: is anything broken?
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from bench.link import (
    accuracy,
    bounds,
    clips,
    cost,
    frugality,
    recording,
    report,
    run,
    scenarios,
    score,
)
from bench.link.report import Bench
from bench.link.scenarios import FERROS, Scenario
from bench.link.tun import unavailable

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = ROOT / 'out' / 'bench' / 'link'
FERPLUS = 'data/ferplus_trainvalid.zip'
CLIPS = 48
# Runs at one time: each is three processes that mostly wait.
LANES = 3
# The clip's pictures that are looked at for the bytes: all, or one in so many.
QUICK_PICTURES = 15

Key = tuple[str, str]


def main() -> int:
    """Run the bench; return 1 where a bound of the quick one is missed or a run failed."""
    parser = argparse.ArgumentParser(prog='python -m bench.link')
    parser.add_argument('--only', help='parts of names of scenarios, parted by commas')
    parser.add_argument('--senders', help='names of senders, parted by commas')
    parser.add_argument('--lanes', type=int, default=LANES, help='runs at one time')
    parser.add_argument('--simulate', action='store_true', help='without namespaces and server')
    parser.add_argument('--report', action='store_true', help='only judge what was run before')
    args = parser.parse_args()
    quick = os.environ.get('QUICK', '') not in ('', '0')
    out = OUT.with_name('link_quick') if quick else OUT
    missing = unavailable()
    if missing is not None and not args.simulate:
        print(f'bench-link: no link lab here ({missing}): the link is simulated', file=sys.stderr)
    simulate = args.simulate or missing is not None
    wanted = [(s, sender) for s, sender in scenarios.runs(quick) if not s.not_runnable]
    failed: dict[Key, str] = {}
    if not args.report:
        chosen = [(s, sender) for s, sender in wanted if _is_chosen(s, sender, args)]
        failed = _play_all(chosen, out, simulate, args.lanes)
    done = _judge(wanted, out, failed, quick)
    for bound in done.bounds:
        if bound.met is not None:
            mark = 'met   ' if bound.met else 'MISSED'
            print(f'{mark} {bound.name}, {bound.scenario or "all"}: {bound.measured} '
                  f'({bound.sense} {bound.limit} {bound.unit})')
    for key, reason in failed.items():
        print(f'FAILED {key[0]}, {key[1]}: {reason}', file=sys.stderr)
    return 1 if failed or (quick and bounds.failures(done.bounds)) else 0


def _is_chosen(scenario: Scenario, sender: str, args: argparse.Namespace) -> bool:
    names = args.only.split(',') if args.only else ['']
    named = not args.senders or sender in args.senders.split(',')
    return named and any(name in scenario.name for name in names)


def _play_all(
    wanted: Sequence[tuple[Scenario, str]], out: Path, simulate: bool, lanes: int
) -> dict[Key, str]:
    """Play the runs, several at a time, the longest first; return which failed, and why."""
    played = out / 'clips.npz'
    out.mkdir(parents=True, exist_ok=True)
    clips.save(played, _clips())
    failed: dict[Key, str] = {}
    left_s = sum(scenario.duration_s for scenario, _ in wanted)
    began_s = time.monotonic()
    number = 0

    def one(job: tuple[Scenario, str]) -> None:
        nonlocal left_s, number
        scenario, sender = job
        play = run.simulated if simulate else run.over_tun
        try:
            play(scenario, sender, played, out / scenario.name / sender)
        except Exception as error:  # One run that fails must not end the others; it is reported.
            failed[scenario.name, sender] = str(error)
        left_s -= scenario.duration_s
        number += 1
        elapsed_s = time.monotonic() - began_s
        print(f'{number}/{len(wanted)} {scenario.name} {sender}: {elapsed_s:.0f} s, about '
              f'{left_s / lanes * 1.15:.0f} s left', file=sys.stderr, flush=True)

    longest_first = sorted(wanted, key=lambda job: -job[0].duration_s)
    with ThreadPoolExecutor(1 if simulate else lanes) as pool:
        list(pool.map(one, longest_first))
    return failed


def _clips() -> clips.Clips:
    """Return labelled clips where the data are, else rendered ones."""
    ferplus = scenarios.recorded_traces().parent / FERPLUS
    if ferplus.is_file():
        return clips.labelled(ferplus, CLIPS)
    print(f'bench-link: no FER+ at {ferplus}: a portrait is played, answers are not judged',
          file=sys.stderr)
    return clips.rendered(CLIPS)


def _judge(
    wanted: Sequence[tuple[Scenario, str]], out: Path, failed: Mapping[Key, str], quick: bool
) -> Bench:
    """Score what was run, write the report and return it."""
    accuracies = accuracy.read()
    all_runs = scenarios.runs(quick)
    not_run = {(s.name, sender): s.not_runnable for s, sender in all_runs if s.not_runnable}
    not_run.update(failed)
    runs, folders = [], {}
    for scenario, sender in wanted:
        folder = out / scenario.name / sender
        if (scenario.name, sender) in failed or not (folder / 'link.json').is_file():
            not_run.setdefault((scenario.name, sender), 'not chosen')
            continue
        runs.append(score.score_run(folder, scenario, sender, accuracies))
        folders[scenario.name, sender] = folder
        if sender == FERROS:
            runs.append(score.oracle_run(recording.read(folder), scenario, accuracies))
    every = list(dict.fromkeys(s for s, _ in all_runs))
    ratio = frugality.bytes_ratio(QUICK_PICTURES if quick else 1)
    cost_us = max(cost.us_per_frame(s) for s in _thin(every))
    done = Bench(
        scenarios=every, runs=runs, not_run=not_run, folders=folders,
        bounds=bounds.check(every, runs, accuracies.best_bytes_per_s, ratio, cost_us,
                            bounds.QUICK if quick else bounds.FULL),
        bytes_ratio=ratio, cost_us_per_frame=cost_us, about=_about(runs, folders.values()),
    )
    report.write(done, accuracies, report.QUICK if quick else report.FULL)
    return done


def _thin(every: Sequence[Scenario]) -> list[Scenario]:
    """Return the scenarios where there is most to decide: thin links, and many faces."""
    names = ('const_64k_rtt40', 'trace_att_100k', 'trace_drive', 'faces_')
    return [s for s in every if s.name.startswith(names) and not s.not_runnable]


def _about(
    runs: Sequence[Mapping[str, object]], folders: Iterable[Path]
) -> dict[str, object]:
    """Return what the figures were measured with."""
    controls: set[str] = set()
    for folder in folders:
        record = json.loads((folder / 'link.json').read_text(encoding='utf-8'))
        controls |= set(record.get('congestion_control', {}).values())
    return {
        'date': datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        'link': ' and '.join(sorted({str(r['backend']) for r in runs if r['sender'] == FERROS})),
        'congestion_control': ' and '.join(sorted(controls)) or 'simulated',
        'python': platform.python_version(),
        'processors': os.cpu_count(),
        **{name: metadata.version(name) for name in ('grpcio', 'onnxruntime')},
    }


if __name__ == '__main__':
    sys.exit(main())
