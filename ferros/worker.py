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
"""What runs while the node is active, without ROS: one worker thread, the link, the readers."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ferros.annotate import annotate, status_line
from ferros.answers import Answers, Publication
from ferros.channel import AccessError
from ferros.config import RobotConfig
from ferros.detect import DetectorError
from ferros.drops import Drops
from ferros.health import AnswersReport, CameraReport, FacesReport
from ferros.inbox import Inbox, Mail
from ferros.link import Link, LinkReport, LinkState
from ferros.local_model import SHIPPED, LocalModel
from ferros.local_reader import LocalReader
from ferros.perception import Perception, make_perception
from ferros.pipeline import Convert, Pipeline, Processed, Reader, in_colour
from ferros.scene_pipeline import ScenePipeline
from ferros.types import Image
from ferros.watch import Watch


class Models(NamedTuple):
    """What is loaded once and used by one worker after the other."""

    # None: the faces come from topics of REP-155.
    perception: Perception | None
    # None: the robot does not read faces itself.
    local_model: LocalModel | None


def load_models(config: RobotConfig) -> Models:
    """
    Load what the parameters ask for.

    Raises:
        DetectorError, LocalModelError: a file is missing or no good; the message has its path.

    """
    from_camera = config.faces_from == 'camera'
    folder = Path(config.fallback_model_folder or SHIPPED)
    return Models(
        make_perception(config) if from_camera else None,
        LocalModel(folder) if config.fallback else None,
    )


class WorkReport(NamedTuple):
    """How the work goes."""

    camera: CameraReport
    link: LinkReport
    faces: FacesReport
    answers: AnswersReport


class Log(NamedTuple):
    """Where to say what people should know."""

    info: Callable[[str], None]
    warning: Callable[[str], None]
    error: Callable[[str], None]


class Worker:
    """
    Takes images, has their faces read and says what is to be published.

    put_image(), reset() and reconfigure() only store, and may be called from any thread. The
    worker's one thread decodes, detects and follows; the link and the model on the robot have
    threads of their own, whose answers it collects. It calls show() for each image that was
    looked at and publish() when there is something new to say. convert() reads image messages of
    encodings that are not known here.

    Raises:
        AccessError: a file of the TLS or token parameters cannot be used.
        GridError: the accuracy grid cannot be read.
        OSError: the trace file cannot be written.

    """

    def __init__(
        self,
        config: RobotConfig,
        models: Models,
        drops: Drops,
        publish: Callable[[Publication], None],
        show: Callable[[Processed], None],
        convert: Convert,
        log: Log,
    ) -> None:
        self._models = models
        self._drops = drops
        self._publish = publish
        self._show = show
        self._convert = convert
        self._log = log
        self._link_complaint = ''
        # Looked at so far.
        self.processed_images = 0
        self._watch = Watch(time.monotonic_ns())
        self._answers = Answers(config, drops)
        # A newer scene holds what an older one held.
        self._inbox = Inbox(drops, 'image_superseded' if models.perception else '')
        self._link = Link(config, drops, self._inbox.put_answer, self._on_link_change)
        self._reader: LocalReader | None = None
        if models.local_model is not None:
            self._reader = LocalReader(models.local_model, drops, self._inbox.put_answer)
        self._pipeline = self._make_pipeline(config)
        self._config = config
        self._configure(config)
        self._thread = threading.Thread(target=self._run, name='ferros-worker', daemon=True)

    def _make_pipeline(self, config: RobotConfig) -> Pipeline | ScenePipeline:
        readers: list[Reader] = [self._link]
        if self._reader is not None:
            readers.append(self._reader)
        if self._models.perception is None:
            return ScenePipeline(
                config, self._drops, self._answers, readers, self._log.warning
            )
        self._models.perception.reset()
        return Pipeline(
            config,
            self._drops,
            self._models.perception,
            self._answers,
            readers,
            self._convert,
            self._log.warning,
        )

    def start(self) -> None:
        """Connect to the server and begin to work."""
        self._link.start()
        if self._reader is not None:
            self._reader.start()
        self._thread.start()

    def stop(self) -> None:
        """End all threads; nothing is published any more when it returns."""
        self._inbox.close()
        if self._thread.is_alive():
            self._thread.join()
        if self._reader is not None:
            self._reader.stop()
        self._link.stop()

    # -- from any thread -------------------------------------------------------------------------

    def put_image(self, message: Any, arrived_ns: int) -> None:
        """
        Hand over an image message, or a scene where the faces come from topics of REP-155.

        arrived_ns: the monotonic clock. An image that was not looked at yet is replaced, which is
        counted.
        """
        self._watch.image_arrived(arrived_ns)
        self._inbox.put_image(message, arrived_ns)

    def reset(self, why: str) -> None:
        """Have everything forgotten that is known of the images before."""
        self._inbox.put_reset(why)

    def reconfigure(self, config: RobotConfig) -> None:
        """Take over parameters that were changed."""
        self._inbox.put_config(config)

    def report(self, topic: str) -> WorkReport:
        """Return how it goes; some figures are since the last call. topic: the camera's name."""
        now_ns = time.monotonic_ns()
        return WorkReport(
            camera=self._watch.camera(topic, now_ns),
            link=self._link.report(),
            faces=self._watch.faces(self._config.max_faces, now_ns),
            answers=self._answers_report(now_ns),
        )

    def annotated(self, processed: Processed) -> Image:
        """Return an image, BGR in its full size, with its faces marked; for show() to call."""
        now_ns = time.monotonic_ns()
        image = in_colour(processed.message, self._convert)
        return annotate(
            processed.frame._replace(image=image, reduction=1, published_size_px=(0, 0)),
            processed.tracks,
            self._answers.observe(now_ns),
            self._answers.primary_id,
            status_line(self._link.report(), self._answers_report(now_ns).speaker),
        )

    # -- from the link's threads -----------------------------------------------------------------

    def _on_link_change(self, state: LinkState, detail: str) -> None:
        if state is LinkState.CONNECTED:
            self._log.info(f'connected to the server, {self._link.report().model}')
            self._link_complaint = ''
        elif state is LinkState.WAITING and detail != self._link_complaint:
            # Said once for each reason, not at every attempt.
            self._link_complaint = detail
            meanwhile = 'are `unknown`' if self._reader is None else 'are read on the robot'
            self._log.warning(f'no server, faces {meanwhile} meanwhile: {detail}')

    # -- the worker ------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            mail = self._inbox.take(self._answers.wait_ns(time.monotonic_ns()))
            if mail is None:
                return
            try:
                self._deal_with(mail)
            except Exception as error:
                # One bad image must not end the node; the traceback shows where it went wrong.
                if self._drops.count('worker_error'):
                    self._log.error(f'an image failed: {error!r}')
                    logging.getLogger('ferros.worker').exception('an image failed')

    def _deal_with(self, mail: Mail) -> None:
        if mail.config is not None:
            for part in (self._link.reconfigure, self._configure):
                try:
                    part(mail.config)
                except (AccessError, DetectorError) as error:
                    self._log.error(f'not all parameters hold: {error}')
        if mail.reset:
            self._pipeline.reset(mail.reset)
        link = self._link.report()
        self._pipeline.set_usable_px(link.input_size_px)
        self._answers.on_link(link.state is LinkState.CONNECTED, link.interval_ns)
        for answer in mail.answers:
            self._answers.on_answer(answer, time.monotonic_ns())
        self._ask_robot()
        processed = None
        if mail.message is not None:
            processed = self._pipeline.process(
                mail.message, mail.arrived_ns, self._watch.interval_ns
            )
        publication = self._answers.due(time.monotonic_ns())
        if publication is not None:
            self._publish(publication)
        self._ask_robot()
        if processed is not None:
            self._note(processed)
            self._show(processed)

    def _ask_robot(self) -> None:
        if self._reader is not None:
            self._reader.want(self._answers.wants_robot(time.monotonic_ns()))

    def _note(self, processed: Processed) -> None:
        self.processed_images += 1
        self._watch.processed(
            len(processed.tracks),
            self._answers.primary_id,
            processed.processing_ns,
            time.monotonic_ns(),
        )

    def _answers_report(self, now_ns: int) -> AnswersReport:
        spoken = self._answers.report(now_ns)
        model = self._models.local_model
        return AnswersReport(
            published=spoken.published,
            speaker=spoken.speaker,
            age_s=math.nan if spoken.age_ns is None else spoken.age_ns / 1e9,
            max_age_s=self._config.max_age_ms / 1000,
            robot_model='' if model is None else model.info.display,
        )

    def _configure(self, config: RobotConfig) -> None:
        self._config = config
        self._pipeline.configure(config)
        if self._reader is not None:
            self._reader.configure(
                config.fallback_rate_hz, config.fallback_cpu_share, config.max_faces
            )
