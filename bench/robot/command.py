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
"""What the parts of the bench have in common as commands."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def run(
    program: str, measure: Callable[[bool], Any], arguments: Sequence[str] | None = None
) -> int:
    """Measure, print what was found and write it where that is asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog=f'python -m {program}')
    parser.add_argument('--quick', action='store_true', help='less of it')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures there')
    options = parser.parse_args(arguments)
    text = json.dumps(measure(options.quick), indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + '\n', encoding='utf-8')
    return 0
