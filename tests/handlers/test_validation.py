# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a training ends with is validated, whatever the interval and whoever ends it."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundle_runs import causes, copy_bundle, make_pictures, model, run, workflow
from ignite.engine import Engine, Events
from monai.engines import Evaluator

from monai_jsma.handlers import EpochValidationHandler


class CountingEvaluator(Evaluator):
    """Notes the epochs in which it is run."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def run(self, global_epoch: int = 1) -> None:
        self.epochs.append(global_epoch)


def validated(interval: int, epochs: int, *, start: int = 0, end_in: tuple[Events, int] | None = None) -> list[int]:
    """Epochs that are validated in a training of two iterations an epoch.

    Args:
        interval: epochs between two validations.
        epochs: number of epochs.
        start: epochs that an earlier process has trained.
        end_in: event, and its count, at which another handler ends the training.
    """
    evaluator = CountingEvaluator()
    engine = Engine(lambda engine, batch: None)
    EpochValidationHandler(interval, evaluator).attach(engine)
    if end_in is not None:
        event, count = end_in
        engine.add_event_handler(event(once=count), lambda engine: engine.terminate())
    engine.load_state_dict({"epoch": start, "epoch_length": 2, "max_epochs": epochs})
    engine.run([0, 1], max_epochs=epochs)
    return evaluator.epochs


@pytest.mark.parametrize(("interval", "expected"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_the_last_epoch_is_validated_once(interval, expected):
    assert validated(interval, 5) == expected
    for start in range(1, 5):
        assert validated(interval, 5, start=start) == [epoch for epoch in expected if epoch > start]


@pytest.mark.parametrize(
    ("event", "count", "expected"),
    [
        (Events.EPOCH_COMPLETED, 3, [2, 3]),
        (Events.EPOCH_COMPLETED, 2, [2]),
        (Events.ITERATION_COMPLETED, 5, [2, 3]),
        (Events.EPOCH_STARTED, 3, [2]),  # nothing was trained since
    ],
)
def test_a_training_that_is_ended_is_validated_as_it_ended(event, count, expected):
    assert validated(2, 9, end_in=(event, count)) == expected


@pytest.mark.parametrize("interval", [0, -1, 1.5, True, "2"])
def test_an_interval_that_is_none(interval):
    with pytest.raises(ValueError, match="val_interval must be a whole number of epochs, at least 1, but is"):
        EpochValidationHandler(interval, CountingEvaluator())


@pytest.fixture
def bundle(tmp_path) -> Path:
    copy = copy_bundle(tmp_path)
    make_pictures(copy / "data", 4, 4, 1)
    return copy


def test_a_bundle_that_is_validated_less_often_than_it_trains_has_a_model(bundle):
    engine = run(bundle, "train", "demo", epochs=2, val_interval=50).trainer
    assert engine.state.epoch == 2
    trained, kept = model(bundle, "checkpoint.pt"), model(bundle)
    assert all((value == trained["model"][name]).all() for name, value in kept.items())
    assert trained["best"]["_saved"]  # a resumed training knows it


def test_an_interval_of_no_epochs_is_refused_by_the_bundle(bundle):
    with pytest.raises(Exception) as e:  # noqa: PT011 - MONAI wraps it
        workflow(bundle, "train", "demo", val_interval=0).run()
    assert any("val_interval must be a whole number of epochs, at least 1, but is 0" in str(c) for c in causes(e.value))
