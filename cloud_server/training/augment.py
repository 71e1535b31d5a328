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
What cameras, detectors and codecs do to a face, in batches, on whatever device the batch is on.

Images are float32 [N,1,h,w] in 0..255. Every random number comes from one CPU generator, so that
a seed gives the same faces on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# The luminance table of JPEG (ITU-T T.81, Annex K.1).
_JPEG_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)
BLUR_TAPS = 7


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly training faces are varied; shares are of the faces of a batch."""

    rotation_deg: float = 9.0  # standard deviation, as are the next three
    scale: float = 0.10
    shift: float = 0.05  # of the side; the detector's jitter is about this
    contrast: float = 0.2
    brightness: float = 25.0
    gamma: float = 0.2
    cutout_share: float = 0.3
    cutout_side: float = 0.4  # largest, of the side
    blur_share: float = 0.10
    blur_sigma_px: float = 1.6
    noise_share: float = 0.15
    noise_deviation: float = 10.0
    small_share: float = 0.25
    small_sides_px: tuple[int, ...] = (12, 16, 20, 24, 32, 40)
    jpeg_share: float = 0.25
    jpeg_quality: tuple[int, int] = (20, 95)
    mix_share: float = 0.1

    def __post_init__(self) -> None:
        """Refuse shares that are none and sides that cannot be rendered."""
        for name in ('cutout_share', 'blur_share', 'noise_share', 'small_share', 'jpeg_share',
                     'mix_share', 'cutout_side'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'{name} must be in [0, 1], got {getattr(self, name)}')
        if not self.small_sides_px or min(self.small_sides_px) < 4:
            raise ValueError(f'small_sides_px must be 4 or more, got {self.small_sides_px}')
        low, high = self.jpeg_quality
        if not 1 <= low <= high <= 100:
            raise ValueError(f'jpeg_quality must be within 1..100, got {self.jpeg_quality}')


def warp(luma: Tensor, angle_deg: Tensor, zoom: Tensor, shift: Tensor, mirror: Tensor) -> Tensor:
    """
    Turn, scale and move each image about its centre; the border repeats.

    Args:
        luma: [N,1,s,s].
        angle_deg: [N], counter-clockwise.
        zoom: [N], 1.1 shows the face 10 % larger.
        shift: [N,2], right and down, in sides.
        mirror: bool [N].

    """
    angle = angle_deg * (math.pi / 180)
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    flip = torch.where(mirror, -1.0, 1.0)
    move_x, move_y = -2 * shift[:, 0], -2 * shift[:, 1]
    matrix = torch.stack((
        torch.stack((flip * cosine, -flip * sine, flip * (cosine * move_x - sine * move_y)), 1),
        torch.stack((sine, cosine, sine * move_x + cosine * move_y), 1),
    ), 1)
    grid = functional.affine_grid(matrix, list(luma.shape), align_corners=False)
    return functional.grid_sample(luma, grid, padding_mode='border', align_corners=False)


def light(luma: Tensor, contrast: Tensor, brightness: Tensor, gamma: Tensor) -> Tensor:
    """Apply gamma, contrast (factors) and brightness (in steps of 255) per image, each [N]."""
    shape = (-1, 1, 1, 1)
    curved = (luma.clamp(0, 255) / 255).pow(gamma.view(shape)) * 255
    lit = (curved - 128) * contrast.view(shape) + 128 + brightness.view(shape)
    return lit.clamp(0, 255)


def blur(luma: Tensor, sigma_x_px: Tensor, sigma_y_px: Tensor) -> Tensor:
    """Blur each image by its own Gaussian [N], [N]; unequal axes make it a motion blur."""
    count = luma.shape[0]
    taps = torch.arange(BLUR_TAPS, device=luma.device) - BLUR_TAPS // 2

    def kernel(sigma: Tensor) -> Tensor:
        weight = torch.exp(-0.5 * (taps / sigma.clamp(min=0.05).unsqueeze(1)) ** 2)
        return weight / weight.sum(1, keepdim=True)

    half = BLUR_TAPS // 2
    x = functional.pad(luma, (half, half, half, half), mode='replicate').transpose(0, 1)
    x = functional.conv2d(x, kernel(sigma_x_px).view(count, 1, 1, -1), groups=count)
    x = functional.conv2d(x, kernel(sigma_y_px).view(count, 1, -1, 1), groups=count)
    return x.transpose(0, 1)


def occlude(luma: Tensor, box: Tensor, value: Tensor) -> Tensor:
    """Cover a rectangle of each image: box [N,4] left, top, right, bottom in sides; value [N]."""
    side = luma.shape[-1]
    centres = (torch.arange(side, device=luma.device) + 0.5) / side
    inside_x = (centres >= box[:, 0:1]) & (centres < box[:, 2:3])
    inside_y = (centres >= box[:, 1:2]) & (centres < box[:, 3:4])
    inside = (inside_y.unsqueeze(2) & inside_x.unsqueeze(1)).unsqueeze(1)
    return torch.where(inside, value.view(-1, 1, 1, 1), luma)


def dct_matrix(device: torch.device | str = 'cpu') -> Tensor:
    """Return the orthonormal 8x8 DCT-II."""
    k = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos((2 * k.unsqueeze(0) + 1) * k.unsqueeze(1) * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix.float().to(device)


def jpeg(luma: Tensor, quality: Tensor) -> Tensor:
    """Quantise as a luma-only JPEG of each image's quality [N] (1..100, libjpeg's scale) does."""
    count, _, height, width = luma.shape
    down, right = -height % 8, -width % 8
    x = functional.pad(luma, (0, right, 0, down), mode='replicate') - 128
    rows, columns = x.shape[2] // 8, x.shape[3] // 8
    blocks = x.view(count, rows, 8, columns, 8).permute(0, 1, 3, 2, 4)
    base = torch.tensor(_JPEG_LUMA, dtype=torch.float32, device=luma.device)
    factor = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    steps = ((base * factor.view(-1, 1, 1) + 50) / 100).floor().clamp(1, 255)
    steps = steps.view(count, 1, 1, 8, 8)
    dct = dct_matrix(luma.device)
    kept = torch.round(dct @ blocks @ dct.T / steps) * steps
    x = (dct.T @ kept @ dct).permute(0, 1, 3, 2, 4).reshape(count, 1, rows * 8, columns * 8)
    return (x + 128).round().clamp(0, 255)[:, :, :height, :width]


def shrink(luma: Tensor, side_px: int) -> Tensor:
    """Return what the robot sends: the crop at a side of its choice, area averaged."""
    if side_px < luma.shape[-1]:
        area = area_weights(luma.shape[-1], side_px).to(luma.device)
        luma = area @ luma @ area.T
    return luma.round().clamp(0, 255)


def area_weights(from_px: int, to_px: int) -> Tensor:
    """Return [to,from] of how much of each new pixel every old one covers, as INTER_AREA."""
    step = from_px / to_px
    new, old = torch.arange(to_px).unsqueeze(1) * step, torch.arange(from_px).unsqueeze(0)
    overlap = torch.minimum(new + step, old + 1.0) - torch.maximum(new, old.float())
    return overlap.clamp(min=0) / step


def enlarge(luma: Tensor, side_px: int) -> Tensor:
    """Return what the server makes of it: bilinear, as preprocess.to_input."""
    if side_px != luma.shape[-1]:
        luma = functional.interpolate(
            luma, size=(side_px, side_px), mode='bilinear', align_corners=False
        )
    return luma.round().clamp(0, 255)


def augment(luma: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Vary a batch [N,1,s,s] for training; whole steps of 0..255 again."""
    count, side = luma.shape[0], luma.shape[-1]
    device = luma.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator).clamp(-2.5, 2.5).to(device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator).to(device)

    luma = warp(
        luma, normal() * config.rotation_deg, torch.exp(normal() * config.scale),
        normal(2) * config.shift, uniform() < 0.5,
    )
    luma = light(
        luma, torch.exp(normal() * config.contrast), normal() * config.brightness,
        torch.exp(normal() * config.gamma),
    )
    size = (0.1 + uniform(2) * (config.cutout_side - 0.1)).clamp(min=0)
    corner = uniform(2) * 1.1 - 0.05 - size / 2
    size = torch.where((uniform() < config.cutout_share).unsqueeze(1), size, 0 * size)
    luma = occlude(luma, torch.cat((corner, corner + size), 1), uniform() * 255)
    # Blur and noise go to the share that gets any; work on the rest would be wasted.
    rows = torch.nonzero(uniform() < config.blur_share).flatten()
    if len(rows):
        sigma = uniform(2)[rows] * config.blur_sigma_px
        luma = luma.index_copy(0, rows, blur(luma[rows], sigma[:, 0], sigma[:, 1]))
    rows = torch.nonzero(uniform() < config.noise_share).flatten()
    if len(rows):
        grain = torch.randn(len(rows), 1, side, side, generator=generator).to(device)
        strength = uniform()[rows].view(-1, 1, 1, 1) * config.noise_deviation
        luma = luma.index_copy(0, rows, luma[rows] + grain * strength)
    small = uniform() < config.small_share
    choice = (uniform() * len(config.small_sides_px)).long()
    low, high = config.jpeg_quality
    quality = low + uniform() * (high - low)
    coded = uniform() < config.jpeg_share
    return sent(luma.round().clamp(0, 255), [
        (side, ~small),
        *((px, small & (choice == index)) for index, px in enumerate(config.small_sides_px)),
    ], quality, coded)


