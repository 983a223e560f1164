# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Drawing cells of one image, in arrays: what :mod:`monai_jsma.networks.drawing` does, from the same random numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from monai_jsma.deploy.random_stream import RandomStream

__all__ = [
    "CellDraw",
    "pick_after_the_largest",
    "pick_equally",
    "pick_independently",
    "pick_systematically",
    "pick_weighted",
    "sum_onwards",
    "pick_top_cells",
]


class CellDraw(NamedTuple):
    """Cells of an image, and their shares in its bag.

    Attributes:
        cells: flat cell indices ``(k,)``.
        weights: shares ``(k,)``, float32; 0 where nothing is read.
        drawn: False where the image has fewer cells than k ``(k,)``.
    """

    cells: np.ndarray
    weights: np.ndarray
    drawn: np.ndarray


def pick_top_cells(log_prob: np.ndarray, k: int, *, normalize: bool = True) -> CellDraw:
    """The k cells of highest attention, of equal ones the first.

    Args:
        log_prob: log attention ``(cells,)``.
        k: number of cells.
        normalize: weigh them by P / sum P instead of P.
    """
    cells = _sort_downwards(log_prob)[:k]
    prob = np.exp(log_prob[cells])
    return _make_draw(log_prob, cells, _normalize(prob) if normalize else prob)


def pick_equally(log_prob: np.ndarray, k: int, stream: RandomStream, *, in_order: bool) -> CellDraw:
    """Draw k cells and give them equal weights, one after the other (``in_order``) or independently."""
    cells = _draw_in_order(log_prob, k, stream) if in_order else pick_independently(log_prob, k, stream)
    drawn = _exist(log_prob, cells)
    weights = drawn.astype(np.float32) / np.float32(drawn.sum())
    return CellDraw(cells, weights, drawn)


def pick_weighted(log_prob: np.ndarray, k: int, stream: RandomStream, *, estimator: str) -> CellDraw:
    """Draw k cells and weigh them by an estimator, see :func:`monai_jsma.networks.draw_cells`."""
    if estimator == "systematic":
        return pick_systematically(log_prob, k, stream)
    if estimator == "with_replacement":
        cells = pick_independently(log_prob, k, stream)
        weights = np.full(k, 1 / k, np.float32)
        return _make_draw(log_prob, cells, weights)

    cells = _draw_in_order(log_prob, k, stream)
    weights = np.exp(log_prob[cells])
    if estimator == "normalized":
        weights = _normalize(weights)
    if estimator == "without_replacement":
        weights = _weigh_in_order(log_prob, cells, k)
    return _make_draw(log_prob, cells, weights)


def pick_independently(log_prob: np.ndarray, k: int, stream: RandomStream) -> np.ndarray:
    """k independent draws, with repetition: cells ``(k,)``."""
    noise = stream.draw_gumbel(k, len(log_prob))
    return (log_prob + noise).argmax(axis=1)


def pick_after_the_largest(log_prob: np.ndarray, stream: RandomStream, *, share: float) -> tuple[np.ndarray, int]:
    """All cells in the order of reading, and the number of large ones: those come first, the others are drawn.

    Args:
        log_prob: log attention ``(cells,)``.
        stream: source of randomness.
        share: share of what it and all smaller cells hold above which a cell is not left to chance.
    """
    cells = _sort_downwards(log_prob)
    ordered = log_prob[cells]
    prob = np.exp(ordered)
    above = prob > share * sum_onwards(prob)[:-1]
    is_large = np.logical_and.accumulate(above)  # the first ones, without a gap
    scores = ordered + stream.draw_gumbel(len(ordered))
    scores[is_large] = np.inf
    order = _sort_downwards(scores)
    return cells[order], int(is_large.sum())


def sum_onwards(prob: np.ndarray) -> np.ndarray:
    """Sum of each entry and all after it, float64 ``(n + 1,)``: 0, not nearly 0, at the end."""
    sums = prob[::-1].astype(np.float64).cumsum()
    return np.append(sums[::-1], 0.0)


def _draw_in_order(log_prob: np.ndarray, k: int, stream: RandomStream) -> np.ndarray:
    """Up to k different cells, drawn one after the other in proportion to P."""
    noise = stream.draw_gumbel(len(log_prob))
    return _sort_downwards(log_prob + noise)[:k]


def pick_systematically(log_prob: np.ndarray, k: int, stream: RandomStream) -> CellDraw:
    """Draw k cells: marks at unit distance on a line of all in random order, each as long as its inclusion probability.

    Args:
        log_prob: log attention ``(cells,)``.
        k: number of cells.
        stream: source of randomness.
    """
    inclusion = _find_inclusion(log_prob, k)
    order = stream.draw_uniform(len(log_prob)).argsort(kind="stable")
    ends = inclusion[order].cumsum()
    total = np.round(ends[-1])
    ends[-1] = total
    start = stream.draw_uniform_double(1)
    marks = np.ceil(np.minimum(ends, total) - start)
    hits = np.diff(marks, prepend=np.ceil(-start))
    hit = _sort_downwards(hits)[: min(k, len(hits))]
    cells = order[hit]
    prob = np.exp(log_prob[cells])
    weights = prob / np.maximum(inclusion[cells], 1e-30)
    return _make_draw(log_prob, cells, weights)


def _find_inclusion(log_prob: np.ndarray, k: int) -> np.ndarray:
    """Inclusion probabilities proportional to P with sum k: float64 ``(cells,)``."""
    prob = np.exp(log_prob.astype(np.float64))
    order = _sort_downwards(prob)
    prob = prob[order]
    tail = prob[::-1].cumsum()[::-1]
    num_possible = int((prob > 0).sum())
    count = min(num_possible, k)
    rank = np.arange(len(prob))
    fits = np.maximum(count - rank, 0) * prob <= tail  # true from the first that is not certain onwards
    num_certain = num_possible if num_possible <= k else int(fits.argmax())

    rest = tail[min(num_certain, len(prob) - 1)]
    proportional = (count - num_certain) * prob / max(rest, 1e-300)
    of_rank = np.where(rank < num_certain, 1.0, np.minimum(proportional, 1.0))
    inclusion = np.zeros(len(prob))
    inclusion[order] = np.where(prob > 0, of_rank, 0.0)
    return inclusion


def _weigh_in_order(log_prob: np.ndarray, cells: np.ndarray, k: int) -> np.ndarray:
    """Unbiased weights of cells in the order of drawing ``(k,)``."""
    prob = np.exp(log_prob[cells])
    if np.isfinite(log_prob).sum() <= k:
        return prob  # all cells are drawn: nothing is estimated
    before = prob.cumsum() - prob
    left = np.maximum(1 - before, 0)
    count = np.float32(_exist(log_prob, cells).sum())
    rank = np.arange(1, len(cells) + 1, dtype=np.float32)
    return (left + (count - rank) * prob) / count


def _make_draw(log_prob: np.ndarray, cells: np.ndarray, weights: np.ndarray) -> CellDraw:
    drawn = _exist(log_prob, cells)
    return CellDraw(cells, np.where(drawn, weights, 0).astype(log_prob.dtype), drawn)


def _exist(log_prob: np.ndarray, cells: np.ndarray) -> np.ndarray:
    return log_prob[cells] != -np.inf


def _normalize(prob: np.ndarray) -> np.ndarray:
    smallest = np.finfo(np.float32).tiny
    return prob / np.maximum(prob.sum(), smallest)


def _sort_downwards(values: np.ndarray) -> np.ndarray:
    """Indices of the values from the greatest to the least, of equal ones the first."""
    return np.argsort(-values, kind="stable")
