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
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The only files of the robot half that may know ROS.
ROS_FILES = {
    'ferros/node.py',
    'ferros/parameters.py',
    'ferros/messages.py',
    'ferros/diagnostics.py',
    'ferros/rep155.py',
    'ferros/rep155_faces.py',
    'ferros/camera_player.py',
    'ferros/bag_check.py',
    'ferros/behaviours.py',
    'ferros/comfort_behaviour.py',
}
ROS = {
    'rclpy',
    'ferros_msgs',
    'sensor_msgs',
    'std_msgs',
    'diagnostic_msgs',
    'builtin_interfaces',
    'hri_msgs',
    'rosgraph_msgs',
    'rcl_interfaces',
    'lifecycle_msgs',
    'cv_bridge',
    'launch',
    'launch_ros',
    'ament_index_python',
}


def sources(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob('*.py'))
    assert found, f'no sources in {folder}'
    return found


def imported(path: Path) -> set[str]:
    """Return the first names of all that a file imports, wherever in it, by name or by text."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: a relative import'
            names.add(str(node.module).split('.')[0])
        elif isinstance(node, ast.Call) and 'import' in ast.unparse(node.func):
            names |= {
                str(argument.value).split('.')[0]
                for argument in node.args
                if isinstance(argument, ast.Constant)
            }
    return names


def offenders(folder: str, forbidden: set[str]) -> dict[str, set[str]]:
    found = {str(path.relative_to(ROOT)): imported(path) & forbidden for path in sources(folder)}
    return {path: names for path, names in found.items() if names}


def test_the_robot_half_knows_neither_the_cloud_half_nor_torch():
    forbidden = {'cloud_server', 'torch', 'onnxruntime', 'onnx', 'demo', 'bench'}
    assert offenders('ferros', forbidden) == {}


def test_the_cloud_half_knows_neither_the_robot_half_nor_ros():
    assert offenders('cloud_server', {'ferros', 'demo', 'bench', *ROS}) == {}


def test_the_stubs_know_neither_half():
    assert offenders('ferros_proto', {'ferros', 'cloud_server', *ROS}) == {}


def test_only_the_files_meant_for_it_know_ros():
    assert set(offenders('ferros', ROS)) <= ROS_FILES


def test_nothing_is_unpickled():
    for folder in ('ferros', 'cloud_server', 'ferros_proto', 'bench', 'demo', 'tools'):
        assert (
            offenders(folder, {'pickle', 'cPickle', 'dill', 'joblib', 'shelve', 'marshal'}) == {}
        )


def modules_after(code: str) -> set[str]:
    """Return the first names of what a fresh interpreter has loaded after some code."""
    lines = [code, 'import sys', 'print(*sorted({name.split(".")[0] for name in sys.modules}))']
    command = [sys.executable, '-c', '\n'.join(lines)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


def test_serving_with_the_default_engine_loads_no_torch_no_ros_and_no_robot():
    loaded = modules_after(
        'import cloud_server.server, cloud_server.service\n'
        'from cloud_server.engine.onnx import OnnxEngine'
    )
    assert 'onnxruntime' in loaded
    assert not loaded & {'torch', 'ferros', 'onnx', 'matplotlib', *ROS}


def test_predicting_loads_no_torch_and_no_ros():
    loaded = modules_after('import cloud_server.predict')
    assert not loaded & {'torch', 'ferros', *ROS}


def test_the_robot_half_without_its_ros_files_loads_no_ros_no_torch_and_no_cloud():
    modules = [
        'ferros.' + path.stem
        for path in sources('ferros')
        if str(path.relative_to(ROOT)) not in ROS_FILES and path.stem != '__init__'
    ]
    assert {'ferros.link', 'ferros.sender', 'ferros.bandwidth', 'ferros.trace'} <= set(modules)
    loaded = modules_after('import ' + ', '.join(modules))
    assert 'cv2' in loaded
    assert not loaded & {'torch', 'onnxruntime', 'cloud_server', *ROS}


@pytest.mark.parametrize('flags', ['--help', 'serve --help', 'predict --help'])
def test_help_loads_nothing_that_it_does_not_show(flags):
    loaded = modules_after(
        'import contextlib, io\n'
        'from cloud_server.__main__ import main\n'
        'with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n'
        f'    main({flags.split()!r})'
    )
    assert 'torch' not in loaded
    if flags == '--help':
        assert not loaded & {'numpy', 'cv2', 'grpc', 'onnxruntime'}


def test_help_names_every_command_and_an_unknown_one_is_an_error():
    command = [sys.executable, '-m', 'cloud_server']
    ended = subprocess.run([*command, '--help'], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0
    for name in ('serve', 'predict', 'evaluate', 'train-image', 'train-video', 'export'):
        assert name in ended.stdout
    ended = subprocess.run([*command, 'sing'], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "'sing'" in ended.stderr


def test_a_command_whose_layer_is_not_installed_says_which(tmp_path):
    code = (
        'import sys\n'
        "sys.modules['torch'] = None\n"
        'from cloud_server.__main__ import main\n'
        "sys.exit(main(['train-image', '--help']))\n"
    )
    ended = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "'torch' is missing" in ended.stderr
    assert 'Traceback' not in ended.stderr
