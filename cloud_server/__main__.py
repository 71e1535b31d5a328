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
"""The command `ferros-cloud`: joins the parts, and imports a part when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

# Command -> module with add_arguments(parser) and run(args) -> exit status, and what it does.
COMMANDS = {
    'serve': ('cloud_server.serve', 'serve a model to robots'),
    'load': ('cloud_server.load', 'measure how many robots a server carries'),
    'keys': ('cloud_server.keys', 'make certificates, tokens and keys for robots and servers'),
    'ray': ('cloud_server.ray_up', 'a Ray cluster on this machine, to try `serve --engine ray`'),
    'predict': ('cloud_server.predict', 'recognise the faces in image and video files'),
    'evaluate': ('cloud_server.training.evaluate', 'measure a model on a data set'),
    'train-image': ('cloud_server.training.image', 'train the encoder on images of faces'),
    'train-video': ('cloud_server.training.video', 'train the temporal part on clips of faces'),
    'search': ('cloud_server.training.search', 'search hyper-parameters of train-image'),
    'report': ('cloud_server.training.report', 'one page of all that was run'),
    'operating-points': (
        'cloud_server.training.operating_points', 'measure what the sender steers by'),
    'export': ('cloud_server.training.export', 'write the graphs that serve computes'),
    'card': ('cloud_server.training.card', 'write the model card from the figures measured'),
    'export-fallback': ('cloud_server.training.fallback', "write the robot's small model"),
    'evaluate-fallback': (
        'cloud_server.training.evaluate_fallback', "measure the robot's small model"),
}
# What is installed for training and development only.
TRAINING_MODULES = ('jinja2', 'torch', 'onnx', 'onnxscript', 'optuna', 'safetensors', 'scipy')
# What the other commands need besides Python -> the extra of the package that brings it.
EXTRA_OF = {
    'cryptography': 'cloud', 'cv2': 'cloud', 'grpc': 'cloud', 'grpc_health': 'cloud',
    'onnxruntime': 'cloud', 'prometheus_client': 'cloud', 'ray': 'ray', 'tqdm': 'cloud',
    'yaml': 'cloud',
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv else ''
    if command == 'serve':
        _end_quietly_on_signals()
    parser = argparse.ArgumentParser(
        prog='ferros-cloud',
        description='The cloud half of ferros: serve, use and train its model.',
    )
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    module = None
    for name, (module_name, description) in COMMANDS.items():
        subparser = commands.add_parser(name, help=description, description=description)
        if name == command:
            try:
                module = importlib.import_module(module_name)
            except ModuleNotFoundError as error:
                return _explain_missing(name, error)
            module.add_arguments(subparser)
    args = parser.parse_args(argv)
    if module is None:
        parser.error('name the command first')
    try:
        return int(module.run(args))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _end_quietly_on_signals() -> None:
    """Until the server takes the signals itself there is nothing to shut down."""
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: os._exit(0))


def _explain_missing(command: str, error: ModuleNotFoundError) -> int:
    if error.name in TRAINING_MODULES:
        remedy = 'it comes with the development environment (`make setup-dev`)'
    elif error.name in EXTRA_OF:
        remedy = f"pip install 'ferros[{EXTRA_OF[error.name]}]'"
    else:
        raise error
    print(
        f'ferros-cloud {command}: the Python module {error.name!r} is missing; {remedy}',
        file=sys.stderr,
    )
    return 1


if __name__ == '__main__':
    sys.exit(main())
