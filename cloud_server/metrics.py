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
What the server counts and measures, in the text format of Prometheus.

One process counts in a registry of its own. Where several share a port, the process above them
asks each for its text and shows all of them with a label `worker`, so that every series has one
source: a process that ends takes its series with it, and nothing has to be added up that may be
reset. What is seen is how evenly the kernel spreads the robots, besides.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client import ProcessCollector as Process
from prometheus_client.metrics_core import Metric

from cloud_server.config import ServerConfig
from cloud_server.metrics_endpoint import Endpoint
from cloud_server.version import version

# The statuses of the wire, in small letters.
OUTCOMES = (
    'ok', 'dropped_stale', 'overloaded', 'bad_image', 'limit_exceeded', 'unavailable_model',
    'stream_ended',
)
# Why a stream was not let in: gRPC's name of the status, or that it did not speak the protocol.
REFUSALS = (
    'unauthenticated', 'permission_denied', 'resource_exhausted', 'unavailable',
    'failed_precondition', 'invalid_argument', 'deadline_exceeded', 'not_a_message',
)
OTHER_ROBOTS = 'other'
UNNAMED_ROBOT = 'unnamed'
MAX_LABEL_CHARS = 64
# A robot that has gone for so long leaves its label to another.
KEEP_LABEL_NS = 3600 * 1_000_000_000
SECONDS_PER_NS = 1e-9
# Close together around the deadline's 0.2 s and the 0.05 s that a robot hopes for.
TIME_BUCKETS_S = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5,
)


class RobotLabels:
    """
    Which robots have a label of their own: the first so many; a robot long gone makes room.

    Pure: times are arguments.
    """

    def __init__(self, limit: int, keep_ns: int = KEEP_LABEL_NS) -> None:
        self._limit = limit
        self._keep_ns = keep_ns
        self._streams: dict[str, int] = {}
        # Robots without a stream and since when, the one that left first before the others.
        self._left_ns: dict[str, int] = {}

    def of(self, robot: str) -> str:
        """Return the label of a robot."""
        name = _sanitised(robot)
        return name if name in self._streams else OTHER_ROBOTS

    def opened(self, robot: str, now_ns: int) -> str | None:
        """Count a stream; return the label that went away to make room for this robot's."""
        name, removed = _sanitised(robot), None
        if name not in self._streams:
            if len(self._streams) >= self._limit:
                removed = self._remove_oldest(now_ns)
                if removed is None:
                    return None
            self._streams[name] = 0
        self._streams[name] += 1
        self._left_ns.pop(name, None)
        return removed

    def closed(self, robot: str, now_ns: int) -> None:
        """Count a stream that ended."""
        name = _sanitised(robot)
        # A robot may have got its label with its second stream; its first one was not counted.
        if self._streams.get(name, 0) > 0:
            self._streams[name] -= 1
            if self._streams[name] == 0:
                self._left_ns[name] = now_ns

    def _remove_oldest(self, now_ns: int) -> str | None:
        name = next(iter(self._left_ns), None)
        if name is None or now_ns - self._left_ns[name] < self._keep_ns:
            return None
        del self._left_ns[name], self._streams[name]
        return name


