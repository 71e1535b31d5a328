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
"""The annotated video: what the robot saw and what it was told, at the time it was told."""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from demo.palette import colour_bgr
from demo.recorder import Heard
from ferros.types import Image

# A face's box is drawn this long after its last answer.
HOLD_S = 1.0
FONT = cv2.FONT_HERSHEY_SIMPLEX


class Shown(NamedTuple):
    """A face as a message told it."""

    stamp_s: float
    # When the message was published, on the clock of the stamps.
    told_s: float
    message: Any


def write(path: Path, images: Sequence[Heard], arrays: Sequence[Heard]) -> None:
    """Write the camera's images with the faces drawn in; at least one image."""
    faces = collect(arrays)
    stamps_s = [stamp_s(image.message.header) for image in images]
    spacings_s = [b - a for a, b in itertools.pairwise(stamps_s) if b > a]
    frame_rate_fps = 1 / statistics.median(spacings_s) if spacings_s else 1.0
    writer: cv2.VideoWriter | None = None
    for image, at_s in zip(images, stamps_s, strict=True):
        picture = decode(image)
        if picture is None:
            continue
        height_px, width_px = picture.shape[:2]
        if writer is None:
            codec = cv2.VideoWriter.fourcc(*'mp4v')
            writer = cv2.VideoWriter(str(path), codec, frame_rate_fps, (width_px, height_px))
        writer.write(annotate(picture, faces, at_s))
    if writer is not None:
        writer.release()


def collect(arrays: Sequence[Heard]) -> dict[str, list[Shown]]:
    """Return what was told of each face, in the order of its images."""
    faces: dict[str, list[Shown]] = defaultdict(list)
    for array in arrays:
        for face in array.message.faces:
            shown_s = stamp_s(face.header)
            if not faces[face.face_id] or faces[face.face_id][-1].stamp_s < shown_s:
                told_s = shown_s + face.age.sec + face.age.nanosec / 1e9
                faces[face.face_id].append(Shown(shown_s, told_s, face))
    return faces


def annotate(picture: Image, faces: dict[str, list[Shown]], at_s: float) -> Image:
    """Return a copy of the picture with the faces of that time."""
    drawn = np.ascontiguousarray(picture).copy()
    for shown in faces.values():
        told = [entry for entry in shown if entry.told_s <= at_s]
        box = box_at(shown, at_s)
        if box is None:
            continue
        _draw_face(drawn, box, told[-1].message if told else shown[0].message, bool(told))
    return drawn


def box_at(shown: list[Shown], at_s: float) -> tuple[float, float, float, float] | None:
    """Return where a face was at that time, between the images it was told of."""
    index = bisect.bisect_right([entry.stamp_s for entry in shown], at_s)
    before, after = shown[index - 1] if index else None, shown[index : index + 1]
    if before is None or at_s - before.stamp_s > HOLD_S:
        return None
    here = _roi(before)
    if not after or after[0].stamp_s - before.stamp_s > HOLD_S:
        return here if at_s - before.stamp_s < HOLD_S / 3 else None
    share = (at_s - before.stamp_s) / (after[0].stamp_s - before.stamp_s)
    x, y, w, h = (a + share * (b - a) for a, b in zip(here, _roi(after[0]), strict=True))
    return x, y, w, h


def _draw_face(
    picture: Image, box: tuple[float, float, float, float], face: Any, told: bool
) -> None:
    label = face.label if told else 'unknown'
    colour = colour_bgr(label)
    x, y, width, height = (round(value) for value in box)
    cv2.rectangle(picture, (x, y), (x + width, y + height), colour, 2, cv2.LINE_AA)
    text = label if label == 'unknown' else f'{label} {face.confidence:.2f}'
    (text_px, _), _ = cv2.getTextSize(text, FONT, 0.5, 1)
    top = y - 20 if y >= 20 else y + height
    cv2.rectangle(picture, (x - 1, top), (x + text_px + 9, top + 20), colour, cv2.FILLED)
    cv2.putText(picture, text, (x + 4, top + 14), FONT, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    if told:
        _draw_bars(picture, face, x + width + 6, y)


def _draw_bars(picture: Image, face: Any, x: int, y: int) -> None:
    """Draw one small bar per class beside the face."""
    for row, (label, probability) in enumerate(zip(face.labels, face.probabilities, strict=True)):
        at = (x, y + 8 * row)
        cv2.rectangle(picture, at, (x + 40, at[1] + 5), (60, 60, 60), cv2.FILLED)
        end = (x + round(40 * probability), at[1] + 5)
        cv2.rectangle(picture, at, end, colour_bgr(label), cv2.FILLED)


def decode(image: Heard) -> Image | None:
    """Return the picture of a CompressedImage message; None where it is none."""
    data = np.frombuffer(image.message.data, np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)  # type: ignore[return-value]


def stamp_s(header: Any) -> float:
    """Return the stamp of a header in seconds."""
    return float(header.stamp.sec + header.stamp.nanosec / 1e9)


def _roi(shown: Shown) -> tuple[float, float, float, float]:
    roi = shown.message.roi
    return roi.x_offset, roi.y_offset, roi.width, roi.height
