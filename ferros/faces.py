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
Detect, track and crop in one step, for whoever has images and wants faces.

The node takes the steps one by one.
"""

from __future__ import annotations

from typing import Final

from ferros.crop import crop, native_size_px
from ferros.detect import make_detector
from ferros.track import Tracker
from ferros.types import Image

# In a single image nothing can be confirmed by the next one.
_STILL_CONFIRM_HITS: Final = 1


class FaceSource:
    """The robot's view of a sequence of images: which faces are there, where, and their crops."""

    def __init__(
        self,
        detector: str = 'haar',
        detector_model: str = '',
        crop_size_px: int = 48,
        still: bool = False,
    ) -> None:
        """
        Load the detector.

        detector: `haar` or `yunet`; detector_model: the cascade or model file, may be empty for
        haar.
        crop_size_px: the crops' side; a smaller face is cropped at its own size, not enlarged.
        still: the images have nothing to do with each other, so each one's faces are reported at
        once.

        Raises:
            ferros.detect.DetectorError: the detector or its file is not there.
            ValueError: crop_size_px is below 1.

        """
        if crop_size_px < 1:
            raise ValueError(f'crop_size_px is {crop_size_px}, expected at least 1')
        # Each detector reads its own one of the two.
        self._detector = make_detector(
            detector, cascade_file=detector_model, model_file=detector_model
        )
        self._crop_size_px = crop_size_px
        self._still = still
        self._tracker = Tracker(confirm_hits=_STILL_CONFIRM_HITS) if still else Tracker()

    def update(
        self, image: Image, now_ns: int
    ) -> list[tuple[str, tuple[float, float, float, float], Image]]:
        """
        Return the id, box and luma crop of each face seen in an image.

        image: uint8, [height, width] luma or [height, width, 3] BGR; now_ns: its time.

        A box is (x, y, width, height) in pixels of the image, a crop uint8 [side, side].
        """
        if self._still:
            self._tracker.reset()
        tracks = self._tracker.update(self._detector.detect(image), now_ns)
        return [
            (face_id, (*box,), crop(image, box, min(self._crop_size_px, native_size_px(box))))
            for face_id, box, seen_ns in tracks
            # A track that coasts has no face under its box in this image.
            if seen_ns == now_ns
        ]
