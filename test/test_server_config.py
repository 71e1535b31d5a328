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

from pathlib import Path

import pytest

from cloud_server import config
from cloud_server.config import ConfigError, ServerConfig

ROOT = Path(__file__).resolve().parent.parent


def load(flags=None, environment=None, path=None) -> ServerConfig:
    return config.load(flags or {}, environment or {}, path)


def test_nothing_given_means_the_defaults():
    assert load({'port': None, 'insecure': None}) == ServerConfig()


def test_the_example_file_lists_every_setting_but_the_model_with_its_default():
    path = ROOT / 'config' / 'server.yaml'
    assert load(path=path) == ServerConfig()
    text = path.read_text()
    assert [name for name in config.ABOUT if f'\n{name}:' not in text] == ['model']


def test_a_flag_goes_over_the_environment_and_that_over_the_file(tmp_path):
    path = tmp_path / 'server.yaml'
    path.write_text('port: 1\nthreads: 2\nslots: 3\nmax_frame_rate_fps: 5\n')
    environment = {'FERROS_PORT': '11', 'FERROS_THREADS': '12', 'FERROS_TEST_DATA': 'not ours'}
    loaded = load({'port': '21'}, environment, path)
    assert (loaded.port, loaded.threads, loaded.slots) == (21, 12, 3)
    assert loaded.max_frame_rate_fps == 5.0


@pytest.mark.parametrize(
    ('flags', 'environment'), [({'precision': 'int8'}, {}), ({}, {'FERROS_PRECISION': 'int8'})]
)
def test_the_precision_of_the_encoder_is_a_setting(flags, environment):
    assert load().precision == 'fp32'
    assert load(flags, environment).precision == 'int8'


def test_a_precision_that_nothing_computes_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError) as error:
        load({'precision': 'int4'})
    assert str(error.value) == (
        "precision is 'int4', expected one of ('fp32', 'int8') with the engine onnx"
    )


@pytest.mark.parametrize(
    ('flags', 'problem'),
    [
        ({'tls_cert_file': 'c.pem'}, 'tls_cert_file is set without tls_key_file'),
        ({'tls_key_file': 'k.pem'}, 'tls_key_file is set without tls_cert_file'),
        ({'tls_client_ca_file': 'ca.pem'}, 'tls_client_ca_file is set without tls_cert_file'),
        ({'engine': 'tpu'}, "engine is 'tpu', expected one of ('onnx', 'torch', 'ray')"),
        ({'precision': 'bf16'}, "precision is 'bf16', expected one of ('fp32', 'int8') with"),
        ({'log_format': 'xml'}, "log_format is 'xml', expected one of ('text', 'json')"),
        ({'ray_min_replicas': '3', 'ray_max_replicas': '2'}, 'expected at most ray_max_replicas'),
        ({'host': '0.0.0.0', 'token_file': 'tokens'}, 'without encryption'),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_the_reason(flags, problem):
    with pytest.raises(ConfigError) as error:
        load(flags)
    assert problem in str(error.value)
    assert len(error.value.problems) == 1


def test_an_encrypted_server_may_listen_to_other_machines():
    loaded = load({'host': '0.0.0.0', 'tls_cert_file': 'c.pem', 'tls_key_file': 'k.pem'})
    assert loaded.tls_cert_file == Path('c.pem')
    assert load({'host': '0.0.0.0', 'insecure': True}).insecure


def test_all_that_is_wrong_is_said_at_once_with_its_source(tmp_path):
    path = tmp_path / 'server.yaml'
    path.write_text('threads: 0\nprot: 1\ninsecure: maybe\ncredits: 1.5\n')
    with pytest.raises(ConfigError) as error:
        load({'port': 'many'}, {'FERROS_DRAIN_MS': '-1', 'FERROS_HOST': '10.0.0.1'}, path)
    assert error.value.problems == [
        f"{path}: 'prot' is not a setting",
        f"{path}: insecure is 'maybe', expected true or false",
        f'{path}: credits is 1.5, expected a whole number',
        "--port: port is 'many', expected a whole number",
        'drain_ms is -1, expected 0 to 600000',
        'threads is 0, expected 1 to 1024',
        "host is '10.0.0.1', which other machines can reach, without encryption:"
        ' set tls_cert_file and tls_key_file, use 127.0.0.1, or say that this is meant with'
        ' --insecure',
    ]


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('- a list', 'expected `setting: value` lines'),
        ('a: [', 'not YAML'),
        (None, 'cannot be read'),
        ('', ''),
    ],
)
def test_a_file_that_is_no_settings_file_is_named(tmp_path, text, problem):
    path = tmp_path / 'server.yaml'
    if text is not None:
        path.write_text(text)
    if not problem:
        assert load(path=path) == ServerConfig()
        return
    with pytest.raises(ConfigError, match=problem) as error:
        load(path=path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize('host', ['127.0.0.1', '127.8.8.8', '::1', 'localhost'])
def test_this_machines_own_addresses_need_no_permission(host):
    assert ServerConfig(host=host).host == host


@pytest.mark.parametrize('host', ['0.0.0.0', '::', '192.168.0.2', 'robot.local'])
def test_an_address_that_others_reach_needs_insecure(host):
    with pytest.raises(ConfigError, match='--insecure'):
        ServerConfig(host=host)
    assert ServerConfig(host=host, insecure=True).host == host
