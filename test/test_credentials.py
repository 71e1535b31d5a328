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

import asyncio
import logging
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud_server import keys
from cloud_server.config import ServerConfig
from cloud_server.credentials import CredentialsError, read, server_credentials
from cloud_server.keys import Pair

NOW = datetime(2030, 5, 17, 12, tzinfo=timezone.utc)
DAY = timedelta(days=1)
KINDS = {
    'P-256': lambda: ec.generate_private_key(ec.SECP256R1()),
    'P-384': lambda: ec.generate_private_key(ec.SECP384R1()),
    'P-521': lambda: ec.generate_private_key(ec.SECP521R1()),
    'secp256k1': lambda: ec.generate_private_key(ec.SECP256K1()),
    'RSA-2048': lambda: rsa.generate_private_key(65537, 2048),
    'RSA-1024': lambda: rsa.generate_private_key(65537, 1024),
    'Ed25519': ed25519.Ed25519PrivateKey.generate,
}


class Files(NamedTuple):
    """The three files of a server, good until a test spoils one."""

    cert: Path
    key: Path
    client_ca: Path
    ca: Pair

    def config(self, **changes: Any) -> ServerConfig:
        names = {
            'tls_cert_file': self.cert,
            'tls_key_file': self.key,
            'tls_client_ca_file': self.client_ca,
        }
        return ServerConfig(**{**names, **changes})

    def use(self, pair: Pair) -> None:
        self.cert.write_bytes(pair.certificate_pem)
        self.key.write_bytes(pem_of(pair.key))


@pytest.fixture
def files(tmp_path) -> Files:
    made = Files(*(tmp_path / name for name in ('cert.pem', 'key.pem', 'ca.pem')),
                 ca=keys.make_ca(NOW))
    made.client_ca.write_bytes(made.ca.certificate_pem)
    made.key.touch(mode=0o600)
    made.use(keys.make_server(made.ca, ['localhost', '127.0.0.1'], NOW))
    return made


