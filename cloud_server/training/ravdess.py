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
RAVDESS (Livingstone and Russo 2018) as it is downloaded: Actor_01 .. Actor_24 with their files.

A file is named by seven fields of two digits, Modality-VocalChannel-Emotion-Intensity-Statement-
Repetition-Actor. Modality 01 (picture and sound) and 02 (picture alone) are the same take, of
which one file is used: 01 where it can be read, else 02. Nothing here looks into the files. What
is not used is counted with its reason, and what should not be so is named; a tree that is not
RAVDESS stops at once.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cloud_server.training.ferplus import DatasetError

# By the codes 01 to 08, under our names; an emotion is an index into this.
EMOTIONS = (
    'neutral', 'calm', 'happiness', 'sadness', 'anger', 'fear', 'disgust', 'surprise',
)
CALM = EMOTIONS.index('calm')
NEUTRAL = EMOTIONS.index('neutral')
ACTORS = tuple(range(1, 25))
CHANNELS = ('speech', 'song')  # by the codes 01 and 02
SILENT_ACTOR = 18  # has no songs
SUNG_EMOTIONS = range(1, 7)
AUDIO_ONLY = 3

# Why something is not used. Every file is either used or counted under one of the reasons;
# `missing` alone counts files that are not there.
REASONS = {
    'audio_only': 'files without a picture (modality 03)',
    'same_take': 'files that show the same take as the one that is used (modality 01 and 02)',
    'other_channel': 'songs where speech is studied, or speech where songs are',
    'duplicate': 'files that lie in two folders',
    'mislabelled': 'files whose name is not, or cannot be, that of a recording',
    'missing': 'recordings of RAVDESS that are not there',
    'unreadable': 'files that are empty, truncated or no video',
    'wrong_format': 'videos of another size or frame rate than RAVDESS has',
    'no_face': 'clips in which no face is found',
}

# Neither the paper nor RAVDESS divides the actors; these divisions are published. Five: Luna-
# Jimenez et al., Sensors 21(22):7665, 2021. Six: Su et al., MSAF, 2020.
SPLITS: dict[str, tuple[tuple[int, ...], ...]] = {
    'five_fold': (
        (2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24),
        (1, 4, 9, 22),
    ),
    'six_fold': tuple(tuple(range(first, first + 4)) for first in range(1, 25, 4)),
}
HELD_OUT = 'held_out'  # a list of actors of one's own

_FIELDS = re.compile(r'\d\d(-\d\d){6}')
_FOLDER = re.compile(r'Actor_(\d\d)')
_HIGHEST = (3, 2, 8, 2, 2, 2, 24)
_NAMES = ('modality', 'vocal channel', 'emotion', 'intensity', 'statement', 'repetition', 'actor')


@dataclass(frozen=True)
class Clip:
    """
    One take.

    Attributes:
        name: its fields without the modality, unique.
        files: the files that show it, in the order in which to try them.
        emotion: index into EMOTIONS.
        actor: 1 to 24.

    """

    name: str
    files: tuple[Path, ...]
    emotion: int
    actor: int


@dataclass(frozen=True)
class Recordings:
    """
    What a tree has.

    Attributes:
        clips: sorted by actor and name.
        expected: how many clips a complete RAVDESS has of what is studied.
        skipped: files per reason of REASONS.
        problems: one line per thing that should not be so, with its path and the reason.

    """

    clips: tuple[Clip, ...]
    expected: int
    skipped: Counter[str]
    problems: tuple[str, ...]

    @property
    def actors(self) -> tuple[int, ...]:
        """The actors that have a clip."""
        return tuple(sorted({clip.actor for clip in self.clips}))


