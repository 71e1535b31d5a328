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
How large FER+'s frame is in sides of a detector's box: the crop constants of ferros/detect.py.

    python -m tools.crop_constants --data FER+ --detector-model face_detection_yunet.onnx

Faces that were held out from training are put before the robot's own detectors, twice:

- The frame is known, so the box that a detector draws around it gives the constant: the frame's
  side in sides of the box, and how far the frame's centre lies from the box's.
- The model is known, so its accuracy on crops of several sizes, cut by the robot's own code
  around the detector's box, says which size it was trained on.

A face of FER+ ends where its frame ends, and a detector wants to see what lies around a face. So
every face is enlarged and given a border, which is invented; several are tried, and what they do
to the detectors is part of the result. Crops larger than the frame show some of that border: the
accuracy says how much a crop that is too small costs, and only hints at what a larger one costs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model import WeightsError, read_about
from cloud_server.model_info import ModelError
from cloud_server.training.evaluate import DEFAULT_MODEL
from cloud_server.training.ferplus import DatasetError, Faces, load_splits, majority
from cloud_server.training.robustness import difference
from cloud_server.training.scores import first_frame, served
from ferros.crop import crop
from ferros.detect import (
    HAAR_CROP_SCALE,
    YUNET_CROP_SCALE,
    Detector,
    DetectorError,
    make_detector,
)
from ferros.types import Box, Image

ROOT: Final = Path(__file__).resolve().parent.parent
CONSTANTS: Final = {'haar': HAAR_CROP_SCALE, 'yunet': YUNET_CROP_SCALE}
UNITS: Final = {'haar': 'sides of a Haar box', 'yunet': 'heights of a YuNet box'}
# The frame's side in the scene: twice its pixels, so that the crop of 48 px is not enlarged.
FRAME_PX: Final = 96
# The border's width in frames.
MARGIN: Final = 0.5
# A box whose centre is further from the frame's, in frames, is not around the face.
FURTHEST: Final = 0.3
SCALES: Final = tuple(round(0.7 + 0.05 * step, 2) for step in range(13))
INPUT_PX: Final = 48
# The border of the scenes that crops are cut from: it leaves the frame's own pixels alone, and is
# what the robot's crop and the training put beyond the edge of an image.
CROPPED_BORDER: Final = 'replicated'

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """A face with a border: grey pixels and where FER+'s frame is in them."""

    image: Image
    frame: Box


@dataclass(frozen=True)
class Finding:
    """
    What a detector made of N faces.

    Attributes:
        boxes: the detector's own box of each face, squared, None where it found no face.
        offsets: float64 [M,3] for the M that were found: the frame's side in sides of the box,
            and how far right and down the frame's centre lies from the box's, in sides.

    """

    boxes: list[Box | None]
    offsets: Floats


def _flat(big: Image, width_px: int) -> Image:
    grey = float(big.mean())
    sides = (width_px,) * 4
    return np.asarray(
        cv2.copyMakeBorder(big, *sides, cv2.BORDER_CONSTANT, value=grey), np.uint8)


def _replicated(big: Image, width_px: int) -> Image:
    sides = (width_px,) * 4
    return np.asarray(cv2.copyMakeBorder(big, *sides, cv2.BORDER_REPLICATE), np.uint8)


def _reflected(big: Image, width_px: int) -> Image:
    sides = (width_px,) * 4
    return np.asarray(cv2.copyMakeBorder(big, *sides, cv2.BORDER_REFLECT_101), np.uint8)


def _soft(big: Image, width_px: int) -> Image:
    """Reflect, blur what lies outside and let it fade into the outermost pixels of the face."""
    outside = _reflected(big, width_px)
    side = big.shape[0]
    edge = round(side * 0.04)
    inside = np.zeros(outside.shape, np.float32)
    start = width_px + edge
    inside[start : start + side - 2 * edge, start : start + side - 2 * edge] = 1
    share = cv2.GaussianBlur(inside, (0, 0), edge / 2)
    blurred = cv2.GaussianBlur(outside, (0, 0), side / 12)
    return np.asarray(outside * share + blurred * (1 - share), np.uint8)


