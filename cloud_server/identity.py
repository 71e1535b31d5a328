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
"""Who a robot is: by its certificate, by its token, by both, or by neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cloud_server.config import ServerConfig
from cloud_server.tokens import MAX_ROBOT_ID_CHARS, TokenFile

# What gRPC says of a connection whose client showed a certificate that it trusts.
CERTIFICATE_PROPERTY = 'x509_pem_cert'
# The call metadata that carries a token, as `Bearer TOKEN` (RFC 6750).
TOKEN_METADATA = 'authorization'
TOKEN_SCHEME = 'bearer'

Metadata = Iterable[tuple[str, str | bytes]]


class UnauthenticatedError(Exception):
    """A robot that did not prove who it is; the message is safe to be sent to it."""


class Authenticator:
    """Asks robots for what the settings want: a client certificate, a token, both or nothing."""

    def __init__(self, config: ServerConfig) -> None:
        """
        Read the token file, where there is one.

        Raises:
            TokenFileError: if it cannot be used.

        """
        self._wants_certificate = config.tls_client_ca_file is not None
        self._tokens = None if config.token_file is None else TokenFile(config.token_file)

    def identify(
        self, auth_context: Mapping[str, Sequence[bytes]], metadata: Metadata, now_s: float
    ) -> str | None:
        """
        Return the proven name of the robot of a call; None where no proof is asked for.

        Args:
            auth_context: gRPC's, of the call.
            metadata: the call's, keys in small letters.
            now_s: any clock.

        Raises:
            UnauthenticatedError: if a proof is missing or wrong, or two do not agree.

        """
        robot_id = None
        if self._wants_certificate:
            robot_id = _robot_of_certificate(auth_context)
        if self._tokens is not None:
            by_token = self._tokens.robot_of(_token(metadata), now_s)
            if by_token is None:
                raise UnauthenticatedError('the token is not known here')
            if robot_id not in (None, by_token):
                raise UnauthenticatedError('the certificate and the token are of two robots')
            robot_id = by_token
        return robot_id


def _robot_of_certificate(auth_context: Mapping[str, Sequence[bytes]]) -> str:
    """
    Return the robot that the client's certificate names, which TLS has verified.

    The certificate itself is read: gRPC's own properties mix the kinds of alternative names, and
    end at a NUL, so that a name that goes on after one would pass for another robot's.
    """
    pem = next(iter(auth_context.get(CERTIFICATE_PROPERTY, ())), None)
    if pem is None:
        raise UnauthenticatedError('no client certificate, expected one of the CA of the robots')
    robot_id = name_in(pem)
    if not 1 <= len(robot_id) <= MAX_ROBOT_ID_CHARS or not robot_id.isprintable():
        raise UnauthenticatedError(
            'the client certificate names no robot: expected a DNS name, or else a common name,'
            f' of at most {MAX_ROBOT_ID_CHARS} printable characters'
        )
    return robot_id


def name_in(pem: bytes) -> str:
    """
    Return the first DNS name of a certificate, or else its common name, or else nothing.

    Raises:
        UnauthenticatedError: if the certificate or its names cannot be read.

    """
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        certificate = x509.load_pem_x509_certificate(pem)
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            found = names.value.get_values_for_type(x509.DNSName)
        except x509.ExtensionNotFound:
            found = []
        common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (
        ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType
    ):
        raise UnauthenticatedError('the client certificate cannot be read') from None
    return str(next(iter([*found, *(name.value for name in common_names)]), ''))


def _token(metadata: Metadata) -> str:
    values = [value for key, value in metadata if key == TOKEN_METADATA]
    if len(values) != 1:
        raise UnauthenticatedError(
            f'{len(values)} tokens, expected one: the call metadata'
            f' `{TOKEN_METADATA}: Bearer TOKEN`'
        )
    text = values[0].decode('latin-1') if isinstance(values[0], bytes) else values[0]
    scheme, _, token = text.strip().partition(' ')
    if scheme.lower() != TOKEN_SCHEME or not token.strip():
        raise UnauthenticatedError(f'expected the call metadata `{TOKEN_METADATA}: Bearer TOKEN`')
    return token.strip()
