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
The paper's three classifiers of a whole clip: mean, mode, and an LSTM over the frames' embeddings.

Mean and mode judge frames by the image network, or by a head of two dense layers on its embedding
that knows RAVDESS's eight emotions. That head and the LSTM are trained here, by one trainer: both
map rows of the features to an emotion.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from cloud_server.training import settings
from cloud_server.training.ravdess import CALM, EMOTIONS, NEUTRAL

Indices = npt.NDArray[np.int64]


def mean_of(scores: Tensor) -> Tensor:
    """Return the class of the highest mean score: [...,T,K] -> int64 [...]."""
    return scores.mean(-2).argmax(-1)


def mode_of(scores: Tensor) -> Tensor:
    """
    Return the class that most frames have: scores [...,T,K] in 0..1 -> int64 [...].

    Where classes tie, the one with the highest sum of scores over all frames; where these tie
    too, the first in the order of the labels.
    """
    classes = scores.shape[-1]
    counts = functional.one_hot(scores.argmax(-1), classes).sum(-2)
    tied = counts == counts.max(-1, keepdim=True).values
    return torch.where(tied, scores.double().sum(-2), -1.0).argmax(-1)


def as_emotions(guess: Tensor, labels: Sequence[str]) -> Tensor:
    """Return indices into EMOTIONS for indices into a network's labels."""
    return torch.tensor([EMOTIONS.index(label) for label in labels])[guess.cpu()]


def right(truth: Indices, guess: Indices, *, calm_as_neutral: bool = False) -> npt.NDArray[Any]:
    """
    Return which guesses are right: bool, in the shape of the guesses.

    A network of seven classes never says calm, so calm clips are always wrong unless neutral
    counts as right for them.
    """
    hits = np.asarray(guess == truth)
    return hits | ((truth == CALM) & (guess == NEUTRAL)) if calm_as_neutral else hits


class Dense(nn.Module):
    """Two dense layers: [N,I] -> logits [N,8]."""

    def __init__(self, inputs: int, units: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, units)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(units, len(EMOTIONS))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.second(self.dropout(functional.relu(self.first(self.dropout(x)))))
        return logits


class Scaled(nn.Module):
    """Brings each feature to mean 0 and deviation 1 over the training actors' frames."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(size))
        self.register_buffer('deviation', torch.ones(size))

    def fit(self, embedding: Tensor) -> None:
        """Take mean and deviation of embeddings [N,E]."""
        values = embedding.float()
        self.get_buffer('mean').copy_(values.mean(0))
        # A feature that never fires has deviation 0, and says nothing.
        self.get_buffer('deviation').copy_(values.std(0, correction=0).clamp(min=1e-3))

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the scaled features, float32."""
        return (embedding.float() - self.get_buffer('mean')) / self.get_buffer('deviation')


class FrameHead(nn.Module):
    """One frame: embedding [N,E] -> logits [N,8]."""

    def __init__(self, embedding_size: int, units: int, dropout: float) -> None:
        super().__init__()
        self.scaled = Scaled(embedding_size)
        self.dense = Dense(embedding_size, units, dropout)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.dense(self.scaled(embedding))
        return logits


class ClipLstm(nn.Module):
    """The paper's CNN-LSTM above the CNN: embeddings [N,T,E] -> logits [N,8] of the last step."""

    def __init__(self, embedding_size: int, lstm_units: int, units: int, dropout: float) -> None:
        super().__init__()
        self.scaled = Scaled(embedding_size)
        self.lstm = nn.LSTM(embedding_size, lstm_units, batch_first=True)
        self.dense = Dense(lstm_units, units, dropout)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the logits."""
        states, _ = self.lstm(self.scaled(embedding))
        logits: Tensor = self.dense(states[:, -1])
        return logits


@dataclass(frozen=True)
class Examples:
    """
    What is learnt from.

    Attributes:
        rows: int64 [N] for frames, [N,T] for clips: rows of the features.
        emotion: int64 [N], the truth.

    """

    rows: Tensor
    emotion: Tensor

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class FitConfig:
    """How one of the two is trained, with Adam, the rate falling in half a cosine."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    bf16: bool = False


