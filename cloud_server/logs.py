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
The log on stderr, as lines for people or as one JSON object a line.

What a robot sends gets into messages. So a message is one line of bounded length whatever is in
it: a line of the log is always one that the server wrote.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any, TextIO

from cloud_server.config import ServerConfig

MAX_MESSAGE_CHARS = 4000
MAX_NAME_CHARS = 64
# Of a traceback the end is kept: it names what went wrong.
MAX_TRACEBACK_CHARS = 16_000
# gRPC logs metadata that are no UTF-8 as they are, and a token may be among them.
GRPC_LOGGER = 'grpc._cython.cygrpc'
# What a record may carry in `extra`, and the lines show.
ATTRIBUTES = ('robot', 'camera', 'stream')


def setup(config: ServerConfig, worker: int | None = None, stream: TextIO | None = None) -> None:
    """
    Write what all loggers say from now on to stderr, in place of an earlier setup.

    Args:
        config: `log_level` and `log_format` count.
        worker: number of this process where several serve; shown in every line.
        stream: where to write instead of stderr.

    """
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter(worker) if config.log_format == 'json'
                         else TextFormatter(worker))
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(config.log_level.upper())
    logging.captureWarnings(True)
    logging.getLogger(GRPC_LOGGER).addFilter(_without_metadata)


class TextFormatter(logging.Formatter):
    """
    Time of this machine, level, `[robot/camera #stream]` where it is about one, message.

    The lines of a traceback follow, each behind a bar.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._prefix = '' if worker is None else f'worker {worker} '

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        time = datetime.fromtimestamp(record.created).isoformat(' ', 'milliseconds')
        about = _about(record)
        line = f'{time} {record.levelname} {self._prefix}{about}{_message(record)}'
        return '\n'.join([line, *('  | ' + each for each in _traceback(self, record))])


class JsonFormatter(logging.Formatter):
    """
    One object a line: time (UTC, ISO 8601), level, logger, message, pid, and what else is known.

    That is robot, camera, stream, worker and exception (the traceback).
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        time = datetime.fromtimestamp(record.created, timezone.utc)
        document: dict[str, Any] = {
            'time': time.isoformat(timespec='milliseconds').replace('+00:00', 'Z'),
            'level': record.levelname.lower(),
            'logger': record.name,
            'message': _message(record),
            'pid': record.process,
        }
        if self._worker is not None:
            document['worker'] = self._worker
        for name in ATTRIBUTES:
            value = getattr(record, name, None)
            if value is not None:
                document[name] = value if isinstance(value, int) else _name(value)
        traceback = _traceback(self, record)
        if traceback:
            document['exception'] = '\n'.join(traceback)
        return json.dumps(document)


class _Handler(logging.StreamHandler[TextIO]):
    """The one that setup made."""


def _without_metadata(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith('Invalid encoding on')


def _message(record: logging.LogRecord) -> str:
    return _bounded(record.getMessage(), MAX_MESSAGE_CHARS)


def _bounded(text: str, limit: int) -> str:
    """Return one printable line of about so many characters at most."""
    cut = len(text) - limit
    shown = _escaped(text[:limit])
    return f'{shown}... ({cut} more characters)' if cut > 0 else shown


def _escaped(text: str) -> str:
    """Replace what ends a line, moves the cursor or turns the writing round by its escape."""
    if text.isprintable():
        return text
    return ''.join(
        char if char.isprintable() else char.encode('unicode_escape').decode() for char in text
    )


def _about(record: logging.LogRecord) -> str:
    robot, camera, stream = (getattr(record, name, None) for name in ATTRIBUTES)
    names = '/'.join(_name(each) for each in (robot, camera) if each is not None)
    number = '' if stream is None else f'#{_name(stream)}'
    about = ' '.join(part for part in (names, number) if part)
    return f'[{about}] ' if about else ''


def _name(value: object) -> str:
    return _bounded(str(value), MAX_NAME_CHARS)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """Return the lines of the record's exception and stack, its end if it is long."""
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    text = '\n'.join(parts)
    if len(text) > MAX_TRACEBACK_CHARS:
        text = f'({len(text) - MAX_TRACEBACK_CHARS} more characters)...' + text[
            -MAX_TRACEBACK_CHARS:]
    return [_escaped(line) for line in text.split('\n') if line]
