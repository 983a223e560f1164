# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Backbones that PyTorch compiles."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import pictures, tiny_net
from torch import nn

from monai_jsma.networks import Backbone, compile_backbones


class Counter:
    """A compiler that counts the graphs it is given, and runs them as they are."""

    def __init__(self) -> None:
        self.graphs = 0
        self.modules: list[nn.Module] = []

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


@pytest.fixture
def counter(monkeypatch):
    """Takes the place of PyTorch's own compiler, which needs minutes."""
    torch.compiler.reset()
    counter = Counter()
    usual = nn.Module.compile

    def compile_so(module: nn.Module) -> None:
        counter.modules.append(module)
        usual(module, backend=counter)

    monkeypatch.setattr(nn.Module, "compile", compile_so)
    yield counter
    torch.compiler.reset()


def test_both_backbones_are_compiled_and_nothing_else_changes(counter):
    images = torch.stack(pictures((24, 20), (24, 20)))
    network = tiny_net().eval()
    names = list(network.state_dict())
    torch.manual_seed(0)
    expected = network(images)
    assert compile_backbones(network) is network
    torch.manual_seed(0)
    with torch.no_grad():
        compiled = network(images)
    torch.testing.assert_close(compiled, expected)
    assert counter.modules == [module for module in network.modules() if isinstance(module, Backbone)]
    assert counter.graphs >= len(counter.modules) == 2
    assert list(network.state_dict()) == names


def test_it_is_an_option(counter):
    network = tiny_net().eval()
    assert compile_backbones(network, False) is network
    network(torch.stack(pictures((24, 20))))
    assert counter.graphs == 0


def test_a_network_without_backbones_is_refused():
    with pytest.raises(ValueError, match="Linear has no Backbone to compile"):
        compile_backbones(nn.Linear(1, 1))
