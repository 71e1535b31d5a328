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
from __future__ import annotations

import math

from ferros.config import RobotConfig
from ferros.operating_point import MIN_FACE_SIZE_PX, OperatingPointChooser


def test_the_pinned_point_is_limited_by_the_face_the_model_and_the_server() -> None:
    chooser = OperatingPointChooser(RobotConfig(face_size_px=96, frame_rate_fps=20.0))
    assert chooser.choose(200, 48, math.inf).face_size_px == 48
    assert chooser.choose(31.6, 48, math.inf).face_size_px == 32
    assert chooser.choose(200, 224, math.inf).face_size_px == 96
    assert chooser.choose(3, 48, math.inf).face_size_px == MIN_FACE_SIZE_PX
    assert chooser.choose(200, 48, math.inf).frame_rate_fps == 20
    assert chooser.choose(200, 48, 4).frame_rate_fps == 4
