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
"""
Certificates, tokens and keys for tests and small fleets. Behind `ferros-cloud keys`.

This is not a public key infrastructure: the CA's key is a plain file, and nothing is revoked or
renewed by itself. Who has a PKI lets it sign; docs/security.md says what is expected of it.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from cloud_server import sealed_state, tokens

CA_DAYS = 3650
# What the strictest of the common TLS libraries takes (Apple's, for CAs that a user added).
MAX_LEAF_DAYS = 825
MAX_CA_DAYS = 36_500
# For the clocks of robots that are a little behind.
BACKDATED = timedelta(hours=1)
# Longer than this and a name does not fit a common name (RFC 5280, ub-common-name).
MAX_NAME_CHARS = 64
# Fits a common name, a DNS name of a certificate, a line of a token file and a folder's name.
ROBOT_ID = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,63}')
_LABEL = r'[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?'
HOST_NAME = re.compile(rf'(\*\.)?({_LABEL}\.)*{_LABEL}\.?')
SECRET_MODE = 0o600
PUBLIC_MODE = 0o644

Write = tuple[Path, bytes, int]


class KeysError(ValueError):
    """Keys that cannot be made; the message says why."""


class Pair(NamedTuple):
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """Return the certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """Return the private key in PEM, not encrypted."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_ca(now: datetime, days: int = CA_DAYS) -> Pair:
    """Return a CA that signs certificates of servers and robots, but no further CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # So that two CAs are told apart by their names.
    name = _common_name(f'ferros CA {serial % 2**32:08x}')
    certificate = (
        _builder(name, name, key.public_key(), now, now + timedelta(days=days))
        .serial_number(serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, SHA256())
    )
    return Pair(certificate, key)


def make_server(ca: Pair, hosts: Sequence[str], now: datetime, days: int = MAX_LEAF_DAYS) -> Pair:
    """
    Return the certificate of a server that robots call by any of these names and IP addresses.

    Raises:
        KeysError: for what is neither.

    """
    alternatives = [_alternative(host) for host in hosts]
    name = hosts[0] if len(hosts[0]) <= MAX_NAME_CHARS else 'ferros server'
    return _signed(ca, name, alternatives, ExtendedKeyUsageOID.SERVER_AUTH, now, days)


