# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Backbones that PyTorch compiles at their first batch; what is around them reads files, and stays as it is."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from monai_jsma.networks.backbones import Backbone

__all__ = ["compile_backbones"]

Network = TypeVar("Network", bound=nn.Module)


def compile_backbones(network: Network, enabled: bool = True) -> Network:
    """Let PyTorch compile the backbones of a network when they are first called, see :meth:`torch.nn.Module.compile`.

    Weights and their names stay, so that checkpoints are those of the same network without it. Compiling takes minutes
    and a C++ compiler; it is done again for other sizes of images.

    Args:
        network: network with any number of :class:`~monai_jsma.networks.Backbone`, at any depth.
        enabled: whether to do so.

    Returns:
        the same network.

    Raises:
        ValueError: if it has no backbone.
    """
    if not enabled:
        return network
    backbones = [module for module in network.modules() if isinstance(module, Backbone)]
    if not backbones:
        raise ValueError(f"{type(network).__name__} has no Backbone to compile: leave 'compile' false.")
    for backbone in backbones:
        backbone.compile()
    return network
