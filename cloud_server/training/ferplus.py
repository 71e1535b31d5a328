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
FER+ (Barsoum 2016: ten taggers' votes for each FER-2013 face), as people have it on disk.

Three layouts are read: the official folders (`FER2013Train/label.csv` and PNG files beside it), a
zip of them, and the pair fer2013.csv + fer2013new.csv that the FER+ authors' script starts from.
A broken file is named and counted, and reading goes on; a set that is not what it should be stops.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

COLUMNS = (
    'neutral', 'happiness', 'surprise', 'sadness', 'anger', 'disgust', 'fear', 'contempt',
    'unknown', 'NF',
)
EMOTIONS = COLUMNS[:8]
SIDE_PX = 48
FOLDERS = {'train': 'FER2013Train', 'valid': 'FER2013Valid', 'test': 'FER2013Test'}
USAGES = {'train': 'Training', 'valid': 'PublicTest', 'test': 'PrivateTest'}
MAX_PROBLEMS_SHOWN = 10


class DatasetError(ValueError):
    """The data set is not what was promised: says where, what was expected and what was found."""


@dataclass(frozen=True)
class Faces:
    """
    One split.

    Attributes:
        names: file names as FER+ has them (fer0000000.png).
        luma: uint8 [N,48,48].
        votes: uint8 [N,10], taggers per column of COLUMNS.
        problems: one line per row that could not be used, with its path and the reason.

    """

    names: tuple[str, ...]
    luma: npt.NDArray[np.uint8]
    votes: npt.NDArray[np.uint8]
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Faces:
        """Return the faces of an index or a mask, in its order."""
        rows = np.flatnonzero(index) if index.dtype == np.bool_ else index
        names = tuple(self.names[row] for row in rows)
        return Faces(names, self.luma[rows], self.votes[rows], self.problems)


def load(path: Path, split: str, *, expected: int | None = None, progress: bool = True) -> Faces:
    """
    Read one split.

    Args:
        path: the folder of the official layout, a zip of it, a folder with fer2013.csv and
            fer2013new.csv, or fer2013.csv itself.
        split: train, valid or test.
        expected: how many faces the split must give; None accepts any number.
        progress: a bar with the time left on standard error.

    Raises:
        DatasetError: nothing usable there, or another number of faces than expected.

    """
    if split not in FOLDERS:
        raise DatasetError(f'split must be one of {sorted(FOLDERS)}, got {split!r}')
    if not path.exists():
        raise DatasetError(f'{path}: no such file or folder')
    if path.is_file() and path.suffix.lower() == '.zip':
        faces = _load_zip(path, split, progress)
    elif path.is_file():
        faces = _load_csv(path, path.with_name('fer2013new.csv'), split, progress)
    elif (path / 'fer2013.csv').is_file():
        faces = _load_csv(path / 'fer2013.csv', path / 'fer2013new.csv', split, progress)
    else:
        faces = _load_folder(path, split, progress)
    for problem in faces.problems[:MAX_PROBLEMS_SHOWN]:
        print(f'left out: {problem}', file=sys.stderr)
    if len(faces.problems) > MAX_PROBLEMS_SHOWN:
        print(f'left out: {len(faces.problems)} in all', file=sys.stderr)
    if not len(faces) or (expected is not None and len(faces) != expected):
        wanted = 'at least one face' if expected is None else f'{expected} faces'
        first = f'; first problem: {faces.problems[0]}' if faces.problems else ''
        raise DatasetError(
            f'{path}: expected {wanted} in the {split} split, found {len(faces)} '
            f'({len(faces.problems)} left out{first})'
        )
    return faces


def _load_zip(path: Path, split: str, progress: bool) -> Faces:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as err:
        raise DatasetError(f'{path}: not a readable zip ({err})') from err
    with archive:
        names = set(archive.namelist())
        suffix = f'{FOLDERS[split]}/label.csv'
        tables = sorted(name for name in names if name == suffix or name.endswith('/' + suffix))
        if not tables:
            raise DatasetError(_missing_split(path, split, suffix))
        folder = tables[0].removesuffix('label.csv')

        def read(name: str) -> bytes:
            if folder + name not in names:
                raise FileNotFoundError
            return archive.read(folder + name)

        table = archive.read(tables[0]).decode('utf-8', 'replace')
        return _load_official(table, f'{path}!{folder}', read, progress)


def _load_folder(path: Path, split: str, progress: bool) -> Faces:
    folder = path if path.name == FOLDERS[split] else path / FOLDERS[split]
    table = folder / 'label.csv'
    if not table.is_file():
        raise DatasetError(_missing_split(path, split, f'{FOLDERS[split]}/label.csv'))
    text = table.read_text('utf-8', 'replace')
    return _load_official(text, f'{folder}/', lambda name: (folder / name).read_bytes(), progress)


def _missing_split(path: Path, split: str, wanted: str) -> str:
    return (
        f'{path}: no {split} split there: expected {wanted}, or fer2013.csv and fer2013new.csv'
    )


def _load_official(
    table: str, where: str, read: Callable[[str], bytes], progress: bool
) -> Faces:
    """Read rows `name,"(box)",10 votes` and the PNG file of each."""
    rows = list(csv.reader(io.StringIO(table)))

    def faces() -> Iterator[tuple[str, npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | str]:
        for number, row in enumerate(rows, 1):
            at = f'{where}label.csv line {number}'
            if len(row) != 12 or '/' in row[0] or not row[0]:
                yield f'{at}: expected name, box and 10 votes, found {len(row)} columns'
                continue
            votes = _votes(row[2:])
            if votes is None:
                yield f'{at}: votes {row[2:]} are not ten whole numbers with a sum above 0'
                continue
            luma = _read_image(read, row[0])
            yield f'{where}{row[0]}: {luma}' if isinstance(luma, str) else (row[0], luma, votes)

    return _collect(faces(), len(rows), where, progress)


def _read_image(read: Callable[[str], bytes], name: str) -> npt.NDArray[np.uint8] | str:
    """Return the pixels, or what is wrong with them."""
    try:
        data = read(name)
    except FileNotFoundError:
        return 'missing'
    except (OSError, zipfile.BadZipFile) as err:
        return f'unreadable ({err})'
    if not data.endswith(b'IEND\xaeB\x60\x82'):  # OpenCV fills the rest of a cut PNG with grey
        return f'truncated or not a PNG ({len(data)} bytes)'
    luma = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if luma is None:
        return f'not a readable image ({len(data)} bytes)'
    if luma.shape != (SIDE_PX, SIDE_PX):
        return f'expected {SIDE_PX}x{SIDE_PX} pixels, found {luma.shape[1]}x{luma.shape[0]}'
    return luma.astype(np.uint8, copy=False)


def _load_csv(pixels: Path, votes: Path, split: str, progress: bool) -> Faces:
    """Read the row-aligned pair `emotion,pixels,Usage` and `Usage,Image name,10 votes`."""
    for file in (pixels, votes):
        if not file.is_file():
            raise DatasetError(f'{file}: missing; fer2013.csv and fer2013new.csv go together')
    csv.field_size_limit(1 << 20)
    with pixels.open(newline='') as left, votes.open(newline='') as right:
        pixel_rows, vote_rows = list(csv.reader(left)), list(csv.reader(right))
    _check_header(pixels, pixel_rows, ['emotion', 'pixels', 'Usage'])
    _check_header(votes, vote_rows, ['Usage', 'Image name', *COLUMNS])
    if len(pixel_rows) != len(vote_rows):
        raise DatasetError(
            f'{votes}: expected {len(pixel_rows) - 1} rows as in {pixels.name}, '
            f'found {len(vote_rows) - 1}'
        )
    usage = USAGES[split]

    def faces() -> Iterator[tuple[str, npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | str]:
        pairs = zip(pixel_rows[1:], vote_rows[1:], strict=True)
        for number, (left_row, right_row) in enumerate(pairs, 2):
            at = f'{votes} line {number}'
            if len(left_row) != 3 or len(right_row) != 12:
                yield f'{at}: expected 3 and 12 columns, found {len(left_row)}, {len(right_row)}'
                continue
            if left_row[2] != right_row[0]:
                yield f'{at}: Usage {right_row[0]!r} but {left_row[2]!r} in {pixels.name}'
                continue
            if left_row[2] != usage:
                continue
            name = right_row[1]
            if not name:
                continue  # the authors leave the name empty where a face is not to be used
            counts = _votes(right_row[2:])
            luma = _pixels(left_row[1])
            if counts is None:
                yield f'{at}: votes {right_row[2:]} are not ten whole numbers with a sum above 0'
            elif luma is None:
                yield f'{pixels} line {number}: expected {SIDE_PX * SIDE_PX} values of 0..255'
            else:
                yield name, luma, counts

    found = _collect(faces(), len(pixel_rows) - 1, str(pixels), progress)
    if not len(found) and not found.problems:
        raise DatasetError(f'{pixels}: no {split} split there: no row has the Usage {usage!r}')
    return found


def _check_header(path: Path, rows: list[list[str]], expected: list[str]) -> None:
    found = rows[0] if rows else []
    if found != expected:
        raise DatasetError(f'{path}: expected the header {",".join(expected)}, found {found}')


def _votes(cells: list[str]) -> npt.NDArray[np.uint8] | None:
    if not all(cell.strip().isascii() and cell.strip().isdigit() for cell in cells):
        return None
    counts = [int(cell) for cell in cells]
    return np.array(counts, np.uint8) if 0 < sum(counts) <= 255 else None


def _pixels(text: str) -> npt.NDArray[np.uint8] | None:
    try:
        values = np.array(text.split(), np.int64)
    except (ValueError, OverflowError):
        return None
    if values.size != SIDE_PX * SIDE_PX or values.min() < 0 or values.max() > 255:
        return None
    return values.astype(np.uint8).reshape(SIDE_PX, SIDE_PX)


def _collect(
    rows: Iterator[tuple[str, npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | str],
    total: int, where: str, progress: bool,
) -> Faces:
    names: list[str] = []
    luma: list[npt.NDArray[np.uint8]] = []
    votes: list[npt.NDArray[np.uint8]] = []
    problems: list[str] = []
    bar = tqdm(rows, total=total, desc=f'reading {Path(where).name}', disable=not progress,
               leave=False, unit='face')
    for row in bar:
        if isinstance(row, str):
            problems.append(row)
            continue
        names.append(row[0])
        luma.append(row[1])
        votes.append(row[2])
    empty = np.zeros((0, SIDE_PX, SIDE_PX), np.uint8), np.zeros((0, len(COLUMNS)), np.uint8)
    return Faces(
        tuple(names), np.stack(luma) if luma else empty[0],
        np.stack(votes) if votes else empty[1], tuple(problems),
    )


def majority(votes: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """
    Return the true class of each face in the seven-class protocol, -1 where it is left out.

    A class is true where it has more than half of all ten columns' votes; a face that contempt,
    unknown, not-a-face or nobody wins is left out. The FER+ validation split keeps 2857.
    """
    return _winner(votes, 7)


def authors_majority(votes: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """
    Return the true class in the FER+ authors' eight-class protocol, -1 where it is left out.

    Columns with a single vote count as outliers and are set to zero; then the class with more
    than half of what remains is true, contempt included. Validation keeps 3191.
    """
    return _winner(np.where(votes <= 1, 0, votes).astype(np.uint8), 8)


def _winner(votes: npt.NDArray[np.uint8], classes: int) -> npt.NDArray[np.intp]:
    counts = votes.astype(np.int64)
    best = counts.argmax(1)
    top = counts.max(1, initial=0)
    keep = (top * 2 > counts.sum(1)) & (best < classes)
    return np.where(keep, best, -1)


def fingerprints(luma: npt.NDArray[np.uint8]) -> list[bytes]:
    """Return one key per face, the same for identical and for mirrored pixels."""
    keys = []
    for face in luma:
        plain, mirrored = face.tobytes(), np.ascontiguousarray(face[:, ::-1]).tobytes()
        keys.append(hashlib.sha256(min(plain, mirrored)).digest())
    return keys


def without_twins(train: Faces, valid: Faces) -> Faces:
    """Drop the training faces whose pixels, mirrored too, occur in validation."""
    seen = set(fingerprints(valid.luma))
    keep = np.array([key not in seen for key in fingerprints(train.luma)], bool)
    return train.subset(keep)


def split_groups(
    faces: Faces, sizes: tuple[int, ...], seed: int
) -> tuple[npt.NDArray[np.intp], ...]:
    """
    Divide faces at random into parts of the given sizes and one part with the rest.

    Identical and mirrored faces stay in one part, so a part may exceed its size by a few.

    Raises:
        ValueError: the sizes leave nothing for the rest.

    """
    if sum(sizes) >= len(faces):
        raise ValueError(f'{len(faces)} faces cannot give parts of {sizes} and a rest')
    groups: dict[bytes, list[int]] = {}
    for row, key in enumerate(fingerprints(faces.luma)):
        groups.setdefault(key, []).append(row)
    ordered = [groups[key] for key in sorted(groups)]
    order = np.random.default_rng(seed).permutation(len(ordered))
    parts: list[list[int]] = [[]]
    for index in order:
        while len(parts) <= len(sizes) and len(parts[-1]) >= sizes[len(parts) - 1]:
            parts.append([])
        parts[-1].extend(ordered[index])
    return tuple(np.array(sorted(part), np.intp) for part in parts)


@dataclass(frozen=True)
class Splits:
    """
    FER+ as the trainings use it; no face and no twin of one lies in two of the parts.

    Attributes:
        encoder: the encoder learns from these.
        temporal: the encoder never sees these, so that the LSTM learns from features as uncertain
            as those of strangers.
        held_out: for selection, temperature and thresholds.
        valid: only ever reported.
        twins: training faces dropped because their pixels occur in valid.

    """

    encoder: Faces
    temporal: Faces
    held_out: Faces
    valid: Faces
    twins: int


def load_splits(
    path: Path, *, held_out: int, temporal: int, seed: int, progress: bool = True
) -> Splits:
    """Read and divide FER+ the same way for every training of one seed."""
    train, valid = (load(path, split, progress=progress) for split in ('train', 'valid'))
    return divide(train, valid, held_out=held_out, temporal=temporal, seed=seed)


def divide(train: Faces, valid: Faces, *, held_out: int, temporal: int, seed: int) -> Splits:
    """Divide the training split once the twins of validation are out of it."""
    kept = without_twins(train, valid)
    parts = split_groups(kept, (held_out, temporal), seed)
    return Splits(
        encoder=kept.subset(parts[2]), temporal=kept.subset(parts[1]),
        held_out=kept.subset(parts[0]), valid=valid, twins=len(train) - len(kept),
    )


def targets(
    votes: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """
    Return what a network is trained towards: distributions [N,8] and weights [N].

    The distribution is the emotions' votes, single votes left out as the authors do where other
    votes remain. The weight is the share of all taggers that saw an emotion: a face that most
    call unknown teaches little, one that most call not-a-face teaches nothing.
    """
    counts = votes[:, :8].astype(np.float32)
    sure = np.where(counts > 1, counts, 0)
    used = np.where(sure.sum(1, keepdims=True) > 0, sure, counts)
    total = used.sum(1, keepdims=True)
    shares = np.where(total > 0, used / np.maximum(total, 1), 1 / 8)
    everyone = np.maximum(votes.sum(1), 1)
    weight = votes[:, :8].sum(1) / everyone
    weight = np.where((votes[:, 9] * 2 > everyone) | (total[:, 0] == 0), 0, weight)
    return shares.astype(np.float32), weight.astype(np.float32)
