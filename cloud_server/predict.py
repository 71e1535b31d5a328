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
"""Recognise the faces in image and video files: `ferros-cloud predict`, the live path on files."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import cv2

from cloud_server.config import DEFAULT_MODEL
from cloud_server.decode import ImageLimits
from cloud_server.engine import Engine
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.media import Media, MediaError, open_media
from cloud_server.model_info import ModelError
from cloud_server.readings import Box, FileResult, Image, Reading, runs
from cloud_server.recognizer import Crop, Recognition, Recognizer
from cloud_server.session import Face

FACE_SOURCE_GROUP = 'ferros.face_source'
# From so many frames on progress is shown also where nobody seems to look.
LONG_VIDEO_FRAMES = 1800


class FaceSource(Protocol):
    """
    The robot half's detector and tracker, found by the entry point group `ferros.face_source`.

    It is made with the keywords detector ('haar' or 'yunet'), detector_model (a path, or empty),
    crop_size_px (side of the crops at most) and still (True: images have no order in time).
    """

    def update(self, image: Image, now_ns: int) -> Sequence[tuple[str, Box, Image]]:
        """
        Return the faces of the next image.

        Args:
            image: uint8 [h, w] luma or [h, w, 3] blue-green-red.
            now_ns: its time.

        Returns:
            For each face its id, its square (x, y, width, height) in px, and its luma crop.

        """


class Predictor:
    """Takes the frames of a file through detector, tracker and model, as the live path does."""

    def __init__(
        self, engine: Engine, make_source: Callable[[bool], FaceSource], rate_fps: float = 0.0
    ) -> None:
        """
        Join the parts.

        Args:
            engine: the model.
            make_source: makes the source of faces of one file from whether it is a still image.
            rate_fps: frames of a video that are looked at per second at most; 0: all.

        """
        self._recognizer = Recognizer(engine, ImageLimits(0, 0))
        self._make_source = make_source
        self._rate_fps = rate_fps

    def read(self, media: Media, result: FileResult) -> Iterator[list[Reading]]:
        """Yield the readings of each frame, after putting them into result."""
        source = self._make_source(media.is_still)
        faces: dict[str, Face] = {}
        interval_s = 1 / self._rate_fps if self._rate_fps else 0.0
        due_s = 0.0
        for time_s, image in media.frames:
            result.frames += 1
            result.duration_s = time_s
            readings: list[Reading] = []
            if time_s >= due_s - 1e-6:
                due_s = max(due_s + interval_s, time_s)
                interval_ms = round(1000 * interval_s)
                readings = self._look(image, time_s, interval_ms, source, faces, result)
                result.readings += readings
            yield readings

    def _look(
        self,
        image: Image,
        time_s: float,
        interval_ms: int,
        source: FaceSource,
        faces: dict[str, Face],
        result: FileResult,
    ) -> list[Reading]:
        stamp_ns = round(time_s * 1e9)
        found = list(source.update(image, stamp_ns))
        for face_id, _, luma in found:
            faces.setdefault(face_id, self._recognizer.new_face())
            if luma.size > result.portraits.get(face_id, luma[:0]).size:
                result.portraits[face_id] = luma.copy()
        recognised = self._recognizer.recognize(
            [Crop(luma, faces[face_id], stamp_ns, interval_ms) for face_id, _, luma in found]
        )
        return [
            Reading(
                time_s, face_id, box, r.label, r.confidence, r.probabilities, r.valence, r.arousal
            )
            for (face_id, box, _), r in zip(found, recognised, strict=True)
            if isinstance(r, Recognition)
        ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ferros-cloud predict`."""
    parser.add_argument('files', nargs='+', metavar='FILE', help='image or video')
    parser.add_argument('--json', action='store_true', help='one object per face and time')
    parser.add_argument('--plot', type=Path, metavar='OUT.png', help='draw the probabilities')
    parser.add_argument('--detector', choices=('haar', 'yunet'), default='haar')
    parser.add_argument(
        '--detector-model', default='', metavar='PATH', help='file of the detector'
    )
    parser.add_argument('--model', type=Path, default=DEFAULT_MODEL, metavar='FOLDER')
    parser.add_argument(
        '--rate', type=float, default=0.0, metavar='FPS', help='frames per second of a video (all)'
    )


def run(
    args: argparse.Namespace, make_face_source: Callable[..., FaceSource] | None = None
) -> int:
    """Recognise the files; 0 if all could be read, 1 if not, 2 if nothing could be done at all."""
    _silence_decoders()
    try:
        _check(args)
        engine = OnnxEngine(args.model, threads=min(4, os.cpu_count() or 1))
        make_source = _source_maker(args, make_face_source or _load_face_source(), engine)
    except (ModelError, _UsageError) as error:
        print(f'ferros-cloud predict: {error}', file=sys.stderr)
        return 2
    predictor = Predictor(engine, make_source, args.rate)
    results = [_predict_file(name, predictor, args, engine) for name in args.files]
    if args.plot:
        _plot(args.plot, results, engine)
    failed = sum(bool(result.problem) for result in results)
    if failed:
        print(f'{failed} of {len(results)} files could not be read', file=sys.stderr)
    return 1 if failed else 0


class _UsageError(ValueError):
    """What was asked for cannot be done."""


