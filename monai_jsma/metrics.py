# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Where the attention goes, as numbers: shares of the magnifications (paper, Tables 3 and 4) and hits of a known truth.

The share of a magnification in a picture is the attention summed over its cells. Its prior is its part of all cells, as
equal attention would give; its enrichment is the mean share over the mean prior. Pictures may differ in their grids.
How many patches are read for it is counted too.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric

from monai_jsma.predictions.from_engine import PictureResult, picture_results

if TYPE_CHECKING:
    pass

__all__ = ["AttentionOnTruth", "AttentionShare", "PatchesRead"]


class _PictureMetric(Metric):
    """Means over all pictures of named numbers, written to ``engine.state.metrics`` as ``<metric's name>_<number>``.

    It reads the engine's batch as well as its output, since only a picture's pyramid knows its cells. Sums are gathered
    by name, so that a process without pictures does no harm. Being several numbers, it cannot be the key metric.
    """

    def __init__(self) -> None:
        super().__init__()

    def reset(self) -> None:
        """Forget all pictures."""
        self._count, self._sums = 0, defaultdict[str, float](float)

    @abstractmethod
    def numbers(self, result: PictureResult) -> dict[str, float] | None:
        """The numbers of one picture; None where it has none."""

    def update(self, output: Sequence[Mapping[str, float]]) -> None:
        """Add the numbers of some pictures."""
        for numbers in output:
            self._count += 1
            for name, value in numbers.items():
                self._sums[name] += value

    def compute(self) -> dict[str, float]:
        """Mean of every number over the pictures of all processes.

        Raises:
            NotComputableError: without a picture that has numbers.
        """
        state = (self._count, dict(self._sums))
        states = [state] if idist.get_world_size() == 1 else cast(list[tuple], idist.all_gather(state))
        count = sum(n for n, _ in states)
        if count == 0:
            raise NotComputableError(self._nothing)
        names = sorted({name for _, sums in states for name in sums})
        return {name: sum(sums.get(name, 0.0) for _, sums in states) / count for name in names}

    _nothing = "there was no picture to measure: is the datalist of this evaluation empty?"

    @torch.no_grad()
    def iteration_completed(self, engine: Engine) -> None:
        """Add the pictures of the engine's last batch."""
        found = [self.numbers(result) for result in picture_results(engine)]
        self.update([numbers for numbers in found if numbers is not None])

    def completed(self, engine: Engine, name: str) -> None:
        """Write each number as a scalar of its own, as MONAI's handlers want them."""
        for key, value in self.compute().items():
            engine.state.metrics[f"{name}_{key}"] = value


class AttentionShare(_PictureMetric):
    """Mean share of the attention that each magnification gets, and its enrichment over equal attention.

    Attached as ``"attention"`` it writes ``attention_share_100X`` and ``attention_enrichment_100X``, and so on.

    Example::

        >>> evaluator = JSMAEvaluator(..., additional_metrics={"attention": AttentionShare()})  # doctest: +SKIP
    """

    def numbers(self, result: PictureResult) -> dict[str, float]:
        """Share and prior of every magnification in one picture."""
        geometry, attention = result.pyramid.geometry, result.attention
        spans = dict(zip(geometry.names, pairwise(geometry.offsets)))
        shares = {f"share_{name}": float(attention[a:b].sum()) for name, (a, b) in spans.items()}
        return shares | {f"prior_{name}": (b - a) / geometry.num_cells for name, (a, b) in spans.items()}

    def compute(self) -> dict[str, float]:
        """Mean shares ``share_<magnification>`` and their ``enrichment_<magnification>``."""
        means = super().compute()
        names = [key.removeprefix("share_") for key in means if key.startswith("share_")]
        shares = {f"share_{name}": means[f"share_{name}"] for name in names}
        return shares | {f"enrichment_{name}": means[f"share_{name}"] / means[f"prior_{name}"] for name in names}


class AttentionOnTruth(_PictureMetric):
    """How well attention and draws meet the answer of pictures that carry it, as the synthetic ones do.

    The datalist's ``cell`` holds the flat indices of the true cells in the picture as stored, ``level`` the name of
    their magnification ("100X"). Pictures without them are left out. Attached as ``"truth"`` it writes
    ``truth_cell_attention`` and ``truth_magnification_attention``, the mean attention on the true cells and on the true
    magnification, and ``truth_cell_drawn``, how often at least one true cell was drawn.
    """

    _nothing = "no picture tells its answer: give 'cell' and 'level' in the datalist, or leave AttentionOnTruth out."

    def numbers(self, result: PictureResult) -> dict[str, float] | None:
        """Attention on the truth of one picture; None where that is not known."""
        if result.data.get("cell") is None or result.data.get("level") is None:
            return None
        geometry, attention, level = result.pyramid.geometry, result.attention, result.data["level"]
        if level not in geometry.names:
            raise ValueError(f"{result.filename}: 'level' is {level!r}, which is none of {', '.join(geometry.names)}.")
        start, end = list(pairwise(geometry.offsets))[geometry.names.index(level)]
        stored = [result.pyramid.stored_index(cell) for cell in range(geometry.num_cells)]
        truth = np.isin(stored, np.ravel(result.data["cell"]))
        drawn = result.cells[result.weights != 0]
        return {
            "cell_attention": float(attention[truth].sum()),
            "magnification_attention": float(attention[start:end].sum()),
            "cell_drawn": float(truth[drawn].any()),
        }


class PatchesRead(_PictureMetric):
    """How many patches of a picture were read, and how often they were certain to be enough.

    Attached as ``"patches"`` it writes ``patches_read``, the mean number, and, if certified stopping was asked for,
    ``patches_certified``, the share of pictures whose label is that of all patches for certain.
    """

    def numbers(self, result: PictureResult) -> dict[str, float]:
        """Patches read of one picture, and whether its label is certified."""
        found = {"read": float(result.patches_read)}
        return found if result.certified is None else found | {"certified": float(result.certified)}
