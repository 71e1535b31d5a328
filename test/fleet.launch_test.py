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
What launch_testing runs: the fleet of docs/launch.md, two robots with two cameras on one graph.

    launch_test test/fleet.launch_test.py

The description is the very example of the docs. The server is looked at where `ferros-cloud` is on
the PATH.
"""

from __future__ import annotations

import re
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
from launch import LaunchDescription

WAIT_S = 45.0
HAS_SERVER = shutil.which('ferros-cloud') is not None
DOCS = Path(__file__).resolve().parent.parent / 'docs' / 'launch.md'
PLACES = [f'{robot}/{camera}' for robot in ('robot_1', 'robot_2') for camera in ('front', 'back')]


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    """Return the example of the docs, and ready."""
    (example,) = re.findall(r'^```python\n(.*?)^```', DOCS.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(example, str(DOCS), 'exec'), names)
    return LaunchDescription(
        [names['generate_launch_description'](), launch_testing.actions.ReadyToTest()]
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
            self.assertLess(time.monotonic(), deadline_s, self.node.get_topic_names_and_types())
            rclpy.spin_once(self.node, timeout_sec=0.1)

    def test_each_camera_has_a_node_that_reads_its_images_and_publishes_beside_them(self) -> None:
        for place in PLACES:
            self.wait_for(lambda place=place: self.node.count_publishers(f'/{place}/emotion') == 1)
            self.wait_for(
                lambda place=place: self.node.count_subscribers(f'/{place}/image_raw') == 1
            )

    @unittest.skipUnless(HAS_SERVER, 'ferros-cloud is not on the PATH')
    def test_one_server_serves_all_and_knows_them_by_their_names(
        self, proc_output: Any, proc_info: Any
    ) -> None:
        servers = [name for name in proc_info.process_names() if name.startswith('ferros_cloud')]
        self.assertEqual(len(servers), 1, proc_info.process_names())
        for place in PLACES:
            proc_output.assertWaitFor(f'[{place} #', timeout=WAIT_S, stream='stderr')


@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    """After the launch was ended."""

    def test_all_processes_ended_cleanly(self, proc_info: Any) -> None:
        launch_testing.asserts.assertExitCodes(proc_info)
