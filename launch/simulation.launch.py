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
Start Gazebo with a world in which a camera sees faces, the bridge to ROS, and emotion_node.

It needs ros_gz_sim, ros_gz_bridge and ros_gz_image of the ROS distribution; docs/simulation.md.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ament_index_python.packages import (
    PackageNotFoundError,
    get_package_share_directory,
    get_package_share_path,
)
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    AppendEnvironmentVariable,
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch.utilities import perform_substitutions
from launch_ros.actions import Node

CLOUD_FER = Path(__file__).resolve().parent / 'cloud_fer.launch.py'
TRUE_FALSE = ('true', 'false', 'True', 'False')
NEEDED = ('ros_gz_sim', 'ros_gz_bridge', 'ros_gz_image')
# As the camera of worlds/fer.sdf names it; the same in Gazebo and in ROS.
IMAGE_TOPIC = '/camera/image_raw'
# What is handed on to cloud_fer.launch.py where it is given.
HANDED_ON = {
    'transport': 'raw or compressed; empty: as in params_file',
    'server_address': 'host:port of the server; empty: as in params_file',
    'start_server': 'start the server too: true, false, or auto: when its address is on this '
                    'machine; empty: auto',
    'server_command': 'how to start the server; empty: ferros-cloud serve',
    'params_file': 'YAML file with the parameters of emotion_node; empty: that of ferros',
    'name': 'name of the node; empty: emotion_node',
    'namespace': 'namespace of the node: /NAMESPACE/emotion instead of /emotion',
    'lifecycle': 'autostart, launch or manager, see cloud_fer.launch.py; empty: autostart',
    'log_level': 'debug, info, warn, error or fatal; empty: info',
}


def generate_launch_description() -> LaunchDescription:
    """Return the launch description; `--show-args` lists the arguments."""
    share = get_package_share_path('ferros')
    arguments = [
        DeclareLaunchArgument(
            'world', default_value=str(share / 'worlds' / 'fer.sdf'),
            description='the SDF file of the world'
        ),
        DeclareLaunchArgument(
            'headless', default_value='false', choices=TRUE_FALSE,
            description='without a window; the camera still renders'
        ),
        DeclareLaunchArgument(
            'gz_args', default_value='', description="further arguments of `gz sim`, as in '-v 4'"
        ),
        DeclareLaunchArgument(
            'image', default_value=IMAGE_TOPIC,
            description='the image topic of the camera in the world, in Gazebo and in ROS'
        ),
        DeclareLaunchArgument(
            'bridge_config', default_value=str(share / 'config' / 'ros_gz_bridge.yaml'),
            description='YAML file of the topics that ros_gz_bridge carries besides the images'
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

    _check_packages()
    gazebo = Path(get_package_share_directory('ros_gz_sim')) / 'launch' / 'gz_sim.launch.py'
    flags = ['-r', *(['-s', '--headless-rendering'] * (argument('headless').lower() == 'true'))]
    gz_args = shlex.join([*flags, argument('world')]) + f' {argument("gz_args")}'
    given_to_gazebo = {'gz_args': gz_args.strip(), 'on_exit_shutdown': 'true'}
    bridge = Node(
        package='ros_gz_bridge',
        executable='parameter_bridge',
        name='ferros_gz_bridge',
        parameters=[{'config_file': argument('bridge_config')}],
        output='screen',
    )
    # Through image_transport, so that the compressed images are there too.
    images = Node(
        package='ros_gz_image',
        executable='image_bridge',
        name='ferros_gz_image_bridge',
        arguments=[argument('image')],
        parameters=[{'use_sim_time': True}],
        output='screen',
    )
    given = {name: argument(name) for name in HANDED_ON if argument(name)}
    given |= {'image': argument('image'), 'use_sim_time': 'true'}
    return [
        # Where model://ferros/worlds/... of the world is found.
        AppendEnvironmentVariable(
            'GZ_SIM_RESOURCE_PATH', str(get_package_share_path('ferros').parent)
        ),
        _included(context, gazebo, given_to_gazebo),
        bridge,
        images,
        _included(context, CLOUD_FER, given),
    ]


def _check_packages() -> None:
    missing = []
    for package in NEEDED:
        try:
            get_package_share_directory(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        raise RuntimeError(
            f'simulation.launch.py needs {", ".join(missing)}: '
            'sudo apt install ros-$ROS_DISTRO-ros-gz'
        )


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
