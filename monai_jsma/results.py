# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the network did with each picture of an engine's last batch, for metrics, handlers and reports.

MONAI's engines hold batch and output either as they were (tensors of a whole batch) or, by default, decollated (a list
with one mapping a picture). :func:`picture_results` reads both. Attention has shape ``(cells,)``, over the flat cell
index of :mod:`monai_jsma.data.geometry`; it belongs to the picture as it is oriented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import decollate_batch

from monai_jsma.data.orientation import oriented_size

if TYPE_CHECKING:
    from monai_jsma.data.pyramid import Pyramid

__all__ = ["PictureResult", "picture_results", "table_names"]


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


def table_names(batch: Any) -> list[dict[str, str]]:
    """What each picture of a batch is called in a table, as MONAI's ``ClassificationSaver`` takes it.

    A whole picture is called by its file; a region of one ``file:row:column:height:width``, in level-0 pixels, since
    regions share their file and MONAI keeps one line a name.
    """
    return [{"filename_or_obj": _table_name(item["pyramid"])} for item in _per_picture(batch)]


def _table_name(pyramid: Pyramid) -> str:
    size = oriented_size(pyramid.geometry.size, pyramid.orientation)
    parts = () if size == tuple(pyramid.reader.level_sizes[0]) else (*pyramid.origin, *size)
    name = ":".join(map(str, (pyramid.path, *parts)))
    return '"{}"'.format(name.replace('"', '""')) if set(name) & set(',"\n') else name  # MONAI writes it as it is


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
