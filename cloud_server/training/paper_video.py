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
`recipe: paper` of `ferros-cloud train-video`: the paper's video experiment on RAVDESS.

Nine copies of each clip, three classifiers, every fold of a division by actor: its Figure 3 and
tables a to c, filled from one's own run and shown beside the paper's. What is trained never sees a
test actor, and neither does what decides when the training is over.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from cloud_server.model import WeightsError
from cloud_server.training import clip_classifiers as classifiers
from cloud_server.training import paper_rows, report_figures, settings
from cloud_server.training.clip_classifiers import ClipLstm, Examples, FitConfig, FrameHead
from cloud_server.training.clip_features import Collector, Footage, FrameNetwork, load_network
from cloud_server.training.ferplus import DatasetError
from cloud_server.training.paper_video_tables import (
    FoldResult,
    learning_curves,
    tabulate,
    text_tables,
)
from cloud_server.training.ravdess import (
    CHANNELS,
    EMOTIONS,
    HELD_OUT,
    SPLITS,
    Fold,
    LeakError,
    Recordings,
    check_disjoint,
    own_fold,
    published_folds,
    scan,
)
from cloud_server.training.study import Record, command_of
from cloud_server.training.variants import SOURCE_PX, DetectorError, VariantConfig

RECIPE = 'paper'
CHOICES = ('last', 'validation')
HEAD = 'head'
LEFT_OUT_FILE = 'left_out.txt'
SMOKE_BELOW = 200  # clips, of 1,440: fewer only prove that the command works


@dataclass(frozen=True)
class PaperVideoConfig:
    """
    Everything that decides the tables, besides the data and the image network.

    The paper gives the LSTM's units, two dense layers, Adam, 30 frames and the copies; all other
    values are ours. See config/paper_video.yaml.
    """

    recipe: str = RECIPE
    seed: int = 1
    channels: tuple[str, ...] = ('speech',)
    variants: VariantConfig = field(default_factory=VariantConfig)
    looks: int = 5  # frames in which the face is looked for
    split: str = 'five_fold'
    test_actors: tuple[int, ...] = ()
    train_actors: tuple[int, ...] = ()
    validation_actors: tuple[int, ...] = ()
    choose: str = 'last'
    one_model: bool = True
    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 3e-4
    weight_decay: float = 1e-5
    lstm_units: int = 1024
    dense_units: int = 256
    dropout: float = 0.3
    head_epochs: int = 4
    head_batch_size: int = 512
    head_learning_rate: float = 1e-3
    precision: str = 'bf16'
    workers: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for name, known in (('recipe', (RECIPE,)), ('split', (*SPLITS, HELD_OUT)),
                            ('choose', CHOICES), ('precision', ('bf16', 'fp32'))):
            if getattr(self, name) not in known:
                raise ValueError(f'{name} must be one of {known}, got {getattr(self, name)!r}')
        if not self.channels or not set(self.channels) <= set(CHANNELS):
            raise ValueError(f'channels must be of {CHANNELS}, got {self.channels}')
        for name in ('looks', 'epochs', 'batch_size', 'lstm_units', 'dense_units', 'head_epochs',
                     'head_batch_size', 'workers'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)}')
        if not (0 <= self.dropout < 1 and min(self.learning_rate, self.head_learning_rate) > 0
                and self.weight_decay >= 0):
            raise ValueError('dropout, a learning_rate or weight_decay is out of range: '
                             f'{self.dropout}, {self.learning_rate}, {self.head_learning_rate}, '
                             f'{self.weight_decay}')
        self._check_actors()

    def _check_actors(self) -> None:
        named = (*self.test_actors, *self.train_actors, *self.validation_actors)
        if self.split != HELD_OUT and named:
            raise ValueError(f'test_actors, train_actors and validation_actors need split: '
                             f'{HELD_OUT}, got {self.split}')
        if self.split == HELD_OUT and not self.test_actors:
            raise ValueError(f'split: {HELD_OUT} needs test_actors')
        if self.split == HELD_OUT and (self.choose == 'validation') != bool(
                self.validation_actors):
            raise ValueError('validation_actors and choose: validation go together')

    def folds(self, present: Sequence[int]) -> tuple[Fold, ...]:
        """Return the folds over the actors that have clips; LeakError where one would leak."""
        if self.split == HELD_OUT:
            return (own_fold(present, self.test_actors, self.train_actors,
                             self.validation_actors),)
        return published_folds(self.split, present, validate=self.choose == 'validation')


