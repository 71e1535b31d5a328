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
"""ROS participants for the tests of REP-155: the robot's, and that of whoever else is there."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import rclpy
from hri_msgs.msg import Expression, IdsList, NormalizedRegionOfInterest2D
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from ferros.types import CameraFrame, Track

WAIT_S = 20.0
FRAME_NS = 33_000_000
KINDS = {'roi': NormalizedRegionOfInterest2D, 'cropped': Image, 'expression': Expression}


class CountingNode(Node):
    """Knows how often a publisher or subscription of a topic was made and destroyed."""

    def __init__(self, name: str, context: rclpy.Context) -> None:
        self.made: Counter[str] = Counter()
        self.destroyed: Counter[str] = Counter()
        super().__init__(name, context=context)
        # What every node has.
        self.made.clear()

    def create_publisher(self, *arguments: Any, **options: Any) -> Any:
        publisher = super().create_publisher(*arguments, **options)
        self.made[publisher.topic_name] += 1
        return publisher

    def destroy_publisher(self, publisher: Any) -> bool:
        self.destroyed[publisher.topic_name] += 1
        return super().destroy_publisher(publisher)

    def create_subscription(self, *arguments: Any, **options: Any) -> Any:
        subscription = super().create_subscription(*arguments, **options)
        self.made[subscription.topic_name] += 1
        return subscription

    def destroy_subscription(self, subscription: Any) -> bool:
        self.destroyed[subscription.topic_name] += 1
        return super().destroy_subscription(subscription)


class Participant:
    """A participant of the graph whose nodes an executor runs."""

    def __init__(self, domain_id: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain_id)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    @contextlib.contextmanager
    def node(self, name: str) -> Iterator[CountingNode]:
        node = CountingNode(f'{name}_{next(self._numbers)}', self.context)
        self._executor.add_node(node)
        try:
            yield node
        finally:
            self._executor.remove_node(node)
            node.destroy_node()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5)
        rclpy.try_shutdown(context=self.context)


class Listener:
    """Follows the list of faces as libhri does: one more subscription for each thing of a face."""

    def __init__(self, node: Node, prefix: str, *names: str) -> None:
        self.lists: list[IdsList] = []
        # By face and by name: roi, cropped, expression.
        self.heard: dict[tuple[str, str], list[Any]] = defaultdict(list)
        self._node = node
        self._prefix = prefix
        self._names = names
        self._subscriptions: dict[str, list[Any]] = {}
        node.create_subscription(
            IdsList, f'{prefix}/faces/tracked', self._on_list, QoSProfile(depth=100)
        )

    def ids(self) -> list[str] | None:
        return list(self.lists[-1].ids) if self.lists else None

    def of(self, face_id: str, name: str) -> list[Any]:
        return self.heard[face_id, name]

    def _on_list(self, message: IdsList) -> None:
        for face_id in [face_id for face_id in self._subscriptions if face_id not in message.ids]:
            for subscription in self._subscriptions.pop(face_id):
                self._node.destroy_subscription(subscription)
        for face_id in message.ids:
            if face_id not in self._subscriptions:
                self._subscriptions[face_id] = [
                    self._node.create_subscription(
                        KINDS[name],
                        f'{self._prefix}/faces/{face_id}/{name}',
                        self.heard[face_id, name].append,
                        QoSProfile(depth=100),
                    )
                    for name in self._names
                ]
        self.lists.append(message)


class Camera:
    """Makes the frames that a node would have, 33 ms apart."""

    def __init__(self, image: Any = None) -> None:
        self.image = np.full((240, 320, 3), 90, np.uint8) if image is None else image
        self.stamp_ns = 1_000_000_000_000

    def frame(self) -> CameraFrame:
        self.stamp_ns += FRAME_NS
        return CameraFrame(self.image, self.stamp_ns, time.monotonic_ns(), 'camera')

    def tracks(self, frame: CameraFrame, boxes: dict[str, Any]) -> list[Track]:
        return [Track(face_id, box, frame.stamp_ns) for face_id, box in boxes.items()]


def until(condition: Callable[[], Any], step: Callable[[], Any] = lambda: None) -> None:
    """Repeat a step, thirty times a second, until the condition holds."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, 'it did not happen'
        step()
        time.sleep(0.03)


def stamp_ns(message: Any) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def pixels(message: Image) -> Any:
    shape = (message.height, message.width, message.step // message.width)
    image = np.frombuffer(message.data, np.uint8).reshape(shape)
    return image if shape[2] > 1 else image[:, :, 0]
