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
"""The lifecycle node `emotion_node`: camera images in, emotions out."""

from __future__ import annotations

import faulthandler
import functools
import logging
import math
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

try:
    from ferros_msgs.msg import Emotion, EmotionArray
except ImportError as error:
    raise SystemExit(
        f'ferros: {error}. ferros_msgs is built beside ferros: link it into the workspace with '
        '`ln -s ferros/ferros_msgs src/ferros_msgs`, build with colcon and source '
        'install/setup.bash'
    ) from error
import rclpy
from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest

from ferros.answers import Answers
from ferros.channel import read_access
from ferros.config import Parameter, RobotConfig
from ferros.detect import DetectorError, make_detector
from ferros.diagnostics import CameraReport, diagnose
from ferros.drops import Drops
from ferros.image import BadImage, decode, decode_compressed
from ferros.link import Link, LinkState
from ferros.perception import Perception
from ferros.track import Tracker
from ferros.types import CameraFrame, Observation, OfferedFace, Track

# Images: the newest counts. Best effort hears reliable publishers too; qos_overrides change it.
IMAGE_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT
)
# Behaviour trees subscribe reliably. Volatile: a latched emotion would be an old one.
EMOTION_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
DIAGNOSTICS_PERIOD_S = 1.0
# For a callback that is under way when the node is told to stop.
SHUTDOWN_S = 2.0
# For the whole end.
SHUTDOWN_LIMIT_S = 8.0

Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]


