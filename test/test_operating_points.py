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
"""`ferros-cloud operating-points`: the list that the sender steers by, and how it is measured."""

from __future__ import annotations

import contextlib
import csv
import itertools
import re
import shlex
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import cv2
import grid_files
import grpc
import numpy as np
import pytest
import tiny_model
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tiny_ferplus import make_faces, write_folder

import ferros.accuracy_grid
import ferros.encode
from cloud_server import accuracy_grid
from cloud_server.__main__ import main
from cloud_server.decode import ImageLimits, decode
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model_info import ENCODER_FILE, TEMPORAL_FILE, ModelError, ModelInfo
from cloud_server.training import coded_clips, operating_grid, operating_points, pareto, streaming
from cloud_server.training.clips import ClipConfig, draw
from cloud_server.training.coded_clips import Coding, Measured
from cloud_server.training.operating_grid import GridConfig
from cloud_server.training.pareto import Point
from ferros.channel import CHANNEL_OPTIONS
from ferros.crop import crop
from ferros.types import Box, Codec
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = ROOT / 'config' / 'operating_points.yaml'
FIELDS = ('face_size_px', 'frame_rate_fps', 'codec', 'quality', 'bytes_p50', 'bytes_p95',
          'accuracy')

# Few values, so that points often tie.
POINTS = st.builds(
    Point,
    face_size_px=st.sampled_from((12, 24, 48)), frame_rate_fps=st.sampled_from((1.0, 5.0, 30.0)),
    codec=st.sampled_from(('jpeg', 'webp')), quality=st.sampled_from((20, 50, 80)),
    bytes_p50=st.integers(200, 206), bytes_p95=st.integers(207, 210),
    accuracy=st.sampled_from((0.5, 0.6, 0.7, 0.8)),
)
# Without a deadline: a busy machine is no fault.
EXAMPLES = settings(deadline=None, max_examples=60)
LISTS = st.lists(POINTS, max_size=40)
GRIDS = arrays.arrays(np.float64, arrays.array_shapes(min_dims=1, max_dims=3, max_side=4),
                      elements=st.integers(0, 100).map(lambda value: value / 100))


# -- what is kept --------------------------------------------------------------------------------


@EXAMPLES
@given(points=LISTS, codec=st.sampled_from(('jpeg', 'webp')), size=st.sampled_from((12, 24, 48)),
       rate=st.sampled_from((1.0, 5.0, 30.0)), message_bytes=st.integers(200, 210),
       bytes_per_s=st.integers(200, 6300))
def test_within_any_limits_the_best_of_all_points_is_among_those_kept(
    points: list[Point], codec: str, size: int, rate: float, message_bytes: int, bytes_per_s: int
) -> None:
    def best(among: list[Point]) -> float:
        return max((
            point.accuracy for point in among
            if point.codec == codec and point.face_size_px <= size
            and point.frame_rate_fps <= rate and point.bytes_p95 <= message_bytes
            and point.bytes_per_s <= bytes_per_s
        ), default=-1.0)

    assert best(pareto.front(points)) == best(points)


@EXAMPLES
@given(points=LISTS)
def test_no_point_is_kept_that_another_one_of_its_codec_replaces(points: list[Point]) -> None:
    kept = pareto.front(points)
    assert set(kept) <= set(points) and len(set(kept)) == len(kept)
    for one, other in itertools.permutations(kept, 2):
        assert one.codec != other.codec or not (
            other.face_size_px <= one.face_size_px and other.frame_rate_fps <= one.frame_rate_fps
            and other.bytes_p50 <= one.bytes_p50 and other.bytes_p95 <= one.bytes_p95
            and other.accuracy >= one.accuracy)


