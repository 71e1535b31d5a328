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

"""Pretrained weights: read in every layout that is promised, and refused with a name otherwise."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cloud_server.model import WeightsError
from cloud_server.training import pretrained
from cloud_server.training.pretrained import fill_base, obtain
from cloud_server.training.resnet import ResNet, ResNetConfig

PLAIN = ResNetConfig(input_size_px=32, width=4, blocks=(1, 2, 1, 1), hidden_size=8)
CAFFE = ResNetConfig(input_size_px=32, width=4, blocks=(1, 2, 1, 1), hidden_size=8,
                     stride_in_1x1=True, ceil_pool=True)
# Of the blocks above, written out: what the layout calls the parts of torchvision's names.
CAFFE_NAMES = {
    'conv1.': 'conv1_7x7_s2.', 'bn1.': 'conv1_7x7_s2_bn.',
    **{
        f'layer{stage}.{block}.{ours}': f'conv{stage + 1}_{block + 1}_{theirs}'
        for stage, block in ((1, 0), (2, 0), (2, 1), (3, 0), (4, 0))
        for ours, theirs in {
            'conv1.': '1x1_reduce.', 'bn1.': '1x1_reduce_bn.', 'conv2.': '3x3.',
            'bn2.': '3x3_bn.', 'conv3.': '1x1_increase.', 'bn3.': '1x1_increase_bn.',
            'downsample.0.': '1x1_proj.', 'downsample.1.': '1x1_proj_bn.',
        }.items()
    },
}


def trained(config: ResNetConfig) -> ResNet:
    """Return a network whose every tensor differs from a new one's."""
    torch.manual_seed(11)
    network = ResNet(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.1, 0.3)
        network.train()(torch.rand(8, 1, 32, 32) * 255)
    return network.eval()


def base_of(network: ResNet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()
            if not name.startswith('head.')}


def in_caffe_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in tensors.items():
        start = next(ours for ours in CAFFE_NAMES if name.startswith(ours))
        renamed[CAFFE_NAMES[start] + name.removeprefix(start)] = value
    return renamed


def same_base(network: ResNet, source: ResNet) -> None:
    luma = torch.randint(0, 256, (3, 1, 32, 32), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network.eval().embedding(luma), source.embedding(luma))


@pytest.fixture
def plain_file(tmp_path: Path) -> Path:
    top = {'fc.weight': torch.zeros(1000, 128), 'fc.bias': torch.zeros(1000)}
    save_file(base_of(trained(PLAIN)) | top, tmp_path / 'plain.safetensors')
    return tmp_path / 'plain.safetensors'


def test_torchvisions_names_fill_the_base_and_the_old_top_is_said_to_be_dropped(
    plain_file: Path,
) -> None:
    network = ResNet(PLAIN)
    head = {name: value.clone() for name, value in network.head.state_dict().items()}
    said = '\n'.join(fill_base(network, plain_file))
    same_base(network, trained(PLAIN))
    assert 'torchvision names' in said
    assert 'dropped (fc.bias [1000], fc.weight [1000, 128])' in said
    for name, value in network.head.state_dict().items():
        torch.testing.assert_close(value, head[name])


def test_caffes_names_are_converted(tmp_path: Path) -> None:
    renamed = in_caffe_names(base_of(trained(CAFFE)))
    assert 'conv3_2_1x1_increase_bn.running_var' in renamed
    save_file(renamed | {'classifier.weight': torch.zeros(8631, 128, 1, 1)},
              tmp_path / 'c.safetensors')
    network = ResNet(CAFFE)
    said = '\n'.join(fill_base(network, tmp_path / 'c.safetensors'))
    same_base(network, trained(CAFFE))
    assert 'caffe names' in said and 'classifier.weight [8631, 128, 1, 1]' in said


def test_caffes_names_on_a_network_with_another_stride_are_refused(tmp_path: Path) -> None:
    save_file(in_caffe_names(base_of(trained(CAFFE))), tmp_path / 'c.safetensors')
    with pytest.raises(WeightsError, match=r'stride in the first 1x1.*base: vggface2_rgb'):
        fill_base(ResNet(PLAIN), tmp_path / 'c.safetensors')


