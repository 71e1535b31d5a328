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
"""The command link_check against real servers over real sockets, and what it says of others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import cv2
import grpc
import pytest
import tiny_model
from slow_link import Slow

from cloud_server.config import ServerConfig
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.server import shutdown, startup
from ferros import accuracy_grid, link_check
from ferros.config import RobotConfig
from ferros.link_probe import CheckError, Probe
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def engine(tmp_path_factory: pytest.TempPathFactory) -> OnnxEngine:
    folder = tiny_model.write_or_shipped(tmp_path_factory.mktemp('model'))
    if folder != tiny_model.SHIPPED:
        (folder / accuracy_grid.FILE).symlink_to(accuracy_grid.default_path())
    return OnnxEngine(folder)


@contextlib.contextmanager
def real_server(engine: OnnxEngine, **settings: Any) -> Iterator[str]:
    """Run the real server in a thread; yields its host:port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def on_loop(doing: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(doing, loop).result(20)

    running = on_loop(startup(ServerConfig(port=0, drain_ms=100, **settings), engine))
    try:
        yield running.address
    finally:
        on_loop(shutdown(running))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope='module')
def server(engine: OnnxEngine) -> Iterator[str]:
    with real_server(engine) as address:
        yield address


class Scripted(recognition_pb2_grpc.RecognitionServicer):
    """Speaks the wire; what it says after Hello is given."""

    def __init__(self, says: Callable[[Any], Iterator[wire.RecognizeResponse]]) -> None:
        self.says = says

    def Recognize(self, requests: Any, context: Any) -> Iterator[wire.RecognizeResponse]:
        next(requests)
        yield from self.says(requests)


def welcome(**changes: Any) -> wire.RecognizeResponse:
    fields = {
        'protocol_version': 1, 'model': 'scripted', 'labels': ['neutral'], 'input_size_px': 48,
        'credits': 4, **changes,
    }
    return wire.RecognizeResponse(welcome=wire.Welcome(**fields))


