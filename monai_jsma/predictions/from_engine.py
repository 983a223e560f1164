# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the network did with each picture of an engine's last batch, for metrics, handlers and reports.

MONAI's engines hold batch and output either as they were (tensors of a whole batch) or, by default, decollated (a list
with one mapping a picture). :func:`picture_results` reads both. Attention has shape ``(cells,)``, over the flat cell
index of :mod:`monai_jsma.geometry`; it belongs to the picture as it is oriented.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import decollate_batch

from monai_jsma.geometry import to_mpp
from monai_jsma.predictions.records import PatchRecord, PredictionRecord

if TYPE_CHECKING:
    from monai_jsma.data.pyramid import Pyramid

__all__ = ["PictureResult", "make_record", "picture_results"]


@dataclass(frozen=True)
class PictureResult:
    """One picture and what the network made of it.

    Args:
        pyramid: the picture, to read patches from.
        data: the picture's items of batch and output; where both have one, the batch's, which is as it was loaded.

    Raises:
        ValueError: when the attention is shorter than the picture's cells.
    """

    pyramid: Pyramid
    data: Mapping[str, Any]

    @property
    def attention(self) -> np.ndarray:
        """Probability of each cell, float64 ``(cells,)``; the padding of a batch of unequal pictures is cut off."""
        attention, cells = _array(self.data["attention"]).astype(np.float64), self.pyramid.geometry.num_cells
        if attention.ndim != 1 or len(attention) < cells:
            raise ValueError(f"{self.filename}: attention of shape {attention.shape} for a picture of {cells} cells.")
        return attention[:cells]

    @property
    def cells(self) -> np.ndarray:
        """Flat index of the drawn cells ``(k,)``, in the order of drawing."""
        return _array(self.data["cells"]).astype(np.int64)

    @property
    def weights(self) -> np.ndarray:
        """Aggregation weight of the drawn cells, float64 ``(k,)``; 0 where nothing was drawn."""
        return _array(self.data["weights"]).astype(np.float64)

    @property
    def patches_read(self) -> int:
        """How many patches were read: a cell that was drawn twice was read once."""
        return len(np.unique(self.cells[self.weights > 0]))

    @property
    def certified(self) -> bool | None:
        """Whether the label is that of all patches, for certain; None where it was not asked."""
        value = self.data.get("certified")
        return None if value is None else bool(_array(value))

    @property
    def thumbnail(self) -> np.ndarray:
        """The thumbnail that was attended to, ``(3, height, width)``."""
        return _array(self.data["image"])

    @property
    def filename(self) -> str:
        """The picture's file, as its metadata names it."""
        meta = getattr(self.data.get("image"), "meta", {})
        return str(meta.get("filename_or_obj") or self.pyramid.path)

    def class_index(self, key: str) -> int | None:
        """Class under ``"label"`` or ``"pred"``: an index, or scores and their maximum; None if there is none."""
        if self.data.get(key) is None:
            return None
        value = _array(self.data[key]).reshape(-1)
        return int(value[0]) if value.size == 1 else int(value.argmax())

    @property
    def frame(self) -> tuple[int, int] | None:
        """Row and column of the picture's corner in level 0 of its file; None if the picture is turned or mirrored."""
        return self.pyramid.origin if self.pyramid.orientation == 0 else None


def picture_results(engine: Engine) -> list[PictureResult]:
    """Results of the last batch of ``engine``, which must carry ``"pyramid"``, its output ``"attention"``.

    Raises:
        ValueError: when batch or output lack them.
    """
    batch, output = _per_picture(engine.state.batch), _per_picture(engine.state.output)
    results = []
    for items, made in zip(batch, output, strict=True):
        data = {**made, **items}
        if "pyramid" not in data or "attention" not in data:
            raise ValueError(
                f"attention cannot be shown: engine.state holds {sorted(data)}, but 'pyramid' (of the transforms) and "
                "'attention' (of JSMATrainer or JSMAEvaluator) are needed."
            )
        results.append(PictureResult(data["pyramid"], data))
    return results


def make_record(
    result: PictureResult,
    classes: Sequence[str],
    *,
    label: int | None = None,
    group: str | None = None,
    run: Mapping[str, Any] | None = None,
) -> PredictionRecord:
    """The record of one picture of an engine's batch.

    Args:
        result: the picture; its ``pred`` must be probabilities ``(classes,)``.
        classes: name of each class.
        label: index of the true class, when known.
        group: of the picture; its file by default.
        run: what made the prediction, see :class:`~monai_jsma.predictions.records.PredictionRecord`.

    Raises:
        ValueError: when the probabilities do not fit the classes, or something is not finite.
    """
    pyramid, geometry = result.pyramid, result.pyramid.stored_geometry
    probabilities = _numbers(_array(result.data["pred"]))
    if len(probabilities) != len(classes) or abs(sum(probabilities) - 1) > 1e-3:
        raise ValueError(f"{pyramid.path}: {len(classes)} probabilities were expected, but got {probabilities}.")
    stored = [pyramid.stored_index(cell) for cell in range(geometry.num_cells)]
    attention = np.empty(geometry.num_cells)
    attention[stored] = result.attention
    weights: Counter[int] = Counter()
    for cell, weight in zip(result.cells.tolist(), result.weights.tolist(), strict=True):
        if weight > 0:  # 0: nothing was drawn
            weights[stored[cell]] += weight
    draws, intervals = result.data.get("draw_probabilities"), result.data.get("intervals")
    return PredictionRecord(
        file=pyramid.path,
        location=pyramid.origin,
        size=geometry.size,
        mpp=pyramid.mpp,
        mpp_source=pyramid.mpp_source,
        classes=tuple(classes),
        probabilities=probabilities,
        label=label,
        group=pyramid.path if group is None else group,
        magnifications=tuple(map(to_mpp, geometry.magnifications)),
        patch_size=geometry.patch_size,
        attention=_numbers(attention),
        patches=tuple(_patch_record(pyramid, cell, attention[cell], weight) for cell, weight in weights.most_common()),
        draw_probabilities=None if draws is None else tuple(map(_numbers, _array(draws))),
        certified=result.certified,
        intervals=None if intervals is None else tuple((low, high) for low, high in map(_numbers, _array(intervals))),
        run=dict(run or {}),
        aligned=geometry.aligned,
    )


def _patch_record(pyramid: Pyramid, cell: int, attention: float, weight: float) -> PatchRecord:
    """Of a cell of the picture as stored."""
    geometry, (top, left) = pyramid.stored_geometry, pyramid.origin
    level, row, col = geometry.cell(cell)
    box = geometry.box(cell)
    box = box._replace(row=box.row + top, col=box.col + left)
    mpp = to_mpp(geometry.magnifications[level])
    return PatchRecord(geometry.names[level], mpp, row, col, box, *_numbers((attention, weight)))


def _numbers(values: Iterable[float]) -> tuple[float, ...]:
    """Nine digits of each number: what float32 holds.

    Raises:
        ValueError: when one is not finite.
    """
    numbers = tuple(float(f"{float(value):.9g}") for value in values)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"finite numbers were expected, but got {numbers}.")
    return numbers


def _per_picture(state: Any) -> list[dict[str, Any]]:
    if isinstance(state, list):
        return state
    if not isinstance(state, Mapping):
        raise ValueError(f"a mapping or MONAI's list of mappings was expected in engine.state, but got {type(state)}.")
    items = decollate_batch({key: value for key, value in state.items() if key != "pyramid"})
    if "pyramid" in state:
        items = [{**item, "pyramid": pyramid} for item, pyramid in zip(items, state["pyramid"], strict=True)]
    return items


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