def sent(
    luma: Tensor, sizes: list[tuple[int, Tensor]], quality: Tensor, coded: Tensor
) -> Tensor:
    """
    Send each image [N,1,s,s] at its size through its codec and scale it back.

    Args:
        luma: [N,1,s,s].
        sizes: (side_px, bool [N]): which images travel at which side.
        quality: [N], JPEG.
        coded: bool [N], which images are quantised at all.

    """
    side = luma.shape[-1]
    for side_px, chosen in sizes:
        for quantise in (False, True):
            if side_px >= side and not quantise:
                continue
            rows = torch.nonzero(chosen & (coded == quantise)).flatten()
            if not len(rows):
                continue
            small = shrink(luma[rows], side_px)
            if quantise:
                small = jpeg(small, quality[rows])
            luma = luma.index_copy(0, rows, enlarge(small, side))
    return luma


def mix(
    luma: Tensor, target: Tensor, weight: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Blend a share of the faces with another of the batch, targets and weights alike (mixup)."""
    count = luma.shape[0]
    other = torch.randperm(count, generator=generator).to(luma.device)
    part = torch.rand(count, generator=generator) * 0.5
    part = torch.where(torch.rand(count, generator=generator) < share, part, 0).to(luma.device)
    wide = part.view(-1, 1, 1, 1)
    return (
        luma * (1 - wide) + luma[other] * wide,
        target * (1 - part.unsqueeze(1)) + target[other] * part.unsqueeze(1),
        weight * (1 - part) + weight[other] * part,
    )
