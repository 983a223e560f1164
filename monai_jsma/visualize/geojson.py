# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Predictions as GeoJSON that QuPath (0.4 and later) imports as objects on the slide.

Coordinates are (x, y), that is (column, row), in level-0 pixels. They count as in QuPath: from the corner of
the scanned part where the file names one (:mod:`monai_jsma.slides.frame`), else from that of the file; the member
``frame`` of the collection says so. Rings are closed and, as numbers, counterclockwise (RFC 7946). The identifier of an
object depends only on its place, so that equal predictions give equal files.

* A region is a locked annotation of the predicted class. Its measurements are the probabilities of the classes and the
  attention of each magnification.
* A patch that was read is an annotation inside the region, in the color of its magnification. Where a network zooms
  into a slide, the regions that it looked into stand in the place of patches, and the patches are annotations in them.
* A cell is a tile without class, for QuPath's measurement maps; of a zoom so are the regions of each stage.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.colors import to_rgb

from monai_jsma._io import name_region, write_whole
from monai_jsma.geometry import Box, Magnification, PatchGeometry
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.slides.frame import Frame, check_frame, find_origin
from monai_jsma.tasks import find_truth_probability, name_label
from monai_jsma.visualize.canvas import pick_class_color, pick_color
from monai_jsma.visualize.patches import rank_patches

__all__ = ["feature_collection", "write_geojson"]

_NO_CLASS = "#808080"  # gray: multi-label predicts no class
Feature = dict[str, Any]


def feature_collection(records: Iterable[PredictionRecord], *, cells: bool = False, frame: Frame = "bounds") -> Feature:
    """The records of one file as a FeatureCollection.

    Args:
        records: prediction records of regions of the file.
        cells: whether to add every cell with its attention, not only the patches that were read.
        frame: the corner that coordinates count from: ``"bounds"`` as QuPath does, or ``"canvas"``, that of level 0.

    Raises:
        ValueError: if a patch of a record does not lie at one of its cells, or there is no such frame.
    """
    check_frame(frame)
    features: list[Feature] = []
    for record in records:
        of_record = [_make_region(record), *_make_patches(record), *_make_inner_patches(record)]
        if cells:
            of_record += _make_cells(record)
        origin = find_origin(frame, record.bounds)
        features += [_move_feature(feature, origin) for feature in of_record]
    return {"type": "FeatureCollection", "frame": frame, "features": features}


def write_geojson(
    records: Sequence[PredictionRecord],
    folder: str | os.PathLike[str],
    *,
    cells: bool = False,
    frame: Frame = "bounds",
) -> Path:
    """Write the records of one file as ``NAME.geojson``.

    Args:
        records: prediction records of regions of the file.
        folder: folder to write to.
        cells: whether to add every cell with its attention.
        frame: the corner that coordinates count from.

    Raises:
        ValueError: as :func:`feature_collection`.
    """
    collection = feature_collection(records, cells=cells, frame=frame)
    text = json.dumps(collection, ensure_ascii=False, allow_nan=False)
    return write_whole(Path(folder) / f"{name_region(records[0].file)}.geojson", f"{text}\n")


def _make_region(record: PredictionRecord) -> Feature:
    predicted = name_label(record.prediction, record.classes)
    probability_of_label = find_truth_probability(record.probabilities, record.prediction)

    measurements = {}
    for name, probability in zip(record.classes, record.probabilities, strict=True):
        measurements[f"probability {name}"] = probability
    if record.inner_patches is None:
        for name, share in record.shares.items():
            measurements[f"attention {name}"] = share
    else:
        measurements["regions looked at"] = record.regions_looked_at or 0
        measurements["patches read"] = record.patches_read

    metadata = {"file": record.file, "group": record.group}
    if record.label is not None:
        metadata["true class"] = name_label(record.label, record.classes)

    properties = {
        "objectType": "annotation",
        "name": f"predicted {predicted} ({probability_of_label:.2f})",
        "classification": _make_classification(record),
        "isLocked": True,
        "measurements": measurements,
        "metadata": metadata,
    }
    return _make_feature(record, Box(0, 0, *record.size), "region", properties)


def _make_patches(record: PredictionRecord) -> Iterator[Feature]:
    """The patches that were read, numbered by weight as in the figures."""
    geometry = record.geometry
    evidence = record.evidence
    patch_of_cell = dict(zip(evidence.cells.tolist(), record.patches, strict=True))
    cells, _ = rank_patches(evidence.cells, evidence.weights)
    for number, cell in enumerate(cells.tolist(), start=1):
        patch = patch_of_cell[cell]
        magnification = Magnification(patch.mpp).name
        kind = patch.magnification if record.inner_patches is None else "region"
        properties = {
            "objectType": "annotation",
            "name": f"{number}: {kind}, weight {patch.weight:.3g}",
            "color": _convert_color(pick_color(geometry.cell(cell).level)),
            "classification": _make_classification(record),
            "isLocked": True,
            "measurements": {
                "attention": patch.attention,
                "weight": patch.weight,
                "mpp": patch.mpp,
                "magnification": float(magnification.rstrip("X")),
            },
            "metadata": {"magnification": patch.magnification},
        }
        yield _make_feature(record, geometry.box(cell), f"patch {cell}", properties)


