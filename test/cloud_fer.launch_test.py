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
What launch_testing runs: the launch file brings up a node that works, and ends cleanly.

    launch_test test/cloud_fer.launch_test.py

The server is started too where `ferros-cloud` is on the PATH.
"""

from __future__ import annotations

import shutil
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import launch_testing.actions
import launch_testing.asserts
import pytest
import rclpy
from ament_index_python.packages import get_package_share_path
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

WAIT_S = 30.0
HAS_SERVER = shutil.which('ferros-cloud') is not None


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    """Launch the node in a namespace of its own."""
    launch_file = Path(get_package_share_path('ferros')) / 'launch' / 'cloud_fer.launch.py'
    arguments = {'namespace': 'tested', 'image': 'front/image', 'transport': 'compressed'}
    return LaunchDescription(
        [
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(launch_file)),
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
        self.heard: dict[str, Any] = {}
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self.hear, 10)

    def tearDown(self) -> None:
        self.node.destroy_node()
        rclpy.shutdown()

    def hear(self, message: DiagnosticArray) -> None:
        self.heard.update({status.name: status for status in message.status})

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            self.assertLess(time.monotonic(), deadline_s, f'heard only {self.heard}')
            rclpy.spin_once(self.node, timeout_sec=0.1)

    def test_the_node_says_that_there_is_no_camera_yet(self) -> None:
        name = '/tested/emotion_node: camera'
        self.wait_for(lambda: name in self.heard)
        self.assertEqual(self.heard[name].level, DiagnosticStatus.ERROR)
        self.assertIn('/tested/front/image/compressed', self.heard[name].message)

    def test_the_topics_are_in_the_namespace(self) -> None:
        def topics() -> set[str]:
            return {name for name, _ in self.node.get_topic_names_and_types()}

        self.wait_for(lambda: {'/tested/emotion', '/tested/emotion/faces'} <= topics())

    @unittest.skipUnless(HAS_SERVER, 'ferros-cloud is not on the PATH')
    def test_the_node_is_connected_to_the_server_that_was_started(self) -> None:
        name = '/tested/emotion_node: link'
        self.wait_for(
            lambda: name in self.heard and self.heard[name].message.startswith('connected')
        )


@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    """After the launch was ended."""

    def test_all_processes_ended_cleanly(self, proc_info: Any) -> None:
        launch_testing.asserts.assertExitCodes(proc_info)
