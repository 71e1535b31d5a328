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

import dataclasses
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from test_predict import CentreSource, json_lines, picture, run, write_video

from cloud_server.affect import RUSSELL_MEHRABIAN_1977, known_places, valence_arousal
from cloud_server.model_info import ModelError, ModelInfo
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.link import Link
from ferros.types import Box, CameraFrame, Observation, OfferedFace

pytest.importorskip('onnx', reason='the tiny model is written with the onnx package')

ROOT = Path(__file__).resolve().parent.parent
AFFECT = {label: list(place) for label, place in RUSSELL_MEHRABIAN_1977.items()}


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp('model'), affect=AFFECT)


@pytest.fixture
def info(model_folder: Path) -> ModelInfo:
    return ModelInfo.load(model_folder)


# -- from the distribution --------------------------------------------------------------------


def test_a_sure_answer_lies_where_its_label_does(info: ModelInfo) -> None:
    for index, label in enumerate(info.served_labels):
        sure = np.eye(len(info.served_labels), dtype=np.float32)[index]
        assert valence_arousal(sure, info) == pytest.approx(RUSSELL_MEHRABIAN_1977[label])


def test_a_doubtful_answer_lies_between_its_labels(info: ModelInfo) -> None:
    chances = dict.fromkeys(info.served_labels, 0.0) | {'happiness': 0.25, 'sadness': 0.75}
    valence, arousal = valence_arousal(list(chances.values()), info)
    assert valence == pytest.approx(0.25 * 0.81 - 0.75 * 0.63)
    assert arousal == pytest.approx(0.25 * 0.51 - 0.75 * 0.27)


def test_a_model_that_does_not_say_where_its_labels_lie_has_neither(info: ModelInfo) -> None:
    silent = dataclasses.replace(info, affect={})
    assert all(math.isnan(number) for number in valence_arousal([1 / 7] * 7, silent))


def test_the_source_has_a_place_for_every_label_that_is_served_by_default() -> None:
    assert known_places(tiny_model.LABELS[:7]) == RUSSELL_MEHRABIAN_1977
    assert all(-1 <= number <= 1 for place in RUSSELL_MEHRABIAN_1977.values() for number in place)
    assert known_places(['neutral', 'calm']) == {}


# -- model.json -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('affect', 'problem'),
    [
        ({**AFFECT, 'anger': [-1.5, 0.5]}, 'affect is {'),
        ({**AFFECT, 'anger': [0.5]}, 'affect is {'),
        ([0.1, 0.2], 'affect is [0.1, 0.2], expected a pair [valence, arousal]'),
        ({**AFFECT, 'joy': [0.8, 0.5]}, "affect has ['joy'], which are not among labels"),
        ({'neutral': [0, 0]}, "affect lacks ['happiness', 'surprise'"),
    ],
)
def test_places_that_do_not_fit_the_labels_are_refused(
    tmp_path: Path, affect: object, problem: str
) -> None:
    with pytest.raises(ModelError) as error:
        ModelInfo.load(tiny_model.write(tmp_path, affect=affect))
    assert problem in str(error.value)
    assert str(tmp_path / 'model.json') in str(error.value)


def test_a_label_that_is_never_served_may_have_a_place_too(tmp_path: Path) -> None:
    affect = {**AFFECT, 'contempt': [-0.2, 0.3]}
    info = ModelInfo.load(tiny_model.write(tmp_path, affect=affect))
    assert valence_arousal([0, 1, 0, 0, 0, 0, 0], info) == pytest.approx((0.81, 0.51))


# -- on its way -------------------------------------------------------------------------------


@contextmanager
def server(model: Path) -> Iterator[str]:
    """Run the real server; yields its address."""
    command = [sys.executable, '-m', 'cloud_server', 'serve', '--port', '0', '--model', str(model)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            assert child.stdout is not None
            line = child.stdout.readline()
            assert line.startswith('listening on '), line
            yield line.removeprefix('listening on ').strip()
        finally:
            child.terminate()


def observe(address: str) -> Observation:
    """Return the first answer about a face that the robot's own link offers."""
    answers: list[Observation] = []
    link = Link(RobotConfig(server_address=address), Drops(), answers.append)
    link.start()
    began_s = time.monotonic()
    while not answers and time.monotonic() - began_s < 60:
        frame = CameraFrame(picture(1), time.time_ns(), time.monotonic_ns())
        link.offer([OfferedFace('f1', Box(20, 20, 60, 60), frame)])
        time.sleep(0.02)
    link.stop()
    return answers[0]


def test_the_robot_gets_valence_and_arousal_of_the_distribution(
    model_folder: Path, info: ModelInfo
) -> None:
    with server(model_folder) as address:
        answer = observe(address)
    expected = valence_arousal(answer.probabilities, info)
    assert (answer.valence, answer.arousal) == pytest.approx(expected, abs=1e-6)
    assert abs(answer.valence) + abs(answer.arousal) > 0.01


def test_the_robot_gets_none_of_a_model_that_does_not_know_them(tmp_path: Path) -> None:
    with server(tiny_model.write(tmp_path)) as address:
        answer = observe(address)
    assert math.isnan(answer.valence) and math.isnan(answer.arousal)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    write_video(tmp_path / 'video.avi', [picture(n) for n in range(10)])
    return tmp_path / 'video.avi'


def test_predict_gives_them_with_every_reading(
    model_folder: Path, info: ModelInfo, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model_folder, video, '--json', source=CentreSource) == 0
    lines = json_lines(capsys)
    assert len(lines) == 10
    for line in lines:
        expected = valence_arousal(list(line['probabilities'].values()), info)
        assert (line['valence'], line['arousal']) == pytest.approx(expected, abs=1e-5)


def test_predict_shows_them_to_people(
    model_folder: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / 'still.png'), picture(2))
    assert run(model_folder, tmp_path / 'still.png', video) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[-2:] == ['valence', 'arousal']
    assert all(-1 <= float(cell) <= 1 for cell in lines[2].split()[-2:])
    assert '; mean valence ' in lines[-1]


def test_predict_says_null_where_they_are_not_known(
    tmp_path: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_model.write(tmp_path / 'model'), video, '--json') == 0
    out = capsys.readouterr().out
    assert 'NaN' not in out
    assert {json.loads(line)['valence'] for line in out.splitlines()} == {None}
