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
From clips to what the image network says of their faces, kept on disk clip by clip.

Decoding 720p video and running a large network takes hours at most once: what is kept under
OUT/features is used again as long as the file, the network and the copies that are asked for are
the same. Clips are decoded ahead of the network by some threads.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from cloud_server.media import MediaError
from cloud_server.model import Encoder, WeightsError, load_encoder
from cloud_server.training import settings
from cloud_server.training.ferplus import EMOTIONS as FER_EMOTIONS
from cloud_server.training.ferplus import DatasetError
from cloud_server.training.ravdess import Clip, Recordings
from cloud_server.training.resnet import KIND as RESNET
from cloud_server.training.resnet import ResNet, load_resnet
from cloud_server.training.variants import (
    Box,
    BoxCache,
    Crops,
    FaceFinder,
    FootageError,
    VariantConfig,
    fingerprint,
    make_crops,
    read_frames,
)

PROCEDURE = 1  # raised when the same video would give other features
BATCH = 256
SAVE_BOXES_EVERY = 25
MAX_PROBLEMS_SHOWN = 10
SEVEN = FER_EMOTIONS[:7]

Item = TypeVar('Item')
Result = TypeVar('Result')


class FrameNetwork(Protocol):
    """An image network as the classifiers of clips need it."""

    # In words, for the tables.
    name: str
    # Of the logits, in their order.
    labels: tuple[str, ...]
    # Side of the faces it takes.
    input_size_px: int

    def to(self, device: torch.device) -> FrameNetwork:
        """Move it."""
        ...

    def read(self, luma: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding float32 [N,E] and logits float32 [N,K] of luma uint8 [N,1,S,S]."""
        ...


class EncoderNetwork:
    """The project's own encoder; contempt, which neither FER's nor RAVDESS's list has, is out."""

    def __init__(self, encoder: Encoder, name: str) -> None:
        self._encoder = encoder.eval()
        self.name = name
        self._known = [row for row, label in enumerate(encoder.config.labels) if label in SEVEN]
        self.labels = tuple(encoder.config.labels[row] for row in self._known)
        self.input_size_px = encoder.config.input_size_px

    def to(self, device: torch.device) -> EncoderNetwork:
        """Move it."""
        self._encoder.to(device)
        return self

    def read(self, luma: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding float32 [N,E] and logits float32 [N,7] of luma uint8 [N,1,S,S]."""
        features = self._encoder(luma).float()
        classes = len(self._encoder.config.labels)
        return features[:, classes:], features[:, self._known]


class ResNetNetwork:
    """The paper's ResNet-50."""

    def __init__(self, network: ResNet, name: str) -> None:
        self._network = network.eval()
        self.name = name
        self.labels = network.config.labels
        self.input_size_px = network.config.input_size_px

    def to(self, device: torch.device) -> ResNetNetwork:
        """Move it."""
        self._network.to(device)
        return self

    def read(self, luma: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding float32 [N,E] and logits float32 [N,K] of luma uint8 [N,1,S,S]."""
        embedding = self._network.embedding(luma).float()
        return embedding, self._network.head(embedding).float()


def load_network(path: Path) -> FrameNetwork:
    """
    Read either network from its safetensors file.

    Raises:
        WeightsError: the file holds neither, or has labels that RAVDESS cannot be told by.

    """
    try:
        about = json.loads(settings.metadata(path).get('ferros', '{}'))
    except (OSError, ValueError, safetensors.SafetensorError) as err:
        raise WeightsError(f'{path}: cannot be read ({err})') from err
    network: FrameNetwork
    if about.get('kind') == RESNET:
        resnet = load_resnet(path)
        kind = 'ResNet-50' if resnet.config.is_resnet50 else 'small ResNet'
        network = ResNetNetwork(resnet, f'{kind} ({path.name})')
    else:
        network = EncoderNetwork(load_encoder(path), f'ferros encoder ({path.name})')
    if strangers := sorted(set(network.labels) - set(SEVEN)):
        raise WeightsError(f'{path}: expected labels of {SEVEN}, found {strangers}')
    return network


@dataclass(frozen=True)
class Footage:
    """
    What the network says of every face of every copy of every clip.

    Attributes:
        embedding: float16 [R,E]; a face that several copies show is there once.
        logits: float32 [R,K].
        rows: int64 [C,V,T], which of them a copy of a clip shows at each step.
        clips: C of them.
        boxes: where the face was found.

    """

    embedding: Tensor
    logits: Tensor
    rows: Tensor
    clips: tuple[Clip, ...]
    boxes: tuple[Box, ...]

    @property
    def emotion(self) -> Tensor:
        """The truth: int64 [C]."""
        return torch.tensor([clip.emotion for clip in self.clips])

    def of_actors(self, actors: Iterable[int]) -> Tensor:
        """Return which clips are of some actors: int64 [n], rising."""
        wanted = set(actors)
        rows = [row for row, clip in enumerate(self.clips) if clip.actor in wanted]
        return torch.tensor(rows, dtype=torch.int64)

    def to(self, device: torch.device) -> Footage:
        """Move embedding and logits."""
        return replace(self, embedding=self.embedding.to(device), logits=self.logits.to(device))


@dataclass(frozen=True)
class _Prepared:
    """A clip before the network: features that were kept, or crops; problems of its files."""

    clip: Clip
    problems: tuple[tuple[str, str], ...]  # reason, line
    file: Path | None = None
    box: Box | None = None
    kept: dict[str, Tensor] | None = None
    crops: Crops | None = None


class Collector:
    """Decodes clips, finds their faces, and has the network look at them."""

    def __init__(
        self, network: FrameNetwork, network_digest: str, config: VariantConfig, out: Path,
        device: torch.device, *, looks: int, bf16: bool,
    ) -> None:
        self._network, self._config, self._device = network.to(device), config, device
        self._autocast = bf16 and device.type == 'cuda'
        self._folder = out / 'features'
        self._folder.mkdir(parents=True, exist_ok=True)
        self._boxes, self._looks = BoxCache(out / 'faces.json', looks), looks
        self._finder = FaceFinder()
        self._of = [PROCEDURE, network_digest, looks, self._autocast, asdict(config)]

    def collect(self, found: Recordings, workers: int) -> tuple[Footage, Recordings]:
        """
        Return the features of all clips that can be used, and what was found after looking.

        Args:
            found: what scan returned.
            workers: threads that decode ahead.

        Raises:
            DatasetError: no clip can be used.

        """
        skipped, problems = Counter(found.skipped), []
        used: list[tuple[_Prepared, dict[str, Tensor]]] = []
        ahead = _ahead(self._prepare, found.clips, workers)
        bar = tqdm(ahead, total=len(found.clips), desc='faces of clips', unit='clip', leave=False)
        try:
            for number, prepared in enumerate(bar, 1):
                # A broken file is not the other file of its take any more.
                broken = [reason for reason, _ in prepared.problems if reason != 'no_face']
                skipped.update(reason for reason, _ in prepared.problems)
                skipped['same_take'] -= len(broken) - (len(broken) == len(prepared.clip.files))
                problems += [line for _, line in prepared.problems]
                if prepared.file is not None:
                    self._boxes.put(prepared.file, prepared.box)
                if prepared.box is not None:
                    used.append((prepared, self._features(prepared)))
                if number % SAVE_BOXES_EVERY == 0:
                    self._boxes.save()
        finally:
            self._boxes.save()
        looked = replace(found, clips=tuple(each.clip for each, _ in used), skipped=+skipped,
                         problems=(*problems, *found.problems))
        _report(looked)
        if not used:
            raise DatasetError(f'expected clips with faces, found none in {len(found.clips)}; '
                               f'first problem: {looked.problems[0]}')
        return _join(used), looked

    def _prepare(self, clip: Clip) -> _Prepared:
        """Decode the first file of a take that can be; runs in any thread."""
        problems: list[tuple[str, str]] = []
        for file in clip.files:
            try:
                prepared = self._look(clip, file)
            except (MediaError, cv2.error) as err:
                problems.append(('unreadable', f'{file}: {err}'))
            except FootageError as err:
                problems.append(('wrong_format', f'{file}: {err}'))
            else:
                if prepared.box is None:
                    problems.append(('no_face', f'{file}: no face in {self._looks} frames'))
                return replace(prepared, problems=tuple(problems))
        return _Prepared(clip, tuple(problems))

    def _look(self, clip: Clip, file: Path) -> _Prepared:
        if not file.is_file():
            raise MediaError('no such file')
        known, box = self._boxes.get(file)
        if known and box is None:
            return _Prepared(clip, (), file)
        kept = self._kept(file) if known else None
        if kept is not None:
            return _Prepared(clip, (), file, box, kept)
        frames, fps = read_frames(file)
        if box is None:
            box = self._finder.find(frames, self._looks)
        if box is None:
            return _Prepared(clip, (), file)
        crops = make_crops(frames, fps, box, self._config, self._network.input_size_px)
        return _Prepared(clip, (), file, box, None, crops)

    @torch.inference_mode()
    def _features(self, prepared: _Prepared) -> dict[str, Tensor]:
        if prepared.kept is not None:
            return prepared.kept
        assert prepared.crops is not None and prepared.file is not None
        luma = torch.from_numpy(prepared.crops.faces).unsqueeze(1)
        parts = []
        for start in range(0, len(luma), BATCH):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
                parts.append(self._network.read(luma[start : start + BATCH].to(self._device)))
        found = {
            'embedding': torch.cat([embedding for embedding, _ in parts]).half().cpu(),
            'logits': torch.cat([logits for _, logits in parts]).float().cpu(),
            'rows': torch.from_numpy(prepared.crops.rows),
        }
        settings.write_atomically(self._place(prepared.file),
                                  save(found, {'of': self._key(prepared.file)}))
        return found

    def _kept(self, file: Path) -> dict[str, Tensor] | None:
        """Return the features that were kept of a file, None where they are of something else."""
        place = self._place(file)
        try:
            same = settings.metadata(place).get('of') == self._key(file)
            return load_file(place) if same else None
        except (OSError, safetensors.SafetensorError):
            return None

    def _place(self, file: Path) -> Path:
        return self._folder / f'{file.stem}.safetensors'

    def _key(self, file: Path) -> str:
        text = json.dumps([*self._of, file.name, fingerprint(file)], sort_keys=True)
        return sha256(text.encode()).hexdigest()


def _ahead(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Yield the results in order while threads work on the next few items, and no further."""
    threads_of_opencv = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the threads here are enough
    waiting: deque[Future[Result]] = deque()
    try:
        with ThreadPoolExecutor(workers) as pool:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        cv2.setNumThreads(threads_of_opencv)


def _report(looked: Recordings) -> None:
    for problem in looked.problems[:MAX_PROBLEMS_SHOWN]:
        print(f'left out: {problem}', file=sys.stderr)
    if len(looked.problems) > MAX_PROBLEMS_SHOWN:
        print(f'left out: {len(looked.problems)} lines in all', file=sys.stderr)


def _join(used: list[tuple[_Prepared, dict[str, Tensor]]]) -> Footage:
    """Put the clips' features into one table."""
    sizes = [len(features['logits']) for _, features in used]
    starts = np.cumsum([0, *sizes[:-1]])
    rows: list[Any] = [features['rows'] + int(start)
                       for (_, features), start in zip(used, starts, strict=True)]
    return Footage(
        embedding=torch.cat([features['embedding'] for _, features in used]),
        logits=torch.cat([features['logits'] for _, features in used]),
        rows=torch.stack(rows), clips=tuple(prepared.clip for prepared, _ in used),
        boxes=tuple(prepared.box for prepared, _ in used if prepared.box is not None),
    )
