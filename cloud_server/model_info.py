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
"""What a model folder says of itself: model.json, checked before anything is computed with it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cloud_server import accuracy_grid
from ferros_proto import recognition_pb2 as wire

log = logging.getLogger(__name__)

FORMAT = 1
# The graphs of a model folder and what they do.
ENCODER_FILE = 'encoder.onnx'
TEMPORAL_FILE = 'temporal.onnx'
# The encoder in each precision that can be served; a folder need not have those after the first.
ENCODER_FILES = {'fp32': ENCODER_FILE, 'int8': 'encoder_int8.onnx'}
PRECISIONS = tuple(ENCODER_FILES)
# The field sizes of Welcome.model and of ferros_msgs/Emotion.
MAX_DISPLAY_CHARS = 64
MAX_LABELS = 16
MAX_LABEL_CHARS = 16
UNKNOWN = 'unknown'


class ModelError(ValueError):
    """A model folder that cannot be served; the message names the file and what is wrong."""


@dataclass(frozen=True)
class ModelInfo:
    """The description of one model, as model.json of its folder gives it."""

    name: str
    version: str
    # The classes of the logits, in their order.
    labels: tuple[str, ...]
    # Those of them that are never served.
    masked_labels: tuple[str, ...]
    # Side S of the encoder's square input.
    input_size_px: int
    # Length F of the encoder's features.
    feature_size: int
    # Length H of the recurrent state's two vectors h and c.
    state_size: int
    # A face's state resets after a gap longer than
    # max(reset_gap_s, reset_gap_intervals x interval).
    reset_gap_s: float
    reset_gap_intervals: float
    # Temperature of the softmax at face sizes: ((face_size_px, temperature), ...), sizes rising.
    temperature: tuple[tuple[float, float], ...]
    # The label is `unknown` where the top probability is lower.
    unknown_below: float
    # File name -> hex digest of the files that are served.
    sha256: dict[str, str]
    # Served label -> its place (valence, arousal), each -1..1; empty where it is not known.
    affect: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    # What each way of sending a face costs and is worth; empty where it was not measured.
    accuracy_grid: tuple[wire.OperatingPoint, ...] = ()

    @property
    def display(self) -> str:
        """Return name and version, as Welcome.model and Emotion.model carry them."""
        return f'{self.name} {self.version}'

    @property
    def served_labels(self) -> tuple[str, ...]:
        """Return the labels of an answer's probabilities, in their order."""
        return tuple(label for label in self.labels if label not in self.masked_labels)

    @property
    def served_indices(self) -> tuple[int, ...]:
        """Return the places of the served labels among the logits."""
        return tuple(i for i, label in enumerate(self.labels) if label not in self.masked_labels)

    @classmethod
    def load(cls, folder: Path) -> ModelInfo:
        """
        Read and check model.json, the digests of the graphs and the accuracy grid beside it.

        Raises:
            ModelError: naming the file and everything that is wrong with it.

        """
        path = folder / 'model.json'
        try:
            document = json.loads(path.read_text(encoding='utf-8'))
        except OSError as error:
            raise ModelError(f'{path}: cannot be read ({error.strerror})') from error
        except ValueError as error:
            raise ModelError(f'{path}: not JSON ({error})') from error
        info = cls.from_json(document, path)
        for name in (*ENCODER_FILES.values(), TEMPORAL_FILE):
            if name in info.sha256:
                _check_digest(folder / name, info.sha256[name])
        return replace(info, accuracy_grid=_grid(folder / accuracy_grid.FILE, info))

    @classmethod
    def from_json(cls, document: object, path: Path = Path('model.json')) -> ModelInfo:
        """
        Check the content of a model.json.

        Keys that are not known here are left alone: what must be known has a new format number.

        Raises:
            ModelError: naming every field that is missing or wrong.

        """
        if not isinstance(document, dict):
            raise ModelError(f'{path}: expected an object, got {type(document).__name__}')
        if document.get('format') != FORMAT:
            got = document.get('format')
            raise ModelError(f'{path}: format is {got!r}, this server reads format {FORMAT}')
        wrong = []
        for name, (expected, is_valid) in _FIELDS.items():
            if name not in document:
                if name not in _OPTIONAL:
                    wrong.append(f'{name} is missing, expected {expected}')
            elif not is_valid(document[name]):
                wrong.append(f'{name} is {_short(document[name])}, expected {expected}')
        if not wrong:
            wrong = _contradictions(document)
        if wrong:
            raise ModelError(f'{path}: ' + '; '.join(wrong))
        return cls(
            name=document['name'],
            version=document['version'],
            labels=tuple(document['labels']),
            masked_labels=tuple(document['masked_labels']),
            input_size_px=document['input_size_px'],
            feature_size=document['feature_size'],
            state_size=document['state_size'],
            reset_gap_s=float(document['reset_gap_s']),
            reset_gap_intervals=float(document['reset_gap_intervals']),
            temperature=tuple((float(size), float(t)) for size, t in document['temperature']),
            unknown_below=float(document['unknown_below']),
            sha256=dict(document['sha256']),
            affect={label: (float(place[0]), float(place[1]))
                    for label, place in document.get('affect', {}).items()},
        )


