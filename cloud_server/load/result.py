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
"""What a run found, in plain numbers: dataclasses that go to JSON and come back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar


@dataclass(frozen=True)
class Frames:
    """
    What became of frames. Each is in it once.

    planned = sent + the sum of held; sent = the sums of answers and unanswered.
    """

    planned: int
    sent: int
    # Why a frame did not leave -> frames. no_credit: as many as the server allows were
    # unanswered; not_connected: no stream; blocked: the transport had not taken the one before;
    # generator_late: the generator did not come to it.
    held: dict[str, int]
    # Status -> frames.
    answers: dict[str, int]
    # Why no answer came -> frames.
    unanswered: dict[str, int]


@dataclass(frozen=True)
class Latency:
    """Of the frames answered OK, in ms; None where there are none."""

    count: int
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None


@dataclass(frozen=True)
class Streams:
    """What the streams of one kind of robot went through, over the whole run."""

    opened: int
    reconnected: int
    drained: int
    # Of those that carried a sealed state: accepted or not. And those that had none to carry.
    resumed: int
    not_resumed: int
    without_state: int
    # Faces whose state was there at their first answer after a reconnection, and was not.
    states_kept: int
    states_lost: int
    # Status -> attempts that got no Welcome; status -> streams that ended after theirs.
    refused: dict[str, int]
    ended: dict[str, int]
    # Status of answers and of streams -> what the server said with it the first time.
    texts: dict[str, str]


@dataclass(frozen=True)
class Fault:
    """How the server treated the robots with one fault, over the whole run."""

    robots: int
    frames: Frames
    streams: Streams
    # Statuses that a sound server does not give such a robot -> how often.
    unexpected: dict[str, int]


@dataclass(frozen=True)
class Idle:
    """The streams without frames."""

    wanted: int
    # With a Welcome when the sending began, and when it ended.
    open_at_begin: int
    open_at_end: int
    streams: Streams


@dataclass(frozen=True)
class Generator:
    """Whether the generator did what was planned."""

    # Between the planned time of a frame and its sending; None when it saturates: no plan.
    lateness_p50_ms: float | None
    lateness_p99_ms: float | None
    lateness_max_ms: float | None
    # Of the frames planned: later than 10 ms.
    late_share: float | None
    # Of its event loop, however that came.
    lag_p99_ms: float | None
    lag_max_ms: float | None
    # Of one core, by the whole process.
    cpu_share: float | None
    cpu_us_per_frame: float | None
    # True: the figures say what this machine could send, not what the server could take.
    is_limited: bool


@dataclass(frozen=True)
class Timeline:
    """The run in steps, from the beginning: by when frames were planned (closed loop: sent)."""

    step_s: float
    # Where the measured part begins and ends.
    measured_from_s: float
    measured_to_s: float
    # Outcome -> frames of each step: OK, other statuses, held and unanswered ones.
    outcomes: dict[str, list[int]]
    # From the planned (closed loop: the sending) time of those answered OK; None: there are none.
    p50_ms: list[float | None]
    p99_ms: list[float | None]


@dataclass(frozen=True)
class Result:
    """What a run found; the figures without another word are of its measured part."""

    plan: dict[str, Any]
    model: str
    # Where the server computes; empty: it did not say.
    device: str
    server_version: str
    # Frames that one stream may have unanswered, and may send per second.
    credits: int
    max_frame_rate_fps: float
    measured_s: float
    # True: it was ended before its time.
    is_cut_short: bool
    # Frames planned, sent, and answered OK in the measured part, per second.
    planned_per_s: float
    sent_per_s: float
    ok_per_s: float
    frames: Frames
    # OK answers, by robots' clocks: from the planned time (no frame that had to wait for us or
    # for a credit looks better than it was), and from the time it was sent.
    from_planned: Latency | None
    from_sent: Latency
    # By the server's clock, from receipt to reply: the age of an answer when it leaves.
    in_server: Latency
    # The rest: network, both transports, and the generator.
    outside_server: Latency
    # Of all frames, ramp and warm-up included.
    whole_run: Frames
    streams: Streams
    # What a server must never do -> how often it did, over the whole run, to any robot.
    protocol_errors: dict[str, int]
    faults: dict[str, Fault]
    idle: Idle | None
    generator: Generator
    # True: at least 99 % of the frames were answered OK, the rest, too, were answered, and p99
    # from the planned time was within 200 ms; None: the run cannot tell.
    is_carried: bool | None
    # What a reader should know, a sentence each.
    notes: list[str]
    timeline: Timeline

    def to_json(self) -> dict[str, Any]:
        """Return what json.dumps takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Result:
        """Return what to_json was given; raises KeyError where something is missing."""
        parts = {
            'frames': Frames, 'whole_run': Frames, 'streams': Streams, 'generator': Generator,
            'timeline': Timeline, 'from_sent': Latency, 'in_server': Latency,
            'outside_server': Latency,
        }
        values: dict[str, Any] = {
            field.name: document[field.name] for field in dataclasses.fields(cls)
        }
        values |= {name: _of(kind, values[name]) for name, kind in parts.items()}
        planned, idle = values['from_planned'], values['idle']
        values['from_planned'] = None if planned is None else _of(Latency, planned)
        values['idle'] = None if idle is None else Idle(
            **{**idle, 'streams': _of(Streams, idle['streams'])}
        )
        values['faults'] = {
            kind: Fault(
                fault['robots'], _of(Frames, fault['frames']), _of(Streams, fault['streams']),
                dict(fault['unexpected']),
            )
            for kind, fault in values['faults'].items()
        }
        return cls(**values)


_Part = TypeVar('_Part')


def _of(kind: type[_Part], values: Mapping[str, Any]) -> _Part:
    return kind(**values)
