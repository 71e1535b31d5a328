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
"""What to send of each face: the points of highest expected accuracy that fit the link; pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ferros.config import RobotConfig
from ferros.types import GridPoint

# Below this a crop holds nothing the model was trained on.
MIN_FACE_SIZE_PX = 12
# Where nothing fits, a face is still sent once in ten seconds.
MIN_FRAME_RATE_FPS = 0.1
# What an improvement of the primary face counts, where one of another face counts 1.
PRIMARY_WEIGHT = 8.0
# What acknowledges a message's answer, and gRPC's window updates, take of the way to the server:
# measured: 40 bytes where messages follow closely and carry them, up to 100 where they do not.
ACKNOWLEDGEMENT_BYTES = 40
# A server that allows less than this is not understood.
LEAST_LIMIT_FPS = 0.001
# Fronts that are kept; they are few, as links and faces change slowly.
MOST_FRONTS = 256
# Of the longest message, in eighths of an octave: no limit.
MOST_STEPS = 400


class Limits(NamedTuple):
    """Between what the points are chosen."""

    # Of all faces together.
    budget_bytes_per_s: float
    # The 95th percentile of a message's length: a long one keeps all that follow it waiting.
    longest_message_bytes: float
    # Of one face: the camera's, or what the server can do.
    frame_rate_fps: float
    # The side that the model can use.
    input_size_px: int
    # Of the camera; inf where it is not known.
    camera_fps: float = math.inf


class Plan(NamedTuple):
    """What is sent of each face."""

    points: dict[str, GridPoint]
    cost_bytes_per_s: float
    # What the best points of all faces would cost on an unlimited link.
    wanted_bytes_per_s: float


class _Front(NamedTuple):
    """The points worth choosing for a face, rising in cost and in accuracy."""

    points: tuple[GridPoint, ...]
    costs: tuple[float, ...]
    # The steps of its upper hull: accuracy gained per byte per second, and the point it leads to.
    steps: tuple[tuple[float, int], ...]


class OperatingPointChooser:
    """
    Chooses face size, frame rate, codec and quality of several faces from the accuracy grid.

    A parameter that is set (not 0, not auto) pins its dimension. The grid's nearest value stands
    for a pinned one that it lacks.
    """

    def __init__(self, config: RobotConfig, grid: Sequence[GridPoint]) -> None:
        self._config = config
        self.set_grid(grid)

    def set_grid(self, grid: Sequence[GridPoint]) -> None:
        """
        Steer by another grid from now on.

        Raises:
            ValueError: it is empty.

        """
        if not grid:
            raise ValueError('the accuracy grid has no point, expected at least one')
        self._measured = tuple(grid)
        self._pin()

    def configure(self, config: RobotConfig) -> None:
        """Pin other values from now on."""
        self._config = config
        self._pin()

    def _pin(self) -> None:
        self._grid = _pinned(self._measured, self._config)
        self._faster = dict(_faster(self._grid))
        self._fronts: dict[tuple[int, float, int], _Front] = {}
        self._affordable: dict[tuple[int, float], list[GridPoint]] = {}

    def choose(self, faces: Sequence[tuple[str, float]], limits: Limits) -> Plan:
        """
        Return the points of the faces.

        Args:
            faces: id and side of the box in pixels of the camera image, the primary face first:
                it counts for several others. Never more pixels are sent than a face has.
            limits: what the link, the camera, the server and the model allow.

        """
        fronts = [self._front(side_px, limits) for _, side_px in faces]
        unlimited = limits._replace(longest_message_bytes=math.inf)
        wanted = sum(self._front(side_px, unlimited).costs[-1] for _, side_px in faces)
        chosen = self._share(fronts, limits)
        return Plan(
            points={face_id: point for (face_id, _), point in zip(faces, chosen, strict=True)},
            cost_bytes_per_s=sum(map(bytes_per_s, chosen)),
            wanted_bytes_per_s=wanted,
        )

    def _share(self, fronts: Sequence[_Front], limits: Limits) -> list[GridPoint]:
        """Share the budget: the steps that gain most per byte first, then what is left over."""
        left = limits.budget_bytes_per_s - sum(front.costs[0] for front in fronts)
        if left < 0:
            return _slowed([front.points[0] for front in fronts], limits.budget_bytes_per_s)
        at = [0] * len(fronts)
        # One face takes what it can get, below.
        steps = [] if len(fronts) == 1 else sorted(
            (-gain * (PRIMARY_WEIGHT if rank == 0 else 1.0), rank, to)
            for rank, front in enumerate(fronts)
            for gain, to in front.steps
        )
        full = set()
        for _, rank, to in steps:
            costs = fronts[rank].costs
            cost = costs[to] - costs[at[rank]]
            if rank not in full and cost <= left:
                at[rank], left = to, left - cost
            else:
                full.add(rank)
        chosen = []
        for rank, front in enumerate(fronts):
            point, left = self._filled(front, at[rank], left, limits)
            chosen.append(point)
        return chosen

    def _filled(
        self, front: _Front, at: int, left: float, limits: Limits
    ) -> tuple[GridPoint, float]:
        """Spend what is left over on a face; return its point and what is left after that."""
        may_cost = front.costs[at] + left
        while at + 1 < len(front.costs) and front.costs[at + 1] <= may_cost:
            at += 1
        # A cheaper point at a higher rate may be worth more than the dearest that fits.
        point = max(
            (self._faster_by(p, may_cost, limits) for p in front.points[max(0, at - 3) : at + 1]),
            key=lambda point: point.accuracy,
        )
        return point, may_cost - bytes_per_s(point)

    def _faster_by(self, point: GridPoint, may_cost: float, limits: Limits) -> GridPoint:
        """Return the point at the highest rate that pays and that the limits allow."""
        faster = self._faster.get(point)
        if faster is None or faster.accuracy <= point.accuracy:
            return point
        rate_fps = min(faster.frame_rate_fps, limits.frame_rate_fps, _rate_fps(point, may_cost))
        rate_fps = _even(rate_fps, limits.camera_fps)
        if rate_fps <= point.frame_rate_fps:
            return point
        return _between(point, faster, rate_fps)

    def _front(self, side_px: float, limits: Limits) -> _Front:
        size_px = max(MIN_FACE_SIZE_PX, min(round(side_px), limits.input_size_px))
        # Rounded down to steps of 9 %, so that a rate that trembles does not make new fronts.
        longest = limits.longest_message_bytes
        step = int(8 * math.log2(max(longest, 1.0))) if math.isfinite(longest) else MOST_STEPS
        key = (size_px, max(LEAST_LIMIT_FPS, limits.frame_rate_fps), step)
        front = self._fronts.get(key)
        if front is None:
            if len(self._fronts) >= MOST_FRONTS:
                self._fronts.clear()
                self._affordable.clear()
            front = _front(self._points(size_px, key[1]), 2.0 ** (step / 8))
            self._fronts[key] = front
        return front

    def _points(self, size_px: int, rate_fps: float) -> list[GridPoint]:
        """Return the points for a face of that size at rates up to that, the cheapest first."""
        points = self._affordable.get((size_px, rate_fps))
        if points is None:
            points = _within(self._grid, size_px, rate_fps)
            points.sort(key=lambda p: (bytes_per_s(p), -p.accuracy))
            self._affordable[size_px, rate_fps] = points
        return points


def bytes_per_s(point: GridPoint) -> float:
    """Return what a point takes of the link: its median message and what its answer causes."""
    return (point.bytes_p50 + ACKNOWLEDGEMENT_BYTES) * point.frame_rate_fps


def _rate_fps(point: GridPoint, cost_bytes_per_s: float) -> float:
    return cost_bytes_per_s / (point.bytes_p50 + ACKNOWLEDGEMENT_BYTES)


def _even(rate_fps: float, camera_fps: float) -> float:
    """
    Return the next lower rate at which every so many of the camera's images are sent.

    At the rates between, some messages follow the one before so closely that they wait for it.
    """
    if math.isinf(camera_fps):
        return rate_fps
    # A camera's rate is known to some percent.
    return min(rate_fps, camera_fps / max(1, math.ceil(camera_fps / rate_fps - 0.05)))


def _pinned(grid: Sequence[GridPoint], config: RobotConfig) -> tuple[GridPoint, ...]:
    """Return the points with the pinned values, each that of the grid's nearest ones."""
    points = list(grid)
    codec = config.wire_codec
    if codec is not None:
        points = [p for p in points if p.codec is codec] or points
        points = [p._replace(codec=codec) for p in points]
    for name in ('face_size_px', 'quality', 'frame_rate_fps'):
        value = getattr(config, name)
        if value:
            nearest = min((getattr(p, name) for p in points), key=lambda v: abs(v - value))
            points = [
                p._replace(**{name: value}) for p in points if getattr(p, name) == nearest
            ]
    return tuple(points)


