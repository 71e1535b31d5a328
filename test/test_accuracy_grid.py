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
"""The accuracy grid as the robot reads it: from a file, and from Welcome."""

from __future__ import annotations

import itertools
from pathlib import Path

import grid_files
import pytest

from ferros import accuracy_grid
from ferros.accuracy_grid import GridError, default_path, find, from_welcome, read
from ferros.types import Codec, GridPoint
from ferros_proto import recognition_pb2 as wire

POINT = GridPoint(24, 0.1, Codec.WEBP, 50, 293, 353, 0.769)


def sent(**changes: object) -> wire.OperatingPoint:
    """Return a point as it comes out of a message."""
    point = wire.OperatingPoint(**{**POINT._asdict(), **changes})
    return wire.OperatingPoint.FromString(point.SerializeToString())


# -- files ---------------------------------------------------------------------------------------


def test_the_grid_that_ships_is_found_and_read(root: Path) -> None:
    path = default_path()
    assert path == root / 'config' / 'operating_points.yaml'
    points = read(path)
    assert len(points) == 126
    assert points[0] == GridPoint(12, 1.0, Codec.WEBP, 20, 185, 202, 0.625)
    assert {point.codec for point in points} == set(Codec)
    by_rate = [point.frame_rate_fps * point.bytes_p50 for point in points]
    assert by_rate == sorted(by_rate)


def test_a_whole_number_will_do_for_a_rate_and_an_accuracy(tmp_path: Path) -> None:
    row = {**grid_files.GOOD, 'frame_rate_fps': 5, 'accuracy': 1}
    (point,) = read(grid_files.write(tmp_path / 'grid.yaml', row))
    assert (point.frame_rate_fps, point.accuracy) == (5.0, 1.0)
    assert isinstance(point.frame_rate_fps, float) and isinstance(point.accuracy, float)


@pytest.mark.parametrize('name', grid_files.WRONG)
def test_a_wrong_point_is_named_with_its_file_its_field_and_its_value(
    name: str, tmp_path: Path
) -> None:
    path = grid_files.write_wrong(tmp_path / 'grid.yaml', name)
    with pytest.raises(GridError) as error:
        read(path)
    for words in (f'{path}: point 2', 'expected', *grid_files.WRONG[name][1]):
        assert words in str(error.value)


@pytest.mark.parametrize('text', grid_files.NO_GRIDS, ids=lambda text: text[:20] or 'empty')
def test_what_is_no_list_of_points_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / 'grid.yaml'
    path.write_text(text)
    with pytest.raises(GridError) as error:
        read(path)
    assert str(path) in str(error.value) and grid_files.NO_GRIDS[text] in str(error.value)
    assert '\n' not in str(error.value)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GridError, match=r'nowhere\.yaml: cannot be read \(No such file'):
        read(tmp_path / 'nowhere.yaml')
    with pytest.raises(GridError, match=r'cannot be read \(Is a directory\)'):
        read(tmp_path)
    (tmp_path / 'grid.yaml').write_bytes(b'\x00\xff\xfe' * 30)
    with pytest.raises(GridError, match='not YAML'):
        read(tmp_path / 'grid.yaml')


def test_no_more_than_512_points_are_read(tmp_path: Path) -> None:
    path = tmp_path / 'grid.yaml'
    assert len(read(grid_files.write(path, *[grid_files.GOOD] * 512))) == 512
    with pytest.raises(GridError, match='more than 512 points'):
        read(grid_files.write(path, *[grid_files.GOOD] * 513))


@pytest.mark.parametrize(
    ('package', 'share'),
    [
        ('install/ferros/lib/python3.10/site-packages', 'install/ferros/share'),
        ('install/lib/python3.10/site-packages', 'install/share'),
        ('usr/local/lib/python3.12/dist-packages', 'usr/local/share'),
        ('usr/local/local/lib/python3.10/dist-packages', 'usr/local/share'),
    ],
    ids=['colcon', 'colcon, merged', 'pip', 'pip on Debian'],
)
def test_an_installation_has_the_grid_in_its_share_folder(
    package: str, share: str, tmp_path: Path
) -> None:
    module = tmp_path / package / 'ferros' / 'accuracy_grid.py'
    with pytest.raises(GridError, match='belongs to ferros but is neither'):
        find(module)
    grid = tmp_path / share / 'ferros' / 'config' / 'operating_points.yaml'
    grid.parent.mkdir(parents=True)
    grid.write_text('a grid')
    assert find(module) == grid


# -- Welcome -------------------------------------------------------------------------------------


def test_what_welcome_brings_is_what_the_file_holds(root: Path) -> None:
    points = read(root / 'config' / 'operating_points.yaml')
    welcome = wire.Welcome(accuracy_grid=[
        wire.OperatingPoint(**point._asdict()) for point in points])
    received = wire.Welcome.FromString(welcome.SerializeToString())
    assert from_welcome(received.accuracy_grid) == points


def test_a_server_that_has_not_measured_brings_no_points() -> None:
    assert from_welcome(wire.Welcome().accuracy_grid) == ()


@pytest.mark.parametrize('rate', [0.1, 29.97, 240.0])
@pytest.mark.parametrize('accuracy', [0.0, 0.1429, 0.85, 1.0])
def test_a_number_of_32_bits_becomes_the_one_that_was_meant(rate: float, accuracy: float) -> None:
    (point,) = from_welcome([sent(frame_rate_fps=rate, accuracy=accuracy)])
    assert point == POINT._replace(frame_rate_fps=rate, accuracy=accuracy)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'face_size_px': 0}, 'face_size_px is 0, expected int 4 to 1,024'),
        ({'face_size_px': 2**32 - 1}, 'face_size_px is 4294967295'),
        ({'frame_rate_fps': float('nan')}, 'frame_rate_fps is nan'),
        ({'frame_rate_fps': float('-inf')}, 'frame_rate_fps is -inf'),
        ({'codec': wire.CODEC_UNSPECIFIED}, "codec is 'number 0', expected jpeg or webp"),
        ({'codec': 77}, "codec is 'number 77'"),
        ({'quality': 0}, 'quality is 0'),
        ({'bytes_p50': 0}, 'bytes_p50 is 0'),
        ({'bytes_p95': 100}, 'bytes_p95 is 100, expected bytes_p50 or more, which is 293'),
        ({'accuracy': 1.5}, 'accuracy is 1.5'),
    ],
)
def test_a_wrong_point_of_a_server_is_named_with_its_field_and_its_value(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(GridError) as error:
        from_welcome([sent(), sent(**changes)])
    assert str(error.value).startswith('Welcome.accuracy_grid: point 2: ')
    assert words in str(error.value)


def test_a_server_that_sends_more_than_it_may_is_not_read_to_the_end() -> None:
    with pytest.raises(GridError, match='bytes, expected 8192 at most'):
        from_welcome([sent()] * 400)
    with pytest.raises(GridError, match='more than 512 points'):
        from_welcome(itertools.repeat(wire.OperatingPoint()))


def test_the_bounds_leave_room_for_the_grid_that_ships(root: Path) -> None:
    points = read(root / 'config' / 'operating_points.yaml')
    assert 2 * len(points) < accuracy_grid.MAX_POINTS
