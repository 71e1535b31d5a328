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
"""What colcon, rosdep and pip read of the two packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MANIFESTS = ('package.xml', 'ferros_msgs/package.xml')
# What the robot half may need from the distribution: all of it has a rosdep key.
ROBOT_NEEDS = {
    'cv_bridge', 'diagnostic_msgs', 'ferros_msgs', 'launch_ros', 'py_trees', 'rcl_interfaces',
    'rclpy', 'rosgraph_msgs', 'sensor_msgs',
    'std_msgs', 'python3-grpcio', 'python3-numpy', 'python3-opencv', 'python3-protobuf',
    'python3-yaml',
}
PROGRAMS = ('bag_check', 'camera_player', 'comfort_behaviour', 'emotion_node', 'link_check')
CLOUD_ONLY = ('onnxruntime', 'torch', 'tqdm', 'matplotlib', 'safetensors', 'ray')


def parse(root: Path, manifest: str):
    package = pytest.importorskip('catkin_pkg.package')
    warnings: list[str] = []
    parsed = package.parse_package(str(root / manifest), warnings=warnings)
    assert warnings == []
    return parsed


def read_setup(root: Path, *options: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', 'setup.py', '--quiet', *options], cwd=root, check=True,
        capture_output=True, text=True)
    return run.stdout.split()


@pytest.mark.parametrize('manifest', MANIFESTS)
def test_a_manifest_is_one_that_colcon_takes_for_a_ros_package(root, manifest):
    package = parse(root, manifest)
    assert package.package_format == 3
    assert package.licenses == ['Apache-2.0']
    assert (root / manifest).with_name(package.licenses[0].file).is_file()
    build_type = {'package.xml': 'ament_python', 'ferros_msgs/package.xml': 'ament_cmake'}
    assert package.get_build_type() == build_type[manifest]


def test_all_versions_agree(root):
    versions = {parse(root, manifest).version for manifest in MANIFESTS}
    versions.add(read_setup(root, '--version')[0])
    assert len(versions) == 1
    assert f'## {versions.pop()}' in (root / 'CHANGELOG.md').read_text()


def test_the_robot_half_needs_packages_of_the_distribution_only(root):
    needs = {need.name for need in parse(root, 'package.xml').exec_depends}
    assert needs >= ROBOT_NEEDS
    assert not [need for need in needs if any(name in need for name in CLOUD_ONLY)]


def test_the_messages_are_generated_from_all_message_files(root):
    listed = re.findall(r'msg/\w+\.msg', (root / 'ferros_msgs' / 'CMakeLists.txt').read_text())
    there = [f'msg/{path.name}' for path in (root / 'ferros_msgs' / 'msg').iterdir()]
    assert sorted(listed) == sorted(there)
    assert 'rosidl_interface_packages' in [
        group.name for group in parse(root, 'ferros_msgs/package.xml').member_of_groups]


def test_an_installation_has_every_launch_file_parameter_file_and_package(root, tmp_path):
    target = tmp_path / 'installed' / 'usr'
    shutil.copytree(root, tmp_path / 'source', ignore=shutil.ignore_patterns(
        '.*', 'build', 'install', 'log', 'out', '*.egg-info', '__pycache__'))
    subprocess.run(
        [sys.executable, '-W', 'ignore', 'setup.py', '--quiet', 'install', '--prefix', '/usr',
         '--root', str(target.parent), '--single-version-externally-managed', '--no-compile'],
        cwd=tmp_path / 'source', check=True, capture_output=True)
    files = {str(path.relative_to(target)) for path in target.rglob('*') if path.is_file()}
    site = next(path for path in files if path.endswith('ferros_proto/__init__.py'))
    site = site.removesuffix('ferros_proto/__init__.py')

    expected = {'share/ament_index/resource_index/packages/ferros', 'share/ferros/package.xml'}
    expected |= {f'share/ferros/launch/{path.name}' for path in (root / 'launch').glob('*.py')}
    expected |= {f'share/ferros/config/{path.name}' for path in (root / 'config').glob('*.*')}
    worlds = [*(root / 'worlds').glob('*.sdf'), *(root / 'worlds').glob('textures/*.png')]
    assert worlds
    expected |= {f'share/ferros/{path.relative_to(root)}' for path in worlds}
    for package in ('ferros', 'ferros_proto', 'cloud_server'):
        expected |= {
            site + str(path.relative_to(root)) for path in (root / package).rglob('*.py')}
    # What colcon looks for: `ros2 run` finds programs in lib/ferros only.
    expected |= {f'lib/ferros/{name}' for name in PROGRAMS}
    for models in ('cloud_server/weights', 'ferros/models'):
        expected |= {
            site + str(path.relative_to(root)) for path in (root / models).rglob('*')
            if path.suffix in ('.onnx', '.json', '.md', '.yaml') or path.name == 'LICENSE'}
    templates = (root / 'cloud_server' / 'training').glob('*.j2')
    expected |= {site + str(path.relative_to(root)) for path in templates}

    assert expected - files == set()
    assert not [path for path in files if path.startswith((site + 'test', site + 'demo'))]

    code = 'from ferros import accuracy_grid; print(accuracy_grid.default_path())'
    found = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, check=True, capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': str(target / site)})
    assert found.stdout.strip() == str(target / 'share/ferros/config/operating_points.yaml')


def test_every_program_and_entry_point_exists(root):
    metadata = pytest.importorskip('importlib.metadata')
    try:
        ferros = metadata.distribution('ferros')
    except metadata.PackageNotFoundError:
        pytest.skip('the checkout is not installed')
    entry_points = {entry_point.name: entry_point for entry_point in ferros.entry_points}
    assert set(entry_points) == {
        *PROGRAMS, 'ferros-cloud', 'ferros-link-check', 'default',
    }
    assert entry_points['default'].group == 'ferros.face_source'
    for entry_point in entry_points.values():
        module = entry_point.module.replace('.', '/') + '.py'
        assert re.search(rf'^(def|class) {entry_point.attr}\b', (root / module).read_text(), re.M)


@pytest.mark.skipif(
    not os.environ.get('FERROS_VENV'), reason='wants the environment of .venv (make test)')
def test_colcon_finds_and_builds_both_packages_inside_a_clone(root, tmp_path):
    clone = tmp_path / 'clone'
    shutil.copytree(root, clone, ignore=shutil.ignore_patterns(
        '.*', 'build', 'install', 'log', 'out', '*.egg-info', '__pycache__'))
    env = {**os.environ, 'COLCON_HOME': str(tmp_path / 'no_settings_of_the_user')}
    colcon = shutil.which('colcon')
    assert colcon is not None
    listed = subprocess.run(
        [colcon, 'list', '--names-only'], cwd=clone, env=env, check=True, capture_output=True,
        text=True)
    assert listed.stdout.split() == ['ferros', 'ferros_msgs']

    built = subprocess.run(
        [colcon, 'build', '--cmake-args', '-G', 'Ninja', '-DBUILD_TESTING=OFF',
         f'-DPython3_EXECUTABLE={sys.executable}'],
        cwd=clone, env=env, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True)
    assert built.returncode == 0, built.stdout
    assert 'Summary: 2 packages finished' in built.stdout

    found = subprocess.run(
        ['sh', '-c', '. install/setup.sh && python -c "import ferros_msgs.msg, ferros.types;'
         'from ament_index_python import get_package_share_directory as share;'
         'print(share(\'ferros\'), share(\'ferros_msgs\'))"'],
        cwd=clone, env=env, check=True, capture_output=True, text=True)
    install = clone / 'install'
    assert found.stdout.split() == [
        str(install / 'ferros/share/ferros'), str(install / 'ferros_msgs/share/ferros_msgs')]
