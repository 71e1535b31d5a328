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
"""REP-155 on a real ROS graph: the faces published for others, and read from another node."""

from __future__ import annotations

import array
import itertools
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hri_msgs.msg import Expression, IdsList, NormalizedRegionOfInterest2D
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rep155_graph import Camera, CountingNode, Listener, Participant, pixels, stamp_ns, until
from sensor_msgs.msg import Image

from demo import processes
from ferros.drops import Drops
from ferros.rep155 import ExpressionPublisher, Rep155Publisher, require_hri_msgs
from ferros.rep155_faces import Rep155Faces
from ferros.rep155_rules import EXPRESSIONS
from ferros.rep155_scene import Scene
from ferros.types import UNKNOWN, Box, Observation, Source

NAN = float('nan')
ANNA = Box(40, 30, 128, 128)
BERT = Box(200, 60, 64, 64)
_numbers = itertools.count()
# RIHS01, of hri_msgs 2.0.0.
HASHES = {
    'Expression': '411b88e0604397d44775d8ec6a4bc69398fb0dfbfe864c33a40fa99ee85f1b00',
    'IdsList': '7e0812d1ac945c98fd3e393568d581ad0ab567f37b24eff633eab778c1bfe62d',
    'NormalizedRegionOfInterest2D': (
        '2e50c93f1ca166ee77af9a5424dc951ae4e452b740162a7f83c082d917dcaff5'
    ),
}


@pytest.fixture(scope='module')
def participants() -> Iterator[SimpleNamespace]:
    with processes.own_domain() as domain_id:
        robot, other = Participant(domain_id), Participant(domain_id)
        yield SimpleNamespace(robot=robot, other=other)
        other.close()
        robot.close()


@pytest.fixture
def prefix() -> str:
    """Return a namespace of this test's own."""
    return f'/test_{next(_numbers)}/humans'


@pytest.fixture
def robot(participants: SimpleNamespace) -> Iterator[CountingNode]:
    with participants.robot.node('robot') as node:
        yield node


@pytest.fixture
def other(participants: SimpleNamespace) -> Iterator[CountingNode]:
    with participants.other.node('other') as node:
        yield node


@pytest.fixture
def drops() -> Drops:
    return Drops()


@pytest.fixture
def publisher(robot: CountingNode, prefix: str, drops: Drops) -> Iterator[Rep155Publisher]:
    made = Rep155Publisher(robot, prefix, drops)
    yield made
    made.close()


class Robot:
    """The part of the robot's node that calls the publisher."""

    def __init__(self, publisher: Rep155Publisher, camera: Camera | None = None) -> None:
        self.publisher = publisher
        self.camera = camera or Camera()

    def show(self, colour: Callable[[], Any] | None = None, **boxes: Box) -> int:
        """Publish the faces of the next image; return its stamp."""
        frame = self.camera.frame()
        self.publisher.publish(frame, self.camera.tracks(frame, boxes), colour)
        return frame.stamp_ns

    def show_to(self, listener: Listener, *names: str, **boxes: Box) -> None:
        """Publish faces until the listener hears of each what it wants to."""

        def hears() -> bool:
            return all(listener.of(face_id, name) for face_id in boxes for name in names)

        until(lambda: listener.ids() == list(boxes) and hears(), lambda: self.show(**boxes))

    def meet(self, listener: Listener, node: Node, topic: str, **boxes: Box) -> None:
        """Publish faces until somebody listens to a topic."""
        self.show_to(listener, **boxes)
        until(lambda: node.count_subscribers(topic) and node.count_publishers(topic))


def observation(face_id: str, label: str, at_ns: int, **changes: Any) -> Observation:
    made = Observation(
        face_id=face_id,
        stamp_ns=at_ns,
        frame_id='camera',
        captured_ns=time.monotonic_ns(),
        box=ANNA,
        label=label,
        confidence=0.75,
        labels=(label,),
        probabilities=(1.0,),
        valence=0.5,
        arousal=-0.25,
        source=Source.CLOUD,
        model='m',
    )
    return made._replace(**changes)


