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
`ferros-cloud operating-points`: what each way of sending a face costs and is worth.

The list steers the robot's sender. Each face size, codec and quality is sent once, at 30 frames a
second, and thinned for the lower rates; the same scenes are shown in every cell, so that cells
differ by what was done to the frames alone. What was measured is kept in --cache: started again,
the command goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
import torch
from tqdm import tqdm

from cloud_server import accuracy_grid
from cloud_server.accuracy_grid import MAX_BYTES as MAX_GRID_BYTES
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.model_info import ENCODER_FILE, TEMPORAL_FILE, ModelError
from cloud_server.training import coded_clips, pareto, settings, streaming
from cloud_server.training.clips import CLOCK_HZ, ClipConfig, draw
from cloud_server.training.coded_clips import Coding, Measured
from cloud_server.training.evaluate import DEFAULT_MODEL
from cloud_server.training.ferplus import EMOTIONS, SIDE_PX, DatasetError, Faces, load, majority
from cloud_server.training.operating_grid import Grid, GridConfig, Noise, build
from cloud_server.training.pareto import Point
from cloud_server.training.settings import SettingsError

CACHE_FORMAT = 1
COLUMNS = 95


def measure_all(
    engine: OnnxEngine, faces: Faces, config: GridConfig, cache: Path, threads: int = 1
) -> dict[Coding, Measured]:
    """
    Measure every coding that is not in the cache yet; the same whatever the number of threads.

    Args:
        engine: the model.
        faces: those with a majority; every one may be shown.
        config: what is measured.
        cache: folder of what was measured before, by this model on these scenes.
        threads: codings that are measured at one time.

    """
    scenes = draw(ClipConfig(), config.clips, len(faces), config.seed)
    truth = streaming.truths(faces, scenes)
    frames = coded_clips.camera_frames(faces, scenes)
    key = _key(engine, frames, truth, config.rates_fps)
    cache.mkdir(parents=True, exist_ok=True)
    found = {coding: _cached(_cache_file(cache, key, coding), config)
             for coding in config.codings()}
    missing = [coding for coding, measured in found.items() if measured is None]
    if len(missing) < len(found):
        print(f'{len(found) - len(missing)} of {len(found)} codings are in {cache} already',
              file=sys.stderr)
    with tqdm(total=len(missing) * truth.size, desc='sending', unit='face', unit_scale=True,
              leave=False) as bar:
        lock = Lock()

        def advance(faces_done: int) -> None:
            with lock:
                bar.update(faces_done)

        def measure(coding: Coding) -> Measured:
            measured = coded_clips.measure(
                engine, frames, truth, coding, config.rates_fps, advance)
            settings.write_atomically(_cache_file(cache, key, coding), _to_json(measured))
            return measured

        found.update(zip(missing, _together(measure, missing, threads), strict=True))
    return {coding: measured for coding, measured in found.items() if measured is not None}


def _together(
    measure: Callable[[Coding], Measured], codings: Sequence[Coding], threads: int
) -> list[Measured]:
    """Measure several codings at a time: OpenCV and ONNX Runtime let other threads run."""
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(measure, codings))
    finally:
        pool.shutdown(cancel_futures=True)


def _key(
    engine: OnnxEngine, frames: coded_clips.Frames, truth: coded_clips.Labels,
    rates_fps: Sequence[float],
) -> str:
    """Return a fingerprint of all that decides a coding's figures besides the coding."""
    digest = hashlib.sha256()
    info = engine.info
    graphs = [(name, info.sha256[name]) for name in (ENCODER_FILE, TEMPORAL_FILE)]
    decides = (CACHE_FORMAT, graphs, info.served_indices, info.temperature, frames.shape,
               list(rates_fps), cv2.__version__)
    digest.update(json.dumps(decides).encode())
    digest.update(frames.tobytes())
    digest.update(truth.tobytes())
    return digest.hexdigest()[:16]


def _cache_file(cache: Path, key: str, coding: Coding) -> Path:
    return cache / '{}_{:03}px_{}_q{:03}.json'.format(key, *coding)


def _to_json(measured: Measured) -> bytes:
    return json.dumps({
        'bytes_p50': measured.bytes_p50, 'bytes_p95': measured.bytes_p95,
        'right': measured.right.tolist(),
    }).encode()


def _cached(path: Path, config: GridConfig) -> Measured | None:
    """Return what was measured before; None where nothing was, or not all of it."""
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text('utf-8'))
        right = np.array(stored['right'], np.float64)
        if right.shape == (len(config.rates_fps), config.clips):
            return Measured(int(stored['bytes_p50']), int(stored['bytes_p95']), right)
    except (ValueError, KeyError, TypeError):
        pass
    print(f'{path}: not a measurement of {config.clips} clips; measured again', file=sys.stderr)
    return None


