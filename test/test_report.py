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

"""The report: what it shows of records, what it says of missing ones, what it refuses."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest

from cloud_server.training import paper_rows, report, report_figures
from cloud_server.training.scores import Scores
from cloud_server.training.study import SUFFIX, Record

SEVEN = ('neutral', 'happiness', 'surprise', 'sadness', 'anger', 'disgust', 'fear')
EIGHT = ('neutral', 'calm', 'happiness', 'sadness', 'anger', 'fear', 'disgust', 'surprise')
METHODS = ('frame', 'mean_of_30', 'mode_of_30', 'exponential', 'lstm')
GRID = [[0.5, 0.61, 0.4], [0.3, 0.2, 0.61], [0.1, 0.15, 0.25]]


def image_result(right: int = 40) -> dict[str, Any]:
    """Return scores of 50 faces a class: some are right, the others taken for the next."""
    confusion = np.diag([right] * 7) + np.roll(np.diag([50 - right] * 7), 1, 1)
    scores = Scores(SEVEN, confusion.astype(np.int64))
    return {**scores.to_json(), 'labels': list(SEVEN), 'confusion': confusion.tolist()}


def image_record(network: str = 'ResNet-50 on VGGFace2', *, smoke: bool = False) -> Record:
    return Record('image', network, 'ferros-cloud train-image --config x.yaml',
                  'FER+ validation, 350 faces', smoke, image_result(), {'epochs': 2},
                  [{'epoch': 1, 'loss': 1.5, 'held_out_accuracy': 0.3},
                   {'epoch': 2, 'loss': 1.25, 'held_out_accuracy': 0.6}], ['A note <of> it.'])


def video_record(*, smoke: bool = False) -> Record:
    simple = {'calm_wrong': GRID, 'calm_as_neutral': GRID, 'eight_class_head': GRID}
    matrix = np.diag(range(1, 9)).tolist()
    best = {'resolution': [1280, 720], 'rate_fps': 15, 'matrix': matrix}
    return Record('video', 'ResNet-50 on VGGFace2', 'ferros-cloud train-video', 'RAVDESS', smoke, {
        'labels': list(EIGHT), 'resolutions': [[1280, 720], [640, 360], [256, 144]],
        'rates_fps': [30, 15, 5], 'tables': {'mean': simple, 'mode': simple, 'lstm': GRID},
        'confusions': {'mean': best, 'mode': best, 'lstm': best},
    })


def clips_record() -> Record:
    cells = [{
        'face_size_px': side, 'frame_rate_fps': rate,
        'accuracy': {name: 0.7 + place / 100 for place, name in enumerate(METHODS)},
        'gain': {'over': 'exponential', 'mean': 0.0123, 'low': -0.0456, 'high': 0.0789},
        'delay_s': {name: None if name == 'frame' else 0.25 for name in METHODS},
        'false_flips_per_min': dict.fromkeys(METHODS, 7.5),
    } for side, rate in itertools.product((48, 16), (30.0, 2.0))]
    return Record('clips', 'ferros default', 'ferros-cloud evaluate clips', 'FER+ validation',
                  False, {'clips': 20, 'seconds_each': 6.0, 'methods': list(METHODS),
                          'exponential_s': 0.35, 'cells': cells})


def search_record() -> Record:
    trials = [{'number': number, 'params': {'learning_rate': 0.01 * (number + 1)}, 'value': value,
               'state': 'complete' if value else 'fail', 'seconds': 3.0}
              for number, value in enumerate((0.5, 0.8125, None))]
    return Record('search', 'ResNet-50 on ImageNet', 'ferros-cloud search', 'FER+', False, {
        'criterion': 'accuracy', 'direction': 'maximize',
        'space': {'learning_rate': {'low': 0.001, 'high': 0.1, 'log': True}}, 'trials': trials,
        'best': {'params': trials[1]['params'], 'value': 0.8125},
    })


command = partial(command_line.command, report)


def page_of(folder: Path, *records: Record, model: Path = report.DEFAULT_MODEL) -> str:
    """Save records, run the command and return its page; the files lie in folder/report."""
    for index, record in enumerate(records):
        record.save(folder / f'run_{index}' / f'{record.kind}{SUFFIX}')
    assert command('--runs', folder, '--out', folder / 'report', '--model', model) == 0
    return (folder / 'report' / report.PAGE).read_text('utf-8')


def words(html: str) -> str:
    """Return what a reader sees, figures without their text."""
    html = re.sub(r'<style>.*?</style>|<svg.*?</svg>', '', html, flags=re.DOTALL)
    return re.sub(r'\s+', ' ', unescape(re.sub(r'<[^>]+>', ' ', html)))


def table(folder: Path, name: str) -> list[list[str]]:
    with (folder / 'report' / report.TABLES_FOLDER / f'{name}.csv').open(newline='') as file:
        return list(csv.reader(file))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Write what the report reads of a model, and nothing that takes long to draw."""
    folder = tmp_path / 'model'
    folder.mkdir()
    (folder / 'model.json').write_text(json.dumps(
        {'name': 'tiny', 'version': '1', 'sha256': {'encoder.onnx': 'abc'}}))
    figures = image_result(44)
    del figures['confusion']
    (folder / 'evaluation.json').write_text(json.dumps({'ferplus_valid': {
        **figures, 'intervals': {'accuracy': [0.871, 0.889]}, 'five_class_macro_f1': 0.91}}))
    return folder


