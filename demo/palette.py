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
"""One colour per emotion, in the video and in the picture."""

from __future__ import annotations

from cloud_server import plot

# Darker than in a plot: white text stands on it.
COLOURS = {**plot.COLOURS, 'unknown': '#4a4a4a'}


def colour(label: str) -> str:
    """Return the colour of a label as #rrggbb."""
    return COLOURS.get(label, COLOURS['unknown'])


def colour_bgr(label: str) -> tuple[int, int, int]:
    """Return the colour of a label as OpenCV wants it."""
    value = int(colour(label)[1:], 16)
    return value & 0xFF, value >> 8 & 0xFF, value >> 16
