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
"""Who a robot is, over real TLS connections to a server of one method."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from cloud_server import keys, tokens
from cloud_server.config import ServerConfig
from cloud_server.credentials import server_credentials
from cloud_server.identity import Authenticator, UnauthenticatedError
from cloud_server.keys import Pair

NOW = datetime.now(timezone.utc)
TOKENS = {name: tokens.new_token() for name in ('robot-1', 'robot-2')}


class Fleet(NamedTuple):
    """A CA, what it signed, and where the server's files are."""

    folder: Path
    ca: Pair
    robots: dict[str, Pair]


@pytest.fixture(scope='module')
def fleet(tmp_path_factory) -> Fleet:
    folder = tmp_path_factory.mktemp('fleet')
    ca = keys.make_ca(NOW)
    server = keys.make_server(ca, ['127.0.0.1', 'localhost'], NOW)
    for name, content in (
        ('ca.pem', ca.certificate_pem),
        ('cert.pem', server.certificate_pem),
        ('key.pem', server.key_pem),
        ('tokens', '\n'.join(tokens.line_of(*item) for item in TOKENS.items()).encode()),
    ):
        (folder / name).write_bytes(content)
    return Fleet(folder, ca, {name: keys.make_robot(ca, name, NOW) for name in TOKENS})


def config(fleet: Fleet, *, certificates: bool = False, with_tokens: bool = False) -> ServerConfig:
    return ServerConfig(
        tls_cert_file=fleet.folder / 'cert.pem',
        tls_key_file=fleet.folder / 'key.pem',
        tls_client_ca_file=fleet.folder / 'ca.pem' if certificates else None,
        token_file=fleet.folder / 'tokens' if with_tokens else None,
    )


def on_loop(test: Callable[..., Any]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 30))

    return run


class WhoAmI(grpc.GenericRpcHandler):
    """Answers every call with the robot's name as the server knows it."""

    def __init__(self, authenticator: Authenticator) -> None:
        self.authenticator = authenticator

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.answer)

    async def answer(self, request, context):
        try:
            robot_id = self.authenticator.identify(
                context.auth_context(), context.invocation_metadata(), now_s=0.0
            )
        except UnauthenticatedError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        return repr(robot_id).encode()


@contextlib.asynccontextmanager
async def serving(settings: ServerConfig) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((WhoAmI(Authenticator(settings)),))
    port = server.add_secure_port('127.0.0.1:0', server_credentials(settings))
    await server.start()
    try:
        yield f'127.0.0.1:{port}'
    finally:
        await server.stop(None)


async def ask(
    settings: ServerConfig, ca: Pair, robot: Pair | None = None, token: str | None = None
) -> str:
    """Ask a server of these settings who it takes the robot for."""
    credentials = grpc.ssl_channel_credentials(
        ca.certificate_pem,
        robot.key_pem if robot else None,
        robot.certificate_pem if robot else None,
    )
    metadata = [] if token is None else [('authorization', f'Bearer {token}')]
    options = [('grpc.use_local_subchannel_pool', 1)]
    async with (
        serving(settings) as address,
        grpc.aio.secure_channel(address, credentials, options=options) as channel,
    ):
        answer = await channel.unary_unary('/test/WhoAmI')(b'', metadata=metadata, timeout=10)
        return answer.decode()


