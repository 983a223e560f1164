# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""From what the graph of a thumbnail gives to one distribution over the cells of an image, in arrays.

The same arithmetic as in :mod:`monai_jsma.networks.jsma`, for one image, so that places of equal logits are cells of
equal attention here as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = [
    "attend",
    "attend_equally",
    "keep_tissue_cells",
    "log_softmax",
    "pool_places",
    "find_tissue_prior",
    "softmax",
]

Grids = Sequence[tuple[int, int]]

_IMPOSSIBLE = -np.inf  # log probability


def attend(places: np.ndarray, grids: Grids, *, normalization: str, level_prior: str | None) -> np.ndarray:
    """Log attention of the cells of an image: float32 ``(cells,)``.

    Args:
        places: logits of each magnification at the places of the thumbnail's map ``(magnifications, height, width)``.
        grids: rows and columns of each magnification.
        normalization: ``"sigmoid"`` or ``"softmax"``.
        level_prior: None, or ``"balanced"``.
    """
    maps = [pool_places(level, grid) for level, grid in zip(places, grids, strict=True)]
    logits = np.concatenate(maps)
    logits = np.where(np.isfinite(logits), logits, np.float32(np.nan))
    weight = _log_sigmoid(logits) if normalization == "sigmoid" else logits
    if level_prior == "balanced":
        weight = weight + _neutral_log_prior(grids)
    return log_softmax(weight)


def attend_equally(grids: Grids, *, level_prior: str | None) -> np.ndarray:
    """Log attention that does not look: float32 ``(cells,)``.

    Args:
        grids: rows and columns of each magnification.
        level_prior: None: equal for all cells; ``"balanced"``: equal for all magnifications.
    """
    prior = _neutral_log_prior(grids)
    return prior if level_prior == "balanced" else log_softmax(np.zeros_like(prior))


def pool_places(places: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Mean of the places ``(height, width)`` under each cell of a grid, row by row: float32 ``(cells,)``.

    They are summed in PyTorch's order: where cells lie on equal places, their means are equal to the last bit.
    """
    height, width = places.shape
    tops, bottoms = _find_windows(height, grid[0])
    lefts, rights = _find_windows(width, grid[1])
    heights = bottoms - tops
    widths = rights - lefts
    total = np.zeros(grid, np.float32)
    for down in range(heights.max()):
        rows = np.minimum(tops + down, height - 1)
        for right in range(widths.max()):
            cols = np.minimum(lefts + right, width - 1)
            is_inside = (down < heights)[:, None] & (right < widths)
            values = places[rows[:, None], cols]
            total += np.where(is_inside, values, np.float32(0))
    means = total / heights[:, None].astype(np.float32) / widths.astype(np.float32)
    return means.ravel()


def _find_windows(length: int, num_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """First place under each cell of an axis, and the place after its last."""
    cell = np.arange(num_cells)
    first = cell * length // num_cells
    end = -(-(cell + 1) * length // num_cells)
    return first, end


def _log_sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.minimum(logits, 0) - np.log1p(np.exp(-np.abs(logits)))


def log_softmax(weight: np.ndarray) -> np.ndarray:
    """Log of a distribution proportional to ``exp(weight)``: float32 ``(cells,)``."""
    exact = weight.astype(np.float64)
    shifted = exact - exact.max()
    normal = shifted - np.log(np.exp(shifted).sum())
    return normal.astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities ``(..., classes)`` of logits, in their own type."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _neutral_log_prior(grids: Grids) -> np.ndarray:
    """Equal shares for the magnifications, and inside each for its cells: float32 ``(cells,)``."""
    levels = []
    for rows, cols in grids:
        num_cells = rows * cols
        share = -np.log(np.float32(len(grids) * num_cells))
        levels.append(np.full(num_cells, share, np.float32))
    return np.concatenate(levels)


def keep_tissue_cells(log_attention: np.ndarray, held: np.ndarray, grids: Grids, *, balanced: bool) -> np.ndarray:
    """Give the attention of cells without tissue to the others: float32 ``(cells,)``.

    Args:
        log_attention: log attention ``(cells,)``.
        held: whether each cell holds tissue ``(cells,)``; if none does, nothing changes.
        grids: rows and columns of each magnification.
        balanced: keep the shares of the magnifications that hold some.
    """
    if not held.any():
        held = np.ones_like(held)
    shift = np.zeros(len(held), np.float32)
    start = 0
    for rows, cols in grids:
        of_level = slice(start, start + rows * cols)
        num_held = held[of_level].sum()
        if balanced and num_held:
            shift[of_level] = np.log(rows * cols / num_held)
        start = of_level.stop
    shift[~held] = _IMPOSSIBLE
    return log_softmax(log_attention + shift)


def find_tissue_prior(shares: np.ndarray, power: float) -> np.ndarray:
    """The neutral distribution over the regions of a window: float32 ``(regions,)``.

    Args:
        shares: share of tissue of each region.
        power: regions that hold tissue have a probability proportional to its share to this power.
    """
    if not (shares > 0).any():
        shares = np.ones_like(shares)
    log_weight = np.full(len(shares), _IMPOSSIBLE)
    is_held = shares > 0
    log_weight[is_held] = power * np.log(shares[is_held])
    return log_softmax(log_weight)
