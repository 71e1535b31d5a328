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
to trust single frames too much. So this training makes its clips from faces that train-image left
out (`temporal` in its settings). By default the LSTM reads nothing but the frame's logits, which
mean the same in every encoder of these labels: it can learn with an encoder that left faces out
and serve with one that learnt from them too.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
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
AVERAGES_S = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.3, 1.7, 2.2)


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
    units: int = 128
    projection_size: int = 0
    dropout: float = 0.2
    steadiness: float = 0.0  # price of each change of the answer, see loss_of
    joined_share: float = 0.3  # of the sequences: two clips on end, another person comes
    longest_frames: int = 300
    precision: str = 'bf16'  # of the encoder while the clips are made
    clip: ClipConfig = field(default_factory=ClipConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.precision not in ('bf16', 'fp32'):
            raise ValueError(f'precision must be bf16 or fp32, got {self.precision!r}')
        if min(self.clips, self.held_out_clips, self.epochs, self.batch_size,
               self.longest_frames) < 1:
            raise ValueError('clips, epochs, batch_size and longest_frames must be at least 1: '
                             f'{self}')
        if not 0 <= self.joined_share <= 1:
            raise ValueError(f'joined_share must be in [0, 1], got {self.joined_share}')


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


def _kept(path: Path, key: str, make: Callable[[], Footage]) -> Footage:
    """Return the footage of a file, or make it and keep it: a restart need not film again."""
    if path.exists() and settings.metadata(path).get('settings') == key:
        stored = load_file(path)
        return Footage(
            features=stored['features'], tick=stored['tick'].numpy(),
            side_px=stored['side_px'].numpy(), target=stored['target'],
            weight=stored['weight'], starts=stored['starts'].numpy(), ticks=int(stored['ticks']),
        )
    footage = make()
    stored = {each.name: torch.as_tensor(getattr(footage, each.name)) for each in fields(Footage)}
    settings.write_atomically(path, save(stored, {'settings': key}))
    return footage


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
    footage: Footage, clips: npt.NDArray[np.int64], vary: Vary | None
) -> Batch:
    """
    Put clips side by side.

    Args:
        footage: where the frames are.
        clips: [N], which clips.
        vary: begins half of the clips later, thins a third of them and joins some with another, so
            that many faces are first seen mid-clip or follow one another; None takes the clips
            as they are.

    Returns:
        rows, times, and weights of a clip's frames: the share of time for which their label is
        held.

    """
    chosen = [_frames(footage, int(clip), vary) for clip in clips]
    longest = max(len(rows) for rows, _ in chosen)
    table = np.full((len(clips), longest), -1)
    interval_s = np.zeros(table.shape, np.float32)
    hold = np.zeros(table.shape, np.float32)
    for index, (rows, held_ticks) in enumerate(chosen):
        table[index, : len(rows)] = rows
        interval_s[index, 1 : len(rows)] = held_ticks[:-1] / CLOCK_HZ
        hold[index, : len(rows)] = held_ticks / held_ticks.sum()
    return Batch(torch.from_numpy(table), torch.from_numpy(interval_s), torch.from_numpy(hold))


@dataclass(frozen=True)
class Vary:
    """How clips are varied while learning from them."""

    rng: np.random.Generator
    joined_share: float
    longest_frames: int


Ints = npt.NDArray[np.int64]


def _frames(footage: Footage, clip: int, vary: Vary | None) -> tuple[Ints, Ints]:
    """Return the rows [T] of a clip's frames, and for how many ticks each is the newest."""
    rows: Ints = np.arange(footage.starts[clip], footage.starts[clip + 1])
    if vary is None:
        return rows, _held(footage, rows)
    rng = vary.rng
    if rng.random() < 0.5:
        rows = rows[rng.integers(0, len(rows)) :]
    if rng.random() < 0.33:
        rows = rows[:: int(rng.integers(2, 5))]
    held = _held(footage, rows)
    if rng.random() < vary.joined_share:
        more = _frames(footage, int(rng.integers(len(footage))), replace(vary, joined_share=0.0))
        rows, held = np.concatenate((rows, more[0])), np.concatenate((held, more[1]))
    return rows[: vary.longest_frames], held[: vary.longest_frames]


def _held(footage: Footage, rows: Ints) -> Ints:
    """Return the ticks [T] from each frame to the next; the last is held as long as usual."""
    ticks = footage.tick[rows]
    gaps = np.diff(ticks)
    usual = int(np.median(gaps)) if len(gaps) else CLOCK_HZ
    last = min(max(usual, 1), footage.ticks - int(ticks[-1]))
    return np.append(gaps, last).astype(np.int64)


