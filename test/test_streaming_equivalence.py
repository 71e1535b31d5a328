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
What the server answers about a stream is what one offline pass of the same frames gives.

The frames are made here and are no faces. Offline means torch, all frames of a face at once
through the encoder and then one step after another, on the very bytes that were sent; online means
the exported graphs behind the real gRPC server.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from test_server import Robot, S, channel_to, serving

from cloud_server import calibration
from cloud_server.config import DEFAULT_MODEL
from cloud_server.decode import ImageLimits, decode
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model import (
    Encoder,
    EncoderConfig,
    Temporal,
    TemporalConfig,
    load_encoder,
    load_temporal,
)
from cloud_server.preprocess import to_input
from cloud_server.training.export import Serving, export
from ferros_proto import recognition_pb2 as wire

STREAMS, FACES, FRAMES = 3, 3, 24
GAP_AT = 15  # this frame comes after a gap that resets
SIDES_PX = (48, 24, 31)  # one per face; the last one has to be scaled up by an odd factor
CODECS = {wire.JPEG: ('jpeg', '.jpg', cv2.IMWRITE_JPEG_QUALITY),
          wire.WEBP: ('webp', '.webp', cv2.IMWRITE_WEBP_QUALITY)}


class Frame(NamedTuple):
    """One crop as it is sent."""

    face_id: str
    stamp_ns: int
    codec: int
    image: bytes


class Model(NamedTuple):
    """The two halves as they were before they became graphs, and the folder of the graphs."""

    encoder: Encoder
    temporal: Temporal
    folder: Path


