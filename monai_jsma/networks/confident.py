# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The sampler that reads until the label of all patches is known at a given confidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from monai_jsma.networks.betting import bet_on_margins, confidence_in_classes, start_wealth
from monai_jsma.networks.certified import LinearHead, margin_bounds, trusted_digits
from monai_jsma.networks.drawing import Draw, draw_after_the_largest, sum_from_each_on, weighted_sum
from monai_jsma.networks.samplers import PatchReader, Sample, Sampler, check_count

__all__ = ["Confident"]

_LARGE = 0.125  # share of the unread attention above which a cell is read without a draw: it would be drawn soon


@dataclass(frozen=True)
class Confident(Sampler):
    """As few random patches as make the label that of all patches at a given confidence.

    Where ``Certified`` must read nearly all of the attention, this one needs a number of patches in which the size of
    the image does not occur. Cells that hold more than an eighth of the attention that is left are read first; the
    others are drawn one after the other, in proportion to their attention, each at most once. The bets are in
    :mod:`monai_jsma.networks.betting`; they need features of length 1 and a linear classifier.

    Of images whose labels are not those of all patches, a share of at most ``1 - confidence`` is certified, over
    repeated draws. That is no statement about whether the label is right.

    ``logits`` are those of the patches read, weighed by ``P + R / n``: each of the n patches counts with its attention
    P, and their plain mean stands for the attention R that was not read. Two more outputs are ``certified``
    ``(batch,)`` and ``confidence`` ``(batch,)``, the confidence that was reached: 1 where no other patch could change
    the label.

    Args:
        confidence: confidence at which an image is certified, above 0 and below 1.
        max_patches: maximal number of patches of each image; an image whose label is not sure enough by then is not
            certified. None: no limit.
        chunk: number of patches of each image that are read before the bets are looked at again.

    Raises:
        ValueError: if the confidence is not between 0 and 1, or a number is below 1.
    """

    confidence: float = 0.99
    max_patches: int | None = field(default=512, kw_only=True)
    chunk: int = field(default=1, kw_only=True)
    draws_at_random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        is_number = isinstance(self.confidence, float)
        if not is_number or not 0 < self.confidence < 1:
            raise ValueError(
                f"confidence of Confident must be a number above 0 and below 1, such as 0.99, but is "
                f"{self.confidence!r}; Certified() reads until the label is certain."
            )
        if self.max_patches is not None:
            check_count(self, "max_patches")
        check_count(self, "chunk")

    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Adds the outputs ``certified`` ``(batch,)`` and ``confidence`` ``(batch,)``."""
        table = _Table(reader, reader.linear_head())
        num_classes, num_features = table.head.weight.shape
        batch, num_cells = log_attention.shape
        cells, num_large = draw_after_the_largest(log_attention, share=_LARGE)
        attention = log_attention.gather(1, cells).exp()
        unread_after = sum_from_each_on(attention)  # (batch, cells + 1): attention that is unread after n patches
        cap = num_cells
        if self.max_patches is not None:
            cap = min(self.max_patches, num_cells)

        bag = attention.new_zeros(batch, num_features)  # sum of P f of what was read
        total = torch.zeros_like(bag)  # sum of f
        log_wealth = start_wealth(attention, num_classes)
        num_read = torch.zeros(batch, 1, dtype=torch.long, device=cells.device)
        reading = torch.ones(batch, dtype=torch.bool, device=cells.device)
        for start in range(0, cap, self.chunk):
            end = min(start + self.chunk, cap)
            prob = attention[:, start:end]
            drawn = (prob != 0) & reading[:, None]
            draw = Draw(cells[:, start:end], prob * drawn, drawn)
            features = reader.features(draw, in_chunks=True)  # (batch, n, features)

            parts = draw.weights[..., None] * features
            known = bag[:, None] + parts.cumsum(dim=1) - parts  # before each draw
            growth = table.bet(features, known=known, unread=unread_after[:, start:end])
            rank = torch.arange(start, end, device=cells.device)
            is_bet = drawn & (rank >= num_large[:, None])
            growth = growth.where(is_bet[:, :, None, None, None], 0.0)

            bag = bag + parts.sum(dim=1)
            total = total + weighted_sum(features, drawn.to(features))
            log_wealth = log_wealth + growth.sum(dim=1)
            num_read = num_read + drawn.sum(dim=1, keepdim=True)
            unread = unread_after.gather(1, num_read)  # (batch, 1)

            mean = total / num_read
            logits = reader.classify(bag + unread.to(bag) * mean)
            bounds = table.bound(bag, unread[:, 0])
            confidences = confidence_in_classes(log_wealth, bounds)
            label = logits.argmax(dim=1, keepdim=True)
            confidence = confidences.gather(1, label)[:, 0]

            certain = confidence >= self.confidence
            is_finite = torch.isfinite(logits).all(dim=1)  # if not, the network names the image
            reading = reading & ~certain & is_finite & (unread[:, 0] > 0)
            if not reading.any():
                break

        width = int(num_read.max()) if batch else 0
        was_read = torch.arange(width, device=cells.device) < num_read
        weights = attention[:, :width] + unread.to(attention) / num_read
        outputs = {
            "logits": logits,
            "certified": certain,
            "confidence": confidence.to(logits.dtype),
        }
        return Sample(cells[:, :width], weights * was_read, outputs)


class _Table(NamedTuple):
    """Where the bets are made: the classifier, and its bounds."""

    reader: PatchReader
    head: LinearHead

    def bound(self, bag: Tensor, unread: Tensor) -> Tensor:
        """The least margins ``(..., a, b)`` of bags ``(..., features)`` to which patches of attention R are added."""
        logits = self.reader.classify(bag)
        return margin_bounds(logits, unread, self.head, rounding=trusted_digits(bag))

    def bet(self, features: Tensor, *, known: Tensor, unread: Tensor) -> Tensor:
        """Log growth of the wealth ``(..., shares, a, b)`` by patches that stand for all that are unread.

        Args:
            features: features of the drawn patches ``(..., features)``.
            known: sum of P f of what was read before each draw ``(..., features)``.
            unread: attention that was unread before it ``(...)``.
        """
        guess = known + unread[..., None].to(known) * features
        nothing = torch.zeros_like(unread)
        return bet_on_margins(self.bound(guess, nothing), self.bound(known, unread))
