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
"""Images of every encoding come out right, and what is no image is told apart by its reason."""

from __future__ import annotations

import array
import struct
import types
from typing import Any

import cv2
import numpy as np
import pytest

from ferros.image import (
    MAX_PIXELS,
    REASONS,
    BadImage,
    decode,
    decode_compressed,
    decode_reduced,
)

HEIGHT, WIDTH = 24, 32
# Plain and unlike each other in every channel, so that swapped channels are seen.
COLOURS_BGR = [(200, 60, 20), (30, 180, 90), (40, 70, 220), (128, 128, 128)]


def scene() -> np.ndarray:
    """Return four upright bars of colour, BGR."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for index, colour in enumerate(COLOURS_BGR):
        image[:, index * WIDTH // 4 : (index + 1) * WIDTH // 4] = colour
    return image


def grey_scene() -> np.ndarray:
    return np.arange(HEIGHT * WIDTH, dtype=np.uint32).reshape(HEIGHT, WIDTH).astype(np.uint8)


def yuv_of(bgr: np.ndarray) -> np.ndarray:
    """Return Y, U, V by ITU-R BT.601 in the video range, which cameras deliver."""
    blue, green, red = np.moveaxis(bgr.astype(np.float64) / 255, -1, 0)
    y = 16 + 65.481 * red + 128.553 * green + 24.966 * blue
    u = 128 - 37.797 * red - 74.203 * green + 112.0 * blue
    v = 128 + 112.0 * red - 93.786 * green - 18.214 * blue
    return np.stack([y, u, v], axis=-1).round().astype(np.uint8)


def message(
    rows: np.ndarray,
    encoding: str,
    width: int,
    height: int,
    *,
    padding: int = 0,
    big: bool = False,
) -> Any:
    """Return what a driver would send: rows [rows, bytes], each followed by padding bytes."""
    rows = rows.reshape(len(rows), -1)
    padded = np.concatenate([rows, np.full((len(rows), padding), 0xA5, np.uint8)], axis=1)
    return types.SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(big),
        step=padded.shape[1],
        data=array.array('B', padded.tobytes()),
    )


def eight_bit(encoding: str) -> np.ndarray:
    bgr = scene()
    bgra = np.dstack([bgr, np.full((HEIGHT, WIDTH), 7, np.uint8)])
    return {
        'bgr8': bgr,
        '8UC3': bgr,
        'rgb8': bgr[:, :, ::-1],
        'bgra8': bgra,
        '8UC4': bgra,
        'rgba8': bgra[:, :, [2, 1, 0, 3]],
    }[encoding]


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', ['bgr8', '8UC3', 'rgb8', 'bgra8', '8UC4', 'rgba8'])
def test_colour_of_eight_bits_keeps_every_pixel(encoding: str, padding: int) -> None:
    given = message(eight_bit(encoding), encoding, WIDTH, HEIGHT, padding=padding)
    assert np.array_equal(decode(given), scene())


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_grey_stays_grey(encoding: str, padding: int) -> None:
    given = message(grey_scene(), encoding, WIDTH, HEIGHT, padding=padding)
    assert np.array_equal(decode(given), grey_scene())


@pytest.mark.parametrize('padding', [0, 4, 5])
@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('encoding', ['mono16', '16UC1', 'rgb16', 'bgr16', '16UC3', 'rgba16'])
def test_sixteen_bits_are_scaled_to_eight_in_either_byte_order(
    encoding: str, big: bool, padding: int
) -> None:
    expected = scene() if encoding not in ('mono16', '16UC1') else grey_scene()
    wide = expected.astype(np.uint16) * 256 + 0x5A
    if encoding.startswith('rgb'):
        wide = wide[:, :, ::-1]
    if encoding == 'rgba16':
        wide = np.dstack([wide, np.zeros((HEIGHT, WIDTH), np.uint16)])
    rows = np.ascontiguousarray(wide.astype('>u2' if big else '<u2')).view(np.uint8)
    given = message(rows, encoding, WIDTH, HEIGHT, padding=padding, big=big)
    image = decode(given)
    assert image.dtype == np.uint8
    assert np.array_equal(image, expected)


def test_the_byte_order_does_not_matter_to_eight_bits() -> None:
    given = message(scene(), 'bgr8', WIDTH, HEIGHT, big=True)
    assert np.array_equal(decode(given), scene())


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize(
    ('encoding', 'order'),
    [('uyvy', 'uyvy'), ('yuv422', 'uyvy'), ('yuyv', 'yuyv'), ('yuv422_yuy2', 'yuyv')],
)
def test_yuv_422_gives_the_colours_back(encoding: str, order: str, padding: int) -> None:
    y, u, v = np.moveaxis(yuv_of(scene()), -1, 0)
    rows = np.empty((HEIGHT, WIDTH, 2), np.uint8)
    luma, chroma = (1, 0) if order == 'uyvy' else (0, 1)
    rows[:, :, luma] = y
    rows[:, 0::2, chroma] = u[:, 0::2]
    rows[:, 1::2, chroma] = v[:, 0::2]
    image = decode(message(rows, encoding, WIDTH, HEIGHT, padding=padding))
    assert np.abs(image.astype(int) - scene()).max() <= 4


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', ['nv12', 'nv21'])
def test_a_luma_plane_with_interleaved_chroma_gives_the_colours_back(
    encoding: str, padding: int
) -> None:
    y, u, v = np.moveaxis(yuv_of(scene()), -1, 0)
    first, second = (u, v) if encoding == 'nv12' else (v, u)
    chroma = np.stack([first[::2, ::2], second[::2, ::2]], axis=-1).reshape(HEIGHT // 2, WIDTH)
    image = decode(message(np.concatenate([y, chroma]), encoding, WIDTH, HEIGHT, padding=padding))
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image.astype(int) - scene()).max() <= 4


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('order', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_every_bayer_pattern_gives_the_colours_back(order: str, bits: int) -> None:
    blue, green, red = 200, 60, 20
    level = {'r': red, 'g': green, 'b': blue}
    tile = np.array([level[letter] for letter in order], np.uint16).reshape(2, 2)
    mosaic = np.tile(tile, (HEIGHT // 2, WIDTH // 2))
    if bits == 8:
        rows = mosaic.astype(np.uint8)
    else:
        rows = np.ascontiguousarray((mosaic * 256).astype('<u2')).view(np.uint8)
    image = decode(message(rows, f'bayer_{order}{bits}', WIDTH, HEIGHT))
    assert np.array_equal(image, np.full((HEIGHT, WIDTH, 3), (blue, green, red), np.uint8))


def test_a_view_is_given_where_no_pixel_has_to_change() -> None:
    given = message(scene(), 'bgr8', WIDTH, HEIGHT, padding=3)
    image = decode(given)
    given.data[0] = 99
    assert image[0, 0, 0] == 99


@pytest.mark.parametrize('container', [bytes, bytearray, np.frombuffer, memoryview])
def test_data_may_lie_in_any_buffer(container: Any) -> None:
    given = message(scene(), 'bgr8', WIDTH, HEIGHT)
    raw = given.data.tobytes()
    given.data = container(raw, np.uint8) if container is np.frombuffer else container(raw)
    assert np.array_equal(decode(given), scene())


def bad(**changes: Any) -> Any:
    given = message(scene(), 'bgr8', WIDTH, HEIGHT)
    for name, value in changes.items():
        setattr(given, name, value)
    return given


@pytest.mark.parametrize(
    ('given', 'reason'),
    [
        (bad(encoding='rgb7'), 'unknown_encoding'),
        (bad(encoding=''), 'unknown_encoding'),
        (bad(encoding='16FC1'), 'unknown_encoding'),
        (bad(encoding='32FC1'), 'unknown_encoding'),
        (bad(encoding=None), 'not_an_image'),
        (bad(encoding=['bgr8']), 'not_an_image'),
        (bad(height=0), 'zero_size'),
        (bad(width=0), 'zero_size'),
        (bad(height=0, width=0, step=0, data=b''), 'zero_size'),
        (bad(height=-1), 'not_an_image'),
        (bad(width=None), 'not_an_image'),
        (bad(width=3.0), 'not_an_image'),
        (bad(data=None), 'not_an_image'),
        (bad(data='text'), 'not_an_image'),
        (bad(data=[0] * (HEIGHT * WIDTH * 3)), 'not_an_image'),
        (bad(data=b''), 'truncated'),
        (bad(data=array.array('B')), 'truncated'),
        (bad(data=np.empty(0, np.uint8)), 'truncated'),
        (bad(data=bytes(HEIGHT * WIDTH * 3 - 1)), 'truncated'),
        (bad(height=2**32 - 1, width=2**31, step=3 * 2**31), 'truncated'),
        (bad(data=bytes(HEIGHT * WIDTH * 3 + 1)), 'wrong_step'),
        (bad(step=0), 'wrong_step'),
        (bad(step=WIDTH * 3 - 1), 'wrong_step'),
        (bad(step=WIDTH * 3 + 1), 'wrong_step'),
        (bad(encoding='bgra8'), 'wrong_step'),
        (bad(encoding='uyvy', width=31), 'odd_size'),
        (bad(encoding='nv12', height=23), 'odd_size'),
        (bad(encoding='nv21'), 'truncated'),
        (types.SimpleNamespace(), 'not_an_image'),
        (None, 'not_an_image'),
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(given: Any, reason: str) -> None:
    with pytest.raises(BadImage) as caught:
        decode(given)
    assert caught.value.reason == reason
    assert caught.value.reason in REASONS
    assert caught.value.detail


def test_an_unknown_encoding_is_left_to_the_converter_that_was_passed() -> None:
    given = bad(encoding='strange')
    assert np.array_equal(decode(given, lambda _: scene()), scene())


@pytest.mark.parametrize('answer', [None, np.zeros((3, 3), np.uint8), scene().astype(np.float32)])
def test_a_converter_that_gives_no_image_is_not_believed(answer: Any) -> None:
    with pytest.raises(BadImage) as caught:
        decode(bad(encoding='strange'), lambda _: answer)
    assert caught.value.reason == 'unknown_encoding'


def test_a_converter_that_fails_is_named_in_the_detail() -> None:
    def fail(_: Any) -> np.ndarray:
        raise KeyError('strange')

    with pytest.raises(BadImage, match='KeyError'):
        decode(bad(encoding='strange'), fail)


def file_of(image: np.ndarray, extension: str) -> bytes:
    done, data = cv2.imencode(extension, image)
    assert done
    return bytes(data.tobytes())


def compressed(data: Any, kind: str = 'jpeg') -> Any:
    return types.SimpleNamespace(format=kind, data=data)


def test_a_png_comes_back_pixel_by_pixel() -> None:
    data = array.array('B', file_of(scene(), '.png'))
    assert np.array_equal(decode_compressed(compressed(data, 'bgr8; png compressed ')), scene())


def test_a_jpeg_comes_back_nearly() -> None:
    image = decode_compressed(compressed(file_of(scene(), '.jpg'), 'rgb8; jpeg compressed bgr8'))
    assert image.shape == scene().shape
    assert np.abs(image.astype(int) - scene()).mean() < 6


@pytest.mark.parametrize('extension', ['.png', '.jpg'])
def test_compressed_grey_stays_grey(extension: str) -> None:
    assert decode_compressed(compressed(file_of(grey_scene(), extension))).shape == (HEIGHT, WIDTH)


def test_a_png_of_sixteen_bits_is_scaled_to_eight() -> None:
    data = file_of(grey_scene().astype(np.uint16) * 257, '.png')
    assert np.array_equal(
        decode_compressed(compressed(data, '16UC1; png compressed')), grey_scene()
    )


def test_a_progressive_jpeg_is_read() -> None:
    done, data = cv2.imencode('.jpg', scene(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    assert decode_compressed(compressed(data.tobytes())).shape == scene().shape


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Return the JPEG with an EXIF segment that asks for a turn."""
    tiff = b'II*\0' + struct.pack('<IHHHIHHI', 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b'Exif\0\0' + tiff
    return jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + jpeg[2:]


def test_an_orientation_in_exif_is_not_followed() -> None:
    data = with_orientation(file_of(scene(), '.jpg'), 6)
    turned = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert turned.shape == (WIDTH, HEIGHT, 3), 'OpenCV itself follows it'
    assert decode_compressed(compressed(data)).shape == (HEIGHT, WIDTH, 3)


def resized_in_header(data: bytes, width: int, height: int) -> bytes:
    """Return a PNG or JPEG that claims another size."""
    if data.startswith(b'\x89PNG'):
        return data[:16] + struct.pack('>II', width, height) + data[24:]
    frame = data.index(b'\xff\xc0')
    return data[: frame + 5] + struct.pack('>HH', height, width) + data[frame + 9 :]


JPEG, PNG = file_of(scene(), '.jpg'), file_of(scene(), '.png')


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (b'', 'zero_size'),
        (None, 'not_an_image'),
        (b'no image at all', 'not_an_image'),
        (b'\xff\xd8' + b'abc' * 50, 'not_an_image'),
        (b'\xff\xd8\xff', 'truncated'),
        (JPEG[: len(JPEG) // 2], 'truncated'),
        (JPEG[:-2], 'truncated'),
        (JPEG[:40], 'truncated'),
        (PNG[: len(PNG) // 2], 'truncated'),
        (PNG[:20], 'truncated'),
        (resized_in_header(PNG, 0, 10), 'zero_size'),
        (resized_in_header(JPEG, 10, 0), 'zero_size'),
        (resized_in_header(PNG, 60000, 60000), 'too_large'),
        (resized_in_header(JPEG, 60000, 60000), 'too_large'),
        (PNG[:40] + b'\0' * 20 + PNG[60:], 'not_an_image'),
    ],
)
def test_what_is_no_compressed_image_is_refused_with_its_reason(data: Any, reason: str) -> None:
    with pytest.raises(BadImage) as caught:
        decode_compressed(compressed(data))
    assert caught.value.reason == reason
    assert caught.value.reason in REASONS


def test_compressed_depth_is_refused() -> None:
    with pytest.raises(BadImage) as caught:
        decode_compressed(compressed(bytes(12) + PNG, '16UC1; compressedDepth png'))
    assert caught.value.reason == 'unknown_encoding'


def test_the_limit_of_pixels_can_be_set() -> None:
    assert decode_compressed(compressed(PNG), max_pixels=HEIGHT * WIDTH).shape == scene().shape
    with pytest.raises(BadImage) as caught:
        decode_compressed(compressed(PNG), max_pixels=HEIGHT * WIDTH - 1)
    assert caught.value.reason == 'too_large'
    assert MAX_PIXELS >= 3840 * 2160


def test_random_bytes_never_raise_anything_else() -> None:
    random = np.random.default_rng(0)
    for start in (
        b'',
        b'\xff\xd8',
        b'\xff\xd8\xff\xc0',
        b'\x89PNG\r\n\x1a\n',
        JPEG[:200],
        PNG[:60],
    ):
        for length in range(0, 200, 7):
            data = start + random.integers(0, 256, length, dtype=np.uint8).tobytes()
            with pytest.raises(BadImage):
                decode_compressed(compressed(data))


def photo(width: int = 640, height: int = 360, seed: int = 4) -> np.ndarray:
    """Return something like a photograph, BGR: a JPEG of it is not exact."""
    coarse = np.random.default_rng(seed).integers(60, 200, (12, 16, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize('reduction', [1, 2, 4, 8])
@pytest.mark.parametrize('size', [(640, 360), (641, 359), (33, 17)])
def test_luma_is_decoded_as_small_as_it_is_wanted(size: tuple[int, int], reduction: int) -> None:
    width, height = size
    data = file_of(photo(width, height), '.jpg')
    asked: list[tuple[int, int]] = []

    def choose(*size_px: int) -> int:
        asked.append(size_px)  # type: ignore[arg-type]
        return reduction

    decoded = decode_reduced(compressed(data), choose)
    assert asked == [size]
    assert (decoded.reduction, decoded.size_px) == (reduction, size)
    assert decoded.luma.shape == (-(-height // reduction), -(-width // reduction))
    # Like the whole image's, averaged.
    whole = cv2.cvtColor(decode_compressed(compressed(data)), cv2.COLOR_BGR2GRAY)
    even = whole[: height // reduction * reduction, : width // reduction * reduction]
    averaged = even.reshape(height // reduction, reduction, width // reduction, reduction)
    expected = averaged.mean(axis=(1, 3))
    luma = decoded.luma[: height // reduction, : width // reduction].astype(float)
    assert np.abs(luma - expected).mean() < 2


def test_luma_is_that_of_the_coloured_image() -> None:
    data = file_of(photo(), '.jpg')
    luma = decode_reduced(compressed(data), lambda width, height: 1).luma
    colour = decode_compressed(compressed(data))
    difference = np.abs(cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY).astype(int) - luma)
    assert difference.max() <= 2


def test_a_png_is_not_reduced_and_keeps_its_luma() -> None:
    decoded = decode_reduced(compressed(file_of(photo(), '.png'), 'png'), lambda *_: 4)
    assert (decoded.reduction, decoded.size_px) == (1, (640, 360))
    assert np.array_equal(decoded.luma, cv2.cvtColor(photo(), cv2.COLOR_BGR2GRAY))


@pytest.mark.parametrize('extension', ['.png', '.jpg'])
def test_grey_files_are_reduced_too(extension: str) -> None:
    decoded = decode_reduced(compressed(file_of(grey_scene(), extension)), lambda *_: 2)
    assert decoded.luma.ndim == 2
    assert decoded.size_px == (WIDTH, HEIGHT)


@pytest.mark.parametrize('reduction', [1, 2])
def test_an_orientation_in_exif_is_not_followed_by_a_reduced_image(reduction: int) -> None:
    data = with_orientation(file_of(scene(), '.jpg'), 6)
    luma = decode_reduced(compressed(data), lambda *_: reduction).luma
    assert luma.shape == (HEIGHT // reduction, WIDTH // reduction)


def test_the_limit_of_pixels_is_that_of_the_image_itself() -> None:
    def choose(width: int, height: int) -> int:
        raise AssertionError('a size above the limit must not be asked about')

    with pytest.raises(BadImage) as caught:
        decode_reduced(compressed(JPEG), choose, max_pixels=HEIGHT * WIDTH - 1)
    assert caught.value.reason == 'too_large'


@pytest.mark.parametrize('data', [b'', None, JPEG[:40], JPEG[: len(JPEG) // 2], PNG[:30]])
def test_what_is_no_image_is_refused_reduced_as_well(data: Any) -> None:
    with pytest.raises(BadImage) as caught:
        decode_reduced(compressed(data), lambda *_: 2)
    assert caught.value.reason in REASONS


@pytest.mark.parametrize('reduction', [0, 3, 16, -1, None])
def test_a_reduction_that_no_decoder_knows_is_a_mistake(reduction: Any) -> None:
    with pytest.raises(ValueError, match='reduction is'):
        decode_reduced(compressed(JPEG), lambda *_: reduction)
