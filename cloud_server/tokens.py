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
"""The token file: which robot a bearer token belongs to. It holds hashes, never a token."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import os
import re
import secrets
import stat
from pathlib import Path
from typing import NamedTuple

MAX_ROBOT_ID_CHARS = 64
# The file is looked at no more often.
RECHECK_S = 1.0
MAX_SHOWN_FAULTS = 20

_HASH = re.compile(r'sha256:([0-9a-fA-F]{64})')
_EXPECTED = 'expected `robot_id sha256:` and 64 hex digits'

log = logging.getLogger(__name__)


class TokenFileError(ValueError):
    """A token file that cannot be used: all its faults, by line number, never with a content."""


class Entry(NamedTuple):
    """One line of the file."""

    robot_id: str
    # SHA-256 of the token, 32 bytes.
    digest: bytes


class _Signature(NamedTuple):
    """What differs when a file, or the right to read it, was changed."""

    modified_ns: int
    changed_ns: int
    size_bytes: int
    inode: int


def new_token() -> str:
    """Return a token of 256 random bits, 43 characters of A-Z a-z 0-9 - _."""
    return secrets.token_urlsafe(32)


def line_of(robot_id: str, token: str) -> str:
    """Return what the token file says of a token, without the end of the line."""
    return f'{robot_id} sha256:{_digest(token).hex()}'


def parse(text: str) -> tuple[Entry, ...]:
    """
    Return the entries of a token file.

    Each line is `robot_id sha256:<64 hex digits>`; blank lines and those that begin with # are
    passed over. A robot may have several tokens, so that one can be replaced without a gap.

    Raises:
        TokenFileError: with the number of every line that is wrong.

    """
    entries: list[Entry] = []
    owners: dict[bytes, str] = {}
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith('#'):
            continue
        entry, fault = _entry(words)
        if entry is not None and owners.setdefault(entry.digest, entry.robot_id) != entry.robot_id:
            fault = "the same token as another robot's, expected one robot for each token"
        if fault:
            faults.append(f'line {number}: {fault}')
        elif entry is not None:
            entries.append(entry)
    if faults:
        more = len(faults) - MAX_SHOWN_FAULTS
        shown = faults[:MAX_SHOWN_FAULTS] + ([f'and {more} more lines'] if more > 0 else [])
        raise TokenFileError('\n'.join(shown))
    return tuple(entries)


def read(path: Path) -> tuple[Entry, ...]:
    """
    Return the entries of a token file.

    Raises:
        TokenFileError: naming the file and everything that is wrong with it.

    """
    return _read_signed(path)[0]


class TokenFile:
    """
    The tokens of a file, read again when it changes.

    A new version that is broken, and a file that was removed, change nothing: the tokens of the
    last good version stay, and it is logged once. So neither a slip of an editor locks a fleet out
    nor a file that is gone lets anyone in. To lock all robots out, empty the file.
    """

    def __init__(self, path: Path) -> None:
        """
        Read the file.

        Raises:
            TokenFileError: naming the file and everything that is wrong with it.

        """
        self._path = path
        self._checked_s = -math.inf
        # Of the version that was last looked at, good or not; None: it could not be read.
        self._signature: _Signature | None
        self._entries, self._signature = _read_signed(path)
        self._warn_of_oddities()

    def robot_of(self, token: str, now_s: float) -> str | None:
        """
        Return the robot that a token belongs to; None if it is nobody's.

        The token's SHA-256 is compared with every entry, each in constant time, so that how long
        it takes tells nothing about the hashes. A plain SHA-256, without salt or rounds, is enough
        because `ferros-cloud keys token` makes tokens of 256 random bits: there is nothing to
        guess and no table of them; salt and slow hashes protect what people choose. For tokens
        that people chose it would not do.

        Args:
            token: as the robot sent it.
            now_s: any clock.

        """
        self._refresh(now_s)
        digest = _digest(token)
        found = None
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry.robot_id
        return found

    def _refresh(self, now_s: float) -> None:
        # A clock that was set back must not keep the file from being looked at.
        if 0 <= now_s - self._checked_s < RECHECK_S:
            return
        self._checked_s = now_s
        try:
            signature = _signature(os.stat(self._path))
        except OSError:
            signature = None
        if signature == self._signature:
            return
        # Before it is read: what is written meanwhile makes another signature.
        self._signature = signature
        try:
            self._entries, self._signature = _read_signed(self._path)
        except TokenFileError as error:
            faults = '; '.join(str(error).splitlines())
            log.error('%s; the %d tokens from before stay', faults, len(self._entries))
            return
        log.info('%s: read again, %d tokens', self._path, len(self._entries))
        self._warn_of_oddities()

    def _warn_of_oddities(self) -> None:
        if not self._entries:
            log.warning(
                '%s: no token in it, so no robot is let in; `ferros-cloud keys token` makes one',
                self._path,
            )
        try:
            others_write = os.stat(self._path).st_mode & stat.S_IWOTH
        except OSError:  # it is gone again: the next look says so
            return
        if others_write:
            log.warning('%s: every user of this machine can add a token to it', self._path)


def _digest(token: str) -> bytes:
    # A lone surrogate cannot be in a token of ours; it must not raise either.
    return hashlib.sha256(token.encode(errors='surrogatepass')).digest()


def _entry(words: list[str]) -> tuple[Entry | None, str]:
    """Return the entry of a line, or what is wrong with it."""
    found = _HASH.fullmatch(words[1]) if len(words) == 2 else None
    if found is None:
        return None, _EXPECTED
    robot_id = words[0]
    if len(robot_id) > MAX_ROBOT_ID_CHARS or not robot_id.isprintable():
        return None, (
            f'a robot_id of {len(robot_id)} characters,'
            f' expected at most {MAX_ROBOT_ID_CHARS} printable ones'
        )
    return Entry(robot_id, bytes.fromhex(found[1])), ''


def _read_signed(path: Path) -> tuple[tuple[Entry, ...], _Signature]:
    try:
        with path.open('rb') as file:
            signature = _signature(os.fstat(file.fileno()))
            content = file.read()
    except OSError as error:
        raise TokenFileError(f'{path}: cannot be read ({error.strerror})') from error
    try:
        return parse(content.decode('utf-8-sig')), signature
    except UnicodeDecodeError:
        raise TokenFileError(f'{path}: not a text; {_EXPECTED} in each line') from None
    except TokenFileError as error:
        lines = str(error).splitlines()
        raise TokenFileError('\n'.join(f'{path}: {line}' for line in lines)) from None


def _signature(status: os.stat_result) -> _Signature:
    return _Signature(status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