@EXAMPLES
@given(points=LISTS)
def test_the_front_without_limits_has_no_point_that_is_beaten(points: list[Point]) -> None:
    kept = pareto.global_front(points)
    assert [point.bytes_per_s for point in kept] == sorted(point.bytes_per_s for point in kept)
    assert set(kept) <= set(points)
    for point in points:
        assert any(other.bytes_per_s <= point.bytes_per_s and other.accuracy >= point.accuracy
                   for other in kept)
    for one, other in itertools.pairwise(kept):
        assert one.bytes_per_s < other.bytes_per_s and one.accuracy < other.accuracy


@EXAMPLES
@given(points=LISTS, seed=st.integers(0, 9))
def test_what_is_kept_depends_neither_on_the_order_nor_on_a_second_pass(
    points: list[Point], seed: int
) -> None:
    kept = pareto.front(points)
    shuffled = [points[row] for row in np.random.default_rng(seed).permutation(len(points))]
    assert pareto.front(shuffled) == kept == pareto.front(kept)


def test_the_points_kept_are_sorted_by_bytes_per_second() -> None:
    points = [Point(48, 30.0, 'webp', 50, 500, 600, 0.8),
              Point(12, 1.0, 'webp', 50, 200, 210, 0.5),
              Point(24, 5.0, 'jpeg', 50, 400, 410, 0.7)]
    assert [point.face_size_px for point in pareto.front(points)] == [12, 24, 48]


# -- what smoothing does -------------------------------------------------------------------------


@EXAMPLES
@given(grid=GRIDS, seed=st.integers(0, 99))
def test_a_smoothed_grid_falls_nowhere_and_is_the_nearest_that_does_not(
    grid: np.ndarray, seed: int
) -> None:
    smooth = pareto.monotone(grid)
    for axis in range(grid.ndim):
        assert (np.diff(smooth, axis=axis) >= 0).all()
    assert smooth.mean() == pytest.approx(grid.mean(), abs=1e-6)
    # The projection onto a convex set makes no acute angle with any way into the set.
    rising = np.random.default_rng(seed).random(grid.shape)
    for axis in range(grid.ndim):
        rising = np.maximum.accumulate(rising, axis)
    assert ((grid - smooth) * (rising - smooth)).sum() <= 1e-5


@EXAMPLES
@given(grid=GRIDS)
def test_a_grid_that_rises_is_left_as_it_is(grid: np.ndarray) -> None:
    for axis in range(grid.ndim):
        grid = np.maximum.accumulate(grid, axis)
    np.testing.assert_array_equal(pareto.monotone(grid), grid)


def test_values_in_the_wrong_order_become_their_mean() -> None:
    values = np.array([1.0, 3.0, 2.0, 4.0, 0.0])
    assert pareto.pool_adjacent(values).tolist() == [1.0, 2.25, 2.25, 2.25, 2.25]


# -- what a message costs ------------------------------------------------------------------------


def face_like(side: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (side, side))
    smooth = cv2.GaussianBlur(noise, (0, 0), side / 12)
    return np.asarray(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)).astype(np.uint8)


@pytest.mark.parametrize('quality', [1, 20, 50, 80, 100])
@pytest.mark.parametrize('codec', list(Codec))
def test_a_face_is_encoded_to_the_bytes_that_the_robot_sends(codec: Codec, quality: int) -> None:
    for side in (12, 20, 48):
        luma = face_like(side, side)
        ours = coded_clips.encode_face(luma, codec.name.lower(), quality)
        assert ours == ferros.encode.encode(luma, codec, quality)


@pytest.mark.parametrize('side', [12, 20, 48])
def test_a_face_is_shrunk_to_the_pixels_that_the_robot_crops(side: int) -> None:
    luma = face_like(48, 3)
    np.testing.assert_array_equal(
        coded_clips.shrink(luma, side), crop(luma, Box(0, 0, 48, 48), side))


class Silent(recognition_pb2_grpc.RecognitionServicer):
    """Reads frames and says nothing."""

    def __init__(self) -> None:
        self.received = threading.Semaphore(0)

    def Recognize(self, requests: Any, context: Any) -> Iterator[wire.RecognizeResponse]:
        for _ in requests:
            self.received.release()
        yield from ()


