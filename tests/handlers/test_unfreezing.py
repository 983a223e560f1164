# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A frozen start: encoders stand still until their epoch, then learn at their own rates, also in a resumed training."""

from __future__ import annotations

from pathlib import Path

import ignite.distributed as idist
import pytest
import torch
from bundle_runs import causes, copy_bundle, make_pictures, model, run
from ignite.engine import Engine
from tiny_networks import mil_net, ragged_batch, tiny_net
from torch import nn

from monai_jsma.handlers import EncoderUnfreezer
from monai_jsma.networks import make_parameter_groups

FROZEN = {"freeze_thumbnail_backbone": True, "freeze_patch_backbone": True, "lr_patch_backbone": 0.01}
ENCODERS = ("thumbnail_encoder.", "patch_encoder.backbone.")


def learning_epochs(network: nn.Module, first: int | None, epochs: int, done: int = 0) -> list[int]:
    """Epochs in which the weights of f change."""
    found: list[int] = []
    image, batch = ragged_batch()
    optimizer = torch.optim.SGD(make_parameter_groups(network, lr=0.1, lr_patch_backbone=0.01))
    weights = next(network.patch_encoder.backbone.parameters())

    def step(engine: Engine, _: object) -> None:
        before = weights.detach().clone()
        network.train()
        optimizer.zero_grad()
        network(image, batch).square().sum().backward()
        optimizer.step()
        if not torch.equal(weights, before):
            found.append(engine.state.epoch)

    engine = Engine(step)
    EncoderUnfreezer(network, first).attach(engine)
    engine.load_state_dict({"epoch": done, "epoch_length": 1, "max_epochs": epochs})
    engine.run([0], max_epochs=epochs)
    return found


@pytest.mark.parametrize(("first", "expected"), [(None, []), (1, [1, 2, 3, 4]), (3, [3, 4]), (9, [])])
@pytest.mark.parametrize("make", [tiny_net, mil_net])
def test_f_learns_from_its_epoch_on(make, first, expected):
    assert learning_epochs(make(frozen=True), first, 4) == expected
    for done in range(4):
        assert learning_epochs(make(frozen=True), first, 4, done) == [e for e in expected if e > done]


def test_what_is_kept_is_dropped_when_it_would_change(tmp_path):
    network = tiny_net(
        frozen=True, feature_cache=tmp_path, freeze_thumbnail_encoder=True, thumbnail_cache=tmp_path, freeze_norm=True
    )
    assert not any(p.requires_grad for name, p in network.named_parameters() if name.startswith(ENCODERS))
    network.train().unfreeze()
    assert network.patch_encoder.feature_cache is None
    assert network.thumbnail_cache is None
    assert all(p.requires_grad for p in network.parameters())
    assert network.thumbnail_encoder.training
    assert network.patch_encoder.backbone.training


@pytest.mark.parametrize("epoch", [0, -1, 2.5, True, "3"])
def test_an_epoch_that_is_none(epoch):
    with pytest.raises(ValueError, match="unfreeze_epoch must be a whole number, at least 1, but is"):
        EncoderUnfreezer(tiny_net(frozen=True), epoch)


def test_nothing_to_unfreeze_is_an_error():
    with pytest.raises(ValueError, match="unfreeze_epoch is 3, but nothing is frozen"):
        EncoderUnfreezer(tiny_net(), 3)
    EncoderUnfreezer(tiny_net(freeze_thumbnail_encoder=True), 3)
    EncoderUnfreezer(tiny_net(), None)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="unfreeze_epoch is 3, but several processes train"):
        EncoderUnfreezer(tiny_net(frozen=True), 3)
    EncoderUnfreezer(tiny_net(frozen=True), None)


@pytest.fixture
def bundle(tmp_path) -> Path:
    copy = copy_bundle(tmp_path)
    make_pictures(copy / "data", 8, 4, 1)
    return copy


def moved(before: dict, after: dict) -> set[str]:
    """Which encoders differ between two states of a network."""
    names = [name for name, value in before.items() if not torch.equal(value, after[name])]
    return {encoder for encoder in ENCODERS if any(name.startswith(encoder) for name in names)}


def test_a_bundle_that_is_resumed_across_the_change(bundle):
    options = {**FROZEN, "unfreeze_epoch": 3, "feature_cache": str(bundle / "features")}
    states = {}
    for epochs in (1, 2, 3, 4):
        run(bundle, "train", "demo", resume=epochs > 1, epochs=epochs, **options)
        states[epochs] = model(bundle, "checkpoint.pt")
    assert moved(states[1]["model"], states[2]["model"]) == set()
    assert moved(states[2]["model"], states[3]["model"]) == set(ENCODERS)
    assert moved(states[3]["model"], states[4]["model"]) == set(ENCODERS)
    rates = [group["lr"] for group in states[4]["optimizer"]["param_groups"]]
    assert rates == [0.002, 0.01, 0.002]  # h, f and the rest; demo.json has lr 0.002
    steps = {float(state["step"]) for state in states[4]["optimizer"]["state"].values()}
    per_epoch = states[4]["trainer"]["epoch_length"]
    assert steps == {4.0 * per_epoch, 2.0 * per_epoch}


def test_a_bundle_without_anything_frozen_refuses(bundle):
    with pytest.raises(Exception) as e:  # noqa: PT011 - MONAI wraps it
        run(bundle, "train", "demo", unfreeze_epoch=2)
    assert any("unfreeze_epoch is 2, but nothing is frozen" in str(cause) for cause in causes(e.value))
