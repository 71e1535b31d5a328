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

import numpy as np
import pytest

from cloud_server import calibration
from cloud_server.model_info import ModelInfo

INFO = ModelInfo(
    name='m',
    version='1',
    labels=('neutral', 'happiness', 'contempt', 'fear'),
    masked_labels=('contempt',),
    input_size_px=48,
    feature_size=4,
    state_size=4,
    reset_gap_s=2.0,
    reset_gap_intervals=3.0,
    temperature=((10.0, 2.0), (20.0, 1.0)),
    unknown_below=0.4,
    sha256={},
)


def probabilities(logits, size_px=20.0):
    rows = np.array([logits], np.float32)
    return calibration.probabilities(rows, np.array([size_px], np.float32), INFO)[0]


def test_a_masked_label_is_taken_out_and_the_rest_sums_to_one():
    result = probabilities([1.0, 2.0, 50.0, 0.0])
    weights = np.exp([1.0, 2.0, 0.0])
    assert result == pytest.approx(weights / weights.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ('size_px', 'temperature'), [(4, 2), (10, 2), (15, 1.5), (20, 1), (99, 1)]
)
def test_the_temperature_is_interpolated_between_face_sizes_and_held_beyond_them(
    size_px, temperature
):
    result = probabilities([1.0, 2.0, 0.0, 0.0], size_px)
    assert np.log(result[1] / result[0]) == pytest.approx(1 / temperature, rel=1e-5)


def test_each_face_of_a_batch_has_its_own_temperature():
    logits = np.array([[1, 2, 0, 0], [1, 2, 0, 0]], np.float32)
    result = calibration.probabilities(logits, np.array([10, 20], np.float32), INFO)
    assert result.dtype == np.float32
    assert result.sum(axis=1) == pytest.approx([1, 1], abs=1e-6)
    assert result[0, 1] < result[1, 1]


def test_large_logits_do_not_overflow():
    assert probabilities([1e4, -1e4, 0, 0]) == pytest.approx([1, 0, 0])


def test_the_label_is_the_top_class_with_its_probability():
    assert calibration.label(np.array([0.1, 0.2, 0.7], np.float32), INFO) == (
        'fear',
        pytest.approx(0.7),
    )


def test_below_the_threshold_the_label_is_unknown_and_the_confidence_stays():
    almost = np.array([0.33, 0.39, 0.28], np.float32)
    assert calibration.label(almost, INFO) == ('unknown', pytest.approx(0.39))
    lower = dataclasses.replace(INFO, unknown_below=0.39 - 1e-6)
    assert calibration.label(almost, lower)[0] == 'happiness'
