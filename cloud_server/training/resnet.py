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
ResNet-50 (He et al., CVPR 2016, Table 1) as the paper uses it: luma in, a top of two dense layers.

    luma [N,1,s,s] -> embedding [N,2048] -> head -> logits [N,K]

The convolutions carry torchvision's names, so that pretrained files need no translation. Networks
that stem from Caffe differ in two places, which are settings here: the stride of a stage is in its
first 1x1 convolution instead of the 3x3, and the first pooling has no border and rounds up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from cloud_server.model import WeightsError
from cloud_server.training import settings
from cloud_server.training.ferplus import EMOTIONS

FORMAT = 1  # of the weight files; raised when a stored network can no longer be read
KIND = 'resnet'
EXPANSION = 4  # of a bottleneck: its output has this many times its width
# torchvision's normalisation of ImageNet, in steps of 0..255, RGB.
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


@dataclass(frozen=True)
class ResNetConfig:
    """
    A bottleneck ResNet; the default is ResNet-50.

    Attributes:
        labels: the classes of the logits.
        input_size_px: the side at which faces are computed; others are scaled to it.
        width: channels of the first stage; each stage doubles them.
        blocks: bottlenecks per stage.
        hidden_size: of the first of the two dense layers on top.
        dropout: between the two.
        mean: of each input channel, in 0..255 and in the order of the pretrained file.
        std: likewise.
        stride_in_1x1: a stage's stride is in its first 1x1 convolution (Caffe), not in the 3x3.
        ceil_pool: the first pooling has no border and rounds up (Caffe).

    """

    labels: tuple[str, ...] = EMOTIONS[:7]
    input_size_px: int = 112
    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    hidden_size: int = 512
    dropout: float = 0.4
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    stride_in_1x1: bool = False
    ceil_pool: bool = False

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        if len(self.blocks) != 4 or min(self.blocks) < 1:
            raise ValueError(f'blocks must be four numbers of 1 or more, got {self.blocks}')
        if min(self.width, self.hidden_size) < 1 or self.input_size_px < 32:
            raise ValueError('width and hidden_size must be at least 1, input_size_px at least '
                             f'32, got {self.width}, {self.hidden_size}, {self.input_size_px}')
        if not 0 <= self.dropout < 1:
            raise ValueError(f'dropout must be in [0, 1), got {self.dropout}')
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError('mean and std must be three numbers, std above 0, got '
                             f'{self.mean} and {self.std}')
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError(f'labels must be two or more, all different, got {self.labels}')

    @property
    def embedding_size(self) -> int:
        """E: 2048 for ResNet-50."""
        return self.width * 8 * EXPANSION

    @property
    def is_resnet50(self) -> bool:
        """Whether the convolutions are those of ResNet-50."""
        return self.width == 64 and self.blocks == (3, 4, 6, 3)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: [N,I,s,s] -> [N,4W,s/stride,s/stride]."""

    def __init__(self, inputs: int, width: int, stride: int, stride_in_1x1: bool) -> None:
        super().__init__()
        outputs = width * EXPANSION
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    """One face, one frame: luma 0..255 [N,1,s,s] -> logits [N,K]."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(
            3, 2, padding=0 if config.ceil_pool else 1, ceil_mode=config.ceil_pool
        )
        inputs = width
        for stage, count in enumerate(config.blocks):
            blocks: list[nn.Module] = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(Bottleneck(inputs, width << stage, stride, config.stride_in_1x1))
                inputs = (width << stage) * EXPANSION
            self.add_module(f'layer{stage + 1}', nn.Sequential(*blocks))
        self.head = nn.Sequential(
            nn.Linear(inputs, config.hidden_size), nn.ReLU(), nn.Dropout(config.dropout),
            nn.Linear(config.hidden_size, len(config.labels)),
        )
        # Buffers that are no weights: the configuration is what is stored of them.
        self.register_buffer('mean', torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        self._begin()

    def _begin(self) -> None:
        """Initialise for ReLUs (He et al., ICCV 2015); each block begins as its shortcut."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    @property
    def base(self) -> dict[str, nn.Module]:
        """What a pretrained file fills: everything below the two dense layers."""
        return {name: module for name, module in self.named_children() if name != 'head'}

    def embedding(self, luma: Tensor) -> Tensor:
        """
        Return the average over the last map, float32 [N,E] (E is 2048 for ResNet-50).

        Args:
            luma: [N,1,s,s], uint8 or float, 0..255, any side s.

        """
        x = (self._scaled(luma.float()).expand(-1, 3, -1, -1) - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))  # [N,W,S/4,S/4]
        for stage in range(1, 5):
            x = cast('Tensor', self.get_submodule(f'layer{stage}')(x))
        return x.float().mean((2, 3))  # of [N,E,S/32,S/32]

    def forward(self, luma: Tensor) -> Tensor:
        """Return the logits, float32 [N,K], of luma [N,1,s,s] as in embedding."""
        return cast('Tensor', self.head(self.embedding(luma))).float()

    def _scaled(self, luma: Tensor) -> Tensor:
        side = self.config.input_size_px
        if tuple(luma.shape[-2:]) == (side, side):
            return luma
        # Bilinear upwards as preprocess.to_input; averaging downwards so that nothing aliases.
        return functional.interpolate(
            luma, size=(side, side), mode='bilinear', align_corners=False, antialias=True
        )


def save_resnet(network: ResNet, path: Path, about: Mapping[str, Any]) -> None:
    """
    Write weights and configuration to one safetensors file, whole or not at all.

    Args:
        network: what to write.
        path: where to.
        about: what else must stay with the weights, such as how the data was divided; JSON.

    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in
               network.state_dict().items()}
    stored = {'format': FORMAT, 'kind': KIND, 'config': asdict(network.config),
              'about': dict(about)}
    settings.write_atomically(path, save(tensors, {'ferros': json.dumps(stored, sort_keys=True)}))


def load_resnet(path: Path) -> ResNet:
    """
    Read a network that save_resnet wrote, in evaluation mode.

    Raises:
        WeightsError: the file holds another thing, another format, or not all of the network.

    """
    network = ResNet(_read_config(path))
    try:
        network.load_state_dict(load_file(path))
    except RuntimeError as err:
        raise WeightsError(f'{path}: does not hold the network it describes ({err})') from err
    return network.eval()


def _read_config(path: Path) -> ResNetConfig:
    try:
        found = settings.metadata(path)
    except (OSError, safetensors.SafetensorError) as err:
        raise WeightsError(f'{path}: cannot be read ({err})') from err
    if 'ferros' not in found:
        raise WeightsError(f'{path}: not a weight file of ferros (no configuration in it)')
    stored = json.loads(found['ferros'])
    if stored.get('kind') != KIND:
        raise WeightsError(f'{path}: holds a {stored.get("kind")}, expected a {KIND}')
    if stored.get('format') != FORMAT:
        version = stored.get('format')
        raise WeightsError(f'{path}: weight format {version}, this code reads {FORMAT}')
    if unknown := set(stored['config']) - {field.name for field in fields(ResNetConfig)}:
        raise WeightsError(f'{path}: unknown settings {sorted(unknown)} in its configuration')
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value
                              for key, value in stored['config'].items()}
    return ResNetConfig(**values)
