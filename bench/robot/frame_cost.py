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
What an image of 1280x720 px costs on one core, from its ROS message to the encoded crops.

The messages of four rendered scenes (nobody, one, two and a few people; 30 images a second) go
through the node's own pipeline; whatever face is offered is cropped and encoded at once, which the
node does on another thread and less often. Of three runs the one with the best median counts;
beside each run a fixed loop is timed, which says how fast the machine was just then.

    python -m bench.robot.frame_cost [--quick] [--json FILE]
"""

from __future__ import annotations

import array
import os
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from bench.robot import command, scenes
from bench.robot.identities import detectors
from ferros.answers import Answers
from ferros.config import RobotConfig
from ferros.crop import crop
from ferros.drops import Drops
from ferros.encode import encode
from ferros.perception import make_perception
from ferros.pipeline import Pipeline
from ferros.types import Codec, Image, OfferedFace

SCENES = (scenes.NOBODY, scenes.MOVING, scenes.CROSSING, scenes.FEW)
QUICK_SCENES = (scenes.CROSSING,)
ENCODINGS = ('bgr8', 'rgb8', 'jpeg')
QUICK_ENCODINGS = ('rgb8', 'jpeg')
INTERVAL_NS = round(1e9 / scenes.RATE_FPS)
RUNS = 3
CROP_PX = 48
WEBP_QUALITY = 80
# What compressed_image_transport sends by default.
JPEG_QUALITY = 95
# The camera's first images: everything is looked for at once, and caches are cold.
WARM_UP_IMAGES = 15
FIXED_LOOPS = 200


class CropsAtOnce:
    """Crops and encodes whatever it is offered."""

    def __init__(self) -> None:
        self.crops = 0

    def offer(self, faces: Sequence[OfferedFace]) -> None:
        """Encode the faces."""
        for face in faces:
            luma = crop(face.frame.image, face.frame.in_image(face.box), CROP_PX)
            encode(luma, Codec.WEBP, WEBP_QUALITY)
            self.crops += 1


def measure(quick: bool = False) -> dict[str, Any]:
    """Return per detector and encoding the figures of the best run; None: it was not run."""
    cv2.setNumThreads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    encodings = QUICK_ENCODINGS if quick else ENCODINGS
    runs: dict[str, dict[str, list[dict[str, float]]]] = {
        name: {encoding: [] for encoding in encodings}
        for name, config in detectors().items()
        if config is not None
    }
    images = [_images(scene) for scene in (QUICK_SCENES if quick else SCENES)]
    for encoding in encodings:
        clips = [[_message(image, at, encoding) for at, image in enumerate(c)] for c in images]
        for name, config in detectors().items():
            if config is not None:
                for _ in range(1 if quick else RUNS):
                    runs[name][encoding].append(_run(clips, config, encoding))
    found: dict[str, Any] = dict.fromkeys(detectors())
    for name, by_encoding in runs.items():
        found[name] = {
            encoding: {**min(rows, key=lambda row: row['p50_ms']), 'runs': rows}
            for encoding, rows in by_encoding.items()
        }
    return found


def _run(clips: list[list[Any]], config: RobotConfig, encoding: str) -> dict[str, float]:
    """Return the figures of all scenes together, each from the beginning."""
    costs_ms: list[float] = []
    crops = 0
    before_ms = fixed_loop_ms()
    for clip in clips:
        costs, faces = _play(clip, config, encoding)
        costs_ms += costs[WARM_UP_IMAGES:]
        crops += faces
    return {
        'p50_ms': float(np.percentile(costs_ms, 50)),
        'p99_ms': float(np.percentile(costs_ms, 99)),
        'max_ms': max(costs_ms),
        'images': len(costs_ms),
        'late': sum(cost > INTERVAL_NS / 1e6 for cost in costs_ms),
        'crops': crops,
        'fixed_loop_ms': (before_ms + fixed_loop_ms()) / 2,
    }


def _play(clip: list[Any], config: RobotConfig, encoding: str) -> tuple[list[float], int]:
    transport = 'compressed' if encoding == 'jpeg' else 'raw'
    drops, reader = Drops(), CropsAtOnce()
    answers = Answers(config, drops)
    pipeline = Pipeline(
        RobotConfig(**{**vars(config), 'image_transport': transport}),
        drops, make_perception(config), answers, [reader], _refuse, print,
    )
    costs_ms = []
    for message in clip:
        started_ns = time.perf_counter_ns()
        pipeline.process(message, time.monotonic_ns(), INTERVAL_NS)
        costs_ms.append((time.perf_counter_ns() - started_ns) / 1e6)
    return costs_ms, reader.crops


def _images(scene: scenes.Scene) -> list[Image]:
    return [frame.image for frame in scenes.render(scene)]


def _message(image: Image, number: int, encoding: str) -> Any:
    """Return an image as sensor_msgs has it."""
    sec, nanosec = divmod(scenes.START_NS + number * INTERVAL_NS, 10**9)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id='camera')
    if encoding == 'jpeg':
        data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        content = array.array('B', data.tobytes())
        return SimpleNamespace(header=header, format='bgr8; jpeg compressed bgr8', data=content)
    pixels = image if encoding == 'bgr8' else image[:, :, ::-1]
    return SimpleNamespace(
        header=header, height=image.shape[0], width=image.shape[1], encoding=encoding,
        is_bigendian=0, step=3 * image.shape[1], data=array.array('B', pixels.tobytes()),
    )


def _refuse(message: Any) -> Any:
    raise ValueError(f'{message.encoding} is not measured here')


def fixed_loop_ms() -> float:
    """Return what a fixed piece of work takes: the median of some turns."""
    image = np.random.default_rng(0).integers(0, 256, (180, 320), dtype=np.uint8)
    times_ms = []
    for _ in range(FIXED_LOOPS):
        started_ns = time.perf_counter_ns()
        cv2.GaussianBlur(image, (7, 7), 0)
        sum(range(5000))
        times_ms.append((time.perf_counter_ns() - started_ns) / 1e6)
    return float(np.median(times_ms))


if __name__ == '__main__':
    sys.exit(command.run('bench.robot.frame_cost', measure))
