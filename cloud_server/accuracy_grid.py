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
"""The accuracy grid of a model folder: what each way of sending it a face costs and is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ferros_proto import recognition_pb2 as wire

FILE = 'operating_points.yaml'
# What Welcome may spend on the grid.
MAX_BYTES = 8192
# Far above what a list of MAX_BYTES takes as text.
MAX_FILE_BYTES = 262_144
CODECS = {'jpeg': wire.JPEG, 'webp': wire.WEBP}


class GridError(ValueError):
    """A grid that cannot be served; the message names the file, the point and the field."""


def read(path: Path) -> tuple[wire.OperatingPoint, ...]:
    """
    Return the points of a file, as Welcome carries them.

    Raises:
        GridError: it cannot be read, is no list of points, or is longer than Welcome may be.

    """
    try:
        with path.open('rb') as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise GridError(f'{path}: longer than {MAX_FILE_BYTES} bytes, which no grid is')
        rows = yaml.safe_load(data)
    except OSError as error:
        raise GridError(f'{path}: cannot be read ({error.strerror})') from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise GridError(f'{path}: not YAML ({" ".join(str(error).split())})') from error
    if not isinstance(rows, list) or not rows:
        raise GridError(f'{path}: expected a list of points, got {_short(rows)}')
    try:
        points = tuple(to_wire(row, f'point {number}') for number, row in enumerate(rows, 1))
    except GridError as error:
        raise GridError(f'{path}: {error}') from error
    if (size := size_bytes(points)) > MAX_BYTES:
        raise GridError(
            f'{path}: {len(points)} points take {size} bytes, Welcome has room for {MAX_BYTES}'
        )
    return points


def to_wire(row: Mapping[str, Any], name: str = 'a point') -> wire.OperatingPoint:
    """
    Return a row of the file as a message.

    Raises:
        GridError: naming the field, its value and what was expected.

    """
    if not isinstance(row, Mapping) or set(row) != set(_FIELDS):
        got = list(row) if isinstance(row, Mapping) else row
        raise GridError(f'{name} has {_short(got)}, expected {", ".join(_FIELDS)}')
    for field, (expected, is_valid) in _FIELDS.items():
        if not is_valid(row[field]):
            raise GridError(f'{name}: {field} is {_short(row[field])}, expected {expected}')
    if row['bytes_p95'] < row['bytes_p50']:
        raise GridError(
            f'{name}: bytes_p95 is {row["bytes_p95"]}, expected bytes_p50 or more,'
            f' which is {row["bytes_p50"]}'
        )
    return wire.OperatingPoint(**{**row, 'codec': CODECS[row['codec']]})


def size_bytes(points: Iterable[wire.OperatingPoint]) -> int:
    """Return what a list takes in Welcome."""
    return wire.Welcome(accuracy_grid=points).ByteSize()


def _whole(least: int, most: int) -> tuple[str, Callable[[Any], bool]]:
    return f'a whole number {least} to {most:,}', lambda value: (
        type(value) is int and least <= value <= most
    )


def _number(least: float, most: float) -> tuple[str, Callable[[Any], bool]]:
    # NaN is in no range.
    return f'a number {least:g} to {most:g}', lambda value: (
        type(value) in (int, float) and least <= value <= most
    )


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    'face_size_px': _whole(4, 1024),
    'frame_rate_fps': _number(0.1, 240),
    'codec': (' or '.join(CODECS), lambda value: isinstance(value, str) and value in CODECS),
    'quality': _whole(1, 100),
    'bytes_p50': _whole(1, 1 << 20),
    'bytes_p95': _whole(1, 1 << 20),
    'accuracy': _number(0, 1),
}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else text[:157] + '...'