BORDERS: Final[dict[str, Callable[[Image, int], Image]]] = {
    'flat': _flat, 'replicated': _replicated, 'reflected': _reflected, 'soft': _soft,
}


def scene(luma: Image, border: str) -> Scene:
    """Return a face of FER+ (uint8 [48,48]) enlarged, with a border of one of BORDERS."""
    margin_px = round(FRAME_PX * MARGIN)
    big = np.asarray(
        cv2.resize(luma, (FRAME_PX, FRAME_PX), interpolation=cv2.INTER_CUBIC), np.uint8)
    return Scene(BORDERS[border](big, margin_px), Box(margin_px, margin_px, FRAME_PX, FRAME_PX))


def around(box: Box, scale: float) -> Box:
    """Return the box with the same centre and `scale` times the sides."""
    x, y = box.centre
    width, height = box.width * scale, box.height * scale
    return Box(x - width / 2, y - height / 2, width, height)


def find(detector: Detector, constant: float, shown: Scene) -> Box | None:
    """
    Return the detector's own box around the face, squared, or None.

    constant: the crop constant in what the detector returns; it is taken out again.
    """
    def distance(box: Box) -> float:
        (x, y), (frame_x, frame_y) = box.centre, shown.frame.centre
        return max(abs(x - frame_x), abs(y - frame_y)) / FRAME_PX

    near = [box for box in detector.detect(shown.image) if distance(box) < FURTHEST]
    return around(min(near, key=distance), 1 / constant) if near else None


def look(detector: Detector, kind: str, luma: Image, border: str, *, progress: bool = True) -> (
        Finding):
    """Put faces uint8 [N,48,48] with a border before a detector."""
    bar = tqdm(luma, desc=f'{kind}, {border} border', unit='face', leave=False,
               disable=not progress)
    boxes, offsets = [], []
    for face in bar:
        shown = scene(face, border)
        box = find(detector, CONSTANTS[kind], shown)
        boxes.append(box)
        if box is not None:
            (x, y), (frame_x, frame_y) = box.centre, shown.frame.centre
            side = box.width
            offsets.append((FRAME_PX / side, (frame_x - x) / side, (frame_y - y) / side))
    return Finding(boxes, np.asarray(offsets, np.float64).reshape(-1, 3))


def summary(finding: Finding) -> dict[str, Any]:
    """
    Return how many faces were found, and median and spread of scale, right and down.

    The spread is half the distance from the 16th to the 84th percentile: the standard deviation
    of a normal distribution, but one that a few wrong boxes do not move.
    """
    figures: dict[str, Any] = {'found': len(finding.offsets), 'of': len(finding.boxes)}
    for name, values in zip(('scale', 'right', 'down'), finding.offsets.T, strict=True):
        low, middle, high = (
            np.percentile(values, (16, 50, 84)) if len(values) else (np.nan,) * 3)
        figures[name] = {'median': round(float(middle), 4),
                         'spread': round(float(high - low) / 2, 4)}
    return figures


def accuracies(
    engine: OnnxEngine, faces: Faces, boxes: list[Box | None], kind: str
) -> list[dict[str, Any]]:
    """
    Return the accuracy on crops of several sizes around the boxes of those that were found.

    Each is compared with crops of the size in use: the change, with a paired 95 % interval.
    """
    rows = [row for row, box in enumerate(boxes) if box is not None]
    truth, guesses = majority(faces.votes)[rows], {}
    for scale in tqdm(SCALES, desc=f'crops around the {kind} box', leave=False):
        luma = np.stack([
            crop(scene(faces.luma[row], CROPPED_BORDER).image, around(box, scale), INPUT_PX)
            for row, box in enumerate(boxes) if box is not None
        ])
        guesses[scale] = served(
            engine, first_frame(engine, luma, progress=False), INPUT_PX).argmax(1)
    in_use = guesses[CONSTANTS.get(kind, 1.0)]
    return [
        {'scale': scale, 'accuracy': round(float((guess == truth).mean()), 4),
         'change': difference(truth, in_use, guess, None)}
        for scale, guess in guesses.items()
    ]


