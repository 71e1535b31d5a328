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
The load generator on a core of its own: `ferros-cloud load` without its words.

    python -m bench.server.driver RESULT.json '{"address": "127.0.0.1:50051", "robots": 10}'
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.server import machine
from cloud_server.load.generate import generate
from cloud_server.load.plan import Plan
from cloud_server.load.result import Result


class LoadError(RuntimeError):
    """The load generator failed; the message ends with what it said."""


class Driving(NamedTuple):
    """A load that was begun."""

    process: subprocess.Popen[str]
    # Where its result will be: a pipe that nobody reads yet would hold it up.
    result: Path


def drive(address: str, **plan: Any) -> Result:
    """Run a plan (see cloud_server.load.plan.Plan) from the load's core and return the result."""
    with begun(address, **plan) as driving:
        return finish(driving)


@contextlib.contextmanager
def begun(address: str, **plan: Any) -> Iterator[Driving]:
    """Start a plan; `finish` waits for it."""
    machine.OUT.mkdir(parents=True, exist_ok=True)
    path = machine.OUT / 'load.json'
    path.unlink(missing_ok=True)
    document = json.dumps({'address': address, **plan})
    with machine.child(
        'bench.server.driver', [str(path), document], machine.cores().load, subprocess.PIPE
    ) as process:
        yield Driving(process, path)


def finish(driving: Driving) -> Result:
    """Wait for a plan that was begun."""
    _, stderr = driving.process.communicate()
    status = driving.process.returncode
    if status != 0:
        raise LoadError(f'the load generator ended with {status}: {stderr[-2000:]}')
    return Result.from_json(json.loads(driving.result.read_text()))


def main() -> None:
    """Run one plan; write its result as JSON."""
    path, document = Path(sys.argv[1]), json.loads(sys.argv[2])
    for name in ('sizes', 'faults'):
        if name in document:
            document[name] = tuple(tuple(pair) for pair in document[name])
    result = asyncio.run(generate(Plan(**document)))
    path.write_text(json.dumps(result.to_json()))


if __name__ == '__main__':
    main()
