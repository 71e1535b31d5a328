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

"""The paper's image recipe at smoke size, through the command, on drawn faces."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import command_line
import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_ferplus import make_faces, write_folder
from torch import Tensor

from cloud_server.model import read_about
from cloud_server.training import image, paper_image, report_read, settings
from cloud_server.training.ferplus import Faces, load_splits
from cloud_server.training.image import ImageConfig
from cloud_server.training.paper_image import PaperConfig, Trainer, learning_rate
from cloud_server.training.resnet import IMAGENET_MEAN, ResNet, ResNetConfig, load_resnet

HEAD_EPOCHS, EPOCHS = 2, 4
YAML = f"""
recipe: paper
base: imagenet
held_out: 60
head_epochs: {HEAD_EPOCHS}
head_learning_rate: 0.05
epochs: {EPOCHS}
learning_rate: 0.05
batch_size: 16
precision: fp32
network: {{width: 8, blocks: [1, 1, 1, 1], input_size_px: 32, hidden_size: 16, dropout: 0.1}}
augment: {{rotation_deg: 2.0, scale: 0.02, shift: 0.02}}
"""
TWINS, UNDECIDED = 3, 5

command = partial(command_line.command, image)


def join(*parts: Faces) -> Faces:
    names = (name for part in parts for name in part.names)
    return Faces(tuple(names), np.concatenate([part.luma for part in parts]),
                 np.concatenate([part.votes for part in parts]))


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write faces to learn from, a few twins of validation and a few that nobody agrees on."""
    valid, undecided = make_faces(70, 2), make_faces(UNDECIDED, 3)
    undecided.votes[:] = [4, 4, 2, 0, 0, 0, 0, 0, 0, 0]
    twins = Faces(tuple(f'twin{index}.png' for index in range(TWINS)),
                  np.ascontiguousarray(valid.luma[:TWINS, :, ::-1]), valid.votes[:TWINS])
    return write_folder(tmp_path_factory.mktemp('ferplus'), {
        'train': join(make_faces(260, 1), undecided, twins), 'valid': valid,
    })


@pytest.fixture(scope='module')
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('settings') / 'paper.yaml'
    path.write_text(YAML)
    return path


@pytest.fixture(scope='module')
def base_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a base as torchvision would, with a top of 1000 classes."""
    torch.manual_seed(7)
    network = ResNet(ResNetConfig(width=8, blocks=(1, 1, 1, 1), input_size_px=32))
    with torch.no_grad():
        network.train()(torch.rand(16, 1, 32, 32) * 255)
    tensors = {name: value for name, value in network.state_dict().items()
               if not name.startswith('head.')}
    path = tmp_path_factory.mktemp('base') / 'resnet.safetensors'
    save_file(tensors | {'fc.weight': torch.zeros(1000, 256)}, path)
    return path


@pytest.fixture(scope='module')
def options(data: Path, config_file: Path, base_file: Path) -> tuple[object, ...]:
    return '--data', data, '--config', config_file, '--pretrained', base_file


@pytest.fixture(scope='module')
def trained(options: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the whole recipe once, as anyone would."""
    out = tmp_path_factory.mktemp('trained')
    assert command(*options, '--out', out) == 0
    return out


def record_of(folder: Path) -> report_read.Run:
    """Return what the report reads, which checks the record on the way."""
    (run,) = report_read.read_runs([folder])
    return run


def test_it_learns_and_keeps_the_epoch_that_was_best_on_the_held_out_faces(
    trained: Path, data: Path
) -> None:
    history = record_of(trained).record.history
    assert [entry['epoch'] for entry in history] == list(range(1, HEAD_EPOCHS + EPOCHS + 1))
    assert history[-1]['loss'] < 0.8 * history[0]['loss']
    held_out = [entry['held_out_accuracy'] for entry in history]
    assert max(held_out) > 0.5  # chance is 1/7
    about = read_about(trained / 'resnet.safetensors')
    assert about['epoch'] == 1 + held_out.index(max(held_out))
    splits = load_splits(data, **about['split'], progress=False)
    network = load_resnet(trained / 'resnet.safetensors')
    scores = paper_image.score(network, splits.held_out, torch.device('cpu'))
    assert scores.accuracy == pytest.approx(max(held_out), abs=1e-4)


def test_the_record_holds_validation_figures_that_the_report_can_draw(
    trained: Path, data: Path
) -> None:
    run = record_of(trained)
    scores, record = report_read.scores_of(run), run.record
    assert record.kind == 'image' and record.smoke
    assert record.network == 'ResNet (1, 1, 1, 1) of width 8 on ImageNet'
    assert scores.data == 'FER+ validation, 70 faces'
    network = load_resnet(trained / 'resnet.safetensors')
    splits = load_splits(data, held_out=60, temporal=0, seed=1, progress=False)
    own = paper_image.score(network, splits.valid, torch.device('cpu'))
    assert record.result['confusion'] == own.confusion.tolist()
    notes = ' '.join(record.notes)
    assert 'test split' in notes and 'are ours' in notes and 'fc.weight [1000, 256]' in notes
    assert f'{TWINS} training faces whose pixels occur in validation are dropped' in notes
    assert re.search(r'[1-5] training and 0 validation faces have no such majority', notes)
    assert '--pretrained resnet.safetensors' in record.command
    assert str(data.parent) not in json.dumps(record.settings) + record.command