def reported(transition: Transition) -> Transition:
    """
    Make an exception fail the transition and stand in the log.

    rclpy turns an exception of a transition callback into an ERROR without a word about it.
    """

    @functools.wraps(transition)
    def wrapper(self: EmotionNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except (ValueError, OSError, DetectorError) as error:
            self.get_logger().error(f'{transition.__name__}: {error}')
        except Exception as error:
            self.get_logger().error(f'{transition.__name__} failed: {error!r}')
            logging.getLogger('ferros.node').exception('%s failed', transition.__name__)
        return TransitionCallbackReturn.FAILURE

    return wrapper


class EmotionNode(LifecycleNode):
    """
    Subscribes to a camera, has its faces read by the server, publishes the emotions.

    The executor's thread only stores the newest image. One worker thread decodes, detects,
    tracks and publishes; the link has threads of its own, whose answers the worker collects.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__('emotion_node', **node_arguments)
        self.declare_parameter(
            'autostart',
            True,
            ParameterDescriptor(
                description='configure and activate without being told to', read_only=True
            ),
        )
        for item in fields(RobotConfig):
            description = _descriptor(item.default, item.metadata['parameter'])
            self.declare_parameter(item.name, item.default, description)
        self._active = False

    @property
    def autostart(self) -> bool:
        """Tell whether the node is to configure and activate itself."""
        return bool(self.get_parameter('autostart').value)

    # -- the lifecycle ---------------------------------------------------------------------------

    @reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the parameters and load what detects faces."""
        values = {f.name: self.get_parameter(f.name).value for f in fields(RobotConfig)}
        self._config = RobotConfig(**values)
        # The link reads them at each attempt; what is wrong now should not wait for that.
        read_access(self._config)
        self._drops = Drops()
        self._perception = Perception(
            make_detector(
                self._config.detector,
                cascade_file=self._config.cascade_file,
                model_file=self._config.detector_model,
            ),
            Tracker(),
        )
        self._answers = Answers(
            self._config.publish_rate_hz, self._config.max_age_ms * 1_000_000, self._drops
        )
        self._emotion_publisher = self.create_publisher(Emotion, 'emotion', EMOTION_QOS)
        self._faces_publisher = self.create_publisher(EmotionArray, 'emotion/faces', EMOTION_QOS)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        return TransitionCallbackReturn.SUCCESS

    @reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera and connect to the server."""
        self._begin_work()
        try:
            self._subscribe()
        except Exception:
            self._end_work()
            raise
        return super().on_activate(state)

    @reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the subscription and leave the server."""
        self._end_work()
        return super().on_deactivate(state)

    @reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release what on_configure made."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    @reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever runs."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    @reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured after a failure."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop the threads and release everything, in whatever state the node is."""
        self._end_work()
        self._release()

    def _begin_work(self) -> None:
        self._wake = threading.Condition()
        self._message: tuple[Any, int] | None = None
        self._arrived: list[Observation] = []
        self._reset_wanted = ''
        self._images = 0
        self._last_image_ns: int | None = None
        self._reported_ns = time.monotonic_ns()
        self._processing_ms: list[float] = []
        self._faces = 0
        self._link_complaint = ''
        self._link = Link(self._config, self._drops, self._on_answer, self._on_link_change)
        self._active = True
        self._link.start()
        self._worker = threading.Thread(target=self._work, name='ferros-worker', daemon=True)
        self._worker.start()

    def _subscribe(self) -> None:
        topic, kind = 'image', Image
        if self._config.image_transport == 'compressed':
            # image_transport's convention: the suffix follows the name after remapping.
            topic, kind = f'{self.resolve_topic_name("image")}/compressed', CompressedImage
        self._subscription = self.create_subscription(
            kind,
            topic,
            self._on_image,
            IMAGE_QOS,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._diagnostics_timer = self.create_timer(
            DIAGNOSTICS_PERIOD_S, self._diagnose, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=rclpy.duration.Duration(nanoseconds=-1)),
            post_callback=self._on_clock_jump,
        )
        self.get_logger().info(
            f'reading faces on {self._subscription.topic_name}, '
            f'asking {self._config.server_address}'
        )

    def _end_work(self) -> None:
        if not self._active:
            return
        self._active = False
        with self._wake:
            self._wake.notify_all()
        self._link.stop()
        self._worker.join()
        if hasattr(self, '_jump_handle'):
            self._jump_handle.unregister()
            self.destroy_timer(self._diagnostics_timer)
            self.destroy_subscription(self._subscription)
            del self._jump_handle, self._diagnostics_timer, self._subscription

    def _release(self) -> None:
        for name in ('_emotion_publisher', '_faces_publisher', '_diagnostics_publisher'):
            if hasattr(self, name):
                self.destroy_publisher(getattr(self, name))
                delattr(self, name)
        for name in ('_perception', '_answers'):
            if hasattr(self, name):
                delattr(self, name)

    # -- callbacks of the executor: they only store ----------------------------------------------

    def _on_image(self, message: Any) -> None:
        arrived_ns = time.monotonic_ns()
        with self._wake:
            self._images += 1
            self._last_image_ns = arrived_ns
            if self._message is not None:
                self._drops.count('image_superseded')
            self._message = (message, arrived_ns)
            self._wake.notify()

    def _on_clock_jump(self, jump: TimeJump) -> None:
        with self._wake:
            self._reset_wanted = 'the ROS clock was set back'

    def _diagnose(self) -> None:
        now_ns = time.monotonic_ns()
        with self._wake:
            elapsed_s = max((now_ns - self._reported_ns) / 1e9, 1e-3)
            silent_s = (
                math.nan if self._last_image_ns is None else (now_ns - self._last_image_ns) / 1e9
            )
            camera = CameraReport(
                topic=self._subscription.topic_name,
                rate_hz=self._images / elapsed_s,
                silent_s=silent_s,
                processing_ms=statistics.median(self._processing_ms or [math.nan]),
                faces=self._faces,
            )
            self._images, self._reported_ns = 0, now_ns
            self._processing_ms.clear()
        stamp = self.get_clock().now()
        name = self.get_fully_qualified_name()
        self._diagnostics_publisher.publish(
            diagnose(name, stamp, camera, self._link.report(), self._drops.counts())
        )

    # -- callbacks of the link: they only store --------------------------------------------------

    def _on_answer(self, answer: Observation) -> None:
        with self._wake:
            self._arrived.append(answer)
            self._wake.notify()

    def _on_link_change(self, state: LinkState, detail: str) -> None:
        if state is LinkState.CONNECTED:
            self.get_logger().info(f'connected to the server, {self._link.report().model}')
            self._link_complaint = ''
        elif state is LinkState.WAITING and detail != self._link_complaint:
            # Said once for each reason, not at every attempt.
            self._link_complaint = detail
            self.get_logger().warning(f'no server, faces are `unknown` meanwhile: {detail}')

    # -- the worker ------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._active:
            try:
                self._work_once()
            except Exception as error:
                # One bad image must not end the node; the traceback shows where it went wrong.
                if self._drops.count('worker_error'):
                    self.get_logger().error(f'an image failed: {error!r}')
                    logging.getLogger('ferros.node').exception('an image failed')

    def _work_once(self) -> None:
        with self._wake:
            wait_ns = self._answers.wait_ns(time.monotonic_ns())
            self._wake.wait_for(
                lambda: self._message or self._arrived or not self._active,
                None if wait_ns is None else wait_ns / 1e9,
            )
            message, self._message = self._message, None
            answers, self._arrived = self._arrived, []
            reset_wanted, self._reset_wanted = self._reset_wanted, ''
        if reset_wanted:
            self._perception.reset()
            self._forget(reset_wanted)
        for answer in answers:
            self._answers.on_answer(answer)
        if message is not None:
            self._process(*message)
        self._publish()

    def _process(self, message: Any, arrived_ns: int) -> None:
        started_ns = time.monotonic_ns()
        frame = self._decode(message, arrived_ns)
        if frame is None:
            return
        tracks = self._perception.process(frame)
        if tracks is None:
            if self._drops.count('time_backwards'):
                self.get_logger().warning(
                    'an image was dropped: its stamp is not after the one before'
                )
            return
        if self._perception.jumped:
            self._forget(self._perception.jumped)
        self._answers.on_image(frame, tracks, time.monotonic_ns())
        faces = _by_importance(tracks, self._answers.primary_id, frame)
        self._link.offer(faces[: self._config.max_faces])
        with self._wake:
            self._faces = len(tracks)
            self._processing_ms.append((time.monotonic_ns() - started_ns) / 1e6)

    def _decode(self, message: Any, arrived_ns: int) -> CameraFrame | None:
        """Return the image, or None where it cannot be read, which is counted and said once."""
        try:
            if self._config.image_transport == 'compressed':
                image = decode_compressed(message)
            else:
                image = decode(message, _by_cv_bridge)
        except BadImage as error:
            if self._drops.count(f'image_{error.reason}'):
                self.get_logger().warning(f'an image was dropped: {error}')
            return None
        stamp = message.header.stamp
        return CameraFrame(
            image, stamp.sec * 1_000_000_000 + stamp.nanosec, arrived_ns, message.header.frame_id
        )

    def _forget(self, why: str) -> None:
        self.get_logger().warning(f'starting afresh: {why}')
        self._drops.count('restarted')
        self._answers.reset()

    def _publish(self) -> None:
        publication = self._answers.due(time.monotonic_ns())
        if publication is None or not self._active:
            return
        now_ns = time.monotonic_ns()
        if publication.emotion is not None:
            self._emotion_publisher.publish(_emotion(publication.emotion, now_ns))
        if publication.faces is not None:
            array = EmotionArray()
            array.header.stamp = Time(nanoseconds=publication.newest.stamp_ns).to_msg()
            array.header.frame_id = publication.newest.frame_id
            array.faces = [_emotion(face, now_ns) for face in publication.faces]
            self._faces_publisher.publish(array)


def _by_cv_bridge(message: Any) -> Any:
    """Read an image of an encoding that ferros does not know itself."""
    # Imported only when it is needed: on some machines it breaks the import of numpy 2.
    from cv_bridge import CvBridge

    return CvBridge().imgmsg_to_cv2(message, 'bgr8')


def _descriptor(default: Any, rule: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=rule.description, read_only=True)
    if rule.choices:
        descriptor.additional_constraints = f'one of {", ".join(rule.choices)}'
    if rule.unset is not None:
        # A range of ROS has no hole, so the check is RobotConfig's.
        descriptor.additional_constraints = (
            f'{rule.unset:g} or {rule.minimum:g} to {rule.maximum:g}'
        )
    elif rule.minimum is not None and rule.maximum is not None:
        if isinstance(default, int):
            descriptor.integer_range = [
                IntegerRange(from_value=int(rule.minimum), to_value=int(rule.maximum), step=1)
            ]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=rule.minimum, to_value=rule.maximum, step=0.0)
            ]
    return descriptor


