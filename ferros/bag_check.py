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
Plays a rosbag2 through the real node and checks what it says against an expectation file.

    ros2 run ferros bag_check BAG EXPECTATION --start-server

A node of its own is started, in a namespace and on a clock of its own, so that a robot on the same
graph neither hears nor disturbs it; --attach takes one that runs, and publishes /clock. The exit
status is 0 where all was as expected, 1 where not, 2 where the bag, the expectation file or an
argument is no good.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from ferros.bag_expectation import Expectation, ExpectationError, Heard, judge, parse
from ferros.bag_process import Child, InputError, start_server, wait_for
from ferros.bag_report import Round, as_json, table, timeline
from ferros.camera_player import to_compressed, to_image
from ferros.frame_source import BagSource, SourceError, SourceFrame, open_source
from ferros.text_plot import can_show

try:
    from ferros_msgs.msg import Emotion
except ImportError as error:
    raise SystemExit(f'bag_check: {error}. It is built beside ferros, see docs/ros.md') from error

_NS_PER_S: Final = 1_000_000_000
_SOURCES: Final = {Emotion.CLOUD: 'cloud', Emotion.ROBOT: 'robot'}
# How often the clock is published between the images.
_TICK_S: Final = 0.02
# Nobody has said anything for so long: nothing more is to come of what was played.
_QUIET_S: Final = 0.7
_LONGEST_QUIET_S: Final = 3.0
_JPEG_QUALITY: Final = 90


class NodeError(RuntimeError):
    """The node did not last: exit status 1."""


class Bag(NamedTuple):
    """What is played."""

    source: BagSource
    images: int
    first_ns: int
    # From the first image's stamp to the newest.
    duration_s: float


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what the command line asks for; ROS's own arguments are taken out before."""
    parser = argparse.ArgumentParser(
        'bag_check', description='Play a rosbag2 through emotion_node and check what it says.'
    )
    parser.add_argument('bag', help='folder of the rosbag2 (sqlite3 or mcap)')
    parser.add_argument('expectation', help='YAML file of what the node is to say, and when')
    add = parser.add_argument
    add('--topic', default='', help="the bag's image topic (the one with the most images)")
    add('--rate', type=float, default=1.0, help='how many times as fast as recorded (1)')
    add('--repeat', type=int, default=1, help='how often to play it; each time is checked (1)')
    add('--transport', choices=('auto', 'raw', 'compressed'), default='auto',
        help="of the images (auto: the bag's)")
    add('--server-address', default='', help='host:port of the server the node is to ask')
    add('--start-server', nargs='?', const='ferros-cloud serve', default='', metavar='COMMAND',
        help='start a server on this machine for the time of the check (ferros-cloud serve)')
    add('--params-file', default='', help='YAML file with parameters of the node')
    add('--attach', action='store_true', help='use a node that runs already with use_sim_time')
    add('--image-topic', default='image', help='with --attach: where that node reads images')
    add('--emotion-topic', default='emotion', help='with --attach: where it publishes')
    add('--json', default='', metavar='FILE', help='write everything there, as one JSON object')
    add('--node-log', default='', metavar='FILE', help="keep the node's log there")
    add('--timeout-s', type=float, default=30.0,
        help='how long the node, and a server that is started, have to get ready (30)')
    add('--connect-s', type=float, default=8.0,
        help='how long the node has to reach its server; one that was not asked for is done '
        'without then (8)')
    found = parser.parse_args(arguments)
    _check(found)
    return found


def _check(found: argparse.Namespace) -> None:
    if not 0 < found.rate <= 100:
        raise InputError(f'--rate is {found.rate:g}, expected above 0, at most 100')
    if found.repeat < 1:
        raise InputError(f'--repeat is {found.repeat}, expected 1 or more')
    for name in ('timeout_s', 'connect_s'):
        if not 0 < getattr(found, name) < math.inf:
            option = f'--{name.replace("_", "-")}'
            raise InputError(f'{option} is {getattr(found, name):g}, expected above 0')
    given = [
        f'--{name.replace("_", "-")}'
        for name in ('server_address', 'start_server', 'params_file', 'node_log')
        if getattr(found, name)
    ]
    if found.attach and given:
        raise InputError(f'{given[0]} is for a node that is started, which --attach does not do')
    if found.server_address and found.start_server:
        raise InputError('expected one of --server-address and --start-server, not both')
    if found.params_file and not Path(found.params_file).is_file():
        raise InputError(f'--params-file {found.params_file} does not exist')


