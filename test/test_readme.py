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
"""The README's commands: those that can run here are run, the others are known by name."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from demo import clip

# Needs a ROS 2 distribution, a camera or a network; the workflows build and launch there.
ELSEWHERE = (
    'mkdir -p ~/ros2_ws/src && cd ~/ros2_ws',
    'git clone <this repository> src/ferros',
    'rosdep install --from-paths src --ignore-src --rosdistro $ROS_DISTRO -y',
    'source install/setup.bash',
    'ros2 launch ferros cloud_fer.launch.py image:=/camera/image_raw',
    'ros2 launch ferros cloud_fer.launch.py image:=/camera/image_raw '
    'server_command:="$HOME/ferros-server/bin/ferros-cloud serve"',
    'ros2 launch ferros cloud_fer.launch.py --show-args',
    'ros2 topic echo /emotion',
    'ros2 launch ferros simulation.launch.py',
    # Tested as processes, without the ros2 command.
    'ros2 run ferros comfort_behaviour',
    'ros2 run ferros bag_check my_bag expectation.yaml',
    'ros2 run ferros link_check 192.168.1.20 --insecure --picture',
    'make demo SOURCE=0',
)
# This very run, with the quick benches; what test_study_smoke.py runs; the workspace, which
# test_package.py builds.
BY_OTHERS = (
    'make test', 'make study-smoke', 'make bench-link', 'make bench-server', 'make bench-robot',
    'make soak', 'ln -s ferros/ferros_msgs src/ferros_msgs', 'colcon build',
)
HERE = (
    'make demo',
    'make demo SOURCE=my_video.mp4',
    'python3 -m venv ~/ferros-server',
    "~/ferros-server/bin/pip install './src/ferros[cloud]'",
    '~/ferros-server/bin/ferros-cloud serve',
    '.venv/bin/ferros-cloud serve --workers 2 --metrics-port 9464',
    '.venv/bin/ferros-cloud load --robots 20 --rate 15',
    '.venv/bin/ferros-cloud predict photo.jpg',
    '.venv/bin/ferros-cloud predict --json --plot emotions.png video.mp4',
    '.venv/bin/ferros-cloud evaluate ferplus --data path/to/ferplus --split valid',
)


@pytest.fixture(scope='module')
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('portrait') / 'photo.jpg'
    for time_s, image in clip.frames():
        if time_s >= 2:
            cv2.imwrite(str(path), image)
            return path
    raise AssertionError('the clip is too short')


def run(command: str, cwd: Path, timeout_s: float = 150) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, with no environment of ours around it."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(('ROS', 'AMENT', 'COLCON', 'CMAKE', 'VIRTUAL', 'PYTHON', 'MAKE'))
        and name not in ('LD_LIBRARY_PATH', 'MFLAGS')
    }
    environment['PATH'] = os.pathsep.join(
        part
        for part in environment['PATH'].split(os.pathsep)
        if not part.startswith(str(Path(sys.prefix)))
    )
    return subprocess.run(
        command,
        shell=True,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def test_every_command_of_the_readme_is_run_somewhere(root: Path) -> None:
    blocks = re.findall(r'```sh\n(.*?)```', (root / 'README.md').read_text(), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert sorted(commands) == sorted((*ELSEWHERE, *BY_OTHERS, *HERE))


def test_make_demo_finds_the_astronaut_happy(root: Path) -> None:
    started_s = time.time()
    demo = run('make demo', root)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    result = json.loads((root / 'out/demo.json').read_text())
    given = [entry['label'] for entry in result['labels'] if entry['source'] == 'CLOUD']
    assert given.count('happiness') > 0.9 * len(given) > 30
    assert result['messages'] > 60
    assert 0 < result['first_message_s'] < 60
    assert 0 < result['latency_ms']['p50'] <= result['latency_ms']['p95'] < 1500
    assert 500 < result['bytes_per_s'] < 50_000
    for name in ('demo.mp4', 'demo.png'):
        path = root / 'out' / name
        assert path.stat().st_size > 20_000 and path.stat().st_mtime >= started_s


def test_make_demo_plays_what_it_is_given_and_says_what_it_cannot_play(
    root: Path, portrait: Path
) -> None:
    demo = run(f'make demo SOURCE={shlex.quote(str(portrait))}', root)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    labels = json.loads((root / 'out/demo.json').read_text())['labels']
    assert {e['label'] for e in labels if e['source'] == 'CLOUD'} == {'happiness'}
    missing = run('make demo SOURCE=nowhere.mp4', root)
    assert missing.returncode != 0
    assert 'nowhere.mp4' in missing.stderr and 'Traceback' not in missing.stderr


def test_predict_reads_a_photo(root: Path, portrait: Path) -> None:
    told = run(f'.venv/bin/ferros-cloud predict {shlex.quote(str(portrait))}', root)
    assert told.returncode == 0, told.stderr
    assert 'happiness' in told.stdout


def test_predict_reads_a_video_and_draws_it(root: Path, tmp_path: Path) -> None:
    clip.render(tmp_path / 'video.mp4')
    command = f'{root}/.venv/bin/ferros-cloud predict --json --plot emotions.png video.mp4'
    told = run(command, tmp_path)
    assert told.returncode == 0, told.stderr
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert all(line['file'] == 'video.mp4' for line in lines)
    happy = sum(line['label'] == 'happiness' for line in lines)
    assert happy > 0.8 * len(lines) > 80
    assert (tmp_path / 'emotions.png').stat().st_size > 10_000


def test_evaluate_reads_the_validation_split(root: Path, shared_data: Path) -> None:
    data = shared_data / 'data/ferplus_trainvalid.zip'
    told = run(
        f'.venv/bin/ferros-cloud evaluate ferplus --data {data} --split valid --json', root
    )
    assert told.returncode == 0, told.stderr
    result = json.loads(told.stdout.splitlines()[-1])
    assert result['count'] == 2857 and result['eight_class']['count'] == 3191
    assert result['accuracy'] >= 0.885


def test_the_server_runs_in_an_environment_of_its_own(root: Path, tmp_path: Path) -> None:
    source = tmp_path / 'src/ferros'
    files = run('git ls-files -co --exclude-standard', root).stdout.splitlines()
    for name in files:
        if (root / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, source / name)
    for command in (
        f'{sys.executable} -m venv {tmp_path}/ferros-server',
        f"{tmp_path}/ferros-server/bin/pip install -q './src/ferros[cloud]'",
    ):
        done = run(command, tmp_path)
        assert done.returncode == 0, done.stderr
    python = f'{tmp_path}/ferros-server/bin/python'
    for module in ('rclpy', 'torch'):
        assert run(f'{python} -c "import {module}"', tmp_path).returncode != 0
    server = subprocess.Popen(
        [f'{tmp_path}/ferros-server/bin/ferros-cloud', 'serve', '--port', '0'],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={'PATH': os.environ['PATH']},
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith('listening on 127.0.0.1:')
        assert 'ferros-fer' in server.stdout.readline()
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0


def test_a_server_of_several_processes_carries_twenty_robots(root: Path) -> None:
    command = '.venv/bin/ferros-cloud serve --workers 2 --metrics-port 9464'
    with subprocess.Popen(
        shlex.split(command), cwd=root, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == 'listening on 127.0.0.1:50051\n'
            load = run('.venv/bin/ferros-cloud load --robots 20 --rate 15', root)
        finally:
            server.terminate()
    assert load.returncode == 0, load.stderr
    assert re.search(r'unanswered +none', load.stdout)
    assert server.returncode == 0
