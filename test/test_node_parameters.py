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
"""The parameters on a real ROS graph: described, checked, and some changed while it runs."""

from __future__ import annotations

import re
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from node_graph import WAIT_S, Graph, running
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)

from demo import processes
from ferros.config import RobotConfig, parameter

OF_RCLPY = ('qos_overrides', 'use_sim_time', 'start_type_description_service')


def is_happy(graph: Graph) -> bool:
    return graph.newest() is not None and graph.newest().label == 'happiness'


def sent_of_primary(graph: Graph) -> str:
    return graph.heard.diagnostic('link').get('operating_point_0', '')


def ros_parameter(name: str, value: Any) -> Parameter:
    kinds = {
        bool: (ParameterType.PARAMETER_BOOL, 'bool_value'),
        int: (ParameterType.PARAMETER_INTEGER, 'integer_value'),
        float: (ParameterType.PARAMETER_DOUBLE, 'double_value'),
        str: (ParameterType.PARAMETER_STRING, 'string_value'),
    }
    kind, field = kinds[type(value)]
    return Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))


def set_one(graph: Graph, name: str, value: Any) -> tuple[bool, str]:
    """Set a parameter as `ros2 param set` does; return whether it was taken, and why not."""
    request = SetParameters.Request(parameters=[ros_parameter(name, value)])
    result = graph.call(SetParameters, '/emotion_node/set_parameters', request).results[0]
    return result.successful, result.reason


def set_together(graph: Graph, **values: Any) -> tuple[bool, str]:
    parameters = [ros_parameter(name, value) for name, value in values.items()]
    request = SetParametersAtomically.Request(parameters=parameters)
    service = '/emotion_node/set_parameters_atomically'
    result = graph.call(SetParametersAtomically, service, request).result
    return result.successful, result.reason


def value_of(graph: Graph, name: str) -> Any:
    request = GetParameters.Request(names=[name])
    value = graph.call(GetParameters, '/emotion_node/get_parameters', request).values[0]
    return {
        ParameterType.PARAMETER_BOOL: value.bool_value,
        ParameterType.PARAMETER_INTEGER: value.integer_value,
        ParameterType.PARAMETER_DOUBLE: value.double_value,
        ParameterType.PARAMETER_STRING: value.string_value,
    }[value.type]


def test_every_parameter_is_described_ranged_and_documented(
    tmp_path: Path, domain_id: int, root: Path
) -> None:
    in_yaml = yaml.safe_load((root / 'config/robot.yaml').read_text())['/**']['ros__parameters']
    page = (root / 'docs/parameters.md').read_text()
    on_page = set(re.findall(r'^\| `(\w+)` \|', page, re.M)) | {'autostart'}
    with running(tmp_path / 'log', domain_id, autostart=False) as graph:
        listed = graph.call(
            ListParameters, '/emotion_node/list_parameters', ListParameters.Request()
        ).result.names
        ours = [name for name in listed if not name.startswith(OF_RCLPY)]
        assert set(ours) == set(in_yaml) == on_page
        request = DescribeParameters.Request(names=ours)
        service = '/emotion_node/describe_parameters'
        described = graph.call(DescribeParameters, service, request).descriptors
        for name in set(ours) - {'autostart'}:
            assert value_of(graph, name) == in_yaml[name], name
    by_name = {descriptor.name: descriptor for descriptor in described}
    assert by_name.pop('autostart').read_only
    for item in fields(RobotConfig):
        descriptor, rule = by_name.pop(item.name), parameter(item.name)
        assert descriptor.description == rule.description
        assert descriptor.read_only is not rule.live, item.name
        if rule.minimum is not None:
            ranges = descriptor.integer_range or descriptor.floating_point_range
            assert ranges or f'to {rule.maximum:g}' in descriptor.additional_constraints
    assert by_name == {}