def pem_of(key: Any, password: bytes | None = None) -> bytes:
    encryption = (
        serialization.BestAvailableEncryption(password) if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def self_signed(key: Any, *extensions: x509.ExtensionType, now: datetime = NOW) -> Pair:
    """Return a certificate of any key, with any extensions, for 10 days."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'by hand')])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + 100 * DAY)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    is_ed25519 = isinstance(key, ed25519.Ed25519PrivateKey)
    return Pair(builder.sign(key, None if is_ed25519 else SHA256()), key)


def localhost() -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.DNSName('localhost')])


def problems(files: Files, now: datetime = NOW, **changes: Any) -> list[str]:
    with pytest.raises(CredentialsError) as refused:
        read(files.config(**changes), now.timestamp())
    return refused.value.problems


def warnings(files: Files, now: datetime = NOW) -> tuple[str, ...]:
    found = read(files.config(), now.timestamp())
    assert found is not None
    return found.warnings


def test_without_a_certificate_there_are_no_credentials():
    assert server_credentials(ServerConfig()) is None


def test_good_files_are_handed_on_as_they_are(files):
    found = read(files.config(), NOW.timestamp())
    assert found is not None
    assert found.key == files.key.read_bytes()
    assert found.chain == files.cert.read_bytes()
    assert found.client_ca == files.client_ca.read_bytes()
    assert found.warnings == ()
    without = read(files.config(tls_client_ca_file=None), NOW.timestamp())
    assert without is not None
    assert without.client_ca is None
    credentials = server_credentials(files.config(), NOW.timestamp())
    assert isinstance(credentials, grpc.ServerCredentials)


@pytest.mark.parametrize('setting', ['tls_cert_file', 'tls_key_file', 'tls_client_ca_file'])
def test_a_file_that_is_missing_a_folder_empty_or_no_pem_is_named_with_its_setting(
    files, tmp_path, setting
):
    bad = tmp_path / 'bad'
    for make, fault in (
        (lambda: None, 'cannot be read (No such file or directory)'),
        (bad.mkdir, 'cannot be read (Is a directory)'),
        (lambda: (bad.rmdir(), bad.touch()), 'empty, expected PEM'),
        (lambda: bad.write_bytes(b'\x30\x82\x01\x0a'), 'not PEM, expected a'),
        (lambda: bad.write_text('-----BEGIN PUBLIC KEY-----'), 'neither a certificate nor a key'),
    ):
        make()
        (problem,) = problems(files, **{setting: bad})
        assert problem.startswith(f'{setting}: {bad}: {fault}')


def test_links_that_lead_nowhere_are_named(files, tmp_path):
    loop = tmp_path / 'loop'
    loop.symlink_to(loop)
    (problem,) = problems(files, tls_key_file=loop)
    assert problem.startswith(f'tls_key_file: {loop}: cannot be read (Too many levels')


def test_all_faults_are_said_at_once(files, tmp_path):
    files.cert.unlink()
    files.key.write_text('secret words')
    files.client_ca.write_bytes(b'')
    found = problems(files)
    assert [problem.split(':')[0] for problem in found] == [
        'tls_cert_file', 'tls_key_file', 'tls_client_ca_file'
    ]
    assert 'secret' not in str(found)


def test_two_files_that_were_swapped_are_recognised(files):
    found = problems(files, tls_cert_file=files.key, tls_key_file=files.cert)
    assert 'a private key, expected a certificate' in found[0]
    assert 'a certificate, expected a private key' in found[1]


def test_damaged_pem_is_refused(files):
    for path in (files.cert, files.key, files.client_ca):
        lines = path.read_text().splitlines()
        path.write_text('\n'.join([lines[0], lines[1][:20], lines[-1]]))
    found = problems(files)
    assert len(found) == 3
    assert all('damaged' in problem for problem in found)


def test_a_key_with_a_passphrase_is_refused(files):
    files.key.write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1()), b'passphrase'))
    (problem,) = problems(files)
    assert 'encrypted, expected a private key without a passphrase' in problem


def test_a_key_of_another_certificate_is_refused(files):
    files.key.write_bytes(keys.make_server(files.ca, ['localhost'], NOW).key_pem)
    (problem,) = problems(files)
    assert problem == (
        f'tls_key_file: {files.key}: does not belong to the certificate of tls_cert_file'
    )


def test_a_chain_in_the_wrong_order_is_recognised(files):
    own = files.cert.read_bytes()
    files.cert.write_bytes(files.ca.certificate_pem + own)
    (problem,) = problems(files)
    assert "expected the server's own one first" in problem
    files.cert.write_bytes(own + files.ca.certificate_pem)
    assert read(files.config(), NOW.timestamp()) is not None


@pytest.mark.parametrize(
    ('now', 'fault'),
    [
        (NOW - DAY, 'is valid only from 2030-05-17 11:00 UTC; is the clock right?'),
        (NOW + 826 * DAY, 'expired at 2032-08-19 12:00 UTC'),
    ],
)
def test_a_certificate_out_of_its_time_is_refused(files, now, fault):
    (problem,) = problems(files, now, tls_client_ca_file=None)
    assert problem.startswith(f"tls_cert_file: {files.cert}: the certificate of 'CN=localhost'")
    assert fault in problem


def test_an_expired_certificate_behind_the_servers_own_is_refused_too(files):
    old_ca = keys.make_ca(NOW - 20 * DAY, days=10)
    files.cert.write_bytes(files.cert.read_bytes() + old_ca.certificate_pem)
    (problem,) = problems(files)
    assert 'expired at 2030-05-07' in problem


def test_a_certificate_that_ends_soon_is_warned_of(files):
    assert warnings(files, NOW + 790 * DAY) == ()
    (warning,) = warnings(files, NOW + 800 * DAY)
    assert 'expires at 2032-08-19' in warning


def test_a_robots_certificate_is_none_for_a_server(files):
    files.use(keys.make_robot(files.ca, 'robot-1', NOW))
    (problem,) = problems(files)
    assert "'CN=robot-1' is not for servers" in problem


@pytest.mark.parametrize(
    'usages',
    [
        [],
        [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
        [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH],
    ],
)
def test_a_certificate_without_a_purpose_or_with_several_is_good(files, usages):
    extensions = [localhost(), *([x509.ExtendedKeyUsage(usages)] if usages else [])]
    files.use(self_signed(KINDS['P-256'](), *extensions))
    assert warnings(files) == ()


def test_a_certificate_without_names_is_warned_of(files):
    files.use(self_signed(KINDS['P-256']()))
    (warning,) = warnings(files)
    assert 'no subject alternative name' in warning


def test_a_client_ca_that_is_none_is_refused(files):
    files.client_ca.write_bytes(
        keys.make_robot(files.ca, 'robot-1', NOW).certificate_pem
        + self_signed(KINDS['P-256']()).certificate_pem
        + files.ca.certificate_pem
    )
    found = problems(files)
    assert len(found) == 2
    assert "'CN=robot-1' is not a CA, expected the certificate of the CA" in found[0]
    assert "'CN=by hand' is not a CA" in found[1]


def test_of_several_client_cas_one_may_have_ended_but_not_all(files):
    old = keys.make_ca(NOW - 20 * DAY, days=10).certificate_pem
    files.client_ca.write_bytes(old + files.ca.certificate_pem)
    (warning,) = warnings(files)
    assert 'expired at 2030-05-07' in warning
    files.client_ca.write_bytes(old)
    (problem,) = problems(files)
    assert problem.startswith(f'tls_client_ca_file: {files.client_ca}')


@pytest.mark.parametrize(
    ('mode', 'reader'), [(0o600, None), (0o400, None), (0o640, 'its group'), (0o644, 'every user')]
)
def test_a_key_that_others_can_read_is_warned_of(files, mode, reader):
    files.key.chmod(mode)
    found = warnings(files)
    assert len(found) == (reader is not None)
    assert all(f'can be read by {reader}, expected the mode 0600' in text for text in found)


def test_warnings_reach_the_log(files, caplog):
    files.key.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        server_credentials(files.config(), NOW.timestamp())
    assert 'can be read by every user' in caplog.text


@pytest.mark.parametrize('kind', ['P-521', 'secp256k1', 'RSA-1024', 'Ed25519'])
def test_a_key_that_grpc_does_not_serve_with_is_refused(files, kind):
    files.use(self_signed(KINDS[kind](), localhost()))
    (problem,) = problems(files)
    assert 'of a kind that gRPC does not serve with, expected EC P-256' in problem


@pytest.mark.parametrize('kind', ['P-256', 'P-384', 'RSA-2048'])
def test_a_key_of_a_good_kind_really_serves(files, kind):
    pair = self_signed(KINDS[kind](), localhost(), now=datetime.now(timezone.utc) - DAY)
    files.use(pair)
    settings = files.config(tls_client_ca_file=None)
    assert asyncio.run(call(settings, pair.certificate_pem)) == b'answer'


def test_a_chain_with_an_intermediate_ca_really_serves(files):
    now = datetime.now(timezone.utc)
    root = self_signed(
        KINDS['P-256'](), x509.BasicConstraints(ca=True, path_length=None), now=now - DAY
    )
    intermediate = Pair(
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'between')]))
        .issuer_name(root.certificate.subject)
        .public_key((key := KINDS['P-256']()).public_key())
        .serial_number(1)
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root.key, SHA256()),
        key,
    )
    server = keys.make_server(intermediate, ['localhost'], now)
    files.use(server)
    files.cert.write_bytes(server.certificate_pem + intermediate.certificate_pem)
    settings = files.config(tls_client_ca_file=None)
    assert asyncio.run(call(settings, root.certificate_pem)) == b'answer'


async def call(settings: ServerConfig, root_certificates: bytes) -> bytes:
    """Serve one method with our credentials and call it with gRPC's."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(self.answer)

        async def answer(self, request, context):
            return b'answer'

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_secure_port('127.0.0.1:0', server_credentials(settings))
    await server.start()
    credentials = grpc.ssl_channel_credentials(root_certificates)
    try:
        async with grpc.aio.secure_channel(f'localhost:{port}', credentials) as channel:
            return await channel.unary_unary('/test/Call')(b'', timeout=10)
    finally:
        await server.stop(None)
