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
The engine on a real Ray cluster of two cores, which `ferros-cloud ray up` starts for this file.

The encoders below stand for a GPU: they sleep, and answer with the process that they are in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_model

from cloud_server.engine import EngineError
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.engine.replica import Scale
from cloud_server.model_info import ModelError

if importlib.util.find_spec('ray') is None:
    pytest.skip('Ray is not installed', allow_module_level=True)

from cloud_server.engine.ray import EngineUnavailableError, RayEngine, encoder_file, replica_counts

# Ray's own, of its own settings; a thousand lines.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning:ray.*')
ROOT = Path(__file__).resolve().parent.parent
SIDE = tiny_model.INPUT_PX
START_S, STOP_S = 60.0, 20.0
# What a call may take beyond its limit, on a machine that is busy.
LATE_S = 1.0


@dataclasses.dataclass(frozen=True)
class Sleeper:
    """Makes encoders that take so long for a batch; their features are their process's id."""

    seconds: float

    def __call__(self) -> Sleeper:
        return self

    def encode(self, luma: np.ndarray) -> np.ndarray:
        if luma[0, 0, 0] == 255:
            raise ValueError('a face that no encoder can bear')
        time.sleep(self.seconds)
        return np.full((len(luma), tiny_model.FEATURES), os.getpid(), np.float32)


def unloadable() -> Sleeper:
    raise RuntimeError('the weights have gone')


class Up:
    """A running `ferros-cloud ray up`."""

    def __init__(self, *options: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'cloud_server', 'ray', 'up', *map(str, options)],
            # The replicas import the encoders of this file.
            env={**os.environ, 'PYTHONPATH': str(Path(__file__).parent)}, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.said = ''

    def wait_for(self, text: str) -> None:
        late = threading.Timer(START_S, self.process.kill)
        late.start()
        for line in self.process.stdout:
            self.said += line
            if text in line:
                late.cancel()
                return
        pytest.fail(f'ray up ended before it said {text!r}:\n{self.said}')

    @property
    def address(self) -> str:
        return re.search(r'--ray-address (\S+)', self.said)[1]

    @property
    def token_file(self) -> Path:
        return Path(re.search(r'RAY_AUTH_TOKEN_PATH=(\S+)', self.said)[1])

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(STOP_S)
        self.process.stdout.close()
        return status


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp('tiny'))


@pytest.fixture(scope='module')
def up(model: Path) -> Iterator[Up]:
    environment = dict(os.environ)
    running = Up('--model', model, '--num-cpus', 2, '--cpus', 0.25, '--max-replicas', 2)
    try:
        running.wait_for('replicas:')
        os.environ['RAY_AUTH_TOKEN_PATH'] = str(running.token_file)
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()
        os.environ.clear()
        os.environ.update(environment)


@pytest.fixture(scope='module')
def engine(up: Up, model: Path) -> Iterator[RayEngine]:
    engine = RayEngine(model, address=up.address, max_replicas=2, cpus=0.25)
    yield engine
    engine.close()


@pytest.fixture(scope='module')
def twins(up: Up, model: Path) -> Iterator[RayEngine]:
    """Return an engine with two replicas of an encoder that sleeps 50 ms."""
    engine = RayEngine(model, address=up.address, min_replicas=2, max_replicas=2, cpus=0.1,
                       encoder=Sleeper(0.05))
    yield engine
    engine.close()


def faces(count: int = 3) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 255, (count, SIDE, SIDE), np.uint8)


def command(*options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-m', 'cloud_server', 'ray', *map(str, options)], cwd=ROOT, text=True,
        capture_output=True, timeout=60, check=False,
    )


class Stream:
    """Calls without a pause from some threads; remembers how each call went."""

    def __init__(self, engine: RayEngine, threads: int) -> None:
        self.engine = engine
        # Time at which a call ended, seconds it took, process that answered or error.
        self.calls: list[tuple[float, float, int | Exception]] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(threads)]

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def answers_since(self, began_s: float) -> list[int]:
        return [result for ended_s, took_s, result in self.calls
                if ended_s - took_s > began_s and isinstance(result, int)]

    def _call(self) -> None:
        while not self._ended.is_set():
            began_s = time.monotonic()
            try:
                result: int | Exception = int(self.engine.encode(faces())[0, 0])
            except Exception as error:
                result = error
            now_s = time.monotonic()
            self.calls.append((now_s, now_s - began_s, result))


