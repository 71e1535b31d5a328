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
What launch_testing runs: the launch file brings the node up, or leaves that to a manager.

    launch_test test/lifecycle.launch_test.py

The manager of nav2 is not here; the test makes its calls.
"""

from __future__ import annotations

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
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState

WAIT_S = 30.0


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    """Launch two nodes, each in a namespace of its own."""
    launch_file = Path(get_package_share_path('ferros')) / 'launch' / 'cloud_fer.launch.py'
    return LaunchDescription(
        [
            *(
                GroupAction([
                    IncludeLaunchDescription(
                        PythonLaunchDescriptionSource(str(launch_file)),
                        launch_arguments={
                            'namespace': f'by_{lifecycle}', 'name': 'faces',
                            'lifecycle': lifecycle, 'start_server': 'false',
                        }.items(),
                    )
                ])
                for lifecycle in ('launch', 'manager')
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

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.node.create_client(kind, name)
        self.assertTrue(client.wait_for_service(WAIT_S), name)
        future = client.call_async(request)
        rclpy.spin_until_future_complete(self.node, future, timeout_sec=WAIT_S)
        return future.result()

    def state(self, node: str) -> int:
        return int(self.call(GetState, f'{node}/get_state', GetState.Request()).current_state.id)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            self.assertLess(time.monotonic(), deadline_s)
            time.sleep(0.1)

    def test_launch_configures_and_activates_the_node(self) -> None:
        self.wait_for(lambda: self.state('/by_launch/faces') == State.PRIMARY_STATE_ACTIVE)

    def test_a_manager_finds_it_unconfigured_and_brings_it_up(self) -> None:
        name = '/by_manager/faces'
        self.assertEqual(self.state(name), State.PRIMARY_STATE_UNCONFIGURED)
        for transition, expected in (
            (Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE),
            (Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE),
            (Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE),
            (Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED),
        ):
            request = ChangeState.Request(transition=Transition(id=transition))
            self.assertTrue(self.call(ChangeState, f'{name}/change_state', request).success)
            self.assertEqual(self.state(name), expected)


@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    """After the launch was ended."""

    def test_all_processes_ended_cleanly(self, proc_info: Any) -> None:
        launch_testing.asserts.assertExitCodes(proc_info)
