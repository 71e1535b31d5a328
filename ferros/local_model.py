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
The small model that answers on the robot while the cloud is away: one face, one frame, cv2.dnn.

    luma [s, s] -> 48x48 -> fallback.onnx -> logits / temperature(s) -> probabilities, label

It has no memory: each image is judged by itself. The graph normalises light and contrast, so that
a crop as `crop.crop` gives it is all that is needed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ferros.types import UNKNOWN, Image

FORMAT: Final = 1
GRAPH_FILE: Final = 'fallback.onnx'
INFO_FILE: Final = 'fallback.json'
SHIPPED: Final = Path(__file__).resolve().parent / 'models'
# The field sizes of ferros_msgs/Emotion.
_MAX_MODEL_CHARS: Final = 64
_MAX_LABELS: Final = 16
_MAX_LABEL_CHARS: Final = 16


class LocalModelError(RuntimeError):
    """The model cannot be used; the message names the file and everything wrong with it."""


class Expression(NamedTuple):
    """What the model says of one crop, under the names that an Observation has for it."""

    # The most probable label, or `unknown` where the model is not sure enough.
    label: str
    # Of the most probable label, also when the label is `unknown`; 0..1.
    confidence: float
    labels: tuple[str, ...]
    # One per label, sum 1.
    probabilities: tuple[float, ...]
    # -1..1, the mean over the distribution of the labels' own places; NaN if those are not known.
    valence: float
    arousal: float


@dataclass(frozen=True)
class LocalModelInfo:
    """The description of the model, as fallback.json gives it."""

    name: str
    version: str
    # The classes of the graph's logits, in their order; all are answered.
    labels: tuple[str, ...]
    # Side S of the graph's square input.
    input_size_px: int
    # Of the softmax at face sizes: ((face_size_px, temperature), ...), sizes rising.
    temperature: tuple[tuple[float, float], ...]
    # The label is `unknown` where the top probability is lower.
    unknown_below: float
    # Label -> (valence, arousal), each -1..1; empty where it is not known.
    affect: dict[str, tuple[float, float]]
    # File name -> hex digest of the graph.
    sha256: dict[str, str]

    @property
    def display(self) -> str:
        """Return name and version, as Emotion.model carries them."""
        return f'{self.name} {self.version}'


class LocalModel:
    """
    Recognises the expression in face crops.

    One thread at a time may use one model. How many threads one call computes with is OpenCV's
    setting for the whole process (cv2.setNumThreads).
    """

    def __init__(self, folder: Path = SHIPPED) -> None:
        """
        Load both files of a folder and compute one face with them.

        Raises:
            LocalModelError: a file is missing, damaged or no model of this format.

        """
        self.info = read_info(folder / INFO_FILE)
        self._net = _load_graph(folder / GRAPH_FILE, self.info)
        sizes_px, temperatures = zip(*self.info.temperature, strict=True)
        self._sizes_px, self._temperatures = np.array(sizes_px), np.array(temperatures)
        nowhere = (math.nan, math.nan)
        self._places = np.array([self.info.affect.get(label, nowhere)
                                 for label in self.info.labels])

    def predict(self, crops: Sequence[Image]) -> list[Expression]:
        """
        Return what each crop shows, in their order.

        crops: uint8 [s, s] luma of any side from 1 px, the square of the training frame as
        `crop.crop` cuts it. The side is taken for how well the face was seen: a crop that was
        enlarged is judged more surely than it deserves.

        Raises:
            ValueError: a crop is no square uint8 image of one channel.

        """
        # One at a time: when the number changes OpenCV plans the network anew, which takes as long
        # as some faces and, from 4.8 to 4.14, computes nonsense ever after.
        return [self._express(_logits(self._net, to_input(crop, self.info.input_size_px)),
                              crop.shape[0]) for crop in crops]

    def _express(self, logits: NDArray[np.float32], face_size_px: int) -> Expression:
        """
        Return the answer for logits [K].

        Temperature scaling (Guo et al., On Calibration of Modern Neural Networks, ICML 2017):
        softmax(logits / T), with T interpolated between the sizes it was fitted at and held
        beyond them.
        """
        temperature = np.interp(face_size_px, self._sizes_px, self._temperatures)
        scaled = logits.astype(np.float64) / temperature
        weights = np.exp(scaled - scaled.max())
        probabilities = (weights / weights.sum()).astype(np.float32)
        top = int(probabilities.argmax())
        confidence = float(probabilities[top])
        sure = confidence >= self.info.unknown_below
        valence, arousal = np.clip(probabilities @ self._places, -1, 1)
        return Expression(
            label=self.info.labels[top] if sure else UNKNOWN,
            confidence=confidence,
            labels=self.info.labels,
            probabilities=tuple(map(float, probabilities)),
            valence=float(valence),
            arousal=float(arousal),
        )


def to_input(crop: Image, input_size_px: int) -> Image:
    """
    Return a crop at the side the graph takes: uint8 [S, S], scaled as the model was trained.

    Raises:
        ValueError: not a square uint8 image of one channel.

    """
    if crop.dtype != np.uint8 or crop.ndim != 2 or crop.size == 0 or len(set(crop.shape)) != 1:
        raise ValueError(f'expected a uint8 crop [s, s], got {crop.dtype} {crop.shape}')
    side_px = crop.shape[0]
    if side_px == input_size_px:
        return crop
    # Averaging is right for shrinking only; for enlarging it would repeat pixels in blocks.
    how = cv2.INTER_AREA if side_px > input_size_px else cv2.INTER_LINEAR
    scaled = cv2.resize(crop, (input_size_px, input_size_px), interpolation=how)
    return np.asarray(scaled, np.uint8)


