# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How a trained network is asked: how many patches, and whether the draw is repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.inferers import Inferer
from torch import Tensor

__all__ = ["JSMAInferer"]


class JSMAInferer(Inferer):
    """Calls the network with a number of patches; in training the network draws as it was built.

    Args:
        num_patches: patches of each picture, or ``"all"`` (Eq. 1); by default as in training.
        draws: 0 takes the patches of highest attention; R > 0 draws R times and gives the mean probability and its
        spread.
    """

    def __init__(self, num_patches: int | str | None = None, draws: int = 0) -> None:
        if isinstance(num_patches, str) and num_patches != "all" or isinstance(num_patches, int) and num_patches < 1:
            raise ValueError(f"num_patches must be a positive number, 'all' or None, but got {num_patches!r}.")
        if draws < 0:
            raise ValueError(f"draws must not be negative, but got {draws}.")
        self.num_patches, self.draws = num_patches, draws

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the network on ``(batch, 3, height, width)``; further arguments go to its ``forward``."""
        return network(inputs, *args, num_patches=self.num_patches, draws=self.draws, **kwargs)
