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

"""`ferros-cloud train-image`: the encoder, from scratch, on the taggers' votes of FER+."""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from cloud_server.model import (
    Encoder,
    EncoderConfig,
    WeightsError,
    load_encoder,
    multiply_adds,
    read_about,
    save_weights,
)
from cloud_server.training import momentum, settings
from cloud_server.training.augment import AugmentConfig, augment, mix
from cloud_server.training.ferplus import DatasetError, Faces, load_splits, majority, targets
from cloud_server.training.scores import Scores
from cloud_server.training.study import SMOKE_BELOW, Record, command_of


@dataclass(frozen=True)
class ImageConfig:
    """Everything that decides the weights, besides the data."""

    seed: int = 1
    held_out: int = 3000
    temporal: int = 2500
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.12  # the peak of one cycle
    warm_up: float = 0.1  # share of the steps that climb to it
    weight_decay: float = 5e-4
    momentum: float = 0.9
    ema_decay: float = 0.997
    small_side_px: int = 36  # the first epochs run at this side: a third of the time, no loss
    small_share: float = 0.4  # of the epochs
    teacher_share: float = 0.5  # of the target that teachers give, where there are any
    precision: str = 'bf16'
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.precision not in ('bf16', 'fp32'):
            raise ValueError(f'precision must be bf16 or fp32, got {self.precision!r}')
        if min(self.epochs, self.batch_size, self.small_side_px) < 1:
            raise ValueError(f'epochs, batch_size and small_side_px must be at least 1: {self}')
        if not (0 < self.ema_decay < 1 and self.learning_rate > 0 and 0 <= self.small_share <= 1
                and 0 <= self.teacher_share <= 1):
            raise ValueError('ema_decay, learning_rate, small_share or teacher_share out of '
                             f'range: {self}')


def learning_rate(config: ImageConfig, progress: float) -> float:
    """Return the rate at a share of the training in [0, 1]: up in a line, down in a cosine."""
    if progress < config.warm_up:
        return config.learning_rate * max(progress / config.warm_up, 0.02)
    rest = (progress - config.warm_up) / max(1 - config.warm_up, 1e-9)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


