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
"""Start emotion_node and, where the server is to run on this machine, the server."""

from __future__ import annotations

import os
import shlex
import shutil

import yaml
from ament_index_python.packages import get_package_share_path
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, ExecuteProcess, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

LOCAL_HOSTS = ('127.0.0.1', 'localhost', '[::1]')


def generate_launch_description() -> LaunchDescription:
    """Return the launch description; `--show-args` lists the arguments."""
    params_file = str(get_package_share_path('ferros') / 'config' / 'robot.yaml')
    arguments = [
        ('image', '/camera/image_raw', 'the image topic to read faces from'),
        ('transport', '', 'raw or compressed (<image>/compressed); empty: as in params_file'),
        ('server_address', '', 'host:port of the server; empty: as in params_file'),
        (
            'start_server',
            'auto',
            'start the server too: true, false, or auto: when its address is on this machine',
        ),
        (
            'server_command',
            'ferros-cloud serve',
            'how to start the server; it may live in an environment of its own, as in '
            '/opt/ferros/bin/ferros-cloud serve. --host and --port are added',
        ),
        ('params_file', params_file, 'YAML file with the parameters of emotion_node'),
        ('namespace', '', 'namespace of the node: /NAMESPACE/emotion instead of /emotion'),
        ('use_sim_time', 'false', 'follow /clock instead of the system clock'),
        ('log_level', 'info', 'debug, info, warn, error or fatal'),
    ]
    return LaunchDescription(
        [
            DeclareLaunchArgument(name, default_value=default, description=description)
            for name, default, description in arguments
        ]
        + [OpaqueFunction(function=_start)]
    )


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    def argument(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    overrides: dict[str, object] = {'use_sim_time': argument('use_sim_time') == 'true'}
    if argument('transport'):
        overrides['image_transport'] = argument('transport')
    if argument('server_address'):
        overrides['server_address'] = argument('server_address')
    node = Node(
        package='ferros',
        executable='emotion_node',
        namespace=argument('namespace'),
        parameters=[argument('params_file'), overrides],
        remappings=[('image', argument('image'))],
        ros_arguments=['--log-level', argument('log_level')],
        output='screen',
    )
    address = argument('server_address') or _address_in(argument('params_file'))
    return [*_server(address, argument('start_server'), argument('server_command')), node]


def _address_in(params_file: str) -> str:
    """Return the server's address that the parameter file gives every node."""
    with open(params_file, encoding='utf-8') as file:
        content = yaml.safe_load(file) or {}
    parameters = content.get('/**', {}).get('ros__parameters', {})
    return str(parameters.get('server_address', '127.0.0.1:50051'))


def _server(address: str, start: str, command: str) -> list[LaunchDescriptionEntity]:
    """Return what starts the server, or says in one line why it is not started."""
    host, _, port = address.rpartition(':')
    if start not in ('true', 'false', 'auto'):
        raise ValueError(f'start_server is {start!r}, expected true, false or auto')
    if start == 'false' or (start == 'auto' and host not in LOCAL_HOSTS):
        return []
    words = [os.path.expanduser(word) for word in shlex.split(command)]
    if not words or shutil.which(words[0]) is None:
        return [
            LogInfo(
                msg=f'ferros: the server is not started: {command!r} was not found. Install it '
                "with `python3 -m venv ~/ferros-server && ~/ferros-server/bin/pip install '<the "
                "ferros folder>[cloud]'` and pass "
                "server_command:='~/ferros-server/bin/ferros-cloud serve'"
            )
        ]
    return [
        ExecuteProcess(
            cmd=[*words, '--host', host.strip('[]'), '--port', port],
            name='ferros_cloud',
            output='screen',
        )
    ]
