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
"""
The faces as REP-155 has them, published for others.

hri_msgs is imported only where one of the two is wanted (`require_hri_msgs`).
"""

from __future__ import annotations

import array
import functools
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rclpy.type_support import check_for_type_support
from sensor_msgs.msg import Image as ImageMessage

from ferros.drops import Drops
from ferros.rep155_image import padded
from ferros.rep155_rules import Turn, expression_of, region_of
from ferros.types import CameraFrame, Image, Observation, Track

# Heard by those who subscribe reliably and by those who do not. Volatile: a latched face would be
# one that is gone.
PUBLISHER_QOS: Final = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
# rclpy's event handlers are waited for by the executor, which must not be disturbed by faces that
# come and go in another thread.
_NO_EVENTS: Final = PublisherEventCallbacks(use_default_callbacks=False)
# A publisher is known of a moment before its node's name is.
_UNNAMED: Final = 'another node'
# For the last list of faces, an empty one, to reach those who listen.
_FAREWELL_S: Final = 0.2


def require_hri_msgs() -> Any:
    """
    Return hri_msgs.msg with its messages ready for use.

    Raises:
        ValueError: hri_msgs is not installed; the message says how to do that.

    """
    try:
        messages = importlib.import_module('hri_msgs.msg')
        # Slow the first time, tens of milliseconds: not when the first face comes.
        for name in ('Expression', 'IdsList', 'NormalizedRegionOfInterest2D'):
            check_for_type_support(getattr(messages, name))
        check_for_type_support(ImageMessage)
    except (ImportError, AttributeError) as error:
        distribution = os.environ.get('ROS_DISTRO') or '$ROS_DISTRO'
        raise ValueError(
            f'publish_rep155 and faces_from: rep155 need hri_msgs ({error}): '
            f'sudo apt install ros-{distribution}-hri-msgs'
        ) from error
    return messages


class ExpressionPublisher:
    """
    Publishes `expression` of each face, from when it comes until it is gone.

    May be used from several threads. Of a face that is described by no label of REP-155 the
    message carries valence and arousal alone; where they are not known either, one empty message
    takes back what was said before.
    """

    def __init__(self, node: Node, prefix: str = '/humans', drops: Drops | None = None) -> None:
        """
        Start without any face.

        prefix: the namespace of REP-155's topics.
        drops: counts expressions that came too late as `rep155_face_gone`.

        Raises:
            ValueError: hri_msgs is not installed.

        """
        self._messages = require_hri_msgs()
        self._node = node
        self._prefix = prefix
        self._drops = drops or Drops()
        self._lock = threading.Lock()
        self._closed = False
        self._faces: dict[str, _Expressed] = {}

    def keep(self, face_ids: Iterable[str]) -> None:
        """Make what is missing for these faces, and destroy what was made for others."""
        with self._lock:
            if not self._closed:
                self._keep(face_ids)

    def express(self, observation: Observation) -> None:
        """Publish what was observed, unless it was before or the face is gone."""
        with self._lock:
            expressed = self._faces.get(observation.face_id)
            if expressed is None:
                if observation.face_id and not self._closed:
                    self._drops.count('rep155_face_gone')
                return
            if observation.stamp_ns <= expressed.stamp_ns:
                return
            expression = expression_of(observation)
            if expression.is_empty and not expressed.holds:
                return
            expressed.stamp_ns = observation.stamp_ns
            expressed.holds = not expression.is_empty
            message = self._messages.Expression(**expression._asdict())
            _stamp(message.header, observation.stamp_ns, observation.frame_id)
            expressed.publisher.publish(message)

    def close(self) -> None:
        """Destroy everything, now and for good."""
        with self._lock:
            self._closed = True
            self._keep(())

    def _keep(self, face_ids: Iterable[str]) -> None:
        wanted = dict.fromkeys(face_ids)
        for face_id in [face_id for face_id in self._faces if face_id not in wanted]:
            self._node.destroy_publisher(self._faces.pop(face_id).publisher)
        for face_id in wanted:
            if face_id not in self._faces:
                topic = f'{self._prefix}/faces/{face_id}/expression'
                self._faces[face_id] = _Expressed(
                    _make_publisher(self._node, self._messages.Expression, topic)
                )


