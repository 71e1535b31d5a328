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

import hashlib
import hmac
import itertools
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_server.tokens import TokenFile, TokenFileError, line_of, new_token, parse

SOME = settings(max_examples=100, deadline=None, derandomize=True, database=None)
WRITES = itertools.count(1)


def write(path: Path, *lines: str) -> Path:
    """Write the file as a later edit: its time differs, however fast the test is."""
    path.write_text('\n'.join(lines))
    time_ns = 1_700_000_000_000_000_000 + next(WRITES)
    os.utime(path, ns=(time_ns, time_ns))
    return path


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / 'tokens'


def test_a_token_names_its_robot_and_any_other_text_nobody(path):
    own, other = new_token(), new_token()
    file = TokenFile(write(path, line_of('robot-1', own), line_of('robot-2', other)))
    assert file.robot_of(own, 0) == 'robot-1'
    assert file.robot_of(other, 0) == 'robot-2'
    for wrong in ('', ' ', own[:-1], own + 'x', own.swapcase(), new_token(), '\ud800', 'é' * 9999):
        assert file.robot_of(wrong, 0) is None


def test_the_hash_in_the_file_is_no_token(path):
    token = new_token()
    file = TokenFile(write(path, line_of('robot-1', token)))
    digest = hashlib.sha256(token.encode()).hexdigest()
    assert digest in path.read_text()
    assert token not in path.read_text()
    for stolen in (digest, f'sha256:{digest}'):
        assert file.robot_of(stolen, 0) is None


def test_a_robot_may_have_several_tokens(path):
    old, new = new_token(), new_token()
    file = TokenFile(write(path, line_of('robot-1', old), line_of('robot-1', new)))
    assert file.robot_of(old, 0) == file.robot_of(new, 0) == 'robot-1'


def test_every_entry_is_compared_whichever_matches(path, monkeypatch):
    own = [new_token() for _ in range(5)]
    file = TokenFile(write(path, *(line_of(f'robot-{i}', token) for i, token in enumerate(own))))
    compared = []
    compare = hmac.compare_digest

    def counted(one, other):
        compared.append(one)
        return compare(one, other)

    monkeypatch.setattr(hmac, 'compare_digest', counted)
    for token in (own[0], own[-1], 'nobody'):
        compared.clear()
        file.robot_of(token, 0)
        assert len(compared) == 5


def test_comments_and_blank_lines_are_passed_over_and_hex_may_be_in_capitals():
    text = line_of('robot-1', 'x')
    shouted = text.replace(text[-64:], text[-64:].upper())
    assert len(parse(f'# robot-2 has left\n\n   \n\t{shouted}   \n#{text}\n')) == 1
    assert parse(shouted) == parse(text)


def test_all_faults_are_named_by_line_and_never_by_what_is_in_them():
    token = new_token()
    lines = [
        line_of('robot-1', 'x'),
        f'robot-2 {token}',
        token,
        '# fine',
        f'two words {line_of("r", token)}',
        'robot-3 sha256:abc',
        line_of('robot-4', 'x'),
        line_of('x' * 65, 'y'),
        f'robot-5 md5:{"0" * 64}',
    ]
    with pytest.raises(TokenFileError) as refused:
        parse('\n'.join(lines))
    said = str(refused.value)
    assert [line.split(':')[0] for line in said.splitlines()] == [
        f'line {number}' for number in (2, 3, 5, 6, 7, 8, 9)
    ]
    assert 'robot_id sha256:' in said
    assert 'one robot for each token' in said
    assert 'a robot_id of 65 characters' in said
    assert token not in said
    assert hashlib.sha256(token.encode()).hexdigest() not in said


def test_one_line_twice_is_no_fault(path):
    file = TokenFile(write(path, line_of('robot-1', 'x'), line_of('robot-1', 'x')))
    assert file.robot_of('x', 0) == 'robot-1'