def wait_until(condition, limit_s: float) -> bool:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def test_the_features_are_those_that_onnx_runtime_computes_here(engine, model):
    here = OnnxEngine(model)
    assert (engine.kind, engine.device) == ('ray onnx', '1 to 2 replicas (CPU)')
    assert engine.slots == 4
    luma = faces(32)
    features = engine.encode(luma)
    np.testing.assert_array_equal(features, here.encode(luma))
    numbers, state = np.ones(32, np.float32), np.ones((32, tiny_model.STATE), np.float32)
    for one, other in zip(engine.step(features, numbers, numbers, state, state),
                          here.step(features, numbers, numbers, state, state), strict=True):
        np.testing.assert_array_equal(one, other)


def test_servers_of_one_model_share_its_encoder_and_none_takes_it_down(engine, up, model, caplog):
    before = replica_counts()
    second = RayEngine(model, address=up.address, max_replicas=9)
    assert replica_counts().keys() == before.keys()
    # As it was deployed, not as this one would have.
    assert second.slots == 4
    assert 'deployed before, with Scale(min_replicas=1, max_replicas=2' in caplog.text
    second.close()
    assert engine.encode(faces()).shape == (3, tiny_model.FEATURES)


def test_joining_a_cluster_leaves_the_signal_handlers_alone(engine):
    assert signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.default_int_handler)


def test_under_load_another_replica_is_started(up, model):
    growing = RayEngine(model, address=up.address, max_replicas=2, cpus=0.1, encoder=Sleeper(0.04))
    with Stream(growing, growing.slots) as stream:
        # 5 s where nothing else runs.
        assert wait_until(lambda: len(set(stream.answers_since(0))) == 2, 15)
    growing.close()


def test_two_replicas_encode_at_the_same_time(twins):
    calls, threads = 20, 4
    with Stream(twins, threads) as stream:
        # Each replica has been found, and told apart.
        assert wait_until(lambda: len(set(stream.answers_since(0))) == 2, 10)
        began, began_s = len(stream.calls), time.monotonic()
        assert wait_until(lambda: len(stream.calls) >= began + calls, 10)
        took_s = time.monotonic() - began_s
    # One replica takes 1.0 s for them, two take 0.5 s.
    assert took_s < 0.75


def test_what_an_encoder_cannot_bear_is_an_error_once_and_not_tried_again(twins):
    luma = faces()
    luma[0, 0, 0] = 255
    began_s = time.monotonic()
    with pytest.raises(Exception, match='a face that no encoder can bear'):
        twins.encode(luma)
    assert time.monotonic() - began_s < twins._timeout_s
    assert twins.encode(faces()).shape == (3, tiny_model.FEATURES)


def test_when_one_of_two_replicas_is_killed_its_batches_go_to_the_other(twins):
    with Stream(twins, 4) as stream:
        assert wait_until(lambda: len(set(stream.answers_since(0))) == 2, 10)
        first, second = set(stream.answers_since(0))
        killed_s = time.monotonic()
        os.kill(first, signal.SIGKILL)
        # Another takes its place; the bench holds that to 5 s, on a machine of its own.
        assert wait_until(lambda: set(stream.answers_since(killed_s)) - {first, second}, 20)
    assert second in stream.answers_since(killed_s)
    assert [result for _, _, result in stream.calls if not isinstance(result, int)] == []


