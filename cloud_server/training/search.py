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
`ferros-cloud search`: hyper-parameters by Bayesian optimisation over a Gaussian process.

The paper used Bayesian optimisation (Snoek et al., NIPS 2012) but states neither its search space
nor its criterion nor the number of trials: all three are ours, in YAML, and go into the record. A
trial is a short training of `train-image`, by either recipe, judged on held-out training faces,
never on validation.

The trials are kept in OUT/search.db. What a killed search has left unfinished is marked as failed
and made again: what is proposed depends on the seed and on the trials that have ended, so the
search ends as if it had not been killed.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from cloud_server.model import WeightsError
from cloud_server.training import image, paper_image, pretrained, report_figures, settings
from cloud_server.training.ferplus import (
    EMOTIONS,
    DatasetError,
    Faces,
    Splits,
    load_splits,
    majority,
)
from cloud_server.training.image import ImageConfig
from cloud_server.training.paper_image import PaperConfig
from cloud_server.training.scores import Scores
from cloud_server.training.settings import SettingsError
from cloud_server.training.study import SMOKE_BELOW, Record, command_of

CRITERIA = ('accuracy', 'macro_f1')
WORST = 0.0  # of either criterion
# They say which faces judge the trials; to vary them would be to choose the judge.
NOT_SEARCHED = ('seed', 'held_out', 'temporal', 'recipe', 'base', 'pretrained', 'sha256', 'smoke')
RANGE_KEYS = {'low', 'high', 'log', 'step'}
DATABASE = 'search.db'


@dataclass(frozen=True)
class SearchConfig:
    """
    What is searched, and how.

    Attributes:
        base: the settings file of the training whose best settings are sought, relative to this.
        trial: settings of the trials alone, such as fewer epochs.
        data_share: of the training faces, for every trial the same ones.
        space: setting -> {low, high, log, step} or {choices}; a dot leads into a section
            (`network.dropout`). Whole numbers where both ends are.
        trials: how many must end.
        startup_trials: of them, drawn at random before the Gaussian process proposes.
        seed: of the proposals and of the share of the data.
        criterion: of the best epoch on the held-out faces: accuracy or macro_f1; more is better.
        smoke: marks figures that only prove that the command works.

    """

    base: str = ''
    trial: dict[str, Any] = field(default_factory=dict)
    data_share: float = 1.0
    space: dict[str, Any] = field(default_factory=dict)
    trials: int = 30
    startup_trials: int = 10
    seed: int = 1
    criterion: str = 'accuracy'
    smoke: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be searched."""
        if not self.base:
            raise ValueError('base must name the settings file of the training')
        if not isinstance(self.space, dict) or not self.space:
            raise ValueError(f'space must have at least one setting, got {self.space!r}')
        if not isinstance(self.trial, dict):
            raise ValueError(f'trial must be a mapping of settings, got {self.trial!r}')
        if self.criterion not in CRITERIA:
            raise ValueError(f'criterion must be one of {CRITERIA}, got {self.criterion!r}')
        if min(self.trials, self.startup_trials) < 1 or self.seed < 0:
            raise ValueError('trials and startup_trials must be at least 1, seed at least 0, got '
                             f'{self.trials}, {self.startup_trials}, {self.seed}')
        if not 0 < self.data_share <= 1:
            raise ValueError(f'data_share must be in (0, 1], got {self.data_share}')


def distribution(name: str, described: Any) -> BaseDistribution:
    """
    Return the values that a setting may take, out of its lines in the YAML.

    Raises:
        SettingsError: they do not describe any.

    """
    if name.partition('.')[0] in NOT_SEARCHED:
        raise SettingsError(f'space: {name} is not searched: it decides what the trials are '
                            'judged by')
    if not isinstance(described, Mapping):
        raise SettingsError(f'space: {name} must be a mapping, got {described!r}')
    try:
        if set(described) == {'choices'}:
            return CategoricalDistribution(_choices(name, described['choices']))
        if not {'low', 'high'} <= set(described) <= RANGE_KEYS:
            raise SettingsError(f'space: {name} must have low and high (log, step), or choices; '
                                f'found {sorted(described)}')
        low, high = described['low'], described['high']
        for end in (low, high):
            if not isinstance(end, (int, float)) or isinstance(end, bool):
                raise SettingsError(f'space: {name}: {end!r} is no number (YAML wants 1.0e-4)')
        log, step = bool(described.get('log', False)), described.get('step')
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log, step=1 if step is None else step)
        return FloatDistribution(low, high, log=log, step=step)
    except (TypeError, ValueError) as err:
        if isinstance(err, SettingsError):
            raise
        raise SettingsError(f'space: {name}: {err}') from err


def _choices(name: str, given: Any) -> list[Any]:
    if not isinstance(given, list) or len(given) < 2 or not all(
        isinstance(each, (bool, int, float, str)) for each in given
    ):
        raise SettingsError(f'space: {name}: choices must be two or more numbers or words, got '
                            f'{given!r}')
    return given


def changed(stored: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with some changed; a dot in a name leads into a section."""
    result = dict(stored)
    for name, value in changes.items():
        section, _, rest = name.partition('.')
        inner = result.get(section) or {}
        if rest:
            result[section] = changed(inner, {rest: value})
        elif isinstance(value, Mapping):
            result[section] = changed(inner, value)
        else:
            result[section] = value
    return result