def test_the_confusion_matrix_is_a_picture(trained: Path) -> None:
    picture = cv2.imread(str(trained / 'confusion.png'))
    assert picture is not None and min(picture.shape[:2]) > 300
    assert np.ptp(picture) > 200


def test_the_table_stands_beside_the_papers_rows(
    trained: Path, options: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*options, '--out', trained) == 0  # has ended: nothing is trained again
    shown = capsys.readouterr().out
    assert '"epoch"' not in shown
    assert 'RN50 on VGG (the paper, test)' in shown and '0.65 / 0.71' in shown
    assert 'RN50 on ImageNet (neutral, sadness exchanged)' in shown
    assert '(ours, validation)' in shown and 'SMOKE RUN' in shown
    assert 'exchanged to 0.861; the paper says 0.86' in shown


def smoke_trainer(data: Path, base: Path, **changes: object) -> Trainer:
    splits = load_splits(data, held_out=60, temporal=0, seed=1, progress=False)
    network = ResNetConfig(width=8, blocks=(1, 1, 1, 1), input_size_px=32, hidden_size=16)
    config = PaperConfig(held_out=60, head_epochs=1, epochs=1, batch_size=32, precision='fp32',
                         network=network)
    return Trainer(replace(config, **changes), splits.encoder, torch.device('cpu'), base)


def test_first_only_the_top_learns_and_then_everything(data: Path, base_file: Path) -> None:
    trainer, stored = smoke_trainer(data, base_file), load_file(base_file)

    def changed() -> set[str]:
        now = trainer.network.state_dict()
        return {name for name, value in stored.items()
                if name in now and not torch.equal(now[name], value)}

    head = {name: value.clone() for name, value in trainer.network.head.state_dict().items()}
    trainer.run_epoch()
    assert changed() == set()  # batch statistics included
    assert not any(torch.equal(value, head[name])
                   for name, value in trainer.network.head.state_dict().items())
    trainer.run_epoch()
    assert changed() == set(stored) - {'fc.weight'}


def test_half_precision_learns_too(data: Path, base_file: Path) -> None:
    changes = {'head_epochs': 0, 'batch_size': 32}
    half = smoke_trainer(data, base_file, precision='bf16', **changes)
    full = smoke_trainer(data, base_file, **changes)
    assert half.run_epoch() == pytest.approx(full.run_epoch(), rel=0.1)
    assert all(value.dtype == torch.float32 for value in half.network.parameters())


def same_weights(one: Path, other: Path) -> None:
    left, right = load_file(one), load_file(other)
    assert set(left) == set(right)
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], msg=name)


def momenta(path: Path) -> dict[str, Tensor]:
    return {name: value for name, value in load_file(path).items() if 'momentum' in name}


@pytest.mark.timeout(600)
def test_a_killed_training_ends_as_if_it_had_not_been_killed(
    trained: Path, options: tuple[object, ...], tmp_path: Path
) -> None:
    words = [sys.executable, '-m', 'cloud_server', 'train-image', *map(str, options),
             '--out', str(tmp_path), '--threads', '1']
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'},
                               cwd=Path(__file__).parent.parent)
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if f'"epoch": {HEAD_EPOCHS + 2}' in line:
                process.kill()
                break
    assert process.wait() == -9
    assert not (tmp_path / 'resnet.safetensors').exists()
    assert momenta(tmp_path / paper_image.CHECKPOINT)
    assert command(*options, '--out', tmp_path) == 0
    same_weights(tmp_path / 'resnet.safetensors', trained / 'resnet.safetensors')
    assert record_of(tmp_path).record.result == record_of(trained).record.result


def test_a_training_stopped_between_its_phases_ends_likewise(
    trained: Path, options: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Trainer.save

    def stopped(self: Trainer, *args: object) -> None:
        save(self, *args)
        if self.epoch == HEAD_EPOCHS:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, 'save', stopped)
    with pytest.raises(KeyboardInterrupt):
        command(*options, '--out', tmp_path)
    monkeypatch.undo()
    assert command(*options, '--out', tmp_path) == 0
    same_weights(tmp_path / 'resnet.safetensors', trained / 'resnet.safetensors')


