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

"""`ferros-cloud card`: the model card says what was measured, and says it by itself."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from command_line import command
from tiny_ferplus import make_faces, write_folder

from cloud_server.model_info import ModelInfo
from cloud_server.training import card, evaluate, export, image, video
from cloud_server.training.evaluate import DEFAULT_MODEL
from cloud_server.training.settings import read

IMAGE_YAML = """
held_out: 20
epochs: 1
batch_size: 16
precision: fp32
encoder: {stem_channels: 2, widths: [4, 6], blocks: [1, 1], dropout: 0.0}
augment: {mix_share: 0.0}
"""
VIDEO_YAML = """
clips: 6
held_out_clips: 3
epochs: 1
units: 4
precision: fp32
clip: {length_s: 1.5, rate_fps: [5, 15], cross_fade_s: [0.1, 0.3]}
"""


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Train as the shipped model was: votes, again, then with a teacher on all faces."""
    out = tmp_path_factory.mktemp('runs')
    data = write_folder(out / 'ferplus', {'train': make_faces(90, 1), 'valid': make_faces(21, 2)})
    (out / 'image.yaml').write_text(IMAGE_YAML + 'temporal: 20\n')
    (out / 'all.yaml').write_text(IMAGE_YAML + 'temporal: 0\nteacher_share: 0.3\n')
    (out / 'video.yaml').write_text(VIDEO_YAML)
    options: dict[str, tuple[object, ...]] = {
        'one': ('--config', out / 'image.yaml'),
        'two': ('--config', out / 'image.yaml', '--start', out / 'one/encoder.safetensors'),
        'three': ('--config', out / 'all.yaml', '--start', out / 'two/encoder.safetensors',
                  '--teacher', out / 'one/encoder.safetensors', out / 'two/encoder.safetensors'),
    }
    for name, given in options.items():
        assert command(image, '--data', data, '--out', out / name, '--threads', 1, *given) == 0
    assert command(video, '--data', data, '--encoder', out / 'two/encoder.safetensors', '--out',
                   out / 'two', '--config', out / 'video.yaml', '--threads', 1) == 0
    return [out / name for name in options]


@pytest.fixture(scope='module')
def measured(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export and evaluate the model, and write its card."""
    folder, data = tmp_path_factory.mktemp('model'), runs[0].parent / 'ferplus'
    assert command(export, '--encoder', runs[2] / 'encoder.safetensors', '--temporal',
                   runs[1] / 'temporal.safetensors', '--out', folder, '--data', data,
                   '--clips', 2, '--int8') == 0
    for what in (('ferplus',), ('ferplus', '--precision', 'int8'), ('speed',),
                 ('speed', '--precision', 'int8'), ('robustness',), ('clips', '--clips', 2)):
        assert command(evaluate, *what, '--data', data, '--model', folder, '--record',
                       folder / 'evaluation.json') == 0
    assert command(card, '--model', folder, '--runs', *runs) == 0
    return folder


@pytest.fixture
def folder(measured: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may change."""
    return shutil.copytree(measured, tmp_path / 'model')


def figures_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / 'evaluation.json').read_text()))


def change(folder: Path, path: tuple[str | int, ...], value: object) -> None:
    """Put another value into evaluation.json."""
    figures = figures_of(folder)
    place: Any = figures
    for key in path[:-1]:
        place = place[key]
    assert path[-1] in place or isinstance(path[-1], int)
    place[path[-1]] = value
    (folder / 'evaluation.json').write_text(json.dumps(figures))


def test_the_committed_card_is_the_one_that_the_command_writes() -> None:
    assert card.render(DEFAULT_MODEL) == (DEFAULT_MODEL / 'MODEL_CARD.md').read_text()


def test_the_committed_card_has_every_figure_that_belongs_in_it() -> None:
    figures, text = figures_of(DEFAULT_MODEL), (DEFAULT_MODEL / 'MODEL_CARD.md').read_text()
    assert 'Not measured' not in text and 'not recorded' not in text and 'SETTINGS' not in text
    found = figures['ferplus_valid']
    assert found['count'] == 2857 and found['eight_class']['count'] == 3191
    assert f'**accuracy {found["accuracy"]:.4f}**' in text
    assert str(ModelInfo.load(DEFAULT_MODEL).unknown_below) in text
    assert {row['face_size_px'] for row in figures['clips_valid']['cells']} == {48, 32, 16}
    assert 'test split was not used' in text


