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
What a link to a server will do for: its rate, its delay and the operating point it allows.

    ros2 run ferros link_check 192.168.1.20 --insecure
    ros2 run ferros link_check 192.168.1.20 --insecure --faces 4 --picture
    ros2 run ferros link_check robots.example.org --tls-ca-file ca.crt --token-file token

It connects, sends drawn faces for some seconds as emotion_node would, and at last a burst of up
to 2 MB to see how much more the link carries. Nothing of ROS needs to be there. The exit status
is 0 where something was measured, else 1 with one line on the standard error, and 130 after
Ctrl-C, which reports what was measured until then.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from ferros import accuracy_grid, link_picture, link_trial, text_plot
from ferros.accuracy_grid import GridError
from ferros.channel import AccessError, read_access
from ferros.config import SYSTEM_CAS, RobotConfig, parameter
from ferros.link import LinkReport
from ferros.link_burst import MOST_BYTES, Burst, BurstLimits, Capacity
from ferros.link_probe import CheckError, Connection, Probe, run_burst, smallest_image
from ferros.link_recording import summarise
from ferros.link_report import as_json, connection_lines, report_lines
from ferros.link_trial import Trial
from ferros.link_verdict import CODECS, Check, Reached, conclude, rate_text
from ferros.types import GridPoint
from ferros_proto import recognition_pb2 as wire

DEFAULT_PORT: Final = 50051
DEFAULT_PICTURE: Final = Path('link_check.png')
INTERRUPTED: Final = 130

_CAMERA: Final = 'link_check'
# For a server that names no limit on images.
_USUAL_IMAGE_BYTES: Final = 16_384
_USUAL_FRAME_RATE_FPS: Final = 100.0
# Between two lines of progress, on a terminal and elsewhere.
_TERMINAL_PROGRESS_S: Final = 0.2
_PROGRESS_S: Final = 2.0


class _Parser(argparse.ArgumentParser):
    """A wrong argument is one line and the same status as any other failure."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f'{self.prog}: {message}\n')


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line asks for; exits with 1 where it is wrong."""
    parser = _Parser(
        'link_check',
        description='See what a link to a ferros server carries, how late answers come over it'
        ' and what accuracy to expect.',
        epilog=f'Of data it takes what the faces need, and up to {MOST_BYTES / 1e6:g} MB for a'
        ' burst that finds the rate of the link: --no-burst leaves that out where data are paid'
        ' for.',
    )
    parser.add_argument(
        'server', nargs='?', default='127.0.0.1', metavar='HOST[:PORT]',
        help=f'the server; port {DEFAULT_PORT} where none is given',
    )
    parser.add_argument(
        '--seconds', type=_number(float, 1, 3600), default=10.0, metavar='S',
        help='how long to send faces (default: 10)',
    )
    parser.add_argument(
        '--faces', type=_number(int, 1, 64), default=1, metavar='N',
        help='how many faces to send (default: 1)',
    )
    parser.add_argument(
        '--insecure', action='store_true',
        help='allow an unencrypted connection to another machine',
    )
    for name, metavar in (
        ('tls_ca_file', f'FILE|{SYSTEM_CAS}'), ('tls_cert_file', 'FILE'),
        ('tls_key_file', 'FILE'), ('token_file', 'FILE'),
    ):
        parser.add_argument(
            '--' + name.replace('_', '-'), default='', metavar=metavar,
            help=parameter(name).description,
        )
    parser.add_argument(
        '--no-burst', action='store_true', help='leave out the burst at the end'
    )
    parser.add_argument(
        '--picture', type=_picture, nargs='?', const=DEFAULT_PICTURE, metavar='FILE.png',
        help=f'draw what was measured (default name: {DEFAULT_PICTURE})',
    )
    parser.add_argument('--json', action='store_true', help='write the report as one JSON object')
    return parser.parse_args(arguments)


def _number(
    kind: type[float] | type[int], least: float, most: float
) -> Callable[[str], float]:
    def read(text: str) -> float:
        expected = f'{text!r}, expected {"a whole number from " if kind is int else ""}'
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f'{expected}{least:g} to {most:g}')
        return value

    return read


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in link_picture.SUFFIXES:
        expected = ' or '.join(link_picture.SUFFIXES)
        raise argparse.ArgumentTypeError(f'{text!r}, expected a file name that ends in {expected}')
    return path