# -- what is published ----------------------------------------------------------------------------


def test_the_faces_are_listed_for_every_image_without_any_too(publisher, other, prefix) -> None:
    robot, listener = Robot(publisher), Listener(other, prefix)
    robot.show_to(listener)
    listener.lists.clear()
    shown = []
    for boxes in ({}, {'anna': ANNA}, {'anna': ANNA, 'bert': BERT}, {'bert': BERT}, {}, {}):
        shown.append((robot.show(**boxes), list(boxes)))
        until(lambda: len(listener.lists) == len(shown))
    assert [(stamp_ns(message), list(message.ids)) for message in listener.lists] == shown
    assert {message.header.frame_id for message in listener.lists} == {'camera'}


def test_a_face_that_is_not_seen_for_a_moment_is_listed_and_has_no_roi(
    publisher, other, prefix
) -> None:
    robot, listener = Robot(publisher), Listener(other, prefix, 'roi')
    robot.show_to(listener, 'roi', anna=ANNA, bert=BERT)
    frame = robot.camera.frame()
    anna, bert = robot.camera.tracks(frame, {'anna': ANNA, 'bert': BERT})
    hidden = bert._replace(seen_ns=frame.stamp_ns - 66_000_000)
    publisher.publish(frame, [anna, hidden])
    until(lambda: stamp_ns(listener.lists[-1]) == frame.stamp_ns)
    assert listener.ids() == ['anna', 'bert']
    until(lambda: stamp_ns(listener.of('anna', 'roi')[-1]) == frame.stamp_ns)
    assert stamp_ns(listener.of('bert', 'roi')[-1]) < frame.stamp_ns


@pytest.mark.parametrize(
    ('box', 'region'),
    [
        (BERT, (0.625, 0.25, 0.825, 64 / 240 + 0.25)),
        # At the borders: what is inside of the image.
        (Box(-64, -30, 128, 128), (0.0, 0.0, 0.2, 98 / 240)),
        (Box(256, 168, 128, 128), (0.8, 0.7, 1.0, 1.0)),
    ],
)
def test_a_roi_is_where_the_face_is_in_the_image(publisher, other, prefix, box, region) -> None:
    robot, listener = Robot(publisher), Listener(other, prefix, 'roi')
    robot.show_to(listener, 'roi', anna=box)
    roi = listener.of('anna', 'roi')[-1]
    assert (roi.xmin, roi.ymin, roi.xmax, roi.ymax) == pytest.approx(region, abs=1e-6)
    assert all(0.0 <= value <= 1.0 for value in (roi.xmin, roi.ymin, roi.xmax, roi.ymax, roi.c))
    assert roi.c > 0
    assert roi.header.frame_id == 'camera'
    assert 1_000_000_000_000 < stamp_ns(roi) <= robot.camera.stamp_ns


def test_a_face_outside_of_its_image_is_listed_without_a_roi(
    publisher, other, prefix, drops
) -> None:
    robot, listener = Robot(publisher), Listener(other, prefix, 'roi')
    robot.show_to(listener, anna=Box(500, 10, 50, 50))
    assert drops.counts()['rep155_outside_image'] >= 1
    assert not listener.of('anna', 'roi')


def speckled(*shape: int) -> Any:
    return np.random.default_rng(7).integers(1, 256, shape, np.uint8)


