# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures with a chosen attention, and engines that show them as MONAI's do: shared by the tests of what is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor, decollate_batch, list_data_collate

from monai_jsma.data.pyramid import Pyramid
from monai_jsma.predictions.evidence import Evidence
from monai_jsma.predictions.from_engine import collect_evidence
from monai_jsma.slides.base import ArrayReader

MAGNIFICATIONS, PATCH = (1.0, 0.5), 40


def make_pyramid(pixels: np.ndarray, path: str = "slides/a.png", **options: Any) -> Pyramid:
    """``pixels`` ``(height, width, 3)`` at 0.5 um/px, seen at 100X and 200X through patches of 40 pixels."""
    return Pyramid(ArrayReader(pixels), mpp=0.5, magnifications=MAGNIFICATIONS, patch_size=PATCH, path=path, **options)


def grey_pyramid(size: tuple[int, int], path: str = "slides/a.png", **options: Any) -> Pyramid:
    return make_pyramid(np.full((*size, 3), 100, np.uint8), path, **options)


def item(pyramid: Pyramid, thumbnail: tuple[int, int] = (30, 50), **more: Any) -> dict[str, Any]:
    """A loaded datalist entry."""
    image = MetaTensor(torch.from_numpy(pyramid.thumbnail(thumbnail)), meta={"filename_or_obj": pyramid.path})
    return {"image": image, "pyramid": pyramid, **more}


def output(pyramid: Pyramid, attention: Mapping[int, float], cells: Sequence[int], weights: Sequence[float]) -> dict:
    """What the network made of a picture: ``attention`` on some cells, and its draws."""
    dense = torch.zeros(pyramid.geometry.num_cells)
    for cell, value in attention.items():
        dense[cell] = value
    return {"attention": dense, "cells": torch.tensor(cells), "weights": torch.tensor(weights)}


def evidence_of(pyramid: Pyramid, made: Mapping[str, Any], **more: Any) -> Evidence:
    """The evidence of a picture, from what the network made of it."""
    engine = Engine(lambda engine, batch: None)
    engine.state.batch, engine.state.output = [{"pyramid": pyramid, **more}], [dict(made)]
    (evidence,) = collect_evidence(engine)
    return evidence


def padded(outputs: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Outputs of a batch stacked, the attention of small pictures padded with 0."""
    rows = {key: [o[key] for o in outputs] for key in outputs[0]}
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        key: pad(values, batch_first=True) if values[0].ndim else torch.stack(values) for key, values in rows.items()
    }


def show(
    batches: Sequence[Sequence[tuple[dict, dict]]],
    attach: Callable[[Engine], Any],
    *,
    decollated: bool = True,
    epochs: int = 1,
) -> Engine:
    """Run an engine, after ``attach(engine)``, over batches of (item, output) pairs held in MONAI's forms."""

    def process(engine: Engine, batch: Sequence[tuple[dict, dict]]) -> Any:
        items, made = [row[0] for row in batch], padded([row[1] for row in batch])
        engine.state.batch = items if decollated else list_data_collate(items)
        return decollate_batch(made) if decollated else made

    engine = Engine(process)
    attach(engine)
    engine.run(batches, max_epochs=epochs)
    return engine
