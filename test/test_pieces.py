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
"""Searching an image piece by piece misses no place and no size."""

from __future__ import annotations

import itertools
import random

import pytest

from ferros.pieces import View, haar_pieces, tiles, yunet_pieces
from ferros.types import Box


def covers(region: Box, face: Box) -> bool:
    return (
        region.x <= face.x + 1e-6
        and region.y <= face.y + 1e-6
        and face.x + face.width <= region.x + region.width + 1e-6
        and face.y + face.height <= region.y + region.height + 1e-6
    )


@pytest.mark.parametrize(
    'size_px', [(1280, 720), (640, 480), (720, 1280), (1920, 1080), (320, 240)]
)
def test_every_face_lies_whole_in_a_piece_that_looks_for_its_size(
    size_px: tuple[int, int],
) -> None:
    width_px, height_px = size_px
    pieces = haar_pieces(width_px, height_px, 480, View.FRONT)
    source = random.Random(1)
    smallest_px = 24 * max(1.0, max(size_px) / 480)
    for _ in range(500):
        side = source.uniform(smallest_px, min(size_px))
        face = Box(
            source.uniform(0, width_px - side), source.uniform(0, height_px - side), side, side
        )
        assert any(
            covers(piece.region, face) and piece.smallest_px <= side <= piece.largest_px
            for piece in pieces
        ), face


def test_no_piece_costs_much_more_than_another_that_is_cut() -> None:
    for view in View:
        pieces = haar_pieces(1280, 720, 480 if view is View.FRONT else 288, view)
        assert max(piece.work for piece in pieces) < 3.5
        assert {piece.view for piece in pieces} == {view}


def test_large_faces_are_looked_for_first_and_in_smaller_images() -> None:
    pieces = haar_pieces(1280, 720, 480, View.FRONT)
    assert [piece.scale for piece in pieces] == sorted(piece.scale for piece in pieces)
    assert pieces[-1].scale == pytest.approx(0.375)
    assert pieces[-1].smallest_px == pytest.approx(64)
    # In px of the detector every piece looks for the same sizes.
    assert {round(piece.smallest_px * piece.scale) for piece in pieces} == {24}
    assert {round(piece.largest_px * piece.scale) for piece in pieces} == {48}


def test_an_image_is_never_enlarged_for_the_search() -> None:
    assert max(piece.scale for piece in haar_pieces(200, 150, 480, View.FRONT)) == 1.0
    (piece,) = yunet_pieces(200, 150, 320)
    assert piece.scale == 1.0


def test_yunet_sees_all_sizes_in_one_piece() -> None:
    (piece,) = yunet_pieces(1280, 720, 320)
    assert piece.region == Box(0, 0, 1280, 720)
    assert piece.scale == 0.25


@pytest.mark.parametrize('size_px', [(0, 0), (1, 1), (3000, 1), (20, 20)])
def test_where_no_face_fits_there_are_no_pieces(size_px: tuple[int, int]) -> None:
    assert haar_pieces(*size_px, 480, View.FRONT) == []


@pytest.mark.parametrize('size_px', [(900, 300), (300, 900)])
def test_tiles_are_equal_overlap_and_end_with_the_image(size_px: tuple[int, int]) -> None:
    found = tiles(*size_px, overlap_px=60, max_area_px=70_000)
    assert len(found) == 4
    along = [
        (box.x, box.width) if size_px[0] > size_px[1] else (box.y, box.height) for box in found
    ]
    assert along[0][0] == 0
    assert sum(along[-1]) == pytest.approx(900)
    for (start, length), (following, _) in itertools.pairwise(along):
        assert start + length - following == pytest.approx(60)


def test_tiles_do_not_become_mere_overlap() -> None:
    assert len(tiles(900, 300, overlap_px=200, max_area_px=1000)) == 2
    assert tiles(900, 300, overlap_px=600, max_area_px=1000) == [Box(0, 0, 900, 300)]
