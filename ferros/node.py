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

import contextlib
import faulthandler
import functools
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

try:
    from ferros_msgs.msg import Emotion, EmotionArray
except ImportError as error:
    raise SystemExit(
        f'ferros: {error}. ferros_msgs is built beside ferros: link it into the workspace with '
        '`ln -s ferros/ferros_msgs src/ferros_msgs`, build with colcon and source '
        'install/setup.bash'
    ) from error
import cv2
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image

from ferros.annotate import AnnotatedRate
from ferros.answers import Publication
from ferros.channel import read_access
from ferros.config import RobotConfig
from ferros.detect import DetectorError
from ferros.diagnostics import diagnose
from ferros.drops import Drops
from ferros.health import NodeReport
from ferros.local_model import LocalModelError
from ferros.messages import (
    by_cv_bridge,
    compressed_image_message,
    emotion_message,
    faces_message,
    image_message,
)
from ferros.parameters import Parameters
from ferros.pipeline import Processed, in_colour
from ferros.rep155 import ExpressionPublisher, Rep155Publisher, require_hri_msgs
from ferros.rep155_faces import Rep155Faces
from ferros.rep155_scene import Scene
from ferros.stop import Stop
from ferros.timeline import JUMP_BACK_NS
from ferros.worker import Log, Models, Worker, load_models

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
        except (ValueError, OSError, DetectorError, LocalModelError) as error:
            self.get_logger().error(f'{transition.__name__}: {error}')
        except Exception as error:
            self.get_logger().error(f'{transition.__name__} failed: {error!r}')
            logging.getLogger('ferros.node').exception('%s failed', transition.__name__)
        return TransitionCallbackReturn.FAILURE

    return wrapper


