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
The robot of a run: plays clips through the real link and writes down what was published.

Started by the bench in the robot's namespace; it says `ready`, waits for a line on stdin, and
plays from then on for the given time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.link import clips, senders
from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.link import Link
from ferros.types import Box, CameraFrame, Observation, OfferedFace

# A baseline publishes whatever comes.
NEVER_STALE_MS = 60_000


class Scene:
    """Which clip is seen in which slot at a tick."""

    def __init__(self, played: clips.Clips, slots: int) -> None:
        self._played = played
        self._slots = slots
        self.faces: list[dict[str, object]] = []

    def frames(self, tick: int) -> list[tuple[str, clips.Frames]]:
        """Return face id and image of each slot, the primary face first."""
        count, length = self._played.frames.shape[:2]
        number, within = divmod(tick, length)
        seen = []
        for slot in range(self._slots):
            index = (number * self._slots + slot) % count
            face_id = f'f{slot}c{number}'
            if within == 0:
                truth = self._played.truth[index] if self._played.truth else None
                self.faces.append(
                    {'face_id': face_id, 'slot': slot, 'start_tick': tick, 'truth': truth}
                )
            seen.append((face_id, self._played.frames[index, within]))
        return seen


class Published:
    """The answers, as a node would publish them."""

    def __init__(self) -> None:
        self.lines: list[dict[str, object]] = []

    def on_answer(self, answer: Observation) -> None:
        """Note an answer; called from the link's thread."""
        top = max(range(len(answer.labels)), key=answer.probabilities.__getitem__)
        self.lines.append({
            'face_id': answer.face_id, 'captured_ns': answer.captured_ns,
            'published_ns': time.monotonic_ns(), 'label': answer.labels[top],
        })


def play(link: Link, scene: Scene, duration_s: float) -> tuple[int, int]:
    """Offer the scene's faces at the camera's rate; return when it began and ended."""
    started_ns = time.monotonic_ns()
    box = Box(0, 0, clips.SIDE_PX, clips.SIDE_PX)
    for tick in range(round(duration_s * clips.TICK_HZ)):
        due_ns = started_ns + round(tick * 1e9 / clips.TICK_HZ)
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        now_ns = time.monotonic_ns()
        link.offer([
            OfferedFace(face_id, box, CameraFrame(image, now_ns, now_ns))
            for face_id, image in scene.frames(tick)
        ])
    return started_ns, time.monotonic_ns()


def main() -> int:
    """Run the robot; return the exit code."""
    parser = argparse.ArgumentParser(prog='python -m bench.link.robot')
    parser.add_argument('address')
    parser.add_argument('folder', type=Path)
    parser.add_argument('--clips', type=Path, required=True)
    parser.add_argument('--sender', required=True)
    parser.add_argument('--faces', type=int, required=True)
    parser.add_argument('--duration-s', type=float, required=True)
    args = parser.parse_args()
    config = RobotConfig(
        server_address=args.address, insecure=True, robot_id='bench', max_faces=64,
        trace_file=str(args.folder / 'trace.jsonl'),
    )
    if args.sender in senders.FIXED:
        config = replace(config, stale_after_ms=NEVER_STALE_MS)
    drops, published = Drops(), Published()
    scene = Scene(clips.load_saved(args.clips), args.faces)
    sender = senders.make(args.sender, config, drops, time.monotonic_ns())
    link = Link(config, drops, published.on_answer, sender=sender)
    print('ready', flush=True)
    sys.stdin.readline()
    link.start()
    started_ns, ended_ns = play(link, scene, args.duration_s)
    link.stop()
    lines = '\n'.join(json.dumps(line) for line in published.lines)
    (args.folder / 'answers.jsonl').write_text(lines + '\n', encoding='utf-8')
    (args.folder / 'scene.json').write_text(json.dumps({
        'tick_hz': clips.TICK_HZ, 'started_ns': started_ns, 'ended_ns': ended_ns,
        'faces': scene.faces,
    }), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
