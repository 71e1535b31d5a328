#!/bin/sh
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
#
# Check worlds/*.sdf with libsdformat, which is installed where that can be done in seconds.
#
#   sh tools/check_world.sh                    apt packages that are missing are installed (root), or named
#   sh tools/check_world.sh --where-possible   where that cannot be, one line says why, and that is all
set -eu
cd "$(dirname "$0")/.."

status=0
python3 tools/check_world.py || status=$?
[ "$status" -eq 77 ] || exit "$status"

skip() {
    printf 'ferros: %s\n' "$*"
    [ "${where_possible:-}" ] && exit 0
    exit 1
}
[ "${1:-}" = --where-possible ] && where_possible=yes

command -v apt-cache >/dev/null || skip 'this is not Debian or Ubuntu'
library=$(apt-cache pkgnames libsdformat 2>/dev/null | grep -E '^libsdformat1[2-9]-[0-9]+$' | sort | tail -n 1)
[ "$library" ] || skip 'there is no package of libsdformat 12 or newer'
[ "$(id -u)" -eq 0 ] || skip "please run:  sudo apt install $library sdformat-sdf"
echo "ferros: apt-get install $library sdformat-sdf"
{ apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "$library" sdformat-sdf; } >/dev/null 2>&1 || skip "apt-get could not install $library"
exec python3 tools/check_world.py
