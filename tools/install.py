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
Make or repair .venv: the second half of tools/setup.sh, which has seen to Python and a compiler.

Every step looks at what is there and does only what is missing, so that a set-up that was
interrupted is mended by the next one. Uses the standard library alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
WIRE = ROOT / '.venv-wire'
LOG = ROOT / 'out' / 'setup.log'
BIN = VENV / 'bin'
ROS = VENV / 'ros'
# What only the tests need, so that the demo's environment does not depend on it.
ROS_TEST = VENV / 'ros-test'
HRI_MSGS = ROOT / 'test' / 'interfaces' / 'hri_msgs'
TORCH_CPU_INDEX = 'https://download.pytorch.org/whl/cpu'
# The file of a package that pip writes when all others are in their place.
WRITTEN_LAST = 'INSTALLER'
STARTED_S = time.monotonic()

# The environment of a process that is to use the ROS wheels; FERROS_VENV tells tools/setup.sh that
# ROS_DISTRO means these. LD_LIBRARY_PATH must be set before a process starts: left unset, the
# wheels start every Python twice to set it.
ENV_SH = """\
# Made by tools/install.py: what the Makefile sources, and you may too:  . .venv/env.sh
export FERROS_VENV='{venv}'
export ROS_DISTRO=jazzy
export ROS_VERSION=2
export ROS_PYTHON_VERSION=3
export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export AMENT_PREFIX_PATH='{ros}:{venv}'
export CMAKE_PREFIX_PATH='{ros}:{venv}'
export LD_LIBRARY_PATH='{libraries}'
export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
case ":$PATH:" in
    *":$FERROS_VENV/bin:"*) ;;
    *) export PATH="$FERROS_VENV/bin:$PATH" ;;
esac
unset PYTHONHOME PYTHONPATH
"""


class SetupError(Exception):
    """A step failed; the message is for the person who typed `make`."""


class Pin(NamedTuple):
    """One line of a lock file."""

    name: str
    version: str
    size_mb: float


def say(text: str) -> None:
    """Print one step with the seconds since the start."""
    print(f'[{time.monotonic() - STARTED_S:5.1f} s] {text}', flush=True)


def read_lock(path: Path, python_version: str) -> list[Pin]:
    """Return the pins of a lock file that hold for a Python, for example '3.11'."""
    pins = []
    for line in path.read_text().splitlines():
        match = re.fullmatch(r'(\S+)==(\S+)(?: ; (.*?))?  # ([\d.]+) MB', line)
        if match is None:
            if line.startswith('#'):
                continue
            raise SetupError(f'{path}: not a pin: {line!r}')
        name, version, condition, size = match.groups()
        if holds(condition, python_version):
            pins.append(Pin(name, version, float(size)))
    return pins


def holds(condition: str | None, python_version: str) -> bool:
    """Return whether a lock file's marker holds; tools/lock.py writes only these two kinds."""
    if condition is None:
        return True
    ours = [int(part) for part in python_version.split('.')]
    for sign, text in re.findall(r"python_version (==|>=) '([\d.]+)'", condition):
        theirs = [int(part) for part in text.split('.')]
        if ours == theirs or (sign == '>=' and ours > theirs):
            return True
    return False


def installed(venv: Path) -> dict[str, str]:
    """Return the versions of the packages that are there in full, by name, without local parts."""
    versions = {}
    folders = [str(folder) for folder in venv.glob('lib/python3*/site-packages')]
    for package in importlib.metadata.distributions(path=folders):
        if package.read_text(WRITTEN_LAST) and package.metadata['Name']:
            name = re.sub(r'[-_.]+', '-', package.metadata['Name']).lower()
            versions[name] = package.version.split('+')[0]
    return versions


def forget_cut_short(venv: Path) -> None:
    """Remove the metadata of packages that are there in part: pip takes them for installed."""
    for folder in venv.glob('lib/python3*/site-packages/*.dist-info'):
        if not (folder / WRITTEN_LAST).exists():
            shutil.rmtree(folder)


def missing(pins: list[Pin], venv: Path) -> list[Pin]:
    """Return the pins that are not installed in that version."""
    there = installed(venv)
    return [pin for pin in pins if there.get(pin.name) != pin.version]


def run(command: list[str | Path], *, env: dict[str, str] | None = None,
        watch: Progress | None = None) -> None:
    """
    Run a command with its output in the log.

    Raises:
        SetupError: it failed; the message ends with the last lines of its output.
    """
    with LOG.open('a') as log:
        log.write(f'$ {" ".join(map(str, command))}\n')
        log.flush()
        begin = log.tell()
        with subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            copy(process.stdout, log, watch)
    if process.returncode:
        tail = '\n'.join(LOG.read_text()[begin:].splitlines()[-25:])
        raise SetupError(f'{tail}\n\nfailed with {process.returncode}: '
                         f'{" ".join(map(str, command[:5]))} ...  (all of its output: {LOG})')


