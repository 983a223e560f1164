# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What was predicted, as the page needs it: numbers, texts and places, as JSON holds them.

Places are (x, y) or (x, y, width, height) in level-0 pixels of the file, as the browser draws them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_jsma.datalists.regions import Area
from monai_jsma.geometry import Box, PatchGeometry
from monai_jsma.predictions.evidence import InnerPatch, SeenRegion
from monai_jsma.predictions.records import PatchRecord, PredictionRecord
from monai_jsma.tasks import find_truth_probability, name_label
from monai_jsma.viewer.deep_zoom import TILE_SIZE
from monai_jsma.viewer.slide_tiles import OpenSlide
from monai_jsma.visualize.area_outlines import by_class
from monai_jsma.visualize.attention import describe_share, make_color_map
from monai_jsma.visualize.canvas import pick_color

__all__ = ["describe_page", "describe_slide"]

_AS_REGION = {"kind": "region", "color": "#ffffff"}
_MAX_CORNERS = 20_000  # of an outline: of longer ones every second, third, ... corner is drawn


def describe_page(records: Mapping[str, Sequence[PredictionRecord]], *, title: str) -> dict[str, Any]:
    """What the list of slides shows: of each region the predicted and the true class.

    Args:
        records: the records of each file, by its path.
        title: name of the predictions.
    """
    slides = []
    for file, of_file in records.items():
        slides.append(
            {
                "file": file,
                "name": Path(file).name,
                "regions": [_describe_classes(record) for record in of_file],
            }
        )
    return {
        "title": title,
        "classes": _list_classes(records),
        "slides": slides,
        "colors": _list_colors(),
    }


def _list_classes(records: Mapping[str, Sequence[PredictionRecord]]) -> list[str]:
    """Names of all classes, each once, in the order in which they come first; of multi-label those of all labels."""
    names: dict[str, None] = {}
    for of_file in records.values():
        for record in of_file:
            if record.thresholds is None:
                names.update(dict.fromkeys(record.classes))
                continue
            answer = _describe_classes(record)
            names.update(dict.fromkeys(name for name in (answer["predicted"], answer["true"]) if name))
    return list(names)


def _list_colors() -> list[list[int]]:
    """Red, green and blue of the attention, from none to the most: those of the figures."""
    colors = make_color_map()(np.linspace(0, 1, 256))[:, :3]
    return (255 * colors).round().astype(int).tolist()


def _describe_classes(record: PredictionRecord) -> dict[str, Any]:
    return {
        "predicted": name_label(record.prediction, record.classes),
        "true": None if record.label is None else name_label(record.label, record.classes),
        "probability": find_truth_probability(record.probabilities, record.prediction),
    }


def describe_slide(records: Iterable[PredictionRecord], slide: OpenSlide, areas: Iterable[Area]) -> dict[str, Any]:
    """All that is drawn over a slide and told of it.

    Args:
        records: the records of the file.
        slide: the file.
        areas: its annotated areas.
    """
    records = list(records)
    height, width = slide.info.size
    bounds = slide.info.bounds
    return {
        "file": records[0].file,
        "name": Path(records[0].file).name,
        "width": width,
        "height": height,
        "mpp": records[0].mpp,
        "image": _make_rectangle(bounds or Box(0, 0, height, width)),
        "tileSize": TILE_SIZE,
        "minLevel": slide.first_level,
        "maxLevel": slide.zoom.max_level,
        "version": slide.version,
        "regions": [_describe_region(record) for record in records],
        "annotations": _describe_areas(areas, bounds),
    }


def _describe_region(record: PredictionRecord) -> dict[str, Any]:
    by_probability = np.argsort(np.negative(record.probabilities), kind="stable")
    return {
        **_describe_classes(record),
        "box": _make_rectangle(Box(*record.location, *record.size)),
        "location": list(record.location),
        "classes": [[record.classes[index], record.probabilities[index]] for index in by_probability],
        "group": record.group,
        "zooms": record.inner_patches is not None,
        "notes": _list_notes(record),
        "layers": _describe_layers(record),
        "windows": _describe_windows(record),
        "patches": _describe_patches(record),
    }


def _list_notes(record: PredictionRecord) -> list[str]:
    """How sure the prediction is, and how much was read for it."""
    notes = []
    if record.certified is not None:
        notes.append(_describe_certificate(record))
    if record.draws:
        spread = max(record.spread or (0.0,))
        notes.append(f"Mean of {record.draws} draws, whose probabilities spread by {spread:.2f}.")
    if record.inner_patches is not None:
        notes.append(f"{record.regions_looked_at} regions were looked at, {record.patches_read} patches read.")
    else:
        notes.append(f"{record.patches_read} of {record.geometry.num_cells} patches were read.")
    return notes


def _describe_certificate(record: PredictionRecord) -> str:
    if not record.certified:
        return "All patches might give another class: reading ended before that was certain."
    if record.confidence is None:
        return "All patches would give the same class: that is certain."
    return f"All patches would give the same class, at a confidence of {record.confidence:.1%}."


def _describe_layers(record: PredictionRecord) -> list[dict[str, Any]]:
    """What may be shown of the attention: that of each magnification, or of each stage of a zoom, coarse to fine."""
    if record.inner_patches is not None:
        return _describe_stages(record)
    layers = []
    for level, name in enumerate(record.geometry.names):
        layers.append({"name": name, "mpp": record.geometry.spacings[level], "texts": _describe_level(record, level)})
    return layers