def _faster(grid: Sequence[GridPoint]) -> Iterator[tuple[GridPoint, GridPoint]]:
    """Yield each point and the next faster one of the same size, codec and quality."""
    ordered = sorted(grid, key=lambda p: (p.face_size_px, p.codec, p.quality, p.frame_rate_fps))
    for point, following in itertools.pairwise(ordered):
        if _coding(point) == _coding(following):
            yield point, following


def _coding(point: GridPoint) -> tuple[int, int, int]:
    return point.face_size_px, int(point.codec), point.quality


def _between(point: GridPoint, faster: GridPoint, rate_fps: float) -> GridPoint:
    """Return the point at a rate between two measured ones, its accuracy interpolated."""
    share = (rate_fps - point.frame_rate_fps) / (faster.frame_rate_fps - point.frame_rate_fps)
    accuracy = point.accuracy + share * (faster.accuracy - point.accuracy)
    return point._replace(frame_rate_fps=rate_fps, accuracy=accuracy)


def _within(grid: Sequence[GridPoint], size_px: int, rate_fps: float) -> list[GridPoint]:
    """Return the points within the limits; where there is none, the nearest, made to fit."""
    smallest_px = min(p.face_size_px for p in grid)
    points = [p for p in grid if p.face_size_px <= size_px]
    if not points:
        points = [p._replace(face_size_px=size_px) for p in grid if p.face_size_px == smallest_px]
    slowest_fps = min(p.frame_rate_fps for p in points)
    return [
        p._replace(frame_rate_fps=min(p.frame_rate_fps, rate_fps))
        for p in points
        if p.frame_rate_fps <= max(rate_fps, slowest_fps)
    ]