async def refusal(*args: Any, **kwargs: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(*args, **kwargs)
    return refused.value.code(), refused.value.details()


@on_loop
async def test_a_robot_is_who_its_certificate_says(fleet):
    settings = config(fleet, certificates=True)
    assert await ask(settings, fleet.ca, fleet.robots['robot-1']) == "'robot-1'"
    assert await ask(settings, fleet.ca, fleet.robots['robot-2']) == "'robot-2'"


@on_loop
async def test_a_robot_is_who_its_token_says(fleet):
    settings = config(fleet, with_tokens=True)
    assert await ask(settings, fleet.ca, token=TOKENS['robot-2']) == "'robot-2'"


@on_loop
async def test_where_no_proof_is_asked_for_there_is_no_identity(fleet):
    assert await ask(config(fleet), fleet.ca) == 'None'
    # Shown without being asked for, so nobody has checked them.
    assert await ask(config(fleet), fleet.ca, fleet.robots['robot-1'], 'any') == 'None'


@on_loop
async def test_with_both_the_certificate_and_the_token_must_agree(fleet):
    settings = config(fleet, certificates=True, with_tokens=True)
    robot = fleet.robots['robot-1']
    assert await ask(settings, fleet.ca, robot, TOKENS['robot-1']) == "'robot-1'"
    code, detail = await refusal(settings, fleet.ca, robot, TOKENS['robot-2'])
    assert code == grpc.StatusCode.UNAUTHENTICATED
    assert detail == 'the certificate and the token are of two robots'
    code, detail = await refusal(settings, fleet.ca, robot)
    assert code == grpc.StatusCode.UNAUTHENTICATED
    assert 'expected one' in detail
    # Without a certificate TLS itself ends.
    assert (await refusal(settings, fleet.ca, token=TOKENS['robot-1']))[0] == (
        grpc.StatusCode.UNAVAILABLE
    )


@on_loop
async def test_a_wrong_token_is_refused_and_not_shown(fleet):
    code, detail = await refusal(config(fleet, with_tokens=True), fleet.ca, token='guess')
    assert code == grpc.StatusCode.UNAUTHENTICATED
    assert detail == 'the token is not known here'


@on_loop
async def test_no_connection_without_a_certificate_of_the_right_ca_kind_and_time(fleet):
    settings = config(fleet, certificates=True)
    other_ca = keys.make_ca(NOW)
    long_ago = NOW - timedelta(days=100)
    for robot in (
        None,
        keys.make_robot(other_ca, 'robot-1', NOW),
        keys.make_server(fleet.ca, ['robot-1'], NOW),
        keys.make_robot(fleet.ca, 'robot-1', long_ago, days=1),
    ):
        assert (await refusal(settings, fleet.ca, robot))[0] == grpc.StatusCode.UNAVAILABLE


@on_loop
async def test_a_robot_calls_no_server_of_another_ca_or_name_and_no_other_robot(fleet):
    good = keys.make_server(fleet.ca, ['127.0.0.1'], NOW)
    assert await reach(good, fleet.ca) == grpc.StatusCode.OK
    for wrong in (
        keys.make_server(keys.make_ca(NOW), ['127.0.0.1'], NOW),
        keys.make_server(fleet.ca, ['10.0.0.1', 'example.org'], NOW),
        keys.make_robot(fleet.ca, '127.0.0.1', NOW),
        keys.make_server(fleet.ca, ['127.0.0.1'], NOW - timedelta(days=100), days=1),
    ):
        assert await reach(wrong, fleet.ca) == grpc.StatusCode.UNAVAILABLE


async def reach(server_pair: Pair, ca: Pair) -> grpc.StatusCode:
    """Call a server whose certificate our own checks have not seen."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((WhoAmI(Authenticator(ServerConfig())),))
    files = [(server_pair.key_pem, server_pair.certificate_pem)]
    port = server.add_secure_port('127.0.0.1:0', grpc.ssl_server_credentials(files))
    await server.start()
    robot_side = grpc.ssl_channel_credentials(ca.certificate_pem)
    async with grpc.aio.secure_channel(f'127.0.0.1:{port}', robot_side) as channel:
        try:
            await channel.unary_unary('/test/WhoAmI')(b'', timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code()
        finally:
            await server.stop(None)
    return grpc.StatusCode.OK


def foreign(ca: Pair, common_name: str | None, *alternatives: x509.GeneralName) -> Pair:
    """Return a certificate of a CA that names robots in its own ways."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(names))
        .issuer_name(ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(days=1))
    )
    if alternatives:
        names_extension = x509.SubjectAlternativeName(alternatives)
        builder = builder.add_extension(names_extension, critical=False)
    return Pair(builder.sign(ca.key, SHA256()), key)