class Study:
    """The folds, one after the other; started again, it takes up what is finished."""

    def __init__(
        self, config: PaperVideoConfig, network: FrameNetwork, network_digest: str,
        footage: Footage, out: Path, device: torch.device,
    ) -> None:
        self._config, self._labels, self._out = config, network.labels, out
        self._footage = footage.to(device)
        self._folds = config.folds(sorted({clip.actor for clip in footage.clips}))
        clips = json.dumps([clip.name for clip in footage.clips])
        # How many threads decode decides nothing.
        self._key = (settings.digest(replace(config, workers=1)) + network_digest
                     + sha256(clips.encode()).hexdigest()[:16])

    def run(self) -> list[FoldResult]:
        """Train and measure every fold."""
        return [self._run_fold(index) for index in range(len(self._folds))]

    def _run_fold(self, index: int) -> FoldResult:
        fold, footage = self._folds[index], self._footage
        train, test, validation = (
            footage.of_actors(actors) for actors in (fold.train, fold.test, fold.validation))
        check_disjoint([[footage.clips[row] for row in part.tolist()]
                        for part in (train, test, validation)])
        print(f'fold {index + 1} of {len(self._folds)}: learns from {len(train)} clips of '
              f'{len(fold.train)} actors, is tested on {len(test)} of actors '
              f'{", ".join(map(str, fold.test))}', flush=True)
        history: dict[str, list[dict[str, Any]]] = {}
        rows = footage.rows[test]
        seven = footage.logits.softmax(1).cpu()[rows]
        head = self._train_head(index, train, validation, history)
        eight = classifiers.judge(head, footage.embedding, rows.reshape(-1)).softmax(1)
        eight = eight.reshape(*rows.shape, len(EMOTIONS))
        guesses = {
            'mean': classifiers.as_emotions(classifiers.mean_of(seven), self._labels),
            'mode': classifiers.as_emotions(classifiers.mode_of(seven), self._labels),
            'head_mean': classifiers.mean_of(eight), 'head_mode': classifiers.mode_of(eight),
            'lstm': self._lstm_guesses(index, train, validation, rows, history),
        }
        return FoldResult(
            fold, test.numpy(), footage.emotion[test].numpy(),
            {name: guess.numpy().astype(np.int64) for name, guess in guesses.items()}, history,
        )

    def _train_head(
        self, index: int, train: Tensor, validation: Tensor, history: dict[str, Any]
    ) -> torch.nn.Module:
        config, footage = self._config, self._footage
        head = self._begin(lambda size: FrameHead(size, config.dense_units, config.dropout),
                           train, config.seed * 1000 + index)
        fit = FitConfig(config.head_epochs, config.head_batch_size, config.head_learning_rate,
                        config.weight_decay, config.seed * 1000 + index,
                        config.precision == 'bf16')
        return self._fit(head, f'fold{index + 1}_{HEAD}', HEAD, fit,
                         _frames(footage, train), _frames(footage, validation), history, 0)

    def _lstm_guesses(
        self, index: int, train: Tensor, validation: Tensor, rows: Tensor, history: dict[str, Any]
    ) -> Tensor:
        """Return [n,V] of one model for all cells, or of one model for each."""
        config, cells = self._config, range(rows.shape[1])
        groups = [list(cells)] if config.one_model else [[cell] for cell in cells]
        guesses = torch.zeros(rows.shape[:2], dtype=torch.int64)
        for number, group in enumerate(groups):
            name = f'fold{index + 1}_lstm' + ('' if config.one_model else f'_cell{number + 1}')
            seed = (config.seed * 1000 + index) * 100 + number + 1
            lstm = self._begin(
                lambda size: ClipLstm(size, config.lstm_units, config.dense_units, config.dropout),
                train, seed)
            fit = FitConfig(config.epochs, config.batch_size, config.learning_rate,
                            config.weight_decay, seed, config.precision == 'bf16')
            to_come = (len(self._folds) - index) * len(groups) - number - 1
            lstm = self._fit(lstm, name, name.split('_', 1)[1], fit,
                             _clips(self._footage, train, group),
                             _clips(self._footage, validation, group), history, to_come)
            asked = rows[:, group].flatten(0, 1)
            found = classifiers.judge(lstm, self._footage.embedding, asked).argmax(1)
            guesses[:, group] = found.reshape(len(rows), len(group))
        return guesses

    def _begin(
        self, make: Callable[[int], torch.nn.Module], train: Tensor, seed: int
    ) -> torch.nn.Module:
        """Return a new module, scaled by the frames of the training actors alone."""
        torch.manual_seed(seed)
        embedding = self._footage.embedding
        module = make(embedding.shape[1]).to(embedding.device)
        seen = _frames(self._footage, train)
        assert seen is not None
        scaled = module.get_submodule('scaled')
        assert isinstance(scaled, classifiers.Scaled)
        scaled.fit(embedding[seen.rows.to(embedding.device)])
        return module

    def _fit(
        self, module: torch.nn.Module, name: str, part: str, fit: FitConfig,
        train: Examples | None, validation: Examples | None, history: dict[str, Any], to_come: int,
    ) -> torch.nn.Module:
        assert train is not None
        trainer = classifiers.Trainer(module, self._footage.embedding, train, validation, fit)

        def tell(entry: dict[str, Any]) -> None:
            left = fit.epochs - entry['epoch'] + to_come * fit.epochs
            print(f'{name} {json.dumps(entry)}  about {entry["seconds"] * left / 60:.0f} min left',
                  flush=True)

        path = self._out / 'models' / f'{name}.safetensors'
        path.parent.mkdir(exist_ok=True)
        try:
            trained = classifiers.train(trainer, path, self._key, tell)
        except settings.SettingsError as err:
            raise settings.SettingsError(f'{err} (or other clips are there now)') from err
        except safetensors.SafetensorError as err:
            raise settings.SettingsError(f'{path.parent}/{name}*: cannot be read ({err}); remove '
                                         'it to train again') from err
        history[part] = trainer.history
        return trained


