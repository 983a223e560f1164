# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Samplers: which cells of the attention are read, and how their patches stand for all (paper, Section 3.2, Eq. 1, 2).

With attention P over N cells and patch features f, all patches give the bag Phi = sum_i P_i f_i (Eq. 1). From k drawn
cells every estimator of this file has the form

    Phi^ = sum over drawn t of sg(w_t) P_t f_t,      sg = stop gradient,

which is unbiased in its value, in the gradient of f and in the gradient of P as soon as E[w_i 1{i drawn}] = 1; plain
autograd does the rest. What is stored is c_t = sg(w_t P_t): the share of the drawn patch in the bag, which stays finite
where P underflows.

The attention learns in one of two ways. :class:`Pathwise` (the paper) differentiates the bag. Once one good patch makes
the loss small, that gradient vanishes, though finding the patch was worth everything. :class:`LeaveOneOut` and
:class:`Prefix` follow the gradient of the expected loss itself (score function):

    L(V) + sum_s sg(L(V) - L(V_s)) log p_s,

with V the mean feature of the draws, p_s the probability of draw s, and V_s a bag that does not depend on draw s. Both
are unbiased; :class:`~monai_jsma.losses.JSMALoss` puts the terms together.

All functions take log probabilities ``(batch, cells)``, -inf for cells that do not exist.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
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

__all__ = [
    "ESTIMATORS",
    "AllPatches",
    "Certified",
    "Draw",
    "Draws",
    "LeaveOneOut",
    "PatchReader",
    "Pathwise",
    "Prefix",
    "Sample",
    "Sampler",
    "TopK",
    "TrainingSampler",
    "all_cells",
    "baseline_bags",
    "draw_cells",
    "draw_equally",
    "draw_in_order",
    "draw_independently",
    "draw_log_prob",
    "draw_systematically",
    "inclusion_probabilities",
    "pathwise_weights",
    "top_cells",
    "weighted_sum",
]

ESTIMATORS = ("paper", "normalized", "with_replacement", "without_replacement", "systematic")


class Draw(NamedTuple):
    """Cells drawn from the attention.

    Attributes:
        cells: flat cell indices ``(batch, k)``.
        weights: c_t, the share of each drawn patch in the bag ``(batch, k)``, without gradient; 0 where ``drawn`` is
            False.
        drawn: False where an image has fewer cells than k, so that nothing was drawn ``(batch, k)``.
    """

    cells: Tensor
    weights: Tensor
    drawn: Tensor


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

    def linear_head(self) -> LinearHead:
        """The classifier of features of length 1; a ValueError where there is none."""


# ---------------------------------------------------------------------------------------------------------- interface


