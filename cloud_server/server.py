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
"""One server process: start-up, serving, shutdown."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cloud_server import engine as engines
from cloud_server import sealed_state
from cloud_server.address import bracketed
from cloud_server.config import ConfigError, ServerConfig, is_loopback
from cloud_server.credentials import CredentialsError, server_credentials
from cloud_server.engine import Engine, EngineError
from cloud_server.identity import Authenticator
from cloud_server.metrics import Metrics
from cloud_server.metrics_endpoint import MetricsError
from cloud_server.model_info import ModelError, ModelInfo
from cloud_server.sealed_state import StateKeyError, StateSealer
from cloud_server.service import Parts, RecognitionService
from cloud_server.shared_port import WorkersError
from cloud_server.tokens import TokenFileError
from ferros_proto import recognition_pb2_grpc

SERVICE_NAME = 'ferros.v1.Recognition'
MAX_MESSAGE_BYTES = 262_144
# For calls that are not ours to drain, such as a watch on the health.
LAST_GRACE_S = 0.5
# A connection without a handshake, of TLS or HTTP/2, keeps a descriptor no longer.
HANDSHAKE_TIMEOUT_MS = 10_000
# Longer than any drain takes; it ends when the drain does.
LONGEST_GRACE_S = 3600.0
# One Ctrl-C reaches a server under a launcher twice: from the terminal and from the launcher.
SAME_SIGNAL_S = 1.0

log = logging.getLogger(__name__)


class BindError(OSError):
    """The address cannot be listened on."""


# What an operator has to mend; said in a line each and not as a traceback.
EXPLAINED = (
    ConfigError, CredentialsError, TokenFileError, StateKeyError, ModelError, EngineError,
    BindError, MetricsError, WorkersError,
)


class Running(NamedTuple):
    """A server that listens."""

    server: Any
    service: RecognitionService
    health: Any
    metrics: Metrics
    # HOST:PORT with the real port.
    address: str
    # HOST:PORT of the metrics; empty: there are none.
    metrics_address: str
    # It shares its port with other processes, which take the robots when it stops.
    reuse_port: bool


def check(config: ServerConfig) -> None:
    """Read every file that the settings name and compute once; raises what serving would."""
    server_credentials(config)
    Authenticator(config)
    _state_keys(config)
    if config.engine == 'ray':
        # The cluster may not run yet; the model is what can be checked here.
        ModelInfo.load(config.model)
    else:
        load_engine(config).close()


async def serve(
    config: ServerConfig,
    engine: Engine,
    *,
    reuse_port: bool = False,
    ready: Callable[[Running], None] | None = None,
    state_key: bytes | None = None,
) -> None:
    """
    Serve until SIGTERM or SIGINT; the signals are taken before the address is announced.

    Args:
        config: the settings; `workers` is for the process above this one.
        engine: what computes; it is the caller's to close.
        reuse_port: share the port with other processes of this user.
        ready: called once it listens; None: the address is printed.
        state_key: seals the states of faces where no state_key_file is set; None: a new one.

    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = _Signals(stop)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, signals.on_signal, signal_number)
    loop.add_signal_handler(
        signal.SIGHUP, log.warning, 'SIGHUP: one process cannot replace itself; see --workers'
    )
    running = await startup(config, engine, reuse_port=reuse_port, state_key=state_key)
    # What is there now stays: to look through it again and again would only hold up the streams.
    gc.collect()
    gc.freeze()
    (ready or partial(_announce, config, engine))(running)
    await stop.wait()
    if not await shutdown(running):
        log.error('the model does not come back from its last batch; the process ends without it')
        logging.shutdown()
        # Python would wait for the thread that computes.
        os._exit(1)


async def startup(
    config: ServerConfig,
    engine: Engine,
    *,
    reuse_port: bool = False,
    state_key: bytes | None = None,
) -> Running:
    """
    Listen.

    Raises:
        BindError: if the address cannot be had.
        CredentialsError, TokenFileError, StateKeyError: a file is missing or wrong.

    """
    credentials = server_credentials(config)
    keys = _state_keys(config) or (state_key or sealed_state.new_key(),)
    sealer = StateSealer(keys, config.state_ttl_s)
    metrics = Metrics(config, engine.info.display, engine.device)
    server = grpc.aio.server(options=_options(config, reuse_port))
    service = RecognitionService(Parts(engine, Authenticator(config), sealer, metrics), config)
    recognition_pb2_grpc.add_RecognitionServicer_to_server(  # type: ignore[no-untyped-call]
        service, server
    )
    health_servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    if config.reflection:
        _add_reflection(server)
    host = bracketed(config.host)
    try:
        port = _bind(server, f'{host}:{config.port}', credentials)
        metrics_address = ''
        if config.metrics_port >= 0:
            metrics_address = metrics.start(config.metrics_host, config.metrics_port)
        await server.start()
    except BaseException:
        await service.close()
        metrics.stop()
        raise
    for name in ('', SERVICE_NAME):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    address = f'{host}:{port}'
    return Running(
        server, service, health_servicer, metrics, address, metrics_address, reuse_port
    )


