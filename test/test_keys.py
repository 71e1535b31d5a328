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
"""The command `ferros-cloud keys`, and the commands of docs/security.md as they stand there."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_server import keys, sealed_state, tokens
from cloud_server.config import ServerConfig
from cloud_server.config import load as load_settings
from cloud_server.credentials import read as read_credentials
from ferros.config import RobotConfig

SOME = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def run(*words: str | Path) -> int:
    """Run `ferros-cloud keys` with these words; return the exit status."""
    parser = argparse.ArgumentParser(prog='ferros-cloud keys')
    keys.add_arguments(parser)
    return keys.run(parser.parse_args([str(word) for word in words]))


def fails(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Run it, see it fail and return what it said."""
    capsys.readouterr()
    assert run(*words) == 2
    said = capsys.readouterr()
    assert said.out == ''
    assert all(line.startswith('ferros-cloud keys: ') for line in said.err.splitlines())
    return said.err


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def value(made: x509.Certificate, kind: type[x509.ExtensionType]):
    return made.extensions.get_extension_for_class(kind).value


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder with a CA in it."""
    made = tmp_path / 'fleet'
    assert run('ca', made) == 0
    return made


def test_a_ca_signs_leaves_for_ten_years_and_no_further_ca(folder):
    ca = certificate(folder / 'ca.pem')
    assert value(ca, x509.BasicConstraints) == x509.BasicConstraints(ca=True, path_length=0)
    usage = value(ca, x509.KeyUsage)
    assert usage.key_cert_sign
    assert not usage.digital_signature
    assert isinstance(ca.public_key().curve, ec.SECP256R1)
    lasts = ca.not_valid_after_utc - datetime.now(timezone.utc)
    assert timedelta(3649) < lasts < timedelta(3651)
    ca.verify_directly_issued_by(ca)


def test_two_cas_have_two_names(tmp_path):
    assert run('ca', tmp_path / 'one') == run('ca', tmp_path / 'other') == 0
    subjects = {certificate(tmp_path / name / 'ca.pem').subject for name in ('one', 'other')}
    assert len(subjects) == 2


def test_a_server_gets_a_certificate_for_every_name_and_address_it_is_called_by(folder):
    hosts = ['robots.example.org', '*.lab.example.org', 'localhost', '192.168.1.20', '::1']
    assert run('server', folder, '--host', *hosts) == 0
    made = certificate(folder / 'server' / 'cert.pem')
    names = value(made, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == hosts[:3]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(host) for host in hosts[3:]
    ]
    assert list(value(made, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not value(made, x509.BasicConstraints).ca
    made.verify_directly_issued_by(certificate(folder / 'ca.pem'))


def test_a_robot_gets_a_certificate_of_its_name(folder):
    robot_id = 'Pepper_1.front-' + 'x' * 49
    assert len(robot_id) == 64
    assert run('robot', folder, robot_id) == 0
    made = certificate(folder / 'robots' / robot_id / 'cert.pem')
    (name,) = made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == robot_id
    names = value(made, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == [robot_id]
    assert list(value(made, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    made.verify_directly_issued_by(certificate(folder / 'ca.pem'))


def test_what_is_made_for_a_server_can_be_served_with(folder):
    assert run('server', folder, '--host', 'localhost') == 0
    settings_made = ServerConfig(
        tls_cert_file=folder / 'server' / 'cert.pem',
        tls_key_file=folder / 'server' / 'key.pem',
        tls_client_ca_file=folder / 'server' / 'ca.pem',
    )
    files = read_credentials(settings_made, datetime.now().timestamp())
    assert files is not None
    assert files.warnings == ()


def test_secrets_are_for_their_owner_only_even_with_an_open_umask(tmp_path):
    before = os.umask(0)
    try:
        fleet = tmp_path / 'fleet'
        assert run('ca', fleet) == run('server', fleet, '--host', 'localhost') == 0
        assert run('robot', fleet, 'r') == run('token', fleet, 'r') == 0
        assert run('state', fleet / 'server' / 'state_key') == 0
    finally:
        os.umask(before)
    modes = {str(path.relative_to(fleet)): mode_of(path)
             for path in fleet.rglob('*') if path.is_file()}
    assert {name for name, mode in modes.items() if mode == 0o600} == {
        'ca_key.pem', 'server/key.pem', 'server/state_key', 'robots/r/key.pem', 'robots/r/token'
    }
    assert {name for name, mode in modes.items() if mode == 0o644} == set(modes) - {
        'ca_key.pem', 'server/key.pem', 'server/state_key', 'robots/r/key.pem', 'robots/r/token'
    }
    assert {mode_of(path) for path in (fleet, fleet / 'robots' / 'r')} == {0o700}


@pytest.mark.parametrize('words', [('ca',), ('server', '--host', 'other'), ('robot', 'r')])
def test_nothing_is_overwritten_unless_forced(folder, capsys, words):
    assert run('server', folder, '--host', 'localhost') == run('robot', folder, 'r') == 0
    before = {path: path.read_bytes() for path in folder.rglob('*.pem')}
    said = fails(capsys, words[0], folder, *words[1:])
    assert 'is there; --force overwrites it' in said
    assert {path: path.read_bytes() for path in folder.rglob('*.pem')} == before
    assert run(words[0], folder, *words[1:], '--force') == 0
    changed = [path for path, content in before.items() if path.read_bytes() != content]
    assert len(changed) == 2


def test_where_one_of_two_files_is_there_neither_is_written(tmp_path, capsys):
    fleet = tmp_path / 'fleet'
    fleet.mkdir()
    (fleet / 'ca_key.pem').write_text('precious')
    assert str(fleet / 'ca_key.pem') in fails(capsys, 'ca', fleet)
    assert [path.name for path in fleet.iterdir()] == ['ca_key.pem']


def test_a_forced_secret_is_never_in_a_file_that_others_can_read(folder):
    key = folder / 'ca_key.pem'
    key.chmod(0o644)
    reader = key.open()
    assert run('ca', folder, '--force') == 0
    # Who had the old file open does not see the new key.
    assert reader.read() != key.read_text()
    reader.close()
    assert mode_of(key) == 0o600


def test_what_an_interrupted_run_left_is_no_obstacle(tmp_path):
    left = tmp_path / '.state_key.new'
    left.write_text('half a k')
    left.chmod(0o644)
    assert run('state', tmp_path / 'state_key') == 0
    assert mode_of(tmp_path / 'state_key') == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ['state_key']


def test_days_are_limited_and_no_certificate_outlives_its_ca(folder, capsys):
    assert run('robot', folder, 'r', '--days', '7') == 0
    lasts = certificate(folder / 'robots' / 'r' / 'cert.pem').not_valid_after_utc
    assert timedelta(6) < lasts - datetime.now(timezone.utc) < timedelta(8)
    for days in ('0', '826', '-1', 'x', '1.5'):
        with pytest.raises(SystemExit):
            run('robot', folder, 's', '--days', days)
        assert 'expected 1 to 825' in capsys.readouterr().err
    assert run('ca', folder, '--days', '5', '--force') == run('robot', folder, 's') == 0
    assert (certificate(folder / 'robots' / 's' / 'cert.pem').not_valid_after_utc
            == certificate(folder / 'ca.pem').not_valid_after_utc)


def test_a_ca_that_ended_signs_nothing(tmp_path, capsys):
    ca = keys.make_ca(datetime.now(timezone.utc) - timedelta(100), days=10)
    (tmp_path / 'ca.pem').write_bytes(ca.certificate_pem)
    (tmp_path / 'ca_key.pem').write_bytes(ca.key_pem)
    assert 'the CA expired at' in fails(capsys, 'robot', tmp_path, 'r')


@pytest.mark.parametrize(
    'robot_id',
    ['', '.', '..', '../x', 'a/b', '_x', 'a b', 'a\nb', 'a\x00b', 'x' * 65, 'robotér', 'x\n'],
)
@pytest.mark.parametrize('kind', ['robot', 'token'])
def test_an_id_that_is_no_robots_makes_nothing(folder, capsys, kind, robot_id):
    before = sorted(folder.rglob('*'))
    assert 'expected 1 to 64 of A-Z a-z 0-9 . _ -' in fails(capsys, kind, folder, robot_id)
    assert sorted(folder.rglob('*')) == before


@SOME
@given(st.from_regex(keys.ROBOT_ID, fullmatch=True))
def test_every_id_that_is_accepted_is_one_folder_one_word_and_a_name_of_a_certificate(robot_id):
    assert Path(robot_id).name == robot_id
    assert len(tokens.parse(tokens.line_of(robot_id, 'x'))) == 1
    x509.DNSName(robot_id)
    x509.NameAttribute(NameOID.COMMON_NAME, robot_id)


@pytest.mark.parametrize(
    'host',
    ['', 'a.b:50051', 'http://a.b', 'a b', '1.2.3', '256.1.1.1', 'a..b', 'a.*.b', 'é.org',
     'x' * 64, '.'.join(['x' * 60] * 5), 'a' * 30 + '!'],
)
def test_a_host_that_is_neither_a_name_nor_an_address_makes_nothing(folder, capsys, host):
    said = fails(capsys, 'server', folder, '--host', 'good.example.org', host)
    assert f'--host {host!r}, expected a name or an IP address' in said
    assert not (folder / 'server').exists()


def test_without_a_ca_the_command_that_makes_one_is_named(tmp_path, capsys):
    said = fails(capsys, 'robot', tmp_path / 'my fleet', 'r')
    assert f"`ferros-cloud keys ca '{tmp_path}/my fleet'` makes it" in said


@pytest.mark.parametrize('content', ['', 'nonsense', 'other key'])
def test_a_ca_that_is_damaged_or_of_two_halves_is_refused(folder, tmp_path, capsys, content):
    if content == 'other key':
        assert run('ca', tmp_path / 'other') == 0
        content = (tmp_path / 'other' / 'ca_key.pem').read_text()
    (folder / 'ca_key.pem').write_text(content)
    said = fails(capsys, 'robot', folder, 'r')
    assert 'is damaged' in said or 'is not the key of' in said


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    assert str(tmp_path / 'file') in fails(capsys, 'ca', tmp_path / 'file' / 'fleet')


def test_a_token_goes_to_the_robot_and_its_hash_to_the_server(tmp_path, capsys):
    assert run('token', tmp_path, 'robot-1') == 0
    token = (tmp_path / 'robots' / 'robot-1' / 'token').read_text().strip()
    said = capsys.readouterr()
    assert token not in said.out + said.err
    assert token not in (tmp_path / 'server' / 'tokens').read_text()
    assert tokens.TokenFile(tmp_path / 'server' / 'tokens').robot_of(token, 0) == 'robot-1'


def test_a_printed_token_is_alone_on_the_standard_output_and_in_no_file(tmp_path, capsys):
    token_file = tmp_path / 'elsewhere' / 'tokens'
    assert run('token', tmp_path, 'robot-1', '--print', '--token-file', token_file) == 0
    said = capsys.readouterr()
    assert tokens.TokenFile(token_file).robot_of(said.out.rstrip('\n'), 0) == 'robot-1'
    assert len(said.out.splitlines()) == 1
    assert [path for path in tmp_path.rglob('*') if path.is_file()] == [token_file]


def test_a_second_token_of_a_robot_leaves_the_first_one_good_and_says_so(tmp_path, capsys):
    path = tmp_path / 'robots' / 'robot-1' / 'token'
    assert run('token', tmp_path, 'robot-1') == 0
    first = path.read_text().strip()
    assert 'is there; --force overwrites it' in fails(capsys, 'token', tmp_path, 'robot-1')
    assert len(tokens.read(tmp_path / 'server' / 'tokens')) == 1
    assert run('token', tmp_path, 'robot-1', '--force') == 0
    assert 'robot-1 has 1 more there' in capsys.readouterr().out
    file = tokens.TokenFile(tmp_path / 'server' / 'tokens')
    assert path.read_text().strip() != first
    assert file.robot_of(first, 0) == file.robot_of(path.read_text().strip(), 0) == 'robot-1'


def test_a_token_is_added_behind_what_an_operator_wrote(tmp_path):
    token_file = tmp_path / 'tokens'
    # No end of line, as some editors leave it.
    token_file.write_text('# the lab\n' + tokens.line_of('robot-0', 'x'))
    token_file.chmod(0o640)
    assert run('token', tmp_path, 'robot-1', '--token-file', token_file) == 0
    assert [entry.robot_id for entry in tokens.read(token_file)] == ['robot-0', 'robot-1']
    assert token_file.read_text().startswith('# the lab\n')
    assert mode_of(token_file) == 0o640


def test_nothing_is_added_to_a_file_that_is_no_token_file(tmp_path, capsys):
    token_file = tmp_path / 'tokens'
    token_file.write_text('nonsense\n')
    assert 'line 1' in fails(capsys, 'token', tmp_path, 'r', '--token-file', token_file)
    assert token_file.read_text() == 'nonsense\n'
    assert not (tmp_path / 'robots').exists()


def test_a_state_key_is_made_kept_and_rotated(tmp_path, capsys):
    path = tmp_path / 'state_key'
    assert run('state', path) == 0
    (first,) = sealed_state.read_state_keys(path)
    assert 'is there; --force overwrites it' in fails(capsys, 'state', path)
    assert run('state', path, '--rotate') == 0
    second, kept = sealed_state.read_state_keys(path)
    assert kept == first != second
    assert run('state', path, '--rotate') == 0
    third, kept = sealed_state.read_state_keys(path)
    assert kept == second
    said = capsys.readouterr()
    assert not any(key.hex() in said.out + said.err for key in (first, second, third))
    assert mode_of(path) == 0o600
    assert run('state', path, '--force') == 0
    assert len(sealed_state.read_state_keys(path)) == 1


def test_rotating_a_key_that_is_not_there_makes_nothing(tmp_path, capsys):
    assert 'No such file' in fails(capsys, 'state', tmp_path / 'missing', '--rotate')
    assert list(tmp_path.iterdir()) == []


def blocks(root: Path, language: str) -> list[str]:
    text = (root / 'docs' / 'security.md').read_text()
    return re.findall(rf'```{language}\n(.*?)```', text, re.DOTALL)


def make_programs(folder: Path) -> None:
    """Put what the commands call where they call it, as a checkout has it."""
    programs = folder / '.venv' / 'bin'
    programs.mkdir(parents=True)
    for name, module in (
        ('ferros-cloud', 'cloud_server'), ('ferros-link-check', 'ferros.link_check')
    ):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (programs / name).chmod(0o755)


@contextlib.contextmanager
def serving(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Serve with the page's settings, on this machine only; give the port."""
    command = ['.venv/bin/ferros-cloud', 'serve', '--config', 'server.yaml',
               '--host', '127.0.0.1', '--port', '0', '--workers', '1']
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().rpartition(':')[2].strip()
        finally:
            server.terminate()
            assert server.wait(20) == 0


