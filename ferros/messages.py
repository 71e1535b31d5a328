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
"""The ROS messages of what the node knows."""

from __future__ import annotations

import array
from collections.abc import Iterable
from typing import Any

from builtin_interfaces.msg import Duration
from ferros_msgs.msg import Emotion, EmotionArray
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest

from ferros.encode import encode_colour
from ferros.types import CameraFrame, Observation

_JPEG_QUALITY = 80


def emotion_message(observation: Observation, now_ns: int, has_roi: bool) -> Emotion:
    """
    Return the message for an observation published at now_ns (monotonic).

    has_roi: its box is one of the camera image.
    """
    message = Emotion()
    message.header.stamp = Time(nanoseconds=observation.stamp_ns).to_msg()
    message.header.frame_id = observation.frame_id
    message.face_detected = bool(observation.face_id)
    message.face_id = observation.face_id
    message.label = observation.label
    message.confidence = observation.confidence
    message.labels = list(observation.labels)
    message.probabilities = list(observation.probabilities)
    message.valence = observation.valence
    message.arousal = observation.arousal
    if has_roi:
        x, y, width, height = (int(value) for value in observation.box)
        message.roi = RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)
    message.source = int(observation.source)
    age_ns = max(0, now_ns - observation.captured_ns)
    message.age = Duration(sec=age_ns // 1_000_000_000, nanosec=age_ns % 1_000_000_000)
    message.model = observation.model[:64]
    return message


def faces_message(
    faces: Iterable[Observation], newest: CameraFrame, now_ns: int, has_roi: bool
) -> EmotionArray:
    """Return the message for all faces, with the header of the newest processed image."""
    message = EmotionArray()
    message.header.stamp = Time(nanoseconds=newest.stamp_ns).to_msg()
    message.header.frame_id = newest.frame_id
    message.faces = [emotion_message(face, now_ns, has_roi) for face in faces]
    return message


def image_message(image: Any, header: Any) -> Image:
    """Return the message of a BGR image, uint8 [height, width, 3]."""
    message = Image(header=header, encoding='bgr8')
    message.height, message.width = image.shape[:2]
    message.step = 3 * message.width
    # Anything but an array is checked byte by byte.
    message.data = array.array('B', image.tobytes())
    return message


def compressed_image_message(image: Any, header: Any) -> CompressedImage:
    """Return the message of a BGR image as a JPEG."""
    message = CompressedImage(header=header, format='jpeg')
    message.data = array.array('B', encode_colour(image, _JPEG_QUALITY))
    return message


def by_cv_bridge(message: Any) -> Any:
    """Read an image of an encoding that ferros does not know itself."""
    # Imported only when it is needed: on some machines it breaks the import of numpy 2.
    from cv_bridge import CvBridge

    return CvBridge().imgmsg_to_cv2(message, 'bgr8')
