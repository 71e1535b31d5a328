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

"""The search at smoke size: it proposes, survives a kill, and leaves what train-image takes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import optuna
import pytest
import torch
import yaml
from command_line import command
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from tiny_ferplus import make_faces, write_folder

from cloud_server.training import image, report_read, search, settings
from cloud_server.training.ferplus import Splits, divide
from cloud_server.training.paper_image import PaperConfig
from cloud_server.training.search import Plan, SearchConfig, changed, distribution
from cloud_server.training.study import Record

PAPER_YAML = """
recipe: paper
base: scratch
held_out: 60
head_epochs: 0
epochs: 3
batch_size: 16
learning_rate: 0.05
precision: fp32
network: {width: 4, blocks: [1, 1, 1, 1], input_size_px: 32, hidden_size: 8, dropout: 0.0}
"""
FERROS_YAML = """
held_out: 60
temporal: 20
epochs: 3
batch_size: 32
ema_decay: 0.5
precision: fp32
encoder: {stem_channels: 4, widths: [8, 16], blocks: [1, 1], dropout: 0.0}
"""
SEARCH_YAML = """
base: paper.yaml
trials: 4
startup_trials: 2
data_share: 0.4
criterion: macro_f1
trial: {epochs: 1}
space:
  learning_rate: {low: 0.003, high: 0.3, log: true}
  network.hidden_size: {choices: [4, 8]}
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp('ferplus'), {
        'train': make_faces(260, 1), 'valid': make_faces(70, 2),
    })


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('settings')
    (folder / 'paper.yaml').write_text(PAPER_YAML)
    (folder / 'ferros.yaml').write_text(FERROS_YAML)
    (folder / 'search.yaml').write_text(SEARCH_YAML)
    return folder


