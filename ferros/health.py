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
"""How well the node does its work, by documented limits; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from ferros.link import LinkReport, LinkState
from ferros.types import Source

# A camera that was silent for so long is an ERROR, and what follows from its images STALE.
CAMERA_SILENT_S = 1.0
# A camera slower than this is a WARN: a short expression falls between two images.
CAMERA_SLOW_HZ = 5.0
# The share of the camera's interval that the 95th percentile of the processing times may take.
PROCESSING_SHARE = 1.0
# Of fewer images there is no 95th percentile to speak of.
ENOUGH_IMAGES = 5
# A connected link slower than this is a WARN: the answers are old when they come.
ROUND_TRIP_SLOW_MS = 500.0
# More drops for one reason than this are a WARN.
DROPS_PER_S = 1.0
# What is dropped for these reasons, or for one that ends in `_` and them, is dropped by design:
# a newer one took its place, there was nobody left to tell, somebody else speaks, or another part
# says it already.
BY_DESIGN = (
    'superseded', 'face_gone', 'on_probation', 'not_needed', 'not_connected', 'link_stopped',
)


class Level(IntEnum):
    """How bad it is; the values are those of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    # The values say how it was, not how it is.
    STALE = 3


class Health(NamedTuple):
    """What is known of one part of the node."""

    part: str
    level: Level
    message: str
    values: dict[str, str]


class CameraReport(NamedTuple):
    """How the camera topic is doing."""

    topic: str
    # Of what arrived since the last report.
    rate_hz: float
    # Since the last image; NaN before the first.
    silent_s: float
    # Of each image processed since the last report, from the start of decoding to the offered
    # faces.
    processing_ms: tuple[float, ...]


class FacesReport(NamedTuple):
    """Who is in the newest image."""

    number: int
    # Empty: nobody.
    primary_id: str
    # For how long somebody has been there without a break; NaN: nobody is.
    there_s: float
    # How many are read at most.
    max_faces: int


class AnswersReport(NamedTuple):
    """Who reads the faces, and how well that goes on."""

    # Answers published so far, each once, by who computed them; NONE: faces published without.
    published: Mapping[Source, int]
    # Who speaks now; NONE: nobody has answered yet.
    speaker: Source
    # Since the image of the newest answer about the primary face; NaN: there was none.
    age_s: float
    # Above which an answer is not published.
    max_age_s: float
    # The model on the robot; empty: it is not used.
    robot_model: str


class NodeReport(NamedTuple):
    """The node's figures at one time."""

    # The monotonic clock.
    at_ns: int
    camera: CameraReport
    link: LinkReport
    faces: FacesReport
    answers: AnswersReport
    # So far, by reason.
    drops: Mapping[str, int]
    # What keeps the topics of REP-155 from being right; empty: nothing; None: they are not used.
    rep155: str | None = None

    @property
    def is_blind(self) -> bool:
        """Tell whether there is no camera image to go by."""
        silent_s = self.camera.silent_s
        return math.isnan(silent_s) or silent_s > CAMERA_SILENT_S

    @property
    def is_answered(self) -> bool:
        """Tell whether a face has an answer, or has not been there long enough to have one."""
        answers = self.answers
        # Either may be NaN, which no comparison holds for.
        too_old = not answers.age_s <= answers.max_age_s
        return not (too_old and self.faces.there_s > answers.max_age_s)


def health(report: NodeReport, previous: NodeReport | None) -> list[Health]:
    """Judge a report; previous is the one before it, None for the first."""
    parts = [
        _camera(report, previous),
        _link(report),
        _faces(report),
        _answers(report, previous),
        _drops(report, previous),
    ]
    return parts if report.rep155 is None else [*parts, _rep155(report.rep155)]


def _camera(report: NodeReport, previous: NodeReport | None) -> Health:
    camera = report.camera
    median_ms, p95_ms, longest_ms = _quantiles(camera.processing_ms)
    level, message = Level.OK, f'{camera.rate_hz:.1f} images per second'
    # Of the first second only a part had images.
    is_settled = previous is not None and not previous.is_blind
    if math.isnan(camera.silent_s):
        level, message = Level.ERROR, f'no image yet on {camera.topic}'
    elif report.is_blind:
        level, message = Level.ERROR, f'no image for {camera.silent_s:.1f} s'
    elif is_settled and camera.rate_hz < CAMERA_SLOW_HZ:
        level, message = Level.WARN, f'only {message}'
    elif (
        len(camera.processing_ms) >= ENOUGH_IMAGES
        and p95_ms * camera.rate_hz > PROCESSING_SHARE * 1000
    ):
        level = Level.WARN
        message = f'{message}, but one takes {p95_ms:.0f} ms (95th percentile)'
    return Health(
        'camera',
        level,
        message,
        {
            'topic': camera.topic,
            'rate_hz': f'{camera.rate_hz:.1f}',
            'silent_s': f'{camera.silent_s:.1f}',
            'processing_ms': f'{median_ms:.1f}',
            'processing_p95_ms': f'{p95_ms:.1f}',
            'processing_max_ms': f'{longest_ms:.1f}',
            'faces': str(report.faces.number),
        },
    )


def _link(report: NodeReport) -> Health:
    link = report.link
    connected = link.state is LinkState.CONNECTED
    level, message = Level.OK, f'connected, {link.model}'
    if connected and link.bandwidth.round_trip_ms > ROUND_TRIP_SLOW_MS:
        level = Level.WARN
        message += f', but its round trip takes {link.bandwidth.round_trip_ms:.0f} ms'
    elif not connected:
        level, message = Level.WARN, f'{link.state.value}: {link.detail}'
        if report.answers.speaker is Source.ROBOT:
            message += '; the robot answers itself'
        elif not (report.is_answered or report.is_blind):
            level = Level.ERROR
            message += '; nobody answers'
    return Health('link', level, message, _link_values(link))


