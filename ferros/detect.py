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
From an image to the squares around its faces: Haar cascades (the paper's detector) or YuNet.

Detectors draw their boxes differently, and the expression model was trained on one frame only:
FER+'s, a square around the face. What is handed on is that square, so nothing after this file
knows which detector drew it.

A detector searches a whole image at once (`detect`), which takes too long for every image of a
camera, or piece by piece: `propose` looks quickly at a piece of an image and reports whatever may
be a face, `look` looks closely at one place. What decides when and where is in lookout.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ferros.pieces import Piece, View, haar_pieces, yunet_pieces
from ferros.pyramid import Part, Pyramid
from ferros.types import Box, Image

KINDS: Final = ('haar', 'yunet')

# Measured on video of a stage with several faces, of one face and of none, against YuNet: at the
# settings below alt2 found 261 faces and nothing that was none, `default` 244 and 9, and alt2
# needs a seventh less time.
HAAR_CASCADE: Final = 'haarcascade_frontalface_alt2.xml'
PROFILE_CASCADE: Final = 'haarcascade_profileface.xml'
_CASCADE_FOLDER: Final = Path('/usr/share/opencv4/haarcascades')

# The side of FER+'s frame in sides of a Haar box: the cascade was trained on much the same square,
# from the middle of the forehead to just under the chin's middle.
HAAR_CROP_SCALE: Final = 1.0
# The side of FER+'s frame in heights of a YuNet box, which reaches from the hairline to the chin
# but is narrower than a face is high.
YUNET_CROP_SCALE: Final = 1.0

# The same for the cascade of faces from the side, whose square is as large as YuNet's but reaches
# further back: the frame's centre is this many sides further where the face looks. Medians over
# video of turned faces (181 looking left, 21 right) against YuNet's squares: scale 0.97 and 1.01,
# shift 0.05 and 0.12.
PROFILE_CROP_SCALE: Final = 1.0
PROFILE_CROP_SHIFT: Final = 0.07

# YuNet has learnt colour. Luma in the tint of skin, as factors of blue, green and red, looks more
# like a face to it: at 320 px it found 150 of 172 faces of dark video in grey, about 165 so and
# 169 in colour. More of a tint makes faces of what is none.
_TINT_BGR: Final = np.array([0.8, 0.9, 1.1])
_TINT: Final = np.clip(np.arange(256)[None, :, None] * _TINT_BGR, 0, 255).astype(np.uint8)

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


class CameraDetector(Detector, Protocol):
    """
    A detector that also looks at parts of an image.

    All boxes are in px of the published image.
    """

    @property
    def views(self) -> tuple[View, ...]:
        """Return the views between which `look` distinguishes."""
        ...

    @property
    def longest_side_px(self) -> int:
        """Return the longest side of the images in which new faces are looked for."""
        ...

    def pieces(self, width_px: int, height_px: int, view: View) -> list[Piece]:
        """Return the pieces that searching an image for faces of a view is cut into."""
        ...

    def propose(self, pyramid: Pyramid, piece: Piece) -> list[Box]:
        """Return the squares in a piece that may be faces; `look` tells whether they are."""
        ...

    def look(
        self, pyramid: Pyramid, near: Box, margin: float, view: View, is_known: bool
    ) -> list[Box]:
        """
        Return the squares of the faces at a place, the surest first.

        near: where the face is expected; found are faces of about its size. margin: how much is
        looked at around it, in its sides. is_known: a face was there, so less is enough to find
        it again.
        """
        ...

    def look_work(self, margin: float, view: View) -> float:
        """Return what a look costs, in the unit of Piece.work."""
        ...


def make_detector(
    kind: str,
    *,
    cascade_file: str = '',
    model_file: str = '',
    longest_side_px: int = 0,
    min_face_px: int = 0,
    profiles: bool = False,
    profile_cascade_file: str = '',
) -> CameraDetector:
    """
    Return the detector of a kind, `haar` or `yunet`, with its file loaded.

    cascade_file: haar only; empty means OpenCV's own frontal face cascade.
    model_file: yunet only and needed there.
    profiles: haar only; the parts of an image are searched for faces from the side too, with the
    cascade in profile_cascade_file, empty meaning OpenCV's own. YuNet sees them anyway.
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
        haar = HaarDetector(
            cascade_file, longest_side_px or HaarDetector.LONGEST_SIDE_PX, min_face_px
        )
        if profiles:
            haar.look_for_profiles(True, profile_cascade_file)
        return haar
    return YuNetDetector(model_file, longest_side_px or YuNetDetector.LONGEST_SIDE_PX, min_face_px)


class HaarDetector:
    """Viola and Jones' cascades as OpenCV ships them, on small grey images."""

    # Half the time of 640 pixels; a face of 5% of the frame's width is still found.
    LONGEST_SIDE_PX: Final = 480
    # From the side, where a face says less: a third of the time.
    PROFILE_LONGEST_SIDE_PX: Final = 288
    # The cascade's window is 20 pixels; under 24 nearly all it finds is texture.
    _WINDOW_PX: Final = 24
    _SCALE_STEP: Final = 1.1
    # Enough to suspect a face.
    _SCALE_STEP_PROPOSED: Final = 1.2
    # Overlapping hits that make a face. Fewer give boxes where there is none, more lose turned
    # heads.
    _NEIGHBOURS: Final = 5
    # 1, which is two hits, is enough for what is looked at again.
    _NEIGHBOURS_PROPOSED: Final = 1
    # In a close look there are more hits, but fewer are enough where a face was. In it a face is
    # this large, and is found from and to so many times its size. From the side it is smaller
    # where it is only suspected: on video and in rendered rooms, 42 px instead of 48 lost a tenth
    # of 85 faces and half of 10 places that were none.
    _NEIGHBOURS_CLOSE: Final = {View.FRONT: 8, View.LEFT: 5, View.RIGHT: 5}
    _NEIGHBOURS_KNOWN: Final = 3
    _CLOSE_PX: Final = {View.FRONT: 60, View.LEFT: 42, View.RIGHT: 42}
    _CLOSE_KNOWN_PX: Final = {View.FRONT: 60, View.LEFT: 48, View.RIGHT: 48}
    _CLOSE_SIZES: Final = (0.75, 1.35)
    # Of a close look with margin 0.35: ms as in Piece.work.
    _CLOSE_WORK: Final = {View.FRONT: 1.1, View.LEFT: 1.8, View.RIGHT: 1.8}

    def __init__(
        self, cascade_file: str = '', longest_side_px: int = LONGEST_SIDE_PX, min_face_px: int = 0
    ) -> None:
        self._cascade = _load_cascade(find_cascade(cascade_file))
        self._profile_cascade: cv2.CascadeClassifier | None = None
        self._profiles = False
        self._longest_side_px = longest_side_px
        self._min_face_px = min_face_px

    def look_for_profiles(self, wanted: bool, cascade_file: str = '') -> None:
        """
        Search parts of an image for faces from the side too, or no longer.

        cascade_file: empty means OpenCV's own; read when it is first wanted.

        Raises:
            DetectorError: the file is missing or unreadable.

        """
        if wanted and self._profile_cascade is None:
            self._profile_cascade = _load_cascade(find_profile_cascade(cascade_file))
        self._profiles = wanted

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

    @property
    def views(self) -> tuple[View, ...]:
        """Return the views between which `look` distinguishes."""
        return tuple(View) if self._profiles else (View.FRONT,)

    @property
    def longest_side_px(self) -> int:
        """Return the longest side of the images in which new faces are looked for."""
        return self._longest_side_px

    def pieces(self, width_px: int, height_px: int, view: View) -> list[Piece]:
        """Return the pieces that searching an image for faces of a view is cut into."""
        if view not in self.views:
            return []
        longest_px = self._longest_side_px
        if view is not View.FRONT:
            longest_px = min(longest_px, self.PROFILE_LONGEST_SIDE_PX)
        return haar_pieces(width_px, height_px, longest_px, view)

    def propose(self, pyramid: Pyramid, piece: Piece) -> list[Box]:
        """Return the squares in a piece that may be faces; `look` tells whether they are."""
        part = pyramid.part(piece.region, piece.scale)
        if part is None:
            return []
        sizes_px = piece.smallest_px * piece.scale, piece.largest_px * piece.scale
        step, neighbours = self._SCALE_STEP_PROPOSED, self._NEIGHBOURS_PROPOSED
        return self._search(part, sizes_px, piece.view, step, neighbours)

    def look(
        self, pyramid: Pyramid, near: Box, margin: float, view: View, is_known: bool
    ) -> list[Box]:
        """Return the squares of the faces at a place, the surest first."""
        close_px = (self._CLOSE_KNOWN_PX if is_known else self._CLOSE_PX)[view]
        part = pyramid.part(around(near, margin), close_px / near.width)
        if part is None:
            return []
        neighbours = self._NEIGHBOURS_KNOWN if is_known else self._NEIGHBOURS_CLOSE[view]
        smallest, largest = self._CLOSE_SIZES
        sizes_px = smallest * close_px, largest * close_px
        return self._search(part, sizes_px, view, self._SCALE_STEP, neighbours)

    def look_work(self, margin: float, view: View) -> float:
        """Return what a look costs, in the unit of Piece.work."""
        return self._CLOSE_WORK[view] * ((1 + 2 * margin) / 1.7) ** 2

    def _search(
        self, part: Part, sizes_px: tuple[float, float], view: View, step: float, neighbours: int
    ) -> list[Box]:
        """Return the squares found in a part of an image, those with most hits first."""
        cascade = self._cascade if view is View.FRONT else self._profile_cascade
        if cascade is None:
            return []
        image = part.image
        width_px = image.shape[1]
        # The cascade knows faces that look to the left.
        if view is View.RIGHT:
            image = np.asarray(cv2.flip(image, 1), np.uint8)
        smallest_px, largest_px = (round(size) for size in sizes_px)
        found, hits = cascade.detectMultiScale2(
            image,
            scaleFactor=step,
            minNeighbors=neighbours,
            minSize=(smallest_px, smallest_px),
            maxSize=(largest_px, largest_px),
        )
        order = np.argsort(-np.asarray(hits, np.int64).reshape(-1), kind='stable')
        squares = []
        for x, y, width, height in np.asarray(found, np.float64).reshape(-1, 4)[order].tolist():
            left = width_px - x - width if view is View.RIGHT else x
            box = part.outside(left, y, width, height)
            squares.append(_training_square(box, view))
        return squares


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
    # Less is enough where a face was, and for what is looked at again.
    _MIN_SCORE_KNOWN: Final = 0.6
    _MIN_SCORE_PROPOSED: Final = 0.6
    # Of two boxes that overlap by more than this only the better is kept.
    _MAX_IOU: Final = 0.3
    # In a close look a face is this high if that fits into one of the inputs, and is found from
    # and to so many times the size that is expected.
    _CLOSE_PX: Final = 40
    _CLOSE_INPUTS_PX: Final = (96, 128)
    _CLOSE_SIZES: Final = (0.6, 1.6)
    # The network wants to see what is around a face, in sides of its square.
    _CLOSE_MARGIN: Final = 0.6
    # Of a look with the smaller and the larger input: ms as in Piece.work.
    _CLOSE_WORK: Final = (0.7, 1.1)

    def __init__(
        self, model_file: str, longest_side_px: int = LONGEST_SIDE_PX, min_face_px: int = 0
    ) -> None:
        self._net = _load_yunet(model_file)
        # A net sets itself up anew for each size of its input, which takes a fifth of a pass over
        # a whole image; so there is one for each size in which places are looked at.
        self._close_nets = {size: _load_yunet(model_file) for size in self._CLOSE_INPUTS_PX}
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

    @property
    def views(self) -> tuple[View, ...]:
        """Return the views between which `look` distinguishes: none."""
        return (View.FRONT,)

    @property
    def longest_side_px(self) -> int:
        """Return the longest side of the images in which new faces are looked for."""
        return self._longest_side_px

    def pieces(self, width_px: int, height_px: int, view: View) -> list[Piece]:
        """Return the one piece that is the whole image."""
        if view not in self.views:
            return []
        return yunet_pieces(width_px, height_px, self._longest_side_px)

    def propose(self, pyramid: Pyramid, piece: Piece) -> list[Box]:
        """Return the squares in a piece that may be faces; `look` tells whether they are."""
        part = pyramid.part(piece.region, piece.scale)
        if part is None:
            return []
        padded = _pad(part.image)
        boxes, _ = _run_yunet(self._net, padded, self._MIN_SCORE_PROPOSED, self._MAX_IOU)
        return [_yunet_square(part, box) for box in boxes.tolist()]

    def look(
        self, pyramid: Pyramid, near: Box, margin: float, view: View, is_known: bool
    ) -> list[Box]:
        """Return the squares of the faces at a place, the surest first."""
        sides = 1 + 2 * max(margin, self._CLOSE_MARGIN)
        input_px = self._close_input_px(sides)
        scale = min(self._CLOSE_PX, (input_px - 1) / sides) / near.width
        part = pyramid.part(around(near, (sides - 1) / 2), scale)
        if part is None:
            return []
        min_score = self._MIN_SCORE_KNOWN if is_known else self._MIN_SCORE
        padded = _pad(part.image, input_px)
        boxes, _ = _run_yunet(self._close_nets[input_px], padded, min_score, self._MAX_IOU)
        smallest, largest = (near.width * factor for factor in self._CLOSE_SIZES)
        squares = [_yunet_square(part, box) for box in boxes.tolist()]
        return [square for square in squares if smallest <= square.width <= largest]

    def look_work(self, margin: float, view: View) -> float:
        """Return what a look costs, in the unit of Piece.work."""
        sides = 1 + 2 * max(margin, self._CLOSE_MARGIN)
        return self._CLOSE_WORK[self._CLOSE_INPUTS_PX.index(self._close_input_px(sides))]

    def _close_input_px(self, sides: float) -> int:
        small, large = self._CLOSE_INPUTS_PX
        return small if sides * self._CLOSE_PX < small else large

    def raw_boxes(self, image: Image) -> NDArray[np.float64]:
        """Return YuNet's own boxes [count, 4], x, y, width, height in px, the surest first."""
        small, scale = _shrink(image, self._longest_side_px)
        boxes, _ = _run_yunet(self._net, _pad(small), self._MIN_SCORE, self._MAX_IOU)
        return boxes / scale


def around(box: Box, margin: float) -> Box:
    """Return the box with a margin of so many of its widths on every side."""
    extra_px = margin * box.width
    return Box(
        box.x - extra_px, box.y - extra_px, box.width + 2 * extra_px, box.height + 2 * extra_px
    )


def find_profile_cascade(cascade_file: str = '') -> Path:
    """
    Return the cascade file for faces from the side, as find_cascade does.

    Raises:
        DetectorError: it does not exist.

    """
    return _find_file(
        cascade_file,
        PROFILE_CASCADE,
        'profile_cascade_file',
        ', or set detect_profiles to false',
    )


def find_cascade(cascade_file: str = '') -> Path:
    """
    Return the cascade file: the one asked for, else the one in cv2.data, else the distribution's.

    Raises:
        DetectorError: it does not exist.

    """
    return _find_file(cascade_file, HAAR_CASCADE, 'a cascade file')


def _find_file(asked_for: str, name: str, setting: str, otherwise: str = '') -> Path:
    if asked_for:
        if not Path(asked_for).is_file():
            raise DetectorError(f'cascade file {asked_for} does not exist')
        return Path(asked_for)
    # OpenCV from PyPI brings the cascades along; the distributions' OpenCV has no cv2.data.
    from_pypi = getattr(getattr(cv2, 'data', None), 'haarcascades', None)
    folders = [*([Path(from_pypi)] if from_pypi else []), _CASCADE_FOLDER]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    searched = ' or '.join(str(folder) for folder in folders)
    raise DetectorError(
        f'{name} is not in {searched}: apt install opencv-data, or name {setting}{otherwise}'
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


def _run_yunet(
    net: cv2.dnn.Net, padded: Image, min_score: float, max_iou: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """
    Return YuNet's boxes [count, 4] and their scores [count], the surest first.

    A box is x, y, width, height in px of the network's input.

    padded: uint8 luma or BGR of a size that the network can take.
    """
    if padded.ndim == 2:
        padded = np.asarray(cv2.LUT(cv2.cvtColor(padded, cv2.COLOR_GRAY2BGR), _TINT), np.uint8)
    net.setInput(cv2.dnn.blobFromImage(padded))
    layers = (np.asarray(layer, np.float32) for layer in net.forward(_OUTPUTS))
    outputs = dict(zip(_OUTPUTS, layers, strict=True))
    boxes, scores = decode_yunet(outputs, padded.shape[1], min_score)
    kept = suppress(boxes, scores, max_iou)
    return boxes[kept], scores[kept]


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


def _pad(image: Image, side_px: int = 0) -> Image:
    """
    Return the image with black added on the right and below, to a size that YuNet can take.

    side_px: the side of the square to fill; 0: the next size that will do.
    """
    height, width = image.shape[:2]
    if side_px:
        image = image[:side_px, :side_px]
        below, right = max(0, side_px - height), max(0, side_px - width)
    else:
        below = max(-height % _STRIDES[-1], _MIN_INPUT_PX - height)
        right = max(-width % _STRIDES[-1], _MIN_INPUT_PX - width)
    return np.asarray(cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT), np.uint8)


def _square(centre_x: float, centre_y: float, side: float) -> Box:
    return Box(centre_x - side / 2, centre_y - side / 2, side, side)


def _training_square(box: Box, view: View) -> Box:
    """Return FER+'s frame for the box of a cascade."""
    x, y = box.centre
    if view is View.FRONT:
        return _square(x, y, HAAR_CROP_SCALE * box.width)
    shift = PROFILE_CROP_SHIFT * box.width
    x += shift if view is View.RIGHT else -shift
    return _square(x, y, PROFILE_CROP_SCALE * box.width)


def _yunet_square(part: Part, box: list[float]) -> Box:
    """Return FER+'s frame for YuNet's box in a part of an image, in px of the published image."""
    x, y, width, height = part.outside(*box)
    return _square(x + width / 2, y + height / 2, YUNET_CROP_SCALE * height)


def _largest_first(boxes: list[Box]) -> list[Box]:
    return sorted(boxes, key=lambda box: -box.area_px)