class Sampler(ABC):
    """Chooses cells and classifies the bag of their patches.

    A sampler is a value: a frozen dataclass of its settings.
    """

    @abstractmethod
    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Read some cells of each image and classify them.

        Args:
            log_attention: log P of every cell ``(batch, cells)``, -inf for cells that do not exist.
            reader: what gives the features of drawn patches, and classifies bags of them.
        """


class TrainingSampler(Sampler):
    """A sampler from which the attention learns."""

    @abstractmethod
    def draw(self, log_attention: Tensor) -> Draw:
        """Draw cells and weigh them, without gradient."""

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
        features = reader.features(draw)  # (batch, k, features)
        bag = weighted_sum(features, draw.weights)  # (batch, features)
        baselines = baseline_bags(features, in_order=self.in_order)  # (batch, k, features)

        bags = torch.cat((bag[:, None], baselines), dim=1)  # classified at once, under one dropout mask
        logits = reader.classify(bags)  # (batch, 1 + k, classes)
        outputs = {
            "logits": logits[:, 0],
            "baseline_logits": logits[:, 1:],
            "drawn_log_prob": draw_log_prob(log_attention, draw.cells, in_order=self.in_order),
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
        _check_count(self, "k", least=2)


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
        _check_count(self, "k")


@dataclass(frozen=True)
class Pathwise(TrainingSampler):
    """k draws weighed by an estimator of Eq. 1; the attention learns through the weights, as in the paper.

    Args:
        k: number of draws of each image.
        estimator: one of :data:`ESTIMATORS`, see :func:`draw_cells`.
        centered: subtract the bag from the features before they are weighed. This lowers the variance of the
            attention's gradient, for a bias (by ``with_replacement`` a factor of 1 - 1 / k); k must be at least 2.

    Raises:
        ValueError: for an unknown estimator, or a k that is too small.
    """

    k: int
    estimator: str = field(default="paper", kw_only=True)
    centered: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _check_count(self, "k", least=2 if self.centered else 1)
        _check_estimator(self.estimator)

    def draw(self, log_attention: Tensor) -> Draw:
        """k cells of each image, weighed by the estimator."""
        return draw_cells(log_attention, self.k, self.estimator)

    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Logits of the weighted sum of the drawn patches, differentiable in the attention."""
        draw = self.draw(log_attention)
        features = reader.features(draw)  # (batch, k, features)
        bag = self.aggregate(features, pathwise_weights(draw, log_attention))  # (batch, features)
        return Sample(draw.cells, draw.weights, {"logits": reader.classify(bag)})

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

    def draw(self, log_attention: Tensor) -> Draw:
        """All cells, with their attention as weights."""
        return all_cells(log_attention)

    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Logits of Eq. 1, differentiable in the attention."""
        draw = self.draw(log_attention)
        features = reader.features(draw, in_chunks=True)  # (batch, cells, features)
        bag = weighted_sum(features, pathwise_weights(draw, log_attention))
        return Sample(draw.cells, draw.weights, {"logits": reader.classify(bag)})

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
        _check_count(self, "k")

    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Logits of the weighted sum of the k patches."""
        draw = top_cells(log_attention, self.k, normalize=self.normalize)
        features = reader.features(draw, in_chunks=True)
        bag = weighted_sum(features, draw.weights)
        return Sample(draw.cells, draw.weights, {"logits": reader.classify(bag)})


