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
"""Start the server alone; included twice for one address in one launch, it is started once."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import yaml
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, ExecuteProcess, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration

DEFAULT_HOST, DEFAULT_PORT = '127.0.0.1', '50051'
# Where one launch remembers which servers it has started.
STARTED = 'ferros_servers'


class Argument(NamedTuple):
    """One launch argument; empty: as in the file that config names, else the server's default."""

    name: str
    description: str
    choices: tuple[str, ...] = ()
    default: str = ''


YES_NO = ('', 'true', 'false')
# Each is given to the server as its flag of that name.
FLAGS = (
    Argument('host', f'address to listen on; empty: as in config, else {DEFAULT_HOST}'),
    Argument('port', f'port to listen on, 0: any free one; empty: as in config, else '
                     f'{DEFAULT_PORT}'),
    Argument('workers', 'server processes that share the port'),
    Argument('tls_cert_file', 'PEM file of the certificate of the server, and its chain'),
    Argument('tls_key_file', 'PEM file of the private key of tls_cert_file'),
    Argument('tls_client_ca_file', 'PEM file of the CA of the certificates that robots must show'),
    Argument('token_file', 'file of the hashes of the tokens that robots must send'),
    Argument('state_key_file', 'file of the key that seals what robots carry to the next server'),
    Argument('metrics_port', 'port of the Prometheus metrics'),
    Argument('log_level', 'debug, info, warning or error',
             ('', 'debug', 'info', 'warning', 'error')),
)
# Flags without a value.
SWITCHES = (
    Argument('insecure', 'let other machines connect without encryption', YES_NO),
)
OTHERS = (
    Argument('config', 'YAML file with the settings of the server (ferros-cloud serve --config)'),
    Argument('options', "further options of the server, as in '--max-batch 16 --precision int8'"),
    Argument(
        'server_command',
        'how to start the server; it may live in an environment of its own, as in '
        '/opt/ferros/bin/ferros-cloud serve. The options are added',
        default='ferros-cloud serve',
    ),
)


def generate_launch_description() -> LaunchDescription:
    """Return the launch description; `--show-args` lists the arguments."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                item.name,
                default_value=item.default,
                description=item.description,
                choices=item.choices or None,
            )
            for item in (*FLAGS, *SWITCHES, *OTHERS)
        ]
        + [OpaqueFunction(function=_start)]
    )


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    def argument(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    words = [os.path.expanduser(word) for word in shlex.split(argument('server_command'))]
    if not words or shutil.which(words[0]) is None:
        raise RuntimeError(f'server_command: {argument("server_command")!r} was not found')
    for item in FLAGS:
        if argument(item.name):
            words += [f'--{item.name.replace("_", "-")}', argument(item.name)]
    words += [f'--{item.name}' for item in SWITCHES if argument(item.name) == 'true']
    if argument('config'):
        words += ['--config', argument('config')]
    words += shlex.split(argument('options'))
    address = _address(argument('host'), argument('port'), argument('config'))
    started = context.get_locals_as_dict().get(STARTED, frozenset())
    if address in started:
        return [LogInfo(msg=f'ferros: the server on {address} is started by this launch already')]
    if not address.endswith(':0'):
        context.extend_globals({STARTED: started | {address}})
    return [ExecuteProcess(cmd=words, name='ferros_cloud', output='screen')]


def _address(host: str, port: str, config: str) -> str:
    """Return where the server will listen, host:port."""
    settings = yaml.safe_load(Path(config).read_text(encoding='utf-8')) if config else None
    if not isinstance(settings, dict):
        settings = {}
    found_host = host or str(settings.get('host', DEFAULT_HOST))
    found_port = port or str(settings.get('port', DEFAULT_PORT))
    return f'{"127.0.0.1" if found_host == "localhost" else found_host}:{found_port}'
