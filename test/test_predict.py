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
from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_model

from cloud_server import calibration, predict
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.media import FrameClock, MediaError, open_media
from cloud_server.model_info import ModelInfo
from cloud_server.preprocess import to_input
from cloud_server.readings import Reading, runs

ROOT = Path(__file__).resolve().parent.parent
FPS = 10


@pytest.fixture(scope='session')
def model_folder(tmp_path_factory) -> Path:
    return tiny_model.write_or_shipped(tmp_path_factory.mktemp('model'))


class CentreSource:
    """One face that never moves: the square in the middle of every image that is not black."""

    def __init__(self, detector, detector_model, crop_size_px, still):
        self.crop_size_px = crop_size_px

    def update(self, image, now_ns):
        if not image.any():
            return []
        height, width = image.shape[:2]
        side = min(height, width) // 2
        x, y = (width - side) // 2, (height - side) // 2
        luma = cv2.cvtColor(image[y : y + side, x : x + side], cv2.COLOR_BGR2GRAY)
        size = (self.crop_size_px, self.crop_size_px)
        return [('centre', (x, y, side, side), cv2.resize(luma, size))]


class NoDetector:
    def __init__(self, **_):
        raise RuntimeError('no cascade file found')


def picture(seed: int = 0, side_px: int = 96) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(60, 256, (6, 6, 3), np.uint8)
    return cv2.resize(noise, (side_px, side_px), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), picture())
    return path


@pytest.fixture
def video(tmp_path) -> Path:
    """Three seconds; in the second one there is no face."""
    path = tmp_path / 'video.avi'
    write_video(path, [picture(n) if n // FPS != 1 else np.zeros((96, 96, 3)) for n in range(30)])
    return path


def write_video(path: Path, frames) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), FPS, (96, 96))
    for frame in frames:
        writer.write(frame.astype(np.uint8))
    writer.release()


def run(model: Path, *arguments: str | Path, source=CentreSource) -> int:
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    flags = ['--model', str(model), *map(str, arguments)]
    return predict.run(parser.parse_args(flags), source)


def json_lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def reading(time_s: float, label: str, confidence: float = 0.9) -> Reading:
    return Reading(time_s, 'f', (0, 0, 1, 1), label, confidence, (1.0,))


# -- what is computed -------------------------------------------------------------------------


def test_json_gives_one_object_per_face_and_time(model_folder, image, video, capsys):
    assert run(model_folder, image, video, '--json') == 0
    lines = json_lines(capsys)
    assert [line['file'] for line in lines] == [str(image)] + 20 * [str(video)]
    first = lines[0]
    assert list(first) == [
        'file',
        'time_s',
        'face_id',
        'box',
        'label',
        'confidence',
        'probabilities',
        'valence',
        'arousal',
    ]
    assert (first['time_s'], first['face_id'], first['box']) == (0, 'centre', [24, 24, 48, 48])
    labels = ModelInfo.load(model_folder).served_labels
    for line in lines:
        assert tuple(line['probabilities']) == labels
        assert sum(line['probabilities'].values()) == pytest.approx(1, abs=1e-5)
        assert line['confidence'] == max(line['probabilities'].values())
        assert line['label'] in (*labels, 'unknown')
    times = [line['time_s'] for line in lines[1:]]
    assert times == pytest.approx([n / FPS for n in (*range(10), *range(20, 30))], abs=1e-3)


def test_a_video_goes_through_the_state_exactly_as_one_offline_pass(model_folder, video, capsys):
    run(model_folder, video, '--json')
    served = [list(line['probabilities'].values()) for line in json_lines(capsys)]

    engine = OnnxEngine(model_folder)
    info = engine.info
    source = CentreSource('haar', '', info.input_size_px, False)
    h = c = np.zeros((1, info.state_size), np.float32)
    expected, previous_s = [], None
    for time_s, frame in open_media(video).frames:
        for _, _, luma in source.update(frame, 0):
            interval_s = 0.0 if previous_s is None else time_s - previous_s
            previous_s = time_s
            size_px = np.array([luma.shape[0]], np.float32)
            logits, h, c = engine.step(
                engine.encode(to_input(luma, info.input_size_px)[None]),
                np.array([interval_s], np.float32),
                size_px,
                h,
                c,
            )
            expected.append(calibration.probabilities(logits, size_px, info)[0])
    np.testing.assert_allclose(served, expected, atol=1e-4)


def test_the_rate_thins_out_the_frames_of_a_video(model_folder, video, capsys):
    assert run(model_folder, video, '--json', '--rate', '2') == 0
    times = [line['time_s'] for line in json_lines(capsys)]
    assert times == pytest.approx([0, 0.5, 2.0, 2.5], abs=1e-3)


# -- what a person reads ----------------------------------------------------------------------


def test_the_table_of_an_image_has_a_row_per_face(model_folder, image, capsys):
    assert run(model_folder, image) == 0
    name, header, row = capsys.readouterr().out.splitlines()
    assert name == str(image)
    assert header.split() == ['face', 'box', '(px)', 'label', 'confidence']
    assert row.split()[:3] == ['centre', '24,24', '48x48']