def test_a_file_of_another_kind_does_not_flood_the_log():
    with pytest.raises(TokenFileError) as refused:
        parse('nonsense\n' * 1000)
    lines = str(refused.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == 'and 980 more lines'


@SOME
@given(st.text())
def test_any_text_is_read_or_refused_and_nothing_else_happens(text):
    try:
        entries = parse(text)
    except TokenFileError as error:
        assert all(line.startswith(('line ', 'and ')) for line in str(error).splitlines())
    else:
        assert all(len(entry.digest) == 32 for entry in entries)


@pytest.mark.parametrize(
    ('content', 'fault'),
    [
        (None, 'cannot be read (No such file or directory)'),
        (b'\xff\xfe\x00', 'not a text'),
        (b'a\nb\n', 'line 1: expected `robot_id sha256:` and 64 hex digits'),
    ],
)
def test_a_server_does_not_start_with_a_file_that_is_missing_or_broken(path, content, fault):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenFileError) as refused:
        TokenFile(path)
    assert f'{path}: {fault}' in str(refused.value)


def test_a_new_token_is_good_within_a_second_and_a_removed_one_bad(path):
    old, new = new_token(), new_token()
    file = TokenFile(write(path, line_of('robot-1', old)))
    assert file.robot_of(old, 100.0) == 'robot-1'
    write(path, line_of('robot-1', new))
    assert file.robot_of(new, 100.999) is None
    assert file.robot_of(new, 101.0) == 'robot-1'
    assert file.robot_of(old, 101.0) is None


def test_a_clock_that_is_set_back_does_not_keep_a_change_from_being_seen(path):
    file = TokenFile(write(path, line_of('robot-1', 'x')))
    assert file.robot_of('x', 1e9) == 'robot-1'
    write(path, line_of('robot-1', 'y'))
    assert file.robot_of('y', 1e9 - 3600) == 'robot-1'


def test_a_file_that_was_replaced_is_read_again_though_size_and_time_are_the_same(path, tmp_path):
    old, new = new_token(), new_token()
    file = TokenFile(write(path, line_of('robot-1', old)))
    before = path.stat()
    write(tmp_path / 'next', line_of('robot-1', new))
    os.utime(tmp_path / 'next', ns=(before.st_mtime_ns, before.st_mtime_ns))
    os.replace(tmp_path / 'next', path)
    assert path.stat().st_size == before.st_size
    assert file.robot_of(new, 1) == 'robot-1'


def test_a_file_that_did_not_change_is_not_read_again(path, caplog):
    file = TokenFile(write(path, line_of('robot-1', 'x')))
    with caplog.at_level(logging.INFO):
        for now_s in range(10):
            assert file.robot_of('x', now_s) == 'robot-1'
    assert caplog.records == []


def test_a_broken_new_version_keeps_the_old_tokens_and_is_logged_once(path, caplog):
    file = TokenFile(write(path, line_of('robot-1', 'x')))
    write(path, 'half a li')
    for now_s in range(5):
        assert file.robot_of('x', now_s) == 'robot-1'
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert 'line 1' in record.getMessage()
    assert 'the 1 tokens from before stay' in record.getMessage()
    write(path, 'broken otherwise')
    file.robot_of('x', 10)
    assert len(caplog.records) == 2
    write(path, line_of('robot-1', 'y'))
    assert file.robot_of('y', 20) == 'robot-1'
    assert file.robot_of('x', 20) is None


def test_removing_the_file_opens_nothing_and_it_is_read_when_it_is_back(path, caplog):
    file = TokenFile(write(path, line_of('robot-1', 'x')))
    path.unlink()
    for now_s in range(5):
        assert file.robot_of('x', now_s) == 'robot-1'
        assert file.robot_of('y', now_s) is None
    assert len(caplog.records) == 1
    assert 'No such file' in caplog.text
    write(path, line_of('robot-1', 'y'))
    assert file.robot_of('y', 10) == 'robot-1'
    assert file.robot_of('x', 10) is None


def test_an_emptied_file_locks_all_robots_out_and_says_so(path, caplog):
    file = TokenFile(write(path, line_of('robot-1', 'x')))
    write(path)
    assert file.robot_of('x', 1) is None
    assert 'no robot is let in' in caplog.text


@pytest.mark.parametrize(('mode', 'is_said'), [(0o644, False), (0o646, True)])
def test_a_file_that_every_user_can_change_is_warned_of(path, caplog, mode, is_said):
    write(path, line_of('robot-1', 'x')).chmod(mode)
    TokenFile(path)
    assert ('every user of this machine' in caplog.text) == is_said


def test_tokens_are_long_random_and_fit_a_line_of_metadata():
    made = {new_token() for _ in range(200)}
    assert len(made) == 200
    for token in made:
        assert len(token) == 43
        assert token.isascii()
        assert not set(token) & set(' \t\r\n,;"')
