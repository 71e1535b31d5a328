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

"""FER+ as people have it on disk, its protocols, and what must never leak."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_ferplus import make_faces, write_csv_pair, write_folder, write_zip

from cloud_server.training.ferplus import (
    DatasetError,
    Faces,
    authors_majority,
    divide,
    fingerprints,
    load,
    majority,
    split_groups,
    targets,
    without_twins,
)

TRAIN, VALID = make_faces(30, 1), make_faces(14, 2)
SPLITS = {'train': TRAIN, 'valid': VALID}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / 'official', SPLITS)


def votes(**counts: int) -> np.ndarray:
    columns = ('neutral', 'happiness', 'surprise', 'sadness', 'anger', 'disgust', 'fear',
               'contempt', 'unknown', 'NF')
    return np.array([[counts.get(name, 0) for name in columns]], np.uint8)


@pytest.mark.parametrize('split', ['train', 'valid'])
def test_the_three_layouts_give_the_same_faces(folder: Path, tmp_path: Path, split: str) -> None:
    layouts = [folder, write_zip(tmp_path / 'all.zip', folder),
               write_csv_pair(tmp_path / 'pair', SPLITS), tmp_path / 'pair' / 'fer2013.csv']
    for layout in layouts:
        faces = load(layout, split, progress=False)
        assert faces.names == SPLITS[split].names
        np.testing.assert_array_equal(faces.luma, SPLITS[split].luma)
        np.testing.assert_array_equal(faces.votes, SPLITS[split].votes)
        assert faces.problems == ()


def test_a_broken_file_is_named_and_the_others_are_read(folder: Path) -> None:
    train = folder / 'FER2013Train'
    (train / TRAIN.names[0]).unlink()
    cut = train / TRAIN.names[1]
    cut.write_bytes(cut.read_bytes()[:-200])
    table = (train / 'label.csv').read_text().splitlines()
    table[2] = table[2].replace(',8,', ',eight,')
    table[3] = 'fer.png,only,three'
    (train / 'label.csv').write_text('\n'.join(table))
    faces = load(folder, 'train', progress=False)
    assert faces.names == TRAIN.names[4:]
    assert len(faces.problems) == 4
    text = '\n'.join(faces.problems)
    assert f'{train}/{TRAIN.names[0]}: missing' in text
    assert f'{train}/{TRAIN.names[1]}: truncated' in text
    assert 'label.csv line 3' in text and 'eight' in text
    assert 'label.csv line 4' in text


def test_a_set_that_is_not_what_was_promised_stops(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r'expected 31 faces .* found 30'):
        load(folder, 'train', expected=31, progress=False)
    for file in (folder / 'FER2013Valid').glob('*.png'):
        file.write_bytes(b'not a picture')
    with pytest.raises(DatasetError, match=r'at least one face .* found 0 \(14 left out'):
        load(folder, 'valid', progress=False)


def test_a_missing_split_says_what_was_expected(folder: Path, tmp_path: Path) -> None:
    pair = write_csv_pair(tmp_path / 'pair', SPLITS)
    for path in (folder, write_zip(tmp_path / 'all.zip', folder), pair):
        with pytest.raises(DatasetError, match='no test split'):
            load(path, 'test', progress=False)
    with pytest.raises(DatasetError, match='no such file'):
        load(tmp_path / 'nowhere', 'train', progress=False)
    (tmp_path / 'bad.zip').write_bytes(b'PK but no more')
    with pytest.raises(DatasetError, match='not a readable zip'):
        load(tmp_path / 'bad.zip', 'train', progress=False)


def test_a_csv_pair_that_is_not_aligned_stops(tmp_path: Path) -> None:
    pair = write_csv_pair(tmp_path, SPLITS)
    table = (pair / 'fer2013new.csv').read_text().splitlines()
    (pair / 'fer2013new.csv').write_text('\n'.join(table[:-1]))
    with pytest.raises(DatasetError, match=r'expected 44 rows .* found 43'):
        load(pair, 'train', progress=False)
    (pair / 'fer2013new.csv').write_text('\n'.join(['a,b,c', *table[1:]]))
    with pytest.raises(DatasetError, match='expected the header'):
        load(pair, 'train', progress=False)
    (pair / 'fer2013new.csv').unlink()
    with pytest.raises(DatasetError, match='go together'):
        load(pair, 'train', progress=False)


def test_seven_classes_need_more_than_half_of_all_ten_columns() -> None:
    assert majority(votes(anger=6, neutral=4)).tolist() == [4]
    assert majority(votes(anger=5, neutral=5)).tolist() == [-1]
    assert majority(votes(anger=5, unknown=4, NF=1)).tolist() == [-1]
    for winner in ('contempt', 'unknown', 'NF'):
        assert majority(votes(**{winner: 10})).tolist() == [-1]


def test_eight_classes_forget_single_votes_and_know_contempt() -> None:
    assert authors_majority(votes(anger=5, neutral=1, sadness=1, fear=1, NF=2)).tolist() == [4]
    assert authors_majority(votes(contempt=9, neutral=1)).tolist() == [7]
    assert authors_majority(votes(unknown=9, neutral=1)).tolist() == [-1]
    single = votes(anger=1, neutral=1, fear=1)
    assert authors_majority(single).tolist() == [-1]


def test_targets_are_distributions_and_not_a_face_teaches_nothing() -> None:
    rows = np.concatenate([votes(anger=6, fear=3, disgust=1), votes(NF=8, anger=2),
                           votes(happiness=5, unknown=5), votes(anger=1, fear=1, unknown=8)])
    share, weight = targets(rows)
    np.testing.assert_allclose(share.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(share[0, [4, 6, 5]], [2 / 3, 1 / 3, 0], atol=1e-6)
    np.testing.assert_allclose(share[3, [4, 6]], [0.5, 0.5])
    np.testing.assert_allclose(weight, [1, 0, 0.5, 0.2])


def test_a_mirrored_face_has_the_fingerprint_of_the_face() -> None:
    keys = fingerprints(TRAIN.luma)
    assert keys == fingerprints(TRAIN.luma[:, :, ::-1])
    assert len(set(keys)) == len(TRAIN)
    assert set(keys).isdisjoint(fingerprints(np.ascontiguousarray(TRAIN.luma[:, ::-1])))


def test_training_faces_whose_twin_is_in_validation_are_dropped() -> None:
    luma = TRAIN.luma.copy()
    luma[3], luma[17] = VALID.luma[0], VALID.luma[5][:, ::-1]
    kept = without_twins(Faces(TRAIN.names, luma, TRAIN.votes), VALID)
    assert len(kept) == len(TRAIN) - 2
    assert not {TRAIN.names[3], TRAIN.names[17]} & set(kept.names)


def test_the_parts_of_a_division_share_no_pixels_and_repeat_by_seed() -> None:
    luma = make_faces(60, 3).luma
    luma[20:40] = luma[:20, :, ::-1]  # twenty faces have a mirrored twin
    faces = Faces(tuple(map(str, range(60))), luma, make_faces(60, 3).votes)
    parts = split_groups(faces, (10, 15), seed=4)
    assert sorted(np.concatenate(parts).tolist()) == list(range(60))
    assert 10 <= len(parts[0]) <= 11 and 15 <= len(parts[1]) <= 16
    keys = [set(fingerprints(luma[part])) for part in parts]
    assert not (keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])
    again, other = split_groups(faces, (10, 15), seed=4), split_groups(faces, (10, 15), seed=5)
    assert parts[0].tolist() == again[0].tolist() != other[0].tolist()
    with pytest.raises(ValueError, match='60 faces cannot'):
        split_groups(faces, (30, 30), seed=1)


@pytest.fixture(scope='module')
def ferplus(shared_data: Path) -> Path:
    path = shared_data / 'data' / 'ferplus_trainvalid.zip'
    if not path.is_file():
        pytest.skip(f'{path} is missing')
    return path


def test_validation_has_the_counts_of_both_protocols(ferplus: Path) -> None:
    faces = load(ferplus, 'valid', expected=3579, progress=False)
    seven, eight = majority(faces.votes), authors_majority(faces.votes)
    assert np.bincount(seven[seven >= 0]).tolist() == [1062, 845, 381, 277, 235, 16, 41]
    assert (seven >= 0).sum() == 2857
    assert (eight >= 0).sum() == 3191


def test_no_pixel_of_validation_is_trained_on(ferplus: Path) -> None:
    train, everyone = (load(ferplus, split, progress=False) for split in ('train', 'valid'))
    known = set(fingerprints(train.luma))
    valid = fingerprints(everyone.luma)
    sure = majority(everyone.votes) >= 0
    assert sum(key in known for key, counts in zip(valid, sure, strict=True) if counts) == 214
    splits = divide(train, everyone, held_out=3000, temporal=2500, seed=1)
    parts = [set(fingerprints(part.luma))
             for part in (splits.encoder, splits.temporal, splits.held_out)] + [set(valid)]
    for index, part in enumerate(parts):
        for other in parts[index + 1 :]:
            assert not part & other
    sizes = [len(splits.encoder), len(splits.temporal), len(splits.held_out)]
    assert sum(sizes) + splits.twins == len(train) == 28558
    assert 3000 <= len(splits.held_out) <= 3005
