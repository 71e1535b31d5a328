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
"""What is published on /diagnostics."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from node_reports import WAITING, report
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.time import Time

from ferros.diagnostics import diagnose
from ferros.health import Level


def test_the_message_names_the_node_and_its_parts() -> None:
    message = diagnose('/robot/emotion_node', Time(nanoseconds=7), report(drops={'late': 3}))
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (0, 7)
    assert [status.name for status in message.status] == [
        f'/robot/emotion_node: {part}' for part in ('camera', 'link', 'faces', 'answers', 'drops')
    ]
    assert {status.hardware_id for status in message.status} == {'/robot/emotion_node'}
    (late,) = message.status[-1].values
    assert (late.key, late.value) == ('late', '3')


def test_it_survives_the_way_and_carries_the_levels() -> None:
    now = report(link=WAITING, rep155='two of them', silent_s=float('nan'))
    sent = diagnose('/emotion_node', Time(), now, report(at_s=9.0))
    message = deserialize_message(serialize_message(sent), type(sent))
    assert [status.level for status in message.status] == [
        DiagnosticStatus.ERROR,
        DiagnosticStatus.WARN,
        DiagnosticStatus.STALE,
        DiagnosticStatus.STALE,
        DiagnosticStatus.OK,
        DiagnosticStatus.WARN,
    ]
    assert message.status[-1].message == 'two of them'


@pytest.mark.parametrize('level', Level)
def test_levels_are_those_of_the_message(level: Level) -> None:
    assert getattr(DiagnosticStatus, level.name) == bytes([level])


def test_the_documented_analyzers_name_every_part(root: Path) -> None:
    text = (root / 'docs' / 'diagnostics.md').read_text(encoding='utf-8')
    section = text.partition('## With diagnostic_aggregator')[2].partition('\n\n')[2]
    lines = section.partition('\n\n')[0].splitlines()
    document = yaml.safe_load('\n'.join(line[4:] for line in lines))
    (group,) = [
        value
        for value in document['analyzers']['ros__parameters'].values()
        if isinstance(value, dict)
    ]
    named = {name for analyzer in group['analyzers'].values() for name in analyzer['contains']}
    message = diagnose('/emotion_node', Time(), report(rep155=''))
    assert {f'/{name}' for name in named} == {status.name for status in message.status}
