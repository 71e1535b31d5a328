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
The server's side of TLS: its PEM files, checked before gRPC sees them.

gRPC takes an expired certificate without a word, and of a key that does not match it says only
that the port cannot be bound.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloud_server.config import ServerConfig

# What gRPC's TLS library signs with as it comes: not Ed25519, not P-521.
CURVES = ('secp256r1', 'secp384r1')
MIN_RSA_BITS = 2048
# A warning comes so long before a certificate ends.
ENDING_SOON = timedelta(days=30)

_BEGIN_CERTIFICATE = b'-----BEGIN CERTIFICATE-----'
_PRIVATE_KEY = b'PRIVATE KEY-----'
_SERVER_USAGES = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}

Key = Any
Extension = TypeVar('Extension', bound=x509.ExtensionType)

log = logging.getLogger(__name__)


class CredentialsError(ValueError):
    """TLS files that cannot be served with; the message has one line for each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__('\n'.join(problems))
        self.problems = problems


class TlsFiles(NamedTuple):
    """The checked contents of the files, in PEM, and what an operator should know of them."""

    key: bytes
    chain: bytes
    # None: robots need not show a certificate.
    client_ca: bytes | None
    warnings: tuple[str, ...]


def server_credentials(
    config: ServerConfig, now_s: float | None = None
) -> grpc.ServerCredentials | None:
    """
    Return what a secure port is opened with; None where the settings name no certificate.

    Args:
        config: the settings; with tls_client_ca_file robots must show a certificate.
        now_s: seconds since 1970; None: the clock's.

    Raises:
        CredentialsError: naming each setting, its file and what was expected.

    """
    files = read(config, time.time() if now_s is None else now_s)
    if files is None:
        return None
    for warning in files.warnings:
        log.warning('%s', warning)
    return grpc.ssl_server_credentials(
        [(files.key, files.chain)],
        root_certificates=files.client_ca,
        require_client_auth=files.client_ca is not None,
    )


def read(config: ServerConfig, now_s: float) -> TlsFiles | None:
    """
    Read and check the files that the settings name; None where they name no certificate.

    Args:
        config: the settings.
        now_s: seconds since 1970.

    Raises:
        CredentialsError: naming each setting, its file and what was expected.

    """
    if config.tls_cert_file is None or config.tls_key_file is None:
        return None
    checks = _Checks(datetime.fromtimestamp(now_s, timezone.utc))
    chain_file = _File.read('tls_cert_file', config.tls_cert_file, checks)
    key_file = _File.read('tls_key_file', config.tls_key_file, checks)
    chain = checks.certificates(chain_file)
    key = checks.private_key(key_file)
    if chain:
        checks.check_chain(chain_file, chain)
    if key is not None:
        checks.check_key(key_file, key)
    if chain and key is not None:
        checks.check_pair(key_file, key, chain)
    client_ca = None
    if config.tls_client_ca_file is not None:
        ca_file = _File.read('tls_client_ca_file', config.tls_client_ca_file, checks)
        checks.check_cas(ca_file, checks.certificates(ca_file))
        client_ca = ca_file.content
    if checks.problems:
        raise CredentialsError(checks.problems)
    return TlsFiles(key_file.content, chain_file.content, client_ca, tuple(checks.warnings))


class _File(NamedTuple):
    """A setting's file; empty, with a problem, where it cannot be read or holds nothing."""

    # What stands before each message about it.
    name: str
    content: bytes = b''
    mode: int = 0

    @classmethod
    def read(cls, setting: str, path: Path, checks: _Checks) -> _File:
        name = f'{setting}: {path}'
        try:
            with path.open('rb') as file:
                content, mode = file.read(), os.fstat(file.fileno()).st_mode
        except OSError as error:
            checks.problems.append(f'{name}: cannot be read ({error.strerror})')
            return cls(name)
        if not content:
            checks.problems.append(f'{name}: empty, expected PEM')
        return cls(name, content, mode)


