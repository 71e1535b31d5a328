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
"""The link, and link_check, with TLS, mutual TLS and tokens: real sockets, real certificates."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import DAY, Authority, Files
from scripted import Running, Scripted, answer_all, serving

from ferros import link as link_module
from ferros import link_check
from ferros.channel import AccessError, read_access
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.link import Link, LinkState
from ferros_proto import recognition_pb2 as wire

ROOT = Path(__file__).resolve().parent.parent
TOKEN = 'the-right-token-of-this-robot'


@pytest.fixture(autouse=True)
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a refused robot come back while a test can wait for it."""
    monkeypatch.setattr(link_module, 'REFUSED_BACKOFF_S', 0.2)


class World:
    """An authority, another one, a server's certificate for this machine and a robot's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.other = Authority(folder, 'other_ca')
        self.server = self.authority.issue('server', '127.0.0.1', 'localhost')
        self.robot = self.authority.issue('robot-7')
        self.stranger = self.other.issue('stranger')

    def trusting(self, robot: Files | None = None, **parameters: Any) -> dict[str, Any]:
        """Return the parameters of a robot that trusts the authority."""
        mutual = {}
        if robot is not None:
            mutual = {'tls_cert_file': str(robot.certificate), 'tls_key_file': str(robot.key)}
        return {'tls_ca_file': str(self.authority.file), **mutual, **parameters}


@pytest.fixture(scope='module')
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp('tls'))


def credentials(server: Files, client_ca: Path | None = None) -> Any:
    return grpc.ssl_server_credentials(
        [(server.key.read_bytes(), server.certificate.read_bytes())],
        None if client_ca is None else client_ca.read_bytes(),
        require_client_auth=client_ca is not None,
    )


@contextlib.contextmanager
def encrypted(
    servicer: Scripted, server: Files, client_ca: Path | None = None, port: int = 0
) -> Iterator[int]:
    with serving(servicer, port, credentials(server, client_ca)) as bound:
        yield bound


def read_faces(port: int, **parameters: Any) -> Running:
    """Connect and wait for some answers; return the ended link."""
    with Running(port, **parameters) as running:
        running.offer_until(lambda: len(running.answers) >= 3)
    return running


def why(port: int, **parameters: Any) -> str:
    """Return why there is no connection; there is none at the second attempt either."""
    with Running(port, **parameters) as running:
        detail = running.wait()
        running.until(lambda: running.changes.count((LinkState.WAITING, detail)) >= 2)
        assert LinkState.CONNECTED not in [state for state, _ in running.changes]
    return detail


def asking_for(token: Callable[[], str]) -> Callable[[Scripted, Any], None]:
    """Return what lets only robots in that have the token."""

    def admit(servicer: Scripted, context: Any) -> None:
        if servicer.metadata[-1].get('authorization') != f'Bearer {token()}':
            context.abort(grpc.StatusCode.UNAUTHENTICATED, 'the token is not a known one')

    return admit


# -- TLS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('host', ['127.0.0.1', 'localhost'])
def test_faces_are_read_over_tls_by_address_and_by_name(world: World, host: str) -> None:
    servicer = Scripted(answer_all)
    with encrypted(servicer, world.server) as port:
        read_faces(port, server_address=f'{host}:{port}', **world.trusting())
    assert 'authorization' not in servicer.metadata[0]


def test_a_server_of_another_authority_is_not_talked_to(world: World) -> None:
    servicer = Scripted(answer_all)
    with encrypted(servicer, world.server) as port:
        detail = why(port, tls_ca_file=str(world.other.file))
    assert "the server's certificate does not fit the CA in tls_ca_file" in detail
    assert f'({world.other.file}): ' in detail
    assert servicer.called_s == []


def test_a_server_whose_certificate_is_for_another_host_is_not_talked_to(world: World) -> None:
    servicer = Scripted(answer_all)
    wrong = world.authority.issue('wrong', 'robots.example.org', '127.0.0.2')
    with encrypted(servicer, wrong) as port:
        detail = why(port, **world.trusting())
    assert "the server's certificate is not one for 127.0.0.1, expected that name in it" in detail
    assert servicer.called_s == []


def test_a_server_whose_certificate_has_expired_is_not_talked_to(world: World) -> None:
    servicer = Scripted(answer_all)
    expired = world.authority.issue('expired', '127.0.0.1', lasts=-DAY)
    with encrypted(servicer, expired) as port:
        assert 'expired' in why(port, **world.trusting())
    assert servicer.called_s == []


def test_a_server_without_tls_gets_nothing_of_a_robot_that_asks_for_it(
    world: World, tmp_path: Path
) -> None:
    token = tmp_path / 'token'
    token.write_text(TOKEN)
    servicer = Scripted(answer_all)
    with serving(servicer) as port:
        detail = why(port, **world.trusting(token_file=str(token)))
    assert 'the server does not speak TLS, which tls_ca_file asks for' in detail
    assert servicer.called_s == []


def test_a_robot_without_tls_is_told_that_the_server_may_want_it(world: World) -> None:
    with encrypted(Scripted(answer_all), world.server) as port:
        assert 'does the server want TLS (tls_ca_file)?' in why(port)


def test_the_word_system_takes_the_authorities_that_grpc_brings(world: World) -> None:
    """Of which ours is none, unless gRPC is told so, in an environment of its own."""
    servicer = Scripted(answer_all)
    code = (
        'import sys, test_link_tls as t\n'
        't.read_faces(int(sys.argv[1]), tls_ca_file="system")\n'
    )
    with encrypted(servicer, world.server) as port:
        assert 'the CAs that gRPC brings (tls_ca_file: system)' in why(port, tls_ca_file='system')
        assert servicer.called_s == []
        environment = {
            **os.environ,
            'PYTHONPATH': f'{ROOT}:{ROOT / "test"}',
            'GRPC_DEFAULT_SSL_ROOTS_FILE_PATH': str(world.authority.file),
        }
        ended = subprocess.run(
            [sys.executable, '-c', code, str(port)], env=environment, capture_output=True,
            text=True, timeout=60, check=False,
        )
    assert ended.returncode == 0, ended.stderr
    assert len(servicer.frames) >= 3


def test_certificates_in_between_and_words_around_them_do_no_harm(
    world: World, tmp_path: Path
) -> None:
    bundle = tmp_path / 'bundle.crt'
    texts = [path.read_text() for path in (world.other.file, world.authority.file)]
    bundle.write_text('# Főtanúsítvány\n' + '\n\nand another:\n'.join(texts))
    with encrypted(Scripted(answer_all), world.server) as port:
        read_faces(port, tls_ca_file=str(bundle))


# -- mutual TLS -----------------------------------------------------------------------------------


def test_a_robot_shows_its_certificate_to_a_server_that_asks(world: World) -> None:
    names: list[Any] = []

    def note(servicer: Scripted, context: Any) -> None:
        names.append(context.auth_context().get('x509_common_name'))

    servicer = Scripted(answer_all)
    servicer.admit = note
    with encrypted(servicer, world.server, world.authority.file) as port:
        read_faces(port, **world.trusting(world.robot))
    assert names == [[b'robot-7']]


def test_a_robot_without_the_certificate_that_is_asked_for_is_told_so(world: World) -> None:
    servicer = Scripted(answer_all)
    with encrypted(servicer, world.server, world.authority.file) as port:
        assert 'does the server ask for a certificate (tls_cert_file)?' in (
            why(port, **world.trusting())
        )
        assert (
            'does the server accept the certificate in tls_cert_file '
            f'({world.stranger.certificate})?'
        ) in why(port, **world.trusting(world.stranger))
    assert servicer.called_s == []


def refused(**parameters: Any) -> str:
    with pytest.raises(AccessError) as caught:
        Link(RobotConfig(**parameters), Drops(), print)
    return str(caught.value)


def test_a_key_that_is_not_the_certificates_is_an_error_at_once(world: World) -> None:
    error = refused(**world.trusting(Files(world.robot.certificate, world.stranger.key)))
    assert f"tls_key_file is '{world.stranger.key}'" in error
    assert 'holds the key of another certificate' in error
    assert str(world.robot.certificate) in error


def test_a_key_with_a_passphrase_is_an_error_and_nobody_is_asked_for_it(world: World) -> None:
    locked = world.authority.issue('locked', passphrase=b'open sesame')
    error = refused(**world.trusting(locked))
    assert f"tls_key_file is '{locked.key}', which a passphrase protects" in error


@pytest.mark.parametrize(
    ('content', 'fault'),
    [
        (b'', 'holds no key'),
        (b'-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n', 'cannot be used'),
    ],
)
def test_a_file_that_is_no_key_is_an_error_at_once(
    world: World, tmp_path: Path, content: bytes, fault: str
) -> None:
    key = tmp_path / 'robot.key'
    key.write_bytes(content)
    error = refused(**world.trusting(Files(world.robot.certificate, key)))
    assert f"tls_key_file is '{key}', which {fault}" in error
    assert 'expected the PEM file of the private key of tls_cert_file' in error


def test_a_certificate_and_a_key_that_were_exchanged_are_told(world: World) -> None:
    error = refused(**world.trusting(Files(world.robot.key, world.robot.certificate)))
    assert f"tls_cert_file is '{world.robot.key}', which holds no certificate" in error


def test_a_key_is_not_shown(world: World) -> None:
    held = repr(read_access(RobotConfig(**world.trusting(world.robot))))
    assert held == "Access(address='127.0.0.1:50051', is_encrypted=True)"


# -- tokens ---------------------------------------------------------------------------------------


def test_a_robot_shows_its_token_and_leaves_its_name_to_it(
    world: World, tmp_path: Path
) -> None:
    token = tmp_path / 'token'
    token.write_text(f'{TOKEN}\n')
    servicer = Scripted(answer_all)
    servicer.admit = asking_for(lambda: TOKEN)
    with encrypted(servicer, world.server) as port:
        read_faces(port, robot_id='', **world.trusting(token_file=str(token)))
        read_faces(port, robot_id='my name', **world.trusting(token_file=str(token)))
        servicer.admit = lambda servicer, context: None
        read_faces(port, robot_id='', **world.trusting())
    assert [hello.robot_id for hello in servicer.hellos[:2]] == ['', 'my name']
    assert servicer.hellos[2].robot_id != ''


def test_a_wrong_token_is_said_in_the_servers_words_and_replaced_while_the_robot_runs(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token, trace = tmp_path / 'token', tmp_path / 'trace.jsonl'
    token.write_text('a-wrong-token-of-this-robot')
    servicer = Scripted(answer_all)
    servicer.admit = asking_for(lambda: TOKEN)
    parameters = world.trusting(token_file=str(token), trace_file=str(trace))
    with encrypted(servicer, world.server) as port, Running(port, **parameters) as running:
        assert running.wait() == 'UNAUTHENTICATED: the token is not a known one'
        running.until(lambda: len(servicer.called_s) >= 3)
        assert servicer.hellos == []
        token.write_text(TOKEN)
        running.offer_until(lambda: bool(running.answers))
    told = f'{running.changes} {trace.read_text()} {caplog.text}'
    assert 'the token is not a known one' in told
    assert 'token-of-this-robot' not in told


def test_a_refused_robot_does_not_come_back_at_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert link_module.REFUSED_BACKOFF_S == 10
    token = tmp_path / 'token'
    token.write_text('wrong')
    servicer = Scripted(answer_all)
    servicer.admit = asking_for(lambda: TOKEN)
    parameters = world.trusting(token_file=str(token))
    with encrypted(servicer, world.server) as port, Running(port, **parameters) as running:
        running.wait()
        time.sleep(1)
        assert len(servicer.called_s) == 1


def test_a_robot_that_is_not_who_it_says_is_told_so(world: World) -> None:
    def deny(servicer: Scripted, context: Any) -> None:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "'r' is not 'robot-7'")

    servicer = Scripted(answer_all)
    servicer.admit = deny
    with encrypted(servicer, world.server, world.authority.file) as port:
        detail = why(port, **world.trusting(world.robot))
    assert detail == "PERMISSION_DENIED: 'r' is not 'robot-7'"


def test_a_token_that_expires_in_mid_stream_is_shown_anew_at_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, 'REFUSED_BACKOFF_S', 60.0)

    def expire(servicer: Scripted, frame: wire.FaceFrame) -> Iterator[wire.RecognizeResponse]:
        yield from answer_all(servicer, frame)
        if frame.sequence == 3 and len(servicer.hellos) == 1:
            token.write_text(TOKEN)
            contexts[-1].abort(grpc.StatusCode.UNAUTHENTICATED, 'the token has expired')

    contexts: list[Any] = []
    token = tmp_path / 'token'
    token.write_text('old')
    servicer = Scripted(expire)
    servicer.admit = lambda servicer, context: contexts.append(context)
    parameters = world.trusting(token_file=str(token))
    with encrypted(servicer, world.server) as port, Running(port, **parameters) as running:
        running.offer_until(lambda: len(servicer.hellos) == 2)
    assert servicer.metadata[1]['authorization'] == f'Bearer {TOKEN}'


# -- files that change while the robot runs -------------------------------------------------------


def test_an_authority_is_replaced_while_the_robot_runs(world: World, tmp_path: Path) -> None:
    ca = tmp_path / 'ca.crt'
    ca.write_bytes(world.other.file.read_bytes())
    servicer = Scripted(answer_all)
    with encrypted(servicer, world.server) as port, Running(port, tls_ca_file=str(ca)) as running:
        running.wait()
        ca.write_bytes(world.authority.file.read_bytes())
        running.offer_until(lambda: bool(running.answers))


def test_a_file_that_vanishes_is_named_and_looked_for_again(world: World, tmp_path: Path) -> None:
    token = tmp_path / 'token'
    token.write_text(TOKEN)
    servicer = Scripted(answer_all)
    parameters = world.trusting(token_file=str(token))
    with contextlib.ExitStack() as stack:
        with encrypted(servicer, world.server) as port:
            running = stack.enter_context(Running(port, **parameters))
            running.connect()
            token.unlink()
        running.until(lambda: 'No such file' in running.link.report().detail)
        assert f"token_file is '{token}'" in running.link.report().detail
        with encrypted(servicer, world.server, port=port):
            token.write_text(TOKEN)
            running.offer_until(lambda: bool(running.answers))


# -- link_check -----------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = link_check.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_a_link_is_checked_over_mutual_tls_and_with_a_token(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / 'token'
    token.write_text(TOKEN)
    servicer = Scripted(answer_all)
    servicer.admit = asking_for(lambda: TOKEN)
    with encrypted(servicer, world.server, world.authority.file) as port:
        arguments = (
            f'localhost:{port}', '--seconds', 1, '--tls-ca-file', world.authority.file,
            '--tls-cert-file', world.robot.certificate, '--tls-key-file', world.robot.key,
            '--token-file', token,
        )
        status, out, err = said(capsys, *arguments)
        assert (status, err) == (0, '')
        assert f'localhost:{port}, encrypted (TLS)' in out
        assert 'at least' in out
        status, out, _ = said(capsys, *arguments, '--no-burst', '--json')
    assert status == 0
    assert json.loads(out)['encrypted'] is True
    # Once to ask, once to send faces, once for the burst; each time by the name in the token.
    assert [hello.robot_id for hello in servicer.hellos] == [''] * 5


def test_a_check_says_in_one_line_why_a_server_will_not_serve_us(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / 'token'
    token.write_text('a-wrong-token-of-this-robot')
    servicer = Scripted(answer_all)
    servicer.admit = asking_for(lambda: TOKEN)
    trust = ('--tls-ca-file', world.authority.file)
    with encrypted(servicer, world.server) as port:
        address = f'127.0.0.1:{port}'
        for arguments, expected in (
            ((*trust, '--token-file', token), f'{address} refuses this robot: the token is not'),
            (('--tls-ca-file', world.other.file), f"{address}: the server's certificate does"),
            ((), 'does the server want TLS (tls_ca_file)?'),
            ((*trust, '--token-file', tmp_path), f"token_file is '{tmp_path}'"),
        ):
            status, _, err = said(capsys, address, *arguments)
            assert status == 1 and expected in err and err.count('\n') == 1, err
            assert 'token-of-this-robot' not in err


def test_a_check_says_that_a_server_is_full(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(servicer: Scripted, context: Any) -> None:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, 'no stream is left')

    servicer = Scripted(answer_all)
    servicer.admit = full
    with serving(servicer) as port:
        status, _, err = said(capsys, f'127.0.0.1:{port}')
    assert (status, err) == (1, f'link_check: 127.0.0.1:{port} is full: no stream is left\n')
