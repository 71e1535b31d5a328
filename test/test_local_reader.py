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
"""Reading faces on the robot: whose turn it is, and the thread with the real model."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from demo import clip
from ferros.drops import Drops
from ferros.local_model import LocalModel
from ferros.local_reader import LocalReader, Turns, read
from ferros.types import Box, CameraFrame, Observation, OfferedFace, Source

MS = 1_000_000
S = 1_000_000_000
WAIT_S = 10.0
# Her face in the portrait, as the detectors box it.
FACE = Box(162, 58, 122, 122)
IMAGE = np.zeros((100, 100), np.uint8)

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def model() -> LocalModel:
    return LocalModel()


@pytest.fixture(scope='module')
def portrait() -> np.ndarray:
    try:
        return clip.portrait()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope='module')
def camera() -> np.ndarray:
    """Return what is where her face is in the portrait; the thread does not care what it is."""
    return np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)


def face(face_id: str = 'a', at_ms: int = 0, image: np.ndarray = IMAGE) -> OfferedFace:
    frame = CameraFrame(image, 7 * S + at_ms * MS, at_ms * MS, 'camera')
    return OfferedFace(face_id, Box(10, 10, 50, 50), frame)


# -- whose turn it is; time is simulated ----------------------------------------------------------


def run(
    turns: Turns, face_ids: str, cost_ms: float, for_ms: int, camera_ms: int = 33
) -> list[tuple[int, OfferedFace]]:
    """Read all that may be read while a camera shows the faces; return what, and when in ms."""
    taken, now_ms, free_ms = [], 0.0, 0.0
    for image_ms in range(0, for_ms, camera_ms):
        turns.offer([face(face_id, image_ms) for face_id in face_ids], image_ms * MS)
        now_ms = max(image_ms, free_ms)
        while now_ms < image_ms + camera_ms:
            now_ns = round(now_ms * MS)
            taking = turns.take(now_ns)
            if taking is not None:
                taken.append((round(now_ms), taking))
                turns.took(now_ns, round(cost_ms * MS))
                now_ms += cost_ms
            else:
                wait_ns = turns.wait_ns(now_ns)
                now_ms += 10**6 if wait_ns is None else max(wait_ns, 1000) / MS
        free_ms = now_ms if now_ms < 10**6 else 0.0
    return taken


def count(taken: list[tuple[int, OfferedFace]], face_id: str) -> int:
    return sum(offered.face_id == face_id for _, offered in taken)


@pytest.mark.parametrize('rate_hz', [0.5, 5.0, 12.0])
@pytest.mark.parametrize('camera_ms', [10, 33, 60])
def test_each_face_is_read_at_the_rate_that_is_allowed_and_no_faster(
    rate_hz: float, camera_ms: int
) -> None:
    taken = run(Turns(rate_hz, 1.0, 8), 'abc', 1, 20_000, camera_ms)
    for face_id in 'abc':
        times_ms = [at_ms for at_ms, offered in taken if offered.face_id == face_id]
        assert 20 * rate_hz * 0.95 - 1 <= len(times_ms) <= 20 * rate_hz + 1
        gaps_ms = np.diff(times_ms)
        assert min(gaps_ms) >= 1000 / rate_hz / 2 - 2


@pytest.mark.parametrize('cost_ms', [2.0, 10.0, 40.0, 150.0])
@pytest.mark.parametrize('share', [0.1, 0.25, 1.0])
def test_over_any_time_no_more_than_the_share_of_a_core_is_spent(
    cost_ms: float, share: float
) -> None:
    taken = run(Turns(30.0, share, 8), 'abcdefgh', cost_ms, 10_000)
    starts_ms = [at_ms for at_ms, _ in taken]
    assert len(starts_ms) > 5
    assert min(np.diff(starts_ms)) >= cost_ms / share - 1
    # And what is allowed is used, as far as there are new images.
    possible = min(10_000 * share / cost_ms, 8 * 10_000 / 33)
    assert len(starts_ms) > 0.8 * possible


def test_the_primary_face_goes_first_and_starves_nobody() -> None:
    turns = Turns(5.0, 0.25, 8)
    turns.offer([face('b'), face('a'), face('c')], 0)
    first = turns.take(0)
    assert first is not None and first.face_id == 'b'
    # So dear that there is time for two faces in a second.
    taken = run(Turns(5.0, 0.25, 8), 'pqrs', 125, 40_000)
    assert count(taken, 'p') >= 38
    assert all(count(taken, face_id) >= 11 for face_id in 'qrs')


def test_it_is_always_the_newest_image_of_a_face_that_is_read() -> None:
    taken = run(Turns(5.0, 0.25, 8), 'ab', 5, 5000)
    assert len(taken) > 40
    for at_ms, offered in taken:
        assert at_ms - 33 - 1 <= offered.frame.captured_ns / MS <= at_ms


def test_an_image_is_read_once() -> None:
    turns = Turns(5.0, 1.0, 8)
    turns.offer([face()], 0)
    assert turns.take(0) is not None
    assert turns.take(10 * S) is None and turns.wait_ns(10 * S) is None


def test_those_that_are_too_many_are_not_read() -> None:
    taken = run(Turns(5.0, 1.0, 2), 'abcd', 1, 2000)
    assert {offered.face_id for _, offered in taken} == {'a', 'b'}


def test_a_face_that_is_hidden_for_a_moment_is_not_read_sooner_for_that() -> None:
    turns = Turns(5.0, 1.0, 8)
    times_ms = []
    for at_ms in range(0, 2000, 20):
        turns.offer([face('a', at_ms)] if at_ms // 20 % 2 else [], at_ms * MS)
        if turns.take(at_ms * MS) is not None:
            times_ms.append(at_ms)
    assert 9 <= len(times_ms) <= 11


def test_what_was_not_read_is_told() -> None:
    turns = Turns(1.0, 1.0, 2)
    assert turns.offer([face('a'), face('b'), face('c')], 0) == 1
    assert turns.take(0) is not None
    assert turns.offer([face('a'), face('b')], 33 * MS) == 1
    assert turns.offer([], 66 * MS) == 2


def test_a_rate_that_was_changed_holds_at_once() -> None:
    turns = Turns(0.1, 1.0, 8)
    turns.offer([face()], 0)
    assert turns.take(0) is not None
    turns.offer([face()], 100 * MS)
    assert turns.wait_ns(100 * MS) == 9900 * MS
    turns.configure(5.0, 1.0, 8)
    wait_ns = turns.wait_ns(100 * MS)
    assert wait_ns is not None and wait_ns <= 200 * MS


# -- the model on a face --------------------------------------------------------------------------


def portrait_face(portrait: np.ndarray, reduction: int = 1) -> OfferedFace:
    height_px, width_px = portrait.shape[:2]
    image = cv2.resize(
        portrait, (width_px // reduction, height_px // reduction), interpolation=cv2.INTER_AREA
    )
    frame = CameraFrame(
        np.asarray(image, np.uint8), 7 * S, 3 * S, 'camera', reduction, (width_px, height_px)
    )
    return OfferedFace('f1', FACE, frame)


@pytest.mark.parametrize('reduction', [1, 2, 4])
def test_a_smiling_face_is_read_as_happiness(
    model: LocalModel, portrait: np.ndarray, reduction: int
) -> None:
    answer = read(model, portrait_face(portrait, reduction))
    assert answer.label == 'happiness' and answer.source is Source.ROBOT
    assert (answer.face_id, answer.stamp_ns, answer.captured_ns) == ('f1', 7 * S, 3 * S)
    assert (answer.frame_id, answer.box) == ('camera', FACE)
    assert answer.model == model.info.display and answer.labels == model.info.labels
    assert sum(answer.probabilities) == pytest.approx(1, abs=1e-5)
    assert answer.valence > 0.2


def test_a_small_face_is_not_enlarged_to_seem_surer(
    model: LocalModel, portrait: np.ndarray
) -> None:
    sizes_px = []

    class Watched(LocalModel):
        def predict(self, crops):  # type: ignore[no-untyped-def]
            sizes_px.extend(crop.shape for crop in crops)
            return super().predict(crops)

    watched = Watched()
    for reduction in (1, 2, 4, 8):
        read(watched, portrait_face(portrait, reduction))
    input_px = model.info.input_size_px
    assert sizes_px == [(side_px, side_px) for side_px in (input_px, input_px, 30, 15)]


def test_a_box_at_the_border_is_clipped_as_the_links_are(model: LocalModel) -> None:
    frame = CameraFrame(np.zeros((120, 160, 3), np.uint8), 1, 2, 'camera')
    answer = read(model, OfferedFace('a', Box(-10, 20, 60, 60), frame))
    assert answer.box == Box(0, 20, 50, 60)


# -- the thread -----------------------------------------------------------------------------------


class Reading:
    """A reader that was started, and what it called back with."""

    def __init__(self, model: LocalModel, **parameters: float) -> None:
        self.drops = Drops()
        self.answers: list[Observation] = []
        self.longest_s = 0.0
        self.reader = LocalReader(
            model, self.drops, self.answers.append, **parameters  # type: ignore[arg-type]
        )

    def offer_for(self, seconds: float, offer: Callable[[], list[OfferedFace]]) -> float:
        """Offer faces, 50 times a second; return for how long."""
        began_s = time.monotonic()
        while (elapsed_s := time.monotonic() - began_s) < seconds:
            faces = offer()
            offered_s = time.monotonic()
            self.reader.offer(faces)
            self.longest_s = max(self.longest_s, time.monotonic() - offered_s)
            time.sleep(0.02)
        return elapsed_s

    def until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s, (len(self.answers), self.drops.counts())
            time.sleep(0.005)


@contextlib.contextmanager
def reading(model: LocalModel, **parameters: float) -> Iterator[Reading]:
    running = Reading(model, **parameters)
    running.reader.start()
    try:
        yield running
    finally:
        running.reader.stop()


def live(camera: np.ndarray, face_id: str = 'f1') -> OfferedFace:
    """Return a face in an image that came just now."""
    frame = CameraFrame(camera, time.time_ns(), time.monotonic_ns(), 'camera')
    return OfferedFace(face_id, FACE, frame)


def test_the_newest_image_is_read_as_soon_as_that_is_wanted_and_not_before(
    model: LocalModel, camera: np.ndarray
) -> None:
    with reading(model) as running:
        offered = [live(camera) for _ in range(3)]
        for one in offered:
            running.reader.offer([one])
        time.sleep(0.1)
        assert running.answers == [] and running.reader.report().skipped == 0
        running.reader.want(True)
        running.until(lambda: bool(running.answers))
        assert running.answers[0].stamp_ns == offered[-1].frame.stamp_ns
        running.reader.want(False)
        running.reader.offer([live(camera)])
        time.sleep(0.3)
        assert len(running.answers) == 1


def test_faces_are_read_at_the_rate_and_offering_never_waits(
    model: LocalModel, camera: np.ndarray
) -> None:
    with reading(model, rate_hz=10.0, cpu_share=1.0) as running:
        running.reader.want(True)
        elapsed_s = running.offer_for(
            1.5, lambda: [live(camera, face_id) for face_id in 'abc']
        )
        running.reader.want(False)
        time.sleep(0.1)
        report = running.reader.report()
    for face_id in 'abc':
        number = sum(answer.face_id == face_id for answer in running.answers)
        assert 5 <= number <= elapsed_s * 10 + 1.5
    assert running.longest_s < 0.1
    assert report.answers == len(running.answers) and report.skipped > 50
    assert 0.1 < report.ms_per_face < 100
    assert running.drops.counts() == {}


def test_reading_takes_no_more_than_its_share_of_a_core(
    model: LocalModel, camera: np.ndarray
) -> None:
    spent_ns: list[int] = []

    class Slow(LocalModel):
        """As slow as a small robot: it computes everything ten times."""

        def predict(self, crops):  # type: ignore[no-untyped-def]
            began_ns = time.thread_time_ns()
            for _ in range(10):
                found = super().predict(crops)
            spent_ns.append(time.thread_time_ns() - began_ns)
            return found

    with reading(Slow(), rate_hz=30.0, cpu_share=0.2) as running:
        running.reader.want(True)
        elapsed_s = running.offer_for(
            2.0, lambda: [live(camera, face_id) for face_id in 'abcdefgh']
        )
    assert len(spent_ns) > 4
    # The last one is paid for afterwards.
    assert sum(spent_ns[:-1]) / 1e9 <= 0.2 * elapsed_s


def test_a_face_that_cannot_be_read_is_counted_and_the_next_one_read(
    model: LocalModel, camera: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = live(camera, 'nowhere')._replace(box=Box(0, 0, float('nan'), 10))
    with reading(model, rate_hz=30.0, cpu_share=1.0) as running:
        running.reader.want(True)
        running.offer_for(0.3, lambda: [nowhere, live(camera)])
        running.until(lambda: len(running.answers) > 2)
    assert {answer.face_id for answer in running.answers} == {'f1'}
    assert running.drops.counts()['robot_not_readable'] > 1
    assert sum('could not be read' in record.message for record in caplog.records) == 1


def test_a_model_that_fails_ends_nothing(camera: np.ndarray) -> None:
    class Failing(LocalModel):
        fails = True

        def predict(self, crops):  # type: ignore[no-untyped-def]
            if self.fails:
                raise cv2.error('out of memory')
            return super().predict(crops)

    failing = Failing()
    with reading(failing, rate_hz=30.0, cpu_share=1.0) as running:
        running.reader.want(True)
        running.offer_for(0.3, lambda: [live(camera)])
        assert running.answers == []
        failing.fails = False
        running.offer_for(0.3, lambda: [live(camera)])
        running.until(lambda: bool(running.answers))


def test_it_can_be_started_and_stopped_often_and_leaves_no_thread(
    model: LocalModel, camera: np.ndarray
) -> None:
    before = threading.active_count()
    running = Reading(model)
    for _ in range(50):
        running.reader.start()
        running.reader.want(True)
        running.reader.offer([live(camera)])
        running.reader.stop()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match='started before'):
        running.reader.start()
        running.reader.start()
    running.reader.stop()