@pytest.mark.parametrize(('shape', 'encoding'), [((240, 320, 3), 'bgr8'), ((240, 320), 'mono8')])
def test_a_picture_is_the_face_scaled_centred_and_padded(
    publisher, other, prefix, shape, encoding
) -> None:
    image = speckled(*shape)
    robot, listener = Robot(publisher, Camera(image)), Listener(other, prefix, 'cropped')
    border = Box(-32, 100, 128, 128)
    robot.show_to(listener, 'cropped', anna=ANNA, border=border)
    anna, face = (listener.of(name, 'cropped')[-1] for name in ('anna', 'border'))
    assert (anna.encoding, anna.height, anna.width) == (encoding, 128, 128)
    assert anna.header.frame_id == 'camera' and stamp_ns(anna) > 1_000_000_000_000
    assert np.array_equal(pixels(anna), image[30:158, 40:168])
    # A quarter of it is left of the image: the rest is in the middle, between zeros.
    assert np.array_equal(pixels(face)[:, 16:112], image[100:228, :96])
    assert not pixels(face)[:, :16].any() and not pixels(face)[:, 112:].any()


def test_a_picture_is_made_only_for_somebody_and_of_one_colour_image(
    publisher, other, prefix
) -> None:
    """The node has a small grey image; the one in colour has twice its size."""
    colour = speckled(240, 320, 3)
    robot = Robot(publisher)
    robot.camera.image = np.zeros((60, 80), np.uint8)
    made = []

    def make() -> Any:
        made.append(robot.camera.stamp_ns)
        return colour

    def show() -> None:
        frame = robot.camera.frame()._replace(reduction=8, published_size_px=(640, 480))
        boxes = {'anna': Box(80, 60, 256, 256), 'bert': Box(400, 120, 128, 128)}
        publisher.publish(frame, robot.camera.tracks(frame, boxes), make)

    listener = Listener(other, prefix, 'roi')
    until(lambda: listener.of('bert', 'roi'), show)
    assert not made
    viewer = Listener(other, prefix, 'cropped')
    until(lambda: viewer.of('anna', 'cropped') and viewer.of('bert', 'cropped'), show)
    assert len(made) == len(set(made))
    assert np.array_equal(pixels(viewer.of('anna', 'cropped')[-1]), colour[30:158, 40:168])
    assert listener.of('anna', 'roi')[-1].xmin == pytest.approx(80 / 640)


def test_an_expression_has_the_images_stamp_and_the_words_of_rep_155(
    publisher, other, robot, prefix
) -> None:
    face, listener = Robot(publisher), Listener(other, prefix, 'expression')
    face.meet(listener, robot, f'{prefix}/faces/anna/expression', anna=ANNA)
    stamps = itertools.count(face.camera.stamp_ns)
    said = ['happiness', 'fear', 'contempt', 'calm', UNKNOWN, 'anger']
    for label in said:
        publisher.express(observation('anna', label, next(stamps)))
    heard = listener.of('anna', 'expression')
    until(lambda: len(heard) == len(said))
    assert [message.expression for message in heard] == ['happy', 'scared', '', '', '', 'angry']
    assert {(m.valence, m.arousal, m.confidence) for m in heard} == {(0.5, -0.25, 0.75)}
    assert [stamp_ns(m) for m in heard] == [face.camera.stamp_ns + k for k in range(len(said))]
    assert {message.header.frame_id for message in heard} == {'camera'}


def test_valence_that_is_not_known_is_not_zero(publisher, other, robot, prefix) -> None:
    face, listener = Robot(publisher), Listener(other, prefix, 'expression')
    face.meet(listener, robot, f'{prefix}/faces/anna/expression', anna=ANNA)
    at_ns = face.camera.stamp_ns
    publisher.express(observation('anna', 'sadness', at_ns, valence=NAN, arousal=NAN))
    heard = listener.of('anna', 'expression')
    until(lambda: heard)
    assert heard[0].expression == 'sad'
    assert math.isnan(heard[0].valence) and math.isnan(heard[0].arousal)


