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
"""The command `ferros-cloud load`: from flags to a plan, from a result to what is shown."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from tqdm import tqdm

from cloud_server.load import report
from cloud_server.load.faces import ImagesError
from cloud_server.load.faults import FAULTS
from cloud_server.load.generate import (
    Progress,
    TooManyFilesError,
    UnreachableError,
    generate,
)
from cloud_server.load.plan import ARRIVALS, CODECS, Plan, PlanError, parse_faults, parse_sizes
from cloud_server.load.result import Result
from cloud_server.load.target import TargetError

DESCRIPTION = """\
Load a server with robots that keep to a schedule and report what became of every frame.
The faces are drawn by this command (or yours, with --images): they cost the server what real
ones do, and the emotions it finds in them mean nothing.
"""
_DEFAULT = Plan('127.0.0.1:50051')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `ferros-cloud load`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = 'faults:\n' + '\n'.join(
        f'  {kind:14}{fault.text}' for kind, fault in FAULTS.items()
    )
    parser.add_argument(
        'address', nargs='?', default=_DEFAULT.address, metavar='HOST:PORT',
        help='the server (default: %(default)s); several with commas between: robots are spread'
        ' over them, and go on to the next when a stream ends',
    )
    _add_load(parser.add_argument_group('load'))
    _add_faces(parser.add_argument_group('faces'))
    _add_security(parser.add_argument_group('security'))
    output = parser.add_argument_group('output')
    output.add_argument('--json', action='store_true', help='print JSON instead of the report')
    output.add_argument('--out', type=Path, metavar='FILE', help='write the JSON there, too')
    output.add_argument(
        '--plot', type=Path, metavar='FILE',
        help='draw latency and outcomes over time (.png, .svg)',
    )


def run(args: argparse.Namespace) -> int:
    """Load a server; return 0 when it ran, 1 without a server, 2 for bad flags."""
    try:
        plan = _plan(args)
        result = asyncio.run(_generate(plan))
    except (PlanError, TargetError, ImagesError, TooManyFilesError) as error:
        return _fail(error, 2)
    except UnreachableError as error:
        return _fail(error, 1)
    document = json.dumps(result.to_json(), indent=1)
    if args.out is not None:
        args.out.write_text(document + '\n', encoding='utf-8')
    if args.plot is not None:
        from cloud_server.load import picture

        picture.draw(args.plot, result)
    print(document if args.json else report.text(result), end='\n' if args.json else '')
    return 0


async def _generate(plan: Plan) -> Result:
    """Run the plan; the first Ctrl-C ends it early with what was measured, the next at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, on_signal)
    # Nothing is drawn where nobody looks.
    bar = tqdm(total=plan.whole_s, disable=None, leave=False, bar_format='{desc}|{bar}|')
    seen_ok = 0

    def show(progress: Progress) -> None:
        nonlocal seen_ok
        if not bar.disable:
            bar.n = min(max(progress.elapsed_s, 0), progress.whole_s)
            left_s = progress.whole_s - bar.n
            # It is called twice a second.
            rate = 2 * (progress.ok - seen_ok)
            bar.set_description_str(
                f'{left_s:4.0f} s left, {progress.open_streams} streams, {rate} OK/s '
            )
        seen_ok = progress.ok

    try:
        return await generate(plan, show, stop)
    finally:
        bar.close()
        loop.remove_signal_handler(signal.SIGINT)


