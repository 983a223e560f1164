# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Which core lies where on a mosaic: an image of many small labeled images, of which few decide the label.

Pure planning: no file is read here. A *core* is a labeled image, such as one core of a tissue microarray; it is
*positive* if it is of the class that is looked for. A mosaic is a grid of square *places*, each blank or with one core
in a random orientation at a random offset. Rules for the label of a mosaic, 1 or 0:

* ``"any"``: 1 if any core is positive. The positive cores decide.
* ``"majority"``: 1 if more than half of the cores are positive, 0 if fewer are. The cores of the majority decide.

Cores are dealt like cards, so that all of a set are used about equally often. Every choice is seeded, and the number of
mosaics changes none of them. Positions are (row, column) and sizes (height, width) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from monai_jsma.geometry import ORIENTATIONS, Box, oriented_size

__all__ = [
    "ALIGNMENT",
    "RULES",
    "Core",
    "MosaicPlan",
    "MosaicSettings",
    "PlacedCore",
    "find_side",
    "place_cores",
    "plan_mosaics",
]

RULES = ("any", "majority")
ALIGNMENT = 64  # pixels: sides of places are multiples, so that levels of 2, 4, ..., 64 pixels a side are exact


@dataclass(frozen=True, kw_only=True)
class MosaicSettings:
    """How mosaics are put together.

    Args:
        grid: rows and columns of places.
        blank: share of the places that are blank glass, at least 0 and below 1.
        positive: positive cores of a mosaic of label 1: a whole number, or a share of its cores (0 to 1); of several,
            mosaics of label 1 take turns. By the rule ``"majority"``, a mosaic of label 0 has as many other cores.
        rule: ``"any"`` or ``"majority"``.
        cores_per_picture: number of different cores on a mosaic, which are repeated where there are more places; None
            for as many as there are.
        margin: how much larger a place is than the largest core, as a share of it.
        seed: random seed.
        centered: put each core in the middle of its place, and not anywhere in it: a core then has the same pixels
            under a cell wherever it lies, so that its features need be computed once.

    Raises:
        ValueError: if a value is out of range, or a mosaic cannot have so many positive cores.
    """

    grid: tuple[int, int] = (3, 3)
    blank: float = 0.3
    positive: tuple[int | float, ...] = (1,)
    rule: str = "any"
    cores_per_picture: int | None = None
    margin: float = 0.1
    seed: int = 0
    centered: bool = False

    def __post_init__(self) -> None:
        if min(self.grid) < 1:
            raise ValueError(f"a grid has at least 1 row and 1 column, but got {self.grid[0]} x {self.grid[1]}.")
        if not 0 <= self.blank < 1:
            raise ValueError(f"the blank share must be at least 0 and below 1, but is {self.blank}.")
        if self.rule not in RULES:
            raise ValueError(f"the rule must be {' or '.join(RULES)}, but is '{self.rule}'.")
        if not 0 <= self.margin <= 10:
            raise ValueError(f"the margin must be a share of 0 to 10, but is {self.margin}.")
        if self.seed < 0:
            raise ValueError(f"the seed must be at least 0, but is {self.seed}.")
        if self.cores_per_picture is not None and self.cores_per_picture < 2:
            raise ValueError(f"a picture has at least 2 different cores, but got {self.cores_per_picture}.")
        if not self.positive:
            raise ValueError("the number of positive cores is missing.")
        for number in self.positive:
            self._check_positive(number)

    @property
    def num_cores(self) -> int:
        """Number of places with a core."""
        rows, cols = self.grid
        num_places = rows * cols
        num_blank = round(num_places * self.blank)
        return max(1, num_places - num_blank)

    def count_positive(self, label: int, turn: int) -> int:
        """Number of positive cores of a mosaic.

        Args:
            label: 0 or 1.
            turn: how many mosaics of this label come before it.
        """
        number = self._resolve(self.positive[turn % len(self.positive)])
        if label == 1:
            return number
        return 0 if self.rule == "any" else self.num_cores - number

    def _resolve(self, number: int | float) -> int:
        """The number of cores that a number or a share is."""
        if isinstance(number, int):
            return number
        return max(1, round(number * self.num_cores))

    def _check_positive(self, number: int | float) -> None:
        fewest = 1 if self.rule == "any" else self.num_cores // 2 + 1
        is_share = isinstance(number, float)
        if is_share and not 0 < number <= 1:
            raise ValueError(f"a share of positive cores is above 0 and at most 1, but got {number}.")
        resolved = self._resolve(number)
        if not fewest <= resolved <= self.num_cores:
            stated = f"{number:g} = {resolved}" if is_share else str(resolved)
            raise ValueError(
                f"a mosaic of {self.num_cores} cores is positive by the rule '{self.rule}' with {fewest} to "
                f"{self.num_cores} positive ones, but got {stated}; a share has a decimal point, such as 0.25."
            )


