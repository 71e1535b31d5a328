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

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_server.training.risk_coverage import (
    accuracy_at,
    risk_coverage,
    thinned,
    threshold_at,
)

FACES = st.lists(
    st.tuples(st.sampled_from([0.2, 0.3, 0.5, 0.7, 0.9]), st.sampled_from([0.0, 0.5, 1.0])),
    min_size=1, max_size=60,
)


def test_the_curve_goes_from_the_surest_face_to_all_of_them() -> None:
    coverage, risk = risk_coverage(np.array([0.5, 0.9, 0.7, 0.3]), np.array([0, 1, 1, 0]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk == pytest.approx([0, 0, 1 / 3, 1 / 2])


def test_equally_sure_faces_come_in_together_as_no_threshold_can_part_them() -> None:
    coverage, risk = risk_coverage(np.array([0.5, 0.9, 0.5, 0.5]), np.array([1, 1, 0, 0]))
    assert coverage.tolist() == [0.25, 1.0]
    assert risk == pytest.approx([0, 1 / 2])


def test_half_right_faces_count_half() -> None:
    _, risk = risk_coverage(np.array([0.9, 0.8]), np.array([0.5, 1.0]))
    assert risk == pytest.approx([0.5, 0.25])


def test_no_face_makes_no_curve() -> None:
    coverage, risk = risk_coverage(np.zeros(0), np.zeros(0))
    assert len(coverage) == len(risk) == 0


@given(FACES)
def test_coverage_rises_to_all_and_risk_ends_at_the_share_of_errors(
    faces: list[tuple[float, float]],
) -> None:
    confidence, right = np.array(faces).T
    coverage, risk = risk_coverage(confidence, right)
    assert (np.diff(coverage) > 0).all() and coverage[-1] == 1
    assert (risk >= 0).all() and (risk <= 1).all()
    assert risk[-1] == pytest.approx(1 - right.mean())
    assert len(coverage) == len(set(confidence))


@given(FACES, st.floats(0.01, 1))
def test_the_threshold_is_the_highest_that_covers_enough(
    faces: list[tuple[float, float]], wanted: float
) -> None:
    confidence, right = np.array(faces).T
    threshold = threshold_at(wanted, confidence)
    shown = confidence >= threshold
    assert shown.mean() >= wanted - 1e-9
    assert (confidence > threshold).mean() < wanted
    coverage, risk = risk_coverage(confidence, right)
    point = int(np.flatnonzero(coverage == shown.mean())[0])
    assert accuracy_at(wanted, confidence, right) == pytest.approx(1 - risk[point])


def test_nine_tenths_of_ten_faces_are_nine() -> None:
    confidence = np.linspace(0.1, 1.0, 10)
    assert threshold_at(0.9, confidence) == pytest.approx(0.2)
    assert accuracy_at(0.9, confidence, confidence > 0.15) == 1
    assert accuracy_at(1.0, confidence, confidence > 0.15) == pytest.approx(0.9)


@pytest.mark.parametrize('coverage', [0.0, -0.1, 1.1])
def test_a_coverage_that_cannot_be_is_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match=f'coverage is {coverage}'):
        threshold_at(coverage, np.array([0.5]))
    with pytest.raises(ValueError, match='no faces'):
        threshold_at(0.9, np.zeros(0))


def test_a_thinned_curve_keeps_its_ends() -> None:
    curve = risk_coverage(np.linspace(1, 0, 1000), np.arange(1000) < 700)
    stored = thinned(curve, points=20)
    assert len(stored['coverage']) == len(stored['risk']) == 20
    assert (stored['coverage'][0], stored['coverage'][-1]) == (0.001, 1.0)
    assert (stored['risk'][0], stored['risk'][-1]) == (0.0, 0.3)
    assert thinned(risk_coverage(np.array([0.5]), np.array([1])))['coverage'] == [1.0]
