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

import math
from collections.abc import Mapping
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.time import Time

from ferros.link import LinkReport, LinkState

# A camera that was silent for so long is an ERROR.
CAMERA_SILENT_S = 1.0


class CameraReport(NamedTuple):
    """How the camera topic is doing."""

    topic: str
    # Since the last diagnostics.
    rate_hz: float
    # Since the last image; NaN before the first.
    silent_s: float
    # Median time from the start of decoding to the offered faces, since the last diagnostics.
    processing_ms: float
    faces: int


def diagnose(
    name: str,
    stamp: Time,
    camera: CameraReport,
    link: LinkReport,
    drops: Mapping[str, int],
) -> DiagnosticArray:
    """Return the message; name is the node's full name."""
    array = DiagnosticArray()
    array.header.stamp = stamp.to_msg()
    array.status = [
        _camera_status(name, camera),
        _link_status(name, link),
        _drops_status(name, drops),
    ]
    return array


def _camera_status(name: str, camera: CameraReport) -> DiagnosticStatus:
    if math.isnan(camera.silent_s):
        level, message = DiagnosticStatus.ERROR, f'no image yet on {camera.topic}'
    elif camera.silent_s > CAMERA_SILENT_S:
        level, message = DiagnosticStatus.ERROR, f'no image for {camera.silent_s:.1f} s'
    else:
        level, message = DiagnosticStatus.OK, f'{camera.rate_hz:.1f} images per second'
    return _status(
        f'{name}: camera',
        level,
        message,
        topic=camera.topic,
        rate_hz=f'{camera.rate_hz:.1f}',
        processing_ms=f'{camera.processing_ms:.1f}',
        faces=str(camera.faces),
    )


def _link_status(name: str, link: LinkReport) -> DiagnosticStatus:
    connected = link.state is LinkState.CONNECTED
    bandwidth = link.bandwidth
    return _status(
        f'{name}: link',
        DiagnosticStatus.OK if connected else DiagnosticStatus.WARN,
        f'connected, {link.model}' if connected else f'{link.state.value}: {link.detail}',
        model=link.model,
        sent_frames=str(link.sent_frames),
        answered_frames=str(link.answered_frames),
        sent_bytes=str(bandwidth.sent_bytes),
        acknowledged_bytes=str(bandwidth.acknowledged_bytes),
        acknowledged_bytes_per_s=f'{bandwidth.acknowledged_bytes_per_s:.0f}',
        rate_bytes_per_s=f'{bandwidth.rate_bytes_per_s:.0f}',
        budget_bytes_per_s=f'{link.budget_bytes_per_s:.0f}',
        window_bytes=str(bandwidth.window_bytes),
        queue_ms=f'{bandwidth.queue_ms:.1f}',
        in_flight_bytes=str(bandwidth.in_flight_bytes),
        round_trip_ms=f'{bandwidth.round_trip_ms:.1f}',
        min_round_trip_ms=f'{bandwidth.min_round_trip_ms:.1f}',
        **_points(link),
    )


def _drops_status(name: str, drops: Mapping[str, int]) -> DiagnosticStatus:
    return _status(
        f'{name}: drops',
        DiagnosticStatus.OK,
        f'{sum(drops.values())} dropped',
        **{reason: str(number) for reason, number in sorted(drops.items())},
    )


def _points(link: LinkReport) -> dict[str, str]:
    """Return what is planned for each face, the primary first."""
    points = link.plan.points.values() if link.plan is not None else ()
    return {
        f'operating_point_{rank}': (
            f'{point.face_size_px} px, {point.frame_rate_fps:.3g} fps, '
            f'{point.codec.name.lower()} {point.quality}, '
            f'expected accuracy {point.accuracy:.3f}'
        )
        for rank, point in enumerate(points)
    }


def _status(name: str, level: bytes, message: str, **values: str) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=name,
        level=level,
        message=message,
        hardware_id=name.partition(':')[0],
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