def loss_of(
    temporal: Temporal, footage: Footage, batch: Batch, device: torch.device,
    steadiness: float = 0.0,
) -> Tensor:
    """
    Return the mean cross-entropy to the votes, weighted by the time each label is held.

    To it comes steadiness x the mean over sequences of how far the distribution moves in all
    (total variation, 1 for a change from one sure label to another): a change that is due costs
    that once, a label that flickers again and again.
    """
    rows = batch.rows.clamp(min=0)
    side = torch.from_numpy(footage.side_px)[rows]
    logits = temporal.unroll(
        footage.features[rows].to(device), batch.interval_s.to(device), side.to(device)
    )
    loss = functional.cross_entropy(
        logits.transpose(1, 2), footage.target[rows].to(device).transpose(1, 2), reduction='none'
    )
    weight = (batch.hold * footage.weight[rows]).to(device)
    mean = (loss * weight).sum() / weight.sum()
    if not steadiness:
        return mean
    moved = logits.softmax(-1).diff(dim=1).abs().sum(-1) / 2
    return mean + steadiness * (moved * (batch.rows[:, 1:] >= 0).to(device)).sum(1).mean()


def tune_average(footage: Footage) -> float:
    """
    Return the time constant in s with which an exponential average is right for the longest.

    The simple method that the LSTM is measured against gets the best constant that there is on the
    clips the LSTM learns from: right is the emotion with most votes of what is seen.
    """
    batch = gather(footage, np.arange(len(footage)), None)
    rows, known = batch.rows.clamp(min=0), (batch.rows >= 0).float() * batch.hold
    seen = torch.softmax(footage.features[rows][..., :7], -1)
    right = footage.target[rows][..., :7].argmax(-1)
    found = {}
    for constant_s in AVERAGES_S:
        keep = torch.exp(-batch.interval_s / constant_s) * (batch.interval_s > 0)
        average, hits = seen[:, 0], torch.zeros(())
        for frame in range(rows.shape[1]):
            share = 1 - keep[:, frame : frame + 1]
            average = average + share * (seen[:, frame] - average)
            hits = hits + ((average.argmax(-1) == right[:, frame]) * known[:, frame]).sum()
        found[constant_s] = float(hits)
    return max(found, key=lambda constant_s: found[constant_s])


class Trainer:
    """One training of the LSTM."""

    def __init__(self, config: VideoConfig, embedding_size: int, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device, self.epoch = config, device, 0
        self.temporal = Temporal(TemporalConfig(
            embedding_size=embedding_size, projection_size=config.projection_size,
            units=config.units, dropout=config.dropout,
        )).to(device)
        self.best = copy.deepcopy(self.temporal)
        self.best_loss = float('inf')
        self.optimizer = torch.optim.AdamW(
            self.temporal.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def start_at(self, average_s: float) -> None:
        """Begin at an exponential average of this constant."""
        with torch.no_grad():
            self.temporal.log_average_s.fill_(float(np.log(average_s)))

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
        vary = Vary(rng, config.joined_share, config.longest_frames)
        losses = []
        for start in range(0, len(order), config.batch_size):
            chosen = order[start : start + config.batch_size]
            batch = gather(footage, chosen, vary)
            loss = loss_of(self.temporal, footage, batch, self.device, config.steadiness)
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
    # What decides the clips; the rest of the settings may change and the footage still be right.
    filmed = settings.digest(replace(VideoConfig(), **{
        name: getattr(config, name) for name in ('seed', 'clips', 'held_out_clips', 'precision',
                                                 'clip')})) + settings.file_digest(encoder_path)
    checkpoint = out / 'video_checkpoint.safetensors'
    history = trainer.resume(checkpoint, key) if checkpoint.exists() else []
    if trainer.epoch < config.epochs:
        bf16 = config.precision == 'bf16'
        scenes = draw(config.clip, config.clips, len(splits.temporal), config.seed)
        unseen = draw(config.clip, config.held_out_clips, len(splits.held_out), config.seed + 1)
        print(f'{config.clips} clips of {len(splits.temporal)} faces the encoder never saw, '
              f'{int(scenes.arrives.sum())} frames; {device}', flush=True)
        footage = _kept(out / 'footage_train.safetensors', filmed,
                        lambda: film(encoder, splits.temporal, scenes, device, bf16=bf16))
        judged = _kept(out / 'footage_held_out.safetensors', filmed,
                       lambda: film(encoder, splits.held_out, unseen, device, bf16=bf16))
        if not history:
            average_s = tune_average(footage)
            trainer.start_at(average_s)
            history.append({'epoch': 0, 'held_out_loss': round(trainer.judge(judged), 4),
                            'exponential_s': average_s})
            print(f'{json.dumps(history[-1])}  (an exponential average)', flush=True)
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
    report = {'settings': asdict(config), 'split': split, 'history': history,
              'encoder': settings.file_digest(encoder_path)}
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
        if settings.recipe(args.config) == 'paper':
            from cloud_server.training import paper_video

            return paper_video.run(args)
        given = {'epochs': args.epochs, 'clips': args.clips, 'seed': args.seed}
        config = settings.read(VideoConfig, args.config, given)
        train(config, args.data, args.encoder, args.out, settings.pick_device(args.device))
    except (DatasetError, WeightsError, settings.SettingsError) as err:
        print(f'ferros-cloud train-video: {err}', file=sys.stderr)
        return 1
    print(f'wrote {args.out / "temporal.safetensors"}')
    return 0
