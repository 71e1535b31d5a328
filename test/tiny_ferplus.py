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

"""A tiny FER+ in the official layouts: drawn faces, one pattern per emotion, made in a moment."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import cv2
import numpy as np

from cloud_server.training.ferplus import COLUMNS, FOLDERS, SIDE_PX, USAGES, Faces


def make_faces(count: int, seed: int) -> Faces:
    """Return faces whose emotion can be seen, mirrored too: it is the number of stripes."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(SIDE_PX)[:, None] / SIDE_PX, SIDE_PX, 1)
    luma, votes = [], []
    for index in range(count):
        emotion = index % 7
        stripes = 60 * np.sin(2 * np.pi * (emotion + 1) * y + rng.uniform(-0.5, 0.5))
        luma.append(np.clip(120 + stripes + rng.normal(0, 12, stripes.shape), 0, 255))
        row = np.zeros(len(COLUMNS), np.uint8)
        row[emotion] = 8
        row[(emotion + 1) % 7] += 2
        votes.append(row)
    names = tuple(f'fer{seed:03}{index:04}.png' for index in range(count))
    return Faces(names, np.stack(luma).astype(np.uint8), np.stack(votes))


def write_folder(root: Path, splits: dict[str, Faces]) -> Path:
    """Write the official layout."""
    for split, faces in splits.items():
        folder = root / FOLDERS[split]
        folder.mkdir(parents=True)
        with (folder / 'label.csv').open('w', newline='') as file:
            rows = csv.writer(file)
            for name, luma, votes in zip(faces.names, faces.luma, faces.votes, strict=True):
                rows.writerow([name, '(0, 0, 48, 48)', *map(int, votes)])
                cv2.imwrite(str(folder / name), luma)
    return root


def write_zip(path: Path, folder: Path) -> Path:
    """Pack an official layout."""
    with zipfile.ZipFile(path, 'w') as archive:
        for file in sorted(folder.rglob('*.*')):
            archive.write(file, file.relative_to(folder))
    return path


def write_csv_pair(folder: Path, splits: dict[str, Faces]) -> Path:
    """Write fer2013.csv and fer2013new.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / 'fer2013.csv').open('w', newline='') as left, (
        folder / 'fer2013new.csv'
    ).open('w', newline='') as right:
        pixels, labels = csv.writer(left), csv.writer(right)
        pixels.writerow(['emotion', 'pixels', 'Usage'])
        labels.writerow(['Usage', 'Image name', *COLUMNS])
        for split, faces in splits.items():
            for name, luma, votes in zip(faces.names, faces.luma, faces.votes, strict=True):
                pixels.writerow([0, ' '.join(map(str, luma.ravel())), USAGES[split]])
                labels.writerow([USAGES[split], name, *map(int, votes)])
    return folder
