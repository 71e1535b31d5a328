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

"""Settings of a training: a frozen dataclass, filled from YAML and then from the command line."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import safetensors
import torch
import yaml

Settings = TypeVar('Settings')


class SettingsError(ValueError):
    """A setting or a checkpoint that does not fit; says which, and what was expected."""


RECIPES = ('ferros', 'paper')


def recipe(path: Path | None) -> str:
    """
    Return what a settings file is for: `ferros` where it does not say, or `paper`.

    Raises:
        SettingsError: another one. What cannot be read is left to the recipe's own reader.

    """
    try:
        stored = yaml.safe_load(path.read_text('utf-8')) if path else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        stored = None
    found = stored.get('recipe', RECIPES[0]) if isinstance(stored, dict) else RECIPES[0]
    if found not in RECIPES:
        raise SettingsError(f'{path}: recipe must be one of {RECIPES}, got {found!r}')
    return str(found)


def read(kind: type[Settings], path: Path | None, overrides: Mapping[str, Any]) -> Settings:
    """
    Build settings from a YAML file (nested like the dataclass) and from options that were given.

    Raises:
        SettingsError: an unknown key or a value that cannot be, with its name and the file.

    """
    stored: Any = {}
    if path is not None:
        try:
            stored = yaml.safe_load(path.read_text('utf-8')) or {}
        except (OSError, yaml.YAMLError) as err:
            raise SettingsError(f'{path}: cannot be read ({err})') from err
    if not isinstance(stored, dict):
        found = type(stored).__name__
        raise SettingsError(f'{path}: expected a mapping of settings, found {found}')
    merged = {**stored, **{key: value for key, value in overrides.items() if value is not None}}
    if 'recipe' not in get_type_hints(kind):
        merged.pop('recipe', None)  # see recipe()
    return _build(kind, merged, str(path or 'settings'))


def _build(kind: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in fields(cast('Any', kind))}
    if unknown := sorted(set(values) - set(known)):
        raise SettingsError(f'{where}: unknown settings {unknown}; known are {sorted(known)}')
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        hint = known[name]
        if is_dataclass(hint) and isinstance(value, Mapping):
            arguments[name] = _build(cast('type[Any]', hint), value, f'{where}: {name}')
        elif isinstance(value, list):
            arguments[name] = tuple(value)
        elif hint in (int, float, str) and not isinstance(value, (hint, int)):
            raise SettingsError(f'{where}: {name} must be {hint.__name__}, got {value!r}')
        else:
            arguments[name] = value
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as err:
        raise SettingsError(f'{where}: {err}') from err


def digest(settings: Any) -> str:
    """Return a short fingerprint: a checkpoint continues only under the settings it began with."""
    text = json.dumps(asdict(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def add_arguments(parser: argparse.ArgumentParser, config_file: str) -> None:
    """Declare the options that every training has; config_file is an example of --config."""
    parser.add_argument('--data', type=Path, required=True, help='FER+: folder, zip or CSV pair')
    parser.add_argument('--out', type=Path, required=True,
                        help='folder for weights and checkpoint; started again, it continues')
    parser.add_argument('--config', type=Path, help=f'YAML of settings ({config_file})')
    parser.add_argument('--epochs', type=int)
    parser.add_argument('--seed', type=int)
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda')
    parser.add_argument('--threads', type=int, help='CPU threads; default: all cores')


def pick_device(name: str) -> torch.device:
    """Return the device of a name; `auto` is the GPU where there is one."""
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    return torch.device(name)


def continues(path: Path, key: str) -> dict[str, str]:
    """
    Return the metadata of a checkpoint that was written under the settings of a key.

    Raises:
        SettingsError: it was written under others.

    """
    found = metadata(path)
    if found.get('settings') != key:
        raise SettingsError(
            f'{path}: written under settings {found.get("settings")}, these are {key}; '
            'use the same settings and weights, or another --out'
        )
    return found


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file."""
    with safetensors.safe_open(path, 'pt') as file:
        return dict(file.metadata() or {})


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file so that a kill in the middle leaves the previous one."""
    partial = path.with_name(path.name + '.partial')
    partial.write_bytes(data)
    partial.replace(path)


def file_digest(path: Path) -> str:
    """Return a short fingerprint of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
