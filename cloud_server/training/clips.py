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
Clips made of still faces: what the LSTM learns from, and what streaming accuracy is measured on.

A clip shows one face under camera motion, scale, blur, exposure, compression, occlusion, lost
frames and a frame rate that changes. Pose and light wander (autocorrelated), sensor noise does
not.
In about half of the clips the face cross-fades into another one and the target mixes both faces'
votes. That is a cross-fade between two people, not an expression unfolding: natural dynamics are
not claimed.

A schedule is drawn on the CPU on a 30 Hz clock; only the frames that arrive are rendered, in
batches, on any device.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cloud_server.training.augment import blur, light, occlude, sent, warp

CLOCK_HZ = 30
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ClipConfig:
    """How clips are drawn; ranges are (low, high), shares are of clips."""

    length_s: float = 6.0
    cross_fade_share: float = 0.5
    cross_fade_s: tuple[float, float] = (0.1, 0.8)
    rate_fps: tuple[float, float] = (1.0, 30.0)  # drawn evenly on a logarithmic scale
    rate_switches: int = 2  # at most
    lost_share: float = 0.08  # of frames, at most, in short runs
    longest_gap_s: float = 1.5  # below the shortest gap after which serving resets the state
    sides_px: tuple[int, ...] = (12, 16, 20, 24, 32, 40, 48, 48)
    still_share: float = 0.25  # clips of a camera and a head that hardly move
    occlusion_share: float = 0.3
    jpeg_quality: tuple[int, int] = (30, 95)

    def __post_init__(self) -> None:
        """Refuse what cannot be rendered."""
        if not 0 < self.length_s <= 60:
            raise ValueError(f'length_s must be in (0, 60], got {self.length_s}')
        low, high = self.rate_fps
        if not 0 < low <= high <= CLOCK_HZ:
            raise ValueError(f'rate_fps must be within (0, {CLOCK_HZ}], got {self.rate_fps}')
        if min(self.sides_px) < 4:
            raise ValueError(f'sides_px must be 4 or more, got {self.sides_px}')
        if not 0 < self.cross_fade_s[0] <= self.cross_fade_s[1] < self.length_s:
            raise ValueError(f'cross_fade_s {self.cross_fade_s} does not fit {self.length_s} s')

    @property
    def ticks(self) -> int:
        """T: ticks of the 30 Hz clock in a clip."""
        return round(self.length_s * CLOCK_HZ)


@dataclass(frozen=True)
class Schedule:
    """
    What happens in C clips at each of T ticks of the 30 Hz clock.

    Attributes:
        faces: int [C,2], rows of the face set before and after the cross-fade (equal: none).
        share: float32 [C,T] in [0,1], how much of the second face is seen.
        arrives: bool [C,T], whether this tick's frame reaches the server; the first always does.
        pose: float32 [C,T,4], angle (degrees), zoom, shift right and down (sides).
        lighting: float32 [C,T,3], contrast, brightness (steps), gamma.
        blur_px: float32 [C,T,2], Gaussian deviations along x and y at 48 px.
        cover: float32 [C,T,4], what hides the face: left, top, right, bottom in sides.
        cover_value: float32 [C], its brightness.
        noise: float32 [C], deviation of the sensor noise in steps.
        side_px: int [C,T], what the robot sends.
        quality: float32 [C,T], its JPEG quality; above 95 the frame is sent as it is.
        seed: of the sensor noise.

    """

    faces: npt.NDArray[np.int64]
    share: Floats
    arrives: npt.NDArray[np.bool_]
    pose: Floats
    lighting: Floats
    blur_px: Floats
    cover: Floats
    cover_value: Floats
    noise: Floats
    side_px: npt.NDArray[np.int64]
    quality: Floats
    seed: int

    def __len__(self) -> int:
        return len(self.faces)

    def sent_as(self, side_px: int, rate_fps: float) -> Schedule:
        """Return the same scenes, sent at one side and one even frame rate, nothing lost."""
        ticks = np.arange(self.share.shape[1])
        arrives = np.broadcast_to(on_rate(ticks, rate_fps), self.arrives.shape).copy()
        return replace(self, arrives=arrives, side_px=np.full_like(self.side_px, side_px))