def _add_load(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--robots', type=int, default=_DEFAULT.robots, metavar='N',
        help='robots, each with a connection of its own (default: %(default)s)',
    )
    group.add_argument(
        '--rate', type=float, default=_DEFAULT.rate_fps, metavar='FPS',
        help='frames per second of one robot, all its faces together (default: %(default)s)',
    )
    group.add_argument(
        '--arrivals', choices=ARRIVALS, default=_DEFAULT.arrivals,
        help="when a robot's frames are planned: at even intervals, or as a Poisson process",
    )
    group.add_argument(
        '--saturate', action='store_true',
        help='no schedule: each robot keeps --window frames unanswered, to find the capacity',
    )
    group.add_argument(
        '--window', type=int, default=_DEFAULT.window, metavar='N',
        help='with --saturate, at most what the server allows (default: twice the faces)',
    )
    group.add_argument(
        '--duration', type=float, default=_DEFAULT.duration_s, metavar='S',
        help='how long is measured (default: %(default)s)',
    )
    group.add_argument(
        '--warm-up', type=float, default=_DEFAULT.warm_up_s, metavar='S',
        help='how long before that (default: %(default)s)',
    )
    group.add_argument(
        '--ramp', type=float, default=_DEFAULT.ramp_s, metavar='S',
        help='before that, robots begin one after another for so long (default: %(default)s)',
    )
    group.add_argument(
        '--idle', type=int, default=_DEFAULT.idle, metavar='N',
        help='streams besides that send nothing, 8 in a connection (default: %(default)s)',
    )
    group.add_argument(
        '--fault', action='append', default=[], metavar='KIND:COUNT[,...]',
        help='robots besides that break the protocol; the kinds are below',
    )
    group.add_argument(
        '--seed', type=int, default=_DEFAULT.seed, metavar='N',
        help='of all that is drawn by lot (default: %(default)s)',
    )


def _add_faces(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--faces', type=int, default=_DEFAULT.faces, metavar='N',
        help='faces of one robot (default: %(default)s)',
    )
    group.add_argument(
        '--size', default='48', metavar='PX[:SHARE,...]',
        help="side of the crops (default: %(default)s), or a mix as '24:0.3,48:0.7'",
    )
    group.add_argument('--codec', choices=CODECS, default=_DEFAULT.codec, help='of the crops')
    group.add_argument(
        '--quality', type=int, default=_DEFAULT.quality, metavar='N',
        help="1 to 100 in the codec's own scale (default: %(default)s)",
    )
    group.add_argument(
        '--images', type=Path, metavar='FOLDER',
        help='crops of faces to send instead of drawn ones',
    )


def _add_security(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--tls-ca', type=Path, metavar='FILE',
        help="connect by TLS; PEM file of the CA that signed the server's certificate, or"
        " 'system' for the CAs that gRPC brings",
    )
    group.add_argument(
        '--tls-cert', type=Path, metavar='FILE', help="PEM file of the robots' certificate"
    )
    group.add_argument('--tls-key', type=Path, metavar='FILE', help='PEM file of its private key')
    group.add_argument(
        '--token-file', type=Path, metavar='FILE',
        help='file with a token in each line; the robots take turns',
    )
    group.add_argument(
        '--insecure', action='store_true', help='load another machine without encryption'
    )


def _plan(args: argparse.Namespace) -> Plan:
    problems = _unwritable(args.out, args.plot)
    sizes, faults = _DEFAULT.sizes, _DEFAULT.faults
    try:
        sizes = parse_sizes(args.size)
    except ValueError as error:
        problems.append(f'--size: {error}')
    try:
        faults = parse_faults(','.join(args.fault)) if args.fault else ()
    except ValueError as error:
        problems.append(f'--fault: {error}')
    try:
        plan = Plan(
            address=args.address,
            robots=args.robots,
            rate_fps=args.rate,
            faces=args.faces,
            sizes=sizes,
            codec=args.codec,
            quality=args.quality,
            duration_s=args.duration,
            warm_up_s=args.warm_up,
            ramp_s=args.ramp,
            arrivals=args.arrivals,
            saturate=args.saturate,
            window=args.window,
            idle=args.idle,
            faults=faults,
            seed=args.seed,
            images=args.images,
            tls_ca_file=args.tls_ca,
            tls_cert_file=args.tls_cert,
            tls_key_file=args.tls_key,
            token_file=args.token_file,
            insecure=args.insecure,
        )
    except PlanError as error:
        raise PlanError([*problems, *error.problems]) from None
    if problems:
        raise PlanError(problems)
    return plan


def _unwritable(*paths: Path | None) -> list[str]:
    """Return what is wrong with the places for results: better said before the run than after."""
    problems = []
    for path in paths:
        if path is not None and not path.parent.is_dir():
            problems.append(f'{path}: there is no folder {path.parent}')
        elif path is not None and path.is_dir():
            problems.append(f'{path} is a folder, expected the name of a file')
    return problems


def _fail(error: Exception, status: int) -> int:
    for line in str(error).splitlines():
        print(f'ferros-cloud load: {line}', file=sys.stderr)
    return status
