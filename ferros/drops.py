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
"""What was dropped and why: nothing is lost without being counted."""

from __future__ import annotations

import threading
from collections import Counter


class Drops:
    """Counts by reason; may be used from several threads."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def count(self, reason: str, number: int = 1) -> bool:
        """Add to the count of a reason; return whether this is the first of it."""
        with self._lock:
            first = reason not in self._counts
            self._counts[reason] += number
            return first

    def counts(self) -> dict[str, int]:
        """Return the counts so far, by reason."""
        with self._lock:
            return dict(self._counts)