@dataclass(frozen=True, kw_only=True)
class Core:
    """A labeled image that can be placed on a mosaic.

    Args:
        name: what identifies it.
        group: what must lie in one split only, such as its patient.
        is_positive: whether it is of the class that is looked for.
        size: height and width, in pixels of the mosaic.
    """

    name: str
    group: str
    is_positive: bool
    size: tuple[int, int]


class PlacedCore(NamedTuple):
    """A core on a mosaic.

    Args:
        core: the core.
        place: row and column of its place in the grid.
        box: where its pixels lie on the mosaic.
        orientation: one of the eight orientations of :mod:`monai_jsma.geometry`.
        decides: whether the label of the mosaic comes from it.
    """

    core: Core
    place: tuple[int, int]
    box: Box
    orientation: int
    decides: bool


@dataclass(frozen=True, kw_only=True)
class MosaicPlan:
    """What lies where on a mosaic.

    Args:
        size: height and width.
        label: 1 or 0, by the rule.
        cores: the placed cores, row by row.
    """

    size: tuple[int, int]
    label: int
    cores: tuple[PlacedCore, ...]

    @property
    def deciding(self) -> tuple[PlacedCore, ...]:
        """The cores that the label comes from; none where no core is positive by the rule ``"any"``."""
        return tuple(placed for placed in self.cores if placed.decides)

    @property
    def deciding_share(self) -> float:
        """Share of the area of the mosaic that the deciding cores take."""
        area = sum(placed.box.height * placed.box.width for placed in self.deciding)
        height, width = self.size
        return area / (height * width)


def find_side(sizes: Sequence[tuple[int, int]], margin: float) -> int:
    """Side of a place that has room for every core in every orientation: a multiple of ``ALIGNMENT`` pixels.

    Args:
        sizes: sizes of the cores.
        margin: how much larger a place is than the largest core, as a share of it.
    """
    largest = max(max(size) for size in sizes)
    side = largest * (1 + margin)
    return math.ceil(side / ALIGNMENT) * ALIGNMENT


def plan_mosaics(
    cores: Sequence[Core], settings: MosaicSettings, number: int, *, side: int, stream: int
) -> list[MosaicPlan]:
    """Plan the mosaics of one set of cores, such as those of a split; the labels 0 and 1 take turns.

    Args:
        cores: the cores, which no other set has.
        settings: how mosaics are put together.
        number: number of mosaics.
        side: side of a place in pixels.
        stream: number of the set; sets of the same cores and different numbers get different mosaics.

    Raises:
        ValueError: if the set lacks positive or other cores.
    """
    positive = [core for core in cores if core.is_positive]
    other = [core for core in cores if not core.is_positive]
    if not (positive and other):
        raise ValueError(f"there are {len(positive)} positive and {len(other)} other cores; both are needed.")
    positive_deck = _Deck(positive, np.random.default_rng((settings.seed, stream, 0, 1)))
    other_deck = _Deck(other, np.random.default_rng((settings.seed, stream, 0, 2)))

    plans = []
    for index in range(number):
        turn, label = divmod(index, 2)
        num_positive = settings.count_positive(label, turn)
        num_other = settings.num_cores - num_positive
        most_positive, most_other = _limit_different(settings.cores_per_picture, num_positive, num_other)
        chosen = positive_deck.draw(num_positive, most_different=most_positive)
        chosen += other_deck.draw(num_other, most_different=most_other)
        rng = np.random.default_rng((settings.seed, stream, index))
        plan = place_cores(
            chosen,
            settings.grid,
            side,
            label=label,
            rule=settings.rule,
            rng=rng,
            centered=settings.centered,
        )
        plans.append(plan)
    return plans