def test_the_table_of_a_video_has_its_stretches_and_a_summary(model_folder, video, capsys):
    assert run(model_folder, video) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f'{video}: 2.9 s, 30 frames'
    assert lines[1].split() == ['from', '(s)', 'to', '(s)', 'face', 'label', 'confidence']
    assert lines[2].split()[0] == '0.00'
    assert lines[-2].split()[1] == '2.90'
    assert lines[-1].startswith('  centre in 20 frames: ')


def test_an_image_without_a_face_says_so(model_folder, tmp_path, capsys):
    path = tmp_path / 'black.png'
    cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))
    assert run(model_folder, path) == 0
    assert capsys.readouterr().out.splitlines() == [str(path), '  no face']


def spans(readings) -> list[tuple[str, float, float]]:
    return [(r.label, round(r.start_s, 2), round(r.end_s, 2)) for r in runs(readings)]


def labelled(text: str, step_s: float = 0.1) -> list[Reading]:
    names = {'n': 'neutral', 'h': 'happiness', 'a': 'anger'}
    return [reading(i * step_s, names[letter]) for i, letter in enumerate(text) if letter != '.']


@pytest.mark.parametrize(
    ('labels', 'expected'),
    [
        ('nnnnnhhhhh', [('neutral', 0, 0.4), ('happiness', 0.5, 0.9)]),
        ('nnnnnhnnnn', [('neutral', 0, 0.9)]),
        ('nnnnnnnhaa', [('neutral', 0, 0.9)]),
        ('nnhhhhhhhh', [('happiness', 0, 0.9)]),
        ('nnnnnahhhh', [('neutral', 0, 0.5), ('happiness', 0.6, 0.9)]),
        ('nhh', [('happiness', 0, 0.2)]),
        ('n', [('neutral', 0, 0)]),
        ('nnnnn...........nnnnn', [('neutral', 0, 0.4), ('neutral', 1.6, 2.0)]),
        ('nnnnn...........h', [('neutral', 0, 0.4), ('happiness', 1.6, 1.6)]),
    ],
)
def test_a_run_lasts_as_long_as_its_label_and_a_flicker_makes_none(labels, expected):
    assert spans(labelled(labels)) == expected


def test_the_confidence_of_a_run_is_the_mean_over_its_own_label():
    readings = [reading(0, 'neutral', 0.6), reading(0.5, 'neutral', 0.8)]
    readings += [reading(0.6, 'anger', 0.1), reading(1.0, 'neutral', 0.7)]
    (run_,) = runs(readings)
    assert run_.confidence == pytest.approx(0.7)