def _describe_level(record: PredictionRecord, level: int) -> list[str]:
    return list(describe_share(record.evidence, level))


def _describe_stages(record: PredictionRecord) -> list[dict[str, Any]]:
    """The regions of the slide, then what the regions that were looked at hold: regions, and at last magnifications."""
    layers: list[dict[str, Any]] = []
    layers.append({"name": "Regions of the slide", "mpp": None, "texts": _describe_level(record, 0)})
    stages = _group_by_stage(record)
    for stage, regions in stages.items():
        texts = [f"regions of stage {stage} that were looked at: {len(regions)}"]
        if stage < len(stages):
            layers.append({"name": f"Regions of stage {stage + 1}", "mpp": None, "texts": texts})
            continue
        geometry = regions[0].make_geometry(record.mpp)
        for name, mpp in zip(geometry.names, geometry.spacings, strict=True):
            layers.append({"name": name, "mpp": mpp, "texts": texts})
    return layers


def _group_by_stage(record: PredictionRecord) -> dict[int, list[SeenRegion]]:
    """The regions that were looked at, by their stage, 1 for those of the slide."""
    stages: dict[int, list[SeenRegion]] = {}
    for region in sorted(record.seen_regions or (), key=lambda region: region.stage):
        stages.setdefault(region.stage, []).append(region)
    return stages


def _describe_windows(record: PredictionRecord) -> list[dict[str, Any]]:
    """The areas over which the attention is distributed, and its grids there: of each layer the density of cells.

    A zoom distributes it once more over each region that it looked at.
    """
    box = Box(*record.location, *record.size)
    windows = [_describe_window(box, record.geometry, record.attention)]
    first_layer = 1
    for stage, regions in _group_by_stage(record).items():
        num_layers = 0
        for region in regions:
            geometry = region.make_geometry(record.mpp)
            num_layers = len(geometry.names)
            window = _describe_window(region.box, geometry, region.attention, first_layer=first_layer)
            windows.append({**window, "stage": stage})
        first_layer += num_layers
    return windows


def _describe_window(
    box: Box, geometry: PatchGeometry, attention: Sequence[float], *, first_layer: int = 0
) -> dict[str, Any]:
    grids = _describe_grids(geometry, attention, first_layer=first_layer)
    return {"stage": 0, "box": _make_rectangle(box), "grids": grids}


def _describe_grids(geometry: PatchGeometry, attention: Sequence[float], *, first_layer: int) -> list[dict[str, Any]]:
    """The attention of each cell by its area, as a multiple of the mean over the window."""
    grids = []
    for layer, (rows, cols) in enumerate(geometry.grids, start=first_layer):
        values = attention[geometry.slices[geometry.names[layer - first_layer]]]
        density = [_round(value * rows * cols) for value in values]
        grids.append({"layer": layer, "rows": rows, "cols": cols, "density": density})
    return grids


def _describe_patches(record: PredictionRecord) -> list[dict[str, Any]]:
    """What was read, by falling weight; of a zoom first the regions that it looked into, then the patches in them."""
    if record.inner_patches is None:
        levels = [record.geometry.names.index(patch.magnification) for patch in record.patches]
        return [_describe_patch(patch, record, level) for patch, level in zip(record.patches, levels)]
    regions = [{**_describe_patch(patch, record, 0), **_AS_REGION} for patch in record.patches]
    return regions + [_describe_patch(patch, record, record.find_inner_level(patch)) for patch in record.inner_patches]


def _describe_patch(patch: PatchRecord | InnerPatch, record: PredictionRecord, level: int) -> dict[str, Any]:
    return {
        "box": _make_rectangle(_cut_box(patch.box, record)),
        "kind": "patch",
        "magnification": patch.magnification,
        "weight": patch.weight,
        "attention": patch.attention if isinstance(patch, PatchRecord) else None,
        "color": pick_color(level),
    }


def _cut_box(box: Box, record: PredictionRecord) -> Box:
    """What of a patch lies in the region: a patch of a small image reaches beyond it, and is white there."""
    top, left = record.location
    height, width = record.size
    bottom = min(box.bottom, top + height)
    right = min(box.right, left + width)
    return Box(box.row, box.col, bottom - box.row, right - box.col)


def _describe_areas(areas: Iterable[Area], bounds: Box | None) -> list[dict[str, Any]]:
    """The outlines of each class of annotations."""
    classes = []
    for name, of_class in by_class(areas).items():
        outlines = []
        for area in of_class:
            on_canvas = area.on_canvas(bounds)
            outlines += [_make_outline(ring) for ring in (on_canvas.ring, *on_canvas.holes)]
        classes.append({"name": name or "annotation", "outlines": outlines})
    return classes


def _make_outline(ring: np.ndarray) -> list[list[float]]:
    """An outline of (row, column) as (x, y)."""
    step = -(-len(ring) // _MAX_CORNERS)
    return ring[::step, ::-1].round(1).tolist()


def _make_rectangle(box: Box) -> list[float]:
    """A box as x, y, width and height."""
    return [_round(box.col), _round(box.row), _round(box.width), _round(box.height)]


def _round(value: float) -> float:
    """Nine digits, without which the page would take three times as long to send."""
    return float(f"{value:.9g}")