@pytest.mark.parametrize('wrap', [
    lambda tensors: tensors,
    lambda tensors: {'state_dict': tensors, 'epoch': 3},
    lambda tensors: {'model': {f'module.{name}': value for name, value in tensors.items()}},
])
def test_a_checkpoint_of_pytorch_is_unwrapped(wrap: Any, tmp_path: Path) -> None:
    tensors = {name: value for name, value in base_of(trained(PLAIN)).items()
               if 'num_batches' not in name}  # as files of old releases
    torch.save(wrap(tensors), tmp_path / 'c.pth')
    network = ResNet(PLAIN)
    fill_base(network, tmp_path / 'c.pth')
    same_base(network, trained(PLAIN))


def broken(tensors: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    if how == 'missing':
        del tensors['layer2.1.bn3.running_var']
    elif how == 'unexpected':
        tensors['layer2.7.conv1.weight'] = torch.zeros(1)
    elif how == 'shape':
        tensors['conv1.weight'] = torch.zeros(4, 1, 7, 7)
    elif how == 'nan':
        tensors['layer1.0.conv2.weight'][0] = float('nan')
    else:
        return {f'stages.{name}': value for name, value in tensors.items()}
    return tensors


@pytest.mark.parametrize(('how', 'named'), [
    ('missing', r'missing layer2\.1\.bn3\.running_var'),
    ('unexpected', r'unexpected layer2\.7\.conv1\.weight'),
    ('shape', r'conv1\.weight \(expected \[4, 3, 7, 7\], found \[4, 1, 7, 7\]\)'),
    ('nan', r'not finite: layer1\.0\.conv2\.weight'),
    ('names', r'expected the names of torchvision.*found stages\.'),
])
def test_what_does_not_fit_is_named_with_its_file(how: str, named: str, tmp_path: Path) -> None:
    save_file(broken(base_of(trained(PLAIN)), how), tmp_path / 'b.safetensors')
    with pytest.raises(WeightsError, match=rf'b\.safetensors: .*{named}'):
        fill_base(ResNet(PLAIN), tmp_path / 'b.safetensors')


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / 'it ran'
    torch.save({'state_dict': {'conv1.weight': Trap(marker)}}, tmp_path / 'trap.pth')
    with pytest.raises(WeightsError, match=r'trap\.pth: cannot be read as weights alone'):
        fill_base(ResNet(PLAIN), tmp_path / 'trap.pth')
    assert not marker.exists()
    torch.load(tmp_path / 'trap.pth', weights_only=False)
    assert marker.exists(), 'the trap itself does not work'


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / 'resnet50_ft_weight.pkl').write_bytes(b'anything')
    with pytest.raises(WeightsError, match=r'runs code.*safetensors\.numpy\.save_file'):
        obtain(str(tmp_path / 'resnet50_ft_weight.pkl'), '', tmp_path)


@pytest.mark.parametrize(('name', 'content', 'named'), [
    ('cut.safetensors', b'\x10\0\0\0\0\0\0\0{"a"', 'cannot be read'),
    ('text.pth', b'no weights at all', 'cannot be read'),
    ('weights.h5', b'x', 'expected a file that ends in .safetensors, .pth, .pt'),
])
def test_a_file_that_cannot_be_read_is_named(
    name: str, content: bytes, named: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f'{name}: .*{named}'):
        fill_base(ResNet(PLAIN), tmp_path / name)


def test_something_else_than_tensors_is_named(tmp_path: Path) -> None:
    torch.save({'conv1.weight': 3}, tmp_path / 'number.pth')
    with pytest.raises(WeightsError, match=r"found int under 'conv1\.weight'"):
        fill_base(ResNet(PLAIN), tmp_path / 'number.pth')
    torch.save([torch.zeros(1)], tmp_path / 'list.pth')
    with pytest.raises(WeightsError, match='expected a mapping of names to tensors, found list'):
        fill_base(ResNet(PLAIN), tmp_path / 'list.pth')


