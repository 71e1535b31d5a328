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
from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from cloud_server import logs
from cloud_server.config import ServerConfig

ROOT = Path(__file__).resolve().parent.parent
TIME = r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}'


class Log:
    """A log that is set up as the server's, and what it wrote."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.logger = logging.getLogger('test.logs')

    def setup(self, worker: int | None = None, **settings: object) -> logging.Logger:
        logs.setup(ServerConfig(**settings), worker, self._stream)
        return self.logger

    @property
    def lines(self) -> list[str]:
        text = self._stream.getvalue()
        assert text.endswith('\n') or not text
        return text.split('\n')[:-1]

    @property
    def documents(self) -> list[dict]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def written() -> Iterator[Log]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield Log()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


# -- lines for people -----------------------------------------------------------------------------


def test_a_line_has_the_time_the_level_and_the_message(written):
    written.setup().warning('%d frames', 7)
    (line,) = written.lines
    assert re.fullmatch(f'{TIME} WARNING 7 frames', line)


def test_a_line_says_which_robot_camera_and_stream_it_is_about(written):
    log = written.setup()
    log.info('opened', extra={'robot': 'r2', 'camera': 'front', 'stream': 3})
    log.info('opened', extra={'robot': 'r2'})
    log.info('opened', extra={'stream': 4})
    shown = [re.sub(TIME, 'T', line) for line in written.lines]
    assert shown == [
        'T INFO [r2/front #3] opened', 'T INFO [r2] opened', 'T INFO [#4] opened',
    ]


def test_a_line_of_a_worker_says_so(written):
    written.setup(worker=2).info('opened', extra={'robot': 'r2'})
    assert re.fullmatch(f'{TIME} INFO worker 2 \\[r2\\] opened', written.lines[0])


def test_what_is_below_the_level_is_not_written(written):
    log = written.setup(log_level='warning')
    log.info('not this')
    log.warning('this')
    assert len(written.lines) == 1


def test_a_traceback_follows_its_line_behind_bars(written):
    log = written.setup()
    try:
        raise ValueError('one\n2026-01-01 00:00:00.000 INFO another')
    except ValueError:
        log.exception('it failed')
    first, *rest = written.lines
    assert first.endswith(' ERROR it failed')
    assert rest[0] == '  | Traceback (most recent call last):'
    assert rest[-1] == '  | 2026-01-01 00:00:00.000 INFO another'
    assert all(line.startswith('  | ') for line in rest)


# -- what a robot sends cannot pass for a line ----------------------------------------------------


@pytest.mark.parametrize(
    'text',
    [
        'a\n2026-01-01 00:00:00.000 ERROR b',
        'a\r\nb',
        'a\x0bb\x0cb\x1cb\x85b\u2028b\u2029b',
        'a\x1b[2J\x1b[Hb\x00\x07',
        'a\u202eb\u2066b\u200bb',
        'a\ud800b',
        '\n',
    ],
)
@pytest.mark.parametrize('where', ['message', 'argument', 'robot', 'camera', 'stream'])
def test_a_text_stays_in_one_printable_line(written, text, where):
    said = {'message': 'said', 'argument': '', 'robot': 'r', 'camera': 'c', 'stream': 1}
    said[where] = text
    message, argument = said.pop('message'), said.pop('argument')
    written.setup().info(message + '%s', argument, extra=said)
    (line,) = written.lines
    assert line.isprintable()
    assert re.match(f'{TIME} INFO ', line)


@pytest.mark.parametrize('log_format', ['text', 'json'])
def test_a_long_message_is_cut_and_says_by_how_much(written, log_format):
    written.setup(log_format=log_format).info('x' * 1_000_000)
    (line,) = written.lines
    assert len(line) < 4300
    assert 'x... (996000 more characters)' in line


@pytest.mark.parametrize('log_format', ['text', 'json'])
def test_a_long_name_is_cut(written, log_format):
    written.setup(log_format=log_format).info('opened', extra={'robot': 'x' * 1000})
    (line,) = written.lines
    assert len(line) < 300
    assert 'x' * 64 + '... (936 more characters)' in line


def test_of_a_long_traceback_the_end_is_kept(written):
    log = written.setup()
    try:
        raise ValueError('x' * 100_000 + ' the end')
    except ValueError:
        log.exception('it failed')
    text = '\n'.join(written.lines)
    assert len(text) < 17_000
    assert text.endswith('x the end')


def test_letters_of_other_languages_are_written_as_they_are(written):
    written.setup().info('%s', 'Roböter 機械 🤖')
    assert written.lines[0].endswith('Roböter 機械 🤖')


# -- JSON -----------------------------------------------------------------------------------------


def test_a_json_line_has_all_that_is_known(written):
    before = datetime.now(timezone.utc)
    log = written.setup(worker=2, log_format='json')
    log.warning('a "quoted"\nline', extra={'robot': 'r2', 'camera': 'front', 'stream': 3})
    (document,) = written.documents
    time = datetime.fromisoformat(document.pop('time').replace('Z', '+00:00'))
    assert abs((time - before).total_seconds()) < 60
    assert document == {
        'level': 'warning', 'logger': 'test.logs', 'message': 'a "quoted"\\nline',
        'pid': os.getpid(), 'worker': 2, 'robot': 'r2', 'camera': 'front', 'stream': 3,
    }


def test_a_json_line_leaves_out_what_is_not_known(written):
    written.setup(log_format='json').info('up')
    assert set(written.documents[0]) == {'time', 'level', 'logger', 'message', 'pid'}


def test_a_json_line_holds_the_traceback(written):
    log = written.setup(log_format='json')
    try:
        raise ValueError('why')
    except ValueError:
        log.exception('it failed')
    (document,) = written.documents
    assert document['exception'].startswith('Traceback')
    assert document['exception'].endswith('ValueError: why')


@pytest.mark.parametrize('text', ['\ud800', '\u2028', '\x00', '"}\n{"level": "error"'])
def test_whatever_is_logged_the_line_is_one_json_object(written, text):
    log = written.setup(log_format='json')
    log.info('%s', text, extra={'robot': text, 'stream': text})
    assert len(written.documents) == 1
    assert written.lines[0].isascii()


# -- setting up -----------------------------------------------------------------------------------


def test_a_second_setup_takes_the_place_of_the_first(written):
    written.setup()
    log = written.setup(log_format='json')
    log.info('once')
    assert [document['message'] for document in written.documents] == ['once']


def test_warnings_of_python_are_logged(written):
    written.setup()
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.warn('old\nhabit', UserWarning, stacklevel=1)
    (line,) = written.lines
    assert 'WARNING' in line
    assert 'old\\nhabit' in line


def test_the_log_goes_to_stderr_even_where_only_ascii_can_be_written():
    code = (
        'import logging\n'
        'from cloud_server import logs\n'
        'from cloud_server.config import ServerConfig\n'
        'logs.setup(ServerConfig())\n'
        "logging.getLogger('x').info('Roböter')\n"
    )
    ended = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=30,
        env={**os.environ, 'PYTHONIOENCODING': 'ascii'},
    )
    assert (ended.returncode, ended.stdout) == (0, '')
    assert ended.stderr.endswith(' INFO Rob\\xf6ter\n')
