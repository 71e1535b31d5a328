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

"""RAVDESS is read as it is downloaded, divided by actor, and copied small as the paper does it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_ravdess as tiny

from cloud_server.media import MediaError
from cloud_server.training.ferplus import DatasetError
from cloud_server.training.ravdess import (
    ACTORS,
    EMOTIONS,
    SPLITS,
    Clip,
    Fold,
    LeakError,
    check_disjoint,
    own_fold,
    published_folds,
    scan,
)
from cloud_server.training.variants import (
    SOURCE_PX,
    Box,
    BoxCache,
    FaceFinder,
    FootageError,
    VariantConfig,
    cut,
    frame_indices,
    make_crops,
    read_frames,
)


def touch(root: Path, *names: str, folder: str = 'Actor_01') -> None:
    """Make empty files: scan looks at names alone."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    for each in names:
        (root / folder / each).touch()


def complete(root: Path, channels: dict[int, range]) -> Path:
    """Make the names of a whole RAVDESS, as its authors count them."""
    for actor in ACTORS:
        for channel, emotions in channels.items():
            if channel == 2 and actor == 18:
                continue
            names = [
                tiny.name(emotion, actor, channel=channel, intensity=intensity,
                          statement=statement, repetition=repetition)
                for emotion in emotions for intensity in ((1,) if emotion == 1 else (1, 2))
                for statement in (1, 2) for repetition in (1, 2)
            ]
            touch(root, *names, folder=f'Actor_{actor:02}')
    return root


@pytest.fixture(scope='module')
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('video')
    return tiny.write_video(tiny.place(folder, 4, 3), tiny.picture(4, 3))


def test_a_whole_ravdess_has_1440_spoken_clips_of_24_actors_and_60_of_each(tmp_path: Path) -> None:
    found = scan(complete(tmp_path, {1: range(1, 9), 2: range(1, 7)}))
    assert len(found.clips) == found.expected == 1440
    assert found.actors == ACTORS and not found.problems
    assert [sum(clip.actor == actor for clip in found.clips) for actor in ACTORS] == [60] * 24
    assert found.skipped == {'other_channel': 1012}
    assert len(scan(tmp_path, ('speech', 'song')).clips) == 2452


def test_an_emotion_has_the_label_of_its_code(tmp_path: Path) -> None:
    touch(tmp_path, *(tiny.name(code, 1) for code in range(1, 9)))
    labels = {clip.name.split('-')[1]: EMOTIONS[clip.emotion] for clip in scan(tmp_path).clips}
    assert labels == {'01': 'neutral', '02': 'calm', '03': 'happiness', '04': 'sadness',
                      '05': 'anger', '06': 'fear', '07': 'disgust', '08': 'surprise'}


def test_of_a_take_with_and_without_sound_one_file_is_used_the_other_counted(
    tmp_path: Path,
) -> None:
    touch(tmp_path, tiny.name(3, 1, 1), tiny.name(3, 1, 2), tiny.name(4, 1, 2))
    found = scan(tmp_path)
    assert [[file.name[:2] for file in clip.files] for clip in found.clips] == [['01', '02'],
                                                                              ['02']]
    assert found.skipped['same_take'] == 1


def test_sound_alone_and_song_are_left_out_and_counted(tmp_path: Path) -> None:
    touch(tmp_path, tiny.name(3, 1), '03-01-03-01-01-01-01.wav', tiny.name(3, 1, channel=2))
    found = scan(tmp_path)
    assert len(found.clips) == 1
    assert found.skipped['audio_only'] == 1 and found.skipped['other_channel'] == 1


