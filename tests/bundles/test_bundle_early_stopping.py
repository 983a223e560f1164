# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Early stopping is one name of the configuration: off by default, set by an overlay or on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bundle_runs import TINY, causes, command, copy_bundle, execute, make_pictures, model, run, workflow

STANDSTILL = {"lr": 0.0, "epochs": 6, "dropout": 0.0}  # every validation is as good as the first


@pytest.fixture
def bundle(tmp_path) -> Path:
    copy = copy_bundle(tmp_path)
    make_pictures(copy / "data", 4, 4, 1)
    return copy


def epochs_of(bundle: Path) -> int:
    state = model(bundle, "checkpoint.pt")["trainer"]
    return state["iteration"] // state["epoch_length"]


def test_off_by_default(bundle):
    assert run(bundle, "train", "demo", **{**STANDSTILL, "epochs": 3}).trainer.state.epoch == 3
    assert epochs_of(bundle) == 3


def test_an_overlay_stops_a_training_and_its_resumption(bundle):
    (bundle / "configs" / "early.json").write_text(json.dumps({"early_stopping_patience": 2}))
    engine = run(bundle, "train", "demo", "early", **STANDSTILL).trainer
    assert engine.state.epoch == epochs_of(bundle) == 3  # the best, and two that are no better
    assert model(bundle, "checkpoint.pt")["best"]["validations_since_best"] == 2
    run(bundle, "train", "demo", "early", resume=True, **STANDSTILL)
    assert epochs_of(bundle) == 3
    run(bundle, "train", "demo", resume=True, early_stopping_patience=4, **STANDSTILL)
    assert epochs_of(bundle) == 5  # what was counted before counts


def test_only_validations_are_counted(bundle):
    engine = run(bundle, "train", "demo", val_interval=2, early_stopping_patience=1, **STANDSTILL).trainer
    assert engine.state.epoch == 4


def test_on_the_command_line(bundle):
    arguments = command("training", "train", "demo", **{**TINY, **STANDSTILL, "early_stopping_patience": 1})
    code, written = execute(arguments, bundle)
    assert code == 0, written[-3000:]
    assert epochs_of(bundle) == 2
    assert "Training ends in epoch 2: no better validation in the last 1." in written


@pytest.mark.parametrize("patience", [0, -1])
def test_a_patience_that_is_none(bundle, patience):
    made = workflow(bundle, "train", "demo", early_stopping_patience=patience)
    with pytest.raises(Exception) as e:  # noqa: PT011 - MONAI wraps it
        made.run()
    assert any("must be a whole number of validations, at least 1, but is" in str(cause) for cause in causes(e.value))


@pytest.mark.parametrize("patience", [2.5, True, "two"])
def test_a_patience_of_another_type(bundle, patience):
    with pytest.raises(Exception) as e:  # noqa: PT011 - MONAI wraps it
        workflow(bundle, "train", "demo", early_stopping_patience=patience)
    message = f"'early_stopping_patience': expected a whole number or null, but got {patience!r}"
    assert any(message in str(cause) for cause in causes(e.value))