def copy(source: IO[str], log: IO[str], watch: Progress | None) -> None:
    """Write each line to the log as it comes, and show it to the progress line."""
    for line in source:
        log.write(line)
        if watch is not None:
            watch.see(line)


class Progress:
    """Says now and then how far pip has come, from the lines it prints."""

    def __init__(self, pins: list[Pin]) -> None:
        self._sizes_mb = {pin.name: pin.size_mb for pin in pins}
        self._done: set[str] = set()
        self._said_s = time.monotonic()
        self._downloads = True

    def see(self, line: str) -> None:
        """Take one line of pip's output."""
        # A package from an index, or the file of one that lies on this machine.
        match = re.match(r'Collecting ([\w.-]+)|Processing \S*?/([\w.]+)-\d[^/]*$', line)
        if match:
            self._done.add(re.sub(r'[-_.]+', '-', match[1] or match[2]).lower())
        if line.startswith('Installing collected packages'):
            self._downloads = False
            say(f'  unpacking {len(self._done)} packages')
        elif self._downloads and time.monotonic() - self._said_s > 5:
            self._said_s = time.monotonic()
            got = sum(self._sizes_mb.get(name, 0) for name in self._done)
            say(f'  {len(self._done)} of {len(self._sizes_mb)} packages, {got:.0f} of '
                f'{sum(self._sizes_mb.values()):.0f} MB')


def pip(venv: Path, *arguments: str | Path, watch: Progress | None = None) -> None:
    """Run the pip of an environment, without build environments of its own: nothing unpinned."""
    run([venv / 'bin' / 'python', '-I', '-m', 'pip', '--disable-pip-version-check', 'install',
         '--progress-bar=off', '--no-build-isolation', '--use-pep517', *arguments],
        env=clean_environment(venv), watch=watch)


def clean_environment(venv: Path) -> dict[str, str]:
    """Return the environment for building: the environment's own programs first."""
    dropped = {'MAKEFLAGS', 'MFLAGS', 'PYTHONPATH', 'PYTHONHOME', 'PYTHONDONTWRITEBYTECODE',
               'COLCON_DEFAULTS_FILE'}
    env = {key: value for key, value in os.environ.items() if key not in dropped}
    env['PATH'] = f'{venv / "bin"}:{env.get("PATH", "/usr/bin:/bin")}'
    env['VIRTUAL_ENV'] = str(venv)
    return env


def make_venv(venv: Path, python: str) -> None:
    """Make an environment of that Python, or keep the one that is there if it works here."""
    version = subprocess.run(
        [python, '-I', '-c', 'import sys; print(sys.base_prefix, *sys.version_info[:3])'],
        check=True, capture_output=True, text=True).stdout
    if (venv / 'bin' / 'python').exists():
        probe = subprocess.run(
            [venv / 'bin' / 'python', '-I', '-c',
             'import pip, sys; print(sys.base_prefix, *sys.version_info[:3])'],
            check=False, capture_output=True, text=True)
        # Programs name their interpreter: a folder that was moved or copied is of no use.
        pip_program = venv / 'bin' / 'pip'
        at_home = pip_program.exists() and f'{venv}/bin/python' in pip_program.read_text()
        if probe.stdout == version and at_home:
            return
    if venv.exists():
        say(f'{venv.name} is incomplete, of another Python or from elsewhere: making it anew')
        shutil.rmtree(venv)
    say(f'{venv.name}: Python {".".join(version.split()[-3:])}')
    run([python, '-I', '-m', 'venv', venv])


def install(pins: list[Pin], venv: Path) -> bool:
    """Install what is missing of the pins; returns whether anything was."""
    wanted = missing(pins, venv)
    if not wanted:
        return False
    forget_cut_short(venv)
    # The one source package among them is built with the setuptools that is pinned.
    tools = [pin for pin in wanted if pin.name == 'setuptools']
    torch = [pin for pin in wanted if pin.name == 'torch']
    others = [pin for pin in wanted if pin not in tools and pin not in torch]
    for group in (tools, others):
        if group:
            watch = Progress(group)
            pip(venv, '--no-deps', *(f'{pin.name}=={pin.version}' for pin in group), watch=watch)
    for pin in torch:
        install_torch(pin, venv)
    lost = missing(pins, venv)
    if lost:
        raise SetupError(f'installed, yet not found: {", ".join(pin.name for pin in lost)}')
    return True


def has_gpu() -> bool:
    """Return whether an NVIDIA GPU's driver is loaded."""
    return Path('/proc/driver/nvidia/version').exists()


