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
The simulated world is one that Gazebo takes, and in it the robot finds and reads both faces.

Gazebo itself is not run: the planes are projected into the camera here, as a pinhole camera sees
them, without its light.
"""

from __future__ import annotations

import importlib.util
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import yaml

from ferros.crop import crop
from ferros.detect import make_detector
from ferros.local_model import LocalModel
from ferros.types import Box

ROOT = Path(__file__).resolve().parent.parent
WORLD = ROOT / 'worlds' / 'fer.sdf'
TEXTURES = ROOT / 'worlds' / 'textures'
SCHEME = 'model://ferros/'
WALL = (168, 163, 158)


class Plane(NamedTuple):
    """A textured plane of the world."""

    texture: Path
    size_m: float
    # x, y, z in m; roll, pitch, yaw in rad.
    pose: tuple[float, ...]


class Camera(NamedTuple):
    """The camera of the world, which looks along x."""

    width_px: int
    height_px: int
    focal_px: float
    place: np.ndarray


@pytest.fixture(scope='module')
def world() -> ElementTree.Element:
    found = ElementTree.parse(WORLD).getroot().find('world')
    assert found is not None
    return found


def text(element: ElementTree.Element, path: str) -> str:
    found = element.find(path)
    assert found is not None and found.text, path
    return found.text.strip()


def pose_in(element: ElementTree.Element) -> tuple[float, ...]:
    values = [float(word) for word in (element.text or '').split()]
    if element.get('degrees') == 'true':
        values[3:] = [math.radians(value) for value in values[3:]]
    return tuple(values)


def plane_in(element: ElementTree.Element, pose: tuple[float, ...]) -> Plane:
    visual = element.find('link/visual')
    assert visual is not None
    uri = text(visual, 'material/pbr/metal/albedo_map')
    assert uri.startswith(SCHEME)
    width, height = text(visual, 'geometry/plane/size').split()
    assert width == height and text(visual, 'geometry/plane/normal') == '0 0 1'
    return Plane(ROOT / uri.removeprefix(SCHEME), float(width), pose)


@pytest.fixture(scope='module')
def camera(world: ElementTree.Element) -> Camera:
    model = world.find("model[@name='camera']")
    assert model is not None
    pose = pose_in(model.find('pose'))
    assert pose[3:] == (0, 0, 0)
    sensor = model.find('link/sensor/camera')
    width = int(text(sensor, 'image/width'))
    focal = width / 2 / math.tan(float(text(sensor, 'horizontal_fov')) / 2)
    return Camera(width, int(text(sensor, 'image/height')), focal, np.array(pose[:3]))


@pytest.fixture(scope='module')
def smiling(world: ElementTree.Element) -> Plane:
    model = world.find("model[@name='smiling_face']")
    return plane_in(model, pose_in(model.find('pose')))


def sad_at(world: ElementTree.Element, time_s: float) -> Plane:
    """Return the actor's plane at a time of its trajectory, straight between the waypoints."""
    actor = world.find("actor[@name='sad_face']")
    points = [
        (float(text(point, 'time')), pose_in(point.find('pose')))
        for point in actor.findall('script/trajectory/waypoint')
    ]
    times, poses = zip(*points, strict=True)
    pose = tuple(float(np.interp(time_s, times, column)) for column in zip(*poses, strict=True))
    return plane_in(actor, pose)


