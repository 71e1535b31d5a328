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
The engine past one machine: the encoder on a Ray cluster, everything else in this process.

One call carries one batch. The encoder keeps no state, so a call whose replica died is made again
on another; the LSTM's step is small and its state belongs to the streams: it is computed here.

The encoder is an application of Ray Serve, named after the model and the digest of its file.
Servers of one model share it, the first deploys it, and none takes it down.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from cloud_server.config import is_loopback
from cloud_server.engine import EngineError
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.engine.replica import Encoder, EncoderFile, Replica, Scale
from cloud_server.model_info import ENCODER_FILES, TEMPORAL_FILE, ModelError, ModelInfo

if importlib.util.find_spec('ray') is None:
    # Ray itself is imported when a cluster is joined: it reads its environment at its import.
    raise ModuleNotFoundError("No module named 'ray'", name='ray')

Floats = NDArray[np.float32]

NAMESPACE = 'ferros'
DEPLOYMENT = 'Encoder'
# Precisions by what a replica computes with.
CPU_PRECISIONS = tuple(ENCODER_FILES)
GPU_PRECISIONS = ('fp32', 'bf16', 'fp16')
PROBE_TIMEOUT_S = 3.0
POLL_S = 0.1
# Between two tries of a call whose replica died.
RETRY_S = 0.05
# Of a replica: how many batches it works on or has waiting on average when another is started.
TARGET_BATCHES = 1.5
UPSCALE_DELAY_S = 2.0
DOWNSCALE_DELAY_S = 120.0
# Load is averaged over so long.
LOOK_BACK_S = 5.0
HEALTH_CHECK_PERIOD_S = 1.0
HEALTH_CHECK_TIMEOUT_S = 3.0
# Where all replicas are full, Ray asks again after 25 to 500 ms by default: longer than a batch.
ROUTER_BACKOFF = {'initial_backoff_s': 0.002, 'backoff_multiplier': 2, 'max_backoff_s': 0.02}
# Of a batch, there and back.
BATCH_MS = 150
# Of one replica, all servers together; what is beyond waits in the servers.
MAX_BATCHES = 64
FAILED = ('DEPLOY_FAILED', 'UNHEALTHY')

log = logging.getLogger(__name__)


class EngineUnavailableError(EngineError):
    """No replica answered in time; the next call may find one."""


