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

"""`ferros-cloud evaluate robustness`: each view is what its name says, and is fairly compared."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny_ferplus import make_faces, write_folder

from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model import Encoder, EncoderConfig, Temporal, TemporalConfig
from cloud_server.training import bootstrap, evaluate, robustness, scores
from cloud_server.training.export import Serving, export
from cloud_server.training.ferplus import majority

ROOT = Path(__file__).resolve().parent.parent
FACES = make_faces(28, 4)


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a small network of random weights."""
    torch.manual_seed(1)
    encoder = Encoder(EncoderConfig(stem_channels=4, widths=(4, 6), blocks=(1, 1)))
    temporal = Temporal(TemporalConfig(embedding_size=6, units=5))
    folder = tmp_path_factory.mktemp('model')
    export(encoder, temporal, folder, Serving())
    return folder


def spot(x_px: float, y_px: float, count: int = 1) -> np.ndarray:
    """Return black images with one soft white spot, uint8 [count,48,48]."""
    y, x = np.mgrid[:48, :48]
    image = 255 * np.exp(-((x - x_px) ** 2 + (y - y_px) ** 2) / 18)
    return np.repeat(image.round().astype(np.uint8)[None], count, 0)


def place(images: np.ndarray) -> np.ndarray:
    """Return the spot's centre [N,2], x and y in px."""
    weight = images.astype(np.float64)
    y, x = np.mgrid[:48, :48]
    total = weight.sum((1, 2))
    return np.stack([(weight * axis).sum((1, 2)) / total for axis in (x, y)], 1)


@pytest.mark.parametrize('angle_deg', [-20, 10])
def test_a_positive_tilt_is_counter_clockwise_about_the_middle(angle_deg: int) -> None:
    [x, y] = place(robustness.turned(angle_deg)(spot(35.5, 23.5)))[0]
    angle = np.deg2rad(angle_deg)
    assert x == pytest.approx(23.5 + 12 * np.cos(angle), abs=0.3)
    assert y == pytest.approx(23.5 - 12 * np.sin(angle), abs=0.3)


def test_jitter_moves_and_scales_by_what_it_says_and_repeats() -> None:
    shown = spot(23.5, 23.5, 400)
    moved = robustness.jittered(0.05, 0.0)(shown)
    np.testing.assert_array_equal(moved, robustness.jittered(0.05, 0.0)(shown))
    np.testing.assert_allclose(place(moved).std(0), 0.05 * 48, rtol=0.15)
    scaled = robustness.jittered(0.0, 0.1)(spot(33.5, 23.5, 400))
    assert np.log((place(scaled)[:, 0] - 23.5) / 10).std() == pytest.approx(0.1, rel=0.15)


def test_shade_falls_on_the_side_that_is_named() -> None:
    grey = np.full((1, 48, 48), 200, np.uint8)
    found = {view.name: view.change(grey)[0].mean(0) for view in robustness.views(FACES)
             if 'shade' in view.name or 'light' in view.name}
    assert len(found) == 4
    for name, columns in found.items():
        dark, lit = columns[:5].mean(), columns[-5:].mean()
        if 'right side' in name or 'right half' in name:
            dark, lit = lit, dark
        assert dark < 0.4 * 200 and lit > 0.9 * 200, name


def test_blur_keeps_the_light_and_takes_detail_the_more_the_wider() -> None:
    one, two, sideways = (change(FACES.luma) for change in (
        robustness.blurred(1), robustness.blurred(2), robustness.smeared(5)))

    def detail(luma: np.ndarray, axis: int) -> float:
        return float(np.abs(np.diff(luma.astype(float), axis=axis)).mean())

    assert detail(FACES.luma, 1) > detail(one, 1) > detail(two, 1)
    # Stripes across the face stay where the head moves along them.
    assert detail(sideways, 2) < 0.4 * detail(FACES.luma, 2)
    assert detail(sideways, 1) > detail(two, 1)
    for changed in (one, two, sideways):
        assert abs(changed.mean() - FACES.luma.mean()) < 1


