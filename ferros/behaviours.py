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
Behaviours for py_trees over the topic `emotion`: what is decided is in emotion_memory.py.

They take a node from setup(node=...), as those of py_trees_ros do, and so work in its trees and in
plain ones. Somebody has to spin the node; messages are noted as they come, so what a behaviour saw
before it was ticked counts too. Ages are those since arrival, on the node's clock (`use_sim_time`
is honoured). shutdown() ends the subscription.

    import py_trees
    from ferros.behaviours import IsEmotion

    root = py_trees.composites.Sequence('cheer up', memory=True)
    root.add_children([IsEmotion('sad?', 'sadness', for_s=2.0), TellAJoke()])
    tree = py_trees.trees.BehaviourTree(root)
    tree.setup(node=node)
    node.create_timer(0.1, tree.tick)
    rclpy.spin(node)
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from typing import Any

try:
    import py_trees
except ImportError as error:
    raise ImportError(
        f'ferros.behaviours: {error}; install it with `sudo apt install '
        'ros-$ROS_DISTRO-py-trees` or, without ROS, `pip install py_trees`'
    ) from error
from ferros_msgs.msg import Emotion
from py_trees.common import Access, Status
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from ferros.emotion_memory import (
    Change,
    Changes,
    Newest,
    Seen,
    Shown,
    check_labels,
    check_share,
    check_time_ns,
)
from ferros.types import UNKNOWN

# As the node publishes: reliable, and volatile, because an emotion of before is none of now.
EMOTION_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE
)


class EmotionBehaviour(py_trees.behaviour.Behaviour):
    """
    What the behaviours have in common: a subscription to `emotion` from setup() to shutdown().

    Args:
        name: of the behaviour.
        topic: ferros_msgs/Emotion; relative to the node's namespace, and remapped by it.
        qos_profile: a publisher that is best effort (a relay) is only heard with a profile that
            is best effort, too.

    """

    def __init__(self, name: str, topic: str, qos_profile: QoSProfile) -> None:
        super().__init__(name)
        self.topic = topic
        self.qos_profile = qos_profile
        self.node: Any = None
        self._subscription: Any = None
        # Messages may come on another thread than the ticks.
        self._guard = threading.Lock()

    def setup(self, **kwargs: Any) -> None:
        """
        Subscribe.

        Raises:
            KeyError: there is no node in kwargs.

        """
        if 'node' not in kwargs:
            raise KeyError(f'{self.name}: expected a node: tree.setup(node=...)')
        self.shutdown()
        self.node = kwargs['node']
        self._subscription = self.node.create_subscription(
            Emotion, self.topic, self._on_message, self.qos_profile
        )

    def shutdown(self) -> None:
        """End the subscription; setup() may follow."""
        if self._subscription is not None:
            self.node.destroy_subscription(self._subscription)
            self._subscription = None

    def _on_message(self, message: Emotion) -> None:
        now_ns = self._now_ns()
        seen = Seen(
            now_ns, message.face_id if message.face_detected else '', message.label,
            message.confidence,
        )
        with self._guard:
            self._see(seen, message)

    def _see(self, seen: Seen, message: Emotion) -> None:
        """Note a message; called under the guard."""
        raise NotImplementedError

    def _now_ns(self) -> int:
        """Return the time of the node's clock; without setup() there is none."""
        if self.node is None:
            raise RuntimeError(f'{self.name}: expected setup(node=...) before the first tick')
        return int(self.node.get_clock().now().nanoseconds)


class EmotionToBlackboard(EmotionBehaviour):
    """
    Writes the newest emotion to the blackboard.

    RUNNING until the first message, SUCCESS while the newest is no older than max_age_s, FAILURE
    when it is (py_trees_ros's ToBlackboard would go on with the old one). A message that came
    before the behaviour was entered counts. Keys, with the prefix `emotion`:

    * `emotion`: the ferros_msgs/Emotion; None where there is none, or the newest is too old.
    * `emotion/label`, `emotion/face_id`: empty without a face, or without a message.
    * `emotion/confidence`, `emotion/valence`, `emotion/arousal`: 0 and NaN without them.
    * `emotion/source`: Emotion.NONE, CLOUD or ROBOT.
    * `emotion/age_s`: since the image arrived at emotion_node: the message's age and the time
      since the message came; inf without a message.

    Example:
        to_blackboard = EmotionToBlackboard('emotion to blackboard', max_age_s=0.5)
        cheerful = py_trees.behaviours.CheckBlackboardVariableValue(
            'pleased?', py_trees.common.ComparisonExpression('emotion/valence', 0.3, operator.gt)
        )

    """

    def __init__(
        self,
        name: str,
        topic: str = 'emotion',
        key_prefix: str = 'emotion',
        max_age_s: float = 1.0,
        qos_profile: QoSProfile = EMOTION_QOS,
    ) -> None:
        super().__init__(name, topic, qos_profile)
        self._newest = Newest(check_time_ns('max_age_s', max_age_s))
        self._message: Emotion | None = None
        self._prefix = key_prefix
        self.blackboard = self.attach_blackboard_client(name)
        for key in _values(None, math.inf):
            self.blackboard.register_key(f'{key_prefix}{key}', Access.WRITE)
        self._write(None, math.inf)

    def update(self) -> Status:
        """Write what is known now."""
        now_ns = self._now_ns()
        with self._guard:
            seen, message = self._newest.at(now_ns), self._message
        if seen is None or message is None:
            self._write(None, math.inf)
            self.feedback_message = self._newest.why_none(now_ns)
            return Status.RUNNING if message is None else Status.FAILURE
        age_s = message.age.sec + (message.age.nanosec + now_ns - seen.arrived_ns) / 1e9
        self._write(message, age_s)
        self.feedback_message = f'{message.label or "no face"}, {age_s:.2f} s old'
        return Status.SUCCESS

    def _see(self, seen: Seen, message: Emotion) -> None:
        self._newest.see(seen)
        self._message = message

    def _write(self, message: Emotion | None, age_s: float) -> None:
        for key, value in _values(message, age_s).items():
            self.blackboard.set(f'{self._prefix}{key}', value)