def reaches_torch_index() -> bool:
    """Return whether the index of torch's CPU wheels can be reached; a proxy is taken to do so."""
    if any(os.environ.get(name) for name in ('https_proxy', 'HTTPS_PROXY', 'all_proxy')):
        return True
    try:
        socket.create_connection(('download.pytorch.org', 443), timeout=3).close()
    except OSError:
        return False
    return True


def install_torch(pin: Pin, venv: Path) -> None:
    """
    Install torch: the wheel for the CPU, unless there is a GPU.

    It is the one package that is installed with what it asks for: nothing more than the lock's for
    the CPU's wheel, and the CUDA libraries, which it pins itself, for the other one.
    """
    arguments = [f'{pin.name}=={pin.version}']
    if has_gpu():
        say('torch for the GPU, with its CUDA libraries (about 3 GB)')
    elif reaches_torch_index():
        say(f'torch for the CPU ({pin.size_mb:.0f} MB)')
        arguments += ['--extra-index-url', TORCH_CPU_INDEX]
    else:
        say(f'torch ({pin.size_mb:.0f} MB; {TORCH_CPU_INDEX} is out of reach: if your index has '
            'only the one for GPUs, about 3 GB)')
    pip(venv, *arguments)


def mend_cmake_exports(python_version: str) -> None:
    """Put this Python's paths where the ROS wheels' CMake files name those of their builder."""
    site = VENV / 'lib' / f'python{python_version}' / 'site-packages'
    include = subprocess.run(
        [BIN / 'python', '-I', '-c', 'import sysconfig; print(sysconfig.get_path("include"))'],
        check=True, capture_output=True, text=True).stdout.strip()
    for path in VENV.glob('share/**/*.cmake'):
        text = path.read_text()
        mended = re.sub(r'/opt/python/cp\d+-cp\d+/include/python3\.\d+', include, text)
        mended = re.sub(r'/opt/python/cp\d+-cp\d+/lib/python3\.\d+/site-packages', str(site),
                        mended)
        if mended != text:
            path.write_text(mended)


def digest(paths: list[Path], *more: str) -> str:
    """Return a fingerprint of the files and strings that a step's result depends on."""
    hasher = hashlib.sha256()
    for path in sorted(paths):
        hasher.update(f'{path}\0{path.stat().st_size}\0'.encode())
        hasher.update(path.read_bytes())
    hasher.update('\0'.join(more).encode())
    return hasher.hexdigest()


def build_messages(python_version: str) -> None:
    """Build ferros_msgs into .venv/ros, and let this Python find it."""
    build_interfaces(ROOT / 'ferros_msgs', ROS, python_version)


def build_test_messages(python_version: str) -> None:
    """Build the stand-in for hri_msgs, for the tests, unless the real one is installed."""
    if finds_another('hri_msgs', ROS_TEST):
        forget_interfaces('hri_msgs', ROS_TEST, python_version)
    else:
        build_interfaces(HRI_MSGS, ROS_TEST, python_version)


def finds_another(package: str, prefix: Path) -> bool:
    """Return whether the environment's Python finds a package of that name outside prefix."""
    code = ('import importlib.util, sys; package, prefix = sys.argv[1:]; '
            'sys.path = [path for path in sys.path if not path.startswith(prefix)]; '
            'spec = importlib.util.find_spec(package); '
            # A folder of that name alone is none: it has no origin.
            'sys.exit(not (spec and spec.origin))')
    probe: list[str | Path] = [BIN / 'python', '-I', '-c', code, package, f'{prefix}{os.sep}']
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


def forget_interfaces(package: str, prefix: Path, python_version: str) -> None:
    """Remove what build_interfaces made."""
    shutil.rmtree(prefix, ignore_errors=True)
    (VENV / site_of(python_version) / f'{package}.pth').unlink(missing_ok=True)
    for library in (VENV / 'lib').glob(f'lib{package}__*.so'):
        # What is no link was not made here.
        if library.is_symlink():
            library.unlink()


