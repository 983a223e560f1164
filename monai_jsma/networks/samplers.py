# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Samplers: which cells of the attention are read, what is classified, and what the attention learns from.

The attention learns in one of two ways. :class:`Pathwise` (the paper) differentiates the bag. Once one good patch makes
the loss small, that gradient vanishes, though finding the patch was worth everything. :class:`LeaveOneOut` and
:class:`Prefix` follow the gradient of the expected loss itself (score function):

    L(V) + sum_s sg(L(V) - L(V_s)) log p_s,      sg = stop gradient,

with V the mean feature of the draws, p_s the probability of draw s, and V_s a bag that does not depend on draw s. Both
are unbiased; :class:`~monai_jsma.losses.JSMALoss` puts the terms together.

A sampler sees log attention ``(batch, cells)``, -inf for cells that do not exist, and a :class:`PatchReader`. How cells
are drawn and weighed is in :mod:`monai_jsma.networks.drawing`. Over the cells of a whole slide the attention is never
computed: samplers that can do without see it as an :class:`AttentionTree`, which grows where they look.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from monai_jsma.networks.certified import (
    LinearHead,
    is_certain,
    margin_bounds,
    probability_intervals,
    trusted_digits,
)
from monai_jsma.networks.drawing import (
    Draw,
    all_cells,
    baseline_bags,
    check_estimator,
    draw_cells,
    draw_equally,
    draw_log_prob,
    pathwise_weights,
    sum_from_each_on,
    top_cells,
    weighted_sum,
)

__all__ = [
    "AllPatches",
    "AttentionTree",
    "Certified",
    "Draws",
    "LeaveOneOut",
    "PatchReader",
    "PathDraw",
    "Pathwise",
    "Prefix",
    "Sample",
    "Sampler",
    "TopK",
    "TrainingSampler",
    "check_count",
]


class Sample(NamedTuple):
    """What a sampler gives for a batch.

    Attributes:
        cells: flat indices of the cells that were read ``(batch, k)``.
        weights: their shares in the bag ``(batch, k)``; 0 where nothing was read.
        outputs: ``logits`` ``(batch, classes)``, and what else the sampler computes, by name, batch first.
    """

    cells: Tensor
    weights: Tensor
    outputs: Mapping[str, Tensor]


class PatchReader(Protocol):
    """All that a sampler knows of images and networks: it neither sees the encoder nor the pyramids."""

    def features(self, draw: Draw, *, in_chunks: bool = False) -> Tensor:
        """Features of the drawn patches ``(batch, k, features)``, 0 where none was drawn.

        Args:
            draw: cells ``(batch, k)``; patches are read for those with ``drawn`` only.
            in_chunks: encode a chunk of patches at a time in training too, as in evaluation always.
        """

    def classify(self, bags: Tensor) -> Tensor:
        """Logits ``(batch, ..., classes)`` of bags ``(batch, ..., features)``."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each class ``(..., classes)``."""

    def logits(self, probabilities: Tensor) -> Tensor:
        """Finite logits that give the probabilities ``(..., classes)``."""

    def linear_head(self) -> LinearHead:
        """The classifier of features of length 1; a ValueError where there is none."""


class PathDraw(NamedTuple):
    """Independent draws from an :class:`AttentionTree`.

    Attributes:
        draw: the drawn cells, with equal weights ``(batch, k)``.
        log_prob: log probability of each draw, differentiable: the sum along its path ``(batch, k)``.
    """

    draw: Draw
    log_prob: Tensor


