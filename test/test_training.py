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

"""Training at smoke size, through the commands: it learns, resumes, and ends in a served model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import command
from tiny_ferplus import make_faces, write_folder

from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model import load_encoder, load_temporal
from cloud_server.training import calibrate, export, image, scores, settings, video
from cloud_server.training.ferplus import load, load_splits, majority

IMAGE_YAML = """
held_out: 40
temporal: 40
epochs: 6
batch_size: 32
learning_rate: 0.1
ema_decay: 0.9
precision: fp32
encoder: {stem_channels: 4, widths: [8, 16], blocks: [1, 1], dropout: 0.0}
augment: {rotation_deg: 2.0, cutout_share: 0.0, mix_share: 0.0, blur_share: 0.0}
"""
VIDEO_YAML = """
clips: 24
held_out_clips: 8
epochs: 3
batch_size: 8
units: 8
projection_size: 4
precision: fp32
clip: {length_s: 1.5, rate_fps: [5, 15], cross_fade_s: [0.1, 0.3]}
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp('ferplus'), {
        'train': make_faces(400, 1), 'valid': make_faces(70, 2),
    })


@pytest.fixture(scope='module')
def settings_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp('settings')
    (folder / 'image.yaml').write_text(IMAGE_YAML)
    (folder / 'video.yaml').write_text(VIDEO_YAML)
    return folder / 'image.yaml', folder / 'video.yaml'