def test_the_commands_of_the_security_page_work_in_their_order(root, tmp_path):
    (tmp_path / 'server.yaml').write_text(blocks(root, 'yaml')[0])
    make_programs(tmp_path)
    environment = {**os.environ, 'PYTHONPATH': str(root)}
    token_file, counts = tmp_path / 'fleet' / 'server' / 'tokens', []
    with contextlib.ExitStack() as stack:
        for block in blocks(root, 'sh'):
            for line in block.splitlines():
                command = line.replace('robots.example.org', 'localhost')
                if 'ferros-link-check' in command:
                    port = stack.enter_context(serving(tmp_path, environment))
                    command = command.replace('localhost', f'localhost:{port}')
                    command += ' --seconds 1 --no-burst'
                ended = subprocess.run(
                    command, shell=True, cwd=tmp_path, env=environment,
                    capture_output=True, text=True, timeout=60, check=False,
                )
                assert ended.returncode == 0, f'{command}\n{ended.stdout}{ended.stderr}'
                if 'keys token' in command or command.startswith('sed'):
                    counts.append(len(tokens.read(token_file)))
    # A token was made, another one added, the older one taken out, the last one taken out.
    assert counts == [1, 2, 1, 0]
    assert len(x509.load_pem_x509_certificates((tmp_path / 'both.pem').read_bytes())) == 2
    assert len(sealed_state.read_state_keys(tmp_path / 'fleet/server/state_key')) == 2


def test_the_settings_of_the_security_page_are_settings(root, tmp_path):
    server_yaml, robot_yaml = blocks(root, 'yaml')
    (tmp_path / 'server.yaml').write_text(server_yaml)
    config = load_settings({}, {}, tmp_path / 'server.yaml')
    assert config.tls_client_ca_file == Path('fleet/server/ca.pem')
    parameters = yaml.safe_load(robot_yaml)
    assert RobotConfig(**parameters).tls_ca_file == '/etc/ferros/ca.pem'