class _Expressed:
    """What was said of a face."""

    def __init__(self, publisher: Any) -> None:
        self.publisher = publisher
        self.stamp_ns = -1
        # Whether listeners hold something that can be taken back.
        self.holds = False


class _Shown(NamedTuple):
    """The publishers of a face that its images feed."""

    roi: Any
    cropped: Any


class Rep155Publisher:
    """
    Publishes the faces: the list of them, and of each `roi`, `cropped` and `expression`.

    publish() and express() are called by one thread, close() and `conflict` by any.
    """

    def __init__(self, node: Node, prefix: str = '/humans', drops: Drops | None = None) -> None:
        """
        Start without any face; nothing is published while another node lists faces.

        prefix: the namespace of REP-155's topics.
        drops: counts expressions that came too late as `rep155_face_gone`, and faces outside of
        their image as `rep155_outside_image`.

        Raises:
            ValueError: hri_msgs is not installed.

        """
        self._messages = require_hri_msgs()
        self._node = node
        self._prefix = prefix
        self._drops = drops or Drops()
        self._expressions = ExpressionPublisher(node, prefix, self._drops)
        self._lock = threading.Lock()
        self._closed = False
        self._turn = Turn(time.monotonic_ns())
        self._may_publish = False
        self._conflict = ''
        # The last conflict that the log was told of.
        self._said = ''
        self._list_topic = node.resolve_topic_name(f'{prefix}/faces/tracked')
        self._list: Any = None
        self._last_list: Any = None
        self._faces: dict[str, _Shown] = {}

    @property
    def conflict(self) -> str:
        """Return why nothing is published, for people; empty: nothing is in the way."""
        return self._conflict

    def publish(
        self,
        frame: CameraFrame,
        tracks: Sequence[Track],
        colour: Callable[[], Image] | None = None,
    ) -> None:
        """
        Publish the faces of an image; to be called for every one, without faces too.

        A face that is not in this very image stays in the list, and has no roi.

        colour: returns the image in BGR, of the size of frame.image or another one of the same
        proportions; it is called once at most, and only when somebody wants pictures. Without it
        they are taken of frame.image.
        """
        with self._lock:
            if self._closed or not self._has_turn():
                return
            self._keep([track.face_id for track in tracks])
            picture_of = functools.cache(lambda: _coloured(frame, colour))
            for track in tracks:
                if track.seen_ns == frame.stamp_ns:
                    self._show(track, frame, picture_of)
            self._publish_list([track.face_id for track in tracks], frame)

    def express(self, observation: Observation) -> None:
        """Publish what was observed, unless it was before, the face is gone or another lists."""
        if self._may_publish:
            self._expressions.express(observation)

    def close(self) -> None:
        """Tell those who listen that no face is left, and destroy everything, for good."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._conflict = ''
            if self._list is not None and self._last_list is not None and self._last_list.ids:
                # Listeners keep a face until a list comes that lacks it.
                self._last_list.ids = []
                self._list.publish(self._last_list)
                self._list.wait_for_all_acked(Duration(seconds=_FAREWELL_S))
            self._silence()
            self._expressions.close()

    def _has_turn(self) -> bool:
        """Tell whether nobody else lists faces; look at the graph when it is time to."""
        now_ns = time.monotonic_ns()
        if self._turn.is_check_due(now_ns):
            others = self._others()
            self._may_publish = self._turn.decide(len(others), now_ns)
            self._note(others)
            if not self._may_publish:
                self._silence()
            elif self._list is None:
                self._list = _make_publisher(self._node, self._messages.IdsList, self._list_topic)
        return self._may_publish

    def _others(self) -> list[str]:
        """Return the names of the nodes that publish the list, without ourselves."""
        name, namespace = self._node.get_name(), self._node.get_namespace()
        found = [
            (info.node_name, info.node_namespace)
            for info in self._node.get_publishers_info_by_topic(self._list_topic)
        ]
        # Another node may have our name; ours is one of that name, if it is there at all.
        if self._list is not None and (name, namespace) in found:
            found.remove((name, namespace))
        return sorted(
            _UNNAMED if 'UNKNOWN' in what else f'{where.rstrip("/")}/{what}'
            for what, where in found
        )

    def _note(self, others: list[str]) -> None:
        before, self._conflict = self._conflict, ''
        if others:
            self._conflict = (
                f'{", ".join(others)} publishes {self._list_topic} too, so nothing is published '
                f'under {self._prefix}: stop it, or set faces_from to rep155 and publish_rep155 '
                'to false, to read its faces'
            )
        # Said when it is new, and where the name is not known yet at the next look.
        if self._conflict not in ('', self._said) and (before or _UNNAMED not in others):
            self._said = self._conflict
            self._node.get_logger().warning(self._conflict)
        elif before and not self._conflict:
            self._said = ''
            self._node.get_logger().info(f'nobody else publishes {self._list_topic} any more')

    def _silence(self) -> None:
        """Destroy all publishers."""
        self._keep(())
        if self._list is not None:
            self._node.destroy_publisher(self._list)
            self._list = self._last_list = None

    def _keep(self, face_ids: Sequence[str]) -> None:
        """Make what is missing for these faces, and destroy what was made for others."""
        wanted = dict.fromkeys(face_ids)
        self._expressions.keep(wanted)
        for face_id in [face_id for face_id in self._faces if face_id not in wanted]:
            for publisher in self._faces.pop(face_id):
                self._node.destroy_publisher(publisher)
        for face_id in wanted:
            if face_id not in self._faces:
                self._faces[face_id] = self._make_face(f'{self._prefix}/faces/{face_id}')

    def _make_face(self, topic: str) -> _Shown:
        region = self._messages.NormalizedRegionOfInterest2D
        return _Shown(
            _make_publisher(self._node, region, f'{topic}/roi'),
            _make_publisher(self._node, ImageMessage, f'{topic}/cropped'),
        )

    def _show(
        self, track: Track, frame: CameraFrame, picture_of: Callable[[], CameraFrame]
    ) -> None:
        """Publish the region of a face, and its picture where somebody wants it."""
        shown = self._faces[track.face_id]
        region = region_of(track.box, frame.size_px)
        if region is None:
            self._drops.count('rep155_outside_image')
            return
        # The tracker knows no confidence: what it reports is a face.
        roi = self._messages.NormalizedRegionOfInterest2D(**region._asdict(), c=1.0)
        _stamp(roi.header, frame.stamp_ns, frame.frame_id)
        shown.roi.publish(roi)
        if shown.cropped.get_subscription_count() > 0:
            source = picture_of()
            picture = padded(source.image, source.in_image(track.box))
            if picture is not None:
                shown.cropped.publish(_image_message(picture, frame))

    def _publish_list(self, face_ids: list[str], frame: CameraFrame) -> None:
        message = self._messages.IdsList(ids=face_ids)
        _stamp(message.header, frame.stamp_ns, frame.frame_id)
        self._list.publish(message)
        self._last_list = message


def _make_publisher(node: Node, kind: Any, topic: str) -> Any:
    return node.create_publisher(kind, topic, PUBLISHER_QOS, event_callbacks=_NO_EVENTS)


def _stamp(header: Any, stamp_ns: int, frame_id: str) -> None:
    header.stamp = Time(nanoseconds=stamp_ns).to_msg()
    header.frame_id = frame_id


def _coloured(frame: CameraFrame, colour: Callable[[], Image] | None) -> CameraFrame:
    """Return the frame with the image that pictures of faces are taken of."""
    if colour is None:
        return frame
    image = colour()
    reduction = max(1, round(frame.size_px[0] / image.shape[1]))
    return frame._replace(image=image, reduction=reduction, published_size_px=frame.size_px)


def _image_message(picture: Image, frame: CameraFrame) -> ImageMessage:
    height_px, width_px = picture.shape[:2]
    message = ImageMessage(
        height=height_px,
        width=width_px,
        encoding='mono8' if picture.ndim == 2 else 'bgr8',
        step=picture.nbytes // height_px,
        # rclpy copies an array, and checks anything else byte by byte.
        data=array.array('B', picture.tobytes()),
    )
    _stamp(message.header, frame.stamp_ns, frame.frame_id)
    return message
