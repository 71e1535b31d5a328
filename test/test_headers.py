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
"""Every source file names its licence, in the form that the ament linters read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
Copyright 2026 The ferros developers

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
"""
COMMENT = {
    '.py': '#', '.sh': '#', '.msg': '#', '.cmake': '#', '.proto': '//', '.cpp': '//',
    'Makefile': '#', 'CMakeLists.txt': '#', 'run': '#',
}
# Folders of what is built here, and files that the compiler makes.
MADE = ('build', 'install', 'log', 'out', '__pycache__')
EXEMPT = ('ferros_proto/recognition_pb2.py', 'ferros_proto/recognition_pb2_grpc.py')


def sources() -> list[str]:
    """Return the source files of this checkout by their relative paths."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name == '.ci' or not (
            name.startswith('.') or name in MADE or name.endswith('.egg-info'))]
        found += [str((Path(folder) / name).relative_to(ROOT)) for name in files]
    return sorted(name for name in found if comment_of(name) and name not in EXEMPT)


def comment_of(name: str) -> str | None:
    path = Path(name)
    return COMMENT.get(path.suffix) or COMMENT.get(path.name)


@pytest.mark.parametrize('name', sources())
def test_a_source_file_begins_with_the_licence_header(name):
    comment = comment_of(name)
    expected = ''.join(f'{comment} {line}'.rstrip() + '\n' for line in HEADER.splitlines())
    text = (ROOT / name).read_text()
    if text.startswith('#!'):
        text = text.split('\n', 1)[1]
    assert text.startswith(expected)


def test_there_are_source_files_to_look_at():
    assert {'.ci/run', 'setup.py', 'ferros/types.py', 'proto/ferros/v1/recognition.proto',
            'ferros_msgs/msg/Emotion.msg', 'tools/setup.sh'} <= set(sources())