class RayEngine:
    """Computes the encoder on a Ray cluster and the temporal half here; see engine.Engine."""

    def __init__(
        self,
        folder: Path,
        precision: str = 'fp32',
        address: str = 'auto',
        min_replicas: int = 1,
        max_replicas: int = 1,
        cpus: float = 1.0,
        gpus: float = 0.0,
        max_batch: int = 32,
        threads: int = 1,
        *,
        encoder: Callable[[], Encoder] | None = None,
        timeout_s: float = 2.0,
        start_timeout_s: float = 60.0,
    ) -> None:
        """
        Join the cluster; deploy the encoder, or use the one that is deployed there already.

        Args:
            folder: a model folder.
            precision: fp32 or int8; fp32, bf16 or fp16 on GPUs.
            address: HOST:PORT of the cluster, of which this machine must be a node; auto: the one
                that Ray finds by itself on this machine.
            min_replicas: replicas of the encoder at least. This and what follows, up to threads,
                counts where this engine is the first to deploy the encoder.
            max_replicas: replicas at most; between the two their number follows the load.
            cpus: cores of one replica.
            gpus: GPUs of one replica; with some it computes with PyTorch, else with ONNX Runtime.
            max_batch: faces in one batch.
            threads: cores that one batch may use.
            encoder: makes the encoder in each replica, instead of that of the folder; picklable,
                importable on the cluster's machines, and told from others by its repr.
            timeout_s: a batch that is not encoded by then fails.
            start_timeout_s: the first replica has so long to start.

        Raises:
            ModelError: the model cannot be served.
            EngineError: there is no such cluster, or the encoder cannot be had there.

        """
        self._local = OnnxEngine(folder, threads)
        self.info = self._local.info
        self._timeout_s = timeout_s
        make = encoder or encoder_file(folder, self.info, precision, gpus, threads, max_batch)
        name = application(self.info, precision, make)
        wanted = Scale.of(min_replicas, max_replicas, cpus, gpus, threads)
        driver = _Driver.join(address)
        self._leave = contextlib.ExitStack()
        self._leave.callback(driver.leave)
        try:
            with _alone(folder):
                if not is_running(name):
                    deploy(name, make, wanted)
                wait_until_running(name, start_timeout_s)
            handle = driver.handle(name)
            scale, device = handle.describe.remote().result(timeout_s=start_timeout_s)
        except BaseException:
            self.close()
            raise
        if scale != wanted:
            log.warning('%s: deployed before, with %s, which stays as it is', name, scale)
        self._call = handle.encode
        # Each replica has a batch to compute and one that waits.
        self.slots = max(2, 2 * scale.max_replicas * scale.at_once)
        # As seen from here half of it is the wait for the batch before.
        self.batch_ms = BATCH_MS
        what = 'torch' if scale.gpus else 'onnx'
        self.kind = f'ray {what}' if precision == 'fp32' else f'ray {what} {precision}'
        self.device = f'{scale.min_replicas} to {scale.max_replicas} replicas ({device})'

    def encode(self, luma: NDArray[np.uint8]) -> Floats:
        """
        Encode faces [N, S, S] to features [N, F] in one call to a replica.

        Raises:
            EngineUnavailableError: no replica answered within the time limit.

        """
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        deadline_s = time.monotonic() + self._timeout_s
        while True:
            response = self._call.remote(luma)
            try:
                features: Floats = response.result(timeout_s=deadline_s - time.monotonic())
                return features
            except TimeoutError as error:
                response.cancel()
                raise self._unavailable(f'no answer within {self._timeout_s} s') from error
            except RayTaskError:
                # The encoder itself failed; it would again.
                raise
            except (RayError, RayServeException) as error:
                if time.monotonic() + RETRY_S >= deadline_s:
                    raise self._unavailable(_one_line(error)) from error
                log.warning('a replica is lost, its batch goes to another (%s)', _one_line(error))
                time.sleep(RETRY_S)

    def step(
        self, features: Floats, interval_s: Floats, face_size_px: Floats, h: Floats, c: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Take one step in time, in this process: logits [N, labels], h and c [N, H]."""
        return self._local.step(features, interval_s, face_size_px, h, c)

    def close(self) -> None:
        """Leave the cluster; the encoder stays deployed, for other servers and the next start."""
        self._leave.close()

    @staticmethod
    def _unavailable(reason: str) -> EngineUnavailableError:
        return EngineUnavailableError(f'no replica of the encoder is available: {reason}')


def encoder_file(
    folder: Path, info: ModelInfo, precision: str, gpus: float, threads: int, max_batch: int
) -> EncoderFile:
    """
    Read what the replicas need of a model folder.

    Raises:
        ModelError: the folder has no encoder for replicas of this kind.

    """
    document = (folder / 'model.json').read_text(encoding='utf-8')
    if gpus:
        if precision not in GPU_PRECISIONS:
            raise ModelError(f'precision is {precision}, expected one of {GPU_PRECISIONS} where'
                             ' replicas have GPUs')
        weights = _bytes(folder / 'encoder.safetensors')
        digest = hashlib.sha256(weights).hexdigest()
        return EncoderFile(
            'torch', 'cuda', document, weights, digest, b'', precision, threads, max_batch
        )
    if precision not in CPU_PRECISIONS:
        raise ModelError(f'precision is {precision}, expected one of {CPU_PRECISIONS} where'
                         ' replicas have no GPUs: set ray_gpus')
    name = ENCODER_FILES[precision]
    if name not in info.sha256:
        raise ModelError(f'{folder}: no {name} in it, which the precision {precision} needs')
    return EncoderFile(
        'onnx', 'cpu', document, _bytes(folder / name), info.sha256[name],
        _bytes(folder / TEMPORAL_FILE), precision, threads, max_batch,
    )


def application(info: ModelInfo, precision: str, make: Callable[[], Encoder]) -> str:
    """Return the name under which an encoder is deployed: the same for the same encoder only."""
    if isinstance(make, EncoderFile):
        digest = make.sha256
    else:
        # Not what it is pickled to: that would import Ray before the cluster is joined.
        digest = hashlib.sha256(repr(make).encode()).hexdigest()
    return '-'.join([
        'ferros', *re.findall(r'[A-Za-z0-9.]+', info.display), precision, digest[:12],
    ])


def deploy(name: str, make: Callable[[], Encoder], scale: Scale) -> None:
    """
    Begin to deploy an encoder, or to change how it is deployed; does not wait for its replicas.

    Needs a connection to a cluster. Replicas that run are replaced one after the other.
    """
    from ray import serve

    # Nothing listens for HTTP: the servers are the only way in.
    serve.start(proxy_location='Disabled')
    deployment = serve.deployment(
        name=DEPLOYMENT,
        ray_actor_options={'num_cpus': scale.cpus, 'num_gpus': scale.gpus},
        max_ongoing_requests=MAX_BATCHES,
        autoscaling_config={
            'min_replicas': scale.min_replicas,
            'max_replicas': scale.max_replicas,
            'target_ongoing_requests': TARGET_BATCHES * scale.at_once,
            'upscale_delay_s': UPSCALE_DELAY_S,
            'downscale_delay_s': DOWNSCALE_DELAY_S,
            'look_back_period_s': LOOK_BACK_S,
            'metrics_interval_s': 1.0,
        },
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
        # A replica that is to go finishes its batches, which take milliseconds.
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=5.0,
        max_constructor_retry_count=2,
        request_router_config=ROUTER_BACKOFF,
        # By default each call is a line in a file.
        logging_config={'enable_access_log': False, 'log_level': 'WARNING'},
    )(Replica)
    serve.run_many(
        [serve.RunTarget(deployment.bind(make, scale), name=name, route_prefix=None)],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def is_running(name: str) -> bool:
    """
    Return whether an application of that name has a replica that runs.

    One that has none, for its settings perhaps, may be deployed again with others.
    """
    return replica_counts().get(name, {}).get('RUNNING', 0) > 0


def wait_until_running(name: str, timeout_s: float) -> None:
    """
    Wait for the first replica.

    Raises:
        EngineError: it fails, or is not there in time.

    """
    import ray
    from ray import serve

    deadline_s = time.monotonic() + timeout_s
    while not is_running(name):
        found = serve.status().applications.get(name)
        if found is not None and found.status in FAILED:
            messages = [each.message for each in found.deployments.values()] or [found.message]
            raise EngineError(f'{name}: no replica can be started ({_last_line(messages[0])})')
        if time.monotonic() > deadline_s:
            free = ray.available_resources()  # type: ignore[no-untyped-call]
            total = ray.cluster_resources()  # type: ignore[no-untyped-call]
            raise EngineError(
                f'{name}: no replica has started within {timeout_s:.0f} s; the cluster has'
                f' {_resources(total)}, of which {_resources(free)} are free'
            )
        time.sleep(POLL_S)


def replica_counts() -> dict[str, dict[str, int]]:
    """Return, for each of our applications on the cluster, its replicas by state."""
    from ray import serve

    return {
        name: {
            str(getattr(state, 'value', state)): count
            for each in found.deployments.values()
            for state, count in each.replica_states.items()
        }
        for name, found in serve.status().applications.items()
        if name.startswith('ferros-')
    }


class _Driver:
    """The connection of this process to a cluster, which its engines share."""

    _lock = threading.Lock()
    _current: _Driver | None = None

    def __init__(self, address: str) -> None:
        self.address = address
        self._users = 0
        self._handles: list[Any] = []

    @classmethod
    def join(cls, address: str) -> _Driver:
        """Connect, or share the connection that there is."""
        with cls._lock:
            if cls._current is None:
                connect(address)
                cls._current = cls(address)
            elif cls._current.address != address:
                raise EngineError(
                    f'this process is on the Ray cluster {cls._current.address} already,'
                    f' it cannot join {address}'
                )
            cls._current._users += 1
            return cls._current

    def handle(self, name: str) -> Any:
        """Return the handle of an application."""
        from ray import serve

        handle = serve.get_app_handle(name)
        self._handles.append(handle)
        return handle

    def leave(self) -> None:
        """Disconnect when the last engine leaves."""
        with self._lock:
            self._users -= 1
            if self._users or _Driver._current is not self:
                return
            _Driver._current = None
            for handle in self._handles:
                handle.shutdown()
            disconnect()


def connect(address: str) -> None:
    """
    Join a Ray cluster as a driver, for calls only: no signal handler, no log of Ray's stays.

    Args:
        address: HOST:PORT; auto: of the cluster that this machine is a node of.

    Raises:
        EngineError: there is no such cluster, it runs another version, or asks for a token.

    """
    if address == 'auto':
        address = _own_address()
    _probe(address)
    if is_loopback(address.rpartition(':')[0].strip('[]')):
        _allow_loopback()
    # Or else a stray call after the end would start a cluster of its own.
    os.environ['RAY_ENABLE_AUTO_CONNECT'] = '0'
    import ray
    from ray.exceptions import RayError

    with _signal_handlers_kept():
        try:
            ray.init(
                address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False
            )
        except (OSError, RuntimeError, ValueError, RayError) as error:
            disconnect()
            raise EngineError(f'no Ray cluster at {address}: {_one_line(error)}') from error
    # Serve's own handler prints; what is wrong goes into the server's log instead.
    from ray import serve  # noqa: F401

    logger = logging.getLogger('ray.serve')
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.ERROR)


def disconnect() -> None:
    """Leave the cluster; nothing of it is taken down."""
    import ray

    with _signal_handlers_kept():
        ray.shutdown()


def _allow_loopback() -> None:
    """Let Ray, once it is imported, take a loopback address for what it is."""
    variable = 'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER'
    if 'ray' in sys.modules and os.environ.get(variable) != '0':
        # It would look for the cluster at the address of the network card, for minutes.
        raise EngineError('Ray was imported before it could be told of a loopback address')
    os.environ[variable] = '0'


def _own_address() -> str:
    """
    Return the address of the cluster that this machine is a node of, as its raylet was told.

    Raises:
        EngineError: it is a node of none, or of several.

    """
    if address := os.environ.get('RAY_ADDRESS'):
        return address
    found = set()
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        with contextlib.suppress(OSError):
            program, *arguments = path.read_bytes().decode(errors='replace').split('\0')
            if program.endswith('/raylet'):
                found |= {argument.partition('=')[2] for argument in arguments
                          if argument.startswith('--gcs-address=')}
    if len(found) != 1:
        raise EngineError(
            f'this machine is a node of {len(found)} Ray clusters ({", ".join(sorted(found))}):'
            ' say HOST:PORT' if found else 'no Ray cluster runs on this machine: start one with'
            ' `ferros-cloud ray up`, or make it a node of one with `ray start --address=HOST:PORT`'
        )
    return found.pop()


def _probe(address: str) -> None:
    """
    Find at once what Ray itself would try for minutes, and whether the cluster wants a token.

    Raises:
        EngineError: it cannot be joined.

    """
    host, _, port = address.rpartition(':')
    if not host or '/' in host or not port.isdecimal():
        raise EngineError(f'the address of the Ray cluster is {address!r}, expected HOST:PORT')
    try:
        socket.create_connection((host.strip('[]'), int(port)), PROBE_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f'no Ray cluster at {address}: {_one_line(error)}') from error
    if os.environ.get('RAY_USE_TLS', '0').lower() in ('1', 'true'):
        return
    status = _greet(address)
    if status is grpc.StatusCode.UNAUTHENTICATED and 'RAY_AUTH_MODE' not in os.environ:
        # Ray uses its token without being told only where it has found the cluster itself.
        os.environ['RAY_AUTH_MODE'] = 'token'
        status = _greet(address)
    if status is grpc.StatusCode.UNAUTHENTICATED:
        raise EngineError(
            f'the Ray cluster at {address} asks for {"another" if _token() else "a"} token:'
            ' name its file in the environment variable RAY_AUTH_TOKEN_PATH'
        )
    if status in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
        raise EngineError(f'no Ray cluster at {address}: what listens there does not answer')


def _greet(address: str) -> grpc.StatusCode:
    """Ask the cluster whether it lives, with our token where tokens are in use."""
    metadata: tuple[tuple[str, str], ...] = ()
    if os.environ.get('RAY_AUTH_MODE', '').lower() == 'token':
        metadata = (('authorization', f'Bearer {_token()}'),)
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary('/ray.rpc.NodeInfoGcsService/CheckAlive', bytes, bytes)
        try:
            ask(b'', timeout=PROBE_TIMEOUT_S, metadata=metadata, wait_for_ready=True)
        except grpc.RpcError as error:
            status: grpc.StatusCode = error.code()
            return status
    return grpc.StatusCode.OK


def _token() -> str:
    """Return the token as Ray finds it; empty where there is none."""
    if 'RAY_AUTH_TOKEN' in os.environ:
        return os.environ['RAY_AUTH_TOKEN'].strip()
    path = os.environ.get('RAY_AUTH_TOKEN_PATH') or Path.home() / '.ray' / 'auth_token'
    try:
        return Path(path).read_text(encoding='utf-8').strip()
    except (OSError, ValueError):
        return ''


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Ray puts its own handler of SIGTERM in place, which would end the server at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """
    Let one process of this machine after the other look whether a model is deployed.

    Two that deploy it at one moment do no harm, but the replicas of the first start in vain.
    """
    with (folder / 'model.json').open('rb') as file:
        with contextlib.suppress(OSError):  # some network file systems have no such lock
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f'{path}: cannot be read ({error.strerror})') from error


def _resources(found: dict[str, float]) -> str:
    return f'{found.get("CPU", 0):g} CPUs and {found.get("GPU", 0):g} GPUs'


def _one_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _last_line(text: str) -> str:
    return (text.strip() or 'for no reason that Ray gives').splitlines()[-1]