def read_info(path: Path) -> LocalModelInfo:
    """
    Read and check a fallback.json.

    Keys that are not known here are left alone: what must be known has a new format number.

    Raises:
        LocalModelError: naming every field that is missing or wrong.

    """
    try:
        document: Any = json.loads(path.read_text('utf-8'))
    except OSError as err:
        raise LocalModelError(f'{path}: cannot be read ({err.strerror})') from err
    except ValueError as err:
        raise LocalModelError(f'{path}: not JSON ({err})') from err
    found = document.get('format') if isinstance(document, dict) else document
    if not isinstance(document, dict) or found != FORMAT:
        raise LocalModelError(f'{path}: format is {_short(found)}, this node reads {FORMAT}')
    wrong = []
    for field, (expected, is_valid) in _FIELDS.items():
        if field not in document and field in _OPTIONAL:
            continue
        if field not in document:
            wrong.append(f'{field} is missing, expected {expected}')
        elif not is_valid(document[field]):
            wrong.append(f'{field} is {_short(document[field])}, expected {expected}')
    if not wrong:
        wrong = _contradictions(document)
    if wrong:
        raise LocalModelError(f'{path}: ' + '; '.join(wrong))
    return LocalModelInfo(
        name=document['name'],
        version=document['version'],
        labels=tuple(document['labels']),
        input_size_px=document['input_size_px'],
        temperature=tuple((float(size), float(t)) for size, t in document['temperature']),
        unknown_below=float(document['unknown_below']),
        affect={label: (float(pair[0]), float(pair[1]))
                for label, pair in document.get('affect', {}).items()},
        sha256=dict(document['sha256']),
    )


def _contradictions(document: dict[str, Any]) -> list[str]:
    """Return what is wrong between fields that are each valid alone."""
    wrong = []
    display = f'{document["name"]} {document["version"]}'
    if len(display) > _MAX_MODEL_CHARS:
        wrong.append(f'name and version make {display!r}, at most {_MAX_MODEL_CHARS} characters')
    affect = document.get('affect', {})
    missing = [label for label in document['labels'] if label not in affect]
    if affect and missing:  # a mean over a part of the labels would mean nothing
        wrong.append(f'affect says nothing of {missing}')
    return wrong


def _load_graph(path: Path, info: LocalModelInfo) -> cv2.dnn.Net:
    """Return the network of a file that has the expected digest and computes what it should."""
    try:
        data = path.read_bytes()
    except OSError as err:
        raise LocalModelError(f'{path}: cannot be read ({err.strerror})') from err
    digest = hashlib.sha256(data).hexdigest()
    if digest != info.sha256[GRAPH_FILE]:
        raise LocalModelError(
            f'{path}: sha256 is {digest}, {INFO_FILE} says {info.sha256[GRAPH_FILE]}: damaged or '
            'of another model'
        )
    side_px = info.input_size_px
    try:
        net = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
        net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
        logits = _logits(net, np.zeros((side_px, side_px), np.uint8))
    except cv2.error as err:
        raise LocalModelError(
            f'{path}: OpenCV {cv2.__version__} cannot compute it ({" ".join(str(err).split())})'
        ) from err
    if logits.shape != (len(info.labels),) or not np.isfinite(logits).all():
        raise LocalModelError(
            f'{path}: answers {logits.shape} values for a face, {INFO_FILE} has '
            f'{len(info.labels)} labels'
        )
    return net


def _logits(net: cv2.dnn.Net, face: Image) -> NDArray[np.float32]:
    """Return the logits [K] of one face at the graph's own size."""
    net.setInput(cv2.dnn.blobFromImage(face))
    logits: NDArray[np.float32] = np.asarray(net.forward(), np.float32)[0]
    return logits


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + '...'


def _is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and value.strip() != ''


def _are_labels(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 2 <= len(value) <= _MAX_LABELS
        and all(_is_text(label) and len(label) <= _MAX_LABEL_CHARS for label in value)
        and len(set(value)) == len(value)
        and UNKNOWN not in value
    )


def _is_pair(value: Any, low: float, high: float) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(
        _is_number(number, low, high) for number in value
    )


def _is_temperature(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    if not all(_is_pair(pair, 1e-3, 1e6) for pair in value):
        return False
    sizes = [size for size, _ in value]
    return sizes == sorted(set(sizes))


_FIELDS: Final[dict[str, tuple[str, Callable[[Any], bool]]]] = {
    'name': ('a printable text', _is_text),
    'version': ('a printable text', _is_text),
    'labels': (
        f'2 to {_MAX_LABELS} different texts of at most {_MAX_LABEL_CHARS} characters,'
        f' no {UNKNOWN!r}',
        _are_labels,
    ),
    'input_size_px': (
        '1 to 1024',
        lambda value: isinstance(value, int) and _is_number(value, 1, 1024),
    ),
    'temperature': ('pairs [face_size_px, T], all above 0, sizes rising', _is_temperature),
    'unknown_below': ('0 to 1', lambda value: _is_number(value, 0, 1)),
    'affect': (
        'label: [valence, arousal], each -1 to 1',
        lambda value: isinstance(value, dict)
        and all(_is_pair(pair, -1, 1) for pair in value.values()),
    ),
    'sha256': (
        f'the hex digest of {GRAPH_FILE}',
        lambda value: isinstance(value, dict) and isinstance(value.get(GRAPH_FILE), str)
        and len(value[GRAPH_FILE]) == 64,
    ),
}
# What a model may leave out.
_OPTIONAL: Final = ('affect',)
