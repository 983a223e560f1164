# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from monai.handlers import from_engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_jsma.handlers import ScalarHandler, group_tag


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("attention_share_100X", "attention_share/100X"),
        ("attention_enrichment_12.5X", "attention_enrichment/12.5X"),
        ("truth_cell_drawn", "truth/cell_drawn"),
        ("train_loss", "loss/train"),
        ("val_average_precision", "average_precision/val"),
        ("patches_read", "patches_read"),
        ("valid", "valid"),
    ],
)
def test_tags_of_one_group_begin_alike(name, tag):
    assert group_tag(name) == tag


def test_losses_of_training_and_validation_are_on_one_axis(tmp_path):
    losses = iter([4.0, 2.0, 1.0, 0.5])
    trainer = Engine(lambda engine, batch: [{"loss": torch.tensor(next(losses))}] * 2)
    validator = Engine(lambda engine, batch: None)
    train = ScalarHandler(log_dir=str(tmp_path), loss=from_engine(["loss"], first=True))
    train.attach(trainer)
    validation = ScalarHandler(train._writer)
    validation.attach(validator)
    trainer.run([0, 1], max_epochs=2)  # two iterations each
    for epoch in (1, 2):
        validator.state.metrics = {"val_loss": 10.0 * epoch, "attention_share_50X": 0.5}
        validator.state.epoch = epoch
        validation.epoch_completed(validator)
    train.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {
        "loss/train": [(1, 3.0), (2, 0.75)],
        "loss/val": [(1, 10.0), (2, 20.0)],
        "attention_share/50X": [(1, 0.5), (2, 0.5)],
    }
