# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of saved predictions: no model is needed, only the record and the file it is of."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from monai_jsma.data.pyramid import Pyramid
from monai_jsma.datalists.regions import Area
from monai_jsma.predictions.measures import pointing_scores
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.open import inspect_slide, open_slide
from monai_jsma.slides.spacing import differ
from monai_jsma.visualize.overview import overview_figure
from monai_jsma.visualize.patches import drawn_patches, patch_boxes_image

__all__ = ["open_record", "record_boxes_image", "record_figure"]

_THUMBNAIL, _MOST = 1200, 16  # pixels of the longer side; patches that are shown


def open_record(record: PredictionRecord, base_dir: str | os.PathLike[str] = "") -> Pyramid:
    """The region that was predicted, to read its pixels.

    Args:
        record: of the region.
        base_dir: folder that a relative path starts at.

    Raises:
        FileNotFoundError: when the file is gone.
        SlideError: when it cannot be read, or is not the file that it was.
    """
    path = str(Path(base_dir) / record.file)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: there is no such file; name the folder of relative paths with --base-dir.")
    info, (height, width) = inspect_slide(path), record.size
    fits = record.location[0] + height <= info.size[0] and record.location[1] + width <= info.size[1]
    if not fits or (info.mpp and info.mpp_source == record.mpp_source and differ(info.mpp, record.mpp)):
        found = f"{info.size} (height, width) at {info.mpp and f'{info.mpp:g}'} um/px"
        region = f"{record.size} at {record.location} at {record.mpp:g} um/px"
        raise SlideError(f"{path}: is {found}, but the prediction is of {region}; predict the changed file again.")
    return Pyramid(
        open_slide(info),
        mpp=record.mpp,
        mpp_source=record.mpp_source,
        magnifications=record.magnifications,
        patch_size=record.patch_size,
        aligned=record.aligned,
        path=path,
        origin=record.location,
        size=record.size,
    )


def record_figure(
    record: PredictionRecord, base_dir: str | os.PathLike[str] = "", areas: Sequence[Area] = ()
) -> Figure:
    """The thumbnail with its sampled patches, the attention of each magnification, and the patches.

    Args:
        record: what to draw.
        base_dir: folder that a relative path starts at.
        areas: annotations to outline, whose pointing score is then told.

    Raises:
        FileNotFoundError, SlideError: see :func:`open_record`.
        ValueError: when a patch of the record does not lie at one of its cells, or an annotation outside the file.
    """
    pyramid = open_record(record, base_dir)
    _check_areas(areas, pyramid)
    cells, weights = drawn_patches(record.cells, np.array([patch.weight for patch in record.patches]))
    scale = min(1, _THUMBNAIL / max(record.size))
    thumbnail = pyramid.thumbnail((max(1, round(record.size[0] * scale)), max(1, round(record.size[1] * scale))))
    return overview_figure(
        thumbnail,
        record.geometry,
        np.array(record.attention),
        pyramid.read(cells[:_MOST]),
        cells,
        weights,
        title="\n".join([_title(record), *_pointing(record, areas)]),
        frame=record.location,
        areas=areas,
    )


def _check_areas(areas: Sequence[Area], pyramid: Pyramid) -> None:
    full = pyramid.reader.level_sizes[0]
    for area in areas:
        low, high = area.ring.min(0), area.ring.max(0)
        if (high <= 0).any() or (low >= full).any():
            raise ValueError(
                f"{pyramid.path}: an annotation at row {low[0]:g}, column {low[1]:g} is outside the picture of {full}: "
                "is it of another one, or not in level-0 pixels?"
            )


def _title(record: PredictionRecord) -> str:
    """File and place, then what was predicted."""
    place = " at row {}, column {}".format(*record.location) if any(record.location) else ""
    probabilities = zip(record.classes, record.probabilities, strict=True)
    ranked = ", ".join(f"{name} {p:.2f}" for name, p in sorted(probabilities, key=lambda item: -item[1])[:4])
    truth = "" if record.label is None else f"true {record.classes[record.label]}; "
    return f"{Path(record.file).name}{place}\n{truth}predicted {ranked}"


def _pointing(record: PredictionRecord, areas: Sequence[Area]) -> Iterator[str]:
    if areas:
        score = pointing_scores(record.evidence, areas)[""]
        enrichment = "" if score.enrichment is None else f": enrichment {score.enrichment:.2f}"
        inside = f"{score.share or 0:.1%} of all attention inside the annotations"
        yield f"{inside} ({score.expected:.1%} of the area){enrichment}"


def record_boxes_image(record: PredictionRecord, base_dir: str | os.PathLike[str] = "") -> np.ndarray:
    """x."""
    pyramid = open_record(record, base_dir)
    scale = min(1, 768 / max(record.size))
    thumbnail = pyramid.thumbnail((max(1, round(record.size[0] * scale)), max(1, round(record.size[1] * scale))))
    weights = np.array([patch.weight for patch in record.patches], dtype=np.float64)
    return patch_boxes_image(thumbnail, record.geometry, record.cells, weights, frame=record.location)
