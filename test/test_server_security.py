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
"""Tests of who may talk to the real server: TLS, certificates of robots, and tokens."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import tiny_model
from grpc_health.v1 import health_pb2, health_pb2_grpc
from robots import Robot, on_loop, refusal, serving

from cloud_server.__main__ import main
from cloud_server.engine.onnx import OnnxEngine
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory) -> Path:
    return tiny_model.write_or_shipped(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def engine(model_folder) -> OnnxEngine:
    return OnnxEngine(model_folder)


class Keys(NamedTuple):
    """Files that `ferros-cloud keys` made: for a server on 127.0.0.1 and for the robot r1."""

    folder: Path

    def server(self, **more: Any) -> dict[str, Any]:
        """Return the settings of a server with its certificate."""
        server = self.folder / 'server'
        return {
            'tls_cert_file': server / 'cert.pem', 'tls_key_file': server / 'key.pem', **more
        }

    @property
    def client_ca(self) -> dict[str, Path]:
        """Return the setting with which robots must show a certificate."""
        return {'tls_client_ca_file': self.folder / 'server' / 'ca.pem'}

    @property
    def tokens(self) -> dict[str, Path]:
        """Return the setting with which robots must send a token."""
        return {'token_file': self.folder / 'server' / 'tokens'}

    @property
    def token(self) -> str:
        """Return the token of r1."""
        return (self.folder / 'robots' / 'r1' / 'token').read_text().strip()

    def credentials(self, robot: str | None = None) -> grpc.ChannelCredentials:
        """Return what a robot connects with; without a name it shows no certificate."""
        ca = (self.folder / 'ca.pem').read_bytes()
        if robot is None:
            return grpc.ssl_channel_credentials(ca)
        own = self.folder / 'robots' / robot
        return grpc.ssl_channel_credentials(
            ca, (own / 'key.pem').read_bytes(), (own / 'cert.pem').read_bytes()
        )


def make_keys(folder: Path) -> Keys:
    where = str(folder)
    for command in (
        ['ca', where], ['server', where, '--host', '127.0.0.1'], ['robot', where, 'r1'],
        ['token', where, 'r1'],
    ):
        assert main(['keys', *command]) == 0
    return Keys(folder)


@pytest.fixture(scope='module')
def keys(tmp_path_factory) -> Keys:
    return make_keys(tmp_path_factory.mktemp('keys'))


@contextlib.asynccontextmanager
async def robot_with(
    address: str, credentials: grpc.ChannelCredentials | None, token: str = ''
) -> AsyncIterator[Robot]:
    """Connect a robot that has not said Hello yet."""
    metadata = (('authorization', f'Bearer {token}'),) if token else ()
    options = [('grpc.use_local_subchannel_pool', 1)]
    channel = (
        grpc.aio.insecure_channel(address, options=options)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, options=options)
    )
    async with channel:
        yield Robot(channel, metadata)


async def outcome(address: str, credentials: Any, token: str = '', robot_id: str = 'r1') -> str:
    """Return the name of the status with which a robot is refused, or OK once it is answered."""
    async with robot_with(address, credentials, token) as robot:
        try:
            await robot.hello(robot_id=robot_id)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        assert (await robot.exchange()).status == wire.OK
        await robot.end()
        return 'OK'


@on_loop
async def test_with_tls_a_robot_that_knows_the_ca_is_served_and_plain_text_is_not(engine, keys):
    async with serving(engine, **keys.server()) as server:
        assert await outcome(server.address, keys.credentials()) == 'OK'
        assert await outcome(server.address, None) == 'UNAVAILABLE'


@on_loop
async def test_a_robot_that_knows_another_ca_does_not_talk_to_the_server(engine, keys, tmp_path):
    other = make_keys(tmp_path / 'other')
    async with serving(engine, **keys.server()) as server:
        assert await outcome(server.address, other.credentials()) == 'UNAVAILABLE'


@on_loop
async def test_with_mutual_tls_a_robot_needs_a_certificate_of_the_ca(engine, keys, tmp_path):
    other = make_keys(tmp_path / 'other')
    stranger = other.folder / 'robots' / 'r1'
    forged = grpc.ssl_channel_credentials(
        (keys.folder / 'ca.pem').read_bytes(),
        (stranger / 'key.pem').read_bytes(), (stranger / 'cert.pem').read_bytes(),
    )
    async with serving(engine, **keys.server(**keys.client_ca)) as server:
        assert await outcome(server.address, keys.credentials('r1')) == 'OK'
        assert await outcome(server.address, keys.credentials()) == 'UNAVAILABLE'
        assert await outcome(server.address, forged) == 'UNAVAILABLE'


@on_loop
async def test_a_robot_cannot_call_itself_by_the_name_of_another(engine, keys):
    async with serving(engine, **keys.server(**keys.client_ca)) as server:
        mine = keys.credentials('r1')
        assert await outcome(server.address, mine, robot_id='r2') == 'PERMISSION_DENIED'
        # Without a name it has that of its certificate.
        assert await outcome(server.address, mine, robot_id='') == 'OK'
    async with serving(engine, **keys.server(**keys.tokens)) as server:
        named = keys.credentials()
        denied = await outcome(server.address, named, keys.token, robot_id='r2')
        assert denied == 'PERMISSION_DENIED'


@on_loop
async def test_with_tokens_a_robot_needs_a_valid_one(engine, keys):
    async with serving(engine, **keys.server(**keys.tokens)) as server:
        tls = keys.credentials()
        assert await outcome(server.address, tls, keys.token) == 'OK'
        assert await outcome(server.address, tls) == 'UNAUTHENTICATED'
        assert await outcome(server.address, tls, 'x' * 43) == 'UNAUTHENTICATED'


@on_loop
async def test_a_wrong_token_is_in_neither_the_answer_nor_the_log(engine, keys, caplog):
    wrong = 'W' * 43
    async with (
        serving(engine, **keys.tokens) as server,
        robot_with(server.address, None, wrong) as robot,
    ):
        code, text = await refusal(robot.hello())
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert wrong not in text
    assert 'stream refused' in caplog.text
    assert wrong not in caplog.text


@on_loop
async def test_describe_asks_for_the_same_proof_and_health_for_none(engine, keys):
    async with (
        serving(engine, **keys.server(**keys.tokens)) as server,
        grpc.aio.secure_channel(server.address, keys.credentials()) as channel,
    ):
        describe = recognition_pb2_grpc.RecognitionStub(channel).Describe
        code, _ = await refusal(describe(wire.DescribeRequest()))
        assert code is grpc.StatusCode.UNAUTHENTICATED
        proof = (('authorization', f'Bearer {keys.token}'),)
        described = await describe(wire.DescribeRequest(), metadata=proof)
        assert described.model == engine.info.display
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING


@on_loop
async def test_reflection_is_there_only_if_it_was_asked_for(engine):
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    async def services(address: str) -> list[str]:
        async with grpc.aio.insecure_channel(address) as channel:
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=''))
            answer = await call.read()
            return [service.name for service in answer.list_services_response.service]

    async with serving(engine, reflection=True) as server:
        assert 'ferros.v1.Recognition' in await services(server.address)
    async with serving(engine) as server:
        code, _ = await refusal(services(server.address))
        assert code is grpc.StatusCode.UNIMPLEMENTED


# -- the process ---------------------------------------------------------------------------------


def serve(*flags: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a server that ends by itself."""
    return subprocess.run(
        [sys.executable, '-m', 'cloud_server', 'serve', '--port', '0', *flags],
        cwd=cwd, capture_output=True, text=True, timeout=60,
    )


