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
"""The slot between whoever brings images and answers and the one thread that takes them."""

from __future__ import annotations

import threading
import time

from ferros.config import RobotConfig
from ferros.drops import Drops
from ferros.inbox import Inbox

SOON_NS = 20_000_000


def test_only_the_newest_image_is_kept_and_the_others_are_counted():
    drops = Drops()
    inbox = Inbox(drops)
    for number in range(1, 4):
        inbox.put_image(f'image {number}', number)
    mail = inbox.take(None)
    assert (mail.message, mail.arrived_ns) == ('image 3', 3)
    assert drops.counts() == {'image_superseded': 2}


def test_what_holds_all_that_came_before_is_replaced_without_a_loss():
    drops = Drops()
    inbox = Inbox(drops, superseded='')
    inbox.put_image('scene 1', 1)
    inbox.put_image('scene 2', 2)
    assert inbox.take(None).message == 'scene 2'
    assert drops.counts() == {}


def test_everything_is_handed_over_once():
    inbox = Inbox(Drops())
    config = RobotConfig(max_faces=3)
    inbox.put_answer('answer 1')
    inbox.put_answer('answer 2')
    inbox.put_reset('time was set back')
    inbox.put_config(config)
    mail = inbox.take(None)
    assert mail.answers == ['answer 1', 'answer 2']
    assert (mail.reset, mail.config, mail.message) == ('time was set back', config, None)
    later = inbox.take(SOON_NS)
    assert (later.answers, later.reset, later.config, later.message) == ([], '', None, None)


def test_taking_waits_for_news_but_no_longer_than_told():
    inbox = Inbox(Drops())
    started_ns = time.monotonic_ns()
    inbox.take(SOON_NS)
    assert time.monotonic_ns() - started_ns >= SOON_NS
    threading.Timer(0.05, inbox.put_image, ('image', 1)).start()
    assert inbox.take(10_000_000_000).message == 'image'


def test_closing_ends_who_waits_and_whoever_asks_later():
    inbox = Inbox(Drops())
    threading.Timer(0.05, inbox.close).start()
    assert inbox.take(None) is None
    inbox.put_image('image', 1)
    assert inbox.take(None) is None
