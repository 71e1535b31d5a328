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
Pretrained convolutions for ResNet-50, from a file or an https address with a pinned SHA-256.

Known layouts of the names, found by the names themselves:

    torchvision   conv1, bn1, layer1.0.conv1, layer1.0.downsample.0, ..., fc
                  ImageNet, RGB, the stride in the 3x3; and VGGFace2 as converted from Caffe (BGR,
                  the stride in the first 1x1, a first pooling that rounds up)
    caffe         conv1_7x7_s2, conv2_1_1x1_reduce, conv2_1_3x3, conv2_1_1x1_increase,
                  conv2_1_1x1_proj, each with _bn, ..., classifier
                  VGGFace2 through MatConvNet (RGB; stride and pooling as Caffe's)

What a file says in names is checked here; what it cannot say (means, channel order, stride,
pooling) is in the settings, one set per base in paper_image.BASES. A checkpoint's `state_dict` and
the prefix `module.` of a data-parallel training are unwrapped. The old top is dropped, which is
said. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import re
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Mapping
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from cloud_server.model import WeightsError
from cloud_server.training.resnet import ResNet

SCHEMES = ('https',)
SUFFIXES = ('.safetensors', '.pth', '.pt')
PICKLES = ('.pkl', '.pickle', '.p')
# ResNet-50 with VGGFace2's 8631 identities has 165 MB, with an optimiser's state twice that.
MAX_BYTES = 512 << 20
TIMEOUT_S = 60.0
CHUNK_BYTES = 1 << 20
WRAPPERS = ('state_dict', 'model_state_dict', 'model')
# The tops that the files come with: of classes, of identities, and of shortened features.
TOPS = ('fc.', 'classifier.', 'classifier_', 'feat_extract.', 'feat_extract_')
MAX_NAMED = 5
CAFFE_BLOCK = re.compile(
    r'conv([2-5])_(\d+)_(1x1_reduce|3x3|1x1_increase|1x1_proj)(_bn)?\.(\w+)')
CAFFE_PARTS = {'1x1_reduce': '1', '3x3': '2', '1x1_increase': '3'}
CONVERT = (
    'a pickle runs code when it is read, so ferros reads none. Convert it once, where you trust '
    'the file: read it there (VGGFace2 files hold a dict of numpy arrays, encoding latin1), write '
    'it with safetensors.numpy.save_file, and give the .safetensors file here'
)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow a redirect only to a scheme that is allowed."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
        headers: HTTPMessage, newurl: str,
    ) -> urllib.request.Request | None:
        """Refuse what would leave https."""
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def obtain(source: str, sha256: str, folder: Path) -> Path:
    """
    Return the path of a pretrained file, downloaded where need be.

    Args:
        source: a path, or an https address.
        sha256: 64 hexadecimal digits; needed with an address, checked where given with a path.
        folder: where a download is kept; one that is there already is not made again.

    Raises:
        WeightsError: no such file, an address without a digest or of another scheme, another
            digest, a file beyond MAX_BYTES or of an unknown kind, a failed download.

    """
    pinned = str(sha256).strip().lower()  # YAML makes a number of digits alone
    if pinned and not re.fullmatch(r'[0-9a-f]{64}', pinned):
        raise WeightsError(f'--sha256 must be 64 hexadecimal digits, got {sha256!r}')
    if '://' not in source:
        path = Path(source)
        _check_file(path)
    else:
        _check_scheme(source)
        _check_suffix(Path(urllib.parse.urlparse(source).path), source)
        if not pinned:
            raise WeightsError(f'{source}: an address needs --sha256, the digest of its file')
        suffix = Path(urllib.parse.urlparse(source).path).suffix.lower()
        path = folder / f'pretrained-{pinned[:12]}{suffix}'
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _download(source, path, pinned)
    if pinned and (found := digest(path)) != pinned:
        raise WeightsError(f'{path}: expected SHA-256 {pinned}, found {found}')
    return path


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    total = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def _check_scheme(address: str) -> None:
    scheme = urllib.parse.urlparse(address).scheme.lower()
    if scheme not in SCHEMES:
        raise WeightsError(f'{address}: expected an address of {" or ".join(SCHEMES)}, '
                           f'found {scheme!r}')


def _check_suffix(path: Path, shown: object) -> None:
    if path.suffix.lower() in PICKLES:
        raise WeightsError(f'{shown}: {CONVERT}')
    if path.suffix.lower() not in SUFFIXES:
        raise WeightsError(f'{shown}: expected a file that ends in {", ".join(SUFFIXES)}')


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f'{path}: no such file')
    _check_suffix(path, path)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise WeightsError(f'{path}: {size} bytes, expected at most {MAX_BYTES}')


