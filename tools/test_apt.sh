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
# Test the robot half on the distribution's own Python, OpenCV, numpy, gRPC and protobuf: what a robot
# has. Nothing of .venv is used, and no ROS.
#
#   sh tools/test_apt.sh                    apt packages that are missing are installed (root), or named
#   sh tools/test_apt.sh --where-possible   where that cannot be, one line says why, and that is all
set -eu
cd "$(dirname "$0")/.."

skip() {
    printf 'ferros: the robot half was not tested on apt packages: %s\n' "$*"
    [ "${where_possible:-}" ] && exit 0
    exit 1
}
[ "${1:-}" = --where-possible ] && where_possible=yes

packages='python3-opencv python3-numpy python3-grpcio python3-protobuf python3-yaml python3-pytest
python3-cryptography opencv-data'
command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || skip 'this is not Debian or Ubuntu'

missing=
for package in $packages; do
    case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true) in
        'install ok installed') ;;
        *) missing="$missing $package" ;;
    esac
done
if [ -n "$missing" ]; then
    [ "$(id -u)" -eq 0 ] || skip "please run:  sudo apt install$missing"
    echo "ferros: apt-get install$missing"
    # shellcheck disable=SC2086  # a list of packages
    { apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends $missing; } >/dev/null 2>&1 || skip "apt-get could not install$missing"
fi

# The stubs need protobuf 4.21 or newer, which Debian 12 calls 3.21; Ubuntu 22.04 has an older one.
/usr/bin/python3 -I -c 'import google.protobuf as protobuf, sys
sys.exit(tuple(map(int, protobuf.__version__.split(".")[:2])) < (4, 21))' ||
    skip 'its protobuf is older than the stubs'

tests=
for name in accuracy_grid annotate answers appearance bag_expectation bandwidth channel config crop data_limit \
    detect emotion_memory encode faces follow fallback_decision health image inbox link link_burst \
    link_reconfigure link_report link_resume link_tls local_model local_reader lookout operating_point \
    outbox pacing perception pieces pipeline primary pyramid rep155_image rep155_rules rep155_scene scenery sender stop timeline \
    trace track types worlds; do
    [ -f "test/test_$name.py" ] && tests="$tests test/test_$name.py"
done
[ -n "$tests" ] || skip 'there are no tests of it'

# An environment without .venv's paths, without the user's own packages, without ROS.
# shellcheck disable=SC2086  # a list of files
exec env -i PATH=/usr/bin:/bin HOME="$HOME" LANG=C.UTF-8 PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1 \
    ${FERROS_TEST_DATA:+"FERROS_TEST_DATA=$FERROS_TEST_DATA"} \
    /usr/bin/python3 -m pytest --no-header -p no:cacheprovider -W ignore::pytest.PytestConfigWarning $tests
