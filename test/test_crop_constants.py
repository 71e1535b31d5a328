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

"""The crop constants of ferros/detect.py are those that the detectors have on FER+'s faces."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny_ferplus import make_faces, write_folder

from cloud_server.model import Encoder, EncoderConfig, Temporal, TemporalConfig
from cloud_server.training.evaluate import DEFAULT_MODEL
from cloud_server.training.export import Serving, export
from cloud_server.training.ferplus import EMOTIONS, Faces
from demo import clip
from ferros.crop import crop
from ferros.detect import HAAR_CROP_SCALE, make_detector
from ferros.types import Box
from tools import crop_constants

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def photograph() -> np.ndarray:
    return np.asarray(cv2.cvtColor(clip.portrait(), cv2.COLOR_BGR2GRAY), np.uint8)


@pytest.fixture(scope='module')
def face(photograph: np.ndarray) -> Box:
    """Return the Haar box of the one face in the photograph."""
    [box] = make_detector('haar').detect(photograph)
    return crop_constants.around(box, 1 / HAAR_CROP_SCALE)


def framed(photograph: np.ndarray, face: Box, scale: float, count: int) -> np.ndarray:
    """Return 48 px images of frames whose side is so many sides of the Haar box, hardly moved."""
    rng = np.random.default_rng(1)
    moved = rng.normal(0, 0.01 * face.width, (count, 2))
    return np.stack([
        crop(photograph, crop_constants.around(face._replace(x=face.x + x, y=face.y + y), scale),
             48)
        for x, y in moved
    ])


@pytest.mark.parametrize('border', sorted(crop_constants.BORDERS))
def test_a_scene_holds_the_face_where_it_says(border: str) -> None:
    for luma in make_faces(3, 1).luma:
        scene = crop_constants.scene(luma, border)
        found = crop(scene.image, scene.frame, 48).astype(int)
        assert np.abs(found - luma)[4:-4, 4:-4].mean() < 4
        assert scene.image.shape == (192, 192) and scene.frame.centre == (96, 96)


@pytest.mark.parametrize('border', sorted(crop_constants.BORDERS))
@pytest.mark.parametrize('scale', [1.0, 1.2])
def test_a_frame_of_known_size_is_measured_as_that_large(
    photograph: np.ndarray, face: Box, border: str, scale: float
) -> None:
    luma = framed(photograph, face, scale, 6)
    found = crop_constants.look(make_detector('haar'), 'haar', luma, border, progress=False)
    figures = crop_constants.summary(found)
    assert figures['of'] == 6 and figures['found'] >= 4
    assert figures['scale']['median'] == pytest.approx(scale, abs=0.09)
    assert abs(figures['right']['median']) < 0.04 and abs(figures['down']['median']) < 0.04


def test_the_spread_is_a_standard_deviation_that_wrong_boxes_do_not_move() -> None:
    rng = np.random.default_rng(3)
    offsets = rng.normal([1.0, 0.0, 0.1], [0.1, 0.02, 0.03], (5000, 3))
    offsets[:100] = 9.0
    found = crop_constants.summary(crop_constants.Finding([None] * 6000, offsets))
    assert found['found'] == 5000 and found['of'] == 6000
    assert found['scale'] == {'median': pytest.approx(1, abs=0.01),
                              'spread': pytest.approx(0.1, rel=0.1)}
    assert found['down']['median'] == pytest.approx(0.1, abs=0.01)


def test_the_best_scale_is_the_top_of_the_curve_not_its_luckiest_point() -> None:
    rng = np.random.default_rng(4)
    crops = [{'scale': scale, 'accuracy': 0.9 - (scale - 0.97) ** 2 + rng.normal(0, 0.003)}
             for scale in crop_constants.SCALES]
    assert crop_constants.best_scale(crops) == pytest.approx(0.97, abs=0.03)
    rising = [{'scale': scale, 'accuracy': scale / 2} for scale in crop_constants.SCALES]
    assert crop_constants.best_scale(rising) == crop_constants.SCALES[-1]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Export a small network that says which faces were held out from it."""
    torch.manual_seed(1)
    encoder = Encoder(EncoderConfig(stem_channels=4, widths=(4, 6), blocks=(1, 1)))
    temporal = Temporal(TemporalConfig(embedding_size=6, units=5))
    export(encoder, temporal, tmp_path / 'model', Serving(),
           {'split': {'held_out': 6, 'temporal': 0, 'seed': 1}})
    return tmp_path / 'model'