def place_cores(
    cores: Sequence[Core],
    grid: tuple[int, int],
    side: int,
    *,
    label: int,
    rule: str,
    rng: np.random.Generator,
    centered: bool = False,
) -> MosaicPlan:
    """Put each core into a random place of a mosaic, in a random orientation at a random offset.

    Args:
        cores: the cores, at most as many as there are places.
        grid: rows and columns of places.
        side: side of a place in pixels, at least that of every core.
        label: label of the mosaic, 0 or 1.
        rule: rule that the label follows, one of ``RULES``.
        rng: random source.
        centered: put each core in the middle of its place instead.
    """
    rows, cols = grid
    places = rng.permutation(rows * cols)[: len(cores)].tolist()
    placed = []
    for number, core in zip(places, cores, strict=True):
        place = divmod(number, cols)
        orientation = int(rng.choice(ORIENTATIONS))
        height, width = oriented_size(core.size, orientation)
        down = _choose_offset(side - height, rng, centered=centered)
        right = _choose_offset(side - width, rng, centered=centered)
        box = Box(place[0] * side + down, place[1] * side + right, height, width)
        decides = _decides(core, label=label, rule=rule)
        placed.append(PlacedCore(core, place, box, orientation, decides))
    placed.sort(key=lambda one: one.place)
    return MosaicPlan(size=(rows * side, cols * side), label=label, cores=tuple(placed))


def _choose_offset(room: int, rng: np.random.Generator, *, centered: bool) -> int:
    """Where a core begins in its place, in which it leaves some pixels free."""
    return room // 2 if centered else int(rng.integers(room + 1))


def _decides(core: Core, *, label: int, rule: str) -> bool:
    """Whether the label of a mosaic comes from one of its cores."""
    if rule == "any" and label == 0:
        return False
    return core.is_positive == (label == 1)


def _limit_different(cores_per_picture: int | None, num_positive: int, num_other: int) -> tuple[int, int]:
    """How many positive and how many other cores may differ: at most half of the limit are positive, if any other is.

    Args:
        cores_per_picture: the limit for both together; None for no limit.
        num_positive: number of positive cores on the mosaic.
        num_other: number of other cores on it.
    """
    if cores_per_picture is None:
        return num_positive, num_other
    if num_other == 0:
        return cores_per_picture, 0
    positive = min(num_positive, cores_per_picture // 2)
    return positive, cores_per_picture - positive


class _Deck:
    """Cores to draw from as from shuffled cards: none comes twice before each has come once, over all mosaics.

    Args:
        cores: the cores, at least one.
        rng: random source of the order.
    """

    def __init__(self, cores: Sequence[Core], rng: np.random.Generator) -> None:
        self._cores = cores
        self._rng = rng
        self._left: list[int] = []

    def draw(self, number: int, *, most_different: int) -> list[Core]:
        """Draw a number of cores of at most so many different ones, each as often as the others or once more."""
        num_different = min(number, most_different, len(self._cores))
        different: list[int] = []
        while len(different) < num_different:
            different.append(self._take_other_than(different))
        drawn = []
        for position in range(number):
            index = different[position % num_different]
            drawn.append(self._cores[index])
        return drawn

    def _take_other_than(self, held: Sequence[int]) -> int:
        """The next card that is not held; those that are stay where they lie."""
        if all(index in held for index in self._left):
            self._left += self._rng.permutation(len(self._cores)).tolist()
        position = next(i for i, index in enumerate(self._left) if index not in held)
        return self._left.pop(position)
