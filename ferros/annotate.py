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
"""The camera image with what is known of its faces drawn into it; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from ferros.link import LinkReport, LinkState
from ferros.pacing import Pacer
from ferros.types import UNKNOWN, Box, CameraFrame, Image, Observation, Source, Track

Colour = tuple[int, int, int]

# Blue, green, red. Blue, orange and grey are told apart by everybody, and by the words beside.
COLOURS: dict[Source, Colour] = {
    Source.CLOUD: (235, 160, 60),
    Source.ROBOT: (30, 150, 250),
    Source.NONE: (190, 190, 190),
}
WORDS = {Source.CLOUD: 'cloud', Source.ROBOT: 'robot', Source.NONE: 'no answer'}
DARK: Colour = (20, 20, 20)
LIGHT: Colour = (245, 245, 245)
FONT = cv2.FONT_HERSHEY_SIMPLEX
# Of the font, in an image of 720 lines; and the smallest that can be read.
SCALE_AT_720 = 0.75
LEAST_SCALE = 0.36
# Around a text, as a share of its height.
MARGIN = 0.4


class AnnotatedRate:
    """Says when an annotated image is to be drawn: while somebody listens, and not too often."""

    def __init__(self) -> None:
        self._pacer = Pacer()

    def wants(self, listeners: int, now_ns: int, rate_hz: float) -> bool:
        """
        Tell whether to draw the image that is there now; if so, that counts as drawn.

        Args:
            listeners: subscribers of the annotated topics.
            now_ns: the monotonic clock.
            rate_hz: images per second at most, on average.

        """
        interval_ns = round(1e9 / rate_hz)
        if listeners <= 0 or self._pacer.wait_ns(now_ns, interval_ns) > 0:
            return False
        self._pacer.happened(now_ns, interval_ns)
        return True


def status_line(link: LinkReport, speaker: Source) -> str:
    """Return who answers, how the link is and what is sent of the primary face."""
    is_connected = link.state is LinkState.CONNECTED
    is_answering = speaker is Source.ROBOT or (speaker is Source.CLOUD and is_connected)
    parts = [f'{speaker.name.lower()} answers' if is_answering else 'nobody answers']
    if not is_connected:
        return f'{parts[0]} | link {link.state.value}'
    rate = f'link {link.bandwidth.rate_bytes_per_s * 8 / 1000:.0f} kbit/s'
    round_trip_ms = link.bandwidth.round_trip_ms
    parts.append(rate if math.isnan(round_trip_ms) else f'{rate} {round_trip_ms:.0f} ms')
    point = next(iter(link.plan.points.values()), None) if link.plan is not None else None
    if point is not None:
        parts.append(
            f'{point.face_size_px} px {point.frame_rate_fps:.3g} fps '
            f'{point.codec.name.lower()} {point.quality}'
        )
    return ' | '.join(parts)


def annotate(
    frame: CameraFrame,
    tracks: Sequence[Track],
    observations: Sequence[Observation],
    primary_id: str | None,
    status: str = '',
) -> Image:
    """
    Return a copy of the frame's image, as BGR, with the faces and a line of status drawn in.

    Args:
        frame: luma or BGR; the result has the size of its image.
        tracks: where the faces are now, in pixels of the published image.
        observations: what is known of them, by face_id; a face that has none is `unknown`.
        primary_id: whose box is drawn thick.
        status: one line for the top of the image, ASCII (the font has no more).

    """
    is_grey = frame.image.ndim == 2
    colours = cv2.cvtColor(frame.image, cv2.COLOR_GRAY2BGR) if is_grey else frame.image
    # OpenCV draws into a contiguous image of our own only.
    image: Image = np.array(colours, np.uint8, order='C')
    scale = _font_scale(image)
    known = {observation.face_id: observation for observation in observations}
    top_px = _line_height_px(scale) if status else 0
    # The primary face last, so that nobody's label covers its own.
    for track in sorted(tracks, key=lambda track: track.face_id == primary_id):
        corners = _corners(frame.in_image(track.box), image)
        if corners is None:
            continue
        observation = known.get(track.face_id)
        source = Source.NONE if observation is None else observation.source
        weight = max(1, round(2 * scale)) * (2 if track.face_id == primary_id else 1)
        cv2.rectangle(image, corners[:2], corners[2:], COLOURS[source], weight)
        lines = [_label(observation), f'{WORDS[source]} {track.face_id}']
        _write(image, lines, _place(lines, corners, image, scale), scale, COLOURS[source], top_px)
    if status:
        _write(image, [status], (0, 0), scale, DARK)
    return image


def _font_scale(image: Image) -> float:
    height_px, width_px = image.shape[:2]
    return max(LEAST_SCALE, SCALE_AT_720 * min(height_px, width_px * 9 / 16) / 720)


def _corners(box: Box, image: Image) -> tuple[int, int, int, int] | None:
    """Return left, top, right and bottom in the image, inclusive; None: none of it is in it."""
    if not all(math.isfinite(value) for value in box):
        return None
    height_px, width_px = image.shape[:2]
    left, top = max(0.0, box.x), max(0.0, box.y)
    right = min(width_px - 1.0, box.x + box.width)
    bottom = min(height_px - 1.0, box.y + box.height)
    if right <= left or bottom <= top:
        return None
    return round(left), round(top), round(right), round(bottom)


def _place(
    lines: Sequence[str], corners: tuple[int, int, int, int], image: Image, scale: float
) -> tuple[int, int]:
    """Return the top left corner of a label: above the face, or else below or over its edge."""
    left, top, _, bottom = corners
    height_px = len(lines) * _line_height_px(scale)
    if top >= height_px:
        return left, top - height_px
    return left, bottom if bottom + height_px < image.shape[0] else top


def _label(observation: Observation | None) -> str:
    if observation is None or observation.source is Source.NONE:
        return UNKNOWN
    confidence = observation.confidence
    return observation.label + (f' {confidence:.2f}' if math.isfinite(confidence) else '')


def _line_height_px(scale: float) -> int:
    (_, height_px), baseline_px = cv2.getTextSize('Ag', FONT, scale, 1)
    return round(height_px * (1 + MARGIN) + baseline_px)


def _write(
    image: Image,
    lines: Sequence[str],
    corner: tuple[int, int],
    scale: float,
    background: Colour,
    top_px: int = 0,
) -> None:
    """Write lines on a background, moved and cut so that all is inside the image, below top_px."""
    height_px, width_px = image.shape[:2]
    weight = max(1, round(1.6 * scale))
    line_px = _line_height_px(scale)
    margin_px = round(MARGIN * line_px / 2)
    lines = [_cut(line, width_px - 2 * margin_px, scale, weight) for line in lines]
    text_px = max(_text_width_px(line, scale, weight) for line in lines) + 2 * margin_px
    left = max(0, min(corner[0], width_px - text_px))
    top = max(top_px, min(corner[1], height_px - line_px * len(lines)))
    bottom_right = (left + text_px - 1, top + line_px * len(lines) - 1)
    cv2.rectangle(image, (left, top), bottom_right, background, cv2.FILLED)
    _, baseline_px = cv2.getTextSize('Ag', FONT, scale, weight)
    colour = LIGHT if background is DARK else DARK
    for row, line in enumerate(lines, 1):
        origin = (left + margin_px, top + row * line_px - baseline_px)
        cv2.putText(image, line, origin, FONT, scale, colour, weight, cv2.LINE_AA)


def _cut(line: str, room_px: int, scale: float, weight: int) -> str:
    """Return as much of a line as there is room for."""
    if _text_width_px(line, scale, weight) <= room_px:
        return line
    while line and _text_width_px(line + '..', scale, weight) > room_px:
        line = line[:-1]
    return line + '..' if line else ''


def _text_width_px(line: str, scale: float, weight: int) -> int:
    (width_px, _), _ = cv2.getTextSize(line, FONT, scale, weight)
    return int(width_px)
