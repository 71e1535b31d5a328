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
"""
The messages are frozen: a changed type hash makes old and new nodes deaf to each other.

The hashes (RIHS01) are computed by rosidl when ferros_msgs is built, which leaves them in
share/ferros_msgs/msg/<Message>.json, and are what nodes compare when they meet. To see them:
`make messages && grep -m1 hash .venv/ros/share/ferros_msgs/msg/Emotion.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

HASHES = {
    'ferros_msgs/msg/Emotion':
        'RIHS01_850b534bb2362f248ad90ca6ad90024a578d663f880244f13332a33a177c2111',
    'ferros_msgs/msg/EmotionArray':
        'RIHS01_fed508890bd477be2a33c7ddf69efbe2e8f76bedfd94327150f48492c0bc9322',
}


@pytest.fixture(scope='module')
def messages():
    return pytest.importorskip('ferros_msgs.msg', reason='ferros_msgs is not built')


@pytest.fixture(scope='module')
def typestore(root):
    """Return rosbags' types, with ours read from the message files."""
    typesys = pytest.importorskip('rosbags.typesys')
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    for path in (root / 'ferros_msgs' / 'msg').glob('*.msg'):
        store.register(typesys.get_types_from_msg(
            path.read_text(), f'ferros_msgs/msg/{path.stem}'))
    return store


def a_full_message(messages):
    """Return an Emotion in which every field has a value of its own."""
    emotion = messages.Emotion(
        face_detected=True, face_id='f' * 32, label=messages.Emotion.HAPPINESS, confidence=0.75,
        labels=['neutral', 'happiness'], probabilities=[0.25, 0.75], valence=0.5, arousal=-0.5,
        source=messages.Emotion.CLOUD, model='name 1.0')
    emotion.header.frame_id = 'camera'
    emotion.header.stamp.sec, emotion.header.stamp.nanosec = 12, 34
    emotion.roi.x_offset, emotion.roi.y_offset, emotion.roi.width, emotion.roi.height = 1, 2, 3, 4
    emotion.age.nanosec = 56
    return emotion


@pytest.mark.parametrize('name', HASHES)
def test_the_built_messages_have_the_frozen_type_hashes(messages, name):
    package = Path(messages.__file__)
    prefix = next(path for path in package.parents if (path / 'share' / 'ferros_msgs').is_dir())
    description = json.loads((prefix / 'share' / f'{name}.json').read_text())
    hashes = {entry['type_name']: entry['hash_string'] for entry in description['type_hashes']}
    assert hashes[name] == HASHES[name]


@pytest.mark.parametrize('name', HASHES)
def test_rosbags_computes_the_same_hashes_from_the_message_files(typestore, name):
    assert typestore.hash_rihs01(name) == HASHES[name]


def test_what_rclpy_writes_rosbags_reads_and_writes_back(messages, typestore):
    serialization = pytest.importorskip('rclpy.serialization')
    faces = messages.EmotionArray(faces=[a_full_message(messages), messages.Emotion()])
    written = serialization.serialize_message(faces)

    read = typestore.deserialize_cdr(written, 'ferros_msgs/msg/EmotionArray')
    assert [face.face_id for face in read.faces] == ['f' * 32, '']
    assert read.faces[0].probabilities.tolist() == [0.25, 0.75]
    assert read.faces[0].roi.height == 4

    back = typestore.serialize_cdr(read, 'ferros_msgs/msg/EmotionArray')
    assert serialization.deserialize_message(bytes(back), messages.EmotionArray) == faces


def test_a_message_takes_no_more_than_its_bounds(messages):
    for field, value in (
            ('face_id', 'f' * 33), ('label', 'l' * 17), ('model', 'm' * 65),
            ('labels', ['a'] * 17), ('probabilities', [0.0] * 17), ('source', 256)):
        emotion = messages.Emotion(check_fields=True)
        with pytest.raises(AssertionError):
            setattr(emotion, field, value)


def test_the_constants_are_the_labels_and_sources_of_the_robot_half(messages):
    from ferros.types import UNKNOWN, Source

    emotion = messages.Emotion
    assert [emotion.NONE, emotion.CLOUD, emotion.ROBOT] == [
        Source.NONE, Source.CLOUD, Source.ROBOT]
    assert emotion.UNKNOWN == UNKNOWN
    for label in ('neutral', 'happiness', 'surprise', 'sadness', 'anger', 'disgust', 'fear',
                  'contempt', 'unknown'):
        assert getattr(emotion, label.upper()) == label
        assert len(label) <= 16
