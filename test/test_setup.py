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
"""The set-up: what it refuses in one line, and that its locks are complete and installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# tools/ is for scripts and no package.
_spec = importlib.util.spec_from_file_location('install', ROOT / 'tools' / 'install.py')
assert _spec is not None and _spec.loader is not None
install = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(install)

PYTHONS = ('3.10', '3.11', '3.12', '3.13')
LOCKS = ('run', 'dev')


def pins(python: str, *names: str) -> dict[str, str]:
    locked: dict[str, str] = {}
    for name in names:
        for pin in install.read_lock(ROOT / 'requirements' / f'{name}.lock', python):
            assert pin.name not in locked, f'{pin.name} is pinned twice for Python {python}'
            locked[pin.name] = pin.version
    return locked


@pytest.fixture
def bare(tmp_path) -> Path:
    """Return a copy of what the set-up reads; its bin/ is a PATH without a compiler."""
    for name in ('tools', 'requirements', 'ferros_msgs'):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ('setup.py', 'setup.cfg', 'Makefile'):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / 'bin').mkdir()
    for program in ('sh', 'cat', 'cksum', 'dirname', 'sed', 'uname', 'make', 'date'):
        (tmp_path / 'bin' / program).symlink_to(shutil.which(program) or pytest.skip(program))
    fake(tmp_path, 'id', 'echo 1000')
    fake(tmp_path, 'apt-get', 'exit 99')
    fake(tmp_path, 'python3', f'exec {sys.executable} "$@"')
    return tmp_path


def fake(bare: Path, program: str, script: str) -> None:
    path = bare / 'bin' / program
    path.unlink(missing_ok=True)
    path.write_text(f'#!/bin/sh\n{script}\n')
    path.chmod(0o755)


def make_setup(bare: Path, *arguments: str, **environment: str) -> tuple[int, list[str]]:
    run = subprocess.run(
        ['make', '--no-print-directory', 'setup-run', *arguments], cwd=bare, check=False,
        env={'PATH': str(bare / 'bin'), 'HOME': str(bare), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = [line for line in run.stdout.splitlines() if not line.startswith('make: ')]
    assert not (bare / '.venv').exists()
    return run.returncode, lines


@pytest.mark.skipif(sys.version_info >= (3, 14), reason='another Python is refused before that')
def test_without_a_compiler_one_line_says_what_to_install(bare):
    status, lines = make_setup(bare)
    assert status
    assert len(lines) == 1
    assert re.search(r'sudo apt install g\+\+', lines[0])


def test_where_python_is_missing_one_line_says_what_to_install(bare):
    (bare / 'bin' / 'python3').unlink()
    status, lines = make_setup(bare)
    assert status
    assert len(lines) == 1
    assert lines[0].endswith('sudo apt install python3 python3-venv python3-dev g++')


@pytest.mark.parametrize(
    ('system', 'machine'), [('Darwin', 'arm64'), ('Linux', 'aarch64'), ('Linux', 'riscv64')])
def test_another_platform_gets_one_line(bare, system, machine):
    fake(bare, 'uname', f'[ "$1" = -s ] && echo {system} || echo {machine}')
    status, lines = make_setup(bare)
    assert status
    assert len(lines) == 1
    assert f'Linux x86-64 only, this is {system} {machine}' in lines[0]


@pytest.mark.parametrize('arguments', [(), ('PYTHON=python3',)])
def test_another_python_gets_one_line(bare, arguments):
    fake(bare, 'python3', '[ "$1" = --version ] && echo Python 3.14.1; exit 1')
    status, lines = make_setup(bare, *arguments)
    assert status
    assert len(lines) == 1
    assert '3.10 to 3.13 is needed' in lines[0]
    assert 'Python 3.14.1' in lines[0]


def test_where_a_distribution_is_sourced_nothing_is_installed_over_it(bare):
    status, lines = make_setup(bare, ROS_DISTRO='lyrical')
    assert status
    assert 'lyrical' in lines[0]
    assert any('colcon build' in line for line in lines)


def test_the_environment_of_another_checkout_counts_as_a_distribution(bare):
    status, lines = make_setup(bare, ROS_DISTRO='jazzy', FERROS_VENV='/elsewhere/.venv')
    assert status
    assert 'jazzy' in lines[0]


def test_no_python_version_gets_a_package_twice():
    for python in PYTHONS:
        assert pins(python, *LOCKS)


def test_the_layer_for_the_demo_has_no_torch():
    for python in PYTHONS:
        assert 'torch' not in pins(python, 'run')
        assert pins(python, *LOCKS)['torch'] == '2.13.0'


def test_the_lock_has_everything_that_its_packages_ask_for():
    if Path(sys.prefix) != install.VENV:
        pytest.skip('wants the environment of .venv (make test)')
    requirements = pytest.importorskip('packaging.requirements')
    # Pinned without what they ask for, on purpose (see run.in).
    alone = {'scikit-image', 'cv-bridge'}
    locked = pins(f'{sys.version_info[0]}.{sys.version_info[1]}', *LOCKS)
    lacking = []
    for name in sorted(set(locked) - alone):
        for text in importlib.metadata.requires(name) or ():
            need = requirements.Requirement(text)
            if need.marker is not None and not need.marker.evaluate({'extra': ''}):
                continue
            wanted = re.sub(r'[-_.]+', '-', need.name).lower()
            version = locked.get(wanted)
            # torch brings its CUDA libraries itself where it is the one for GPUs.
            if name != 'torch' and (version is None or version not in need.specifier):
                lacking.append(f'{name} wants {need}, locked is {version}')
    assert lacking == []


def test_the_environment_is_what_the_lock_says():
    if Path(sys.prefix) != install.VENV:
        pytest.skip('wants the environment of .venv (make test)')
    version = f'{sys.version_info[0]}.{sys.version_info[1]}'
    locked = [pin for name in LOCKS
              for pin in install.read_lock(ROOT / 'requirements' / f'{name}.lock', version)]
    assert install.missing(locked, install.VENV) == []


def test_an_installation_that_was_cut_short_counts_as_missing(tmp_path):
    site = tmp_path / 'lib' / 'python3.11' / 'site-packages'
    for name in ('whole', 'cut_short'):
        folder = site / f'{name}-1.0.dist-info'
        folder.mkdir(parents=True)
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')
        (folder / 'RECORD').write_text('what the wheel came with')
    (site / 'whole-1.0.dist-info' / 'INSTALLER').write_text('pip\n')
    wanted = [install.Pin(name, '1.0', 1.0) for name in ('whole', 'cut-short')]
    assert install.missing(wanted, tmp_path) == [wanted[1]]
    install.forget_cut_short(tmp_path)
    assert [path.name for path in site.iterdir()] == ['whole-1.0.dist-info']


@pytest.mark.skipif(
    not os.environ.get('FERROS_VENV'), reason='wants the environment of .venv (make test)')
def test_cmake_comes_from_pypi():
    assert Path(shutil.which('cmake') or '').parent == install.BIN


def steps_of(layer: str, monkeypatch) -> list[str]:
    """Return the names of the steps that a layer's set-up does, none of which is done."""
    steps: list[str] = []
    for name in ('tell_sizes', 'make_venv', 'install', 'mend_cmake_exports', 'build_messages',
                 'build_test_messages', 'install_checkout', 'make_wire'):
        monkeypatch.setattr(install, name, lambda *_, name=name: steps.append(name))
    monkeypatch.setattr(install, 'ENV_SH', '')
    monkeypatch.setattr(install, 'missing', lambda *_: [])
    monkeypatch.setattr(install.Path, 'write_text', lambda *_: 0)
    install.set_up(layer)
    return steps