def test_the_trainings_are_named_in_order_with_where_they_began(
    measured: Path, runs: list[Path]
) -> None:
    figures, text = figures_of(measured), (measured / 'MODEL_CARD.md').read_text()
    assert [key for key in figures if key.startswith('train_')] == [
        'train_image_1', 'train_image_2', 'train_video', 'train_image_3']
    train = '    ferros-cloud train-image --data PATH --out'
    assert f'{train} RUN1 --config SETTINGS\n' in text
    assert f'{train} RUN2 --config SETTINGS --start RUN1/encoder.safetensors\n' in text
    assert (f'{train} RUN3 --config SETTINGS --start RUN2/encoder.safetensors --teacher '
            'RUN1/encoder.safetensors RUN2/encoder.safetensors\n') in text
    assert '| RUN3 | 70 | RUN2 | the votes, 30 % RUN1 and RUN2 | 1 |' in text
    assert '--encoder RUN2/encoder.safetensors' in text
    assert 'No other data and no pretrained weights.' in text
    assert 'the encoder that ships has gone on to learn from them' in text
    for run in runs:
        assert str(run.parent) not in text


@pytest.mark.parametrize(('path', 'value', 'shown'), [
    (('ferplus_valid', 'accuracy'), 0.12345, '**accuracy 0.1235**'),
    (('ferplus_valid', 'intervals', 'accuracy'), [0.1111, 0.2222], '(0.111 to 0.222)'),
    (('ferplus_valid', 'five_class_macro_f1'), 0.98765, '0.9877'),
    (('ferplus_valid', 'eight_class', 'macro_f1'), 0.45678, 'macro F1 0.4568'),
    (('ferplus_valid', 'per_class', 'fear', 'count'), 4321, '| fear | 4321 |'),
    (('ferplus_valid', 'confusion', 0), [71, 72, 73, 74, 75, 76, 77],
     '| **neutral** | 71 | 72 | 73 | 74 | 75 | 76 | 77 |'),
    (('ferplus_valid', 'confidence', 'accuracy_at_0.9_coverage_all_faces'), 0.1357, '0.136'),
    (('ferplus_valid', 'by_face_size_px', '16', 'ece_all_faces'), 0.2468, '0.247'),
    (('int8_ferplus_valid', 'accuracy'), 0.86421, 'int8 encoder**: 7 classes 0.8642'),
    (('robustness_valid', 'rows', 3, 'difference'), {'mean': -0.0987, 'low': -0.1234, 'high': 0.0},
     '| -9.9 (-12.3 to +0.0) |'),
    (('robustness_valid', 'brightness_cuts'), [87, 143], '(below 87, up to 143, above)'),
    (('clips_valid', 'cells', 0, 'accuracy', 'lstm'), 0.1928, '| 0.193 |'),
    (('clips_valid', 'cells', 0, 'delay_s', 'lstm'), 0.4321, '| 0.43 |'),
    (('clips_valid', 'cells', 0, 'delay_s', 'exponential'), 0.8765, '| 0.88 |'),
    (('clips_valid', 'cells', 1, 'false_flips_per_min', 'lstm'), 99.5, 'at most 99.5 a minute'),
    (('speed', 'by_batch', '8', 'faces_per_s_median'), 54321, '54321 (best'),
    (('int8_speed', 'gemm_gflops'), 1234.5, '1234.5 GFLOP/s'),
    (('train_image_3', 'twins_dropped'), 777, '- 777 training faces'),
    (('train_image_2', 'history', 0, 'held_out_accuracy'), 0.3579, '| 0.3579 |'),
    (('train_video', 'history', 0, 'held_out_loss'), 7.6543, 'from 7.6543'),
])
def test_no_figure_is_typed_by_hand(
    folder: Path, path: tuple[str | int, ...], value: object, shown: str
) -> None:
    assert shown not in card.render(folder)
    change(folder, path, value)
    assert shown in card.render(folder)


