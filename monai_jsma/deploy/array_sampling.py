# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Which cells of an image are read, and what is classified: the samplers of :mod:`monai_jsma.networks`, in arrays.

A sampler is named by its settings, as JSON can hold them: ``{"name": "Certified", "max_patches": 20}``. Names and
arguments are those of the classes there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from itertools import count
from typing import Any, NamedTuple, Protocol

import numpy as np

from monai_jsma.deploy.array_attention import softmax
from monai_jsma.deploy.array_bounds import (
    ClassWeights,
    bet_on_arrays,
    find_confidences,
    find_intervals,
    find_margins,
    has_certain_class,
    make_wealth,
)
from monai_jsma.deploy.array_drawing import (
    CellDraw,
    pick_after_the_largest,
    pick_equally,
    pick_top_cells,
    pick_weighted,
    sum_onwards,
)
from monai_jsma.deploy.cell_tree import CellTree, KnownCells
from monai_jsma.deploy.random_stream import RandomStream

__all__ = ["SAMPLER_NAMES", "ArraySampler", "CellReader", "CellSample", "make_sampler"]

_LARGE = 0.125  # share of the unread attention above which a cell is read without a draw
_NOTHING = 1e-6  # sums of float32 attention differ from 1 by as much
_ESTIMATORS = ("paper", "normalized", "with_replacement", "without_replacement", "systematic")


class CellSample(NamedTuple):
    """What a sampler gives for an image.

    Attributes:
        cells: numbers of the cells that were read ``(k,)``.
        weights: their shares in the bag ``(k,)``; 0 where nothing was read.
        is_read: whether each was read, and not drawn a second time or missing ``(k,)``.
        logits: logits of the classes ``(classes,)``.
        outputs: what else the sampler computes, by name.
    """

    cells: np.ndarray
    weights: np.ndarray
    is_read: np.ndarray
    logits: np.ndarray
    outputs: Mapping[str, Any]


class CellReader(Protocol):
    """What a sampler reads with."""

    head: ClassWeights | None  # None where features are not of length 1

    def encode(self, draw: CellDraw) -> np.ndarray:
        """Features of the drawn cells ``(k, features)``, float32; 0 where none was drawn."""

    def classify(self, bags: np.ndarray) -> np.ndarray:
        """Logits ``(..., classes)`` of bags ``(..., features)``."""


class ArraySampler(ABC):
    """A sampler: a value made of its settings."""

    @abstractmethod
    def sample(self, known: KnownCells, reader: CellReader, stream: RandomStream) -> CellSample:
        """Read some cells of an image and classify them.

        Args:
            known: the cells, as far as they are known.
            reader: what encodes and classifies.
            stream: source of randomness.
        """


def make_sampler(settings: Mapping[str, Any]) -> ArraySampler:
    """The sampler of a name with settings.

    Args:
        settings: ``name``, and the arguments of the class of that name in :mod:`monai_jsma.networks`.

    Raises:
        ValueError: for an unknown name or setting, a missing one, or a value that is not possible.
    """
    kind = _SAMPLERS.get(str(settings.get("name")))
    if kind is None:
        raise ValueError(f"sampler {dict(settings)!r}: its name must be one of {', '.join(SAMPLER_NAMES)}.")
    given = {key: value for key, value in settings.items() if key != "name"}
    settable = [entry for entry in fields(kind) if entry.init]
    allowed = {entry.name for entry in settable}
    needed = {entry.name for entry in settable if entry.default is MISSING}
    unknown = sorted(set(given) - allowed)
    missing = sorted(needed - set(given))
    if unknown or missing:
        raise ValueError(
            f"sampler {dict(settings)!r}: {settings['name']} has the settings {', '.join(sorted(allowed))}, of which "
            f"it needs {', '.join(sorted(needed)) or 'none'}."
        )
    return kind(**given)


def _check_whole(sampler: ArraySampler, *names: str) -> None:
    for name in names:
        value = getattr(sampler, name)
        if not isinstance(value, int) or value < 1:
            kind = type(sampler).__name__.removeprefix("_")
            raise ValueError(f"{name} of {kind} must be a whole number of at least 1, but is {value!r}.")


