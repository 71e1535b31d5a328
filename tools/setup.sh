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
# Make or repair .venv, the environment that everything in the Makefile runs in.
#
#   sh tools/setup.sh run   what the demo and the server need
#   sh tools/setup.sh dev   and what tests and training need
#
# This part sees to what Python itself needs; tools/install.py does the rest. When nothing has
# changed since the last time, only the next few lines run.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'ferros: %s\n' "$*"; }
stop() { printf 'ferros: %s\n' "$*" >&2; exit 1; }

layer=${1:-run}
case $layer in
    run | dev) ;;
    *) stop "tools/setup.sh: run or dev was expected, not '$layer'" ;;
esac

# A distribution is sourced, and it is not the one in .venv: its packages are the ones to use.
if [ -n "${ROS_DISTRO:-}" ] && [ "${FERROS_VENV:-}" != "$PWD/.venv" ]; then
    cat >&2 <<END
ferros: ROS 2 ($ROS_DISTRO) is sourced in this shell, so nothing is installed here that could get in
ferros: the way of its numpy, OpenCV, gRPC or protobuf. Either build with what you have:
ferros:     colcon build && . install/setup.sh && ros2 launch ferros cloud_fer.launch.py
ferros: (the README says how to do it in a workspace), or use a shell without it, for example:
ferros:     env -i HOME="\$HOME" PATH=/usr/local/bin:/usr/bin:/bin make demo
END
    exit 1
fi

# What a layer is made from, as one line. It is written down when all is done.
key_of() {
    case $1 in
        run) more=requirements/run.lock ;;
        dev) more='requirements/run.lock requirements/dev.lock requirements/wire.lock
            test/interfaces/*/*.xml test/interfaces/*/*.txt test/interfaces/*/msg/*' ;;
    esac
    # shellcheck disable=SC2086  # a list of files and patterns
    { echo "$PWD" && cat $more tools/setup.sh tools/install.py setup.py setup.cfg \
        ferros_msgs/package.xml ferros_msgs/CMakeLists.txt ferros_msgs/msg/*; } | cksum
}
identity='import sys; print(sys.base_prefix, sys.version)'
if [ -f ".venv/stamp-$layer" ] && [ "$(cat ".venv/stamp-$layer")" = "$(key_of "$layer")" ] &&
    found=$(.venv/bin/python -I -c "$identity" 2>/dev/null) &&
    { [ -z "${PYTHON:-}" ] || [ "$found" = "$("$PYTHON" -I -c "$identity" 2>/dev/null)" ]; }; then
    exit 0
fi

case "$(uname -s) $(uname -m)" in
    'Linux x86_64') ;;
    *) stop "without ROS this runs on Linux x86-64 only, this is $(uname -s) $(uname -m);" \
        'with ROS 2 Jazzy or Lyrical build it with colcon (see the README)' ;;
esac

# Install packages with apt where that needs no question; else say what to type, and stop.
need() {
    if ! command -v apt-get >/dev/null; then
        stop "missing: $*; install what is called that, or similar, in your distribution"
    elif [ "$(id -u)" -ne 0 ]; then
        stop "something is missing; please run:  sudo apt install $*"
    fi
    apt-get update -qq >/dev/null 2>&1 || true
    size=$(LC_ALL=C apt-get install --assume-no --no-install-recommends "$@" 2>/dev/null |
        sed -n 's/^Need to get \(.*\) of archives.*/, \1 to download/p')
    say "apt-get install $*$size"
    output=$(DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" 2>&1) ||
        stop "apt-get could not install $*:
$output"
}

# Does this Python fit? CPython 3.10 to 3.13 and glibc: that is what the wheels of rclpy are made for.
fits() {
    "$1" -I -c 'import platform, sys
sys.exit(not ((3, 10) <= sys.version_info[:2] <= (3, 13) and sys.implementation.name == "cpython"
              and platform.libc_ver()[0] == "glibc"))' 2>/dev/null
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.10 python3.13}; do
        if command -v "$candidate" >/dev/null && fits "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
}

# The one that .venv was made of, if it is still there and no other was asked for.
if [ -z "${PYTHON:-}" ]; then
    PYTHON=$(.venv/bin/python -I -c 'import sys; print(sys._base_executable)' 2>/dev/null || true)
fi
python=$(find_python)
if [ -z "$python" ] && [ -z "${PYTHON:-}" ] && ! command -v python3 >/dev/null; then
    need python3 python3-venv python3-dev g++
    python=$(find_python)
fi
[ -n "$python" ] || stop "CPython 3.10 to 3.13 is needed, ${PYTHON:-python3} is" \
    "$("${PYTHON:-python3}" --version 2>&1 || true); name another one: make demo PYTHON=..."

# What else is missing, by the name of its package. Only Pythons under /usr/bin come from apt.
missing=
command -v g++ >/dev/null && command -v gcc >/dev/null || missing=g++
version=$("$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
prefix=$("$python" -I -c 'import sys; print(sys.base_prefix)')
"$python" -I -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python$version-venv"
"$python" -I -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
    missing="$missing python$version-dev"
case $missing in
    *python*)
        [ "$prefix" = /usr ] || stop "$python lacks its headers or ensurepip;" \
            'name another one: make demo PYTHON=...' ;;
esac
# shellcheck disable=SC2086  # a list of packages
[ -z "$missing" ] || need $missing

"$python" -I tools/install.py "$layer"
key_of "$layer" >".venv/stamp-$layer"
[ "$layer" = run ] || key_of run >.venv/stamp-run
