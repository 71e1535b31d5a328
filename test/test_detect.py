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
"""Faces are found where there are some, nowhere else, and boxed as the model was trained."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from demo import clip
from ferros import detect
from ferros.detect import (
    CameraDetector,
    Detector,
    DetectorError,
    HaarDetector,
    YuNetDetector,
    decode_yunet,
    find_cascade,
    find_profile_cascade,
    make_detector,
    suppress,
)
from ferros.pieces import View
from ferros.pyramid import Pyramid
from ferros.types import Box, CameraFrame

OPENCV = tuple(int(part) for part in cv2.__version__.split('.')[:2])


@pytest.fixture(scope='module')
def media(shared_data: Path) -> Path:
    return shared_data / 'media'


@pytest.fixture(scope='module')
def yunet_file(shared_data: Path) -> str:
    return str(shared_data / 'models' / 'face_detection_yunet.onnx')


@pytest.fixture(params=['haar', 'yunet'])
def detector(request: pytest.FixtureRequest) -> CameraDetector:
    if request.param == 'haar':
        return make_detector('haar')
    return make_detector('yunet', model_file=request.getfixturevalue('yunet_file'))


@pytest.fixture(scope='module')
def portrait() -> np.ndarray:
    try:
        return clip.portrait()
    except RuntimeError as missing:
        pytest.skip(str(missing))


def images(path: Path, every: int = 1) -> list[np.ndarray]:
    capture, found = cv2.VideoCapture(str(path)), []
    while True:
        done, image = capture.read()
        if not done:
            return found[::every]
        found.append(image)


def iou(one: Box, other: Box) -> float:
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    shared = max(0.0, width) * max(0.0, height)
    return shared / (one.area_px + other.area_px - shared)


def test_one_face_is_found_in_every_image_of_a_video(detector: Detector, media: Path) -> None:
    counts = [len(detector.detect(image)) for image in images(media / 'single_face.mp4', every=3)]
    assert counts == [1] * 24


def test_no_face_is_found_where_there_is_none(detector: Detector, media: Path) -> None:
    assert not any(detector.detect(image) for image in images(media / 'no_face.mp4', every=3))


def test_two_people_are_two_faces(detector: Detector, media: Path) -> None:
    found = detector.detect(cv2.imread(str(media / 'two_people.jpg')))
    assert len(found) == 2
    assert found[0].area_px >= found[1].area_px


@pytest.mark.parametrize('height_px', [240, 480, 720, 1080])
def test_the_same_face_is_found_at_every_resolution(
    detector: Detector, media: Path, height_px: int
) -> None:
    image = cv2.imread(str(media / f'obama-{height_px}p.jpg'))
    (found,) = detector.detect(image)
    # In parts of the image's height, which all four share.
    scale = image.shape[0]
    assert found.centre[0] / scale == pytest.approx(0.921, abs=0.015)
    assert found.centre[1] / scale == pytest.approx(0.226, abs=0.015)
    assert found.width / scale == pytest.approx(0.28, abs=0.03)


def test_the_square_is_around_the_face(detector: Detector, portrait: np.ndarray) -> None:
    (found,) = detector.detect(portrait)
    assert found.width == found.height
    assert found.centre[0] == pytest.approx(224, abs=6)
    assert found.centre[1] == pytest.approx(118, abs=8)
    assert 88 <= found.width <= 122


def test_a_grey_image_is_as_good_as_a_coloured_one(
    detector: Detector, portrait: np.ndarray
) -> None:
    (coloured,) = detector.detect(portrait)
    (grey,) = detector.detect(cv2.cvtColor(portrait, cv2.COLOR_BGR2GRAY))
    assert iou(coloured, grey) > 0.85


def test_a_view_with_padded_rows_is_read(detector: Detector, portrait: np.ndarray) -> None:
    wide = np.zeros((*portrait.shape[:1], portrait.shape[1] + 11, 3), np.uint8)
    wide[:, : portrait.shape[1]] = portrait
    assert detector.detect(wide[:, : portrait.shape[1]]) == detector.detect(portrait)


def test_images_of_changing_size_are_taken_one_after_the_other(
    detector: Detector, portrait: np.ndarray
) -> None:
    for size in ((512, 512), (300, 420), (512, 512), (97, 141), (640, 200)):
        detector.detect(cv2.resize(portrait, size))
    assert len(detector.detect(portrait)) == 1


def test_the_smallest_image_has_no_face(detector: Detector) -> None:
    assert detector.detect(np.zeros((1, 1, 3), np.uint8)) == []
    assert detector.detect(np.zeros((1, 3000), np.uint8)) == []


@pytest.mark.parametrize('kind', ['haar', 'yunet'])
def test_faces_under_the_smallest_size_are_left_out(
    kind: str, portrait: np.ndarray, request: pytest.FixtureRequest
) -> None:
    model_file = request.getfixturevalue('yunet_file') if kind == 'yunet' else ''
    assert make_detector(kind, model_file=model_file, min_face_px=80).detect(portrait)
    assert not make_detector(kind, model_file=model_file, min_face_px=130).detect(portrait)


def test_yunet_agrees_with_the_one_in_opencv(yunet_file: str, media: Path) -> None:
    if OPENCV < (4, 8):
        pytest.skip('cv2.FaceDetectorYN reads this model from OpenCV 4.8 on')
    size = 640, 360
    theirs = cv2.FaceDetectorYN.create(yunet_file, '', size, 0.8, 0.3)
    ours = YuNetDetector(yunet_file, longest_side_px=640)
    compared = 0
    clips = [media / 'single_face.mp4', media / 'short_hamilton_clip.mp4']
    for image in [image for path in clips for image in images(path, every=12)]:
        rows = theirs.detect(image)[1]
        expected = [] if rows is None else [Box(*row[:4]) for row in rows.tolist()]
        found = [Box(*row) for row in ours.raw_boxes(image).tolist()]
        assert len(found) == len(expected)
        for one in expected:
            assert max(iou(one, other) for other in found) > 0.9
            compared += 1
    assert compared > 25


def test_yunet_boxes_are_decoded_by_its_formula() -> None:
    # An input of 64 x 32 pixels: 8 x 4 cells of 8 pixels, 4 x 2 of 16, 2 x 1 of 32.
    cells = {8: 32, 16: 8, 32: 2}
    outputs = {}
    for stride, count in cells.items():
        outputs[f'cls_{stride}'] = np.zeros((1, count, 1), np.float32)
        outputs[f'obj_{stride}'] = np.ones((1, count, 1), np.float32)
        outputs[f'bbox_{stride}'] = np.zeros((1, count, 4), np.float32)
    outputs['cls_16'][0, 6] = 0.81  # Row 1, column 2.
    outputs['bbox_16'][0, 6] = [0.5, 0.25, np.log(2), np.log(1.5)]
    boxes, scores = decode_yunet(outputs, 64, 0.8)
    assert scores == pytest.approx([0.9])
    # Centre (2.5, 1.25) cells of 16 pixels, size 2 x 1.5 cells.
    assert boxes.tolist() == [pytest.approx([40 - 16, 20 - 12, 32, 24])]


def test_of_boxes_that_overlap_the_surest_is_kept() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 10, 10], [30, 0, 10, 10], [9, 0, 10, 10]], float)
    assert suppress(boxes, np.array([0.8, 0.9, 0.7, 0.6]), 0.3) == [1, 2, 3]
    assert suppress(np.empty((0, 4)), np.empty(0), 0.3) == []


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(DetectorError, match="detector is 'hog', expected one of haar, yunet"):
        make_detector('hog')


@pytest.mark.parametrize('setting', ['longest_side_px', 'min_face_px'])
def test_a_negative_size_is_refused(setting: str) -> None:
    with pytest.raises(DetectorError, match=f'{setting} is -1'):
        make_detector('haar', **{setting: -1})


def test_a_cascade_file_that_is_named_comes_first(tmp_path: Path) -> None:
    copy = tmp_path / 'mine.xml'
    copy.write_bytes(find_cascade().read_bytes())
    assert find_cascade(str(copy)) == copy
    HaarDetector(str(copy))


def test_a_cascade_that_is_nowhere_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, '_CASCADE_FOLDER', tmp_path)
    monkeypatch.setattr(cv2, 'data', None, raising=False)
    with pytest.raises(DetectorError, match='apt install opencv-data'):
        make_detector('haar')


def test_without_the_cascades_of_pypi_those_of_the_distribution_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / detect.HAAR_CASCADE).write_bytes(find_cascade().read_bytes())
    monkeypatch.setattr(detect, '_CASCADE_FOLDER', tmp_path)
    monkeypatch.setattr(cv2, 'data', None, raising=False)
    assert find_cascade() == tmp_path / detect.HAAR_CASCADE


@pytest.mark.parametrize('content', [b'', b'no cascade', b'<?xml version="1.0"?><opencv_storage>'])
def test_a_damaged_cascade_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'damaged.xml'
    path.write_bytes(content)
    with pytest.raises(DetectorError, match=r'damaged\.xml'):
        make_detector('haar', cascade_file=str(path))


@pytest.mark.parametrize('content', [b'', b'no model', bytes(1000)])
def test_a_damaged_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'damaged.onnx'
    path.write_bytes(content)
    with pytest.raises(DetectorError, match=r'damaged\.onnx'):
        make_detector('yunet', model_file=str(path))


def test_a_truncated_model_is_named(tmp_path: Path, yunet_file: str) -> None:
    path = tmp_path / 'truncated.onnx'
    path.write_bytes(Path(yunet_file).read_bytes()[:100_000])
    with pytest.raises(DetectorError, match=r'truncated\.onnx'):
        make_detector('yunet', model_file=str(path))


def test_a_model_of_another_kind_is_named(tmp_path: Path) -> None:
    onnx = pytest.importorskip('onnx', reason='onnx builds the other model')
    kind = onnx.TensorProto.FLOAT
    ends = [onnx.helper.make_tensor_value_info(name, kind, [1, 3, 32, 32]) for name in 'xy']
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node('Relu', ['x'], ['y'])], 'other', ends[:1], ends[1:]
    )
    path = tmp_path / 'other.onnx'
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 13)])
    onnx.save(model, str(path))
    with pytest.raises(DetectorError, match=r'other\.onnx is no YuNet'):
        make_detector('yunet', model_file=str(path))


@pytest.mark.parametrize(('kind', 'setting'), [('haar', 'cascade_file'), ('yunet', 'model_file')])
def test_a_file_that_is_missing_is_named(kind: str, setting: str) -> None:
    with pytest.raises(DetectorError, match=r'/nowhere/file does not exist'):
        make_detector(kind, **{setting: '/nowhere/file'})


def test_yunet_without_a_file_says_where_to_get_it() -> None:
    with pytest.raises(DetectorError, match='opencv_zoo'):
        make_detector('yunet')


def pyramid(image: np.ndarray) -> Pyramid:
    return Pyramid(CameraFrame(image, 0, 0))


def found_in_pieces(camera: CameraDetector, image: np.ndarray, view: View) -> list[Box]:
    """Search all pieces of an image and look closely at what is suspected."""
    levels = pyramid(image)
    height_px, width_px = image.shape[:2]
    return [
        face
        for piece in camera.pieces(width_px, height_px, view)
        for suspect in camera.propose(levels, piece)
        for face in camera.look(levels, suspect, 0.35, view, False)
    ]


def test_piece_by_piece_the_same_face_is_found(
    detector: CameraDetector, portrait: np.ndarray
) -> None:
    (whole,) = detector.detect(portrait)
    found = found_in_pieces(detector, portrait, View.FRONT)
    assert found
    assert all(iou(face, whole) > 0.6 for face in found)


@pytest.mark.parametrize('scale', [0.7, 1.0, 1.5, 2.2])
def test_a_close_look_finds_a_face_of_any_size(
    detector: CameraDetector, portrait: np.ndarray, scale: float
) -> None:
    image = cv2.resize(portrait, None, fx=scale, fy=scale)
    expected = Box(173, 67, 102, 102).scaled(scale)
    # As wrong as a suspicion may be.
    side = 1.15 * expected.width
    near = Box(expected.x + 0.1 * side, expected.y - 0.15 * side, side, side)
    found = detector.look(pyramid(image), near, 0.35, View.FRONT, False)
    assert iou(found[0], expected) > 0.6
    assert found[0].width == found[0].height


def test_a_close_look_elsewhere_finds_nothing(
    detector: CameraDetector, portrait: np.ndarray
) -> None:
    levels = pyramid(portrait)
    assert detector.look(levels, Box(40, 350, 100, 100), 0.35, View.FRONT, False) == []
    assert detector.look(levels, Box(-500, -500, 100, 100), 0.35, View.FRONT, True) == []


def test_a_wider_look_costs_more(detector: CameraDetector) -> None:
    assert detector.look_work(0.25, View.FRONT) < detector.look_work(0.8, View.FRONT)


def side_faces(media: Path) -> list[np.ndarray]:
    """Return images in which somebody looks to the left."""
    return images(media / 'short_hamilton_clip.mp4')[126:190:6]


def test_a_face_from_the_side_is_found_in_either_direction(media: Path, yunet_file: str) -> None:
    haar = make_detector('haar', profiles=True)
    yunet = YuNetDetector(yunet_file, longest_side_px=640)
    left = right = 0
    for image in side_faces(media):
        mirrored = np.ascontiguousarray(image[:, ::-1])
        for shown, view in ((image, View.LEFT), (mirrored, View.RIGHT)):
            faces = yunet.detect(shown)
            hits = sum(
                any(iou(face, found) > 0.4 for face in faces)
                for found in found_in_pieces(haar, shown, view)[:1]
            )
            left, right = left + hits * (view is View.LEFT), right + hits * (view is View.RIGHT)
    assert left >= 4
    assert right >= left - 2


def test_the_square_of_a_face_from_the_side_is_shifted_to_where_it_looks() -> None:
    box = Box(100, 100, 80, 80)
    assert detect._training_square(box, View.LEFT).centre[0] < 140
    assert detect._training_square(box, View.RIGHT).centre[0] > 140
    assert detect._training_square(box, View.FRONT).centre == (140, 140)


def test_faces_from_the_side_are_looked_for_only_if_that_is_wanted() -> None:
    haar = make_detector('haar')
    assert haar.views == (View.FRONT,)
    assert haar.pieces(1280, 720, View.LEFT) == []
    haar.look_for_profiles(True)
    assert haar.views == (View.FRONT, View.LEFT, View.RIGHT)
    assert haar.pieces(1280, 720, View.LEFT)
    haar.look_for_profiles(False)
    assert haar.views == (View.FRONT,)


def test_a_profile_cascade_that_is_nowhere_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / detect.HAAR_CASCADE).write_bytes(find_cascade().read_bytes())
    monkeypatch.setattr(detect, '_CASCADE_FOLDER', tmp_path)
    monkeypatch.setattr(cv2, 'data', None, raising=False)
    with pytest.raises(DetectorError, match=r'opencv-data.*or set detect_profiles to false'):
        make_detector('haar', profiles=True)
    make_detector('haar')


def test_a_profile_cascade_that_is_named_comes_first(tmp_path: Path) -> None:
    copy = tmp_path / 'mine.xml'
    copy.write_bytes(find_profile_cascade().read_bytes())
    assert find_profile_cascade(str(copy)) == copy
    make_detector('haar', profiles=True, profile_cascade_file=str(copy))
    with pytest.raises(DetectorError, match=r'/nowhere/side\.xml does not exist'):
        make_detector('haar', profiles=True, profile_cascade_file='/nowhere/side.xml')


def test_a_damaged_profile_cascade_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'damaged.xml'
    path.write_bytes(b'no cascade')
    haar = make_detector('haar')
    with pytest.raises(DetectorError, match=r'damaged\.xml'):
        haar.look_for_profiles(True, str(path))
    assert haar.views == (View.FRONT,)