class AttentionTree(Protocol):
    """Attention over the cells of a batch of slides, as far as it is known.

    It is a product down a tree: each region that is looked at makes its cells known. Cells are numbered in the order in
    which they become known, so their numbers stay.
    """

    @property
    def log_attention(self) -> Tensor:
        """log P of the cells that are known ``(batch, cells)``, -inf beyond the last of an image."""

    @property
    def unknown(self) -> Tensor:
        """Attention of all cells that are not known: float64 ``(batch,)``, 0 and not nearly 0 if there are none."""

    def draw(self, k: int) -> PathDraw:
        """Draw k cells of each image, each independently down the tree; the regions on the way are looked at."""

    def draw_systematically(self, k: int, max_regions: int | None = None) -> Draw:
        """Draw k different cells of each image, from regions that are drawn in the same way and looked at.

        Args:
            k: number of cells of each image.
            max_regions: largest number of regions of each image that are drawn at each stage; without it k are.
        """

    def reveal_best(self, number: int, wanted: Tensor) -> None:
        """Look at regions until the ``number`` cells of highest attention are known.

        Args:
            number: number of cells of each image.
            wanted: bool ``(batch,)``, the images that need them.
        """

    def reveal_all(self) -> None:
        """Look at all regions that can be drawn."""


# ---------------------------------------------------------------------------------------------------------- interface


class Sampler(ABC):
    """Chooses cells and classifies the bag of their patches.

    A sampler is a value: a frozen dataclass of its settings.

    Attributes:
        draws_at_random: whether two calls may read different cells.
    """

    draws_at_random: ClassVar[bool] = False

    @abstractmethod
    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Read some cells of each image and classify them.

        Args:
            log_attention: log P of every cell ``(batch, cells)``, -inf for cells that do not exist.
            reader: what gives the features of drawn patches, and classifies bags of them.
        """

    def sample_tree(self, tree: AttentionTree, reader: PatchReader) -> Sample:
        """As :meth:`sample`, where the attention is a tree; the cells are the tree's numbers.

        Raises:
            ValueError: if this sampler needs the attention of all cells.
        """
        raise ValueError(
            f"{self!r} needs the attention of all cells, which a slide has too many of: train ZoomNet with "
            "LeaveOneOut, evaluate it with Pathwise(k, estimator='systematic'), TopK, Draws, Certified or Confident."
        )


class TrainingSampler(Sampler):
    """A sampler from which the attention learns."""

    draws_at_random: ClassVar[bool] = True

    @abstractmethod
    def draw(self, log_attention: Tensor) -> Draw:
        """Draw cells and weigh them, without gradient."""

    @property
    def goes_down_trees(self) -> bool:
        """Whether the attention of a slide, which is a tree, can learn from it."""
        return False

    def draw_tree(self, tree: AttentionTree) -> Draw:
        """As :meth:`draw`, where the attention is a tree.

        Raises:
            ValueError: if its draws are not independent of each other.
        """
        raise ValueError(
            f"{self!r} draws cells that depend on each other, which a slide has too many of: use LeaveOneOut, or "
            "Pathwise with the estimator 'systematic' or 'with_replacement'."
        )

    @abstractmethod
    def for_evaluation(self) -> Sampler:
        """The sampler that evaluates, by default, what this one has trained."""

    @property
    def min_cells(self) -> int:
        """How many cells of an image attention dropout must leave."""
        return int(getattr(self, "k", 1))


# -------------------------------------------------------------------------------------------------------- in training


class _ScoreFunction(TrainingSampler):
    """The bag is the mean of k draws; each draw has a baseline, a bag that does not depend on it."""

    k: int
    in_order: ClassVar[bool]

    def draw(self, log_attention: Tensor) -> Draw:
        """k cells of each image, with equal weights."""
        return draw_equally(log_attention, self.k, in_order=self.in_order)

    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Adds the outputs ``baseline_logits`` ``(batch, k, classes)`` and ``drawn_log_prob`` ``(batch, k)``."""
        draw = self.draw(log_attention)
        drawn_log_prob = draw_log_prob(log_attention, draw.cells, in_order=self.in_order)
        return self._classify(draw, drawn_log_prob, reader)

    def _classify(self, draw: Draw, drawn_log_prob: Tensor, reader: PatchReader) -> Sample:
        features = reader.features(draw)  # (batch, k, features)
        bag = weighted_sum(features, draw.weights)  # (batch, features)
        baselines = baseline_bags(features, in_order=self.in_order)  # (batch, k, features)

        bags = torch.cat((bag[:, None], baselines), dim=1)  # classified at once, under one dropout mask
        logits = reader.classify(bags)  # (batch, 1 + k, classes)
        outputs = {
            "logits": logits[:, 0],
            "baseline_logits": logits[:, 1:],
            "drawn_log_prob": drawn_log_prob,
        }
        return Sample(draw.cells, draw.weights, outputs)

    def for_evaluation(self) -> Sampler:
        """``TopK(k)``."""
        return TopK(self.k)


