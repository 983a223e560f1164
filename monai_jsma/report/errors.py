# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The worst errors, and their pictures: the thumbnail with the patches that were read as boxes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from monai_jsma.geometry import GridCell
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.report.units import Units
from monai_jsma.slides.errors import SlideError
from monai_jsma.transforms import LoadPyramid
from monai_jsma.visualize import patch_boxes_image

__all__ = ["error_picture", "worst_errors"]

_SIDE = 768  # pixels of the thumbnail's longer side


def worst_errors(units: Units, most: int) -> list[dict[str, Any]]:
    """Units of the wrong class, the greatest loss first; each shown by its region of the greatest loss."""
    of_truth = units.probabilities[np.arange(len(units.labels)), units.labels]
    predicted = units.probabilities.argmax(axis=1)
    wrong = [i for i in np.argsort(of_truth, kind="stable").tolist() if predicted[i] != units.labels[i]]
    return [_error(units, i) for i in wrong[:most]]


def _error(units: Units, i: int) -> dict[str, Any]:
    label = int(units.labels[i])
    shown = min(units.records[i], key=lambda record: (record.probabilities[label], record.key))
    return {
        "file": shown.file,
        "location": list(shown.location),
        "size": list(shown.size),
        "group": shown.group,
        "regions": len(units.records[i]),
        "label": label,
        "prediction": int(units.probabilities[i].argmax()),
        "probabilities": units.probabilities[i].tolist(),
    }


def error_picture(record: PredictionRecord, base_dir: Path) -> np.ndarray | str:
    """The region's thumbnail with the patches that were read, uint8 ``(height, width, 3)``, or why there is none.

    Args:
        record: of the region.
        base_dir: where relative paths begin.
    """
    load = LoadPyramid(record.magnifications, record.patch_size, max_upsampling=math.inf)  # no patch is read
    scale = min(1.0, _SIDE / max(record.size))
    try:
        pyramid = load(base_dir / record.file, record.mpp, record.location, record.size)
        thumbnail = pyramid.thumbnail((max(1, round(record.size[0] * scale)), max(1, round(record.size[1] * scale))))
    except (OSError, SlideError, ValueError) as error:
        return " ".join(str(error).split())
    geometry = record.geometry
    cells = [geometry.index(GridCell(geometry.names.index(p.magnification), p.row, p.col)) for p in record.patches]
    weights = np.array([patch.weight for patch in record.patches], dtype=np.float64)
    return patch_boxes_image(thumbnail, geometry, np.array(cells, dtype=np.int64), weights, frame=record.location)
