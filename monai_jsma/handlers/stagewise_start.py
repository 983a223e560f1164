# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A start by stages for whole slides: the network of the regions first, then the zoom, then both together.

Where few regions tell the class, a zoom that chooses at random seldom shows the region network one of them, and from a
region network that knows nothing the zoom cannot learn where to look.
"""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from monai_jsma.networks import ZoomNet

__all__ = ["StagewiseStart"]


class StagewiseStart:
    """Trains the parts of a :class:`~monai_jsma.networks.ZoomNet` one after the other in the first epochs.

    In the first epochs regions are drawn at random among those that hold tissue, and the zoom does not learn; in the
    next the zoom learns, and the region network stays as it is (but for batch statistics that are not frozen). Then all
    of it learns. Evaluation always goes by the zoom as it is. What is done follows from the trainer's epoch alone, so a
    resumed training goes on with the right part.

    Args:
        network: the network; unwrapped, where several processes train.
        region_epochs: number of epochs for the region network.
        zoom_epochs: number of epochs for the zoom, after these.

    Raises:
        ValueError: if a number is below 0, the network does not zoom, or, when the training starts, it ends before the
            zoom learns.
    """

    def __init__(self, network: ZoomNet, region_epochs: int = 0, zoom_epochs: int = 0) -> None:
        for name, number in (("region_epochs", region_epochs), ("zoom_epochs", zoom_epochs)):
            if not isinstance(number, int) or number < 0:
                raise ValueError(f"{name} must be a whole number of at least 0, but is {number!r}.")
        if not isinstance(network, ZoomNet):
            raise ValueError(
                f"a start by stages is for ZoomNet, but the network is {type(network).__name__}: it has one stage only."
            )
        self.network = network
        self.region_epochs = region_epochs
        self.zoom_epochs = zoom_epochs

    def attach(self, engine: Engine) -> None:
        """Choose what learns at the start of each epoch of the trainer."""
        engine.add_event_handler(Events.STARTED, self._check_length)
        engine.add_event_handler(Events.EPOCH_STARTED, self)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._hold)

    def __call__(self, engine: Engine) -> None:
        """Choose what learns in the engine's epoch."""
        self.network.zooms_by_prior = engine.state.epoch <= self.region_epochs

    def _check_length(self, engine: Engine) -> None:
        """A training that ends before the zoom learns is none of it."""
        max_epochs = engine.state.max_epochs
        if self.region_epochs and max_epochs is not None and max_epochs <= self.region_epochs:
            raise ValueError(
                f"region_epochs is {self.region_epochs} and the training ends after {max_epochs}: the zoom would never "
                "learn. Train for more epochs, or set region_epochs to fewer."
            )

    def _hold(self, engine: Engine) -> None:
        """Forget the gradient of what stays as it is: an optimizer leaves alone what has none."""
        learning = self._find_learning(engine.state.epoch)
        if learning is None:
            return
        held = self.network.region_network if learning == "zoom" else self.network.stages
        for parameter in held.parameters():
            parameter.grad = None

    def _find_learning(self, epoch: int) -> str | None:
        """The part that learns alone in an epoch; None if all do."""
        if epoch <= self.region_epochs:
            return "regions"
        if epoch <= self.region_epochs + self.zoom_epochs:
            return "zoom"
        return None