def test_what_is_no_longer_known_of_a_face_is_taken_back_once(
    publisher, other, robot, prefix, drops
) -> None:
    face, listener = Robot(publisher), Listener(other, prefix, 'expression')
    face.meet(listener, robot, f'{prefix}/faces/anna/expression', anna=ANNA)
    at_ns = face.camera.stamp_ns
    nothing = observation('anna', UNKNOWN, 0, valence=NAN, arousal=NAN, confidence=0.0)
    heard = listener.of('anna', 'expression')
    # Nothing was said yet; the same twice; one from before; then nothing is known, at length.
    publisher.express(nothing._replace(stamp_ns=at_ns))
    for offset_ns in (5, 5, 4):
        publisher.express(observation('anna', 'happiness', at_ns + offset_ns))
    for offset_ns in (6, 7, 8):
        publisher.express(nothing._replace(stamp_ns=at_ns + offset_ns))
    publisher.express(observation('anna', 'neutral', at_ns + 9))
    until(lambda: len(heard) == 3)
    assert [message.expression for message in heard] == ['happy', '', 'neutral']
    assert [stamp_ns(message) - at_ns for message in heard] == [5, 6, 9]
    # Of somebody who is not there, and of nobody.
    publisher.express(observation('bert', 'neutral', at_ns))
    publisher.express(observation('', '', at_ns))
    assert drops.counts() == {'rep155_face_gone': 1}


def test_all_topics_are_reliable_and_volatile(publisher, other, prefix) -> None:
    face, listener = Robot(publisher), Listener(other, prefix)
    face.show_to(listener, anna=ANNA)
    for name in ('tracked', 'anna/roi', 'anna/cropped', 'anna/expression'):
        topic = f'{prefix}/faces/{name}'
        until(lambda topic=topic: other.count_publishers(topic) == 1)
        (info,) = other.get_publishers_info_by_topic(topic)
        assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        assert info.qos_profile.durability == DurabilityPolicy.VOLATILE


def test_those_who_subscribe_with_best_effort_hear_too(publisher, other, prefix) -> None:
    heard: list[IdsList] = []
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    other.create_subscription(IdsList, f'{prefix}/faces/tracked', heard.append, qos)
    face = Robot(publisher)
    until(lambda: heard, lambda: face.show(anna=ANNA))


def test_fifty_faces_come_and_go_and_leave_nothing(publisher, robot, other, prefix, drops) -> None:
    face, listener = Robot(publisher), Listener(other, prefix)
    face.show_to(listener)
    topics_before = {name for name, _ in robot.get_topic_names_and_types()}
    made_before = sum(robot.made.values())
    for number in range(50):
        # Each is there for four images, together with the next one for two of them.
        boxes = {f'face_{number}': ANNA, f'face_{number + 1}': BERT}
        face.show(**boxes)
        face.show(**boxes)
    face.show()
    made = {topic: count for topic, count in robot.made.items() if '/faces/face_' in topic}
    assert sum(robot.made.values()) - made_before == len(made) == 51 * 3
    assert set(made.values()) == {1}
    gone = {topic: count for topic, count in robot.destroyed.items() if '/faces/face_' in topic}
    assert gone == made
    assert not any(robot.count_publishers(topic) for topic in made)
    until(lambda: not any(other.count_publishers(topic) for topic in made))
    until(lambda: {name for name, _ in robot.get_topic_names_and_types()} == topics_before)
    until(lambda: listener.ids() == [])
    assert drops.counts() == {}


# -- who lists faces ------------------------------------------------------------------------------


def test_while_another_node_lists_faces_nothing_is_published(robot, other, prefix) -> None:
    topic = f'{prefix}/faces/tracked'
    rival = other.create_publisher(IdsList, topic, 1)
    until(lambda: robot.count_publishers(topic) == 1)
    publisher = Rep155Publisher(robot, prefix)
    face, listener = Robot(publisher), Listener(other, prefix, 'roi')
    until(lambda: publisher.conflict, lambda: face.show(anna=ANNA))
    # The name comes a moment after the topic.
    until(lambda: other.get_name() in publisher.conflict, lambda: face.show(anna=ANNA))
    assert 'faces_from' in publisher.conflict
    publisher.express(observation('anna', 'happiness', face.camera.stamp_ns))
    assert robot.made.total() == other.count_publishers(f'{prefix}/faces/anna/roi') == 0
    other.destroy_publisher(rival)
    face.show_to(listener, 'roi', anna=ANNA)
    assert publisher.conflict == ''
    publisher.close()