@dataclass(frozen=True)
class LeaveOneOut(_ScoreFunction):
    """k independent draws; the baseline of each is the mean of the others.

    Args:
        k: number of draws of each image, at least 2.

    Raises:
        ValueError: for a smaller k.
    """

    k: int
    in_order: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_count(self, "k", least=2)

    @property
    def goes_down_trees(self) -> bool:
        """True."""
        return True

    def draw_tree(self, tree: AttentionTree) -> Draw:
        """k independent paths of each image, with equal weights."""
        return tree.draw(self.k).draw

    def sample_tree(self, tree: AttentionTree, reader: PatchReader) -> Sample:
        """The same outputs; the probability of a draw is that of its path."""
        paths = tree.draw(self.k)
        return self._classify(paths.draw, paths.log_prob, reader)


@dataclass(frozen=True)
class Prefix(_ScoreFunction):
    """k draws without replacement; the baseline of each is the mean of those before it.

    Args:
        k: number of draws of each image.

    Raises:
        ValueError: if k is not a positive whole number.
    """

    k: int
    in_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count(self, "k")


@dataclass(frozen=True)
class Pathwise(TrainingSampler):
    """k draws weighed by an estimator of Eq. 1; the attention learns through the weights, as in the paper.

    Args:
        k: number of draws of each image.
        estimator: one of :data:`ESTIMATORS`, see :func:`draw_cells`.
        centered: subtract the bag from the features before they are weighed. This lowers the variance of the
            attention's gradient, for a bias (by ``with_replacement`` a factor of 1 - 1 / k); k must be at least 2.
        max_regions: of a slide, how many regions of each stage ``systematic`` draws at most; without it k.

    Raises:
        ValueError: for an unknown estimator, a number that is too small, or ``max_regions`` of another estimator.
    """

    k: int
    estimator: str = field(default="paper", kw_only=True)
    centered: bool = field(default=False, kw_only=True)
    max_regions: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_count(self, "k", least=2 if self.centered else 1)
        check_estimator(self.estimator)
        if self.max_regions is None:
            return
        check_count(self, "max_regions")
        if self.estimator != "systematic":
            raise ValueError(f"{self!r}: only the estimator 'systematic' draws so many regions; leave max_regions out.")

    def draw(self, log_attention: Tensor) -> Draw:
        """k cells of each image, weighed by the estimator."""
        return draw_cells(log_attention, self.k, self.estimator)

    @property
    def goes_down_trees(self) -> bool:
        """Whether its draws are independent: from other paths the attention of a slide does not learn."""
        return self.estimator == "with_replacement"

    def draw_tree(self, tree: AttentionTree) -> Draw:
        """k independent paths of each image, with equal weights; or, by ``systematic``, k different cells."""
        if self.estimator == "systematic":
            return tree.draw_systematically(self.k, self.max_regions)
        if not self.goes_down_trees:
            return super().draw_tree(tree)
        return tree.draw(self.k).draw

    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Logits of the weighted sum of the drawn patches, differentiable in the attention."""
        draw = self.draw(log_attention)
        features = reader.features(draw)  # (batch, k, features)
        weights = pathwise_weights(draw, log_attention)  # (batch, k), differentiable
        bag = self.aggregate(features, weights)  # (batch, features)
        logits = reader.classify(bag)
        return Sample(draw.cells, draw.weights, {"logits": logits})

    def sample_tree(self, tree: AttentionTree, reader: PatchReader) -> Sample:
        """The same, by ``with_replacement`` or ``systematic``; only the first of these can be learned from."""
        if not self.goes_down_trees:
            draw = self.draw_tree(tree)
            weights = draw.weights
        else:
            draw, log_prob = tree.draw(self.k)
            one = torch.exp(log_prob - log_prob.detach())  # its gradient is that of log P
            weights = draw.weights * one
        features = reader.features(draw)
        bag = self.aggregate(features, weights)
        logits = reader.classify(bag)
        return Sample(draw.cells, draw.weights, {"logits": logits})

    def aggregate(self, features: Tensor, weights: Tensor) -> Tensor:
        """The bag ``(batch, features)`` of features ``(batch, k, features)`` with weights ``(batch, k)``."""
        bag = weighted_sum(features, weights)
        if not self.centered:
            return bag
        mean = bag.detach()
        difference = weighted_sum(features - mean[:, None], weights)
        return difference - difference.detach() + mean  # value and gradient of the features as before

    def for_evaluation(self) -> Sampler:
        """``TopK(k)``, with the weights P if the estimator is the paper's."""
        # Eq. 2 sums P f as it is: what was trained so must be evaluated so.
        return TopK(self.k, normalize=self.estimator != "paper")


