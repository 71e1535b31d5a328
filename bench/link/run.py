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
"""One run of the bench: a scenario played by a sender, its files left in a folder."""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench.link import clips, scenarios, senders
from bench.link.pipe import Pipe
from bench.link.record import link_record
from bench.link.scenarios import Scenario
from bench.link.simulation import SERVER_NS, Simulation
from bench.link.tun import Lab
from demo import processes
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.trace import STATE_INTERVAL_NS, Trace

ROOT = Path(__file__).resolve().parent.parent.parent
PORT = 50051
READY_S = 60.0
# More than the robot needs to stop.
END_S = 30.0
# A plain client may have as much under way as it likes; the server would refuse more than these.
CREDITS = 256
NS_PER_S = 1_000_000_000


class RunError(RuntimeError):
    """A run did not come to its end; says which part failed and what it said."""


def _empty(folder: Path) -> None:
    """Make the folder, without what an earlier run left: its server's log would mislead."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def pipes(scenario: Scenario) -> tuple[Pipe, Pipe]:
    """Return the way to the server and the way back."""
    delay_ns = round(scenario.rtt_ms * 1e6 / 2)
    up, down = (
        Pipe(schedule, delay_ns, scenario.queue_bytes, scenario.loss, seed=seed)
        for seed, schedule in enumerate((scenarios.uplink(scenario), scenarios.downlink(scenario)))
    )
    return up, down


def over_tun(scenario: Scenario, sender: str, played: Path, folder: Path) -> dict[str, str]:
    """
    Play with the real server, sender and TCP; return which congestion control was in force.

    Raises:
        RunError: the server or the robot failed.
        LabError: the link could not be set up.

    """
    _empty(folder)
    # One thread each: three runs may share two cores.
    environment = {**processes.environment(0), 'OMP_NUM_THREADS': '1'}
    with Lab(*pipes(scenario), record=folder / 'link.json') as lab:
        serve = lab.server([
            sys.executable, '-m', 'cloud_server', 'serve', '--host', lab.server_address,
            '--port', str(PORT), '--insecure', '--credits', str(CREDITS),
        ])
        robot = lab.robot([
            sys.executable, '-m', 'bench.link.robot', f'{lab.server_address}:{PORT}', str(folder),
            '--clips', str(played), '--sender', sender, '--faces', str(scenario.faces),
            '--duration-s', str(scenario.duration_s),
        ])
        with processes.process(serve, folder / 'server.log', environment) as server:
            _wait_for_line(folder / 'server.log', 'listening on ', server)
            _play(robot, folder / 'robot.log', environment, lab, scenario)
        lab.stop()
    return lab.congestion_control


def _play(
    command: list[str], log: Path, environment: dict[str, str], lab: Lab, scenario: Scenario
) -> None:
    """Start the robot, and when it is ready the link's schedule; wait for its end."""
    with log.open('wb') as output:
        robot = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output,
            env=environment, cwd=ROOT,
        )
    try:
        assert robot.stdin is not None and robot.stdout is not None
        ready, _, _ = select.select([robot.stdout], (), (), READY_S)
        if not ready or robot.stdout.readline() != b'ready\n':
            raise RunError(f'the robot did not get ready:\n{log.read_text(errors="replace")}')
        lab.start()
        robot.stdin.write(b'go\n')
        robot.stdin.flush()
        try:
            code = robot.wait(scenario.duration_s + END_S)
        except subprocess.TimeoutExpired:
            raise RunError('the robot did not end') from None
        if code:
            raise RunError(f'the robot failed:\n{log.read_text(errors="replace")}')
    finally:
        if robot.poll() is None:
            robot.kill()
            robot.wait()
        for stream in (robot.stdin, robot.stdout):
            if stream is not None:
                stream.close()


def _wait_for_line(log: Path, start: str, child: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s and child.poll() is None:
        if any(line.startswith(start) for line in log.read_text(errors='replace').splitlines()):
            return
        time.sleep(0.05)
    raise RunError(f'the server did not start:\n{log.read_text(errors="replace")}')


def simulated(scenario: Scenario, sender: str, played: Path, folder: Path) -> dict[str, str]:
    """Play in this process, on a simulated clock; nothing is seen (played), or recognized."""
    _empty(folder)
    drops = Drops()
    up, down = pipes(scenario)
    deciding = senders.make(sender, RobotConfig(), drops, 0)
    simulation = Simulation(deciding, up, down, scenario.faces)
    trace = Trace(folder / 'trace.jsonl')
    end_ns = round(scenario.duration_s * NS_PER_S)
    for now_ns in range(STATE_INTERVAL_NS, end_ns + 1, STATE_INTERVAL_NS):
        simulation.run(now_ns)
        trace.state(
            now_ns, 'connected', deciding.bandwidth(now_ns), deciding.budget_bytes_per_s,
            deciding.plan, drops.counts(),
        )
    for answer in simulation.answers:
        trace.frame(answer.sent, answer.answered_ns, SERVER_NS, 'ok')
    trace.close()
    # As the link does it: an answer that is late is dropped, by ferros.
    late_ns = RobotConfig().stale_after_ms * 1_000_000 + round(scenario.rtt_ms * 1e6)
    lines = [
        {'face_id': a.face_id, 'captured_ns': a.captured_ns, 'published_ns': a.answered_ns,
         'label': ''}
        for a in simulation.answers
        if sender in senders.FIXED or a.answered_ns - a.sent.sent_ns <= late_ns
    ]
    (folder / 'answers.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    faces = [
        {'face_id': f'f{slot}', 'slot': slot, 'start_tick': 0, 'truth': None}
        for slot in range(scenario.faces)
    ]
    (folder / 'scene.json').write_text(json.dumps({
        'tick_hz': clips.TICK_HZ, 'started_ns': 0, 'ended_ns': end_ns, 'faces': faces,
    }))
    record = link_record(up, down, 0, end_ns, 'simulation')
    (folder / 'link.json').write_text(json.dumps(record))
    return {}
