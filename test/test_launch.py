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
"""The launch file, by launch_testing, where that is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

from demo import processes


@pytest.mark.skipif(
    importlib.util.find_spec('launch_testing') is None,
    reason='launch and launch_testing come with a ROS distribution, not from PyPI',
)
def test_the_launch_file_brings_up_a_node_that_works(root: Path) -> None:
    with processes.own_domain() as domain_id:
        run = subprocess.run(
            ['launch_test', 'test/cloud_fer.launch_test.py'],
            cwd=root,
            env={**os.environ, 'ROS_DOMAIN_ID': str(domain_id)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert run.returncode == 0, run.stdout + run.stderr
