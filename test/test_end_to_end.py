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
"""The whole path with real processes: a video as a camera topic in, emotions out."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from demo import clip, processes
from demo.recorder import Recorder, recorder


@pytest.fixture(scope='module')
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('logs')


@pytest.fixture(scope='module')
def domain_id() -> Iterator[int]:
    with processes.own_domain() as domain_id:
        yield domain_id


@pytest.fixture(scope='module')
def server_address(logs: Path, domain_id: int) -> Iterator[str]:
    environment = processes.environment(domain_id)
    with processes.server(logs / 'server.log', environment) as (address, child):
        yield address
    assert child.returncode == 0, (logs / 'server.log').read_text()


def play(source: Path, logs: Path, domain_id: int, address: str, *arguments: str) -> Recorder:
    """Play a source as a camera through a node of its own; return all that was heard."""
    environment = processes.environment(domain_id)
    log = logs / f'{source.stem}.log'
    with (
        recorder(domain_id, with_images=True) as heard,
        processes.node(
            log,
            environment,
            server_address=address,
            image_transport='compressed',
            **{'qos_overrides./image/compressed.subscription.reliability': 'reliable'},
        ) as node,
    ):
        assert heard.wait_until(heard.is_connected, 30), log.read_text()
        # The node and the recorder.
        all_arguments = ('--transport', 'compressed', '--wait-for-subscribers', '2', *arguments)
        with processes.player(str(source), log, environment, *all_arguments) as camera:
            assert camera.wait(60) == 0, log.read_text()
        time.sleep(1)
    assert node.returncode == 0, log.read_text()
    check_order(heard)
    return heard


def check_order(heard: Recorder) -> None:
    """Check what holds for every run: stamps are images' stamps and only increase."""
    images = [stamp_ns(image.message) for image in heard.images]
    for messages in (heard.emotions, heard.arrays):
        stamps = [stamp_ns(entry.message) for entry in messages]
        assert stamps, 'nothing was published'
        assert set(stamps) <= set(images)
        assert all(a < b for a, b in itertools.pairwise(stamps))
        spacings_s = [b.at_s - a.at_s for a, b in itertools.pairwise(messages)]
        assert len(messages) <= 10 * sum(spacings_s) + 3


def stamp_ns(message: Any) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def labels(heard: Recorder) -> list[str]:
    """Return the labels that the cloud gave, in order, repetitions left out."""
    given = [e.message.label for e in heard.emotions if e.message.source == e.message.CLOUD]
    return [label for label, _ in itertools.groupby(given) if label != 'unknown']


def test_one_man_is_neutral_then_smiles_then_is_neutral(
    shared_data: Path, logs: Path, domain_id: int, server_address: str
) -> None:
    # The smile ends in the very last images, of which not each one is sent: it begins once more.
    source, more = shared_data / 'media/single_face.mp4', ('--loop', '--max-seconds', '3')
    heard = play(source, logs, domain_id, server_address, *more)
    assert labels(heard) == ['neutral', 'happiness', 'neutral']
    message = next(e.message for e in heard.emotions if e.message.label == 'happiness')
    assert message.face_detected and message.roi.width == message.roi.height > 50
    assert sum(message.probabilities) == pytest.approx(1, abs=1e-4)
    assert max(message.probabilities) == pytest.approx(message.confidence, abs=1e-6)
    assert list(message.labels)[:2] == ['neutral', 'happiness']
    assert 'contempt' not in message.labels
    assert 0 < message.age.sec + message.age.nanosec / 1e9 < 1
    assert len({e.message.face_id for e in heard.emotions if e.message.face_detected}) == 1


def test_where_there_is_no_face_none_is_reported(
    shared_data: Path, logs: Path, domain_id: int, server_address: str
) -> None:
    heard = play(shared_data / 'media/no_face.mp4', logs, domain_id, server_address)
    assert len(heard.emotions) > 20
    for entry in heard.emotions:
        assert not entry.message.face_detected
        assert (entry.message.label, entry.message.source) == ('', entry.message.NONE)
    assert all(not entry.message.faces for entry in heard.arrays)


def two_faces(heard: Recorder) -> set[str]:
    """Check that two faces were there, with two ids that stayed; return their labels."""
    arrays = [entry.message.faces for entry in heard.arrays]
    # Images are searched in pieces: both are found within half a second, ten arrays a second.
    assert all(len(faces) == 2 for faces in arrays[6:])
    assert len({face.face_id for faces in arrays for face in faces}) == 2
    answered = [faces for faces in arrays if faces and all(face.source for face in faces)]
    assert len(answered) > 10
    return {face.label for faces in answered for face in faces}


def test_two_people_are_two_faces_that_stay_themselves(
    shared_data: Path, logs: Path, domain_id: int, server_address: str
) -> None:
    source = shared_data / 'media/two_people.jpg'
    heard = play(source, logs, domain_id, server_address, '--max-seconds', '4')
    # Two men with closed mouths, one of whom is hard to read.
    assert 'neutral' in two_faces(heard)


def test_two_smiling_people_are_both_happy(
    tmp_path: Path, logs: Path, domain_id: int, server_address: str
) -> None:
    smiling = next(image for time_s, image in clip.frames() if time_s >= 2)
    pair = np.hstack([smiling, smiling[:, ::-1]])
    source = tmp_path / 'pair.png'
    cv2.imwrite(str(source), pair)
    heard = play(source, logs, domain_id, server_address, '--max-seconds', '4')
    assert two_faces(heard) == {'happiness'}


def test_a_node_that_cannot_find_its_model_says_so_and_ends(logs: Path, domain_id: int) -> None:
    log = logs / 'missing.log'
    with processes.node(
        log, processes.environment(domain_id), cascade_file='/nowhere/cascade.xml'
    ) as node:
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(30)
        assert node.returncode == 1
    assert '/nowhere/cascade.xml' in log.read_text()