def test_when_all_replicas_are_killed_every_call_ends_in_time_and_answers_return(twins):
    with Stream(twins, 4) as stream:
        assert wait_until(lambda: len(set(stream.answers_since(0))) == 2, 10)
        killed_s = time.monotonic()
        for pid in set(stream.answers_since(0)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # 2.5 s where nothing else runs.
        assert wait_until(lambda: stream.answers_since(killed_s + 0.1), 8)
    assert max(took_s for _, took_s, _ in stream.calls) < twins._timeout_s + LATE_S
    errors = [result for _, _, result in stream.calls if isinstance(result, Exception)]
    assert all(isinstance(error, EngineUnavailableError) for error in errors)


def test_a_call_that_takes_too_long_is_given_up(up, model):
    slow = RayEngine(model, address=up.address, cpus=0.1, encoder=Sleeper(0.4), timeout_s=0.2)
    began_s = time.monotonic()
    with pytest.raises(EngineUnavailableError, match=r'no answer within 0\.2 s'):
        slow.encode(faces())
    assert time.monotonic() - began_s < 0.2 + LATE_S
    slow.close()


def test_an_encoder_that_cannot_be_loaded_is_said_with_the_reason(up, model):
    with pytest.raises(EngineError, match=r'no replica can be started .*the weights have gone'):
        RayEngine(model, address=up.address, cpus=0.1, encoder=unloadable)


def test_replicas_that_find_no_room_are_said_and_the_next_start_may_ask_for_less(up, model):
    with pytest.raises(EngineError) as error:
        RayEngine(model, address=up.address, cpus=50, encoder=Sleeper(0), start_timeout_s=1)
    assert 'no replica has started within 1 s; the cluster has 2 CPUs and 0 GPUs' in str(
        error.value)
    smaller = RayEngine(model, address=up.address, cpus=0.1, encoder=Sleeper(0))
    assert smaller.encode(faces()).shape == (3, tiny_model.FEATURES)
    smaller.close()


def test_the_encoders_of_a_cluster_are_listed_taken_off_and_deployed(up, model, twins):
    address = ('--ray-address', up.address)
    name = next(iter(re.findall(r'ferros-tiny-0\.1-fp32-\w+', up.said)))
    wrong = command('delete', 'ferros-nobody', *address)
    assert wrong.returncode == 1
    assert 'no encoder ferros-nobody is deployed; there are: ' in wrong.stderr
    assert name in wrong.stderr
    assert command('delete', name, *address).stdout == f'{name}: deleted\n'
    left = command('status', *address)
    assert left.returncode == 0 and name not in left.stdout
    # The encoder of another test.
    assert re.search(r'^ferros-tiny-0\.1-fp32-\w+: replicas: 2 running$', left.stdout, re.M)
    again = command('deploy', '--model', model, '--cpus', 0.1, '--max-replicas', 3, *address)
    assert again.stdout == f'{name}: 1 to 3 replicas\n'
    grown = RayEngine(model, address=up.address, max_replicas=3, cpus=0.1)
    assert grown.device == '1 to 3 replicas (CPU)'
    np.testing.assert_array_equal(grown.encode(faces()), OnnxEngine(model).encode(faces()))
    grown.close()


def test_a_token_that_is_missing_or_wrong_is_said(up, monkeypatch, tmp_path):
    monkeypatch.setenv('RAY_AUTH_TOKEN_PATH', str(tmp_path / 'none'))
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.delenv('RAY_AUTH_MODE', raising=False)
    for token, problem in (('', 'asks for a token'), ('b' * 64, 'asks for another token')):
        (tmp_path / 'none').write_text(token)
        refused = command('status', '--ray-address', up.address)
        assert refused.returncode == 1
        assert problem in refused.stderr
        assert 'RAY_AUTH_TOKEN_PATH' in refused.stderr
        assert refused.stderr.count('\n') == 1


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return f'127.0.0.1:{probe.getsockname()[1]}'


@pytest.mark.parametrize(
    ('address', 'problem'),
    [
        (None, 'Connection refused'),
        ('ray://127.0.0.1:10001', 'expected HOST:PORT'),
        ('127.0.0.1', 'expected HOST:PORT'),
        ('127.0.0.1:99999', 'no Ray cluster at 127.0.0.1:99999'),
    ],
)
def test_a_missing_cluster_is_one_clear_line_at_once(address, problem):
    address = address or closed_port()
    began_s = time.monotonic()
    failed = command('status', '--ray-address', address)
    assert time.monotonic() - began_s < 5
    assert failed.returncode == 1
    assert problem in failed.stderr and address in failed.stderr
    assert failed.stderr.count('\n') == 1


def test_what_listens_but_does_not_answer_is_given_up_after_a_few_seconds():
    with socket.create_server(('127.0.0.1', 0)) as silent:
        began_s = time.monotonic()
        failed = command('status', '--ray-address', f'127.0.0.1:{silent.getsockname()[1]}')
    assert time.monotonic() - began_s < 8
    assert 'what listens there does not answer' in failed.stderr
    assert failed.stderr.count('\n') == 1


def test_precisions_are_checked_before_anything_is_deployed(model):
    info = OnnxEngine(model).info
    for precision, gpus, problem in (
        ('bf16', 0, 'where replicas have no GPUs: set ray_gpus'),
        ('int8', 1, 'where replicas have GPUs'),
        ('int8', 0, 'no encoder_int8.onnx in it'),
        ('fp16', 1, 'encoder.safetensors: cannot be read'),
    ):
        with pytest.raises(ModelError, match=problem):
            encoder_file(model, info, precision, gpus, threads=1, max_batch=32)


def test_an_encoder_that_arrives_damaged_is_refused(model):
    sent = encoder_file(model, OnnxEngine(model).info, 'fp32', 0, threads=1, max_batch=32)
    luma = faces()
    np.testing.assert_array_equal(sent().encode(luma), OnnxEngine(model).encode(luma))
    damaged = dataclasses.replace(sent, encoder=sent.encoder[:-1] + b'!')
    with pytest.raises(ModelError, match='the encoder arrived with sha256'):
        damaged()


def test_an_int8_encoder_travels_alone():
    info = OnnxEngine(tiny_model.SHIPPED).info
    sent = encoder_file(tiny_model.SHIPPED, info, 'int8', 0, threads=1, max_batch=32)
    assert len(sent.encoder) < 3_000_000
    luma = np.random.default_rng(0).integers(0, 256, (2, 48, 48), np.uint8)
    expected = OnnxEngine(tiny_model.SHIPPED, precision='int8').encode(luma)
    np.testing.assert_array_equal(sent().encode(luma), expected)


def test_for_gpus_the_weights_travel_and_are_computed_with_pytorch(monkeypatch):
    torch = pytest.importorskip('torch')
    engine = OnnxEngine(tiny_model.SHIPPED)
    sent = encoder_file(tiny_model.SHIPPED, engine.info, 'fp32', 0.5, threads=1, max_batch=32)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(EngineError, match='finds no GPU here'):
        sent()
    # No GPU is at hand: the same on a CPU.
    luma = np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)
    features = dataclasses.replace(sent, device='cpu')().encode(luma)
    np.testing.assert_allclose(features, engine.encode(luma), atol=1e-4)