class Trainer:
    """One training: network, averaged network, optimiser, and where it stands."""

    def __init__(
        self, config: ImageConfig, faces: Faces, device: torch.device,
        start: Path | None = None, teachers: Sequence[Path] = (),
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        weights = (*([start] if start else []), *teachers)
        self.key = settings.digest(config) + ''.join(map(settings.file_digest, weights))
        self.encoder = _begin(config, start).to(device)
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        decayed = [p for p in self.encoder.parameters() if p.ndim > 1]
        plain = [p for p in self.encoder.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.SGD(
            [{'params': decayed, 'weight_decay': config.weight_decay},
             {'params': plain, 'weight_decay': 0.0}],
            lr=config.learning_rate, momentum=config.momentum, nesterov=True,
        )
        target, weight = targets(faces.votes)
        useful = np.flatnonzero(weight > 0)
        if teachers:
            taught = teach(teachers, faces.luma, config, device)
            target = (1 - config.teacher_share) * target + config.teacher_share * taught
        self.luma = torch.from_numpy(faces.luma[useful]).unsqueeze(1).to(device)
        self.target = torch.from_numpy(target[useful]).to(device)
        self.weight = torch.from_numpy(weight[useful]).to(device)
        self.epoch = 0
        self.steps = max(1, len(useful) // config.batch_size)  # an epoch

    def run_epoch(self) -> float:
        """Train one epoch, reproducible from its number; return the mean loss."""
        config, total = self.config, 0.0
        generator = torch.Generator().manual_seed(config.seed * 100_003 + self.epoch)
        torch.manual_seed(config.seed * 100_003 + self.epoch)  # dropout
        order = torch.randperm(len(self.luma), generator=generator)
        side = config.encoder.input_size_px
        if self.epoch < config.small_share * config.epochs:
            side = min(side, config.small_side_px)
        self.encoder.train()
        bar = tqdm(range(self.steps), desc=f'epoch {self.epoch + 1}/{config.epochs}', leave=False,
                   mininterval=1.0)
        for step in bar:
            rows = order[step * config.batch_size : (step + 1) * config.batch_size].to(self.device)
            loss = self._step(rows, side, (self.epoch + step / self.steps) / config.epochs,
                              generator)
            total += loss
            bar.set_postfix_str(f'loss {total / (step + 1):.3f}', refresh=False)
        self.epoch += 1
        return total / self.steps

    def _step(
        self, rows: Tensor, side: int, progress: float, generator: torch.Generator
    ) -> float:
        config = self.config
        with torch.no_grad():
            luma = augment(self.luma[rows].float(), config.augment, generator)
            luma, target, weight = mix(
                luma, self.target[rows], self.weight[rows], config.augment.mix_share, generator
            )
            if side != luma.shape[-1]:
                luma = functional.interpolate(luma, size=(side, side), mode='area')
        for group in self.optimizer.param_groups:
            group['lr'] = learning_rate(config, progress)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == 'bf16'):
            features = self.encoder(luma)
        logits = self.encoder.logits(features).float()
        loss = (weight * functional.cross_entropy(logits, target, reduction='none')).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._average(progress * config.epochs * self.steps)
        return float(loss.detach())

    @torch.no_grad()
    def _average(self, step: float) -> None:
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        for mean, value in zip(self.average.state_dict().values(),
                               self.encoder.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def save(self, path: Path, history: list[dict[str, Any]]) -> None:
        """Write a checkpoint; a kill in the middle leaves the previous one."""
        tensors = {f'encoder.{k}': v for k, v in self.encoder.state_dict().items()}
        tensors |= {f'average.{k}': v for k, v in self.average.state_dict().items()}
        tensors |= momentum.to_tensors(self.optimizer)
        data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {
            'settings': self.key, 'epoch': str(self.epoch),
            'history': json.dumps(history),
        })
        settings.write_atomically(path, data)

    def resume(self, path: Path) -> list[dict[str, Any]]:
        """
        Continue from a checkpoint; return the history so far.

        Raises:
            SettingsError: it was written under other settings.

        """
        metadata = settings.continues(path, self.key)
        tensors = load_file(path)
        for name, module in (('encoder.', self.encoder), ('average.', self.average)):
            module.load_state_dict({k.removeprefix(name): v for k, v in tensors.items()
                                    if k.startswith(name)})
        momentum.restore(self.optimizer, tensors)
        self.epoch = int(metadata['epoch'])
        history: list[dict[str, Any]] = json.loads(metadata['history'])
        return history


@torch.inference_mode()
def predict(
    network: torch.nn.Module, luma: np.ndarray[Any, np.dtype[np.uint8]], device: torch.device,
    batch_size: int = 256, *, bf16: bool = False,
) -> Tensor:
    """Return what a network makes of whole faces uint8 [N,S,S]: [N,F] float, on the CPU."""
    network.eval()
    parts = []
    for start in range(0, len(luma), batch_size):
        batch = torch.from_numpy(luma[start : start + batch_size]).unsqueeze(1).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            parts.append(network(batch).float().cpu())
    return torch.cat(parts)


def teach(
    teachers: Sequence[Path], luma: np.ndarray[Any, np.dtype[np.uint8]], config: ImageConfig,
    device: torch.device,
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """
    Return the mean distribution [N,8] of some encoders over each face and its mirror image.

    Raises:
        WeightsError: a teacher has learnt from faces that are held out here.

    """
    mirrored = np.ascontiguousarray(luma[:, :, ::-1])
    total = np.zeros((len(luma), len(config.encoder.labels)), np.float32)
    for path in teachers:
        encoder = load_encoder(path).to(device)
        _check_split(path, config)
        for view in (luma, mirrored):
            features = predict(encoder, view, device, bf16=config.precision == 'bf16')
            total += encoder.logits(features).softmax(1).numpy() / (2 * len(teachers))
    return total


def accuracy(features: Tensor, faces: Faces) -> float:
    """Return the seven-class accuracy of the frame logits inside features."""
    truth = majority(faces.votes)
    known = truth >= 0
    guess = features[:, :7].argmax(1).numpy()
    return float((guess[known] == truth[known]).mean()) if known.any() else math.nan


def _begin(config: ImageConfig, start: Path | None) -> Encoder:
    """Return a fresh network, or one that was trained before on the same part of the data."""
    if start is None:
        return Encoder(config.encoder)
    encoder = load_encoder(start)
    if encoder.config != config.encoder:
        raise WeightsError(f'{start}: holds {encoder.config}, the settings say {config.encoder}')
    _check_split(start, config)
    return encoder


def _check_split(path: Path, config: ImageConfig) -> None:
    """Refuse weights that have seen what must stay unseen; to have seen less is fine."""
    split, here = read_about(path).get('split') or {}, _split(config)
    same = all(split.get(key) == here[key] for key in ('held_out', 'seed'))
    if not same or split.get('temporal', 0) < config.temporal:
        raise WeightsError(
            f'{path}: trained on the division {split} of the data, the settings say '
            f'{here}: it has seen faces that are held out here'
        )


def _split(config: ImageConfig) -> dict[str, Any]:
    return {'held_out': config.held_out, 'temporal': config.temporal, 'seed': config.seed}


def train(
    config: ImageConfig, data: Path, out: Path, device: torch.device,
    start: Path | None = None, teachers: Sequence[Path] = (),
    command: str = 'ferros-cloud train-image',
) -> Encoder:
    """Train, or continue a training that was stopped; leaves encoder.safetensors in out."""
    out.mkdir(parents=True, exist_ok=True)
    splits = load_splits(data, **_split(config))
    trainer = Trainer(config, splits.encoder, device, start, teachers)
    checkpoint = out / 'image_checkpoint.safetensors'
    history = trainer.resume(checkpoint) if checkpoint.exists() else []
    print(f'{len(splits.encoder)} faces to learn from ({splits.twins} twins of validation '
          f'dropped), {len(splits.held_out)} held out, {len(splits.temporal)} for train-video; '
          f'{multiply_adds(trainer.average) / 1e6:.0f} million multiply-adds; {device}')
    while trainer.epoch < config.epochs:
        began = time.monotonic()
        loss = trainer.run_epoch()
        features = predict(trainer.average, splits.held_out.luma, device,
                           bf16=config.precision == 'bf16')
        history.append({
            'epoch': trainer.epoch, 'loss': round(loss, 4),
            'held_out_accuracy': round(accuracy(features, splits.held_out), 4),
            'seconds': round(time.monotonic() - began, 1),
        })
        trainer.save(checkpoint, history)
        left_min = history[-1]['seconds'] * (config.epochs - trainer.epoch) / 60
        print(f'{json.dumps(history[-1])}  about {left_min:.0f} min left', flush=True)
    save_weights(trainer.average, out / 'encoder.safetensors', {'split': _split(config)})
    report = {'settings': asdict(config), 'twins_dropped': splits.twins,
              'encoder': settings.file_digest(out / 'encoder.safetensors'),
              'start': settings.file_digest(start) if start else None,
              'teachers': [settings.file_digest(teacher) for teacher in teachers],
              'faces': {'encoder': len(splits.encoder), 'held_out': len(splits.held_out),
                        'temporal': len(splits.temporal), 'valid': len(splits.valid)},
              'multiply_adds': multiply_adds(trainer.average), 'history': history}
    (out / 'image.json').write_text(json.dumps(report, indent=1) + '\n')
    _record(trainer.average, splits.valid, device, report, command).save(
        out / 'image.study.json')
    return load_encoder(out / 'encoder.safetensors')


def _record(
    encoder: Encoder, valid: Faces, device: torch.device, report: dict[str, Any], command: str
) -> Record:
    """Return what the study says of this run: seven classes of validation, which chose nothing."""
    guess = predict(encoder, valid.luma, device)[:, :7].argmax(1).numpy()
    scores = Scores.of(majority(valid.votes), guess, encoder.config.labels[:7])
    size = f'{report["multiply_adds"] / 1e6:.0f} M multiply-adds'
    return Record(
        kind='image', network=f'ferros encoder, {size}',
        command=command, smoke=len(valid) < SMOKE_BELOW,
        data=f'FER+ validation, {scores.count} faces with a majority',
        result={'labels': list(scores.labels), **scores.to_json(),
                'confusion': scores.confusion.tolist()},
        settings=report['settings'], history=report['history'],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `train-image`."""
    settings.add_arguments(parser, 'config/train_image.yaml')
    parser.add_argument('--start', type=Path,
                        help='encoder.safetensors to begin from instead of from scratch')
    parser.add_argument('--teacher', type=Path, nargs='+', default=[],
                        help='encoder.safetensors to learn from beside the votes (distillation)')
    parser.add_argument('--pretrained', metavar='FILE_OR_URL',
                        help='base of `recipe: paper`: .safetensors, .pth or .pt')
    parser.add_argument('--sha256', help='digest of --pretrained; needed with an address')


def run(args: argparse.Namespace) -> int:
    """Run `train-image`."""
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        if settings.recipe(args.config) == 'paper':
            from cloud_server.training import paper_image

            return paper_image.run(args)
        if args.pretrained or args.sha256:
            raise settings.SettingsError('--pretrained and --sha256 belong to `recipe: paper`')
        given = {'epochs': args.epochs, 'seed': args.seed}
        config = settings.read(ImageConfig, args.config, given)
        train(config, args.data, args.out, settings.pick_device(args.device), args.start,
              args.teacher, command_of('train-image', args, 'epochs', 'seed', 'start', 'teacher'))
    except (DatasetError, WeightsError, settings.SettingsError) as err:
        print(f'ferros-cloud train-image: {err}', file=sys.stderr)
        return 1
    print(f'wrote {args.out / "encoder.safetensors"}')
    return 0