def test_what_is_out_of_range_contradictory_or_read_only_is_refused_and_the_old_value_stays(
    tmp_path: Path, domain_id: int, server_address: str
) -> None:
    refused: list[tuple[str, Any, str]] = [
        ('publish_rate_hz', 0.0, 'publish_rate_hz'),
        ('publish_rate_hz', 1000.0, 'publish_rate_hz'),
        ('max_faces', 0, 'max_faces'),
        ('max_faces', 3.0, 'type'),
        ('face_size_px', 5, 'face_size_px is 5, expected 0 or 12 to 224'),
        ('codec', 'gif', "codec is 'gif', expected one of auto, jpeg, webp"),
        ('max_age_ms', 300, 'expected fallback_after_ms to be smaller'),
        ('server_address', 'nowhere', "server_address is 'nowhere', expected host:port"),
        ('server_address', 'cloud.example.org:1', 'set tls_ca_file'),
        ('tls_ca_file', '/nowhere/ca.crt', '/nowhere/ca.crt'),
        ('image_transport', 'compressed', 'read-only'),
        ('detector', 'yunet', 'read-only'),
        ('autostart', False, 'read-only'),
    ]
    with running(tmp_path / 'log', domain_id, server_address=server_address) as graph:
        graph.wait_for_node()
        for name, value, reason in refused:
            before = value_of(graph, name)
            successful, said = set_one(graph, name, value)
            assert not successful, name
            assert reason in said, (name, said)
            assert value_of(graph, name) == before
        # Of several at once none is taken.
        successful, said = set_together(graph, max_faces=2, publish_rate_hz=-1.0)
        assert not successful
        assert value_of(graph, 'max_faces') == 8


def test_rates_pins_and_thresholds_hold_at_once(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any
) -> None:
    with running(tmp_path / 'log', domain_id, server_address=server_address) as graph:
        graph.wait_for_node()
        graph.publish_until(happy, lambda: is_happy(graph))
        assert set_one(graph, 'face_size_px', 24)[0]
        assert set_one(graph, 'codec', 'jpeg')[0]
        graph.publish_until(
            happy,
            lambda: ' jpeg ' in sent_of_primary(graph)
            and sent_of_primary(graph).startswith('24 px'),
        )
        assert set_one(graph, 'min_confidence', 1.0)[0]
        graph.publish_until(
            happy,
            lambda: graph.newest().label == 'unknown' and graph.newest().confidence > 0.3,
        )
        assert set_one(graph, 'min_confidence', 0.0)[0]
        graph.publish_until(happy, lambda: is_happy(graph))
        assert set_one(graph, 'publish_rate_hz', 1.0)[0]
        time.sleep(1.1)
        started_s, before = time.monotonic(), len(graph.heard.emotions)
        graph.publish_until(happy, lambda: len(graph.heard.emotions) >= before + 3)
        assert time.monotonic() - started_s > 1.5


def test_the_server_can_be_changed_while_the_node_runs(
    tmp_path: Path, domain_id: int, server_address: str, happy: Any
) -> None:
    environment = processes.environment(domain_id)
    log = tmp_path / 'log'
    with (
        processes.server(tmp_path / 'second.log', environment) as (second, _),
        running(log, domain_id, server_address=server_address, fallback=False) as graph,
    ):
        graph.wait_for_node()
        graph.publish_until(happy, lambda: is_happy(graph))
        assert set_one(graph, 'server_address', second) == (True, '')
        graph.publish_until(
            happy, lambda: log.read_text().count('connected to the server') == 2
        )
        graph.publish_until(happy, lambda: is_happy(graph))
        # There is nobody at the next one: the faces are unknown, and the first one takes over.
        assert set_one(graph, 'server_address', '127.0.0.1:9')[0]
        graph.publish_until(happy, lambda: graph.newest().label == 'unknown')
        assert set_together(graph, server_address=server_address, max_faces=2)[0]
        graph.publish_until(happy, lambda: is_happy(graph))


def test_parameters_that_contradict_each_other_can_be_mended_before_it_is_configured(
    tmp_path: Path, domain_id: int, server_address: str
) -> None:
    with running(
        tmp_path / 'log',
        domain_id,
        server_address=server_address,
        autostart=False,
        fallback_after_ms=2000,
    ) as graph:
        assert not graph.change(1)
        assert set_one(graph, 'fallback_after_ms', 300)[0]
        assert graph.change(1)
        assert graph.state() == 'inactive'
        # While it is inactive, too: they hold when it is active.
        assert set_one(graph, 'publish_rate_hz', 2.0)[0]
        assert not set_one(graph, 'max_age_ms', 200)[0]
        assert graph.change(3)


@pytest.mark.parametrize(
    ('parameters', 'named'),
    [
        ({'face_size_px': 5}, 'face_size_px is 5, expected 0 or 12 to 224'),
        ({'publish_rate_hz': 0.0}, 'publish_rate_hz'),
        ({'max_faces': 'many'}, 'max_faces'),
    ],
)
def test_a_node_that_is_started_with_what_will_not_do_says_so_and_ends(
    tmp_path: Path, domain_id: int, parameters: dict[str, object], named: str
) -> None:
    log = tmp_path / 'log'
    with processes.node(log, processes.environment(domain_id), **parameters) as node:
        assert node.wait(WAIT_S) == 1, log.read_text()
    assert named in log.read_text()
    assert 'Traceback' not in log.read_text()