def test_a_digest_is_checked_where_it_is_given(plain_file: Path) -> None:
    right = hashlib.sha256(plain_file.read_bytes()).hexdigest()
    assert obtain(str(plain_file), '', plain_file.parent) == plain_file
    assert obtain(str(plain_file), right.upper(), plain_file.parent) == plain_file
    with pytest.raises(WeightsError, match=f'expected SHA-256 {"0" * 64}, found {right}'):
        obtain(str(plain_file), '0' * 64, plain_file.parent)
    with pytest.raises(WeightsError, match='64 hexadecimal digits'):
        obtain(str(plain_file), 'abc', plain_file.parent)
    with pytest.raises(WeightsError, match='no such file'):
        obtain(str(plain_file) + '.pth', '', plain_file.parent)


def test_a_file_beyond_the_bound_is_not_read(
    plain_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, 'MAX_BYTES', 1000)
    with pytest.raises(WeightsError, match='bytes, expected at most 1000'):
        obtain(str(plain_file), '', plain_file.parent)


@pytest.mark.parametrize(('address', 'named'), [
    ('http://example.org/w.pth', "https, found 'http'"),
    ('file:///etc/w.pth', "https, found 'file'"),
    ('https://example.org/w.pth', 'needs --sha256'),
    ('https://example.org/w.pkl', 'runs code'),
])
def test_only_https_with_a_digest_is_fetched(address: str, named: str, tmp_path: Path) -> None:
    digest = '0' * 64 if address.startswith(('http:', 'file:')) else ''
    with pytest.raises(WeightsError, match=named):
        obtain(address, digest, tmp_path)


@contextmanager
def serving(content: bytes) -> Iterator[tuple[str, list[str]]]:
    """Serve a file over plain HTTP on this machine; yield its address and what was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path.startswith('/moved'):
                self.send_response(302)
                self.send_header('Location', 'ftp://127.0.0.1/w.safetensors')
                self.end_headers()
                return
            self.send_response(200 if self.path.startswith('/w') else 404)
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f'http://127.0.0.1:{server.server_port}', asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests use a server without a certificate; everything else stays as it is."""
    monkeypatch.setattr(pretrained, 'SCHEMES', ('http',))


@pytest.mark.usefixtures('plain_http')
def test_a_download_with_the_right_digest_is_kept_and_not_made_again(
    plain_file: Path, tmp_path: Path
) -> None:
    content = plain_file.read_bytes()
    right = hashlib.sha256(content).hexdigest()
    with serving(content) as (address, asked):
        first = obtain(f'{address}/w.safetensors?download=1', right, tmp_path / 'out')
        assert obtain(f'{address}/w.safetensors?download=1', right, tmp_path / 'out') == first
    assert len(asked) == 1
    assert first.read_bytes() == content and first.parent == tmp_path / 'out'
    fill_base(ResNet(PLAIN), first)
    assert len(list((tmp_path / 'out').iterdir())) == 1


@pytest.mark.usefixtures('plain_http')
@pytest.mark.parametrize(('path', 'named'), [
    ('/w.pth', 'expected SHA-256 0{64}, found [0-9a-f]{64}'),
    ('/nowhere.pth', 'cannot be fetched.*404'),
    ('/moved.pth', "expected an address of http, found 'ftp'"),
])
def test_a_download_that_is_not_what_was_promised_leaves_nothing(
    path: str, named: str, tmp_path: Path
) -> None:
    with serving(b'other weights') as (address, _), pytest.raises(WeightsError, match=named):
        obtain(address + path, '0' * 64, tmp_path / 'out')
    assert list((tmp_path / 'out').iterdir()) == []


@pytest.mark.usefixtures('plain_http')
def test_a_download_beyond_the_bound_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, 'MAX_BYTES', 1000)
    with serving(bytes(5000)) as (address, _), pytest.raises(
        WeightsError, match='expected at most 1000 bytes'
    ):
        obtain(f'{address}/w.pth', '0' * 64, tmp_path / 'out')
    assert list((tmp_path / 'out').iterdir()) == []