def server_address(text: str) -> str:
    """
    Return host:port of HOST or HOST:PORT, where HOST may be an IPv6 address.

    Raises:
        CheckError: it is neither.

    """
    if not text or '/' in text or any(letter.isspace() for letter in text):
        raise CheckError(f'the server is {text!r}, expected HOST or HOST:PORT')
    if text.startswith('['):
        return text if ']:' in text else f'{text}:{DEFAULT_PORT}'
    if text.count(':') > 1:
        return f'[{text}]:{DEFAULT_PORT}'
    return text if ':' in text else f'{text}:{DEFAULT_PORT}'


def make_config(arguments: argparse.Namespace) -> RobotConfig:
    """
    Return the robot's parameters for what the command line asks for.

    Raises:
        CheckError: in the words of RobotConfig, what is wrong with them.

    """
    try:
        config = RobotConfig(
            server_address=server_address(arguments.server),
            insecure=arguments.insecure,
            tls_ca_file=arguments.tls_ca_file,
            tls_cert_file=arguments.tls_cert_file,
            tls_key_file=arguments.tls_key_file,
            token_file=arguments.token_file,
            camera=_CAMERA,
        )
        read_access(config)
    except ValueError as error:
        hint = ' (here: --tls-ca-file, --insecure)' if 'set insecure' in str(error) else ''
        raise CheckError(f'{error}{hint}') from error
    return config


class Screen:
    """Says on one line that is renewed how far it is; on a pipe, on a line now and then."""

    def __init__(self, quiet: bool) -> None:
        # With --json the standard output is for a program: people look at the other one.
        self._stream = sys.stderr if quiet else sys.stdout
        self._is_terminal = self._stream.isatty()
        self._quiet = quiet and not self._is_terminal
        self._next_s = 0.0 if self._is_terminal else time.monotonic() + _PROGRESS_S
        self._width = 0

    @property
    def ascii_only(self) -> bool:
        """Tell whether only ASCII can be shown."""
        return not text_plot.can_show(self._stream.encoding)

    def say(self, *lines: str) -> None:
        """Write lines that stay."""
        if not self._quiet:
            self.clear()
            print(*lines, sep='\n', file=self._stream, flush=True)

    def progress(self, text: str) -> None:
        """Write a line that the next one replaces, if it is time for one."""
        now_s = time.monotonic()
        if self._quiet or now_s < self._next_s:
            return
        self._next_s = now_s + (_TERMINAL_PROGRESS_S if self._is_terminal else _PROGRESS_S)
        if not self._is_terminal:
            print(text, file=self._stream, flush=True)
            return
        columns = shutil.get_terminal_size().columns - 1
        text = text[:columns]
        print(f'\r{text:<{self._width}}', end='', file=self._stream, flush=True)
        self._width = len(text)

    def clear(self) -> None:
        """Remove the line of progress."""
        if self._width:
            print(f'\r{"":<{self._width}}\r', end='', file=self._stream, flush=True)
        self._width = 0


def check(config: RobotConfig, arguments: argparse.Namespace, screen: Screen) -> Check:
    """
    Connect, send faces, send a burst.

    Raises:
        CheckError: nothing could be measured.
        GridError: the robot has no accuracy grid of its own.

    """
    reached = _reach(config)
    screen.say(*connection_lines(reached))
    most_faces = reached.welcome.limits.max_faces
    if most_faces and arguments.faces > most_faces:
        raise CheckError(
            f'the server takes {most_faces} faces of one robot, --faces is {arguments.faces}'
        )
    trial, completed = link_trial.run(
        config, arguments.faces, arguments.seconds,
        lambda elapsed_s, report: screen.progress(_progress(elapsed_s, arguments.seconds, report)),
    )
    _require_answers(trial, completed)
    capacity, note = None, 'not measured: --no-burst'
    if trial.totals.lost:
        note = 'not measured: the connection was lost'
    elif completed and not arguments.no_burst:
        screen.progress('a burst ...')
        try:
            capacity, note = _burst(config, trial)
        except KeyboardInterrupt:
            completed, note = False, 'not measured: interrupted'
    elif not completed:
        note = 'not measured: interrupted'
    screen.clear()
    return Check(reached, arguments.faces, trial, capacity, note, completed)


def _reach(config: RobotConfig) -> Reached:
    """Connect and read what the server says of itself."""
    with Probe(config) as probe:
        connection: Connection = probe.connection
    grid, note = _grid(config, connection.welcome)
    return Reached(
        config.server_address, connection.resolve_ms, connection.tcp_ms, connection.welcome_ms,
        connection.welcome, grid, note, config.is_encrypted,
    )