def rotation(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Return the matrix of SDF's angles: about the fixed x, y and z axes, in this order."""
    (cx, cy, cz), (sx, sy, sz) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def corners_px(plane: Plane, camera: Camera) -> np.ndarray:
    """
    Return where the camera sees the corners, float32 [4, 2], in the order of the texture's.

    The texture's rows run against the y axis of a plane whose normal is z, its columns along x:
    gz-common, MeshManager::CreatePlane.
    """
    half_m = plane.size_m / 2
    local = np.array([[-1, 1, 0], [1, 1, 0], [1, -1, 0], [-1, -1, 0]]) * half_m
    places = (rotation(*plane.pose[3:]) @ local.T).T + np.array(plane.pose[:3]) - camera.place
    # The camera looks along x; y is to its left and z up.
    assert (places[:, 0] > 0.1).all()
    return np.stack([
        camera.width_px / 2 - camera.focal_px * places[:, 1] / places[:, 0],
        camera.height_px / 2 - camera.focal_px * places[:, 2] / places[:, 0],
    ], axis=1).astype(np.float32)


def look(camera: Camera, *planes: Plane) -> np.ndarray:
    """Return what the camera sees, uint8 BGR; the first plane is behind the others."""
    image = np.full((camera.height_px, camera.width_px, 3), WALL, np.uint8)
    for plane in planes:
        texture = cv2.imread(str(plane.texture), cv2.IMREAD_COLOR)
        assert texture is not None, plane.texture
        side = texture.shape[0]
        source = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
        matrix = cv2.getPerspectiveTransform(source, corners_px(plane, camera))
        size = (camera.width_px, camera.height_px)
        seen = cv2.warpPerspective(texture, matrix, size, flags=cv2.INTER_LINEAR)
        inside = cv2.warpPerspective(np.full_like(texture, 255), matrix, size)
        image = np.where(inside > 127, seen, image)
    return image


def box_of(plane: Plane, camera: Camera) -> tuple[float, float, float, float]:
    corners = corners_px(plane, camera)
    left, top = corners.min(axis=0)
    right, bottom = corners.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def face_on(plane: Plane, camera: Camera, boxes: list[Box]) -> Box:
    """Return the one box whose middle is on the plane."""
    left, top, right, bottom = box_of(plane, camera)
    (found,) = [
        box for box in boxes
        if left < box.x + box.width / 2 < right and top < box.y + box.height / 2 < bottom
    ]
    return found


# -- the file -------------------------------------------------------------------------------------


def check_world(path: Path) -> list[str]:
    """Return what tools/check_world.py finds wrong with a world."""
    spec = importlib.util.spec_from_file_location('check_world', ROOT / 'tools/check_world.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        return module.problems(path)
    except RuntimeError as error:
        pytest.skip(f'{error}: sh tools/check_world.sh says how to get it')


def test_libsdformat_takes_the_world_and_knows_every_element_of_it() -> None:
    assert check_world(WORLD) == []


@pytest.mark.parametrize(
    ('good', 'bad', 'said'),
    [
        ('1.5708 0 -1.5708', 'upright', 'Error reading element <pose>'),
        ('<update_rate>30</update_rate>', '<updaterate>30</updaterate>',
         '<updaterate> in <sensor> is nothing that SDF knows'),
        ('type="camera"', 'type="kamera"', 'sensor type is missing or invalid'),
        ('<actor name="sad_face">', '<actor name="camera">', 'Non-unique names'),
    ],
)
def test_the_check_finds_what_is_wrong(tmp_path: Path, good: str, bad: str, said: str) -> None:
    content = WORLD.read_text()
    assert good in content
    (tmp_path / 'wrong.sdf').write_text(content.replace(good, bad))
    assert any(said in problem for problem in check_world(tmp_path / 'wrong.sdf'))


def test_the_world_is_one_of_sdf_1_9_with_the_systems_that_a_camera_needs(
    world: ElementTree.Element,
) -> None:
    assert ElementTree.parse(WORLD).getroot().get('version') == '1.9'
    systems = {item.get('name') for item in world.findall('plugin')}
    assert {
        'gz::sim::systems::Physics', 'gz::sim::systems::Sensors',
        'gz::sim::systems::SceneBroadcaster', 'gz::sim::systems::UserCommands',
    } == systems
    sensor = world.find("model[@name='camera']/link/sensor")
    assert sensor.get('type') == 'camera' and text(sensor, 'update_rate') == '30'


def test_every_file_that_the_world_names_is_there() -> None:
    named = re.findall(r'model://ferros/([^<]+)', WORLD.read_text())
    assert len(named) == 2
    for path in named:
        assert (ROOT / path).is_file(), path


def test_the_bridge_carries_what_the_world_and_the_launch_file_name(
    world: ElementTree.Element,
) -> None:
    sensor = world.find("model[@name='camera']/link/sensor")
    bridges = yaml.safe_load((ROOT / 'config' / 'ros_gz_bridge.yaml').read_text())
    carried = {item['gz_topic_name']: item for item in bridges}
    assert set(carried) == {'/clock', text(sensor, 'camera/camera_info_topic')}
    assert all(item['direction'] == 'GZ_TO_ROS' for item in bridges)
    assert all(item['ros_topic_name'] == item['gz_topic_name'] for item in bridges)
    launch = (ROOT / 'launch' / 'simulation.launch.py').read_text()
    assert f"IMAGE_TOPIC = '{text(sensor, 'topic')}'" in launch


# -- the textures ---------------------------------------------------------------------------------


def test_the_textures_are_what_the_script_draws(tmp_path: Path) -> None:
    script = ROOT / 'tools' / 'make_textures.py'
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, timeout=60)
    names = sorted(path.name for path in TEXTURES.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir()) == [
        'happiness.png', 'sadness.png'
    ]
    for name in names:
        committed, drawn = (cv2.imread(str(folder / name)) for folder in (TEXTURES, tmp_path))
        # Another version of OpenCV may smooth an edge otherwise.
        assert np.abs(committed.astype(int) - drawn).mean() < 0.5, name
        assert (TEXTURES / name).stat().st_size < 60_000


# -- what the robot sees in it --------------------------------------------------------------------


def test_the_texture_is_upright_and_not_mirrored(camera: Camera, smiling: Plane) -> None:
    top_left, top_right, bottom_right, bottom_left = corners_px(smiling, camera)
    assert top_left[0] < top_right[0] and bottom_left[0] < bottom_right[0]
    assert top_left[1] < bottom_left[1] and top_right[1] < bottom_right[1]


@pytest.mark.parametrize('time_s', [0.0, 1.5, 3.0, 6.5])
def test_the_haar_cascade_finds_both_faces_wherever_the_moving_one_is(
    world: ElementTree.Element, camera: Camera, smiling: Plane, time_s: float
) -> None:
    sad = sad_at(world, time_s)
    boxes = make_detector('haar').detect(look(camera, sad, smiling))
    assert len(boxes) == 2
    for plane in (smiling, sad):
        box = face_on(plane, camera, boxes)
        left, _, right, _ = box_of(plane, camera)
        # The face's features fill about half of the texture's side.
        assert 0.4 < box.width / (right - left) < 0.8


def test_both_stay_in_the_image_and_never_cover_each_other(
    world: ElementTree.Element, camera: Camera, smiling: Plane
) -> None:
    for time_s in np.linspace(0, 8, 33):
        sad = box_of(sad_at(world, float(time_s)), camera)
        still = box_of(smiling, camera)
        for left, top, right, bottom in (sad, still):
            assert left >= 0 and top >= 0
            assert right <= camera.width_px and bottom <= camera.height_px
        assert still[2] < sad[0]


@pytest.mark.parametrize('time_s', [0.0, 3.0])
def test_the_model_on_the_robot_reads_happiness_and_sadness(
    world: ElementTree.Element, camera: Camera, smiling: Plane, time_s: float
) -> None:
    sad = sad_at(world, time_s)
    image = look(camera, sad, smiling)
    boxes = make_detector('haar').detect(image)
    model = LocalModel()
    luma = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    for plane, label in ((smiling, 'happiness'), (sad, 'sadness')):
        (read,) = model.predict([crop(luma, face_on(plane, camera, boxes), 48)])
        assert read.label == label


def test_the_model_of_the_server_reads_happiness_and_sadness(
    world: ElementTree.Element, camera: Camera, smiling: Plane
) -> None:
    pytest.importorskip('onnxruntime', reason='the server is not installed')
    from cloud_server.config import ServerConfig
    from cloud_server.recognizer import Crop, ImageLimits, Recognition, Recognizer
    from cloud_server.server import load_engine

    sad = sad_at(world, 3.0)
    image = look(camera, sad, smiling)
    boxes = make_detector('haar').detect(image)
    luma = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    engine = load_engine(ServerConfig())
    recognizer = Recognizer(engine, ImageLimits(0, 0))
    try:
        for plane, label in ((smiling, 'happiness'), (sad, 'sadness')):
            face, part = recognizer.new_face(), crop(luma, face_on(plane, camera, boxes), 96)
            for index in range(5):
                (read,) = recognizer.recognize([Crop(part, face, index * 100_000_000, 100)])
            assert isinstance(read, Recognition)
            assert (read.label, read.confidence > 0.6) == (label, True)
    finally:
        engine.close()
