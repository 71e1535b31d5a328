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
"""How a channel to the server is made, what proves who is who, and what its failures mean."""

from __future__ import annotations

import os
import re
import ssl
import stat
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import grpc

from ferros.config import SYSTEM_CAS, RobotConfig

CHANNEL_OPTIONS: Final = [
    ('grpc.keepalive_time_ms', 20_000),
    ('grpc.keepalive_timeout_ms', 10_000),
    ('grpc.keepalive_permit_without_calls', 1),
    ('grpc.http2.max_pings_without_data', 0),
    ('grpc.http2.bdp_probe', 0),
    # An attempt makes a channel of its own; the waiting between attempts is ours.
    ('grpc.enable_retries', 0),
    ('grpc.use_local_subchannel_pool', 1),
    ('grpc.max_receive_message_length', 262_144),
]
LONGEST_TOKEN: Final = 4096
# What a refused or silent server may have put into the log.
LONGEST_DETAIL: Final = 200
# Statuses that the same attempt would meet again: somebody has to change something first.
REFUSALS: Final = (
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)
# How a full server says when to try again (gRFC A6), and how long that may be.
PUSHBACK_KEY: Final = 'grpc-retry-pushback-ms'
PUSHBACK_S: Final = (0.1, 60.0)

# All CAs of an operating system are some 220 kB.
_MOST_PEM_BYTES: Final = 1_048_576
# A token and what white space there may be around it.
_MOST_TOKEN_FILE_BYTES: Final = 2 * LONGEST_TOKEN
_CERTIFICATE: Final = re.compile(
    rb'-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----', re.DOTALL
)
_KEY: Final = re.compile(
    rb'-----BEGIN [A-Z ]*PRIVATE KEY-----.+?-----END [A-Z ]*PRIVATE KEY-----', re.DOTALL
)
_CONNECTING: Final = 'failed to connect to all addresses'
# Of what gRPC says of a failed attempt, what repeats the address and names functions.
_CLUTTER: Final = re.compile(
    rf'^{_CONNECTING}; last error: [A-Z_]+: (ipv[46]:\S+: )?|\(TSI_\w+\): |SSL_ERROR_SSL: '
    r'|error:[0-9A-Fa-f]+:SSL routines:\w*:|: OK$'
)
_CLOSED: Final = re.compile('Socket closed|[Cc]onnection reset|Broken pipe')


class _Fault(Enum):
    """What is wrong with the encryption."""

    CERTIFICATE = 'the certificate of the server is not accepted'
    NAME = 'the certificate of the server is for another host'
    NO_TLS = 'the server speaks without TLS'
    REFUSED = 'the server refuses us'


# In the words of gRPC 1.51, with OpenSSL, to 1.85, with BoringSSL.
_MARKS: Final = (
    (_Fault.CERTIFICATE, 'certificate verify failed'),
    (_Fault.NAME, 'hostname verification'),
    (_Fault.NAME, 'not in peer certificate'),
    (_Fault.NO_TLS, 'wrong version number'),
    (_Fault.REFUSED, ' alert '),
)


class AccessError(ValueError):
    """A file that a connection needs cannot be used; says which, and what was expected of it."""


