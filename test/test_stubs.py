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
"""The committed stubs: made by an old compiler, they run with the oldest and newest gRPC."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OLD = ROOT / '.venv-wire' / 'bin' / 'python'
OLD_VERSIONS = ('1.51.1', '4.21.12')
STUBS = ('recognition_pb2.py', 'recognition_pb2.pyi', 'recognition_pb2_grpc.py')

pytestmark = pytest.mark.skipif(
    not OLD.exists(), reason='no .venv-wire: `make setup` makes it where there is a python3.11')


def environment() -> dict[str, str]:
    """Return an environment in which a Python sees this checkout and its own packages only."""
    dropped = ('PYTHONPATH', 'LD_LIBRARY_PATH', '_ROS_WHEELS_BOOTSTRAP_COMPLETE')
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, 'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': '1'}


def start_server(python: Path, model: Path) -> tuple[subprocess.Popen[str], str]:
    server = subprocess.Popen(
        [python, '-m', 'cloud_server', 'serve', '--port', '0', '--model', model],
        env=environment(), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    assert line.startswith('listening on '), line
    return server, line.removeprefix('listening on ').strip()


def ask(python: Path, address: str) -> dict[str, object]:
    client = subprocess.run(
        [python, ROOT / 'test' / 'wire_client.py', address], env=environment(), cwd=ROOT,
        check=True, stdout=subprocess.PIPE, text=True, timeout=90)
    return json.loads(client.stdout)


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> Path:
    pytest.importorskip('onnx')
    import tiny_model

    return tiny_model.write(tmp_path_factory.mktemp('wire') / 'model')


def test_the_committed_stubs_are_what_the_proto_file_makes(tmp_path):
    subprocess.run(
        [OLD, ROOT / 'tools' / 'make_stubs.py', tmp_path], check=True, env=environment())
    made = {path.name: path.read_text() for path in (tmp_path / 'ferros_proto').iterdir()}
    assert sorted(made) == sorted(STUBS)
    for name in STUBS:
        committed = (ROOT / 'ferros_proto' / name).read_text()
        assert made[name] == committed, f'{name} is not of this proto file: `make proto`'


@pytest.mark.parametrize(
    ('robot', 'server'), [(OLD, Path(sys.executable)), (Path(sys.executable), OLD)],
    ids=['old robot and new server', 'new robot and old server'])
def test_robot_and_server_understand_each_other_across_versions(robot, server, model):
    process, address = start_server(server, model)
    try:
        said = ask(robot, address)
    finally:
        process.terminate()
        assert process.wait(20) == 0
    versions = said['grpc'], said['protobuf']
    assert (versions == OLD_VERSIONS) == (robot == OLD)
    assert len(said['answers']) >= 5, said
    for answer in said['answers']:
        assert answer['model'] == 'tiny 0.1'
        assert len(answer['labels']) == len(answer['probabilities']) == 7
        assert sum(answer['probabilities']) == pytest.approx(1, abs=1e-5)
        best = max(zip(answer['probabilities'], answer['labels'], strict=True))[1]
        assert answer['label'] in (best, 'unknown')
