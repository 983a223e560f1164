# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Learning rates of their own for the parts of a network that were trained before."""

from __future__ import annotations

from typing import Any

from monai.optimizers import generate_param_groups
from torch import nn

__all__ = ["make_parameter_groups"]


def make_parameter_groups(
    network: nn.Module,
    *,
    lr: float,
    lr_thumbnail_backbone: float | None = None,
    lr_patch_backbone: float | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: h (of ZoomNet each), f, and all that is new (attention and classifier).

    Frozen parameters have their place too, so that an optimizer can be resumed after they were unfrozen. If all
    learning rates are equal, there is one group of all parameters in the order of the network, as before.

    Args:
        network: network of this package, also inside ``DistributedDataParallel``.
        lr: learning rate of all that is in no backbone.
        lr_thumbnail_backbone: learning rate of h; None: ``lr``. Without h it does nothing.
        lr_patch_backbone: learning rate of f; None: ``lr``.

    Raises:
        ValueError: if h and f share a backbone, but not a learning rate.

    Example::

        >>> from monai_jsma.networks import JSMANet
        >>> net = JSMANet(2, (2.0, 1.0), weights=None, thumbnail_encoder="test_resnet")
        >>> groups = make_parameter_groups(net, lr=1e-3, lr_patch_backbone=1e-5)
        >>> [group["lr"] for group in groups]
        [0.001, 1e-05, 0.001]
    """
    own: Any = getattr(network, "module", network)
    h: nn.Module | None = getattr(own, "thumbnail_encoder", None)
    f: nn.Module = own.patch_encoder.backbone
    lr_h = lr if lr_thumbnail_backbone is None else lr_thumbnail_backbone
    lr_f = lr if lr_patch_backbone is None else lr_patch_backbone
    if lr_h == lr_f == lr:
        return [{"params": list(network.parameters()), "lr": lr}]

    parts = [(f, lr_f)]
    parts += [(stage.encoder, lr_h) for stage in getattr(own, "stages", ())]  # of ZoomNet
    if h is f and lr_h != lr_f:
        raise ValueError(
            f"h and f share a backbone, which has one learning rate, but lr_thumbnail_backbone is {lr_h} and "
            f"lr_patch_backbone {lr_f}: give both the same."
        )
    if h is not None and h is not f:
        parts.insert(0, (h, lr_h))
    groups = generate_param_groups(
        own,
        layer_matches=[lambda _, part=part: part for part, _ in parts],
        match_types=["select"] * len(parts),
        lr_values=[rate for _, rate in parts],
    )
    groups[-1]["lr"] = lr
    return [{**group, "params": list(group["params"])} for group in groups]
