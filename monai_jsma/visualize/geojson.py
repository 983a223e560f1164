# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Predictions as GeoJSON that QuPath (0.4 and later) imports as objects on the slide.

Coordinates are (x, y), that is (column, row), in level-0 pixels of the file, whose first pixel begins at (0, 0). Rings
are closed and, as numbers, counterclockwise (RFC 7946). Each object has an identifier that depends on its place alone,
so the same prediction gives the same file.

* A region is a locked annotation of the predicted class; its measurements are the probabilities of the classes and the
  attention of each magnification.
* A patch that was read is an annotation inside it, in the colour of its magnification.
* A cell is a tile without class, for QuPath's measurement maps.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

from monai_jsma.geometry import Box, Magnification
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.visualize.canvas import colour
from monai_jsma.visualize.patches import drawn_patches

__all__ = ["feature_collection"]

Feature = dict[str, Any]
# Okabe and Ito's colours, which colour-blind readers can tell apart.
_CLASS_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")


def feature_collection(records: Iterable[PredictionRecord], *, cells: bool = False) -> Feature:
    """The records of one file as a FeatureCollection.

    Args:
        records: regions of the file.
        cells: add every cell with its attention, not only the patches that were read.

    Raises:
        ValueError: when a patch of a record does not lie at one of its cells.
    """
    features = [f for r in records for f in (_region(r), *_patches(r), *(_cells(r) if cells else ()))]
    return {"type": "FeatureCollection", "features": features}


def _region(record: PredictionRecord) -> Feature:
    names, probabilities = record.classes, record.probabilities
    known = {} if record.label is None else {"true class": names[record.label]}
    return _feature(
        record,
        Box(0, 0, *record.size),
        "region",
        objectType="annotation",
        name=f"predicted {names[record.prediction]} ({probabilities[record.prediction]:.2f})",
        classification=_classification(record),
        isLocked=True,
        measurements={
            **{f"probability {name}": p for name, p in zip(names, probabilities, strict=True)},
            **{f"attention {name}": share for name, share in record.shares.items()},
        },
        metadata={"file": record.file, "group": record.group, **known},
    )


def _patches(record: PredictionRecord) -> Iterable[Feature]:
    """Numbered by weight, as in the pictures."""
    by_cell = dict(zip(record.cells.tolist(), record.patches, strict=True))
    drawn, _ = drawn_patches(record.cells, np.array([patch.weight for patch in record.patches]))
    for number, cell in enumerate(drawn.tolist(), start=1):
        patch = by_cell[cell]
        yield _feature(
            record,
            record.geometry.box(cell),
            f"patch {cell}",
            objectType="annotation",
            name=f"{number}: {patch.magnification}, weight {patch.weight:.3g}",
            color=_rgb(colour(record.geometry.cell(cell).level)),
            classification=_classification(record),
            isLocked=True,
            measurements={
                "attention": patch.attention,
                "weight": patch.weight,
                "mpp": patch.mpp,
                "magnification": float(Magnification(patch.mpp).name.rstrip("X")),
            },
            metadata={"magnification": patch.magnification},
        )


def _cells(record: PredictionRecord) -> Iterable[Feature]:
    """One measurement a magnification, so that QuPath maps one of them at a time."""
    geometry = record.geometry
    for cell, attention in enumerate(record.attention):
        measurements = {f"attention {geometry.names[geometry.cell(cell).level]}": attention}
        yield _feature(record, geometry.cell_box(cell), f"cell {cell}", objectType="tile", measurements=measurements)


def _feature(record: PredictionRecord, box: Box, what: str, **properties: Any) -> Feature:
    """An object at a box of the region, without what reaches beyond the region."""
    (top, left), (height, width) = record.location, record.size
    first, last = top + box.row, top + min(box.row + box.height, height)
    begin, end = left + box.col, left + min(box.col + box.width, width)
    corners = ((begin, first), (end, first), (end, last), (begin, last), (begin, first))
    ring = [[round(x, 3), round(y, 3)] for x, y in corners]
    name = f"{record.file}|{record.location}|{record.size}|{what}"
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": properties,
    }


def _classification(record: PredictionRecord) -> Mapping[str, Any]:
    """QuPath refuses a class without a colour."""
    index = record.prediction
    return {"name": record.classes[index], "color": _rgb(_CLASS_COLOURS[index % len(_CLASS_COLOURS)])}


def _rgb(name: str) -> list[int]:
    return [round(255 * part) for part in to_rgb(name)]