def _values(message: Emotion | None, age_s: float) -> dict[str, Any]:
    """Return the values by what follows the prefix in their keys."""
    # A message that was never filled says the same as none, except for what is not known.
    fields = Emotion(valence=math.nan, arousal=math.nan) if message is None else message
    names = ('label', 'confidence', 'valence', 'arousal', 'face_id', 'source')
    values = {f'/{name}': getattr(fields, name) for name in names}
    return {'': message, **values, '/age_s': age_s}


class IsEmotion(EmotionBehaviour):
    """
    SUCCESS while the primary face shows a label, FAILURE otherwise; never RUNNING.

    Args:
        name: of the behaviour.
        label: one label, or several of which any will do.
        min_confidence: 0 to 1; a message that is less sure counts as another label.
        for_s: for how long the same face has to have shown it without interruption: another
            label, another face, no face or a pause of more than max_age_s begin anew.
        max_age_s: FAILURE when the newest message is older.
        topic: see EmotionBehaviour.
        qos_profile: see EmotionBehaviour.

    Raises:
        ValueError: an argument is out of its range; the text names it.

    Example:
        IsEmotion('upset?', ['sadness', 'anger', 'fear'], min_confidence=0.6, for_s=2.0)

    """

    def __init__(
        self,
        name: str,
        label: str | Iterable[str],
        min_confidence: float = 0.5,
        for_s: float = 0.0,
        max_age_s: float = 1.0,
        topic: str = 'emotion',
        qos_profile: QoSProfile = EMOTION_QOS,
    ) -> None:
        super().__init__(name, topic, qos_profile)
        self.labels = check_labels(label)
        self._shown = Shown(
            self.labels,
            check_share('min_confidence', min_confidence),
            check_time_ns('for_s', for_s, may_be_0=True),
            check_time_ns('max_age_s', max_age_s),
        )
        self._warned = False

    def update(self) -> Status:
        """Tell whether it is so now; feedback_message says why."""
        now_ns = self._now_ns()
        with self._guard:
            holds, self.feedback_message = self._shown.at(now_ns)
        return Status.SUCCESS if holds else Status.FAILURE

    def _see(self, seen: Seen, message: Emotion) -> None:
        self._shown.see(seen)
        strange = [name for name in self.labels if name not in (*message.labels, UNKNOWN)]
        if strange and message.labels and not self._warned:
            self._warned = True
            self.node.get_logger().warning(
                f'{self.name}: the model {message.model} does not know {", ".join(strange)}, '
                f'only {", ".join(message.labels)}'
            )


class WaitForEmotion(IsEmotion):
    """
    RUNNING until the primary face shows a label, then SUCCESS; FAILURE after timeout_s.

    Args:
        name, label, min_confidence, for_s, max_age_s, topic, qos_profile: those of IsEmotion. What
            was shown before the behaviour was entered counts, if it goes on.
        timeout_s: from the first tick, on the node's clock; None: for ever.

    Example:
        WaitForEmotion('a smile', 'happiness', for_s=0.5, timeout_s=20.0)

    """

    def __init__(
        self, name: str, label: str | Iterable[str], *, timeout_s: float | None = None, **like: Any
    ) -> None:
        super().__init__(name, label, **like)
        self._timeout_ns = None if timeout_s is None else check_time_ns('timeout_s', timeout_s)
        self._entered_ns: int | None = None

    def initialise(self) -> None:
        """Begin to count the time."""
        self._entered_ns = None

    def update(self) -> Status:
        """Tell whether it is so now, or the time is up."""
        if super().update() is Status.SUCCESS:
            return Status.SUCCESS
        now_ns = self._now_ns()
        # A clock that was set back makes no wait longer than the timeout from then.
        if self._entered_ns is None or now_ns < self._entered_ns:
            self._entered_ns = now_ns
        if self._timeout_ns is None or now_ns - self._entered_ns < self._timeout_ns:
            return Status.RUNNING
        waited = f'in vain for {self._timeout_ns / 1e9:g} s'
        self.feedback_message = f'{waited}: {self.feedback_message}'
        return Status.FAILURE