def _frames(footage: Footage, clips: Tensor) -> Examples | None:
    """Return every face of some clips, each once; None of no clips."""
    if not len(clips):
        return None
    rows = footage.rows[clips].flatten(1)
    emotion = footage.emotion[clips].unsqueeze(1).expand_as(rows)
    seen, place = np.unique(rows.numpy(), return_index=True)
    return Examples(torch.from_numpy(seen), emotion.reshape(-1)[torch.from_numpy(place)])


def _clips(footage: Footage, clips: Tensor, cells: Sequence[int]) -> Examples | None:
    """Return some clips in some of their copies, each an example; None of no clips."""
    if not len(clips):
        return None
    rows = footage.rows[clips][:, list(cells)]
    emotion = footage.emotion[clips].unsqueeze(1).expand(rows.shape[:2])
    return Examples(rows.flatten(0, 1), emotion.flatten())


def notes(
    config: PaperVideoConfig, looked: Recordings, footage: Footage, folds: Sequence[Fold]
) -> list[str]:
    """Return what a reader must know beside the tables."""
    variants = config.variants
    side_px = float(np.median([box.side for box in footage.boxes]))
    faces = ', '.join(f'{side_px * height / SOURCE_PX[1]:.0f} px at {width}x{height}'
                      for width, height in variants.sizes_px)
    unique = np.array([[len(np.unique(copy)) for copy in clip] for clip in footage.rows.numpy()])
    held = ', '.join(
        f'{int((unique[:, column] < variants.frames).sum())} at {rate} fps'
        for column, rate in enumerate(variants.rates_fps))
    epoch = ('the epoch with the lowest loss on actors who are in neither part'
             if config.choose == 'validation' else
             'the last of a number of epochs fixed beforehand')
    found = [
        *paper_rows.VIDEO_NOTES,
        f'{len(looked.clips)} of {looked.expected} clips ({" and ".join(config.channels)}) of '
        f'{len(looked.actors)} actors; of the files of modality 01 and 02, which show the same '
        'take, one is used.',
        f'Divided by actor ({config.split}, {len(folds)} folds), never by clip; a cell is the '
        'mean of the folds. No test actor decides anything: what is trained ends with '
        f'{epoch}.',
        f'{variants.frames} frames of each copy ({variants.take}); of a copy with fewer, each is '
        f'repeated in its place (clips: {held}). The paper repeats frames "if the video was '
        'shorter than 40 frames" until it has 30.',
        f'One Haar box per clip, found at 720p, median over {config.looks} frames; the median '
        f'face is {faces}.',
        'The image network has no calm: it is always wrong there, or neutral counts as right, or '
        "a head of two dense layers on its embedding, trained on the training actors' frames, "
        'tells all eight.',
    ]
    if len(looked.clips) < SMOKE_BELOW:
        found.append('A smoke run: it proves that the command works; its figures mean nothing.')
    return found