def test_the_plot_is_a_picture_with_every_curve_in_its_colour(
    model_folder, image, video, tmp_path
):
    pytest.importorskip('matplotlib')
    from cloud_server.plot import colour

    out = tmp_path / 'out.png'
    assert run(model_folder, image, video, '--plot', out) == 0
    picture = cv2.cvtColor(cv2.imread(str(out)), cv2.COLOR_BGR2RGB)
    assert picture.shape[1] > 1000
    for label in ModelInfo.load(model_folder).served_labels:
        rgb = [int(colour(label)[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(picture.astype(int) - rgb).max(axis=2) < 4).sum() > 50, label


# -- files that cannot be read ----------------------------------------------------------------


def test_bad_files_are_named_and_counted_and_the_good_ones_are_read(
    model_folder, image, video, tmp_path, capfd
):
    jpeg = cv2.imencode('.jpg', picture(side_px=400))[1].tobytes()
    bad = {
        'missing.png': None,
        'text.jpg': b'this is no image',
        'empty.png': b'',
        'cut.jpg': jpeg[: len(jpeg) // 2],
        'cut.png': image.read_bytes()[:-300],
        'cut.avi': video.read_bytes()[: len(video.read_bytes()) // 2],
    }
    for name, data in bad.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    folder = tmp_path / 'folder'
    folder.mkdir()
    paths = [tmp_path / name for name in bad]
    assert run(model_folder, *paths, folder, image, '--json') == 1
    out, err = capfd.readouterr()
    # The decoders themselves may say something too.
    said = [line for line in err.splitlines() if line.startswith(str(tmp_path))]
    problems = {line.split(': ')[0]: line for line in said}
    assert set(problems) == {str(path) for path in (*paths, folder)}, err
    assert 'no such file' in problems[str(paths[0])]
    assert 'not an image' in problems[str(tmp_path / 'text.jpg')]
    assert 'truncated' in problems[str(tmp_path / 'cut.jpg')]
    assert 'of 30 frames' in problems[str(tmp_path / 'cut.avi')]
    assert '7 of 8 files could not be read' in err
    # What there was of the truncated video is given, and the good image.
    files = [json.loads(line)['file'] for line in out.splitlines()]
    assert set(files) == {str(tmp_path / 'cut.avi'), str(image)}


@pytest.mark.parametrize(
    ('flags', 'problem'),
    [
        (['--rate', '-1'], '--rate is -1.0, expected 0 to 1000'),
        (['--plot', 'out.docx'], 'expected a name in .png'),
        (['--plot', '/nowhere/out.png'], '/nowhere is not a folder'),
        (['--model', '/nowhere'], '/nowhere/model.json'),
    ],
)
def test_what_cannot_work_is_said_before_a_file_is_read(
    model_folder, image, flags, problem, capsys
):
    assert run(model_folder, image, *flags) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ('', 1)
    assert problem in err


def test_a_detector_that_cannot_be_made_is_said_in_one_line(model_folder, image, capsys):
    assert run(model_folder, image, source=NoDetector) == 2
    assert 'detector haar cannot be used: no cascade file found' in capsys.readouterr().err


def test_a_broken_pipe_is_no_traceback(model_folder, image):
    code = (
        'import sys\n'
        f'sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "test")!r}]\n'
        'from cloud_server import __main__, predict\n'
        'from test_predict import CentreSource\n'
        'predict._load_face_source = lambda: CentreSource\n'
        'sys.exit(__main__.main(sys.argv[1:]))\n'
    )
    command = [sys.executable, '-c', code, 'predict', '--json', '--model', str(model_folder)]
    with subprocess.Popen(
        [*command, *([str(image)] * 300)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        child.stdout.close()
        stderr = child.stderr.read().decode()
    assert child.returncode == 1
    assert 'Traceback' not in stderr
    assert 'BrokenPipe' not in stderr


# -- times ------------------------------------------------------------------------------------


def test_the_clock_takes_the_containers_times_from_the_first_frame_on():
    clock = FrameClock(30)
    assert [clock.time_s(t) for t in (5.0, 5.04, 5.5)] == pytest.approx([0, 0.04, 0.5])


@pytest.mark.parametrize('stuck', [0.0, -1.0, float('nan')])
def test_the_clock_goes_on_by_the_frame_rate_where_the_container_has_no_times(stuck):
    clock = FrameClock(20)
    assert [clock.time_s(0.0), clock.time_s(stuck), clock.time_s(stuck)] == pytest.approx(
        [0, 0.05, 0.10]
    )


@pytest.mark.parametrize('frame_rate_fps', [0, -5, float('nan'), 1e9])
def test_a_frame_rate_that_cannot_be_is_not_believed(frame_rate_fps):
    clock = FrameClock(frame_rate_fps)
    clock.time_s(0)
    assert clock.time_s(0) == pytest.approx(1 / 25)


def test_the_frames_of_a_video_come_with_their_own_times(tmp_path):
    """Each frame's brightness is its number: a time that belongs to its neighbour would show."""
    path = tmp_path / 'numbers.avi'
    write_video(path, [np.full((96, 96, 3), 8 * n) for n in range(20)])
    media = open_media(path)
    assert (media.is_still, media.frame_count) == (False, 20)
    for time_s, frame in media.frames:
        assert round(frame.mean() / 8) == round(time_s * FPS)


def test_a_truncated_still_raises_where_it_is_opened(tmp_path):
    path = tmp_path / 'cut.jpg'
    path.write_bytes(cv2.imencode('.jpg', picture())[1].tobytes()[:-10])
    with pytest.raises(MediaError, match='truncated'):
        open_media(path)


# -- the shipped model and the robot's own detector -------------------------------------------


@pytest.fixture
def shipped() -> Path:
    return tiny_model.SHIPPED


def robots_source(**keywords):
    from ferros.faces import FaceSource

    return FaceSource(**keywords)


def test_two_people_are_two_faces(shipped, shared_data, capsys):
    path = shared_data / 'media' / 'two_people.jpg'
    assert run(shipped, path, '--json', source=robots_source) == 0
    # Two men with closed mouths.
    assert [line['label'] for line in json_lines(capsys)] == ['neutral', 'neutral']


def test_the_same_man_smiles_in_every_size_of_his_portrait(shipped, shared_data, capsys):
    for path in sorted((shared_data / 'media').glob('obama-*.jpg')):
        assert run(shipped, path, '--json', source=robots_source) == 0
        assert [line['label'] for line in json_lines(capsys)] == ['happiness']


def test_a_smile_is_found_where_it_is_in_the_video(shipped, shared_data, capsys):
    path = shared_data / 'media' / 'single_face.mp4'
    assert run(shipped, path, '--json', source=robots_source) == 0
    lines = json_lines(capsys)
    assert len({line['face_id'] for line in lines}) == 1
    labels = {line['time_s']: line['label'] for line in lines}
    assert {label for time_s, label in labels.items() if time_s < 0.5} == {'neutral'}
    assert {label for time_s, label in labels.items() if 0.8 < time_s < 2.2} == {'happiness'}
    # The smile is gone in the very last image.
    assert labels[max(labels)] == 'neutral'


def test_a_video_without_a_face_gives_nothing(shipped, shared_data, capsys):
    path = shared_data / 'media' / 'no_face.mp4'
    assert run(shipped, path, '--json', source=robots_source) == 0
    assert json_lines(capsys) == []