def scan(root: Path, channels: Sequence[str] = ('speech',)) -> Recordings:
    """
    Find the takes in a tree.

    Args:
        root: the folder with Actor_NN in it, or in folders of it (as the archives unpack).
        channels: which of CHANNELS are studied; songs have no disgust, no surprise and 23 actors.

    Raises:
        DatasetError: not RAVDESS, or none of its videos there.

    """
    if unknown := sorted(set(channels) - set(CHANNELS)):
        raise DatasetError(f'channels must be of {CHANNELS}, got {unknown}')
    folders = _folders(root)
    skipped: Counter[str] = Counter()
    problems: list[str] = []
    takes: dict[str, dict[int, Path]] = {}
    for file in (file for folder in folders for file in sorted(folder.iterdir())):
        if file.name.startswith('.'):
            continue  # what file managers leave
        fields = _fields(file)
        if isinstance(fields, str):
            skipped['mislabelled'] += 1
            problems.append(f'{file}: {fields}')
        elif fields[0] == AUDIO_ONLY:
            skipped['audio_only'] += 1
        elif CHANNELS[fields[1] - 1] not in channels:
            skipped['other_channel'] += 1
        elif fields[0] in (take := takes.setdefault(_name(fields), {})):
            skipped['duplicate'] += 1
            problems.append(f'{file}: is also {take[fields[0]]}')
        else:
            take[fields[0]] = file
    found = [_clip(name, take) for name, take in takes.items()]
    clips = tuple(sorted(found, key=lambda clip: (clip.actor, clip.name)))
    skipped['same_take'] += sum(len(clip.files) - 1 for clip in clips)
    wanted = _wanted(channels)
    if not clips:
        counts = ', '.join(f'{count} {REASONS[reason]}' for reason, count in skipped.items()
                           if count)
        first = f'; first problem: {problems[0]}' if problems else ''
        raise DatasetError(f'{root}: expected {len(wanted)} clips ({" and ".join(channels)}, '
                           f'NN-...-NN.mp4), found none; found {counts or "no file"}{first}')
    absent = sorted(set(wanted) - set(takes), key=lambda name: (name[-2:], name))
    skipped['missing'] += len(absent)
    problems += _missing(root, absent, {clip.actor for clip in clips})
    return Recordings(clips, len(wanted), +skipped, tuple(problems))


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise DatasetError(f'{root}: expected the folder of RAVDESS, found '
                           f'{"a file" if root.exists() else "nothing"}')
    found = sorted(folder for folder in (*root.glob('Actor_*'), *root.glob('*/Actor_*'))
                   if folder.is_dir())
    if not found:
        names = sorted(each.name for each in root.iterdir())
        shown = ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
        advice = '; unpack its archives first' if any(n.endswith('.zip') for n in names) else ''
        raise DatasetError(f'{root}: expected the folders Actor_01 to Actor_24 of RAVDESS, found '
                           f'{shown or "an empty folder"}{advice}')
    return found


def _fields(file: Path) -> tuple[int, ...] | str:
    """Return the seven fields of a file's name, or what is wrong with it."""
    folder = _FOLDER.fullmatch(file.parent.name)
    if folder is None or int(folder[1]) not in ACTORS:
        return f'expected a folder Actor_01 to Actor_24, found {file.parent.name}'
    if not _FIELDS.fullmatch(file.stem) or file.suffix.lower() not in ('.mp4', '.wav'):
        return 'expected a name of seven fields of two digits, NN-NN-NN-NN-NN-NN-NN.mp4'
    fields = tuple(int(part) for part in file.stem.split('-'))
    for name, value, highest in zip(_NAMES, fields, _HIGHEST, strict=True):
        if not 1 <= value <= highest:
            return f'expected {name} 01 to {highest:02}, found {value:02}'
    modality, channel, emotion, intensity = fields[:4]
    if fields[6] != int(folder[1]):
        return f'expected actor {folder[1]} as its folder says, found {fields[6]:02}'
    if (modality == AUDIO_ONLY) != (file.suffix.lower() == '.wav'):
        return f'modality {modality:02} does not go with {file.suffix}'
    if emotion == 1 and intensity == 2:
        return 'expected intensity 01 of neutral, which has no other, found 02'
    if channel == 2 and emotion not in SUNG_EMOTIONS:
        return f'expected emotion 01 to 06 of a song, found {emotion:02}'
    return fields


def _name(fields: tuple[int, ...]) -> str:
    return '-'.join(f'{value:02}' for value in fields[1:])


def _clip(name: str, take: dict[int, Path]) -> Clip:
    fields = [int(part) for part in name.split('-')]
    return Clip(name, tuple(take[modality] for modality in sorted(take)), fields[1] - 1, fields[5])


