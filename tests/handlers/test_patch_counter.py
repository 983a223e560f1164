# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The patches of a training: counted by hand, whatever form the engine's output has, and continued by a resume."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine

from monai_jsma.handlers import PatchCounter
from monai_jsma.predictions.patch_counts import EpochPatches, read_patch_counts

CELLS = torch.tensor([[3, 3, 5], [0, 1, 2]])
WEIGHTS = torch.tensor([[0.4, 0.4, 0.2], [0.5, 0.5, 0.0]])  # 3 and 5; 0 and 1, nothing was drawn at the end
BATCH = {"cells": CELLS, "weights": WEIGHTS}
IMAGES = [{"cells": CELLS[i], "weights": WEIGHTS[i]} for i in range(2)]


def train(file, epochs, *, start=0, output=BATCH):
    engine = Engine(lambda engine, batch: output)
    PatchCounter(file).attach(engine)
    if start:
        engine.load_state_dict({"epoch": start, "max_epochs": epochs, "epoch_length": 3})
    engine.run([0] * 3, max_epochs=epochs)
    return engine


@pytest.mark.parametrize("output", [BATCH, IMAGES], ids=["batch", "decollated"])
def test_a_patch_that_was_drawn_twice_counts_once(tmp_path, output):
    train(tmp_path / "patches.csv", 2, output=output)
    assert read_patch_counts(tmp_path / "patches.csv") == [EpochPatches(1, 6, 12), EpochPatches(2, 6, 12)]


def test_a_resumed_training_continues_the_table_and_a_new_one_begins_it(tmp_path):
    file = tmp_path / "patches.csv"
    train(file, 3)
    train(file, 4, start=2, output=IMAGES[:1])  # it had ended in epoch 3, of which nothing was saved
    of_one_image = [EpochPatches(epoch, 3, 6) for epoch in (3, 4)]
    assert read_patch_counts(file) == [EpochPatches(1, 6, 12), EpochPatches(2, 6, 12), *of_one_image]
    train(file, 1)
    assert read_patch_counts(file) == [EpochPatches(1, 6, 12)]


def test_a_broken_table_is_named(tmp_path):
    (tmp_path / "patches.csv").write_text("epoch,images\n1,2\n")
    with pytest.raises(ValueError, match=r"patches\.csv: expected the columns epoch, images, patches"):
        read_patch_counts(tmp_path / "patches.csv")


def test_equal_cells_of_different_regions_are_different_patches(tmp_path):
    regions = torch.tensor([[[1, 0], [2, 0], [2, 0]], [[4, 0], [4, 0], [4, 1]]])
    cells = torch.tensor([[3, 3, 3], [0, 0, 0]])
    weights = torch.full((2, 3), 1 / 3)  # patches 1-0-3 and 2-0-3; 4-0-0 and 4-1-0
    output = {"cells": cells, "weights": weights, "regions": regions}
    train(tmp_path / "patches.csv", 1, output=output)
    assert read_patch_counts(tmp_path / "patches.csv") == [EpochPatches(1, 6, 12)]
