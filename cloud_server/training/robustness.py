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
What bad views cost: the faces of one split again, changed as cameras, light and detectors do.

Only the images change, one thing at a time, all else is the evaluation that `evaluate ferplus`
makes. What stands in for a bad view is made from a good one: a turned face shows repeated border
pixels in its corners, shade is a factor and no shadow, and all began as 48 px photographs. Blur,
scaling and JPEG are OpenCV's own, not the approximations that training uses.

The thirds divide the faces by the mean luma of the middle of the image. **That is the image's
brightness: light, exposure and the camera's curve as much as skin.** It is no measure of skin
tone, and equal figures do not show that the model treats people of all skin tones alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from cloud_server.engine.onnx import OnnxEngine
from cloud_server.training import bootstrap
from cloud_server.training.augment import warp
from cloud_server.training.ferplus import SIDE_PX, Faces, majority
from cloud_server.training.scores import (
    Scores,
    calibration_error,
    first_frame,
    plurality,
    served,
)

Luma = npt.NDArray[np.uint8]
Change = Callable[[Luma], Luma]

SEED = 5
# How far a detector's square and FER+'s frame differ: standard deviations of shift (sides, each
# axis) and of the logarithm of size, as tools/crop_constants.py measures them. FER+'s frames are
# uneven themselves, so this is more than what the detector misses from one image to the next.
JITTER = {'Haar': (0.026, 0.116), 'YuNet': (0.042, 0.161)}


@dataclass(frozen=True)
class View:
    """One row of the table: what a face looks like, and which faces [N] count, None: all."""

    name: str
    change: Change
    counts: npt.NDArray[np.bool_] | None = None


def turned(angle_deg: float) -> Change:
    """Turn the face in the image's plane; positive is counter-clockwise."""
    return lambda luma: _warped(luma, angle_deg=np.full(len(luma), angle_deg))


def jittered(shift_sides: float, size: float) -> Change:
    """Move and scale every face by normally distributed amounts, as a detector that misses."""
    def change(luma: Luma) -> Luma:
        rng = np.random.default_rng(SEED)
        return _warped(luma, zoom=np.exp(rng.normal(0, size, len(luma))),
                       shift=rng.normal(0, shift_sides, (len(luma), 2)))

    return change


def _warped(
    luma: Luma, angle_deg: npt.NDArray[np.floating] | None = None,
    zoom: npt.NDArray[np.floating] | None = None, shift: npt.NDArray[np.floating] | None = None,
) -> Luma:
    count = len(luma)

    def tensor(values: npt.NDArray[np.floating] | None, usual: npt.NDArray[np.floating]) -> (
            torch.Tensor):
        return torch.from_numpy(np.asarray(usual if values is None else values, np.float32))

    moved = warp(
        torch.from_numpy(luma).float().unsqueeze(1), tensor(angle_deg, np.zeros(count)),
        tensor(zoom, np.ones(count)), tensor(shift, np.zeros((count, 2))),
        torch.zeros(count, dtype=torch.bool),
    )
    return np.asarray(moved[:, 0].round().clamp(0, 255).numpy(), np.uint8)


def lit(factor: npt.NDArray[np.floating]) -> Change:
    """Multiply every row of the image by a factor per column [48]."""
    return lambda luma: np.asarray((luma * factor).round().clip(0, 255), np.uint8)


def fading(least: float) -> npt.NDArray[np.float64]:
    """Return full light on the left that falls evenly to `least` on the right."""
    return np.asarray(np.linspace(1, least, SIDE_PX), np.float64)


def half_dark(least: float, edge_px: float = 2.0) -> npt.NDArray[np.float64]:
    """Return full light on the left half and `least` on the right, with an edge in between."""
    across = np.arange(SIDE_PX) - (SIDE_PX - 1) / 2
    return np.asarray(1 - (1 - least) / (1 + np.exp(-across / edge_px)), np.float64)


def _each(change: Callable[[Luma], Any]) -> Change:
    return lambda luma: np.stack([np.asarray(change(face), np.uint8) for face in luma])


def blurred(sigma_px: float) -> Change:
    """Blur as a lens out of focus; deviation at 48 px."""
    return _each(lambda face: cv2.GaussianBlur(
        face, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE))


def smeared(length_px: int) -> Change:
    """Blur as a head that moves sideways by so many pixels while the shutter is open."""
    return _each(lambda face: cv2.blur(face, (length_px, 1), borderType=cv2.BORDER_REPLICATE))


def sent_at(side_px: int) -> Change:
    """Send the face smaller, area averaged."""
    return _each(lambda face: cv2.resize(
        face, (side_px, side_px), interpolation=cv2.INTER_AREA))


def as_jpeg(quality: int) -> Change:
    """Send the face through JPEG."""
    def code(face: Luma) -> Any:
        _, data = cv2.imencode('.jpg', face, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)

    return _each(code)


def central_luma(luma: Luma) -> npt.NDArray[np.float64]:
    """Return the mean luma [N] of the middle of each image: half its sides, a quarter of it."""
    side = luma.shape[-1]
    low, high = side // 4, side - side // 4
    return np.asarray(luma[:, low:high, low:high].mean((1, 2)), np.float64)


def thirds(brightness: npt.NDArray[np.float64]) -> list[npt.NDArray[np.bool_]]:
    """Return which faces [N] are in the darkest, the middle and the brightest third."""
    place = np.argsort(np.argsort(brightness, kind='stable'), kind='stable')
    third = place * 3 // len(brightness)
    return [third == index for index in range(3)]