def test_one_who_comes_later_has_the_topic_to_himself(publisher, robot, other, prefix) -> None:
    face, listener = Robot(publisher), Listener(other, prefix)
    face.show_to(listener, anna=ANNA)
    rival = other.create_publisher(IdsList, f'{prefix}/faces/tracked', 1)
    until(lambda: publisher.conflict, lambda: face.show(anna=ANNA))
    assert robot.count_publishers(f'{prefix}/faces/tracked') == 1
    assert robot.count_publishers(f'{prefix}/faces/anna/roi') == 0
    heard = len(listener.lists)
    for _ in range(5):
        face.show(anna=ANNA)
    rival.publish(IdsList(ids=['theirs']))
    until(lambda: listener.ids() == ['theirs'])
    assert len(listener.lists) == heard + 1


def test_of_two_robots_that_begin_together_one_publishes(participants, other, prefix) -> None:
    listener = Listener(other, prefix)
    with participants.robot.node('one') as one, participants.other.node('two') as two:
        robots = [Robot(Rep155Publisher(node, prefix)) for node in (one, two)]

        def show() -> None:
            for number, robot in enumerate(robots):
                robot.show(**{f'face_{number}': ANNA})

        def settled() -> bool:
            conflicts = [bool(robot.publisher.conflict) for robot in robots]
            return sorted(conflicts) == [False, True] and bool(listener.lists)

        until(settled, show)
        listener.lists.clear()
        until(lambda: len(listener.lists) >= 40, show)
        assert len({tuple(message.ids) for message in listener.lists}) == 1
        for robot in robots:
            robot.publisher.close()


def test_two_nodes_of_one_name_are_told_apart(participants, robot, publisher, prefix) -> None:
    face = Robot(publisher)
    until(lambda: robot.count_publishers(f'{prefix}/faces/tracked'), face.show)
    twin = Node(robot.get_name(), context=participants.other.context)
    twin.create_publisher(IdsList, f'{prefix}/faces/tracked', 1)
    until(lambda: publisher.conflict, face.show)
    twin.destroy_node()
    until(lambda: not publisher.conflict, face.show)


# -- the end --------------------------------------------------------------------------------------


def test_at_the_end_no_face_is_left_to_those_who_listen(publisher, robot, other, prefix) -> None:
    face, listener = Robot(publisher), Listener(other, prefix)
    face.show_to(listener, anna=ANNA)
    publisher.close()
    publisher.close()
    until(lambda: listener.ids() == [])
    assert stamp_ns(listener.lists[-1]) == face.camera.stamp_ns
    assert robot.made == robot.destroyed and robot.made.total() == 4
    face.show(anna=ANNA)
    publisher.express(observation('anna', 'fear', face.camera.stamp_ns))
    assert robot.made.total() == 4


def test_it_can_be_closed_while_another_thread_publishes(robot, other, prefix, drops) -> None:
    for _ in range(5):
        publisher = Rep155Publisher(robot, prefix, drops)
        face = Robot(publisher)
        failures: list[BaseException] = []
        stop = threading.Event()

        def work(
            face: Robot = face, stop: threading.Event = stop, failures: list[Any] = failures
        ) -> None:
            try:
                for number in itertools.count():
                    if stop.is_set():
                        return
                    at_ns = face.show(**{f'face_{number // 3}': ANNA})
                    face.publisher.express(observation(f'face_{number // 3}', 'fear', at_ns))
            except BaseException as error:
                failures.append(error)

        worker = threading.Thread(target=work)
        worker.start()
        until(lambda topic=f'{prefix}/faces/tracked': robot.count_publishers(topic))
        publisher.close()
        stop.set()
        worker.join()
        assert failures == []
        assert robot.made == robot.destroyed