class Trainer:
    """
    One training of a FrameHead or a ClipLstm, and where it stands.

    The epoch that is taken is the last, or, where validation examples are given, the one with the
    lowest loss on them (the earliest of equal ones). Nothing here ever sees a test actor.
    """

    def __init__(
        self, module: nn.Module, embedding: Tensor, train: Examples, validation: Examples | None,
        config: FitConfig,
    ) -> None:
        self.device = embedding.device
        self.module = module.to(self.device)
        self.embedding, self.train, self.validation = embedding, train, validation
        self.config, self.epoch = config, 0
        self.best_loss, self.best = float('inf'), self._weights()
        self.history: list[dict[str, Any]] = []
        self.optimizer = torch.optim.Adam(
            self.module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)

    def run_epoch(self) -> dict[str, Any]:
        """Train one epoch, reproducible from its number; return what was measured."""
        config, began = self.config, time.monotonic()
        order = torch.from_numpy(
            np.random.default_rng((config.seed, self.epoch)).permutation(len(self.train)))
        torch.manual_seed(config.seed * 100_003 + self.epoch)  # dropout
        for group in self.optimizer.param_groups:
            group['lr'] = config.learning_rate * 0.5 * (
                1 + np.cos(np.pi * self.epoch / config.epochs))
        self.module.train()
        losses, hits = 0.0, 0
        for start in range(0, len(order), config.batch_size):
            part = order[start : start + config.batch_size]
            loss, found = self._loss(self.train, part)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimizer.step()
            losses, hits = losses + float(loss.detach()) * len(part), hits + found
        self.epoch += 1
        entry = {'epoch': self.epoch, 'loss': round(losses / len(order), 4),
                 'training_accuracy': round(hits / len(order), 4)}
        if self.validation is not None:
            entry |= self._judge(self.validation)
        self.history.append(entry | {'seconds': round(time.monotonic() - began, 1)})
        return self.history[-1]

    def _loss(self, examples: Examples, part: Tensor) -> tuple[Tensor, int]:
        """Return the mean loss of some examples, and how many are guessed right."""
        features = self.embedding[examples.rows[part].to(self.device)]
        truth = examples.emotion[part].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16,
                            enabled=self.config.bf16 and self.device.type == 'cuda'):
            logits = self.module(features).float()
        return (functional.cross_entropy(logits, truth),
                int((logits.detach().argmax(1) == truth).sum()))

    @torch.no_grad()
    def _judge(self, examples: Examples) -> dict[str, float]:
        self.module.eval()
        losses, hits = 0.0, 0
        for part in torch.split(torch.arange(len(examples)), self.config.batch_size):
            loss, found = self._loss(examples, part)
            losses, hits = losses + float(loss) * len(part), hits + found
        loss_of_all = losses / len(examples)
        if loss_of_all < self.best_loss:
            self.best_loss, self.best = loss_of_all, self._weights()
        return {'validation_loss': round(loss_of_all, 4),
                'validation_accuracy': round(hits / len(examples), 4)}

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def finish(self) -> None:
        """Put the weights of the chosen epoch into the module, ready to judge."""
        if self.validation is not None:
            self.module.load_state_dict(self.best)
        self.module.eval()

    def save(self, path: Path, key: str) -> None:
        """Write a checkpoint; a kill in the middle leaves the previous one."""
        tensors = {f'now.{name}': value for name, value in self.module.state_dict().items()}
        if self.validation is not None:
            tensors |= {f'best.{name}': value for name, value in self.best.items()}
        for index, parameter in enumerate(self.module.parameters()):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f'adam.{index}.{name}'] = value
        settings.write_atomically(path, _packed(tensors, {
            'settings': key, 'best_loss': repr(self.best_loss),
            'history': json.dumps(self.history)}))

    def resume(self, path: Path, key: str) -> None:
        """Continue from a checkpoint; SettingsError where it is of something else."""
        metadata = settings.continues(path, key)
        tensors = {name: value.to(self.device) for name, value in load_file(path).items()}
        self.module.load_state_dict(_named(tensors, 'now.'))
        self.best = _named(tensors, 'best.')
        for index, parameter in enumerate(self.module.parameters()):
            for name, value in _named(tensors, f'adam.{index}.').items():
                self.optimizer.state[parameter][name] = value.cpu() if name == 'step' else value
        self.history = json.loads(metadata['history'])
        self.best_loss, self.epoch = float(metadata['best_loss']), len(self.history)


def train(
    trainer: Trainer, path: Path, key: str, tell: Callable[[dict[str, Any]], None]
) -> nn.Module:
    """
    Train to the end, or continue, or take what is finished.

    Args:
        trainer: at its beginning.
        path: where the finished weights go; its checkpoint lies beside it until then.
        key: of the settings and the data; weights of another key are refused.
        tell: is given each epoch's measurements.

    Raises:
        SettingsError: what lies there was made under other settings or of other data.

    """
    checkpoint = path.with_suffix('.checkpoint.safetensors')
    if path.exists():
        trainer.history = json.loads(settings.continues(path, key)['history'])
        trainer.module.load_state_dict(load_file(path))
        trainer.module.eval()
        return trainer.module
    if checkpoint.exists():
        trainer.resume(checkpoint, key)
    while trainer.epoch < trainer.config.epochs:
        tell(trainer.run_epoch())
        trainer.save(checkpoint, key)
    trainer.finish()
    settings.write_atomically(path, _packed(trainer.module.state_dict(), {
        'settings': key, 'history': json.dumps(trainer.history)}))
    checkpoint.unlink(missing_ok=True)
    return trainer.module


def _packed(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()},
                metadata)


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items()
            if name.startswith(prefix)}


@torch.inference_mode()
def judge(module: nn.Module, embedding: Tensor, rows: Tensor, batch_size: int = 512) -> Tensor:
    """Return the logits [N,8] on the CPU of rows [N] or [N,T] of embeddings."""
    return torch.cat([
        module(embedding[part.to(embedding.device)]).float().cpu()
        for part in torch.split(rows, batch_size)
    ])
