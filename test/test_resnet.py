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

"""The paper's network: ResNet-50 by its size and its names, with a top of ours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cloud_server.model import Encoder, EncoderConfig, load_encoder, read_about, save_weights
from cloud_server.preprocess import to_input
from cloud_server.training import settings
from cloud_server.training.ferplus import EMOTIONS
from cloud_server.training.resnet import (
    ResNet,
    ResNetConfig,
    load_resnet,
    save_resnet,
)

TINY = ResNetConfig(input_size_px=32, width=8, blocks=(1, 1, 1, 1), hidden_size=16)


@pytest.fixture(scope='module')
def resnet50() -> ResNet:
    return ResNet(ResNetConfig()).eval()


@pytest.fixture
def tiny() -> ResNet:
    torch.manual_seed(3)
    network = ResNet(TINY)
    with torch.no_grad():
        network.train()(torch.rand(16, 1, 32, 32) * 255)  # statistics that are not 0 and 1
    return network.eval()


def faces(count: int, side: int = 32) -> Tensor:
    rng = np.random.default_rng(5)
    return torch.from_numpy(rng.integers(0, 256, (count, 1, side, side), np.uint8))


def base_of(network: ResNet) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict().items()
            if not name.startswith('head.')}


def test_with_a_top_of_1000_classes_it_would_have_the_parameters_of_resnet50(
    resnet50: ResNet,
) -> None:
    top = nn.Linear(2048, 1000)
    parameters = [value for name, value in resnet50.named_parameters()
                  if not name.startswith('head.')]
    assert sum(map(torch.numel, (*parameters, *top.parameters()))) == 25_557_032


def test_its_tensors_carry_torchvisions_names(resnet50: ResNet) -> None:
    base = base_of(resnet50)
    assert len(base) + len(('fc.weight', 'fc.bias')) == 320
    names = {'conv1.weight', 'bn1.weight', 'bn1.bias', 'bn1.running_mean', 'bn1.running_var',
             'bn1.num_batches_tracked'}
    for stage, count in enumerate((3, 4, 6, 3), 1):
        for block in range(count):
            at = f'layer{stage}.{block}.'
            pairs = [(f'{at}conv{index}', f'{at}bn{index}') for index in (1, 2, 3)]
            if block == 0:
                pairs.append((f'{at}downsample.0', f'{at}downsample.1'))
            for convolution, norm in pairs:
                names |= {f'{convolution}.weight'} | {f'{norm}.{leaf}' for leaf in (
                    'weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')}
    assert set(base) == names
    assert base['conv1.weight'].shape == (64, 3, 7, 7)
    assert base['layer2.0.conv2.weight'].shape == (128, 128, 3, 3)
    assert base['layer4.0.downsample.0.weight'].shape == (2048, 1024, 1, 1)


def test_a_face_gives_an_embedding_and_the_logits_behind_it(resnet50: ResNet) -> None:
    with torch.inference_mode():
        embedding = resnet50.embedding(faces(1, 112))
        logits = resnet50(faces(1, 112))
        assert embedding.shape == (1, 2048) and logits.shape == (1, 7)
        torch.testing.assert_close(resnet50.head(embedding), logits)
    assert [type(layer) for layer in resnet50.head if not isinstance(layer, nn.Dropout)] == [
        nn.Linear, nn.ReLU, nn.Linear]
    assert resnet50.config.labels == EMOTIONS[:7]


def test_luma_may_be_bytes_or_floats(tiny: ResNet) -> None:
    torch.testing.assert_close(tiny(faces(3)), tiny(faces(3).float()))


@pytest.mark.parametrize('side', [16, 48])
def test_a_face_of_another_side_is_scaled_as_the_server_would(tiny: ResNet, side: int) -> None:
    small = faces(3, side)
    if side == 48:  # larger than the input: what is averaged has no fine noise
        small = torch.nn.functional.avg_pool2d(small.float(), 9, 1, 4).round().byte()
    scaled = np.stack([to_input(face[0], 32) for face in small.numpy()])
    expected = tiny.embedding(torch.from_numpy(scaled).unsqueeze(1))
    found = tiny.embedding(small)
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.995


def test_one_face_does_not_depend_on_the_others_in_its_batch(tiny: ResNet) -> None:
    luma = faces(5)
    torch.testing.assert_close(tiny(luma)[3:4], tiny(luma[3:4]), atol=1e-5, rtol=1e-5)


def test_luma_is_repeated_and_normalised_as_the_base_wants_it() -> None:
    network = ResNet(replace(TINY, mean=(10.0, 20.0, 30.0), std=(1.0, 2.0, 4.0))).eval()
    seen = []
    network.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.full((1, 1, 32, 32), 50, dtype=torch.uint8))
    torch.testing.assert_close(seen[0][0, :, 3, 4], torch.tensor([40.0, 15.0, 5.0]))


def test_without_settings_the_normalisation_is_torchvisions(resnet50: ResNet) -> None:
    mean, std = (torch.tensor(each) for each in (resnet50.config.mean, resnet50.config.std))
    torch.testing.assert_close(mean / 255, torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(std / 255, torch.tensor([0.229, 0.224, 0.225]))


def test_the_stride_and_the_pooling_can_be_caffes(tiny: ResNet) -> None:
    other = ResNet(replace(TINY, stride_in_1x1=True, ceil_pool=True)).eval()
    other.load_state_dict(tiny.state_dict())
    for network, first, second in ((tiny, (1, 1), (2, 2)), (other, (2, 2), (1, 1))):
        block = network.get_submodule('layer3.0')
        assert isinstance(block.conv1, nn.Conv2d) and isinstance(block.conv2, nn.Conv2d)
        assert (block.conv1.stride, block.conv2.stride) == (first, second)
    assert (other.maxpool.padding, other.maxpool.ceil_mode) == (0, True)
    luma = faces(2)
    assert other.embedding(luma).shape == tiny.embedding(luma).shape
    assert not torch.allclose(other.embedding(luma), tiny.embedding(luma))


def test_weights_carry_their_own_configuration(tiny: ResNet, tmp_path: Path) -> None:
    save_resnet(tiny, tmp_path / 'r.safetensors', {'split': {'seed': 1}})
    loaded = load_resnet(tmp_path / 'r.safetensors')
    assert loaded.config == TINY and not loaded.training
    assert read_about(tmp_path / 'r.safetensors') == {'split': {'seed': 1}}
    torch.testing.assert_close(loaded(faces(2)), tiny(faces(2)))
    assert [path.name for path in tmp_path.iterdir()] == ['r.safetensors']


def test_a_file_of_another_kind_or_format_is_refused_with_both(
    tiny: ResNet, tmp_path: Path
) -> None:
    encoder = Encoder(EncoderConfig(stem_channels=4, widths=(4,), blocks=(1,)))
    save_weights(encoder, tmp_path / 'e', {})
    with pytest.raises(ValueError, match='holds a encoder, expected a resnet'):
        load_resnet(tmp_path / 'e')
    save_resnet(tiny, tmp_path / 'r', {})
    with pytest.raises(ValueError, match='holds a resnet, expected a encoder'):
        load_encoder(tmp_path / 'r')
    stored = json.loads(settings.metadata(tmp_path / 'r')['ferros'])
    tensors = load_file(tmp_path / 'r')
    newer = {**stored, 'format': 2}
    odd = {**stored, 'config': {**stored['config'], 'wings': 2}}
    for name, about, match in (
        ('newer', newer, 'format 2, this code reads 1'), ('odd', odd, 'wings')
    ):
        save_file(tensors, tmp_path / name, {'ferros': json.dumps(about)})
        with pytest.raises(ValueError, match=match):
            load_resnet(tmp_path / name)
    del tensors['layer3.0.conv2.weight']
    save_file(tensors, tmp_path / 'less', {'ferros': json.dumps(stored)})
    with pytest.raises(ValueError, match=r'layer3\.0\.conv2\.weight'):
        load_resnet(tmp_path / 'less')
    save_file(tensors, tmp_path / 'bare')
    with pytest.raises(ValueError, match='not a weight file'):
        load_resnet(tmp_path / 'bare')
    (tmp_path / 'text').write_text('no weights')
    with pytest.raises(ValueError, match='cannot be read'):
        load_resnet(tmp_path / 'text')


@pytest.mark.parametrize('change', [
    {'blocks': (3, 4, 6)}, {'blocks': (0, 1, 1, 1)}, {'width': 0}, {'dropout': 1.0},
    {'mean': (1.0,)}, {'std': (1.0, 0.0, 1.0)}, {'input_size_px': 8}, {'labels': ('a',)},
    {'labels': ('a', 'a')},
])
def test_a_network_that_cannot_be_built_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(TINY, **change)
