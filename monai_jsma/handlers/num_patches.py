# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A warm start of the attention: more patches of each picture in the first epochs.

While the attention is even, a few draws seldom meet a patch that tells the class, and neither the attention nor the
patches' network learns. Once it has settled, few are enough.
"""

from __future__ import annotations

from ignite.engine import Engine, Events

from monai_jsma.networks import JSMANet

__all__ = ["NumPatchesScheduler"]


class NumPatchesScheduler:
    """Draws another number of patches in the first epochs of a training, then the network's own again.

    The number follows from the trainer's epoch alone, so a resumed training goes on with the right one.

    Args:
        network: whose ``num_patches`` is set; unwrapped, where several processes train.
        num_patches: patches of each picture in the first epochs.
        epochs: how many these are; with 0 nothing changes.

    Raises:
        ValueError: if a number is out of range, or the network draws none.
    """

    def __init__(self, network: JSMANet, num_patches: int, epochs: int) -> None:
        usual: int | str = getattr(network, "num_patches", "all")
        if not isinstance(epochs, int) or epochs < 0:
            raise ValueError(f"the epochs of another number of patches must be a number from 0, but are {epochs!r}.")
        if epochs and isinstance(usual, str):
            raise ValueError("a network that reads all patches in training has no number of patches to schedule.")
        if epochs and not (isinstance(num_patches, int) and num_patches >= int(usual)):
            raise ValueError(
                f"the patches of the first epochs must be at least the usual {usual}, but are {num_patches!r}."
            )
        self.network, self.usual, self.num_patches, self.epochs = network, usual, num_patches, epochs

    def attach(self, engine: Engine) -> None:
        """Set the number at the start of each epoch of the trainer."""
        if self.epochs:
            engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the number of the engine's epoch."""
        self.network.num_patches = self.num_patches if engine.state.epoch <= self.epochs else self.usual