@dataclass(frozen=True)
class AllPatches(TrainingSampler):
    """Every cell, weighed by its attention (Eq. 1). Nothing is drawn."""

    draws_at_random: ClassVar[bool] = False

    @property
    def goes_down_trees(self) -> bool:
        """True, but all regions are looked at: for small slides."""
        return True

    def draw(self, log_attention: Tensor) -> Draw:
        """All cells, with their attention as weights."""
        return all_cells(log_attention)

    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Logits of Eq. 1, differentiable in the attention."""
        draw = self.draw(log_attention)
        features = reader.features(draw, in_chunks=True)  # (batch, cells, features)
        weights = pathwise_weights(draw, log_attention)
        bag = weighted_sum(features, weights)
        logits = reader.classify(bag)
        return Sample(draw.cells, draw.weights, {"logits": logits})

    def sample_tree(self, tree: AttentionTree, reader: PatchReader) -> Sample:
        """The same, after all regions were looked at."""
        tree.reveal_all()
        return self.sample(tree.log_attention, reader)

    def for_evaluation(self) -> Sampler:
        """The same."""
        return self


# ------------------------------------------------------------------------------------------------------ in evaluation


@dataclass(frozen=True)
class TopK(Sampler):
    """The k cells of highest attention. Nothing is drawn at random.

    Args:
        k: number of patches of each image.
        normalize: weigh them by P / sum P; otherwise by P, as networks trained with ``Pathwise(k)`` (Eq. 2) need it.

    Raises:
        ValueError: if k is not a positive whole number.
    """

    k: int
    normalize: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        check_count(self, "k")

    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Logits of the weighted sum of the k patches."""
        draw = top_cells(log_attention, self.k, normalize=self.normalize)
        features = reader.features(draw, in_chunks=True)
        bag = weighted_sum(features, draw.weights)
        logits = reader.classify(bag)
        return Sample(draw.cells, draw.weights, {"logits": logits})

    def sample_tree(self, tree: AttentionTree, reader: PatchReader) -> Sample:
        """The same k cells as if all were known; of equal ones those that became known first."""
        tree.reveal_best(self.k, _all_images(tree))
        return self.sample(tree.log_attention, reader)


