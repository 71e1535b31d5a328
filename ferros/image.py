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
From a ROS image message to an array.

`decode` reads raw messages, `decode_compressed` JPEG and PNG, `decode_reduced` the luma of these,
smaller where that will do. None needs ROS: the fields of
sensor_msgs/Image and sensor_msgs/CompressedImage are read by name, whatever holds them. A message
that cannot be an image raises `BadImage`, whose reason is one of `REASONS` and never anything
else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ferros.types import Image

# A ROS message or a thing with the same fields.
Message = Any

# Short and stable: they are the keys that dropped images are counted under.
REASONS: Final = (
    # A field is missing or of the wrong kind, or the compressed data are no JPEG or PNG.
    'not_an_image',
    'zero_size',
    'unknown_encoding',
    # The encoding shares colour between neighbouring pixels and the size does not divide.
    'odd_size',
    # The step disagrees with the width, or the data with step x height.
    'wrong_step',
    'truncated',
    'too_large',
)

# A compressed image of more pixels is refused before it is decoded: 33 million, 100 MB of BGR.
MAX_PIXELS: Final = 1 << 25


class BadImage(ValueError):  # noqa: N818 - it names the image, and is read as `except BadImage`
    """
    A message that cannot be turned into an image.

    reason: one of REASONS, to count by.
    detail: the offending values and what was expected, for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f'{reason}: {detail}')
        self.reason = reason
        self.detail = detail


class _Packed(NamedTuple):
    """An encoding whose pixels lie one after the other, each with all its channels."""

    bits: int
    channels: int
    # The cv2.cvtColor code that leads to BGR; None where the pixels are luma or BGR already.
    to_bgr: int | None = None
    # Pixels of a row that share colour, so that the width has to be a multiple.
    group: int = 1


class _SemiPlanar(NamedTuple):
    """A plane of luma, and below it one of half the height with both chromas interleaved."""

    to_bgr: int


# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first row's
# first two.
_BAYER: Final = {
    'rggb': cv2.COLOR_BayerBG2BGR,
    'bggr': cv2.COLOR_BayerRG2BGR,
    'gbrg': cv2.COLOR_BayerGR2BGR,
    'grbg': cv2.COLOR_BayerGB2BGR,
}

_UYVY: Final = _Packed(8, 2, cv2.COLOR_YUV2BGR_UYVY, group=2)
_YUYV: Final = _Packed(8, 2, cv2.COLOR_YUV2BGR_YUY2, group=2)

_ENCODINGS: Final[dict[str, _Packed | _SemiPlanar]] = {
    'mono8': _Packed(8, 1),
    'bgr8': _Packed(8, 3),
    'rgb8': _Packed(8, 3, cv2.COLOR_RGB2BGR),
    'bgra8': _Packed(8, 4, cv2.COLOR_BGRA2BGR),
    'rgba8': _Packed(8, 4, cv2.COLOR_RGBA2BGR),
    # 16 bits are taken for their full range, as cv_bridge does: 65535 becomes 255. A stretch that
    # follows each image's own brightest pixel would flicker.
    'mono16': _Packed(16, 1),
    'bgr16': _Packed(16, 3),
    'rgb16': _Packed(16, 3, cv2.COLOR_RGB2BGR),
    'bgra16': _Packed(16, 4, cv2.COLOR_BGRA2BGR),
    'rgba16': _Packed(16, 4, cv2.COLOR_RGBA2BGR),
    # The encodings without a meaning are read as OpenCV orders channels.
    '8UC1': _Packed(8, 1),
    '8UC3': _Packed(8, 3),
    '8UC4': _Packed(8, 4, cv2.COLOR_BGRA2BGR),
    '16UC1': _Packed(16, 1),
    '16UC3': _Packed(16, 3),
    '16UC4': _Packed(16, 4, cv2.COLOR_BGRA2BGR),
    'uyvy': _UYVY,
    'yuv422': _UYVY,
    'yuyv': _YUYV,
    'yuv422_yuy2': _YUYV,
    'nv12': _SemiPlanar(cv2.COLOR_YUV2BGR_NV12),
    'nv21': _SemiPlanar(cv2.COLOR_YUV2BGR_NV21),
    **{f'bayer_{order}8': _Packed(8, 1, code) for order, code in _BAYER.items()},
    **{f'bayer_{order}16': _Packed(16, 1, code) for order, code in _BAYER.items()},
}


def decode(message: Message, convert: Callable[[Message], Image] | None = None) -> Image:
    """
    Return a sensor_msgs/Image as uint8, [height, width] luma or [height, width, 3] BGR.

    The result is a view of the message's data where the encoding allows it (mono8, bgr8, 8UC1,
    8UC3), so it lives as long as they do. The step (padded rows) and the endianness are honoured.
    16 bits are scaled to 8.

    convert: asked for encodings that are not known here, with the message; cv_bridge can stand
    behind it.

    Raises:
        BadImage: the message is no image.

    """
    height, width, step = (_count(message, name) for name in ('height', 'width', 'step'))
    encoding = _field(message, 'encoding')
    if not isinstance(encoding, str):
        raise BadImage('not_an_image', f'encoding is {encoding!r}, expected a string')
    data = _as_bytes(_field(message, 'data'))
    if height == 0 or width == 0:
        raise BadImage('zero_size', f'the image is {width}x{height}')
    layout = _ENCODINGS.get(encoding)
    if layout is None:
        return _convert_unknown(message, (height, width), convert)
    if isinstance(layout, _SemiPlanar):
        return _decode_semi_planar(data, height, width, step, encoding, layout)
    return _decode_packed(
        data, height, width, step, encoding, layout, bool(_field(message, 'is_bigendian'))
    )


def _field(message: Message, name: str) -> Message:
    try:
        return getattr(message, name)
    except AttributeError:
        raise BadImage('not_an_image', f'{type(message).__name__} has no field {name!r}') from None


def _count(message: Message, name: str) -> int:
    value = _field(message, name)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise BadImage('not_an_image', f'{name} is {value!r}, expected a whole number from 0')
    return int(value)


def _as_bytes(data: Message) -> NDArray[np.uint8]:
    """Return a view of the data, which rclpy gives as array.array and rosbags as an array."""
    try:
        view = memoryview(data)
        # An empty view can be neither cast nor wrapped.
        return np.frombuffer(view.cast('B'), np.uint8) if view.nbytes else np.empty(0, np.uint8)
    except (TypeError, ValueError) as err:
        raise BadImage('not_an_image', f'data are {type(data).__name__}, expected bytes') from err


def _convert_unknown(
    message: Message, size: tuple[int, int], convert: Callable[[Message], Image] | None
) -> Image:
    encoding = message.encoding
    if convert is None:
        raise BadImage(
            'unknown_encoding', f'{encoding!r}, known are {", ".join(sorted(_ENCODINGS))}'
        )
    try:
        image = np.asarray(convert(message))
    except (
        Exception
    ) as err:  # Whatever a foreign converter raises, the image is what cannot be read.
        raise BadImage(
            'unknown_encoding', f'{encoding!r}, and the converter failed: {err!r}'
        ) from err
    if image.dtype != np.uint8 or image.shape not in (size, (*size, 3)):
        raise BadImage(
            'unknown_encoding',
            f'{encoding!r}, and the converter gave {image.dtype} {image.shape}, '
            f'expected uint8 {size} or {(*size, 3)}',
        )
    return image


def _decode_packed(
    data: NDArray[np.uint8],
    height: int,
    width: int,
    step: int,
    encoding: str,
    layout: _Packed,
    big_endian: bool,
) -> Image:
    if width % layout.group:
        raise BadImage(
            'odd_size', f'{encoding} needs a width that divides by {layout.group}, got {width}'
        )
    item_bytes = layout.bits // 8
    _check_size(data.size, step, height, width * layout.channels * item_bytes, encoding)
    shape: tuple[int, ...] = (height, width)
    strides: tuple[int, ...] = (step, item_bytes)
    if layout.channels > 1:
        shape = (*shape, layout.channels)
        strides = (step, layout.channels * item_bytes, item_bytes)
    dtype = np.dtype(np.uint8) if layout.bits == 8 else np.dtype('>u2' if big_endian else '<u2')
    view: NDArray[np.uint8] = np.ndarray(shape, dtype, data, strides=strides)
    pixels = view if layout.bits == 8 else _to_eight_bits(view)
    return pixels if layout.to_bgr is None else _to_bgr(pixels, layout.to_bgr)


def _decode_semi_planar(
    data: NDArray[np.uint8], height: int, width: int, step: int, encoding: str, layout: _SemiPlanar
) -> Image:
    if height % 2 or width % 2:
        raise BadImage(
            'odd_size', f'{encoding} needs an even width and height, got {width}x{height}'
        )
    rows = height * 3 // 2
    _check_size(data.size, step, rows, width, encoding)
    planes: NDArray[np.uint8] = np.ndarray((rows, width), np.uint8, data, strides=(step, 1))
    return _to_bgr(planes, layout.to_bgr)


def _check_size(data_bytes: int, step: int, rows: int, row_bytes: int, encoding: str) -> None:
    """Compare the header with itself and the data: step x rows bytes, no fewer, no more."""
    if step < row_bytes:
        raise BadImage('wrong_step', f'step {step}, a row of {encoding} has {row_bytes} bytes')
    expected_bytes = step * rows
    if data_bytes == expected_bytes:
        return
    detail = f'{data_bytes} bytes of data, expected step {step} x {rows} rows = {expected_bytes}'
    # Too many, or just what rows without padding would need: then it is the step that is wrong.
    if data_bytes > expected_bytes or data_bytes == row_bytes * rows:
        raise BadImage('wrong_step', detail)
    raise BadImage('truncated', detail)


def _to_eight_bits(pixels: NDArray[np.uint8]) -> Image:
    return (pixels >> 8).astype(np.uint8)


def _to_bgr(pixels: NDArray[np.uint8], code: int) -> Image:
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8)


def decode_compressed(message: Message, max_pixels: int = MAX_PIXELS) -> Image:
    """
    Return a sensor_msgs/CompressedImage, a JPEG or PNG, as an array.

    The result is uint8, [height, width] luma or [height, width, 3] BGR.

    The size is read from the header first, so that a small message cannot ask for much memory. An
    orientation written in EXIF is not followed: image_transport does not follow it either, and a
    roi would lie elsewhere.

    max_pixels: height x width above which the image is refused.

    Raises:
        BadImage: the message is no image.

    """
    data, kind, size_px = _open_compressed(message, max_pixels)
    return _decompress(data, kind, size_px, cv2.IMREAD_ANYCOLOR)


class Decoded(NamedTuple):
    """The luma of an image that may have been decoded smaller than it is."""

    # uint8 [height, width].
    luma: Image
    # How many times smaller luma is than the image, each way.
    reduction: int
    # Width and height of the image itself.
    size_px: tuple[int, int]


def decode_reduced(
    message: Message, choose: Callable[[int, int], int], max_pixels: int = MAX_PIXELS
) -> Decoded:
    """
    Return the luma of a sensor_msgs/CompressedImage, smaller than it is where that will do.

    It is the luma that decode_compressed and a conversion would give, but the chroma is never
    decoded, and of a JPEG that is wanted smaller only what the smaller one needs. A PNG has to be
    decoded whole and stays whole. What is said of the size and of EXIF there holds here too.

    choose: asked with the image's width and height for the reduction, 1, 2, 4 or 8. max_pixels: of
    the image itself.

    Raises:
        BadImage: the message is no image.
        ValueError: choose gave anything else.

    """
    data, kind, size_px = _open_compressed(message, max_pixels)
    if data[:2].tobytes() != _JPEG_START:
        image = _decompress(data, kind, size_px, cv2.IMREAD_ANYCOLOR)
        return Decoded(
            image if image.ndim == 2 else _to_bgr(image, cv2.COLOR_BGR2GRAY), 1, size_px
        )
    reduction = choose(*size_px)
    if reduction not in _GREY:
        raise ValueError(f'the reduction is {reduction!r}, expected one of 1, 2, 4, 8')
    return Decoded(
        _decompress(data, kind, size_px, _GREY[reduction], reduction), reduction, size_px
    )


# How OpenCV is asked for luma, by how many times smaller it is to be.
_GREY: Final = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_JPEG_START: Final = b'\xff\xd8'


def _open_compressed(
    message: Message, max_pixels: int
) -> tuple[NDArray[np.uint8], str, tuple[int, int]]:
    """Return a message's data, its format and the width and height in the data's header."""
    data = _as_bytes(_field(message, 'data'))
    kind = str(_field(message, 'format'))
    if 'compressedDepth' in kind:
        raise BadImage('unknown_encoding', f'{kind!r} holds depth, expected jpeg or png')
    width, height = _header_size(data.tobytes(), kind)
    if height == 0 or width == 0:
        raise BadImage('zero_size', f'the image is {width}x{height}')
    if height * width > max_pixels:
        raise BadImage(
            'too_large', f'the image is {width}x{height}, the limit is {max_pixels} pixels'
        )
    return data, kind, (width, height)


def _decompress(
    data: NDArray[np.uint8], kind: str, size_px: tuple[int, int], how: int, reduction: int = 1
) -> Image:
    # Rounded up, as libjpeg does.
    width, height = (-(-length // reduction) for length in size_px)
    try:
        image = cv2.imdecode(data, how | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as err:
        raise BadImage('not_an_image', f'{kind!r} of {data.size} bytes: {err}') from err
    # OpenCV answers with nothing where it cannot decode; its type stubs do not say so.
    if image is None or image.shape[:2] != (height, width):
        raise BadImage('not_an_image', f'{kind!r} of {data.size} bytes cannot be decoded')
    return np.asarray(image, np.uint8)


def _header_size(data: bytes, kind: str) -> tuple[int, int]:
    """Return (width, height) in pixels as a complete JPEG's or PNG's header has it."""
    if not data:
        raise BadImage('zero_size', 'the message holds no data')
    if data.startswith(b'\x89PNG\r\n\x1a\n'):
        return _png_size(data)
    if data.startswith(_JPEG_START):
        return _jpeg_size(data)
    raise BadImage(
        'not_an_image',
        f'{kind!r} of {len(data)} bytes begins with {data[:8]!r}, expected JPEG or PNG',
    )


def _png_size(data: bytes) -> tuple[int, int]:
    # The signature of 8 bytes, then the IHDR chunk: its length, its name, width and height (PNG,
    # 11.2.2).
    if len(data) < 24 or b'IEND' not in data[-64:]:
        raise BadImage('truncated', f'a PNG of {len(data)} bytes without its end')
    width, height = struct.unpack_from('>II', data, 16)
    return width, height


# The markers that start a frame header, by whatever coding process (ITU-T T.81, table B.1).
_JPEG_FRAME: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers that stand alone, with no segment after them: TEM, RST0 to RST7, SOI.
_JPEG_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            raise BadImage(
                'not_an_image', f'byte {at} of the JPEG is {data[at]:#04x}, expected a marker'
            )
        marker = data[at + 1]
        if marker == 0xFF:  # Fill bytes may precede a marker.
            at += 1
        elif marker in _JPEG_ALONE:
            at += 2
        elif marker in _JPEG_FRAME:
            # OpenCV before 4.7 fills what is missing with grey instead of refusing.
            if data.rfind(b'\xff\xd9') < at:
                raise BadImage('truncated', f'a JPEG of {len(data)} bytes without its end')
            height, width = struct.unpack_from('>HH', data, at + 5)
            return width, height
        else:
            at += 2 + struct.unpack_from('>H', data, at + 2)[0]
    raise BadImage('truncated', f'a JPEG of {len(data)} bytes without a frame header')
