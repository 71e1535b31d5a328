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
"""Call a command of `ferros-cloud` in the test's own process, on one core."""

from __future__ import annotations

import argparse
from types import ModuleType


def command(module: ModuleType, *options: object) -> int:
    """Run a command's module with options as they would be typed; return its exit status."""
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    threads = ['--threads', '1'] if '--threads' in parser.format_help() else []
    return int(module.run(parser.parse_args([*threads, *map(str, options)])))
