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
An example of a behaviour tree over `emotion`: comfort somebody who looks upset.

    ros2 run ferros comfort_behaviour
    ros2 run ferros comfort_behaviour --ros-args -p for_s:=1.0 -p text:="Is everything all right?"

When the primary face has looked sad, angry or afraid for a while, it says so on `speech`
(std_msgs/String) and then leaves the person alone for a while. The tree is printed when it
changes. The exit status is 0, or 2 where a parameter is no good or py_trees is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

try:
    from ferros.behaviours import Cooldown, IsEmotion
except ImportError as missing:
    print(f'comfort_behaviour: {missing}', file=sys.stderr)
    raise SystemExit(2) from missing
import py_trees
import rclpy
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String

from ferros.stop import Stop

# How long the end is not noticed at most.
LONGEST_SPIN_S = 0.1

# Each with its default, its description and, for a number, its range.
PARAMETERS: dict[str, tuple[Any, str, tuple[float, float] | None]] = {
    'labels': (['sadness', 'anger', 'fear'], 'labels that ask for comfort', None),
    'min_confidence': (0.5, 'a label that is less sure does not count', (0.0, 1.0)),
    'for_s': (2.0, 'for how long one face has to show them', (0.0, 60.0)),
    'max_age_s': (1.0, 'the age above which an emotion does not count', (0.05, 60.0)),
    'cooldown_s': (30.0, 'how long nothing is said after it was said', (0.0, 3600.0)),
    'text': ('offer comfort', 'what is said on `speech`', None),
    'tick_rate_hz': (10.0, 'how often the tree is ticked', (0.1, 100.0)),
}


class Say(py_trees.behaviour.Behaviour):
    """Publishes a text on `speech`; SUCCESS at once."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name)
        self._text = text

    def setup(self, **kwargs: Any) -> None:
        """Make the publisher."""
        self._node = kwargs['node']
        self._publisher = self._node.create_publisher(String, 'speech', 10)

    def update(self) -> py_trees.common.Status:
        """Say it."""
        self._publisher.publish(String(data=self._text))
        self.feedback_message = self._text
        return py_trees.common.Status.SUCCESS

    def shutdown(self) -> None:
        """Destroy the publisher."""
        if hasattr(self, '_publisher'):
            self._node.destroy_publisher(self._publisher)
            del self._publisher


class Comfort(Node):
    """The node: it ticks the tree, on its clock."""

    def __init__(self) -> None:
        super().__init__('comfort_behaviour')
        values = {name: _declare(self, name) for name in PARAMETERS}
        self.tree = py_trees.trees.BehaviourTree(make_tree(values))
        self._snapshot = py_trees.visitors.SnapshotVisitor()
        self.tree.visitors.append(self._snapshot)
        self.tree.setup(node=self)
        self.create_timer(1 / values['tick_rate_hz'], self._tick)

    def _tick(self) -> None:
        self.tree.tick()
        if self._snapshot.changed:
            print(py_trees.display.unicode_tree(self.tree.root, show_status=True), flush=True)


def make_tree(values: dict[str, Any]) -> py_trees.behaviour.Behaviour:
    """Return the root of the tree; raises ValueError where a parameter is no good."""
    upset = IsEmotion(
        'upset?',
        values['labels'],
        min_confidence=values['min_confidence'],
        for_s=values['for_s'],
        max_age_s=values['max_age_s'],
    )
    comfort = py_trees.composites.Sequence('comfort', memory=False)
    comfort.add_children([upset, Say('say', values['text'])])
    root = py_trees.composites.Selector('company', memory=False)
    root.add_children(
        [
            Cooldown('not too often', comfort, values['cooldown_s']),
            py_trees.behaviours.Running('be there'),
        ]
    )
    return root


def _declare(node: Node, name: str) -> Any:
    default, description, limits = PARAMETERS[name]
    descriptor = ParameterDescriptor(description=description, read_only=True)
    if limits is not None:
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=limits[0], to_value=limits[1], step=0.0)
        ]
    return node.declare_parameter(name, default, descriptor).value


def main(args: Sequence[str] | None = None) -> int:
    """Run the executable and return its exit status."""
    # rclpy's own handlers would end the context under a tick that is under way.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    stop = Stop()
    try:
        _run(stop)
    except (ParameterException, ValueError) as error:
        print(f'comfort_behaviour: {error}', file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
        stop.finish()
    return 0


def _run(stop: Stop) -> None:
    node = Comfort()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stop.is_set():
            executor.spin_once(timeout_sec=LONGEST_SPIN_S)
    finally:
        node.tree.shutdown()
        executor.shutdown()
        node.destroy_node()


if __name__ == '__main__':
    sys.exit(main())
