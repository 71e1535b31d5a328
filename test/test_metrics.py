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
from __future__ import annotations

import contextlib
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_model
import yaml
from prometheus_client.parser import text_string_to_metric_families
from robots import channel_to, on_loop, refusal, robot_at, serving

from cloud_server.config import ServerConfig
from cloud_server.engine.onnx import OnnxEngine
from cloud_server.metrics import (
    KEEP_LABEL_NS,
    OUTCOMES,
    REFUSALS,
    Metrics,
    RobotLabels,
    SupervisorMetrics,
    joined,
)
from cloud_server.metrics_endpoint import MAX_SCRAPES, Endpoint, MetricsError
from ferros_proto import recognition_pb2 as wire
from ferros_proto import recognition_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent
MS = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def metrics(clock: Clock | None = None, **settings: object) -> Metrics:
    return Metrics(ServerConfig(**settings), 'tiny 0.1', 'CPU', clock or Clock())


def samples(text: str) -> dict[str, float]:
    """Return sample -> value, a sample written as in the text."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ','.join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            key = f'{sample.name}{{{labels}}}' if labels else sample.name
            assert key not in found, f'{key} twice'
            found[key] = sample.value
    return found


def fetch(address: str, path: str = '/metrics') -> str:
    with urllib.request.urlopen(f'http://{address}{path}', timeout=10) as response:
        return response.read().decode()


# -- what is counted ------------------------------------------------------------------------------


def test_the_outcomes_are_the_statuses_of_the_wire_and_that_nobody_waits():
    names = [wire.Status.Name(number).lower() for number in wire.Status.values() if number]
    assert list(OUTCOMES) == [*names, 'stream_ended']


def test_frames_are_counted_by_outcome_and_robot_and_aged_when_they_are_ok():
    counted = metrics()
    counted.stream_opened('r1')
    for _ in range(3):
        counted.frame_received('r1', 1000)
    counted.frame_answered('r1', 'ok', 40 * MS)
    counted.frame_answered('r1', 'ok', 60 * MS)
    counted.frame_answered('r1', 'overloaded', 1)
    found = samples(counted.text())
    assert found['ferros_frames_received_total'] == 3
    assert found['ferros_received_bytes_total{robot="r1"}'] == 3000
    assert found['ferros_frames_total{outcome="ok",robot="r1"}'] == 2
    assert found['ferros_frames_total{outcome="overloaded",robot="r1"}'] == 1
    assert found['ferros_answer_age_seconds_count'] == 2
    assert found['ferros_answer_age_seconds_sum'] == pytest.approx(0.1)
    assert found['ferros_answer_age_seconds_bucket{le="0.05"}'] == 1
    assert found['ferros_answer_age_seconds_bucket{le="0.2"}'] == 2


def test_a_batch_is_measured_by_its_size_its_waiting_and_its_computing():
    counted = metrics(max_batch=48)
    counted.batch_computed(3, [1 * MS, 2 * MS, 30 * MS], 20 * MS)
    found = samples(counted.text())
    assert found['ferros_batch_size_sum'] == 3
    assert found['ferros_batch_size_bucket{le="2.0"}'] == 0
    assert found['ferros_batch_size_bucket{le="4.0"}'] == 1
    assert found['ferros_batch_size_bucket{le="64.0"}'] == 1
    assert 'ferros_batch_size_bucket{le="128.0"}' not in found
    assert found['ferros_queue_seconds_count'] == 3
    assert found['ferros_queue_seconds_sum'] == pytest.approx(0.033)
    assert found['ferros_model_seconds_count'] == 1
    assert found['ferros_model_seconds_sum'] == pytest.approx(0.02)


def test_streams_faces_states_load_and_queue_are_shown_as_they_are():
    counted = metrics()
    for _ in range(3):
        counted.stream_opened('r1')
    counted.stream_closed('r1')
    counted.stream_refused('resource_exhausted')
    counted.faces(+5)
    counted.faces(-2)
    counted.state_resumed(True)
    counted.state_resumed(True)
    counted.state_resumed(False)
    counted.load(0.75)
    counted.queue(7)
    found = samples(counted.text())
    assert found['ferros_streams'] == 2
    assert found['ferros_streams_opened_total'] == 3
    assert found['ferros_streams_refused_total{reason="resource_exhausted"}'] == 1
    assert found['ferros_faces'] == 3
    assert found['ferros_state_resumes_total{result="resumed"}'] == 2
    assert found['ferros_state_resumes_total{result="refused"}'] == 1
    assert found['ferros_load_ratio'] == 0.75
    assert found['ferros_queue_frames'] == 7


def test_what_may_be_counted_is_there_from_the_start_so_that_its_rate_is_known():
    found = samples(metrics().text())
    for outcome in OUTCOMES:
        assert found[f'ferros_frames_total{{outcome="{outcome}",robot="other"}}'] == 0
    assert found['ferros_streams_refused_total{reason="unauthenticated"}'] == 0
    assert found['ferros_state_resumes_total{result="refused"}'] == 0
    assert not [name for name in found if '_created' in name]


def test_the_server_and_its_process_are_described():
    text = metrics(precision='int8').text()
    info = re.search(r'ferros_server_info\{(.*)\} 1\.0', text).group(1)
    assert 'model="tiny 0.1"' in info
    assert 'engine="onnx"' in info
    assert 'precision="int8"' in info
    assert 'device="CPU"' in info
    assert samples(text)['process_resident_memory_bytes'] > 1e6


def test_servers_in_one_process_count_each_for_itself():
    one, other = metrics(), metrics()
    one.stream_opened('r1')
    assert samples(one.text())['ferros_streams'] == 1
    assert samples(other.text())['ferros_streams'] == 0


# -- labels of robots -----------------------------------------------------------------------------


def robots_in(text: str) -> set[str]:
    return set(re.findall(r'robot="([^"]*)"', text))


def test_only_the_first_robots_have_a_label_of_their_own():
    counted = metrics(max_robot_labels=2)
    for robot in ('r1', 'r2', 'r3', 'r4'):
        counted.stream_opened(robot)
        counted.frame_received(robot, 10)
        counted.frame_answered(robot, 'ok', 0)
    found = samples(counted.text())
    assert found['ferros_frames_total{outcome="ok",robot="r2"}'] == 1
    assert found['ferros_frames_total{outcome="ok",robot="other"}'] == 2
    assert found['ferros_received_bytes_total{robot="other"}'] == 20
    assert robots_in(counted.text()) == {'r1', 'r2', 'other'}


def test_without_labels_all_robots_are_others():
    counted = metrics(max_robot_labels=0)
    counted.stream_opened('r1')
    counted.frame_answered('r1', 'ok', 0)
    assert robots_in(counted.text()) == {'other'}


def test_a_robot_that_has_been_gone_for_an_hour_makes_room_for_another():
    clock = Clock()
    counted = metrics(clock, max_robot_labels=2)
    for robot in ('r1', 'r2'):
        counted.stream_opened(robot)
        counted.frame_received(robot, 10)
        counted.frame_answered(robot, 'ok', 0)
    counted.stream_closed('r1')
    clock.now_ns = KEEP_LABEL_NS - 1
    counted.stream_opened('r3')
    assert robots_in(counted.text()) == {'r1', 'r2', 'other'}
    clock.now_ns = KEEP_LABEL_NS
    counted.stream_opened('r3')
    counted.frame_answered('r3', 'ok', 0)
    # r2 still has its stream: only r1 is gone.
    assert robots_in(counted.text()) == {'r2', 'r3', 'other'}


def test_a_robot_that_comes_back_keeps_its_label():
    labels = RobotLabels(1, keep_ns=10)
    labels.opened('r1', 0)
    labels.closed('r1', 0)
    labels.opened('r1', 5)
    assert labels.opened('r2', 100) is None
    assert (labels.of('r1'), labels.of('r2')) == ('r1', 'other')


def test_of_the_robots_that_are_gone_the_first_to_leave_makes_room():
    labels = RobotLabels(2, keep_ns=10)
    for robot in ('r1', 'r2'):
        labels.opened(robot, 0)
    labels.closed('r2', 1)
    labels.closed('r1', 2)
    assert labels.opened('r3', 20) == 'r2'


def test_a_thousand_robots_that_come_and_go_leave_nothing_behind():
    counted = metrics(max_robot_labels=3)
    for number in range(1000):
        counted.stream_opened(f'r{number}')
        counted.frame_received(f'r{number}', 1)
        counted.frame_answered(f'r{number}', 'ok', 0)
        counted.stream_closed(f'r{number}')
    found = samples(counted.text())
    assert found['ferros_frames_total{outcome="ok",robot="other"}'] == 997
    assert len(found) < 150
    assert not counted._robots


@pytest.mark.parametrize(
    ('robot', 'label'),
    [
        ('', 'unnamed'),
        ('a\nferros_frames_total 7', 'a_ferros_frames_total 7'),
        ('quoted"} 1', 'quoted"} 1'),
        ('back\\slash', 'back\\slash'),
        ('Roböter 3', 'Roböter 3'),
        ('x' * 100, 'x' * 64),
    ],
)
def test_a_robots_name_cannot_break_the_text(robot, label):
    counted = metrics()
    counted.stream_opened(robot)
    counted.frame_received(robot, 5)
    found = samples(counted.text())
    assert found[f'ferros_received_bytes_total{{robot="{label}"}}'] == 5
    assert found['ferros_frames_received_total'] == 1


# -- serving them ---------------------------------------------------------------------------------


@contextlib.contextmanager
def endpoint(text) -> Iterator[Endpoint]:
    served = Endpoint(text, '127.0.0.1', 0)
    try:
        yield served
    finally:
        served.stop()


def test_the_metrics_are_served_until_they_are_stopped():
    counted = metrics()
    assert counted.address is None
    address = counted.start('127.0.0.1', 0)
    assert counted.address == address
    counted.stream_opened('r1')
    assert samples(fetch(address))['ferros_streams'] == 1
    counted.stop()
    assert counted.address is None
    with pytest.raises(urllib.error.URLError, match='refused'):
        fetch(address)
    counted.stop()


def test_an_address_in_use_is_named():
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MetricsError) as error:
            metrics().start('127.0.0.1', port)
    assert str(error.value) == (
        f'cannot serve metrics on 127.0.0.1:{port}: Address already in use'
    )


def test_an_address_of_another_machine_is_named():
    with pytest.raises(MetricsError, match=r'cannot serve metrics on 192\.0\.2\.1:0: '):
        metrics().start('192.0.2.1', 0)


def test_another_path_says_where_the_metrics_are():
    with endpoint(lambda: '') as served:
        with pytest.raises(urllib.error.HTTPError) as error:
            fetch(served.address, '/')
        assert (error.value.code, error.value.read()) == (404, b'the metrics are at /metrics\n')
        assert fetch(served.address, '/metrics?name=x') == ''


def test_a_failure_is_logged_and_not_shown(caplog):
    def fail() -> str:
        raise RuntimeError('secret')

    with endpoint(fail) as served, pytest.raises(urllib.error.HTTPError) as error:
        fetch(served.address)
    assert error.value.code == 500
    assert b'secret' not in error.value.read()
    assert 'secret' in caplog.text


def test_clients_that_say_nothing_do_not_keep_others_from_the_metrics():
    with endpoint(lambda: 'x 1\n') as served, contextlib.ExitStack() as stack:
        host, port = served.address.split(':')
        for _ in range(MAX_SCRAPES - 1):
            stack.enter_context(socket.create_connection((host, int(port))))
        assert fetch(served.address) == 'x 1\n'


def test_more_clients_at_once_than_any_scraper_needs_are_turned_away():
    with endpoint(lambda: 'x 1\n') as served, contextlib.ExitStack() as stack:
        host, port = served.address.split(':')
        for _ in range(MAX_SCRAPES):
            stack.enter_context(socket.create_connection((host, int(port))))
        refused = stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
        assert refused.recv(1) == b''


# -- several processes ----------------------------------------------------------------------------


def test_the_texts_of_several_processes_are_joined_under_one_head_each():
    texts = {}
    for number in (2, 1):
        counted = metrics()
        counted.stream_opened('r{ 1')
        counted.frame_received('r{ 1', 10 * number)
        counted.faces(number)
        texts[number] = counted.text()
    text = joined(texts)
    found = samples(text)
    assert found['ferros_faces{worker="1"}'] == 1
    assert found['ferros_faces{worker="2"}'] == 2
    assert found['ferros_received_bytes_total{robot="r{ 1",worker="2"}'] == 20
    assert found['ferros_batch_size_bucket{le="+Inf",worker="1"}'] == 0
    heads = re.findall(r'^# TYPE (\S+)', text, re.M)
    assert len(heads) == len(set(heads))
    assert heads == re.findall(r'^# TYPE (\S+)', texts[1], re.M)


def test_the_process_above_says_how_many_there_are_and_should_be():
    above = SupervisorMetrics(3)
    above.worker_died()
    found = samples(above.text({1: metrics().text(), 3: metrics().text()}))
    assert found['ferros_workers_wanted'] == 3
    assert found['ferros_workers'] == 2
    assert found['ferros_worker_deaths_total'] == 1
    assert found['ferros_streams{worker="3"}'] == 0
    assert joined({}) == ''


# -- the real server ------------------------------------------------------------------------------


@on_loop
async def test_a_server_counts_what_its_robots_do(tmp_path):
    engine = OnnxEngine(tiny_model.write(tmp_path / 'model'))
    async with serving(engine, metrics_port=0) as server:
        async with robot_at(server.address, robot_id='r1') as robot:
            assert (await robot.exchange()).status == wire.OK
            assert (await robot.exchange()).status == wire.OK
            assert (await robot.exchange(image=b'garbage')).status == wire.BAD_IMAGE
            during = samples(server.metrics.text())
            await robot.end()
        async with channel_to(server.address) as channel:
            call = recognition_pb2_grpc.RecognitionStub(channel).Recognize()
            await call.write(wire.RecognizeRequest(frame=wire.FaceFrame(sequence=1)))
            await refusal(call.read())
        after = samples(server.metrics.text())
    assert during['ferros_streams'] == 1
    assert during['ferros_faces'] == 1
    assert after['ferros_streams'] == 0
    assert after['ferros_faces'] == 0
    assert after['ferros_frames_received_total'] == 3
    assert after['ferros_frames_total{outcome="ok",robot="r1"}'] == 2
    assert after['ferros_frames_total{outcome="bad_image",robot="r1"}'] == 1
    assert after['ferros_answer_age_seconds_count'] == 2
    assert after['ferros_batch_size_sum'] == 3
    assert after['ferros_streams_opened_total'] == 1
    assert after['ferros_streams_refused_total{reason="failed_precondition"}'] == 1


# -- the documentation ----------------------------------------------------------------------------


def described(text: str) -> dict[str, str]:
    """Return the names and types of a text of metrics."""
    return dict(re.findall(r'^# TYPE (\S+) (\S+)$', text, re.M))


def test_the_documentation_lists_every_metric_with_its_type_and_no_other():
    document = (ROOT / 'docs' / 'operation.md').read_text()
    listed = dict(re.findall(r'^\| `((?:ferros|process)_\w+)(?:\{[^}]*\})?` \| (\w+) \|', document,
                             re.M))
    served = described(metrics().text()) | described(SupervisorMetrics(2).text({}))
    assert listed == served


def test_the_documentation_asks_for_metrics_that_there_are():
    document = (ROOT / 'docs' / 'operation.md').read_text()
    text = metrics().text() + SupervisorMetrics(2).text({})
    known = set(described(text))
    known |= {re.sub(r'[{ ].*', '', line) for line in text.splitlines() if line[:1] != '#'}
    asked = set(re.findall(r'\b(?:ferros|process)_[a-z_]+\b', document))
    assert asked - known == set()
    assert len(asked) > 15


def test_the_alerts_of_the_documentation_are_rules_that_prometheus_can_read():
    document = (ROOT / 'docs' / 'operation.md').read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r'```yaml\n(.*?)```', document, re.S)]
    rules = [rule for block in blocks for group in block.get('groups', ()) for rule in
             group['rules']]
    assert len(rules) > 5
    for rule in rules:
        assert re.fullmatch('Ferros[A-Z][A-Za-z]+', rule['alert'])
        assert rule['expr'].count('(') == rule['expr'].count(')')
        assert rule['annotations']['summary']


def test_the_documentation_explains_every_status_and_every_refusal():
    document = (ROOT / 'docs' / 'operation.md').read_text()
    assert '`stream_ended`' in document
    for name in set(OUTCOMES) - {'stream_ended'}:
        assert f'`{name.upper()}`' in document
    for reason in REFUSALS:
        assert f'`{reason}`' in document
