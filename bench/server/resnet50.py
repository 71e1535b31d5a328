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
"""A model folder with a ResNet-50 of random weights, int8: as slow as a trained one."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from cloud_server.model import LABELS, Temporal, TemporalConfig
from cloud_server.model_info import ENCODER_FILES, TEMPORAL_FILE
from cloud_server.training.export import write_graph
from cloud_server.training.quantize import quantize
from cloud_server.training.resnet import ResNet, ResNetConfig

INPUT_SIZE_PX = 112
EMBEDDING = 2048
PROJECTION = 64
# Images to find the ranges of the activations with: noise, since the weights are random too.
CALIBRATION_IMAGES = 4


class _Encoder(nn.Module):
    """Luma uint8 [N,1,S,S] -> features [N, labels + 2048], as the shipped encoder gives them."""

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, luma: Tensor) -> Tensor:
        embedding = self.network.embedding(luma)
        return torch.cat([self.network.head(embedding).float(), embedding], dim=1)


def write(folder: Path, seed: int = 0) -> None:
    """Write the folder: encoder.onnx, encoder_int8.onnx, temporal.onnx and model.json."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    network = ResNet(ResNetConfig(labels=LABELS, input_size_px=INPUT_SIZE_PX))
    encoder = _Encoder(network)
    config = TemporalConfig(embedding_size=EMBEDDING, projection_size=PROJECTION)
    temporal, state = Temporal(config), config.state_size
    write_graph(
        encoder, (torch.zeros(2, 1, INPUT_SIZE_PX, INPUT_SIZE_PX, dtype=torch.uint8),),
        ['luma'], ['features'], folder / ENCODER_FILES['fp32'],
    )
    features, zeros = torch.zeros(2, config.feature_size), torch.zeros(2, state)
    write_graph(
        temporal, (features, torch.zeros(2), torch.full((2,), 48.0), zeros, zeros),
        ['features', 'interval_s', 'face_size_px', 'h', 'c'], ['logits', 'h_out', 'c_out'],
        folder / TEMPORAL_FILE,
    )
    noise = np.random.default_rng(seed).integers(
        0, 256, (CALIBRATION_IMAGES, INPUT_SIZE_PX, INPUT_SIZE_PX), np.uint8
    )
    quantize(folder / ENCODER_FILES['fp32'], folder / ENCODER_FILES['int8'], noise, INPUT_SIZE_PX)
    _write_model_json(folder, config)


def _write_model_json(folder: Path, config: TemporalConfig) -> None:
    names = (*ENCODER_FILES.values(), TEMPORAL_FILE)
    document = {
        'format': 1, 'name': 'resnet50-random', 'version': '0', 'labels': list(LABELS),
        'masked_labels': ['contempt'], 'input_size_px': INPUT_SIZE_PX,
        'feature_size': config.feature_size, 'state_size': config.state_size,
        'reset_gap_s': 2.0, 'reset_gap_intervals': 3.0, 'temperature': [[48.0, 1.0]],
        'unknown_below': 0.4,
        'sha256': {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names
        },
    }
    (folder / 'model.json').write_text(json.dumps(document, indent=2) + '\n')


def main() -> None:
    """Write it where the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path)
    began_s = time.monotonic()
    folder = cast('Path', parser.parse_args().folder)
    write(folder)
    print(f'{folder}: written in {time.monotonic() - began_s:.0f} s')


if __name__ == '__main__':
    main()