def measure(
    engine: OnnxEngine, faces: Faces, detectors: Mapping[str, Detector]
) -> tuple[dict[str, Any], dict[str, Floats]]:
    """
    Return the figures of each detector, and its scales [M] over all borders for the picture.

    faces: with a majority; none that the model has learnt from.
    """
    frame = scene(faces.luma[0], CROPPED_BORDER).frame
    truth = majority(faces.votes)
    plain = served(engine, first_frame(engine, faces.luma, progress=False), INPUT_PX).argmax(1)
    figures: dict[str, Any] = {
        'unchanged_accuracy': round(float((plain == truth).mean()), 4),
        'frame': {'crops': accuracies(engine, faces, [frame] * len(faces), 'true')},
        'detectors': {},
    }
    scales = {}
    for kind, detector in detectors.items():
        findings = {border: look(detector, kind, faces.luma, border) for border in BORDERS}
        offsets = np.concatenate([finding.offsets for finding in findings.values()])
        if not len(offsets):
            raise DatasetError(f'the {kind} detector found none of the {len(faces)} faces')
        every = [box for finding in findings.values() for box in finding.boxes]
        crops = accuracies(engine, faces, findings[CROPPED_BORDER].boxes, kind)
        figures['detectors'][kind] = {
            'constant': CONSTANTS[kind],
            'all_borders': summary(Finding(every, offsets)),
            'borders': {border: summary(finding) for border, finding in findings.items()},
            'crops': crops,
            'best_scale': best_scale(crops),
        }
        scales[kind] = offsets[:, 0]
    return figures, scales


def best_scale(crops: list[dict[str, Any]]) -> float:
    """Return the scale at the top of a parabola through all accuracies, within their range."""
    scale, accuracy = (np.array([row[name] for row in crops]) for name in ('scale', 'accuracy'))
    curve = np.polyfit(scale, accuracy, 2)
    # A curve without a top has its best value at one of the ends.
    top = -curve[1] / (2 * curve[0]) if curve[0] < 0 else scale[accuracy.argmax()]
    return round(float(np.clip(top, scale[0], scale[-1])), 3)


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = []
    for kind, found in figures['detectors'].items():
        lines.append(f'{kind}: the side of the frame in {UNITS[kind]}; ferros/detect.py uses '
                     f'{found["constant"]}')
        lines.append(f'{"border":<12}{"found":>14}{"scale":>16}{"right":>17}{"down":>17}')
        for border, row in (*found['borders'].items(), ('all', found['all_borders'])):
            cells = ''.join(f'{row[name]["median"]:>{sign}10.3f} ±{row[name]["spread"]:.3f}'
                            for name, sign in (('scale', ''), ('right', '+'), ('down', '+')))
            lines.append(f'{border:<12}{row["found"]:>6} of {row["of"]:>5}{cells}')
        lines.append('')
    columns = {'frame': figures['frame']['crops'],
               **{kind: found['crops'] for kind, found in figures['detectors'].items()}}
    lines.append('accuracy on crops of so many ' + ', '.join(
        ['sides of the true frame', *(UNITS[kind] for kind in figures['detectors'])])
        + '; in brackets the change in points against the size in use, 95 %')
    lines.append(f'{"scale":>6}' + ''.join(f'{name:>24}' for name in columns))
    for index, scale in enumerate(SCALES):
        cells = ''.join(
            f'{rows[index]["accuracy"]:>8.3f} [{100 * rows[index]["change"]["low"]:+5.1f}, '
            f'{100 * rows[index]["change"]["high"]:+5.1f}]' for rows in columns.values())
        lines.append(f'{scale:>6.2f}{cells}')
    lines.append(f'the faces as FER+ has them: {figures["unchanged_accuracy"]:.3f}')
    lines += [f'{kind}: best at {found["best_scale"]:.2f}'
              for kind, found in figures['detectors'].items()]
    return '\n'.join(lines)


