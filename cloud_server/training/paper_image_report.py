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

"""What the paper's image experiment leaves: a record, a confusion matrix, and Table 1 in words."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from cloud_server.training import paper_rows, report_figures
from cloud_server.training.ferplus import Splits
from cloud_server.training.paper_image import WEIGHTS, Outcome, score
from cloud_server.training.resnet import load_resnet
from cloud_server.training.scores import Scores
from cloud_server.training.study import SMOKE_BELOW, Record


def report(
    outcome: Outcome, splits: Splits, device: torch.device, out: Path, command: str
) -> Record:
    """Measure on validation, once; leave the record and the picture, and return the record."""
    config = outcome.config
    scores = score(load_resnet(out / WEIGHTS).to(device), splits.valid, device)
    valid_discarded = len(splits.valid) - scores.count
    stored = asdict(config) | {'pretrained': Path(config.pretrained).name,
                               'sha256': outcome.base_digest}
    record = Record(
        kind='image', network=config.title, command=command,
        data=f'FER+ validation, {scores.count} faces',
        smoke=config.is_smoke or scores.count < SMOKE_BELOW,
        result={'labels': list(scores.labels), 'confusion': scores.confusion.tolist(),
                **scores.to_json()},
        settings=stored, history=outcome.history,
        notes=[
            'Measured on the FER+ validation split; the figures of the paper are of its test '
            'split.',
            f'Seven classes, more than half of all ten columns: {outcome.discarded} training and '
            f'{valid_discarded} validation faces have no such majority and are discarded; '
            f'{splits.twins} training faces whose pixels occur in validation are dropped.',
            f'Epoch {outcome.best_epoch} of {config.total_epochs}, the best on '
            f'{len(splits.held_out)} held-out training faces '
            f'({outcome.best_accuracy:.4f}); validation was looked at once, at the end.',
            'The paper states no hyper-parameters, search space or number of trials: all of them '
            'are ours.',
            *outcome.said,
        ],
    )
    record.save(out / 'image.study.json')
    report_figures.save(
        report_figures.confusion(list(scores.labels), scores.confusion.tolist()), out,
        'confusion', f'{record.network}, {record.data}', smoke=record.smoke)
    return record


def show(record: Record) -> str:
    """Return Table 1 and its arithmetic for people."""
    result = record.result
    scores = Scores(tuple(result['labels']), np.array(result['confusion'], np.int64))
    smoke = ['SMOKE RUN: these figures only prove that the command works.'] * record.smoke
    return '\n'.join([
        *smoke, scores.table(f'{record.network}, {record.data}'), '',
        'Ours is measured on the validation split, the paper on the test split:',
        paper_rows.beside(record.network, result['per_class'], result['accuracy']), '',
        *paper_rows.arithmetic(),
    ])
