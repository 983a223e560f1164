# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Counts the patches that a training uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from monai_jsma.predictions.patch_counts import EpochPatches, read_patch_counts, write_patch_counts

__all__ = ["PatchCounter"]


class PatchCounter:
    """Counts the patches of a training, and writes them to a CSV file after each epoch.

    A resumed training continues the file.

    Args:
        file: path of the file.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._images = 0
        self._patches = 0

    def attach(self, engine: Engine) -> None:
        """Attach to a :class:`~monai_jsma.engines.JSMATrainer`."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self._images = 0
        self._patches = 0

    def _count(self, engine: Engine) -> None:
        output: Any = engine.state.output
        if isinstance(output, dict):  # of the whole batch, where MONAI has not decollated it
            self._add_images(_find_places(output), output["weights"])
            return
        for image in output:
            self._add_images(_find_places(image)[None], image["weights"][None])

    def _add_images(self, places: torch.Tensor, weights: torch.Tensor) -> None:
        """Add images of which ``places`` ``(n, k, numbers)`` were drawn with ``weights`` ``(n, k)``."""
        for row, weight in zip(places.cpu(), weights.cpu()):  # one wait for the device, not one an image
            drawn = torch.unique(row[weight > 0], dim=0)
            self._images += 1
            self._patches += len(drawn)

    def _write(self, engine: Engine) -> None:
        images = int(idist.all_reduce(self._images))
        patches = int(idist.all_reduce(self._patches))
        if idist.get_rank() != 0:
            return
        epoch = engine.state.epoch
        counts = []
        if epoch > 1 and self.file.is_file():  # of a resumed training; what was counted of a later epoch is done again
            counts = [count for count in read_patch_counts(self.file) if count.epoch < epoch]
        write_patch_counts(self.file, [*counts, EpochPatches(epoch, images, patches)])


def _find_places(output: Any) -> torch.Tensor:
    """Where each patch lies ``(..., k, numbers)``: its cell, on a slide after the regions that lead to it."""
    cells = output["cells"][..., None]
    if "regions" not in output:
        return cells
    return torch.cat((output["regions"], cells), dim=-1)
