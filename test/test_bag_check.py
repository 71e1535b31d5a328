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
bag_check plays bags through the real node and says whether it recognised what it should.

The bags are made here, of the part of the demo's clip in which a smiling woman is there, is gone
and comes back: one of raw images in sqlite3, one of JPEG in mcap.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import pytest
import yaml

rclpy = pytest.importorskip('rclpy', reason='bag_check needs ROS')
pytest.importorskip('rosbags', reason='bags need the rosbags library')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from test_frame_source import BagWriter  # noqa: E402

from demo import clip, processes  # noqa: E402
from demo.recorder import recorder  # noqa: E402
from ferros.bag_check import InputError, main, parse_arguments  # noqa: E402

FROM_S, TO_S = 4.8, 8.2
FIRST_NS: Final = 1_700_000_000_000_000_000
# Recorded later than it was stamped, as a real bag is.
LATENCY_NS: Final = 7_000_000
HAPPY = {'from_s': 0.5, 'to_s': 1.6, 'label': 'happiness', 'source': 'cloud'}
# She is out of the image from 2.7 s on; a face that was just lost is waited for.
GONE = {'from_s': 2.9, 'to_s': 3.4, 'face': False}
WRONG = {'from_s': 0.5, 'to_s': 1.6, 'label': 'sadness'}


def write_bag(folder: Path, storage: str) -> None:
    writer = BagWriter(folder, storage)
    for time_s, image in clip.frames():
        if not FROM_S <= time_s < TO_S:
            continue
        at_ns = FIRST_NS + round((time_s - FROM_S) * 30) * 33_333_333
        if storage == 'mcap':
            jpeg = bytes(cv2.imencode('.jpg', image)[1])
            writer.add_jpeg('/camera/image/compressed', at_ns + LATENCY_NS, jpeg, at_ns)
        else:
            rgb = image[:, :, ::-1].copy()
            writer.add_image('/camera/image', at_ns + LATENCY_NS, rgb, at_ns)
        if abs(time_s - 7.0) < 0.001:
            # The same image again before the next: a node must not read it twice.
            again_ns = at_ns + LATENCY_NS + 16_000_000
            if storage == 'mcap':
                writer.add_jpeg('/camera/image/compressed', again_ns, jpeg, at_ns)
            else:
                writer.add_image('/camera/image', again_ns, rgb, at_ns)
    writer.close()