def test_without_hri_msgs_one_line_says_what_to_install(monkeypatch, robot, prefix) -> None:
    for name in ('hri_msgs', 'hri_msgs.msg'):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    with pytest.raises(ValueError, match='sudo apt install ros-jazzy-hri-msgs') as failure:
        require_hri_msgs()
    assert '\n' not in str(failure.value)
    with pytest.raises(ValueError, match='hri_msgs'):
        Rep155Publisher(robot, prefix)
    with pytest.raises(ValueError, match='hri_msgs'):
        Rep155Faces(robot, prefix, print, Drops())
    assert not robot.made


def test_the_stand_in_for_hri_msgs_meets_the_real_one(root) -> None:
    """The hashes are those of the real package's messages; nodes compare them when they meet."""
    typesys = pytest.importorskip('rosbags.typesys')
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    for path in (root / 'test' / 'interfaces' / 'hri_msgs' / 'msg').glob('*.msg'):
        name = f'hri_msgs/msg/{path.stem}'
        store.register(typesys.get_types_from_msg(path.read_text(), name))
    for name, value in HASHES.items():
        assert store.hash_rihs01(f'hri_msgs/msg/{name}') == f'RIHS01_{value}'


def test_the_labels_are_those_of_the_message() -> None:
    for label in EXPRESSIONS.values():
        assert getattr(Expression, label.upper()) == label


def test_hri_msgs_is_imported_only_where_it_is_needed() -> None:
    code = 'import sys, ferros.rep155; sys.exit("hri_msgs" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


# -- what is read ---------------------------------------------------------------------------------


class Upstream:
    """Another node that finds faces: publishes pictures and regions, and then their list."""

    def __init__(self, node: Node, prefix: str) -> None:
        self._node = node
        self._prefix = prefix
        self._list = node.create_publisher(IdsList, f'{prefix}/faces/tracked', 1)
        self._faces: dict[str, tuple[Any, Any]] = {}
        self.stamp_ns = 1_000_000_000_000

    def publish(self, areas: dict[str, float], **changes: Any) -> int:
        """Publish an image's faces, with the share of the image that each takes."""
        self.stamp_ns += 33_000_000
        at_ns = changes.pop('at_ns', self.stamp_ns)
        for face_id, area in areas.items():
            regions, pictures = self._publishers(face_id)
            region = NormalizedRegionOfInterest2D(
                xmax=math.sqrt(area), ymax=math.sqrt(area), c=1.0
            )
            region.header.stamp = Time(nanoseconds=at_ns).to_msg()
            regions.publish(region)
            pictures.publish(self.picture(at_ns, **changes))
        message = IdsList(ids=list(areas))
        message.header.stamp = Time(nanoseconds=at_ns).to_msg()
        message.header.frame_id = 'head'
        self._list.publish(message)
        return at_ns

    def publish_ids(self, *ids: str) -> None:
        self.stamp_ns += 33_000_000
        message = IdsList(ids=list(ids))
        message.header.stamp = Time(nanoseconds=self.stamp_ns).to_msg()
        self._list.publish(message)

    @staticmethod
    def picture(at_ns: int, image: Any = None, **changes: Any) -> Image:
        if image is None:
            image = np.zeros((128, 128, 3), np.uint8)
            image[:, 16:112] = 200
        message = Image(
            height=image.shape[0],
            width=image.shape[1],
            encoding='bgr8' if image.ndim == 3 else 'mono8',
            step=image.nbytes // image.shape[0],
            data=array.array('B', image.tobytes()),
        )
        message.header.stamp = Time(nanoseconds=at_ns).to_msg()
        message.header.frame_id = 'head'
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    def _publishers(self, face_id: str) -> tuple[Any, Any]:
        if face_id not in self._faces:
            topic = f'{self._prefix}/faces/{face_id}'
            self._faces[face_id] = (
                self._node.create_publisher(NormalizedRegionOfInterest2D, f'{topic}/roi', 1),
                self._node.create_publisher(Image, f'{topic}/cropped', 1),
            )
        return self._faces[face_id]