class _Checks:
    """Collects what is wrong with the files, and what is only worth a warning."""

    def __init__(self, now: datetime) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._now = now

    def certificates(self, file: _File) -> list[x509.Certificate]:
        """Return the certificates of a file in their order; none where something is wrong."""
        if not file.content:
            return []
        if _BEGIN_CERTIFICATE not in file.content:
            got = _what_is(file.content)
            self.problems.append(f'{file.name}: {got}, expected a certificate in PEM')
            return []
        try:
            found = x509.load_pem_x509_certificates(file.content)
            for certificate in found:
                _ = certificate.extensions, certificate.public_key()  # parsed only now
        except (
            ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
            x509.UnsupportedGeneralNameType,
        ):
            self.problems.append(
                f'{file.name}: a damaged certificate, or of an unknown kind, expected one in PEM'
            )
            return []
        return found

    def private_key(self, file: _File) -> Key | None:
        """Return the key of a file; None where something is wrong."""
        if not file.content:
            return None
        if _PRIVATE_KEY not in file.content:
            got = _what_is(file.content)
            self.problems.append(f'{file.name}: {got}, expected a private key in PEM')
            return None
        try:
            return load_pem_private_key(file.content, password=None)
        except TypeError:
            got = 'encrypted, expected a private key without a passphrase'
        except (ValueError, UnsupportedAlgorithm):
            got = 'a damaged private key, or of an unknown kind, expected one in PEM'
        self.problems.append(f'{file.name}: {got}')
        return None

    def check_chain(self, file: _File, chain: list[x509.Certificate]) -> None:
        """Check the server's own certificate, which is the first, and those that vouch for it."""
        for certificate in chain:
            fault = self._time_fault(file, certificate)
            if fault:
                self.problems.append(fault)
        own = chain[0]
        usage = _extension(own, x509.ExtendedKeyUsage)
        if usage is not None and not set(usage) & _SERVER_USAGES:
            self.problems.append(
                f'{file.name}: {_name(own)} is not for servers, expected a certificate'
                ' with the extended key usage serverAuth'
            )
        if _extension(own, x509.SubjectAlternativeName) is None:
            self.warnings.append(
                f'{file.name}: {_name(own)} has no subject alternative name;'
                ' robots compare the address they call with it'
            )

    def check_key(self, file: _File, key: Key) -> None:
        """Check that gRPC can serve with a key, and that nobody else reads it."""
        if not _is_usable(key):
            self.problems.append(
                f'{file.name}: a key of a kind that gRPC does not serve with, expected EC P-256'
                f' or P-384, or RSA of {MIN_RSA_BITS} bits or more'
            )
        if file.mode & (stat.S_IRGRP | stat.S_IROTH):
            who = 'every user' if file.mode & stat.S_IROTH else 'its group'
            self.warnings.append(f'{file.name}: can be read by {who}, expected the mode 0600')

    def check_pair(self, file: _File, key: Key, chain: list[x509.Certificate]) -> None:
        """Check that a key is that of the first certificate."""
        expected = _public_bytes(key.public_key())
        matches = [_public_bytes(certificate.public_key()) == expected for certificate in chain]
        if matches[0]:
            return
        fault = 'does not belong to the certificate of tls_cert_file'
        if any(matches):
            fault += ", but to a later one there; expected the server's own one first"
        self.problems.append(f'{file.name}: {fault}')

    def check_cas(self, file: _File, cas: list[x509.Certificate]) -> None:
        """Check the CAs of robots; one of several may have ended, as when it is replaced."""
        for ca in cas:
            if not _is_ca(ca):
                self.problems.append(
                    f'{file.name}: {_name(ca)} is not a CA, expected the certificate of the CA'
                    ' that signed those of the robots'
                )
        faults = [fault for fault in (self._time_fault(file, ca) for ca in cas) if fault]
        (self.problems if len(faults) == len(cas) else self.warnings).extend(faults)

    def _time_fault(self, file: _File, certificate: x509.Certificate) -> str:
        """Return what is wrong with the time of a certificate; warn where it will be soon."""
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        name = f'{file.name}: {_name(certificate)}'
        if self._now < begins:
            return f'{name} is valid only from {_time_text(begins)}; is the clock right?'
        if self._now > ends:
            return f'{name} expired at {_time_text(ends)}, expected a valid one'
        if ends - self._now < ENDING_SOON:
            self.warnings.append(f'{name} expires at {_time_text(ends)}')
        return ''


def _what_is(content: bytes) -> str:
    if _PRIVATE_KEY in content:
        return 'a private key'
    if _BEGIN_CERTIFICATE in content:
        return 'a certificate'
    return 'neither a certificate nor a key' if b'-----BEGIN ' in content else 'not PEM'


def _is_usable(key: Key) -> bool:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.curve.name in CURVES
    return isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS


def _is_ca(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    return constraints is not None and constraints.ca and (usage is None or usage.key_cert_sign)


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    """Return the value of an extension; None where the certificate has it not."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _name(certificate: x509.Certificate) -> str:
    return f'the certificate of {certificate.subject.rfc4514_string() or "no subject"!r}'


def _time_text(time_utc: datetime) -> str:
    return f'{time_utc:%Y-%m-%d %H:%M} UTC'


def _public_bytes(key: Key) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
