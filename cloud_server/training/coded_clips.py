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
Clips of still faces through the robot's codecs, the server's decoder and the served model.

Every frame is shrunk and encoded as the robot does it, decoded and enlarged as the server does it,
by the same calls of OpenCV; nothing of a codec is simulated here. The clips are simulated: see
clips.py for what they show and what they do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from cloud_server import calibration
from cloud_server.config import ServerConfig
from cloud_server.decode import ImageLimits, decode
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.preprocess import to_input
from cloud_server.training import streaming
from cloud_server.training.clips import CLOCK_HZ, Schedule, arrivals, on_rate, render
from cloud_server.training.ferplus import Faces
from ferros_proto import recognition_pb2 as wire

BATCH = 32
# How the robot writes each codec (ferros/encode.py, which is not imported here; a test compares).
ENCODERS = {
    'jpeg': ('.jpg', cv2.IMWRITE_JPEG_QUALITY),
    'webp': ('.webp', cv2.IMWRITE_WEBP_QUALITY),
}
WIRE_CODECS = {'jpeg': wire.JPEG, 'webp': wire.WEBP}

# What carries a message, in bytes. gRPC's length prefix (gRPC over HTTP/2, Length-Prefixed-
# Message), an HTTP/2 frame's header (RFC 9113, 4.1), and per TCP segment the headers of IPv4
# (RFC 791), TCP (RFC 9293) and its timestamps (RFC 7323).
GRPC_PREFIX_BYTES = 5
HTTP2_HEADER_BYTES = 9
SEGMENT_HEADER_BYTES = 20 + 20 + 12
# What a segment carries on a path of Ethernet's 1500 bytes.
SEGMENT_BYTES = 1500 - SEGMENT_HEADER_BYTES

Frames = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.intp]


class Coding(NamedTuple):
    """How the frames of a face are encoded."""

    face_size_px: int
    # 'jpeg' or 'webp'.
    codec: str
    # 1..100 in the codec's own scale.
    quality: int


@dataclass(frozen=True)
class Measured:
    """
    What one coding costs and reaches.

    Attributes:
        bytes_p50: of one message on the link, the median over all frames.
        bytes_p95: what one message in twenty exceeds.
        right: float64 [R,C], share of the time in which the label held in each of C clips is
            true, at each of R frame rates.

    """

    bytes_p50: int
    bytes_p95: int
    right: npt.NDArray[np.float64]


def encode_face(luma: Frames, codec: str, quality: int) -> bytes:
    """Return a crop [s,s] as the file that the robot sends."""
    extension, parameter = ENCODERS[codec]
    done, data = cv2.imencode(extension, luma, [parameter, quality])
    if not done:
        raise ValueError(f'OpenCV {cv2.__version__} wrote no {extension} of {luma.shape}')
    return data.tobytes()


def message_bytes(image_bytes: int, codec: str) -> int:
    """
    Return what one face message takes of a link: image, fields, gRPC, HTTP/2, TCP and IPv4.

    The fields have the lengths they have in a stream of some hours; the message is taken to leave
    in segments of its own, as it does when frames are paced. Not in it: TLS (22 bytes per message
    where it is used), and what the answers cause on this way: acknowledgements and gRPC's window
    updates, 90 to 170 bytes per message on a loopback at 15 and 5 messages a second.
    """
    frame = wire.FaceFrame(
        sequence=100_000, face_id='f2345a10', stamp_ns=1_800_000_000_000_000_000,
        capture_monotonic_ns=100_000_000_000_000, interval_ms=200,
        codec=WIRE_CODECS[codec], image=bytes(image_bytes),
    )
    message = wire.RecognizeRequest(frame=frame).ByteSize()
    stream_bytes = message + GRPC_PREFIX_BYTES + HTTP2_HEADER_BYTES
    return stream_bytes + math.ceil(stream_bytes / SEGMENT_BYTES) * SEGMENT_HEADER_BYTES