def grid_bytes(points: Sequence[Point]) -> int:
    """Return what a list takes in Welcome."""
    return accuracy_grid.size_bytes(accuracy_grid.to_wire(point._asdict()) for point in points)


def to_yaml(points: Sequence[Point], header: Sequence[str]) -> str:
    """Return the file: comments, then one point per line."""
    lines = [f'# {line}'.rstrip() for line in header]
    for point in points:
        fields = ', '.join(f'{name}: {value}' for name, value in point._asdict().items())
        lines.append(f'- {{{fields}}}')
    return '\n'.join(lines) + '\n'


def header(
    grid: Grid, config: GridConfig, engine: OnnxEngine, faces: Faces, command: str
) -> list[str]:
    """Return what a reader must know before the numbers."""
    info = engine.info
    paragraphs = [
        'What each way of sending a face costs and is worth; the sender steers by this list.'
        ' Written by a command, not by hand:',
        f'    {command}',
        f'Model: {info.display}, encoder {info.sha256[ENCODER_FILE][:16]}, temporal part'
        f' {info.sha256[TEMPORAL_FILE][:16]} (sha256), fp32.',
        '',
        'accuracy: streaming accuracy, 0..1: at each instant of a'
        f' {CLOCK_HZ} Hz clock the label of the newest frame sent so far against the truth at that'
        ' instant. A label is there as soon as its frame was taken: what the link adds is not in'
        f' it. Simulated clips of FER+ validation faces: {config.clips} clips of'
        f' {ClipConfig().length_s:g} s (seed {config.seed}) of the {len(faces)} faces with a'
        ' majority, about half of them cross-fading into another face; the same clips in every'
        f' cell. Real codecs and the served model, frame by frame (OpenCV {cv2.__version__}).',
        _about_noise(grid.noise),
        '',
        _about_bytes(),
        '',
        _about_choice(grid),
        '',
    ]
    return [line for paragraph in paragraphs for line in _wrapped(paragraph)]


def _about_noise(noise: Noise) -> str:
    return (
        f'Standard errors over the clips: {noise.level:.3f} for the level that all points share;'
        f' for the difference of neighbouring cells, clip by clip, {noise.step:.4f} (median) to'
        f' {noise.step_most:.4f}. So that this noise steers nobody, the accuracy of each codec is'
        ' made to rise, or stay, with size, quality and frame rate (isotonic regression, least'
        f' squares): it moved a cell by {noise.moved:.4f} at most.'
    )


def _about_bytes() -> str:
    image_bytes = 400
    around = coded_clips.message_bytes(image_bytes, 'webp') - image_bytes
    framing = coded_clips.GRPC_PREFIX_BYTES + coded_clips.HTTP2_HEADER_BYTES
    segment = coded_clips.SEGMENT_HEADER_BYTES
    return (
        'bytes_p50, bytes_p95: of one message on the link, median and 95th percentile over all'
        f' frames: the image and about {around} bytes around it, which are the fields of'
        f' FaceFrame, {framing} of gRPC and HTTP/2, and {segment} of TCP (with timestamps) and'
        f' IPv4 for each {coded_clips.SEGMENT_BYTES}. A sender that compares these with what it'
        f' sends counts RecognizeRequest.ByteSize() + {framing} + {segment} per segment. Not in'
        ' it: 22 of TLS, and the acknowledgements and window updates that answers cause on their'
        ' way.'
    )


def _about_choice(grid: Grid) -> str:
    points = grid.points
    return (
        'Left out: points that another one of the same codec replaces, being no larger, no more'
        ' frequent, no longer (p50 and p95) and no less accurate. So within any limits on codec,'
        ' face size, frame rate, length of a message and bytes per second the best accuracy of'
        f' the {len(grid.cells)} measured cells is still here: {len(points)} points, sorted by'
        f' frame_rate_fps x bytes_p50, {grid_bytes(points)} bytes in Welcome. Where only bytes'
        f' per second are limited, {len(pareto.global_front(points))} of them are the Pareto'
        ' front.'
    )


def _wrapped(paragraph: str) -> Iterator[str]:
    if not paragraph or paragraph.startswith(' '):  # a command stays in one line, to be copied
        yield paragraph
    else:
        yield from textwrap.wrap(paragraph, COLUMNS, break_on_hyphens=False,
                                 break_long_words=False)


