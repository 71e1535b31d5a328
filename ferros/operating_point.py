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
"""What to send of a face: how many pixels, how often and how compressed; pure."""

from __future__ import annotations

from ferros.config import RobotConfig
from ferros.types import OperatingPoint

# Below this a crop holds nothing the model was trained on.
MIN_FACE_SIZE_PX = 12


class OperatingPointChooser:
    """Chooses the operating point of the next frame; here the one that the parameters pin."""

    def __init__(self, config: RobotConfig) -> None:
        self._pinned = OperatingPoint(
            face_size_px=config.face_size_px,
            frame_rate_fps=config.frame_rate_fps,
            codec=config.wire_codec,
            quality=config.quality,
        )

    def choose(
        self, face_side_px: float, input_size_px: int, frame_rate_limit_fps: float
    ) -> OperatingPoint:
        """
        Return what to send of a face whose box is face_side_px wide in the camera image.

        Never more pixels than the face has or than the model's input_size_px can use, and never
        more frames than frame_rate_limit_fps (the server's word; inf where it has none).
        """
        size_px = min(self._pinned.face_size_px, input_size_px, round(face_side_px))
        return self._pinned._replace(
            face_size_px=max(MIN_FACE_SIZE_PX, size_px),
            frame_rate_fps=min(self._pinned.frame_rate_fps, frame_rate_limit_fps),
        )