@pytest.fixture(scope='module')
def searched(data: Path, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a whole search once, as anyone would."""
    out = tmp_path_factory.mktemp('searched')
    assert command(search, '--data', data, '--config', files / 'search.yaml', '--out', out) == 0
    return out


def record_of(folder: Path) -> Record:
    """Return what the report reads, which checks the record on the way."""
    (run,) = report_read.read_runs([folder])
    return run.record


def values_of(record: Record) -> list[tuple[Any, Any]]:
    return [(trial['params'], trial['value']) for trial in record.result['trials']
            if trial['state'] == 'complete']


def test_it_leaves_a_record_of_every_trial_that_says_whose_space_it_was(searched: Path) -> None:
    record = record_of(searched)
    result = record.result
    assert record.kind == 'search' and record.smoke
    assert result['criterion'] == 'macro_f1' and result['direction'] == 'maximize'
    assert result['space']['learning_rate'] == {'low': 0.003, 'high': 0.3, 'log': True}
    assert [trial['number'] for trial in result['trials']] == [0, 1, 2, 3]
    assert len({trial['params']['learning_rate'] for trial in result['trials']}) == 4
    for trial in result['trials']:
        assert trial['state'] == 'complete' and trial['seconds'] >= 0
        assert 0.003 <= trial['params']['learning_rate'] <= 0.3
        assert trial['params']['network.hidden_size'] in (4, 8)
        assert 0 <= trial['value'] <= 1
    assert result['best']['value'] == max(trial['value'] for trial in result['trials'])
    notes = ' '.join(record.notes)
    assert 'are ours: the paper states none' in notes and 'Gaussian process' in notes
    assert record.data == 'FER+ training: 80 faces, judged on 60 held-out ones'


def test_the_picture_of_its_history_is_drawn(searched: Path) -> None:
    picture = cv2.imread(str(searched / 'search.png'))
    assert picture is not None and min(picture.shape[:2]) > 200


def test_its_best_settings_are_those_of_the_whole_training_and_train(
    searched: Path, data: Path, tmp_path: Path
) -> None:
    stored = yaml.safe_load((searched / 'best.yaml').read_text())
    best = record_of(searched).result['best']['params']
    assert stored['learning_rate'] == best['learning_rate']
    assert stored['network']['hidden_size'] == best['network.hidden_size']
    assert stored['network']['width'] == 4
    assert stored['epochs'] == 3  # not the one of a trial
    assert command(image, '--data', data, '--config', searched / 'best.yaml', '--out', tmp_path,
                   '--epochs', 1) == 0
    assert record_of(tmp_path).kind == 'image'


def test_a_search_killed_in_a_trial_ends_as_if_it_had_not_been(
    searched: Path, data: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ('--data', data, '--config', files / 'search.yaml', '--out', tmp_path)
    measure, made = search.measure, []

    def killed_in_the_third(*args: Any) -> float:
        made.append(args)
        if len(made) == 3:
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(search, 'measure', killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        command(search, *options)
    assert not (tmp_path / 'best.yaml').exists()
    monkeypatch.undo()
    assert command(search, *options) == 0
    record, whole = record_of(tmp_path), record_of(searched)
    assert values_of(record) == values_of(whole)
    states = [trial['state'] for trial in record.result['trials']]
    assert states == ['complete', 'complete', 'fail', 'complete', 'complete']
    assert '1 trials failed or were killed' in ' '.join(record.notes)
    first, other = (yaml.safe_load((folder / 'best.yaml').read_text())
                    for folder in (tmp_path, searched))
    assert first == other


def test_a_search_that_has_ended_goes_on_when_more_is_asked_and_refuses_other_settings(
    searched: Path, data: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'search.db').write_bytes((searched / 'search.db').read_bytes())
    options = ('--data', data, '--config', files / 'search.yaml', '--out', tmp_path)
    assert command(search, *options, '--trials', 5) == 0
    record = record_of(tmp_path)
    assert values_of(record)[:4] == values_of(record_of(searched))
    assert len(record.result['trials']) == 5
    assert '4 of 5 trials have ended' in capsys.readouterr().out
    assert command(search, *options, '--seed', 2) == 1
    assert 'written under settings' in capsys.readouterr().err
    assert command(search, *options, '--epochs', 2) == 1
    assert 'written under settings' in capsys.readouterr().err


def test_ferros_own_encoder_can_be_searched(data: Path, files: Path, tmp_path: Path) -> None:
    (files / 'own.yaml').write_text("""
base: ferros.yaml
trials: 2
startup_trials: 2
trial: {epochs: 1}
space: {augment.rotation_deg: {low: 0.0, high: 9.0}, encoder.dropout: {low: 0.0, high: 0.4}}
""")
    assert command(search, '--data', data, '--config', files / 'own.yaml', '--out',
                   tmp_path) == 0
    record = record_of(tmp_path)
    assert record.network == "ferros' own encoder" and record.result['criterion'] == 'accuracy'
    config = settings.read(image.ImageConfig, tmp_path / 'best.yaml', {})
    best = record.result['best']['params']
    assert config.augment.rotation_deg == best['augment.rotation_deg']
    assert config.epochs == 3 and settings.recipe(tmp_path / 'best.yaml') == 'ferros'


def tiny_splits() -> Splits:
    return divide(make_faces(100, 1), make_faces(14, 2), held_out=30, temporal=0, seed=1)


def test_the_gaussian_process_closes_in_on_the_optimum_of_a_known_function(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known(config: PaperConfig, *_: object) -> float:  # in place of a training
        return 1 - (config.weight_decay * 1000 - 0.7) ** 2 - (config.momentum - 0.3) ** 2

    monkeypatch.setattr(search, 'measure', known)
    config = SearchConfig(base='paper.yaml', trials=9, startup_trials=4, space={
        'weight_decay': {'low': 0.0, 'high': 0.001}, 'momentum': {'low': 0.1, 'high': 0.9}})
    plan = Plan.of(config, files / 'search.yaml', {})
    study = search.search(plan, tiny_splits(), torch.device('cpu'), tmp_path, None)
    values = [trial.value or 0.0 for trial in search.ended(study)]
    assert len(values) == 9
    assert max(values[4:]) > max(values[:4])
    assert max(values) > 0.98


def test_a_training_that_diverges_is_a_bad_trial_and_no_end() -> None:
    config = settings.read(PaperConfig, None, yaml.safe_load(PAPER_YAML))
    value = search.measure(replace(config, learning_rate=1e30), tiny_splits(),
                           torch.device('cpu'), None, 'accuracy')
    assert value == search.WORST


def test_what_the_yaml_describes_is_what_is_drawn_from() -> None:
    assert distribution('x', {'low': 0.1, 'high': 1.0, 'log': True}) == FloatDistribution(
        0.1, 1.0, log=True)
    assert distribution('x', {'low': 1, 'high': 9, 'step': 2}) == IntDistribution(1, 9, step=2)
    assert distribution('x', {'choices': [32, 64]}) == CategoricalDistribution([32, 64])


@pytest.mark.parametrize(('name', 'described', 'named'), [
    ('x', 3, 'must be a mapping'),
    ('x', {'low': 1.0}, 'low and high'),
    ('x', {'low': 1.0, 'high': 2.0, 'size': 3}, 'size'),
    ('x', {'choices': [1]}, 'two or more'),
    ('x', {'choices': [[1], [2]]}, 'numbers or words'),
    ('x', {'low': '1e-4', 'high': 1.0}, 'YAML wants'),
    ('x', {'low': 2.0, 'high': 1.0}, 'x: '),
    ('x', {'low': 0.0, 'high': 1.0, 'log': True}, 'x: '),
    ('held_out', {'low': 1, 'high': 2}, 'judged by'),
])
def test_a_space_that_is_none_is_refused_by_name(
    name: str, described: object, named: str
) -> None:
    with pytest.raises(settings.SettingsError, match=named):
        distribution(name, described)


def test_a_dot_leads_into_a_section() -> None:
    stored = {'a': 1, 'n': {'x': 1, 'y': 2}}
    assert changed(stored, {'n.x': 5, 'm.z': 3, 'n': {'y': 7}}) == {
        'a': 1, 'n': {'x': 5, 'y': 7}, 'm': {'z': 3}}
    assert stored == {'a': 1, 'n': {'x': 1, 'y': 2}}


@pytest.mark.parametrize(('old', 'new', 'named'), [
    ('network.hidden_size', 'network.hidden', 'network.hidden 4: .*hidden'),
    ('high: 0.3', 'high: 1.0e-9', 'space: learning_rate'),
    ('low: 0.003', 'low: -0.003', 'space: learning_rate'),
    ('trial: {epochs: 1}', 'trial: {epochs: 0}', 'trial: .*epochs'),
    ('base: paper.yaml', 'base: nowhere.yaml', 'nowhere.yaml: cannot be read'),
    ('macro_f1', 'beauty', 'criterion must be one of'),
    ('trials: 4', 'trails: 4', 'trails'),
    ('data_share: 0.4', 'data_share: 0.0', 'data_share'),
])
def test_a_search_with_a_mistake_stops_at_once_and_names_it(
    old: str, new: str, named: str, data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / 'paper.yaml').write_text(PAPER_YAML)
    (tmp_path / 'bad.yaml').write_text(SEARCH_YAML.replace(old, new))
    assert command(search, '--data', data, '--config', tmp_path / 'bad.yaml', '--out',
                   tmp_path / 'o') == 1
    error = capsys.readouterr().err
    assert error.startswith('ferros-cloud search: ')
    assert re.search(named, error)
    assert not (tmp_path / 'o').exists()


def test_a_file_that_holds_no_search_is_named(tmp_path: Path) -> None:
    (tmp_path / 'search.db').write_text('no database')
    with pytest.raises(settings.SettingsError, match=r'search\.db: expected the trials'):
        search.open_study(tmp_path / 'search.db', 'k')


def test_the_shipped_search_is_one(root: Path) -> None:
    path = root / 'config' / 'search_image.yaml'
    config = settings.read(SearchConfig, path, {})
    plan = Plan.of(config, path, {'pretrained': 'w.safetensors'})
    assert plan.recipe == 'paper' and config.trials == 30
    training = plan.training({'network.dropout': 0.1})
    assert isinstance(training, PaperConfig)
    assert training.network.dropout == 0.1 and training.network.is_resnet50
    assert training.total_epochs < PaperConfig().total_epochs
    assert isinstance(search.sampler(config, 0), optuna.samplers.GPSampler)