@pytest.mark.parametrize(('name', 'said'), [
    ('01-01-03-01-01-01-02.mp4', 'expected actor 01 as its folder says, found 02'),
    ('01-01-09-01-01-01-01.mp4', 'expected emotion 01 to 08, found 09'),
    ('04-01-03-01-01-01-01.mp4', 'expected modality 01 to 03, found 04'),
    ('01-01-01-02-01-01-01.mp4', 'expected intensity 01 of neutral'),
    ('01-02-07-01-01-01-01.mp4', 'expected emotion 01 to 06 of a song, found 07'),
    ('01-01-03-01-01-01-01.wav', 'does not go with .wav'),
    ('happy.mp4', 'seven fields of two digits'),
    ('01-01-03-01-01-01.mp4', 'seven fields of two digits'),
    ('01-01-03-01-01-01-01.mp4.part', 'seven fields of two digits'),
])
def test_a_mislabelled_file_is_named_and_the_rest_goes_on(
    tmp_path: Path, name: str, said: str
) -> None:
    touch(tmp_path, tiny.name(5, 1), name)
    found = scan(tmp_path)
    assert len(found.clips) == 1 and found.skipped['mislabelled'] == 1
    assert str(tmp_path / 'Actor_01' / name) in found.problems[0] and said in found.problems[0]


def test_takes_and_actors_that_are_missing_are_named(tmp_path: Path) -> None:
    complete(tmp_path, {1: range(1, 9)})
    gone = tiny.place(tmp_path, 6, 9)
    gone.unlink()
    for file in (tmp_path / 'Actor_24').iterdir():
        file.unlink()
    found = scan(tmp_path)
    assert found.skipped['missing'] == 61 and len(found.clips) == 1379
    assert found.problems == (f'{gone}: missing',
                              f'{tmp_path / "Actor_24"}: missing with its 60 clips')


def test_the_archives_may_keep_a_folder_each_and_a_file_twice_is_said(tmp_path: Path) -> None:
    touch(tmp_path / 'Video_Speech_Actor_01', tiny.name(2, 1))
    touch(tmp_path / 'Video_Speech_Actor_02', tiny.name(2, 2), folder='Actor_02')
    touch(tmp_path / 'copy', tiny.name(2, 2), folder='Actor_02')
    found = scan(tmp_path)
    assert found.actors == (1, 2) and found.skipped['duplicate'] == 1
    assert 'is also' in found.problems[0]


def test_a_tree_that_is_not_ravdess_stops_with_what_was_expected_and_found(
    tmp_path: Path,
) -> None:
    with pytest.raises(DatasetError, match='found nothing'):
        scan(tmp_path / 'nowhere')
    with pytest.raises(DatasetError, match=r'expected the folders Actor_01.*an empty folder'):
        scan(tmp_path)
    (tmp_path / 'Video_Speech_Actor_01.zip').touch()
    with pytest.raises(DatasetError, match=r'found Video_Speech_Actor_01\.zip; unpack'):
        scan(tmp_path)
    touch(tmp_path, '03-01-03-01-01-01-01.wav', 'notes.txt')
    with pytest.raises(DatasetError, match=r'expected 1440 clips .*1 files without a picture'):
        scan(tmp_path)


@pytest.mark.parametrize(('split', 'sizes'), [
    ('five_fold', [5, 5, 5, 5, 4]), ('six_fold', [4, 4, 4, 4, 4, 4]),
])
@pytest.mark.parametrize('validate', [False, True])
def test_a_published_split_tests_every_actor_once_and_never_one_it_has_learnt_from(
    split: str, sizes: list[int], validate: bool
) -> None:
    folds = published_folds(split, ACTORS, validate=validate)
    assert [len(fold.test) for fold in folds] == sizes
    assert sorted(actor for fold in folds for actor in fold.test) == list(ACTORS)
    for index, fold in enumerate(folds):
        assert not set(fold.train) & set(fold.test)
        assert sorted((*fold.train, *fold.test, *fold.validation)) == list(ACTORS)
        assert fold.validation == (folds[(index + 1) % len(folds)].test if validate else ())


def test_the_five_folds_are_the_published_ones() -> None:
    assert SPLITS['five_fold'][3] == (8, 17, 21, 23, 24)
    assert SPLITS['six_fold'][5] == (21, 22, 23, 24)


