# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Learning rates of h, f and all else: each parameter is in one group, and has the rate of its part."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import mil_net, tiny_net
from torch import nn

from monai_jsma.networks import ConvBackbone, PatchEncoder, build_backbone, make_parameter_groups


def find_rates(network: nn.Module, groups: list[dict]) -> dict[str, float]:
    """The learning rate of each parameter, by its name, as an optimizer has it."""
    optimizer = torch.optim.Adam(groups, lr=123.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    return {name: rates[id(parameter)] for name, parameter in network.named_parameters()}


def expect_rate(name: str, lr: float, lr_h: float, lr_f: float) -> float:
    if name.startswith("thumbnail_encoder."):
        return lr_h
    return lr_f if name.startswith("patch_encoder.backbone.") else lr


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("make", [tiny_net, mil_net, lambda **options: tiny_net(thumbnail_encoder=None, **options)])
def test_each_part_has_its_rate(make, frozen):
    network = make(frozen=frozen)
    groups = make_parameter_groups(network, lr=1e-3, lr_thumbnail_backbone=1e-4, lr_patch_backbone=1e-5)
    for name, rate in find_rates(network, groups).items():
        assert rate == expect_rate(name, 1e-3, 1e-4, 1e-5), name
    groups = make_parameter_groups(network, lr=1e-3, lr_patch_backbone=1e-5)
    assert find_rates(network, groups).keys() == dict(network.named_parameters()).keys()
    for name, rate in find_rates(network, groups).items():
        assert rate == expect_rate(name, 1e-3, 1e-3, 1e-5), name


def test_equal_rates_are_one_group_in_the_order_of_the_network():
    """The state of an optimizer goes by this order: that of earlier versions must fit."""
    network = tiny_net()
    for rates in ({}, {"lr_thumbnail_backbone": 0.1, "lr_patch_backbone": 0.1}):
        (group,) = make_parameter_groups(network, lr=0.1, **rates)
        assert group["lr"] == 0.1
        assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters()]


def test_a_wrapped_network_has_the_same_groups():
    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    network = tiny_net()
    rates = {"lr": 1e-3, "lr_patch_backbone": 1e-5}
    plain = make_parameter_groups(network, **rates)
    wrapped = make_parameter_groups(Wrapped(network), **rates)
    for one, other in zip(plain, wrapped, strict=True):
        assert one["lr"] == other["lr"]
        assert [id(p) for p in one["params"]] == [id(p) for p in other["params"]]


def test_a_shared_backbone_has_one_rate():
    shared = build_backbone(ConvBackbone((8,)), None)
    network = tiny_net(thumbnail_encoder=shared, patch_encoder=PatchEncoder(shared))
    with pytest.raises(ValueError, match="lr_thumbnail_backbone is 0.01 and lr_patch_backbone 0.001: give both the"):
        make_parameter_groups(network, lr=0.001, lr_thumbnail_backbone=0.01)
    rates = {"lr_thumbnail_backbone": 0.01, "lr_patch_backbone": 0.01}
    found = find_rates(network, make_parameter_groups(network, lr=0.001, **rates))
    assert {rate for name, rate in found.items() if name.startswith("thumbnail_encoder.")} == {0.01}