@pytest.fixture
def upstream(other: CountingNode, prefix: str) -> Upstream:
    return Upstream(other, prefix)


@pytest.fixture
def scenes() -> list[Scene]:
    return []


@pytest.fixture
def faces(robot, prefix, drops, scenes) -> Iterator[Rep155Faces]:
    made = Rep155Faces(robot, prefix, scenes.append, drops)
    yield made
    made.close()


def shown(scenes: list[Scene]) -> list[str]:
    """Return the faces of the newest scene of which there is a picture."""
    return [face.face_id for face in scenes[-1].faces] if scenes else []


def test_the_faces_of_another_node_are_read(faces, upstream, scenes, drops) -> None:
    areas = {'near': 0.25, 'far': 0.01}
    until(lambda: shown(scenes) == ['near', 'far'], lambda: upstream.publish(areas))
    at_ns = upstream.publish(areas)
    until(lambda: scenes[-1].stamp_ns == at_ns)
    scene = scenes[-1]
    assert scene.ids == ('near', 'far') and scene.frame_id == 'head'
    assert [face.area for face in scene.faces] == pytest.approx([0.25, 0.01])
    near = scene.faces[0]
    # Without the zeros at its sides.
    assert near.frame.image.shape == (128, 96, 3) and (near.frame.image == 200).all()
    assert near.box == (0, 0, 96, 128)
    assert near.frame.frame_id == 'head'
    age_s = (time.monotonic_ns() - near.frame.captured_ns) / 1e9
    assert 0 <= age_s < 10
    assert drops.counts() == {}


@pytest.mark.parametrize('shape', [(96, 96, 3), (200, 150), (64, 64)])
def test_pictures_of_other_sizes_are_read_too(faces, upstream, scenes, shape) -> None:
    image = speckled(*shape)
    until(lambda: shown(scenes), lambda: upstream.publish({'anna': 0.1}, image=image))
    assert np.array_equal(scenes[-1].faces[0].frame.image, image)


def test_faces_come_and_go_and_what_was_subscribed_to_goes_too(
    faces, robot, upstream, other, scenes, prefix
) -> None:
    def listens(face_id: str) -> bool:
        return any(
            other.count_subscribers(f'{prefix}/faces/{face_id}/{name}') for name in KINDS_READ
        )

    both = {'anna': 0.1, 'bert': 0.05}
    until(lambda: shown(scenes) == ['anna', 'bert'], lambda: upstream.publish(both))
    until(lambda: shown(scenes) == ['bert'], lambda: upstream.publish({'bert': 0.05}))
    until(lambda: not listens('anna'))
    assert listens('bert')
    until(lambda: scenes[-1].ids == (), lambda: upstream.publish({}))
    until(lambda: not listens('bert'))
    made = {topic for topic in robot.made if '/anna/' in topic or '/bert/' in topic}
    assert len(made) == 4
    assert {(robot.made[topic], robot.destroyed[topic]) for topic in made} == {(1, 1)}
    faces.close()
    faces.close()
    assert robot.destroyed[f'{prefix}/faces/tracked'] == 1
    until(lambda: other.count_subscribers(f'{prefix}/faces/tracked') == 0)


KINDS_READ = ('roi', 'cropped')


