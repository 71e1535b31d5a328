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
"""Read every package.xml, more strictly than colcon: a bad one is no ROS package to it."""

from __future__ import annotations

import sys
from pathlib import Path

from catkin_pkg.package import InvalidPackage, parse_package

ROOT = Path(__file__).resolve().parent.parent
# That of test/ stands in for a package that PyPI does not have.
FOLDERS = ('.', 'ferros_msgs', 'test/interfaces/hri_msgs')


def main() -> int:
    """Return 1 and say why when a manifest is wrong or only just right."""
    failed = 0
    for path in (ROOT / folder / 'package.xml' for folder in FOLDERS):
        if not path.is_file() and 'test' in path.parts:
            continue
        warnings: list[str] = []
        try:
            parse_package(str(path), warnings=warnings)
        except InvalidPackage as error:
            warnings.append(str(error))
        for warning in warnings:
            print(f'{path.relative_to(ROOT)}: {warning}', file=sys.stderr)
        failed |= bool(warnings)
    return failed


if __name__ == '__main__':
    sys.exit(main())
