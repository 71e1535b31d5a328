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
Make the stubs from the proto file: `make_stubs.py FOLDER` writes FOLDER/ferros_proto/*.

Runs in .venv-wire, whose old compiler makes code that old and new gRPC and protobuf both load.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Compile; returns the compiler's exit status."""
    target = Path(sys.argv[1]).resolve()
    # The virtual path makes the stubs import each other as `from ferros_proto import ...`.
    return int(protoc.main([
        'protoc', f'-Iferros_proto={ROOT / "proto" / "ferros" / "v1"}', f'--python_out={target}',
        f'--pyi_out={target}', f'--grpc_python_out={target}', 'ferros_proto/recognition.proto']))


if __name__ == '__main__':
    sys.exit(main())
