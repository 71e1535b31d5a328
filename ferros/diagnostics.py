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
"""What the node says of itself on /diagnostics."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.time import Time

from ferros.health import Health, NodeReport, health


def diagnose(
    name: str, stamp: Time, report: NodeReport, previous: NodeReport | None = None
) -> DiagnosticArray:
    """
    Return the message for a report.

    Args:
        name: the node's full name; each status is called `<name>: <part>`.
        stamp: of the message.
        report: the figures of now.
        previous: those of the message before, which rates are taken from; None for the first.

    """
    array = DiagnosticArray()
    array.header.stamp = stamp.to_msg()
    array.status = [_status(name, part) for part in health(report, previous)]
    return array


def _status(name: str, part: Health) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=f'{name}: {part.part}',
        level=bytes([part.level]),
        message=part.message,
        hardware_id=name,
        values=[KeyValue(key=key, value=value) for key, value in part.values.items()],
    )