def test_the_messages_that_only_tests_need_are_no_part_of_the_demos_layer(monkeypatch):
    assert 'build_test_messages' not in steps_of('run', monkeypatch)
    assert 'build_test_messages' in steps_of('dev', monkeypatch)
    assert 'ros-test' not in install.ENV_SH


def test_a_changed_message_for_tests_has_the_tests_layer_made_again_and_no_other():
    script = (ROOT / 'tools' / 'setup.sh').read_text()
    run, dev = (re.search(rf'^ +{layer}\) more=(.*?) ;;$', script, re.M | re.S)[1]
                for layer in ('run', 'dev'))
    assert 'test/' not in run
    patterns = [pattern for pattern in dev.strip("'").split() if pattern.startswith('test/')]
    watched = {path for pattern in patterns for path in ROOT.glob(pattern)}
    assert watched == {path for path in (ROOT / 'test' / 'interfaces').rglob('*')
                       if path.is_file() and path.suffix != '.md'}


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """Return an environment of this Python, and make the set-up work on it."""
    venv = tmp_path / 'venv'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', venv], check=True)
    for name, path in (('VENV', venv), ('BIN', venv / 'bin'), ('ROS_TEST', venv / 'ros-test')):
        monkeypatch.setattr(install, name, path)
    (venv / 'lib').mkdir(exist_ok=True)
    return venv


def put(package: str, folder: Path) -> None:
    (folder / package).mkdir(parents=True)
    (folder / package / '__init__.py').write_text('')


def test_where_the_real_hri_msgs_is_installed_the_one_for_tests_is_not_built(tiny, monkeypatch):
    version = f'{sys.version_info[0]}.{sys.version_info[1]}'
    built = []
    monkeypatch.setattr(install, 'build_interfaces', lambda *given: built.append(given))
    site = tiny / install.site_of(version)
    # The one for tests, as it is built: it does not stand in its own way.
    put('hri_msgs', tiny / 'ros-test' / install.site_of(version))
    (site / 'hri_msgs.pth').write_text(f'{tiny / "ros-test" / install.site_of(version)}\n')
    library = tiny / 'lib' / 'libhri_msgs__rosidl_typesupport_c.so'
    library.symlink_to(tiny / 'ros-test' / 'lib' / library.name)
    # A folder of that name is no package.
    (site / 'hri_msgs').mkdir()
    install.build_test_messages(version)
    assert built == [(install.HRI_MSGS, tiny / 'ros-test', version)]
    put('hri_msgs', tiny / 'real')
    (site / 'real.pth').write_text(f'{tiny / "real"}\n')
    install.build_test_messages(version)
    assert len(built) == 1
    assert not (tiny / 'ros-test').exists()
    assert not (site / 'hri_msgs.pth').exists() and not library.is_symlink()
