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
What the robot sees in the bench: faces of 48 x 48 pixels, in clips of six seconds.

With FER+ at hand the clips are those that the accuracy grid was measured with (simulated clips of
validation faces, another seed): labelled, so that answers can be judged. Without it a portrait
moves before the camera: its length in bytes is real, its answers cannot be judged.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from demo import clip

SIDE_PX = 48
TICK_HZ = 30
LENGTH_TICKS = 180
# Not the seed of the operating points: what was tuned on its clips is not judged by them.
SEED = 2026
# Of the portrait: the face's centre and the side of its square.
FACE = (224, 118, 150)

Frames = npt.NDArray[np.uint8]


class Clips(NamedTuple):
    """What is played."""

    # uint8 [C,T,48,48], luma.
    frames: Frames
    # The true label of each clip at each tick, C rows of T; None: not known.
    truth: list[list[str]] | None


def labelled(ferplus: Path, count: int) -> Clips:
    """Return simulated clips of FER+ validation faces that have a majority."""
    from cloud_server.training import coded_clips, streaming
    from cloud_server.training.clips import ClipConfig, draw
    from cloud_server.training.ferplus import EMOTIONS, load, majority

    faces = load(ferplus, 'valid')
    faces = faces.subset(majority(faces.votes) >= 0)
    scenes = draw(ClipConfig(), count, len(faces), SEED)
    truth = streaming.truths(faces, scenes)
    labels = [[EMOTIONS[index] for index in row] for row in truth]
    return Clips(coded_clips.camera_frames(faces, scenes), labels)


def rendered(count: int) -> Clips:
    """Return clips of the public portrait, moving; all alike but for the way it moves."""
    x, y, side = FACE
    photograph = cv2.cvtColor(clip.portrait(), cv2.COLOR_BGR2GRAY)
    random = np.random.default_rng(SEED)
    frames = np.empty((count, LENGTH_TICKS, SIDE_PX, SIDE_PX), np.uint8)
    for number in range(count):
        phase, speed = random.uniform(0, 6, 3), random.uniform(1, 4, 3)
        for tick in range(LENGTH_TICKS):
            turn, right, down = np.sin(phase + speed * tick / TICK_HZ)
            matrix = cv2.getRotationMatrix2D(
                (x + 6 * right, y + 6 * down), 6 * turn, SIDE_PX / side
            )
            shift = np.zeros((2, 3))
            shift[:, 2] = SIDE_PX / 2 - np.array([x, y])
            seen = cv2.warpAffine(
                photograph, matrix + shift, (SIDE_PX, SIDE_PX), flags=cv2.INTER_AREA
            )
            noise = random.normal(0, 2, seen.shape)
            frames[number, tick] = np.clip(seen + noise, 0, 255)
    return Clips(frames, None)


def save(path: Path, clips: Clips) -> None:
    """Write the clips to an .npz file."""
    np.savez(path, frames=clips.frames, truth=np.array(json.dumps(clips.truth)))


def load_saved(path: Path) -> Clips:
    """Return the clips of a file that save() wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return Clips(stored['frames'], json.loads(str(stored['truth'])))