@dataclass(frozen=True)
class Plan:
    """
    A search that has been checked: each end and each choice of its space makes a training.

    Attributes:
        config: the search.
        recipe: of the training, `paper` or `ferros`.
        stored: the training's settings as its file and the command line give them.
        space: setting -> the values it may take.

    """

    config: SearchConfig
    recipe: str
    stored: dict[str, Any]
    space: dict[str, BaseDistribution]

    @classmethod
    def of(cls, config: SearchConfig, path: Path, given: Mapping[str, Any]) -> Plan:
        """
        Read the training's settings beside the search's.

        Raises:
            SettingsError: unreadable, or a part of the space is no setting of that training.

        """
        base = path.parent / config.base
        recipe = settings.recipe(base)
        try:
            stored = yaml.safe_load(base.read_text('utf-8')) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
            raise SettingsError(f'{base}: cannot be read ({err})') from err
        if not isinstance(stored, dict):
            raise SettingsError(f'{base}: expected a mapping of settings')
        words = {key: value for key, value in given.items() if value is not None}
        space = {name: distribution(name, each) for name, each in config.space.items()}
        plan = cls(config, recipe, {**stored, **words}, space)
        plan.check(path)
        return plan

    def check(self, path: Path) -> None:
        """Build a training of every end and every choice, so that no trial fails over one."""
        tried: list[dict[str, Any]] = [{}]
        for name, each in self.space.items():
            values = (each.choices if isinstance(each, CategoricalDistribution)
                      else (each.low, each.high))  # type: ignore[attr-defined]
            tried += [{name: value} for value in values]
        for params in tried:
            try:
                self.training(params)
            except SettingsError as err:
                shown = ', '.join(f'{name} {value}' for name, value in params.items())
                raise SettingsError(f'{path}: {shown or "trial"}: {err}') from err

    def full(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings file of a whole training with some parameters."""
        return changed(self.stored, params)

    def training(self, params: Mapping[str, Any]) -> PaperConfig | ImageConfig:
        """Return the settings of a trial."""
        values = changed(changed(self.stored, self.config.trial), params)
        if self.recipe == 'paper':
            return settings.read(PaperConfig, None, values)
        return settings.read(ImageConfig, None, values)

    def key(self, weights: Path | None) -> str:
        """Return the fingerprint under which a search continues; more trials may be asked for."""
        whole = replace(self.config, trials=1)
        stored = {key: value for key, value in self.stored.items()
                  if key not in ('pretrained', 'sha256')}
        return settings.digest(_Key(whole, stored, pretrained.digest(weights) if weights else ''))


@dataclass(frozen=True)
class _Key:
    search: SearchConfig
    stored: dict[str, Any]
    weights: str


def epochs(
    config: PaperConfig | ImageConfig, splits: Splits, device: torch.device, base: Path | None
) -> Iterator[tuple[float, Scores]]:
    """Train by either recipe; yield the loss and the scores on the held-out faces per epoch."""
    bf16 = config.precision == 'bf16'
    if isinstance(config, PaperConfig):
        trainer = paper_image.Trainer(config, splits.encoder, device, base)
        while trainer.epoch < config.total_epochs:
            loss = trainer.run_epoch()
            yield loss, paper_image.score(trainer.network, splits.held_out, device, bf16=bf16)
        return
    own, truth = image.Trainer(config, splits.encoder, device), majority(splits.held_out.votes)
    while own.epoch < config.epochs:
        loss = own.run_epoch()
        features = image.predict(own.average, splits.held_out.luma, device, bf16=bf16)
        yield loss, Scores.of(truth, features[:, :7].argmax(1).numpy(), EMOTIONS[:7])


def measure(
    config: PaperConfig | ImageConfig, splits: Splits, device: torch.device, base: Path | None,
    criterion: str,
) -> float:
    """Return the criterion of the best epoch; a training that diverges ends there."""
    best = WORST
    for loss, scores in epochs(config, splits, device, base):
        if not math.isfinite(loss):
            break
        value = scores.accuracy if criterion == 'accuracy' else float(scores.f1.mean())
        best = max(best, value)
    return best


def open_study(path: Path, key: str) -> optuna.Study:
    """
    Open the trials of a search, or begin it; what was left running is marked as failed.

    Raises:
        SettingsError: the file holds another search.

    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(
            storage=f'sqlite:///{path}', study_name='search', direction='maximize',
            load_if_exists=True, sampler=optuna.samplers.RandomSampler(seed=0),
        )
    except Exception as err:  # whatever the database says of a file that is none
        reason = str(err).splitlines()[0]
        raise SettingsError(f'{path}: expected the trials of a search ({reason})') from err
    found = study.user_attrs.get('settings', key)
    if found != key:
        raise SettingsError(
            f'{path}: written under settings {found}, these are {key}; use the same settings and '
            'weights (--trials may differ), or another --out')
    study.set_user_attr('settings', key)
    for trial in study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that have a value."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def sampler(config: SearchConfig, done: int) -> optuna.samplers.BaseSampler:
    """Return a sampler for the next trial alone, the same after a restart as without one."""
    seed = int(np.random.SeedSequence([config.seed, done]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=config.startup_trials)


def search(
    plan: Plan, splits: Splits, device: torch.device, out: Path, base: Path | None
) -> optuna.Study:
    """Make the trials that are still to be made."""
    config = plan.config
    study = open_study(out / DATABASE, plan.key(base))
    failed = len(study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))
    print(f'{len(ended(study))} of {config.trials} trials have ended, {failed} failed; each on '
          f'{len(splits.encoder)} faces, judged on {len(splits.held_out)} held out; {device}',
          flush=True)
    while (done := len(ended(study))) < config.trials:
        study.sampler = sampler(config, done)
        began, trial = time.monotonic(), study.ask(plan.space)
        print(f'trial {trial.number}: {_shown(trial.params)}', flush=True)
        try:
            value = measure(plan.training(trial.params), splits, device, base, config.criterion)
        except torch.OutOfMemoryError:
            value = WORST
            trial.set_user_attr('note', 'out of memory')
        study.tell(trial, value)
        left = (config.trials - done - 1) * _mean_seconds(study) / 60
        print(f'trial {trial.number}: {config.criterion} {value:.4f} in '
              f'{time.monotonic() - began:.0f} s, best {study.best_value:.4f}; {done + 1} of '
              f'{config.trials}, about {left:.0f} min left', flush=True)
    return study


def _mean_seconds(study: optuna.Study) -> float:
    return float(np.mean([trial.duration.total_seconds() for trial in ended(study)
                          if trial.duration is not None]))


def _shown(params: Mapping[str, Any]) -> str:
    return ', '.join(f'{name} {value:.4g}' if isinstance(value, float) else f'{name} {value}'
                     for name, value in params.items())


def report(
    plan: Plan, study: optuna.Study, splits: Splits, out: Path, command: str
) -> Record:
    """Leave the record, the picture and best.yaml, and return the record."""
    config, best = plan.config, study.best_trial
    training = plan.training({})
    title, smoke = "ferros' own encoder", config.smoke or len(splits.held_out) < SMOKE_BELOW
    if isinstance(training, PaperConfig):
        title, smoke = training.title, smoke or training.is_smoke
    trials = [{
        'number': trial.number, 'params': trial.params, 'value': trial.value,
        'state': trial.state.name.lower(),
        'seconds': round(trial.duration.total_seconds(), 1) if trial.duration else None,
        **trial.user_attrs,
    } for trial in study.get_trials(deepcopy=False)]
    failed = sum(trial['state'] != 'complete' for trial in trials)
    record = Record(
        kind='search', network=title, command=command,
        data=f'FER+ training: {len(splits.encoder)} faces, judged on {len(splits.held_out)} '
             'held-out ones',
        smoke=smoke,
        result={
            'criterion': config.criterion, 'direction': 'maximize', 'space': config.space,
            'trials': trials,
            'best': {'number': best.number, 'params': best.params, 'value': best.value},
        },
        settings={'search': asdict(config), 'training': asdict(training)},
        notes=[
            'Bayesian optimisation over a Gaussian process (GPSampler of Optuna '
            f'{optuna.__version__}, expected improvement), {config.startup_trials} trials drawn '
            'at random first.',
            'Search space, criterion and number of trials are ours: the paper states none.',
            f'The criterion is the {config.criterion} of the best epoch on held-out training '
            'faces; validation was not looked at.',
            f'{failed} trials failed or were killed; they were made again and do not count.',
        ],
    )
    record.save(out / 'search.study.json')
    figure = report_figures.searching(record.result)
    if figure is not None:
        report_figures.save(figure, out, 'search', 'What each trial gave, and the best so far',
                            smoke=record.smoke)
    _write_best(plan, best, out / 'best.yaml')
    return record


def _write_best(plan: Plan, best: FrozenTrial, path: Path) -> None:
    full = {'recipe': plan.recipe, **plan.full(best.params)}
    head = (f'# {plan.config.base} with the best parameters of {plan.config.trials} trials: '
            f'number {best.number}, {plan.config.criterion}\n# {best.value:.4f} on held-out '
            'faces. Written by `ferros-cloud search`, for `ferros-cloud train-image`.\n')
    text = head + yaml.safe_dump(full, sort_keys=False)
    settings.write_atomically(path, text.encode())


def share_of(faces: Faces, share: float, seed: int) -> Faces:
    """Return a random part of the faces, the same for one seed."""
    count = max(1, round(share * len(faces)))
    return faces.subset(np.sort(np.random.default_rng(seed).permutation(len(faces))[:count]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `search`."""
    settings.add_arguments(parser, 'config/search_image.yaml')
    parser.add_argument('--trials', type=int, help='how many trials must end')
    parser.add_argument('--pretrained', metavar='FILE_OR_URL',
                        help='base of `recipe: paper`: .safetensors, .pth or .pt')
    parser.add_argument('--sha256', help='digest of --pretrained; needed with an address')


def run(args: argparse.Namespace) -> int:
    """Run `search`."""
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        record = _run(args)
    except (DatasetError, WeightsError, SettingsError) as err:
        print(f'ferros-cloud search: {err}', file=sys.stderr)
        return 1
    best = record.result['best']
    print(f'best of {len(record.result["trials"])}: trial {best["number"]}, '
          f'{record.result["criterion"]} {best["value"]:.4f}: {_shown(best["params"])}')
    print(f'wrote {args.out / "best.yaml"}, search.study.json and search.png')
    return 0


def _run(args: argparse.Namespace) -> Record:
    if args.config is None:
        raise SettingsError('--config is missing: a search space, as in config/search_image.yaml')
    config = settings.read(SearchConfig, args.config, {'trials': args.trials, 'seed': args.seed})
    if args.epochs is not None:
        config = replace(config, trial={**config.trial, 'epochs': args.epochs})
    given = {'pretrained': args.pretrained, 'sha256': args.sha256}
    plan = Plan.of(config, args.config, given)
    training, base = plan.training({}), None
    if isinstance(training, PaperConfig):
        split = training.split()
        if training.pretrained:
            base = pretrained.obtain(training.pretrained, training.sha256, args.out)
    else:
        split = {'held_out': training.held_out, 'temporal': training.temporal,
                 'seed': training.seed}
    splits = load_splits(args.data, **split)
    splits = replace(splits, encoder=share_of(splits.encoder, config.data_share, config.seed))
    args.out.mkdir(parents=True, exist_ok=True)
    study = search(plan, splits, settings.pick_device(args.device), args.out, base)
    command = command_of('search', args, 'trials', 'epochs', 'seed', 'pretrained', 'sha256')
    return report(plan, study, splits, args.out, command)
