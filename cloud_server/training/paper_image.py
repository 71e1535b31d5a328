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
The recipe of the paper's image experiment (its Table 1 and Figure 2): `recipe: paper`.

FER+ with seven classes and majority voting; ResNet-50 on pretrained weights, its top replaced by
two dense layers; first only those learn, the base and its batch statistics frozen, then everything
does; stochastic gradient descent. Rates, sizes and epochs are ours: the paper states none.

The epoch that serves held-out training faces best is kept. Validation is looked at once, at the
end, and stands beside the paper's figures, which are of the test split.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from cloud_server.model import WeightsError
from cloud_server.training import momentum, pretrained, settings
from cloud_server.training.augment import AugmentConfig, augment
from cloud_server.training.ferplus import DatasetError, Faces, Splits, load_splits, majority
from cloud_server.training.image import predict
from cloud_server.training.resnet import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ResNet,
    ResNetConfig,
    save_resnet,
)
from cloud_server.training.scores import Scores

WEIGHTS, CHECKPOINT = 'resnet.safetensors', 'resnet_checkpoint.safetensors'
VGGFACE2_BGR = (91.4953, 103.8827, 131.0912)
# What a pretrained file does not say of itself: how its network takes its input, and where Caffe's
# differs. `other` takes what the settings say under `network`.
BASES: dict[str, dict[str, Any]] = {
    'scratch': {},
    'imagenet': {'mean': IMAGENET_MEAN, 'std': IMAGENET_STD},
    'vggface2': {'mean': VGGFACE2_BGR, 'std': (1.0, 1.0, 1.0), 'stride_in_1x1': True,
                 'ceil_pool': True},
    'vggface2_rgb': {'mean': VGGFACE2_BGR[::-1], 'std': (1.0, 1.0, 1.0), 'stride_in_1x1': True,
                     'ceil_pool': True},
    'other': {},
}
NAMES = {'scratch': 'from scratch', 'imagenet': 'on ImageNet', 'vggface2': 'on VGGFace2',
         'vggface2_rgb': 'on VGGFace2', 'other': 'on other weights'}
HEAD, ALL = 'top only', 'everything'
# An epoch of everything against one of the top alone, whose backward pass is next to nothing.
ALL_COST = 3
# Faces measured at one time.
PREDICTED_AT_ONCE = 128


