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

"""Streaming accuracy, delay and false flips, and the methods they are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_ferplus import make_faces

from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model import Encoder, EncoderConfig, Temporal, TemporalConfig
from cloud_server.training import calibrate, evaluate, streaming
from cloud_server.training.clips import ClipConfig, Schedule, draw
from cloud_server.training.evaluate import DEFAULT_MODEL
from cloud_server.training.export import Serving, export
from cloud_server.training.ferplus import Faces, load, majority

FACES = make_faces(14, 4)


@pytest.fixture(scope='module')
def engine(tmp_path_factory: pytest.TempPathFactory) -> OnnxEngine:
    """Return a small network of random weights."""
    torch.manual_seed(1)
    encoder = Encoder(EncoderConfig(stem_channels=4, widths=(4, 6), blocks=(1, 1)))
    temporal = Temporal(TemporalConfig(embedding_size=6, projection_size=3, units=5))
    torch.nn.init.normal_(temporal.head.weight)
    torch.nn.init.normal_(temporal.gate.weight)
    folder: Path = tmp_path_factory.mktemp('model')
    export(encoder, temporal, folder, Serving())
    return OnnxEngine(folder)


def fading(clips: int) -> Schedule:
    return draw(ClipConfig(length_s=3.0, cross_fade_share=1.0), clips, len(FACES), 1)


def sure(engine: OnnxEngine, labels: np.ndarray) -> np.ndarray:
    """Return the features [C,T,F] of a frame network that is sure of some labels [C,T]."""
    features = np.zeros((*labels.shape, engine.info.feature_size), np.float32)
    np.put_along_axis(features, labels[:, :, None], 9.0, 2)
    return features


def test_the_truth_is_the_face_that_is_more_than_half_visible() -> None:
    scenes, known = fading(6), majority(FACES.votes)
    truth = streaming.truths(FACES, scenes)
    assert (truth[:, 0] == known[scenes.faces[:, 0]]).all()
    assert (truth[:, -1] == known[scenes.faces[:, 1]]).all()
    for row, middle in enumerate(streaming.middles(FACES, scenes)):
        changes = np.flatnonzero(np.diff(truth[row])) + 1
        assert middle == (changes[0] if len(changes) else truth.shape[1])


def test_a_perfect_frame_is_late_only_by_the_frame_rate(engine: OnnxEngine) -> None:
    scenes = fading(12)
    features = sure(engine, streaming.truths(FACES, scenes))
    full, slow = (streaming.believed(engine, FACES, scenes, features, 48, rate, 0.3)
                  for rate in (30.0, 2.0))
    assert set(full) == set(streaming.METHODS)
    assert full['frame'].accuracy().mean() == 1
    assert full['frame'].delays_s().max() == 0
    assert 0.8 < slow['frame'].accuracy().mean() < 1
    assert 0 < slow['frame'].delays_s().max() <= 0.5
    for name in ('mean_of_30', 'mode_of_30', 'exponential'):
        assert full[name].accuracy().mean() < 1
    # Half of thirty frames must have changed before the mean does, a second later for two.
    assert np.median(full['mean_of_30'].delays_s()) == pytest.approx(0.5, abs=0.1)


def test_a_label_that_never_comes_is_an_infinite_delay() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2]])
    held = streaming.Held(np.array([[0, 0, 0, 0], [0, 0, 0, 1], [2, 2, 2, 2]]), truth,
                          np.array([2, 2, 4]))
    assert held.delays_s().tolist() == [np.inf, 1 / 30]
    assert held.accuracy().tolist() == [0.5, 0.75, 1.0]


def test_only_changes_to_a_wrong_label_are_false_flips() -> None:
    truth = np.zeros((1, 60), int)
    labels = truth.copy()
    labels[0, 20:30] = 3  # wrong for ten ticks: one false flip; back to the truth is none
    held = streaming.Held(labels, truth, np.array([60]))
    assert held.false_flips_per_min() == pytest.approx(30)


def test_window_methods_forget_what_is_thirty_frames_old() -> None:
    values = np.zeros((1, 70, 2), np.float32)
    values[0, 0, 0] = 1
    total = streaming.window_sum(values)[0, :, 0]
    assert total[:30].tolist() == [1] * 30 and total[30:].tolist() == [0] * 40


def test_the_exponential_average_forgets_by_time_not_by_frames() -> None:
    values = np.zeros((1, 3, 1), np.float32)
    values[0, 0, 0] = 1
    found = streaming.exponential(values, np.array([0.0, 0.5, 2.0]), 0.5)[0, :, 0]
    np.testing.assert_allclose(found, np.exp([0.0, -1.0, -4.0]), rtol=1e-6)


def test_many_clips_together_give_what_each_gives_alone(engine: OnnxEngine) -> None:
    features = np.random.default_rng(2).normal(size=(3, 6, 14)).astype(np.float32)
    ticks, side = np.arange(6) * 3, np.full(6, 24, np.float32)
    together = streaming.stream_together(engine, features, ticks, 24.0)
    for clip, one in enumerate(together):
        np.testing.assert_allclose(
            streaming.stream(engine, features[clip], ticks, side), one, atol=1e-5)


def test_the_stream_carries_its_state_from_frame_to_frame(engine: OnnxEngine) -> None:
    features = np.random.default_rng(2).normal(size=(6, 14)).astype(np.float32)
    ticks, side = np.arange(6) * 3, np.full(6, 48, np.float32)
    whole = streaming.stream(engine, features, ticks, side)
    np.testing.assert_allclose(streaming.stream(engine, features[:3], ticks[:3], side[:3]),
                               whole[:3], atol=1e-6)
    fresh = streaming.stream(engine, features[3:], ticks[3:], side[3:])
    assert np.abs(fresh - whole[3:]).max() > 1e-3


def test_a_paired_interval_holds_the_mean_and_narrows_with_clips() -> None:
    rng = np.random.default_rng(0)
    few, many = (streaming.paired_interval(rng.normal(0.02, 0.1, count)) for count in (20, 2000))
    for mean, low, high in (few, many):
        assert low < mean < high
    assert many[2] - many[1] < (few[2] - few[1]) / 5


def test_the_shipped_lstm_is_as_right_after_a_minute_as_at_the_beginning(
    shared_data: Path,
) -> None:
    path = shared_data / 'data' / 'ferplus_trainvalid.zip'
    if not path.is_file():
        pytest.skip(f'{path} is missing')
    faces = load(path, 'valid', progress=False)
    known = faces.subset(np.flatnonzero(majority(faces.votes) >= 0)[:60])
    shipped, clips = OnnxEngine(DEFAULT_MODEL), 24
    scenes = draw(ClipConfig(cross_fade_share=0.0), clips, len(known), 5).sent_as(32, 30.0)
    features = streaming.encode(shipped, known, scenes).reshape(clips, 180, -1)
    # The same six seconds ten times over: 1,800 steps, six times the longest it has learnt from.
    logits = streaming.stream_together(
        shipped, np.tile(features, (1, 10, 1)), np.arange(1800), 32.0)
    right = logits[:, :, :7].argmax(2) == streaming.truths(known, scenes)[:, :1]
    assert right[:, -180:].mean() >= right[:, :180].mean() - 0.03


@pytest.mark.parametrize(('true', 'error'), [(1, 0.0), (2, 1.0)])
def test_answers_that_are_sure_are_calibrated_only_where_they_are_right(
    engine: OnnxEngine, monkeypatch: pytest.MonkeyPatch, true: int, error: float
) -> None:
    def streamed(_: OnnxEngine, faces: Faces, side_px: int, clips: int) -> tuple[
            np.ndarray, np.ndarray]:
        assert (faces.votes[:, :8].sum(1) > 0).all() and clips == 3
        return np.eye(8, dtype=np.float32)[[1] * 20] * 99, np.eye(7)[[true] * 20]

    monkeypatch.setattr(calibrate, 'streamed', streamed)
    found = evaluate.streamed_ece(engine, FACES, 3)
    assert found == {side: pytest.approx(error, abs=1e-6) for side in ('48', '32', '16')}


def test_the_grid_has_every_cell_and_method(engine: OnnxEngine) -> None:
    faces = Faces(FACES.names, FACES.luma, FACES.votes)
    figures = streaming.grid(engine, faces, 2)
    assert [(cell['face_size_px'], cell['frame_rate_fps']) for cell in figures['cells']] == [
        (side, rate) for side in (48, 32, 16) for rate in (30.0, 15.0, 5.0, 2.0)]
    for cell in figures['cells']:
        assert set(cell['accuracy']) == set(streaming.METHODS)
        assert cell['gain']['low'] <= cell['gain']['mean'] <= cell['gain']['high']
    assert len(streaming.table(figures).splitlines()) == 14