def _answered(
    change_state: Callable[[Any, Any], Any], warn: Callable[[str], object]
) -> Callable[[Any, Any], Any]:
    """Refuse a transition that the state does not have; rclpy would raise and end the node."""

    def wrapper(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except RuntimeError as error:
            # RCLError, which has no public name.
            warn(f'a transition was refused: {error}')
            response.success = False
            return response

    return wrapper


class EmotionNode(LifecycleNode):
    """
    Subscribes to a camera, has its faces read, publishes the emotions.

    The executor's thread only stores the newest image. One worker thread decodes, detects,
    follows and publishes; the link, and the model on the robot, have threads of their own, whose
    answers the worker collects.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__('emotion_node', **node_arguments)
        change_state = self._service_change_state
        change_state.callback = _answered(change_state.callback, self.get_logger().warning)
        # Not `_parameters`: rclpy has that.
        self._settings = Parameters(self, self._on_parameters)
        # From configure to cleanup.
        self._config: RobotConfig | None = None
        self._models: Models | None = None
        self._drops = Drops()
        self._advertised = contextlib.ExitStack()
        # From activate to deactivate.
        self._worker: Worker | None = None
        self._rep155: Rep155Publisher | None = None
        self._expressions: ExpressionPublisher | None = None
        self._scenes: Rep155Faces | None = None
        self._begun = contextlib.ExitStack()
        self._source_topic = ''
        self._previous_report: NodeReport | None = None
        self._namesakes = 1
        self._drawn = AnnotatedRate()

    @property
    def autostart(self) -> bool:
        """Tell whether the node is to configure and activate itself."""
        return self._settings.autostart

    @property
    def processed_images(self) -> int:
        """Return how many images were looked at since the node is active."""
        return 0 if self._worker is None else self._worker.processed_images

    # -- the lifecycle ---------------------------------------------------------------------------

    @reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the parameters and load the models."""
        config = self._settings.read()
        # The link reads them at each attempt; what is wrong now should not wait for that.
        read_access(config)
        if config.publish_rep155 or config.faces_from == 'rep155':
            require_hri_msgs()
        self._models = load_models(config)
        self._drops = Drops()
        try:
            self._advertise()
        except BaseException:
            self._release()
            raise
        self._config = config
        return TransitionCallbackReturn.SUCCESS

    def _advertise(self) -> None:
        self._emotion_publisher = self._publisher(Emotion, 'emotion', EMOTION_QOS)
        self._faces_publisher = self._publisher(EmotionArray, 'emotion/faces', EMOTION_QOS)
        self._diagnostics_publisher = self._publisher(DiagnosticArray, '/diagnostics', 10)
        self._annotated_publisher = self._publisher(Image, 'emotion/annotated', 1)
        # image_transport's convention: the suffix follows the name after remapping.
        name = f'{self.resolve_topic_name("emotion/annotated")}/compressed'
        self._annotated_jpeg_publisher = self._publisher(CompressedImage, name, 1)

    def _publisher(self, kind: type, topic: str, qos: QoSProfile | int) -> Any:
        publisher = self.create_publisher(kind, topic, qos)
        self._advertised.callback(self.destroy_publisher, publisher)
        return publisher

    def _release(self) -> None:
        self._config = self._models = None
        self._advertised.close()
        # The parts of a worker refer to each other, and hold the models until they are collected.
        gc.collect()

    @reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera and connect to the server."""
        try:
            self._begin_work()
        except BaseException:
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
        assert self._config is not None and self._models is not None
        config = self._config
        self._previous_report = None
        log = Log(self.get_logger().info, self.get_logger().warning, self.get_logger().error)
        self._worker = Worker(
            config, self._models, self._drops, self._publish, self._show, by_cv_bridge, log
        )
        # Begun one after the other, and ended in the opposite order, as far as it came.
        self._begun.callback(self._worker.stop)
        prefix = config.rep155_prefix
        if config.publish_rep155:
            self._rep155 = Rep155Publisher(self, prefix, self._drops)
            self._begun.callback(self._rep155.close)
        elif config.faces_from == 'rep155':
            self._expressions = ExpressionPublisher(self, prefix, self._drops)
            self._begun.callback(self._expressions.close)
        self._worker.start()
        self._source_topic = self._listen(config)
        self._watch_clocks()
        self.get_logger().info(
            f'reading faces on {self._source_topic}, asking {config.server_address}'
        )

    def _listen(self, config: RobotConfig) -> str:
        """Subscribe to what the faces come from; return the topic."""
        if config.faces_from == 'rep155':
            prefix = config.rep155_prefix
            self._scenes = Rep155Faces(
                self, prefix, self._on_scene, self._drops, config.max_faces
            )
            self._begun.callback(self._scenes.close)
            return f'{prefix}/faces/tracked'
        topic, kind = 'image', Image
        if config.image_transport == 'compressed':
            # image_transport's convention: the suffix follows the name after remapping.
            topic, kind = f'{self.resolve_topic_name("image")}/compressed', CompressedImage
        subscription = self.create_subscription(
            kind,
            topic,
            self._on_image,
            IMAGE_QOS,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._begun.callback(self.destroy_subscription, subscription)
        return str(subscription.topic_name)

    def _watch_clocks(self) -> None:
        timer = self.create_timer(
            DIAGNOSTICS_PERIOD_S, self._diagnose, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._begun.callback(self.destroy_timer, timer)
        jumps = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None,
                min_backward=Duration(nanoseconds=-JUMP_BACK_NS),
                on_clock_change=False,
            ),
            post_callback=self._on_clock_jump,
        )
        self._begun.callback(jumps.unregister)

    def _end_work(self) -> None:
        try:
            self._begun.close()
        finally:
            self._worker = None
            self._rep155 = self._expressions = self._scenes = None

    # -- callbacks of the executor: they only store ----------------------------------------------

    def _on_image(self, message: Any) -> None:
        if self._worker is not None:
            self._worker.put_image(message, time.monotonic_ns())

    def _on_scene(self, scene: Scene) -> None:
        if self._worker is not None:
            self._worker.put_image(scene, scene.captured_ns)

    def _on_parameters(self, config: RobotConfig) -> None:
        if self._config is None:
            return
        self._config = config
        if self._worker is not None:
            self._worker.reconfigure(config)
        if self._scenes is not None:
            self._scenes.max_faces = config.max_faces

    def _on_clock_jump(self, jump: TimeJump) -> None:
        if self._worker is not None:
            self._worker.reset('the ROS clock was set back')

    def _diagnose(self) -> None:
        if self._worker is None:
            return
        report = NodeReport(
            time.monotonic_ns(),
            *self._worker.report(self._source_topic),
            drops=self._drops.counts(),
            rep155=None if self._rep155 is None else self._rep155.conflict,
        )
        name = self.get_fully_qualified_name()
        stamp = self.get_clock().now()
        self._diagnostics_publisher.publish(
            diagnose(name, stamp, report, self._previous_report)
        )
        self._previous_report = report
        self._complain_of_namesakes(name)

    def _complain_of_namesakes(self, name: str) -> None:
        """Say it when another node has this one's name: services would go to either."""
        whoever = self.get_node_names_and_namespaces()
        namesakes = whoever.count((self.get_name(), self.get_namespace()))
        if namesakes > self._namesakes:
            self.get_logger().error(
                f'{namesakes} nodes are called {name}: rename one with `-r __node:=` or '
                '`-r __ns:=`'
            )
        self._namesakes = max(1, namesakes)

    # -- callbacks of the worker: they publish ---------------------------------------------------

    def _publish(self, publication: Publication) -> None:
        now_ns = time.monotonic_ns()
        has_roi = self._scenes is None
        if publication.emotion is not None:
            emotion = emotion_message(publication.emotion, now_ns, has_roi)
            self._emotion_publisher.publish(emotion)
        if publication.faces is None:
            return
        faces = faces_message(publication.faces, publication.newest, now_ns, has_roi)
        self._faces_publisher.publish(faces)
        expressions = self._rep155 or self._expressions
        if expressions is not None:
            for face in publication.faces:
                expressions.express(face)

    def _show(self, processed: Processed) -> None:
        if self._rep155 is not None:
            self._rep155.publish(
                processed.frame,
                processed.tracks,
                lambda: in_colour(processed.message, by_cv_bridge),
            )
        if self._expressions is not None:
            self._expressions.keep(track.face_id for track in processed.tracks)
        if self._scenes is None:
            self._draw(processed)

    def _draw(self, processed: Processed) -> None:
        """Publish the image with its faces marked, if somebody looks."""
        assert self._config is not None and self._worker is not None
        raw = self._annotated_publisher.get_subscription_count()
        compressed = self._annotated_jpeg_publisher.get_subscription_count()
        rate_hz = self._config.annotated_rate_hz
        if not self._drawn.wants(raw + compressed, time.monotonic_ns(), rate_hz):
            return
        image = self._worker.annotated(processed)
        header = processed.message.header
        if raw:
            self._annotated_publisher.publish(image_message(image, header))
        if compressed:
            self._annotated_jpeg_publisher.publish(compressed_image_message(image, header))


def main(arguments: list[str] | None = None) -> int:
    """Run the node until it is told to stop; return the exit code."""
    # A crash in one of the libraries says where.
    faulthandler.enable()
    # rclpy's own handlers would end the context under the worker that still publishes.
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    stop = Stop()
    # Several threads see and read here; each has one core to itself at most.
    cv2.setNumThreads(1)
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
        _await_threads()
        stop.finish()


def _await_threads() -> None:
    """Let gRPC's threads end, as they do by themselves: an interpreter that ends first aborts."""
    deadline_s = time.monotonic() + SHUTDOWN_S
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(max(0.0, deadline_s - time.monotonic()))


def _run(node: EmotionNode, stop: Stop) -> int:
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
