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
"""What a run of the load generator does: the settings of `ferros-cloud load`, checked at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cloud_server.config import is_loopback

CODECS = ('webp', 'jpeg')
ARRIVALS = ('even', 'poisson')
# What robots can do wrong; faults.py does it.
FAULT_KINDS = (
    'slow-reader', 'never-reads', 'disconnect', 'cancel', 'bad-image', 'bad-face',
    'sequence', 'garbage', 'bomb', 'zip-bomb', 'no-hello', 'second-hello',
)
# Longer than any frame may take; the columns of the tally hold times of up to 71 minutes.
LONGEST_S = 86_400.0

# Setting -> its lowest and its highest value.
RANGES: dict[str, tuple[float, float]] = {
    'robots': (0, 20_000),
    'rate_fps': (0.01, 100_000),
    'faces': (1, 4096),
    'quality': (1, 100),
    'duration_s': (0.1, LONGEST_S),
    'warm_up_s': (0, LONGEST_S),
    'ramp_s': (0, LONGEST_S),
    'window': (0, 1024),
    'idle': (0, 100_000),
    'seed': (0, 2**63),
}
SIZES_PX = (1, 4096)
FAULTY_ROBOTS = (1, 1000)


class PlanError(ValueError):
    """Settings that cannot be run; the message has one line for each that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__('\n'.join(problems))
        self.problems = list(problems)


class Address(NamedTuple):
    """Where a server listens."""

    # Without the brackets of an IPv6 address.
    host: str
    port: int

    def __str__(self) -> str:
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'{host}:{self.port}'


