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
`make study-smoke`: every command of the study, end to end, on data that it generates.

Drawn stripes stand for FER+, one free portrait with stripes over it for RAVDESS, random numbers
for pretrained weights. So it proves that the commands work and fit together, and nothing else: all
its records are smoke runs, and the page says so.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # of demo/, whose portrait the generated RAVDESS takes

OUT = ROOT / 'out/study-smoke'
SETTINGS = ROOT / 'config/smoke'
ACTORS = (1, 2)  # of two folds
COMMANDS = (
    'train-image --config {settings}/train_image.yaml --data {out}/ferplus --out {out}/encoder'
    ' --threads 1',
    'train-video --config {settings}/train_video.yaml --data {out}/ferplus'
    ' --encoder {out}/encoder/encoder.safetensors --out {out}/lstm --threads 1',
    'export --encoder {out}/encoder/encoder.safetensors --temporal {out}/lstm/temporal.safetensors'
    ' --data {out}/ferplus --clips 2 --out {out}/model --name smoke --version 0',
    'evaluate ferplus --model {out}/model --data {out}/ferplus --record'
    ' {out}/model/evaluation.json --study {out}/evaluation',
    'evaluate clips --model {out}/model --data {out}/ferplus --clips 3 --study {out}/evaluation',
    'train-image --config {settings}/paper_image.yaml --data {out}/ferplus --out {out}/resnet'
    ' --pretrained {out}/pretrained.safetensors --threads 1',
    'search --config {settings}/search_image.yaml --data {out}/ferplus --out {out}/search'
    ' --pretrained {out}/pretrained.safetensors --threads 1',
    'train-video --config {settings}/paper_video.yaml --data {out}/ravdess'
    ' --encoder {out}/resnet/resnet.safetensors --out {out}/video --threads 1',
    'report --runs {out} --out {out}/report',
)


def generate(out: Path) -> None:
    """Write the data and the pretrained weights that the commands read."""
    import torch
    from safetensors.torch import save_file
    from tiny_ferplus import make_faces, write_folder
    from tiny_ravdess import write_tree

    from cloud_server.training import settings
    from cloud_server.training.paper_image import PaperConfig
    from cloud_server.training.resnet import ResNet

    write_folder(out / 'ferplus', {'train': make_faces(320, 1), 'valid': make_faces(70, 2)})
    write_tree(out / 'ravdess', ACTORS)
    torch.manual_seed(0)
    resnet = ResNet(settings.read(PaperConfig, SETTINGS / 'paper_image.yaml', {}).resnet)
    weights = {name: value.contiguous() for name, value in resnet.state_dict().items()
               if not name.startswith(('head.', 'mean', 'std'))}
    save_file(weights, out / 'pretrained.safetensors')


def commands(out: Path) -> Iterator[list[str]]:
    """Return the arguments of every `ferros-cloud`, as typed in the root of the checkout."""
    places = {'out': shlex.quote(_short(out)), 'settings': _short(SETTINGS)}
    for command in COMMANDS:
        yield shlex.split(command.format(**places))


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def cpu_s() -> float:
    """Return the CPU time of this process and of those that it has waited for."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


def run(out: Path) -> Path:
    """Run everything into a folder that is not there yet; return the page."""
    out.mkdir(parents=True)
    began, spent = time.monotonic(), cpu_s()
    generate(out)
    _tell('generated data', began, spent)
    for arguments in commands(out):
        began, spent = time.monotonic(), cpu_s()
        ended = subprocess.run([sys.executable, '-m', 'cloud_server', *arguments], cwd=ROOT,
                               capture_output=True, text=True, check=False)
        if ended.returncode:
            raise SystemExit(f'ferros-cloud {shlex.join(arguments)}\n{ended.stdout}{ended.stderr}'
                             f'study-smoke: it ended with {ended.returncode}')
        _tell(f'ferros-cloud {shlex.join(arguments)}', began, spent)
    print(f'{"":>8}  {cpu_s():>5.1f} s of CPU in all')
    return out / 'report/study.html'


def _tell(what: str, began_s: float, spent_s: float) -> None:
    print(f'{time.monotonic() - began_s:>6.1f} s  {cpu_s() - spent_s:>5.1f} s CPU  {what}',
          flush=True)


def main() -> None:
    """Run it where it was run before, or in a folder of one's own."""
    parser = argparse.ArgumentParser(description='All commands of the study on generated data.')
    parser.add_argument('--out', type=Path, help=f'a new folder; default: {_short(OUT)}, anew')
    out = parser.parse_args().out
    if out is None:
        shutil.rmtree(OUT, ignore_errors=True)
    elif out.exists():
        raise SystemExit(f'study-smoke: {out} is there already, expected a new folder')
    page = run((out or OUT).resolve())
    print(f'study-smoke: everything ran; the page (smoke runs, they mean nothing): {_short(page)}')


if __name__ == '__main__':
    main()