@pytest.fixture(scope='module')
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Make one report of a record of every kind and of a smoke run."""
    folder = tmp_path_factory.mktemp('full')
    return folder, page_of(
        folder, image_record(), image_record('ResNet-50 on ImageNet', smoke=True),
        video_record(), clips_record(), search_record())


class Loads(HTMLParser):
    """Whatever a browser would fetch, and the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [str(value) for name, value in attrs
                       if name in ('src', 'href', 'xlink:href', 'data', 'srcset', 'poster')
                       and not str(value).startswith('#')]


def test_the_page_loads_nothing_and_runs_no_script(full: tuple[Path, str]) -> None:
    loads = Loads()
    loads.feed(full[1])
    assert loads.found == []
    assert not {'script', 'link', 'iframe', 'img', 'image', 'object'} & set(loads.tags)
    assert not re.search(r'@import|url\((?!#)', full[1])
    assert 'svg' in loads.tags and full[1].count('<svg') == full[1].count('</svg>')


def test_every_part_of_the_page_a_link_leads_to_is_there_once(full: tuple[Path, str]) -> None:
    ids = re.findall(r'\bid="([^"]+)"', full[1])
    assert len(ids) == len(set(ids))
    led_to = set(re.findall(r'href="#([^"]+)"', full[1])) | set(
        re.findall(r'url\(#([^)]+)\)', full[1]))
    assert led_to <= set(ids)


def test_the_header_says_whose_figures_are_of_which_split(full: tuple[Path, str]) -> None:
    text = words(full[1])
    assert 'paper’s figures on images are on the test split of FER+' in text
    assert 'Ours are on its validation split' in text


def test_table_1_has_the_papers_rows_as_printed_and_corrected(full: tuple[Path, str]) -> None:
    head, *rows = table(full[0], 'table_1')
    column = {name: place for place, name in enumerate(head)}
    printed, corrected = (row for row in rows if row[2] == 'RN50 on VGG')
    assert 'as printed' in printed[0] and 'exchanged' in corrected[0]
    assert [printed[column[f'{label} recall']] for label in ('neutral', 'sadness')] == [
        '0.65', '0.85']
    assert [corrected[column[f'{label} F1']] for label in ('neutral', 'sadness')] == [
        '0.86', '0.71']
    assert printed[column['anger recall']] == corrected[column['anger recall']] == '0.86'
    assert printed[-1] == '0.86' and len(head) == 3 + 14 + 1


def test_the_arithmetic_of_the_correction_is_shown_and_no_other_exchange_fits(
    full: tuple[Path, str],
) -> None:
    head, *rows = table(full[0], 'table_1_arithmetic')
    assert head[3:5] == ['validation shares as printed', 'validation shares exchanged']
    for row in rows:
        assert abs(float(row[4]) - float(row[-1])) < 0.005 < abs(float(row[3]) - float(row[-1]))
    assert '1062 × 0.65' in full[1] and '= 0.806, printed 0.86' in full[1]
    assert '1062 × 0.85' in full[1] and '= 0.861, printed 0.86' in full[1]
    counts = paper_rows.STAND_IN_COUNTS['validation']
    fitting = []
    for one, other in itertools.combinations(paper_rows.LABELS, 2):
        sums = []
        for row in paper_rows.TABLE_1.values():
            recalls = row.recalls()
            recalls[one], recalls[other] = recalls[other], recalls[one]
            sums.append(abs(paper_rows.weighted_recall(recalls, counts) - row.accuracy) < 0.005)
        fitting += [{one, other}] * all(sums)
    assert fitting == [{'neutral', 'sadness'}]  # the page says so


