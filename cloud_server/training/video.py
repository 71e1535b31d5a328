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
`ferros-cloud train-video`: the LSTM, on clips of faces that its encoder never saw.

An encoder is surer of faces it has learnt than of strangers. An LSTM trained on those would learn
to trust single frames too much. So train-image leaves some training faces out altogether, and this
training makes its clips from them alone: the LSTM learns from exactly the features that the
shipped encoder gives of strangers. (Features of fold encoders, one per half of the data, would
spare those faces but come from other networks than the one that is shipped.)
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from cloud_server.model import (
    Encoder,
    Temporal,
    TemporalConfig,
    WeightsError,
    load_encoder,
    load_temporal,
    read_about,
    save_weights,
)
from cloud_server.training import settings
from cloud_server.training.clips import CLOCK_HZ, ClipConfig, Schedule, arrivals, draw, render
from cloud_server.training.ferplus import DatasetError, Faces, load_splits, targets

RENDER_BATCH = 256


@dataclass(frozen=True)
class VideoConfig:
    """Everything that decides the LSTM's weights, besides the data and the encoder."""

    seed: int = 1
    clips: int = 2000
    held_out_clips: int = 300
    epochs: int = 25
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    state_size: int = 128
    projection_size: int = 16
    dropout: float = 0.2
    precision: str = 'bf16'  # of the encoder while the clips are made
    clip: ClipConfig = field(default_factory=ClipConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.precision not in ('bf16', 'fp32'):
            raise ValueError(f'precision must be bf16 or fp32, got {self.precision!r}')
        if min(self.clips, self.held_out_clips, self.epochs, self.batch_size) < 1:
            raise ValueError(f'clips, epochs and batch_size must be at least 1: {self}')


@dataclass(frozen=True)
class Footage:
    """
    The frames that arrived of some clips, encoded, clip by clip.

    Attributes:
        features: float32 [B,F].
        tick: int64 [B] on the 30 Hz clock.
        side_px: float32 [B].
        target: float32 [B,8], the votes of what is seen.
        weight: float32 [B], how much the taggers saw an emotion there.
        starts: int64 [C+1], where each clip begins.
        ticks: length of a clip.

    """

    features: Tensor
    tick: npt.NDArray[np.int64]
    side_px: npt.NDArray[np.float32]
    target: Tensor
    weight: Tensor
    starts: npt.NDArray[np.int64]
    ticks: int

    def __len__(self) -> int:
        return len(self.starts) - 1


@torch.inference_mode()
def film(
    encoder: Encoder, faces: Faces, scenes: Schedule, device: torch.device, *, bf16: bool
) -> Footage:
    """Render and encode the frames that arrive."""
    clip, tick = arrivals(scenes)
    luma = torch.from_numpy(faces.luma).unsqueeze(1).to(device)
    encoder = encoder.to(device).eval()
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts = []
    for start in tqdm(range(0, len(clip), RENDER_BATCH), desc='rendering clips', leave=False):
        part = slice(start, start + RENDER_BATCH)
        batch = render(luma, scenes, clip[part], tick[part])
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            parts.append(encoder(batch).float().cpu())
    votes, weight = targets(faces.votes)
    share = scenes.share[clip, tick]
    pair = scenes.faces[clip]
    return Footage(
        features=torch.cat(parts), tick=tick,
        side_px=scenes.side_px[clip, tick].astype(np.float32),
        target=torch.from_numpy(_blend(votes, pair, share[:, None])),
        weight=torch.from_numpy(_blend(weight, pair, share)),
        starts=np.searchsorted(clip, np.arange(len(scenes) + 1)), ticks=scenes.share.shape[1],
    )


def _blend(
    values: npt.NDArray[np.float32], pair: npt.NDArray[np.int64], share: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    mixed = values[pair[:, 0]] * (1 - share) + values[pair[:, 1]] * share
    return mixed.astype(np.float32)


@dataclass(frozen=True)
class Batch:
    """Clips side by side, each [N,T]: rows of the footage (-1: no more), times, weights."""

    rows: Tensor
    interval_s: Tensor
    hold: Tensor


def gather(
    footage: Footage, clips: npt.NDArray[np.int64], rng: np.random.Generator | None
) -> Batch:
    """
    Put clips side by side.

    Args:
        footage: where the frames are.
        clips: [N], which clips.
        rng: begins half of the clips later and thins a third of them, so that many faces are
            first seen mid-clip; None takes the clips whole.

    Returns:
        weights of a clip's frames: the share of time for which their label is held.

    """
    chosen = []
    for clip in clips:
        rows = np.arange(footage.starts[clip], footage.starts[clip + 1])
        if rng is not None:
            if rng.random() < 0.5:
                rows = rows[rng.integers(0, len(rows)) :]
            if rng.random() < 0.33:
                rows = rows[:: int(rng.integers(2, 5))]
        chosen.append(rows)
    longest = max(len(rows) for rows in chosen)
    table = np.full((len(clips), longest), -1)
    interval_s = np.zeros(table.shape, np.float32)
    hold = np.zeros(table.shape, np.float32)
    for index, rows in enumerate(chosen):
        ticks = footage.tick[rows]
        table[index, : len(rows)] = rows
        interval_s[index, 1 : len(rows)] = np.diff(ticks) / CLOCK_HZ
        held = np.diff(ticks, append=footage.ticks)
        hold[index, : len(rows)] = held / held.sum()
    return Batch(torch.from_numpy(table), torch.from_numpy(interval_s), torch.from_numpy(hold))


def loss_of(temporal: Temporal, footage: Footage, batch: Batch, device: torch.device) -> Tensor:
    """Return the mean cross-entropy to the votes, weighted by the time each label is held."""
    rows = batch.rows.clamp(min=0)
    side = torch.from_numpy(footage.side_px)[rows]
    logits = temporal.unroll(
        footage.features[rows].to(device), batch.interval_s.to(device), side.to(device)
    )
    loss = functional.cross_entropy(
        logits.transpose(1, 2), footage.target[rows].to(device).transpose(1, 2), reduction='none'
    )
    weight = (batch.hold * footage.weight[rows]).to(device)
    return (loss * weight).sum() / weight.sum()


class Trainer:
    """One training of the LSTM."""

    def __init__(self, config: VideoConfig, embedding_size: int, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device, self.epoch = config, device, 0
        self.temporal = Temporal(TemporalConfig(
            embedding_size=embedding_size, projection_size=config.projection_size,
            state_size=config.state_size, dropout=config.dropout,
        )).to(device)
        self.best = copy.deepcopy(self.temporal)
        self.best_loss = float('inf')
        self.optimizer = torch.optim.AdamW(
            self.temporal.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def run_epoch(self, footage: Footage) -> float:
        """Train one epoch, reproducible from its number; return the mean loss."""
        config = self.config
        rng = np.random.default_rng((config.seed, self.epoch))
        torch.manual_seed(config.seed * 100_003 + self.epoch)  # dropout
        order = rng.permutation(len(footage))
        self.temporal.train()
        # Down in a half cosine over the epochs.
        rate = config.learning_rate * 0.5 * (1 + np.cos(np.pi * self.epoch / config.epochs))
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        losses = []
        for start in range(0, len(order), config.batch_size):
            chosen = order[start : start + config.batch_size]
            batch = gather(footage, chosen, rng)
            loss = loss_of(self.temporal, footage, batch, self.device)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.temporal.parameters(), 1.0)
            self.optimizer.step()
            losses.append(float(loss.detach()))
        self.epoch += 1
        return float(np.mean(losses))

    @torch.inference_mode()
    def judge(self, footage: Footage) -> float:
        """Return the loss on held-out clips, and keep the weights if none were better."""
        self.temporal.eval()
        losses = [
            float(loss_of(self.temporal, footage, gather(
                footage, np.arange(start, min(start + 64, len(footage))), None), self.device))
            for start in range(0, len(footage), 64)
        ]
        loss = float(np.mean(losses))
        if loss < self.best_loss:
            self.best_loss = loss
            self.best.load_state_dict(self.temporal.state_dict())
        return loss

    def save(self, path: Path, history: list[dict[str, Any]], key: str) -> None:
        """Write a checkpoint; a kill in the middle leaves the previous one."""
        tensors = {f'now.{k}': v for k, v in self.temporal.state_dict().items()}
        tensors |= {f'best.{k}': v for k, v in self.best.state_dict().items()}
        for index, parameter in enumerate(self.temporal.parameters()):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f'adam.{index}.{name}'] = value
        data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {
            'settings': key, 'epoch': str(self.epoch), 'best_loss': repr(self.best_loss),
            'history': json.dumps(history),
        })
        settings.write_atomically(path, data)

    def resume(self, path: Path, key: str) -> list[dict[str, Any]]:
        """Continue from a checkpoint; SettingsError where settings or encoder were others."""
        metadata = settings.continues(path, key)
        tensors = load_file(path)
        for name, module in (('now.', self.temporal), ('best.', self.best)):
            module.load_state_dict({k.removeprefix(name): v for k, v in tensors.items()
                                    if k.startswith(name)})
        for index, parameter in enumerate(self.temporal.parameters()):
            prefix = f'adam.{index}.'
            for name, value in tensors.items():
                if name.startswith(prefix):
                    where = 'cpu' if name.endswith('step') else self.device
                    self.optimizer.state[parameter][name.removeprefix(prefix)] = value.to(where)
        self.epoch = int(metadata['epoch'])
        self.best_loss = float(metadata['best_loss'])
        history: list[dict[str, Any]] = json.loads(metadata['history'])
        return history


def train(
    config: VideoConfig, data: Path, encoder_path: Path, out: Path, device: torch.device
) -> Temporal:
    """Train, or continue a training that was stopped; leaves temporal.safetensors in out."""
    out.mkdir(parents=True, exist_ok=True)
    encoder, split = load_encoder(encoder_path), read_about(encoder_path)['split']
    splits = load_splits(data, **split)
    trainer = Trainer(config, encoder.config.widths[-1], device)
    key = settings.digest(config) + settings.file_digest(encoder_path)
    checkpoint = out / 'video_checkpoint.safetensors'
    history = trainer.resume(checkpoint, key) if checkpoint.exists() else []
    if trainer.epoch < config.epochs:
        bf16 = config.precision == 'bf16'
        scenes = draw(config.clip, config.clips, len(splits.temporal), config.seed)
        unseen = draw(config.clip, config.held_out_clips, len(splits.held_out), config.seed + 1)
        print(f'{config.clips} clips of {len(splits.temporal)} faces the encoder never saw, '
              f'{int(scenes.arrives.sum())} frames; {device}', flush=True)
        footage = film(encoder, splits.temporal, scenes, device, bf16=bf16)
        judged = film(encoder, splits.held_out, unseen, device, bf16=bf16)
        if not history:
            history.append({'epoch': 0, 'held_out_loss': round(trainer.judge(judged), 4)})
            print(f'{json.dumps(history[-1])}  (the frame alone)', flush=True)
    while trainer.epoch < config.epochs:
        began = time.monotonic()
        loss = trainer.run_epoch(footage)
        history.append({'epoch': trainer.epoch, 'loss': round(loss, 4),
                        'held_out_loss': round(trainer.judge(judged), 4),
                        'seconds': round(time.monotonic() - began, 1)})
        trainer.save(checkpoint, history, key)
        left_min = history[-1]['seconds'] * (config.epochs - trainer.epoch) / 60
        print(f'{json.dumps(history[-1])}  about {left_min:.0f} min left', flush=True)
    save_weights(trainer.best, out / 'temporal.safetensors', {'split': split})
    report = {'settings': asdict(config), 'split': split, 'history': history}
    (out / 'video.json').write_text(json.dumps(report, indent=1) + '\n')
    return load_temporal(out / 'temporal.safetensors')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `train-video`."""
    settings.add_arguments(parser, 'config/train_video.yaml')
    parser.add_argument('--encoder', type=Path, required=True,
                        help='encoder.safetensors of train-image')
    parser.add_argument('--clips', type=int)


def run(args: argparse.Namespace) -> int:
    """Run `train-video`."""
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        given = {'epochs': args.epochs, 'clips': args.clips, 'seed': args.seed}
        config = settings.read(VideoConfig, args.config, given)
        train(config, args.data, args.encoder, args.out, settings.pick_device(args.device))
    except (DatasetError, WeightsError, settings.SettingsError) as err:
        print(f'ferros-cloud train-video: {err}', file=sys.stderr)
        return 1
    print(f'wrote {args.out / "temporal.safetensors"}')
    return 0