def _wanted(channels: Sequence[str]) -> list[str]:
    """Return the names of all takes of a complete RAVDESS: 1,440 of speech, 1,012 of song."""
    fields = itertools.product((0,), (1, 2), range(1, 9), (1, 2), (1, 2), (1, 2), ACTORS)
    return [
        _name(each) for each in fields
        if CHANNELS[each[1] - 1] in channels and not (each[2] == 1 and each[3] == 2)
        and (each[1] == 1 or (each[2] in SUNG_EMOTIONS and each[6] != SILENT_ACTOR))
    ]


def _missing(root: Path, absent: Sequence[str], present: set[int]) -> Iterator[str]:
    """Name the absent takes of actors who are there, then the absent actors."""
    for name in absent:
        if int(name[-2:]) in present:
            yield f'{root / f"Actor_{name[-2:]}" / f"01-{name}.mp4"}: missing'
    for actor, count in sorted(Counter(name[-2:] for name in absent).items()):
        if int(actor) not in present:
            yield f'{root / f"Actor_{actor}"}: missing with its {count} clips'


class LeakError(ValueError):
    """A division of the actors that would test on somebody it has learnt from; says whom."""


@dataclass(frozen=True)
class Fold:
    """
    Who is learnt from and who is tested: actors, never clips.

    Attributes:
        name: for people.
        train: actors to learn from.
        test: actors to measure on.
        validation: actors by whom the epoch is chosen; none where the last epoch is taken.

    """

    name: str
    train: tuple[int, ...]
    test: tuple[int, ...]
    validation: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        """Refuse a fold in which an actor has two parts, or a part nobody."""
        for one, other in itertools.combinations(('train', 'test', 'validation'), 2):
            if both := sorted(set(getattr(self, one)) & set(getattr(self, other))):
                raise LeakError(f'{self.name}: actors {both} are in {one} and in {other}; a split '
                                'goes by actor')
        for part in ('train', 'test'):
            if not getattr(self, part):
                raise LeakError(f'{self.name}: no actor is left in {part}')


def published_folds(split: str, present: Sequence[int], *, validate: bool) -> tuple[Fold, ...]:
    """
    Return the folds of a published division; those none of whose actors is present are left out.

    Args:
        split: a key of SPLITS.
        present: the actors that have clips.
        validate: the actors of the next fold choose the epoch instead of being learnt from.

    Raises:
        LeakError: too few actors are present to divide them.

    """
    groups = [tuple(actor for actor in group if actor in present) for group in SPLITS[split]]
    groups = [group for group in groups if group]
    found = []
    for index, test in enumerate(groups):
        chooses = groups[(index + 1) % len(groups)] if validate else ()
        train = tuple(sorted(set(present) - set(test) - set(chooses)))
        found.append(Fold(f'{split} {index + 1}', train, test, chooses))
    return tuple(found)


def own_fold(
    present: Sequence[int], test: Sequence[int], train: Sequence[int] = (),
    validation: Sequence[int] = (),
) -> Fold:
    """
    Return the fold of a list of held-out actors.

    Args:
        present: the actors that have clips.
        test: the held-out ones.
        train: whom to learn from; all others where nobody is named.
        validation: who chooses the epoch.

    Raises:
        LeakError: an actor is in two parts, is not there, or nobody is left in a part.

    """
    if absent := sorted({*test, *train, *validation} - set(present)):
        raise LeakError(f'{HELD_OUT}: expected actors that are there, {list(present)}; found '
                        f'{absent}')
    rest = set(present) - set(test) - set(validation)
    return Fold(HELD_OUT, tuple(sorted(train or rest)), tuple(sorted(test)),
                tuple(sorted(validation)))


def check_disjoint(parts: Iterable[Sequence[Clip]]) -> None:
    """Raise LeakError where clips of one actor, or one file, lie in two parts."""
    for one, other in itertools.combinations(list(parts), 2):
        actors = {clip.actor for clip in one} & {clip.actor for clip in other}
        files = {file.resolve() for clip in one for file in clip.files} & {
            file.resolve() for clip in other for file in clip.files}
        if actors or files:
            raise LeakError(f'actors {sorted(actors)} and {len(files)} files are in two parts of '
                            'one split')
