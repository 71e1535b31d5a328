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
"""Network namespaces that hold one TUN device each; needs root, Linux and the command ip."""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

DEVICE = 'link0'
TUN = Path('/dev/net/tun')
NAMED = Path('/run/netns')
DISCARD_PORT = 9  # Nobody listens there.
NO_IPV6 = tuple(Path(f'/proc/sys/net/ipv6/conf/{of}/disable_ipv6') for of in ('all', 'default'))
# Where ip is may be missing from the PATH of a service or of a plain su.
IP_PATH = os.pathsep.join((os.environ.get('PATH', ''), '/usr/sbin', '/sbin'))
END_S = 1.0  # What runs in a namespace has so long to end before it is killed.

# From linux/sched.h and linux/if_tun.h.
_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000

_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceError(RuntimeError):
    """A namespace, or something in it, could not be made; says which and why."""


@lru_cache(maxsize=1)
def unavailable() -> str | None:
    """Return in one line why no namespaces with TUN devices can be made here; None: they can."""
    if sys.platform != 'linux':
        return f'network namespaces are of Linux, this is {sys.platform}'
    if os.geteuid() != 0:
        return 'network namespaces need root'
    if shutil.which('ip', path=IP_PATH) is None:
        return 'the command ip is missing (Debian and Ubuntu: apt install iproute2)'
    if not TUN.exists():
        return f'{TUN} is missing (modprobe tun; in a container: --device {TUN})'
    name = f'ferros-probe-{secrets.token_hex(4)}'
    try:
        create(name)
        ip(f'-netns {name} tuntap add dev {DEVICE} mode tun')
        ip(f'netns exec {name} true')
    except NamespaceError as err:
        return f'network namespaces or TUN devices are not permitted here: {err}'
    finally:
        remove(name)
    return None


def program() -> str:
    """Return the path of the command ip; where it is missing, its name."""
    return shutil.which('ip', path=IP_PATH) or 'ip'


def inside(name: str, command: Sequence[str]) -> list[str]:
    """Return the command that runs a command in a namespace, under the same pid."""
    return [program(), 'netns', 'exec', name, *command]


def ip(arguments: str, commands: str = '') -> str:
    """
    Run the command ip and return what it prints.

    Args:
        arguments: of ip, parted by spaces.
        commands: what it reads, for `-batch -`.

    Raises:
        NamespaceError: it failed; with its own message.
    """
    try:
        return subprocess.run(
            [program(), *arguments.split()], input=commands, check=True, capture_output=True,
            text=True,
        ).stdout
    except FileNotFoundError as err:
        raise NamespaceError(f'the command ip is missing: {err}') from err
    except subprocess.CalledProcessError as err:
        reason = ' '.join(err.stderr.split()) or f'exit status {err.returncode}'
        raise NamespaceError(f'ip {arguments}: {reason}') from err


def create(name: str) -> None:
    """Make a namespace. Raises NamespaceError, also where the name is taken."""
    ip(f'netns add {name}')


def remove(name: str) -> None:
    """End what still runs in a namespace, and delete it; nothing happens where there is none."""
    if not (NAMED / name).exists():
        return
    with suppress(NamespaceError):
        _end_all(name)
    with suppress(NamespaceError):
        ip(f'netns delete {name}')


def _end_all(name: str) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        pids = _pids(name)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
        deadline = time.monotonic() + END_S
        while pids and time.monotonic() < deadline:
            time.sleep(0.02)
            pids = _pids(name)
        if not pids:
            return


def _pids(name: str) -> list[int]:
    # Whoever calls is left out, should it be inside itself.
    return [int(pid) for pid in ip(f'netns pids {name}').split() if int(pid) != os.getpid()]


def open_tun(name: str, address: str, peer: str, mtu: int) -> int:
    """
    Make the TUN device of a namespace, bring it and lo up, and return it as a file descriptor.

    A read of it (not blocking) is one IP packet of at most mtu bytes that the namespace sends,
    without anything before it; a write is one that arrives there. The kernel is told of no
    offloads, so it cuts packets to the mtu itself. IPv6 is off: its router solicitations would
    use up capacity.

    Raises:
        NamespaceError: naming what could not be set up.
    """
    with entered(name):
        for setting in NO_IPV6:
            with suppress(OSError):  # A kernel without IPv6 has nothing to turn off.
                setting.write_text('1')
        device = _open_device()
        try:
            ip('-batch -', f"""
                link set lo up
                address add {address} peer {peer} dev {DEVICE}
                link set {DEVICE} mtu {mtu} up
            """)
        except BaseException:
            os.close(device)
            raise
    return device


def _open_device() -> int:
    request = struct.pack('16sH22x', DEVICE.encode(), _IFF_TUN | _IFF_NO_PI)
    try:
        device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    except OSError as err:
        raise NamespaceError(f'{TUN}: {err.strerror}') from err
    try:
        fcntl.ioctl(device, _TUNSETIFF, request)
    except OSError as err:
        os.close(device)
        raise NamespaceError(f'TUN device {DEVICE}: {err.strerror}') from err
    return device


def use_congestion_control(name: str, address: str, peer: str, algorithm: str) -> str:
    """
    Ask for a TCP congestion control between two addresses; return the one that is in force.

    It is asked for on the route: the sysctl of a namespace takes only what the whole machine
    allows its users. Without effect where the kernel does not have the algorithm.
    """
    with entered(name):
        with suppress(NamespaceError):
            ip(f'route replace {peer} dev {DEVICE} src {address} congctl {algorithm}')
        # A connection takes over what its route says as soon as it has sent its first packet.
        with socket.socket() as probe:
            probe.setblocking(False)
            probe.connect_ex((peer, DISCARD_PORT))
            in_force = probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return in_force.rstrip(b'\0').decode()


@contextmanager
def entered(name: str) -> Iterator[None]:
    """Put the calling thread, and what it starts, into a namespace for a while."""
    own = os.open('/proc/thread-self/ns/net', os.O_RDONLY)
    try:
        other = os.open(NAMED / name, os.O_RDONLY)
        try:
            _set_namespace(other, name)
        finally:
            os.close(other)
        try:
            yield
        finally:
            _set_namespace(own, 'the one it came from')
    finally:
        os.close(own)


def _set_namespace(descriptor: int, name: str) -> None:
    # os.setns is of Python 3.12.
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise NamespaceError(f'namespace {name}: {os.strerror(ctypes.get_errno())}')
