# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of a run that goes on count what it predicted before it was stopped: from the records, without any file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from monai_jsma.data.batch import PyramidBatch
from monai_jsma.data.pyramid import Pyramid
from monai_jsma.geometry import GridCell, to_mpp
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.slides.base import Reader

__all__ = ["replay"]


def replay(engine: Engine, record: PredictionRecord, item: Mapping[str, Any]) -> None:
    """Let the metrics of an engine of MONAI's count a picture that was predicted before, without reading it.

    The handlers of a completed iteration are called with a batch of this picture, which has no ``image``.

    Args:
        engine: in an epoch.
        record: what was predicted.
        item: of the datalist.
    """
    pyramid = _pyramid_of(record)
    geometry = pyramid.geometry
    levels = [to_mpp(m) for m in geometry.magnifications]
    cells = [geometry.index(GridCell(levels.index(p.mpp), p.row, p.col)) for p in record.patches]
    made = {
        "pred": torch.tensor([record.probabilities]).clamp_min(torch.finfo(torch.float32).tiny).log(),
        "label": None if record.label is None else torch.tensor([record.label]),
        "attention": torch.tensor([record.attention]),
        "cells": torch.tensor([cells]),
        "weights": torch.tensor([[p.weight for p in record.patches]]),
    }
    if record.certified is not None:
        made["certified"] = torch.tensor([record.certified])
    state: Any = engine.state
    state.batch = {"pyramid": PyramidBatch([pyramid])}
    state.output = {key: value if value is None else value.to(state.device) for key, value in made.items()}
    engine.fire_event(IterationEvents.MODEL_COMPLETED)  # MONAI takes the batch apart and does the postprocessing
    state.batch[0].update({key: value for key, value in item.items() if key != "image"})
    engine.fire_event(Events.ITERATION_COMPLETED)


class _NoPixels(Reader):
    """Stands for a file that is not read again."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.level_sizes, self.exact = (size,), (True,)

    def _read(self, level: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        raise NotImplementedError("pictures that were predicted before are not read again.")

    def close(self) -> None:
        """Nothing is open."""


def _pyramid_of(record: PredictionRecord) -> Pyramid:
    (row, col), (height, width) = record.location, record.size
    return Pyramid(
        _NoPixels((row + height, col + width)),
        mpp=record.mpp,
        magnifications=record.magnifications,
        patch_size=record.patch_size,
        aligned=record.aligned,
        path=record.file,
        mpp_source=record.mpp_source,
        origin=record.location,
        size=record.size,
        max_upsampling=math.inf,
    )
