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

"""The paper's figures are its own, and add up only as corrected."""

from __future__ import annotations

import csv
import io
import zipfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from cloud_server.training import paper_rows
from cloud_server.training.ferplus import EMOTIONS, FOLDERS, majority
from cloud_server.training.paper_rows import (
    STAND_IN_COUNTS,
    TABLE_1,
    TABLE_1_CORRECTED,
    VIDEO,
    adds_up,
    weighted_recall,
)


def test_table_1_stands_as_printed() -> None:
    assert TABLE_1['RN50 on VGG'].classes == {
        'anger': (0.86, 0.85), 'disgust': (0.33, 0.45), 'fear': (0.49, 0.58),
        'happiness': (0.95, 0.94), 'neutral': (0.65, 0.71), 'sadness': (0.85, 0.86),
        'surprise': (0.91, 0.88),
    }
    assert TABLE_1['RN50 on ImageNet'].classes == {
        'anger': (0.63, 0.67), 'disgust': (0.0, 0.0), 'fear': (0.21, 0.34),
        'happiness': (0.89, 0.88), 'neutral': (0.44, 0.53), 'sadness': (0.81, 0.80),
        'surprise': (0.90, 0.82),
    }
    assert [row.accuracy for row in TABLE_1.values()] == [0.86, 0.78]


def test_the_corrected_rows_differ_only_in_neutral_and_sadness() -> None:
    for name, printed in TABLE_1.items():
        right = TABLE_1_CORRECTED[name]
        assert right.accuracy == printed.accuracy
        assert right.classes['neutral'] == printed.classes['sadness']
        assert right.classes['sadness'] == printed.classes['neutral']
        for label in set(paper_rows.LABELS) - set(paper_rows.EXCHANGED):
            assert right.classes[label] == printed.classes[label]


@pytest.mark.parametrize('split', list(STAND_IN_COUNTS))
@pytest.mark.parametrize('name', list(TABLE_1))
def test_only_the_exchanged_recalls_add_up_to_the_papers_own_accuracy(
    name: str, split: str
) -> None:
    counts = STAND_IN_COUNTS[split]
    assert adds_up(TABLE_1_CORRECTED[name], split)
    right = weighted_recall(TABLE_1_CORRECTED[name].recalls(), counts)
    assert round(right, 2) == TABLE_1[name].accuracy
    assert not adds_up(TABLE_1[name], split)
    assert weighted_recall(TABLE_1[name].recalls(), counts) < TABLE_1[name].accuracy - 0.04


@pytest.mark.parametrize('split', list(STAND_IN_COUNTS))
def test_of_all_exchanges_of_two_classes_no_other_one_makes_both_rows_add_up(split: str) -> None:
    fitting = []
    for one, other in combinations(paper_rows.LABELS, 2):
        errors = []
        for row in TABLE_1.values():
            recalls = row.recalls()
            recalls[one], recalls[other] = recalls[other], recalls[one]
            errors.append(abs(weighted_recall(recalls, STAND_IN_COUNTS[split]) - row.accuracy))
        if max(errors) <= paper_rows.TOLERANCE:
            fitting.append({one, other})
    assert fitting == [set(paper_rows.EXCHANGED)]


@pytest.mark.parametrize('split', ['train', 'valid'])
def test_the_counts_that_stand_in_are_those_of_ferplus(shared_data: Path, split: str) -> None:
    with zipfile.ZipFile(shared_data / 'data' / 'ferplus_trainvalid.zip') as archive:
        name = next(name for name in archive.namelist()
                    if name.endswith(f'{FOLDERS[split]}/label.csv'))
        rows = list(csv.reader(io.StringIO(archive.read(name).decode())))
    truth = majority(np.array([row[2:] for row in rows], np.int64).astype(np.uint8))
    counts = STAND_IN_COUNTS[{'train': 'training', 'valid': 'validation'}[split]]
    assert {label: int((truth == EMOTIONS.index(label)).sum()) for label in counts} == counts


def test_recalls_are_weighted_by_their_classes_and_other_classes_refused() -> None:
    assert weighted_recall({'a': 1.0, 'b': 0.5}, {'a': 1, 'b': 3}) == pytest.approx(0.625)
    with pytest.raises(ValueError, match='cannot be weighted'):
        weighted_recall({'a': 1.0}, {'a': 1, 'b': 3})
    with pytest.raises(ValueError, match='cannot be weighted'):
        weighted_recall({'a': 1.0}, {'a': 0})


def test_the_arithmetic_says_whose_counts_it_uses_and_what_comes_out() -> None:
    text = '\n'.join(paper_rows.arithmetic())
    assert 'stand in' in text and 'neutral 1062' in text and '2857 faces' in text
    assert 'RN50 on VGG: as printed the recalls amount to 0.806' in text
    assert 'exchanged to 0.861; the paper says 0.86' in text
    assert 'exchanged to 0.782; the paper says 0.78' in text


def test_the_video_tables_stand_as_printed_and_the_missing_one_is_missing() -> None:
    lstm, mean = VIDEO['lstm'], VIDEO['mean']
    assert lstm is not None and mean is not None and VIDEO['mode'] is None
    assert {size: dict(row) for size, row in mean.items()} == {
        (1280, 720): {30: 0.26, 15: 0.31, 5: 0.30}, (640, 360): {30: 0.33, 15: 0.30, 5: 0.28},
        (256, 144): {30: 0.33, 15: 0.29, 5: 0.31},
    }
    assert {size: dict(row) for size, row in lstm.items()} == {
        (1280, 720): {30: 0.67, 15: 0.81, 5: 0.77}, (640, 360): {30: 0.77, 15: 0.77, 5: 0.75},
        (256, 144): {30: 0.80, 15: 0.81, 5: 0.76},
    }
    cells = [value for row in lstm.values() for value in row.values()]
    assert (max(cells), min(cells)) == (paper_rows.ABSTRACT_BEST, paper_rows.ABSTRACT_LEAST)
    assert lstm[256, 144][15] == paper_rows.ABSTRACT_BEST
    assert any('256x144' in note and '0.81' in note for note in paper_rows.VIDEO_NOTES)


def test_our_row_stands_beside_the_papers_and_says_that_it_is_validation() -> None:
    mine = {label: {'recall': 0.5, 'f1': 0.25} for label in ('anger', 'neutral')}
    lines = paper_rows.beside('A network', mine, 0.4).splitlines()
    assert len(lines) == 1 + 1 + 2 + 2
    assert lines[1].startswith('A network (ours, validation)')
    assert '0.50 / 0.25' in lines[1] and paper_rows.NOT_IN_SOURCE in lines[1]
    assert lines[1].endswith('0.40')
    assert '0.65 / 0.71' in lines[2] and 'test' in lines[2] and lines[2].endswith('0.86')
    assert '0.65 / 0.71' in lines[4] and 'exchanged' in lines[4]