def test_folds_of_actors_who_are_not_there_are_left_out() -> None:
    folds = published_folds('five_fold', (2, 3, 5), validate=False)
    assert [(fold.train, fold.test) for fold in folds] == [((3,), (2, 5)), ((2, 5), (3,))]


def test_a_split_that_leaks_an_actor_is_refused_with_his_number() -> None:
    with pytest.raises(LeakError, match=r'actors \[7\] are in train and in test'):
        Fold('mine', (1, 7), (7, 8))
    with pytest.raises(LeakError, match=r'actors \[3\] are in test and in validation'):
        own_fold((1, 2, 3), test=(3,), validation=(3,))
    with pytest.raises(LeakError, match=r'\[2\] are in train and in test'):
        own_fold((1, 2, 3), test=(2,), train=(1, 2))
    with pytest.raises(LeakError, match=r'found \[9\]'):
        own_fold((1, 2, 3), test=(9,))
    with pytest.raises(LeakError, match='no actor is left in train'):
        published_folds('five_fold', (2, 5), validate=False)
    assert own_fold((1, 2, 3), test=(2,)) == Fold('held_out', (1, 3), (2,))


def test_clips_of_one_actor_in_two_parts_are_noticed_and_so_is_a_file(tmp_path: Path) -> None:
    one, same = (Clip(f'{name}', (tmp_path / name,), 0, 1) for name in 'ab')
    linked = Clip('c', (tmp_path / 'a',), 0, 2)
    with pytest.raises(LeakError, match=r'actors \[1\]'):
        check_disjoint([[one], [same]])
    with pytest.raises(LeakError, match='1 files'):
        check_disjoint([[one], [linked]])
    check_disjoint([[one, same], [Clip('d', (tmp_path / 'd',), 0, 2)]])


def test_thirty_frames_come_from_the_middle_at_the_pace_of_the_copy() -> None:
    at_30, at_15, at_5 = (frame_indices(109, 30000 / 1001, rate, 30, 'middle')
                          for rate in (30, 15, 5))
    assert at_30[0] == 39 and (np.diff(at_30) == 1).all()
    assert at_15[0] == 24 and set(np.diff(at_15)) == {2}
    assert set(np.diff(at_5)) == {0, 6}  # 19 frames, some of them held
    assert at_5[0] == 0 and at_5[-1] == 108 and len(at_5) == 30


def test_first_and_uniform_are_other_choices() -> None:
    assert frame_indices(100, 30, 30, 30, 'first').tolist() == list(range(30))
    spread = frame_indices(100, 30, 30, 30, 'uniform')
    assert spread[0] == 0 and spread[-1] == 99 and set(np.diff(spread)) <= {3, 4}


def test_a_short_copy_repeats_each_frame_in_its_place() -> None:
    assert frame_indices(4, 30, 30, 10, 'middle').tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert frame_indices(4, 30, 5, 3, 'middle').tolist() == [0, 0, 0]


def test_a_video_slower_than_the_copy_is_refused() -> None:
    with pytest.raises(FootageError, match=r'expected at least 30 fps, found 25\.00'):
        frame_indices(100, 25, 30, 30, 'middle')


def test_the_haar_cascade_finds_the_face_where_it_was_put(video: Path) -> None:
    frames, fps = read_frames(video)
    assert len(frames) == tiny.FRAMES and fps == pytest.approx(30)
    box = FaceFinder().find(frames, 3)
    assert box is not None
    centre = 436 + tiny.REGION_PX * tiny.ZOOM / 2, 135 + tiny.FACE[1] * tiny.ZOOM
    assert abs(box.x - centre[0]) < 25 and abs(box.y - centre[1]) < 25
    assert 110 < box.side < 180
    assert FaceFinder().find([np.full((720, 1280), 90, np.uint8)], 1) is None


