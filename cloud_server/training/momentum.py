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

"""The optimiser's momentum, to and from the tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def to_tensors(optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """Return the momentum of each parameter that has moved, by the parameter's number."""
    buffers = {index: optimizer.state.get(parameter, {}).get('momentum_buffer')
               for index, parameter in enumerate(_parameters(optimizer))}
    return {f'momentum.{index}': buffer for index, buffer in buffers.items() if buffer is not None}


def restore(optimizer: torch.optim.SGD, tensors: Mapping[str, Tensor]) -> None:
    """Give the parameters the momentum that they had, laid out in memory as the weights are."""
    for index, parameter in enumerate(_parameters(optimizer)):
        buffer = tensors.get(f'momentum.{index}')
        if buffer is not None:
            optimizer.state[parameter]['momentum_buffer'] = buffer.to(parameter.device).contiguous(
                memory_format=torch.channels_last if buffer.ndim == 4
                else torch.contiguous_format)


def _parameters(optimizer: torch.optim.SGD) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group['params']]