def views(faces: Faces) -> list[View]:
    """Return the rows of the table, the unchanged faces first."""
    def same(luma: Luma) -> Luma:
        return luma

    dark = thirds(central_luma(faces.luma))
    return [
        View('as it is', same),
        *(View(f'tilted {angle:+d}°', turned(angle)) for angle in (-20, -10, 10, 20)),
        View('light from the left, right side at 0.25', lit(fading(0.25))),
        View('light from the right, left side at 0.25', lit(fading(0.25)[::-1])),
        View('right half in shade, at 0.3', lit(half_dark(0.3))),
        View('left half in shade, at 0.3', lit(half_dark(0.3)[::-1])),
        View('blurred, 1 px', blurred(1)),
        View('blurred, 2 px', blurred(2)),
        View('moved sideways by 5 px', smeared(5)),
        View('24 px', sent_at(24)),
        View('16 px', sent_at(16)),
        View('JPEG, quality 30', as_jpeg(30)),
        View('detector jitter, 5 %', jittered(0.05, 0.05)),
        View('detector jitter, 10 %', jittered(0.10, 0.10)),
        *(View(f'detector jitter as measured of {name}', jittered(*spread))
          for name, spread in JITTER.items()),
        *(View(f'{name} third of the images', same, chosen)
          for name, chosen in zip(('darkest', 'middle', 'brightest'), dark, strict=True)),
    ]


def measure(engine: OnnxEngine, faces: Faces) -> dict[str, Any]:
    """Return one row per view: accuracy, macro-F1, calibration, and the change by the view."""
    rows: list[dict[str, Any]] = []
    plain = None
    bar = tqdm(views(faces), desc='robustness', unit='view')
    for view in bar:
        bar.set_postfix_str(view.name)
        luma = faces.luma if view.counts is None else faces.luma[view.counts]
        chosen = faces if view.counts is None else faces.subset(view.counts)
        changed = view.change(luma)
        logits = first_frame(engine, changed, progress=False)
        probabilities = served(engine, logits, changed.shape[-1])
        row = {'view': view.name, **figures(engine, probabilities, chosen)}
        guess = probabilities.argmax(1)
        if plain is None:
            plain = guess
        else:
            row['difference'] = difference(majority(faces.votes), plain, guess, view.counts)
        rows.append(row)
    cuts = np.quantile(central_luma(faces.luma), (1 / 3, 2 / 3))
    return {'rows': rows, 'resamples': bootstrap.RESAMPLES, 'seed': SEED,
            'brightness_cuts': [round(float(cut)) for cut in cuts]}


def figures(
    engine: OnnxEngine, probabilities: npt.NDArray[np.float32], faces: Faces
) -> dict[str, Any]:
    """Return count, accuracy and macro-F1 of majority faces, and calibration error of all."""
    guess, confidence = probabilities.argmax(1), probabilities.max(1)
    seven = Scores.of(majority(faces.votes), guess, engine.info.served_labels)
    counted = faces.votes[:, :8].sum(1) > 0
    right = np.take_along_axis(plurality(faces.votes), guess[:, None], 1)[:, 0]
    return {
        'count': seven.count, 'accuracy': round(seven.accuracy, 5),
        'five_class_macro_f1': round(seven.common_macro_f1, 5),
        'ece_all_faces': round(calibration_error(confidence[counted], right[counted]), 4),
    }


def difference(
    truth: npt.NDArray[np.intp], plain: npt.NDArray[np.intp], guess: npt.NDArray[np.intp],
    counts: npt.NDArray[np.bool_] | None,
) -> dict[str, float]:
    """
    Return the accuracy in a view less that of all unchanged faces, with a 95 % interval.

    The resamples are of faces, and each gives both accuracies, so what all views find hard or
    easy in a face does not widen the interval.

    Args:
        truth: [N], -1 where a face has no majority.
        plain: [N], the label of each unchanged face.
        guess: the label of each face that counts.
        counts: bool [N], which faces those are; None: all.

    Returns:
        mean, low, high; shares. Empty where no face counts.

    """
    counts = np.ones(len(truth), bool) if counts is None else counts
    seen = np.full(len(truth), -2)  # no label: of a face that does not count
    seen[counts] = guess
    known = truth >= 0
    kinds = np.zeros((2, 2, 2), np.int64)  # right unchanged, counts, right in the view
    np.add.at(kinds, tuple(np.asarray(values[known], int) for values in (
        plain == truth, counts, seen == truth)), 1)
    if not kinds[:, 1].sum():
        return {}

    def change(drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        before = drawn[..., 1, :, :].sum((-1, -2)) / drawn.sum((-1, -2, -3))
        there = np.maximum(drawn[..., 1, :].sum((-1, -2)), 1)
        return np.asarray(drawn[..., 1, 1].sum(-1) / there - before, np.float64)

    low, high = bootstrap.interval(change(bootstrap.resamples(kinds)))
    return {'mean': round(float(change(kinds)), 5), 'low': low, 'high': high}


def table(found: dict[str, Any]) -> str:
    """Return the rows for people."""
    lines = [f'{"view":<42}{"faces":>6}{"accuracy":>10}{"five-class F1":>15}{"ECE":>7}'
             '   change in points [95 %]']
    for row in found['rows']:
        change = row.get('difference')
        points = ('' if not change else f'   {100 * change["mean"]:+6.2f} '
                  f'[{100 * change["low"]:+.2f}, {100 * change["high"]:+.2f}]')
        lines.append(f'{row["view"]:<42}{row["count"]:>6}{row["accuracy"]:>10.4f}'
                     f'{row["five_class_macro_f1"]:>15.4f}{row["ece_all_faces"]:>7.3f}{points}')
    low, high = found['brightness_cuts']
    lines.append(f'thirds: mean luma of the middle of the image below {low}, up to {high}, above; '
                 'image brightness, no measure of skin tone')
    return '\n'.join(lines)
