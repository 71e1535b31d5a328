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
"""Reports of a node for which all is well, with whatever a test wants to be otherwise."""

from __future__ import annotations

import math
from typing import Any

from ferros.bandwidth import BandwidthEstimator
from ferros.health import AnswersReport, CameraReport, FacesReport, NodeReport
from ferros.link import LinkReport, LinkState
from ferros.types import Source

NAN = math.nan


def link(**changes: Any) -> LinkReport:
    """Return the report of a link on which one message was answered within 40 ms."""
    estimator = BandwidthEstimator()
    estimator.sent(1, 900, 0)
    estimator.answered(1, 0, 0, 40_000_000)
    estimator.sent(2, 300, 41_000_000)
    known = {
        'state': LinkState.CONNECTED, 'detail': '', 'model': 'ferros-fer 9', 'sent_frames': 2,
        'answered_frames': 1, 'bandwidth': estimator.estimate(50_000_000),
        'budget_bytes_per_s': 1234.5, 'plan': None, 'input_size_px': 48,
    }
    return LinkReport(**{**known, **changes})


WAITING = link(state=LinkState.WAITING, detail='nobody listens there', model='')


def report(at_s: float = 10.0, **changes: Any) -> NodeReport:
    """Return the report of a node for which all is well; changes by field, also of the parts."""
    parts: dict[str, Any] = {
        'camera': CameraReport('/image', 30.0, 0.02, (4.0,) * 30),
        'faces': FacesReport(1, 'fa1', 20.0, 8),
        'answers': AnswersReport(
            {Source.CLOUD: 70, Source.ROBOT: 5, Source.NONE: 3}, Source.CLOUD, 0.1, 1.0, 'small 1'
        ),
    }
    for name, part in parts.items():
        mine = {key: changes.pop(key) for key in list(changes) if key in part._fields}
        parts[name] = part._replace(**mine)
    parts |= {'link': link(), 'drops': {}, **changes}
    return NodeReport(at_ns=round(at_s * 1e9), **parts)