def test_the_default_network_and_a_full_training_have_rows_and_the_missing_one_is_not_run(
    full: tuple[Path, str],
) -> None:
    rows = {(row[0], row[2]): row for row in table(full[0], 'table_1')[1:]}
    shipped = json.loads((report.DEFAULT_MODEL / 'evaluation.json').read_text())['ferplus_valid']
    names = [name for _, name in rows]
    own = next(row for (_, name), row in rows.items() if name.startswith('default network'))
    assert float(own[-1]) == shipped['accuracy']
    assert rows['FER+ validation, 350 faces', 'ResNet-50 on VGGFace2'][-1] == '0.8'
    missing = next(row for (group, name), row in rows.items()
                   if name == 'ResNet-50 on ImageNet' and row[1] == 'no')
    assert set(missing[3:]) == {'not run in full; the command ran at smoke size, see below'}
    assert names.count('ResNet-50 on VGGFace2') == 1


def test_without_records_of_a_kind_the_page_says_so_and_invents_nothing(
    tmp_path: Path, model: Path
) -> None:
    page = page_of(tmp_path, image_record('our encoder'), model=model)
    text = words(page)
    for missing in ('no record of a real run on RAVDESS was given',
                    'no record of a search was given', 'Not run: no record of it was given'):
        assert missing in text, missing
    for method, title in (('mean', 'calm'), ('mode', 'calm'), ('lstm', '')):
        grid = table(tmp_path, f'video_{method}_not_run')
        assert [row[3:] for row in grid[1:]] == [['not run'] * 3] * 3, title
    rows = table(tmp_path, 'table_1')
    assert [row[3] for row in rows if row[2].startswith('ResNet-50')] == ['not run', 'not run']
    assert 'smoke run' not in text


def test_a_way_to_count_calm_that_a_run_lacks_is_not_run(tmp_path: Path, model: Path) -> None:
    record = video_record()
    result = json.loads(json.dumps(record.result))
    del result['tables']['mean']['eight_class_head']
    page_of(tmp_path, replace(record, result=result), model=model)
    grid = table(tmp_path, 'video_run_0_video_mean_eight_class_head')
    assert [row[3:] for row in grid[1:]] == [['not run'] * 3] * 3


def test_the_best_of_what_was_measured_on_the_same_faces_is_marked(
    tmp_path: Path, model: Path
) -> None:
    better = replace(image_record('B'), result=image_result(46))
    elsewhere = replace(image_record('C'), result=image_result(50), data='other faces')
    page = page_of(tmp_path, image_record('A'), better, elsewhere, model=model)
    marked = {name: 'class="best ' in row for name, row in re.findall(
        r'<tr><th scope="row">([ABC])</th>(.*?)</tr>', page)}
    assert marked == {'A': False, 'B': True, 'C': False}
    own = table(tmp_path, 'table_1_summary')[1]
    assert own[2:] == ['default network, tiny 1', '0.88', '0.871 to 0.889', '0.88', '', '0.91', '']


def test_the_video_tables_stand_beside_the_papers_with_calm_counted_three_ways(
    full: tuple[Path, str],
) -> None:
    folder, page = full
    assert [row[3:] for row in table(folder, 'video_lstm_paper')[1:]] == [
        ['0.67', '0.81', '0.77'], ['0.77', '0.77', '0.75'], ['0.8', '0.81', '0.76']]
    assert {cell for row in table(folder, 'video_mode_paper')[1:] for cell in row[3:]} == {'n/a'}
    for way in ('mean_calm_wrong', 'mode_calm_as_neutral', 'mean_eight_class_head', 'lstm'):
        found = table(folder, f'video_run_2_video_{way}')
        assert found[0][2:] == ['px', '30 fps', '15 fps', '5 fps']
        assert [[float(cell) for cell in row[3:]] for row in found[1:]] == GRID
    text = words(page)
    assert 'not run' not in text[text.index('tables a to c') : text.index('Streaming accuracy on')]
    assert all(note in text for note in paper_rows.VIDEO_NOTES)
    assert '0.81' in paper_rows.VIDEO_NOTES[1] and '256x144' in paper_rows.VIDEO_NOTES[1]