class CountingEngine(OnnxEngine):
    """The real engine; remembers how many faces it was given at a time."""

    def __init__(self, folder: Path) -> None:
        self.batch_sizes: list[int] = []
        super().__init__(folder)
        self.batch_sizes.clear()

    def encode(self, luma: np.ndarray) -> np.ndarray:
        self.batch_sizes.append(len(luma))
        return super().encode(luma)


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Make a network of random weights whose answers depend much on the frame and on the past."""
    torch.manual_seed(5)
    config = EncoderConfig(stem_channels=8, widths=(8, 16, 24, 32), blocks=(1, 1, 1, 1))
    encoder = Encoder(config)
    temporal = Temporal(TemporalConfig(embedding_size=config.widths[-1]))
    with torch.no_grad():
        luma = torch.from_numpy(np.stack([picture(-seed, 48) for seed in range(32)])).unsqueeze(1)
        encoder.train()(luma)  # statistics that are not 0 and 1
        embedding = encoder.eval()(luma)[:, len(config.labels) :]
        encoder.head.weight.mul_(2 / (embedding @ encoder.head.weight.T).std(0).unsqueeze(1))
        encoder.head.bias.copy_(-(embedding @ encoder.head.weight.T).mean(0))
        for values in temporal.parameters():
            values.add_(torch.randn_like(values) * 0.1)
    for module in (encoder, temporal.eval()):
        module.half().float()  # rounded as the export rounds, so that both are one model
    folder = tmp_path_factory.mktemp('model')
    points = ((12.0, 1.4), (48.0, 0.9))
    export(encoder, temporal, folder, Serving(temperature=points))
    return Model(encoder, temporal, folder)


def picture(seed: int, side_px: int) -> np.ndarray:
    noise = np.random.default_rng(seed + 100).integers(0, 256, (6, 6), np.uint8)
    return cv2.resize(noise, (side_px, side_px), interpolation=cv2.INTER_CUBIC)


def script(stream: int, face: int) -> list[Frame]:
    """Return the frames of one face: uneven spacing, a gap that resets, both codecs."""
    frames = []
    for index in range(FRAMES):
        gap_ns = 2_600_000_000 if index >= GAP_AT else 0
        stamp_ns = S + index * (33 + 20 * stream) * 1_000_000 + (index % 4) * 6_000_000 + gap_ns
        codec = wire.WEBP if (index + face) % 3 else wire.JPEG
        _, suffix, flag = CODECS[codec]
        luma = picture(10_000 * stream + 1000 * face + index // 2, SIDES_PX[face])
        encoded = cv2.imencode(suffix, luma, [flag, 40 + 5 * (index % 8)])[1]
        frames.append(Frame(f'face {face}', stamp_ns + face, codec, encoded.tobytes()))
    return frames


def offline(model: Model, frames: list[Frame]) -> tuple[np.ndarray, list[int]]:
    """Return the distributions [FRAMES,7] of one face and where it began anew, by torch alone."""
    info = OnnxEngine(model.folder).info
    images = [decode(frame.image, CODECS[frame.codec][0], ImageLimits(1 << 16, 1 << 18))
              for frame in frames]
    luma = torch.from_numpy(np.stack([to_input(image, info.input_size_px) for image in images]))
    zero = torch.zeros(1, info.state_size)
    h, c, previous_ns, rows, resets = zero, zero, None, [], []
    with torch.no_grad():
        features = model.encoder(luma.unsqueeze(1))
        for index, frame in enumerate(frames):
            interval_s = 0.0 if previous_ns is None else (frame.stamp_ns - previous_ns) / S
            if previous_ns is None or interval_s > info.reset_gap_s:
                h, c, interval_s = zero, zero, 0.0
                resets.append(index)
            previous_ns = frame.stamp_ns
            logits, h, c = model.temporal(
                features[index : index + 1], torch.tensor([interval_s]),
                torch.tensor([float(len(images[index]))]), h, c,
            )
            rows.append(logits)
    sides = np.array([len(image) for image in images], np.float32)
    return calibration.probabilities(torch.cat(rows).numpy(), sides, info), resets


async def play(address: str, stream: int) -> dict[tuple[int, int], wire.Answer]:
    """Send all faces of a stream interleaved, two frames of each on their way at a time."""
    scripts = [script(stream, face) for face in range(FACES)]
    sent: dict[int, tuple[int, int]] = {}
    answers: dict[tuple[int, int], wire.Answer] = {}

    async def collect() -> None:
        for sequence, answer in (await robot.answers(FACES)).items():
            answers[sent[sequence]] = answer

    async with channel_to(address) as channel:
        robot = Robot(channel)
        await robot.hello(robot_id=f'robot {stream}')
        for index in range(FRAMES):
            for face in np.random.default_rng(index + stream).permutation(FACES):
                sequence = await robot.send(**scripts[face][index]._asdict())
                sent[sequence] = (int(face), index)
            if index:
                await collect()
            if index % (3 + stream) == 0:
                await asyncio.sleep(0.003)  # so that the streams drift apart
        await collect()
        await robot.end()
    return answers


@pytest.fixture(scope='module')
def shipped() -> Model:
    return Model(load_encoder(DEFAULT_MODEL / 'encoder.safetensors'),
                 load_temporal(DEFAULT_MODEL / 'temporal.safetensors'), DEFAULT_MODEL)


async def answers_of_all(engine: OnnxEngine) -> list[dict[tuple[int, int], wire.Answer]]:
    async with serving(engine, max_batch=7, slots=2) as running:
        return list(await asyncio.gather(*(play(running.address, n) for n in range(STREAMS))))


@pytest.mark.parametrize('name', ['model', 'shipped'])
def test_what_is_streamed_through_the_server_is_what_one_offline_pass_gives(
    name: str, request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(name)
    engine = CountingEngine(model.folder)
    streams = asyncio.run(asyncio.wait_for(answers_of_all(engine), 90))

    assert sum(engine.batch_sizes) == STREAMS * FACES * FRAMES
    assert len(set(engine.batch_sizes)) >= 3, 'the batches must have varied'
    worst = 0.0
    for stream, answers in enumerate(streams):
        for face in range(FACES):
            expected, resets = offline(model, script(stream, face))
            got = [answers[face, index] for index in range(FRAMES)]
            assert resets == [0, GAP_AT]
            assert [index for index, answer in enumerate(got) if answer.state_reset] == resets
            served = np.array([answer.probabilities for answer in got])
            worst = max(worst, float(np.abs(served - expected).max()))
    assert worst <= 1e-4


def test_the_state_is_what_makes_the_answers_so(model: Model) -> None:
    """Without its past, or with another face's, a frame's answer is far outside the tolerance."""
    frames = script(0, 0)
    whole, _ = offline(model, frames)
    cut, _ = offline(model, frames[8:])
    assert np.abs(whole[9:GAP_AT] - cut[1 : GAP_AT - 8]).max() > 1e-2
    other = [frame._replace(image=theirs.image, codec=theirs.codec) if index < 8 else frame
             for index, (frame, theirs) in enumerate(zip(frames, script(1, 0), strict=True))]
    mixed, _ = offline(model, other)
    assert np.abs(whole[9:GAP_AT] - mixed[9:GAP_AT]).max() > 1e-2
    # After the gap there is no past.
    np.testing.assert_allclose(whole[GAP_AT:], mixed[GAP_AT:], atol=1e-6)