def make_robot(ca: Pair, robot_id: str, now: datetime, days: int = MAX_LEAF_DAYS) -> Pair:
    """
    Return the certificate of a robot; its id is the common name and the only DNS name.

    Raises:
        KeysError: for an id that does not match ROBOT_ID.

    """
    alternatives = [x509.DNSName(_checked_robot_id(robot_id))]
    return _signed(ca, robot_id, alternatives, ExtendedKeyUsageOID.CLIENT_AUTH, now, days)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `ferros-cloud keys`."""
    parser.description = (
        'Make certificates, tokens and keys for tests and small fleets. It is not a PKI: the'
        " CA's key is a plain file, nothing is revoked or renewed by itself. docs/security.md"
        ' shows it in use.'
    )
    commands = parser.add_subparsers(dest='kind', metavar='KIND', required=True)
    add = commands.add_parser
    _add_ca(add('ca', help='a CA of your own, which signs the certificates below'))
    _add_server(add('server', help='the certificate of a server'))
    _add_robot(add('robot', help="a robot's certificate, with which it proves who it is"))
    _add_token(add('token', help="a robot's token, with which it proves who it is"))
    _add_state(add('state', help='the key that seals the LSTM states robots carry'))


def run(args: argparse.Namespace) -> int:
    """Make what was asked for; return the exit status."""
    make: Callable[[argparse.Namespace], None] = args.make
    try:
        make(args)
    except (KeysError, tokens.TokenFileError, sealed_state.StateKeyError) as error:
        problem = str(error)
    except OSError as error:
        problem = f'{error.filename}: {error.strerror}'
    else:
        return 0
    for line in problem.splitlines():
        print(f'ferros-cloud keys: {line}', file=sys.stderr)
    return 2


def _add_ca(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    _add_days(parser, CA_DAYS, MAX_CA_DAYS)
    _add_force(parser)
    parser.set_defaults(make=_make_ca)


def _add_server(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    parser.add_argument(
        '--host', nargs='+', action='extend', required=True, metavar='NAME_OR_IP',
        help='each name and IP address by which robots call the server',
    )
    _add_days(parser, MAX_LEAF_DAYS, MAX_LEAF_DAYS)
    _add_force(parser)
    parser.set_defaults(make=_make_server)


def _add_robot(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    _add_robot_id(parser)
    _add_days(parser, MAX_LEAF_DAYS, MAX_LEAF_DAYS)
    _add_force(parser)
    parser.set_defaults(make=_make_robot)


def _add_token(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    _add_robot_id(parser)
    parser.add_argument(
        '--token-file', type=Path, metavar='FILE',
        help="the server's file of hashes, to which this one's is added"
        ' (default: FOLDER/server/tokens)',
    )
    parser.add_argument(
        '--print', action='store_true', help='print the token instead of writing it to a file'
    )
    _add_force(parser)
    parser.set_defaults(make=_make_token)


def _add_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('file', type=Path, metavar='FILE', help='the key file to write')
    parser.add_argument(
        '--rotate', action='store_true',
        help='put a new key before the one in the file, which still opens what it sealed',
    )
    _add_force(parser)
    parser.set_defaults(make=_make_state)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='where all of it is kept')


def _add_robot_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'robot_id', metavar='ROBOT_ID',
        help="the robot's robot_id: 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit",
    )


def _add_days(parser: argparse.ArgumentParser, default: int, highest: int) -> None:
    def days(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f'{text!r}, expected 1 to {highest}')
        return int(text)

    parser.add_argument(
        '--days', type=days, default=default, metavar='N',
        help=f'for how long the certificate is valid, 1 to {highest} (default: {default})',
    )


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--force', action='store_true', help='overwrite files that are there')


def _make_ca(args: argparse.Namespace) -> None:
    ca = make_ca(_now(), args.days)
    certificate, key = _ca_paths(args.folder)
    _write_all(
        [(certificate, ca.certificate_pem, PUBLIC_MODE), (key, ca.key_pem, SECRET_MODE)],
        args.force,
    )
    _say(
        f'{certificate}: the certificate of the CA, valid until {_end_text(ca)}',
        f'{key}: its private key. Whoever has it can make robots and servers: it stays here',
        'next:',
        f'    ferros-cloud keys server {_quoted(args.folder)} --host NAME_OR_IP',
        f'    ferros-cloud keys robot {_quoted(args.folder)} ROBOT_ID',
    )


def _make_server(args: argparse.Namespace) -> None:
    ca = _read_ca(args.folder)
    folder = args.folder / 'server'
    server = make_server(ca, args.host, _now(), args.days)
    paths = _write_pair(folder, ca, server, args.force)
    _say(
        f'{paths[0]}: the certificate for {", ".join(args.host)}, valid until {_end_text(server)}',
        f'{paths[1]}: its private key',
        f'{paths[2]}: the certificate of the CA, to know robots by',
        f'copy {folder} to the server, which serves with',
        f'    ferros-cloud serve --host 0.0.0.0 --tls-cert-file {_quoted(paths[0])}'
        f' --tls-key-file {_quoted(paths[1])} --tls-client-ca-file {_quoted(paths[2])}',
        'without --tls-client-ca-file robots need no certificate, and without --token-file no'
        ' token: with neither everyone who reaches the server is let in',
    )


def _make_robot(args: argparse.Namespace) -> None:
    folder = _robot_folder(args.folder, args.robot_id)
    ca = _read_ca(args.folder)
    robot = make_robot(ca, args.robot_id, _now(), args.days)
    paths = _write_pair(folder, ca, robot, args.force)
    _say(
        f'{paths[0]}: the certificate of {args.robot_id}, valid until {_end_text(robot)}',
        f'{paths[1]}: its private key',
        f'{paths[2]}: the certificate of the CA, to know the server by',
        f'copy {folder} to the robot, whose parameters say where they are there',
        '    tls_ca_file: .../ca.pem',
        '    tls_cert_file: .../cert.pem',
        '    tls_key_file: .../key.pem',
        f'its robot_id stays empty, or is {args.robot_id}: another one is refused',
    )


def _make_token(args: argparse.Namespace) -> None:
    path = _robot_folder(args.folder, args.robot_id) / 'token'
    token_file = args.token_file or args.folder / 'server' / 'tokens'
    entries = tokens.read(token_file) if token_file.exists() else ()
    older = sum(entry.robot_id == args.robot_id for entry in entries)
    token = tokens.new_token()
    if not args.print:
        _write_all([(path, f'{token}\n'.encode(), SECRET_MODE)], args.force)
    _append_line(token_file, tokens.line_of(args.robot_id, token))
    lines = [f'{token_file}: the hash of the token was added, for the server (--token-file)']
    if older:
        lines.append(
            f'{args.robot_id} has {older} more there: good until their lines are removed'
        )
    if args.print:
        # The token alone goes to the standard output, so that it can be piped.
        print('\n'.join(lines), file=sys.stderr)
        print(token)
        return
    _say(
        f'{path}: the token',
        *lines,
        f'copy {path} to the robot, whose parameters say where it is there',
        '    token_file: .../token',
        f'its robot_id stays empty, or is {args.robot_id}: another one is refused',
    )


def _make_state(args: argparse.Namespace) -> None:
    keys = [sealed_state.new_key()]
    if args.rotate:
        # Only the last: what older ones sealed has expired long ago.
        keys.append(sealed_state.read_state_keys(args.file)[0])
    text = ''.join(f'{sealed_state.key_text(key)}\n' for key in keys)
    _write_all([(args.file, text.encode(), SECRET_MODE)], args.force or args.rotate)
    _say(
        f'{args.file}: {"a new key, and the one before" if args.rotate else "the key"}.'
        ' Copy it to every server of the fleet, which serves with',
        f'    ferros-cloud serve --state-key-file {_quoted(args.file)}',
    )


def _append_line(path: Path, line: str) -> None:
    """Add a line in one write: a server that reads meanwhile sees it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, PUBLIC_MODE), 'r+b') as file:
        content = file.read()
        joint = '\n' if content and not content.endswith(b'\n') else ''
        file.write(f'{joint}{line}\n'.encode())