def open_bag(folder: str, topic: str) -> Bag:
    """Return the bag; raises SourceError or InputError."""
    if not Path(folder).is_dir():
        raise InputError(f'{folder} is no folder of a rosbag2')
    source = open_source(folder, bag_topic=topic)
    assert isinstance(source, BagSource)
    stamps_ns = source.stamps_ns()
    if not stamps_ns:
        raise InputError(f'{source.description}: nothing to play')
    if max(stamps_ns) == min(stamps_ns) and len(stamps_ns) > 1:
        raise InputError(
            f'{source.description}: all have the stamp {stamps_ns[0] / _NS_PER_S:g} s, '
            'and a node does not read an image that is not newer than the one before'
        )
    first_ns = stamps_ns[0]
    return Bag(source, len(stamps_ns), first_ns, (max(stamps_ns) - first_ns) / _NS_PER_S)


def read_expectations(path: str, duration_s: float) -> list[Expectation]:
    """Return what an expectation file asks for; raises InputError naming the file."""
    try:
        document = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except OSError as error:
        raise InputError(f'{path} cannot be read: {error.strerror}') from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f'{path} is not YAML: {" ".join(str(error).split())}') from error
    try:
        return parse(document, duration_s)
    except ExpectationError as error:
        raise InputError(f'{path}: {error}') from error


class Graph:
    """Our side of the graph: the camera, the clock, and an ear for what the node says."""

    def __init__(self, node: Any, raw: bool, attach: bool, image: str, emotion: str) -> None:
        self.node = node
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        # image_transport's convention: the suffix follows the name after remapping.
        topic = image if raw else f'{node.resolve_topic_name(image)}/compressed'
        self.images = node.create_publisher(Image if raw else CompressedImage, topic, reliable)
        self.clock = node.create_publisher(Clock, '/clock' if attach else 'clock', reliable)
        self.heard: list[Any] = []
        self.heard_at_s = 0.0
        # The newest of each part: 'link', 'drops' and so on.
        self.parts: dict[str, Any] = {}
        self._emotion = node.resolve_topic_name(emotion)
        node.create_subscription(Emotion, emotion, self._on_emotion, 100)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def other_node(self) -> str:
        """Return the full name of the node that publishes emotions; empty: there is none."""
        for found in self.node.get_publishers_info_by_topic(self._emotion):
            # A publisher may be discovered before the name of its node is.
            if 'UNKNOWN' not in found.node_name:
                return f'{found.node_namespace.rstrip("/")}/{found.node_name}'
        return ''

    def is_ready(self) -> bool:
        """Tell whether a node reads our images and publishes emotions."""
        return bool(self.images.get_subscription_count() and self.other_node())

    def is_connected(self) -> bool:
        """Tell whether the node says that its link to the server stands."""
        link = self.parts.get('link')
        return link is not None and link.message.startswith('connected')

    def drops(self) -> dict[str, int]:
        """Return what the node dropped, by reason, as of its newest diagnostics."""
        part = self.parts.get('drops')
        values = part.values if part is not None else ()
        return {item.key: int(item.value) for item in values if item.value.isdigit()}

    def _on_emotion(self, message: Any) -> None:
        self.heard.append(message)
        self.heard_at_s = time.monotonic()

    def _on_diagnostics(self, message: Any) -> None:
        name = self.other_node()
        for status in message.status:
            node, _, part = status.name.partition(': ')
            if name and node == name:
                self.parts[part] = status


@contextlib.contextmanager
def joined(options: argparse.Namespace, namespace: str, raw: bool) -> Iterator[Graph]:
    """Be on the graph until the end of the block; the domain is the environment's."""
    context = rclpy.Context()
    rclpy.init(args=options.ros_args, context=context,
               signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('bag_check', context=context, namespace=namespace)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, name='bag_check', daemon=True)
    try:
        graph = Graph(node, raw, options.attach, options.image_topic, options.emotion_topic)
        thread.start()
        yield graph
    finally:
        executor.shutdown()
        if thread.ident is not None:
            thread.join(5)
        node.destroy_node()
        rclpy.try_shutdown(context=context)


