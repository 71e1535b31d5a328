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
What one camera image of 1280x720 px costs, from its message to the encoded face crops.

    python -m bench.robot.frame_cost [--quick] [--json FILE] [--yunet MODEL]

Decoding or conversion, following, detection, cropping to 48 px and encoding, on one core, of the
images of a generated scene (scenes.py): an empty room, one person, two who pass each other, four.
The best of three runs counts; beside each run stands how long a loop that is always the same took
then, which shows a machine that had other things to do.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from bench.robot import scenes
from bench.robot.scenes import Outcome, SceneFrame
from ferros.config import RobotConfig
from ferros.crop import crop
from ferros.detect import make_detector
from ferros.encode import encode
from ferros.image import decode, decode_reduced
from ferros.perception import Perception, make_perception
from ferros.track import Tracker
from ferros.types import CameraFrame, Codec, Image, Track

ROOT: Final = Path(__file__).resolve().parent.parent.parent
# YuNet's model does not come with ferros; it is looked for where the test data are.
_DATA: Final = Path(os.environ.get('FERROS_TEST_DATA') or ROOT.parent / 'shared')
YUNET: Final = _DATA / 'models' / 'face_detection_yunet.onnx'
TRANSPORTS: Final = ('bgr8', 'rgb8', 'jpeg')
QUICK_TRANSPORTS: Final = ('rgb8', 'jpeg')
RUNS: Final = 3
# What is shown of each scene.
SHOWN_S: Final = (
    (scenes.NOBODY, 2.0), (scenes.MOVING, 3.0), (scenes.CROSSING, 4.0), (scenes.FEW, 3.0),
)  # fmt: skip
QUICK_SHARE: Final = 0.25
# What a camera's driver compresses with, about.
JPEG_QUALITY: Final = 90
CROP_PX: Final = 48
CROP_QUALITY: Final = 60
INTERVAL_NS: Final = round(1e9 / scenes.RATE_FPS)


class Shot(NamedTuple):
    """An image as it is kept: a scene's images do not all fit into memory."""

    jpeg: bytes
    truth: SceneFrame
    scene: str


class Spent(NamedTuple):
    """What a run took, image by image, and what it reported."""

    took_ms: list[float]
    outcomes: list[Outcome]
    # Images in which for want of time not all was looked at that was due, and the least share of
    # the search that was done.
    hurried: int
    least_share: float
    fixed_loop_ms: float


def film(quick: bool = False) -> list[Shot]:
    """Return the images that are shown, one scene after the other, stamped without a gap."""
    shots: list[Shot] = []
    for scene, seconds in SHOWN_S:
        for frame in scenes.render(scene, seconds=seconds * (QUICK_SHARE if quick else 1)):
            done, data = cv2.imencode(
                '.jpg', frame.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
            )
            assert done
            truth = frame._replace(
                stamp_ns=scenes.START_NS + len(shots) * INTERVAL_NS,
                image=np.empty((0, 0), np.uint8),
            )
            shots.append(Shot(data.tobytes(), truth, scene.name))
    return shots


def measure(quick: bool = False, yunet: Path = YUNET) -> dict[str, Any]:
    """
    Return what an image costs, by detector and transport, in ms.

    Where there is no model for YuNet, the reason stands instead of its figures.

    Raises:
        RuntimeError: the portrait that the scenes are made of is not installed.

    """
    shots = film(quick)
    found: dict[str, Any] = {}
    # A process of its own: the core it is bound to is not the caller's.
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), _bind) as process:
        for kind in ('haar', 'yunet'):
            if kind == 'yunet' and not yunet.is_file():
                found[kind] = {'not_run': f'there is no {yunet.name} in {yunet.parent}'}
                continue
            config = RobotConfig(detector=kind, detector_model=str(yunet) * (kind == 'yunet'))
            figures: dict[str, Any] = {}
            for transport in QUICK_TRANSPORTS if quick else TRANSPORTS:
                runs = [
                    process.submit(_run, shots, config, transport).result()
                    for _ in range(1 if quick else RUNS)
                ]
                figures[transport] = _figures(runs)
            figures['worst'] = {
                name: max(figure[name] for figure in figures.values())
                for name in ('p50_ms', 'p99_ms')
            }
            if not quick:
                every = process.submit(_detect_every_image, shots, config).result()
                figures['recall_with_detection_in_every_image'] = _recall(every)
            found[kind] = figures
    return found


def _bind() -> None:
    """Bind this process to one core."""
    cv2.setNumThreads(1)
    if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _figures(runs: Sequence[Spent]) -> dict[str, Any]:
    best = min(runs, key=lambda run: percentile(run.took_ms, 50))
    return {
        'p50_ms': round(percentile(best.took_ms, 50), 2),
        'p99_ms': round(percentile(best.took_ms, 99), 2),
        'max_ms': round(max(best.took_ms), 2),
        'frames': len(best.took_ms),
        'fixed_loop_ms': round(best.fixed_loop_ms, 2),
        'runs': [
            {
                'p50_ms': round(percentile(run.took_ms, 50), 2),
                'p99_ms': round(percentile(run.took_ms, 99), 2),
                'fixed_loop_ms': round(run.fixed_loop_ms, 2),
            }
            for run in runs
        ],
        'missed_images': missed_images(best.took_ms, INTERVAL_NS / 1e6),
        'hurried_images': best.hurried,
        'least_share': round(best.least_share, 2),
        'recall': _recall(best.outcomes),
        'boxes_elsewhere': sum(outcome.elsewhere for outcome in best.outcomes),
        'id_switches': sum(outcome.id_switches for outcome in best.outcomes),
    }


