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
"""The node's parameters: declared from RobotConfig, checked, and some changed while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from ferros.channel import read_access
from ferros.config import Parameter, RobotConfig, check

# Those with files behind them, that are looked at before they are taken over.
ACCESS = frozenset({'tls_ca_file', 'tls_cert_file', 'tls_key_file', 'token_file'})


class Parameters:
    """
    Declares the parameters on a node and refuses values that will not do.

    on_change is called with the new parameters, in the executor's thread, when some were set.
    """

    def __init__(self, node: Node, on_change: Callable[[RobotConfig], None]) -> None:
        self._node = node
        self._on_change = on_change
        node.declare_parameter(
            'autostart',
            True,
            ParameterDescriptor(
                description='configure and activate without being told to', read_only=True
            ),
        )
        for item in fields(RobotConfig):
            description = _descriptor(item.default, item.metadata['parameter'])
            node.declare_parameter(item.name, item.default, description)
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._changed)

    @property
    def autostart(self) -> bool:
        """Tell whether the node is to configure and activate itself."""
        return bool(self._node.get_parameter('autostart').value)

    def read(self) -> RobotConfig:
        """
        Return the parameters as they are now.

        Raises:
            ValueError: one is out of its range, or two contradict each other.

        """
        return RobotConfig(**self._values())

    def _values(self) -> dict[str, Any]:
        return {f.name: self._node.get_parameter(f.name).value for f in fields(RobotConfig)}

    def _check(self, parameters: list[RosParameter]) -> SetParametersResult:
        values = self._values()
        changed = {p.name: p.value for p in parameters if p.name in values}
        try:
            for name, value in changed.items():
                check(name, value)
            # Where they already contradict each other, they have to be mended one by one.
            if changed and _is_valid(values):
                config = RobotConfig(**{**values, **changed})
                if changed.keys() & ACCESS:
                    read_access(config)
        except (ValueError, OSError) as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _changed(self, parameters: list[RosParameter]) -> None:
        values = self._values()
        if any(parameter.name in values for parameter in parameters) and _is_valid(values):
            self._on_change(RobotConfig(**values))


def _is_valid(values: dict[str, Any]) -> bool:
    try:
        RobotConfig(**values)
    except ValueError:
        return False
    return True


def _descriptor(default: Any, rule: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=rule.description, read_only=not rule.live)
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