def _front(points: Sequence[GridPoint], longest_bytes: float) -> _Front:
    """Return the points, of messages not too long, that beat all that cost no more."""
    longest_bytes = max(longest_bytes, min(p.bytes_p95 for p in points))
    best: list[GridPoint] = []
    for point in points:
        if point.bytes_p95 <= longest_bytes and (
            not best or point.accuracy > best[-1].accuracy
        ):
            best.append(point)
    costs = tuple(map(bytes_per_s, best))
    return _Front(tuple(best), costs, tuple(_hull(best, costs)))


def _hull(points: Sequence[GridPoint], costs: Sequence[float]) -> Iterator[tuple[float, int]]:
    """Yield the steps from the cheapest point to the best, gaining ever less per byte."""
    at = 0
    while at + 1 < len(points):
        gain, at = max(
            ((points[to].accuracy - points[at].accuracy) / (costs[to] - costs[at]), to)
            for to in range(at + 1, len(points))
        )
        yield gain, at


def _slowed(points: Sequence[GridPoint], budget_bytes_per_s: float) -> list[GridPoint]:
    """Return the cheapest points at rates that fit the budget, the primary face's slowed last."""
    left = budget_bytes_per_s
    primary = points[0]
    slowed = [_at_cost(primary, min(left, bytes_per_s(primary)))]
    left = max(0.0, left - bytes_per_s(slowed[0]))
    others = sum(map(bytes_per_s, points[1:]))
    return slowed + [_at_cost(p, left * bytes_per_s(p) / others) for p in points[1:]]


def _at_cost(point: GridPoint, cost_bytes_per_s: float) -> GridPoint:
    # Rates below those measured: worth less by an unknown amount, taken to be proportional.
    rate_fps = max(MIN_FRAME_RATE_FPS, _rate_fps(point, cost_bytes_per_s))
    rate_fps = min(rate_fps, point.frame_rate_fps)
    accuracy = point.accuracy * rate_fps / point.frame_rate_fps
    return point._replace(frame_rate_fps=rate_fps, accuracy=accuracy)