def test_one_wrong_box_does_not_move_the_median(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = FaceFinder()
    boxes = iter([Box(300, 200, 100), Box(900, 650, 400), Box(302, 202, 104)])
    monkeypatch.setattr(finder, '_largest', lambda _: next(boxes))
    assert finder.find([np.zeros((720, 1280), np.uint8)] * 9, 3) == Box(302, 202, 104)


def test_boxes_are_kept_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / 'a.mp4'
    file.write_bytes(b'one')
    cache = BoxCache(tmp_path / 'faces.json', 5)
    assert cache.get(file) == (False, None)
    cache.put(file, Box(640, 300.5, 200))
    cache.save()
    assert BoxCache(tmp_path / 'faces.json', 5).get(file) == (True, Box(640, 300.5, 200))
    assert BoxCache(tmp_path / 'faces.json', 3).get(file) == (False, None)
    file.write_bytes(b'another')
    assert BoxCache(tmp_path / 'faces.json', 5).get(file) == (False, None)
    (tmp_path / 'faces.json').write_text('[')
    assert BoxCache(tmp_path / 'faces.json', 5).get(file) == (False, None)
    cache.put(file, None)  # looked at, and there is no face
    cache.save()
    assert BoxCache(tmp_path / 'faces.json', 5).get(file) == (True, None)
    assert json.loads((tmp_path / 'faces.json').read_text())['boxes']['a.mp4']['box'] is None


def test_a_copy_is_scaled_down_by_area_before_the_face_is_cut_out() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (720, 1280), np.uint8)
    small = cut(frame, Box(640, 360, 100), (256, 144))
    assert small.shape == (20, 20)
    area = frame[310:410, 590:690].reshape(20, 5, 20, 5).mean((1, 3))
    assert np.abs(small - area).max() <= 1
    np.testing.assert_array_equal(cut(frame, Box(640, 360, 100), SOURCE_PX),
                                  frame[310:410, 590:690])
    assert cut(frame, Box(640, 360, 90), (480, 360)).shape == (45, 34)  # the text's, squeezed


def test_beyond_the_border_the_border_repeats() -> None:
    frame = np.zeros((720, 1280), np.uint8)
    frame[0], frame[:, 0] = 50, 80
    corner = cut(frame, Box(10, 10, 60), SOURCE_PX)
    assert corner.shape == (60, 60) and (corner[:20, 30:] == 50).all()
    assert (corner[30:, :20] == 80).all()


def test_every_copy_shows_the_same_face_at_its_resolution_and_pace(video: Path) -> None:
    frames, fps = read_frames(video)
    config = VariantConfig(frames=6)
    box = FaceFinder().find(frames, 1)
    assert box is not None
    crops = make_crops(frames, fps, box, config, 24)
    assert crops.rows.shape == (9, 6) and crops.faces.shape[1:] == (24, 24)
    assert config.cells[1] == ((1280, 720), 15)
    shown = crops.faces[crops.rows]
    full, small = shown[0].astype(float), shown[6].astype(float)
    assert np.corrcoef(full.ravel(), small.ravel())[0, 1] > 0.95  # the same place
    detail = [np.abs(cv2.Laplacian(face, cv2.CV_64F)).mean() for face in (full[0], small[0])]
    assert detail[1] < detail[0]  # fewer pixels
    assert len(np.unique(crops.rows[0])) == 6 and len(np.unique(crops.rows[2])) == 2


def test_a_video_that_is_broken_or_not_ravdess_says_so(tmp_path: Path, video: Path) -> None:
    broken = tmp_path / 'broken.mp4'
    broken.write_bytes(video.read_bytes())
    tiny.truncate(broken)
    with pytest.raises(MediaError):
        read_frames(broken)
    small = tiny.write_video(tmp_path / 'small.mp4', np.zeros((360, 640, 3), np.uint8), 3)
    with pytest.raises(FootageError, match=r'expected 1280x720 px, found 640x360'):
        read_frames(small)


@pytest.mark.parametrize('bad', [
    {'resolutions': ('1280',)}, {'resolutions': ('1920x1080',)}, {'resolutions': ()},
    {'rates_fps': (60,)}, {'rates_fps': ()}, {'frames': 0}, {'take': 'last'},
])
def test_copies_that_cannot_be_made_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        VariantConfig(**bad)
