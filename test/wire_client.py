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
"""Ask a real server about a few faces with the robot's real link: `wire_client.py HOST:PORT`."""

from __future__ import annotations

import json
import sys
import time

import google.protobuf
import grpc
import numpy as np

from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.link import Link
from ferros.types import Box, CameraFrame, Observation, OfferedFace

ANSWERS = 5
DEADLINE_S = 30.0


def main() -> None:
    """Print the versions and what was answered, as one JSON object."""
    answers: list[Observation] = []
    drops = Drops()
    link = Link(RobotConfig(server_address=sys.argv[1], camera='wire'), drops, answers.append)
    link.start()
    rows, columns = np.mgrid[0:120, 0:160]
    image = ((rows + columns) * 255 // (rows + columns).max()).astype(np.uint8)
    began_s = time.monotonic()
    while len(answers) < ANSWERS and time.monotonic() - began_s < DEADLINE_S:
        frame = CameraFrame(image, time.time_ns(), time.monotonic_ns())
        link.offer([OfferedFace('f1', Box(40, 20, 64, 64), frame)])
        time.sleep(0.02)
    report = link.report()
    link.stop()
    print(json.dumps({
        'grpc': grpc.__version__,
        'protobuf': google.protobuf.__version__,
        'state': f'{report.state.value} {report.detail}',
        'drops': drops.counts(),
        'answers': [
            {'label': answer.label, 'labels': answer.labels, 'model': answer.model,
             'probabilities': answer.probabilities}
            for answer in answers],
    }))


if __name__ == '__main__':
    main()