class Counter:
    """Passes on a connection and counts what comes from the client."""

    def __init__(self, port: int) -> None:
        self.bytes = 0
        self._target = port
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            server = socket.create_connection(('127.0.0.1', self._target))
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()
            self._pass(client, server, True)

    def _pass(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.bytes += len(data) if counts else 0
                sink.sendall(data)

    def close(self) -> None:
        self._listener.close()


@contextlib.contextmanager
def counted_stream() -> Iterator[tuple[Counter, Silent, Any]]:
    """Yield a counter, the server behind it and a function that sends one message."""
    silent, waiting = Silent(), threading.Semaphore(0)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    recognition_pb2_grpc.add_RecognitionServicer_to_server(silent, server)
    counter = Counter(server.add_insecure_port('127.0.0.1:0'))
    server.start()
    messages: list[wire.RecognizeRequest | None] = []

    def requests() -> Iterator[wire.RecognizeRequest]:
        while True:
            waiting.acquire()
            message = messages.pop(0)
            if message is None:
                return
            yield message

    def send(message: wire.RecognizeRequest | None) -> None:
        messages.append(message)
        waiting.release()

    channel = grpc.insecure_channel(f'127.0.0.1:{counter.port}', options=CHANNEL_OPTIONS)
    call = recognition_pb2_grpc.RecognitionStub(channel).Recognize(requests())
    try:
        yield counter, silent, send
    finally:
        send(None)
        call.cancel()
        channel.close()
        server.stop(0).wait()
        counter.close()


@pytest.mark.parametrize('image_bytes', [90, 430, 1200])
def test_a_message_through_real_grpc_takes_the_bytes_that_are_counted(image_bytes: int) -> None:
    count = 40
    with counted_stream() as (counter, silent, send):
        for number in range(-1, count):
            frame = wire.FaceFrame(
                sequence=100_001 + number, face_id='fabcd123', stamp_ns=time.time_ns(),
                capture_monotonic_ns=time.monotonic_ns(), interval_ms=200, codec=wire.WEBP,
                image=bytes(image_bytes))
            send(wire.RecognizeRequest(frame=frame))
            assert silent.received.acquire(timeout=20)
            if number < 0:  # the connection's own first bytes are not a message's
                time.sleep(0.2)
                before = counter.bytes
        found = (counter.bytes - before) / count
    expected = coded_clips.message_bytes(image_bytes, 'webp') - coded_clips.SEGMENT_HEADER_BYTES
    # A clock that began a while ago is a byte or two longer; pings may come between.
    assert abs(found - expected) <= 3


def test_a_long_message_takes_more_segments() -> None:
    short, long = (coded_clips.message_bytes(size, 'jpeg') for size in (1000, 1500))
    assert long - short == 500 + coded_clips.SEGMENT_HEADER_BYTES


# -- what is measured ----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def engine(model: Path) -> OnnxEngine:
    return OnnxEngine(model)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp('ferplus'), {'valid': make_faces(28, 2)})


def test_frames_are_thinned_evenly_from_the_first() -> None:
    assert coded_clips.thinned(180, 30.0).tolist() == list(range(180))
    assert coded_clips.thinned(180, 10.0).tolist() == list(range(0, 180, 3))
    assert coded_clips.thinned(180, 2.0).tolist() == list(range(0, 180, 15))
    assert coded_clips.thinned(180, 1.0).tolist() == list(range(0, 180, 30))
    for rate in GridConfig().rates_fps:
        assert len(coded_clips.thinned(180, rate)) == 6 * rate


