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
"""How many bytes sending faces saves over sending the whole picture."""

from __future__ import annotations

import cv2
import numpy as np

from demo import clip
from ferros.accuracy_grid import default_path, read
from ferros.crop import crop
from ferros.detect import make_detector
from ferros.encode import encode, encode_colour
from ferros.operating_point import bytes_per_s
from ferros.sender import message_bytes

WIDTH_PX, HEIGHT_PX = 1280, 720
JPEG_QUALITY = 80
# Of FaceFrame, what is not the image.
FIELD_BYTES = 43


def bytes_ratio(every: int = 1) -> float:
    """
    Return how many times as many bytes whole pictures take as faces at the grid's best point.

    Both of the rendered clip: 1280 x 720 at 30 per second as JPEG of quality 80, without any
    header, and the largest face of each picture as a message on the link with all of them. The
    clip is drawn at half the size and enlarged, so its pictures are smaller files than a
    camera's. Only every so many pictures are looked at.
    """
    best = max(read(default_path()), key=lambda point: (point.accuracy, -bytes_per_s(point)))
    detector = make_detector('haar')
    whole_bytes = face_bytes = faces = pictures = 0
    for index, (_, image) in enumerate(clip.frames()):
        if index % every:
            continue
        size = (WIDTH_PX, HEIGHT_PX)
        picture = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
        pictures += 1
        whole_bytes += len(encode_colour(picture, JPEG_QUALITY))
        boxes = detector.detect(image)
        if boxes:
            box = max(boxes, key=lambda box: box.area_px)
            luma = crop(image, box, best.face_size_px)
            faces += 1
            face_bytes += message_bytes(len(encode(luma, best.codec, best.quality)) + FIELD_BYTES)
    # As if the face were there all the time.
    whole_per_s = whole_bytes / pictures * clip.FRAME_RATE_FPS
    return whole_per_s / (face_bytes / faces * best.frame_rate_fps)
