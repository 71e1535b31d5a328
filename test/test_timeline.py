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
from __future__ import annotations

from ferros.timeline import Continuity, Timeline

MS = 1_000_000


def test_an_older_image_is_out_of_order_and_a_much_older_one_a_new_time_line() -> None:
    timeline = Timeline()
    assert timeline.follow(10_000 * MS) is Continuity.FORWARD
    assert timeline.follow(9_990 * MS) is Continuity.BACKWARDS
    assert timeline.follow(10_000 * MS) is Continuity.BACKWARDS
    assert timeline.follow(10_001 * MS) is Continuity.FORWARD
    assert timeline.follow(0) is Continuity.JUMP
    assert timeline.follow(1 * MS) is Continuity.FORWARD