def test_ids_that_are_no_names_are_counted_and_the_others_are_read(
    faces, upstream, scenes, drops
) -> None:
    ids = ('anna', '23bd5', 'x' * 33, 'a/b', '')
    until(lambda: scenes, lambda: upstream.publish_ids(*ids))
    assert scenes[-1].ids == ('anna',)
    counts = drops.counts()
    assert counts['rep155_id_invalid'] == 3 * counts['rep155_id_too_long'] > 0
    until(lambda: shown(scenes) == ['anna'], lambda: upstream.publish({'anna': 0.1}))


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'encoding': 'mystery'}, 'rep155_crop_unknown_encoding'),
        ({'data': array.array('B', bytes(100))}, 'rep155_crop_truncated'),
        ({'height': 0}, 'rep155_crop_zero_size'),
        ({'step': 1}, 'rep155_crop_wrong_step'),
        ({'image': np.zeros((128, 128, 3), np.uint8)}, 'rep155_crop_black'),
        ({'at_ns': 0}, 'rep155_unstamped'),
        ({'at_ns': 999_999_999_999}, 'rep155_time_backwards'),
    ],
)
def test_a_bad_picture_is_counted_and_the_next_one_is_read(
    faces, upstream, scenes, drops, changes, reason
) -> None:
    until(lambda: shown(scenes), lambda: upstream.publish({'anna': 0.1}))
    until(lambda: reason in drops.counts(), lambda: upstream.publish({'anna': 0.1}, **changes))
    before_ns = upstream.stamp_ns
    until(
        lambda: shown(scenes) and scenes[-1].faces[0].frame.stamp_ns > before_ns,
        lambda: upstream.publish({'anna': 0.1}),
    )
    assert {name for name in drops.counts() if name != reason} <= {'rep155_unstamped'}


def test_a_bag_that_begins_again_is_told(faces, upstream, scenes, drops) -> None:
    upstream.stamp_ns += 5_000_000_000
    until(lambda: shown(scenes), lambda: upstream.publish({'anna': 0.1}))
    upstream.stamp_ns -= 5_000_000_000
    again_ns = upstream.stamp_ns + 1_000_000_000
    until(
        lambda: shown(scenes) and scenes[-1].stamp_ns < again_ns,
        lambda: upstream.publish({'anna': 0.1}),
    )
    assert drops.counts() == {}


def test_what_was_read_of_a_face_is_published_under_its_id(
    faces, robot, other, upstream, scenes, prefix
) -> None:
    listener = Listener(other, prefix, 'expression')
    expressions = ExpressionPublisher(robot, prefix)

    def follow() -> None:
        upstream.publish({'anna': 0.1})
        if scenes:
            expressions.keep(scenes[-1].ids)

    topic = f'{prefix}/faces/anna/expression'
    until(lambda: robot.count_publishers(topic) and robot.count_subscribers(topic), follow)
    until(lambda: other.count_publishers(topic) == 1, follow)
    heard = listener.of('anna', 'expression')
    until(
        lambda: heard,
        lambda: (
            expressions.express(observation('anna', 'surprise', scenes[-1].stamp_ns)) or follow()
        ),
    )
    assert heard[0].expression == 'surprised' and stamp_ns(heard[0]) > 1_000_000_000_000
    expressions.keep(())
    until(lambda: other.count_publishers(topic) == 0)
    expressions.close()
    expressions.keep(['anna'])
    assert robot.made[topic] == robot.destroyed[topic] == 1


def test_the_faces_that_one_robot_publishes_another_one_reads(
    publisher, participants, prefix, drops, scenes
) -> None:
    image = speckled(240, 320, 3)
    sender = Robot(publisher, Camera(image))
    with participants.other.node('reader') as node:
        reader = Rep155Faces(node, prefix, scenes.append, drops)
        border = Box(-32, 100, 128, 128)
        until(
            lambda: shown(scenes) == ['anna', 'border'],
            lambda: sender.show(anna=ANNA, border=border),
        )
        anna, at_border = scenes[-1].faces
        assert np.array_equal(anna.frame.image, image[30:158, 40:168])
        assert np.array_equal(at_border.frame.image, image[100:228, :96])
        assert anna.area == pytest.approx(128 * 128 / (240 * 320), rel=1e-5)
        reader.close()
    assert drops.counts() == {}
