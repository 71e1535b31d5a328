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
"""A rolling restart under load: every frame is answered, and the LSTM states survive."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from bench.server import driver, machine
from bench.server.under_test import StartError

ROBOTS = 20
WORKERS = 2
RESTARTS_AT_S = (4.0, 9.0)


def measure(rate_fps: float, duration_s: float) -> dict[str, Any]:
    """
    Return what became of the frames of 20 robots while all workers were replaced, twice.

    Args:
        rate_fps: of each robot.
        duration_s: of the run; the restarts are at RESTARTS_AT_S, as far as they fit.

    """
    machine.OUT.mkdir(parents=True, exist_ok=True)
    log_path = machine.OUT / 'restart.log'
    with open(log_path, 'w', encoding='utf-8') as log, machine.child(
        'cloud_server',
        ['serve', '--port', '0', '--workers', str(WORKERS), '--full-at-load', '100'],
        None, log,
    ) as parent:
        assert parent.stdout is not None
        line = parent.stdout.readline()
        if not line.startswith('listening on '):
            raise StartError(f'the workers did not start: {Path(log.name).read_text()[-2000:]}')
        address = line.removeprefix('listening on ').strip()
        restarts = 0
        with driver.begun(
            address, robots=ROBOTS, rate_fps=rate_fps, duration_s=duration_s, warm_up_s=1.0
        ) as load:
            began_s = time.monotonic()
            for at_s in RESTARTS_AT_S:
                if at_s < duration_s - 3:
                    time.sleep(max(0.0, began_s + at_s - time.monotonic()))
                    parent.send_signal(signal.SIGHUP)
                    restarts += 1
            result = driver.finish(load)
        parent.send_signal(signal.SIGTERM)
        status = parent.wait(30)
    streams = result.streams
    return {
        'robots': ROBOTS, 'workers': WORKERS, 'restarts': restarts, 'rate_fps': rate_fps,
        'frames': result.whole_run.sent,
        'unanswered': sum(result.whole_run.unanswered.values()),
        'answers': result.whole_run.answers,
        'held': result.whole_run.held,
        'drained': streams.drained, 'resumed': streams.resumed,
        'not_resumed': streams.not_resumed, 'states_kept': streams.states_kept,
        'states_lost': streams.states_lost,
        'protocol_errors': result.protocol_errors, 'exit_status': status,
    }
