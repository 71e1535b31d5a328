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
How long the node's executor is held up while images of 1280x720 px come in, 30 a second.

The node runs on its executor as `ferros.node.main` runs it; on the same executor a timer of this
file's is due every 5 ms. How much later than that it comes is how long something else was in the
way: a callback of the node's, or the taking of an image, or the machine.

    python -m bench.robot.executor_block [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.robot import scenes
from demo import processes

PERIOD_MS = 5.0
RATE_HZ = 30.0
TRANSPORTS = ('raw', 'compressed')
# Discovery, the first detections and the connection to the server.
SETTLE_S = 3.0
START_S = 20.0


def measure(seconds: float = 12.0) -> dict[str, Any]:
    """Return per transport how late the timer came, in ms, and how many images were seen."""
    with processes.own_domain() as domain_id, tempfile.TemporaryDirectory() as folder:
        environment = processes.environment(domain_id)
        image = Path(folder) / 'image.png'
        cv2.imwrite(str(image), next(iter(scenes.render(scenes.MOVING))).image)
        log = Path(folder) / 'log'
        with processes.server(log, environment) as (address, _):
            rows = {
                name: _one(name, seconds, address, image, Path(folder), environment)
                for name in TRANSPORTS
            }
    return {'rows': rows, 'p99_ms': max(row['p99_ms'] for row in rows.values())}


def _one(
    transport: str,
    seconds: float,
    address: str,
    image: Path,
    folder: Path,
    environment: dict[str, str],
) -> dict[str, float]:
    result, log = folder / f'{transport}.json', folder / f'{transport}.log'
    command = [
        sys.executable,
        '-m',
        'bench.robot.executor_block',
        '--transport',
        transport,
        '--address',
        address,
        '--seconds',
        str(seconds),
        '--result',
        str(result),
    ]
    camera = ['--rate-hz', str(RATE_HZ), '--transport', transport, '--loop']
    with (
        processes.player(str(image), folder / 'camera.log', environment, *camera),
        processes.process(command, log, environment) as child,
    ):
        child.wait(START_S + SETTLE_S + seconds)
    if not result.exists():
        raise RuntimeError(f'the node was not measured:\n{log.read_text(errors="replace")}')
    row: dict[str, float] = json.loads(result.read_text())
    return row


def _run(transport: str, address: str, seconds: float) -> dict[str, float]:
    """Run the node in this process and return what the timer beside it noticed."""
    import rclpy
    from rclpy.clock import Clock, ClockType
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.lifecycle import TransitionCallbackReturn
    from rclpy.node import Node
    from rclpy.parameter import Parameter

    from ferros.node import EmotionNode

    cv2.setNumThreads(1)
    rclpy.init()
    values = {
        'server_address': address,
        'image_transport': transport,
        # Best effort loses most of the raw images of this size on the way.
        'qos_overrides./image.subscription.reliability': 'reliable',
    }
    node = EmotionNode(parameter_overrides=[Parameter(k, value=v) for k, v in values.items()])
    probe = Node('probe')
    ticks_ns: list[int] = []
    probe.create_timer(
        PERIOD_MS / 1000,
        lambda: ticks_ns.append(time.monotonic_ns()),
        clock=Clock(clock_type=ClockType.STEADY_TIME),
    )
    for trigger in (node.trigger_configure, node.trigger_activate):
        if trigger() != TransitionCallbackReturn.SUCCESS:
            raise RuntimeError('the node did not start')
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.add_node(probe)
    threading.Thread(target=executor.spin, name='executor', daemon=True).start()
    time.sleep(SETTLE_S)
    ticks_ns.clear()
    before = node.processed_images
    time.sleep(seconds)
    taken = np.array(ticks_ns)
    images = node.processed_images - before
    executor.shutdown(2.0)
    node.close()
    late_ms = np.maximum(0.0, np.diff(taken) / 1e6 - PERIOD_MS)
    return {
        'p50_ms': float(np.percentile(late_ms, 50)),
        'p99_ms': float(np.percentile(late_ms, 99)),
        'max_ms': float(late_ms.max()),
        'ticks': len(taken),
        'images_per_s': images / seconds,
    }


def main() -> int:
    """Measure, or be the process that is measured."""
    parser = argparse.ArgumentParser(prog='python -m bench.robot.executor_block')
    parser.add_argument('--quick', action='store_true')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures there')
    parser.add_argument('--transport', choices=TRANSPORTS)
    parser.add_argument('--address')
    parser.add_argument('--seconds', type=float, default=12.0)
    parser.add_argument('--result', type=Path)
    args = parser.parse_args()
    if args.transport:
        args.result.write_text(json.dumps(_run(args.transport, args.address, args.seconds)))
    else:
        text = json.dumps(measure(4.0 if args.quick else args.seconds), indent=2)
        print(text)
        if args.json is not None:
            args.json.write_text(text + '\n', encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
