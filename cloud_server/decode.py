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
From the bytes of one face crop to its luma, without trusting them.

The sizes are read from the image's header before a decoder sees the bytes, so that a small file
which claims to be huge costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

# A progressive JPEG of few bytes may ask for thousands of passes over all its pixels; encoders
# write about 10.
MAX_JPEG_SCANS = 32
# A file of nothing but tiny segments must not keep the reader busy.
MAX_JPEG_SEGMENTS = 1000

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
# Within a scan, FF 00 is a data byte and FF D0..D7 is a restart; any other FF xx ends the scan.
_SCAN_END = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')


class ImageError(ValueError):
    """
    An image that is not decoded.

    ImageError
    +-- BadImageError       not an image, or not of the codec that was named
    +-- ImageLimitError     too many bytes or pixels
    """


class BadImageError(ImageError):
    """Not an image, truncated, not square, or not of the codec that was named."""


class ImageLimitError(ImageError):
    """More bytes or pixels than are accepted."""


class ImageLimits(NamedTuple):
    """What an image may cost at most."""

    max_bytes: int
    # Width x height.
    max_pixels: int


def decode(data: bytes, codec: str, limits: ImageLimits) -> NDArray[np.uint8]:
    """
    Decode a square face crop to its luma.

    Args:
        data: a JPEG or WebP file.
        codec: 'jpeg' or 'webp', what the sender says it is.
        limits: checked before anything is decoded.

    Returns:
        uint8 [side, side]; orientation marks are ignored.

    Raises:
        BadImageError: if it is not a whole square image of that codec.
        ImageLimitError: if it is over a limit.

    """
    if len(data) > limits.max_bytes:
        raise ImageLimitError(f'image of {len(data)} bytes, at most {limits.max_bytes}')
    width, height = read_size(data, codec)
    if width * height > limits.max_pixels:
        raise ImageLimitError(f'image of {width}x{height} pixels, at most {limits.max_pixels}')
    if width != height:
        raise BadImageError(f'image of {width}x{height} pixels, expected a square')
    luma = _decoded(data)
    if luma is None or luma.shape != (height, width):
        raise BadImageError(f'{codec} image that cannot be decoded')
    return luma


def read_size(data: bytes, codec: str) -> tuple[int, int]:
    """
    Read width and height in pixels from an image's header.

    Raises:
        BadImageError: if the bytes are not a whole file of that codec.

    """
    if codec not in _READERS:
        raise BadImageError('codec is not named; jpeg and webp are accepted')
    if not data:
        raise BadImageError('image is empty')
    try:
        width, height = _READERS[codec](data)
    except IndexError as error:
        raise BadImageError(f'{codec} image is truncated') from error
    if width < 1 or height < 1:
        raise BadImageError(f'{codec} image of {width}x{height} pixels')
    return width, height


def jpeg_size(data: bytes) -> tuple[int, int]:
    """
    Walk a JPEG's markers to the end of the image; return width and height in pixels.

    Raises:
        BadImageError: if it is no JPEG, lacks its header or has too many scans.
        IndexError: if it ends before its end marker.

    """
    if data[:2] != b'\xff\xd8':
        raise BadImageError('not a JPEG image')
    size: tuple[int, int] | None = None
    at, scans = 2, 0
    for _ in range(MAX_JPEG_SEGMENTS):
        while data[at] == data[at + 1] == 0xFF:  # a fill byte
            at += 1
        marker = data[at + 1]
        if data[at] != 0xFF:
            raise BadImageError('JPEG image without a marker where one belongs')
        if marker == _END_OF_IMAGE:
            if size is None or scans == 0:
                raise BadImageError('JPEG image without a frame or a scan')
            return size
        if marker in _START_OF_FRAME and size is None:
            size = (_big_endian(data, at + 7), _big_endian(data, at + 5))
        at += 2 + max(2, _big_endian(data, at + 2))
        if marker == _START_OF_SCAN:
            scans += 1
            scan_end = _SCAN_END.search(data, at)
            if scan_end is None:
                raise IndexError
            at = scan_end.start()
            if scans > MAX_JPEG_SCANS:
                break
    raise BadImageError(
        f'JPEG image of more than {MAX_JPEG_SCANS} scans or {MAX_JPEG_SEGMENTS} segments'
    )


def webp_size(data: bytes) -> tuple[int, int]:
    """
    Read the header of a still WebP image; return width and height in pixels.

    Raises:
        BadImageError: if it is no WebP, or an animation.
        IndexError: if it is shorter than it says.

    """
    if data[:4] != b'RIFF' or data[8:12] != b'WEBP':
        raise BadImageError('not a WebP image')
    if len(data) < 8 + int.from_bytes(data[4:8], 'little') or len(data) < 30:
        raise IndexError
    chunk, body = data[12:16], data[20:30]
    if chunk == b'VP8 ' and body[3:6] == b'\x9d\x01\x2a':
        return (
            int.from_bytes(body[6:8], 'little') & 0x3FFF,
            int.from_bytes(body[8:10], 'little') & 0x3FFF,
        )
    if chunk == b'VP8L' and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], 'little')
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b'VP8X':
        if body[0] & 0x02:
            raise BadImageError('animated WebP image')
        return int.from_bytes(body[4:7], 'little') + 1, int.from_bytes(body[7:10], 'little') + 1
    raise BadImageError('WebP image without an image header')


def _big_endian(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _decoded(data: bytes) -> NDArray[np.uint8] | None:
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)  # type: ignore[return-value]
    except cv2.error:
        return None


_READERS: dict[str, Callable[[bytes], tuple[int, int]]] = {'jpeg': jpeg_size, 'webp': webp_size}
