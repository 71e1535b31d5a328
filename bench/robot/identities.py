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
Whether ids stay with people, in rendered scenes in which it is known who is where.

    python -m bench.robot.identities [--quick] [--json FILE]
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import cv2

from bench.robot import command, scenes
from bench.robot.scenes import Outcome
from demo import processes
from ferros.config import RobotConfig
from ferros.perception import make_perception

# YuNet's model does not come with ferros; it is looked for where the test data are.
YUNET_FILE = 'models/face_detection_yunet.onnx'
QUICK_SCENES = (scenes.CUT,)


def detectors() -> dict[str, RobotConfig | None]:
    """Return the configuration of each detector; None: its model is not there."""
    folder = Path(os.environ.get('FERROS_TEST_DATA') or processes.ROOT.parent / 'shared')
    model = folder / YUNET_FILE
    yunet = RobotConfig(detector='yunet', detector_model=str(model)) if model.exists() else None
    return {'haar': RobotConfig(), 'yunet': yunet}


def measure(quick: bool = False) -> dict[str, Any]:
    """Return per detector and scene what became of the faces; None: the detector was not run."""
    cv2.setNumThreads(1)
    chosen = QUICK_SCENES if quick else scenes.SCENES
    found: dict[str, Any] = {}
    for name, config in detectors().items():
        if config is None or (quick and name != 'haar'):
            found[name] = None
            continue
        rows = {scene.name: _row(scenes.play(scene, make_perception(config))) for scene in chosen}
        found[name] = {
            'id_switches': sum(row['id_switches'] for row in rows.values()),
            'elsewhere': sum(row['elsewhere'] for row in rows.values()),
            'reported': sum(row['reported'] for row in rows.values()),
            'faces': sum(row['faces'] for row in rows.values()),
            'scenes': rows,
        }
    return found


def _row(outcome: Outcome) -> dict[str, Any]:
    first_s = {
        name: None if math.isinf(value) else value for name, value in outcome.first_s.items()
    }
    return {**outcome._asdict(), 'first_s': first_s}


if __name__ == '__main__':
    sys.exit(command.run('bench.robot.identities', measure))
