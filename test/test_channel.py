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
"""What a channel is made of, and what gRPC's words for a failure mean, from 1.51 to 1.85."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

import grpc
import pytest
from scripted import Scripted, answer_all, serving

from ferros.channel import (
    LONGEST_DETAIL,
    LONGEST_TOKEN,
    Access,
    AccessError,
    explain,
    is_refusal,
    pushback_s,
    read_access,
)
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.link import Link
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

SECRET = 'correct-horse-battery-staple'


def access(**parameters: Any) -> Access:
    return read_access(RobotConfig(**parameters))


def refused(**parameters: Any) -> str:
    with pytest.raises(AccessError) as caught:
        access(**parameters)
    shown = ''.join(traceback.format_exception(None, caught.value, caught.value.__traceback__))
    assert SECRET not in shown + repr(caught.value.__context__)
    return str(caught.value)


def test_without_any_of_its_parameters_a_channel_is_plain_and_shows_nothing() -> None:
    plain = access()
    assert (plain.is_encrypted, plain.metadata) == (False, ())


def test_a_token_goes_with_the_call_without_the_white_space_around_it(tmp_path: Path) -> None:
    path = tmp_path / 'token'
    path.write_text(f'  {SECRET}\r\n\n')
    assert access(token_file=str(path)).metadata == (('authorization', f'Bearer {SECRET}'),)


def test_what_is_secret_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / 'token'
    path.write_text(SECRET)
    config = RobotConfig(token_file=str(path))
    held = read_access(config)
    link = Link(config, Drops(), print)
    for shown in (repr(held), str(held), f'{held!r:.10000}', repr(config), repr(link)):
        assert SECRET not in shown


@pytest.mark.parametrize(
    ('content', 'fault'),
    [
        (b'', 'is empty'),
        (b' \n\t', 'is empty'),
        (b'x' * (LONGEST_TOKEN + 1), 'holds more'),
        (b'x' * 100_000, 'is longer than 8192 bytes'),
        (b'SECRET another', 'holds white space or other characters within it'),
        (b'SECRET\nSECRET', 'holds white space'),
        (b'SECRET\0', 'holds white space'),
        ('SECRETä'.encode(), 'holds white space'),
        (b'\xffSECRET', 'holds white space'),
        (b'\x1b[2JSECRET', 'holds white space'),
    ],
)
def test_a_token_that_is_none_is_refused_without_showing_it(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    path = tmp_path / 'token'
    path.write_bytes(content.replace(b'SECRET', SECRET.encode()))
    error = refused(token_file=str(path))
    assert error.startswith(f"token_file is '{path}', which {fault}")
    assert 'expected one token of at most 4096 printable ASCII characters' in error


def test_the_longest_token_is_taken(tmp_path: Path) -> None:
    path = tmp_path / 'token'
    path.write_bytes(b'x' * LONGEST_TOKEN + b'\n')
    assert len(access(token_file=str(path)).metadata[0][1]) == len('Bearer ') + LONGEST_TOKEN


@pytest.mark.parametrize('name', ['tls_ca_file', 'tls_cert_file', 'token_file'])
def test_a_file_that_is_not_there_is_named_with_what_was_expected(
    tmp_path: Path, name: str
) -> None:
    missing = str(tmp_path / 'missing')
    others = {'tls_ca_file': 'system', 'tls_key_file': missing} if 'cert' in name else {}
    for path, fault in ((missing, 'No such file'), (str(tmp_path), 'which is not a file')):
        error = refused(**{**others, name: path})
        assert error.startswith(f'{name} is {path!r}')
        assert fault in error and 'expected' in error


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / 'pipe'
    os.mkfifo(path)
    assert 'which is not a file' in refused(token_file=str(path))


def test_whatever_keeps_a_file_from_being_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / 'token'
    path.write_text(SECRET)
    assert 'Not a directory' in refused(token_file=f'{path}/token')
    assert 'File name too long' in refused(token_file='t' * 5000)


@pytest.mark.parametrize(
    ('content', 'fault'),
    [
        (b'', 'holds no certificate'),
        (b'\x30\x82\x01\x0a\x02\x82', 'holds no certificate'),
        (b'-----BEGIN CERTIFICATE-----\nMIIB', 'holds no certificate'),
        (b'-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n', 'no certificate'),
        (
            b'-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n',
            'holds a broken certificate',
        ),
        (
            b'-----BEGIN CERTIFICATE-----\n\xff\xfe\n-----END CERTIFICATE-----\n',
            'holds a broken certificate',
        ),
        (b'\n' * 1_048_577, 'is longer than 1048576 bytes'),
    ],
)
def test_a_file_that_is_no_pem_of_a_certificate_is_refused(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    path = tmp_path / 'ca.crt'
    path.write_bytes(content)
    error = refused(tls_ca_file=str(path))
    assert error.startswith(f"tls_ca_file is '{path}', which ") and fault in error
    assert "expected the PEM file of the CA that signed the server's certificate" in error


def test_a_link_that_could_never_connect_is_an_error_at_once(tmp_path: Path) -> None:
    """Its errors are ValueErrors, as those of the parameters themselves."""
    with pytest.raises(ValueError, match=r"token_file is '.*/missing': No such file"):
        Link(RobotConfig(token_file=str(tmp_path / 'missing')), Drops(), print)


# -- what gRPC says of a failed attempt -----------------------------------------------------------

CONNECTING = 'failed to connect to all addresses; last error: '
OLD, NEW = 'ipv4:10.0.0.1:50051: Ssl handshake', 'ipv6:%5B::1%5D:50051: Tls handshake'
MUTUAL = {
    'tls_ca_file': '/etc/ca.crt', 'tls_cert_file': '/etc/robot.crt', 'tls_key_file': '/etc/key',
}


@pytest.mark.parametrize(
    ('details', 'parameters', 'expected'),
    [
        (
            f'UNKNOWN: {NEW} failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL '
            'routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired: OK',
            {'tls_ca_file': '/etc/ca.crt'},
            "the server's certificate does not fit the CA in tls_ca_file (/etc/ca.crt): "
            'certificate has expired',
        ),
        (
            f'UNKNOWN: {OLD} failed: SSL_ERROR_SSL: error:0A000086:SSL routines::certificate '
            'verify failed',
            {'tls_ca_file': 'system'},
            "the server's certificate does not fit the CAs that gRPC brings (tls_ca_file: "
            'system): of another CA, expired, or the clock of this robot is wrong',
        ),
        (
            'UNKNOWN: ipv4:10.0.0.1:50051: Custom verification check failed with error: '
            'UNAUTHENTICATED: Hostname Verification Check failed.',
            {'tls_ca_file': '/etc/ca.crt'},
            "the server's certificate is not one for robots.lan, expected that name in it",
        ),
        (
            'UNKNOWN: ipv4:10.0.0.1:50051: Peer name robots.lan is not in peer certificate',
            {'tls_ca_file': '/etc/ca.crt'},
            "the server's certificate is not one for robots.lan, expected that name in it",
        ),
        (
            f'UNKNOWN: {OLD} failed: SSL_ERROR_SSL: error:0A00010B:SSL routines::wrong version '
            'number',
            {'tls_ca_file': '/etc/ca.crt'},
            'the server does not speak TLS, which tls_ca_file asks for',
        ),
        (
            f'UNKNOWN: {NEW} failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:10000418:SSL '
            'routines:OPENSSL_internal:TLSV1_ALERT_UNKNOWN_CA: Invalid certificate verification '
            'context: OK',
            MUTUAL,
            'the server refused the connection (Tls handshake failed TLSV1_ALERT_UNKNOWN_CA: '
            'Invalid certificate verification context): does the server accept the certificate '
            'in tls_cert_file (/etc/robot.crt)?',
        ),
    ],
)
def test_a_failure_of_tls_says_what_to_look_at(
    details: str, parameters: dict[str, str], expected: str
) -> None:
    config = RobotConfig(server_address='robots.lan:50051', **parameters)  # type: ignore[arg-type]
    assert explain(CONNECTING + details, config) == expected
    assert is_refusal(Failed(grpc.StatusCode.UNAVAILABLE, CONNECTING + details))


@pytest.mark.parametrize(
    ('parameters', 'doubt'),
    [
        ({}, 'does the server want TLS (tls_ca_file)?'),
        ({'tls_ca_file': 'system'}, 'does the server ask for a certificate (tls_cert_file)?'),
        (MUTUAL, 'does the server accept the certificate in tls_cert_file (/etc/robot.crt)?'),
    ],
)
@pytest.mark.parametrize('words', ['Socket closed', 'recvmsg:Connection reset by peer'])
def test_a_server_that_closes_before_it_spoke_is_doubted_and_tried_again_soon(
    parameters: dict[str, str], doubt: str, words: str
) -> None:
    details = f'{CONNECTING}UNAVAILABLE: ipv4:127.0.0.1:50051: {words}'
    text = explain(details, RobotConfig(**parameters))  # type: ignore[arg-type]
    assert text == f'the server refused the connection ({words}): {doubt}'
    assert not is_refusal(Failed(grpc.StatusCode.UNAVAILABLE, details))


@pytest.mark.parametrize(
    ('details', 'expected'),
    [
        ('Socket closed', 'Socket closed'),
        (
            f'{CONNECTING}UNKNOWN: ipv4:127.0.0.1:9: connect: Connection refused (111)',
            'connect: Connection refused (111)',
        ),
        # A server may say anything.
        ('wrong version number, certificate verify failed', None),
        ('two\nlines\x1b[31m', 'two lines[31m'),
        ('x' * 1000, 'x' * LONGEST_DETAIL),
        ('', ''),
    ],
)
def test_other_words_are_kept_on_one_short_line(details: str, expected: str | None) -> None:
    config = RobotConfig(tls_ca_file='system')
    assert explain(details, config) == (details if expected is None else expected)


# -- what a server says of when to come back ------------------------------------------------------


class Failed(grpc.RpcError):
    """What gRPC raises; that over the wire it looks like this is shown in test_link.py."""

    def __init__(
        self, code: grpc.StatusCode, details: str = '', *metadata: tuple[str, str]
    ) -> None:
        super().__init__()
        self._seen = (code, details, metadata or None)

    def code(self) -> grpc.StatusCode:
        return self._seen[0]

    def details(self) -> str:
        return self._seen[1]

    def trailing_metadata(self) -> Any:
        return self._seen[2]


@pytest.mark.parametrize(
    ('value', 'pause_s'),
    [
        ('1500', 1.5), ('0', 0.1), ('99', 0.1), ('60001', 60.0), ('999999999', 60.0),
        ('-1', None), ('1e3', None), ('', None), ('nan', None), ('٣٠٠٠', None), ('9' * 5000, None),
    ],
)
def test_the_servers_pushback_is_taken_within_bounds_or_not_at_all(
    value: str, pause_s: float | None
) -> None:
    full = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert pushback_s(Failed(full, '', ('grpc-retry-pushback-ms', value))) == pause_s
    assert pushback_s(Failed(full, '', ('other', '5'))) is None
    assert pushback_s(Failed(full)) is None


@pytest.mark.parametrize(
    ('code', 'is_one'),
    [
        (grpc.StatusCode.UNAUTHENTICATED, True), (grpc.StatusCode.PERMISSION_DENIED, True),
        (grpc.StatusCode.FAILED_PRECONDITION, True), (grpc.StatusCode.UNIMPLEMENTED, True),
        (grpc.StatusCode.UNAVAILABLE, False), (grpc.StatusCode.RESOURCE_EXHAUSTED, False),
        (grpc.StatusCode.INTERNAL, False),
    ],
)
def test_only_what_somebody_has_to_change_is_a_refusal(
    code: grpc.StatusCode, is_one: bool
) -> None:
    assert is_refusal(Failed(code, 'words')) is is_one


def test_a_channel_is_opened_with_the_token_for_any_call(tmp_path: Path) -> None:
    class Describing(Scripted):
        def Describe(self, request: Any, context: Any) -> wire.DescribeResponse:
            self.metadata.append(dict(context.invocation_metadata()))
            return wire.DescribeResponse(model='described')

    path = tmp_path / 'token'
    path.write_text(SECRET)
    servicer = Describing(answer_all)
    with serving(servicer) as port:
        held = access(server_address=f'127.0.0.1:{port}', token_file=str(path))
        with held.open() as channel:
            stub = recognition_pb2_grpc.RecognitionStub(channel)
            answer = stub.Describe(wire.DescribeRequest(), metadata=held.metadata, timeout=10)
    assert answer.model == 'described'
    assert servicer.metadata[0]['authorization'] == f'Bearer {SECRET}'
