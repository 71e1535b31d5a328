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
"""Fixtures that more than one test file needs."""

from __future__ import annotations

import ast
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What parts of ours need: the cloud half is optional on a robot.
NEEDS = {
    'certificates': 'cryptography', 'cloud_server': 'onnxruntime',
    'demo.processes': 'onnxruntime', 'tiny_model': 'onnx',
    'cloud_server.training.report': 'jinja2', 'cloud_server.training.card': 'jinja2',
    'cloud_server.training.search': 'optuna', 'study_smoke': 'torch',
}


def _is_used(part: str, imported: set[str]) -> bool:
    return any(f'{name}.'.startswith(f'{part}.') for name in imported)


def _missing(path: Path) -> set[str]:
    """Return the modules that a test file needs and that are not installed."""
    imported = set()
    for statement in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(statement, ast.Import):
            imported |= {name.name for name in statement.names}
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            imported |= {f'{statement.module}.{name.name}' for name in statement.names}
    needed = {name.partition('.')[0] for name in imported}
    needed |= {module for part, module in NEEDS.items() if _is_used(part, imported)}
    ours = {path.stem for path in Path(__file__).parent.glob('*.py')}
    return {name for name in needed - ours if importlib.util.find_spec(name) is None}


# colcon runs the tests on a robot that has no cloud half: those files are left out, and said.
LEFT_OUT = {path.name: _missing(path) for path in Path(__file__).parent.glob('test_*.py')}
LEFT_OUT = {name: missing for name, missing in LEFT_OUT.items() if missing}
collect_ignore = list(LEFT_OUT)


def pytest_report_header() -> list[str]:
    return [
        f'NOT RUN: {name} needs {", ".join(sorted(missing))}'
        for name, missing in sorted(LEFT_OUT.items())
    ]


@pytest.fixture(scope='session')
def root() -> Path:
    return ROOT


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Return the folder of shared test data, or skip where it is missing."""
    folder = Path(os.environ.get('FERROS_TEST_DATA') or ROOT.parent / 'shared')
    if not (folder / 'data').is_dir():
        pytest.skip(f'test data not found at {folder}; set FERROS_TEST_DATA to its folder')
    return folder


@pytest.fixture(scope='module')
def domain_id() -> Iterator[int]:
    """Return a ROS domain that no other run on this machine has."""
    from demo import processes

    with processes.own_domain() as domain_id:
        yield domain_id


@pytest.fixture(scope='module')
def server_address(
    tmp_path_factory: pytest.TempPathFactory, domain_id: int
) -> Iterator[str]:
    """Return the address of a real server in a process of its own."""
    from demo import processes

    log = tmp_path_factory.mktemp('server') / 'log'
    with processes.server(log, processes.environment(domain_id)) as (address, _):
        yield address


@pytest.fixture(scope='session')
def happy() -> Any:
    """Return an image with a smiling face."""
    from demo import clip

    try:
        return next(image for time_s, image in clip.frames() if time_s >= 3.0)
    except RuntimeError as error:
        pytest.skip(f'the portrait of scikit-image is not there: {error}')


@pytest.fixture(scope='module')
def one_thread() -> Iterator[None]:
    """Let OpenCV compute on one core: a second one costs more than it brings for one face."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)
