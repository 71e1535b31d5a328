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
"""Write docs/parameters.md: every parameter of emotion_node, as RobotConfig has it."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from ferros.config import Parameter, RobotConfig

PATH = Path(__file__).resolve().parent.parent / 'docs' / 'parameters.md'
HEAD = (
    '# Parameters of emotion_node\n'
    '\n'
    'Made by `python -m tools.make_parameters` from ferros/config.py; '
    '[config/robot.yaml](../config/robot.yaml) has them as a file to copy. *Live* ones may be '
    'changed while the node runs,\n'
    '`ros2 param set /emotion_node publish_rate_hz 5.0`; the others are read when the node is '
    'configured and are read-only. A value of a wrong type, out of its range, or that contradicts '
    'another\n'
    'parameter is refused with the reason, and the old value stays. What only makes sense '
    'together (`server_address` with `tls_ca_file`) is set together by the service '
    '`set_parameters_atomically`.\n'
    '\n'
    'Besides them: `autostart` (true; read-only): configure and activate without being told to; '
    '`use_sim_time`; and `qos_overrides.<image topic>.subscription.*`.\n'
    '\n'
    '| parameter | default | range | live | meaning |\n'
    '|---|---|---|---|---|\n'
)


def main() -> int:
    """Write the file."""
    PATH.write_text(text(), encoding='utf-8')
    return 0


def text() -> str:
    """Return what the file is to hold."""
    return HEAD + ''.join(
        _row(item.name, item.default, item.metadata['parameter']) for item in fields(RobotConfig)
    )


def _row(name: str, default: Any, rule: Parameter) -> str:
    shown = str(default).lower() if isinstance(default, bool) else str(default) or '""'
    live = 'yes' if rule.live else ''
    return f'| `{name}` | {shown} | {_range(rule)} | {live} | {rule.description} |\n'


def _range(rule: Parameter) -> str:
    if rule.choices:
        return ', '.join(rule.choices)
    if rule.minimum is None or rule.maximum is None:
        return ''
    unset = '' if rule.unset is None else f'{rule.unset:g} or '
    return f'{unset}{rule.minimum:g} to {rule.maximum:g}'


if __name__ == '__main__':
    sys.exit(main())