def test_the_camera_sees_the_face_before_anything_is_sent(engine: OnnxEngine) -> None:
    faces = make_faces(14, 4)
    scenes = draw(ClipConfig(length_s=1.0), 3, len(faces), 1)
    frames = coded_clips.camera_frames(faces, scenes)
    assert frames.shape == (3, 30, 48, 48) and frames.dtype == np.uint8
    small = scenes.sent_as(12, 30.0)
    np.testing.assert_array_equal(coded_clips.camera_frames(faces, small), frames)
    rough = streaming.render(
        streaming.torch.from_numpy(faces.luma).unsqueeze(1), small, *streaming.arrivals(small))
    assert np.abs(rough[:, 0].numpy().reshape(frames.shape).astype(int) - frames).mean() > 3


@pytest.mark.parametrize('rate', [30.0, 5.0, 1.0])
def test_clips_together_hold_the_labels_that_each_holds_alone(
    engine: OnnxEngine, rate: float
) -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(5, 90, tiny_model.FEATURES)).astype(np.float32)
    together = coded_clips.held(engine, features, 16, rate)
    ticks = coded_clips.thinned(90, rate)
    for row in range(5):
        logits = streaming.stream(engine, features[row, ticks], ticks,
                                  np.full(len(ticks), 16, np.float32))
        labels = logits[:, list(engine.info.served_indices)].argmax(1)
        alone = [labels[np.flatnonzero(ticks <= tick)[-1]] for tick in range(90)]
        assert together[row].tolist() == alone
    assert len(np.unique(together)) > 1


def test_a_coding_is_measured_through_the_robots_encoder_and_the_servers_decoder(
    engine: OnnxEngine
) -> None:
    faces = make_faces(14, 4)
    scenes = draw(ClipConfig(length_s=1.0), 3, len(faces), 1)
    frames, truth = coded_clips.camera_frames(faces, scenes), streaming.truths(faces, scenes)
    done: list[int] = []
    measured = coded_clips.measure(
        engine, frames, truth, Coding(16, 'webp', 50), (2.0, 30.0), done.append)
    assert sum(done) == truth.size and measured.right.shape == (2, 3)

    files = [ferros.encode.encode(crop(frame, Box(0, 0, 48, 48), 16), Codec.WEBP, 50)
             for frame in frames.reshape(-1, 48, 48)]
    sizes = [coded_clips.message_bytes(len(file), 'webp') for file in files]
    assert measured.bytes_p50 == round(np.percentile(sizes, 50))
    assert measured.bytes_p95 == round(np.percentile(sizes, 95))
    luma = np.stack([decode(file, 'webp', ImageLimits(65536, 65536)) for file in files])
    features = engine.encode(luma).reshape(3, 30, -1)
    right = coded_clips.held(engine, features, 16, 2.0) == truth
    np.testing.assert_allclose(measured.right[0], right.mean(1))


def test_a_grid_keeps_what_was_measured_beside_what_was_smoothed() -> None:
    config = GridConfig(sizes_px=(12, 24), rates_fps=(1.0, 30.0), codecs=('webp',),
                        qualities=(50,), clips=3)
    right = {12: [[0.2, 0.4, 0.6], [0.4, 0.6, 0.8]], 24: [[0.5, 0.7, 0.9], [0.3, 0.5, 0.7]]}
    grid = operating_grid.build({
        Coding(size, 'webp', 50): Measured(200 + size, 210 + size, np.array(right[size]))
        for size in config.sizes_px}, config)
    assert [cell.measured for cell in grid.cells] == pytest.approx([0.4, 0.6, 0.7, 0.5])
    # The two of 24 px are in the wrong order, and with them all of 12 px at 30 frames a second.
    assert [cell.point.accuracy for cell in grid.cells] == [0.4, 0.6, 0.6, 0.6]
    assert [cell.kept for cell in grid.cells] == [True, True, True, False]
    assert [(point.face_size_px, point.frame_rate_fps) for point in grid.points] == [
        (12, 1.0), (24, 1.0), (12, 30.0)]
    assert grid.noise.moved == pytest.approx(0.1)
    # Neighbours differ by the same in every clip: the clips are unequal, the steps are sure.
    assert grid.noise.level == pytest.approx(0.2 / np.sqrt(3)) and grid.noise.step < 1e-9


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('config') / 'few.yaml'
    path.write_text('sizes_px: [12, 16, 48]\nqualities: [20, 80]\nrates_fps: [1, 5, 30]\n'
                    'clips: 3\n')
    return path


