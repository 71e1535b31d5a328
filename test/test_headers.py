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

import subprocess
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
# What the compiler makes.
EXEMPT = ('ferros_proto/recognition_pb2.py', 'ferros_proto/recognition_pb2_grpc.py')


def sources() -> list[str]:
    """Return the files that are, or are about to be, in the repository, by their relative path."""
    listed = subprocess.run(
        ['git', 'ls-files', '--cached', '--others', '--exclude-standard'], cwd=ROOT, check=False,
        capture_output=True, text=True)
    if listed.returncode:
        return []
    return [name for name in listed.stdout.splitlines()
            if (ROOT / name).is_file() and comment_of(name) and name not in EXEMPT]


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
    if not (ROOT / '.git').exists():
        pytest.skip('not a git checkout')
    assert {'setup.py', 'ferros/types.py', 'proto/ferros/v1/recognition.proto'} <= set(sources())
