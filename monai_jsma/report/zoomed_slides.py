# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a network that zooms looked at in slides: regions at each stage, then magnifications inside the regions.

All numbers are means over slides. Of the attention inside regions only that of those that were looked at is known.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from monai_jsma.predictions.evidence import SeenRegion
from monai_jsma.predictions.records import PredictionRecord

__all__ = ["describe_zoom", "measure_stages"]


class _Stage(NamedTuple):
    """One stage in one slide: regions to choose from, regions looked at, and the attention's share of the latter."""

    regions: int
    looked_at: int
    share: float


class _Shares(NamedTuple):
    """What a magnification has of the known attention and of the known cells of a slide."""

    attention: float
    cells: float


_NOTHING = _Shares(0.0, 0.0)


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
    if any(record.inner_patches is None for record in records):
        return None
    looked_at = [record.regions_looked_at or 0 for record in records]
    read = [record.patches_read for record in records]
    return {
        "looked_at": _average(looked_at),
        "read": _average(read),
        "stages": measure_stages(records),
        "magnifications": _describe_magnifications(records),
    }


def _average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def measure_stages(records: Sequence[PredictionRecord]) -> list[dict[str, float]]:
    """Means over slides at each stage: its number, ``regions`` to choose from, ``looked_at``, their ``share``.

    Args:
        records: records of slides; those without a zoom, or of versions that did not keep the regions, have no stages.
    """
    stages: dict[int, list[_Stage]] = defaultdict(list)
    for record in records:
        seen = record.seen_regions or ()
        for stage in range(1, record.zoom_depth + 1):
            measured = _measure_stage(record, seen, stage)
            stages[stage].append(measured)

    described = []
    for stage, of_slides in sorted(stages.items()):
        means: dict[str, float] = {"stage": stage}
        for name, values in zip(_Stage._fields, zip(*of_slides), strict=True):
            means[name] = _average(values)
        described.append(means)
    return described


def _measure_stage(record: PredictionRecord, seen: Sequence[SeenRegion], stage: int) -> _Stage:
    num_regions = len(record.attention)
    if stage > 1:
        before = [len(region.attention) for region in seen if region.stage == stage - 1]
        num_regions = sum(before)
    looked_at = [region.probability for region in seen if region.stage == stage]
    share = math.fsum(looked_at)
    return _Stage(num_regions, len(looked_at), share)


def _describe_magnifications(records: Sequence[PredictionRecord]) -> list[dict[str, Any]]:
    names: dict[float, str] = {}
    known: list[dict[float, _Shares]] = []  # by spacing, of each slide
    for record in records:
        shares = _measure_shares(record, names)
        if shares:
            known.append(shares)
        for patch in record.inner_patches or ():
            names.setdefault(patch.mpp, patch.magnification)

    described = []
    for spacing in sorted(names, reverse=True):
        entry = {"name": names[spacing], **_describe_patches(records, spacing)}
        if known:
            of_slides = [shares.get(spacing, _NOTHING) for shares in known]
            entry["share"] = _average([shares.attention for shares in of_slides])
            entry["prior"] = _average([shares.cells for shares in of_slides])
        described.append(entry)
    return described


def _describe_patches(records: Sequence[PredictionRecord], spacing: float) -> dict[str, Any]:
    """Number and weight of the patches of a magnification, means over slides."""
    numbers = []
    weights = []
    for record in records:
        patches = record.inner_patches or ()
        of_slide = [patch.weight for patch in patches if patch.mpp == spacing]
        numbers.append(len(of_slide))
        weights.append(math.fsum(of_slide))
    return {"read": _average(numbers), "weight": _average(weights)}


def _measure_shares(record: PredictionRecord, names: dict[float, str]) -> dict[float, _Shares]:
    """For each spacing its share of the known attention and of the known cells; nothing if none is known.

    Args:
        record: record of a slide.
        names: name of each spacing; those of the record are added.
    """
    attention: dict[float, float] = defaultdict(float)
    cells: dict[float, int] = defaultdict(int)
    for region in record.last_regions:
        geometry = region.make_geometry(record.mpp)
        values = np.array(region.attention)
        for name, spacing in zip(geometry.names, geometry.spacings):
            of_level = values[geometry.slices[name]]
            within = float(of_level.sum())
            names.setdefault(spacing, name)
            attention[spacing] += region.probability * within
            cells[spacing] += len(of_level)

    total = math.fsum(attention.values()) or 1.0
    num_cells = sum(cells.values())
    shares = {}
    for spacing, of_spacing in attention.items():
        shares[spacing] = _Shares(of_spacing / total, cells[spacing] / num_cells)
    return shares
