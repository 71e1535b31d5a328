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
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from ament_index_python.packages import get_package_share_path
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    GroupAction,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.events import matches_action
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch.utilities import perform_substitutions
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

LOCAL_HOSTS = ('127.0.0.1', 'localhost', '[::1]')
SERVER = Path(__file__).resolve().parent / 'server.launch.py'


class Argument(NamedTuple):
    """One launch argument."""

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


# Arguments that set the node's parameter of that name; empty: as in params_file.
PARAMETERS = (
    Argument('server_address', '', 'host:port of the server; empty: as in params_file'),
    Argument('robot_id', '', 'name of this robot for the server; empty: as in params_file'),
    Argument('camera', '', 'name of the camera for the server; empty: as in params_file'),
    Argument('detector', '', 'what finds faces, haar or yunet; empty: as in params_file',
             ('', 'haar', 'yunet')),
    Argument('detector_model', '', 'path of the YuNet model file; empty: as in params_file'),
    Argument('publish_rep155', '', 'publish the faces as REP-155 has it; empty: as in params_file',
             ('', 'true', 'false')),
    Argument('rep155_prefix', '', 'absolute namespace of the topics of REP-155, one for each '
                                  'robot; empty: as in params_file'),
)
LIFECYCLE = (
    'who brings the node up: autostart, the node itself, as its parameter of that name says; '
    'launch, this launch file, which configures and activates it; manager, somebody else, as the '
    'lifecycle_manager of nav2'
)


def generate_launch_description() -> LaunchDescription:
    """Return the launch description; `--show-args` lists the arguments."""
    params_file = str(get_package_share_path('ferros') / 'config' / 'robot.yaml')
    arguments = (
        Argument('image', '/camera/image_raw', 'the image topic to read faces from'),
        Argument('transport', '', 'raw or compressed (<image>/compressed); empty: as in '
                                  'params_file', ('', 'raw', 'compressed')),
        *PARAMETERS,
        Argument('start_server', 'auto', 'start the server too: true, false, or auto: when its '
                                         'address is on this machine', ('true', 'false', 'auto')),
        Argument('server_command', 'ferros-cloud serve',
                 'how to start the server; it may live in an environment of its own, as in '
                 '/opt/ferros/bin/ferros-cloud serve. --host and --port are added'),
        Argument('params_file', params_file, 'YAML file with the parameters of emotion_node'),
        Argument('name', 'emotion_node', 'name of the node'),
        Argument('namespace', '', 'namespace of the node: /NAMESPACE/emotion instead of /emotion'),
        Argument('lifecycle', 'autostart', LIFECYCLE, ('autostart', 'launch', 'manager')),
        Argument('use_sim_time', 'false', 'follow /clock instead of the system clock',
                 ('true', 'false', 'True', 'False')),
        Argument('log_level', 'info', 'debug, info, warn, error or fatal',
                 ('debug', 'info', 'warn', 'error', 'fatal')),
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                item.name,
                default_value=item.default,
                description=item.description,
                choices=item.choices or None,
            )
            for item in arguments
        ]
        + [OpaqueFunction(function=_start)]
    )


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    def argument(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    overrides: dict[str, object] = {'use_sim_time': argument('use_sim_time').lower() == 'true'}
    if argument('transport'):
        overrides['image_transport'] = argument('transport')
    for item in PARAMETERS:
        if value := argument(item.name):
            overrides[item.name] = value == 'true' if value in ('true', 'false') else value
    lifecycle = argument('lifecycle')
    if lifecycle != 'autostart':
        overrides['autostart'] = False
    options: dict[str, Any] = {
        'package': 'ferros',
        'executable': 'emotion_node',
        'name': argument('name'),
        'namespace': argument('namespace'),
        'parameters': [argument('params_file'), overrides],
        'remappings': [('image', argument('image'))],
        'ros_arguments': ['--log-level', argument('log_level')],
        'output': 'screen',
    }
    address = argument('server_address') or _address_in(argument('params_file'))
    server = _server(context, address, argument('start_server'), argument('server_command'))
    if lifecycle == 'launch':
        return [*server, *_brought_up(LifecycleNode(**options))]
    return [*server, Node(**options)]


def _brought_up(node: LifecycleNode) -> list[LaunchDescriptionEntity]:
    """Return the node with what configures it and, once that is done, activates it."""

    def change(transition_id: int) -> EmitEvent:
        event = ChangeState(
            lifecycle_node_matcher=matches_action(node), transition_id=transition_id
        )
        return EmitEvent(event=event)

    activate = OnStateTransition(
        target_lifecycle_node=node,
        start_state='configuring',
        goal_state='inactive',
        entities=[change(Transition.TRANSITION_ACTIVATE)],
    )
    return [RegisterEventHandler(activate), node, change(Transition.TRANSITION_CONFIGURE)]


def _address_in(params_file: str) -> str:
    """Return the server's address that the parameter file gives every node."""
    with open(params_file, encoding='utf-8') as file:
        content = yaml.safe_load(file) or {}
    parameters = content.get('/**', {}).get('ros__parameters', {})
    return str(parameters.get('server_address', '127.0.0.1:50051'))


def _server(
    context: LaunchContext, address: str, start: str, command: str
) -> list[LaunchDescriptionEntity]:
    """Return what starts the server, or says in one line why it is not started."""
    host, _, port = address.rpartition(':')
    if start == 'false' or (start == 'auto' and host not in LOCAL_HOSTS):
        return []
    words = shlex.split(command)
    if not words or shutil.which(os.path.expanduser(words[0])) is None:
        return [
            LogInfo(
                msg=f'ferros: the server is not started: {command!r} was not found. Install it '
                "with `python3 -m venv ~/ferros-server && ~/ferros-server/bin/pip install '<the "
                "ferros folder>[cloud]'` and pass "
                "server_command:='~/ferros-server/bin/ferros-cloud serve'"
            )
        ]
    given = {'host': host.strip('[]'), 'port': port, 'server_command': command}
    return [_included(context, SERVER, given)]


def _included(
    context: LaunchContext, path: Path, given: dict[str, str]
) -> LaunchDescriptionEntity:
    """Include a launch file, of whose arguments only these differ from their defaults."""
    source = PythonLaunchDescriptionSource(str(path))
    values = {
        item.name: perform_substitutions(context, item.default_value)
        for item in source.get_launch_description(context).get_launch_arguments()
        if item.default_value is not None
    }
    # All are set: one of the same name in an outer launch file is none of its business. Scoped, so
    # that none of them stays set for what is included next.
    include = IncludeLaunchDescription(source, launch_arguments={**values, **given}.items())
    return GroupAction([include])
