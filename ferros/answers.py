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
"""What is published when: the newest answers of the faces that are there; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.fallback import Fallback
from ferros.pacing import Pacer
from ferros.primary import PrimaryFace
from ferros.types import UNKNOWN, Box, CameraFrame, Observation, Source, Track

NAN = float('nan')

# For so long an answer is not overdue: longer than most take. With a camera of one image a second
# the answer before is out of date whenever an image comes.
_PATIENCE_NS: Final = 300_000_000
# What an answer is counted as that was never published because the other one spoke.
_UNSPOKEN: Final = {
    Source.CLOUD: 'answer_on_probation', Source.ROBOT: 'robot_answer_not_needed'
}


class Publication(NamedTuple):
    """What to publish now; either part may have nothing new."""

    # For `emotion`; None: nothing new about the primary face.
    emotion: Observation | None
    # For `emotion/faces`, the primary face first; None: no newer image than the last array's.
    faces: tuple[Observation, ...] | None
    # The newest processed image: the array's header.
    newest: CameraFrame


class Spoken(NamedTuple):
    """What was answered so far, and by whom."""

    # Answers that were published, each once; NONE: images in which a face was `unknown`.
    published: dict[Source, int]
    # Who speaks now; NONE: there was no answer yet.
    speaker: Source
    # How often the server and the robot took over from each other.
    switches: int
    # Of the newest answer about the primary face, since its image came; None: there is none.
    age_ns: int | None


class Answers:
    """
    Holds the newest answer of each face and decides what is published.

    A face-less image or an answer is published once, at most publish_rate_hz times a second, the
    newest first come. A face that is there and has no answer younger than max_age_ms is published
    as `unknown`, with the stamp of the newest image. Published stamps only increase, so where the
    primary face's answer is not overdue nothing is published before it is here: it could not say
    the same image's stamp again.

    Of the server and the robot one speaks (see fallback.py). What the other one answers is kept,
    and comes out when that one begins to speak, if nothing newer was said of the face by then.

    All times in ns; now_ns is the monotonic clock.
    """

    def __init__(self, config: RobotConfig, drops: Drops) -> None:
        self._drops = drops
        self._primary = PrimaryFace()
        self._fallback = Fallback(config)
        self._speaker = self._fallback.speaker
        self._counts = dict.fromkeys(Source, 0)
        self._pacer = Pacer()
        self.configure(config)
        self.reset()

    def configure(self, config: RobotConfig) -> None:
        """Take over the parameters."""
        self._interval_ns = round(1e9 / config.publish_rate_hz)
        self._max_age_ns = config.max_age_ms * 1_000_000
        self._min_confidence = config.min_confidence
        self._primary.area_ratio = config.primary_area_ratio
        self._primary.take_over_ms = config.primary_take_over_ms
        self._fallback.configure(config)

    def reset(self) -> None:
        """Forget all faces: time was set back, or the camera changed."""
        self._primary.reset()
        self._newest: CameraFrame | None = None
        self._tracks: list[Track] = []
        self._seen_stamp_ns: int | None = None
        self._primary_id: str | None = None
        self._answers: dict[str, Observation] = {}
        # When the image came that a face has been waiting for an answer since.
        self._waits_since_ns: dict[str, int] = {}
        # The newest ones of who does not speak.
        self._unspoken: dict[str, Observation] = {}
        self._published: set[tuple[str, int]] = set()
        self._emotion_stamp_ns: int | None = None
        self._faces_stamp_ns: int | None = None
        self._face_less_new = False
        # Whether anything happened since due() last decided.
        self._news = False

    @property
    def primary_id(self) -> str | None:
        """Return the id of the primary face; None: there is no face."""
        return self._primary_id

    def report(self, now_ns: int) -> Spoken:
        """Return what was answered so far; may be called from any thread."""
        newest = self._answers.get(self._primary_id or '')
        is_answered = self._counts[Source.CLOUD] or self._counts[Source.ROBOT]
        return Spoken(
            published=dict(self._counts),
            speaker=self._speaker if is_answered else Source.NONE,
            switches=self._fallback.switches,
            age_ns=None if newest is None else now_ns - newest.captured_ns,
        )

    # -- what happens ----------------------------------------------------------------------------

    def on_image(self, frame: CameraFrame, tracks: Sequence[Track], now_ns: int) -> None:
        """Note that an image was processed and which faces are in it."""
        self._newest = frame
        self._primary_id = self._primary.choose(tracks, now_ns)
        self._tracks = sorted(
            tracks, key=lambda t: (t.face_id != self._primary_id, -t.box.area_px)
        )
        seen_stamp_ns = max((track.seen_ns for track in tracks), default=None)
        # One that is hidden for a moment, and kept, is no face that could be read.
        is_seen = seen_stamp_ns is not None and _is_after(seen_stamp_ns, self._seen_stamp_ns)
        if is_seen:
            self._seen_stamp_ns = seen_stamp_ns
        self._fallback.on_image(is_seen, now_ns)
        here = {track.face_id for track in tracks}
        self._waits_since_ns = {
            face_id: self._waits_since_ns.get(face_id, frame.captured_ns) for face_id in here
        }
        self._answers = {key: value for key, value in self._answers.items() if key in here}
        for face_id in self._unspoken.keys() - here:
            self._leave_unspoken(self._unspoken.pop(face_id))
        self._face_less_new = not tracks
        self._news = True

    def on_link(self, is_connected: bool, interval_ns: int | None) -> None:
        """
        Note how the link to the server stands; to be told before each answer and each image.

        is_connected: whether there is a server that could answer.
        interval_ns: the time between two frames sent of the primary face; None: not known.
        """
        self._fallback.on_link(is_connected, interval_ns)

    def on_answer(self, answer: Observation, now_ns: int) -> None:
        """Note an answer of either; one for a face that is gone, or that came late, is dropped."""
        if answer.source is Source.CLOUD:
            self._fallback.on_cloud_answer(now_ns)
            self._follow(self._fallback.speaker)
        if all(track.face_id != answer.face_id for track in self._tracks):
            self._drops.count('answer_face_gone')
            return
        speaks = answer.source is self._speaker
        answers = self._answers if speaks else self._unspoken
        held = answers.get(answer.face_id)
        if held is not None and held.stamp_ns >= answer.stamp_ns:
            self._drops.count('answer_out_of_order')
            return
        answers[answer.face_id] = answer
        if speaks:
            self._news = True
            self._answered(answer)
        elif held is not None:
            self._leave_unspoken(held)

    def _answered(self, answer: Observation) -> None:
        """Note that a face waits no more, or only for the answers to newer images."""
        assert self._newest is not None
        if self._newest.stamp_ns > answer.stamp_ns:
            self._waits_since_ns[answer.face_id] = self._newest.captured_ns
        else:
            self._waits_since_ns.pop(answer.face_id, None)

    # -- what follows ----------------------------------------------------------------------------

    def wants_robot(self, now_ns: int) -> bool:
        """Tell whether the robot is to read faces now."""
        return self._fallback.wants_robot(now_ns)

    def wait_ns(self, now_ns: int) -> int | None:
        """Return how long until there may be something to do; None: not before news."""
        pause_ns = max(self._pacer.wait_ns(now_ns, self._interval_ns), self._patience_ns(now_ns))
        waits_ns = (pause_ns if self._news else None, self._fallback.wait_ns(now_ns))
        return min((wait_ns for wait_ns in waits_ns if wait_ns is not None), default=None)

    def observe(self, now_ns: int) -> tuple[Observation, ...]:
        """Return what is known of each face that is there, the primary one first."""
        return tuple(self._observe(track, now_ns) for track in self._tracks)

    def due(self, now_ns: int) -> Publication | None:
        """Return what is to be published now and note it as published; None: nothing."""
        self._follow(self._fallback.decide(now_ns))
        if self._newest is None or self._pacer.wait_ns(now_ns, self._interval_ns) > 0:
            return None
        if self._patience_ns(now_ns) > 0:
            return None
        self._news = False
        faces = self.observe(now_ns)
        emotion = self._new_emotion(faces)
        if emotion is None and all(self._is_known(face) for face in faces):
            return None
        array_is_new = _is_after(self._newest.stamp_ns, self._faces_stamp_ns)
        if emotion is None and not array_is_new:
            return None
        self._pacer.happened(now_ns, self._interval_ns)
        self._face_less_new = False
        if emotion is not None:
            self._emotion_stamp_ns = emotion.stamp_ns
        if array_is_new:
            self._faces_stamp_ns = self._newest.stamp_ns
        for face in faces:
            self._counts[face.source] += not self._is_known(face)
        self._published = {(face.face_id, face.stamp_ns) for face in faces}
        return Publication(emotion, faces if array_is_new else None, self._newest)

    def _follow(self, speaker: Source) -> None:
        """Let the one speak who is to; what it has answered to newer images comes out."""
        if speaker is self._speaker:
            return
        self._speaker = speaker
        unspoken, self._unspoken = self._unspoken, {}
        for answer in unspoken.values():
            held = self._answers.get(answer.face_id)
            if _is_after(answer.stamp_ns, held.stamp_ns if held is not None else None):
                self._answers[answer.face_id] = answer
                self._news = True
            else:
                self._leave_unspoken(answer)

    def _leave_unspoken(self, answer: Observation) -> None:
        self._drops.count(_UNSPOKEN[answer.source])

    def _patience_ns(self, now_ns: int) -> int:
        """Return how long an answer about the primary face may still come before it is overdue."""
        since_ns = self._waits_since_ns.get(self._primary_id or '')
        if since_ns is None or self._is_fresh(self._primary_id or '', now_ns):
            return 0
        return max(0, since_ns + _PATIENCE_NS - now_ns)

    def _is_fresh(self, face_id: str, now_ns: int) -> bool:
        """Tell whether a face has an answer that is young enough."""
        answer = self._answers.get(face_id)
        return answer is not None and now_ns - answer.captured_ns <= self._max_age_ns

    def _new_emotion(self, faces: tuple[Observation, ...]) -> Observation | None:
        """Return what `emotion` has not said yet."""
        assert self._newest is not None
        emotion = faces[0] if faces else nobody(self._newest)
        if not faces and not self._face_less_new:
            return None
        if not _is_after(emotion.stamp_ns, self._emotion_stamp_ns):
            return None
        return emotion

    def _is_known(self, face: Observation) -> bool:
        """Tell whether this answer was published before."""
        return (face.face_id, face.stamp_ns) in self._published

    def _observe(self, track: Track, now_ns: int) -> Observation:
        """Return the face's answer, or `unknown` where it has none that is young enough."""
        assert self._newest is not None
        answer = self._answers.get(track.face_id)
        if answer is not None and self._is_fresh(track.face_id, now_ns):
            is_sure = answer.confidence >= self._min_confidence
            return answer if is_sure else answer._replace(label=UNKNOWN)
        return nobody(self._newest)._replace(
            face_id=track.face_id, box=track.box.clipped(*self._newest.size_px), label=UNKNOWN
        )


def nobody(frame: CameraFrame) -> Observation:
    """Return the observation of an image without a face."""
    return Observation(
        face_id='',
        stamp_ns=frame.stamp_ns,
        frame_id=frame.frame_id,
        captured_ns=frame.captured_ns,
        box=Box(0, 0, 0, 0),
        label='',
        confidence=0.0,
        labels=(),
        probabilities=(),
        valence=NAN,
        arousal=NAN,
        source=Source.NONE,
        model='',
    )


def _is_after(stamp_ns: int, other_ns: int | None) -> bool:
    return other_ns is None or stamp_ns > other_ns
