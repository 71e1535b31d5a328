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
From an image to the squares around its faces: a Haar cascade (the paper's detector) or YuNet.

Detectors draw their boxes differently, and the expression model was trained on one frame only:
FER+'s, a square around the face. What is handed on is that square, so nothing after this file
knows which detector drew it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ferros.types import Box, Image

KINDS: Final = ('haar', 'yunet')

# Measured on video of a stage with several faces, of one face and of none, against YuNet: at the
# settings below alt2 found 261 faces and nothing that was none, `default` 244 and 9, and alt2
# needs a seventh less time.
HAAR_CASCADE: Final = 'haarcascade_frontalface_alt2.xml'
_CASCADE_FOLDER: Final = Path('/usr/share/opencv4/haarcascades')

# The side of FER+'s frame in sides of a Haar box: the cascade was trained on much the same square,
# from the middle of the forehead to just under the chin's middle.
HAAR_CROP_SCALE: Final = 1.0
# The side of FER+'s frame in heights of a YuNet box, which reaches from the hairline to the chin
# but is narrower than a face is high.
YUNET_CROP_SCALE: Final = 1.0

# YuNet's feature maps, by the pixels that one cell covers. The input is padded to a multiple of
# the largest.
_STRIDES: Final = (8, 16, 32)
# With a single cell of the largest stride in a row, OpenCV 4.14 reads memory that is not its own.
_MIN_INPUT_PX: Final = 2 * _STRIDES[-1]
_OUTPUTS: Final = tuple(
    f'{name}_{stride}' for name in ('cls', 'obj', 'bbox') for stride in _STRIDES
)


class DetectorError(RuntimeError):
    """A detector cannot be made; the message names the file or the value, and what to do."""


class Detector(Protocol):
    """Finds the faces in an image. One thread at a time may use one detector."""

    def detect(self, image: Image) -> list[Box]:
        """
        Return the training-frame square of each face, the largest first, in pixels of the image.

        image: uint8, [height, width] luma or [height, width, 3] BGR.
        """
        ...


def make_detector(
    kind: str,
    *,
    cascade_file: str = '',
    model_file: str = '',
    longest_side_px: int = 0,
    min_face_px: int = 0,
) -> Detector:
    """
    Return the detector of a kind, `haar` or `yunet`, with its file loaded.

    cascade_file: haar only; empty means OpenCV's own frontal face cascade.
    model_file: yunet only and needed there.
    longest_side_px: the image is scaled down to this longest side before faces are looked for; 0
    means the detector's default.
    min_face_px: the smallest box reported, in pixels of the image as it comes; 0 means whatever
    the detector can see.

    Raises:
        DetectorError: the kind is unknown, a value out of range, or a file missing or unreadable.

    """
    if kind not in KINDS:
        raise DetectorError(f'detector is {kind!r}, expected one of {", ".join(KINDS)}')
    for name, value in (('longest_side_px', longest_side_px), ('min_face_px', min_face_px)):
        if value < 0:
            raise DetectorError(f'{name} is {value}, expected 0 or more')
    if kind == 'haar':
        return HaarDetector(
            cascade_file, longest_side_px or HaarDetector.LONGEST_SIDE_PX, min_face_px
        )
    return YuNetDetector(model_file, longest_side_px or YuNetDetector.LONGEST_SIDE_PX, min_face_px)


class HaarDetector:
    """Viola and Jones' cascade as OpenCV ships it, on a small grey image."""

    # Half the time of 640 pixels; a face of 5% of the frame's width is still found.
    LONGEST_SIDE_PX: Final = 480
    # The cascade's window is 20 pixels; under 24 nearly all it finds is texture.
    _WINDOW_PX: Final = 24
    _SCALE_STEP: Final = 1.1
    # Overlapping hits that make a face. Fewer give boxes where there is none, more lose turned
    # heads.
    _NEIGHBOURS: Final = 5

    def __init__(
        self, cascade_file: str = '', longest_side_px: int = LONGEST_SIDE_PX, min_face_px: int = 0
    ) -> None:
        self._cascade = _load_cascade(find_cascade(cascade_file))
        self._longest_side_px = longest_side_px
        self._min_face_px = min_face_px

    def detect(self, image: Image) -> list[Box]:
        """Return the training-frame square of each face in px of the image, the largest first."""
        grey, scale = _shrink(image, self._longest_side_px)
        # Shrunk first: converting the small image costs a fraction.
        if grey.ndim == 3:
            grey = np.asarray(cv2.cvtColor(grey, cv2.COLOR_BGR2GRAY), np.uint8)
        window_px = max(self._WINDOW_PX, round(self._min_face_px * scale))
        found = self._cascade.detectMultiScale(
            grey, self._SCALE_STEP, self._NEIGHBOURS, minSize=(window_px, window_px)
        )
        squares = [
            _square(
                (x + width / 2) / scale, (y + height / 2) / scale, HAAR_CROP_SCALE * width / scale
            )
            for x, y, width, height in np.asarray(found, np.float64).reshape(-1, 4).tolist()
        ]
        return _largest_first(squares)


class YuNetDetector:
    """
    YuNet (Wu, Peng and Yu 2023) through cv2.dnn, with its boxes decoded here.

    cv2.FaceDetectorYN would do the same, but it throws with the current model file before OpenCV
    4.8, and Ubuntu 24.04 ships 4.6.
    """

    # A quarter of the time of 640 pixels; a face of 20 pixels in a 640 wide image is still found.
    LONGEST_SIDE_PX: Final = 320
    # At 0.7 some textures of a small image pass for faces; at 0.9 half of the faces in bad light
    # are lost.
    _MIN_SCORE: Final = 0.8
    # Of two boxes that overlap by more than this only the better is kept.
    _MAX_IOU: Final = 0.3

    def __init__(
        self, model_file: str, longest_side_px: int = LONGEST_SIDE_PX, min_face_px: int = 0
    ) -> None:
        self._net = _load_yunet(model_file)
        self._longest_side_px = longest_side_px
        self._min_face_px = min_face_px

    def detect(self, image: Image) -> list[Box]:
        """Return the training-frame square of each face in px of the image, the largest first."""
        squares = [
            _square(x + width / 2, y + height / 2, YUNET_CROP_SCALE * height)
            for x, y, width, height in self.raw_boxes(image).tolist()
            if height >= self._min_face_px
        ]
        return _largest_first(squares)

    def raw_boxes(self, image: Image) -> NDArray[np.float64]:
        """Return YuNet's own boxes [count, 4], x, y, width, height in px, the surest first."""
        bgr, scale = _shrink(image, self._longest_side_px)
        if bgr.ndim == 2:
            bgr = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_GRAY2BGR), np.uint8)
        padded = _pad(bgr)
        self._net.setInput(cv2.dnn.blobFromImage(padded))
        layers = (np.asarray(layer, np.float32) for layer in self._net.forward(_OUTPUTS))
        outputs = dict(zip(_OUTPUTS, layers, strict=True))
        boxes, scores = decode_yunet(outputs, padded.shape[1], self._MIN_SCORE)
        return boxes[suppress(boxes, scores, self._MAX_IOU)] / scale