@dataclass(frozen=True)
class LightAugment(AugmentConfig):
    """Gentler than for ferros' own encoder: small movements, a little light, and mirrors."""

    rotation_deg: float = 6.0
    scale: float = 0.06
    shift: float = 0.04
    contrast: float = 0.1
    brightness: float = 12.0
    gamma: float = 0.1
    cutout_share: float = 0.0
    blur_share: float = 0.0
    noise_share: float = 0.0
    small_share: float = 0.0
    jpeg_share: float = 0.0
    mix_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuse to mix faces: a face of this recipe has one class."""
        super().__post_init__()
        if self.mix_share:
            raise ValueError(f'mix_share must be 0 with recipe: paper, got {self.mix_share}')


@dataclass(frozen=True)
class PaperConfig:
    """
    Everything that decides the weights, besides the data and the pretrained file.

    Attributes:
        recipe: `paper`; tells these settings from those of ferros' own encoder.
        base: what the convolutions begin with, one of BASES.
        pretrained: file or https address of the base; none with `scratch`.
        sha256: of that file; needed with an address.
        seed: of the division of the data and of everything drawn.
        held_out: training faces kept for selecting the epoch.
        head_epochs: epochs in which only the two dense layers learn.
        head_learning_rate: the peak of those.
        epochs: epochs in which everything learns, after those.
        learning_rate: the peak of these.
        warm_up: share of either phase in which the rate climbs; it falls in a cosine.
        precision: bf16 (autocast) or fp32.
        smoke: marks figures that only prove that the command works.
        network: the ResNet and its top.
        augment: how training faces are varied, at their own 48 px.

    """

    recipe: str = 'paper'
    base: str = 'imagenet'
    pretrained: str = ''
    sha256: str = ''
    seed: int = 1
    held_out: int = 3000
    head_epochs: int = 4
    head_learning_rate: float = 0.03
    epochs: int = 20
    learning_rate: float = 0.02
    warm_up: float = 0.05
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: str = 'bf16'
    smoke: bool = False
    network: ResNetConfig = field(default_factory=ResNetConfig)
    augment: LightAugment = field(default_factory=LightAugment)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.recipe != 'paper':
            raise ValueError(f'recipe must be paper here, got {self.recipe!r}')
        if self.base not in BASES:
            raise ValueError(f'base must be one of {sorted(BASES)}, got {self.base!r}')
        self._check_base()
        if self.precision not in ('bf16', 'fp32'):
            raise ValueError(f'precision must be bf16 or fp32, got {self.precision!r}')
        if self.head_epochs < 0 or min(self.epochs, self.batch_size, self.held_out) < 1:
            raise ValueError('epochs, batch_size and held_out must be at least 1, head_epochs 0, '
                             f'got {self.epochs}, {self.batch_size}, {self.held_out}, '
                             f'{self.head_epochs}')
        if not (min(self.learning_rate, self.head_learning_rate) > 0 and self.weight_decay >= 0
                and 0 < self.momentum < 1 and 0 <= self.warm_up < 1):
            raise ValueError(
                'learning_rate, head_learning_rate, momentum, weight_decay or warm_up out of '
                f'range: {self.learning_rate}, {self.head_learning_rate}, {self.momentum}, '
                f'{self.weight_decay}, {self.warm_up}')

    def _check_base(self) -> None:
        if self.base == 'scratch' and (self.head_epochs or self.pretrained):
            raise ValueError('base: scratch knows nothing yet: head_epochs must be 0 and '
                             f'pretrained empty, got {self.head_epochs} and {self.pretrained!r}')
        fixed, plain = BASES[self.base], ResNetConfig()
        for name, value in fixed.items():
            if getattr(self.network, name) not in (value, getattr(plain, name)):
                raise ValueError(f'base: {self.base} has {name} {value}, the settings say '
                                 f'{getattr(self.network, name)}; leave it out or use base: other')

    @property
    def resnet(self) -> ResNetConfig:
        """The network, its input as the base takes it."""
        return replace(self.network, **BASES[self.base])

    @property
    def total_epochs(self) -> int:
        """Of both phases."""
        return self.head_epochs + self.epochs

    @property
    def title(self) -> str:
        """What a table calls the network, `ResNet-50 on ImageNet`."""
        network = self.network
        size = '-50' if network.is_resnet50 else f' {network.blocks} of width {network.width}'
        return f'ResNet{size} {NAMES[self.base]}'

    @property
    def is_smoke(self) -> bool:
        """Whether the figures mean nothing."""
        return self.smoke or not self.network.is_resnet50

    def split(self) -> dict[str, Any]:
        """Return how the data is divided, as load_splits takes it."""
        return {'held_out': self.held_out, 'temporal': 0, 'seed': self.seed}


def learning_rate(config: PaperConfig, epoch: float) -> float:
    """Return the rate at an epoch in [0, total_epochs]: in each phase a line up, a cosine down."""
    if epoch < config.head_epochs:
        peak, progress = config.head_learning_rate, epoch / config.head_epochs
    else:
        peak, progress = config.learning_rate, (epoch - config.head_epochs) / config.epochs
    if progress < config.warm_up:
        return peak * max(progress / config.warm_up, 0.02)
    rest = (progress - config.warm_up) / (1 - config.warm_up)
    return peak * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


class Trainer:
    """One training: network, optimiser, where it stands, and the best epoch so far."""

    def __init__(
        self, config: PaperConfig, faces: Faces, device: torch.device, base: Path | None = None
    ) -> None:
        if (base is None) != (config.base == 'scratch'):
            raise settings.SettingsError(
                f'base: {config.base} needs a pretrained file: --pretrained FILE_OR_URL (with '
                '--sha256 where it is an address), or base: scratch with head_epochs: 0')
        torch.manual_seed(config.seed)
        torch.backends.cudnn.deterministic = True  # else a GPU resumes to another result
        self.config, self.device = config, device
        self.base_digest = pretrained.digest(base) if base else ''
        self.key = settings.digest(replace(config, pretrained='', sha256='')) + self.base_digest
        self.network = ResNet(config.resnet)
        self.said = pretrained.fill_base(self.network, base) if base else []
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        truth = majority(faces.votes)
        known = truth >= 0
        if not known.any():
            raise DatasetError(f'none of {len(faces)} training faces has a majority')
        self.discarded = int((~known).sum())
        self.luma = torch.from_numpy(faces.luma[known]).unsqueeze(1).to(device)
        self.truth = torch.from_numpy(truth[known].astype(np.int64)).to(device)
        self.steps = max(1, len(self.luma) // config.batch_size)  # an epoch
        self.epoch = 0
        self.best: dict[str, Tensor] = {}
        self.best_epoch, self.best_accuracy = 0, -1.0
        self.optimizer = self._optimizer()

    @property
    def phase(self) -> str:
        """What learns in the epoch that comes next."""
        return HEAD if self.epoch < self.config.head_epochs else ALL

    def _optimizer(self) -> torch.optim.SGD:
        """Begin the phase that comes next: with the parameters that learn in it, from rest."""
        whole = self.phase == ALL
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(whole or name.startswith('head.'))
            parameter.grad = None
        learning = [p for p in self.network.parameters() if p.requires_grad]
        return torch.optim.SGD(
            [{'params': [p for p in learning if p.ndim > 1],
              'weight_decay': self.config.weight_decay},
             {'params': [p for p in learning if p.ndim <= 1], 'weight_decay': 0.0}],
            lr=self.config.learning_rate, momentum=self.config.momentum, nesterov=True,
        )

    def run_epoch(self) -> float:
        """Train one epoch, reproducible from its number; return the mean loss."""
        config, total = self.config, 0.0
        if self.epoch == config.head_epochs:
            self.optimizer = self._optimizer()
        self.network.train()
        if self.phase == HEAD:
            for module in self.network.base.values():
                module.eval()  # its batch statistics are frozen too
        seed = config.seed * 100_003 + self.epoch
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout
        order = torch.randperm(len(self.luma), generator=generator)
        bar = tqdm(range(self.steps), leave=False, mininterval=1.0,
                   desc=f'epoch {self.epoch + 1}/{config.total_epochs} ({self.phase})')
        for step in bar:
            rows = order[step * config.batch_size : (step + 1) * config.batch_size]
            rate = learning_rate(config, self.epoch + step / self.steps)
            total += self._step(rows.to(self.device), rate, generator)
            bar.set_postfix_str(f'loss {total / (step + 1):.3f}', refresh=False)
        self.epoch += 1
        return total / self.steps

    def _step(self, rows: Tensor, rate: float, generator: torch.Generator) -> float:
        with torch.no_grad():
            luma = augment(self.luma[rows].float(), self.config.augment, generator)
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        bf16 = self.config.precision == 'bf16'
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            with torch.set_grad_enabled(self.phase == ALL):
                embedding = self.network.embedding(luma)
            logits = self.network.head(embedding)
        loss = functional.cross_entropy(logits.float(), self.truth[rows])
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())

    def keep_best(self, accuracy: float) -> None:
        """Remember the weights if no earlier epoch was as accurate on the held-out faces."""
        if accuracy > self.best_accuracy:
            self.best_epoch, self.best_accuracy = self.epoch, accuracy
            self.best = {name: value.detach().cpu().clone()
                         for name, value in self.network.state_dict().items()}

    def save(self, path: Path, history: list[dict[str, Any]]) -> None:
        """Write a checkpoint; a kill in the middle leaves the previous one."""
        tensors = {f'network.{k}': v for k, v in self.network.state_dict().items()}
        tensors |= {f'best.{k}': v for k, v in self.best.items()}
        tensors |= momentum.to_tensors(self.optimizer)
        data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {
            'settings': self.key, 'epoch': str(self.epoch), 'history': json.dumps(history),
            'best_epoch': str(self.best_epoch), 'best_accuracy': repr(self.best_accuracy),
        })
        settings.write_atomically(path, data)

    def resume(self, path: Path) -> list[dict[str, Any]]:
        """
        Continue from a checkpoint; return the history so far.

        Raises:
            SettingsError: it was written under other settings or on another base.

        """
        found = settings.continues(path, self.key)
        tensors = load_file(path)
        self.network.load_state_dict(_part(tensors, 'network.'))
        self.best = _part(tensors, 'best.')
        self.best_epoch = int(found['best_epoch'])
        self.best_accuracy = float(found['best_accuracy'])
        self.epoch = int(found['epoch'])
        self.optimizer = self._optimizer()
        if self.epoch != self.config.head_epochs:  # a phase that begins does so from rest
            momentum.restore(self.optimizer, tensors)
        history: list[dict[str, Any]] = json.loads(found['history'])
        return history


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def score(
    network: ResNet, faces: Faces, device: torch.device, *, bf16: bool = False
) -> Scores:
    """
    Return how the network does on the faces that have a majority.

    Raises:
        DatasetError: none has.

    """
    truth = majority(faces.votes)
    known = truth >= 0
    if not known.any():
        raise DatasetError(f'none of {len(faces)} faces has a majority: nothing to measure on')
    logits = predict(network, faces.luma[known], device, PREDICTED_AT_ONCE, bf16=bf16)
    return Scores.of(truth[known], logits.argmax(1).numpy(), network.config.labels)


@dataclass(frozen=True)
class Outcome:
    """
    What a training has to say beside its weights.

    Attributes:
        config: its settings.
        base_digest: SHA-256 of the pretrained file, empty without one.
        said: what was said about that file.
        discarded: training faces without a majority.
        best_epoch: whose weights were kept.
        best_accuracy: of that epoch on the held-out faces.
        history: one mapping per epoch.

    """

    config: PaperConfig
    base_digest: str
    said: list[str]
    discarded: int
    best_epoch: int
    best_accuracy: float
    history: list[dict[str, Any]]


def train(
    config: PaperConfig, splits: Splits, out: Path, device: torch.device, base: Path | None = None
) -> Outcome:
    """Train, or continue a training that was stopped; leaves resnet.safetensors in out."""
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, splits.encoder, device, base)
    checkpoint = out / CHECKPOINT
    history = trainer.resume(checkpoint) if checkpoint.exists() else []
    for line in trainer.said:
        print(line)
    print(f'{len(trainer.luma)} faces to learn from ({splits.twins} twins of validation dropped, '
          f'{trainer.discarded} without a majority discarded), {len(splits.held_out)} held out; '
          f'{config.title}; {device}', flush=True)
    while trainer.epoch < config.total_epochs:
        began, phase = time.monotonic(), trainer.phase
        loss = trainer.run_epoch()
        if not math.isfinite(loss):
            raise settings.SettingsError(
                f'epoch {trainer.epoch}: the loss is {loss}: the training has diverged; a lower '
                'learning_rate, or a lower head_learning_rate in the first phase, may hold it')
        held_out = score(trainer.network, splits.held_out, device,
                         bf16=config.precision == 'bf16')
        trainer.keep_best(held_out.accuracy)
        history.append({
            'epoch': trainer.epoch, 'phase': phase, 'loss': round(loss, 4),
            'held_out_accuracy': round(held_out.accuracy, 4),
            'held_out_macro_f1': round(float(held_out.f1.mean()), 4),
            'seconds': round(time.monotonic() - began, 1),
        })
        trainer.save(checkpoint, history)
        left_min = _seconds_left(config, history) / 60
        print(f'{json.dumps(history[-1])}  about {left_min:.0f} min left', flush=True)
    trainer.network.load_state_dict(trainer.best)
    save_resnet(trainer.network, out / WEIGHTS, {
        'recipe': 'paper', 'base': config.base, 'base_sha256': trainer.base_digest,
        'epoch': trainer.best_epoch, 'split': config.split(),
    })
    return Outcome(config, trainer.base_digest, trainer.said, trainer.discarded,
                   trainer.best_epoch, trainer.best_accuracy, history)


def _seconds_left(config: PaperConfig, history: list[dict[str, Any]]) -> float:
    seconds: float = history[-1]['seconds']
    done: int = history[-1]['epoch']
    if history[-1]['phase'] == ALL:
        return seconds * (config.total_epochs - done)
    return seconds * (config.head_epochs - done + ALL_COST * config.epochs)


def run(args: argparse.Namespace) -> int:
    """Run `train-image` with `recipe: paper`."""
    from cloud_server.training.paper_image_report import report, show
    from cloud_server.training.study import command_of

    try:
        if args.start or args.teacher:
            raise settings.SettingsError('--start and --teacher belong to `recipe: ferros`')
        given = {'epochs': args.epochs, 'seed': args.seed, 'pretrained': args.pretrained,
                 'sha256': args.sha256}
        config = settings.read(PaperConfig, args.config, given)
        base = (pretrained.obtain(config.pretrained, config.sha256, args.out)
                if config.pretrained else None)
        device = settings.pick_device(args.device)
        splits = load_splits(args.data, **config.split())
        outcome = train(config, splits, args.out, device, base)
        command = command_of('train-image', args, 'epochs', 'seed', 'pretrained', 'sha256')
        record = report(outcome, splits, device, args.out, command)
    except (DatasetError, WeightsError, settings.SettingsError) as err:
        print(f'ferros-cloud train-image: {err}', file=sys.stderr)
        return 1
    print(show(record))
    print(f'wrote {args.out / WEIGHTS}, image.study.json and confusion.png')
    return 0
