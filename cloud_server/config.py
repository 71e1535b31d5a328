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
"""The settings of the server: defaults, then a YAML file, then the environment, then flags."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from cloud_server.model_info import PRECISIONS

DEFAULT_MODEL = Path(__file__).resolve().parent / 'weights' / 'default'
ENVIRONMENT_PREFIX = 'FERROS_'
LOG_LEVELS = ('debug', 'info', 'warning', 'error')


class About(NamedTuple):
    """What a setting means, and the range of a number."""

    text: str
    lowest: float | None = None
    highest: float | None = None


ABOUT = {
    'host': About('address to listen on'),
    'port': About('port to listen on; 0: any free one', 0, 65535),
    'insecure': About('let other machines connect, without encryption'),
    'model': About('model folder'),
    'precision': About('of the encoder: ' + ', '.join(PRECISIONS)),
    'threads': About('cores that compute one batch', 1, 1024),
    'slots': About('batches that are computed at one time', 1, 64),
    'max_batch': About('faces in one batch', 1, 4096),
    'max_queue': About('frames that may wait; the next are OVERLOADED', 1, 1_000_000),
    'deadline_ms': About('a frame that waited longer is DROPPED_STALE', 1, 600_000),
    'credits': About('unanswered frames of one stream', 1, 1024),
    'max_image_bytes': About('size of one image', 64, 261_120),
    'max_image_pixels': About('width x height of one image', 1, 16_777_216),
    'max_faces': About('faces with a state in one stream', 1, 4096),
    'face_idle_ms': About('a face unseen for so long makes room for another', 0, 86_400_000),
    'max_frame_rate_fps': About('frames of one stream, all faces together', 1, 100_000),
    'max_connection_age_s': About('a robot reconnects after so long', 10, 86_400),
    'drain_ms': About('time that robots have to leave at shutdown', 0, 600_000),
    'log_level': About('how much is logged: ' + ', '.join(LOG_LEVELS)),
}


class ConfigError(ValueError):
    """Settings that cannot be served with; the message has one line for each that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__('\n'.join(problems))
        self.problems = problems


@dataclass(frozen=True)
class ServerConfig:
    """All settings of `ferros-cloud serve`, checked at construction."""

    host: str = '127.0.0.1'
    port: int = 50051
    insecure: bool = False
    model: Path = DEFAULT_MODEL
    precision: str = 'fp32'
    threads: int = 1
    slots: int = 2
    max_batch: int = 32
    max_queue: int = 256
    deadline_ms: int = 200
    credits: int = 16
    max_image_bytes: int = 65_536
    max_image_pixels: int = 262_144
    max_faces: int = 32
    face_idle_ms: int = 3000
    max_frame_rate_fps: float = 240.0
    max_connection_age_s: int = 1800
    drain_ms: int = 1000
    log_level: str = 'info'

    def __post_init__(self) -> None:
        problems = _range_problems(self)
        if self.log_level not in LOG_LEVELS:
            problems.append(f'log_level is {self.log_level!r}, expected one of {LOG_LEVELS}')
        if self.precision not in PRECISIONS:
            problems.append(f'precision is {self.precision!r}, expected one of {PRECISIONS}')
        if not self.insecure and not is_loopback(self.host):
            problems.append(
                f'host is {self.host!r}, which other machines can reach, without encryption:'
                ' use 127.0.0.1, or say that this is meant with --insecure'
            )
        if problems:
            raise ConfigError(problems)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach that address."""
    if host == 'localhost':
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(
    flags: Mapping[str, str | bool | None], environment: Mapping[str, str], path: Path | None
) -> ServerConfig:
    """
    Join the sources of settings, the later over the earlier: defaults, file, environment, flags.

    Args:
        flags: setting -> value as typed; None where it was not given.
        environment: variables; those named FERROS_ and a setting's name in capitals count.
        path: a YAML file of settings, or None.

    Raises:
        ConfigError: naming every setting that is wrong, and where it came from.

    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, value in _read_yaml(path, problems).items():
        _put(values, name, value, f'{path}: ', problems)
    for name in ABOUT:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in environment:
            _put(values, name, environment[variable], f'{variable}: ', problems)
    for name, given in flags.items():
        if given is not None:
            _put(values, name, given, f'--{name.replace("_", "-")}: ', problems)
    try:
        config = ServerConfig(**values)
    except ConfigError as error:
        raise ConfigError(problems + error.problems) from None
    if problems:
        raise ConfigError(problems)
    return config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting, and --config."""
    parser.add_argument('--config', type=Path, metavar='FILE', help='YAML file of these settings')
    for name, default in _DEFAULTS.items():
        flag, text = '--' + name.replace('_', '-'), ABOUT[name].text
        if isinstance(default, bool):
            parser.add_argument(flag, action='store_true', default=None, help=text)
            continue
        shown = 'the shipped one' if name == 'model' else default
        metavar = _METAVARS[type(default)]
        parser.add_argument(flag, metavar=metavar, help=f'{text} (default: {shown})')


def from_arguments(args: argparse.Namespace, environment: Mapping[str, str]) -> ServerConfig:
    """Build the settings from parsed flags; raises ConfigError."""
    return load({name: getattr(args, name) for name in ABOUT}, environment, args.config)


def _read_yaml(path: Path | None, problems: list[str]) -> dict[str, Any]:
    if path is None:
        return {}
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        problems.append(f'{path}: cannot be read ({error.strerror})')
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f'{path}: not YAML ({" ".join(str(error).split())})')
        return {}
    if document is None:  # only comments
        return {}
    if not isinstance(document, dict):
        problems.append(f'{path}: expected `setting: value` lines')
        return {}
    return document


def _put(
    values: dict[str, Any], name: object, value: object, source: str, problems: list[str]
) -> None:
    """Convert one value to its setting's type; what cannot be converted is a problem."""
    if name not in ABOUT:
        problems.append(f'{source}{name!r} is not a setting')
        return
    kind = type(_DEFAULTS[str(name)])
    convert, expected = _CONVERTERS[kind]
    try:
        values[str(name)] = convert(value)
    except (TypeError, ValueError):
        problems.append(f'{source}{name} is {value!r}, expected {expected}')


def _to_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ('true', '1', 'yes', 'false', '0', 'no'):
        return value.lower() in ('true', '1', 'yes')
    raise ValueError


def _to_int(value: object) -> int:
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return int(value)
    raise TypeError


def _to_float(value: object) -> float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return float(value)
    raise TypeError


def _to_text(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise TypeError


def _to_path(value: object) -> Path:
    return Path(_to_text(value)).expanduser()


_CONVERTERS: dict[type, tuple[Callable[[object], Any], str]] = {
    bool: (_to_bool, 'true or false'),
    int: (_to_int, 'a whole number'),
    float: (_to_float, 'a number'),
    str: (_to_text, 'a text'),
    type(DEFAULT_MODEL): (_to_path, 'a path'),
}
_METAVARS = {int: 'N', float: 'X', str: 'TEXT', type(DEFAULT_MODEL): 'FOLDER'}
_DEFAULTS = {field.name: field.default for field in fields(ServerConfig)}


def _range_problems(config: ServerConfig) -> list[str]:
    problems = []
    for name, (_, lowest, highest) in ABOUT.items():
        value = getattr(config, name)
        if lowest is not None and not lowest <= value <= highest:
            problems.append(f'{name} is {value}, expected {lowest} to {highest}')
    return problems
