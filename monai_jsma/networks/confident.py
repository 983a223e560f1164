# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The sampler that reads until the label of all patches is known at a given confidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from monai_jsma.networks.betting import bet_on_margins, confidence_in_all, confidence_in_classes, start_wealth
from monai_jsma.networks.certified import margin_bounds, trusted_digits
from monai_jsma.networks.drawing import Draw, draw_after_the_largest, sum_from_each_on, weighted_sum
from monai_jsma.networks.samplers import AttentionTree, PatchReader, Sample, Sampler, check_count

__all__ = ["Confident"]

_LARGE = 0.125  # share of the unread attention above which a cell is read without a draw: it would be drawn soon

_NOTHING = 1e-6  # sums of float32 attention differ from 1 by as much; the bounds allow for more


@dataclass(frozen=True)
class Confident(Sampler):
    """As few random patches as make the label that of all patches at a given confidence.

    Where ``Certified`` must read nearly all of the attention, this one needs a number of patches in which the size of
    the image does not occur. Cells that hold more than an eighth of the attention that is left are read first; the
    others are drawn one after the other, in proportion to their attention, each at most once. The bets are in
    :mod:`monai_jsma.networks.betting`; they need features of length 1 and a linear classifier.

    On a whole slide (:class:`~monai_jsma.networks.ZoomNet`) independent paths are drawn, and nothing else is looked at.
    Those that lead to a cell that was read before are no bets.

    Of images whose labels are not those of all patches, a share of at most ``1 - confidence`` is certified, over
    repeated draws. That is no statement about whether the label is right.

    ``logits`` are those of the patches read, weighed by ``P + R / n``: each of the n patches counts with its attention
    P, and their plain mean stands for the attention R that was not read. Two more outputs are ``certified``
    ``(batch,)`` and ``confidence`` ``(batch,)``, the confidence that was reached: 1 where no other patch could change
    the label.

    Args:
        confidence: confidence at which an image is certified, above 0 and below 1.
        max_patches: maximal number of patches of each image, or of paths of a slide; an image whose label is not sure
            enough by then is not certified. None: no limit, but a slide needs one.
        chunk: number of patches of each image that are read before the bets are looked at again.

    Raises:
        ValueError: if the confidence is not between 0 and 1, or a number is below 1.
    """

    confidence: float = 0.99
    max_patches: int | None = field(default=512, kw_only=True)
    chunk: int = field(default=1, kw_only=True)
    draws_at_random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.confidence, float) or not 0 < self.confidence < 1:
            raise ValueError(
                f"confidence of Confident must be a number above 0 and below 1, such as 0.99, but is "
                f"{self.confidence!r}; Certified() reads until the label is certain."
            )
        if self.max_patches is not None:
            check_count(self, "max_patches")
        check_count(self, "chunk")

    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Adds the outputs ``certified`` ``(batch,)`` and ``confidence`` ``(batch,)``."""
        reader.linear_head()  # an error before anything is drawn
        cells = _DrawnCells(log_attention)
        cap = cells.num_cells
        if self.max_patches is not None:
            cap = min(self.max_patches, cap)
        return self._read(cells, cap, reader)

    def sample_tree(self, tree: AttentionTree, reader: PatchReader) -> Sample:
        """The same outputs and promise; of the tree only the drawn paths are looked at, ``max_patches`` of them."""
        reader.linear_head()
        if self.max_patches is None:
            raise ValueError(f"{self!r} would draw from a slide without an end if two classes are equal: limit it.")
        return self._read(_DrawnPaths(tree), self.max_patches, reader)

    def _read(self, source: _Draws, cap: int, reader: PatchReader) -> Sample:
        progress = _Progress(reader, source.batch_size)
        draws = []
        for start in range(0, cap, self.chunk):
            end = min(start + self.chunk, cap)
            drawn = source.draw(start, end)
            draws.append(progress.read(drawn))
            logits, confidence = progress.judge()
            certain = confidence >= self.confidence
            is_finite = torch.isfinite(logits).all(dim=1)  # if not, the network names the image
            progress.close(certain | ~is_finite)
            if not progress.is_open.any():
                break

        outputs = {
            "logits": logits,
            "certified": certain,
            "confidence": confidence.to(logits.dtype),
        }
        cells = torch.cat([draw.cells for draw in draws], dim=1)
        weights = torch.cat([progress.weigh(draw) for draw in draws], dim=1)
        return Sample(cells, weights, outputs)


class _Drawn(NamedTuple):
    """The next cells of each image.

    Attributes:
        cells: their numbers ``(batch, n)``.
        attention: their attention ``(batch, n)``.
        is_new: whether they exist and were not drawn before ``(batch, n)``.
        is_random: whether they were drawn, in proportion to the attention of all that are unread ``(batch, n)``.
        unread: attention of all others before each, and after the last: float64 ``(batch, n + 1)``.
    """

    cells: Tensor
    attention: Tensor
    is_new: Tensor
    is_random: Tensor
    unread: Tensor


class _Draws(Protocol):
    """Where the cells of a batch are drawn."""

    batch_size: int

    def draw(self, start: int, end: int) -> _Drawn:
        """The cells of these numbers in the order of drawing; each call begins where the last one ended."""


class _DrawnCells:
    """Draws of cells whose attention is all known: the large ones, then one after the other.

    Args:
        log_attention: log P ``(batch, cells)``.
    """

    def __init__(self, log_attention: Tensor) -> None:
        self.batch_size, self.num_cells = log_attention.shape
        self.cells, self.num_large = draw_after_the_largest(log_attention, share=_LARGE)
        self.attention = log_attention.detach().gather(1, self.cells).exp()
        self.unread_after = sum_from_each_on(self.attention)  # (batch, cells + 1): after n patches

    def draw(self, start: int, end: int) -> _Drawn:
        attention = self.attention[:, start:end]
        rank = torch.arange(start, end, device=attention.device)
        return _Drawn(
            self.cells[:, start:end],
            attention,
            is_new=attention != 0,
            is_random=rank >= self.num_large[:, None],
            unread=self.unread_after[:, start : end + 1],
        )


class _DrawnPaths:
    """Draws of independent paths down a tree. Those to cells that are new are draws from all that are unread.

    Args:
        tree: attention over the cells.
    """

    def __init__(self, tree: AttentionTree) -> None:
        self.tree = tree
        log_attention = tree.log_attention
        self.batch_size = len(log_attention)
        self.cells = log_attention.new_zeros((self.batch_size, 0), dtype=torch.long)
        self.read = log_attention.new_zeros((self.batch_size, 1), dtype=torch.float64)

    def draw(self, start: int, end: int) -> _Drawn:
        cells = self.tree.draw(end - start).draw.cells
        attention = self.tree.log_attention.detach().gather(1, cells).exp()
        is_new = self._find_new(cells)
        new_attention = attention.double() * is_new
        added = torch.cat((self.read, new_attention), dim=1)
        read = added.cumsum(dim=1)  # (batch, n + 1)
        self.read = read[:, -1:]
        unread = 1 - read
        unread = unread.masked_fill(unread < _NOTHING, 0.0)
        return _Drawn(
            cells,
            attention,
            is_new=is_new & (unread[:, :-1] > 0),
            is_random=torch.ones_like(is_new),
            unread=unread,
        )

    def _find_new(self, cells: Tensor) -> Tensor:
        """Whether each of the cells ``(batch, n)`` is drawn for the first time."""
        self.cells = torch.cat((self.cells, cells), dim=1)
        num_drawn = self.cells.shape[1]
        order = torch.arange(num_drawn, device=cells.device)
        is_earlier = order < order[num_drawn - cells.shape[1] :, None]  # (n, drawn)
        is_same = self.cells[:, None] == cells[:, :, None]  # (batch, n, drawn)
        return ~(is_same & is_earlier).any(dim=2)


class _Progress:
    """What was read of each image of a batch, and what the bets on it have won.

    Args:
        reader: what reads and classifies.
        batch_size: number of images.
    """

    def __init__(self, reader: PatchReader, batch_size: int) -> None:
        self.reader = reader
        self.head = reader.linear_head()
        num_features = self.head.weight.shape[1]
        self.bag = self.head.weight.new_zeros(batch_size, num_features)  # sum of P f of what was read
        self.total = torch.zeros_like(self.bag)  # sum of f
        self.log_wealth = start_wealth(self.bag, self.head.num_options, choices=self.head.choices)

        column = self.bag.new_zeros(batch_size, 1)
        self.num_read = column.long()
        self.unread = column.double() + 1
        self.is_open = column == 0  # is to be read on

    def read(self, drawn: _Drawn) -> Draw:
        """Read the drawn patches that are new, of images that are open, and bet on each before it is seen."""
        is_read = drawn.is_new & self.is_open
        draw = Draw(drawn.cells, drawn.attention * is_read, is_read)
        features = self.reader.features(draw, in_chunks=True)  # (batch, n, features)
        shares = draw.weights[..., None] * features
        before = self.bag[:, None] + shares.cumsum(dim=1) - shares
        growth = self._bet(features, before=before, unread=drawn.unread[:, :-1])
        is_bet = is_read & drawn.is_random
        of_image = [1] * (growth.ndim - 2)
        growth = growth.where(is_bet.reshape(*is_bet.shape, *of_image), 0.0)

        self.log_wealth = self.log_wealth + growth.sum(dim=1)
        self.bag = self.bag + shares.sum(dim=1)
        self.total = self.total + weighted_sum(features, is_read.to(features))
        self.num_read = self.num_read + is_read.sum(dim=1, keepdim=True)
        self.unread = torch.where(self.is_open, drawn.unread[:, -1:], self.unread)
        return draw

    def judge(self) -> tuple[Tensor, Tensor]:
        """Logits ``(batch, classes)``, and the confidence that their label is that of all patches ``(batch,)``."""
        mean = self.total / self.num_read
        logits = self.reader.classify(self.bag + self.unread.to(mean) * mean)
        bounds = self._bound(self.bag, self.unread[:, 0])
        confidences = confidence_in_classes(self.log_wealth, bounds)
        if self.head.thresholds is not None:
            is_present = logits.double() >= self.head.find_cuts()
            return logits, confidence_in_all(confidences, is_present)
        label = logits.argmax(dim=1, keepdim=True)
        return logits, confidences.gather(1, label)[:, 0]

    def close(self, is_done: Tensor) -> None:
        """Read no more of images that are done ``(batch,)``, or of which nothing is left."""
        self.is_open = self.is_open & ~is_done[:, None] & (self.unread > 0)

    def weigh(self, draw: Draw) -> Tensor:
        """Weights of the patches of a draw in the bag that was judged ``(batch, n)``."""
        of_others = self.unread.to(draw.weights) / self.num_read
        return draw.weights + of_others * draw.drawn

    def _bet(self, features: Tensor, *, before: Tensor, unread: Tensor) -> Tensor:
        """Log growth of the wealth ``(..., shares, a, b)`` by patches that stand for all that are unread.

        Args:
            features: features of the drawn patches ``(..., features)``.
            before: sum of P f of what was read before each draw ``(..., features)``.
            unread: attention that was unread before it ``(...)``.
        """
        guess = before + unread[..., None].to(before) * features
        nothing = torch.zeros_like(unread)
        margins = self._bound(guess, nothing)
        least = self._bound(before, unread)
        return bet_on_margins(margins, least)

    def _bound(self, bag: Tensor, unread: Tensor) -> Tensor:
        """The least margins ``(..., a, b)`` of bags ``(..., features)`` to which unread attention is added."""
        logits = self.reader.classify(bag)
        return margin_bounds(logits, unread, self.head, rounding=trusted_digits(bag))
