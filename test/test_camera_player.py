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
"""camera_player plays sources on a real ROS graph, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='camera_player needs ROS')

from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from demo import processes  # noqa: E402
from ferros.camera_player import (  # noqa: E402
    PlayerConfig,
    parse_arguments,
    to_compressed,
    to_image,
)
from ferros.frame_source import SourceFrame  # noqa: E402
from ferros.image import decode, decode_compressed  # noqa: E402

END_S = 40.0


@pytest.fixture(scope='module')
def domain() -> Iterator[int]:
    with processes.own_domain() as domain_id:
        yield domain_id


class Listener:
    """Hears one image topic."""

    def __init__(self, domain_id: int, kind: Any, topic: str, reliable: bool = True) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self._node = rclpy.create_node('listener', context=self._context)
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self.heard: list[tuple[float, Any]] = []
        quality = rclpy.qos.QoSProfile(
            depth=50,
            reliability=rclpy.qos.ReliabilityPolicy.RELIABLE
            if reliable
            else rclpy.qos.ReliabilityPolicy.BEST_EFFORT,
        )
        self._node.create_subscription(
            kind, topic, lambda message: self.heard.append((time.monotonic(), message)), quality
        )

    def listen_until(self, done: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + END_S
        while not done():
            assert time.monotonic() < deadline_s, 'the player did not end'
            self._executor.spin_once(timeout_sec=0.05)
        for _ in range(20):  # What is still on its way.
            self._executor.spin_once(timeout_sec=0.01)

    def now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture
def listen(domain: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Listener]]:
    for name, value in processes.environment(domain).items():
        monkeypatch.setenv(name, value)
    listeners: list[Listener] = []

    def make(kind: Any, topic: str, **settings: Any) -> Listener:
        listeners.append(Listener(domain, kind, topic, **settings))
        return listeners[-1]

    yield make
    for listener in listeners:
        listener.close()


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start the player in the domain of the listener."""
    return subprocess.Popen(
        [sys.executable, '-m', 'ferros.camera_player', *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def play(listener: Listener, *arguments: str) -> str:
    """Play to the end and return what the player printed."""
    with start(*arguments) as player:
        listener.listen_until(lambda: player.poll() is not None)
        assert player.stdout is not None
        output = player.stdout.read()
    assert player.returncode == 0, output
    return output


def stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec)


@pytest.fixture(scope='module')
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of 15 images at 10 fps, each lighter than the one before."""
    path = tmp_path_factory.mktemp('video') / 'video.mp4'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 10, (64, 48))
    for index in range(15):
        writer.write(np.full((48, 64, 3), 15 * index, np.uint8))
    writer.release()
    return path


def test_a_video_is_played_raw_in_its_own_time(
    listen: Callable[..., Listener], video: Path
) -> None:
    listener = listen(Image, 'image')
    began_ns = listener.now_ns()
    output = play(listener, str(video))
    messages = [message for _, message in listener.heard]
    assert len(messages) == 15
    assert [decode(message).mean() for message in messages] == pytest.approx(
        [15 * index for index in range(15)], abs=4
    )
    assert {message.header.frame_id for message in messages} == {'camera'}
    stamps_ns = [stamp_ns(message) for message in messages]
    assert began_ns < stamps_ns[0] < stamps_ns[-1] < listener.now_ns()
    # The clip lasts 1.4 s from its first image to its last, whatever the machine is doing.
    assert 1.35 < (stamps_ns[-1] - stamps_ns[0]) / 1e9 < 3.0
    assert output.count('\n') == 2, output
    assert f'video {video}, 64x48, 10 fps, raw on /image' in output
    assert 'done: 15 images in ' in output


def test_parameters_work_like_arguments_and_topics_can_be_remapped(
    listen: Callable[..., Listener], video: Path
) -> None:
    listener = listen(CompressedImage, '/front/eye/compressed', reliable=False)
    settings = {
        'source': str(video),
        'transport': 'compressed',
        'max_seconds': '1',  # A whole number where a fraction may stand.
        'frame_id': 'optical',
        'reliable': 'false',
    }
    words = [word for item in settings.items() for word in ('-p', ':='.join(item))]
    play(listener, '--ros-args', *words, '-r', '__ns:=/front', '-r', 'image:=eye')
    messages = [message for _, message in listener.heard]
    assert 8 <= len(messages) <= 10  # Best effort may lose some.
    assert {message.header.frame_id for message in messages} == {'optical'}
    assert {message.format for message in messages} == {'jpeg'}
    assert all(decode_compressed(message).shape == (48, 64, 3) for message in messages)


def test_an_image_is_repeated_at_its_rate_until_the_time_is_over(
    listen: Callable[..., Listener], tmp_path: Path
) -> None:
    grey = np.arange(48 * 64, dtype=np.uint32).reshape(48, 64).astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'grey.png'), grey)
    listener = listen(Image, 'image')
    play(listener, str(tmp_path / 'grey.png'), '--rate-hz', '20', '--max-seconds', '0.5')
    assert len(listener.heard) == 10
    assert all(np.array_equal(decode(message), grey) for _, message in listener.heard)
    stamps = [stamp_ns(message) for _, message in listener.heard]
    assert stamps == sorted(set(stamps))


def test_a_bag_is_played_with_its_own_stamps_or_with_new_ones(
    listen: Callable[..., Listener], tmp_path: Path
) -> None:
    from test_frame_source import BagWriter

    data = bytes(cv2.imencode('.jpg', np.full((48, 64, 3), 90, np.uint8))[1])
    writer = BagWriter(tmp_path / 'bag')
    recorded_ms = [5000, 5200, 5600]
    for at_ms in recorded_ms:
        writer.add_jpeg('/image', at_ms * 1_000_000, data, at_ms * 1_000_000 - 1)
    writer.close()
    listener = listen(CompressedImage, 'image/compressed')
    play(listener, str(tmp_path / 'bag'), '--transport', 'compressed')
    original = [message for _, message in listener.heard]
    assert [stamp_ns(message) for message in original] == [
        at_ms * 1_000_000 - 1 for at_ms in recorded_ms
    ]
    assert {message.header.frame_id for message in original} == {'optical'}
    assert all(message.data.tobytes() == data for message in original)
    assert listener.heard[2][0] - listener.heard[0][0] > 0.5
    began_ns = listener.now_ns()
    play(
        listener,
        str(tmp_path / 'bag'),
        '--transport',
        'compressed',
        '--stamps',
        'now',
        '--frame-id',
        'mine',
    )
    renewed = [message for _, message in listener.heard[3:]]
    assert len(renewed) == 3
    assert all(stamp_ns(message) > began_ns for message in renewed)
    assert {message.header.frame_id for message in renewed} == {'mine'}


def test_it_plays_faster_and_makes_the_clock_of_the_stamps(
    listen: Callable[..., Listener], tmp_path: Path
) -> None:
    from test_frame_source import BagWriter

    data = bytes(cv2.imencode('.jpg', np.full((48, 64, 3), 90, np.uint8))[1])
    writer = BagWriter(tmp_path / 'bag')
    stamps_ns = [5_000_000_000 + index * 200_000_000 for index in range(6)]
    for at_ns in stamps_ns:
        writer.add_jpeg('/image', at_ns, data, at_ns)
    writer.close()
    clock = listen(Clock, '/clock')
    output = play(
        clock, str(tmp_path / 'bag'), '--speed', '5', '--clock',
        '--wait-timeout-s', '1',
    )
    times_ns = [message.clock.sec * 1_000_000_000 + message.clock.nanosec
                for _, message in clock.heard]
    assert times_ns == stamps_ns
    # A second of the bag.
    assert 0.15 < clock.heard[-1][0] - clock.heard[0][0] < 0.8, output


def test_it_waits_for_a_subscriber_but_not_for_ever(
    listen: Callable[..., Listener], video: Path
) -> None:
    with start(str(video), '--wait-timeout-s', '0.3', '--max-seconds', '0.2') as player:
        output = player.communicate(timeout=END_S)[0]
    assert player.returncode == 0
    assert 'nobody listens to /image' in output
    assert 'done: 2 images' in output


def test_it_is_stopped_by_sigint_with_a_last_line(
    listen: Callable[..., Listener], video: Path
) -> None:
    listener = listen(Image, 'image')
    with start(str(video), '--loop') as player:
        listener.listen_until(lambda: len(listener.heard) > 16)  # It began anew once.
        player.send_signal(2)
        output = player.communicate(timeout=END_S)[0]
    assert player.returncode == 0, output
    assert 'done: ' in output
    assert 'Traceback' not in output


@pytest.mark.usefixtures('listen')
@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        (['/nowhere.mp4'], 'camera_player: source /nowhere.mp4 does not exist'),
        ([], 'camera_player: no source'),
        (['--ros-args', '-p', 'source:=61'], 'camera_player: camera 61 cannot be opened'),
        (
            ['x.mp4', '--transport', 'h264'],
            "camera_player: transport is 'h264', expected raw or compressed",
        ),
        (
            ['x.mp4', '--ros-args', '-p', 'loop:=3'],
            'camera_player: loop is 3, expected true or false',
        ),
    ],
)
def test_what_cannot_be_played_is_one_line_and_exit_status_2(
    arguments: list[str], line: str
) -> None:
    with start(*arguments) as player:
        output = player.communicate(timeout=END_S)[0]
    assert player.returncode == 2, output
    ours = [text for text in output.splitlines() if not text.startswith('[')]  # OpenCV's own.
    assert len(ours) == 1, output
    assert ours[0].startswith(line)


@pytest.mark.parametrize('shape', [(48, 64), (48, 64, 3)])
def test_the_messages_can_be_read_back(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(decode(to_image(SourceFrame(0, image))), image)
    assert decode_compressed(to_compressed(SourceFrame(0, image), 90)).shape == shape


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('speed', 0.0, 'above 0, at most 100'),
        ('jpeg_quality', 0, '1 to 100'),
        ('jpeg_quality', 5.5, 'a whole number'),
        ('rate_hz', 0.0, 'above 0'),
        ('max_seconds', -1.0, '0 or more'),
        ('stamps', 'old', 'auto, now or original'),
        ('reliable', 'yes', 'true or false'),
        ('rate_hz', True, 'a number'),
    ],
)
def test_a_setting_that_is_no_good_is_named_with_what_was_expected(
    name: str, value: Any, expected: str
) -> None:
    with pytest.raises(ValueError, match=f'{name} is {value!r}, expected {expected}'):
        PlayerConfig(**{name: value})


def test_every_parameter_is_an_argument() -> None:
    found = parse_arguments(
        ['a.mp4', '--transport', 'compressed', '--loop', '--no-reliable', '--max-seconds', '5']
    )
    assert found == PlayerConfig(
        source='a.mp4', transport='compressed', loop=True, reliable=False, max_seconds=5.0
    )
