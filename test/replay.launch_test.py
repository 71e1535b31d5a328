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
What launch_testing runs: a replayed image reaches the node, on the player's clock.

    launch_test test/replay.launch_test.py

The image is the smiling face of the simulated world. It is read by the server where `ferros-cloud`
is on the PATH, else it is only found.
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
from ferros_msgs.msg import Emotion
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

WAIT_S = 30.0
HAS_SERVER = shutil.which('ferros-cloud') is not None


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    """Replay an image in a namespace of its own."""
    share = Path(get_package_share_path('ferros'))
    arguments = {
        'source': str(share / 'worlds' / 'textures' / 'happiness.png'),
        'namespace': 'tested',
        'transport': 'raw',
        'use_sim_time': 'true',
        'rate': '1.5',
    }
    return LaunchDescription(
        [
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(share / 'launch' / 'replay.launch.py')),
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
        self.emotions: list[Any] = []
        self.clocks: list[Any] = []
        quality = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.node.create_subscription(Emotion, '/tested/emotion', self.emotions.append, 10)
        self.node.create_subscription(Clock, '/clock', self.clocks.append, quality)

    def tearDown(self) -> None:
        self.node.destroy_node()
        rclpy.shutdown()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            self.assertLess(time.monotonic(), deadline_s, self.emotions[-3:])
            rclpy.spin_once(self.node, timeout_sec=0.1)

    def test_the_face_is_found(self) -> None:
        self.wait_for(lambda: any(emotion.face_detected for emotion in self.emotions))

    @unittest.skipUnless(HAS_SERVER, 'ferros-cloud is not on the PATH')
    def test_the_server_reads_it(self) -> None:
        self.wait_for(
            lambda: any(
                (emotion.label, emotion.source) == ('happiness', Emotion.CLOUD)
                for emotion in self.emotions
            )
        )

    def test_the_player_makes_the_clock(self) -> None:
        self.wait_for(lambda: len(self.clocks) > 3)
        times = [(message.clock.sec, message.clock.nanosec) for message in self.clocks]
        self.assertEqual(times, sorted(times))


@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    """After the launch was ended."""

    def test_all_processes_ended_cleanly(self, proc_info: Any) -> None:
        launch_testing.asserts.assertExitCodes(proc_info)
