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
"""What the worker is to deal with: the newest image, the answers, and what was asked of it."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.types import Observation


class Mail(NamedTuple):
    """All that came in since the last time."""

    # The newest image message, or what else stands for one; None: no newer one.
    message: Any
    # The monotonic clock when it arrived.
    arrived_ns: int
    answers: list[Observation]
    # Why everything is to be forgotten; empty: it is not.
    reset: str
    # Parameters that were changed; None: none were.
    config: RobotConfig | None


class Inbox:
    """
    A slot that holds the newest image only, and a few things beside it.

    Whoever puts something in never waits; one thread takes.
    """

    def __init__(self, drops: Drops, superseded: str = 'image_superseded') -> None:
        """
        Begin empty.

        superseded: what an image is counted as that a newer one replaces before it was taken;
        empty: nothing is lost with it.
        """
        self._drops = drops
        self._superseded = superseded
        self._changed = threading.Condition()
        self._closed = False
        self._message: Any = None
        self._arrived_ns = 0
        self._answers: list[Observation] = []
        self._reset = ''
        self._config: RobotConfig | None = None

    def put_image(self, message: Any, arrived_ns: int) -> None:
        """Hand over an image."""
        with self._changed:
            if self._message is not None and self._superseded:
                self._drops.count(self._superseded)
            self._message, self._arrived_ns = message, arrived_ns
            self._changed.notify()

    def put_answer(self, answer: Observation) -> None:
        """Hand over an answer."""
        with self._changed:
            self._answers.append(answer)
            self._changed.notify()

    def put_reset(self, why: str) -> None:
        """Have everything forgotten that was known of the images before."""
        with self._changed:
            self._reset = why
            self._changed.notify()

    def put_config(self, config: RobotConfig) -> None:
        """Hand over changed parameters."""
        with self._changed:
            self._config = config
            self._changed.notify()

    def close(self) -> None:
        """End take(), now and from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, wait_ns: int | None) -> Mail | None:
        """
        Wait for something and return all there is, or nothing after wait_ns; None: closed.

        wait_ns: None waits for as long as it takes.
        """
        with self._changed:
            timeout_s = None if wait_ns is None else wait_ns / 1e9
            self._changed.wait_for(lambda: self._closed or self._has_mail(), timeout_s)
            if self._closed:
                return None
            mail = Mail(
                self._message, self._arrived_ns, self._answers, self._reset, self._config
            )
            self._message, self._answers, self._reset, self._config = None, [], '', None
            return mail

    def _has_mail(self) -> bool:
        return bool(
            self._message is not None or self._answers or self._reset or self._config is not None
        )