@pytest.mark.parametrize(
    ('common_name', 'alternatives', 'expected'),
    [
        ('a name of 3 w\u00f6rds', [], 'a name of 3 w\u00f6rds'),
        ('common', [x509.DNSName('alternative')], 'alternative'),
        (None, [x509.DNSName('alternative')], 'alternative'),
        ('common', [x509.DNSName('first'), x509.DNSName('second')], 'first'),
        # Names of other kinds are not robots'.
        ('common', [x509.RFC822Name('a@b.c'), x509.UniformResourceIdentifier('x://y')], 'common'),
        ('common', [x509.UniformResourceIdentifier('x://y'), x509.DNSName('dns')], 'dns'),
        ('x' * 64, [], 'x' * 64),
    ],
)
@on_loop
async def test_the_name_is_the_first_dns_name_or_else_the_common_name(
    fleet, common_name, alternatives, expected
):
    robot = foreign(fleet.ca, common_name, *alternatives)
    assert await ask(config(fleet, certificates=True), fleet.ca, robot) == repr(expected)


@pytest.mark.parametrize(
    ('common_name', 'alternatives'),
    [
        (None, []),
        (None, [x509.RFC822Name('robot-1@example.org')]),
        ('common', [x509.DNSName('x' * 65)]),
        # gRPC's own property ends at the NUL and would say robot-1.
        ('robot-1\x00.evil', []),
        ('robot-1\nforged line of a log', []),
    ],
)
@on_loop
async def test_a_certificate_that_names_no_robot_is_refused(fleet, common_name, alternatives):
    robot = foreign(fleet.ca, common_name, *alternatives)
    code, detail = await refusal(config(fleet, certificates=True), fleet.ca, robot)
    assert code == grpc.StatusCode.UNAUTHENTICATED
    assert 'names no robot' in detail
    assert 'robot-1' not in detail


@pytest.mark.parametrize(
    ('metadata', 'reason'),
    [
        ([], '0 tokens, expected one'),
        ([('x-token', 'Bearer GOOD')], '0 tokens, expected one'),
        ([('authorization', 'Bearer GOOD'), ('authorization', 'Bearer GOOD')], '2 tokens'),
        ([('authorization', 'GOOD')], 'expected the call metadata `authorization: Bearer TOKEN`'),
        ([('authorization', 'Basic GOOD')], 'Bearer TOKEN'),
        ([('authorization', 'Bearer')], 'Bearer TOKEN'),
        ([('authorization', 'Bearer ')], 'Bearer TOKEN'),
        ([('authorization', 'Bearer GOOD GOOD')], 'not known here'),
        ([('authorization', b'\xff\xfe')], 'Bearer TOKEN'),
    ],
)
def test_metadata_without_one_good_token_is_refused(fleet, metadata, reason):
    good = TOKENS['robot-1']
    sent = [
        (key, value.replace('GOOD', good) if isinstance(value, str) else value)
        for key, value in metadata
    ]
    authenticator = Authenticator(config(fleet, with_tokens=True))
    with pytest.raises(UnauthenticatedError) as refused:
        authenticator.identify({}, sent, 0)
    assert reason in str(refused.value)
    assert good not in str(refused.value)


@pytest.mark.parametrize('text', ['Bearer GOOD', 'bearer GOOD', 'BEARER   GOOD ', b'Bearer GOOD'])
def test_the_scheme_is_read_in_any_case(fleet, text):
    good = TOKENS['robot-1']
    value = text.replace(b'GOOD', good.encode()) if isinstance(text, bytes) else (
        text.replace('GOOD', good))
    authenticator = Authenticator(config(fleet, with_tokens=True))
    assert authenticator.identify({}, [('authorization', value)], 0) == 'robot-1'


@pytest.mark.parametrize('context', [{}, {'x509_common_name': [b'robot-1']}])
def test_a_connection_without_a_certificate_is_nobodys(fleet, context):
    authenticator = Authenticator(config(fleet, certificates=True))
    with pytest.raises(UnauthenticatedError, match='no client certificate'):
        authenticator.identify(context, [], 0)


def test_a_certificate_that_cannot_be_read_is_refused(fleet):
    authenticator = Authenticator(config(fleet, certificates=True))
    with pytest.raises(UnauthenticatedError, match='cannot be read'):
        authenticator.identify({'x509_pem_cert': [b'no PEM']}, [], 0)


def test_a_server_does_not_start_with_a_broken_token_file(fleet, tmp_path):
    broken = tmp_path / 'tokens'
    broken.write_text('nonsense')
    settings = ServerConfig(token_file=broken)
    with pytest.raises(tokens.TokenFileError, match='line 1'):
        Authenticator(settings)
