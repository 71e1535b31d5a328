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
"""The load generator: how many robots does a server carry? Behind `ferros-cloud load`."""

from __future__ import annotations

from cloud_server.load.command import add_arguments, run
from cloud_server.load.generate import generate
from cloud_server.load.plan import Plan
from cloud_server.load.result import Result

__all__ = ['Plan', 'Result', 'add_arguments', 'generate', 'run']
