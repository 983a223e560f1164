# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Figures of saved predictions: no model is needed, only the record and the file that was predicted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from monai_jsma.data.pyramid import Pyramid
from monai_jsma.datalists.regions import Area, find_outside_fault
from monai_jsma.predictions.evidence import Evidence
from monai_jsma.predictions.measures import pointing_scores
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.slides import SlideError, SlideInfo, inspect_slide, open_slide
from monai_jsma.slides.spacing import differ
from monai_jsma.tasks import name_label
from monai_jsma.visualize.background import read_background
from monai_jsma.visualize.captions import describe_answer, describe_place
from monai_jsma.visualize.card import draw_card
from monai_jsma.visualize.overview import overview_figure
from monai_jsma.visualize.patches import patch_boxes_image

__all__ = [
    "check_areas",
    "draw_record_card",
    "inspect_file",
    "open_file",
    "open_record",
    "record_boxes_image",
    "record_figure",
]

_MAX_CLASSES = 4  # in a title


def open_record(record: PredictionRecord, base_dir: str | os.PathLike[str] = "") -> Pyramid:
    """The region that was predicted, to read its pixels.

    Args:
        record: prediction record of the region.
        base_dir: folder that a relative path starts at.

    Raises:
        FileNotFoundError: if the file is gone.
        SlideError: if the file cannot be read, or has changed since the prediction.
    """
    info = inspect_file([record], base_dir)
    return _open(info, record, origin=record.location, size=record.size)


def open_file(records: Sequence[PredictionRecord], base_dir: str | os.PathLike[str] = "") -> Pyramid:
    """The whole file of some records, to read its pixels.

    Args:
        records: prediction records of regions of one file.
        base_dir: folder that a relative path starts at.

    Raises:
        FileNotFoundError: if the file is gone.
        SlideError: if the file cannot be read, or has changed since the prediction.
    """
    info = inspect_file(records, base_dir)
    return _open(info, records[0])


def inspect_file(records: Sequence[PredictionRecord], base_dir: str | os.PathLike[str] = "") -> SlideInfo:
    """What the header of the file of some records says; it still is what was predicted, as far as that tells.

    Args:
        records: prediction records of regions of one file.
        base_dir: folder that a relative path starts at.

    Raises:
        FileNotFoundError: if the file is gone.
        SlideError: if the file cannot be read, or a region lies outside it, or its spacing is different now.
    """
    path = str(Path(base_dir) / records[0].file)
    if not os.path.exists(path):  # a folder may be a DICOM slide
        raise FileNotFoundError(f"{path}: there is no such file; name the folder of relative paths with --base-dir.")
    info = inspect_slide(path)
    for record in records:
        if _has_changed(info, record):
            found = f"{info.size} (height, width) at {info.mpp and f'{info.mpp:g}'} um/px"
            region = f"{record.size} at {record.location} at {record.mpp:g} um/px"
            raise SlideError(f"{path}: is {found}, but the prediction is of {region}; predict the changed file again.")
    return info


def _open(info: SlideInfo, record: PredictionRecord, **region: Any) -> Pyramid:
    """A file, or a region of it, as a record saw it."""
    return Pyramid(
        open_slide(info),
        mpp=record.mpp,
        mpp_source=record.mpp_source,
        magnifications=record.magnifications,
        patch_size=record.patch_size,
        aligned=record.aligned,
        path=str(info.path),
        **region,
    )


def _has_changed(info: SlideInfo, record: PredictionRecord) -> bool:
    """Whether the region lies outside the file, or the file's spacing is different now."""
    end = np.add(record.location, record.size)
    if (end > info.size).any():
        return True
    same_source = info.mpp_source == record.mpp_source
    return bool(info.mpp and same_source and differ(info.mpp, record.mpp))