def to_csv(grid: Grid) -> str:
    """Return all cells, those left out too, as a table."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator='\n')
    table.writerow([*Point._fields, 'accuracy_measured', 'standard_error', 'kept'])
    for cell in grid.cells:
        table.writerow([*cell.point, f'{cell.measured:.4f}', f'{cell.standard_error:.4f}',
                        int(cell.kept)])
    return text.getvalue()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `operating-points`."""
    parser.add_argument('--data', type=Path, required=True, help='FER+: folder, zip or CSV pair')
    parser.add_argument('--out', type=Path, required=True,
                        help='YAML file to write (config/operating_points.yaml)')
    parser.add_argument('--model', type=Path, default=DEFAULT_MODEL, help='model folder')
    parser.add_argument('--into-model', action='store_true',
                        help=f'also write it to the model folder as {accuracy_grid.FILE}, from'
                             ' where the server sends it to robots')
    parser.add_argument('--config', type=Path,
                        help='YAML of settings: sizes_px, rates_fps, codecs, qualities, clips,'
                             ' seed')
    parser.add_argument('--clips', type=int, help=f'default {GridConfig.clips}')
    parser.add_argument('--seed', type=int, help=f'default {GridConfig.seed}')
    parser.add_argument('--figure', type=Path, help='picture to draw (docs/operating_points.png)')
    parser.add_argument('--table', type=Path, help='CSV file of all cells, those left out too')
    parser.add_argument('--cache', type=Path, default=Path('out/operating_points'),
                        help='folder of what was measured; started again, the command goes on')
    parser.add_argument('--threads', type=int, default=1,
                        help='codings that are measured at one time, each on one core')


def run(args: argparse.Namespace) -> int:
    """Run `operating-points`."""
    try:
        config = settings.read(GridConfig, args.config, {'clips': args.clips, 'seed': args.seed})
        if args.threads < 1:
            raise SettingsError(f'--threads is {args.threads}, expected 1 or more')
        _write(args, config)
    except (DatasetError, ModelError, SettingsError, OSError) as err:
        print(f'ferros-cloud operating-points: {err}', file=sys.stderr)
        return 1
    return 0


def _write(args: argparse.Namespace, config: GridConfig) -> None:
    torch.set_num_threads(args.threads)
    engine = OnnxEngine(args.model)
    if engine.info.served_labels != EMOTIONS[:7]:
        raise ModelError(f'{args.model} answers {engine.info.served_labels},'
                         f' faces of FER+ with a majority have {EMOTIONS[:7]}')
    config = _fitting(config, engine)
    faces = load(args.data, 'valid')
    faces = faces.subset(majority(faces.votes) >= 0)
    if not len(faces):
        raise DatasetError(f'{args.data}: no face of the valid split has a majority')
    grid = build(measure_all(engine, faces, config, args.cache, args.threads), config)
    points = grid.points
    size = grid_bytes(points)
    if size > MAX_GRID_BYTES:
        raise SettingsError(f'{len(points)} points take {size} bytes, Welcome has room for'
                            f' {MAX_GRID_BYTES}; measure fewer sizes, rates or qualities')
    text = to_yaml(points, header(grid, config, engine, faces, _command(args, config)))
    _save(args.out, text)
    if args.into_model:
        _save(args.model / accuracy_grid.FILE, text)
    if args.table:
        _save(args.table, to_csv(grid))
    if args.figure:
        from cloud_server.training import operating_points_figure

        args.figure.parent.mkdir(parents=True, exist_ok=True)
        operating_points_figure.draw(args.figure, grid, engine.info.display, config.clips)
    best = max(points, key=lambda point: point.accuracy)
    print(f'wrote {args.out}: {len(points)} of {len(grid.cells)} cells, best accuracy'
          f' {best.accuracy} from {best.bytes_per_s * 8 / 1000:.1f} kbit/s')


def _fitting(config: GridConfig, engine: OnnxEngine) -> GridConfig:
    """Return the settings without sizes that the faces do not have or the model cannot use."""
    most = min(SIDE_PX, engine.info.input_size_px)
    sizes = tuple(size for size in config.sizes_px if size <= most)
    if not sizes:
        raise SettingsError(f'sizes_px {config.sizes_px}: expected one of {most} or less: FER+'
                            f' has {SIDE_PX} pixels, the model uses {engine.info.input_size_px}')
    if sizes != config.sizes_px:
        print(f'left out: sizes above {most} px', file=sys.stderr)
    return GridConfig(sizes, config.rates_fps, config.codecs, config.qualities, config.clips,
                      config.seed)


def _command(args: argparse.Namespace, config: GridConfig) -> str:
    """Return the command, to be typed again at the repository's root."""
    words = ['ferros-cloud operating-points --data FER+']
    if args.model.resolve() != DEFAULT_MODEL:
        words.append(f'--model {_shown(args.model)}')
    if args.config:
        words.append(f'--config {_shown(args.config)}')
    words.append(f'--clips {config.clips}')
    if config.seed != GridConfig.seed:
        words.append(f'--seed {config.seed}')
    words.append(f'--out {_shown(args.out)}')
    for name in ('figure', 'table'):
        if getattr(args, name):
            words.append(f'--{name} {_shown(getattr(args, name))}')
    if args.into_model:
        words.append('--into-model')
    return ' '.join(words)


def _shown(path: Path) -> str:
    """Return a path as seen from here, or its name where it lies elsewhere."""
    here = Path.cwd()
    absolute = path.resolve()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else absolute.name


def _save(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    settings.write_atomically(path, text.encode())
