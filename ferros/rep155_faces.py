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
"""The faces that another node publishes as REP-155 has them, read."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image as ImageMessage

from ferros.drops import Drops
from ferros.image import BadImage, decode
from ferros.rep155 import PUBLISHER_QOS, require_hri_msgs
from ferros.rep155_rules import Region
from ferros.rep155_scene import Scene, SceneBuilder
from ferros.types import Image

# The list decides what is subscribed to: none is to be missed.
LIST_QOS: Final = PUBLISHER_QOS
# Of pictures the newest counts. Best effort hears reliable publishers too.
PICTURE_QOS: Final = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
# rclpy's event handlers are waited for by the executor, which must not be disturbed by faces that
# come and go.
_NO_EVENTS: Final = SubscriptionEventCallbacks(use_default_callbacks=False)


class Rep155Faces:
    """
    Reads the faces that another node publishes.

    Works in the executor's thread, which also calls on_faces; close() may be called by any.
    """

    def __init__(
        self,
        node: Node,
        prefix: str,
        on_faces: Callable[[Scene], None],
        drops: Drops,
        max_faces: int = 8,
    ) -> None:
        """
        Subscribe to the list of faces, and to those that it names.

        on_faces: given each new scene; must not block.
        drops: counts what is dropped, as `rep155_...`.
        max_faces: of which a scene shows pictures.

        Raises:
            ValueError: hri_msgs is not installed.

        """
        self._messages = require_hri_msgs()
        self._node = node
        self._prefix = prefix
        self._on_faces = on_faces
        self._drops = drops
        self._builder = SceneBuilder(drops, max_faces, node.get_logger().warning)
        self._lock = threading.Lock()
        self._closed = False
        # Of our own: rclpy's groups remember what was ever in them.
        self._group = MutuallyExclusiveCallbackGroup()
        self._faces: dict[str, tuple[Any, ...]] = {}
        self._list = node.create_subscription(
            self._messages.IdsList,
            f'{prefix}/faces/tracked',
            self._on_list,
            LIST_QOS,
            callback_group=self._group,
        )

    @property
    def topic_name(self) -> str:
        """Return the topic of the list."""
        return str(self._list.topic_name)

    @property
    def max_faces(self) -> int:
        """Return of how many faces a scene shows pictures; may be set."""
        return self._builder.max_faces

    @max_faces.setter
    def max_faces(self, number: int) -> None:
        self._builder.max_faces = number

    def close(self) -> None:
        """Destroy all subscriptions, for good."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._follow(())
            self._node.destroy_subscription(self._list)

    # -- callbacks of the executor ---------------------------------------------------------------

    def _on_list(self, message: Any) -> None:
        now_ns = time.monotonic_ns()
        with self._lock:
            if self._closed:
                return
            stamp_ns, frame_id = _read_header(message.header)
            scene = self._builder.on_tracked(message.ids, stamp_ns, frame_id, now_ns)
            self._follow(self._builder.ids)
        self._hand_on(scene)

    def _on_region(self, face_id: str, message: Any) -> None:
        with self._lock:
            region = Region(message.xmin, message.ymin, message.xmax, message.ymax)
            self._builder.on_region(face_id, region)

    def _on_picture(self, face_id: str, message: Any) -> None:
        now_ns = time.monotonic_ns()
        with self._lock:
            if self._closed:
                return
            picture = self._read(message, face_id)
            if picture is None:
                return
            stamp_ns, frame_id = _read_header(message.header)
            scene = self._builder.on_picture(face_id, picture, stamp_ns, frame_id, now_ns)
        self._hand_on(scene)

    def _read(self, message: Any, face_id: str) -> Image | None:
        """Return a picture, or None where it cannot be read, which is counted and said once."""
        try:
            return decode(message)
        except BadImage as error:
            if self._drops.count(f'rep155_crop_{error.reason}'):
                self._node.get_logger().warning(f'a picture of {face_id} was dropped: {error}')
            return None

    def _hand_on(self, scene: Scene | None) -> None:
        if scene is not None:
            self._on_faces(scene)

    def _follow(self, face_ids: Sequence[str]) -> None:
        """Subscribe to the faces that are new, and no more to those that are gone."""
        wanted = dict.fromkeys(face_ids)
        for face_id in [face_id for face_id in self._faces if face_id not in wanted]:
            for subscription in self._faces.pop(face_id):
                self._node.destroy_subscription(subscription)
        for face_id in wanted:
            if face_id not in self._faces:
                self._faces[face_id] = self._subscribe(face_id)

    def _subscribe(self, face_id: str) -> tuple[Any, ...]:
        kinds = (
            (self._messages.NormalizedRegionOfInterest2D, 'roi', self._on_region),
            (ImageMessage, 'cropped', self._on_picture),
        )
        return tuple(
            self._node.create_subscription(
                kind,
                f'{self._prefix}/faces/{face_id}/{name}',
                functools.partial(callback, face_id),
                PICTURE_QOS,
                callback_group=self._group,
                event_callbacks=_NO_EVENTS,
            )
            for kind, name, callback in kinds
        )


def _read_header(header: Any) -> tuple[int, str]:
    """Return the stamp in ns and the frame_id."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec, header.frame_id