def draw(path: Path, figures: dict[str, Any], scales: dict[str, Floats]) -> None:
    """Draw the measured scales and the accuracy of the crops; no face."""
    colours = {'frame': '#2b2f33', 'haar': '#2f7fc1', 'yunet': '#e8a200'}
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
    for kind, values in scales.items():
        median = figures['detectors'][kind]['all_borders']['scale']['median']
        left.hist(values, np.arange(0.5, 1.61, 0.02), density=True, histtype='step',
                  color=colours[kind], label=f'{kind}, median {median:.2f}')
    left.axvline(1, color='#8a9097', linewidth=0.8)
    left.set(xlabel="side of FER+'s frame in sides (YuNet: heights) of the detector's box",
             ylabel='density', title='The box that a detector draws around the known frame')
    curves = {'frame': figures['frame'], **figures['detectors']}
    for index, (kind, found) in enumerate(curves.items()):
        mean, low, high = (np.array([100 * row['change'][name] for row in found['crops']])
                           for name in ('mean', 'low', 'high'))
        right.errorbar([row['scale'] + 0.006 * (index - 1) for row in found['crops']], mean,
                       (mean - low, high - mean), marker='o', markersize=3, elinewidth=0.8,
                       color=colours[kind],
                       label='the frame itself' if kind == 'frame' else kind)
    right.axvline(1, color='#8a9097', linewidth=0.8)
    right.set(xlabel="side of the crop in sides (YuNet: heights) of the detector's box",
              ylabel='change of accuracy, points, 95 %',
              title='The shipped model on crops of that size')
    for axes in (left, right):
        axes.legend(frameon=False, loc='upper right' if axes is left else 'lower center')
        axes.spines[['top', 'right']].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def held_out(data: Path, model: Path, count: int) -> Faces:
    """Return held-out training faces with a majority, drawn by seed 0."""
    split = read_about(model / 'encoder.safetensors')['split']
    faces = load_splits(data, held_out=split['held_out'], temporal=split.get('temporal', 0),
                        seed=split['seed']).held_out
    sure = np.flatnonzero(majority(faces.votes) >= 0)
    if not len(sure):
        raise DatasetError(f'{data}: none of the {len(faces)} held-out faces has a majority')
    return faces.subset(np.random.default_rng(0).permutation(sure)[:count])


def arguments() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.crop_constants',
        description='measure the crop constants of ferros/detect.py on held-out FER+ faces')
    parser.add_argument('--data', type=Path, required=True, help='FER+: folder, zip or CSV pair')
    parser.add_argument('--model', type=Path, default=DEFAULT_MODEL, help='model folder')
    parser.add_argument('--detector-model', type=Path,
                        help='YuNet (ONNX); without it the Haar cascade alone is measured')
    parser.add_argument('--faces', type=int, default=1000, help='how many, at most')
    parser.add_argument('--out', type=Path, default=ROOT / 'bench/results/crop_constants.json')
    parser.add_argument('--plot', type=Path, default=ROOT / 'docs/crop_constants.png')
    return parser


def main() -> int:
    """Measure, print, write and draw; return the exit status."""
    args = arguments().parse_args()
    try:
        if args.faces < 1:
            raise DatasetError(f'--faces must be at least 1, got {args.faces}')
        detectors = {'haar': make_detector('haar')}
        if args.detector_model:
            detectors['yunet'] = make_detector('yunet', model_file=str(args.detector_model))
        engine = OnnxEngine(args.model)
        faces = held_out(args.data, args.model, args.faces)
        figures, scales = measure(engine, faces, detectors)
    except (DatasetError, DetectorError, ModelError, WeightsError) as err:
        print(f'crop_constants: {err}', file=sys.stderr)
        return 1
    print(f'{len(faces)} held-out training faces of FER+ with a majority; {engine.info.display}; '
          f'OpenCV {cv2.__version__}\n')
    print(table(figures))
    yunet = ' --detector-model FILE' if args.detector_model else ''
    document = {
        'command': f'python -m tools.crop_constants --data PATH{yunet} --faces {args.faces}',
        'model': engine.info.display, 'opencv': cv2.__version__, 'faces': len(faces),
        'frame_px': FRAME_PX, 'margin_frames': MARGIN, 'crops_cut_from_border': CROPPED_BORDER,
        **figures,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1) + '\n', 'utf-8')
    draw(args.plot, figures, scales)
    print(f'\nwrote {args.out} and {args.plot}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
