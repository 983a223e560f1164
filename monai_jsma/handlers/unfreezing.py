# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A frozen start: the new layers learn first, then the pretrained encoders with them."""

from __future__ import annotations

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import nn

__all__ = ["EncoderUnfreezer"]


class EncoderUnfreezer:
    """Lets the frozen encoders of a network learn from some epoch on.

    Random new layers send random gradients through an encoder. So an encoder that was trained before may wait until
    they have learned. From then on its features change, and are no longer kept. What is frozen follows from the
    trainer's epoch alone, so a resumed training goes on right.

    Args:
        network: network with ``unfreeze()``, such as :class:`~monai_jsma.networks.JSMANet`.
        epoch: first epoch in which the encoders learn, counted from 1; None: never.

    Raises:
        ValueError: if the epoch is not a positive whole number, nothing is frozen, or several processes train: they
            agree before the first epoch on what has a gradient.
    """

    def __init__(self, network: nn.Module, epoch: int | None) -> None:
        is_count = isinstance(epoch, int) and not isinstance(epoch, bool) and epoch >= 1
        if epoch is not None and not is_count:
            raise ValueError(
                f"unfreeze_epoch must be a whole number, at least 1, but is {epoch!r}; None never unfreezes."
            )
        if epoch is not None and not _is_frozen(network):
            raise ValueError(
                f"unfreeze_epoch is {epoch}, but nothing is frozen: set 'freeze_patch_backbone' or "
                "'freeze_thumbnail_backbone', or leave 'unfreeze_epoch' out."
            )
        if epoch is not None and idist.get_world_size() > 1:
            raise ValueError(
                f"unfreeze_epoch is {epoch}, but several processes train, which agree before the first epoch on what "
                "has a gradient: train the frozen part first, then resume it without 'freeze_thumbnail_backbone', "
                "'freeze_patch_backbone', 'feature_cache' and 'unfreeze_epoch', or use one process."
            )
        self.network = network
        self.epoch = epoch

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        if self.epoch is not None:
            engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Unfreeze when it is time."""
        if self.epoch is None or engine.state.epoch < self.epoch:
            return
        self.network.unfreeze()  # type: ignore[operator]


def _is_frozen(network: nn.Module) -> bool:
    patch_encoder: nn.Module = network.patch_encoder  # type: ignore[assignment]
    return bool(patch_encoder.frozen) or bool(getattr(network, "freeze_thumbnail_encoder", False))
