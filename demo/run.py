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
"""The demo: real camera images through the real node and the real server, in one command."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from demo import clip, picture, processes, video
from demo.recorder import Heard, Recorder, recorder

OUT = processes.ROOT / 'out'
LOGS = ('server', 'node', 'player')
CAMERA_S = 20.0
IMAGE_S = 5.0
CONNECT_S = 30.0
# For the answers that are still on their way when the clip ends.
LAST_ANSWERS_S = 1.0
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
SOURCES = ('NONE', 'CLOUD', 'ROBOT')


def main(arguments: list[str]) -> int:
    """Run the demo on a source (none: the clip of its own); return the exit code."""
    started_s = float(os.environ.get('FERROS_STARTED_S') or time.time())
    OUT.mkdir(exist_ok=True)
    try:
        source, limit_s = _source(arguments[0] if arguments else '')
    except (FileNotFoundError, ValueError) as error:
        print(f'demo: {error}', file=sys.stderr)
        return 2
    logs = {name: OUT / f'demo_{name}.log' for name in LOGS}
    for log in logs.values():
        log.write_bytes(b'')
    try:
        record = _play(source, limit_s, logs)
    except (RuntimeError, KeyboardInterrupt) as error:
        print(f'demo: {str(error) or "interrupted"}', file=sys.stderr)
        return 1
    summary = summarise(record, started_s)
    (OUT / 'demo.json').write_text(json.dumps(summary, indent=1) + '\n', encoding='utf-8')
    if record.images:
        print('writing out/demo.mp4 and out/demo.png')
        video.write(OUT / 'demo.mp4', record.images, record.arrays)
        picture.write(
            OUT / 'demo.png', record.images, record.arrays, record.emotions, summary
        )
    return _conclude(summary, logs)


def _source(text: str) -> tuple[str, float]:
    """Return the source for the player and for how long it plays at most (0: to its end)."""
    if not text:
        path = OUT / 'demo_clip.mp4'
        print('rendering the clip: a portrait that moves, comes near and leaves')
        clip.render(path)
        return str(path), 0.0
    if text.isdigit():
        return text, CAMERA_S
    if not Path(text).exists():
        raise FileNotFoundError(f'{text} was not found: expected a video, an image, the number '
                                'of a camera or a rosbag2 folder')
    return text, IMAGE_S if Path(text).suffix.lower() in IMAGE_SUFFIXES else 0.0


def _play(source: str, limit_s: float, logs: dict[str, Path]) -> Recorder:
    """Play the source through server and node; return what was heard."""
    limit = ['--max-seconds', str(limit_s)] if limit_s else []
    with contextlib.ExitStack() as stack:
        domain_id = stack.enter_context(processes.own_domain())
        environment = processes.environment(domain_id)
        address, _ = stack.enter_context(processes.server(logs['server'], environment))
        print(f'server listening on {address}; ROS domain {domain_id}')
        heard = stack.enter_context(recorder(domain_id, with_images=True))
        child = stack.enter_context(
            processes.node(
                logs['node'],
                environment,
                server_address=address,
                image_transport='compressed',
                **{'qos_overrides./image/compressed.subscription.reliability': 'reliable'},
            )
        )
        connected = heard.wait_until(
            lambda: heard.is_connected() or child.poll() is not None, CONNECT_S
        )
        if not connected or child.poll() is not None:
            raise RuntimeError(f'the node did not connect:\n{_tail(logs["node"])}')
        print(f'node connected, {heard.diagnostic("link")["model"]}; playing {source}')
        # The node and the recorder.
        arguments = ['--transport', 'compressed', '--wait-for-subscribers', '2', *limit]
        with processes.player(source, logs['player'], environment, *arguments) as camera:
            _watch(heard, camera)
        if camera.returncode:
            raise RuntimeError(f'the camera failed:\n{_tail(logs["player"])}')
        return heard


def _watch(heard: Recorder, camera: subprocess.Popen[bytes]) -> None:
    """Print a line a second until the camera has ended and the last answers are in."""
    began_s = next_s = time.monotonic()
    while camera.poll() is None:
        time.sleep(0.05)
        if time.monotonic() >= next_s:
            print(_line(heard, time.monotonic() - began_s), flush=True)
            next_s += 1.0
    time.sleep(LAST_ANSWERS_S)


def _line(heard: Recorder, elapsed_s: float) -> str:
    if not heard.emotions:
        return f'{elapsed_s:5.1f} s  no message yet'
    message = heard.emotions[-1].message
    rate = f'{len([h for h in heard.emotions if h.at_s > time.monotonic() - 1])} messages/s'
    if not message.face_detected:
        return f'{elapsed_s:5.1f} s  no face                                     {rate}'
    bar = '#' * round(20 * message.confidence)
    sent = float(heard.diagnostic('link').get('acknowledged_bytes_per_s', 'nan'))
    return (
        f'{elapsed_s:5.1f} s  {message.label:<10} {message.confidence:4.2f} {bar:<20}  '
        f'{SOURCES[message.source]:<5}  {_age_ms(message):4.0f} ms  {sent / 1000:4.1f} kB/s  '
        f'{rate}'
    )


def summarise(heard: Recorder, started_s: float) -> dict[str, object]:
    """Return what out/demo.json holds; started_s is when the command was given (epoch)."""
    ages_ms = sorted(_age_ms(h.message) for h in heard.emotions if h.message.source)
    labels = [
        {
            'time_s': round(_time_s(h.message.header.stamp) - _origin_s(heard), 3),
            'face_id': h.message.face_id,
            'label': h.message.label,
            'confidence': round(h.message.confidence, 4),
            'source': SOURCES[h.message.source],
        }
        for h in heard.emotions
        if h.message.face_detected
    ]
    first_s = None
    if heard.emotions:
        monotonic_to_epoch_s = time.time() - time.monotonic()
        first_s = round(heard.emotions[0].at_s + monotonic_to_epoch_s - started_s, 2)
    return {
        'messages': len(heard.emotions),
        'first_message_s': first_s,
        'labels': labels,
        'latency_ms': {'p50': _percentile(ages_ms, 50), 'p95': _percentile(ages_ms, 95)},
        'bytes_per_s': _bytes_per_s(heard),
    }


def _bytes_per_s(heard: Recorder) -> float | None:
    """Return what was sent to the server over the time in which there were images."""
    sent = heard.diagnostic('link').get('sent_bytes')
    if sent is None or len(heard.images) < 2:
        return None
    return round(int(sent) / (heard.images[-1].at_s - heard.images[0].at_s), 1)


def _conclude(summary: dict[str, object], logs: dict[str, Path]) -> int:
    """Print the result; return 0 where the cloud answered."""
    labels = summary['labels']
    assert isinstance(labels, list)
    from_cloud = [entry for entry in labels if entry['source'] == 'CLOUD']
    if not from_cloud:
        print('demo: no answer came from the cloud. The end of the logs:', file=sys.stderr)
        for name, log in logs.items():
            print(f'--- {name}\n{_tail(log)}', file=sys.stderr)
        return 1
    most = statistics.mode(entry['label'] for entry in from_cloud)
    latency = summary['latency_ms']
    assert isinstance(latency, dict)
    print(
        f'{summary["messages"]} messages on /emotion, the first after '
        f'{summary["first_message_s"]} s; mostly {most}; age p50 {latency["p50"]} ms, '
        f'p95 {latency["p95"]} ms; {summary["bytes_per_s"]} bytes/s sent\n'
        'see out/demo.mp4, out/demo.png, out/demo.json'
    )
    return 0


def _origin_s(heard: Recorder) -> float:
    first: Heard = (heard.images or heard.emotions)[0]
    return _time_s(first.message.header.stamp)


def _time_s(stamp: Any) -> float:
    return float(stamp.sec + stamp.nanosec / 1e9)


def _age_ms(message: Any) -> float:
    return _time_s(message.age) * 1000


def _percentile(values: list[float], percent: int) -> float | None:
    """Return the nearest-rank percentile of sorted values."""
    if not values:
        return None
    return round(values[min(len(values) - 1, len(values) * percent // 100)], 1)


def _tail(log: Path) -> str:
    return '\n'.join(log.read_text(errors='replace').splitlines()[-15:])


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
