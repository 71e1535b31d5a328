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
"""What the ament linters would find in a file, `make lint` finds too."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
needs_ruff = pytest.mark.skipif(
    importlib.util.find_spec('ruff') is None, reason='ruff is not installed'
)


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found_in(folder: Path, contents: Mapping[str, str]) -> dict[str, set[str]]:
    """
    Return the rules that the two calls of ruff in `make lint` find broken, for each content.

    contents: name -> what is in a file of ours; not a test file, those need no docstrings.
    """
    names = {}
    for index, (name, content) in enumerate(contents.items()):
        names[f'module_{index}.py'] = name
        (folder / f'module_{index}.py').write_text(content)
    rules: dict[str, set[str]] = {name: set() for name in contents}
    for command in (
        [sys.executable, '-m', 'ruff', 'check', '--config', str(ROOT / 'pyproject.toml')],
        [sys.executable, str(ROOT / 'tools' / 'check_ament.py')],
    ):
        done = subprocess.run(
            [*command, str(folder)], cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, 'RUFF_OUTPUT_FORMAT': 'json'},
        )
        for item in json.loads(done.stdout):
            rules[names[Path(item['filename']).name]].add(item['code'])
    return rules


GOOD = textwrap.dedent('''\
    """A file."""

    import math


    def root(value: float) -> float:
        """
        Return the root of a value.

        Raises:
            ValueError: it is negative.

        """
        return math.sqrt(value)
    ''')
# A fault -> how ruff calls it. The first part is ament_flake8's, the second ament_pep257's.
FAULTS = {
    'x  = 1': 'E221',
    'x=1': 'E225',
    'x = (1,2)': 'E231',
    'x = ( 1, 2)': 'E201',
    'x = dict (a=1)': 'E211',
    'x = dict(a = 1)': 'E251',
    'x = 1 # one': 'E261',
    'x = 1  #one': 'E262',
    '#comment': 'E265',
    'import  math': 'E271',
    'if True:\n   x = 1': 'E111',
    'x = 1\ndef f():\n    return 1': 'E302',
    'x = 1\n\n\n\ny = 2': 'E303',
    'def f():\n    return 1\nx = 1': 'E305',
    'class A:\n    def f(self):\n        return 1\n    def g(self):\n        return 1': 'E301',
    'import math, os': 'E401',
    'x = 1\nimport math': 'E402',
    f'x = {"1" * 100}': 'E501',
    'x = 1; y = 2': 'E702',
    'x = 1\nif x == None:\n    pass': 'E711',
    'if not 1 in (1,):\n    pass': 'E713',
    'if type(1) == type(2):\n    pass': 'E721',
    'try:\n    x = 1\nexcept:\n    pass': 'E722',
    'x = lambda: 1': 'E731',
    'l = 1': 'E741',
    'x = 1 ': 'W291',
    'x = 1\n    \ny = 1': 'W293',
    'x = 1\n\n': 'W391',
    "x = '\\d'": 'W605',
    'import math': 'F401',
    'x = y': 'F821',
    'def f():\n    x = 1': 'F841',
    'x = "double"': 'Q000',
    'x = list([1])': 'C410',
    'x = dict(a=1)': 'C408',
    'import os\nimport math\nprint(os, math)': 'I001',
    'def f(x=[]):\n    return x': 'B006',
}
DOCSTRINGS = {
    '"""No period"""': 'D400',
    '"""Returns the root."""': 'D401',
    '""" Return the root."""': 'D210',
    '"""\n    Return the root.\n\n    It is positive."""': 'D209',
    '"""Return the root.\n    It is positive.\n    """': 'D205',
    '"""Return the root.\n\n    It is positive.\n    """': 'D213',
    "'''Return the root.'''": 'D300',
    '"""root(value) is the root."""': 'D402',
    '\n    """Return the root."""': 'D201',
    '"""Return the root."""\n\n    return 1': 'D202',
}


def with_docstring(docstring: str) -> str:
    return f'"""A file."""\n\n\ndef root(value):\n    {docstring}\n'


@pytest.fixture(scope='module')
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Return the broken rules of all files, by their content; ruff is started twice, for all."""
    contents = [GOOD, *(f'{fault}\n' for fault in FAULTS), *map(with_docstring, DOCSTRINGS)]
    return found_in(tmp_path_factory.mktemp('ours'), {content: content for content in contents})


@needs_ruff
def test_a_file_as_ours_are_is_fine(broken: dict[str, set[str]]) -> None:
    assert broken[GOOD] == set()


@needs_ruff
@pytest.mark.parametrize(('fault', 'rule'), FAULTS.items(), ids=FAULTS.values())
def test_a_fault_of_style_is_found(
    broken: dict[str, set[str]], fault: str, rule: str
) -> None:
    assert rule in broken[f'{fault}\n']


@needs_ruff
@pytest.mark.parametrize(('docstring', 'rule'), DOCSTRINGS.items(), ids=DOCSTRINGS.values())
def test_a_fault_of_a_docstring_is_found(
    broken: dict[str, set[str]], docstring: str, rule: str
) -> None:
    assert rule in broken[with_docstring(docstring)]


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        ('<sdf><world></sdf>', 'mismatched tag'),
        ('<sdf a=1/>', 'not well-formed'),
        ('', 'no element found'),
        ('<sdf>&nothing;</sdf>', 'undefined entity'),
    ],
)
def test_xml_that_is_not_well_formed_is_found(
    tmp_path: Path, content: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'wrong.sdf'
    path.write_text(content)
    assert tool('check_xml').run([path]) == 1
    complaint = capsys.readouterr().err
    assert str(path) in complaint and reason in complaint


def test_every_xml_file_of_ours_is_looked_at_and_is_well_formed() -> None:
    checks = tool('check_xml')
    found = {str(path.relative_to(ROOT)) for path in checks.files(ROOT)}
    assert {'package.xml', 'ferros_msgs/package.xml', 'worlds/fer.sdf'} <= found
    assert checks.run([ROOT / name for name in found]) == 0
