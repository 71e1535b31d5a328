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
The accuracy grid: what each way of sending a face costs and is worth.

It is read from a file until the server's Welcome brings that of the model which runs there. Both
are checked alike, since the sender steers by them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml

from ferros.types import Codec, GridPoint
from ferros_proto import recognition_pb2 as wire

FILE: Final = 'operating_points.yaml'
MAX_POINTS: Final = 512
# What Welcome may spend on the grid, as the wire's description says.
MAX_WELCOME_BYTES: Final = 8192
# MAX_POINTS lines and a long introduction take a third of it.
_MAX_FILE_BYTES: Final = 262_144
_MAX_MESSAGE_BYTES: Final = 1 << 20
# Type and bounds of each number of a point, both ends included.
_NUMBERS: Final[dict[str, tuple[type, float, float]]] = {
    'face_size_px': (int, 4, 1024),
    'frame_rate_fps': (float, 0.1, 240),
    'quality': (int, 1, 100),
    'bytes_p50': (int, 1, _MAX_MESSAGE_BYTES),
    'bytes_p95': (int, 1, _MAX_MESSAGE_BYTES),
    'accuracy': (float, 0, 1),
}
_CODECS: Final = {codec.name.lower(): codec for codec in Codec}


class GridError(ValueError):
    """A grid that nobody can steer by; names its source, the point, the field and the value."""


def read(path: Path) -> tuple[GridPoint, ...]:
    """
    Return the points of a YAML file like config/operating_points.yaml, in its order.

    Raises:
        GridError: it cannot be read, or is no list of 1 to MAX_POINTS points.

    """
    try:
        with path.open('rb') as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise GridError(f'{path}: longer than {_MAX_FILE_BYTES} bytes, which no grid is')
        rows = yaml.safe_load(data)
    except OSError as err:
        raise GridError(f'{path}: cannot be read ({err.strerror})') from err
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as err:
        raise GridError(f'{path}: not YAML ({" ".join(str(err).split())})') from err
    if not isinstance(rows, list) or not rows:
        raise GridError(f'{path}: expected a list of points, got {_short(rows)}')
    return _checked(rows, str(path))


def from_welcome(points: Iterable[wire.OperatingPoint]) -> tuple[GridPoint, ...]:
    """
    Return the points of Welcome.accuracy_grid, in their order; none where none were measured.

    The wire has 32 bits for a frame rate and an accuracy: six digits are what was meant.

    Raises:
        GridError: there are more than MAX_POINTS or MAX_WELCOME_BYTES, or one cannot be.

    """
    where = 'Welcome.accuracy_grid'
    sent = list(itertools.islice(points, MAX_POINTS + 1))
    size_bytes = wire.Welcome(accuracy_grid=sent).ByteSize()
    if size_bytes > MAX_WELCOME_BYTES:
        raise GridError(f'{where}: {size_bytes} bytes, expected {MAX_WELCOME_BYTES} at most')
    return _checked([_row(point) for point in sent], where)


def default_path() -> Path:
    """
    Return the grid that was installed with ferros, or that of the checkout.

    Raises:
        GridError: there is none in any place where an installation puts it.

    """
    return find(Path(__file__).resolve())


def find(module: Path) -> Path:
    """
    Return the grid that belongs to a file of the package ferros.

    In a checkout it lies in config/ beside the package; colcon and pip put it into share/ of the
    prefix whose lib/ has the package. ament's index would know it too, but only under ROS.

    Raises:
        GridError: it is in none of these places.

    """
    checkout = module.parent.parent / 'config' / FILE
    installed = [above / 'share' / 'ferros' / 'config' / FILE for above in module.parents]
    for path in (checkout, *installed):
        if path.is_file():
            return path
    raise GridError(
        f'{FILE} belongs to ferros but is neither {checkout} nor in share/ferros/config of a '
        f'folder above {module}'
    )


def _row(point: wire.OperatingPoint) -> dict[str, object]:
    """Return a point of the wire as a file would have it."""
    names = {codec.value: name for name, codec in _CODECS.items()}
    row: dict[str, Any] = {name: getattr(point, name) for name in GridPoint._fields}
    row['codec'] = names.get(point.codec, f'number {point.codec}')
    for name in ('frame_rate_fps', 'accuracy'):
        row[name] = float(f'{row[name]:.6g}')
    return row


def _checked(rows: list[Any], where: str) -> tuple[GridPoint, ...]:
    if len(rows) > MAX_POINTS:
        raise GridError(f'{where}: more than {MAX_POINTS} points')
    return tuple(_point(row, f'{where}: point {number}') for number, row in enumerate(rows, 1))


def _point(row: object, where: str) -> GridPoint:
    if not isinstance(row, dict):
        raise GridError(f'{where} is {_short(row)}, expected {", ".join(GridPoint._fields)}')
    for name in GridPoint._fields:
        if name not in row:
            raise GridError(f'{where} has no {name}, expected {", ".join(GridPoint._fields)}')
    for name in row:
        if name not in GridPoint._fields:
            raise GridError(
                f'{where} has {_short(name)}, expected {", ".join(GridPoint._fields)} alone'
            )
    for name, (kind, least, most) in _NUMBERS.items():
        if not _is_within(row[name], kind, least, most):
            raise GridError(
                f'{where}: {name} is {_short(row[name])}, expected {kind.__name__}'
                f' {least:g} to {most:,}'
            )
    if not isinstance(row['codec'], str) or row['codec'] not in _CODECS:
        raise GridError(
            f'{where}: codec is {_short(row["codec"])}, expected {" or ".join(_CODECS)}'
        )
    if row['bytes_p95'] < row['bytes_p50']:
        raise GridError(
            f'{where}: bytes_p95 is {row["bytes_p95"]}, expected bytes_p50 or more,'
            f' which is {row["bytes_p50"]}'
        )
    return GridPoint(
        face_size_px=row['face_size_px'],
        frame_rate_fps=float(row['frame_rate_fps']),
        codec=_CODECS[row['codec']],
        quality=row['quality'],
        bytes_p50=row['bytes_p50'],
        bytes_p95=row['bytes_p95'],
        accuracy=float(row['accuracy']),
    )


def _is_within(value: object, kind: type, least: float, most: float) -> bool:
    """Tell whether a number is of that kind and between the bounds; NaN and True are neither."""
    kinds = (int,) if kind is int else (int, float)
    return type(value) in kinds and least <= value <= most  # type: ignore[operator]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + '...'
