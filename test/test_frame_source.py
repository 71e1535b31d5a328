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
"""The sources of camera_player give the right images at the right times."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ferros.frame_source import (
    BagSource,
    SourceError,
    SourceFrame,
    open_source,
    repeat,
)

MS = 1_000_000


def picture(level: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), level, np.uint8)


@pytest.fixture(scope='module')
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of ten images at 25 fps, each lighter than the one before."""
    path = tmp_path_factory.mktemp('video') / 'ten.mp4'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 25, (64, 48))
    for index in range(10):
        writer.write(picture(20 * index))
    writer.release()
    return path


def test_a_video_comes_at_the_times_of_its_container(video: Path) -> None:
    found = list(open_source(str(video)).frames())
    assert [frame.time_s for frame in found] == pytest.approx([0.04 * i for i in range(10)])
    levels = [float(frame.image.mean()) for frame in found]
    assert levels == pytest.approx([20 * index for index in range(10)], abs=4)


def test_a_video_can_be_played_again(video: Path) -> None:
    source = open_source(str(video))
    assert len(list(source.frames())) == len(list(source.frames())) == 10


def test_the_description_says_what_it_is(video: Path) -> None:
    assert open_source(str(video)).description == f'video {video}, 64x48, 25 fps'


@pytest.mark.parametrize('extension', ['png', 'jpg', 'bmp'])
def test_an_image_is_repeated_at_the_rate(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f'one.{extension}'
    cv2.imwrite(str(path), picture(90))
    source = open_source(str(path), rate_hz=5)
    first = list(itertools.islice(source.frames(), 4))
    assert [frame.time_s for frame in first] == pytest.approx([0, 0.2, 0.4, 0.6])
    assert all(np.array_equal(frame.image, picture(90)) for frame in first)


def test_a_grey_image_stays_grey(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / 'grey.png'), picture(90)[:, :, 0])
    (frame,) = itertools.islice(open_source(str(tmp_path / 'grey.png')).frames(), 1)
    assert frame.image.shape == (48, 64)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SourceError, match=r'source /nowhere\.mp4 does not exist'):
        open_source('/nowhere.mp4')


def test_no_source_is_said() -> None:
    with pytest.raises(SourceError, match='no source'):
        open_source('')


@pytest.mark.parametrize(
    ('name', 'content', 'reason'),
    [
        ('empty.mp4', b'', 'is empty'),
        ('text.mp4', b'no video at all' * 10, 'neither an image nor a video'),
        ('cut.png', b'\x89PNG\r\n\x1a\n' + bytes(50), 'damaged|neither'),
        ('part.db3', b'SQLite format 3', 'name its folder'),
    ],
)
def test_a_file_that_cannot_be_played_is_named_with_the_reason(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=reason) as caught:
        open_source(str(tmp_path / name))
    assert name in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(SourceError, match='camera 63 cannot be opened'):
        open_source('63')


def test_a_folder_that_is_no_bag_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r'no rosbag2 folder'):
        open_source(str(tmp_path))


class Fixed:
    """A source of images at given times."""

    description, live = 'fixed', False

    def __init__(self, *times_s: float) -> None:
        self._times_s = times_s
        self.skipped: Counter[str] = Counter()

    def frames(self) -> Iterator[SourceFrame]:
        for time_s in self._times_s:
            yield SourceFrame(time_s, picture(0))


def times_of(frames: Iterator[SourceFrame], most: int = 100) -> list[float]:
    return [frame.time_s for frame in itertools.islice(frames, most)]


def test_without_loop_a_source_is_played_once() -> None:
    assert times_of(repeat(Fixed(0, 0.1, 0.2), False, 0)) == [0, 0.1, 0.2]


def test_with_loop_it_goes_on_at_its_own_rhythm() -> None:
    found = times_of(repeat(Fixed(0, 0.1, 0.2), True, 0), 7)
    assert found == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


def test_it_ends_after_the_time_given() -> None:
    assert times_of(repeat(Fixed(0, 0.1, 0.2), True, 0.45)) == pytest.approx(
        [0, 0.1, 0.2, 0.3, 0.4]
    )
    assert times_of(repeat(Fixed(0, 0.1, 0.2), False, 0.15)) == [0, 0.1]


def test_an_empty_source_is_not_repeated_for_ever() -> None:
    assert times_of(repeat(Fixed(), True, 0)) == []