def test_check_config_reads_all_the_files_and_serves_nothing(model_folder, keys):
    flags = ['--check-config', '--model', str(model_folder)]
    good = serve(*flags, *_flags(keys.server(**keys.client_ca, **keys.tokens)))
    assert (good.returncode, good.stdout) == (0, 'the settings can be served with\n'), good.stderr
    wrong = serve(*flags, '--token-file', '/nowhere/tokens')
    assert wrong.returncode == 2
    assert re.fullmatch(r'ferros-cloud serve: .*/nowhere/tokens.*\n', wrong.stderr)


def test_a_certificate_that_does_not_fit_its_key_stops_the_start_in_one_line(
    model_folder, keys, tmp_path
):
    other = make_keys(tmp_path / 'other')
    flags = _flags({**keys.server(), 'tls_key_file': other.server()['tls_key_file']})
    ended = serve('--model', str(model_folder), *flags)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert 'tls_key_file' in ended.stderr


def test_other_machines_are_let_in_only_with_encryption_or_when_that_is_meant(model_folder):
    ended = serve('--model', str(model_folder), '--host', '0.0.0.0')
    assert ended.returncode == 2
    assert 'without encryption' in ended.stderr


def test_an_insecure_server_says_what_that_means(model_folder):
    command = [sys.executable, '-m', 'cloud_server', 'serve', '--port', '0', '--insecure']
    with subprocess.Popen(
        [*command, '--host', '0.0.0.0', '--model', str(model_folder)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:
        for _ in range(2):
            child.stdout.readline()
        child.terminate()
        _, stderr = child.communicate(timeout=20)
    assert 'other machines connect without encryption' in stderr
    assert 'whoever reaches this port may use it' in stderr
    assert child.returncode == 0


def _flags(settings: dict[str, Any]) -> list[str]:
    return [
        part for name, value in settings.items()
        for part in (f'--{name.replace("_", "-")}', str(value))
    ]
