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
"""Play a video, an image or a rosbag2 as the camera of an emotion_node."""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch.utilities import perform_substitutions
from launch_ros.actions import Node

CLOUD_FER = Path(__file__).resolve().parent / 'cloud_fer.launch.py'
TRUE_FALSE = ('true', 'false', 'True', 'False')
# What is handed on to cloud_fer.launch.py where it is given.
HANDED_ON = {
    'server_address': 'host:port of the server; empty: as in params_file',
    'start_server': 'start the server too: true, false, or auto: when its address is on this '
                    'machine; empty: auto',
    'server_command': 'how to start the server; empty: ferros-cloud serve',
    'params_file': 'YAML file with the parameters of emotion_node; empty: that of ferros',
    'name': 'name of the node; empty: emotion_node',
    'lifecycle': 'autostart, launch or manager, see cloud_fer.launch.py; empty: autostart',
    'log_level': 'debug, info, warn, error or fatal; empty: info',
}


def generate_launch_description() -> LaunchDescription:
    """Return the launch description; `--show-args` lists the arguments."""
    arguments = [
        DeclareLaunchArgument(
            'source', description='what to play: a video, an image or a rosbag2 folder'
        ),
        DeclareLaunchArgument(
            'bag_topic', default_value='', description='the image topic of the bag to play; '
            'empty: the one with the most images'
        ),
        DeclareLaunchArgument(
            'rate', default_value='1.0', description='how many times as fast as recorded'
        ),
        DeclareLaunchArgument(
            'loop', default_value='false', choices=TRUE_FALSE,
            description='begin again at the end; of a bag the stamps do so too, and the node '
            'starts afresh each time'
        ),
        DeclareLaunchArgument(
            'transport', default_value='compressed', choices=('raw', 'compressed'),
            description='raw or compressed images'
        ),
        DeclareLaunchArgument(
            'image', default_value='camera/image_raw', description='the image topic to play on'
        ),
        DeclareLaunchArgument(
            'namespace', default_value='', description='namespace of the node and the player'
        ),
        DeclareLaunchArgument(
            'use_sim_time', default_value='false', choices=TRUE_FALSE,
            description='publish the time of the stamps on /clock and let the node follow it; '
            'for a bag'
        ),
        DeclareLaunchArgument(
            'exit_at_end', default_value='true', choices=TRUE_FALSE,
            description='end the launch when the source ends'
        ),
    ]
    handed_on = [
        DeclareLaunchArgument(name, default_value='', description=description)
        for name, description in HANDED_ON.items()
    ]
    return LaunchDescription([*arguments, *handed_on, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    def argument(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    def is_set(name: str) -> bool:
        return argument(name).lower() == 'true'

    rate = _rate(argument('rate'))
    player = Node(
        package='ferros',
        executable='camera_player',
        namespace=argument('namespace'),
        parameters=[{
            'source': argument('source'),
            'bag_topic': argument('bag_topic'),
            'transport': argument('transport'),
            'loop': is_set('loop'),
            'speed': rate,
            # The player makes the clock; it does not follow it.
            'clock': is_set('use_sim_time'),
            'use_sim_time': False,
            # The node may have to load its models first.
            'wait_timeout_s': 30.0,
        }],
        remappings=[('image', argument('image'))],
        output='screen',
        on_exit=[Shutdown(reason='the source has ended')] if is_set('exit_at_end') else None,
    )
    given = {name: argument(name) for name in HANDED_ON if argument(name)}
    given |= {
        'image': argument('image'),
        'transport': argument('transport'),
        'namespace': argument('namespace'),
        'use_sim_time': argument('use_sim_time'),
    }
    return [_included(context, CLOUD_FER, given), player]


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 100:
        raise ValueError(f'rate is {text!r}, expected a number above 0, at most 100')
    return rate


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