def _check(args: argparse.Namespace) -> None:
    """Find out before a long file is read what would fail after it."""
    if not 0 <= args.rate <= 1000:
        raise _UsageError(f'--rate is {args.rate}, expected 0 to 1000 frames per second')
    if args.plot and args.plot.suffix.lower() not in ('.png', '.pdf', '.svg'):
        raise _UsageError(f'--plot is {args.plot}, expected a name in .png, .pdf or .svg')
    if args.plot and not args.plot.resolve().parent.is_dir():
        raise _UsageError(f'--plot is {args.plot}, but {args.plot.parent} is not a folder')


def _load_face_source() -> Callable[..., FaceSource]:
    for entry in metadata.entry_points(group=FACE_SOURCE_GROUP):
        try:
            factory: Callable[..., FaceSource] = entry.load()
        except ImportError as error:
            raise _UsageError(f'the face detector {entry.value} is not there: {error}') from error
        return factory
    raise _UsageError(
        'no face detector: the ferros package is not installed in this environment'
        f' (nothing provides the entry point {FACE_SOURCE_GROUP})'
    )


def _source_maker(
    args: argparse.Namespace, factory: Callable[..., FaceSource], engine: Engine
) -> Callable[[bool], FaceSource]:
    def make(still: bool) -> FaceSource:
        return factory(
            detector=args.detector,
            detector_model=args.detector_model,
            crop_size_px=engine.info.input_size_px,
            still=still,
        )

    try:
        make(True)
    except (RuntimeError, ValueError, OSError) as error:
        raise _UsageError(f'the detector {args.detector} cannot be used: {error}') from error
    return make


def _predict_file(
    name: str, predictor: Predictor, args: argparse.Namespace, engine: Engine
) -> FileResult:
    result = FileResult(name, is_still=False)
    try:
        media = open_media(Path(name))
        result.is_still = media.is_still
        with _progress(media, name, args) as progress:
            for readings in predictor.read(media, result):
                progress.update()
                if args.json:
                    for reading in readings:
                        print(reading.as_json(name, engine.info.served_labels))
    except MediaError as error:
        result.problem = str(error)
    sys.stdout.flush()
    if not args.json and (result.frames or not result.problem):
        print('\n'.join(_table(result)), flush=True)
    if result.problem:
        print(f'{name}: {result.problem}', file=sys.stderr)
    return result


def _progress(media: Media, name: str, args: argparse.Namespace) -> Any:
    from tqdm import tqdm

    is_watched = sys.stderr.isatty() and not (args.json and sys.stdout.isatty())
    is_long = media.frame_count >= LONG_VIDEO_FRAMES
    return tqdm(
        total=media.frame_count or None,
        desc=Path(name).name,
        unit='frame',
        file=sys.stderr,
        disable=media.is_still or not (is_watched or is_long),
        # A terminal is told after a second, a log file every ten.
        delay=1 if is_watched else 0,
        mininterval=0.2 if is_watched else 10,
        leave=not is_watched,
        dynamic_ncols=True,
    )


def _table(result: FileResult) -> list[str]:
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    if result.is_still:
        lines = [result.name]
        rows = [
            (r.face_id, _box_text(r.box), r.label, f'{r.confidence:.2f}', *_affect_cells(r))
            for r in result.readings
        ]
        header = ('face', 'box (px)', 'label', 'confidence')
        if rows and len(rows[0]) > len(header):
            header += ('valence', 'arousal')
    else:
        lines = [f'{result.name}: {result.duration_s:.1f} s, {result.frames} frames']
        every_run = [run for readings in result.faces().values() for run in runs(readings)]
        rows = [
            (f'{r.start_s:.2f}', f'{r.end_s:.2f}', r.face_id, r.label, f'{r.confidence:.2f}')
            for r in sorted(every_run, key=lambda r: r.start_s)
        ]
        header = ('from (s)', 'to (s)', 'face', 'label', 'confidence')
    if not rows:
        return [*lines, '  no face']
    lines += _columns([header, *rows])
    if not result.is_still:
        lines += [_summary(face_id, readings) for face_id, readings in result.faces().items()]
    return lines


def _summary(face_id: str, readings: Sequence[Reading]) -> str:
    """Say in one line how often a face had which label, and where it lay on the whole."""
    labels = [reading.label for reading in readings]
    shares = sorted(((labels.count(label), label) for label in set(labels)), reverse=True)
    text = ', '.join(f'{label} {count / len(labels):.0%}' for count, label in shares)
    line = f'  {face_id} in {len(readings)} frames: {text}'
    if math.isnan(readings[0].valence):
        return line
    valence, arousal = (
        sum(numbers) / len(numbers)
        for numbers in zip(*((r.valence, r.arousal) for r in readings), strict=True)
    )
    return f'{line}; mean valence {valence:+.2f}, arousal {arousal:+.2f}'


def _affect_cells(reading: Reading) -> tuple[str, ...]:
    if math.isnan(reading.valence):
        return ()
    return f'{reading.valence:+.2f}', f'{reading.arousal:+.2f}'


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        '  ' + '  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _box_text(box: Box) -> str:
    x, y, width, height = (round(number) for number in box)
    return f'{x},{y} {width}x{height}'


def _plot(path: Path, results: Sequence[FileResult], engine: Engine) -> None:
    if not any(result.readings for result in results):
        print(f'no face in any file: {path} was not drawn', file=sys.stderr)
        return
    from cloud_server.plot import draw

    draw(path, results, engine.info)
    print(f'drawn: {path}', file=sys.stderr)


def _silence_decoders() -> None:
    """Let our own line about a bad file be the only one."""
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
    if hasattr(cv2, 'setLogLevel'):
        cv2.setLogLevel(0)
