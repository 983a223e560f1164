# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Whether a prediction record is sound."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from monai_jsma.predictions.records import PredictionRecord

__all__ = ["check_record"]


def check_record(record: PredictionRecord) -> None:
    """Raise ValueError for values that a table or picture would show as if they were sound."""
    classes, label = record.classes, record.label
    if not (isinstance(classes, tuple) and classes and len(set(classes)) == len(classes)):
        raise ValueError(f"classes are {classes!r}, not different names")
    if not all(isinstance(name, str) for name in (*classes, record.file, record.group)):
        raise ValueError("classes, file or group are no text")
    if not all(type(n) is int for n in (*record.location, *record.size)) or len(record.location) != 2:
        raise ValueError(f"location {record.location!r} or size {record.size!r} are no pairs of whole numbers")
    if type(record.aligned) is not bool:
        raise ValueError(f"aligned {record.aligned!r} is neither true nor false")
    if label is not None and not (type(label) is int and 0 <= label < len(classes)):
        raise ValueError(f"label {label!r} is no index of {len(classes)} classes")
    for name, values, count in (
        ("probabilities", record.probabilities, len(classes)),
        ("attention", record.attention, record.geometry.num_cells),
        *(("draw_probabilities", draw, len(classes)) for draw in record.draw_probabilities or ()),
    ):
        if len(values) != count or min(values) < 0 or not abs(math.fsum(values) - 1) <= 1e-3:
            raise ValueError(f"{name} are not {count} probabilities that sum to 1")
    draws = record.draw_probabilities
    if draws is not None and not (draws and np.allclose(np.mean(draws, axis=0), record.probabilities, atol=1e-3)):
        raise ValueError("probabilities are not the mean of draw_probabilities")
    if record.certified is not None and type(record.certified) is not bool:
        raise ValueError(f"certified {record.certified!r} is neither true nor false")
    intervals = record.intervals or ((0.0, 1.0),) * len(classes)
    if len(intervals) != len(classes) or not all(0 <= low <= high <= 1 for low, high in intervals):
        raise ValueError(f"intervals {intervals!r} are not {len(classes)} pairs (low, high) in [0, 1]")
    grids = dict(zip(record.geometry.names, record.geometry.grids, strict=True))
    for patch in record.patches:
        rows, cols = grids.get(patch.magnification, (0, 0))
        if not (0 <= patch.row < rows and 0 <= patch.col < cols):
            raise ValueError(f"there is no cell {patch.row}, {patch.col} at {patch.magnification}")