def _by_importance(
    tracks: list[Track], primary_id: str | None, frame: CameraFrame
) -> list[OfferedFace]:
    """Return the faces that this very image shows, the primary first, then by size."""
    seen = [track for track in tracks if track.seen_ns == frame.stamp_ns]
    seen.sort(key=lambda track: (track.face_id != primary_id, -track.box.area_px))
    return [OfferedFace(track.face_id, track.box, frame) for track in seen]


def _emotion(observation: Observation, now_ns: int) -> Emotion:
    """Return the message for an observation published at now_ns (monotonic)."""
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
    x, y, width, height = (int(value) for value in observation.box)
    message.roi = RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)
    message.source = int(observation.source)
    age_ns = max(0, now_ns - observation.captured_ns)
    message.age = Duration(sec=age_ns // 1_000_000_000, nanosec=age_ns % 1_000_000_000)
    message.model = observation.model[:64]
    return message


def main(arguments: list[str] | None = None) -> int:
    """Run the node until it is told to stop; return the exit code."""
    # rclpy's own handlers would end the context under the worker that still publishes.
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stop.set())
    try:
        node = EmotionNode()
    except Exception as error:
        # A parameter of a wrong type or out of its range: rclpy's text names it.
        print(f'emotion_node: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    try:
        return _run(node, stop)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _run(node: EmotionNode, stop: threading.Event) -> int:
    """Spin the node in a thread until stop is set; the main thread is the one signals reach."""
    success = TransitionCallbackReturn.SUCCESS
    if node.autostart and (
        node.trigger_configure() != success or node.trigger_activate() != success
    ):
        node.close()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    failures: list[BaseException] = []

    def spin() -> None:
        try:
            executor.spin()
        except BaseException as error:
            failures.append(error)
        finally:
            stop.set()

    spinner = threading.Thread(target=spin, name='ferros-executor', daemon=True)
    spinner.start()
    stop.wait()
    # What hangs in here would hang its launcher too: it is ended, and its stacks say where.
    faulthandler.dump_traceback_later(SHUTDOWN_LIMIT_S, exit=True)
    executor.shutdown(SHUTDOWN_S)
    spinner.join(SHUTDOWN_S)
    node.close()
    for failure in failures:
        logging.getLogger('ferros.node').error('the executor failed', exc_info=failure)
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
