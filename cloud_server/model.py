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
The network on one page: a convolutional encoder per frame, an LSTM per face, and their heads.

    luma [N,1,S,S] -> Encoder -> features [N,F] = [frame logits (8) | embedding (E)]
    features, interval, face size, (h, c) -> Temporal -> logits [N,8], (h, c)

The first frame of a face is judged as by the encoder alone; what time adds is learnt on top of a
running average of the frames' distributions.
Both halves carry their configuration inside their safetensors file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

LABELS = (
    'neutral', 'happiness', 'surprise', 'sadness', 'anger', 'disgust', 'fear', 'contempt',
)
# Of the weight files, by kind; raised when a stored network can no longer be read.
FORMATS = {'encoder': 1, 'temporal': 2}


@dataclass(frozen=True)
class EncoderConfig:
    """A residual network: a two-convolution stem to S/2, then one stage per width."""

    labels: tuple[str, ...] = LABELS
    input_size_px: int = 48
    stem_channels: int = 32
    widths: tuple[int, ...] = (32, 96, 192, 256)
    blocks: tuple[int, ...] = (1, 2, 2, 1)
    dropout: float = 0.2

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        if len(self.widths) != len(self.blocks) or not self.widths:
            raise ValueError(f'widths {self.widths} and blocks {self.blocks} must be one a stage')
        if min(*self.widths, *self.blocks, self.stem_channels, self.input_size_px) < 1:
            raise ValueError(f'every size must be at least 1: {self}')
        if not 0 <= self.dropout < 1:
            raise ValueError(f'dropout must be in [0, 1), got {self.dropout}')

    @property
    def feature_size(self) -> int:
        """F: the frame's logits and the embedding behind them."""
        return len(self.labels) + self.widths[-1]


