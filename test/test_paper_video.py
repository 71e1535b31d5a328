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

"""The paper's video experiment at smoke size, through the command: on generated clips of 720p."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
import tiny_ravdess as tiny
import torch
from safetensors.torch import load_file

from cloud_server.model import Encoder, EncoderConfig, save_weights
from cloud_server.training import clip_classifiers as classifiers
from cloud_server.training import clip_features, paper_rows, settings, study, video
from cloud_server.training.clip_classifiers import Examples, FitConfig, FrameHead, Trainer
from cloud_server.training.clip_features import load_network
from cloud_server.training.paper_video import PaperVideoConfig
from cloud_server.training.paper_video_tables import FoldResult, tabulate, text_tables
from cloud_server.training.ravdess import CALM, EMOTIONS, NEUTRAL, Fold
from cloud_server.training.report_read import read_runs
from cloud_server.training.resnet import ResNet, ResNetConfig, save_resnet
from cloud_server.training.variants import VariantConfig

ACTORS = (1, 2, 3, 4)
YAML = """
recipe: paper
variants: {frames: 6}
looks: 1
split: five_fold
epochs: 10
batch_size: 16
learning_rate: 0.01
lstm_units: 16
dense_units: 16
dropout: 0.0
head_epochs: 2
head_batch_size: 64
workers: 1
"""
SEVEN = ('neutral', 'happiness', 'surprise', 'sadness', 'anger', 'disgust', 'fear')

command = partial(command_line.command, video)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write clips of four actors, and four files that cannot be used."""
    root = tiny.write_tree(tmp_path_factory.mktemp('ravdess'), ACTORS)
    tiny.truncate(tiny.place(root, 8, 4))
    tiny.write_video(tiny.place(root, 8, 3), np.full((720, 1280, 3), 90, np.uint8), 3)
    shutil.copy(tiny.place(root, 1, 1), root / 'Actor_02' / tiny.name(2, 3))
    (root / 'Actor_01' / '03-01-01-01-01-01-01.wav').write_bytes(b'RIFF')
    return root


@pytest.fixture(scope='module')
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an encoder with random weights: stripes differ in its embedding all the same."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('network') / 'encoder.safetensors'
    config = EncoderConfig(input_size_px=32, stem_channels=8, widths=(8, 16), blocks=(1, 1))
    save_weights(Encoder(config), path, {})
    return path


def settings_file(folder: Path, extra: str = '') -> Path:
    path = folder / 'paper.yaml'
    path.write_text(YAML + extra)
    return path


