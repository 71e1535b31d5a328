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
A camera that plays a video, an image, a webcam or a rosbag2 folder on an image topic.

    ros2 run ferros camera_player clip.mp4 --transport compressed
    ros2 run ferros camera_player --ros-args -p source:=clip.mp4 -p transport:=compressed

It publishes `image` (transport raw) or `image/compressed`, at the source's own timing, and ends
with the source. The exit status is 0, or 2 where the source or a parameter is no good.
"""

from __future__ import annotations

import argparse
import array
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from ferros.encode import encode_colour
from ferros.frame_source import FrameSource, SourceError, SourceFrame, open_source, repeat
from ferros.stop import Stop

_TRANSPORTS: Final = ('raw', 'compressed')
_STAMPS: Final = ('auto', 'now', 'original')
_DEPTH: Final = 5
# An image published later than this after it was due counts as late.
_LATE_S: Final = 0.020
# A subscriber is known here a little before it can receive.
_SETTLE_S: Final = 0.2
# How long the last images may take to arrive before the process ends.
_FLUSH_S: Final = 2.0
# How long the end is not noticed at most.
_LONGEST_SPIN_S: Final = 0.1


@dataclass(frozen=True)
class PlayerConfig:
    """The player's parameters; each is an argument and a ROS parameter of the same name."""

    # A video or image file, a webcam's index, or a rosbag2 folder.
    source: str = ''
    # raw: sensor_msgs/Image on `image`. compressed: JPEG on `image/compressed`.
    transport: str = 'raw'
    # How often a single image is repeated.
    rate_hz: float = 10.0
    # Begin again at the end.
    loop: bool = False
    # Stop after this time; 0 means at the source's end.
    max_seconds: float = 0.0
    # Of the images; empty means the bag's own, else `camera`.
    frame_id: str = ''
    # 1 to 100.
    jpeg_quality: int = 90
    # A reliable publisher also serves subscribers that ask for best effort.
    reliable: bool = True
    # Begin when so many listen, but at the latest after wait_timeout_s; 0: at once.
    wait_for_subscribers: int = 1
    wait_timeout_s: float = 10.0
    # now: the ROS clock at publication. original: a bag's own. auto: original for a bag, else now.
    stamps: str = 'auto'
    # The bag's topic to play; empty means the image topic with the most messages.
    bag_topic: str = ''
    # How many times as fast as the source's own timing; a webcam has its own.
    speed: float = 1.0
    # Publish each image's stamp on /clock before it, for nodes with use_sim_time.
    clock: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_kind(field.name, getattr(self, field.name), type(field.default))
        _expect('transport', self.transport, self.transport in _TRANSPORTS, 'raw or compressed')
        _expect('stamps', self.stamps, self.stamps in _STAMPS, 'auto, now or original')
        _expect('rate_hz', self.rate_hz, 0 < self.rate_hz <= 1000, 'above 0, at most 1000')
        _expect('max_seconds', self.max_seconds, self.max_seconds >= 0, '0 or more')
        waited_for = self.wait_for_subscribers
        _expect('wait_for_subscribers', waited_for, waited_for >= 0, '0 or more')
        _expect('wait_timeout_s', self.wait_timeout_s, self.wait_timeout_s >= 0, '0 or more')
        _expect('speed', self.speed, 0 < self.speed <= 100, 'above 0, at most 100')
        _expect('jpeg_quality', self.jpeg_quality, 1 <= self.jpeg_quality <= 100, '1 to 100')


_KINDS: Final = {
    bool: 'true or false',
    int: 'a whole number',
    float: 'a number',
    str: 'a string',
}


def _check_kind(name: str, value: object, kind: type) -> None:
    # A whole number will do where a fraction may stand, but True is no number.
    fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f'{name} is {value!r}, expected {_KINDS[kind]}')


def _expect(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f'{name} is {value!r}, expected {expected}')


