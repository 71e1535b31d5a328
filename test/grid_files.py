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
"""Accuracy grids, right and wrong, for the two readers of them: the robot's and the server's."""

from __future__ import annotations

from pathlib import Path

import yaml

GOOD: dict[str, object] = {
    'face_size_px': 24,
    'frame_rate_fps': 0.1,
    'codec': 'webp',
    'quality': 50,
    'bytes_p50': 293,
    'bytes_p95': 353,
    'accuracy': 0.769,
}
MISSING = object()
# What is changed in the second of three points, and what the error says of it.
WRONG: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    'no codec': ({'codec': MISSING}, ('codec',)),
    'an unknown field': ({'colour': 'red'}, ('colour',)),
    'a size of 3 px': ({'face_size_px': 3}, ('face_size_px is 3', '4 to 1,024')),
    'a size of 1025 px': ({'face_size_px': 1025}, ('face_size_px is 1025',)),
    'half a pixel': ({'face_size_px': 24.5}, ('face_size_px is 24.5',)),
    'a size that is true': ({'face_size_px': True}, ('face_size_px is True',)),
    'a size in words': ({'face_size_px': 'small'}, ("face_size_px is 'small'",)),
    'no rate': ({'frame_rate_fps': 0}, ('frame_rate_fps is 0', '0.1 to 240')),
    'a rate of 241': ({'frame_rate_fps': 241.0}, ('frame_rate_fps is 241.0',)),
    'a rate that is no number': ({'frame_rate_fps': float('nan')}, ('frame_rate_fps is nan',)),
    'an endless rate': ({'frame_rate_fps': float('inf')}, ('frame_rate_fps is inf',)),
    'another codec': ({'codec': 'avif'}, ("codec is 'avif'", 'jpeg or webp')),
    'a list of codecs': ({'codec': ['webp']}, ("codec is ['webp']",)),
    'quality 0': ({'quality': 0}, ('quality is 0', '1 to 100')),
    'quality 101': ({'quality': 101}, ('quality is 101',)),
    'empty messages': ({'bytes_p50': 0}, ('bytes_p50 is 0',)),
    'messages over 1 MiB': ({'bytes_p95': 2**20 + 1}, ('bytes_p95 is 1048577',)),
    'a p95 under the p50': ({'bytes_p95': 292}, ('bytes_p95 is 292', 'which is 293')),
    'an accuracy in percent': ({'accuracy': 76.9}, ('accuracy is 76.9', '0 to 1')),
    'an accuracy below 0': ({'accuracy': -0.1}, ('accuracy is -0.1',)),
    'an accuracy that is no number': ({'accuracy': float('nan')}, ('accuracy is nan',)),
}
# Files that hold no list of points at all, and what the error says.
NO_GRIDS = {
    '': 'expected a list of points, got None',
    '[]': 'expected a list of points, got []',
    'face_size_px: 24': "expected a list of points, got {'face_size_px': 24}",
    '- 24': 'point 1',
    '- [24, webp]': 'point 1',
    '- {face_size_px: 24': 'not YAML',
    '- !!python/object/apply:os.system [ls]': 'not YAML',
    '[' * 5000: 'not YAML',
    '#' * 300_000: 'longer than 262144 bytes',
}


def write(path: Path, *rows: dict[str, object]) -> Path:
    """Write points as a file."""
    path.write_text(yaml.safe_dump(list(rows)))
    return path


def write_wrong(path: Path, name: str) -> Path:
    """Write three points of which the second is wrong."""
    wrong = {**GOOD, **WRONG[name][0]}
    return write(path, GOOD, {key: value for key, value in wrong.items() if value is not MISSING},
                 GOOD)
