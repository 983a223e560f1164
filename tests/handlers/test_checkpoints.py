# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Savers: what they write, what they remember, and that a write which breaks off leaves the file before it whole."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_jsma.handlers.checkpoints import BestModelSaver, TrainingStateSaver, checkpoint_file


def validate(evaluator: Engine, value: float) -> None:
    """One validation that ends with this accuracy."""
    evaluator.value = value
    evaluator.run([0], max_epochs=1)


def evaluator() -> Engine:
    """An engine that reports :func:`validate`'s value as its key metric."""
    engine = Engine(lambda engine, batch: None)
    engine.state.key_metric_name = "accuracy"

    @engine.on(Events.EPOCH_COMPLETED)
    def report() -> None:
        engine.state.metrics["accuracy"] = engine.value

    return engine


def saver(folder: Path, net: nn.Module, engine: Engine) -> BestModelSaver:
    made = BestModelSaver(str(folder), {"model": net})
    made.attach(engine)
    return made


def weight(folder: Path) -> float:
    return float(torch.load(folder / "model.pt", weights_only=True)["weight"])


def network(value: float) -> nn.Module:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, value)
    return net


def test_the_best_model_is_kept_also_by_a_later_process(tmp_path):
    net, engine = network(0), evaluator()
    first = saver(tmp_path, net, engine)
    for step, accuracy in enumerate((0.5, 0.7, 0.6)):
        nn.init.constant_(net.weight, step)
        validate(engine, accuracy)
    assert weight(tmp_path) == 1
    net, engine = network(9), evaluator()
    second = saver(tmp_path, net, engine)
    second.load_state_dict(first.state_dict())
    assert engine.state.best_metric == 0.7
    validate(engine, 0.65)
    assert weight(tmp_path) == 1
    validate(engine, 0.75)
    assert weight(tmp_path) == 9
    nn.init.constant_(net.weight, 10)
    validate(engine, 0.75)
    assert weight(tmp_path) == 10  # of equal ones the latest
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


class BreaksOff(nn.Linear):
    """Its state cannot be written to the end."""

    def state_dict(self, *args, **kwargs):
        return {**super().state_dict(*args, **kwargs), "more": lambda: None}


@pytest.mark.parametrize("name", ["model.pt", "checkpoint.pt"])
def test_a_write_that_breaks_off_leaves_the_file_before_it_whole(tmp_path, name):
    def write(net: nn.Module, accuracy: float) -> None:
        engine = evaluator()
        if name == "model.pt":
            saver(tmp_path, net, engine).load_state_dict({"_saved": [(0.4, name)]})
        else:
            TrainingStateSaver(tmp_path, {"model": net}).attach(engine)
        validate(engine, accuracy)

    write(network(1), 0.5)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        write(BreaksOff(1, 1), 0.9)
    assert float(torch.load(tmp_path / name, weights_only=True)["weight"]) == 1


def test_a_file_that_must_be_there(tmp_path):
    path = tmp_path / "model.pt"
    for is_zip in (True, False):  # as PyTorch wrote it before 1.6, too
        torch.save({"weight": torch.ones(3)}, path, _use_new_zipfile_serialization=is_zip)
        assert checkpoint_file(path) == str(path)
    with pytest.raises(FileNotFoundError, match=r"none\.pt: there is no such checkpoint; train first"):
        checkpoint_file(tmp_path / "none.pt")


@pytest.mark.parametrize("kind", ["weights", "optimizer"])
def test_a_state_with_nan_replaces_no_file(tmp_path, kind):
    """The last update of an epoch may be the first to be NaN, with no forward pass behind it."""
    net = network(1.0)
    optimizer = torch.optim.Adam(net.parameters())
    net.weight.grad = torch.ones(1, 1)
    optimizer.step()
    trainer = Engine(lambda engine, batch: None)
    TrainingStateSaver(tmp_path, {"model": net, "optimizer": optimizer}).attach(trainer)
    trainer.run([0], max_epochs=1)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    spoiled = net.weight.data if kind == "weights" else optimizer.state[net.weight]["exp_avg"]
    spoiled.fill_(float("nan"))
    name = "model.weight" if kind == "weights" else "optimizer.state.0.exp_avg"
    with pytest.raises(ValueError, match=f"checkpoint.pt is not written: '{name}' is NaN.*lower 'lr'"):
        trainer.run([0], max_epochs=2)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_best_model_with_nan_replaces_no_file(tmp_path):
    net, engine = network(1.0), evaluator()
    saver(tmp_path, net, engine)
    validate(engine, 0.5)
    nn.init.constant_(net.weight, float("nan"))
    with pytest.raises(ValueError, match="model.pt is not written: 'weight' is NaN"):
        validate(engine, 0.6)
    assert weight(tmp_path) == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"", "it is empty"),
        (lambda content: content[: len(content) // 2], "its end is missing"),
        (lambda content: b"<html>not found</html>", "it is no checkpoint of PyTorch"),
    ],
)
def test_a_file_that_is_no_whole_checkpoint_is_named(tmp_path, change, message):
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(1000)}, path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"model\.pt: {message}; copy it again, or name another file\."):
        checkpoint_file(path)
    with pytest.raises(ValueError, match="this is a folder; name the file of the weights in it"):
        checkpoint_file(tmp_path)


def test_weights_that_cannot_be_written_are_named(tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("basic_ios::clear: iostream error\nframe #0: c10::Error")

    net, engine = network(1), evaluator()
    saver(tmp_path, net, engine)
    monkeypatch.setattr(torch, "save", fail)
    message = r"model\.pt: the weights cannot be written \(basic_ios::clear: iostream error\); is the disk full\?"
    with pytest.raises(OSError, match=message):
        validate(engine, 0.5)
    assert list(tmp_path.iterdir()) == []
