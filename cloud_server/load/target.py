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
"""Where the frames go: addresses, encryption and the identities that are shown there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from cloud_server.load.plan import Address, Plan

# What a robot's own link sets, see ferros/link.py: an attempt is one attempt.
CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ('grpc.keepalive_time_ms', 20_000),
    ('grpc.keepalive_timeout_ms', 10_000),
    ('grpc.keepalive_permit_without_calls', 1),
    ('grpc.http2.max_pings_without_data', 0),
    ('grpc.http2.bdp_probe', 0),
    ('grpc.enable_retries', 0),
    # Each robot has a connection of its own, though they live in one process.
    ('grpc.use_local_subchannel_pool', 1),
    ('grpc.max_receive_message_length', 262_144),
    ('grpc.min_reconnect_backoff_ms', 250),
    ('grpc.initial_reconnect_backoff_ms', 250),
    ('grpc.max_reconnect_backoff_ms', 2000),
)


# What --tls-ca says instead of a path: the CAs that gRPC brings.
SYSTEM_CAS = 'system'


class TargetError(ValueError):
    """A file with a key, a certificate or tokens cannot be used; the message names it."""


class Target:
    """
    How the servers of a plan are reached.

    Raises:
        TargetError: a file that the plan names cannot be used.

    """

    def __init__(self, plan: Plan) -> None:
        self.addresses: Sequence[Address] = plan.addresses
        self._credentials = _credentials(plan)
        self._tokens = _tokens(plan.token_file) if plan.token_file is not None else []
        # With a certificate or a token the server knows who we are: the Hello names nobody.
        self.is_identified = bool(self._tokens) or plan.tls_cert_file is not None

    def dial(
        self,
        address: Address,
        options: Sequence[tuple[str, int | str]] = (),
        name: str | None = None,
    ) -> grpc.aio.Channel:
        """
        Return a new channel with a connection of its own.

        Args:
            address: where to connect.
            options: of gRPC, besides the usual.
            name: whose certificate is expected there; None: the address's.

        """
        options = [*CHANNEL_OPTIONS, *options]
        if self._credentials is None:
            return grpc.aio.insecure_channel(str(address), options=options)
        if name is not None:
            options.append(('grpc.ssl_target_name_override', name))
        return grpc.aio.secure_channel(str(address), self._credentials, options=options)

    def metadata(self, robot: int) -> tuple[tuple[str, str], ...]:
        """Return what a robot sends with its call: its token, if there are any."""
        if not self._tokens:
            return ()
        return (('authorization', f'Bearer {self._tokens[robot % len(self._tokens)]}'),)


def _credentials(plan: Plan) -> Any:
    if plan.tls_ca_file is None:
        return None
    cert, key = plan.tls_cert_file, plan.tls_key_file
    return grpc.ssl_channel_credentials(
        root_certificates=None if str(plan.tls_ca_file) == SYSTEM_CAS else _pem(plan.tls_ca_file),
        private_key=None if key is None else _pem(key),
        certificate_chain=None if cert is None else _pem(cert),
    )


def _pem(path: Path) -> bytes:
    data = _bytes(path)
    if b'-----BEGIN ' not in data:
        raise TargetError(f'{path}: not a PEM file')
    return data


def _tokens(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in _bytes(path).decode('ascii').splitlines()]
    except UnicodeDecodeError:
        lines = ['\n']
    tokens = [line for line in lines if line]
    # What is wrong is not shown: it may be a token.
    if not tokens or not all(token.isprintable() and ' ' not in token for token in tokens):
        raise TargetError(f'{path}: expected one token per line')
    return tokens


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TargetError(f'{path}: cannot be read ({error.strerror})') from None