def _link_values(link: LinkReport) -> dict[str, str]:
    bandwidth = link.bandwidth
    return {
        'state': link.state.value,
        'model': link.model,
        'input_size_px': str(link.input_size_px),
        'sent_frames': str(link.sent_frames),
        'answered_frames': str(link.answered_frames),
        'sent_bytes': str(bandwidth.sent_bytes),
        'acknowledged_bytes': str(bandwidth.acknowledged_bytes),
        'acknowledged_bytes_per_s': f'{bandwidth.acknowledged_bytes_per_s:.0f}',
        'rate_bytes_per_s': f'{bandwidth.rate_bytes_per_s:.0f}',
        'budget_bytes_per_s': f'{link.budget_bytes_per_s:.0f}',
        'window_bytes': str(bandwidth.window_bytes),
        'queue_ms': f'{bandwidth.queue_ms:.1f}',
        'in_flight_bytes': str(bandwidth.in_flight_bytes),
        'round_trip_ms': f'{bandwidth.round_trip_ms:.1f}',
        'min_round_trip_ms': f'{bandwidth.min_round_trip_ms:.1f}',
        **_points(link),
    }


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


def _faces(report: NodeReport) -> Health:
    faces = report.faces
    level, message = Level.OK, _of_faces(faces.number)
    if report.is_blind:
        level, message = Level.STALE, f'{message} in the last image, if there was one'
    elif faces.number > faces.max_faces:
        level, message = Level.WARN, f'{message}, of which {faces.max_faces} are read'
    return Health(
        'faces',
        level,
        message,
        {
            'faces': str(faces.number),
            'max_faces': str(faces.max_faces),
            'primary': faces.primary_id,
            'there_s': f'{faces.there_s:.1f}',
        },
    )


def _answers(report: NodeReport, previous: NodeReport | None) -> Health:
    answers, faces = report.answers, report.faces
    rates_hz = {source: _published_hz(source, report, previous) for source in Source}
    level, message = Level.OK, 'no face is there'
    if report.is_blind:
        level, message = Level.STALE, 'there is no image to answer about'
    elif faces.number and not report.is_answered:
        age = 'yet' if math.isnan(answers.age_s) else f'for {answers.age_s:.1f} s'
        level, message = Level.ERROR, f'no answer {age}: {_of_faces(faces.number)}'
    elif faces.number and (math.isnan(answers.age_s) or answers.speaker is Source.NONE):
        message = 'no answer yet'
    elif faces.number and answers.speaker is Source.ROBOT:
        level = Level.WARN
        message = f'the robot answers itself, {rates_hz[Source.ROBOT]:.1f} times a second'
    elif faces.number:
        message = f'the server answers, {rates_hz[Source.CLOUD]:.1f} times a second'
    return Health(
        'answers',
        level,
        message,
        {
            'speaker': answers.speaker.name.lower(),
            'age_s': f'{answers.age_s:.2f}',
            'max_age_s': f'{answers.max_age_s:.2f}',
            'cloud_model': report.link.model,
            'robot_model': answers.robot_model,
            **{
                f'published_{_WORDS[source]}': str(answers.published.get(source, 0))
                for source in Source
            },
            **{
                f'published_{_WORDS[source]}_hz': f'{rate_hz:.1f}'
                for source, rate_hz in rates_hz.items()
            },
        },
    )


_WORDS = {Source.NONE: 'unknown', Source.CLOUD: 'cloud', Source.ROBOT: 'robot'}


def _published_hz(source: Source, report: NodeReport, previous: NodeReport | None) -> float:
    before = {} if previous is None else previous.answers.published
    number = report.answers.published.get(source, 0) - before.get(source, 0)
    return number / _elapsed_s(report, previous)


def _drops(report: NodeReport, previous: NodeReport | None) -> Health:
    before = {} if previous is None else previous.drops
    elapsed_s = _elapsed_s(report, previous)
    rates_per_s = {
        reason: (number - before.get(reason, 0)) / elapsed_s
        for reason, number in sorted(report.drops.items())
        if not is_by_design(reason)
    }
    many = [
        f'{reason} {rate:.1f} a second'
        for reason, rate in rates_per_s.items()
        if rate > DROPS_PER_S
    ]
    return Health(
        'drops',
        Level.WARN if many else Level.OK,
        ', '.join([f'{sum(report.drops.values())} dropped', *many]),
        {reason: str(number) for reason, number in sorted(report.drops.items())},
    )


def is_by_design(reason: str) -> bool:
    """Tell whether drops for this reason, however many, are no sign of trouble."""
    return any(reason == known or reason.endswith(f'_{known}') for known in BY_DESIGN)


def _rep155(conflict: str) -> Health:
    level = Level.WARN if conflict else Level.OK
    return Health('rep155', level, conflict or 'no conflict', {})


def _elapsed_s(report: NodeReport, previous: NodeReport | None) -> float:
    """Return the time between two reports; 1 s, the period of reports, before the first."""
    return 1.0 if previous is None else max((report.at_ns - previous.at_ns) / 1e9, 1e-3)


def _quantiles(times_ms: tuple[float, ...]) -> tuple[float, float, float]:
    """Return median, 95th percentile and maximum; NaN where there are none."""
    if not times_ms:
        return math.nan, math.nan, math.nan
    median_ms, p95_ms, longest_ms = np.percentile(times_ms, (50, 95, 100))
    return float(median_ms), float(p95_ms), float(longest_ms)


def _of_faces(number: int) -> str:
    return '1 face' if number == 1 else f'{number} faces'
