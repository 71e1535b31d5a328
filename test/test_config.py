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
from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

from ferros.config import RobotConfig, parameter
from ferros.types import Codec


def test_the_defaults_are_a_valid_configuration() -> None:
    assert RobotConfig().wire_codec is Codec.WEBP


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('frame_rate_fps', 0.0, '0.1 to 60'),
        ('frame_rate_fps', math.nan, '0.1 to 60'),
        ('frame_rate_fps', 15, 'float'),
        ('face_size_px', 4096, '12 to 224'),
        ('codec', 'png', 'jpeg, webp'),
        ('detector', 'dlib', 'haar, yunet'),
        ('detector', 'yunet', 'detector_model'),
        ('server_address', 'localhost', 'host:port'),
        ('server_address', 'localhost:0', 'host:port'),
        ('server_address', 'cloud.example.org:50051', 'insecure'),
        ('server_address', '127.0.0.1.example.org:50051', 'insecure'),
        ('camera', 'c' * 65, '64 characters'),
        ('insecure', 'yes', 'bool'),
    ],
)
def test_a_bad_parameter_is_refused_with_its_value_and_what_was_expected(
    name: str, value: Any, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        RobotConfig(**{name: value})
    assert repr(value) in str(caught.value)


def test_every_parameter_says_what_it_means() -> None:
    for item in fields(RobotConfig):
        assert len(parameter(item.name).description) > 10


@pytest.mark.parametrize('address', ['127.0.0.1:1', 'localhost:50051', '[::1]:50051'])
def test_this_machine_needs_no_encryption(address: str) -> None:
    assert RobotConfig(server_address=address).server_address == address
