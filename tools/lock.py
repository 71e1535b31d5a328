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
Make the lock files in requirements/ from the .in files beside them (`make lock`).

A lock file is a complete list of pins, one per line, with the size of its download, for Linux on
x86-64. Where Pythons need different versions, a marker says which. It is meant for
`pip install --no-deps`: nothing is resolved when it is installed.

The resolving is done by uv, in an environment of its own that is thrown away afterwards.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

UV_VERSION = '0.13.9'
PYTHONS = ('3.10', '3.11', '3.12', '3.13')
PLATFORM = 'x86_64-manylinux_2_28'
REQUIREMENTS = Path(__file__).resolve().parent.parent / 'requirements'

# What torch's wheel for the CPU asks for. torch itself is not given to uv: the wheel it would find
# asks for gigabytes of CUDA libraries, and they would enter the lock.
TORCH_NEEDS = ['filelock', 'fsspec', 'jinja2', 'networkx', 'sympy', 'typing-extensions']
TORCH_CPU_MB = 191.8

HEADER = """\
# Made by `make lock` from {source}; do not edit.
# Python {pythons} on Linux x86-64. Download: about {size_mb:.0f} MB. Installed with --no-deps.
"""

# One pinned package: (name, version).
Pin = tuple[str, str]
# Download size of each pin in bytes.
Sizes = dict[Pin, int]


def resolve(uv: Path, requirements: list[str], known: Sizes, python: str,
            *, no_deps: bool = False) -> Sizes:
    """Return the pins that fulfil the requirements on one Python beside what is known."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'requirements.in')
        source.write_text('\n'.join(requirements) + '\n')
        constraints = Path(folder, 'constraints.txt')
        constraints.write_text(''.join(f'{name}=={version}\n' for name, version in known))
        target = Path(folder, 'pylock.toml')
        command = [str(uv), 'pip', 'compile', '--quiet', '--no-config', '--no-header',
                   '--no-annotate', '--format', 'pylock.toml', '--python-version', python,
                   '--python-platform', PLATFORM, '--constraint', str(constraints),
                   '--output-file', str(target), str(source)]
        if no_deps:
            command.append('--no-deps')
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return read_pylock(target)


def read_pylock(path: Path) -> Sizes:
    """Read the pins and their sizes from a lock file in the standard format (PEP 751)."""
    tomllib = import_module('tomllib')  # From Python 3.11 on: main() has seen to it.
    sizes: Sizes = {}
    for package in tomllib.loads(path.read_text())['packages']:
        files: list[dict[str, Any]] = package.get('wheels') or [package['sdist']]
        # Several wheels may fit; pip takes one of them. The largest is near enough.
        sizes[package['name'], package['version']] = max(file['size'] for file in files)
    return sizes


def read_in(path: Path) -> tuple[list[str], list[str], str]:
    """Return the requirements with dependencies, those without, and torch's version."""
    with_deps: list[str] = []
    no_deps: list[str] = []
    torch = ''
    for line in path.read_text().splitlines():
        requirement = line.split('#')[0].strip()
        if requirement.startswith('torch=='):
            torch = requirement.removeprefix('torch==')
            with_deps += TORCH_NEEDS
        elif requirement:
            (no_deps if line.endswith('# no-deps') else with_deps).append(requirement)
    return with_deps, no_deps, torch


def marker(found: list[str], pythons: tuple[str, ...]) -> str:
    """Return the condition, with its separator, under which a pin holds; empty: always."""
    if len(found) == len(pythons):
        return ''
    if tuple(found) == pythons[-len(found):]:
        return f" ; python_version >= '{found[0]}'"
    return ' ; ' + ' or '.join(f"python_version == '{python}'" for python in found)


def make_lock(uv: Path, name: str, pythons: tuple[str, ...],
              base: dict[str, Sizes] | None = None) -> dict[str, Sizes]:
    """
    Write requirements/<name>.lock and return its pins by Python.

    The pins of a base, by Python, are kept to and not repeated.
    """
    with_deps, no_deps, torch = read_in(REQUIREMENTS / f'{name}.in')
    base = base or {}
    pins: dict[str, Sizes] = {}
    for python in pythons:
        known = base.get(python, {})
        found = resolve(uv, with_deps, known, python)
        if no_deps:
            found |= resolve(uv, no_deps, known, python, no_deps=True)
        if torch:
            found['torch', torch] = int(TORCH_CPU_MB * 1e6)
        pins[python] = {pin: size for pin, size in found.items() if pin not in known}

    total_mb = max(sum(found.values()) for found in pins.values()) / 1e6
    lines = [HEADER.format(source=f'{name}.in', pythons=', '.join(pythons), size_mb=total_mb)]
    for pin in sorted({pin for found in pins.values() for pin in found}):
        holders = [python for python in pythons if pin in pins[python]]
        size_mb = max(pins[python][pin] for python in holders) / 1e6
        lines.append(f'{pin[0]}=={pin[1]}{marker(holders, pythons)}  # {size_mb:.2f} MB\n')
    (REQUIREMENTS / f'{name}.lock').write_text(''.join(lines))
    print(f'requirements/{name}.lock: {len(lines) - 1} pins, about {total_mb:.0f} MB')
    return pins


def main() -> None:
    """Make all lock files."""
    if sys.hexversion < 0x030B0000:
        sys.exit('make lock needs Python 3.11 or newer')
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
        pip, uv = Path(folder, 'bin', 'pip'), Path(folder, 'bin', 'uv')
        subprocess.run([str(pip), 'install', '--quiet', f'uv=={UV_VERSION}'], check=True)
        run = make_lock(uv, 'run', PYTHONS)
        make_lock(uv, 'dev', PYTHONS, base=run)
        make_lock(uv, 'wire', ('3.11',))


if __name__ == '__main__':
    main()