def command(out: Path, data: Path, model: Path, few: Path, *more: object) -> int:
    return main(list(map(str, (
        'operating-points', '--data', data, '--model', model, '--config', few, '--out', out,
        '--cache', out.parent / 'cache', *more))))


def test_the_command_writes_a_list_a_table_and_a_picture_and_goes_on_where_it_was(
    data: Path, model: Path, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table, figure = (tmp_path / name for name in ('points.yaml', 'all.csv', 'points.png'))
    assert command(out, data, model, few, '--table', table, '--figure', figure) == 0
    shown = capsys.readouterr()
    assert 'left out: sizes above 16 px' in shown.err and f'wrote {out}' in shown.out
    check(out, sizes={12, 16}, rates={1.0, 5.0, 30.0}, qualities={20, 80})
    assert '3 clips of 6 s' in header_of(out) and 'simulated' in header_of(out).lower()
    assert cv2.imread(str(figure)) is not None

    rows = list(csv.DictReader(table.open()))
    points = yaml.safe_load(out.read_text())
    assert len(rows) == 2 * 2 * 2 * 3
    assert sum(row['kept'] == '1' for row in rows) == len(points)
    kept = {(row['face_size_px'], row['frame_rate_fps'], row['codec'], row['quality'],
             row['accuracy']) for row in rows if row['kept'] == '1'}
    assert kept == {(str(point['face_size_px']), str(point['frame_rate_fps']), point['codec'],
                     str(point['quality']), str(point['accuracy'])) for point in points}

    # As after a kill: one coding is missing, one was damaged.
    first = out.read_text()
    files = sorted((tmp_path / 'cache').iterdir())
    assert len(files) == 8
    files[0].unlink()
    files[5].write_text('{"bytes_p50": 3')
    assert command(out, data, model, few, '--table', table, '--figure', figure,
                   '--threads', 2) == 0
    shown = capsys.readouterr()
    assert '6 of 8 codings are in' in shown.err and f'{files[5]}: not a measurement' in shown.err
    assert out.read_text() == first


def test_another_model_or_other_scenes_are_measured_anew(
    data: Path, model: Path, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few_more = tmp_path / 'one.yaml'
    few_more.write_text('sizes_px: [12]\nqualities: [50]\nrates_fps: [1]\nclips: 2\n')
    out = tmp_path / 'points.yaml'
    assert command(out, data, model, few_more) == 0
    assert command(out, data, model, few_more, '--seed', 5) == 0
    assert ' codings are in ' not in capsys.readouterr().err
    assert '--seed 5' in header_of(out)
    assert len(list((tmp_path / 'cache').iterdir())) == 4


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('sizes_px: [24, 12]', 'sizes_px must rise, got (24, 12)'),
        ('sizes_px: [2]', 'sizes_px must be within 4..1024, got (2,)'),
        ('sizes_px: [24]', 'sizes_px (24,): expected one of 16 or less'),
        ('rates_fps: [60]', 'rates_fps must be within 0.1..30, got (60,)'),
        ('qualities: []', 'qualities must rise, got ()'),
        ('codecs: [avif]', "codecs must be some of ['jpeg', 'webp'], got ('avif',)"),
        ('clips: 1', 'clips must be 2 or more, got 1'),
        ('frames: 3', "unknown settings ['frames']"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    text: str, message: str, data: Path, model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, out = tmp_path / 'bad.yaml', tmp_path / 'points.yaml'
    config.write_text(text)
    assert command(out, data, model, config) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('ferros-cloud operating-points: ') and message in error
    assert not out.exists()


def test_a_missing_set_and_a_model_of_other_labels_are_one_clear_line(
    data: Path, model: Path, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'points.yaml'
    assert command(out, tmp_path / 'nowhere', model, few) == 1
    assert 'nowhere: no such file' in capsys.readouterr().err
    unmasked = tiny_model.write(tmp_path / 'unmasked', masked_labels=[])
    assert command(out, data, unmasked, few) == 1
    assert f'{unmasked} answers' in capsys.readouterr().err
    assert command(out, data, tmp_path, few) == 1
    assert 'model.json: cannot be read' in capsys.readouterr().err


def test_more_points_than_welcome_holds_are_refused(
    data: Path, model: Path, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operating_points, 'MAX_GRID_BYTES', 20)
    assert command(tmp_path / 'points.yaml', data, model, few) == 1
    assert 'Welcome has room for 20; measure fewer' in capsys.readouterr().err


def test_the_command_gives_the_model_its_copy_when_it_is_asked_to(
    data: Path, model: Path, few: Path, tmp_path: Path
) -> None:
    out, folder = tmp_path / 'points.yaml', tmp_path / 'model'
    shutil.copytree(model, folder)
    assert command(out, data, folder, few) == 0
    assert ModelInfo.load(folder).accuracy_grid == ()
    assert command(out, data, folder, few, '--into-model') == 0
    assert (folder / 'operating_points.yaml').read_bytes() == out.read_bytes()
    assert '--into-model' in header_of(out)
    served = ModelInfo.load(folder).accuracy_grid
    assert ferros.accuracy_grid.from_welcome(served) == ferros.accuracy_grid.read(out)


# -- what the server reads -----------------------------------------------------------------------


@pytest.mark.parametrize('name', grid_files.WRONG)
def test_a_model_with_a_wrong_point_is_refused_with_the_file_the_field_and_the_value(
    name: str, tmp_path: Path
) -> None:
    path = grid_files.write_wrong(tmp_path / 'grid.yaml', name)
    with pytest.raises(accuracy_grid.GridError) as error:
        accuracy_grid.read(path)
    for words in (f'{path}: point 2', 'expected', *grid_files.WRONG[name][1]):
        assert words in str(error.value)


@pytest.mark.parametrize('text', grid_files.NO_GRIDS, ids=lambda text: text[:20] or 'empty')
def test_a_model_whose_grid_is_no_list_of_points_is_refused(text: str, tmp_path: Path) -> None:
    folder = tiny_model.write(tmp_path / 'model')
    path = folder / 'operating_points.yaml'
    path.write_text(text)
    with pytest.raises(ModelError) as error:
        ModelInfo.load(folder)
    assert str(path) in str(error.value) and grid_files.NO_GRIDS[text] in str(error.value)


def test_a_grid_that_welcome_has_no_room_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'grid.yaml'
    points = accuracy_grid.read(grid_files.write(path, *[grid_files.GOOD] * 300))
    assert len(points) == 300 and accuracy_grid.size_bytes(points) <= 8192
    with pytest.raises(accuracy_grid.GridError, match=r'400 points take \d+ bytes, Welcome has'):
        accuracy_grid.read(grid_files.write(path, *[grid_files.GOOD] * 400))


def test_a_grid_that_was_measured_with_another_encoder_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_model.write(tmp_path / 'model')
    path = folder / 'operating_points.yaml'
    shutil.copy(COMMITTED, path)
    digest = ModelInfo.load(folder).sha256[ENCODER_FILE][:16]
    assert f'{path}: does not name the encoder {digest}' in caplog.text
    caplog.clear()
    path.write_text(f'# encoder {digest}\n{path.read_text()}')
    assert len(ModelInfo.load(folder).accuracy_grid) == 126
    assert not caplog.text


# -- the file that ships -------------------------------------------------------------------------


def header_of(path: Path) -> str:
    """Return the comments before the list, in one line."""
    lines = itertools.takewhile(lambda line: line.startswith('#'), path.read_text().splitlines())
    return ' '.join(line.removeprefix('#').strip() for line in lines)


def check(path: Path, sizes: set[int], rates: set[float], qualities: set[int]) -> list[Point]:
    """Return the points of a list that is as it should be."""
    rows = yaml.safe_load(path.read_text())
    assert isinstance(rows, list) and rows
    assert all(tuple(row) == FIELDS for row in rows)
    points = [Point(**row) for row in rows]
    for point in points:
        assert point.face_size_px in sizes and point.frame_rate_fps in rates
        assert point.codec in ('jpeg', 'webp') and point.quality in qualities
        assert isinstance(point.frame_rate_fps, float) and isinstance(point.accuracy, float)
        assert isinstance(point.bytes_p50, int) and isinstance(point.bytes_p95, int)
        assert 100 < point.bytes_p50 <= point.bytes_p95 < 5000
        assert 0 <= point.accuracy <= 1
    assert pareto.front(points) == points
    assert operating_points.grid_bytes(points) <= 8192
    return points


def test_the_list_that_ships_is_valid_and_has_its_command() -> None:
    config = GridConfig()
    points = check(COMMITTED, set(config.sizes_px), set(config.rates_fps), set(config.qualities))
    words = shlex.split(re.search(r'ferros-cloud .*?\.yaml', header_of(COMMITTED)).group())
    assert words[:2] == ['ferros-cloud', 'operating-points']
    assert words[words.index('--out') + 1] == 'config/operating_points.yaml'
    for codec in ('jpeg', 'webp'):
        assert {point.face_size_px for point in points if point.codec == codec} >= {12, 48}
        assert {point.frame_rate_fps for point in points if point.codec == codec} >= {1.0, 5.0}


def test_the_list_that_ships_is_of_the_model_that_ships() -> None:
    info = ModelInfo.load(tiny_model.SHIPPED)
    assert info.display in header_of(COMMITTED)
    for name in (ENCODER_FILE, TEMPORAL_FILE):
        assert info.sha256[name][:16] in header_of(COMMITTED)


def test_the_list_that_ships_and_the_models_copy_of_it_are_the_same() -> None:
    copy = tiny_model.SHIPPED / 'operating_points.yaml'
    assert copy.read_bytes() == COMMITTED.read_bytes()
    assert len(ModelInfo.load(tiny_model.SHIPPED).accuracy_grid) == 126


def test_webp_is_smaller_than_jpeg_in_the_list_that_ships() -> None:
    points = [Point(**row) for row in yaml.safe_load(COMMITTED.read_text())]
    sizes = {(point.codec, point.face_size_px, point.quality): point.bytes_p50 for point in points}
    pairs = {(side, quality): (sizes['webp', side, quality], size)
             for (codec, side, quality), size in sizes.items()
             if codec == 'jpeg' and ('webp', side, quality) in sizes}
    assert len(pairs) > 5 and (48, 50) in pairs
    assert all(webp < jpeg for webp, jpeg in pairs.values())


def test_every_limit_leaves_the_sender_something_to_send() -> None:
    points = [Point(**row) for row in yaml.safe_load(COMMITTED.read_text())]
    config = GridConfig()
    best = max(point.accuracy for point in points)
    for codec, size, rate in itertools.product(('jpeg', 'webp'), config.sizes_px,
                                               config.rates_fps):
        left = [point for point in points if point.codec == codec and point.face_size_px <= size
                and point.frame_rate_fps <= rate]
        assert left and max(point.accuracy for point in left) > 1 / 7
        if size == 48 and rate >= 10:
            assert max(point.accuracy for point in left) > best - 0.05
