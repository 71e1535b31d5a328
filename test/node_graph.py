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
"""A camera of the test's own and the real node, as a process, on one ROS graph."""

from __future__ import annotations

import array
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from demo import processes
from demo.recorder import Recorder, recorder

WAIT_S = 20.0
RELIABLE = {'qos_overrides./image.subscription.reliability': 'reliable'}


class Graph:
    """A recorder with a camera of its own, that publishes what the test wants."""

    def __init__(self, heard: Recorder) -> None:
        self.heard = heard
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self.publisher = heard.create_publisher(Image, 'image', qos)
        self.stamp_ns = 1_000_000_000_000
        self._clients: dict[Any, Any] = {}
        self.process: Any = None

    def publish(self, image: Any, encoding: str = 'bgr8', **changes: Any) -> int:
        """Publish one image 33 ms after the last; return its stamp."""
        self.stamp_ns += 33_000_000
        message = image_message(image, encoding, changes.pop('stamp_ns', self.stamp_ns))
        for name, value in changes.items():
            setattr(message, name, value)
        self.publisher.publish(message)
        return self.stamp_ns

    def publish_until(self, image: Any, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s, (
                self.heard.diagnostic('link'),
                self.heard.diagnostic('drops'),
                [entry.message.label for entry in self.heard.emotions[-5:]],
            )
            self.publish(image)
            time.sleep(0.033)

    def newest(self) -> Any:
        return self.heard.emotions[-1].message if self.heard.emotions else None

    def wait_for_node(self) -> None:
        found = self.heard.wait_until(
            lambda: self.publisher.get_subscription_count() > 0, WAIT_S
        )
        assert found, 'the node did not subscribe'

    def change(self, transition_id: int) -> bool:
        """Ask the node for a transition; return whether it made it."""
        request = ChangeState.Request(transition=Transition(id=transition_id))
        return bool(self.call(ChangeState, '/emotion_node/change_state', request).success)

    def state(self) -> str:
        answer = self.call(GetState, '/emotion_node/get_state', GetState.Request())
        return str(answer.current_state.label)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self._clients.get((kind, name))
        if client is None:
            client = self._clients[kind, name] = self.heard.create_client(kind, name)
        assert client.wait_for_service(WAIT_S), name
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        assert done.wait(WAIT_S)
        return future.result()


def image_message(image: Any, encoding: str, stamp_ns: int) -> Image:
    message = Image()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    message.header.frame_id = 'camera'
    message.height, message.width = image.shape[:2]
    message.encoding = encoding
    message.step = image.nbytes // image.shape[0]
    message.data = array.array('B', image.tobytes())
    return message


@contextlib.contextmanager
def running(log: Path, domain_id: int, **parameters: object) -> Iterator[Graph]:
    environment = processes.environment(domain_id)
    with (
        recorder(domain_id) as heard,
        processes.node(log, environment, **RELIABLE, **parameters) as node,
    ):
        graph = Graph(heard)
        graph.process = node
        yield graph
        assert node.poll() is None, log.read_text()
    assert node.returncode == 0, (node.returncode, log.read_text())
    assert 'Traceback' not in log.read_text()