class Metrics:
    """
    The figures of one process; its methods are called on the event loop and cost microseconds.

    The metrics are described in docs/operation.md.
    """

    def __init__(
        self,
        config: ServerConfig,
        model: str,
        device: str,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """
        Start all counts at zero.

        Args:
            config: of the server.
            model: name and version of what is served.
            device: where it is computed, e.g. 'CPU'.
            clock_ns: tells how long a robot has been gone.

        """
        self._clock_ns = clock_ns
        self._labels = RobotLabels(config.max_robot_labels)
        self._registry = CollectorRegistry()
        self._create_counters()
        self._create_measures(config)
        info = Info('ferros_server', 'What this server runs; always 1', registry=self._registry)
        info.info({
            'version': version(), 'model': model, 'engine': config.engine,
            'precision': config.precision, 'device': device,
        })
        Process(registry=self._registry)
        self._robots: dict[str, _Robot] = {}
        for outcome in OUTCOMES:
            self._frames.labels(outcome, OTHER_ROBOTS)
        for reason in REFUSALS:
            self._refused.labels(reason)
        self._endpoint: Endpoint | None = None

    @property
    def address(self) -> str | None:
        """Return HOST:PORT of the metrics while they are served."""
        return None if self._endpoint is None else self._endpoint.address

    # -- frames ----------------------------------------------------------------------------------

    def frame_received(self, robot: str, size_bytes: int) -> None:
        """Count a frame that arrived, whatever becomes of it."""
        self._received.inc()
        (self._robots.get(robot) or self._counters_of(robot)).received_bytes.inc(size_bytes)

    def frame_answered(self, robot: str, outcome: str, age_ns: int) -> None:
        """
        Count an answer.

        Args:
            robot: as in its Hello, or as it proved.
            outcome: the status on the wire, in small letters.
            age_ns: from the arrival of the frame to the answer.

        """
        counters = self._robots.get(robot) or self._counters_of(robot)
        counter = counters.answered.get(outcome)
        if counter is None:
            counter = self._frames.labels(outcome, counters.label)
            counters.answered[outcome] = counter
        counter.inc()
        if outcome == 'ok':
            self._age.observe(age_ns * SECONDS_PER_NS)

    def batch_computed(self, size: int, waited_ns: Sequence[int], busy_ns: int) -> None:
        """Measure a batch: how long each of its frames waited, and how long it was computed."""
        self._batch_size.observe(size)
        self._model_time.observe(busy_ns * SECONDS_PER_NS)
        for each_ns in waited_ns:
            self._queue_time.observe(each_ns * SECONDS_PER_NS)

    # -- streams ---------------------------------------------------------------------------------

    def stream_opened(self, robot: str) -> None:
        """Count a stream that was let in."""
        self._opened.inc()
        self._streams.inc()
        removed = self._labels.opened(robot, self._clock_ns())
        if removed is not None:
            self._remove(removed)
        streams = self._robots[robot].streams if robot in self._robots else 0
        # Anew with each stream: there may be a label for it now.
        self._robots[robot] = self._counters_of(robot, streams + 1)

    def stream_closed(self, robot: str) -> None:
        """Count a stream that ended."""
        self._streams.dec()
        self._labels.closed(robot, self._clock_ns())
        counters = self._robots.get(robot)
        if counters is not None:
            counters.streams -= 1
            if counters.streams == 0:
                del self._robots[robot]

    def stream_refused(self, reason: str) -> None:
        """Count a stream that was not let in; reason: one of REFUSALS."""
        self._refused.labels(reason).inc()

    def faces(self, change: int) -> None:
        """Count faces that got a state, or lost it."""
        self._faces.inc(change)

    def state_resumed(self, accepted: bool) -> None:
        """Count a state that a robot brought from the server before."""
        (self._resumed if accepted else self._not_resumed).inc()

    # -- the whole -------------------------------------------------------------------------------

    def load(self, value: float) -> None:
        """Show what arrives as a part of what can be served, 0 and up."""
        self._load.set(value)

    def queue(self, length: int) -> None:
        """Show how many frames wait."""
        self._queue.set(length)

    def text(self) -> str:
        """Return all of it in the text format; may be called in any thread."""
        return _text(self._registry)

    def start(self, host: str, port: int) -> str:
        """
        Serve the text at http://HOST:PORT/metrics in threads of its own.

        Returns:
            HOST:PORT with the real port.

        Raises:
            MetricsError: the address cannot be had.

        """
        self._endpoint = Endpoint(self.text, host, port)
        return self._endpoint.address

    def stop(self) -> None:
        """End what start began; without a start it does nothing."""
        if self._endpoint is not None:
            self._endpoint.stop()
            self._endpoint = None

    def _create_counters(self) -> None:
        registry = self._registry
        self._received = Counter(
            'ferros_frames_received_total', 'Frames that arrived', registry=registry
        )
        self._bytes = Counter(
            'ferros_received_bytes_total', 'Bytes of the images that arrived', ['robot'],
            registry=registry,
        )
        self._frames = Counter(
            'ferros_frames_total', 'Frames by what became of them', ['outcome', 'robot'],
            registry=registry,
        )
        self._opened = Counter(
            'ferros_streams_opened_total', 'Streams that were let in', registry=registry
        )
        self._refused = Counter(
            'ferros_streams_refused_total', 'Streams that were not let in', ['reason'],
            registry=registry,
        )
        resumes = Counter(
            'ferros_state_resumes_total', 'States that robots brought from the server before',
            ['result'], registry=registry,
        )
        self._resumed, self._not_resumed = resumes.labels('resumed'), resumes.labels('refused')

    def _create_measures(self, config: ServerConfig) -> None:
        registry = self._registry
        self._batch_size = Histogram(
            'ferros_batch_size', 'Frames in one batch', registry=registry,
            buckets=_powers_of_two(config.max_batch),
        )
        self._queue_time = Histogram(
            'ferros_queue_seconds', 'How long a computed frame waited for its batch',
            registry=registry, buckets=TIME_BUCKETS_S,
        )
        self._model_time = Histogram(
            'ferros_model_seconds', 'How long one batch was decoded and computed',
            registry=registry, buckets=TIME_BUCKETS_S,
        )
        self._age = Histogram(
            'ferros_answer_age_seconds', 'From the arrival of a frame to its answer ok',
            registry=registry, buckets=TIME_BUCKETS_S,
        )
        self._streams = Gauge('ferros_streams', 'Streams that are open', registry=registry)
        self._faces = Gauge('ferros_faces', 'Faces with a state', registry=registry)
        self._load = Gauge(
            'ferros_load_ratio', 'What arrives over what can be served', registry=registry
        )
        self._queue = Gauge('ferros_queue_frames', 'Frames that wait', registry=registry)

    def _counters_of(self, robot: str, streams: int = 0) -> _Robot:
        label = self._labels.of(robot)
        return _Robot(label, self._bytes.labels(label), streams)

    def _remove(self, label: str) -> None:
        """Take the series of a label away."""
        with contextlib.suppress(KeyError):
            self._bytes.remove(label)
        for outcome in OUTCOMES:
            with contextlib.suppress(KeyError):
                self._frames.remove(outcome, label)


@dataclass
class _Robot:
    """The counters of a robot with a stream, so that no frame has to look for them."""

    label: str
    received_bytes: Any
    streams: int
    # By outcome.
    answered: dict[str, Any] = field(default_factory=dict)


class SupervisorMetrics:
    """The figures of the process above the workers, and the text of them all."""

    def __init__(self, wanted: int) -> None:
        self._registry = CollectorRegistry()
        count = Gauge(
            'ferros_workers_wanted', 'Server processes there should be', registry=self._registry
        )
        count.set(wanted)
        self._serving = Gauge(
            'ferros_workers', 'Server processes that gave their metrics', registry=self._registry
        )
        self._deaths = Counter(
            'ferros_worker_deaths_total', 'Server processes that ended unbidden',
            registry=self._registry,
        )

    def worker_died(self) -> None:
        """Count a worker that ended and was not told to."""
        self._deaths.inc()

    def text(self, workers: Mapping[int, str]) -> str:
        """Join the texts of the workers, by their numbers, with the figures of this process."""
        self._serving.set(len(workers))
        return _text(self._registry) + joined(workers)


def joined(workers: Mapping[int, str]) -> str:
    """
    Join texts of several processes into one in which every sample says whose it is.

    Args:
        workers: number of a process -> its text, as `Metrics.text` gives it.

    Returns:
        The same families, each once, the samples with a label `worker`.

    """
    families: dict[str, list[str]] = {}
    for number, text in sorted(workers.items()):
        for name, head, samples in _families(text):
            lines = families.setdefault(name, head)
            lines += [_with_worker(line, number) for line in samples]
    return ''.join(line + '\n' for lines in families.values() for line in lines)


class _WithoutCreated:
    """A registry without the series that tell when a counter began: as many again, and unused."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [
                sample for sample in metric.samples if not sample.name.endswith('_created')
            ]
            yield metric


def _text(registry: CollectorRegistry) -> str:
    return generate_latest(_WithoutCreated(registry)).decode()


def _families(text: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Split a text into families: name, the two lines that describe it, its samples."""
    head: list[str] = []
    samples: list[str] = []
    for line in text.splitlines():
        if line.startswith('# HELP '):
            if head:
                yield head[0].split(' ')[2], head, samples
            head, samples = [line], []
        elif line.startswith('#'):
            head.append(line)
        elif line:
            samples.append(line)
    if head:
        yield head[0].split(' ')[2], head, samples


def _with_worker(sample: str, number: int) -> str:
    """Add the label to a line `name{labels} value` or `name value`; names have no such signs."""
    end = min(place for place in (sample.find('{'), sample.find(' ')) if place >= 0)
    if sample[end] == '{':
        return f'{sample[:end]}{{worker="{number}",{sample[end + 1:]}'
    return f'{sample[:end]}{{worker="{number}"}}{sample[end:]}'


def _sanitised(robot: str) -> str:
    """Return a robot's id as a label: printable, short, not empty."""
    shown = ''.join(char if char.isprintable() else '_' for char in robot[:MAX_LABEL_CHARS])
    return shown or UNNAMED_ROBOT


def _powers_of_two(largest: int) -> list[float]:
    """Return 1, 2, 4, ... up to the first that is not below the largest."""
    return [float(1 << power) for power in range((largest - 1).bit_length() + 1)]