def parse_arguments(arguments: Sequence[str]) -> PlayerConfig:
    """Return what the command line asks for; ROS's own arguments are taken out before."""
    parser = argparse.ArgumentParser(
        'camera_player', description='Play a video, an image, a webcam or a rosbag2 as a camera.'
    )
    parser.add_argument('source', nargs='?', default='', help='file, camera index or bag folder')
    for field in fields(PlayerConfig):
        if field.name == 'source':
            continue
        option = '--' + field.name.replace('_', '-')
        if isinstance(field.default, bool):
            parser.add_argument(
                option, action=argparse.BooleanOptionalAction, default=field.default
            )
        else:
            parser.add_argument(option, type=type(field.default), default=field.default)
    return PlayerConfig(**vars(parser.parse_args(arguments)))


def declare_parameters(node: Node, arguments: PlayerConfig) -> PlayerConfig:
    """Declare the parameters, the command line's values being their defaults, and read them."""
    values: dict[str, Any] = {}
    for field in fields(PlayerConfig):
        # Dynamic, because `-p source:=0` and `-p max_seconds:=5` arrive as whole numbers.
        descriptor = ParameterDescriptor(dynamic_typing=True, read_only=True)
        default = getattr(arguments, field.name)
        value = node.declare_parameter(field.name, default, descriptor).value
        values[field.name] = str(value) if field.name == 'source' else value
    return PlayerConfig(**values)


class CameraPlayer(Node):
    """The node: one publisher and the messages for it."""

    def __init__(self, arguments: PlayerConfig) -> None:
        super().__init__('camera_player')
        self.config = declare_parameters(self, arguments)
        raw = self.config.transport == 'raw'
        reliability = (
            ReliabilityPolicy.RELIABLE if self.config.reliable else ReliabilityPolicy.BEST_EFFORT
        )
        # image_transport's convention: the suffix follows the name after remapping.
        topic = 'image' if raw else f'{self.resolve_topic_name("image")}/compressed'
        self.publisher: Any = self.create_publisher(
            Image if raw else CompressedImage,
            topic,
            QoSProfile(depth=_DEPTH, reliability=reliability),
        )
        self.clock: Any = (
            self.create_publisher(Clock, '/clock', _DEPTH) if self.config.clock else None
        )
        self._built_from: Any = None
        self._built: Any = None

    def build(self, frame: SourceFrame) -> Any:
        """Return the message of an image, without its stamp."""
        # The one image of an image file is encoded once.
        if frame.image is self._built_from:
            return self._built
        raw = self.config.transport == 'raw'
        message = to_image(frame) if raw else to_compressed(frame, self.config.jpeg_quality)
        message.header.frame_id = self.config.frame_id or frame.frame_id or 'camera'
        self._built_from, self._built = frame.image, message
        return message

    def flush(self) -> None:
        """Wait until the last messages are there: what is not sent yet ends with the process."""
        for publisher in (self.publisher, self.clock):
            # One that is not reliable waits for nobody.
            if publisher is not None:
                publisher.wait_for_all_acked(Duration(seconds=_FLUSH_S))

    def publish(self, message: Any, original_stamp_ns: int | None) -> None:
        """Stamp a message and send it."""
        stamp = self.get_clock().now()
        if original_stamp_ns is not None and self.config.stamps != 'now':
            stamp = Time(nanoseconds=original_stamp_ns)
        message.header.stamp = stamp.to_msg()
        if self.clock is not None:
            self.clock.publish(Clock(clock=message.header.stamp))
        self.publisher.publish(message)


def to_image(frame: SourceFrame) -> Image:
    """Return a mono8 or bgr8 sensor_msgs/Image."""
    height, width = frame.image.shape[:2]
    channels = 1 if frame.image.ndim == 2 else 3
    message = Image(height=height, width=width, encoding='mono8' if channels == 1 else 'bgr8')
    message.step = width * channels
    message.data = _to_array(frame.image.tobytes())
    return message