@dataclass(frozen=True)
class Access:
    """What a channel is made of, as the files held it just now; what is secret is not shown."""

    address: str
    is_encrypted: bool
    # PEM; None: the CAs that gRPC brings.
    ca: bytes | None = field(repr=False)
    # PEM; None: the robot shows no certificate.
    certificate: bytes | None = field(repr=False)
    key: bytes | None = field(repr=False)
    # Empty: the robot shows none.
    token: str = field(repr=False)

    def open(self) -> Any:
        """Return a new channel, which connects when it is first used."""
        if not self.is_encrypted:
            return grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)
        return grpc.secure_channel(self.address, credentials, options=CHANNEL_OPTIONS)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what goes with every call."""
        return (('authorization', f'Bearer {self.token}'),) if self.token else ()


def read_access(config: RobotConfig) -> Access:
    """
    Read the files that config names.

    They are read anew for each attempt to connect, so that a token or a certificate can be
    replaced while the robot runs.

    Raises:
        AccessError: a file is missing, too long, or not what it should be.

    """
    ca = certificate = key = None
    if config.tls_ca_file not in ('', SYSTEM_CAS):
        ca = _read_certificates(
            'tls_ca_file', config.tls_ca_file,
            f"the PEM file of the CA that signed the server's certificate, or {SYSTEM_CAS!r}",
        )
    if config.tls_cert_file:
        certificate = _read_certificates(
            'tls_cert_file', config.tls_cert_file, "the PEM file of this robot's certificate"
        )
        key = _read_key(config)
    token = _read_token(config.token_file) if config.token_file else ''
    return Access(config.server_address, config.is_encrypted, ca, certificate, key, token)


def _read_certificates(name: str, path: str, expected: str) -> bytes:
    """Return the certificates of a PEM file; what people write around them is left out."""
    blocks = b'\n'.join(_CERTIFICATE.findall(_read(name, path, _MOST_PEM_BYTES, expected)))
    if not blocks:
        raise AccessError(f'{name} is {path!r}, which holds no certificate, expected {expected}')
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=blocks.decode('ascii', 'backslashreplace'))
    except ssl.SSLError as error:
        raise AccessError(
            f'{name} is {path!r}, which holds a broken certificate ({error.reason}),'
            f' expected {expected}'
        ) from None
    return blocks + b'\n'


def _read_key(config: RobotConfig) -> bytes:
    """Return the private key, which has to be that of the certificate."""
    path, expected = config.tls_key_file, 'the PEM file of the private key of tls_cert_file'
    found = _KEY.search(_read('tls_key_file', path, _MOST_PEM_BYTES, expected))
    if found is None:
        raise AccessError(f'tls_key_file is {path!r}, which holds no key, expected {expected}')
    if b'ENCRYPTED' in found.group():
        raise AccessError(
            f'tls_key_file is {path!r}, which a passphrase protects, expected {expected} without'
            ' one'
        )
    try:
        # Without the password OpenSSL would ask for one on the terminal.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(config.tls_cert_file, path, password='')
    except ssl.SSLError as error:
        is_other = 'MISMATCH' in str(error.reason)
        fault = 'holds the key of another certificate' if is_other else 'cannot be used'
        raise AccessError(
            f'tls_key_file is {path!r}, which {fault} ({error.reason}), expected {expected},'
            f' {config.tls_cert_file!r}'
        ) from None
    except OSError as error:
        raise AccessError(f'tls_key_file is {path!r}: {error.strerror}') from None
    return found.group() + b'\n'


def _read_token(path: str) -> str:
    """Return the token; nothing of it is ever in an error."""
    expected = f'one token of at most {LONGEST_TOKEN} printable ASCII characters'
    token = _read('token_file', path, _MOST_TOKEN_FILE_BYTES, expected).strip()
    if not token:
        fault = 'is empty'
    elif len(token) > LONGEST_TOKEN:
        fault = 'holds more'
    elif not all(0x21 <= byte <= 0x7E for byte in token):
        fault = 'holds white space or other characters within it'
    else:
        return token.decode('ascii')
    raise AccessError(f'token_file is {path!r}, which {fault}, expected {expected}')


def _read(name: str, path: str, most_bytes: int, expected: str) -> bytes:
    try:
        # A pipe would keep us waiting, and hold nothing the second time.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise AccessError(f'{name} is {path!r}, which is not a file, expected {expected}')
        with open(path, 'rb') as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise AccessError(f'{name} is {path!r}: {error.strerror}, expected {expected}') from None
    if len(content) > most_bytes:
        raise AccessError(
            f'{name} is {path!r}, which is longer than {most_bytes} bytes, expected {expected}'
        )
    return content


# -- what failed ----------------------------------------------------------------------------------


def is_refusal(error: grpc.RpcError) -> bool:
    """Tell whether another attempt is of no use before somebody changes something."""
    return error.code() in REFUSALS or _tls_fault(_details(error)) is not None


def pushback_s(error: grpc.RpcError) -> float | None:
    """Return after what time a full server wants to see us again; None: it does not say."""
    metadata: Any = error.trailing_metadata() or ()
    for key, value in metadata:
        if key == PUSHBACK_KEY and re.fullmatch('[0-9]{1,9}', str(value)):
            least_s, most_s = PUSHBACK_S
            return min(max(int(value) / 1000, least_s), most_s)
    return None


def describe(error: grpc.RpcError, config: RobotConfig) -> str:
    """Return one line that says what went wrong and, if that is known, what to look at."""
    return f'{error.code().name}: {explain(_details(error), config)}'


def explain(details: str, config: RobotConfig) -> str:
    """
    Return the details of a failed call for people.

    Args:
        details: gRPC's own text where there was no connection (version 1.51 to 1.85), else the
            server's.
        config: what the attempt was made with.

    """
    text = _shortened(_CLUTTER.sub('', details))
    fault = _tls_fault(details)
    if fault is _Fault.CERTIFICATE:
        _, _, reason = text.partition('CERTIFICATE_VERIFY_FAILED: ')
        reason = reason or 'of another CA, expired, or the clock of this robot is wrong'
        return f"the server's certificate does not fit {_ca(config)}: {reason}"
    if fault is _Fault.NAME:
        host = config.server_address.rpartition(':')[0]
        return f"the server's certificate is not one for {host}, expected that name in it"
    if fault is _Fault.NO_TLS:
        return 'the server does not speak TLS, which tls_ca_file asks for'
    if fault is _Fault.REFUSED or (details.startswith(_CONNECTING) and _CLOSED.search(details)):
        return f'the server refused the connection ({text}): {_doubt(config)}'
    return text


def _details(error: grpc.RpcError) -> str:
    return str(error.details() or '').strip()


def _shortened(text: str) -> str:
    line = ' '.join(text.split())
    return ''.join(letter for letter in line if letter.isprintable())[:LONGEST_DETAIL]


def _tls_fault(details: str) -> _Fault | None:
    """Return what is wrong with the encryption; None: nothing, or it is not known."""
    known = details.lower().replace('_', ' ')
    if not details.startswith(_CONNECTING):
        return None
    return next((fault for fault, mark in _MARKS if mark in known), None)


def _ca(config: RobotConfig) -> str:
    if config.tls_ca_file == SYSTEM_CAS:
        return f'the CAs that gRPC brings (tls_ca_file: {SYSTEM_CAS})'
    return f'the CA in tls_ca_file ({config.tls_ca_file})'


def _doubt(config: RobotConfig) -> str:
    """Return the likeliest reason why a server closes a connection that has just begun."""
    if not config.is_encrypted:
        return 'does the server want TLS (tls_ca_file)?'
    if not config.tls_cert_file:
        return 'does the server ask for a certificate (tls_cert_file)?'
    return f'does the server accept the certificate in tls_cert_file ({config.tls_cert_file})?'
