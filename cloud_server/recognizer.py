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
"""One batch on its way: decode, encoder, step in time, calibration. Called in worker threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_server import affect, calibration
from cloud_server.decode import ImageError, ImageLimits, decode
from cloud_server.engine import Engine
from cloud_server.preprocess import to_input
from cloud_server.session import Face, ResetRule, Step


class OutputError(Exception):
    """The model gave no finite numbers for this face; its state begins anew."""


class Crop(NamedTuple):
    """A decoded crop of a face, at its time."""

    # uint8 [side, side].
    luma: NDArray[np.uint8]
    face: Face
    stamp_ns: int
    # The sender's interval between frames of this face; 0 if it has none.
    interval_ms: int


class EncodedCrop(NamedTuple):
    """A crop as a stream brings it."""

    image: bytes
    # 'jpeg' or 'webp'.
    codec: str
    face: Face
    stamp_ns: int
    interval_ms: int


class Recognition(NamedTuple):
    """What the model says of one face at one time."""

    # One of the served labels, or `unknown`.
    label: str
    # Probability of the top class, also when the label is `unknown`.
    confidence: float
    # One per served label, sum 1.
    probabilities: tuple[float, ...]
    # This frame began a new state.
    state_reset: bool
    # -1..1, unpleasant to pleasant and calm to excited; NaN where the model does not know them.
    valence: float
    arousal: float


class Recognizer:
    """Joins an engine with what comes before and after it."""

    def __init__(self, engine: Engine, limits: ImageLimits, decode_threads: int = 1) -> None:
        """
        Join them.

        Args:
            engine: what computes.
            limits: of one image.
            decode_threads: that decode the images of a batch; 1: the thread of the batch alone.

        """
        self._engine = engine
        self._limits = limits
        self._decoders = (
            ThreadPoolExecutor(decode_threads, thread_name_prefix='decode')
            if decode_threads > 1
            else None
        )
        self._rule = ResetRule(engine.info.reset_gap_s, engine.info.reset_gap_intervals)

    def new_face(self) -> Face:
        """Return a face that has not been seen yet."""
        return Face.new(self._engine.info.state_size)

    def recognize_encoded(
        self, encoded: Sequence[EncodedCrop]
    ) -> list[Recognition | ImageError | OutputError]:
        """Decode and recognise crops of different faces; an image that is bad fails alone."""
        decoded = (map if self._decoders is None else self._decoders.map)(self._decode, encoded)
        crops_or_errors = list(decoded)
        recognised = iter(self.recognize([c for c in crops_or_errors if isinstance(c, Crop)]))
        return [next(recognised) if isinstance(c, Crop) else c for c in crops_or_errors]

    def close(self) -> None:
        """Let the threads go."""
        if self._decoders is not None:
            self._decoders.shutdown()

    def _decode(self, crop: EncodedCrop) -> Crop | ImageError:
        try:
            luma = decode(crop.image, crop.codec, self._limits)
        except ImageError as error:
            return error
        return Crop(luma, crop.face, crop.stamp_ns, crop.interval_ms)

    def recognize(self, crops: Sequence[Crop]) -> list[Recognition | OutputError]:
        """Recognise crops of different faces and take each face one step on."""
        if not crops:
            return []
        info = self._engine.info
        sizes = np.array([crop.luma.shape[0] for crop in crops], np.float32)
        steps = [
            crop.face.next_step(crop.stamp_ns, crop.interval_ms, self._rule) for crop in crops
        ]
        features = self._engine.encode(
            np.stack([to_input(crop.luma, info.input_size_px) for crop in crops])
        )
        logits, h, c = self._engine.step(
            features,
            np.array([step.interval_s for step in steps], np.float32),
            sizes,
            np.stack([step.h for step in steps]),
            np.stack([step.c for step in steps]),
        )
        if not len(features) == len(logits) == len(h) == len(c) == len(crops):
            # Else a face could get the answer, and the state, of another.
            raise RuntimeError(
                f'the engine gave {len(features)} features and {len(logits)} results'
                f' for {len(crops)} faces'
            )
        finite = np.isfinite(np.concatenate([logits, h, c], axis=1)).all(axis=1)
        probabilities = calibration.probabilities(np.nan_to_num(logits), sizes, info)
        return [
            self._keep(crops[i], steps[i], h[i], c[i], probabilities[i])
            if finite[i]
            else _give_up(crops[i])
            for i in range(len(crops))
        ]

    def _keep(
        self,
        crop: Crop,
        step: Step,
        h: NDArray[np.float32],
        c: NDArray[np.float32],
        probabilities: NDArray[np.float32],
    ) -> Recognition:
        # Copies: a row is a view that would keep the whole batch in memory.
        crop.face.advance(crop.stamp_ns, h.copy(), c.copy())
        info = self._engine.info
        label, confidence = calibration.label(probabilities, info)
        valence, arousal = affect.valence_arousal(probabilities, info)
        return Recognition(
            label, confidence, tuple(probabilities.tolist()), step.is_reset, valence, arousal
        )


def _give_up(crop: Crop) -> OutputError:
    crop.face.forget()
    return OutputError('the model gave no finite numbers for this face')
