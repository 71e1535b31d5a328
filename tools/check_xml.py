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
"""Check that every XML file is well-formed: package.xml, the worlds and what tests bring along."""

from __future__ import annotations

import shutil
import subprocess
import sys
import xml.parsers.expat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
_SUFFIXES: Final = ('.xml', '.sdf', '.urdf', '.xacro')
# What is built or installed here is not ours.
_OTHERS: Final = ('build', 'install', 'log', 'out')


def files(root: Path) -> Iterator[Path]:
    """Yield the XML files of a checkout."""
    for path in sorted(root.rglob('*')):
        parts = path.relative_to(root).parts
        ours = not any(part.startswith('.') or part in _OTHERS for part in parts)
        if ours and path.suffix in _SUFFIXES and path.is_file():
            yield path


def problem(path: Path) -> str:
    """Return why a file is not well-formed; empty where it is."""
    try:
        xml.parsers.expat.ParserCreate().Parse(path.read_bytes(), True)
    except xml.parsers.expat.ExpatError as error:
        return str(error)
    # A second opinion where there is one; it never asks the network for a schema.
    if shutil.which('xmllint'):
        command = ['xmllint', '--noout', '--nonet', str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        return ' '.join(done.stderr.split()) if done.returncode else ''
    return ''


def run(paths: Sequence[Path]) -> int:
    """Check files, print what is wrong, and return 1 where something is."""
    failed = 0
    for path in paths:
        if found := problem(path):
            print(f'{path}: {found}', file=sys.stderr)
            failed = 1
    return failed


if __name__ == '__main__':
    sys.exit(run([Path(name) for name in sys.argv[1:]] or list(files(ROOT))))