def draw_record_card(record: PredictionRecord, base_dir: str | os.PathLike[str] = "") -> np.ndarray:
    """The card of a region, see :func:`~monai_jsma.visualize.draw_card`: a third of the time of its figure.

    Args:
        record: prediction record to draw.
        base_dir: folder that a relative path starts at.

    Raises:
        FileNotFoundError: if the file is gone.
        SlideError: if the file cannot be read, or has changed since the prediction.
        ValueError: if a patch of the record does not lie at one of its cells.
    """
    evidence = replace(record.evidence, pyramid=open_record(record, base_dir))
    title = f"{describe_place(evidence)}\n{describe_answer(evidence, record.classes)}"
    return draw_card(evidence, title=title)


def record_figure(
    record: PredictionRecord, base_dir: str | os.PathLike[str] = "", areas: Sequence[Area] = ()
) -> Figure:
    """The thumbnail with the sampled patches, the attention of each magnification, and the patches.

    Args:
        record: prediction record to draw.
        base_dir: folder that a relative path starts at.
        areas: annotated areas to outline; those that count from the bounds of the slide are moved to the canvas. Their
            pointing score is written above.

    Raises:
        FileNotFoundError: if the file is gone.
        SlideError: if the file cannot be read, or has changed since the prediction.
        ValueError: if a patch of the record does not lie at one of its cells, or an area lies outside the file.
    """
    pyramid = open_record(record, base_dir)
    record = replace(record, bounds=pyramid.bounds)  # records of earlier versions lack it
    check_areas(areas, pyramid)

    evidence = read_background(replace(record.evidence, pyramid=pyramid))
    title = _make_title(record)
    if areas:
        title += f"\n{_describe_pointing(evidence, areas)}"
    return overview_figure(evidence, title=title, areas=areas)


def record_boxes_image(record: PredictionRecord, base_dir: str | os.PathLike[str] = "") -> np.ndarray:
    """The thumbnail with the sampled patches as boxes, uint8 ``(height, width, 3)``.

    Args:
        record: prediction record to draw.
        base_dir: folder that a relative path starts at.

    Raises:
        FileNotFoundError: if the file is gone.
        SlideError: if the file cannot be read, or has changed since the prediction.
        ValueError: if a patch of the record does not lie at one of its cells.
    """
    pyramid = open_record(record, base_dir)
    evidence = read_background(replace(record.evidence, pyramid=pyramid))
    return patch_boxes_image(evidence)


def check_areas(areas: Sequence[Area], pyramid: Pyramid) -> None:
    """Check that all areas lie at least partly inside the file.

    Args:
        areas: annotated areas.
        pyramid: the file or a region of it.

    Raises:
        ValueError: if one does not.
    """
    for area in areas:
        reason = find_outside_fault(area, pyramid.reader.level_sizes[0], pyramid.bounds)
        if reason is not None:
            raise ValueError(f"{pyramid.path}: {reason}")


def _make_title(record: PredictionRecord) -> str:
    """File and location, then true and predicted classes."""
    title = Path(record.file).name
    if any(record.location):
        row, col = record.location
        title += f" at row {row}, column {col}"
    title += "\n"
    if record.label is not None:
        title += f"true {name_label(record.label, record.classes)}; "

    falling = np.argsort(np.negative(record.probabilities), kind="stable")
    predictions = []
    for index in falling[:_MAX_CLASSES]:
        name = record.classes[index]
        probability = record.probabilities[index]
        predictions.append(f"{name} {probability:.2f}")
    answer = ", ".join(predictions)
    if record.thresholds is not None:
        answer = f"{name_label(record.prediction, record.classes)} ({answer})"
    return f"{title}predicted {answer}"


def _describe_pointing(evidence: Evidence, areas: Sequence[Area]) -> str:
    score = pointing_scores(evidence, areas)[""]
    share = score.share or 0
    text = f"{share:.1%} of all attention inside the annotations ({score.expected:.1%} of the area)"
    if score.enrichment is not None:
        text += f": enrichment {score.enrichment:.2f}"
    return text