def _download(address: str, path: Path, pinned: str) -> None:
    """Fetch a file, with a bar; what does not have the digest is not kept."""
    partial = path.with_name(path.name + '.partial')
    opener = urllib.request.build_opener(_SafeRedirects)
    request = urllib.request.Request(address, headers={'User-Agent': 'ferros'})
    total, received = hashlib.sha256(), 0
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer, partial.open('wb') as file:
            length = answer.headers.get('Content-Length', '')
            with tqdm(total=int(length) if length.isdigit() else None, unit='B',
                      unit_scale=True, desc=path.name, leave=False) as bar:
                while chunk := answer.read(CHUNK_BYTES):
                    received += len(chunk)
                    if received > MAX_BYTES:
                        raise WeightsError(f'{address}: expected at most {MAX_BYTES} bytes')
                    total.update(chunk)
                    file.write(chunk)
                    bar.update(len(chunk))
        if (found := total.hexdigest()) != pinned:
            raise WeightsError(f'{address}: expected SHA-256 {pinned}, found {found} '
                               f'({received} bytes)')
        partial.replace(path)
    except (urllib.error.URLError, HTTPException, OSError) as err:
        raise WeightsError(f'{address}: cannot be fetched ({err})') from err
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """
    Return what a .safetensors, .pth or .pt file holds, unwrapped, under its own names.

    Raises:
        WeightsError: not readable without running code from it, or not a mapping of tensors.

    """
    _check_file(path)
    stored = _read_safetensors(path) if path.suffix.lower() == '.safetensors' else _load(path)
    for wrapper in WRAPPERS:
        if isinstance(stored, Mapping) and isinstance(stored.get(wrapper), Mapping):
            stored = stored[wrapper]
    if not isinstance(stored, Mapping) or not stored:
        raise WeightsError(f'{path}: expected a mapping of names to tensors, found '
                           f'{type(stored).__name__}')
    for name, value in stored.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f'{path}: expected tensors, found {type(value).__name__} under '
                               f'{name!r}')
    if all(name.startswith('module.') for name in stored):
        return {name.removeprefix('module.'): value for name, value in stored.items()}
    return dict(stored)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as err:
        raise WeightsError(f'{path}: cannot be read ({err})') from err


def _load(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (size := sum(entry.file_size for entry in archive.infolist())) > MAX_BYTES:
                raise WeightsError(f'{path}: {size} bytes unpacked, expected at most {MAX_BYTES}')
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as err:  # a foreign file can break its reader in any way
        reason = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
        raise WeightsError(
            f'{path}: cannot be read as weights alone ({reason}). Where it holds more than '
            f'tensors: {CONVERT}'
        ) from err


def to_torchvision(tensors: Mapping[str, Tensor], shown: object) -> tuple[dict[str, Tensor], str]:
    """
    Return tensors under torchvision's names, and the layout that they had.

    Raises:
        WeightsError: names of neither layout.

    """
    if 'conv1.weight' in tensors and 'layer1.0.conv1.weight' in tensors:
        return dict(tensors), 'torchvision'
    if 'conv1_7x7_s2.weight' in tensors:
        return {_from_caffe(name): value for name, value in tensors.items()}, 'caffe'
    raise WeightsError(
        f'{shown}: expected the names of torchvision (conv1.weight, layer1.0.conv1.weight) or of '
        f'Caffe (conv1_7x7_s2.weight), found {_named(tensors)}'
    )


def _from_caffe(name: str) -> str:
    for old, new in (('conv1_7x7_s2.', 'conv1.'), ('conv1_7x7_s2_bn.', 'bn1.')):
        if name.startswith(old):
            return new + name.removeprefix(old)
    found = CAFFE_BLOCK.fullmatch(name)
    if not found:
        return name
    stage, block, part, norm, leaf = found.groups()
    if part == '1x1_proj':
        place = f'downsample.{1 if norm else 0}'
    else:
        place = ('bn' if norm else 'conv') + CAFFE_PARTS[part]
    return f'layer{int(stage) - 1}.{int(block) - 1}.{place}.{leaf}'


def fill_base(network: ResNet, path: Path) -> list[str]:
    """
    Fill everything below the dense layers of a network; return what to say about it.

    Raises:
        WeightsError: a missing, unexpected, wrongly shaped or non-finite tensor, by its name; or
            a layout that the network's settings contradict.

    """
    tensors, layout = to_torchvision(read_tensors(path), path)
    config = network.config
    if layout == 'caffe' and not (config.stride_in_1x1 and config.ceil_pool):
        raise WeightsError(
            f"{path}: has Caffe's names; such networks have the stride in the first 1x1 and a "
            'first pooling that rounds up: set base: vggface2_rgb'
        )
    dropped = {name: value for name, value in tensors.items() if name.startswith(TOPS)}
    given = {name: value for name, value in tensors.items() if name not in dropped}
    wanted = {name: value for name, value in network.state_dict().items()
              if not name.startswith('head.')}
    _check(given, wanted, path)
    # Files of before PyTorch 0.4.1 do not count batches; nothing here depends on the count.
    network.load_state_dict({**network.state_dict(), **given})
    top = ', '.join(f'{name} {list(value.shape)}' for name, value in dropped.items())
    return [f'{path.name}: {len(given)} tensors of the base read ({layout} names); '
            + (f'its own top is dropped ({top})' if top else 'it has no top of its own')]


def _check(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    missing = [name for name in wanted
               if name not in given and not name.endswith('num_batches_tracked')]
    unexpected = [name for name in given if name not in wanted]
    problems = []
    if missing:
        problems.append(f'missing {_named(missing)}')
    if unexpected:
        problems.append(f'unexpected {_named(unexpected)}')
    shapes = [f'{name} (expected {list(wanted[name].shape)}, found {list(value.shape)})'
              for name, value in given.items()
              if name in wanted and value.shape != wanted[name].shape]
    if shapes:
        problems.append(f'wrong shapes: {_named(shapes)}')
    if not problems:
        broken = [name for name, value in given.items() if not torch.isfinite(value).all()]
        if broken:
            problems.append(f'not finite: {_named(broken)}')
    if problems:
        raise WeightsError(f'{path}: not the base that was expected: {"; ".join(problems)}')


def _named(names: Any) -> str:
    shown = list(names)
    more = f' and {len(shown) - MAX_NAMED} more' if len(shown) > MAX_NAMED else ''
    return ', '.join(shown[:MAX_NAMED]) + more