async def shutdown(running: Running) -> bool:
    """Say so, send the robots away with their answers, stop; False where the model hangs."""
    log.info('shutting down')
    await running.health.enter_graceful_shutdown()
    closing = None
    if running.reuse_port:
        # Whoever connects from now on is for the other processes; the streams go on.
        closing = asyncio.create_task(running.server.stop(LONGEST_GRACE_S))
    await running.service.drain()
    await running.server.stop(LAST_GRACE_S)
    if closing is not None:
        await closing
    is_done = await running.service.close()
    running.metrics.stop()
    return is_done


def load_engine(config: ServerConfig) -> Engine:
    """Load the engine of the settings; raises ModelError and EngineError."""
    import cv2

    # The batches are the parallelism; OpenCV's own threads would only compete with them.
    cv2.setNumThreads(1)
    return engines.load(config)


def _state_keys(config: ServerConfig) -> tuple[bytes, ...]:
    path = config.state_key_file
    return () if path is None else sealed_state.read_state_keys(path)


def _bind(server: Any, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        port = (
            server.add_insecure_port(address)
            if credentials is None
            else server.add_secure_port(address, credentials)
        )
    except RuntimeError:
        port = 0
    if port == 0:
        raise BindError(
            f'cannot listen on {address}: it is in use, or no address of this machine'
        )
    return int(port)


def _add_reflection(server: Any) -> None:
    from grpc_reflection.v1alpha import reflection

    names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)


def _announce(config: ServerConfig, engine: Engine, running: Running) -> None:
    print(f'listening on {running.address}', flush=True)
    print(f'model {engine.info.display} on {engine.device} ({engine.kind})', flush=True)
    if running.metrics_address:
        print(f'metrics on http://{running.metrics_address}/metrics', flush=True)
    warn_of_exposure(config)


def warn_of_exposure(config: ServerConfig) -> None:
    """Say what others on the network may do."""
    if not is_loopback(config.host):
        if config.tls_cert_file is None:
            what = 'faces' if config.token_file is None else 'faces and tokens'
            log.warning('other machines connect without encryption: %s can be read', what)
        if config.tls_client_ca_file is None and config.token_file is None:
            log.warning(
                'whoever reaches this port may use it: set tls_client_ca_file or token_file'
            )


class _Signals:
    """The first signal begins the shutdown; one that comes well after it cuts it short."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._first_s = math.inf

    def on_signal(self, signal_number: int) -> None:
        now_s = time.monotonic()
        if now_s - self._first_s > SAME_SIGNAL_S:
            os._exit(128 + signal_number)
        if not self._stop.is_set():
            self._stop.set()
            self._first_s = now_s


def _options(config: ServerConfig, reuse_port: bool) -> list[tuple[str, int]]:
    return [
        ('grpc.max_receive_message_length', MAX_MESSAGE_BYTES),
        ('grpc.max_concurrent_streams', 8),
        ('grpc.server_handshake_timeout_ms', HANDSHAKE_TIMEOUT_MS),
        # Robots send images, which do not get smaller; older versions of gRPC inflate a bomb
        # before they find it too large.
        ('grpc.per_message_decompression', 0),
        ('grpc.keepalive_time_ms', 20_000),
        ('grpc.keepalive_timeout_ms', 10_000),
        ('grpc.http2.min_ping_interval_without_data_ms', 10_000),
        # Its default lets a robot park megabytes of frames here that are stale when they are read.
        ('grpc.http2.bdp_probe', 0),
        ('grpc.max_connection_age_ms', config.max_connection_age_s * 1000),
        ('grpc.max_connection_age_grace_ms', 60_000),
        # Two servers on one port share the robots at random instead of failing: only if meant.
        ('grpc.so_reuseport', int(reuse_port)),
    ]