@dataclass(frozen=True)
class Draws(Sampler):
    """Repeated draws: the mean probability, and how much the draws disagree.

    Adds the output ``draw_probabilities`` ``(batch, repeats, classes)``. ``logits`` are log mean probabilities.

    Args:
        sampler: training sampler whose draws are repeated; a number k stands for k independent draws.
        repeats: number of repetitions.

    Raises:
        ValueError: if a number is not a positive whole number, or the sampler draws nothing.
    """

    sampler: int | TrainingSampler
    repeats: int

    def __post_init__(self) -> None:
        if isinstance(self.sampler, int):
            object.__setattr__(self, "sampler", Pathwise(self.sampler, estimator="with_replacement"))
        if not isinstance(self.sampler, TrainingSampler) or isinstance(self.sampler, AllPatches):
            raise ValueError(
                f"Draws repeats what LeaveOneOut, Prefix or Pathwise draws, but got {self.sampler!r}, which draws "
                "nothing at random: give one of these, or a number of patches."
            )
        _check_count(self, "repeats")

    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Adds the output ``draw_probabilities`` ``(batch, repeats, classes)``."""
        assert isinstance(self.sampler, TrainingSampler)
        draws = [self.sampler.draw(log_attention) for _ in range(self.repeats)]
        cells = torch.cat([draw.cells for draw in draws], dim=1)  # (batch, repeats * k)
        weights = torch.cat([draw.weights for draw in draws], dim=1)
        drawn = torch.cat([draw.drawn for draw in draws], dim=1)

        features = reader.features(Draw(cells, weights, drawn), in_chunks=True)  # equal draws are read once
        features = features.unflatten(1, (self.repeats, -1))  # (batch, repeats, k, features)
        bags = weighted_sum(features, weights.unflatten(1, (self.repeats, -1)))
        probabilities = reader.classify(bags).float().softmax(dim=2)  # (batch, repeats, classes)

        mean = probabilities.mean(dim=1)
        logits = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
        return Sample(cells, weights / self.repeats, {"logits": logits, "draw_probabilities": probabilities})


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
            _check_count(self, "max_patches")
        _check_count(self, "chunk")

    def sample(self, log_attention: Tensor, reader: PatchReader) -> Sample:
        """Adds the outputs ``certified`` ``(batch,)`` and ``intervals`` ``(batch, classes, 2)``."""
        head = reader.linear_head()
        cells, attention, _ = top_cells(log_attention, log_attention.shape[1], normalize=False)  # highest first
        batch, num_cells = cells.shape
        unread_after = _sum_of_the_rest(attention)  # (batch, cells + 1): attention that is unread after n patches
        cap = num_cells if self.max_patches is None else min(self.max_patches, num_cells)

        bag = attention.new_zeros(batch, head.weight.shape[1])
        num_read = torch.zeros(batch, dtype=torch.long, device=cells.device)
        reading = torch.ones(batch, dtype=torch.bool, device=cells.device)
        for start in range(0, cap, self.chunk):
            part = slice(start, min(start + self.chunk, cap))
            drawn = (attention[:, part] > 0) & reading[:, None]
            draw = Draw(cells[:, part], attention[:, part] * drawn, drawn)
            features = reader.features(draw, in_chunks=True)

            bag = bag + weighted_sum(features, draw.weights)
            num_read = num_read + drawn.sum(dim=1)
            unread = unread_after.gather(1, num_read[:, None])[:, 0]
            bounds = margin_bounds(reader.classify(bag), unread, head, rounding=trusted_digits(features))

            reading = reading & ~is_certain(bounds) & (unread > 0)
            if not reading.any():
                break

        most_read = int(num_read.max())
        was_read = torch.arange(most_read, device=cells.device) < num_read[:, None]
        weights = attention[:, :most_read] * was_read
        mass = weights.sum(dim=1, keepdim=True)
        outputs = {
            "logits": reader.classify(bag / mass),
            "certified": is_certain(bounds),
            "intervals": probability_intervals(bounds).to(bag.dtype),
        }
        return Sample(cells[:, :most_read], weights / mass, outputs)


def _sum_of_the_rest(attention: Tensor) -> Tensor:
    """Sum of each entry and all after it, float64 ``(batch, n + 1)``: 0, not nearly 0, at the end."""
    sums = attention.double().flip(1).cumsum(1).flip(1)
    return torch.nn.functional.pad(sums, (0, 1))


def _check_count(sampler: Sampler, name: str, *, least: int = 1) -> None:
    value = getattr(sampler, name)
    if isinstance(value, int) and value >= least:
        return
    raise ValueError(
        f"{name} of {type(sampler).__name__} must be a whole number of at least {least}, but is {value!r}; "
        "AllPatches() reads all patches."
    )


def _check_estimator(estimator: str) -> None:
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown estimator '{estimator}'; choose one of {', '.join(ESTIMATORS)}.")


# --------------------------------------------------------------------------------------------------- draws and weights


def draw_cells(log_prob: Tensor, k: int, estimator: str, *, generator: torch.Generator | None = None) -> Draw:
    """Draw k cells of each image and weigh them by an estimator.

    - ``paper``: without replacement, c = P (Eq. 2 as printed; its sum is less than 1 and depends on k);
    - ``normalized``: without replacement, c = P / (sum of the drawn P); biased;
    - ``with_replacement``: k independent draws, c = 1 / k (Katharopoulos and Fleuret 2019); unbiased;
    - ``without_replacement``: drawn one after the other, c_t = [1 - sum_{s<t} P_s + (k - t) P_t] / k; unbiased;
    - ``systematic``: inclusion probabilities proportional to P, c = P / pi; unbiased, lowest variance.

    Where no more than k cells are possible all of them are drawn and, except by ``with_replacement``, c = P: exact.

    Args:
        log_prob: log attention ``(batch, cells)``.
        k: number of draws, at least 1.
        estimator: one of :data:`ESTIMATORS`.
        generator: source of randomness; PyTorch's global one by default.

    Raises:
        ValueError: for an unknown estimator or k < 1.
    """
    if k < 1:
        raise ValueError(f"the number of patches must be at least 1, but got {k}.")
    _check_estimator(estimator)
    log_prob = log_prob.detach()

    if estimator == "with_replacement":
        cells = draw_independently(log_prob, k, generator)
        drawn = torch.isfinite(log_prob.gather(1, cells))
        return _make_draw(log_prob, cells, drawn.to(log_prob.dtype) / k)

    if estimator == "systematic":
        cells, inclusion = draw_systematically(log_prob, k, generator)
        prob = log_prob.gather(1, cells).exp()
        return _make_draw(log_prob, cells, prob / inclusion.gather(1, cells).clamp_min(1e-30))

    cells = draw_in_order(log_prob, k, generator)
    prob = log_prob.gather(1, cells).exp()
    if estimator == "normalized":
        return _make_draw(log_prob, cells, _normalize(prob))
    if estimator == "paper":
        return _make_draw(log_prob, cells, prob)

    draw = _make_draw(log_prob, cells, _weigh_in_order(prob, torch.isfinite(log_prob.gather(1, cells))))
    all_are_drawn = torch.isfinite(log_prob).sum(dim=1, keepdim=True) <= k
    return draw._replace(weights=torch.where(all_are_drawn & draw.drawn, prob, draw.weights))


def draw_equally(log_prob: Tensor, k: int, *, in_order: bool) -> Draw:
    """Draw k cells of each image and give them equal weights: the bag is the mean of what was drawn.

    Args:
        log_prob: log attention ``(batch, cells)``.
        k: number of draws.
        in_order: draw different cells one after the other (without replacement), not independently.
    """
    log_prob = log_prob.detach()
    cells = draw_in_order(log_prob, k) if in_order else draw_independently(log_prob, k)
    drawn = torch.isfinite(log_prob.gather(1, cells))
    weights = drawn.to(log_prob.dtype) / drawn.sum(dim=1, keepdim=True)
    return Draw(cells, weights, drawn)


def top_cells(log_prob: Tensor, k: int, *, normalize: bool = True) -> Draw:
    """The k cells of highest attention, of equal ones the first: weights P / sum P, or P if not ``normalize``."""
    log_prob = log_prob.detach()
    # topk takes equals in an order that depends on the length of the row, and so on the batch.
    cells = log_prob.sort(dim=1, descending=True, stable=True).indices[:, :k]
    prob = log_prob.gather(1, cells).exp()
    return _make_draw(log_prob, cells, _normalize(prob) if normalize else prob)


def all_cells(log_prob: Tensor) -> Draw:
    """Every cell, weighed by its attention (Eq. 1)."""
    cells = torch.arange(log_prob.shape[1], device=log_prob.device).expand_as(log_prob)
    return _make_draw(log_prob.detach(), cells, log_prob.detach().exp())


def weighted_sum(features: Tensor, weights: Tensor) -> Tensor:
    """The bag ``sum_t weights_t f_t``: ``(..., features)`` from ``(..., k, features)`` and ``(..., k)``."""
    return (weights[..., None] * features).sum(dim=-2)


def pathwise_weights(draw: Draw, log_prob: Tensor) -> Tensor:
    """``sg(w_t) P_t`` with the gradient of P: the weights of ``draw`` ``(batch, k)``, differentiable in log P."""
    log_p = log_prob.gather(1, draw.cells).masked_fill(~draw.drawn, 0.0)
    return draw.weights * torch.exp(log_p - log_p.detach())


def baseline_bags(features: Tensor, *, in_order: bool) -> Tensor:
    """For each draw a bag that does not depend on it ``(batch, k, features)``.

    Args:
        features: features of the draws ``(batch, k, features)``.
        in_order: whether the draws were made one after the other. Then the bag is the mean of those before the draw, 0
            for the first; otherwise it is the mean of the other k - 1.
    """
    k = features.shape[1]
    if not in_order:
        others = features.sum(dim=1, keepdim=True) - features
        return others / (k - 1)
    earlier = features.cumsum(dim=1) - features
    count = torch.arange(k, device=features.device).clamp_min(1)
    return earlier / count[:, None]


def draw_log_prob(log_prob: Tensor, cells: Tensor, *, in_order: bool) -> Tensor:
    """Log probability of each draw ``(batch, k)``, differentiable: independent, or given those drawn before it."""
    if not in_order:
        return log_prob.gather(1, cells)
    drawn_so_far = torch.nn.functional.one_hot(cells, log_prob.shape[1]).cumsum(1)  # (batch, k, cells)
    earlier = drawn_so_far.roll(1, dims=1).bool()
    earlier[:, 0] = False

    possible = torch.isfinite(log_prob.gather(1, cells))
    left = log_prob[:, None, :].expand_as(earlier).masked_fill(earlier, float("-inf"))
    left = left.masked_fill(~possible[:, :, None], 0.0).log_softmax(dim=2)
    log_p = left.gather(2, cells[:, :, None]).squeeze(2)
    return torch.where(possible, log_p, 0.0)


def draw_independently(log_prob: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
    """k independent draws of each image, with repetition: cells ``(batch, k)`` (Gumbel-max)."""
    scores = log_prob[:, None, :].expand(-1, k, -1)
    return (scores + _gumbel(scores, generator)).argmax(dim=2)


def draw_in_order(log_prob: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
    """Up to k different cells, drawn one after the other in proportion to P: ``(batch, k)`` (Gumbel top-k)."""
    return (log_prob + _gumbel(log_prob, generator)).topk(min(k, log_prob.shape[1]), dim=1).indices


def draw_systematically(log_prob: Tensor, k: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """k different cells with inclusion probabilities proportional to P: cells ``(batch, k)``, pi ``(batch, cells)``.

    The cells are laid in random order on a line, each as long as its pi; one uniform number places k marks at unit
    distance. Float64, because every mark must fall into exactly one cell.
    """
    inclusion = inclusion_probabilities(log_prob, k)
    order = torch.rand(log_prob.shape, generator=generator, device=log_prob.device).argsort(dim=1)
    ends = inclusion.gather(1, order).cumsum(dim=1)
    total = ends[:, -1:].round()
    ends[:, -1:] = total

    start = torch.rand((len(log_prob), 1), generator=generator, device=log_prob.device, dtype=torch.float64)
    marks = torch.ceil(torch.minimum(ends, total) - start)
    hits = torch.diff(marks, dim=1, prepend=torch.ceil(-start))
    chosen = hits.topk(min(k, log_prob.shape[1]), dim=1).indices
    return order.gather(1, chosen), inclusion


def inclusion_probabilities(log_prob: Tensor, k: int) -> Tensor:
    """pi_i = min(1, c P_i) with sum k (or all ones where fewer cells are possible): float64 ``(batch, cells)``.

    With P sorted downwards, the m largest are certain and c = (k - m) / sum_{j>m} P_j, for the smallest m such that no
    remaining c P_j exceeds 1.
    """
    prob, order = log_prob.double().exp().sort(dim=1, descending=True)
    rank = torch.arange(prob.shape[1], device=prob.device)
    tail = prob.flip(1).cumsum(1).flip(1)
    possible = (prob > 0).sum(dim=1, keepdim=True)
    count = possible.clamp_max(k)

    fits = (count - rank).clamp_min(0) * prob <= tail  # true from the first m onwards
    first_fit = fits.int().argmax(dim=1, keepdim=True)
    certain = torch.where(possible <= k, possible, first_fit)

    rest = tail.gather(1, certain.clamp_max(prob.shape[1] - 1)).clamp_min(1e-300)
    proportional = ((count - certain) * prob / rest).clamp_max(1.0)
    inclusion = torch.where(rank < certain, 1.0, proportional)
    inclusion = torch.where(prob > 0, inclusion, 0.0)
    return torch.zeros_like(prob).scatter(1, order, inclusion)


def _gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    # -log(exponential) keeps its upper tail; -log(-log(uniform)) is cut off where the uniform rounds to 1.
    noise = torch.empty(like.shape, dtype=like.dtype, device=like.device).exponential_(generator=generator)
    return -noise.clamp_min(torch.finfo(like.dtype).tiny).log()


def _make_draw(log_prob: Tensor, cells: Tensor, weights: Tensor) -> Draw:
    """A draw of ``cells`` with ``weights``, 0 for cells that do not exist."""
    drawn = torch.isfinite(log_prob.gather(1, cells))
    weights = torch.where(drawn, weights, 0.0).to(log_prob.dtype)
    return Draw(cells, weights, drawn)


def _normalize(prob: Tensor) -> Tensor:
    return prob / prob.sum(dim=1, keepdim=True).clamp_min(torch.finfo(prob.dtype).tiny)


def _weigh_in_order(prob: Tensor, drawn: Tensor) -> Tensor:
    """The weights of ``without_replacement`` for cells of probability ``prob`` ``(batch, k)``, in order of drawing."""
    before = prob.cumsum(dim=1) - prob
    count = drawn.sum(dim=1, keepdim=True)
    later = count - torch.arange(1, prob.shape[1] + 1, device=prob.device)
    return ((1 - before).clamp_min(0) + later * prob) / count
