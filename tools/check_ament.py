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
Check what the ament linters check; those themselves come with a ROS distribution, not from PyPI.

    ament_flake8     ruff with the rules of pyproject.toml (E4 to E9, W, F, B, C4, Q), and here the
                     layout rules E1 to E3 and W391
    ament_pep257     ruff's D with ament's selection, here; tests have names instead of docstrings
    ament_copyright  test/test_headers.py
    ament_xmllint    tools/check_xml.py, and tools/check_manifests.py for package.xml

Left out on purpose: the import order of Google (I100, I101; ours is ruff's isort), the dashed
underlines of sections (D406, D407, D413; ours are Google's `Raises:`), the blank line after every
`class` (CNL100), names of builtins (A001 to A005: types.py, a method `open`), a space before the
colon of a slice (E203).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SELECTED: Final = ('E1', 'E2', 'E3', 'W391', 'D2', 'D3', 'D4')
# E226 and E24 are off in pycodestyle itself; D203, D212 and D404 in ament; D42 is ruff's alone.
LEFT_OUT: Final = (
    'E203', 'E226', 'E24', 'D203', 'D212', 'D404', 'D406', 'D407', 'D413', 'D42',
)


def run(paths: Sequence[str]) -> int:
    """Check files or folders, print what is wrong, and return ruff's exit status."""
    command = [
        'ruff', 'check', '--config', str(ROOT / 'pyproject.toml'), '--preview', '--quiet',
        '--select', ','.join(SELECTED), '--ignore', ','.join(LEFT_OUT), *paths,
    ]
    environment = {'RUFF_OUTPUT_FORMAT': 'concise', **os.environ}
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == '__main__':
    sys.exit(run(sys.argv[1:] or ['.']))