def _write_pair(folder: Path, ca: Pair, pair: Pair, force: bool) -> tuple[Path, Path, Path]:
    """Write a certificate, its key and the CA's certificate into a folder; return their paths."""
    paths = folder / 'cert.pem', folder / 'key.pem', folder / 'ca.pem'
    _write_all(
        [
            (paths[0], pair.certificate_pem, PUBLIC_MODE),
            (paths[1], pair.key_pem, SECRET_MODE),
            # Always the same one, so nothing is lost.
            (paths[2], ca.certificate_pem, PUBLIC_MODE),
        ],
        force,
        may_replace=(paths[2],),
    )
    return paths


def _write_all(writes: Sequence[Write], force: bool, may_replace: Sequence[Path] = ()) -> None:
    """Write files, all or, if one is there that must not be overwritten, none."""
    there = [
        path for path, _, _ in writes
        if path.exists() and not force and path not in may_replace
    ]
    if there:
        raise KeysError('\n'.join(f'{path} is there; --force overwrites it' for path in there))
    for path, content, mode in writes:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A file of its own from the start: a secret is never in one that others can read.
        new = path.with_name(f'.{path.name}.new')
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), 'wb') as file:
            file.write(content)
        os.replace(new, path)


def _read_ca(folder: Path) -> Pair:
    certificate_path, key_path = _ca_paths(folder)
    for path in (certificate_path, key_path):
        if not path.exists():
            raise KeysError(
                f'{path} is not there; `ferros-cloud keys ca {_quoted(folder)}` makes it'
            )
    try:
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        key = load_pem_private_key(key_path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeysError(
            f'{certificate_path} or {key_path} is damaged, expected what `keys ca` wrote'
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeysError(f'{key_path}: not an EC key, expected what `keys ca` wrote')
    if certificate.public_key() != key.public_key():
        raise KeysError(f'{key_path} is not the key of {certificate_path}')
    return Pair(certificate, key)


def _ca_paths(folder: Path) -> tuple[Path, Path]:
    return folder / 'ca.pem', folder / 'ca_key.pem'


def _robot_folder(folder: Path, robot_id: str) -> Path:
    return folder / 'robots' / _checked_robot_id(robot_id)


def _checked_robot_id(robot_id: str) -> str:
    if not ROBOT_ID.fullmatch(robot_id):
        raise KeysError(
            f'ROBOT_ID is {robot_id!r}, expected 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter'
            ' or digit'
        )
    return robot_id


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    last = host.rstrip('.').rpartition('.')[2]
    if len(host) > 253 or not HOST_NAME.fullmatch(host) or last.isdecimal():
        raise KeysError(
            f'--host {host!r}, expected a name or an IP address, without a port or a scheme'
        )
    return x509.DNSName(host.rstrip('.'))


def _signed(
    ca: Pair,
    name: str,
    alternatives: Sequence[x509.GeneralName],
    usage: ObjectIdentifier,
    now: datetime,
    days: int,
) -> Pair:
    ca_end = ca.certificate.not_valid_after_utc
    if now >= ca_end:
        raise KeysError(f'the CA expired at {ca_end:%Y-%m-%d}; `keys ca --force` makes a new one')
    key = ec.generate_private_key(ec.SECP256R1())
    # What outlives its CA is not valid.
    end = min(now + timedelta(days=days), ca_end)
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    certificate = (
        _builder(_common_name(name), ca.certificate.subject, key.public_key(), now, end)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(ca.key, SHA256())
    )
    return Pair(certificate, key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _end_text(pair: Pair) -> str:
    return f'{pair.certificate.not_valid_after_utc:%Y-%m-%d}'


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _say(*lines: str) -> None:
    print('\n'.join(lines))
