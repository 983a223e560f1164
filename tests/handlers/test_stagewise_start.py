# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A start by stages in a real training: what learns in each epoch, and that a resumed training goes on with it."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from pyramid_cases import noise
from tiny_networks import tiny_net
from tiny_zoom import slide, zoom_net

from monai_jsma.engines import JSMATrainer
from monai_jsma.handlers import StagewiseStart
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import TopK


def make_trainer(net, epochs, **options):
    pyramids = [slide(noise(72, 60, seed=i)) for i in range(4)]
    items = [
        {"image": torch.from_numpy(pyramid.thumbnail((16, 16))), "pyramid": pyramid, "label": i % 2}
        for i, pyramid in enumerate(pyramids)
    ]
    return JSMATrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(Dataset(items), batch_size=2),
        network=net,
        loss_function=JSMALoss(0.1, "kl"),
        optimizer=torch.optim.Adam(net.parameters(), 1e-2),
        train_handlers=[StagewiseStart(net, **options)],
    )


def changed(before, module) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before.parameters(), module.parameters()))


def test_each_part_learns_in_its_epochs():
    net = zoom_net()
    trainer = make_trainer(net, 4, region_epochs=1, zoom_epochs=2)
    learned = []
    state = {}

    @trainer.on(Events.EPOCH_STARTED)
    def keep():
        state["stages"] = deepcopy(net.stages)
        state["regions"] = deepcopy(net.region_network)

    @trainer.on(Events.EPOCH_COMPLETED)
    def compare():
        learned.append((changed(state["stages"], net.stages), changed(state["regions"], net.region_network)))

    trainer.run()
    assert learned == [(False, True), (True, False), (True, False), (True, True)]


def test_what_learns_follows_from_the_epoch_alone():
    net = zoom_net()
    start = StagewiseStart(net, region_epochs=2, zoom_epochs=1)
    for epoch, by_prior in ((2, True), (3, False), (9, False), (1, True)):
        start(type("Engine", (), {"state": type("State", (), {"epoch": epoch})}))
        assert net.zooms_by_prior == by_prior


@torch.no_grad()
def test_evaluation_goes_by_the_zoom_all_the_time():
    net = zoom_net().eval()
    image = torch.rand(1, 3, 72, 60)
    before = net(image, sampler=TopK(3))
    net.zooms_by_prior = True
    assert torch.equal(net(image, sampler=TopK(3)), before)


@pytest.mark.parametrize("options", [{"region_epochs": -1}, {"zoom_epochs": 1.5}])
def test_numbers_that_are_none_are_refused(options):
    with pytest.raises(ValueError, match="must be a whole number of at least 0"):
        StagewiseStart(zoom_net(), **options)


def test_a_network_of_one_stage_is_refused():
    with pytest.raises(ValueError, match="is JSMANet: it has one stage only"):
        StagewiseStart(tiny_net(), 1, 1)


def test_a_training_that_ends_before_the_zoom_learns_is_refused():
    with pytest.raises(ValueError, match="region_epochs is 2 and the training ends after 2"):
        make_trainer(zoom_net(), 2, region_epochs=2).run()
    trainer = make_trainer(zoom_net(), 2, region_epochs=1)
    trainer.run()
    assert trainer.state.epoch == 2