def _recall(outcomes: Sequence[Outcome]) -> float:
    """Return the share of the faces in view that were reported, image by image."""
    faces = sum(outcome.faces for outcome in outcomes)
    return round(sum(outcome.reported for outcome in outcomes) / max(1, faces), 4)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least so many percent of all do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def missed_images(took_ms: Sequence[float], interval_ms: float) -> int:
    """Return how many images would be replaced by newer ones while those before are worked on."""
    free_ms, missed = 0.0, 0
    for index, took in enumerate(took_ms):
        if free_ms > (index + 1) * interval_ms:  # The next one is there before this one's turn.
            missed += 1
            continue
        free_ms = max(free_ms, index * interval_ms) + took
    return missed


def _run(shots: Sequence[Shot], config: RobotConfig, transport: str) -> Spent:
    perception = make_perception(config)
    took_ms: list[float] = []
    seen: dict[str, list[tuple[SceneFrame, list[Track]]]] = {}
    least_share = 1.0
    before_ms = _fixed_loop_ms()
    for shot in shots:
        if shot.scene not in seen:
            perception.reset()
        message = _message(shot, transport)
        start_ns = time.perf_counter_ns()
        tracks = _process(message, shot.truth.stamp_ns, perception)
        spent_ns = time.perf_counter_ns() - start_ns
        perception.spent(spent_ns, INTERVAL_NS)
        least_share = min(least_share, perception.share)
        took_ms.append(spent_ns / 1e6)
        seen.setdefault(shot.scene, []).append((shot.truth, tracks))
    fixed_ms = max(before_ms, _fixed_loop_ms())
    outcomes = [scenes.judge(frames) for frames in seen.values()]
    return Spent(took_ms, outcomes, perception.hurried, least_share, fixed_ms)


def _message(shot: Shot, transport: str) -> Any:
    """Return the image as its ROS message would bring it."""
    if transport == 'jpeg':
        return SimpleNamespace(format='bgr8; jpeg compressed bgr8', data=shot.jpeg)
    image = _colour(shot)
    if transport == 'rgb8':
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    height, width = image.shape[:2]
    return SimpleNamespace(
        height=height, width=width, encoding=transport, is_bigendian=0, step=3 * width,
        data=image.tobytes(),
    )  # fmt: skip


def _colour(shot: Shot) -> Image:
    data = np.frombuffer(shot.jpeg, np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _process(message: Any, stamp_ns: int, perception: Perception) -> list[Track]:
    """Do with one image what the node does; return the faces."""
    if hasattr(message, 'format'):
        decoded = decode_reduced(message, perception.reduction)
        frame = CameraFrame(decoded.luma, stamp_ns, 0, '', decoded.reduction, decoded.size_px)
    else:
        frame = CameraFrame(decode(message), stamp_ns, 0)
    tracks = perception.process(frame) or []
    for track in tracks:
        if track.seen_ns == stamp_ns:
            luma = crop(frame.image, frame.in_image(track.box), CROP_PX)
            encode(luma, Codec.JPEG, CROP_QUALITY)
    return tracks


def _detect_every_image(shots: Sequence[Shot], config: RobotConfig) -> list[Outcome]:
    """Return what a search of each whole image would have found: what the rest is measured by."""
    detector = make_detector(config.detector, model_file=config.detector_model)
    tracker = Tracker()
    seen: dict[str, list[tuple[SceneFrame, list[Track]]]] = {}
    for shot in shots:
        if shot.scene not in seen:
            tracker.reset()
        tracks = tracker.update(detector.detect(_colour(shot)), shot.truth.stamp_ns)
        seen.setdefault(shot.scene, []).append((shot.truth, tracks))
    return [scenes.judge(frames) for frames in seen.values()]


def _fixed_loop_ms() -> float:
    """Return how long something that is always the same takes, the median of some rounds."""
    image = np.arange(640 * 360, dtype=np.uint32).astype(np.uint8).reshape(360, 640)
    took_ms = []
    for _ in range(15):
        start_ns = time.perf_counter_ns()
        for _ in range(5):
            cv2.GaussianBlur(image, (0, 0), 3.0)
            np.sort(image, axis=1)
        took_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
    return statistics.median(took_ms)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description='What one camera image costs on one core.')
    parser.add_argument('--quick', action='store_true', help='one run of a quarter, in 10 s')
    parser.add_argument('--json', type=Path, help='a file to write the figures to')
    parser.add_argument('--yunet', type=Path, default=YUNET, help='the YuNet model (ONNX)')
    options = parser.parse_args(arguments)
    found = measure(options.quick, options.yunet)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=2) + '\n', encoding='utf-8')
    for kind, figures in found.items():
        for transport, figure in figures.items():
            print(f'{kind:6} {transport:6} {json.dumps(figure)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
