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

DEFAULT_MODEL = Path(__file__).resolve().parent / 'weights' / 'default'
ENVIRONMENT_PREFIX = 'FERROS_'
LOG_LEVELS = ('debug', 'info', 'warning', 'error')
LOG_FORMATS = ('text', 'json')
# Engine -> the precisions its encoder can be computed in. A Ray replica computes with ONNX Runtime
# on a CPU and with PyTorch on a GPU.
PRECISIONS_OF = {
    'onnx': ('fp32', 'int8'),
    'torch': ('fp32', 'bf16', 'fp16'),
    'ray': ('fp32', 'int8', 'bf16', 'fp16'),
}
ENGINES = tuple(PRECISIONS_OF)


class About(NamedTuple):
    """What a setting means, the range of a number, and the heading it stands under."""

    group: str
    text: str
    lowest: float | None = None
    highest: float | None = None


ABOUT = {
    'host': About('listening', 'address to listen on'),
    'port': About('listening', 'port to listen on; 0: any free one', 0, 65535),
    'workers': About('listening', 'server processes that share the port', 1, 256),
    'max_connection_age_s': About('listening', 'a robot reconnects after so long', 10, 86_400),
    'drain_ms': About('listening', 'time that robots have to leave at shutdown', 0, 600_000),
    'insecure': About('security', 'let other machines connect, without encryption'),
    'tls_cert_file': About('security', "PEM file of the server's certificate and its chain"),
    'tls_key_file': About('security', "PEM file of the certificate's private key"),
    'tls_client_ca_file': About(
        'security', 'PEM file of the CA that signed the certificates of robots: they must show one'
    ),
    'token_file': About(
        'security', 'file of the hashes of the tokens of robots: they must send one'
    ),
    'state_key_file': About(
        'security', 'file of the key that seals the LSTM states robots carry to the next server'
    ),
    'state_ttl_s': About('security', 'for how long a sealed state can be resumed', 1, 3600),
    'engine': About('model', 'what computes: ' + ', '.join(ENGINES)),
    'model': About('model', 'model folder'),
    'precision': About('model', 'of the encoder: fp32, int8 (onnx), bf16 or fp16 (torch)'),
    'device': About('model', 'where torch computes: auto, cpu, cuda, cuda:1, ...'),
    'threads': About('model', 'cores that compute one batch', 1, 1024),
    'decode_threads': About('model', 'threads that decode the images of one batch', 1, 256),
    'slots': About('batches', 'batches that are computed at one time; 0: as the engine', 0, 1024),
    'max_batch': About('batches', 'faces in one batch', 1, 4096),
    'max_batch_ms': About(
        'batches', 'a batch is kept so small that it takes no longer; 0: as the engine', 0, 60_000
    ),
    'max_queue': About('batches', 'frames that may wait; the next are OVERLOADED', 1, 1_000_000),
    'max_queue_ms': About('batches', 'the same in time, at the measured rate', 1, 600_000),
    'deadline_ms': About('batches', 'a frame that waited longer is DROPPED_STALE', 1, 600_000),
    'full_at_load': About(
        'batches', 'no new stream is let in above this part of the capacity', 0.01, 100
    ),
    'credits': About('limits', 'unanswered frames of one stream', 1, 1024),
    'max_image_bytes': About('limits', 'size of one image', 64, 261_120),
    'max_image_pixels': About('limits', 'width x height of one image', 1, 16_777_216),
    'max_faces': About('limits', 'faces with a state in one stream', 1, 4096),
    'face_idle_ms': About(
        'limits', 'a face unseen for so long makes room for another', 0, 86_400_000
    ),
    'max_frame_rate_fps': About(
        'limits', 'frames of one stream, all faces together', 1, 100_000
    ),
    'max_streams': About('limits', 'streams of all robots together, in one process', 1, 1_000_000),
    'max_streams_per_robot': About('limits', 'streams of one robot, in one process', 1, 1_000_000),
    'metrics_port': About(
        'operation', 'port of the Prometheus metrics, 0: any free one; -1: none', -1, 65535
    ),
    'metrics_host': About('operation', 'address of the metrics'),
    'max_robot_labels': About(
        'operation', "robots with metrics of their own; the others are 'other'", 0, 100_000
    ),
    'reflection': About('operation', 'let clients ask for the protocol (gRPC reflection)'),
    'log_level': About('operation', 'how much is logged: ' + ', '.join(LOG_LEVELS)),
    'log_format': About('operation', ' or '.join(LOG_FORMATS)),
    'ray_address': About(
        'ray', 'HOST:PORT of the Ray cluster; auto: the one that runs on this machine'
    ),
    'ray_min_replicas': About('ray', 'replicas of the encoder at least', 1, 10_000),
    'ray_max_replicas': About('ray', 'replicas of the encoder at most', 1, 10_000),
    'ray_cpus': About('ray', 'cores of one replica', 0, 1024),
    'ray_gpus': About('ray', 'GPUs of one replica; above 0 it computes with PyTorch', 0, 64),
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
    workers: int = 1
    max_connection_age_s: int = 1800
    drain_ms: int = 1000
    insecure: bool = False
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None
    token_file: Path | None = None
    state_key_file: Path | None = None
    state_ttl_s: float = 30.0
    engine: str = 'onnx'
    model: Path = DEFAULT_MODEL
    precision: str = 'fp32'
    device: str = 'auto'
    threads: int = 1
    decode_threads: int = 1
    slots: int = 0
    max_batch: int = 32
    max_batch_ms: int = 0
    max_queue: int = 1024
    max_queue_ms: int = 100
    deadline_ms: int = 200
    full_at_load: float = 0.85
    credits: int = 16
    max_image_bytes: int = 65_536
    max_image_pixels: int = 262_144
    max_faces: int = 32
    face_idle_ms: int = 3000
    max_frame_rate_fps: float = 240.0
    max_streams: int = 4096
    max_streams_per_robot: int = 8
    metrics_port: int = -1
    metrics_host: str = '127.0.0.1'
    max_robot_labels: int = 100
    reflection: bool = False
    log_level: str = 'info'
    log_format: str = 'text'
    ray_address: str = 'auto'
    ray_min_replicas: int = 1
    ray_max_replicas: int = 1
    ray_cpus: float = 1.0
    ray_gpus: float = 0.0

    def __post_init__(self) -> None:
        problems = _range_problems(self)
        problems += _choice_problems(self)
        problems += _security_problems(self)
        if self.ray_min_replicas > self.ray_max_replicas:
            problems.append(
                f'ray_min_replicas is {self.ray_min_replicas},'
                f' expected at most ray_max_replicas, {self.ray_max_replicas}'
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
    groups = {about.group: parser.add_argument_group(about.group) for about in ABOUT.values()}
    for name, about in ABOUT.items():
        default = _DEFAULTS[name]
        flag, group = '--' + name.replace('_', '-'), groups[about.group]
        if isinstance(default, bool):
            group.add_argument(flag, action='store_true', default=None, help=about.text)
            continue
        shown = {'model': 'the shipped one', 'state_key_file': 'one for each start'}.get(
            name, 'none' if default is None else default
        )
        metavar = 'FOLDER' if name == 'model' else _METAVARS[type(default)]
        group.add_argument(flag, metavar=metavar, help=f'{about.text} (default: {shown})')


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
    if value is None and kind is type(None):
        return
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
    # What has no default is a file.
    type(None): (_to_path, 'a path'),
}
_METAVARS = {int: 'N', float: 'X', str: 'TEXT', type(None): 'FILE'}
_DEFAULTS = {field.name: field.default for field in fields(ServerConfig)}


def _range_problems(config: ServerConfig) -> list[str]:
    problems = []
    for name, (_, _, lowest, highest) in ABOUT.items():
        value = getattr(config, name)
        if lowest is not None and not lowest <= value <= highest:
            problems.append(f'{name} is {value}, expected {lowest} to {highest}')
    return problems


def _choice_problems(config: ServerConfig) -> list[str]:
    problems = []
    for name, choices in (
        ('engine', ENGINES), ('log_level', LOG_LEVELS), ('log_format', LOG_FORMATS)
    ):
        value = getattr(config, name)
        if value not in choices:
            problems.append(f'{name} is {value!r}, expected one of {choices}')
    precisions = PRECISIONS_OF.get(config.engine, ())
    if precisions and config.precision not in precisions:
        problems.append(
            f'precision is {config.precision!r},'
            f' expected one of {precisions} with the engine {config.engine}'
        )
    return problems


def _security_problems(config: ServerConfig) -> list[str]:
    problems = []
    if (config.tls_cert_file is None) != (config.tls_key_file is None):
        given, missing = 'tls_cert_file', 'tls_key_file'
        if config.tls_cert_file is None:
            given, missing = missing, given
        problems.append(f'{given} is set without {missing}, expected both or none')
    if config.tls_client_ca_file is not None and config.tls_cert_file is None:
        problems.append(
            'tls_client_ca_file is set without tls_cert_file:'
            ' a robot shows its certificate only to a server that shows its own'
        )
    if config.tls_cert_file is None and not config.insecure and not is_loopback(config.host):
        problems.append(
            f'host is {config.host!r}, which other machines can reach, without encryption:'
            ' set tls_cert_file and tls_key_file, use 127.0.0.1, or say that this is meant with'
            ' --insecure'
        )
    return problems