def _grid(config: RobotConfig, welcome: wire.Welcome) -> tuple[tuple[GridPoint, ...], str]:
    """Return the points that the link will steer by, and whose they are."""
    own = accuracy_grid.read(Path(config.accuracy_grid_file or accuracy_grid.default_path()))
    try:
        grid = accuracy_grid.from_welcome(welcome.accuracy_grid)
    except GridError as error:
        return own, f"the server's is not used ({error}); the robot's own {len(own)} points are"
    if not grid:
        return own, f"the server has none; the robot's own {len(own)} points are used"
    return grid, f'{len(grid)} operating points, measured with this model'


def _require_answers(trial: Trial, completed: bool) -> None:
    """Raise where there is nothing to report."""
    summary = summarise(trial.recording)
    if summary.answered and summary.rate_bytes_per_s > 0:
        return
    if not completed:
        raise KeyboardInterrupt
    reasons = [f'{count} {name}' for name, count in sorted(trial.totals.drops.items())]
    why = summary.detail or ', '.join(reasons) or 'no frame was sent'
    raise CheckError(f'no frame was answered in {trial.totals.seconds:.1f} s: {why}')


def _burst(config: RobotConfig, trial: Trial) -> tuple[Capacity | None, str]:
    """Find the rate of the link; None where that is not possible, and why."""
    summary = summarise(trial.recording)
    try:
        with Probe(config) as probe:
            terms = probe.connection.welcome
            image_bytes = terms.limits.max_image_bytes or _USUAL_IMAGE_BYTES
            if image_bytes < len(smallest_image()):
                return None, f'not measured: the server takes images of {image_bytes} bytes only'
            burst = Burst(
                summary.rate_bytes_per_s,
                summary.round_trip_ms.least * 1e6,
                BurstLimits(
                    terms.credits,
                    image_bytes,
                    terms.limits.max_frame_rate_fps or _USUAL_FRAME_RATE_FPS,
                ),
                time.monotonic_ns(),
            )
            run_burst(probe, burst)
    except CheckError as error:
        return None, f'not measured: {error}'
    capacity = burst.capacity()
    return capacity, '' if capacity else 'not measured: hardly a message of the burst came back'


def _progress(elapsed_s: float, seconds: float, report: LinkReport) -> str:
    """Return the line that is shown while faces are sent."""
    bandwidth = report.bandwidth
    if math.isnan(bandwidth.round_trip_ms):
        return f'{elapsed_s:3.0f}/{seconds:g} s  {report.state.value} {report.detail}'
    told = (
        f'{elapsed_s:3.0f}/{seconds:g} s  {rate_text(bandwidth.rate_bytes_per_s)}'
        f'  round trip {bandwidth.round_trip_ms:.0f} ms  queue {bandwidth.queue_ms:.0f} ms'
    )
    points = list(report.plan.points.values()) if report.plan is not None else []
    if not points:
        return told
    codec = CODECS[points[0].codec.name.lower()]
    return (
        f'{told}  {points[0].face_size_px} px {points[0].frame_rate_fps:.3g} fps {codec}'
        f' {points[0].quality}  accuracy {sum(p.accuracy for p in points) / len(points):.3f}'
    )


def _check_writable(path: Path) -> None:
    """Raise before anything is measured where the picture could not be written."""
    try:
        with path.open('ab'):
            pass
        if not path.stat().st_size:
            path.unlink()
    except OSError as error:
        raise CheckError(f'{path} cannot be written: {error.strerror}') from error


def run(arguments: argparse.Namespace) -> int:
    """
    Do what the command line asks for; return the exit status.

    Raises:
        CheckError: nothing could be measured, or the picture cannot be written.
        GridError: the robot has no accuracy grid of its own.

    """
    config = make_config(arguments)
    if arguments.picture is not None:
        _check_writable(arguments.picture)
    screen = Screen(quiet=arguments.json)
    try:
        found = conclude(check(config, arguments, screen))
    finally:
        screen.clear()
    if arguments.json:
        print(json.dumps(as_json(found), indent=2, allow_nan=False))
    else:
        screen.say(*report_lines(found, screen.ascii_only))
    if arguments.picture is not None:
        link_picture.write(arguments.picture, found)
        screen.say(f'* Drawn in {arguments.picture}.')
    lost = found.check.trial.totals.lost
    if lost:
        raise CheckError(f'the connection was lost and did not come back: {lost}')
    return 0 if found.check.completed else INTERRUPTED


def main(args: Sequence[str] | None = None) -> int:
    """Run the executable and return its exit status."""
    try:
        return run(parse_arguments(args))
    except (CheckError, GridError, AccessError) as error:
        print(f'link_check: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('link_check: interrupted before anything was measured', file=sys.stderr)
        return INTERRUPTED


if __name__ == '__main__':
    sys.exit(main())
