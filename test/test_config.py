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
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from ferros.config import RobotConfig, check, parameter
from ferros.types import Codec


def test_by_default_nothing_is_pinned_and_no_data_are_counted() -> None:
    config = RobotConfig()
    assert config.wire_codec is None
    assert (config.face_size_px, config.frame_rate_fps, config.quality) == (0, 0.0, 0)
    assert config.data_limit_bytes_per_s == math.inf
    assert (config.accuracy_grid_file, config.trace_file) == ('', '')


@pytest.mark.parametrize(
    ('name', 'codec'), [('jpeg', Codec.JPEG), ('webp', Codec.WEBP), ('auto', None)]
)
def test_the_codec_is_named_as_on_the_wire(name: str, codec: Codec | None) -> None:
    assert RobotConfig(codec=name).wire_codec is codec


@pytest.mark.parametrize(
    ('limits', 'bytes_per_s'),
    [
        ({'data_limit_kbit_per_s': 64.0}, 8000),
        ({'data_limit_mb_per_h': 3.6}, 1000),
        ({'data_limit_kbit_per_s': 64.0, 'data_limit_mb_per_h': 3.6}, 1000),
        ({'data_limit_kbit_per_s': 1.0, 'data_limit_mb_per_h': 3.6}, 125),
    ],
)
def test_of_two_data_limits_the_tighter_one_counts(
    limits: dict[str, float], bytes_per_s: float
) -> None:
    assert RobotConfig(**limits).data_limit_bytes_per_s == pytest.approx(bytes_per_s)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ('name', 'unset', 'least', 'most'),
    [
        ('face_size_px', 0, 12, 224),
        ('frame_rate_fps', 0.0, 0.1, 60.0),
        ('quality', 0, 1, 100),
        ('data_limit_kbit_per_s', 0.0, 1.0, 1e6),
        ('data_limit_mb_per_h', 0.0, 0.5, 1e6),
    ],
)
def test_a_parameter_may_be_unset_or_within_its_bounds_and_nothing_between(
    name: str, unset: float, least: float, most: float
) -> None:
    for value in (unset, least, most):
        assert getattr(RobotConfig(**{name: value}), name) == value  # type: ignore[arg-type]
    for value in (-least, type(least)(least / 2) or -1, most + least):
        with pytest.raises(ValueError, match=f'{name} is {value!r}, expected 0 or ') as caught:
            check(name, value)
        assert f'{least:g} to {most:g}' in str(caught.value)


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('frame_rate_fps', 0.05, '0 or 0.1 to 60'),
        ('frame_rate_fps', math.nan, '0 or 0.1 to 60'),
        ('frame_rate_fps', 15, 'float'),
        ('face_size_px', 4096, '0 or 12 to 224'),
        ('data_limit_kbit_per_s', math.inf, '0 or 1 to 1e\\+06'),
        ('data_limit_mb_per_h', -1.0, '0 or 0.5 to 1e\\+06'),
        ('stale_after_ms', 0, '50 to 60000'),
        ('max_age_ms', 49, '50 to 60000'),
        ('max_faces', 65, '1 to 64'),
        ('trace_file', None, 'str'),
        ('codec', 'png', 'auto, jpeg, webp'),
        ('detector', 'dlib', 'haar, yunet'),
        ('detector', 'yunet', 'detector_model'),
        ('server_address', 'localhost', 'host:port'),
        ('server_address', 'localhost:0', 'host:port'),
        ('server_address', 'cloud.example.org:50051', 'insecure'),
        ('server_address', 'cloud.example.org:50051', 'tls_ca_file'),
        ('server_address', '127.0.0.1.example.org:50051', 'insecure'),
        ('tls_cert_file', 'robot.crt', 'tls_key_file, expected both or none'),
        ('tls_key_file', 'robot.key', 'tls_cert_file, expected both or none'),
        ('tls_ca_file', True, 'str'),
        ('token_file', None, 'str'),
        ('camera', 'c' * 65, '64 characters'),
        ('insecure', 'yes', 'bool'),
        ('faces_from', 'radio', 'one of camera, rep155'),
        ('detect_every_n_frames', 0, '1 to 300'),
        ('primary_area_ratio', 0.9, '1 to 10'),
        ('min_confidence', 0.001, '0 or 0.01 to 1'),
        ('fallback_cpu_share', 0.0, '0.01 to 1'),
        ('fallback_after_ms', 1000, 'and max_age_ms 1000, expected fallback_after_ms to be'),
        ('max_age_ms', 350, 'max_age_ms 350, expected fallback_after_ms to be smaller'),
        ('rep155_prefix', 'humans', 'an absolute name such as /humans'),
        ('rep155_prefix', '/humans/', 'an absolute name such as /humans'),
        ('publish_rep155', 1, 'bool'),
    ],
)
def test_a_bad_parameter_is_refused_with_its_value_and_what_was_expected(
    name: str, value: Any, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        RobotConfig(**{name: value})
    assert repr(value) in str(caught.value)


def test_faces_cannot_come_from_rep155_topics_and_go_there() -> None:
    with pytest.raises(ValueError, match='expected one of the two'):
        RobotConfig(publish_rep155=True, faces_from='rep155')


def test_without_the_fallback_its_times_contradict_nothing() -> None:
    assert RobotConfig(fallback=False, max_age_ms=200).max_age_ms == 200


def test_the_page_of_the_parameters_is_made_from_the_code(root: Path) -> None:
    made = subprocess.run(
        [sys.executable, '-c', 'from tools.make_parameters import text; print(text(), end="")'],
        cwd=root, capture_output=True, text=True, check=True,
    ).stdout
    assert made == (root / 'docs/parameters.md').read_text(), 'python -m tools.make_parameters'


def test_every_parameter_says_what_it_means() -> None:
    for item in fields(RobotConfig):
        assert len(parameter(item.name).description) > 10


def test_the_parameter_file_documents_every_parameter_with_its_default(root: Path) -> None:
    content = yaml.safe_load((root / 'config/robot.yaml').read_text())
    documented = content['/**']['ros__parameters']
    # The node's own, which is no matter of the configuration.
    assert documented.pop('autostart') is True
    defaults = {item.name: item.default for item in fields(RobotConfig)}
    assert documented == defaults
    # ROS refuses an integer where the parameter is a float.
    for name, value in defaults.items():
        assert type(documented[name]) is type(value), name


@pytest.mark.parametrize('address', ['127.0.0.1:1', 'localhost:50051', '[::1]:50051'])
def test_this_machine_needs_no_encryption(address: str) -> None:
    assert RobotConfig(server_address=address).server_address == address


@pytest.mark.parametrize('means', [{'tls_ca_file': 'ca.crt'}, {'insecure': True}])
def test_another_machine_needs_encryption_or_the_word_that_none_is_meant(
    means: dict[str, Any],
) -> None:
    config = RobotConfig(server_address='cloud.example.org:50051', token_file='token', **means)
    assert config.is_encrypted is ('tls_ca_file' in means)


def test_a_token_goes_unencrypted_to_another_machine_only_where_that_is_meant() -> None:
    with pytest.raises(ValueError, match='tls_ca_file'):
        RobotConfig(server_address='cloud.example.org:50051', token_file='token')
    assert 'insecure' in parameter('token_file').description


def test_a_certificate_is_shown_over_tls_only() -> None:
    with pytest.raises(ValueError, match='without tls_ca_file') as caught:
        RobotConfig(tls_cert_file='a.crt', tls_key_file='a.key')
    assert str(caught.value).startswith("tls_cert_file is 'a.crt'")
    assert "'system'" in str(caught.value)
