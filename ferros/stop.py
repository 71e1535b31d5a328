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
"""How a program of the robot half is told to end: by SIGINT, SIGTERM, or one of its threads."""

from __future__ import annotations

import contextlib
import signal
import socket

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """
    Whether, and until when, to go on; made by the main thread.

    A handler of a signal runs anywhere in the main thread, also within a lock of threading.Event,
    which a second signal would then wait for without end. So nothing here has a lock: a signal
    sets a flag and wakes the socket that wait() reads.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._inbox, self._outbox = socket.socketpair()
        self._outbox.setblocking(False)
        signal.set_wakeup_fd(self._outbox.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)

    def is_set(self) -> bool:
        """Tell whether to end."""
        return self._is_set

    def set(self) -> None:
        """End; may be called by any thread."""
        self._is_set = True
        # A full socket wakes whoever reads it, too.
        with contextlib.suppress(BlockingIOError):
            self._outbox.send(b'\0')

    def wait(self) -> None:
        """Wait until it is time to end; for the main thread."""
        while not self._is_set:
            self._inbox.recv(4096)

    def finish(self) -> None:
        """
        Let no further signal disturb the end.

        Python gives up its own handlers before it has ended: one more Ctrl-C would then be a
        death by signal, where the end was in good order.
        """
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, frame: object) -> None:
        self._is_set = True
