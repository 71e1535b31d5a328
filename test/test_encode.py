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
"""What is sent of a crop comes back as nearly the same luma."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from ferros.encode import EncodeError, encode, encode_colour
from ferros.types import Codec


def face_like() -> np.ndarray:
    """Return smooth luma over the whole range, [48, 48]."""
    noise = np.random.default_rng(3).random((48, 48)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.asarray(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX), np.float32).astype(
        np.uint8
    )


def read(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE), np.uint8)


@pytest.mark.parametrize(
    ('codec', 'quality', 'most'),
    [(Codec.JPEG, 95, 1.5), (Codec.JPEG, 80, 2.5), (Codec.WEBP, 95, 1.5), (Codec.WEBP, 80, 2.5)],
)
def test_luma_survives(codec: Codec, quality: int, most: float) -> None:
    luma = face_like()
    found = read(encode(luma, codec, quality))
    assert found.shape == luma.shape
    assert np.abs(found.astype(int) - luma).mean() < most


@pytest.mark.parametrize('codec', list(Codec))
def test_the_darkest_and_the_lightest_level_survive(codec: Codec) -> None:
    for level in (0, 255):
        found = read(encode(np.full((48, 48), level, np.uint8), codec, 90))
        assert np.abs(found.astype(int) - level).max() <= 1


@pytest.mark.parametrize('codec', list(Codec))
def test_a_lower_quality_is_smaller(codec: Codec) -> None:
    sizes = [len(encode(face_like(), codec, quality)) for quality in (10, 50, 90)]
    assert sizes == sorted(set(sizes))


def test_the_bytes_are_of_the_codec_that_was_asked_for() -> None:
    assert encode(face_like(), Codec.JPEG, 80).startswith(b'\xff\xd8')
    webp = encode(face_like(), Codec.WEBP, 80)
    assert (webp[:4], webp[8:12]) == (b'RIFF', b'WEBP')


def test_a_jpeg_of_luma_has_one_component() -> None:
    data = encode(face_like(), Codec.JPEG, 80)
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).ndim == 2


def test_a_single_pixel_can_be_sent() -> None:
    for codec in Codec:
        assert read(encode(np.full((1, 1), 130, np.uint8), codec, 90)).shape == (1, 1)


@pytest.mark.parametrize('quality', [0, 101, -5])
def test_a_quality_out_of_range_is_refused(quality: int) -> None:
    with pytest.raises(EncodeError, match=f'quality is {quality}, expected 1 to 100'):
        encode(face_like(), Codec.JPEG, quality)


@pytest.mark.parametrize(
    'luma',
    [
        np.zeros((48, 48, 3), np.uint8),
        np.zeros((48, 48), np.float32),
        np.zeros((0, 48), np.uint8),
    ],
)
def test_what_is_no_luma_is_refused(luma: Any) -> None:
    with pytest.raises(EncodeError, match='luma is'):
        encode(luma, Codec.JPEG, 80)


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(EncodeError, match='codec is 9, expected one of JPEG, WEBP'):
        encode(face_like(), 9, 80)  # type: ignore[arg-type]


def test_more_than_the_codec_can_hold_is_an_error_of_ours() -> None:
    with pytest.raises(EncodeError):
        encode(np.zeros((1, 20000), np.uint8), Codec.WEBP, 80)


def test_a_camera_image_becomes_a_colour_jpeg() -> None:
    image = np.full((20, 30, 3), (200, 60, 20), np.uint8)
    data = np.frombuffer(encode_colour(image, 95), np.uint8)
    assert np.abs(cv2.imdecode(data, cv2.IMREAD_COLOR).astype(int) - image).max() <= 3