def _make_inner_patches(record: PredictionRecord) -> Iterator[Feature]:
    """The patches that were read inside the regions of a slide, numbered by weight."""
    top, left = record.location
    for number, patch in enumerate(record.inner_patches or (), start=1):
        magnification = Magnification(patch.mpp).name
        properties = {
            "objectType": "annotation",
            "name": f"patch {number}: {patch.magnification}, weight {patch.weight:.3g}",
            "color": _convert_color(pick_color(record.find_inner_level(patch))),
            "classification": _make_classification(record),
            "isLocked": True,
            "measurements": {
                "weight": patch.weight,
                "mpp": patch.mpp,
                "magnification": float(magnification.rstrip("X")),
            },
            "metadata": {"magnification": patch.magnification},
        }
        row, col, height, width = patch.box
        box = Box(row - top, col - left, height, width)
        yield _make_feature(record, box, f"inner patch {number}", properties)


def _make_cells(record: PredictionRecord) -> Iterator[Feature]:
    """All cells. Each magnification is a measurement of its own, so that QuPath maps one of them at a time.

    Of a slide that was zoomed into these are the regions of each stage, and the cells of the regions that were looked
    into; the attention of a cell is its probability in its region times that of coming there.
    """
    is_zoomed = record.inner_patches is not None
    stage = "stage 1" if is_zoomed else None
    yield from _make_tiles(record, record.geometry, record.attention, corner=record.location, stage=stage)

    for number, region in enumerate(record.seen_regions or ()):
        attention = [region.probability * value for value in region.attention]
        corner = (int(region.box.row), int(region.box.col))
        stage = f"stage {region.stage + 1}" if region.stage < record.zoom_depth else None
        geometry = region.make_geometry(record.mpp)
        yield from _make_tiles(record, geometry, attention, corner=corner, stage=stage, prefix=f"region {number} ")


def _make_tiles(
    record: PredictionRecord,
    geometry: PatchGeometry,
    attention: Sequence[float],
    *,
    corner: tuple[int, int],
    stage: str | None,
    prefix: str = "",
) -> Iterator[Feature]:
    """The cells of a region that begins at a corner of the file, named by a stage or else by their magnification."""
    top = corner[0] - record.location[0]
    left = corner[1] - record.location[1]
    for cell, value in enumerate(attention):
        name = stage or geometry.names[geometry.cell(cell).level]
        properties = {
            "objectType": "tile",
            "measurements": {f"attention {name}": value},
        }
        row, col, height, width = geometry.cell_box(cell)
        box = Box(row + top, col + left, height, width)
        yield _make_feature(record, box, f"{prefix}cell {cell}", properties)


def _make_feature(record: PredictionRecord, box: Box, name: str, properties: Mapping[str, Any]) -> Feature:
    """An object at a box of the region; what reaches beyond the region is cut off."""
    height, width = record.size
    row, col = record.location
    inside = Box(
        row=row + box.row,
        col=col + box.col,
        height=min(box.height, height - box.row),
        width=min(box.width, width - box.col),
    )
    ring = [[round(x, 3), round(y, 3)] for x, y in inside.ring]

    identity = f"{record.file}|{record.location}|{record.size}|{name}"
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, identity)),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": properties,
    }


def _move_feature(feature: Feature, origin: tuple[int, int]) -> Feature:
    """The object with coordinates that count from the row and column of an origin."""
    top, left = origin
    if top == 0 and left == 0:
        return feature
    (ring,) = feature["geometry"]["coordinates"]
    moved = [[round(x - left, 3), round(y - top, 3)] for x, y in ring]
    return {**feature, "geometry": {"type": "Polygon", "coordinates": [moved]}}


def _make_classification(record: PredictionRecord) -> Mapping[str, Any]:
    """The predicted class, of multi-label all of them in the color of the most probable. QuPath needs a color."""
    index = record.main_class
    color = _NO_CLASS if index is None else pick_class_color(index)
    return {"name": name_label(record.prediction, record.classes), "color": _convert_color(color)}


def _convert_color(color: str) -> list[int]:
    """Red, green and blue from 0 to 255."""
    return [round(255 * channel) for channel in to_rgb(color)]
