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
What launch_testing runs: the server is started, once, and ends cleanly.

    launch_test test/server.launch_test.py

It needs `ferros-cloud` on the PATH.
"""

from __future__ import annotations

import shutil
import socket
import unittest
from pathlib import Path
from typing import Any

import launch_testing.actions
import launch_testing.asserts
import pytest
from ament_index_python.packages import get_package_share_path
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

WAIT_S = 30.0
HAS_SERVER = shutil.which('ferros-cloud') is not None


def free_port() -> int:
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return int(server.getsockname()[1])


PORT = free_port()


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    """Include the launch file twice for one address, which two names have."""
    launch_file = Path(get_package_share_path('ferros')) / 'launch' / 'server.launch.py'
    includes = [
        GroupAction([
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(launch_file)),
                launch_arguments={
                    'host': host, 'port': str(PORT), 'workers': '2', 'options': '--credits 9',
                }.items(),
            )
        ])
        for host in ('127.0.0.1', 'localhost')
    ]
    return LaunchDescription(
        [*(includes if HAS_SERVER else []), launch_testing.actions.ReadyToTest()]
    )


@unittest.skipUnless(HAS_SERVER, 'ferros-cloud is not on the PATH')
class TestRunning(unittest.TestCase):
    """While the launch file runs."""

    def test_the_server_listens_as_it_was_told(self, proc_output: Any, proc_info: Any) -> None:
        for line in (f'listening on 127.0.0.1:{PORT}', '2 workers'):
            proc_output.assertWaitFor(line, timeout=WAIT_S, stream='stdout')
        self.assertEqual(len(proc_info.process_names()), 1, proc_info.process_names())


@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    """After the launch was ended."""

    def test_all_processes_ended_cleanly(self, proc_info: Any) -> None:
        if HAS_SERVER:
            launch_testing.asserts.assertExitCodes(proc_info)