@dataclass(frozen=True)
class Draws(Sampler):
    """Repeated draws: the mean probability, and how much the draws disagree.

    Adds the output ``draw_probabilities`` ``(batch, repeats, classes)``. ``logits`` are log mean probabilities, of
    multi-label those of the mean probabilities.

    Args:
        sampler: training sampler whose draws are repeated; a number k stands for k independent draws.
        repeats: number of repetitions.

    Raises:
        ValueError: if a number is not a positive whole number, or the sampler draws nothing.
    """

    sampler: int | TrainingSampler
    repeats: int
    draws_at_random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.sampler, int):
            independent = Pathwise(self.sampler, estimator="with_replacement")
            object.__setattr__(self, "sampler", independent)
        if not isinstance(self.sampler, TrainingSampler) or not self.sampler.draws_at_random:
            raise ValueError(
                f"Draws repeats what LeaveOneOut, Prefix or Pathwise draws, but got {self.sampler!r}, which draws "
                "nothing at random: give one of these, or a number of patches."
            )
        check_count(self, "repeats")

    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Adds the output ``draw_probabilities`` ``(batch, repeats, classes)``."""
        assert isinstance(self.sampler, TrainingSampler)
        draws = [self.sampler.draw(log_attention) for _ in range(self.repeats)]
        return self._classify(draws, reader)

    def sample_tree(self, tree: AttentionTree, reader: PatchReader) -> Sample:
        """The same, of paths that are drawn independently."""
        assert isinstance(self.sampler, TrainingSampler)
        draws = [self.sampler.draw_tree(tree) for _ in range(self.repeats)]
        return self._classify(draws, reader)

    def _classify(self, draws: list[Draw], reader: PatchReader) -> Sample:
        draw = _join_draws(draws)  # (batch, repeats * k)
        features = reader.features(draw, in_chunks=True)  # equal draws are read once

        by_draw = (self.repeats, -1)
        features = features.unflatten(1, by_draw)  # (batch, repeats, k, features)
        weights = draw.weights.unflatten(1, by_draw)  # (batch, repeats, k)
        bags = weighted_sum(features, weights)  # (batch, repeats, features)
        logits = reader.classify(bags)  # (batch, repeats, classes)
        probabilities = reader.probabilities(logits.float())

        mean = probabilities.mean(dim=1)  # (batch, classes)
        outputs = {
            "logits": reader.logits(mean),
            "draw_probabilities": probabilities,
        }
        return Sample(draw.cells, draw.weights / self.repeats, outputs)


@dataclass(frozen=True)
class Certified(Sampler):
    """As few patches, highest attention first, as make the label that of all patches for certain.

    The bounds are in :mod:`monai_jsma.networks.certified`; they need features of length 1 and a linear classifier.
    ``logits`` are those of the patches read, weighed by P / (sum of their P): one of the bags that the bounds allow, so
    that the label of a certified image is that of all patches. Two more outputs are ``certified`` ``(batch,)`` and
    ``intervals`` ``(batch, classes, 2)``, between which each probability of all patches lies.

    Args:
        max_patches: maximal number of patches of each image; an image whose label is not certain by then is not
            certified. None: no limit.
        chunk: number of patches of each image that are read before the bounds are computed again.

    Raises:
        ValueError: if a number is below 1.
    """

    max_patches: int | None = None
    chunk: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        if self.max_patches is not None:
            check_count(self, "max_patches")
        check_count(self, "chunk")

    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Adds the outputs ``certified`` ``(batch,)`` and ``intervals`` ``(batch, classes, 2)``."""
        reader.linear_head()  # an error before anything is sorted or read
        return self._read(_SortedCells(log_attention), reader)

    def sample_tree(self, tree: AttentionTree, reader: PatchReader) -> Sample:
        """The same outputs and promise; of the tree no more is looked at than the order of the patches needs."""
        reader.linear_head()
        return self._read(_CellsOfTree(tree), reader)

    def _read(self, order: _CellOrder, reader: PatchReader) -> Sample:
        head = reader.linear_head()
        batch = order.batch_size
        bag = head.weight.new_zeros(batch, head.weight.shape[1])
        num_read = torch.zeros(batch, dtype=torch.long, device=bag.device)
        reading = torch.ones(batch, dtype=torch.bool, device=bag.device)
        for start in count(0, self.chunk):
            end = order.find_end(start + self.chunk, self.max_patches)
            if start >= end:
                break
            cells, attention = order.first(end, reading)
            prob = attention[:, start:]
            drawn = (prob != 0) & reading[:, None]
            draw = Draw(cells[:, start:], prob * drawn, drawn)
            features = reader.features(draw, in_chunks=True)

            bag = bag + weighted_sum(features, draw.weights)
            num_read = num_read + drawn.sum(dim=1)
            unread = order.sum_unread(num_read)
            logits = reader.classify(bag)
            rounding = trusted_digits(features)
            bounds = margin_bounds(logits, unread, head, rounding=rounding)

            certain = is_certain(bounds)
            reading = reading & ~certain & (unread > 0)
            if not reading.any():
                break

        width = int(num_read.max()) if batch else 0
        cells, attention = order.first(width, torch.zeros_like(reading))
        rank = torch.arange(width, device=cells.device)
        was_read = rank < num_read[:, None]
        weights = attention * was_read
        mass = weights.sum(dim=1, keepdim=True)
        intervals = probability_intervals(bounds, head)
        outputs = {
            "logits": reader.classify(bag / mass),
            "certified": certain,
            "intervals": intervals.to(bag.dtype),
        }
        return Sample(cells, weights / mass, outputs)