@pytest.fixture(scope='module')
def done(
    data: Path, network: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Run the whole command once, as anyone would."""
    out = tmp_path_factory.mktemp('out')
    assert command('--config', settings_file(out), '--data', data, '--encoder', network,
                   '--out', out) == 0
    return out


def record_of(out: Path) -> study.Record:
    return study.load(out / 'video.study.json')


def test_the_command_fills_the_papers_three_tables(done: Path) -> None:
    record = record_of(done)
    assert (record.kind, record.smoke) == ('video', True)
    result = record.result
    assert result['labels'] == list(EMOTIONS)
    assert result['resolutions'] == [[1280, 720], [640, 360], [256, 144]]
    assert result['rates_fps'] == [30, 15, 5]
    tables = [result['tables'][name][way] for name in ('mean', 'mode')
              for way in ('calm_wrong', 'calm_as_neutral', 'eight_class_head')]
    for table in (*tables, result['tables']['lstm']):
        assert np.shape(table) == (3, 3) and (np.array(table) <= 1).all()
    assert read_runs([done])[0].record.kind == 'video'  # the report can draw it


def test_the_best_cells_confusion_matrices_count_every_test_clip_and_are_drawn(
    done: Path,
) -> None:
    result = record_of(done).result
    for name, found in result['confusions'].items():
        table = np.array(result['tables'][name] if name == 'lstm'
                         else result['tables'][name]['calm_wrong'])
        row = result['resolutions'].index(found['resolution'])
        assert table[row, result['rates_fps'].index(found['rate_fps'])] == table.max()
        matrix = np.array(found['matrix'])
        assert matrix.shape == (8, 8) and matrix.sum() == result['counts']['clips'] == 30
        assert (done / f'confusion_{name}.png').stat().st_size > 5000
    assert np.array(result['confusions']['mean']['matrix'])[:, CALM].sum() == 0
    assert sorted(result['confusions']) == ['lstm', 'mean', 'mode']


def test_a_cell_is_the_mean_of_the_folds(done: Path) -> None:
    result = record_of(done).result
    tests = [fold['test'] for fold in result['folds']]
    assert tests == [[2], [3], [1, 4]]  # of the five published folds, who is there
    each = [fold['tables']['lstm'] for fold in result['folds']]
    np.testing.assert_allclose(np.mean(each, 0), result['tables']['lstm'], atol=2e-4)
    assert sum(fold['test_clips'] for fold in result['folds']) == 30


def test_the_lstm_learns_stripes_of_actors_it_has_not_seen(done: Path) -> None:
    result = record_of(done).result
    assert np.mean(result['tables']['lstm']) > 0.3  # chance is 1/8
    losses = [entry['lstm_loss'] for entry in record_of(done).history]
    assert len(losses) == 10 and losses[-1] < losses[0]
    assert 'head_loss' in record_of(done).history[1]
    assert 'head_loss' not in record_of(done).history[2]


def test_every_file_is_used_or_counted_and_the_broken_ones_are_named(
    done: Path, data: Path
) -> None:
    counts = record_of(done).result['counts']
    skipped = dict(counts['skipped'])
    assert skipped.pop('missing') == 1440 - 32
    assert skipped == {'unreadable': 1, 'no_face': 1, 'mislabelled': 1, 'audio_only': 1,
                       'same_take': 1}
    files = [file for file in data.rglob('*.*') if file.is_file()]
    assert counts['clips'] + sum(skipped.values()) == len(files)
    lines = (done / 'left_out.txt').read_text().splitlines()
    for broken, said in ((tiny.place(data, 8, 4), ''), (tiny.place(data, 8, 3), 'no face'),
                         (data / 'Actor_02' / tiny.name(2, 3), 'expected actor 02')):
        assert any(line.startswith(f'{broken}: ') and said in line for line in lines)


def test_the_notes_say_what_the_paper_leaves_open(done: Path) -> None:
    text = (done / 'video_tables.txt').read_text()
    assert '0.81' in text and '256x144 and 15 fps too' in text
    assert 'shorter than 40 frames' in text and '30 of 1440 clips' in text
    assert 'the last of a number of epochs fixed beforehand' in text
    assert 'A smoke run' in text


def test_the_papers_figures_stand_beside_ours_and_mode_has_none(done: Path) -> None:
    text = text_tables(record_of(done).result)
    lines = {block.splitlines()[0].strip(): block for block in text.split('\n\n')}
    lstm = lines['(c) lstm'].splitlines()
    assert lstm[4].startswith('256x144') and lstm[4].split('|')[1].split() == ['0.80', '0.81',
                                                                               '0.76']
    mode = lines['(b) mode, calm always wrong'].splitlines()[2]
    assert mode.split('|')[1].split() == [paper_rows.NOT_IN_SOURCE] * 3


def test_a_run_that_was_killed_ends_as_if_it_had_not_been_and_decodes_nothing_again(
    done: Path, data: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done / 'features', tmp_path / 'features')
    shutil.copy(done / 'faces.json', tmp_path)
    monkeypatch.setattr(clip_features, 'make_crops', lambda *_: pytest.fail('made again'))
    options = ('--config', settings_file(tmp_path), '--data', data, '--encoder', network, '--out',
               tmp_path)
    save = Trainer.save

    def killed(self: Trainer, path: Path, key: str) -> None:
        save(self, path, key)
        if 'fold2_lstm' in path.name and self.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, 'save', killed)
        command(*options)
    names = {path.name for path in (tmp_path / 'models').iterdir()}
    assert {'fold1_lstm.safetensors', 'fold2_lstm.checkpoint.safetensors'} <= names
    assert 'fold2_lstm.safetensors' not in names
    assert command(*options) == 0
    for model in sorted((done / 'models').iterdir()):
        left, right = (load_file(path) for path in (model, tmp_path / 'models' / model.name))
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert _plain(record_of(tmp_path).result) == _plain(record_of(done).result)
    assert record_of(tmp_path).history == record_of(done).history


def _plain(result: dict[str, Any]) -> str:
    """Return a result without the seconds that it took."""
    text = json.loads(json.dumps(result))
    for fold in text['folds']:
        for entries in fold['history'].values():
            for entry in entries:
                entry.pop('seconds')
    return json.dumps(text)


def test_weights_of_other_settings_are_refused(
    done: Path, data: Path, network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command('--config', settings_file(done), '--data', data, '--encoder', network, '--out',
                   done, '--seed', 2) == 1
    assert 'written under settings' in capsys.readouterr().err


def test_one_model_for_each_cell_and_an_epoch_chosen_by_other_actors_are_options(
    done: Path, data: Path, network: Path, tmp_path: Path
) -> None:
    shutil.copytree(done / 'features', tmp_path / 'features')
    shutil.copy(done / 'faces.json', tmp_path)
    yaml = (YAML.replace('five_fold', 'held_out').replace('\nepochs: 10', '\nepochs: 2')
            + 'test_actors: [4]\nvalidation_actors: [3]\nchoose: validation\none_model: false\n')
    (tmp_path / 'paper.yaml').write_text(yaml)
    assert command('--config', tmp_path / 'paper.yaml', '--data', data, '--encoder', network,
                   '--out', tmp_path) == 0
    record = record_of(tmp_path)
    assert record.result['split']['folds'] == [
        {'name': 'held_out', 'train': [1, 2], 'test': [4], 'validation': [3]}]
    assert len(list((tmp_path / 'models').glob('fold1_lstm_cell*.safetensors'))) == 9
    assert 'lstm_validation_loss' in record.history[0]
    assert 'lowest loss on actors who are in neither part' in ' '.join(record.notes)


def test_the_epoch_with_the_lowest_validation_loss_is_taken() -> None:
    torch.manual_seed(0)
    embedding = torch.randn(40, 4)
    rows = torch.arange(40)
    train = Examples(rows[:20], torch.randint(0, 8, (20,)))  # nothing to learn: it only overfits
    held = Examples(rows[20:], torch.randint(0, 8, (20,)))
    trainer = Trainer(FrameHead(4, 16, 0.0), embedding, train, held,
                      FitConfig(30, 10, 0.02, 0.0, 1))
    for _ in range(30):
        trainer.run_epoch()
    losses = [entry['validation_loss'] for entry in trainer.history]
    assert min(losses) < losses[-1]
    trainer.finish()
    assert trainer._judge(held)['validation_loss'] == min(losses)


@pytest.mark.parametrize(('extra', 'said'), [
    ('split: held_out\ntest_actors: [2]\ntrain_actors: [1, 2]\n',
     r'actors [2] are in train and in test'),
    ('split: held_out\ntest_actors: [9]\n', 'found [9]'),
    ('split: held_out\n', 'needs test_actors'),
    ('split: random\n', "got 'random'"),
    ('test_actors: [2]\n', 'need split: held_out'),
    ('choose: best\n', "got 'best'"),
    ('lstm_units: 0\n', 'lstm_units must be at least 1'),
    ('channels: [music]\n', 'music'),
    ('variants: {resolutions: [4k]}\n', "got '4k'"),
    ('lstm: 3\n', "unknown settings ['lstm']"),
])
def test_a_split_that_leaks_and_a_wrong_setting_are_refused_before_anything_is_decoded(
    data: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: str,
    said: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clip_features, 'read_frames', lambda _: pytest.fail('decoded'))
    kept = [line for line in YAML.splitlines() if line.split(':')[0] not in extra]
    (tmp_path / 'paper.yaml').write_text('\n'.join(kept) + '\n' + extra)
    assert command('--config', tmp_path / 'paper.yaml', '--data', data, '--encoder', network,
                   '--out', tmp_path / 'out') == 1
    error = capsys.readouterr().err
    assert error.startswith('ferros-cloud train-video: ') and said in error


def test_wrong_data_and_a_wrong_network_are_one_clear_line(
    data: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings_file(tmp_path)
    assert command('--config', config, '--data', tmp_path, '--encoder', network, '--out',
                   tmp_path / 'out') == 1
    assert 'expected the folders Actor_01 to Actor_24' in capsys.readouterr().err
    assert command('--config', config, '--data', data, '--encoder', config, '--out',
                   tmp_path / 'out') == 1
    assert 'paper.yaml: cannot be read' in capsys.readouterr().err
    assert command('--config', config, '--data', data, '--encoder', network, '--out',
                   tmp_path / 'out', '--clips', 3) == 1
    assert '--clips is for clips rendered from FER+' in capsys.readouterr().err


def test_calm_is_always_wrong_for_seven_classes_unless_neutral_counts_as_right() -> None:
    truth = np.array([CALM, CALM, NEUTRAL, EMOTIONS.index('anger')])
    guess = np.array([NEUTRAL, EMOTIONS.index('sadness'), NEUTRAL, NEUTRAL])
    assert classifiers.right(truth, guess).tolist() == [False, False, True, False]
    kind = classifiers.right(truth, guess, calm_as_neutral=True)
    assert kind.tolist() == [True, False, True, False]


def test_the_tables_count_calm_in_three_ways() -> None:
    truth = np.array([CALM, NEUTRAL])
    says = {name: np.array([[NEUTRAL], [NEUTRAL]]) for name in ('mean', 'mode')}
    head = {f'head_{name}': np.array([[CALM], [CALM]]) for name in ('mean', 'mode')}
    found = tabulate(
        [FoldResult(Fold('one', (1,), (2,)), np.arange(2), truth,
                    {**says, **head, 'lstm': np.array([[CALM], [NEUTRAL]])}, {})],
        VariantConfig(resolutions=('256x144',), rates_fps=(5,)))
    assert found['tables'] == {
        'mean': {'calm_wrong': [[0.5]], 'calm_as_neutral': [[1.0]], 'eight_class_head': [[0.5]]},
        'mode': {'calm_wrong': [[0.5]], 'calm_as_neutral': [[1.0]], 'eight_class_head': [[0.5]]},
        'lstm': [[1.0]],
    }
    assert found['confusions']['mean']['matrix'][CALM][NEUTRAL] == 1
    assert found['confusions_of_the_head']['mean']['matrix'][NEUTRAL][CALM] == 1


def test_guesses_of_a_network_become_emotions_of_ravdess() -> None:
    found = classifiers.as_emotions(torch.arange(7), SEVEN)
    assert [EMOTIONS[index] for index in found] == list(SEVEN)


def test_mean_and_mode_differ_where_one_frame_is_very_sure() -> None:
    scores = torch.tensor([[0.4, 0.35, 0.25], [0.4, 0.35, 0.25], [0.0, 1.0, 0.0]])
    assert int(classifiers.mean_of(scores)) == 1
    assert int(classifiers.mode_of(scores)) == 0


def test_a_tie_of_the_mode_goes_to_the_higher_sum_then_to_the_first_label() -> None:
    tied = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]])
    assert int(classifiers.mode_of(tied)) == 1  # sums 0.7 and 1.0
    even = torch.tensor([[0.1, 0.3, 0.6], [0.1, 0.6, 0.3]])
    assert int(classifiers.mode_of(even)) == 1
    # A class with the highest sum, but most frames' nowhere, does not take part.
    most = torch.tensor([[0.51, 0.0, 0.49], [0.51, 0.0, 0.49], [0.0, 0.51, 0.49]])
    assert int(classifiers.mode_of(most)) == 0
    assert classifiers.mode_of(torch.stack((tied, even))).tolist() == [1, 1]


def test_either_image_network_gives_embeddings_and_seven_scores(
    network: Path, tmp_path: Path
) -> None:
    luma = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    ours = load_network(network)
    assert set(ours.labels) == set(SEVEN) and ours.input_size_px == 32
    with torch.inference_mode():
        assert [tuple(part.shape) for part in ours.read(luma)] == [(2, 16), (2, 7)]
    resnet = ResNet(ResNetConfig(width=4, blocks=(1, 1, 1, 1), hidden_size=8, input_size_px=32))
    save_resnet(resnet.eval(), tmp_path / 'resnet.safetensors', {})
    papers = load_network(tmp_path / 'resnet.safetensors')
    with torch.inference_mode():
        embedding, logits = papers.read(luma)
        torch.testing.assert_close(logits, resnet(luma))
    assert embedding.shape == (2, 128) and set(papers.labels) == set(SEVEN)
    assert 'ResNet' in papers.name


def test_features_are_made_again_where_the_network_or_the_copies_are_others(
    network: Path, tmp_path: Path
) -> None:
    root = tiny.write_tree(tmp_path / 'data', (1,), (3,))
    found = clip_features.Recordings((_clip(root),), 1440, clip_features.Counter(), ())

    def rows(digest: str, frames: int) -> tuple[int, int]:
        collector = clip_features.Collector(
            load_network(network), digest, VariantConfig(frames=frames), tmp_path,
            torch.device('cpu'), looks=1, bf16=False)
        footage, _ = collector.collect(found, 1)
        kept = next((tmp_path / 'features').iterdir())
        return footage.rows.shape[2], kept.stat().st_mtime_ns

    first, again, other, longer = rows('a', 4), rows('a', 4), rows('b', 4), rows('b', 5)
    assert first == again and other[1] != again[1] and longer[0] == 5


def _clip(root: Path) -> Any:
    return clip_features.Clip('01-03-01-01-01-01', (tiny.place(root, 3, 1),), 2, 1)


def test_where_a_file_is_broken_the_other_file_of_its_take_is_used(
    network: Path, tmp_path: Path
) -> None:
    root = tiny.write_tree(tmp_path / 'data', (1,), (3,))
    tiny.truncate(tiny.place(root, 3, 1))
    found = clip_features.replace(
        clip_features.Recordings((), 1440, clip_features.Counter(same_take=1), ()),
        clips=(clip_features.replace(_clip(root), files=(
            tiny.place(root, 3, 1), tiny.place(root, 3, 1, 2))),))
    collector = clip_features.Collector(
        load_network(network), 'a', VariantConfig(frames=2), tmp_path, torch.device('cpu'),
        looks=1, bf16=False)
    footage, looked = collector.collect(found, 1)
    assert len(footage.clips) == 1 and looked.skipped == {'unreadable': 1}
    assert str(tiny.place(root, 3, 1)) in looked.problems[0]


def test_the_shipped_settings_are_the_papers_and_the_defaults(root: Path) -> None:
    path = root / 'config' / 'paper_video.yaml'
    assert settings.read(PaperVideoConfig, path, {}) == PaperVideoConfig()
    config = PaperVideoConfig()
    assert (config.lstm_units, config.variants.frames, config.split) == (1024, 30, 'five_fold')