def test_a_checkpoint_of_other_settings_or_another_base_is_refused(
    trained: Path, data: Path, config_file: Path, base_file: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = ('--data', data, '--config', config_file, '--out', trained)
    assert command(*here, '--pretrained', base_file, '--epochs', 2) == 1
    assert 'written under settings' in capsys.readouterr().err
    tensors = load_file(base_file)
    save_file(tensors | {'conv1.weight': tensors['conv1.weight'] + 1}, tmp_path / 'b.safetensors')
    assert command(*here, '--pretrained', tmp_path / 'b.safetensors') == 1
    assert 'written under settings' in capsys.readouterr().err


@pytest.mark.parametrize(('old', 'new', 'named'), [
    ('head_learning_rate: 0.05', 'head_learning_rate: 1.0e+30', 'the training has diverged'),
    ('recipe: paper', 'recipe: soup', "got 'soup'"),
    ('base: imagenet', 'base: vgg', "base must be one of .*'vgg'"),
    ('width: 8', 'width: 8, wings: 2', 'wings'),
    ('shift: 0.02', 'mix_share: 0.5', 'mix_share must be 0'),
    ('width: 8', 'width: 16', r'conv1\.weight \(expected \[16, 3, 7, 7\]'),
])
def test_what_is_wrong_is_one_clear_line(
    old: str, new: str, named: str, options: tuple[object, ...], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / 'c.yaml').write_text(YAML.replace(old, new))
    assert command(*options, '--config', tmp_path / 'c.yaml', '--out', tmp_path / 'o') == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'ferros-cloud train-image: ' in error
    assert re.search(named, error)


def test_options_of_the_other_recipe_are_refused(
    options: tuple[object, ...], data: Path, config_file: Path, base_file: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command('--data', data, '--out', tmp_path, '--pretrained', base_file) == 1
    assert '--pretrained and --sha256 belong to `recipe: paper`' in capsys.readouterr().err
    assert command(*options, '--out', tmp_path, '--start', base_file) == 1
    assert '--start and --teacher belong to `recipe: ferros`' in capsys.readouterr().err
    assert command('--data', data, '--out', tmp_path, '--config', config_file) == 1
    assert 'base: imagenet needs a pretrained file' in capsys.readouterr().err


def test_the_recipe_of_ferros_may_be_named_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / 'f.yaml').write_text('recipe: ferros\nepochs: 3\n')
    assert settings.recipe(tmp_path / 'f.yaml') == settings.recipe(None) == 'ferros'
    config = settings.read(ImageConfig, tmp_path / 'f.yaml', {})
    assert config == ImageConfig(epochs=3)
    assert settings.digest(config) == settings.digest(ImageConfig(epochs=3))


def test_each_base_brings_its_normalisation_and_layout() -> None:
    bgr, rgb = PaperConfig(base='vggface2').resnet, PaperConfig(base='vggface2_rgb').resnet
    assert bgr.mean == (91.4953, 103.8827, 131.0912) == rgb.mean[::-1]
    assert bgr.std == rgb.std == (1.0, 1.0, 1.0)
    assert bgr.stride_in_1x1 and bgr.ceil_pool and rgb.stride_in_1x1 and rgb.ceil_pool
    plain = PaperConfig(base='imagenet').resnet
    assert plain.mean == IMAGENET_MEAN and not plain.stride_in_1x1 and not plain.ceil_pool
    own = ResNetConfig(mean=(1.0, 2.0, 3.0), stride_in_1x1=True)
    assert PaperConfig(base='other', network=own).resnet == own
    with pytest.raises(ValueError, match='base: imagenet has mean'):
        PaperConfig(base='imagenet', network=own)
    assert PaperConfig(base='vggface2').title == 'ResNet-50 on VGGFace2'


@pytest.mark.parametrize('change', [
    {'epochs': 0}, {'head_epochs': -1}, {'precision': 'fp8'}, {'momentum': 1.0},
    {'learning_rate': 0.0}, {'weight_decay': -1.0}, {'warm_up': 1.0}, {'held_out': 0},
    {'base': 'scratch', 'head_epochs': 2}, {'base': 'scratch', 'pretrained': 'w.pth'},
])
def test_settings_that_cannot_be_trained_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=list(change)[-1]):
        replace(PaperConfig(), **change)


def test_the_rate_climbs_once_and_falls_to_nothing_in_either_phase() -> None:
    config = PaperConfig(head_epochs=2, epochs=8, head_learning_rate=0.5, learning_rate=0.1)
    head = [learning_rate(config, step / 100) for step in range(200)]
    everything = [learning_rate(config, 2 + step / 100) for step in range(801)]
    for rates, peak in ((head, 0.5), (everything, 0.1)):
        top = int(np.argmax(rates))
        assert rates[top] == pytest.approx(peak, rel=0.01)
        assert (np.diff(rates[: top + 1]) >= 0).all() and (np.diff(rates[top:]) < 0).all()
        assert rates[-1] < 0.001 * peak


def test_the_shipped_settings_are_the_defaults_and_a_scratch_that_freezes_nothing(
    root: Path,
) -> None:
    shipped = settings.read(PaperConfig, root / 'config' / 'paper_image.yaml', {})
    assert shipped == PaperConfig() and shipped.network.is_resnet50 and not shipped.is_smoke
    scratch = settings.read(PaperConfig, root / 'config' / 'paper_image_scratch.yaml', {})
    assert scratch.base == 'scratch' and scratch.head_epochs == 0
    assert scratch.title == 'ResNet-50 from scratch'


def test_one_setting_of_the_variation_leaves_the_others_light(config_file: Path) -> None:
    config = settings.read(PaperConfig, config_file, {})
    assert config.augment == replace(PaperConfig().augment, rotation_deg=2.0, scale=0.02,
                                     shift=0.02)
    assert config.augment.cutout_share == 0.0 < ImageConfig().augment.cutout_share