@pytest.mark.parametrize(
    ('cpus', 'gpus', 'threads', 'at_once'),
    [(1, 0, 1, 1), (8, 0, 2, 4), (0.5, 0, 1, 1), (1, 1, 1, 2)],
)
def test_a_replica_computes_as_many_batches_at_once_as_keep_it_busy(cpus, gpus, threads, at_once):
    assert Scale.of(1, 4, cpus, gpus, threads).at_once == at_once


def session_below(process: subprocess.Popen[str]) -> int:
    """Return the session that `ray up` has put Ray into, as soon as there is one."""
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children')
    assert wait_until(lambda: children.read_text().split(), 10)
    return int(children.read_text().split()[0])


def processes_of(session: int) -> list[str]:
    """Return what runs in a session; what has ended and waits to be reaped does not."""
    shown = subprocess.run(['ps', '-ww', '-o', 'pid=,stat=,args=', '-s', str(session)], text=True,
                           capture_output=True, check=False)
    return [line for line in shown.stdout.splitlines() if not line.split()[1].startswith('Z')]


def pids_of(session: int) -> list[int]:
    return [int(line.split()[0]) for line in processes_of(session)]


def program(pid: int) -> str:
    return Path(f'/proc/{pid}/cmdline').read_bytes().split(b'\0')[0].decode()


def test_a_signal_while_it_starts_ends_all_of_it_too(model):
    starting = Up('--model', model, '--num-cpus', 1)
    session = session_below(starting.process)
    time.sleep(1.5)
    assert starting.stop() == 0
    assert processes_of(session) == []


def test_when_ray_ends_by_itself_it_is_said_and_the_rest_of_it_is_ended(model):
    lonely = Up('--model', model, '--num-cpus', 1)
    try:
        lonely.wait_for('replicas:')
        session = session_below(lonely.process)
        [raylet] = [pid for pid in pids_of(session) if program(pid).endswith('/raylet')]
        os.kill(raylet, signal.SIGKILL)
        assert lonely.process.wait(STOP_S) == 1
        assert 'ferros-cloud ray: Ray has ended by itself' in lonely.process.stdout.read()
        assert processes_of(session) == []
        assert not lonely.token_file.parent.exists()
    finally:
        lonely.process.kill()
        lonely.process.stdout.close()


def test_at_the_end_nothing_of_it_remains(up, engine, twins):
    session = session_below(up.process)
    assert any('raylet' in process for process in processes_of(session))
    engine.close()
    twins.close()
    assert up.stop() == 0
    assert processes_of(session) == []
    assert not up.token_file.parent.exists()
