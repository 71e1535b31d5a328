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

"""Clips from stills: drawn by seed, thinned as links thin them, rendered alike in any batch."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from tiny_ferplus import make_faces

from cloud_server.preprocess import to_input
from cloud_server.training.augment import AugmentConfig, augment, enlarge, jpeg, mix, shrink, warp
from cloud_server.training.clips import (
    CLOCK_HZ,
    ClipConfig,
    Schedule,
    arrivals,
    draw,
    intervals_s,
    render,
)

FACES = make_faces(20, 3)
LUMA = torch.from_numpy(FACES.luma).unsqueeze(1)


@pytest.fixture(scope='module')
def scenes() -> Schedule:
    return draw(ClipConfig(), 60, len(FACES), seed=5)


def test_a_seed_gives_the_same_clips(scenes: Schedule) -> None:
    again, other = (draw(ClipConfig(), 60, len(FACES), seed=seed) for seed in (5, 6))
    np.testing.assert_array_equal(scenes.pose, again.pose)
    np.testing.assert_array_equal(scenes.arrives, again.arrives)
    assert not np.array_equal(scenes.faces, other.faces)


def test_about_half_of_the_clips_cross_fade_and_none_slower_than_said(scenes: Schedule) -> None:
    fades = scenes.faces[:, 0] != scenes.faces[:, 1]
    assert 0.3 < fades.mean() < 0.7
    assert (np.diff(scenes.share, axis=1) >= 0).all()
    assert (scenes.share[:, 0] < 1).all() and (scenes.share[:, -1] > 0.9).all()
    between = ((scenes.share > 0) & (scenes.share < 1)).sum(1) / CLOCK_HZ
    assert between.max() <= 0.8 + 1 / CLOCK_HZ


def test_rates_span_1_to_30_fps_and_switch_inside_clips(scenes: Schedule) -> None:
    assert scenes.arrives[:, 0].all()
    per_second = scenes.arrives.mean(1) * CLOCK_HZ
    assert per_second.min() < 3 and per_second.max() > 15
    gaps = [np.diff(np.flatnonzero(row)) for row in scenes.arrives]
    assert sum(len(set(gap.tolist())) > 3 for gap in gaps) > len(gaps) / 3


def test_no_gap_is_long_enough_to_reset_the_state() -> None:
    scenes = draw(ClipConfig(lost_share=0.9), 200, len(FACES), seed=1)
    assert intervals_s(scenes).max() < 2.0


def test_intervals_start_at_zero_and_add_up(scenes: Schedule) -> None:
    clip, tick = arrivals(scenes)
    spans = intervals_s(scenes)
    for row in range(len(scenes)):
        mine = clip == row
        assert spans[mine][0] == 0
        assert spans[mine].sum() == pytest.approx(tick[mine][-1] / CLOCK_HZ, abs=1e-4)


def test_pose_is_autocorrelated_and_noise_is_not(scenes: Schedule) -> None:
    angle = scenes.pose[:, :, 0]
    assert np.corrcoef(angle[:, :-1].ravel(), angle[:, 1:].ravel())[0, 1] > 0.9
    ticks = np.arange(8)
    drawn = draw(ClipConfig(occlusion_share=0, sides_px=(48,)), 1, 1, seed=2)
    held = replace(  # nothing but the noise changes from frame to frame
        drawn, pose=np.repeat(drawn.pose[:, :1], 180, 1), noise=np.full(1, 8, np.float32),
        lighting=np.repeat(drawn.lighting[:, :1], 180, 1), blur_px=drawn.blur_px * 0,
        quality=drawn.quality * 0 + 100,
    )
    frames = render(LUMA, held, np.zeros(8, np.int64), ticks).float().view(8, -1)
    grain = (frames - frames.mean(0)).numpy()
    assert 4 < grain.std() < 10
    assert abs(np.corrcoef(grain[0], grain[1])[0, 1]) < 0.3


def test_a_frame_is_the_same_in_whatever_batch_it_is_rendered(scenes: Schedule) -> None:
    clip, tick = arrivals(scenes)
    some = np.random.default_rng(1).permutation(len(clip))[:40]
    together = render(LUMA, scenes, clip[some], tick[some])
    assert together.dtype == torch.uint8 and together.shape == (40, 1, 48, 48)
    for index in range(0, 40, 7):
        alone = render(LUMA, scenes, clip[some[index : index + 1]], tick[some[index : index + 1]])
        assert (alone.float() - together[index].float()).abs().max() <= 1


def test_scenes_can_be_sent_at_one_size_and_rate(scenes: Schedule) -> None:
    sent = scenes.sent_as(16, 5.0)
    assert (sent.side_px == 16).all()
    assert (sent.arrives.sum(1) == 30).all()
    np.testing.assert_array_equal(sent.pose, scenes.pose)


@pytest.mark.parametrize('bad', [
    {'length_s': 0}, {'rate_fps': (0, 30)}, {'rate_fps': (1, 60)}, {'sides_px': (2,)},
    {'cross_fade_s': (1, 9)},
])
def test_clips_that_cannot_be_rendered_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        ClipConfig(**bad)


@pytest.mark.parametrize('quality', [20, 50, 90])
def test_the_quantisation_is_that_of_a_real_jpeg(quality: int) -> None:
    smooth = torch.from_numpy(np.stack([cv2.GaussianBlur(face, (0, 0), 1) for face in FACES.luma]))
    ours = jpeg(smooth.unsqueeze(1).float(), torch.full((20,), float(quality)))[:, 0].numpy()
    real = np.stack([
        cv2.imdecode(cv2.imencode('.jpg', face, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0)
        for face in smooth.numpy()
    ])
    assert np.abs(ours - real).mean() < 0.4
    assert np.abs(real - smooth.numpy()).mean() > 0.5  # there was something to quantise


@pytest.mark.parametrize('side', [12, 24, 40])
def test_sizes_change_as_on_the_robot_and_the_server(side: int) -> None:
    small = shrink(LUMA.float(), side)
    for face, row in zip(FACES.luma[:5], small[:5], strict=True):
        area = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
        assert np.abs(area.astype(float) - row[0].numpy()).max() <= 1
        again = enlarge(row.unsqueeze(0), 48)[0, 0].numpy()
        assert np.abs(to_input(row[0].numpy().astype(np.uint8), 48) - again).max() <= 1


def test_a_warp_of_nothing_is_nothing_and_a_mirror_mirrors() -> None:
    luma, zero, one = LUMA[:2].float(), torch.zeros(2), torch.ones(2)
    plain = warp(luma, zero, one, torch.zeros(2, 2), torch.tensor([False, True]))
    torch.testing.assert_close(plain[0], luma[0], atol=1e-2, rtol=0)
    torch.testing.assert_close(plain[1], luma[1].flip(-1), atol=1e-2, rtol=0)
    right = warp(luma, zero, one, torch.tensor([[0.25, 0.0], [0.0, 0.25]]), zero > 0)
    torch.testing.assert_close(right[0, 0, :, 12:], luma[0, 0, :, :36], atol=1e-2, rtol=0)
    torch.testing.assert_close(right[1, 0, 12:], luma[1, 0, :36], atol=1e-2, rtol=0)


def test_augmentation_repeats_by_seed_and_stays_in_range() -> None:
    config = AugmentConfig()
    one, two, three = (
        augment(LUMA.float(), config, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    torch.testing.assert_close(one, two)
    assert not torch.equal(one, three)
    assert one.min() >= 0 and one.max() <= 255 and torch.equal(one, one.round())


def test_mixing_blends_targets_as_it_blends_faces() -> None:
    target = torch.eye(8)[torch.arange(20) % 8]
    weight = torch.ones(20)
    luma, mixed, kept = mix(
        target.view(20, 1, 1, 8) * 255, target, weight, 0.5, torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(luma.view(20, 8) / 255, mixed)
    torch.testing.assert_close(mixed.sum(1), torch.ones(20))
    torch.testing.assert_close(kept, weight)
    assert (mixed.max(1).values >= 0.5).all() and not torch.equal(mixed, target)
