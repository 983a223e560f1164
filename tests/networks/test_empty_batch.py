# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A batch of no images: as of other networks, everything comes out, with no rows."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import mil_net, tiny_net
from torch import nn

from monai_jsma.data import PyramidBatch, collate_readable
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import AllPatches, Certified, Confident, Draws, LeaveOneOut, Pathwise, Prefix, TopK, log_prior

NO_IMAGES = torch.zeros(0, 3, 24, 20)
NO_LABELS = torch.zeros(0, dtype=torch.long)
SAMPLERS = [TopK(3), AllPatches(), Draws(3, 2), Certified(), Confident(), LeaveOneOut(2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("pyramid", [None, PyramidBatch()], ids=["whole", "pyramids"])
@pytest.mark.parametrize(
    "sampler", [TopK(3), AllPatches(), Draws(3, 2), Certified(), Confident(), LeaveOneOut(2)], ids=repr
)
def test_evaluation(sampler, pyramid, dtype):
    net = tiny_net(feature_norm="l2").eval()
    image = NO_IMAGES.to(dtype)
    usual = net(torch.rand(2, 3, 24, 20), return_attention=True, sampler=sampler)
    output = net(image, pyramid, return_attention=True, sampler=sampler)
    assert output.keys() == usual.keys()
    assert output["logits"].shape == (0, 3)
    for key, value in output.items():
        assert (len(value), value.ndim, value.dtype) == (0, usual[key].ndim, usual[key].dtype), key
    assert net(image, pyramid, sampler=sampler).shape == (0, 3)


@pytest.mark.parametrize(
    "sampler", [Pathwise(3), Pathwise(3, estimator="systematic"), LeaveOneOut(3), Prefix(2), AllPatches()], ids=repr
)
def test_training_changes_nothing(sampler):
    """No gradient, and no batch statistics: of nothing they would be NaN."""
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    encoder.num_features = 8
    net = tiny_net(sampler=sampler, thumbnail_encoder=encoder, attention_dropout=0.2).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    loss = JSMALoss()(net(NO_IMAGES, return_attention=True), NO_LABELS)
    assert loss.item() == 0
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("pyramid", [None, PyramidBatch()], ids=["whole", "pyramids"])
def test_other_networks(pyramid):
    assert mil_net().eval()(NO_IMAGES, pyramid).shape == (0, 3)
    assert tiny_net(thumbnail_encoder=None).eval()(NO_IMAGES, pyramid).shape == (0, 3)


def test_data():
    none = torch.zeros(0, dtype=torch.long)
    assert PyramidBatch().read(none, none).shape == (0, 3, 0, 0)
    assert PyramidBatch().grids == []
    assert log_prior([]).shape == (0, 1)
    assert collate_readable([]) == {"failures": [], "recorded": []}