def command(monkeypatch: pytest.MonkeyPatch, *options: object) -> int:
    monkeypatch.setattr(sys, 'argv', ['crop_constants', *map(str, options)])
    return crop_constants.main()


def test_the_command_prints_writes_and_draws_what_it_measured(
    photograph: np.ndarray, face: Box, model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    luma = framed(photograph, face, 1.0, 16)
    votes = np.zeros((16, 10), np.uint8)
    votes[:, EMOTIONS.index('happiness')] = 10
    names = tuple(f'fer{row:07}.png' for row in range(16))
    data = write_folder(tmp_path / 'ferplus', {
        'train': Faces(names, luma, votes), 'valid': make_faces(7, 2)})
    out, plot = tmp_path / 'found' / 'constants.json', tmp_path / 'found' / 'constants.png'
    assert command(monkeypatch, '--data', data, '--model', model, '--out', out, '--plot', plot,
                   '--faces', 4) == 0
    document = json.loads(out.read_text())
    assert document['faces'] == 4 and set(document['detectors']) == {'haar'}
    found = document['detectors']['haar']
    assert found['constant'] == HAAR_CROP_SCALE
    assert found['all_borders']['scale']['median'] == pytest.approx(1, abs=0.09)
    assert [row['scale'] for row in found['crops']] == list(crop_constants.SCALES)
    printed = capsys.readouterr().out
    assert f'haar: best at {found["best_scale"]:.2f}' in printed
    assert cv2.imread(str(plot)).shape[1] > 600


def test_faces_that_no_detector_finds_are_one_clear_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_folder(tmp_path / 'ferplus', {
        'train': make_faces(21, 1), 'valid': make_faces(7, 2)})
    options = ('--data', data, '--model', model, '--out', tmp_path / 'x.json')
    assert command(monkeypatch, *options) == 1
    assert 'the haar detector found none of the' in capsys.readouterr().err
    assert command(monkeypatch, *options, '--detector-model', tmp_path / 'no.onnx') == 1
    assert 'no.onnx does not exist' in capsys.readouterr().err
    assert not (tmp_path / 'x.json').exists()


def test_the_constants_in_use_are_those_that_were_measured() -> None:
    document = json.loads((ROOT / 'bench/results/crop_constants.json').read_text())
    assert set(document['detectors']) == set(crop_constants.CONSTANTS)
    for kind, found in document['detectors'].items():
        constant = crop_constants.CONSTANTS[kind]
        assert found['constant'] == constant
        assert found['all_borders']['scale']['median'] == pytest.approx(constant, abs=0.05)
        for name in ('right', 'down'):
            assert abs(found['all_borders'][name]['median']) < 0.03
        change = {row['scale']: row['change'] for row in found['crops']}
        assert change[constant] == {'mean': 0, 'low': 0, 'high': 0}
        # No other size is surely more than a point better; too tight and too wide ones are worse.
        assert max(row['low'] for row in change.values()) < 0.01
        assert change[0.7]['mean'] < 0 and change[1.3]['mean'] < 0
        assert found['best_scale'] == pytest.approx(constant, abs=0.12)


@pytest.mark.parametrize('kind', ['haar', 'yunet'])
def test_the_constants_are_measured_again_on_held_out_faces(
    shared_data: Path, kind: str, held_out: np.ndarray
) -> None:
    model = shared_data / 'models' / 'face_detection_yunet.onnx'
    detector = make_detector(kind, model_file=str(model) if kind == 'yunet' else '')
    found = crop_constants.summary(
        crop_constants.look(detector, kind, held_out, 'flat', progress=False))
    assert found['found'] > 0.6 * found['of']
    constant = crop_constants.CONSTANTS[kind]
    assert found['scale']['median'] == pytest.approx(constant, abs=0.06)
    assert abs(found['right']['median']) < 0.03 and abs(found['down']['median']) < 0.05


@pytest.fixture(scope='module')
def held_out(shared_data: Path) -> np.ndarray:
    path = shared_data / 'data' / 'ferplus_trainvalid.zip'
    if not path.is_file():
        pytest.skip(f'{path} is missing')
    return crop_constants.held_out(path, DEFAULT_MODEL, 120).luma
