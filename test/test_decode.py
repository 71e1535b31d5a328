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
from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from cloud_server.decode import (
    MAX_JPEG_SCANS,
    BadImageError,
    ImageLimitError,
    ImageLimits,
    decode,
    read_size,
)

LIMITS = ImageLimits(max_bytes=65_536, max_pixels=512 * 512)
EXTENSIONS = {'jpeg': '.jpg', 'webp': '.webp'}


def face(side_px: int = 48) -> np.ndarray:
    rows, columns = np.mgrid[0:side_px, 0:side_px]
    return (127 + 90 * np.sin(rows / 7) * np.cos(columns / 9)).astype(np.uint8)


def encoded(image: np.ndarray, codec: str, *flags: int) -> bytes:
    done, data = cv2.imencode(EXTENSIONS[codec], image, list(flags))
    assert done
    return data.tobytes()


def jpeg_that_claims(width: int, height: int) -> bytes:
    """A real JPEG of 48x48 whose header was changed."""
    data = bytearray(encoded(face(), 'jpeg'))
    at = data.index(b'\xff\xc0')
    data[at + 5 : at + 9] = struct.pack('>HH', height, width)
    return bytes(data)


def webp_that_claims(width: int, height: int) -> bytes:
    data = bytearray(encoded(face(), 'webp', cv2.IMWRITE_WEBP_QUALITY, 80))
    assert data[12:16] == b'VP8 '
    data[26:30] = struct.pack('<HH', width, height)
    return bytes(data)


@pytest.mark.parametrize('codec', ['jpeg', 'webp'])
@pytest.mark.parametrize('side_px', [1, 8, 47, 48, 112, 512])
def test_a_face_comes_back_as_luma_of_its_size(codec, side_px):
    luma = decode(encoded(face(side_px), codec), codec, LIMITS)
    assert (luma.dtype, luma.shape) == (np.uint8, (side_px, side_px))
    assert np.abs(luma.astype(int) - face(side_px)).mean() < 6


def test_colour_is_turned_to_luma_and_lossless_webp_is_exact():
    colour = cv2.cvtColor(face(), cv2.COLOR_GRAY2BGR)
    assert decode(encoded(colour, 'jpeg'), 'jpeg', LIMITS).shape == (48, 48)
    exact = encoded(colour, 'webp', cv2.IMWRITE_WEBP_QUALITY, 101)
    assert exact[12:16] in (b'VP8L', b'VP8X')
    assert np.abs(decode(exact, 'webp', LIMITS).astype(int) - face()).max() <= 1


def test_progressive_and_restarting_jpegs_are_read():
    for flags in ((cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)):
        assert decode(encoded(face(), 'jpeg', *flags), 'jpeg', LIMITS).shape == (48, 48)


@pytest.mark.parametrize(
    ('data', 'codec', 'reason'),
    [
        (b'', 'jpeg', 'empty'),
        (b'', 'webp', 'empty'),
        (b'hello, this is not an image at all', 'jpeg', 'not a JPEG'),
        (b'hello, this is not an image at all', 'webp', 'not a WebP'),
        (encoded(face(), 'webp'), 'jpeg', 'not a JPEG'),
        (encoded(face(), 'jpeg'), 'webp', 'not a WebP'),
        (encoded(face(), 'jpeg'), '', 'codec is not named'),
        (b'\xff\xd8', 'jpeg', 'truncated'),
        (b'\xff\xd8\xff\xd9', 'jpeg', 'without a frame'),
        (b'\xff\xd8' + b'\x00' * 100, 'jpeg', 'without a marker'),
        (b'\xff\xd8' + b'\xff' * 1000, 'jpeg', 'truncated'),
        (b'\xff\xd8' + b'\xff\xe0\x00\x00' * 5000, 'jpeg', 'segments'),
        (jpeg_that_claims(0, 48), 'jpeg', '0x48'),
        (encoded(face()[:, :32], 'jpeg'), 'jpeg', '32x48 pixels, expected a square'),
        (jpeg_that_claims(64, 64)[:300] + b'\xff\xd9', 'jpeg', ''),
    ],
)
def test_what_is_no_whole_square_image_of_its_codec_is_bad(data, codec, reason):
    with pytest.raises(BadImageError, match=reason):
        decode(data, codec, LIMITS)


@pytest.mark.parametrize('codec', ['jpeg', 'webp'])
@pytest.mark.parametrize('kept', [0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_image_is_bad_wherever_it_was_cut(codec, kept):
    data = encoded(face(96), codec)
    with pytest.raises(BadImageError):
        decode(data[: int(kept * len(data))], codec, LIMITS)


@pytest.mark.parametrize(
    ('data', 'codec'),
    [
        (jpeg_that_claims(65_500, 65_500), 'jpeg'),
        (jpeg_that_claims(513, 512), 'jpeg'),
        (webp_that_claims(16_383, 16_383), 'webp'),
    ],
)
def test_a_small_file_that_claims_to_be_huge_never_reaches_a_decoder(data, codec, monkeypatch):
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: pytest.fail('was decoded'))
    with pytest.raises(ImageLimitError, match='pixels, at most 262144'):
        decode(data, codec, LIMITS)


def test_too_many_bytes_are_refused():
    with pytest.raises(ImageLimitError, match='65537 bytes, at most 65536'):
        decode(b'\xff' * 65_537, 'jpeg', LIMITS)


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded(monkeypatch):
    data = encoded(face(), 'jpeg')
    scan = data[data.index(b'\xff\xda') : -2]
    bomb = data[:-2] + MAX_JPEG_SCANS * scan + data[-2:]
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: pytest.fail('was decoded'))
    with pytest.raises(BadImageError, match=f'more than {MAX_JPEG_SCANS} scans'):
        decode(bomb, 'jpeg', ImageLimits(10**9, 10**9))


def test_an_animation_is_bad():
    body = b'VP8X' + struct.pack('<I', 10) + bytes([0x02, 0, 0, 0]) + bytes([47, 0, 0] * 2)
    data = b'RIFF' + struct.pack('<I', len(body) + 4) + b'WEBP' + body
    with pytest.raises(BadImageError, match='animated'):
        decode(data, 'webp', LIMITS)


@pytest.mark.parametrize('codec', ['jpeg', 'webp'])
def test_damaged_bytes_never_raise_anything_but_image_errors(codec):
    good = encoded(face(), codec)
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(good)
        for at in random.integers(0, len(data), 4):
            data[at] = random.integers(0, 256)
        try:
            luma = decode(bytes(data), codec, LIMITS)
        except (BadImageError, ImageLimitError):
            continue
        assert luma.shape[0] == luma.shape[1]


def test_the_size_is_read_without_decoding():
    assert read_size(jpeg_that_claims(640, 480), 'jpeg') == (640, 480)
    assert read_size(webp_that_claims(640, 480), 'webp') == (640, 480)