def node_command(
    options: argparse.Namespace, namespace: str, raw: bool, address: str
) -> list[str]:
    """Return how the node is started: on our namespace and clock, missing no image."""
    image = f'{namespace}/image' if raw else f'{namespace}/image/compressed'
    parameters = {
        'use_sim_time': 'true',
        'autostart': 'true',
        'image_transport': 'raw' if raw else 'compressed',
        f'qos_overrides.{image}.subscription.reliability': 'reliable',
        **({'server_address': address} if address else {}),
    }
    command = [sys.executable, '-m', 'ferros.node', '--ros-args']
    command += ['-r', f'__ns:={namespace}', '-r', f'/clock:={namespace}/clock']
    command += ['--params-file', options.params_file] if options.params_file else []
    for name, value in parameters.items():
        command += ['-p', f'{name}:={value}']
    return command


def get_ready(graph: Graph, options: argparse.Namespace, child: Child | None, asked: bool) -> None:
    """
    Wait until the node reads images and, where there is one, has its server.

    asked: whether a server was asked for, so that it has to be there.

    Raises:
        InputError: one of them is not ready in time.

    """
    if not wait_for(graph.is_ready, options.timeout_s, child):
        raise InputError(
            f'no node both reads {graph.images.topic_name} and publishes emotions after '
            f'{options.timeout_s:g} s'
        )
    if options.attach:
        _check_clock(graph, options.timeout_s)
    if not wait_for(graph.is_connected, options.connect_s, child):
        link = graph.parts.get('link')
        why = link.message if link is not None else 'no diagnostics'
        if asked:
            raise InputError(f'the node has no server after {options.connect_s:g} s: {why}')
        print(f'without a server: {why}')


def _check_clock(graph: Graph, timeout_s: float) -> None:
    """Refuse to fight over the clock, and a node that does not follow it."""
    if graph.node.count_publishers('/clock') > 1:
        raise InputError('another node publishes /clock already')
    name = graph.other_node()
    client = AsyncParameterClient(graph.node, name)
    if not client.wait_for_services(timeout_s):
        raise InputError(f'{name} does not answer')
    future = client.get_parameters(['use_sim_time'])
    if not wait_for(future.done, timeout_s, None) or not future.result().values[0].bool_value:
        raise InputError(f'{name} does not follow /clock: start it with use_sim_time:=true')


def play(graph: Graph, bag: Bag, rate: float, raw: bool, child: Child | None) -> int:
    """Publish the bag's images and its clock once; return the number of images published."""
    published = 0
    start_s = time.monotonic()
    for frame in bag.source.frames():
        message = _message(frame, raw)
        due_s = start_s + frame.time_s / rate
        while (left_s := due_s - time.monotonic()) > 0:
            _tick(graph, bag.first_ns, (time.monotonic() - start_s) * rate)
            time.sleep(min(left_s, _TICK_S))
        _tick(graph, bag.first_ns, frame.time_s)
        graph.images.publish(message)
        published += 1
        if child is not None and (how := child.ended()):
            raise NodeError(how)
    return published


def _message(frame: SourceFrame, raw: bool) -> Any:
    message = to_image(frame) if raw else to_compressed(frame, _JPEG_QUALITY)
    message.header.stamp = Time(nanoseconds=frame.stamp_ns or 0).to_msg()
    message.header.frame_id = frame.frame_id
    return message


def _tick(graph: Graph, first_ns: int, elapsed_s: float) -> None:
    now_ns = first_ns + int(elapsed_s * _NS_PER_S)
    graph.clock.publish(Clock(clock=Time(nanoseconds=now_ns).to_msg()))


def _wait_until_quiet(graph: Graph) -> None:
    """Wait for what the node still has to say of what was played."""
    start_s = time.monotonic()
    while (now_s := time.monotonic()) - start_s < _LONGEST_QUIET_S:
        if now_s - max(graph.heard_at_s, start_s) > _QUIET_S:
            return
        time.sleep(0.02)


def to_heard(message: Any, first_ns: int) -> Heard:
    """Return an Emotion as what the expectations are judged by."""
    stamp = message.header.stamp
    at_ns = stamp.sec * _NS_PER_S + stamp.nanosec - first_ns
    return Heard(
        at_ns / _NS_PER_S,
        bool(message.face_detected),
        message.label,
        float(message.confidence),
        _SOURCES.get(message.source, 'none'),
        message.face_id,
        tuple(message.labels),
    )


