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
"""`ferros-cloud serve`: from flags to one server process, or several."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from cloud_server import config as settings
from cloud_server import logs, server, workers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `ferros-cloud serve`."""
    settings.add_arguments(parser)
    parser.add_argument(
        '--check-config', action='store_true',
        help='check the settings and the files they name, say what is wrong, and end',
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes; return the exit status."""
    try:
        config = settings.from_arguments(args, os.environ)
        if args.check_config:
            server.check(config)
            print('the settings can be served with')
            return 0
        logs.setup(config)
        if config.workers > 1:
            server.warn_of_exposure(config)
            return workers.supervise(config, lambda: settings.from_arguments(args, os.environ))
        engine = server.load_engine(config)
        try:
            asyncio.run(server.serve(config, engine))
        finally:
            engine.close()
    except server.EXPLAINED as error:
        for line in str(error).splitlines():
            print(f'ferros-cloud serve: {line}', file=sys.stderr)
        return 2
    return 0