def find_cascade(cascade_file: str = '') -> Path:
    """
    Return the cascade file: the one asked for, else the one in cv2.data, else the distribution's.

    Raises:
        DetectorError: it does not exist.

    """
    if cascade_file:
        if not Path(cascade_file).is_file():
            raise DetectorError(f'cascade file {cascade_file} does not exist')
        return Path(cascade_file)
    # OpenCV from PyPI brings the cascades along; the distributions' OpenCV has no cv2.data.
    from_pypi = getattr(getattr(cv2, 'data', None), 'haarcascades', None)
    folders = [*([Path(from_pypi)] if from_pypi else []), _CASCADE_FOLDER]
    for folder in folders:
        if (folder / HAAR_CASCADE).is_file():
            return folder / HAAR_CASCADE
    searched = ' or '.join(str(folder) for folder in folders)
    raise DetectorError(
        f'{HAAR_CASCADE} is not in {searched}: apt install opencv-data, or name a cascade file'
    )


def _load_cascade(path: Path) -> cv2.CascadeClassifier:
    try:
        cascade = cv2.CascadeClassifier(str(path))
    except (cv2.error, SystemError) as err:
        raise DetectorError(f'cascade file {path} cannot be read: {err}') from err
    if cascade.empty():
        raise DetectorError(f'cascade file {path} is no Haar cascade')
    return cascade