@dataclass(frozen=True)
class TemporalConfig:
    """One LSTM layer over the frame's logits and, if wanted, a projection of its embedding."""

    labels: tuple[str, ...] = LABELS
    embedding_size: int = 256
    projection_size: int = 0  # 0: logits alone, which every encoder of these labels gives
    units: int = 128
    dropout: float = 0.2
    average_s: float = 0.3  # time constant of the running average, where the training begins

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        if not 1 <= self.units <= 1024:
            raise ValueError(f'units must be in 1..1024, got {self.units}')
        if self.embedding_size < 1 or self.projection_size < 0:
            raise ValueError(f'embedding_size must be at least 1, projection_size 0: {self}')
        if not 0 <= self.dropout < 1:
            raise ValueError(f'dropout must be in [0, 1), got {self.dropout}')
        if not self.average_s > 0:
            raise ValueError(f'average_s must be above 0, got {self.average_s}')

    @property
    def feature_size(self) -> int:
        """F: the same as the encoder's."""
        return len(self.labels) + self.embedding_size

    @property
    def state_size(self) -> int:
        """S: the LSTM's units, and the running average beside its cells."""
        return self.units + len(self.labels)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N,I,s,s] -> [N,O,s/stride,s/stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return functional.relu(y + self.shortcut(x))


class Encoder(nn.Module):
    """One face, one frame: luma 0..255 [N,1,S,S] -> features [N,F]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        stem, first = config.stem_channels, config.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(1, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU(),
            nn.Conv2d(stem, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU(),
        )  # [N,1,48,48] -> [N,W0,24,24]
        stages: list[nn.Module] = []
        inputs = first
        for stage, (width, count) in enumerate(zip(config.widths, config.blocks, strict=True)):
            for index in range(count):
                stages.append(Block(inputs, width, 2 if stage and not index else 1))
                inputs = width
        self.stages = nn.Sequential(*stages)  # -> [N,E,3,3] with four widths
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(inputs, len(config.labels))

    def forward(self, luma: Tensor) -> Tensor:
        """Return features [N,F] of luma [N,1,S,S], uint8 or float, 0..255."""
        x = luma.float()
        mean = x.mean((1, 2, 3), keepdim=True)
        deviation = ((x - mean) ** 2).mean((1, 2, 3), keepdim=True).sqrt()
        x = (x - mean) / (deviation + 4.0)  # no light, no contrast; 4 of 255 keeps flat ones flat
        embedding = self.stages(self.stem(x)).mean((2, 3)).float()  # [N,E]
        logits = self.head(self.dropout(embedding))  # [N,8]
        return torch.cat((logits.float(), embedding), 1)

    def logits(self, features: Tensor) -> Tensor:
        """Return the frame's own logits [N,8] out of its features [N,F]."""
        return features[:, : len(self.config.labels)]


class Temporal(nn.Module):
    """
    One face over time: one step per frame, state since the last reset.

    The frames' distributions run into an average, and the LSTM says of each frame how far to move
    it: by a gate that starts at an exponential average's 1 - exp(-interval / average_s), and by a
    residual that starts at zero. So the training begins at the best simple method, whatever the
    frame rate is, and learns what that one cannot do.
    """

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        self.config = config
        self.classes = len(config.labels)
        self.project: nn.Module = nn.Identity()
        if config.projection_size:
            self.project = nn.Linear(config.embedding_size, config.projection_size)
        self.dropout = nn.Dropout(config.dropout)
        self.lstm = nn.LSTM(
            self.classes + config.projection_size + 2, config.units, batch_first=True
        )
        self.head = nn.Linear(config.units, self.classes)
        self.gate = nn.Linear(config.units, 1)
        self.log_average_s = nn.Parameter(torch.tensor(math.log(config.average_s)))
        for layer in (self.head, self.gate):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def inputs(self, features: Tensor, interval_s: Tensor, face_size_px: Tensor) -> Tensor:
        """Return what the LSTM sees: features [...,F], times and sizes [...] -> [...,I]."""
        logits, embedding = features[..., : self.classes], features[..., self.classes :]
        # Interval 0 (a reset) is log 0.01 s, well apart from 30 fps; typical values are near 0.
        elapsed = (torch.log(interval_s + 0.01) + 2.0).unsqueeze(-1)
        size = torch.log(face_size_px.clamp(min=1.0) / 32.0).unsqueeze(-1)
        parts = [torch.log_softmax(logits, -1).clamp(min=-8.0) / 2.0, elapsed, size]
        if self.config.projection_size:
            parts.append(torch.tanh(self.project(self.dropout(embedding))))
        return torch.cat(parts, -1)

    def forward(
        self, features: Tensor, interval_s: Tensor, face_size_px: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Take one step, in plain operations so that any ONNX runtime can.

        Args:
            features: [N,F] of this frame.
            interval_s: [N] seconds since the face's previous frame, 0 after a reset.
            face_size_px: [N] side of the crop as it was sent.
            h: [N,S], zero after a reset; beyond the units it carries nothing.
            c: [N,S], zero after a reset; beyond the units it carries the average.

        Returns:
            logits [N,8], h [N,S], c [N,S].

        """
        units = self.config.units
        x = self.inputs(features, interval_s, face_size_px)
        w_x, w_h, b_x, b_h = self.lstm.all_weights[0]
        gates = functional.linear(x, w_x, b_x) + functional.linear(h[:, :units], w_h, b_h)
        i, f, g, o = gates.chunk(4, 1)
        cells = torch.sigmoid(f) * c[:, :units] + torch.sigmoid(i) * torch.tanh(g)
        state = torch.sigmoid(o) * torch.tanh(cells)
        average = c[:, units:]
        share = self._share(state, interval_s)
        average = average + share * (self._distribution(features) - average)
        return (
            self._logits(average, state, interval_s),
            torch.cat((state, h[:, units:]), 1), torch.cat((cells, average), 1),
        )

    def unroll(self, features: Tensor, interval_s: Tensor, face_size_px: Tensor) -> Tensor:
        """Run whole clips from zero state: [N,T,F], [N,T], [N,T] -> logits [N,T,8]."""
        states, _ = self.lstm(self.inputs(features, interval_s, face_size_px))
        states = self.dropout(states)
        shares = self._share(states, interval_s)
        seen = self._distribution(features)
        average = torch.zeros_like(seen[:, 0])
        averages = []
        for share, now in zip(shares.unbind(1), seen.unbind(1), strict=True):
            average = average + share * (now - average)
            averages.append(average)
        return self._logits(torch.stack(averages, 1), states, interval_s)

    def _distribution(self, features: Tensor) -> Tensor:
        return torch.softmax(features[..., : self.classes], -1)

    def _share(self, state: Tensor, interval_s: Tensor) -> Tensor:
        """Return how far [...,1] the average moves to this frame; a first frame is all of it."""
        rate = (interval_s * torch.exp(-self.log_average_s)).clamp(max=20.0).unsqueeze(-1)
        odds = (torch.exp(rate) - 1.0) * torch.exp(self.gate(state).clamp(-10.0, 10.0))
        return torch.where(interval_s.unsqueeze(-1) > 0, odds / (1.0 + odds), 1.0)

    def _logits(self, average: Tensor, state: Tensor, interval_s: Tensor) -> Tensor:
        """Add what the LSTM says, of which a first frame (interval 0) has none."""
        known = (interval_s > 0).float().unsqueeze(-1)
        return torch.log(average + 1e-6) + cast('Tensor', self.head(state)) * known


def multiply_adds(encoder: Encoder) -> int:
    """Count the encoder's multiply-adds for one face."""
    total = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            taps = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
            total += output[0].numel() * taps
        elif isinstance(module, nn.Linear):
            total += module.in_features * module.out_features

    hooks = [module.register_forward_hook(count) for module in encoder.modules()]
    side = encoder.config.input_size_px
    was_training = encoder.training
    with torch.no_grad():
        encoder.eval()(torch.zeros(1, 1, side, side, dtype=torch.uint8))
    encoder.train(was_training)
    for hook in hooks:
        hook.remove()
    return total


Config = TypeVar('Config', EncoderConfig, TemporalConfig)


class WeightsError(ValueError):
    """A file that does not hold the weights it should; says which file, and what it holds."""


def save_weights(
    module: Encoder | Temporal, path: Path, about: Mapping[str, Any], *, half: bool = False
) -> None:
    """
    Write weights and configuration to one safetensors file.

    Args:
        module: what to write.
        path: where to.
        about: what else must stay with the weights, such as how the data was divided; JSON.
        half: keep floats in fp16.

    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in
               module.state_dict().items()}
    if half:
        tensors = {name: value.half() if value.is_floating_point() else value
                   for name, value in tensors.items()}
    kind = type(module).__name__.lower()
    metadata = {'ferros': json.dumps({
        'format': FORMATS[kind], 'kind': kind, 'config': asdict(module.config),
        'about': dict(about),
    }, sort_keys=True)}
    path.write_bytes(save(tensors, metadata))


def load_encoder(path: Path) -> Encoder:
    """Read an encoder, in evaluation mode, fp32. Raises WeightsError where it is another thing."""
    encoder = Encoder(_read_config(path, 'encoder', EncoderConfig))
    encoder.load_state_dict({k: v.float() if v.is_floating_point() else v
                             for k, v in load_file(path).items()})
    return encoder.eval()


def load_temporal(path: Path) -> Temporal:
    """Read a temporal model, in evaluation mode, fp32. Raises WeightsError likewise."""
    temporal = Temporal(_read_config(path, 'temporal', TemporalConfig))
    temporal.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return temporal.eval()


def read_about(path: Path) -> dict[str, Any]:
    """Return what was written about the weights of a file."""
    about: dict[str, Any] = _read_metadata(path)['about']
    return about


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as err:
        raise WeightsError(f'{path}: cannot be read ({err})') from err
    if 'ferros' not in metadata:
        raise WeightsError(f'{path}: not a weight file of ferros (no configuration in it)')
    stored: dict[str, Any] = json.loads(metadata['ferros'])
    return stored


def _read_config(path: Path, kind: str, config: type[Config]) -> Config:
    stored = _read_metadata(path)
    if stored.get('kind') != kind:
        raise WeightsError(f'{path}: holds a {stored.get("kind")}, expected a {kind}')
    if stored.get('format') != FORMATS[kind]:
        raise WeightsError(f'{path}: a {kind} of weight format {stored.get("format")}, this code '
                           f'reads {FORMATS[kind]}')
    known = {field.name for field in fields(config)}
    if unknown := set(stored['config']) - known:
        raise WeightsError(f'{path}: unknown settings {sorted(unknown)} in its configuration')
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value
                              for key, value in stored['config'].items()}
    return config(**values)
