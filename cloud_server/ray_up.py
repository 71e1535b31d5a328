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
`ferros-cloud ray`: a Ray cluster on this machine to try the engine with, and the encoders of one.

    ray up        start a cluster of this machine alone, and deploy the encoder on it
    ray deploy    deploy the encoder on a cluster, or change how many replicas it has
    ray status    the encoders of a cluster and their replicas
    ray delete    take an encoder off a cluster
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from cloud_server.config import DEFAULT_MODEL, PRECISIONS_OF, ConfigError, ServerConfig
from cloud_server.engine import EngineError
from cloud_server.model_info import ModelError, ModelInfo

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1
WATCH_S = 1.0
OBJECT_STORE_BYTES = 512 << 20
# Paths of sockets are short, and Ray makes long ones: not below a TMPDIR that is long itself.
FOLDER = '/tmp'
LOG_LINES = 5


class _StoppedError(Exception):
    """SIGTERM, or Ctrl-C."""


class _RayEndedError(Exception):
    """The cluster has ended, and nobody asked it to."""


class _Signals:
    """Turns SIGTERM and Ctrl-C into _StoppedError, but not in the midst of a thing."""

    def __init__(self) -> None:
        self._is_held = False
        self._came = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let what comes meanwhile count at the end."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._came:
            raise _StoppedError

    def _take(self, *_: object) -> None:
        if self._came:
            return
        self._came = True
        if not self._is_held:
            raise _StoppedError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands of `ray`."""
    parser.description = (
        'A Ray cluster on this machine, to try `serve --engine ray`, and the encoders of a'
        ' cluster. docs/ray.md shows it in use.'
    )
    add = parser.add_subparsers(dest='action', metavar='ACTION', required=True).add_parser
    up = add('up', help='start a cluster of this machine alone, with the encoder; Ctrl-C ends it')
    up.set_defaults(do=_up)
    up.add_argument('--num-cpus', type=int, metavar='N',
                    help='cores of the cluster (default: all)')
    up.add_argument('--port', type=int, default=0, help='of the cluster; 0: any free one')
    _add_encoder(up)
    deploy = add('deploy', help='deploy the encoder on a cluster, or change its replicas')
    deploy.set_defaults(do=_deploy)
    _add_address(deploy)
    _add_encoder(deploy)
    status = add('status', help='the encoders of a cluster and their replicas')
    status.set_defaults(do=_status)
    _add_address(status)
    delete = add('delete', help='take an encoder off a cluster, and its replicas down')
    delete.set_defaults(do=_delete)
    _add_address(delete)
    delete.add_argument('name', help='as `ray status` shows it')


def run(args: argparse.Namespace) -> int:
    """Run one of the sub-commands."""
    try:
        return int(args.do(args))
    except ConfigError as error:
        lines = error.problems
    except (EngineError, ModelError) as error:
        lines = [str(error)]
    except ModuleNotFoundError as error:
        if error.name != 'ray':
            raise
        lines = ["needs the Python module 'ray': pip install 'ferros[ray]'"]
    for line in lines:
        print(f'ferros-cloud ray: {line}', file=sys.stderr)
    return 1


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--ray-address', default='auto', metavar='HOST:PORT',
                        help='of the cluster; auto: the one that runs on this machine')


def _add_encoder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--model', type=Path, default=DEFAULT_MODEL, metavar='FOLDER',
                        help='model folder (default: the shipped one)')
    parser.add_argument('--precision', default='fp32', choices=PRECISIONS_OF['ray'])
    parser.add_argument('--min-replicas', type=int, default=1, metavar='N')
    parser.add_argument('--max-replicas', type=int, default=2, metavar='N')
    parser.add_argument('--cpus', type=float, default=1.0, help='cores of one replica')
    parser.add_argument('--gpus', type=float, default=0.0, help='GPUs of one replica')
    parser.add_argument('--threads', type=int, default=1, help='cores that one batch may use')
    parser.add_argument('--max-batch', type=int, default=32, help='faces in one batch')


def _settings(args: argparse.Namespace, address: str) -> ServerConfig:
    """Check the options as `serve` would."""
    return ServerConfig(
        engine='ray', model=args.model, precision=args.precision, ray_address=address,
        ray_min_replicas=args.min_replicas, ray_max_replicas=args.max_replicas,
        ray_cpus=args.cpus, ray_gpus=args.gpus, threads=args.threads, max_batch=args.max_batch,
    )


def _up(args: argparse.Namespace) -> int:
    settings = _settings(args, 'auto')
    ModelInfo.load(args.model)
    signals = _Signals()
    try:
        with _head(args.num_cpus, args.port, signals) as (head, address, token_file):
            # Before Ray is imported: that is when it reads them.
            os.environ.update(_access(token_file))
            with _connected(address, head):
                name = _deploy_encoder(settings)
                print(f'Ray runs at {address}, for this machine alone, with the encoder {name}.\n'
                      'In another terminal:\n\n'
                      f'    {_serve_line(settings, address, token_file)}\n\nCtrl-C ends it.',
                      flush=True)
                _watch(head, name)
    except _StoppedError:
        print('ended')
        return 0
    except _RayEndedError as error:
        print(f'ferros-cloud ray: {error}', file=sys.stderr, flush=True)
        # At its exit Ray would wait for the cluster that is gone.
        os._exit(1)


def _deploy(args: argparse.Namespace) -> int:
    settings = _settings(args, args.ray_address)
    with _connected(args.ray_address):
        name = _deploy_encoder(settings)
    print(f'{name}: {args.min_replicas} to {args.max_replicas} replicas')
    return 0


def _status(args: argparse.Namespace) -> int:
    from cloud_server.engine.ray import replica_counts

    with _connected(args.ray_address):
        found = replica_counts()
    for name, counts in sorted(found.items()):
        print(f'{name}: {_in_words(counts)}')
    if not found:
        print('no encoder is deployed')
    return 0


def _delete(args: argparse.Namespace) -> int:
    from cloud_server.engine.ray import replica_counts

    with _connected(args.ray_address):
        from ray import serve

        if args.name not in (found := replica_counts()):
            deployed = ', '.join(sorted(found)) or 'none'
            raise EngineError(f'no encoder {args.name} is deployed; there are: {deployed}')
        serve.delete(args.name)
    print(f'{args.name}: deleted')
    return 0


@contextlib.contextmanager
def _connected(address: str, head: subprocess.Popen[bytes] | None = None) -> Iterator[None]:
    from cloud_server.engine.ray import connect, disconnect

    connect(address)
    try:
        yield
    finally:
        # Of a cluster that has gone there is no leave to take.
        if head is None or head.poll() is None:
            disconnect()


def _deploy_encoder(settings: ServerConfig) -> str:
    """Deploy the encoder of the settings and wait for its first replicas; return its name."""
    from cloud_server.engine.ray import application, deploy, encoder_file, wait_until_running
    from cloud_server.engine.replica import Scale

    info = ModelInfo.load(settings.model)
    make = encoder_file(
        settings.model, info, settings.precision, settings.ray_gpus, settings.threads,
        settings.max_batch,
    )
    name = application(info, settings.precision, make)
    deploy(name, make, Scale.of(
        settings.ray_min_replicas, settings.ray_max_replicas, settings.ray_cpus,
        settings.ray_gpus, settings.threads,
    ))
    wait_until_running(name, START_TIMEOUT_S)
    return name


def _watch(head: subprocess.Popen[bytes], name: str) -> NoReturn:
    """Print how many replicas there are whenever that changes, until a signal ends it."""
    over = threading.Event()
    # Beside the wait: once Ray is gone, a question to it blocks until Ray ends this process.
    printer = threading.Thread(target=_print_changes, args=(name, over), daemon=True)
    printer.start()
    try:
        raise _RayEndedError(f'Ray has ended by itself, with status {head.wait()}')
    finally:
        over.set()
        if head.poll() is None:
            # A question after the end of the connection would start a cluster of its own.
            printer.join()


def _print_changes(name: str, over: threading.Event) -> None:
    from cloud_server.engine.ray import replica_counts

    before = ''
    while not over.wait(WATCH_S):
        now = _in_words(replica_counts().get(name, {}))
        if now != before:
            print(now, flush=True)
        before = now


def _in_words(counts: dict[str, int]) -> str:
    shown = (f'{count} {state.lower()}' for state, count in sorted(counts.items()))
    return f'replicas: {", ".join(shown) or "none"}'


@contextlib.contextmanager
def _head(
    num_cpus: int | None, port: int, signals: _Signals
) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """
    Run Ray on this machine, for this machine: it listens on the loopback address alone.

    Yields:
        its process, HOST:PORT, and the file of the token that it asks for: other users of this
        machine have none.

    Raises:
        EngineError: it does not start.

    """
    with contextlib.ExitStack() as stack:
        with signals.held():
            folder = Path(tempfile.mkdtemp(prefix='ferros-ray-', dir=FOLDER))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            token_file = folder / 'token'
            token_file.touch(mode=0o600)
            token_file.write_text(secrets.token_hex(32))
            log = stack.enter_context((folder / 'log').open('wb'))
            # A session of its own: Ctrl-C in the terminal is for us, and what is left is found.
            head = subprocess.Popen(
                _head_command(folder, num_cpus, port), env=_head_environment(token_file),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(_end, head, signals)
        yield head, _address(head, folder), token_file


def _head_command(folder: Path, num_cpus: int | None, port: int) -> list[str]:
    command = [
        sys.executable, '-m', 'ray.scripts.scripts', 'start', '--head', '--block',
        '--node-ip-address=127.0.0.1', f'--port={port}', f'--temp-dir={folder}',
        '--include-dashboard=false', '--disable-usage-stats', '--dashboard-agent-listen-port=0',
        f'--object-store-memory={OBJECT_STORE_BYTES}',
        # Cannot be left out, and is the same for every cluster of this machine if not said.
        f'--ray-client-server-port={_free_port()}',
    ]
    return command if num_cpus is None else [*command, f'--num-cpus={num_cpus}']


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


def _access(token_file: Path) -> dict[str, str]:
    """Return what the environment of every process on the cluster must say."""
    return {'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN_PATH': str(token_file)}


def _head_environment(token_file: Path) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items()
            if name not in ('RAY_ADDRESS', 'RAY_AUTH_TOKEN')}
    return {
        **mine, **_access(token_file),
        # Ray takes 127.0.0.1 for the address of the network card otherwise.
        'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER': '0',
        'RAY_USAGE_STATS_ENABLED': '0',
        'RAY_enable_metrics_collection': '0',
        # It need not wait for its replicas: nobody is served from here any more.
        'RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S': '0',
    }


def _address(head: subprocess.Popen[bytes], folder: Path) -> str:
    """Wait until Ray says where it listens."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    place = folder / 'ray_current_cluster'
    while time.monotonic() < deadline_s:
        if place.exists() and (address := place.read_text().strip()):
            return address
        if head.poll() is not None:
            break
        time.sleep(POLL_S)
    said = (folder / 'log').read_text(errors='replace').strip().splitlines()[-LOG_LINES:]
    raise EngineError('Ray does not start:\n' + '\n'.join(said))