class BagWriter:
    """Writes image messages into a rosbag2."""

    def __init__(self, folder: Path, storage: str = 'sqlite3') -> None:
        rosbag2 = pytest.importorskip('rosbags.rosbag2', reason='bags need the rosbags library')
        typesys = pytest.importorskip('rosbags.typesys')
        plugin = {
            'sqlite3': rosbag2.StoragePlugin.SQLITE3,
            'mcap': rosbag2.StoragePlugin.MCAP,
        }[storage]
        self._store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
        self._writer = rosbag2.Writer(folder, version=9, storage_plugin=plugin)
        self._writer.open()
        self._connections: dict[str, Any] = {}

    def add(self, topic: str, kind: str, recorded_ns: int, **values: Any) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._store
            )
        message = self._store.types[kind](**values)
        self._writer.write(
            self._connections[topic], recorded_ns, self._store.serialize_cdr(message, kind)
        )

    def header(self, stamp_ns: int, frame_id: str = 'optical') -> Any:
        types = self._store.types
        stamp = types['builtin_interfaces/msg/Time'](
            sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000
        )
        return types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame_id)

    def add_image(
        self, topic: str, recorded_ns: int, image: np.ndarray, stamp_ns: int, cut: int = 0
    ) -> None:
        data = image.reshape(-1)
        self.add(
            topic,
            'sensor_msgs/msg/Image',
            recorded_ns,
            header=self.header(stamp_ns),
            height=image.shape[0],
            width=image.shape[1],
            encoding='rgb8',
            is_bigendian=0,
            step=image.shape[1] * 3,
            data=data[: len(data) - cut],
        )

    def add_jpeg(self, topic: str, recorded_ns: int, data: bytes, stamp_ns: int) -> None:
        self.add(
            topic,
            'sensor_msgs/msg/CompressedImage',
            recorded_ns,
            header=self.header(stamp_ns),
            format='jpeg',
            data=np.frombuffer(data, np.uint8),
        )

    def close(self) -> None:
        self._writer.close()


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_a_bag_keeps_its_spacing_its_stamps_and_its_colours(tmp_path: Path, storage: str) -> None:
    writer = BagWriter(tmp_path / 'bag', storage)
    red = np.full((4, 6, 3), (200, 0, 0), np.uint8)
    recorded_ms = [1000, 1040, 1300]
    for at_ms in recorded_ms:
        writer.add_image('/camera/image', at_ms * MS, red, (at_ms - 7) * MS)
    writer.close()
    source = open_source(str(tmp_path / 'bag'))
    found = list(source.frames())
    assert [frame.time_s for frame in found] == pytest.approx([0, 0.04, 0.3])
    assert [frame.stamp_ns for frame in found] == [(at_ms - 7) * MS for at_ms in recorded_ms]
    assert found[0].frame_id == 'optical'
    assert found[0].image[0, 0].tolist() == [0, 0, 200]
    assert '/camera/image, 3 images' in source.description


def test_compressed_images_of_a_bag_keep_their_very_bytes(tmp_path: Path) -> None:
    data = bytes(cv2.imencode('.jpg', picture(90))[1])
    writer = BagWriter(tmp_path / 'bag')
    writer.add_jpeg('/image/compressed', 5 * MS, data, 3 * MS)
    writer.close()
    (frame,) = open_source(str(tmp_path / 'bag')).frames()
    assert (frame.compressed, frame.compressed_format) == (data, 'jpeg')
    assert frame.image.shape == (48, 64, 3)


def test_of_several_topics_the_fullest_is_played_or_the_one_that_is_named(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / 'bag')
    for index in range(3):
        writer.add_image('/many', index * MS, picture(1), 0)
    writer.add_image('/few', 9 * MS, picture(2), 0)
    writer.close()
    assert len(list(open_source(str(tmp_path / 'bag')).frames())) == 3
    (frame,) = open_source(str(tmp_path / 'bag'), bag_topic='/few').frames()
    assert frame.image[0, 0, 0] == 2
    with pytest.raises(SourceError, match='no images on /none, but on /many, /few'):
        BagSource(tmp_path / 'bag', '/none')


def test_a_damaged_image_of_a_bag_is_counted_and_left_out(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / 'bag')
    for index, cut in enumerate([0, 5, 0]):
        writer.add_image('/image', index * MS, picture(1), 0, cut)
    writer.close()
    source = open_source(str(tmp_path / 'bag'))
    assert len(list(source.frames())) == 2
    assert source.skipped == {'truncated': 1}


def test_a_bag_without_images_is_named(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / 'bag')
    writer.add('/chatter', 'std_msgs/msg/String', 0, data='hello')
    writer.close()
    with pytest.raises(SourceError, match='has no topic of images'):
        open_source(str(tmp_path / 'bag'))


def test_a_damaged_bag_is_named(tmp_path: Path) -> None:
    pytest.importorskip('rosbags', reason='bags need the rosbags library')
    (tmp_path / 'metadata.yaml').write_text('nothing: true\n')
    with pytest.raises(SourceError, match='cannot be read'):
        open_source(str(tmp_path))
