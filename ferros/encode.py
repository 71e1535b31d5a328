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
"""From a crop to the bytes that are sent."""

from __future__ import annotations

from typing import Final

import cv2

from ferros.types import Codec, Image

# The file extension that OpenCV chooses a codec by, and the parameter that carries the quality.
_ENCODERS: Final = {
    # One component: luma without any chroma, in the full range.
    Codec.JPEG: ('.jpg', cv2.IMWRITE_JPEG_QUALITY),
    # WebP knows no grey: OpenCV repeats luma in three channels, and the two chroma planes, being
    # constant, cost next to nothing. The format keeps luma in 16..235, so that a grey level is off
    # by up to one besides the compression.
    Codec.WEBP: ('.webp', cv2.IMWRITE_WEBP_QUALITY),
}


class EncodeError(ValueError):
    """A crop cannot be encoded; the message says why."""


def encode(luma: Image, codec: Codec, quality: int) -> bytes:
    """
    Return a luma crop as a JPEG or WebP file.

    luma: uint8 [height, width].
    quality: 1 to 100 in the codec's own scale.

    Raises:
        EncodeError: luma is no such image, the codec is unknown, the quality is out of range or
        OpenCV fails.

    """
    if luma.ndim != 2 or luma.dtype != 'uint8' or luma.size == 0:
        raise EncodeError(f'luma is {luma.dtype} {luma.shape}, expected uint8 [height, width]')
    if codec not in _ENCODERS:
        known = ', '.join(known.name for known in _ENCODERS)
        raise EncodeError(f'codec is {codec!r}, expected one of {known}')
    return _write(luma, codec, quality)


def encode_colour(image: Image, quality: int) -> bytes:
    """
    Return a whole camera image as a JPEG, as image_transport would send it.

    image: uint8, [height, width] luma or [height, width, 3] BGR. quality: 1 to 100.

    Raises:
        EncodeError: the quality is out of range or OpenCV fails.

    """
    return _write(image, Codec.JPEG, quality)


def _write(image: Image, codec: Codec, quality: int) -> bytes:
    if not 1 <= quality <= 100:
        raise EncodeError(f'quality is {quality}, expected 1 to 100')
    extension, parameter = _ENCODERS[codec]
    try:
        done, data = cv2.imencode(extension, image, [parameter, int(quality)])
    except cv2.error as err:  # An OpenCV that was built without the codec says so here.
        raise EncodeError(f'OpenCV {cv2.__version__} cannot write {extension}: {err}') from err
    if not done:
        raise EncodeError(f'OpenCV {cv2.__version__} wrote no {extension} of {image.shape}')
    return data.tobytes()
