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
"""The behaviours in ticking trees, on a real ROS graph with somebody who publishes emotions."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import py_trees
import pytest
import rclpy
from ferros_msgs.msg import Emotion
from py_trees.common import Access, Status
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from demo import processes
from ferros.behaviours import (
    Cooldown,
    EmotionChanged,
    EmotionToBlackboard,
    IsEmotion,
    WaitForEmotion,
)
from ferros.emotion_memory import KNOWN_LABELS

WAIT_S = 20.0
# Generous, so that a pause of a busy machine is not one of the publisher.
MAX_AGE_S = 1.0
LABELS = ['neutral', 'happiness', 'sadness']


class Graph:
    """A publisher of emotions and a node for the behaviours, spun by a thread each."""

    def __init__(self, context: rclpy.Context) -> None:
        self.robot = rclpy.create_node('robot', context=context)
        self.source = rclpy.create_node('source', context=context)
        self.publisher = self.source.create_publisher(Emotion, 'emotion', 10)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._spin, args=(node, context), daemon=True)
            for node in (self.robot, self.source)
        ]
        for thread in self._threads:
            thread.start()

    def _spin(self, node: Any, context: rclpy.Context) -> None:
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        while not self._stop.is_set():
            executor.spin_once(timeout_sec=0.02)
        executor.shutdown()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.robot.destroy_node()
        self.source.destroy_node()

    def show(self, label: str, face_id: str = 'fa', confidence: float = 0.9) -> None:
        message = Emotion(face_detected=bool(face_id), face_id=face_id, label=label)
        message.confidence, message.valence = confidence, -0.5
        message.labels = LABELS if label else []
        message.source = Emotion.CLOUD if label else Emotion.NONE
        message.age.nanosec = 80_000_000
        self.publisher.publish(message)

    @contextlib.contextmanager
    def tree(self, root: py_trees.behaviour.Behaviour) -> Iterator[py_trees.trees.BehaviourTree]:
        """Set up a tree that hears the publisher, and shut it down."""
        tree = py_trees.trees.BehaviourTree(root)
        tree.setup(node=self.robot)
        try:
            until(lambda: self.publisher.get_subscription_count() > 0)
            yield tree
        finally:
            tree.shutdown()
            until(lambda: self.publisher.get_subscription_count() == 0)

    def tick(
        self, tree: py_trees.trees.BehaviourTree, show: Callable[[], None], end: Status
    ) -> float:
        """Show something ten times a second and tick, until the root ends so; return the time."""
        start_s = time.monotonic()
        while True:
            show()
            time.sleep(0.1)
            tree.tick()
            if tree.root.status is end:
                return time.monotonic() - start_s
            assert time.monotonic() - start_s < WAIT_S, tree.root.feedback_message


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.fixture(scope='module')
def context() -> Iterator[rclpy.Context]:
    with processes.own_domain() as domain_id:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain_id)
        yield context
        rclpy.try_shutdown(context=context)


@pytest.fixture
def graph(context: rclpy.Context) -> Iterator[Graph]:
    py_trees.blackboard.Blackboard.clear()
    graph = Graph(context)
    yield graph
    graph.stop()


def test_an_emotion_is_recognised_and_forgotten_when_its_publisher_falls_silent(
    graph: Graph,
) -> None:
    with graph.tree(IsEmotion('sad?', 'sadness', max_age_s=MAX_AGE_S)) as tree:
        tree.tick()
        assert tree.root.status is Status.FAILURE
        assert tree.root.feedback_message == 'no emotion was heard of yet'
        graph.tick(tree, lambda: graph.show('sadness'), Status.SUCCESS)
        heard_s = time.monotonic()
        while tree.root.status is Status.SUCCESS:
            tree.tick()
            time.sleep(0.01)
            assert time.monotonic() - heard_s < MAX_AGE_S + 1.0
        # The last message came before heard_s.
        assert time.monotonic() - heard_s > MAX_AGE_S - 0.3
        assert tree.root.feedback_message.startswith('no emotion for')


def test_an_emotion_has_to_last_in_one_face(graph: Graph) -> None:
    with graph.tree(IsEmotion('sad?', 'sadness', for_s=0.6, max_age_s=MAX_AGE_S)) as tree:
        assert graph.tick(tree, lambda: graph.show('sadness'), Status.SUCCESS) >= 0.6
        for disturbance in (
            lambda: graph.show('happiness'),
            lambda: graph.show('sadness', 'fb'),
            lambda: graph.show('sadness', confidence=0.4),
            lambda: graph.show('', ''),
        ):
            graph.tick(tree, disturbance, Status.FAILURE)
            assert graph.tick(tree, lambda: graph.show('sadness'), Status.SUCCESS) >= 0.6


def test_what_was_shown_between_two_ticks_counts(graph: Graph) -> None:
    with graph.tree(IsEmotion('sad?', 'sadness', for_s=0.4, max_age_s=MAX_AGE_S)) as tree:
        for label in ['sadness'] * 6 + ['neutral', 'sadness']:
            graph.show(label)
            time.sleep(0.1)
        tree.tick()
        # The neutral message would never be seen by who looks at the newest only.
        assert tree.root.status is Status.FAILURE, tree.root.feedback_message


def test_waiting_ends_with_the_emotion_or_with_the_time(graph: Graph) -> None:
    smile = WaitForEmotion('a smile', 'happiness', timeout_s=0.5, max_age_s=MAX_AGE_S)
    with graph.tree(smile) as tree:
        for _ in range(2):
            waited_s = graph.tick(tree, lambda: graph.show('neutral'), Status.FAILURE)
            assert 0.5 <= waited_s < 5
            assert tree.root.feedback_message.startswith('in vain for 0.5 s: neutral')
        graph.tick(tree, lambda: graph.show('neutral'), Status.RUNNING)
        graph.tick(tree, lambda: graph.show('happiness'), Status.SUCCESS)


def test_a_change_is_a_success_once(graph: Graph) -> None:
    changed = EmotionChanged('changed?', for_s=0.3, max_age_s=MAX_AGE_S)
    with graph.tree(changed) as tree:
        for _ in range(6):
            graph.tick(tree, lambda: graph.show('neutral'), Status.FAILURE)
        graph.tick(tree, lambda: graph.show('sadness'), Status.SUCCESS)
        assert changed.change is not None
        assert (changed.change.before, changed.change.after) == ('neutral', 'sadness')
        assert tree.root.feedback_message == 'from neutral to sadness'
        for _ in range(5):
            graph.show('sadness')
            time.sleep(0.1)
            tree.tick()
            assert tree.root.status is Status.FAILURE


def test_the_blackboard_holds_the_newest_emotion_and_none_that_is_old(graph: Graph) -> None:
    to_blackboard = EmotionToBlackboard('hear', key_prefix='face', max_age_s=MAX_AGE_S)
    reader = py_trees.blackboard.Client(name='reader')
    for key in ('', '/label', '/confidence', '/valence', '/arousal', '/face_id', '/source'):
        reader.register_key(f'face{key}', Access.READ)
    reader.register_key('face/age_s', Access.READ)

    def is_empty() -> bool:
        return (
            reader.get('face') is None
            and (reader.get('face/label'), reader.get('face/face_id')) == ('', '')
            and reader.get('face/confidence') == 0
            and reader.get('face/source') == Emotion.NONE
            and math.isnan(reader.get('face/valence'))
            and math.isnan(reader.get('face/arousal'))
            and math.isinf(reader.get('face/age_s'))
        )

    with graph.tree(to_blackboard) as tree:
        tree.tick()
        assert tree.root.status is Status.RUNNING and is_empty()
        graph.tick(tree, lambda: graph.show('sadness'), Status.SUCCESS)
        assert reader.get('face').label == reader.get('face/label') == 'sadness'
        assert reader.get('face/confidence') == pytest.approx(0.9)
        assert (reader.get('face/valence'), reader.get('face/arousal')) == (-0.5, 0.0)
        assert (reader.get('face/face_id'), reader.get('face/source')) == ('fa', Emotion.CLOUD)
        first_s = reader.get('face/age_s')
        assert 0.08 <= first_s < 0.08 + MAX_AGE_S
        time.sleep(0.1)
        tree.tick()
        assert reader.get('face/age_s') >= first_s + 0.09
        time.sleep(MAX_AGE_S)
        tree.tick()
        assert tree.root.status is Status.FAILURE and is_empty()
        # It came once: that is another thing than nothing yet.
        assert tree.root.feedback_message.startswith('no emotion for')


def test_it_works_with_the_blackboard_behaviours_of_py_trees(graph: Graph) -> None:
    pleased = py_trees.behaviours.CheckBlackboardVariableValue(
        'displeased?',
        py_trees.common.ComparisonExpression('emotion/valence', 0.0, lambda v, limit: v < limit),
    )
    root = py_trees.composites.Sequence('root', memory=False)
    root.add_children([EmotionToBlackboard('hear', max_age_s=MAX_AGE_S), pleased])
    with graph.tree(root) as tree:
        graph.tick(tree, lambda: graph.show('sadness'), Status.SUCCESS)


def test_a_best_effort_publisher_is_heard_by_who_asks_for_it(graph: Graph) -> None:
    best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    relay = graph.source.create_publisher(Emotion, 'relayed', best_effort)
    deaf = IsEmotion('deaf', 'sadness', topic='relayed')
    hears = IsEmotion('hears', 'sadness', topic='relayed', qos_profile=best_effort)
    for behaviour in (deaf, hears):
        behaviour.setup(node=graph.robot)
    until(lambda: relay.get_subscription_count() > 0)

    def hear() -> bool:
        relay.publish(Emotion(face_detected=True, face_id='fa', label='sadness', confidence=0.9))
        return hears.update() is Status.SUCCESS

    until(hear)
    assert deaf.update() is Status.FAILURE
    assert deaf.feedback_message == 'no emotion was heard of yet'
    for behaviour in (deaf, hears):
        behaviour.shutdown()


def test_a_label_that_the_model_does_not_know_is_said_once(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    logger = graph.robot.get_logger()
    monkeypatch.setattr(logger, 'warning', said.append)
    monkeypatch.setattr(graph.robot, 'get_logger', lambda: logger)
    calm = IsEmotion('calm?', ['calm', 'unknown', 'sadness'], max_age_s=MAX_AGE_S)
    with graph.tree(calm) as tree:
        for _ in range(3):
            graph.tick(tree, lambda: graph.show('sadness'), Status.SUCCESS)
    assert len(said) == 1
    assert 'does not know calm, only neutral, happiness, sadness' in said[0]


def test_simulated_time_decides_where_it_is_used(graph: Graph) -> None:
    clock = graph.source.create_publisher(Clock, '/clock', 10)
    graph.robot.set_parameters([Parameter('use_sim_time', value=True)])
    until(lambda: clock.get_subscription_count() > 0)

    def set_clock(to_s: float) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = int(to_s), round(to_s % 1 * 1e9)
        clock.publish(message)
        until(lambda: graph.robot.get_clock().now().nanoseconds == round(to_s * 1e9))

    set_clock(100.0)
    with graph.tree(IsEmotion('sad?', 'sadness', for_s=2.0, max_age_s=MAX_AGE_S)) as tree:

        def shows(what: str) -> bool:
            graph.show('sadness')
            tree.tick()
            return bool(tree.root.feedback_message == f'sadness (0.90) for {what}')

        # Whatever time it really is, between two messages a second passes.
        until(lambda: shows('0.0 s of 2.0 s'))
        set_clock(101.0)
        until(lambda: shows('1.0 s of 2.0 s'))
        assert tree.root.status is Status.FAILURE
        set_clock(102.0)
        until(lambda: shows('2.0 s'))
        time.sleep(1.2 * MAX_AGE_S)
        tree.tick()
        assert tree.root.status is Status.SUCCESS
        set_clock(103.1)
        tree.tick()
        assert tree.root.status is Status.FAILURE
        assert tree.root.feedback_message == 'no emotion for 1.1 s'


def test_fifty_set_ups_leave_nothing_behind(graph: Graph) -> None:
    root = py_trees.composites.Sequence('root', memory=False)
    root.add_children(
        [
            EmotionToBlackboard('hear'),
            IsEmotion('sad?', 'sadness'),
            WaitForEmotion('a smile', 'happiness'),
            EmotionChanged('changed?'),
        ]
    )
    tree = py_trees.trees.BehaviourTree(root)
    before = len(list(graph.robot.subscriptions))
    threads = threading.active_count()
    for _ in range(50):
        tree.setup(node=graph.robot)
        assert len(list(graph.robot.subscriptions)) == before + 4
        tree.tick()
        tree.shutdown()
        tree.shutdown()
        assert len(list(graph.robot.subscriptions)) == before
    # Set up twice without an end between.
    tree.setup(node=graph.robot)
    tree.setup(node=graph.robot)
    assert len(list(graph.robot.subscriptions)) == before + 4
    tree.shutdown()
    until(lambda: graph.source.count_subscribers('/emotion') == 0)
    # gRPC and DDS may have threads of their own: none of ours came to stay.
    assert threading.active_count() <= threads


def test_the_known_labels_are_those_of_the_message() -> None:
    names = [name.upper() for name in KNOWN_LABELS]
    assert [getattr(Emotion, name) for name in names] == list(KNOWN_LABELS)


def test_a_tree_without_a_node_says_so() -> None:
    for behaviour in (
        IsEmotion('sad?', 'sadness'),
        Cooldown('rarely', py_trees.behaviours.Success('done'), 1.0),
    ):
        with pytest.raises(KeyError, match=r'expected a node: tree\.setup\(node='):
            behaviour.setup()
        with pytest.raises(RuntimeError, match=r'expected setup\(node='):
            behaviour.tick_once()


def test_arguments_that_cannot_be_meant_are_refused() -> None:
    for wrong, named in (
        ({'label': ''}, 'label'),
        ({'min_confidence': 1.5}, 'min_confidence'),
        ({'for_s': -1.0}, 'for_s'),
        ({'max_age_s': 0.0}, 'max_age_s'),
    ):
        with pytest.raises(ValueError, match=f'{named} is .*, expected'):
            IsEmotion('x', **{'label': 'sadness', **wrong})
    with pytest.raises(ValueError, match='timeout_s is 0, expected'):
        WaitForEmotion('x', 'sadness', timeout_s=0)


def test_what_was_done_is_not_done_again_before_it_has_rested(graph: Graph) -> None:
    done = py_trees.behaviours.StatusQueue(
        'done', [Status.FAILURE, Status.SUCCESS, Status.RUNNING, Status.SUCCESS], Status.SUCCESS
    )
    rarely = Cooldown('rarely', done, 0.3)
    rarely.setup(node=graph.robot)

    def tick() -> Status:
        rarely.tick_once()
        return rarely.status

    assert (tick(), tick()) == (Status.FAILURE, Status.SUCCESS)
    start_s = time.monotonic()
    assert tick() is Status.FAILURE
    assert rarely.feedback_message.startswith('rests for')
    until(lambda: tick() is not Status.FAILURE)
    # It rested, and the child went on where it was.
    assert time.monotonic() - start_s >= 0.28
    assert rarely.status is Status.RUNNING
    assert (tick(), tick()) == (Status.SUCCESS, Status.FAILURE)
