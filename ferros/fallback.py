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
Who speaks for the faces, the server or the robot itself; pure.

The server speaks at first. It is silent once nothing fresh came from it for a limit while a face
was there to be read; then the robot speaks. The server has to answer for a while before it is
believed again: for `hand_back_after_ms` without a silence, or longer where it had only just been
believed and fell silent anew. So the two cannot take turns quickly:

- after the robot began to speak it does so for a probation at least, as a silence is what made it
  begin and ends every probation;
- after the server was handed back to it speaks for `fallback_after_ms` at least;
- a server that fell silent within RELAPSE_NS after that is on probation for LONG_PROBATION_NS.

With the default parameters no two hand-overs back to the server are less than 2.15 s apart, and
one whose good times are shorter than 1.8 s is believed once and then no more.
"""

from __future__ import annotations

from typing import Final

from ferros.config import RobotConfig
from ferros.types import Source

# The server is silent when it misses so many of the intervals at which the face is sent.
MISSED_INTERVALS: Final = 1.5
# A link that carries less than a frame in a second is not waited for.
LONGEST_INTERVAL_NS: Final = 1_000_000_000
# A server that falls silent so soon after it was believed again ...
RELAPSE_NS: Final = 10_000_000_000
# ... has to answer for so long the next time: hand-overs stay below 2.5 s.
LONG_PROBATION_NS: Final = 1_800_000_000
# So long before the robot is to speak it begins to read, so as not to begin with a pause.
READ_AHEAD_NS: Final = 100_000_000


class Fallback:
    """
    Decides between Source.CLOUD and Source.ROBOT; every time is the monotonic clock in ns.

    Tell it of each image, of the link and of each fresh answer of the server as they come, and
    have it decide() then, and again after wait_ns().
    """

    def __init__(self, config: RobotConfig) -> None:
        self.configure(config)
        self._speaker = Source.CLOUD
        self._switches = 0
        self._handed_back_ns: int | None = None
        # Of the server's answers: the newest, and the first one since it was last silent.
        self._answered_ns: int | None = None
        self._trial_ns: int | None = None
        self._is_long_probation = False
        # Of the images with a face: the newest, and the first one since there was none for long.
        self._seen_ns: int | None = None
        self._since_ns = 0
        self._is_face_there = False
        self._is_connected = False
        # At which the primary face is sent: now, and when the newest answer came. While nothing
        # comes back the link is planned with less and less, which is no reason to wait longer.
        self._interval_ns = 0
        self._answered_interval_ns = 0

    def configure(self, config: RobotConfig) -> None:
        """Take over the parameters."""
        self._is_on = config.fallback
        self._after_ns = config.fallback_after_ms * 1_000_000
        self._ahead_ns = min(READ_AHEAD_NS, self._after_ns // 3)
        self._hand_back_ns = config.hand_back_after_ms * 1_000_000
        rate_fps = config.frame_rate_fps
        self._pinned_interval_ns = round(1e9 / rate_fps) if rate_fps else 0

    # -- what happens ----------------------------------------------------------------------------

    def on_image(self, is_face_there: bool, now_ns: int) -> None:
        """Note an image, and whether it shows a face that can be read."""
        self._is_face_there = is_face_there
        if not is_face_there:
            return
        if self._seen_ns is None or now_ns - self._seen_ns > self._limit_ns():
            self._since_ns = now_ns
        self._seen_ns = now_ns

    def on_link(self, is_connected: bool, interval_ns: int | None) -> None:
        """
        Note how the link stands.

        is_connected: whether there is a server that could answer.
        interval_ns: the time between two frames sent of the primary face; None: not known.
        """
        self._is_connected = is_connected
        self._interval_ns = interval_ns or 0

    def on_cloud_answer(self, now_ns: int) -> None:
        """Note a fresh answer of the server, about whatever face."""
        if self._trial_ns is None or self._was_silent(now_ns):
            self._trial_ns = now_ns
        self._answered_ns = now_ns
        self._answered_interval_ns = self._interval_ns
        if self._speaker is Source.ROBOT and now_ns - self._trial_ns >= self._probation_ns():
            self._switch(Source.CLOUD)
            self._handed_back_ns = now_ns

    # -- what follows ----------------------------------------------------------------------------

    def decide(self, now_ns: int) -> Source:
        """Return whose answers are to be published from now on."""
        due_ns = self._due_ns()
        if not self._is_on and self._speaker is Source.ROBOT:
            self._switch(Source.CLOUD)
        elif due_ns is not None and now_ns >= due_ns:
            handed_back_ns = self._handed_back_ns
            self._is_long_probation = (
                handed_back_ns is not None and now_ns - handed_back_ns < RELAPSE_NS
            )
            self._trial_ns = None
            self._switch(Source.ROBOT)
        return self._speaker

    @property
    def speaker(self) -> Source:
        """Return who spoke when it was last decided."""
        return self._speaker

    def wants_robot(self, now_ns: int) -> bool:
        """Tell whether the robot is to read faces: it speaks, or is about to."""
        if self._speaker is Source.ROBOT:
            return self._is_on
        due_ns = self._due_ns()
        return due_ns is not None and now_ns >= due_ns - self._ahead_ns

    def wait_ns(self, now_ns: int) -> int | None:
        """Return after what time the answers change without an event; None: they do not."""
        due_ns = self._due_ns()
        if due_ns is None:
            return None
        if now_ns < due_ns - self._ahead_ns:
            return due_ns - self._ahead_ns - now_ns
        return max(0, due_ns - now_ns)

    @property
    def switches(self) -> int:
        """Return how often the speaker changed so far."""
        return self._switches

    def _switch(self, speaker: Source) -> None:
        self._speaker = speaker
        self._switches += 1

    def _due_ns(self) -> int | None:
        """Return when the robot is to begin to speak if no answer comes; None: it is not."""
        if not self._is_on or self._speaker is Source.ROBOT or self._seen_ns is None:
            return None
        answered_ns = self._answered_ns
        if self._is_connected:
            # A face that came just now has not been answered yet for no other reason.
            due_ns = max(self._since_ns, answered_ns or self._since_ns) + self._limit_ns()
        elif answered_ns is None:
            due_ns = self._since_ns
        else:
            due_ns = max(self._since_ns, answered_ns + self._after_ns)
        # Where there is no image with a face, nobody is silent.
        is_there = self._is_face_there and due_ns <= self._seen_ns + self._limit_ns()
        return due_ns if is_there else None

    def _limit_ns(self) -> int:
        """Return for how long nothing may come before the server is silent."""
        return self._limit_for_ns(self._answered_interval_ns)

    def _was_silent(self, now_ns: int) -> bool:
        """Tell whether too much time went by before the answer that came now."""
        if self._answered_ns is None:
            return False
        # After a silence the link's plan is that of the silence, for a moment.
        interval_ns = min(self._answered_interval_ns, self._interval_ns)
        silent_ns = now_ns - max(self._answered_ns, self._since_ns)
        return silent_ns > self._limit_for_ns(interval_ns)

    def _limit_for_ns(self, interval_ns: int) -> int:
        interval_ns = min(max(interval_ns, self._pinned_interval_ns), LONGEST_INTERVAL_NS)
        return max(self._after_ns, round(MISSED_INTERVALS * interval_ns))

    def _probation_ns(self) -> int:
        """Return for how long the server has to answer before it is believed again."""
        if self._is_long_probation:
            return max(self._hand_back_ns, LONG_PROBATION_NS)
        return self._hand_back_ns