def draw(config: ClipConfig, clips: int, faces: int, seed: int) -> Schedule:
    """Draw the schedules of some clips over a set of faces; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    ticks = config.ticks
    first = rng.integers(0, faces, clips)
    second = rng.integers(0, faces, clips)
    fades = rng.random(clips) < config.cross_fade_share
    restless = np.where(rng.random(clips) < config.still_share, 0.1, rng.uniform(0.4, 1.3, clips))
    pose = np.stack((
        _wander(rng, clips, ticks, 1.0) * 8.0, np.exp(_wander(rng, clips, ticks, 1.5) * 0.09),
        _wander(rng, clips, ticks, 0.5) * 0.05, _wander(rng, clips, ticks, 0.5) * 0.05,
    ), 2)
    neutral_pose = np.array([0.0, 1.0, 0.0, 0.0])
    pose = neutral_pose + (pose - neutral_pose) * restless[:, None, None]
    pose[:, :, 2:] += rng.normal(0, 0.015, (clips, ticks, 2))  # the detector's box trembles
    lighting = np.stack((
        np.exp(_wander(rng, clips, ticks, 2.0) * 0.2), _wander(rng, clips, ticks, 2.0) * 20.0,
        np.exp(_wander(rng, clips, ticks, 2.0) * 0.2),
    ), 2)
    motion = np.abs(_wander(rng, clips, ticks, 0.3))[:, :, None] * restless[:, None, None]
    direction = rng.dirichlet((1.0, 1.0), clips)[:, None, :]
    return Schedule(
        faces=np.stack((first, np.where(fades, second, first)), 1),
        share=_cross_fades(rng, config, clips),
        arrives=np.stack([_arrivals(rng, config) for _ in range(clips)]),
        pose=pose.astype(np.float32), lighting=lighting.astype(np.float32),
        blur_px=(motion * direction * 1.4).astype(np.float32),
        cover=_covers(rng, config, clips),
        cover_value=rng.uniform(0, 255, clips).astype(np.float32),
        noise=(rng.uniform(0, 1, clips) ** 2 * 10).astype(np.float32),
        side_px=np.stack([_sides(rng, config) for _ in range(clips)]),
        quality=np.repeat(rng.uniform(*config.jpeg_quality, clips)[:, None], ticks, 1)
        .astype(np.float32),
        seed=seed,
    )


def _wander(rng: np.random.Generator, clips: int, ticks: int, memory_s: float) -> npt.NDArray[
        np.float64]:
    """Return paths [C,T] of unit variance that forget over memory_s (a first-order process)."""
    keep = np.exp(-1 / (memory_s * CLOCK_HZ))
    path = np.empty((clips, ticks))
    path[:, 0] = rng.normal(0, 1, clips)
    pushes = rng.normal(0, np.sqrt(1 - keep * keep), (clips, ticks))
    for tick in range(1, ticks):
        path[:, tick] = keep * path[:, tick - 1] + pushes[:, tick]
    return path.clip(-2.5, 2.5)


def _cross_fades(rng: np.random.Generator, config: ClipConfig, clips: int) -> Floats:
    length = rng.uniform(*config.cross_fade_s, clips)
    start = rng.uniform(0.05, 1, clips) * (config.length_s - length)
    times = np.arange(config.ticks) / CLOCK_HZ
    return ((times - start[:, None]) / length[:, None]).clip(0, 1).astype(np.float32)


def on_rate(ticks: npt.NDArray[np.int64], rate_fps: float) -> npt.NDArray[np.bool_]:
    """Return which ticks carry a frame at an even rate; the first does."""
    due = np.floor(ticks * rate_fps / CLOCK_HZ + 1e-6)
    return np.diff(due, prepend=-1.0) > 0


def _pieces(rng: np.random.Generator, config: ClipConfig) -> list[tuple[int, int]]:
    """Return the stretches of a clip within which the robot keeps its settings."""
    cuts = rng.integers(1, config.ticks, rng.integers(0, config.rate_switches + 1))
    edges = sorted({0, config.ticks, *(int(cut) for cut in cuts)})
    return list(itertools.pairwise(edges))


def _arrivals(rng: np.random.Generator, config: ClipConfig) -> npt.NDArray[np.bool_]:
    arrives = np.zeros(config.ticks, bool)
    low, high = np.log(config.rate_fps)
    for begin, end in _pieces(rng, config):
        rate_fps = float(np.exp(rng.uniform(low, high)))
        arrives[begin:end] = on_rate(np.arange(end - begin), rate_fps)
    lost_share = rng.uniform(0, config.lost_share)
    last, lost_left = 0, 0
    for tick in np.flatnonzero(arrives)[1:]:
        if lost_left == 0 and rng.random() < lost_share / 2:
            lost_left = int(rng.integers(1, 4))
        if lost_left and tick - last < config.longest_gap_s * CLOCK_HZ / 2:
            arrives[tick] = False
            lost_left -= 1
        else:
            last = int(tick)
    return arrives


def _sides(rng: np.random.Generator, config: ClipConfig) -> npt.NDArray[np.int64]:
    sides = np.empty(config.ticks, np.int64)
    for begin, end in _pieces(rng, config):
        sides[begin:end] = rng.choice(config.sides_px)
    return sides


def _covers(rng: np.random.Generator, config: ClipConfig, clips: int) -> Floats:
    """Return a hand or a passer-by crossing the face during a part of some clips."""
    cover = np.zeros((clips, config.ticks, 4), np.float32)
    times = np.arange(config.ticks)
    for clip in np.flatnonzero(rng.random(clips) < config.occlusion_share):
        length = int(rng.integers(3, max(4, config.ticks // 3)))
        begin = int(rng.integers(0, config.ticks))
        size = rng.uniform(0.2, 0.5, 2)
        path = rng.uniform(-0.1, 0.8, 2) + np.outer(times - begin, rng.normal(0, 0.01, 2))
        seen = (times >= begin) & (times < begin + length)
        cover[clip, seen] = np.concatenate((path, path + size), 1)[seen]
    return cover


def render(
    luma: Tensor, schedule: Schedule, clip: npt.NDArray[np.int64], tick: npt.NDArray[np.int64]
) -> Tensor:
    """
    Render some frames as the server's encoder gets them.

    Args:
        luma: uint8 [faces,1,S,S], on the device that is to render.
        schedule: what happens.
        clip: [B], row of the schedule per frame.
        tick: [B], tick of the clock per frame.

    Returns:
        uint8 [B,1,S,S] on the same device.

    """
    device, side = luma.device, luma.shape[-1]

    def at(values: npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values[clip, tick]).to(device)

    pair = torch.from_numpy(schedule.faces[clip]).to(device)
    share = at(schedule.share).view(-1, 1, 1, 1)
    image = luma[pair[:, 0]].float() * (1 - share) + luma[pair[:, 1]].float() * share
    pose, lighting, blur_px = at(schedule.pose), at(schedule.lighting), at(schedule.blur_px)
    image = warp(image, pose[:, 0], pose[:, 1], pose[:, 2:], torch.zeros_like(pose[:, 0]) > 0)
    image = light(image, lighting[:, 0], lighting[:, 1], lighting[:, 2])
    image = blur(image, blur_px[:, 0] * side / 48, blur_px[:, 1] * side / 48)
    value = torch.from_numpy(schedule.cover_value[clip]).to(device)
    image = occlude(image, at(schedule.cover), value)
    noise = torch.from_numpy(schedule.noise[clip]).to(device).view(-1, 1, 1, 1)
    image = image + _grain(schedule, clip, tick, side).to(device) * noise
    sides = schedule.side_px[clip, tick]
    sizes = [(int(px), torch.from_numpy(sides == px).to(device)) for px in np.unique(sides)]
    quality = at(schedule.quality)
    image = sent(image.round().clamp(0, 255), sizes, quality, quality <= 95)
    return image.to(torch.uint8)


def _grain(
    schedule: Schedule, clip: npt.NDArray[np.int64], tick: npt.NDArray[np.int64], side: int
) -> Tensor:
    """Return unit noise [B,1,S,S]; a frame's own is the same in whatever batch it is rendered."""
    rng = np.random.default_rng(schedule.seed + 1)
    sheet = rng.standard_normal(1 << 18, np.float32)
    # Each frame reads the sheet from a place of its own: a hash of clip and tick.
    place = (clip * 7919 + tick * 104_729 + 12_345) * 2_654_435_761 % (len(sheet) - side * side)
    return torch.from_numpy(np.stack([sheet[p : p + side * side] for p in place])).view(
        -1, 1, side, side
    )


def arrivals(schedule: Schedule) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return clip and tick of every frame that arrives, clip by clip, in order of time."""
    clip, tick = np.nonzero(schedule.arrives)
    return clip.astype(np.int64), tick.astype(np.int64)


def intervals_s(schedule: Schedule) -> Floats:
    """Return [B], the seconds since the clip's previous frame, 0 for its first."""
    clip, tick = arrivals(schedule)
    gap = np.diff(tick, prepend=0) / CLOCK_HZ
    return np.where(np.diff(clip, prepend=-1) > 0, 0, gap).astype(np.float32)
