# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Cells that hold no tissue get no attention, where it is known of an image where its tissue lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from monai_jsma.networks.patch_encoder import PatchSource

__all__ = ["keep_to_tissue"]

Grids = Sequence[tuple[int, int]]


def keep_to_tissue(log_attention: Tensor, source: PatchSource, *, balanced: bool) -> Tensor:
    """Give the attention of cells without tissue to the others.

    Args:
        log_attention: log P ``(batch, cells)``, -inf for cells that do not exist.
        source: the images, such as a :class:`~monai_jsma.data.PyramidBatch` of pyramids that know their tissue (see
            :class:`~monai_jsma.transforms.FindTissue`). An image of which nothing is known, or which has no tissue,
            keeps its attention.
        balanced: the attention has equal logits where each magnification has the same share: so it is among the cells
            that hold tissue. Otherwise each cell keeps its share relative to the others.

    Returns:
        log probabilities ``(batch, cells)``, -inf for cells without tissue.
    """
    find_cells = getattr(source, "tissue_cells", None)
    tissue = None if find_cells is None else find_cells()
    if tissue is None:
        return log_attention
    shifts = []
    for held, grids in zip(tissue, source.grids):
        shifts.append(_find_shift(held, grids, balanced=balanced))
    shift = pad_sequence(shifts, batch_first=True, padding_value=float("-inf"))
    return (log_attention + shift.to(log_attention)).log_softmax(dim=1)


def _find_shift(held: np.ndarray, grids: Grids, *, balanced: bool) -> Tensor:
    """What is added to the log attention of the cells of an image ``(cells,)``: -inf where there is no tissue."""
    if not held.any():
        held = np.ones_like(held)
    parts = []
    start = 0
    for rows, cols in grids:
        num_cells = rows * cols
        of_level = torch.from_numpy(held[start : start + num_cells])
        num_held = int(of_level.sum())
        gain = np.log(num_cells / num_held) if balanced and num_held else 0.0
        shift = torch.full((num_cells,), gain, dtype=torch.float32)
        parts.append(shift.masked_fill(~of_level, float("-inf")))
        start += num_cells
    return torch.cat(parts)