def _end(head: subprocess.Popen[bytes], signals: _Signals) -> None:
    """End Ray and whatever of it remains, that is all in its session."""
    with contextlib.suppress(_StoppedError), signals.held():
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(STOP_TIMEOUT_S)
        while remaining := _session(head.pid):
            for pid in remaining:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            head.poll()
            time.sleep(POLL_S)
        head.wait()


def _session(session: int) -> list[int]:
    """Return the processes of a session that still run."""
    found = []
    for entry in Path('/proc').iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # After the name in brackets: state, parent, group, session.
                fields = (entry / 'stat').read_text(errors='replace').rpartition(')')[2].split()
                if int(fields[3]) == session and fields[0] != 'Z':
                    found.append(int(entry.name))
    return found


def _serve_line(settings: ServerConfig, address: str, token_file: Path) -> str:
    """Return what starts a server on this cluster, as it is typed."""
    program = [sys.argv[0]] if Path(sys.argv[0]).name == 'ferros-cloud' else [
        sys.executable, '-m', 'cloud_server']
    words = [f'RAY_AUTH_TOKEN_PATH={token_file}', *program, 'serve', '--engine', 'ray',
             '--ray-address', address]
    default = ServerConfig(engine='ray')
    for name in ('model', 'precision', 'threads', 'max_batch', 'ray_min_replicas',
                 'ray_max_replicas', 'ray_cpus', 'ray_gpus'):
        if (value := getattr(settings, name)) != getattr(default, name):
            words += ['--' + name.replace('_', '-'), str(value)]
    return shlex.join(words)
