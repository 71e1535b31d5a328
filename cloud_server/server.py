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
"""The server process: start-up, serving, shutdown. Behind `ferros-cloud serve`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import signal
import sys
import time
from typing import Any, NamedTuple

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cloud_server import config as settings
from cloud_server.config import ConfigError, ServerConfig
from cloud_server.engine import Engine
from cloud_server.model_info import ModelError
from cloud_server.service import RecognitionService
from ferros_proto import recognition_pb2_grpc

SERVICE_NAME = 'ferros.v1.Recognition'
MAX_MESSAGE_BYTES = 262_144
# For calls that are not ours to drain, such as a watch on the health.
LAST_GRACE_S = 0.5
# One Ctrl-C reaches a server under a launcher twice: from the terminal and from the launcher.
SAME_SIGNAL_S = 1.0

log = logging.getLogger(__name__)


class BindError(OSError):
    """The address cannot be listened on."""


class Running(NamedTuple):
    """A server that listens."""

    server: Any
    service: RecognitionService
    health: Any
    # HOST:PORT with the real port.
    address: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `ferros-cloud serve`."""
    settings.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes; return the exit status."""
    try:
        config = settings.from_arguments(args, os.environ)
        logging.basicConfig(
            level=config.log_level.upper(), format='%(asctime)s %(levelname)s %(message)s'
        )
        engine = _load_engine(config)
        asyncio.run(serve(config, engine))
    except (ConfigError, ModelError, BindError) as error:
        for line in str(error).splitlines():
            print(f'ferros-cloud serve: {line}', file=sys.stderr)
        return 2
    return 0


async def serve(config: ServerConfig, engine: Engine) -> None:
    """Serve until SIGTERM or SIGINT; the signals are taken before the address is announced."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = _Signals(stop)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, signals.on_signal, signal_number)
    running = await startup(config, engine)
    print(f'listening on {running.address}', flush=True)
    print(f'model {engine.info.display} on {engine.device} ({engine.kind})', flush=True)
    await stop.wait()
    await shutdown(running)


async def startup(config: ServerConfig, engine: Engine) -> Running:
    """
    Listen.

    Raises:
        BindError: if the address cannot be had.

    """
    server = grpc.aio.server(options=_options(config))
    service = RecognitionService(engine, config)
    recognition_pb2_grpc.add_RecognitionServicer_to_server(  # type: ignore[no-untyped-call]
        service, server
    )
    health_servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    host = f'[{config.host}]' if ':' in config.host else config.host
    try:
        port = server.add_insecure_port(f'{host}:{config.port}')
    except RuntimeError:
        port = 0
    if port == 0:
        await service.close()
        raise BindError(
            f'cannot listen on {host}:{config.port}: it is in use, or no address of this machine'
        )
    await server.start()
    for name in ('', SERVICE_NAME):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    return Running(server, service, health_servicer, f'{host}:{port}')


async def shutdown(running: Running) -> None:
    """Say so, send the robots away with their answers, and stop."""
    log.info('shutting down')
    await running.health.enter_graceful_shutdown()
    await running.service.drain()
    await running.server.stop(LAST_GRACE_S)
    await running.service.close()


def _load_engine(config: ServerConfig) -> Engine:
    import cv2

    from cloud_server.engine.onnx import OnnxEngine

    # The batches are the parallelism; OpenCV's own threads would only compete with them.
    cv2.setNumThreads(1)
    return OnnxEngine(config.model, config.threads, config.precision)


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


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    return [
        ('grpc.max_receive_message_length', MAX_MESSAGE_BYTES),
        ('grpc.max_concurrent_streams', 8),
        ('grpc.keepalive_time_ms', 20_000),
        ('grpc.keepalive_timeout_ms', 10_000),
        ('grpc.http2.min_ping_interval_without_data_ms', 10_000),
        # Its default lets a robot park megabytes of frames here that are stale when they are read.
        ('grpc.http2.bdp_probe', 0),
        ('grpc.max_connection_age_ms', config.max_connection_age_s * 1000),
        ('grpc.max_connection_age_grace_ms', 60_000),
        # Two servers on one port would share the robots at random instead of failing.
        ('grpc.so_reuseport', 0),
    ]