@pytest.fixture(scope='module', params=['sqlite3', 'mcap'])
def bag(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('bags') / str(request.param)
    write_bag(folder, request.param)
    return folder


@pytest.fixture(scope='module')
def domain_id() -> Iterator[int]:
    with processes.own_domain() as domain_id:
        yield domain_id


@pytest.fixture(scope='module')
def server_address(tmp_path_factory: pytest.TempPathFactory, domain_id: int) -> Iterator[str]:
    log = tmp_path_factory.mktemp('server') / 'log'
    with processes.server(log, processes.environment(domain_id)) as (address, _):
        yield address


@pytest.fixture
def on_the_domain(domain_id: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let bag_check, which runs in this process, and what it starts join our domain."""
    for name, value in processes.environment(domain_id).items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def expecting(folder: Path, *expectations: dict[str, Any]) -> str:
    path = folder / 'expectation.yaml'
    path.write_text(yaml.safe_dump(list(expectations)))
    return str(path)


def unread(drops: dict[str, int]) -> int:
    """Return how many images were not read; a slow node drops the repeated one as superseded."""
    return drops.get('image_superseded', 0) + drops.get('time_backwards', 0)


def test_at_its_own_pace_the_labels_are_those_of_the_clip(
    bag: Path,
    tmp_path: Path,
    server_address: str,
    on_the_domain: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    result = tmp_path / 'result.json'
    status = main([
        str(bag), expecting(tmp_path, HAPPY, GONE, WRONG), '--server-address', server_address,
        '--json', str(result),
    ])
    printed, complaints = capfd.readouterr()
    told = json.loads(result.read_text())
    (only,) = told['rounds']
    # Two hold. The third must not: she is not sad.
    assert [item['passed'] for item in only['expectations']] == [True, True, False], printed
    assert status == 1 and told['passed'] is False, complaints
    assert only['images'] == told['images'] == 103
    assert only['not_increasing'] == 0
    assert 'restarted' not in told['drops'] and unread(told['drops']) >= 1
    lines = printed.splitlines()
    assert any(line.startswith('ok') and 'happiness, from cloud in 60 %' in line for line in lines)
    assert any(line.startswith('FAILED') and 'sadness in 60 %' in line for line in lines)
    assert any(line.startswith('happiness  ') for line in lines)


def test_five_times_as_fast_a_node_that_runs_keeps_up_and_starts_afresh_with_each_round(
    bag: Path,
    tmp_path: Path,
    domain_id: int,
    server_address: str,
    on_the_domain: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    result, log = tmp_path / 'result.json', tmp_path / 'node.log'
    transport = 'compressed' if bag.name == 'mcap' else 'raw'
    stamps_s: list[float] = []
    with (
        recorder(domain_id) as heard,
        processes.node(
            log, processes.environment(domain_id),
            use_sim_time=True, image_transport=transport, server_address=server_address,
        ) as node,
    ):
        heard.create_subscription(
            DiagnosticArray, '/diagnostics',
            lambda message: stamps_s.append(float(message.header.stamp.sec)), 10,
        )
        status = main([
            str(bag), expecting(tmp_path, {'from_s': 0, 'to_s': 3.4, 'face': True,
                                           'min_share': 0.1}),
            '--attach', '--rate', '5', '--repeat', '2', '--json', str(result),
        ])
        assert node.poll() is None, log.read_text()
        arrays = [item.message.header.stamp for item in heard.arrays]
    printed, complaints = capfd.readouterr()
    assert node.returncode == 0 and 'Traceback' not in log.read_text()
    assert status == 0, printed + complaints
    told = json.loads(result.read_text())
    assert [one['not_increasing'] for one in told['rounds']] == [0, 0]
    # Time was set back between the rounds, so whoever was seen before is somebody else now.
    first, second = (set(one['face_ids']) for one in told['rounds'])
    assert first and second and not first & second
    assert told['drops']['restarted'] == 1 and unread(told['drops']) >= 1
    stamps_ns = [stamp.sec * 1_000_000_000 + stamp.nanosec for stamp in arrays]
    assert sum(after <= before for before, after in itertools.pairwise(stamps_ns)) == 1
    # The node's own clock was the bag's.
    assert max(stamps_s) - FIRST_NS / 1e9 < 10, stamps_s


@pytest.fixture(scope='module')
def short_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bag of four grey images within 1.5 s."""
    folder = tmp_path_factory.mktemp('bags') / 'short'
    writer = BagWriter(folder)
    grey = next(image for _, image in clip.frames())[:48, :64] * 0 + 90
    for index in range(4):
        at_ns = FIRST_NS + index * 500_000_000
        writer.add_image('/camera/image', at_ns, grey, at_ns)
    writer.close()
    return folder


def test_without_a_server_it_is_said_and_the_robot_speaks_for_itself(
    short_bag: Path, tmp_path: Path, on_the_domain: None, capfd: pytest.CaptureFixture[str]
) -> None:
    nothing_there = tmp_path / 'params.yaml'
    nothing_there.write_text("/**: {ros__parameters: {server_address: '127.0.0.1:9'}}\n")
    status = main([
        str(short_bag), expecting(tmp_path, {'from_s': 0.4, 'to_s': 2, 'face': False}),
        '--params-file', str(nothing_there), '--connect-s', '1', '--rate', '2',
    ])
    printed, complaints = capfd.readouterr()
    assert status == 0, printed + complaints
    assert printed.startswith('without a server: ')


def test_the_processes_it_started_end_with_it(
    short_bag: Path, tmp_path: Path, domain_id: int
) -> None:
    expectation = expecting(tmp_path, {'from_s': 0, 'to_s': 1, 'face': False})
    log = tmp_path / 'node.log'
    command = [
        sys.executable, '-m', 'ferros.bag_check', str(short_bag), expectation,
        '--rate', '0.01', '--node-log', str(log),
    ]
    with subprocess.Popen(
        command, env=processes.environment(domain_id), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as check:
        deadline_s = time.monotonic() + 30
        while not log.is_file() or 'reading faces on' not in log.read_text():
            assert time.monotonic() < deadline_s and check.poll() is None
            time.sleep(0.05)
        (child,) = children(check.pid)
        check.send_signal(signal.SIGTERM)
        assert check.wait(20) == 130
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, 0)
        pytest.fail(f'the node, {child}, still runs')


def children(process_id: int) -> list[int]:
    path = Path(f'/proc/{process_id}/task/{process_id}/children')
    return [int(word) for word in path.read_text().split()]


# -- what is no good ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        ('- {from_s: 0, to_s: 1, label: [}', 'is not YAML'),
        ('happiness', 'expected a list of expectations'),
        ('- {from_s: 0, to_s: 1, lable: happiness}', 'entry 1: lable is nothing'),
        ('- {from_s: 7, to_s: 9, label: happiness}', 'entry 1: from_s is 7, but the bag has'),
    ],
)
def test_an_expectation_file_that_is_no_good_is_named(
    short_bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, reason: str
) -> None:
    path = tmp_path / 'wrong.yaml'
    path.write_text(content)
    assert main([str(short_bag), str(path)]) == 2
    complaint = capsys.readouterr().err
    assert reason in complaint and str(path) in complaint and complaint.count('\n') == 1


