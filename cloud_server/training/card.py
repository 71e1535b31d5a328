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
`ferros-cloud card`: the model card of a folder, from what the commands left in it.

The prose is a template, the figures are those of model.json and evaluation.json, and nothing is
typed by hand: the committed card is the one that this command writes. With --runs the records of
the trainings (image.json, video.json) are put into evaluation.json first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from cloud_server.model_info import ModelError, ModelInfo
from cloud_server.training.evaluate import DEFAULT_MODEL

TEMPLATE = 'model_card.md.j2'
CARD = 'MODEL_CARD.md'
FIGURES = 'evaluation.json'
CONFIGS = Path(__file__).resolve().parent.parent.parent / 'config'
# What each run leaves, the key it gets, and what of it must be there.
IMAGE = ('image.json', ('settings', 'faces', 'twins_dropped', 'multiply_adds', 'history'))
VIDEO = ('video.json', ('settings', 'split', 'history'))
METHODS = {'frame': 'frame alone', 'mean_of_30': 'mean of 30 frames',
           'mode_of_30': 'mode of 30 frames', 'exponential': 'exponential', 'lstm': 'LSTM'}
WORDS = ('no', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')


class CardError(ValueError):
    """A card that cannot be written; says which file, what was expected and what was found."""


def merge(figures: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    """
    Put the records of trainings into the figures, in place of those that were there.

    Args:
        figures: the content of evaluation.json.
        folders: of the runs, in their order; each has an image.json, a video.json or both.

    Returns:
        the figures with train_image_1, train_image_2, ... and train_video.

    Raises:
        CardError: a folder without a record, a record that lacks something, a second video.json.

    """
    kept = {key: value for key, value in figures.items() if not key.startswith('train_')}
    images: list[dict[str, Any]] = []
    for folder in folders:
        found = [_record(folder, *kind) for kind in (IMAGE, VIDEO)]
        image, video = found
        if image is None and video is None:
            raise CardError(f'{folder}: expected {IMAGE[0]} or {VIDEO[0]}, found neither')
        if image is not None:
            image.setdefault('encoder', _digest(folder / 'encoder.safetensors'))
            image['config'] = settings_file('train_image*.yaml', image['settings'])
            images.append(image)
            kept[f'train_image_{len(images)}'] = image
        if video is not None:
            if 'train_video' in kept:
                raise CardError(f'{folder}: a second {VIDEO[0]}, expected one in all runs')
            # Its encoder is the one that lies beside it, where none is named.
            if image is not None:
                video.setdefault('encoder', image['encoder'])
            video['config'] = settings_file('train_video*.yaml', video['settings'])
            kept['train_video'] = video
    return kept


def _record(folder: Path, name: str, needed: Sequence[str]) -> dict[str, Any] | None:
    path = folder / name
    if not path.exists():
        return None
    found = _read(path)
    if missing := [key for key in needed if key not in found]:
        raise CardError(f'{path}: expected {list(needed)}, found no {", ".join(missing)}')
    if not found['history']:
        raise CardError(f'{path}: expected at least one epoch in the history, found none')
    return found


def _digest(path: Path) -> str | None:
    """Return the fingerprint by which runs name one another's weights (settings.file_digest)."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None


def settings_file(pattern: str, settings: Mapping[str, Any]) -> str | None:
    """Return the settings file in config/ that says what a run was made with, if there is one."""
    from cloud_server.training.image import ImageConfig
    from cloud_server.training.settings import SettingsError, read
    from cloud_server.training.video import VideoConfig

    for path in sorted(CONFIGS.glob(pattern)):
        try:
            config: ImageConfig | VideoConfig = (
                read(ImageConfig, path, {}) if 'image' in pattern else read(VideoConfig, path, {}))
        except SettingsError:
            continue  # of another recipe
        here = json.loads(json.dumps(asdict(config)))
        if all(here.get(key) == value for key, value in settings.items()):
            return f'config/{path.name}'
    return None


def render(folder: Path) -> str:
    """
    Return the card of a model folder.

    Raises:
        CardError: evaluation.json lacks something that it should have.
        ModelError: the folder is no model.

    """
    ModelInfo.load(folder)
    info = _read(folder / 'model.json')
    figures = _read(folder / FIGURES) if (folder / FIGURES).exists() else {}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).resolve().parent),
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )
    environment.filters.update(
        fixed=lambda value, digits: f'{value:.{digits}f}',
        signed=lambda value, digits: f'{value:+.{digits}f}',
        plain=lambda value: f'{value:g}',
        spaced=lambda text: METHODS.get(text, text),
        word=lambda count: WORDS[count] if count < len(WORDS) else str(count),
    )
    try:
        return environment.get_template(TEMPLATE).render(_context(info, figures))
    except (jinja2.UndefinedError, KeyError) as err:
        raise CardError(f'{folder / FIGURES}: {err}; measure it again with `ferros-cloud '
                        'evaluate --record`, or give the runs again with --runs') from err


def _context(info: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """Return what the template needs, with what follows from the figures."""
    runs = _runs(figures)
    shipped = runs[-1] if runs else None
    faces, clips = figures.get('ferplus_valid'), figures.get('clips_valid')
    speeds = [{'gflops': 2e-9 * shipped['multiply_adds'] * row['faces_per_s_best']
               if shipped else None, **row}
              for row in (figures.get('speed'), figures.get('int8_speed')) if row]
    return {
        'info': {'affect': {}, **info}, 'runs': runs, 'shipped': shipped, 'speeds': speeds,
        'self_contained': all(run['known'] for run in runs),
        'video': _video(figures['train_video'], runs) if 'train_video' in figures else None,
        'faces': faces, 'int8': figures.get('int8_ferplus_valid'),
        'sizes': _sizes(info['input_size_px'], faces) if faces else [],
        'robustness': figures.get('robustness_valid'),
        'clips': clips, 'grid': _grid(clips['cells']) if clips and 'cells' in clips else None,
        'method_names': [METHODS.get(name, name) for name in clips.get('methods', ())]
        if clips else [],
    }


def _runs(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the image trainings in their order, each knowing where it began."""
    runs: list[dict[str, Any]] = []
    while (key := f'train_image_{len(runs) + 1}') in figures:
        runs.append({'name': f'RUN{len(runs) + 1}', **figures[key]})
    names = {run['encoder']: run['name'] for run in runs if run.get('encoder')}
    for run in runs:
        weights = [each for each in (run.get('start'), *run.get('teachers', ())) if each]
        teachers = [names.get(each, f'weights {each}') for each in run.get('teachers', ())]
        start = run.get('start')
        begins = f"{names.get(start, f'weights {start}')}" if start else 'random weights'
        run |= {
            'known': 'start' in run and all(each in names for each in weights),
            'begins': begins if 'start' in run else 'not recorded',
            'taught': ' and '.join(teachers),
            'minutes': round(sum(epoch['seconds'] for epoch in run['history']) / 60),
            'command': ' '.join((
                f'ferros-cloud train-image --data PATH --out {run["name"]}',
                f'--config {run.get("config") or "SETTINGS"}',
                *((f'--start {begins}/encoder.safetensors',) if start else ()),
                *(('--teacher', *(f'{name}/encoder.safetensors' for name in teachers))
                  if teachers else ()),
            )),
        }
    return runs


def _video(record: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the training of the temporal part, with its encoder and its best epoch."""
    mine = [run for run in runs
            if record.get('encoder') and run.get('encoder') == record['encoder']]
    name = mine[0]['name'] if mine else 'ENCODER'
    return {
        **record,
        'encoder_name': f'the encoder of {name}' if mine else 'its encoder',
        'left_out': (mine[0]['faces'] if mine else record['split'])['temporal'],
        'unseen': not runs or runs[-1]['settings']['temporal'] >= record['split']['temporal'],
        'epochs': sum(epoch['epoch'] > 0 for epoch in record['history']),
        'best': min(record['history'], key=lambda epoch: epoch['held_out_loss']),
        'command': f'ferros-cloud train-video --data PATH --encoder {name}/encoder.safetensors '
                   f'--out TEMPORAL --config {record.get("config") or "SETTINGS"}',
    }


def _sizes(input_px: int, faces: Mapping[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Return the figures at each face size, the largest first."""
    full = {'accuracy': faces['accuracy'], **faces['confidence']}
    small = {int(side): row for side, row in faces['by_face_size_px'].items()}
    return sorted({input_px: full, **small}.items(), reverse=True)


def _grid(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the LSTM reaches over all cells."""
    gains = [cell['gain']['mean'] for cell in cells]
    delays = [cell['delay_s']['lstm'] for cell in cells]
    side = min(cell['face_size_px'] for cell in cells)
    smallest = [cell['gain']['mean'] for cell in cells if cell['face_size_px'] == side]
    return {
        'above': sum(gain >= 0 for gain in gains),
        'near': sum(gain >= -0.005 for gain in gains),
        'smallest_px': side, 'smallest': len(smallest),
        'point_above': sum(gain >= 0.01 for gain in smallest),
        'sure': sum(not cell['gain']['low'] <= 0 <= cell['gain']['high'] for cell in cells),
        'slower': _rows([cell for cell in cells if not _is_less(cell['delay_s'])]),
        'restless': _rows([cell for cell in cells if not _is_less(cell['false_flips_per_min'])]),
        'delay_s': None if None in delays else max(delays),
        'flips': max(cell['false_flips_per_min']['lstm'] for cell in cells),
    }


def _is_less(found: Mapping[str, float | None]) -> bool:
    """Tell whether the LSTM's figure is below the exponential average's; None is infinite."""
    mine, other = (math.inf if value is None else value
                   for value in (found['lstm'], found['exponential']))
    return mine < other


def _rows(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many cells these are, and their names: `48 px at 30, 15 fps; 16 px at 2 fps`."""
    rates: dict[int, list[str]] = {}
    for cell in cells:
        rates.setdefault(cell['face_size_px'], []).append(f'{cell["frame_rate_fps"]:g}')
    names = '; '.join(f'{side} px at {", ".join(fps)} fps' for side, fps in rates.items())
    return {'count': len(cells), 'names': names}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError) as err:
        raise CardError(f'{path}: cannot be read ({err})') from err
    if not isinstance(found, dict):
        raise CardError(f'{path}: expected an object, found {type(found).__name__}')
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `card`."""
    parser.add_argument('--model', type=Path, default=DEFAULT_MODEL, help='model folder')
    parser.add_argument('--runs', type=Path, nargs='+', default=[], metavar='RUN',
                        help='folders of train-image and train-video, in their order; the last '
                             'encoder is the one that ships')


def run(args: argparse.Namespace) -> int:
    """Run `card`."""
    path = args.model / FIGURES
    try:
        if args.runs:
            merged = merge(_read(path) if path.exists() else {}, args.runs)
            path.write_text(json.dumps(merged, indent=1) + '\n', 'utf-8')
        (args.model / CARD).write_text(render(args.model), 'utf-8')
    except (CardError, ModelError) as err:
        print(f'ferros-cloud card: {err}', file=sys.stderr)
        return 1
    print(f'wrote {args.model / CARD}')
    return 0
