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
The thread on which the robot reads faces itself, seldom enough to leave its core to others.

What is read next is decided by Turns, which is pure; LocalReader is the thread around it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ferros.crop import crop, native_size_px
from ferros.drops import Drops
from ferros.local_model import LocalModel
from ferros.types import Observation, OfferedFace, Source

# How much of the newest cost the average takes over.
_COST_WEIGHT: Final = 0.1


class ReaderReport(NamedTuple):
    """What was read so far."""

    answers: int
    # Of one face, in thread CPU time, an average of late; 0: none was read yet.
    ms_per_face: float
    # Faces that were not read although that was wanted, as there was no time before a newer
    # image came or they went, or as they were too many: by design.
    skipped: int


class Turns:
    """
    Holds the newest image of each face and says which is read next; times are monotonic ns.

    Each face is read rate_hz times a second at most. After a face that cost c the next one starts
    no sooner than c / cpu_share after it did. Of those that are due the primary face goes first,
    but not twice in a row; then who waited longest.
    """

    def __init__(self, rate_hz: float, cpu_share: float, max_faces: int) -> None:
        self.configure(rate_hz, cpu_share, max_faces)
        # Of the newest image, the primary face first; of them those that were not read yet.
        self._faces: list[str] = []
        self._unread: dict[str, OfferedFace] = {}
        self._read_ns: dict[str, int] = {}
        self._due_ns: dict[str, int] = {}
        self._last = ''
        self._free_ns = 0

    def configure(self, rate_hz: float, cpu_share: float, max_faces: int) -> None:
        """
        Take over the parameters.

        Args:
            rate_hz: readings of one face per second at most, above 0.
            cpu_share: of one core for all faces, above 0 to 1.
            max_faces: of those offered the first so many are read, 1 or more.

        """
        self._interval_ns = round(1e9 / rate_hz)
        self._cpu_share = cpu_share
        self._max_faces = max_faces

    def offer(self, faces: Sequence[OfferedFace], now_ns: int) -> int:
        """
        Take the faces of one image, the primary first; others than these are gone.

        Returns how many will never be read: those replaced or gone, and those that are too many.
        """
        skipped = len(self._unread) + len(faces[self._max_faces :])
        self._unread = {face.face_id: face for face in faces[: self._max_faces]}
        self._faces = list(self._unread)
        # One that is hidden for a moment is not read sooner for that.
        for face_id in [key for key, due_ns in self._due_ns.items() if due_ns <= now_ns]:
            if face_id not in self._unread:
                del self._due_ns[face_id], self._read_ns[face_id]
        return skipped

    def take(self, now_ns: int) -> OfferedFace | None:
        """Return the face to read now, and note that it is being read; None: none is due."""
        if now_ns < self._free_ns:
            return None
        due = [key for key in self._unread if self._due_at_ns(key, now_ns) <= now_ns]
        if not due:
            return None
        face_id = min(due, key=self._turn)
        due_ns = self._due_at_ns(face_id, now_ns)
        # Steps of whole intervals keep the rate; what was missed for longer is not made up for.
        self._due_ns[face_id] = max(due_ns + self._interval_ns, now_ns + self._interval_ns // 2)
        self._read_ns[face_id] = now_ns
        self._last = face_id
        return self._unread.pop(face_id)

    def took(self, started_ns: int, cost_ns: int) -> None:
        """Note what it cost to read the face that was taken at started_ns."""
        self._free_ns = started_ns + round(cost_ns / self._cpu_share)

    def wait_ns(self, now_ns: int) -> int | None:
        """Return after what time take() has a face; None: not before one is offered."""
        due_ns = min((self._due_at_ns(key, now_ns) for key in self._unread), default=None)
        return None if due_ns is None else max(0, max(due_ns, self._free_ns) - now_ns)

    def _due_at_ns(self, face_id: str, now_ns: int) -> int:
        # A rate that was raised holds at once.
        return min(self._due_ns.get(face_id, now_ns), now_ns + self._interval_ns)

    def _turn(self, face_id: str) -> tuple[bool, int]:
        is_primary = face_id == self._faces[0] and face_id != self._last
        return not is_primary, self._read_ns.get(face_id, -1)


class LocalReader:
    """
    Reads the faces that are offered with the model on the robot, while that is wanted.

    offer() and want() return at once. on_answer(Observation) is called from the reader's thread.
    The cost of a face is the CPU time of that thread: time it waited for others is not the
    robot's expense. OpenCV has to compute with one thread (cv2.setNumThreads(1), which holds for
    the whole process), as what its own threads compute is not seen here.
    """

    def __init__(
        self,
        model: LocalModel,
        drops: Drops,
        on_answer: Callable[[Observation], None],
        clock_ns: Callable[[], int] = time.monotonic_ns,
        rate_hz: float = 5.0,
        cpu_share: float = 0.25,
        max_faces: int = 8,
    ) -> None:
        self._model = model
        self._drops = drops
        self._on_answer = on_answer
        self._clock_ns = clock_ns
        self._log = logging.getLogger('ferros.local_reader')
        # Guards all that follows.
        self._changed = threading.Condition()
        self._turns = Turns(rate_hz, cpu_share, max_faces)
        self._is_wanted = False
        self._stopping = False
        self._answers = 0
        self._skipped = 0
        self._cost_ns = 0.0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to read, in the background, as soon as that is wanted."""
        if self._thread is not None:
            raise RuntimeError('the reader was started before')
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name='ferros-local-reader', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the reader can be started again."""
        with self._changed:
            self._stopping = True
            self._is_wanted = False
            self._turns.offer([], self._clock_ns())
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def configure(self, rate_hz: float, cpu_share: float, max_faces: int) -> None:
        """Take over parameters (see Turns.configure); they hold at once."""
        with self._changed:
            self._turns.configure(rate_hz, cpu_share, max_faces)
            self._changed.notify_all()

    def want(self, is_wanted: bool) -> None:
        """Say whether faces are to be read; while they are not, the newest ones are kept."""
        with self._changed:
            if is_wanted is not self._is_wanted:
                self._is_wanted = is_wanted
                self._changed.notify_all()

    def offer(self, faces: Sequence[OfferedFace]) -> None:
        """Hand over the faces of one image, the primary first; they replace those before."""
        with self._changed:
            skipped = self._turns.offer(faces, self._clock_ns())
            if self._is_wanted:
                self._skipped += skipped
                self._changed.notify_all()

    def report(self) -> ReaderReport:
        """Return the figures as of now."""
        with self._changed:
            return ReaderReport(self._answers, self._cost_ns / 1e6, self._skipped)

    def _run(self) -> None:
        while (face := self._next()) is not None:
            started_ns, cpu_ns = self._clock_ns(), time.thread_time_ns()
            answer = self._read(face)
            cost_ns = time.thread_time_ns() - cpu_ns
            with self._changed:
                self._turns.took(started_ns, cost_ns)
                self._cost_ns += (cost_ns - self._cost_ns) * (
                    _COST_WEIGHT if self._cost_ns else 1.0
                )
                self._answers += answer is not None
            if answer is not None:
                self._on_answer(answer)

    def _next(self) -> OfferedFace | None:
        """Wait for the next face to read; None: no more are read."""
        with self._changed:
            while not self._stopping:
                if not self._is_wanted:
                    self._changed.wait()
                    continue
                now_ns = self._clock_ns()
                face = self._turns.take(now_ns)
                if face is not None:
                    return face
                wait_ns = self._turns.wait_ns(now_ns)
                self._changed.wait(None if wait_ns is None else max(wait_ns, 1_000_000) / 1e9)
        return None

    def _read(self, face: OfferedFace) -> Observation | None:
        """Return the answer; None where it could not be read, which is counted and said once."""
        try:
            return read(self._model, face)
        except Exception as error:
            # Whatever is wrong with one face, or with OpenCV, must not end the thread.
            if self._drops.count('robot_not_readable'):
                self._log.warning('a face could not be read on the robot: %r', error)
            return None


def read(model: LocalModel, face: OfferedFace) -> Observation:
    """
    Return what the model on the robot says of a face.

    Raises:
        ValueError: the face cannot be cropped.

    """
    box = face.frame.in_image(face.box)
    # A crop that was enlarged would be judged more surely than it deserves.
    size_px = min(native_size_px(box), model.info.input_size_px)
    expression = model.predict([crop(face.frame.image, box, size_px)])[0]
    return Observation(
        face_id=face.face_id,
        stamp_ns=face.frame.stamp_ns,
        frame_id=face.frame.frame_id,
        captured_ns=face.frame.captured_ns,
        box=face.box.clipped(*face.frame.size_px),
        label=expression.label,
        confidence=expression.confidence,
        labels=expression.labels,
        probabilities=expression.probabilities,
        valence=expression.valence,
        arousal=expression.arousal,
        source=Source.ROBOT,
        model=model.info.display,
    )
