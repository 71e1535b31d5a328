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
"""
Check worlds/*.sdf with libsdformat, the library that Gazebo reads them with.

It is taken from wherever it is: Gazebo's own command `gz sdf`, else the library of Debian or
Ubuntu (libsdformat12-12 and sdformat-sdf). Elements that the library does not know are refused
too, which it would not do itself: a misspelt one would have no effect, and nobody would be told.

The exit status is 0, 1 where a world is no good, 77 where there is no libsdformat.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
NO_LIBRARY: Final = 77
# The versions that know SDF 1.9.
_VERSIONS: Final = range(16, 11, -1)
# In SDF 1.9 only since libsdformat 12.7, while Debian 12 has 12.3.
_NEWER: Final = {'camera_info_topic', 'optical_frame_id'}
_UNKNOWN: Final = re.compile(r'XML Element\[(\w+)\].*?child of element\[(\w+)\].*?not defined')


def find_library() -> str:
    """Return a libsdformat that has the check of `gz sdf`; empty: there is none."""
    for version in _VERSIONS:
        name = ctypes.util.find_library(f'sdformat{version}')
        if name and hasattr(ctypes.CDLL(name), 'cmdCheck'):
            return name
    return ''


def has_gazebo() -> bool:
    """Tell whether Gazebo's command is there and can check files."""
    gz = shutil.which('gz')
    home = os.environ.get('HOME', '/')
    return gz is not None and 'sdf' in _run([gz, '--commands'], home)[1].split()


def problems(path: Path) -> list[str]:
    """
    Return what is wrong with a world, one line each.

    Raises:
        RuntimeError: there is neither Gazebo nor libsdformat.

    """
    library = find_library()
    with tempfile.TemporaryDirectory() as home:
        if library:
            command = [sys.executable, __file__, '--call', library, str(path)]
        elif has_gazebo():
            command = ['gz', 'sdf', '-k', str(path)]
        else:
            raise RuntimeError('there is no libsdformat')
        # The library writes what it does not know into a log below HOME.
        status, said = _run(command, home)
        log = '\n'.join(file.read_text(errors='replace') for file in Path(home).rglob('*.log'))
    if status or 'Valid.' not in said:
        return [line for line in said.splitlines() if 'rror' in line] or [said]
    strange = {match for match in _UNKNOWN.findall(log + said) if match[0] not in _NEWER}
    return [f'<{name}> in <{parent}> is nothing that SDF knows' for name, parent in strange]


def _run(command: list[str], home: str) -> tuple[int, str]:
    done = subprocess.run(
        command, env={**os.environ, 'HOME': home}, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def _call(library: str, path: str) -> int:
    check = ctypes.CDLL(library).cmdCheck
    check.argtypes = [ctypes.c_char_p]
    check.restype = ctypes.c_int
    return 1 if check(path.encode()) else 0


def main() -> int:
    """Check the worlds and return the exit status."""
    if sys.argv[1:2] == ['--call']:
        return _call(*sys.argv[2:4])
    failed = 0
    for path in sorted((ROOT / 'worlds').glob('*.sdf')):
        try:
            found = problems(path)
        except RuntimeError as error:
            print(f'ferros: the worlds were not checked: {error}')
            return NO_LIBRARY
        for problem in found:
            print(f'{path.relative_to(ROOT)}: {problem}', file=sys.stderr)
        failed |= bool(found)
    return failed


if __name__ == '__main__':
    sys.exit(main())