def _sum_weighted(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The bag ``(..., features)`` of features ``(..., k, features)`` with weights ``(..., k)``."""
    return (weights[..., None] * features).sum(axis=-2, dtype=np.float32)


def _classify_draw(draw: CellDraw, reader: CellReader) -> CellSample:
    features = reader.encode(draw)
    logits = reader.classify(_sum_weighted(features, draw.weights))
    return CellSample(draw.cells, draw.weights, draw.drawn, logits, {})


def _need_head(reader: CellReader, sampler: ArraySampler) -> ClassWeights:
    if reader.head is None:
        raise ValueError(
            f"{type(sampler).__name__.removeprefix('_')} needs features of length 1, but the network was trained "
            "without feature_norm: use another sampler, as TopK or AllPatches."
        )
    return reader.head


# ---------------------------------------------------------------------------------------------------------- fixed cells


@dataclass(frozen=True)
class _TopK(ArraySampler):
    k: int
    normalize: bool = True

    def __post_init__(self) -> None:
        _check_whole(self, "k")

    def sample(self, known: KnownCells, reader: CellReader, stream: RandomStream) -> CellSample:
        known.reveal_best(self.k)
        draw = pick_top_cells(known.log_attention, self.k, normalize=self.normalize)
        return _classify_draw(draw, reader)


@dataclass(frozen=True)
class _AllPatches(ArraySampler):
    def sample(self, known: KnownCells, reader: CellReader, stream: RandomStream) -> CellSample:
        known.reveal_all()
        log_attention = known.log_attention
        drawn = log_attention != -np.inf
        draw = CellDraw(np.arange(len(log_attention)), np.exp(log_attention), drawn)
        return _classify_draw(draw, reader)


# --------------------------------------------------------------------------------------------------------- random cells


class _DrawingSampler(ArraySampler):
    """A sampler that draws k cells."""

    k: int

    def __post_init__(self) -> None:
        _check_whole(self, "k")

    @abstractmethod
    def draw(self, log_attention: np.ndarray, stream: RandomStream) -> CellDraw:
        """Draw cells whose attention is all known."""

    @property
    def is_independent(self) -> bool:
        """Whether its draws are independent, as those down a tree are."""
        return False

    def draw_from(self, known: KnownCells, stream: RandomStream) -> CellDraw:
        """Draw cells, from a tree by following paths.

        Raises:
            ValueError: if draws depend on each other, and the attention is a tree.
        """
        if not isinstance(known, CellTree):
            return self.draw(known.log_attention, stream)
        if not self.is_independent:
            raise ValueError(
                f"{type(self).__name__.removeprefix('_')} draws cells that depend on each other, which a slide has too "
                "many of: use LeaveOneOut, or Pathwise with the estimator 'systematic' or 'with_replacement'."
            )
        cells = known.draw(self.k, stream)
        weights = np.full(self.k, 1 / self.k, np.float32)
        return CellDraw(cells, weights, np.ones(self.k, bool))

    def sample(self, known: KnownCells, reader: CellReader, stream: RandomStream) -> CellSample:
        draw = self.draw_from(known, stream)
        return _classify_draw(draw, reader)


@dataclass(frozen=True)
class _LeaveOneOut(_DrawingSampler):
    k: int

    @property
    def is_independent(self) -> bool:
        return True

    def draw(self, log_attention: np.ndarray, stream: RandomStream) -> CellDraw:
        return pick_equally(log_attention, self.k, stream, in_order=False)


@dataclass(frozen=True)
class _Prefix(_DrawingSampler):
    k: int

    def draw(self, log_attention: np.ndarray, stream: RandomStream) -> CellDraw:
        return pick_equally(log_attention, self.k, stream, in_order=True)


@dataclass(frozen=True)
class _Pathwise(_DrawingSampler):
    k: int
    estimator: str = "paper"
    centered: bool = False  # says something of training only
    max_regions: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_regions is not None:
            _check_whole(self, "max_regions")
        if self.estimator not in _ESTIMATORS:
            raise ValueError(f"unknown estimator '{self.estimator}'; choose one of {', '.join(_ESTIMATORS)}.")

    @property
    def is_independent(self) -> bool:
        return self.estimator == "with_replacement"

    def draw(self, log_attention: np.ndarray, stream: RandomStream) -> CellDraw:
        return pick_weighted(log_attention, self.k, stream, estimator=self.estimator)

    def draw_from(self, known: KnownCells, stream: RandomStream) -> CellDraw:
        if isinstance(known, CellTree) and self.estimator == "systematic":
            return known.draw_systematically(self.k, self.max_regions, stream)
        return super().draw_from(known, stream)


@dataclass(frozen=True)
class _Draws(ArraySampler):
    sampler: int | Mapping[str, Any]
    repeats: int
    _drawing: _DrawingSampler = field(init=False, default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        _check_whole(self, "repeats")
        settings: Mapping[str, Any]
        if isinstance(self.sampler, int):
            settings = {"name": "Pathwise", "k": self.sampler, "estimator": "with_replacement"}
        else:
            settings = self.sampler
        drawing = make_sampler(settings)
        if not isinstance(drawing, _DrawingSampler):
            raise ValueError(f"Draws repeats what LeaveOneOut, Prefix or Pathwise draws, but got {settings!r}.")
        object.__setattr__(self, "_drawing", drawing)

    def sample(self, known: KnownCells, reader: CellReader, stream: RandomStream) -> CellSample:
        draws = [self._drawing.draw_from(known, stream) for _ in range(self.repeats)]
        cells, weights, drawn = (np.concatenate(parts) for parts in zip(*draws))
        features = reader.encode(CellDraw(cells, weights, drawn))
        by_draw = features.reshape(self.repeats, -1, features.shape[1])
        logits = reader.classify(_sum_weighted(by_draw, weights.reshape(self.repeats, -1)))  # (repeats, classes)
        probabilities = softmax(logits)
        mean = np.maximum(probabilities.mean(axis=0), np.finfo(np.float32).tiny)
        outputs = {"draw_probabilities": probabilities}
        return CellSample(cells, weights / np.float32(self.repeats), drawn, np.log(mean), outputs)


# ----------------------------------------------------------------------------------------------------- until it is sure


@dataclass(frozen=True)
class _Certified(ArraySampler):
    max_patches: int | None = None
    chunk: int = 1

    def __post_init__(self) -> None:
        _check_whole(self, "chunk")
        if self.max_patches is not None:
            _check_whole(self, "max_patches")

    def sample(self, known: KnownCells, reader: CellReader, stream: RandomStream) -> CellSample:
        head = _need_head(reader, self)
        bag = np.zeros(head.weight.shape[1], np.float32)
        num_read = 0
        for start in count(0, self.chunk):
            end = start + self.chunk
            if self.max_patches is not None:
                end = min(end, self.max_patches)
            if start >= end:
                break
            known.reveal_best(end)
            cells, attention, drawn = pick_top_cells(known.log_attention, end, normalize=False)
            draw = CellDraw(cells[start:], attention[start:], drawn[start:] & (attention[start:] != 0))
            bag = bag + _sum_weighted(reader.encode(draw), draw.weights)
            num_read += int(draw.drawn.sum())
            unread = _sum_unread(known, num_read)
            margins = find_margins(reader.classify(bag), unread, head)
            certain = has_certain_class(margins)
            if certain or unread <= 0:
                break

        cells, weights, is_read = pick_top_cells(known.log_attention, num_read, normalize=False)
        mass = weights.sum()
        outputs = {"certified": certain, "intervals": find_intervals(margins).astype(np.float32)}
        return CellSample(cells, weights / mass, is_read, reader.classify(bag / mass), outputs)


def _sum_unread(known: KnownCells, num_read: int) -> float:
    """Attention of all cells but the best ``num_read``."""
    _, attention, _ = pick_top_cells(known.log_attention, len(known.log_attention), normalize=False)
    return float(known.unknown + sum_onwards(attention)[num_read])


class _Drawn(NamedTuple):
    """The next cells of an image.

    Attributes:
        draw: the cells, with their attention, and whether each exists and was not drawn before.
        is_random: whether they were drawn, in proportion to the attention of all that are unread ``(n,)``.
        unread: attention of all others before each, and after the last: float64 ``(n + 1,)``.
    """

    draw: CellDraw
    is_random: np.ndarray
    unread: np.ndarray


@dataclass(frozen=True)
class _Confident(ArraySampler):
    confidence: float = 0.99
    max_patches: int | None = 512
    chunk: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.confidence, float) or not 0 < self.confidence < 1:
            raise ValueError(
                f"confidence of Confident must be a number above 0 and below 1, such as 0.99, but is "
                f"{self.confidence!r}."
            )
        _check_whole(self, "chunk")
        if self.max_patches is not None:
            _check_whole(self, "max_patches")

    def sample(self, known: KnownCells, reader: CellReader, stream: RandomStream) -> CellSample:
        progress = _Progress(reader, _need_head(reader, self))
        source: _DrawnPaths | _DrawnCells
        if isinstance(known, CellTree):
            if self.max_patches is None:
                raise ValueError("Confident would draw from a slide without an end if two classes are equal: limit it.")
            source = _DrawnPaths(known, stream)
            cap = self.max_patches
        else:
            source = _DrawnCells(known.log_attention, stream)
            cap = len(known.log_attention)
            if self.max_patches is not None:
                cap = min(self.max_patches, cap)

        draws = []
        for start in range(0, cap, self.chunk):
            drawn = source.draw(start, min(start + self.chunk, cap))
            draws.append(progress.read(drawn))
            logits, confidence = progress.judge()
            certain = confidence >= self.confidence
            if certain or not np.isfinite(logits).all() or progress.unread <= 0:
                break
        cells = np.concatenate([draw.cells for draw in draws])
        weights = np.concatenate([progress.weigh(draw) for draw in draws])
        is_read = np.concatenate([draw.drawn for draw in draws])
        outputs = {"certified": bool(certain), "confidence": float(confidence)}
        return CellSample(cells, weights, is_read, logits, outputs)


class _DrawnCells:
    """Draws of cells whose attention is all known: the large ones, then one after the other."""

    def __init__(self, log_attention: np.ndarray, stream: RandomStream) -> None:
        self.cells, self.num_large = pick_after_the_largest(log_attention, stream, share=_LARGE)
        self.attention = np.exp(log_attention[self.cells])
        self.unread_after = sum_onwards(self.attention)

    def draw(self, start: int, end: int) -> _Drawn:
        """The cells of these numbers in the order of drawing."""
        attention = self.attention[start:end]
        draw = CellDraw(self.cells[start:end], attention, attention != 0)
        is_random = np.arange(start, end) >= self.num_large
        return _Drawn(draw, is_random, self.unread_after[start : end + 1])


class _DrawnPaths:
    """Draws of independent paths down a tree. Those to cells that are new are draws from all that are unread."""

    def __init__(self, tree: CellTree, stream: RandomStream) -> None:
        self.tree = tree
        self.stream = stream
        self.seen: set[int] = set()
        self.read = 0.0

    def draw(self, start: int, end: int) -> _Drawn:
        """The cells of the next paths."""
        cells = self.tree.draw(end - start, self.stream)
        attention = np.exp(self.tree.log_attention[cells])
        is_new = np.array([self._is_first(cell) for cell in cells.tolist()])
        read = np.append(self.read, attention.astype(np.float64) * is_new).cumsum()
        self.read = read[-1]
        unread = 1 - read
        unread[unread < _NOTHING] = 0
        draw = CellDraw(cells, attention, is_new & (unread[:-1] > 0))
        return _Drawn(draw, np.ones(len(cells), bool), unread)

    def _is_first(self, cell: int) -> bool:
        is_first = cell not in self.seen
        self.seen.add(cell)
        return is_first


class _Progress:
    """What was read of an image, and what the bets on it have won."""

    def __init__(self, reader: CellReader, head: ClassWeights) -> None:
        self.reader = reader
        self.head = head
        num_classes, num_features = head.weight.shape
        self.bag = np.zeros(num_features, np.float32)  # sum of P f of what was read
        self.total = np.zeros(num_features, np.float32)  # sum of f
        self.log_wealth = make_wealth(num_classes)
        self.num_read = 0
        self.unread = 1.0

    def read(self, drawn: _Drawn) -> CellDraw:
        """Read the drawn patches that are new, and bet on each before it is seen."""
        cells, attention, is_read = drawn.draw
        draw = CellDraw(cells, attention * is_read, is_read)
        features = self.reader.encode(draw)  # (n, features)
        shares = draw.weights[:, None] * features
        before = self.bag + shares.cumsum(axis=0, dtype=np.float32) - shares
        growth = self._bet(features, before=before, unread=drawn.unread[:-1])
        growth[~(is_read & drawn.is_random)] = 0

        self.log_wealth = self.log_wealth + growth.sum(axis=0)
        self.bag = self.bag + shares.sum(axis=0, dtype=np.float32)
        self.total = self.total + _sum_weighted(features, is_read.astype(np.float32))
        self.num_read += int(is_read.sum())
        self.unread = float(drawn.unread[-1])
        return draw

    def judge(self) -> tuple[np.ndarray, float]:
        """Logits ``(classes,)``, and the confidence that their label is that of all patches."""
        mean = self.total / np.float32(self.num_read)
        logits = self.reader.classify(self.bag + np.float32(self.unread) * mean)
        margins = find_margins(self.reader.classify(self.bag), self.unread, self.head)
        confidences = find_confidences(self.log_wealth, margins)
        return logits, float(confidences[logits.argmax()])

    def weigh(self, draw: CellDraw) -> np.ndarray:
        """Weights of the patches of a draw in the bag that was judged ``(n,)``."""
        of_others = np.float32(self.unread) / np.float32(self.num_read)
        return draw.weights + of_others * draw.drawn

    def _bet(self, features: np.ndarray, *, before: np.ndarray, unread: np.ndarray) -> np.ndarray:
        """Log growth of the wealth ``(n, shares, a, b)`` by patches that stand for all that are unread."""
        guess = before + unread[:, None].astype(np.float32) * features
        margins = find_margins(self.reader.classify(guess), np.zeros_like(unread), self.head)
        least = find_margins(self.reader.classify(before), unread, self.head)
        return bet_on_arrays(margins, least)


_SAMPLERS: Mapping[str, type[Any]] = {
    "AllPatches": _AllPatches,
    "Certified": _Certified,
    "Confident": _Confident,
    "Draws": _Draws,
    "LeaveOneOut": _LeaveOneOut,
    "Pathwise": _Pathwise,
    "Prefix": _Prefix,
    "TopK": _TopK,
}
SAMPLER_NAMES = tuple(_SAMPLERS)