def to_compressed(frame: SourceFrame, jpeg_quality: int) -> CompressedImage:
    """Return a sensor_msgs/CompressedImage: the bag's own data, else a JPEG."""
    message = CompressedImage(format=frame.compressed_format or 'jpeg')
    message.data = _to_array(frame.compressed or encode_colour(frame.image, jpeg_quality))
    return message


def _to_array(data: bytes) -> array.array[int]:
    # Anything else is checked byte by byte when it is assigned.
    return array.array('B', data)


def play(
    node: CameraPlayer,
    source: FrameSource,
    executor: SingleThreadedExecutor,
    stop: Stop,
) -> str:
    """Publish the source at its own timing until it ends or stop is set; tell what was done."""
    published = late = 0
    start_s = time.monotonic()
    for frame in repeat(source, node.config.loop, node.config.max_seconds):
        message = node.build(frame)
        due_s = start_s + frame.time_s / node.config.speed
        if not source.live:
            _spin_until(executor, due_s, stop)
        if stop.is_set():
            break
        late += not source.live and time.monotonic() - due_s > _LATE_S
        node.publish(message, frame.stamp_ns)
        published += 1
    elapsed_s = time.monotonic() - start_s
    skipped = ', '.join(f'{count} {reason}' for reason, count in source.skipped.items())
    return (
        f'done: {published} images in {elapsed_s:.1f} s, {late} late'
        f'{", skipped: " + skipped if skipped else ""}'
    )


def _spin_until(executor: SingleThreadedExecutor, when_s: float, stop: Stop) -> None:
    """Wait, answering parameter requests meanwhile; spin_once returns after each."""
    while not stop.is_set():
        remaining_s = when_s - time.monotonic()
        if remaining_s <= 0:
            return
        executor.spin_once(timeout_sec=min(remaining_s, _LONGEST_SPIN_S))


def _wait_for_subscribers(
    node: CameraPlayer, executor: SingleThreadedExecutor, stop: Stop
) -> None:
    deadline_s = time.monotonic() + node.config.wait_timeout_s
    wanted = node.config.wait_for_subscribers
    while not stop.is_set() and (count := node.publisher.get_subscription_count()) < wanted:
        if time.monotonic() >= deadline_s:
            listeners = f'only {count} of {wanted} listen' if count else 'nobody listens'
            node.get_logger().warning(f'{listeners} to {node.publisher.topic_name}')
            return
        _spin_until(executor, time.monotonic() + 0.05, stop)
    _spin_until(executor, time.monotonic() + _SETTLE_S, stop)


def run(arguments: PlayerConfig, stop: Stop) -> None:
    """
    Play what the arguments and the ROS parameters ask for, until stop is set.

    Raises:
        SourceError: the source cannot be opened.
        ValueError: a parameter is out of range.

    """
    node = CameraPlayer(arguments)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    config = node.config
    source = open_source(config.source, rate_hz=config.rate_hz, bag_topic=config.bag_topic)
    node.get_logger().info(
        f'{source.description}, {config.transport} on {node.publisher.topic_name}'
    )
    if config.wait_for_subscribers:
        _wait_for_subscribers(node, executor, stop)
    node.get_logger().info(play(node, source, executor, stop))
    if not stop.is_set():
        node.flush()


def main(args: Sequence[str] | None = None) -> int:
    """Run the executable and return its exit status."""
    command_line = list(sys.argv if args is None else ['camera_player', *args])
    # rclpy's own handlers would end the context under a wait or a publication that is under way.
    rclpy.init(args=command_line, signal_handler_options=SignalHandlerOptions.NO)
    stop = Stop()
    try:
        run(parse_arguments(remove_ros_args(args=command_line)[1:]), stop)
    except (SourceError, ValueError) as err:
        print(f'camera_player: {err}', file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
        stop.finish()
    return 0


if __name__ == '__main__':
    sys.exit(main())