@dataclass(frozen=True)
class Plan:
    """One run: who sends what to whom, for how long. Checked at construction."""

    # HOST:PORT; several with commas between: the robots are spread over them, and one whose
    # stream ends goes on to the next.
    address: str
    robots: int = 10
    # Of one robot, all its faces together.
    rate_fps: float = 15.0
    faces: int = 1
    # Side of the crops in px and the share of the faces that have it; the shares sum to 1.
    sizes: tuple[tuple[int, float], ...] = ((48, 1.0),)
    codec: str = 'webp'
    # 1..100 in the codec's own scale.
    quality: int = 80
    # What is measured, after the ramp and the warm-up.
    duration_s: float = 10.0
    warm_up_s: float = 2.0
    # The robots begin one after another over so long.
    ramp_s: float = 0.0
    # When the frames of a robot are planned: evenly spaced, or as a Poisson process.
    arrivals: str = 'even'
    # True: no schedule; each robot keeps `window` frames unanswered (0: twice its faces).
    saturate: bool = False
    window: int = 0
    # Streams besides that send no frame.
    idle: int = 0
    # Robots besides that break the protocol, by kind; see faults.py.
    faults: tuple[tuple[str, int], ...] = ()
    seed: int = 0
    # Folder of face crops to send; None: rendered ones.
    images: Path | None = None
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    # One token per line; the robots take turns.
    token_file: Path | None = None
    # Send over the network without encryption.
    insecure: bool = False

    def __post_init__(self) -> None:
        problems = _range_problems(self)
        problems += _choice_problems(self)
        problems += _fault_problems(self)
        problems += _address_problems(self)
        problems += _tls_problems(self)
        if not self.robots and not self.idle and not self.faults:
            problems.append('robots is 0 without idle streams or faults, expected something to do')
        if problems:
            raise PlanError(problems)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Return the servers in the order given."""
        return tuple(_parse_address(text) for text in self.address.split(','))

    @property
    def offered_fps(self) -> float:
        """Return the frames per second of all well-behaved robots; 0 when they saturate."""
        return 0.0 if self.saturate else self.robots * self.rate_fps

    @property
    def frames_in_flight(self) -> int:
        """Return how many frames a saturating robot keeps unanswered, where credits allow."""
        return self.window or 2 * self.faces

    @property
    def whole_s(self) -> float:
        """Return how long frames are sent, ramp and warm-up included."""
        return self.ramp_s + self.warm_up_s + self.duration_s


def parse_sizes(text: str) -> tuple[tuple[int, float], ...]:
    """
    Return (side in px, share of the faces) of '48' or '24:0.3,48:0.7'; the shares sum to 1.

    Raises:
        ValueError: naming what cannot be read.

    """
    pairs = []
    for part in text.split(','):
        size, colon, share = part.partition(':')
        try:
            pairs.append((int(size), float(share) if colon else 1.0))
        except ValueError:
            raise ValueError(f'{part!r} is no size, expected PX or PX:SHARE') from None
    total = sum(share for _, share in pairs)
    if min(share for _, share in pairs) <= 0:
        raise ValueError(f'a share in {text!r} is not above 0')
    return tuple((size, share / total) for size, share in pairs)


def parse_faults(text: str) -> tuple[tuple[str, int], ...]:
    """
    Return (kind, robots) of 'cancel:1,bad-image:2'; a kind without a number counts one.

    Raises:
        ValueError: naming what cannot be read.

    """
    pairs = []
    for part in text.split(','):
        kind, colon, count = part.strip().partition(':')
        try:
            pairs.append((kind, int(count) if colon else 1))
        except ValueError:
            raise ValueError(f'{part!r} is no fault, expected KIND or KIND:COUNT') from None
    return tuple(pairs)


def _range_problems(plan: Plan) -> list[str]:
    problems = []
    for name, (lowest, highest) in RANGES.items():
        value = getattr(plan, name)
        # Not a number is outside, too.
        if not lowest <= value <= highest:
            problems.append(f'{name} is {value}, expected {lowest:g} to {highest:g}')
    if not plan.sizes:
        problems.append('sizes is empty, expected at least one')
    for size_px, share in plan.sizes:
        if not SIZES_PX[0] <= size_px <= SIZES_PX[1]:
            problems.append(f'a size is {size_px} px, expected {SIZES_PX[0]} to {SIZES_PX[1]}')
        if not 0 < share <= 1:
            problems.append(f'the share of {size_px} px is {share}, expected above 0 to 1')
    return problems


def _choice_problems(plan: Plan) -> list[str]:
    problems = []
    for name, choices in (('codec', CODECS), ('arrivals', ARRIVALS)):
        value = getattr(plan, name)
        if value not in choices:
            problems.append(f'{name} is {value!r}, expected one of {choices}')
    return problems


def _fault_problems(plan: Plan) -> list[str]:
    problems = []
    lowest, highest = FAULTY_ROBOTS
    for kind, count in plan.faults:
        if kind not in FAULT_KINDS:
            problems.append(f'{kind!r} is no fault, expected one of {", ".join(FAULT_KINDS)}')
        elif not lowest <= count <= highest:
            problems.append(
                f'robots with the fault {kind} are {count}, expected {lowest} to {highest}'
            )
    kinds = [kind for kind, _ in plan.faults]
    twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    problems += [f'the fault {kind} is given twice' for kind in twice]
    return problems


def _address_problems(plan: Plan) -> list[str]:
    problems = []
    for text in plan.address.split(','):
        try:
            address = _parse_address(text)
        except ValueError:
            problems.append(f'{text!r} is no address, expected HOST:PORT')
            continue
        if plan.tls_ca_file is None and not plan.insecure and not is_loopback(address.host):
            problems.append(
                f'{address} is another machine, and the connection would not be encrypted:'
                ' give --tls-ca, or say that this is meant with --insecure'
            )
    return problems


def _tls_problems(plan: Plan) -> list[str]:
    problems = []
    if (plan.tls_cert_file is None) != (plan.tls_key_file is None):
        problems.append('a certificate needs its key: --tls-cert and --tls-key, or none of them')
    if plan.tls_cert_file is not None and plan.tls_ca_file is None:
        problems.append('--tls-cert without --tls-ca: a certificate is shown over TLS only')
    return problems


def _parse_address(text: str) -> Address:
    host, _, port = text.strip().rpartition(':')
    host = host.removeprefix('[').removesuffix(']')
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(text)
    return Address(host, int(port))