def test_a_bag_that_is_no_good_is_named(
    short_bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expectation = expecting(tmp_path, {'from_s': 0, 'to_s': 1, 'face': False})

    def complaint(*arguments: str) -> str:
        assert main([*arguments]) == 2
        return capsys.readouterr().err

    assert '/nowhere is no folder of a rosbag2' in complaint('/nowhere', expectation)
    assert 'no rosbag2 folder' in complaint(str(tmp_path), expectation)
    assert 'no images on /other' in complaint(str(short_bag), expectation, '--topic', '/other')
    missing = complaint(str(short_bag), str(tmp_path / 'none.yaml'))
    assert 'none.yaml cannot be read: No such file' in missing


def test_a_bag_without_stamps_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = BagWriter(tmp_path / 'bag')
    for index in range(3):
        writer.add_jpeg('/image/compressed', index * 1_000_000, b'jpeg', 0)
    writer.close()
    expectation = expecting(tmp_path, {'from_s': 0, 'to_s': 1, 'face': False})
    assert main([str(tmp_path / 'bag'), expectation]) == 2
    assert 'all have the stamp 0 s' in capsys.readouterr().err


def test_without_the_rosbags_library_one_line_says_how_to_get_it(
    short_bag: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, 'rosbags.highlevel', None)
    expectation = expecting(tmp_path, {'from_s': 0, 'to_s': 1, 'face': False})
    assert main([str(short_bag), expectation]) == 2
    assert capsys.readouterr().err.endswith('needs the rosbags library: pip install rosbags\n')


@pytest.mark.parametrize(
    ('arguments', 'reason'),
    [
        (['--rate', '0'], '--rate is 0, expected above 0'),
        (['--rate', 'nan'], '--rate is nan, expected above 0'),
        (['--repeat', '0'], '--repeat is 0, expected 1 or more'),
        (['--timeout-s', '-1'], '--timeout-s is -1, expected above 0'),
        (['--connect-s', '0'], '--connect-s is 0, expected above 0'),
        (['--attach', '--server-address', 'a:1'], '--server-address is for a node that is start'),
        (['--start-server', '--server-address', 'a:1'], 'expected one of --server-address and'),
        (['--params-file', '/nowhere.yaml'], '--params-file /nowhere.yaml does not exist'),
    ],
)
def test_an_argument_that_is_no_good_is_named(arguments: list[str], reason: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_arguments(['bag', 'expectation', *arguments])
    assert reason in str(caught.value)


def test_a_node_that_cannot_start_is_reported_with_its_last_words(
    short_bag: Path, tmp_path: Path, on_the_domain: None, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / 'params.yaml'
    wrong.write_text("/**: {ros__parameters: {cascade_file: '/nowhere/cascade.xml'}}\n")
    expectation = expecting(tmp_path, {'from_s': 0, 'to_s': 1, 'face': False})
    assert main([str(short_bag), expectation, '--params-file', str(wrong)]) == 2
    complaint = capfd.readouterr().err
    assert 'the node ended with 1' in complaint and '/nowhere/cascade.xml' in complaint


def test_a_server_that_was_asked_for_has_to_be_there(
    short_bag: Path, tmp_path: Path, on_the_domain: None, capfd: pytest.CaptureFixture[str]
) -> None:
    expectation = expecting(tmp_path, {'from_s': 0, 'to_s': 1, 'face': False})
    arguments = [str(short_bag), expectation]
    assert main([*arguments, '--server-address', '127.0.0.1:9', '--connect-s', '1.5']) == 2
    assert 'the node has no server after 1.5 s' in capfd.readouterr().err
    assert main([*arguments, '--start-server', '/nowhere/ferros-cloud serve']) == 2
    assert "'/nowhere/ferros-cloud serve' was not found" in capfd.readouterr().err