@pytest.fixture(scope='module')
def trained(
    data: Path, settings_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Run both trainings and the export, from scratch, as anyone would."""
    out = tmp_path_factory.mktemp('trained')
    assert command(image, '--data', data, '--out', out, '--config', settings_files[0]) == 0
    assert command(video, '--data', data, '--encoder', out / 'encoder.safetensors', '--out', out,
                   '--config', settings_files[1]) == 0
    assert command(export, '--encoder', out / 'encoder.safetensors', '--temporal',
                   out / 'temporal.safetensors', '--data', data, '--clips', 4, '--out',
                   out / 'model') == 0
    return out


def test_the_encoder_learns_to_tell_emotions_apart(trained: Path, data: Path) -> None:
    history = json.loads((trained / 'image.json').read_text())['history']
    assert history[-1]['loss'] < history[0]['loss']
    engine, valid = OnnxEngine(trained / 'model'), load(data, 'valid', progress=False)
    guess = scores.first_frame(engine, valid.luma, progress=False)[:, :7].argmax(1)
    assert (guess == majority(valid.votes)).mean() > 0.5  # chance is 1/7


def test_the_lstm_is_trained_and_never_worse_than_an_average_on_held_out_clips(
    trained: Path,
) -> None:
    history = json.loads((trained / 'video.json').read_text())['history']
    losses = [entry['held_out_loss'] for entry in history]
    assert len(losses) == 4 and min(losses) <= losses[0]
    assert load_temporal(trained / 'temporal.safetensors').config.units == 8


def test_the_weights_say_how_the_data_was_divided(trained: Path, data: Path) -> None:
    about = json.loads(settings.metadata(trained / 'model' / 'encoder.safetensors')['ferros'])
    split = about['about']['split']
    assert split == {'held_out': 40, 'temporal': 40, 'seed': 1}
    assert len(load_splits(data, **split, progress=False).held_out) == 40


def test_a_stopped_image_training_ends_as_if_it_had_not_been_stopped(
    trained: Path, data: Path, settings_files: tuple[Path, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ('--data', data, '--out', tmp_path, '--config', settings_files[0])
    run_epoch = image.Trainer.run_epoch

    def killed_in_the_third(self: image.Trainer) -> float:
        loss = run_epoch(self)
        if self.epoch == 3:
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(image.Trainer, 'run_epoch', killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        command(image, *options)
    assert not (tmp_path / 'encoder.safetensors').exists()
    monkeypatch.undo()
    assert command(image, *options) == 0
    same_weights(tmp_path / 'encoder.safetensors', trained / 'encoder.safetensors')


def test_a_stopped_video_training_ends_as_if_it_had_not_been_stopped(
    trained: Path, data: Path, settings_files: tuple[Path, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ('--data', data, '--encoder', trained / 'encoder.safetensors', '--out', tmp_path,
               '--config', settings_files[1])
    save = video.Trainer.save

    def killed_after_the_second(self: video.Trainer, *args: object) -> None:
        save(self, *args)
        if self.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(video.Trainer, 'save', killed_after_the_second)
    with pytest.raises(KeyboardInterrupt):
        command(video, *options)
    monkeypatch.undo()
    assert command(video, *options) == 0
    same_weights(tmp_path / 'temporal.safetensors', trained / 'temporal.safetensors')


def test_a_training_can_begin_from_trained_weights_of_the_same_division_only(
    trained: Path, data: Path, settings_files: tuple[Path, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ('--data', data, '--config', settings_files[0], '--start',
               trained / 'encoder.safetensors', '--epochs', 1)
    assert command(image, *options, '--out', tmp_path / 'more') == 0
    first = json.loads((trained / 'image.json').read_text())['history'][0]
    more = json.loads((tmp_path / 'more' / 'image.json').read_text())['history'][0]
    assert more['loss'] < 0.8 * first['loss']
    assert command(image, *options, '--out', tmp_path / 'other', '--seed', 2) == 1
    assert 'has seen faces that are held out' in capsys.readouterr().err


def same_weights(one: Path, other: Path) -> None:
    load_one = load_encoder if 'encoder' in one.name else load_temporal
    left, right = load_one(one).state_dict(), load_one(other).state_dict()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], msg=name)


def test_a_checkpoint_of_other_settings_is_refused(
    trained: Path, data: Path, settings_files: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(image, '--data', data, '--out', trained, '--config', settings_files[0],
                   '--epochs', 5) == 1
    assert 'written under settings' in capsys.readouterr().err
    assert command(video, '--data', data, '--encoder', trained / 'encoder.safetensors', '--out',
                   trained, '--config', settings_files[1], '--epochs', 4) == 1
    assert 'written under settings' in capsys.readouterr().err


def test_wrong_files_are_one_clear_line(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    temporal = trained / 'temporal.safetensors'
    assert command(image, '--data', tmp_path / 'nowhere', '--out', tmp_path / 'a') == 1
    assert 'no such file' in capsys.readouterr().err
    assert command(video, '--data', data, '--encoder', temporal, '--out', tmp_path / 'b') == 1
    assert 'holds a temporal, expected a encoder' in capsys.readouterr().err
    table = data / 'FER2013Train' / 'label.csv'
    assert command(export, '--encoder', table, '--temporal', temporal, '--out', tmp_path) == 1
    assert 'label.csv: cannot be read' in capsys.readouterr().err


@pytest.mark.parametrize(('text', 'named'), [
    ('epoch: 3', 'epoch'), ('epochs: many', 'epochs'), ('encoder: {width: 3}', 'width'),
    ('- 1', 'mapping'), ('precision: fp8', 'fp8'), ('epochs: 0', 'epochs'),
])
def test_a_settings_file_with_a_mistake_names_it(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / 'bad.yaml').write_text(text)
    with pytest.raises(ValueError, match=named):
        settings.read(image.ImageConfig, tmp_path / 'bad.yaml', {})


def test_the_shipped_settings_are_read(root: Path) -> None:
    config = settings.read(image.ImageConfig, root / 'config' / 'train_image.yaml', {'epochs': 7})
    assert config.epochs == 7 and config.held_out == 3000
    clips = settings.read(video.VideoConfig, root / 'config' / 'train_video.yaml', {})
    assert clips.clip.length_s == 6.0


def test_the_learning_rate_climbs_once_and_ends_at_nothing() -> None:
    config = image.ImageConfig()
    rates = [image.learning_rate(config, step / 100) for step in range(101)]
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(config.learning_rate, rel=0.02)
    assert (np.diff(rates[2 : peak + 1]) > 0).all() and (np.diff(rates[peak:]) < 0).all()
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_a_fitted_temperature_is_the_one_that_made_the_data() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 7))
    chances = np.exp(logits / 1.7)
    chances /= chances.sum(1, keepdims=True)
    truth = (chances.cumsum(1) > rng.random((20_000, 1))).argmax(1)
    found = calibrate.fit_temperature(logits, np.eye(7)[truth], np.full(20_000, 1 / 20_000))
    assert found == pytest.approx(1.7, abs=0.06)


def test_the_exported_model_is_calibrated_at_five_sizes(trained: Path) -> None:
    info = OnnxEngine(trained / 'model').info
    assert [size for size, _ in info.temperature] == [12, 16, 24, 32, 48]
    assert all(0.2 <= temperature <= 5 for _, temperature in info.temperature)
    assert 1 / 7 <= info.unknown_below < 1


def footage() -> video.Footage:
    """Return two clips of 20 ticks: a frame at every one, and at every second."""
    return video.Footage(
        features=torch.zeros(30, 8), tick=np.concatenate((np.arange(20), np.arange(0, 20, 2))),
        side_px=np.full(30, 48, np.float32), target=torch.zeros(30, 8), weight=torch.ones(30),
        starts=np.array([0, 20, 30]), ticks=20,
    )


def test_the_lstm_judges_clips_whole() -> None:
    whole = video.gather(footage(), np.array([0, 1]), None)
    assert whole.rows.shape == (2, 20) and (whole.rows[1, 10:] == -1).all()
    torch.testing.assert_close(whole.hold.sum(1), torch.ones(2))
    assert (whole.hold[1, 10:] == 0).all()
    assert whole.interval_s[1, 0] == 0 and whole.interval_s[1, 1] == pytest.approx(2 / 30)


def test_the_lstm_learns_from_clips_thinned_and_begun_late() -> None:
    seen = set()
    for seed in range(20):
        vary = video.Vary(np.random.default_rng(seed), joined_share=0, longest_frames=300)
        seen.add(tuple(video.gather(footage(), np.array([0]), vary).rows[0].tolist()))
    assert len(seen) > 5
    assert all(rows == tuple(sorted(rows)) for rows in seen)


def test_joined_clips_follow_one_another_without_a_reset_and_have_a_longest_length() -> None:
    vary = video.Vary(np.random.default_rng(1), joined_share=1, longest_frames=12)
    batch = video.gather(footage(), np.zeros(16, np.int64), vary)
    assert batch.rows.shape[1] <= 12
    for rows, interval_s, hold in zip(batch.rows, batch.interval_s, batch.hold, strict=True):
        frames = rows >= 0
        assert interval_s[0] == 0 and (interval_s[1 : frames.sum()] > 0).all()
        assert float(hold.sum()) == pytest.approx(1)
    backwards = (batch.rows[:, 1:] <= batch.rows[:, :-1]) & (batch.rows[:, 1:] >= 0)
    assert backwards.any()  # the second clip of a pair may be the same


def test_the_average_is_tuned_to_the_noise_of_the_clips() -> None:
    rng = np.random.default_rng(3)

    def clips(noise: float, switch: int) -> video.Footage:
        frames, count = 60, 30
        right = (np.arange(frames) // switch % 2).astype(int)
        target = torch.eye(8)[torch.from_numpy(np.tile(right, count))]
        features = target * 2 + torch.from_numpy(
            rng.normal(0, noise, (frames * count, 8))).float()
        return video.Footage(
            features=features, tick=np.tile(np.arange(frames), count),
            side_px=np.full(frames * count, 48, np.float32), target=target,
            weight=torch.ones(frames * count), starts=np.arange(count + 1) * frames, ticks=frames,
        )

    assert video.tune_average(clips(0.1, 5)) == min(video.AVERAGES_S)
    assert video.tune_average(clips(8.0, 60)) > 2 * video.tune_average(clips(2.0, 20))