def test_streaming_accuracy_is_called_simulated_and_has_intervals_and_delays(
    full: tuple[Path, str],
) -> None:
    text = words(full[1])
    assert 'These clips are simulated' in text and 'is not claimed' in text
    head, first, *_ = table(full[0], 'clips_run_3_clips_accuracy')
    assert first[:3] == ['face of 48 px', 'no', '30 fps']
    assert first[head.index('LSTM against the best simple method points')] == '1.23'
    assert '−4.6 to +7.9' in first
    delays = table(full[0], 'clips_run_3_clips_delays')[1]
    assert delays[3] == 'inf' and '∞' in text and delays[4] == '0.25'


def test_the_search_shows_space_trials_and_best(full: tuple[Path, str]) -> None:
    trials = table(full[0], 'search_run_4_search')
    assert [row[2:] for row in trials[1:]] == [
        ['0', '0.01', '0.5', 'complete', '3.0'], ['1', '0.02', '0.8125', 'complete', '3.0'],
        ['2', '0.03', '', 'fail', '3.0']]
    assert table(full[0], 'search_run_4_search_space')[1][2:] == [
        'learning_rate', 'low 0.001, high 0.1, log true', '0.02']
    assert '3 trials to maximize accuracy' in words(full[1])


def test_runs_have_their_command_settings_notes_and_learning_curve(full: tuple[Path, str]) -> None:
    folder, page = full
    assert 'ferros-cloud train-image --config x.yaml' in page and 'epochs: 2' in page
    assert 'A note &lt;of&gt; it.' in page
    assert table(folder, 'learning_run_0_image') == [
        ['epoch', 'loss', 'held_out_accuracy'], ['1', '1.5', '0.3'], ['2', '1.25', '0.6']]


def test_smoke_runs_are_marked_wherever_they_appear(
    full: tuple[Path, str], tmp_path: Path, model: Path
) -> None:
    folder, page = full
    assert '1 of the 5 records is a smoke run' in words(page)
    smoke = [row for row in table(folder, 'table_1') if row[1] == 'yes']
    assert [row[2] for row in smoke] == ['ResNet-50 on ImageNet']
    body = page[page.index('<tbody class="smoke">') :]
    assert 'smoke run</span>' in body[: body.index('</tbody>')]
    assert page.count('smoke run: means nothing') == 2  # its matrix and its learning curve
    alone = page_of(tmp_path, video_record(smoke=True), model=model)
    assert 'Smoke test of the study' in alone and 'The only record is a smoke run' in words(alone)
    theirs = re.findall(r'<figure class="table[^"]* smoke">.*?</figure>', alone, re.DOTALL)
    assert len(theirs) == 8 and not any('class="best' in each for each in theirs)
    assert 'class="best' in alone  # of the paper's own tables


def test_every_figure_is_a_png_too_and_the_same_records_give_the_same_page(
    full: tuple[Path, str], tmp_path: Path
) -> None:
    folder, page = full
    pictures = sorted((folder / 'report' / report.FIGURES_FOLDER).iterdir())
    assert len(pictures) == page.count('<svg ')
    assert all(picture.read_bytes().startswith(b'\x89PNG') for picture in pictures)
    assert command('--runs', folder, '--out', tmp_path) == 0
    assert (tmp_path / report.PAGE).read_text('utf-8') == page


def test_the_same_graphs_measured_again_do_not_get_a_second_row(
    tmp_path: Path, model: Path
) -> None:
    same = replace(image_record('ferros default'), settings={'sha256': {'encoder.onnx': 'abc'}},
                   data='FER+ validation, 350 faces with a majority')
    other = replace(same, network='others', settings={'sha256': {'encoder.onnx': 'xyz'}})
    page_of(tmp_path, same, other, model=model)
    names = [row[2] for row in table(tmp_path, 'table_1')]
    assert 'ferros default' not in names and 'others' in names


