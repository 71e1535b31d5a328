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
What launch_testing runs: the launch file starts Gazebo, the bridges and the node, on one clock.

    launch_test test/simulation.launch_test.py

Where ros_gz is not installed, stand-ins take its place that only say how they were started: then
this tests the launch file, not the simulation.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import launch_testing.actions
import launch_testing.asserts
import pytest
import rclpy
from ament_index_python.packages import PackageNotFoundError, get_package_share_path
from ferros_msgs.msg import Emotion
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from rclpy.parameter_client import AsyncParameterClient

WAIT_S = 60.0
SHARE = Path(get_package_share_path('ferros'))
STAND_IN = f"""#!{sys.executable}
import os, signal, sys
print(os.path.basename(sys.argv[0]), *sys.argv[1:], flush=True)
print('resources', os.environ.get('GZ_SIM_RESOURCE_PATH'), flush=True)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: sys.exit(0))
signal.pause()
"""
GAZEBO = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.substitutions import LaunchConfiguration


def generate_launch_description():
    return LaunchDescription([
        DeclareLaunchArgument('gz_args', default_value=''),
        DeclareLaunchArgument('on_exit_shutdown', default_value='false'),
        ExecuteProcess(cmd=['exec {command}', LaunchConfiguration('gz_args')], shell=True,
                       output='screen'),
    ])
"""


def has_gazebo() -> bool:
    try:
        for package in ('ros_gz_sim', 'ros_gz_bridge', 'ros_gz_image'):
            get_package_share_path(package)
    except PackageNotFoundError:
        return False
    return True


def stand_ins(prefix: Path) -> None:
    """Make packages named as those of Gazebo; their programs only say how they were started."""
    for package, program in (
        ('ros_gz_sim', 'gz'), ('ros_gz_bridge', 'parameter_bridge'),
        ('ros_gz_image', 'image_bridge'),
    ):
        for path, content in (
            (f'share/ament_index/resource_index/packages/{package}', ''),
            (f'share/{package}/package.xml', ''),
            (f'lib/{package}/{program}', STAND_IN),
        ):
            (prefix / path).parent.mkdir(parents=True, exist_ok=True)
            (prefix / path).write_text(content)
        (prefix / 'lib' / package / program).chmod(0o755)
    launch = prefix / 'share' / 'ros_gz_sim' / 'launch'
    launch.mkdir()
    (launch / 'gz_sim.launch.py').write_text(
        GAZEBO.replace('{command}', str(prefix / 'lib' / 'ros_gz_sim' / 'gz'))
    )


HAS_GAZEBO = has_gazebo()
FOLDER = tempfile.TemporaryDirectory()
if not HAS_GAZEBO:
    stand_ins(Path(FOLDER.name))
    os.environ['AMENT_PREFIX_PATH'] = (
        FOLDER.name + os.pathsep + os.environ.get('AMENT_PREFIX_PATH', '')
    )


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    """Launch without a window and without a server."""
    arguments = {'headless': 'true', 'start_server': 'false', 'namespace': 'tested'}
    return LaunchDescription(
        [
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'simulation.launch.py')),
                launch_arguments=arguments.items(),
            ),
            launch_testing.actions.ReadyToTest(),
        ]
    )


class TestRunning(unittest.TestCase):
    """While the launch file runs."""

    def setUp(self) -> None:
        rclpy.init()
        self.node = rclpy.create_node('launch_tester')

    def tearDown(self) -> None:
        self.node.destroy_node()
        rclpy.shutdown()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            self.assertLess(time.monotonic(), deadline_s)
            rclpy.spin_once(self.node, timeout_sec=0.1)

    @unittest.skipIf(HAS_GAZEBO, 'this is about the stand-ins')
    def test_gazebo_and_the_bridges_are_started_as_they_should_be(self, proc_output: Any) -> None:
        world = SHARE / 'worlds' / 'fer.sdf'
        self.assertTrue(world.is_file())
        for line in (
            f'gz -r -s --headless-rendering {world}',
            'image_bridge /camera/image_raw --ros-args',
            'parameter_bridge --ros-args',
        ):
            proc_output.assertWaitFor(line, timeout=WAIT_S, stream='stdout')
        # Below it is ferros/worlds/textures.
        proc_output.assertWaitFor(
            f'resources {SHARE.parent}', timeout=WAIT_S, stream='stdout'
        )

    def test_the_node_reads_the_camera_and_follows_the_simulated_clock(self) -> None:
        self.wait_for(lambda: self.node.count_subscribers('/camera/image_raw') >= 1)
        client = AsyncParameterClient(self.node, '/tested/emotion_node')
        self.assertTrue(client.wait_for_services(WAIT_S))
        future = client.get_parameters(['use_sim_time'])
        self.wait_for(future.done)
        self.assertTrue(future.result().values[0].bool_value)

    @unittest.skipUnless(HAS_GAZEBO, 'ros_gz_sim, ros_gz_bridge or ros_gz_image is missing')
    def test_a_face_is_found_in_the_simulated_images(self) -> None:
        heard: list[Any] = []
        self.node.create_subscription(Emotion, '/tested/emotion', heard.append, 10)
        self.wait_for(lambda: any(message.face_detected for message in heard))


@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    """After the launch was ended."""

    def test_the_node_ended_cleanly(self, proc_info: Any) -> None:
        launch_testing.asserts.assertExitCodes(proc_info, process='emotion_node')