class _CellOrder(Protocol):
    """Cells of a batch from the highest attention to the lowest."""

    batch_size: int

    def find_end(self, end: int, limit: int | None) -> int:
        """The number of cells up to ``end`` that there can be, and ``limit`` allows."""

    def first(self, number: int, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """The first cells of each image, and their attention: ``(batch, number)`` or less."""

    def sum_unread(self, num_read: Tensor) -> Tensor:
        """Attention of all cells but the first ``num_read`` ``(batch,)`` of each image: float64 ``(batch,)``."""


class _SortedCells:
    """The order of cells that are all known.

    Args:
        log_attention: log P ``(batch, cells)``.
    """

    def __init__(self, log_attention: Tensor) -> None:
        self.batch_size, self.num_cells = log_attention.shape
        self.cells, self.attention, _ = top_cells(log_attention, self.num_cells, normalize=False)
        self.unread_after = sum_from_each_on(self.attention)  # (batch, cells + 1): after n patches

    def find_end(self, end: int, limit: int | None) -> int:
        return min(end, self.num_cells if limit is None else min(limit, self.num_cells))

    def first(self, number: int, wanted: Tensor) -> tuple[Tensor, Tensor]:
        return self.cells[:, :number], self.attention[:, :number]

    def sum_unread(self, num_read: Tensor) -> Tensor:
        return self.unread_after.gather(1, num_read[:, None])[:, 0]


class _CellsOfTree:
    """The order of the cells of a tree, which are looked for as far as they are asked for.

    Args:
        tree: attention over the cells.
    """

    def __init__(self, tree: AttentionTree) -> None:
        self.tree = tree
        self.batch_size = len(tree.log_attention)

    def find_end(self, end: int, limit: int | None) -> int:
        return end if limit is None else min(end, limit)

    def first(self, number: int, wanted: Tensor) -> tuple[Tensor, Tensor]:
        self.tree.reveal_best(number, wanted)
        cells, attention, _ = top_cells(self.tree.log_attention, number, normalize=False)
        return cells, attention

    def sum_unread(self, num_read: Tensor) -> Tensor:
        num_known = self.tree.log_attention.shape[1]
        _, attention, _ = top_cells(self.tree.log_attention, num_known, normalize=False)
        unread_after = sum_from_each_on(attention)
        return self.tree.unknown + unread_after.gather(1, num_read[:, None])[:, 0]


def _all_images(tree: AttentionTree) -> Tensor:
    """True for each image of a batch."""
    log_attention = tree.log_attention
    return torch.ones(len(log_attention), dtype=torch.bool, device=log_attention.device)


def _join_draws(draws: list[Draw]) -> Draw:
    """Draws of k cells of the same images as one of all their cells."""
    return Draw(
        cells=torch.cat([draw.cells for draw in draws], dim=1),
        weights=torch.cat([draw.weights for draw in draws], dim=1),
        drawn=torch.cat([draw.drawn for draw in draws], dim=1),
    )


def check_count(sampler: Sampler, name: str, *, least: int = 1) -> None:
    """Check that a setting of a sampler is a whole number.

    Args:
        sampler: sampler that has the setting.
        name: name of the setting.
        least: smallest number that is allowed.

    Raises:
        ValueError: if it is no whole number, or a smaller one.
    """
    value = getattr(sampler, name)
    if isinstance(value, int) and value >= least:
        return
    way_out = "; AllPatches() reads all patches." if name == "k" else "."
    raise ValueError(
        f"{name} of {type(sampler).__name__} must be a whole number of at least {least}, but is {value!r}{way_out}"
    )