def _load_yunet(model_file: str) -> cv2.dnn.Net:
    if not model_file:
        raise DetectorError(
            'the yunet detector needs its model file, face_detection_yunet_*.onnx of the '
            'OpenCV model zoo (https://github.com/opencv/opencv_zoo)'
        )
    if not Path(model_file).is_file():
        raise DetectorError(f'model file {model_file} does not exist')
    try:
        net = cv2.dnn.readNetFromONNX(model_file)
    except cv2.error as err:
        raise DetectorError(f'model file {model_file} cannot be read: {err}') from err
    missing = set(_OUTPUTS) - set(net.getUnconnectedOutLayersNames())
    if missing:
        raise DetectorError(
            f'model file {model_file} is no YuNet: it has no output {", ".join(sorted(missing))}'
        )
    return net


def decode_yunet(
    outputs: dict[str, NDArray[np.float32]], padded_width_px: int, min_score: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """
    Return the boxes [count, 4] and their scores [count], unordered.

    A box is x, y, width, height in pixels of the network's input.

    outputs: per stride `cls_*` and `obj_*` [1, cells, 1] in 0..1 and `bbox_*` [1, cells, 4], the
    cells row by row.

    The formula is that of libfacedetection: score = sqrt(cls obj); the box's centre is the cell
    plus bbox[0:2], its size exp(bbox[2:4]), all in strides.
    """
    boxes, scores = [], []
    for stride in _STRIDES:
        classes, objects = (
            outputs[f'{name}_{stride}'].reshape(-1).clip(0, 1).astype(np.float64)
            for name in ('cls', 'obj')
        )
        score = np.sqrt(classes * objects)
        sure = np.flatnonzero(score >= min_score)
        row, column = np.divmod(sure, padded_width_px // stride)
        offset = outputs[f'bbox_{stride}'].reshape(-1, 4)[sure].astype(np.float64)
        size = np.exp(offset[:, 2:])
        corner = np.stack([column, row], axis=1) + offset[:, :2] - size / 2
        boxes.append(np.concatenate([corner, size], axis=1) * stride)
        scores.append(score[sure])
    return np.concatenate(boxes), np.concatenate(scores)


def suppress(boxes: NDArray[np.float64], scores: NDArray[np.float64], max_iou: float) -> list[int]:
    """
    Return which boxes to keep, the surest first: non-maximum suppression.

    boxes: [count, 4], x, y, width, height. max_iou: intersection over union above which the less
    sure box goes.
    """
    left, top, width, height = boxes.T
    area = width * height
    remaining = np.argsort(-scores, kind='stable')
    kept: list[int] = []
    while remaining.size:
        best, others = remaining[0], remaining[1:]
        kept.append(int(best))
        right = np.minimum(left[best] + width[best], left[others] + width[others])
        bottom = np.minimum(top[best] + height[best], top[others] + height[others])
        shared_width = (right - np.maximum(left[best], left[others])).clip(0)
        shared_height = (bottom - np.maximum(top[best], top[others])).clip(0)
        shared = shared_width * shared_height
        remaining = others[shared <= max_iou * (area[best] + area[others] - shared)]
    return kept


def _shrink(image: Image, longest_side_px: int) -> tuple[Image, float]:
    """Return the image scaled down to the longest side, never up, and the scale."""
    height, width = image.shape[:2]
    scale = min(1.0, longest_side_px / max(height, width))
    if scale == 1.0:
        return image, 1.0
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def _pad(image: Image) -> Image:
    """Return the image with black added on the right and below, to a size that YuNet can take."""
    height, width = image.shape[:2]
    below = max(-height % _STRIDES[-1], _MIN_INPUT_PX - height)
    right = max(-width % _STRIDES[-1], _MIN_INPUT_PX - width)
    return np.asarray(cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT), np.uint8)


def _square(centre_x: float, centre_y: float, side: float) -> Box:
    return Box(centre_x - side / 2, centre_y - side / 2, side, side)


def _largest_first(boxes: list[Box]) -> list[Box]:
    return sorted(boxes, key=lambda box: -box.area_px)
