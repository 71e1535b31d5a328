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
from typing import NamedTuple

from ferros.drops import Drops
from ferros.pacing import Pacer
from ferros.primary import PrimaryFace
from ferros.types import UNKNOWN, Box, CameraFrame, Observation, Source, Track

NAN = float('nan')


class Publication(NamedTuple):
    """What to publish now; either part may have nothing new."""

    # For `emotion`; None: nothing new about the primary face.
    emotion: Observation | None
    # For `emotion/faces`, the primary face first; None: no newer image than the last array's.
    faces: tuple[Observation, ...] | None
    # The newest processed image: the array's header.
    newest: CameraFrame


class Answers:
    """
    Holds the newest answer of each face and decides what is published.

    A face-less image or an answer is published once, at most publish_rate_hz times a second, the
    newest first come. A face that is there and has no answer younger than max_age_ns is published
    as `unknown`, with the stamp of the newest image. Published stamps only increase.
    All times in ns; now_ns is the monotonic clock.
    """

    def __init__(self, publish_rate_hz: float, max_age_ns: int, drops: Drops) -> None:
        self._interval_ns = round(1e9 / publish_rate_hz)
        self._max_age_ns = max_age_ns
        self._drops = drops
        self._primary = PrimaryFace()
        self.reset()

    def reset(self) -> None:
        """Forget everything: time was set back, or the camera changed."""
        self._pacer = Pacer()
        self._primary.reset()
        self._newest: CameraFrame | None = None
        self._tracks: list[Track] = []
        self._primary_id: str | None = None
        self._answers: dict[str, Observation] = {}
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

    def on_image(self, frame: CameraFrame, tracks: Sequence[Track], now_ns: int) -> None:
        """Note that an image was processed and which faces are in it."""
        self._newest = frame
        self._primary_id = self._primary.choose(tracks, now_ns)
        self._tracks = sorted(
            tracks, key=lambda t: (t.face_id != self._primary_id, -t.box.area_px)
        )
        here = {track.face_id for track in tracks}
        self._answers = {key: value for key, value in self._answers.items() if key in here}
        self._face_less_new = not tracks
        self._news = True

    def on_answer(self, answer: Observation) -> None:
        """Note an answer; one for a face that is gone, or that came late, is dropped."""
        if all(track.face_id != answer.face_id for track in self._tracks):
            self._drops.count('answer_face_gone')
            return
        held = self._answers.get(answer.face_id)
        if held is not None and held.stamp_ns >= answer.stamp_ns:
            self._drops.count('answer_out_of_order')
            return
        self._answers[answer.face_id] = answer
        self._news = True

    def wait_ns(self, now_ns: int) -> int | None:
        """Return how long until there may be something to publish; None: not before news."""
        return self._pacer.wait_ns(now_ns, self._interval_ns) if self._news else None

    def due(self, now_ns: int) -> Publication | None:
        """Return what is to be published now and note it as published; None: nothing."""
        if self._newest is None or self._pacer.wait_ns(now_ns, self._interval_ns) > 0:
            return None
        self._news = False
        faces = tuple(self._observe(track, now_ns) for track in self._tracks)
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
        self._published = {(face.face_id, face.stamp_ns) for face in faces}
        return Publication(emotion, faces if array_is_new else None, self._newest)

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
        if answer is not None and now_ns - answer.captured_ns <= self._max_age_ns:
            return answer
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