def build_interfaces(source: Path, prefix: Path, python_version: str) -> None:
    """Build a package of messages into a prefix of its own, and let this Python find it."""
    package = ET.parse(source / 'package.xml').getroot().findtext('name', '')
    sources = [path for path in source.rglob('*') if path.is_file()]
    key = digest(sources, python_version, (ROOT / 'requirements' / 'run.lock').read_text())
    stamp = prefix / 'ferros-key'
    if stamp.exists() and stamp.read_text() == key:
        return
    say(f'building the ROS messages ({package})')
    build = VENV / 'build'
    shutil.rmtree(build, ignore_errors=True)
    forget_interfaces(package, prefix, python_version)
    env = clean_environment(VENV)
    env.update(AMENT_PREFIX_PATH=str(VENV), CMAKE_PREFIX_PATH=str(VENV), ROS_DISTRO='jazzy',
               ROS_VERSION='2', ROS_PYTHON_VERSION='3', COLCON_LOG_PATH=str(build / 'log'),
               CMAKE_COMMAND=str(BIN / 'cmake'), LD_LIBRARY_PATH=libraries(),
               _ROS_WHEELS_BOOTSTRAP_COMPLETE='1')
    run([BIN / 'colcon', 'build', '--base-paths', source, '--merge-install',
         '--build-base', build, '--install-base', prefix, '--event-handlers', 'console_direct+',
         '--cmake-args', '-G', 'Ninja', '-DBUILD_TESTING=OFF', '-DCMAKE_BUILD_TYPE=Release',
         f'-DPython3_EXECUTABLE={BIN / "python"}'], env=env)
    # So that .venv/bin/python finds them without any variable set.
    site = site_of(python_version)
    (VENV / site / f'{package}.pth').write_text(f'{prefix / site}\n')
    for library in (prefix / 'lib').glob('*.so'):
        (VENV / 'lib' / library.name).symlink_to(library)
    shutil.rmtree(build)
    stamp.write_text(key)


def site_of(python_version: str) -> Path:
    """Return where Python packages lie below a prefix."""
    return Path('lib', f'python{python_version}', 'site-packages')


def libraries() -> str:
    """Return the folders of shared libraries of the environment, joined as in LD_LIBRARY_PATH."""
    folders = [VENV / 'lib', *sorted(VENV.glob('lib/python3*/site-packages/ros_*.libs'))]
    return ':'.join(map(str, folders))


def install_checkout() -> None:
    """Install this checkout so that its files are used where they are."""
    key = digest([ROOT / 'setup.py', ROOT / 'setup.cfg'], str(ROOT))
    stamp = VENV / 'checkout-key'
    if stamp.exists() and stamp.read_text() == key and 'ferros' in installed(VENV):
        return
    say('installing this checkout into .venv')
    pip(VENV, '--no-deps', '--editable', str(ROOT))
    stamp.write_text(key)


def make_wire(pins: list[Pin]) -> None:
    """Make .venv-wire, the oldest gRPC the stubs must work with, where there is a Python 3.11."""
    python = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which('python3.11')
    works = python and subprocess.run([python, '-I', '-c', 'import ensurepip, venv'], check=False,
                                      capture_output=True).returncode == 0
    if not python or not works:
        say('no .venv-wire: there is no python3.11 with venv; the tests that need it are skipped')
        return
    make_venv(WIRE, python)
    install(pins, WIRE)


def tell_sizes(pins: list[Pin], wire: list[Pin]) -> None:
    """Say what will be downloaded, before anything is."""
    wanted = missing(pins, VENV)
    wanted_wire = missing(wire, WIRE)
    total_mb = sum(pin.size_mb for pin in wanted + wanted_wire)
    if total_mb:
        more = ', and the CUDA libraries for torch (about 3 GB)' if has_gpu() and 'torch' in {
            pin.name for pin in wanted} else ''
        say(f'to download into .venv: {len(wanted) + len(wanted_wire)} packages, '
            f'about {total_mb:.0f} MB{more}')


def set_up(layer: str) -> None:
    """Do all steps of a layer."""
    version = f'{sys.version_info[0]}.{sys.version_info[1]}'
    locks = ROOT / 'requirements'
    pins = read_lock(locks / 'run.lock', version)
    wire: list[Pin] = []
    if layer == 'dev':
        pins += read_lock(locks / 'dev.lock', version)
        wire = read_lock(locks / 'wire.lock', '3.11')
    tell_sizes(pins, wire)
    make_venv(VENV, sys.executable)
    if missing(pins, VENV):
        say(f'installing the layer {layer!r}')
        install(pins, VENV)
    mend_cmake_exports(version)
    (VENV / 'env.sh').write_text(ENV_SH.format(venv=VENV, ros=ROS, libraries=libraries()))
    build_messages(version)
    install_checkout()
    if layer == 'dev':
        build_test_messages(version)
        make_wire(wire)
    say('.venv is ready')


def main() -> int:
    """Set up the layer that is named; one set-up at a time."""
    os.umask(0o022)
    LOG.parent.mkdir(exist_ok=True)
    with LOG.with_suffix('.lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('another set-up of this checkout is running: waiting for it')
            fcntl.flock(lock, fcntl.LOCK_EX)
        LOG.write_text('')
        try:
            set_up(sys.argv[1])
        except SetupError as error:
            print(f'ferros: {error}', file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print('ferros: interrupted; the next call goes on from here', file=sys.stderr)
            return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