BREAKS: dict[str, tuple[Callable[[], Record], Callable[[dict[str, Any]], Any], str]] = {
    'a missing key': (image_record, lambda r: r.pop('per_class'), r"expected \['per_class'\]"),
    'a missing class': (image_record, lambda r: r['per_class'].pop('fear'), r"\['fear'\]"),
    'a matrix of another size': (image_record, lambda r: r['confusion'].pop(),
                                 'expected 7 rows of 7 counts'),
    'an accuracy that the matrix denies': (
        image_record, lambda r: r.update(accuracy=0.9), r'matrix gives 280/350 = 0\.8'),
    'a percentage': (video_record, lambda r: r['tables']['lstm'][0].__setitem__(0, 81),
                     'expected a share from 0 to 1, found 81'),
    'a table of another shape': (video_record, lambda r: r['tables']['lstm'].pop(),
                                 'expected 3 rows'),
    'a method without a delay': (clips_record, lambda r: r['cells'][1]['delay_s'].pop('lstm'),
                                 r'cells\[1\]: delay_s: expected'),
    'a gain outside its interval': (clips_record, lambda r: r['cells'][0]['gain'].update(low=0.5),
                                    'expected low <= mean <= high'),
    'a direction that is none': (search_record, lambda r: r.update(direction='up'),
                                 "expected maximize or minimize, found 'up'"),
}


@pytest.mark.parametrize('broken', BREAKS)
def test_a_record_that_cannot_be_drawn_is_refused_by_its_path(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, spoil, expected = BREAKS[broken]
    record = make()
    result = json.loads(json.dumps(record.result))
    spoil(result)
    path = tmp_path / f'spoilt{SUFFIX}'
    replace(record, result=result).save(path)
    assert command('--runs', tmp_path, '--out', tmp_path / 'report') == 1
    error = capsys.readouterr().err
    assert error.startswith(f'ferros-cloud report: {path}: result') and re.search(expected, error)
    assert not (tmp_path / 'report').exists()


def test_a_place_without_records_and_files_that_are_none_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, empty = tmp_path / 'report', tmp_path / 'empty'
    empty.mkdir()
    assert command('--runs', empty, '--out', out) == 1
    assert f'{empty}: expected a file or folder with records' in capsys.readouterr().err
    assert command('--runs', tmp_path / 'nowhere', '--out', out) == 1
    assert 'nowhere' in capsys.readouterr().err
    other = tmp_path / f'other{SUFFIX}'
    other.write_text('{"format": 7}')
    assert command('--runs', other, '--out', out) == 1
    assert f'{other}: expected a record of format 1, found 7' in capsys.readouterr().err
    image_record().save(other)
    other.write_text(other.read_text().replace('"image"', '"sound"'))
    assert command('--runs', other, '--out', out) == 1
    assert f'{other}: kind must be one of' in capsys.readouterr().err
    image_record().save(other)
    assert command('--runs', other, '--out', out, '--model', empty) == 1
    assert f'{empty / "model.json"}: cannot be read' in capsys.readouterr().err
    assert not out.exists()


def test_a_model_whose_evaluation_lacks_figures_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_record().save(tmp_path / f'a{SUFFIX}')
    (tmp_path / 'model.json').write_text('{"name": "m", "version": "1", "sha256": {}}')
    evaluation = tmp_path / 'evaluation.json'
    for text, expected in (('{"speed": {}}', 'expected figures under a key ferplus_SPLIT'),
                           ('{"ferplus_valid": {"accuracy": 1}}', "expected ['count'"),
                           ('[', 'cannot be read')):
        evaluation.write_text(text)
        assert command('--runs', tmp_path, '--out', tmp_path / 'out', '--model', tmp_path) == 1
        error = capsys.readouterr().err
        assert str(evaluation) in error and expected in error


def test_what_is_drawn_of_a_history_are_its_losses_and_shares() -> None:
    history = [{'epoch': 1, 'phase': 'top only', 'loss': 2.0, 'held_out_accuracy': 0.5,
                'seconds': 0.5, 'learning_rate': 0.1, 'exponential_s': 0.3, 'steps_done': 12},
               {'epoch': 2, 'phase': 'everything', 'loss': 1.0, 'held_out_loss': 3.0}]
    assert report_figures.measures(history) == (['held_out_accuracy'], ['loss', 'held_out_loss'])
    assert report_figures.learning([{'epoch': 1, 'seconds': 3}]) is None