def _contradictions(document: dict[str, Any]) -> list[str]:
    """Return what is wrong between fields that are each valid alone."""
    wrong = []
    display = f'{document["name"]} {document["version"]}'
    if len(display) > MAX_DISPLAY_CHARS:
        wrong.append(f'name and version make {display!r}, at most {MAX_DISPLAY_CHARS} characters')
    strangers = [label for label in document['masked_labels'] if label not in document['labels']]
    if strangers:
        wrong.append(f'masked_labels {strangers} are not among labels')
    if len(document['labels']) - len(document['masked_labels']) < 2:
        wrong.append('masked_labels leaves fewer than 2 labels to serve')
    return wrong + _affect_problems(document)


def _affect_problems(document: dict[str, Any]) -> list[str]:
    """Return what is wrong with affect: a mean over a part of the labels would mean nothing."""
    affect, wrong = document.get('affect', {}), []
    strangers = [label for label in affect if label not in document['labels']]
    if strangers:
        wrong.append(f'affect has {strangers}, which are not among labels')
    served = [label for label in document['labels'] if label not in document['masked_labels']]
    missing = [label for label in served if label not in affect]
    if affect and missing:
        wrong.append(f'affect lacks {missing}, expected every label that is served')
    return wrong


def _check_digest(path: Path, expected: str) -> None:
    try:
        actual = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f'{path}: cannot be read ({error.strerror})') from error
    if actual != expected:
        raise ModelError(
            f'{path}: sha256 is {actual}, model.json says {expected}: damaged or of another model'
        )


def _grid(path: Path, info: ModelInfo) -> tuple[wire.OperatingPoint, ...]:
    """Return the accuracy grid of a folder; none where the folder has none."""
    if not path.exists():
        return ()
    try:
        points = accuracy_grid.read(path)
    except accuracy_grid.GridError as error:
        raise ModelError(str(error)) from error
    digest = info.sha256[ENCODER_FILE][:16]
    if digest.encode() not in path.read_bytes():
        log.warning('%s: does not name the encoder %s; was another model measured?', path, digest)
    return points


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + '...'


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and value.strip() != ''


def _is_size(limit: int) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= limit
    )


def _are_labels(value: Any, fewest: int = 2) -> bool:
    return (
        isinstance(value, list)
        and fewest <= len(value) <= MAX_LABELS
        and all(_is_text(label) and len(label) <= MAX_LABEL_CHARS for label in value)
        and len(set(value)) == len(value)
        and UNKNOWN not in value
    )


def _is_temperature(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    pairs = [pair for pair in value if isinstance(pair, list) and len(pair) == 2]
    numbers = [number for pair in pairs for number in pair]
    if len(pairs) != len(value) or not all(_is_number(x) and x > 0 for x in numbers):
        return False
    sizes = [size for size, _ in pairs]
    return sizes == sorted(set(sizes))


def _is_affect(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(place, list)
        and len(place) == 2
        and all(_is_number(number) and -1 <= number <= 1 for number in place)
        for place in value.values()
    )


def _are_digests(value: Any) -> bool:
    if not isinstance(value, dict) or not {ENCODER_FILE, TEMPORAL_FILE} <= set(value):
        return False
    known = [value[name] for name in (*ENCODER_FILES.values(), TEMPORAL_FILE) if name in value]
    return all(isinstance(digest, str) and len(digest) == 64 for digest in known)


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    'name': ('a printable text', _is_text),
    'version': ('a printable text', _is_text),
    'labels': (
        f'2 to {MAX_LABELS} different texts of at most {MAX_LABEL_CHARS} characters,'
        f' no {UNKNOWN!r}',
        _are_labels,
    ),
    'masked_labels': ('a list of labels', lambda value: _are_labels(value, fewest=0)),
    'input_size_px': ('1 to 1024', _is_size(1024)),
    'feature_size': ('1 to 65536', _is_size(65536)),
    'state_size': ('1 to 65536', _is_size(65536)),
    'reset_gap_s': ('0.01 to 3600', lambda value: _is_number(value) and 0.01 <= value <= 3600),
    'reset_gap_intervals': ('1 to 1000', lambda value: _is_number(value) and 1 <= value <= 1000),
    'temperature': ('pairs [face_size_px, T], all above 0, sizes rising', _is_temperature),
    'unknown_below': ('0 to 1', lambda value: _is_number(value) and 0 <= value <= 1),
    'sha256': (f'hex digests of {ENCODER_FILE} and {TEMPORAL_FILE}', _are_digests),
    'affect': ('a pair [valence, arousal] of -1 to 1 for every label that is served', _is_affect),
}
# What a model may leave out.
_OPTIONAL = ('affect',)