def test_small_faces_and_jpeg_are_what_the_robot_would_send() -> None:
    small = robustness.sent_at(16)(FACES.luma)
    assert small.shape == (28, 16, 16)
    assert small[0, 0, 0] == pytest.approx(FACES.luma[0, :3, :3].mean(), abs=1)
    coded = robustness.as_jpeg(30)(FACES.luma)
    _, data = cv2.imencode('.jpg', FACES.luma[0], [cv2.IMWRITE_JPEG_QUALITY, 30])
    np.testing.assert_array_equal(coded[0], cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


def test_the_thirds_are_equal_parts_by_the_brightness_of_the_middle() -> None:
    luma = np.zeros((9, 48, 48), np.uint8)
    luma[:, 12:36, 12:36] = np.array([50, 10, 90, 20, 60, 30, 70, 80, 40])[:, None, None]
    luma[:, :12] = 255  # what surrounds the face does not count
    parts = robustness.thirds(robustness.central_luma(luma))
    assert [np.flatnonzero(part).tolist() for part in parts] == [[1, 3, 5], [0, 4, 8], [2, 6, 7]]


def test_no_change_is_no_difference_and_a_loss_is_one() -> None:
    truth = np.array([0] * 90 + [-1] * 10)
    right, wrong = np.zeros(100, int), np.ones(100, int)
    same = robustness.difference(truth, right, right, None)
    assert same == {'mean': 0, 'low': 0, 'high': 0}
    assert robustness.difference(truth, right, wrong, None)['mean'] == -1
    half = np.where(np.arange(100) % 2, right, wrong)
    found = robustness.difference(truth, right, half, None)
    assert found['mean'] == pytest.approx(-0.5)
    assert -0.63 < found['low'] < -0.57 and -0.43 < found['high'] < -0.37
    # Faces without a majority do not count.
    assert robustness.difference(np.full(100, -1), right, half, None) == {}


def test_what_both_views_find_hard_does_not_widen_the_interval() -> None:
    truth = np.zeros(400, int)
    plain = np.where(np.arange(400) % 2, 0, 1)  # right for half of the faces
    guess = plain.copy()
    guess[1] = 1  # and one fewer
    found = robustness.difference(truth, plain, guess, None)
    assert found['mean'] == pytest.approx(-1 / 400)
    assert found['high'] - found['low'] < 0.01  # unpaired it would be 0.14


def test_a_third_is_compared_with_all_faces() -> None:
    truth, plain = np.zeros(300, int), np.ones(300, int)
    plain[:200] = 0
    third = np.arange(300) < 100
    found = robustness.difference(truth, plain, plain[third], third)
    assert found['mean'] == pytest.approx(1 - 2 / 3, abs=1e-5)
    assert found['low'] < found['mean'] < found['high']


def test_every_view_is_measured_by_the_code_that_serves(model: Path) -> None:
    engine = OnnxEngine(model)
    found = robustness.measure(engine, FACES)
    rows = {row['view']: row for row in found['rows']}
    assert len(rows) == len(robustness.views(FACES)) and found['resamples'] == bootstrap.RESAMPLES
    plain = found['rows'][0]
    guess = scores.served(engine, scores.first_frame(engine, FACES.luma, progress=False), 48)
    assert plain['accuracy'] == pytest.approx(
        (guess.argmax(1) == majority(FACES.votes)).mean(), abs=1e-5)
    assert 'difference' not in plain and plain['count'] == 28
    for name, row in rows.items():
        if row is plain:
            continue
        change = row['difference']
        assert change['low'] <= change['mean'] <= change['high'], name
        if 'third' not in name:
            assert change['mean'] == pytest.approx(row['accuracy'] - plain['accuracy'], abs=1e-4)
    assert sum(row['count'] for name, row in rows.items() if 'third' in name) == 28
    assert {-20, -10, 10, 20} == {int(name.split()[1][:-1]) for name in rows if 'tilted' in name}
    assert {'24 px', '16 px'} <= set(rows)


def test_the_command_prints_and_records_the_table(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_folder(tmp_path / 'ferplus', {'valid': make_faces(14, 2)})
    parser, file = argparse.ArgumentParser(), tmp_path / 'evaluation.json'
    evaluate.add_arguments(parser)
    assert evaluate.run(parser.parse_args([
        'robustness', '--data', str(data), '--model', str(model), '--record', str(file)])) == 0
    stored = json.loads(file.read_text())['robustness_valid']
    assert stored['command'] == 'ferros-cloud evaluate robustness --split valid'
    printed = capsys.readouterr().out
    for row in stored['rows']:
        assert f'{row["view"]:<42}' in printed
    assert 'no measure of skin tone' in printed


def test_the_jitter_is_what_the_detectors_were_measured_to_have() -> None:
    measured = json.loads((ROOT / 'bench/results/crop_constants.json').read_text())['detectors']
    assert {name.lower() for name in robustness.JITTER} == set(measured)
    for name, (shift_sides, size) in robustness.JITTER.items():
        spread = measured[name.lower()]['all_borders']
        both = (spread['right']['spread'] + spread['down']['spread']) / 2
        assert shift_sides == pytest.approx(both, abs=0.005)
        assert size == pytest.approx(
            spread['scale']['spread'] / spread['scale']['median'], abs=0.01)
