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
"""Listens to what the node publishes, and to the camera it reads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ferros_msgs.msg import Emotion, EmotionArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage


class Heard(NamedTuple):
    """A message with the time it came, by the monotonic clock."""

    message: Any
    at_s: float


class Recorder(Node):
    """Keeps all messages in the order they came; read the lists from any thread."""

    def __init__(self, context: rclpy.Context, with_images: bool) -> None:
        super().__init__('ferros_recorder', context=context)
        self.emotions: list[Heard] = []
        self.arrays: list[Heard] = []
        self.images: list[Heard] = []
        self._diagnostics: dict[str, DiagnosticStatus] = {}
        self._listen(Emotion, 'emotion', self.emotions)
        self._listen(EmotionArray, 'emotion/faces', self.arrays)
        if with_images:
            self._listen(CompressedImage, 'image/compressed', self.images)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def diagnostic(self, part: str) -> dict[str, str]:
        """Return the newest values of a part (camera, link, drops) with its level and message."""
        for name, status in self._diagnostics.items():
            if name.endswith(f': {part}'):
                values = {item.key: item.value for item in status.values}
                level = int.from_bytes(status.level, 'little')
                return {**values, 'level': str(level), 'message': status.message}
        return {}

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a condition; return whether it came true in time."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.02)
        return True

    def is_connected(self) -> bool:
        """Tell whether the node says that its link to the server stands."""
        return self.diagnostic('link').get('message', '').startswith('connected')

    def _listen(self, kind: type, topic: str, heard: list[Heard]) -> None:
        self.create_subscription(
            kind, topic, lambda message: heard.append(Heard(message, time.monotonic())), 50
        )

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._diagnostics[status.name] = status


@contextlib.contextmanager
def recorder(domain_id: int, with_images: bool = False) -> Iterator[Recorder]:
    """Record on a domain until the end of the block."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = Recorder(context, with_images)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, name='recorder', daemon=True)
    thread.start()
    try:
        yield node
    finally:
        executor.shutdown()
        thread.join(5)
        node.destroy_node()
        rclpy.try_shutdown(context=context)