def play_round(
    graph: Graph,
    bag: Bag,
    expectations: Sequence[Expectation],
    rate: float,
    raw: bool,
    child: Child | None,
) -> Round:
    """Play the bag once and judge what was heard; raises NodeError."""
    graph.heard.clear()
    images = play(graph, bag, rate, raw, child)
    _wait_until_quiet(graph)
    heard = [to_heard(message, bag.first_ns) for message in list(graph.heard)]
    backwards = sum(
        after.at_s <= before.at_s for before, after in itertools.pairwise(heard)
    )
    return Round(heard, judge(expectations, heard), backwards, images)


def _report(one: Round, bag: Bag, number: int, of: int) -> None:
    rounds = f'round {number} of {of}: ' if of > 1 else ''
    print(f'{rounds}{one.images} images, {len(one.heard)} messages')
    print(table(one.verdicts))
    print(timeline(one.heard, bag.duration_s, not can_show(sys.stdout.encoding)), flush=True)
    if one.not_increasing:
        print(f'FAILED: {one.not_increasing} messages are not newer than the one before')


def check(options: argparse.Namespace, stack: contextlib.ExitStack) -> bool:
    """
    Play and judge; print a report; return whether all was as expected.

    Raises:
        InputError, SourceError: exit status 2.
        NodeError: the node ended while it was played to.

    """
    bag = open_bag(options.bag, options.topic)
    expectations = read_expectations(options.expectation, bag.duration_s)
    raw = options.transport == 'raw' or (
        options.transport == 'auto' and not bag.source.is_compressed
    )
    namespace = '/' if options.attach else f'/bag_check_{os.getpid()}'
    logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='bag_check_')))
    graph = stack.enter_context(joined(options, namespace, raw))
    child: Child | None = None
    if not options.attach:
        address = options.server_address
        if options.start_server:
            server, address = start_server(
                options.start_server, logs / 'server.log', options.timeout_s
            )
            stack.callback(server.close)
        log = Path(options.node_log) if options.node_log else logs / 'node.log'
        child = Child(
            'the node', node_command(options, namespace, raw, address), log, signal.SIGINT
        )
        stack.callback(child.close)
    get_ready(graph, options, child, bool(options.server_address or options.start_server))
    print(f'{bag.source.description}, {bag.duration_s:.2f} s, {options.rate:g} times as fast')
    rounds = []
    for number in range(1, options.repeat + 1):
        one = play_round(graph, bag, expectations, options.rate, raw, child)
        _report(one, bag, number, options.repeat)
        rounds.append(one)
    _finish(graph, options, bag, rounds)
    return all(one.passed for one in rounds)


def _finish(
    graph: Graph, options: argparse.Namespace, bag: Bag, rounds: Sequence[Round]
) -> None:
    """Report what was dropped, and write the JSON file."""
    # One more of the diagnostics, which come once a second, so that the counts are the last ones.
    before = graph.parts.get('drops')
    wait_for(lambda: graph.parts.get('drops') is not before, 1.5, None)
    for reason, count in bag.source.skipped.items():
        print(f'left out of the bag: {count} images, {reason}')
    drops = graph.drops()
    if drops:
        print('dropped: ' + ', '.join(f'{name} {count}' for name, count in drops.items()))
    if options.json:
        result = as_json(
            rounds, drops,
            bag=options.bag, rate=options.rate, duration_s=bag.duration_s, images=bag.images,
        )
        Path(options.json).write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')


def main(args: Sequence[str] | None = None) -> int:
    """Run the executable and return its exit status."""
    command_line = list(sys.argv[1:] if args is None else args)
    # The processes that were started are ended on SIGTERM too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        try:
            options = parse_arguments(remove_ros_args(args=['bag_check', *command_line])[1:])
            options.ros_args = command_line
            return 0 if check(options, stack) else 1
        except (InputError, SourceError) as error:
            print(f'bag_check: {error}', file=sys.stderr)
            return 2
        except NodeError as error:
            print(f'bag_check: FAILED: {error}', file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130


if __name__ == '__main__':
    sys.exit(main())
