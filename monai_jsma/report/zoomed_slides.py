# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a network that zooms looked at in slides: regions at each stage, then magnifications inside the regions.

All numbers are means over slides. Of the attention inside regions only that of those that were looked at is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from monai_jsma.predictions.evidence import SeenRegion
from monai_jsma.predictions.records import PredictionRecord

__all__ = ["describe_zoom"]


class _Stage(NamedTuple):
    """One stage in one slide: regions to choose from, regions looked at, and the attention's share of the latter."""

    regions: int
    looked_at: int
    share: float


def describe_zoom(records: Sequence[PredictionRecord]) -> dict[str, Any] | None:
    """What was looked at and read, at each stage and at each magnification; None if not all records are of a zoom.

    Args:
        records: records of one run.

    Returns:
        ``looked_at`` and ``read``, numbers of regions and patches; ``stages``, with ``regions``, ``looked_at`` and
        ``share`` of the attention; ``magnifications``, each with its ``name``, ``share`` of the attention in the
        regions that were looked at, share of their cells (``prior``), number of patches (``read``) and share of the
        ``weight``. Stages and shares of the attention are missing for records of versions that did not keep them.
    """
    if not all(record.inner_patches is not None for record in records):
        return None
    return {
        "looked_at": _average([record.regions_looked_at or 0 for record in records]),
        "read": _average([record.patches_read for record in records]),
        "stages": _describe_stages(records),
        "magnifications": _describe_magnifications(records),
    }


def _average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _describe_stages(records: Sequence[PredictionRecord]) -> list[dict[str, float]]:
    stages: dict[int, list[_Stage]] = {}
    for record in records:
        seen = record.seen_regions or ()
        for stage in range(1, record.zoom_depth + 1):
            stages.setdefault(stage, []).append(_measure_stage(record, seen, stage))
    described = []
    for stage, of_slides in sorted(stages.items()):
        means = [_average(values) for values in zip(*of_slides)]
        described.append({"stage": stage, **dict(zip(_Stage._fields, means, strict=True))})
    return described


def _measure_stage(record: PredictionRecord, seen: Sequence[SeenRegion], stage: int) -> _Stage:
    num_regions = len(record.attention)
    if stage > 1:
        num_regions = sum(len(region.attention) for region in seen if region.stage == stage - 1)
    looked_at = [region.probability for region in seen if region.stage == stage]
    return _Stage(num_regions, len(looked_at), math.fsum(looked_at))


def _describe_magnifications(records: Sequence[PredictionRecord]) -> list[dict[str, Any]]:
    names: dict[float, str] = {}
    rows: list[dict[float, tuple[float, float]]] = []  # of each slide: share of attention and of cells
    for record in records:
        shares = _measure_shares(record, names)
        if shares:
            rows.append(shares)
        for patch in record.inner_patches or ():
            names.setdefault(patch.mpp, patch.magnification)

    described = []
    for spacing in sorted(names, reverse=True):
        patches = [[patch for patch in record.inner_patches or () if patch.mpp == spacing] for record in records]
        entry: dict[str, Any] = {
            "name": names[spacing],
            "read": _average([len(of_slide) for of_slide in patches]),
            "weight": _average([math.fsum(patch.weight for patch in of_slide) for of_slide in patches]),
        }
        if rows:
            entry["share"] = _average([row.get(spacing, (0.0, 0.0))[0] for row in rows])
            entry["prior"] = _average([row.get(spacing, (0.0, 0.0))[1] for row in rows])
        described.append(entry)
    return described


def _measure_shares(record: PredictionRecord, names: dict[float, str]) -> dict[float, tuple[float, float]]:
    """For each spacing its share of the known attention and of the known cells; nothing if none is known.

    Args:
        record: record of a slide.
        names: name of each spacing; those of the record are added.
    """
    attention: dict[float, float] = {}
    cells: dict[float, int] = {}
    for region in record.last_regions:
        geometry = region.make_geometry(record.mpp)
        values = np.array(region.attention)
        for name, spacing in zip(geometry.names, geometry.spacings):
            of_level = values[geometry.slices[name]]
            names.setdefault(spacing, name)
            attention[spacing] = attention.get(spacing, 0.0) + region.probability * float(of_level.sum())
            cells[spacing] = cells.get(spacing, 0) + len(of_level)
    total = math.fsum(attention.values()) or 1.0
    num_cells = sum(cells.values())
    return {spacing: (attention[spacing] / total, cells[spacing] / num_cells) for spacing in attention}