def run(args: argparse.Namespace) -> int:
    """Run `train-video` under `recipe: paper`."""
    try:
        if args.clips is not None:
            raise settings.SettingsError('--clips is for clips rendered from FER+; recipe: '
                                         f'{RECIPE} takes all that --data has')
        config = settings.read(PaperVideoConfig, args.config,
                               {'epochs': args.epochs, 'seed': args.seed})
        command = command_of('train-video', args, 'encoder', 'epochs', 'seed')
        record = study_of(config, args.data, args.encoder, args.out,
                          settings.pick_device(args.device), command)
    except (DatasetError, DetectorError, LeakError, WeightsError, settings.SettingsError) as err:
        print(f'ferros-cloud train-video: {err}', file=sys.stderr)
        return 1
    text = '\n'.join([text_tables(record.result), '', *(f'- {note}' for note in record.notes)])
    (args.out / 'video_tables.txt').write_text(text + '\n', 'utf-8')
    print(f'{text}\nwrote {args.out / "video.study.json"}')
    return 0


def study_of(
    config: PaperVideoConfig, data: Path, network_path: Path, out: Path, device: torch.device,
    command: str,
) -> Record:
    """
    Run the whole study, or what is left of it, and leave its record and pictures in a folder.

    Raises:
        DatasetError, LeakError, WeightsError, SettingsError, DetectorError: say what is wrong.

    """
    network, digest = load_network(network_path), settings.file_digest(network_path)
    found = scan(data, config.channels)
    print(f'{data}: {len(found.clips)} of {found.expected} clips of {len(found.actors)} actors; '
          f'{network.name}; {device}', flush=True)
    config.folds(found.actors)  # a leak is refused before hours of decoding
    out.mkdir(parents=True, exist_ok=True)
    collector = Collector(network, digest, config.variants, out, device, looks=config.looks,
                          bf16=config.precision == 'bf16')
    footage, looked = collector.collect(found, config.workers)
    (out / LEFT_OUT_FILE).write_text('\n'.join([*looked.problems, '']), 'utf-8')
    folds = config.folds(looked.actors)
    results = Study(config, network, digest, footage, out, device).run()
    record = Record(
        kind='video', network=network.name, command=command,
        data=f'RAVDESS ({" and ".join(config.channels)}), {len(looked.clips)} clips of '
             f'{len(looked.actors)} actors, {config.split} by actor',
        smoke=len(looked.clips) < SMOKE_BELOW,
        result={
            **tabulate(results, config.variants),
            'split': {'name': config.split, 'choose': config.choose,
                      'folds': [asdict(fold) for fold in folds]},
            'counts': {'clips': len(looked.clips), 'expected': looked.expected,
                       'actors': list(looked.actors), 'skipped': dict(looked.skipped)},
        },
        settings={**asdict(config), 'network': network_path.name, 'network_sha256_16': digest},
        history=learning_curves(results), notes=notes(config, looked, footage, folds),
    )
    record.save(out / 'video.study.json')
    _draw(record, out)
    return record


def _draw(record: Record, out: Path) -> None:
    """Draw the best cells' confusion matrices, as the paper's Figure 3."""
    every = {**record.result['confusions'],
             **{f'{name}_head': found for name, found in
                record.result['confusions_of_the_head'].items()}}
    for name, found in every.items():
        width, height = found['resolution']
        title = f'{name.replace("_", ", ")}: {width}x{height} at {found["rate_fps"]} fps'
        figure = report_figures.confusion(record.result['labels'], found['matrix'], 'clips')
        figure.suptitle(title)
        report_figures.save(figure, out, f'confusion_{name}', title, smoke=record.smoke)