def camera_frames(faces: Faces, scenes: Schedule) -> Frames:
    """Return what a camera sees of the faces [C,T,S,S] at every tick, before anything is sent."""
    luma = torch.from_numpy(faces.luma).unsqueeze(1)
    side = faces.luma.shape[-1]
    # A quality above 95 is how `render` is told to leave the frame as it is.
    unsent = replace(
        scenes.sent_as(side, CLOCK_HZ), quality=np.full_like(scenes.quality, 100.0)
    )
    clip, tick = arrivals(unsent)
    parts = [
        render(luma, unsent, clip[start : start + BATCH], tick[start : start + BATCH])[:, 0]
        for start in range(0, len(clip), BATCH)
    ]
    return torch.cat(parts).numpy().reshape(*scenes.share.shape, side, side)


def measure(
    engine: OnnxEngine, frames: Frames, truth: Labels, coding: Coding, rates_fps: Sequence[float],
    advance: Callable[[int], object] = lambda faces: None,
) -> Measured:
    """
    Send every frame once, and let the model see all of them, a half of them, and so on.

    Args:
        engine: the model.
        frames: [C,T,S,S], what the camera sees on a 30 Hz clock.
        truth: [C,T], the true class at each tick.
        coding: how they are sent.
        rates_fps: R even frame rates, at most 30.
        advance: is told how many frames were done.

    """
    side = frames.shape[-1]
    flat = frames.reshape(-1, side, side)
    features, sizes = [], []
    for start in range(0, len(flat), BATCH):
        part = flat[start : start + BATCH]
        files = [encode_face(shrink(face, coding.face_size_px), coding.codec, coding.quality)
                 for face in part]
        features.append(engine.encode(_received(files, coding.codec, engine)))
        sizes += [message_bytes(len(file), coding.codec) for file in files]
        advance(len(part))
    seen = np.concatenate(features).reshape(*truth.shape, -1)
    right = [held(engine, seen, coding.face_size_px, rate) == truth for rate in rates_fps]
    median, most = np.percentile(sizes, (50, 95))
    return Measured(round(median), round(most), np.stack(right).mean(2))


def held(
    engine: OnnxEngine, features: streaming.Floats, face_size_px: int, rate_fps: float
) -> Labels:
    """Return the label [C,T] held at each tick when only some ticks' frames [C,T,F] are sent."""
    ticks = thinned(features.shape[1], rate_fps)
    logits = streaming.stream_together(engine, features[:, ticks], ticks, face_size_px)
    flat = logits.reshape(-1, logits.shape[-1])
    sizes = np.full(len(flat), face_size_px, np.float32)
    labels = calibration.probabilities(flat, sizes, engine.info).argmax(1)
    last = np.searchsorted(ticks, np.arange(features.shape[1]), side='right') - 1
    return np.asarray(labels.reshape(logits.shape[:2])[:, last], np.intp)


def thinned(ticks: int, rate_fps: float) -> npt.NDArray[np.int64]:
    """Return which ticks of the 30 Hz clock carry a frame at an even rate; the first does."""
    return np.flatnonzero(on_rate(np.arange(ticks), rate_fps)).astype(np.int64)


def shrink(luma: Frames, side_px: int) -> Frames:
    """Return the crop at the side that is sent, as ferros/crop.py makes it."""
    if side_px == luma.shape[0]:
        return np.ascontiguousarray(luma)
    small = cv2.resize(luma, (side_px, side_px), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def _received(files: Sequence[bytes], codec: str, engine: OnnxEngine) -> Frames:
    """Return what the server makes of some files: [N,S,S] at the encoder's side."""
    config = ServerConfig()
    limits = ImageLimits(config.max_image_bytes, config.max_image_pixels)
    side = engine.info.input_size_px
    return np.stack([to_input(decode(file, codec, limits), side) for file in files])