@contextlib.contextmanager
def scripted(says: Callable[[Any], Iterator[wire.RecognizeResponse]] | None) -> Iterator[str]:
    """Run a gRPC server that says that; None: one that knows nothing of ferros."""
    running = grpc.server(futures.ThreadPoolExecutor(4), options=[('grpc.so_reuseport', 0)])
    if says is not None:
        recognition_pb2_grpc.add_RecognitionServicer_to_server(Scripted(says), running)
    port = running.add_insecure_port('127.0.0.1:0')
    running.start()
    try:
        yield f'127.0.0.1:{port}'
    finally:
        running.stop(0).wait()


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a TCP server that is no gRPC server at all."""
    with socket.create_server(('127.0.0.1', 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    answer(listener.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f'127.0.0.1:{listener.getsockname()[1]}'
        listener.shutdown(socket.SHUT_RDWR)


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command; return its exit status and both its outputs."""
    try:
        status = link_check.main([str(argument) for argument in arguments])
    except SystemExit as error:
        status = int(str(error.code))
    output = capsys.readouterr()
    return status, output.out, output.err


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command, which fails with one line; return that."""
    status, _, err = said(capsys, *arguments)
    assert status == 1
    assert err.startswith('link_check: ') and err.count('\n') == 1, err
    return err


def test_a_user_sees_the_link_the_operating_point_and_a_picture(
    server: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    picture = tmp_path / 'link.png'
    monkeypatch.setattr(link_check, '_PROGRESS_S', 0.5)
    status, out, err = said(capsys, server, '--seconds', 1.5, '--picture', picture)
    assert (status, err) == (0, '')
    for pattern in (
        r'Welcome in \d+\.\d ms',
        r'neutral, happiness, surprise',
        r'126 operating points, measured with this model',
        r'\n +\d/1.5 s  .*round trip \d+ ms',
        r'round trip .* median',
        r'point +\d+ px, .*expected accuracy 0\.\d+',
        r'MB per hour',
        r'at least .*bit/s',
        r'an answer comes \d+ ms after its image',
        r'One face at \d+ px and [\d.]+ fps \(\w+, quality \d+\) fits: expected accuracy',
        r'faces? fits? at full accuracy',
        rf'Drawn in {picture}',
    ):
        assert re.search(pattern, out), (pattern, out)
    assert cv2.imread(str(picture)).shape[2] == 3


def test_a_program_reads_the_same_as_json(
    server: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = said(capsys, server, '--seconds', 1.5, '--faces', 3, '--json')
    assert (status, err) == (0, '')
    document = json.loads(out)
    assert document['completed'] is True
    assert document['connection']['grid_points'] == 126
    trial = document['trial']
    assert trial['faces'] == 3
    assert trial['answered'] > 20
    assert 'superseded' in trial['drops']
    # What is dropped by ending the check is not laid at the link's door.
    assert not {'link_stopped', 'face_gone', 'not_connected'} & set(trial['drops'])
    assert 0 < trial['round_trip_ms']['least'] <= trial['round_trip_ms']['p95']
    assert 0.5 < trial['expected_accuracy'] < 1
    assert 0.8 < trial['message_bytes_over_grid'] < 1.3
    assert trial['sent_kbit_per_s'] > trial['received_kbit_per_s'] > 0
    # Nothing in a loopback is ever full.
    assert document['capacity']['at_least'] is True
    assert document['capacity']['kbit_per_s'] > 1000
    assert document['capacity']['sent_bytes'] <= 2_000_000
    assert list(tmp_path.iterdir()) == []


def test_the_rate_of_a_thin_link_is_found_and_what_it_will_do(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = Slow(server, 100_000 / 8)
    try:
        status, out, _ = said(capsys, slow.address, '--seconds', 2, '--faces', 4, '--json')
    finally:
        slow.close()
    assert status == 0
    document = json.loads(out)
    capacity = document['capacity']
    assert capacity['limited_by'] == 'link'
    # The link's own figure counts the headers of TCP and IP, which this link does not carry.
    assert 90 < capacity['kbit_per_s'] < 150
    assert capacity['sent_bytes'] < 60_000
    outlook = document['outlook']
    assert outlook['expected_accuracy'] < outlook['best_accuracy']
    assert outlook['faces_at_full_accuracy'] < 4
    assert any('Twice the rate would give 4 faces' in line for line in document['verdict'])


def test_without_the_burst_only_what_the_faces_need_is_sent(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = said(capsys, server, '--seconds', 1, '--no-burst')
    assert status == 0
    assert 'not measured: --no-burst' in out
    assert 'At least' in out


def test_ctrl_c_reports_what_was_measured_so_far(server: str) -> None:
    command = [sys.executable, '-m', 'ferros.link_check', server, '--seconds', '60']
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'PYTHONIOENCODING': 'ascii'},
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith('  limits'):
            break
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (link_check.INTERRUPTED, '')
    assert 'The check was ended early' in out
    assert 'expected accuracy' in out
    assert 'not measured: interrupted' in out


def test_a_server_that_goes_away_for_good_is_an_error_with_what_was_measured(
    engine: OnnxEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(real_server(engine))
        timer = threading.Timer(1.2, stack.pop_all().close)
        timer.start()
        status, out, err = said(capsys, address, '--seconds', 2)
        timer.join()
    assert status == 1
    assert 'The connection was lost once: UNAVAILABLE' in out
    assert 'link_check: the connection was lost and did not come back' in err


def test_nobody_there_is_said_with_what_to_look_for(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
        assert f'nothing listens on {address}' in failed(capsys, address)
    unknown = failed(capsys, 'no.such.host.invalid', '--insecure')
    assert "no host is known as 'no.such.host.invalid'" in unknown


def test_another_machine_is_refused_without_insecure_in_the_words_of_the_node(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ValueError) as refusal:
        RobotConfig(server_address='192.0.2.1:50051')
    assert str(refusal.value) in failed(capsys, '192.0.2.1')


def test_something_else_than_a_ferros_server_is_told_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with scripted(None) as address:
        assert 'a gRPC server, but not one of ferros' in failed(capsys, address)
    with listening(socket.socket.close) as address:
        assert 'is no ferros server' in failed(capsys, address)
    with listening(lambda tcp: tcp.sendall(b'HTTP/1.1 505 Not\r\n\r\n')) as address:
        assert 'is no ferros server' in failed(capsys, address)


def test_a_server_that_says_nothing_is_given_up() -> None:
    kept = []
    with listening(kept.append) as address:
        config = RobotConfig(server_address=address, connect_timeout_ms=400)
        with pytest.raises(CheckError, match=r'no Welcome within 0\.4 s'), Probe(config):
            pass
    for connection in kept:
        connection.close()


@pytest.mark.parametrize(
    ('first', 'expected'),
    [
        ([], 'ended the stream'),
        ([wire.RecognizeResponse(answer=wire.Answer())], 'answered without a Welcome'),
        ([welcome(protocol_version=2)], 'speaks protocol version 2, this robot version 1'),
        ([welcome(labels=[])], 'lacks labels'),
    ],
)
def test_a_welcome_that_is_none_is_named(
    first: list[wire.RecognizeResponse], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted(lambda requests: iter(first)) as address:
        assert expected in failed(capsys, address)


def test_a_server_that_ends_every_stream_is_an_error_that_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with scripted(lambda requests: iter([welcome()])) as address:
        assert 'the server ended the stream' in failed(capsys, address, '--seconds', 1)


def test_a_server_that_refuses_all_frames_is_an_error_that_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(requests: Any) -> Iterator[wire.RecognizeResponse]:
        yield welcome()
        for request in requests:
            yield wire.RecognizeResponse(
                answer=wire.Answer(sequence=request.frame.sequence, status=wire.BAD_IMAGE)
            )

    with scripted(refuse) as address:
        line = failed(capsys, address, '--seconds', 1)
    assert 'no frame was answered in 1.0 s' in line
    assert 'server_bad_image' in line


def test_a_server_without_a_grid_is_steered_by_the_robots_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answer(requests: Any) -> Iterator[wire.RecognizeResponse]:
        yield welcome(limits=wire.Limits(max_image_bytes=100))
        for request in requests:
            now_ns = time.monotonic_ns()
            yield wire.RecognizeResponse(
                answer=wire.Answer(
                    sequence=request.frame.sequence, status=wire.OK, label='neutral',
                    probabilities=[1.0], server_receive_monotonic_ns=now_ns,
                    server_reply_monotonic_ns=now_ns,
                )
            )

    with scripted(answer) as address:
        status, out, _ = said(capsys, address, '--seconds', 1)
    assert status == 0
    assert "the server has none; the robot's own 126 points are used" in out
    assert 'the server takes images of 100 bytes only' in out


def test_more_faces_than_the_server_takes_are_refused(
    engine: OnnxEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    with real_server(engine, max_faces=2) as address:
        line = failed(capsys, address, '--faces', 3)
    assert 'the server takes 2 faces of one robot, --faces is 3' in line


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['--faces', '0'], "'0', expected a whole number from 1 to 64"),
        (['--faces', '1.5'], 'expected a whole number'),
        (['--seconds', 'long'], "'long', expected 1 to 3600"),
        (['--seconds', 'nan'], 'expected 1 to 3600'),
        (['--picture', 'picture.gif'], 'expected a file name that ends in .png'),
        (['--picture', '/no/such/folder/a.png'], '/no/such/folder/a.png cannot be written'),
        (['--colour'], '--colour'),
        (['one', 'two'], 'two'),
        (['http://127.0.0.1'], 'expected HOST or HOST:PORT'),
        ([''], 'expected HOST or HOST:PORT'),
        (['127.0.0.1:'], 'expected host:port'),
        (['127.0.0.1:70000'], 'expected host:port'),
        (['--tls-ca-file', '/no/ca.crt'], "tls_ca_file is '/no/ca.crt': No such file"),
        (['--tls-cert-file', 'a.crt'], "tls_cert_file is 'a.crt' without tls_key_file"),
        (['--token-file', '/no/token'], "token_file is '/no/token': No such file"),
        (['192.0.2.1', '--token-file', '/no/token'], '(here: --tls-ca-file, --insecure)'),
    ],
)
def test_a_wrong_argument_is_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in failed(capsys, *arguments)


@pytest.mark.parametrize(
    ('text', 'address'),
    [
        ('robot', 'robot:50051'), ('robot:1', 'robot:1'), ('10.0.0.1', '10.0.0.1:50051'),
        ('::1', '[::1]:50051'), ('[::1]', '[::1]:50051'), ('[fe80::1]:7', '[fe80::1]:7'),
    ],
)
def test_a_port_that_is_not_given_is_the_servers_own(text: str, address: str) -> None:
    assert link_check.server_address(text) == address


def test_help_names_what_the_burst_costs(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, '--help')
    assert status == 0
    assert '2 MB' in out and '--no-burst' in out