class EmotionChanged(EmotionBehaviour):
    """
    SUCCESS once when the settled label of the primary face becomes another one, else FAILURE.

    `change` then holds the labels `before` and `after`. Of several changes between two ticks only
    the last counts, and one that happened more than max_age_s before the tick is forgotten. The
    first label of a face is no change: another person begins anew.

    Args:
        name: of the behaviour.
        min_confidence: 0 to 1; a message that is less sure counts as `unknown`.
        for_s: for how long a face has to show a label until it is settled.
        max_age_s: a longer pause between messages begins anew.
        with_unknown: whether `unknown`, and that nobody is there (the empty label), are labels as
            well; else they say nothing, and happiness, unknown, happiness is no change.
        topic: see EmotionBehaviour.
        qos_profile: see EmotionBehaviour.

    Raises:
        ValueError: an argument is out of its range; the text names it.

    Example:
        py_trees.composites.Sequence('react', memory=True, children=[
            EmotionChanged('changed?', for_s=1.0), Nod()
        ])

    """

    def __init__(
        self,
        name: str,
        min_confidence: float = 0.5,
        for_s: float = 0.5,
        max_age_s: float = 1.0,
        with_unknown: bool = False,
        topic: str = 'emotion',
        qos_profile: QoSProfile = EMOTION_QOS,
    ) -> None:
        super().__init__(name, topic, qos_profile)
        self.change: Change | None = None
        self._changes = Changes(
            check_share('min_confidence', min_confidence),
            check_time_ns('for_s', for_s, may_be_0=True),
            check_time_ns('max_age_s', max_age_s),
            with_unknown,
        )

    def update(self) -> Status:
        """Tell whether there was a change since the last tick."""
        now_ns = self._now_ns()
        with self._guard:
            self.change = self._changes.take(now_ns)
            why_none = self._changes.why_none(now_ns)
        if self.change is None:
            self.feedback_message = why_none
            return Status.FAILURE
        _, before, after = self.change
        self.feedback_message = f'from {before or "nobody"} to {after or "nobody"}'
        return Status.SUCCESS

    def _see(self, seen: Seen, message: Emotion) -> None:
        self._changes.see(seen)


class Cooldown(py_trees.decorators.Decorator):
    """
    Passes its child's status on, but after a SUCCESS is FAILURE for a while, the child unticked.

    Args:
        name: of the decorator.
        child: what is not to happen too often.
        cooldown_s: how long it rests, on the node's clock.

    Example:
        Cooldown('not too often', py_trees.composites.Sequence('comfort', memory=True, children=[
            IsEmotion('sad?', 'sadness', for_s=2.0), OfferComfort()
        ]), cooldown_s=30.0)

    """

    def __init__(self, name: str, child: py_trees.behaviour.Behaviour, cooldown_s: float) -> None:
        super().__init__(name=name, child=child)
        self._cooldown_ns = check_time_ns('cooldown_s', cooldown_s, may_be_0=True)
        self._rested_from_ns: int | None = None
        self._node: Any = None

    def setup(self, **kwargs: Any) -> None:
        """Take the node for its clock; KeyError where there is none in kwargs."""
        if 'node' not in kwargs:
            raise KeyError(f'{self.name}: expected a node: tree.setup(node=...)')
        self._node = kwargs['node']

    def tick(self) -> Iterator[py_trees.behaviour.Behaviour]:
        """Tick the child unless it rests."""
        if self._rest_ns() > 0:
            # As a plain behaviour, whose children are not ticked.
            yield from py_trees.behaviour.Behaviour.tick(self)
        else:
            self._rested_from_ns = None
            yield from super().tick()

    def update(self) -> Status:
        """Return the child's status, and begin to rest after its SUCCESS."""
        rest_ns = self._rest_ns()
        if rest_ns > 0:
            self.feedback_message = f'rests for {rest_ns / 1e9:.0f} s more'
            return Status.FAILURE
        self.feedback_message = self.decorated.feedback_message
        if self.decorated.status is Status.SUCCESS:
            self._rested_from_ns = self._now_ns()
        return self.decorated.status

    def _rest_ns(self) -> int:
        """Return for how long it still rests; a clock that was set back ends the rest."""
        if self._rested_from_ns is None or (now_ns := self._now_ns()) < self._rested_from_ns:
            return 0
        return max(0, self._rested_from_ns + self._cooldown_ns - now_ns)

    def _now_ns(self) -> int:
        if self._node is None:
            raise RuntimeError(f'{self.name}: expected setup(node=...) before the first tick')
        return int(self._node.get_clock().now().nanoseconds)