def test_where_the_lstm_is_no_better_than_the_average_is_named_row_by_row(folder: Path) -> None:
    cells = figures_of(folder)['clips_valid']['cells']
    for index in range(len(cells)):
        first = index == 0
        change(folder, ('clips_valid', 'cells', index, 'gain', 'low'), 0.01 if first else -0.01)
        change(folder, ('clips_valid', 'cells', index, 'gain', 'high'), 0.02)
        for what, better in (('delay_s', not first), ('false_flips_per_min', first)):
            change(folder, ('clips_valid', 'cells', index, what, 'exponential'), 2.0)
            change(folder, ('clips_valid', 'cells', index, what, 'lstm'), 1.0 if better else 2.0)
    text, name = card.render(folder), f'{cells[0]["face_size_px"]} px'
    assert f'leaves zero out in 1 of {len(cells)} rows; in the others' in text
    assert f'sooner in {len(cells) - 1} rows (not: {name} at 30 fps), and' in text
    assert f'fewer false flips in 1 (not: {name} at 15, 5, 2 fps; ' in text


def test_what_was_not_measured_is_said_with_the_command_that_measures_it(folder: Path) -> None:
    (folder / 'evaluation.json').unlink()
    assert command(card, '--model', folder) == 0
    text = (folder / 'MODEL_CARD.md').read_text()
    for what in ('ferplus', 'robustness', 'clips', 'speed'):
        assert f'Not measured: `ferros-cloud evaluate {what}' in text
    assert '--runs RUN' in text and '**accuracy' not in text


def test_other_runs_take_the_place_of_those_before(folder: Path, runs: list[Path]) -> None:
    before = figures_of(folder)
    assert command(card, '--model', folder, '--runs', runs[0]) == 0
    after = figures_of(folder)
    assert [key for key in after if key.startswith('train_')] == ['train_image_1']
    assert after['ferplus_valid'] == before['ferplus_valid']
    text = (folder / 'MODEL_CARD.md').read_text()
    assert 'RUN2' not in text and 'It is one cycle' in text


def test_weights_that_are_not_among_the_runs_are_not_called_random(
    folder: Path, runs: list[Path]
) -> None:
    assert command(card, '--model', folder, '--runs', runs[1]) == 0
    text = (folder / 'MODEL_CARD.md').read_text()
    start = json.loads((runs[1] / 'image.json').read_text())['start']
    assert f'| weights {start} |' in text
    assert 'no pretrained weights' not in text


def test_the_settings_file_of_a_run_is_found(root: Path) -> None:
    for name in ('train_image.yaml', 'train_image_finish.yaml'):
        config = read(image.ImageConfig, root / 'config' / name, {})
        stored = json.loads(json.dumps(asdict(config)))
        assert card.settings_file('train_image*.yaml', stored) == f'config/{name}'
        assert card.settings_file('train_image*.yaml', {**stored, 'seed': 99}) is None


@pytest.mark.parametrize(('content', 'named'), [
    (None, 'found neither'),
    ('{', 'cannot be read'),
    ('[]', 'expected an object'),
    ('{"settings": {}, "faces": {}, "twins_dropped": 1, "multiply_adds": 1}', 'no history'),
    ('{"settings": {}, "faces": {}, "twins_dropped": 1, "multiply_adds": 1, "history": []}',
     'at least one epoch'),
])
def test_a_run_that_is_none_is_one_clear_line_and_changes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None,
    named: str,
) -> None:
    run, before = tmp_path / 'run', (folder / 'evaluation.json').read_bytes()
    run.mkdir()
    if content is not None:
        (run / 'image.json').write_text(content)
    assert command(card, '--model', folder, '--runs', run) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f'ferros-cloud card: {run}') and named in printed
    assert (folder / 'evaluation.json').read_bytes() == before


def test_one_temporal_part_ships(folder: Path, runs: list[Path],
                                 capsys: pytest.CaptureFixture[str]) -> None:
    assert command(card, '--model', folder, '--runs', runs[1], runs[1]) == 1
    assert 'a second video.json' in capsys.readouterr().err


def test_figures_of_an_earlier_format_are_to_be_measured_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = figures_of(folder)
    del figures['ferplus_valid']['intervals']
    (folder / 'evaluation.json').write_text(json.dumps(figures))
    assert command(card, '--model', folder) == 1
    printed = capsys.readouterr().err
    assert 'intervals' in printed and 'measure it again' in printed
