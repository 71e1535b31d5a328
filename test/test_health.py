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
"""The levels that the node's parts are judged by."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from node_reports import NAN, WAITING, link, report

from ferros import health as limits
from ferros.health import FacesReport, Health, Level, NodeReport, health, is_by_design
from ferros.operating_point import Plan
from ferros.types import Codec, GridPoint, Source


def part(name: str, now: NodeReport, before: NodeReport | None = None) -> Health:
    found = {each.part: each for each in health(now, before or report(at_s=9.0))}
    return found[name]


def judged(name: str, before: NodeReport | None = None, **changes: Any) -> tuple[Level, str]:
    found = part(name, report(**changes), before)
    return found.level, found.message


def test_where_all_is_well_all_is_ok() -> None:
    parts = health(report(rep155=''), report(at_s=9.0))
    assert [each.part for each in parts] == [
        'camera', 'link', 'faces', 'answers', 'drops', 'rep155'
    ]
    assert {each.level for each in parts} == {Level.OK}


def test_a_silent_camera_is_an_error_and_what_depends_on_it_is_stale() -> None:
    assert judged('camera', silent_s=NAN) == (Level.ERROR, 'no image yet on /image')
    assert judged('camera', silent_s=1.26) == (Level.ERROR, 'no image for 1.3 s')
    assert judged('camera', silent_s=1.0) == (Level.OK, '30.0 images per second')
    for silent_s in (NAN, 1.26):
        for name in ('faces', 'answers'):
            assert judged(name, silent_s=silent_s)[0] is Level.STALE
    assert judged('link', silent_s=NAN)[0] is judged('drops', silent_s=NAN)[0] is Level.OK


def test_a_slow_camera_is_a_warning_once_it_had_a_whole_second() -> None:
    assert judged('camera', rate_hz=4.9, processing_ms=()) == (
        Level.WARN, 'only 4.9 images per second'
    )
    assert judged('camera', rate_hz=5.0, processing_ms=())[0] is Level.OK
    silent = report(at_s=9.0, silent_s=NAN)
    assert judged('camera', silent, rate_hz=1.0)[0] is Level.OK
    assert health(report(rate_hz=1.0), None)[0].level is Level.OK


def test_images_that_take_longer_than_the_camera_gives_are_a_warning() -> None:
    assert judged('camera', processing_ms=(4.0,) * 25 + (34.0,) * 5) == (
        Level.WARN, '30.0 images per second, but one takes 34 ms (95th percentile)'
    )
    # One slow image of thirty is beyond the 95th percentile; of few there is none.
    assert judged('camera', processing_ms=(4.0,) * 29 + (300.0,))[0] is Level.OK
    assert judged('camera', processing_ms=(300.0,) * 4)[0] is Level.OK
    values = part('camera', report(processing_ms=(1.0, 2.0, 30.0))).values
    assert values['processing_ms'] == '2.0' and values['processing_max_ms'] == '30.0'
    assert 20 < float(values['processing_p95_ms']) < 30
    assert part('camera', report(processing_ms=())).values['processing_ms'] == 'nan'


def test_a_link_that_is_down_is_a_warning_while_somebody_answers() -> None:
    down = {'link': WAITING, 'faces': FacesReport(1, 'fa1', 20.0, 8)}
    assert judged('link', **down) == (Level.WARN, 'waiting: nobody listens there')
    assert judged('link', **down, speaker=Source.ROBOT) == (
        Level.WARN, 'waiting: nobody listens there; the robot answers itself'
    )
    assert judged('link', **down, age_s=1.1) == (
        Level.ERROR, 'waiting: nobody listens there; nobody answers'
    )
    nobody = FacesReport(0, '', NAN, 8)
    assert judged('link', link=WAITING, faces=nobody, age_s=NAN)[0] is Level.WARN


def test_a_slow_link_is_a_warning() -> None:
    bandwidth = link().bandwidth
    slow = link(bandwidth=bandwidth._replace(round_trip_ms=501.0))
    assert judged('link', link=slow) == (
        Level.WARN, 'connected, ferros-fer 9, but its round trip takes 501 ms'
    )
    unknown = link(bandwidth=bandwidth._replace(round_trip_ms=NAN))
    assert judged('link', link=unknown) == (Level.OK, 'connected, ferros-fer 9')


def test_the_link_tells_what_is_known_of_it_and_what_is_sent_of_each_face() -> None:
    point = GridPoint(48, 8.4242, Codec.WEBP, 80, 685, 921, 0.84567)
    plan = Plan({'near': point, 'far': point._replace(face_size_px=20)}, 1.0, 2.0)
    values = part('link', report(link=link(plan=plan))).values
    assert values['acknowledged_bytes_per_s'] == '1800'
    assert float(values['rate_bytes_per_s']) > 0 and int(values['window_bytes']) > 0
    assert values['budget_bytes_per_s'] in ('1234', '1235')
    assert (values['in_flight_bytes'], values['sent_bytes']) == ('300', '1200')
    assert (values['round_trip_ms'], values['min_round_trip_ms']) == ('40.0', '40.0')
    assert (values['queue_ms'], values['state']) == ('0.0', 'connected')
    assert (values['model'], values['input_size_px']) == ('ferros-fer 9', '48')
    assert values['operating_point_0'] == '48 px, 8.42 fps, webp 80, expected accuracy 0.846'
    assert values['operating_point_1'] == '20 px, 8.42 fps, webp 80, expected accuracy 0.846'
    assert 'operating_point_2' not in values
    assert 'operating_point_0' not in part('link', report()).values


def test_more_faces_than_are_read_are_a_warning() -> None:
    assert judged('faces', number=8) == (Level.OK, '8 faces')
    assert judged('faces', number=9) == (Level.WARN, '9 faces, of which 8 are read')


def test_the_answers_say_who_answers_how_often() -> None:
    before = report(at_s=8.0, published={Source.CLOUD: 60, Source.ROBOT: 5})
    assert judged('answers', before) == (Level.OK, 'the server answers, 5.0 times a second')
    robot = {'speaker': Source.ROBOT, 'published': {Source.CLOUD: 60, Source.ROBOT: 15}}
    assert judged('answers', before, **robot) == (
        Level.WARN, 'the robot answers itself, 5.0 times a second'
    )
    values = part('answers', report(**robot), before).values
    assert (values['published_robot'], values['published_robot_hz']) == ('15', '5.0')
    assert (values['published_unknown'], values['published_cloud_hz']) == ('0', '0.0')
    assert (values['cloud_model'], values['robot_model']) == ('ferros-fer 9', 'small 1')


def test_a_face_without_an_answer_is_an_error_once_it_could_have_had_one() -> None:
    assert judged('answers', number=2, age_s=1.26) == (
        Level.ERROR, 'no answer for 1.3 s: 2 faces'
    )
    assert judged('answers', age_s=NAN) == (Level.ERROR, 'no answer yet: 1 face')
    # It came just now, whenever the last one's answer was.
    assert judged('answers', age_s=NAN, there_s=0.5) == (Level.OK, 'no answer yet')
    assert judged('answers', age_s=60.0, there_s=0.5)[0] is Level.OK
    assert judged('answers', speaker=Source.NONE) == (Level.OK, 'no answer yet')
    nobody = FacesReport(0, '', NAN, 8)
    assert judged('answers', faces=nobody, age_s=60.0) == (Level.OK, 'no face is there')


def test_a_reason_that_drops_grow_fast_for_is_a_warning() -> None:
    before = report(at_s=8.0, drops={'answer_stale': 10, 'late': 1})
    grown = {'answer_stale': 13, 'late': 3, 'superseded': 900}
    assert judged('drops', before, drops=grown) == (
        Level.WARN, '916 dropped, answer_stale 1.5 a second'
    )
    # What was dropped long ago, or as fast as that, is none.
    assert judged('drops', before, drops={'answer_stale': 12, 'late': 1})[0] is Level.OK
    assert part('drops', report(drops=grown), before).values == {
        'answer_stale': '13', 'late': '3', 'superseded': '900'
    }
    # The counts began anew.
    assert judged('drops', before, drops={'answer_stale': 1})[0] is Level.OK


@pytest.mark.parametrize(
    'reason',
    ['superseded', 'image_superseded', 'answer_face_gone', 'answer_on_probation', 'not_connected'],
)
def test_what_is_dropped_by_design_is_no_warning(reason: str) -> None:
    assert is_by_design(reason) and not is_by_design(f'{reason}_oddly')
    assert judged('drops', drops={reason: 10_000})[0] is Level.OK


def test_a_conflict_of_rep_155_is_a_warning_in_its_own_words() -> None:
    assert judged('rep155', rep155='/other publishes tracked, too') == (
        Level.WARN, '/other publishes tracked, too'
    )
    assert 'rep155' not in [each.part for each in health(report(), None)]


def test_the_limits_are_documented_as_they_are(root: Path) -> None:
    text = (root / 'docs' / 'diagnostics.md').read_text(encoding='utf-8')
    documented = dict(re.findall(r'`([A-Z][A-Z0-9_]+)` = ([0-9.]+)', text))
    constants = {
        name: value
        for name, value in vars(limits).items()
        if name.isupper() and not name.startswith('_') and isinstance(value, int | float)
    }
    assert {name: float(value) for name, value in documented.items()} == constants
    assert all(f'`{reason}`' in text for reason in limits.BY_DESIGN)


def test_every_value_is_documented(root: Path) -> None:
    text = (root / 'docs' / 'diagnostics.md').read_text(encoding='utf-8')
    table = text.partition('## Values')[2].partition('\n## ')[0]
    words = set(re.findall(r'`([a-z0-9_]+)`', table))
    for name in ('published_', 'operating_point_'):
        suffixes = {word for word in words if word.startswith('_')}
        words |= {f'{name}{suffix[1:]}' for suffix in suffixes}
    point = GridPoint(48, 8.4, Codec.WEBP, 80, 685, 921, 0.8)
    now = report(link=link(plan=Plan({'a': point, 'b': point}, 1.0, 2.0)))
    for each in health(now, None):
        assert each.part in words
        assert set(each.values) <= words, each.part
