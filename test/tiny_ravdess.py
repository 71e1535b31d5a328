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

"""
A tiny RAVDESS: the official names and real 720p videos, generated from one free portrait.

The face is the astronaut's of scikit-image (NASA, public domain). Nobody plays an emotion here: it
is told by the number of stripes over the face, so figures from this tree mean nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from demo import clip

WIDTH_PX, HEIGHT_PX = 1280, 720
FRAME_RATE_FPS = 30
FRAMES = 12
FACE = (224, 118)  # its centre in the portrait, px
ZOOM = 1.4  # 720p pixels per pixel of the portrait
REGION_PX = 240  # what is drawn of it


def name(emotion: int, actor: int, modality: int = 1, **fields: int) -> str:
    """Return the official name of a file; emotion is 1 to 8."""
    channel, intensity, statement, repetition = (
        fields.get(key, 1) for key in ('channel', 'intensity', 'statement', 'repetition'))
    parts = (modality, channel, emotion, intensity, statement, repetition, actor)
    return '-'.join(f'{part:02}' for part in parts) + '.mp4'


def place(root: Path, emotion: int, actor: int, modality: int = 1, **fields: int) -> Path:
    """Return where a file lies in an unpacked RAVDESS."""
    return root / f'Actor_{actor:02}' / name(emotion, actor, modality, **fields)


def picture(emotion: int, actor: int) -> np.ndarray:
    """
    Return a 720p frame: the portrait with stripes over the face, as many as the emotion's code.

    Actors differ in where they sit, how bright they are, and (even ones) are mirrored.
    """
    portrait = clip.portrait()
    half = REGION_PX // 2
    region = portrait[max(FACE[1] - half, 0) : FACE[1] + half, FACE[0] - half : FACE[0] + half]
    size = round(region.shape[1] * ZOOM), round(region.shape[0] * ZOOM)
    region = cv2.resize(region, size).astype(np.float32)
    if actor % 2 == 0:
        region = region[:, ::-1]
    y = np.arange(region.shape[0])[:, None, None] / region.shape[0]
    region = region * (0.95 + 0.01 * actor) + 16 * np.sin(2 * np.pi * emotion * y)
    image = np.full((HEIGHT_PX, WIDTH_PX, 3), 110, np.uint8)
    top, left = 120 + 5 * actor, 400 + 12 * actor
    image[top : top + region.shape[0], left : left + region.shape[1]] = np.clip(region, 0, 255)
    return image


def write_video(
    path: Path, image: np.ndarray, frames: int = FRAMES, rate_fps: float = FRAME_RATE_FPS
) -> Path:
    """Write a video of a picture that gets a little brighter, frame by frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = image.shape[:2]
    codec = cv2.VideoWriter.fourcc(*'mp4v')
    writer = cv2.VideoWriter(str(path), codec, rate_fps, (width, height))
    assert writer.isOpened(), f'OpenCV cannot write {path}'
    for index in range(frames):
        writer.write(cv2.add(image, (index, index, index, 0)) if index % 4 == 0 else image)
    writer.release()
    return path


def write_tree(root: Path, actors: Sequence[int], emotions: Sequence[int] = range(1, 9)) -> Path:
    """Write one clip for each emotion and actor; the first actor's first also without sound."""
    for actor in actors:
        for emotion in emotions:
            write_video(place(root, emotion, actor), picture(emotion, actor))
    shutil.copy(place(root, emotions[0], actors[0]), place(root, emotions[0], actors[0], 2))
    return root


def truncate(path: Path, share: float = 0.4) -> None:
    """Cut a file, as a broken download does."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
