# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A warm start of the attention: more patches of each image in the first epochs.

While the attention is even, a few draws seldom meet a patch that tells the class, and neither the attention nor the
patch encoder learns. Once it has settled, few are enough.
"""

from __future__ import annotations

from dataclasses import replace

from ignite.engine import Engine, Events
from torch import nn

from monai_jsma.networks import TrainingSampler

__all__ = ["NumPatchesScheduler"]


class NumPatchesScheduler:
    """Draws another number of patches in the first epochs of a training, then the network's own again.

    The number follows from the trainer's epoch alone, so a resumed training goes on with the right one.

    Args:
        network: network whose ``sampler`` is exchanged, such as :class:`~monai_jsma.networks.JSMANet`; unwrapped, where
            several processes train.
        num_patches: number of patches of each image in the first epochs.
        epochs: number of these epochs; with 0 nothing changes.

    Raises:
        ValueError: if a number is out of range, or the network draws no patches.
    """

    def __init__(self, network: nn.Module, num_patches: int, epochs: int) -> None:
        if not isinstance(epochs, int) or epochs < 0:
            raise ValueError(f"the number of epochs with more patches must be at least 0, but is {epochs!r}.")
        self.network = network
        self.epochs = epochs
        if epochs:
            self.usual = _find_sampler(network)
            self.first = _with_more_patches(self.usual, num_patches)

    def attach(self, engine: Engine) -> None:
        """Set the sampler at the start of each epoch of the trainer."""
        if self.epochs:
            engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the sampler of the engine's epoch."""
        is_first = engine.state.epoch <= self.epochs
        self.network.sampler = self.first if is_first else self.usual  # type: ignore[assignment]


def _find_sampler(network: nn.Module) -> TrainingSampler:
    sampler = getattr(network, "sampler", None)
    if not hasattr(sampler, "k"):
        raise ValueError("a network that reads all patches in training has no number of patches to schedule.")
    return sampler  # type: ignore[return-value]


def _with_more_patches(sampler: TrainingSampler, num_patches: int) -> TrainingSampler:
    usual = sampler.k  # type: ignore[attr-defined]
    if not isinstance(num_patches, int) or num_patches < usual:
        raise ValueError(
            f"the number of patches in the first epochs must be at least the usual {usual}, but is {num_patches!r}."
        )
    return replace(sampler, k=num_patches)  # type: ignore[type-var]
