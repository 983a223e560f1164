# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Prediction records: what was predicted for an image or a region, and from which patches, as one line of JSON.

A record holds enough to draw attention, patches and tables again without the model: the file and region, the
probabilities, the attention of every cell and the patches that were read. Each line stands alone, so files of records
may be joined. Locations are (row, column), boxes (row, column, height, width), all in level-0 pixels of the file. Cells
are those of the image as stored, in the flat order of :mod:`monai_jsma.geometry`.

Records are checked by hand: nearly all checks compare several values (probabilities with classes, attention with the
grids, patches with their cells), which pydantic would leave to functions of our own as well.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from monai_jsma._io import read_text
from monai_jsma.geometry import Box, GridCell, PatchGeometry
from monai_jsma.predictions.evidence import Evidence, InnerPatch, SeenRegion
from monai_jsma.predictions.measures import (
    magnification_shares,
    mutual_information,
    predictive_entropy,
    prior_shares,
)
from monai_jsma.tasks import MULTICLASS, MULTILABEL, TASKS, Label, pick_label, pick_main_class, read_thresholds

__all__ = ["PatchRecord", "PredictionRecord", "make_record", "read_records"]

PART = ".part"  # ends the name of the records of a run that is not finished
_DERIVED = ("shares", "patches_read", "draws", "spread", "predictive_entropy", "mutual_information")  # written too
# Fields that a line lacks where they are None, as all lines once did.
_LATER = ("bounds", "confidence", "inner_patches", "regions_looked_at", "seen_regions", "thresholds")
_TOLERANCE = 1e-3  # of sums of probabilities


@dataclass(frozen=True, kw_only=True)
class PatchRecord:
    """One patch that was read.

    Args:
        magnification: name of its magnification, such as ``"100X"``.
        mpp: spacing of its magnification in um per pixel.
        row: row of its cell in the grid of the magnification.
        col: column of its cell.
        box: the patch in level-0 pixels of the file.
        attention: probability of its cell.
        weight: aggregation weight of its features; with repeated draws, the mean over them.
    """

    magnification: str
    mpp: float
    row: int
    col: int
    box: Box
    attention: float
    weight: float


@dataclass(frozen=True, kw_only=True)
class PredictionRecord:
    """What the network made of one image or region, as it is saved.

    Args:
        file: path of the image or slide.
        location: row and column of the region in the file; (0, 0) for a whole image.
        size: height and width of the region.
        mpp: spacing of level 0 in um per pixel.
        mpp_source: where the spacing came from.
        classes: name of each class.
        probabilities: probability of each class.
        label: index of the true class, of multi-label those of all classes that are present, rising; None if unknown.
        group: what stays in one split, such as the patient.
        magnifications: spacings in um per pixel, coarse to fine.
        patch_size: height and width of a patch, in pixels of its magnification.
        attention: probability of every cell.
        patches: patches that were read, by falling weight.
        draw_probabilities: probabilities of each repeated draw, ``(draws, classes)``; None without repeated draws.
        certified: whether the prediction is certainly, or at the confidence that was asked for, that of all patches;
            None without certified stopping.
        intervals: (lower, upper) bound of each class's probability of all patches; None without certified stopping.
        run: what made the prediction: ``model`` and ``datalist`` (SHA-256), ``seed``, ``settings`` and ``versions``.
        aligned: whether the patches lay side by side, see :class:`~monai_jsma.geometry.PatchGeometry`.
        bounds: the scanned part of the file's canvas, see :mod:`monai_jsma.slides.frame`; None if it is all. Only then
            the line lacks it.
        confidence: confidence that the prediction is that of all patches; None if it was not read by ``Confident``.
            Only then the line lacks it.
        inner_patches: the patches that were read of a slide, by falling weight, where the network zooms into regions:
            then :attr:`attention` and :attr:`patches` are those of the regions of its first stage. Without a zoom None,
            and the line lacks it.
        regions_looked_at: number of regions that were looked at; without a zoom None, and the line lacks it.
        seen_regions: these regions with the attention in them, those of the first stage first; without a zoom, and in
            records of versions that did not keep them, None, and the line lacks it.
        task: what was asked: ``"ordinal"``, ``"multilabel"`` or ``"multiclass"``, of which the line lacks it.
        thresholds: of multi-label, the probability from which each class is predicted; of other tasks None, and the
            line lacks it.
    """

    file: str
    location: tuple[int, int]
    size: tuple[int, int]
    mpp: float
    mpp_source: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    label: Label | None
    group: str
    magnifications: tuple[float, ...]
    patch_size: int
    attention: tuple[float, ...]
    patches: tuple[PatchRecord, ...]
    draw_probabilities: tuple[tuple[float, ...], ...] | None = None
    certified: bool | None = None
    intervals: tuple[tuple[float, float], ...] | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    aligned: bool = False
    bounds: Box | None = None
    confidence: float | None = None
    inner_patches: tuple[InnerPatch, ...] | None = None
    regions_looked_at: int | None = None
    seen_regions: tuple[SeenRegion, ...] | None = None
    task: str = MULTICLASS
    thresholds: tuple[float, ...] | None = None

    @property
    def key(self) -> tuple[str, tuple[int, int], tuple[int, int]]:
        """File, location and size: a run has one record of each."""
        return self.file, self.location, self.size

    @property
    def prediction(self) -> Label:
        """Index of the most probable class; of multi-label those of all classes that reach their thresholds."""
        return pick_label(self.probabilities, self.thresholds)

    @property
    def main_class(self) -> int | None:
        """Index of the most probable class that is predicted; None if multi-label predicts none."""
        return pick_main_class(self.probabilities, self.thresholds)

    @property
    def is_wrong(self) -> bool:
        """Whether the label is known, and another one is predicted."""
        return self.label is not None and self.label != self.prediction

    @property
    def patches_read(self) -> int:
        """Number of patches that the prediction is made of; one that was drawn twice was read once."""
        if self.inner_patches is not None:
            return len(self.inner_patches)
        return len(self.patches)

    @property
    def zoom_depth(self) -> int:
        """Stage of the deepest regions that were looked at; 0 without a zoom, and where they were not kept."""
        return max((region.stage for region in self.seen_regions or ()), default=0)

    @property
    def last_regions(self) -> tuple[SeenRegion, ...]:
        """The regions that were looked at of the last stage: those in which patches were read."""
        depth = self.zoom_depth
        return tuple(region for region in self.seen_regions or () if region.stage == depth)

    def find_inner_level(self, patch: InnerPatch) -> int:
        """Index of the magnification of a patch that was read inside a region; 0 is the coarsest.

        Records of versions that did not keep the regions know the magnifications of the patches that were read alone.
        """
        if self.last_regions:
            spacings = self.last_regions[0].magnifications
        else:
            spacings = tuple(sorted({read.mpp for read in self.inner_patches or ()}, reverse=True))
        return int(np.argmin(np.abs(np.subtract(spacings, patch.mpp))))

    @property
    def draws(self) -> int:
        """Number of repeated draws; 0 without."""
        return len(self.draw_probabilities or ())

    @property
    def spread(self) -> tuple[float, ...] | None:
        """Standard deviation of each probability over the repeated draws; None without."""
        if self.draw_probabilities is None:
            return None
        return tuple(np.std(self.draw_probabilities, axis=0).tolist())

    @property
    def predictive_entropy(self) -> float:
        """Entropy of the probabilities, see :mod:`monai_jsma.predictions.measures`."""
        return float(predictive_entropy(self.probabilities, multi_label=self.thresholds is not None))

    @property
    def mutual_information(self) -> float | None:
        """Uncertainty from the repeated draws, see :mod:`monai_jsma.predictions.measures`; None without."""
        if self.draw_probabilities is None:
            return None
        return float(mutual_information(self.draw_probabilities, multi_label=self.thresholds is not None))

    @property
    def shares(self) -> dict[str, float]:
        """Share of the attention of each magnification, by name, coarse to fine (paper, Tables 3 and 4)."""
        return magnification_shares(self.geometry, self.attention)

    @property
    def prior_shares(self) -> dict[str, float]:
        """Share of the cells of each magnification, by name: the share that uniform attention would have."""
        return prior_shares(self.geometry)

    @cached_property
    def geometry(self) -> PatchGeometry:
        """Patch grids of the region, to which :attr:`attention` belongs."""
        return PatchGeometry(
            self.size,
            self.mpp,
            self.magnifications,
            patch_size=self.patch_size,
            aligned=self.aligned,
        )

    @cached_property
    def cells(self) -> np.ndarray:
        """Flat index of the cell of each patch, int64 ``(patches,)``.

        Raises:
            ValueError: if a patch does not lie at its cell.
        """
        cells = [self._find_cell(patch) for patch in self.patches]
        return np.array(cells, np.int64)

    def _find_cell(self, patch: PatchRecord) -> int:
        geometry = self.geometry
        if _is_in_grid(patch, geometry):
            level = geometry.names.index(patch.magnification)
            cell = GridCell(level, patch.row, patch.col)
            index = geometry.index(cell)
            box = geometry.box(index)
            box = _move_box(box, self.location)
            if np.allclose(box, patch.box, rtol=0, atol=0.01):
                return index
        raise ValueError(f"{self.file} at {self.location}: {patch} does not lie at a cell of the region.")

    @cached_property
    def evidence(self) -> Evidence:
        """The record as evidence, without pixels: for figures and metrics.

        Raises:
            ValueError: if a patch does not lie at its cell.
        """
        draws = self.draw_probabilities
        intervals = self.intervals
        return Evidence(
            file=self.file,
            location=self.location,
            geometry=self.geometry,
            mpp_source=self.mpp_source,
            bounds=self.bounds,
            attention=np.array(self.attention, np.float64),
            cells=self.cells,
            weights=np.array([patch.weight for patch in self.patches], np.float64),
            scores=np.array(self.probabilities, np.float64),
            label=self.label,
            certified=self.certified,
            confidence=self.confidence,
            intervals=None if intervals is None else np.array(intervals),
            draw_probabilities=None if draws is None else np.array(draws),
            inner_patches=self.inner_patches,
            regions_looked_at=self.regions_looked_at,
            seen_regions=self.seen_regions,
            task=self.task,
            thresholds=self.thresholds,
        )

    def to_json(self) -> str:
        """One line of JSON, without its end; :meth:`from_json` reads it."""
        names = [f.name for f in fields(self)]
        values = {}
        for name in (*names, *_DERIVED):
            values[name] = getattr(self, name)
        values["patches"] = [vars(patch) for patch in self.patches]
        if self.inner_patches is not None:
            values["inner_patches"] = [vars(patch) for patch in self.inner_patches]
        if self.seen_regions is not None:
            values["seen_regions"] = [vars(region) for region in self.seen_regions]
        for name in _LATER:
            if values[name] is None:
                del values[name]
        if self.task == MULTICLASS:
            del values["task"]
        return json.dumps(values, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> PredictionRecord:
        """The record of a line of JSON.

        Raises:
            ValueError: if the line is not a record, or its values contradict each other.
        """
        try:
            values = json.loads(line, parse_constant=_refuse_constant)
            known = {}
            for f in fields(cls):
                if f.name in values:  # older records lack the newer fields
                    known[f.name] = _to_tuples(values[f.name])
            if known.get("bounds") is not None:
                known["bounds"] = Box(*known["bounds"])
            patches = values["patches"]
            known["patches"] = tuple(_read_patch(patch) for patch in patches)
            inner_patches = values.get("inner_patches")
            if inner_patches is not None:
                known["inner_patches"] = tuple(_read_inner_patch(patch) for patch in inner_patches)
            if known.get("seen_regions") is not None:
                known["seen_regions"] = tuple(_read_seen_region(region) for region in values["seen_regions"])
            record = cls(**known)
            _check_record(record)
        except KeyError as error:
            raise ValueError(f"not a prediction record: it has no {error}") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a prediction record: {error!r}") from error
        return record


# -------------------------------------------------------------------------------------------------- from evidence


def make_record(
    evidence: Evidence,
    classes: Sequence[str],
    *,
    label: Label | None = None,
    group: str | None = None,
    run: Mapping[str, Any] | None = None,
) -> PredictionRecord:
    """Make the record of an image.

    Args:
        evidence: evidence of the image, with probabilities as its scores.
        classes: name of each class.
        label: index of the true class, of multi-label those of all classes that are present; by default the evidence's.
        group: group of the image, such as the patient; by default its file.
        run: what made the prediction, see :class:`PredictionRecord`.

    Raises:
        ValueError: if the probabilities do not fit the classes, or a number is not finite.
    """
    geometry = evidence.stored_geometry
    scores = () if evidence.scores is None else evidence.scores
    probabilities = _round_numbers(scores)
    is_distribution = evidence.thresholds is not None or abs(sum(probabilities) - 1) <= _TOLERANCE
    if len(probabilities) != len(classes) or not is_distribution:
        raise ValueError(f"{evidence.file}: {len(classes)} probabilities were expected, but got {probabilities}.")

    stored_cells = evidence.stored_cells
    attention = np.empty(geometry.num_cells)
    attention[stored_cells] = evidence.attention

    weights: Counter[int] = Counter()
    for cell, weight in zip(evidence.cells, evidence.weights.tolist(), strict=True):
        if weight > 0:  # 0: nothing was drawn
            weights[int(stored_cells[cell])] += weight
    patches = []
    for index, weight in weights.most_common():
        level, row, col = geometry.cell(index)
        rounded_attention, rounded_weight = _round_numbers((attention[index], weight))
        patches.append(
            PatchRecord(
                magnification=geometry.names[level],
                mpp=geometry.spacings[level],
                row=row,
                col=col,
                box=_move_box(geometry.box(index), evidence.location),
                attention=rounded_attention,
                weight=rounded_weight,
            )
        )

    draws = evidence.draw_probabilities
    intervals = evidence.intervals
    confidence = None
    if evidence.confidence is not None:
        (confidence,) = _round_numbers([evidence.confidence])
    return PredictionRecord(
        file=evidence.file,
        location=evidence.location,
        size=geometry.size,
        mpp=geometry.mpp,
        mpp_source=evidence.mpp_source,
        classes=tuple(classes),
        probabilities=probabilities,
        label=evidence.label if label is None else label,
        group=evidence.file if group is None else group,
        magnifications=geometry.spacings,
        patch_size=geometry.patch_size,
        attention=_round_numbers(attention),
        patches=tuple(patches),
        draw_probabilities=None if draws is None else tuple(_round_numbers(draw) for draw in draws),
        certified=evidence.certified,
        intervals=None if intervals is None else tuple(_round_interval(interval) for interval in intervals),
        run=dict(run or {}),
        aligned=geometry.aligned,
        bounds=evidence.bounds,
        confidence=confidence,
        inner_patches=_round_inner_patches(evidence.inner_patches),
        regions_looked_at=evidence.regions_looked_at,
        seen_regions=_round_seen_regions(evidence.seen_regions),
        task=evidence.task,
        thresholds=evidence.thresholds,
    )


def _round_inner_patches(patches: Iterable[InnerPatch] | None) -> tuple[InnerPatch, ...] | None:
    if patches is None:
        return None
    rounded = []
    for patch in patches:
        (weight,) = _round_numbers([patch.weight])
        rounded.append(replace(patch, weight=weight))
    return tuple(rounded)


def _round_seen_regions(regions: Iterable[SeenRegion] | None) -> tuple[SeenRegion, ...] | None:
    if regions is None:
        return None
    rounded = []
    for region in regions:
        (probability,) = _round_numbers([region.probability])
        attention = _round_numbers(region.attention)
        rounded.append(replace(region, probability=probability, attention=attention))
    return tuple(rounded)


def _round_numbers(values: Iterable[float]) -> tuple[float, ...]:
    """Nine digits of each number, which is what float32 holds.

    Raises:
        ValueError: if one is not finite.
    """
    numbers = []
    for value in values:
        number = float(f"{float(value):.9g}")
        if not math.isfinite(number):
            raise ValueError(f"finite numbers were expected, but got {number}.")
        numbers.append(number)
    return tuple(numbers)


def _round_interval(interval: Iterable[float]) -> tuple[float, float]:
    low, high = _round_numbers(interval)
    return low, high


def _move_box(box: Box, location: tuple[int, int]) -> Box:
    """A box of a region as a box of its file."""
    top, left = location
    row = box.row + top
    col = box.col + left
    return Box(row, col, box.height, box.width)


# ------------------------------------------------------------------------------------------------------ from JSON


def read_records(paths: str | Path | Iterable[str | Path]) -> list[PredictionRecord]:
    """Read the records of one or more files.

    Args:
        paths: path of a file of records, or several.

    Raises:
        FileNotFoundError: if a file is missing; it says whether its run is unfinished.
        ValueError: if a line is not a record, or two of them are of the same region.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    records: dict[tuple, PredictionRecord] = {}
    for path in map(Path, paths):
        if path.is_dir():
            raise IsADirectoryError(f"{path}: this is a folder; name the predictions in it, such as predictions.jsonl.")
        if not path.is_file():
            hint = ""
            part = path.with_name(path.name + PART)
            if part.is_file():
                hint = " yet: their run was stopped; run the same command again to finish it"
            raise FileNotFoundError(f"{path}: there are no such predictions{hint}.")
        is_empty = path.stat().st_size == 0  # of a run without images
        lines = [] if is_empty else read_text(path, "a file of prediction records").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                record = PredictionRecord.from_json(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}.") from error
            if record.key in records:
                raise ValueError(f"{path}, line {number}: {record.file} at {record.location} was predicted before.")
            records[record.key] = record
    return list(records.values())


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def _to_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_to_tuples(entry) for entry in value)
    return value


def _read_patch(values: Mapping[str, Any]) -> PatchRecord:
    box = Box(*values["box"])
    return PatchRecord(**{**values, "box": box})


def _read_inner_patch(values: Mapping[str, Any]) -> InnerPatch:
    box = Box(*values["box"])
    return InnerPatch(**{**values, "box": box})


def _read_seen_region(values: Mapping[str, Any]) -> SeenRegion:
    as_tuples = {name: _to_tuples(value) for name, value in values.items()}
    return SeenRegion(**{**as_tuples, "box": Box(*values["box"])})


# --------------------------------------------------------------------------------------------------------- checks


def _check_record(record: PredictionRecord) -> None:
    """Raise ValueError for values that a table or figure would show as if they were correct."""
    _check_names(record)
    _check_region(record)
    _check_task(record)
    _check_scores("probabilities", record.probabilities, record)
    _check_probabilities("attention", record.attention, record.geometry.num_cells)
    _check_draws(record)
    _check_certificate(record)
    _check_zoom(record)
    for patch in record.patches:
        if not _is_in_grid(patch, record.geometry):
            raise ValueError(f"there is no cell {patch.row}, {patch.col} at {patch.magnification}")


def _check_names(record: PredictionRecord) -> None:
    classes = record.classes
    are_different = isinstance(classes, tuple) and len(set(classes)) == len(classes)
    if not classes or not are_different:
        raise ValueError(f"classes are {classes!r}, not different names")
    for name in (*classes, record.file, record.group):
        if not isinstance(name, str):
            raise ValueError("classes, file or group are not text")
    label = record.label
    if label is None:
        return
    if record.thresholds is not None:
        _check_labels(label, len(classes))
        return
    is_index = type(label) is int and 0 <= label < len(classes)
    if not is_index:
        raise ValueError(f"label {label!r} is not an index of {len(classes)} classes")


def _check_labels(label: object, num_classes: int) -> None:
    """Raise ValueError if the label of multi-label is not different indices of classes in rising order."""
    are_indices = isinstance(label, tuple) and all(type(index) is int and 0 <= index < num_classes for index in label)
    if not are_indices or sorted(set(label)) != list(label):  # type: ignore[call-overload]
        raise ValueError(f"label {label!r} is not a rising list of indices of {num_classes} classes")


def _check_task(record: PredictionRecord) -> None:
    if record.task not in TASKS:
        raise ValueError(f"task {record.task!r} is none of {', '.join(TASKS)}")
    thresholds = record.thresholds
    if (record.task == MULTILABEL) != (thresholds is not None):
        raise ValueError(f"thresholds are {thresholds!r}, but the task is {record.task!r}")
    if thresholds is not None:
        read_thresholds(MULTILABEL, thresholds, len(record.classes))


def _check_scores(name: str, values: Sequence[float], record: PredictionRecord) -> None:
    """Check the probabilities of the classes: they sum to 1, but for those of multi-label."""
    count = len(record.classes)
    if record.thresholds is None:
        _check_probabilities(name, values, count)
    elif len(values) != count or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"{name} are not {count} probabilities")


def _check_region(record: PredictionRecord) -> None:
    location = record.location
    size = record.size
    for pair in (location, size):
        if [type(number) for number in pair] != [int, int]:
            raise ValueError(f"location {location!r} or size {size!r} are not pairs of whole numbers")
    bounds = record.bounds
    if bounds is not None and not all(type(number) is int for number in bounds):
        raise ValueError(f"bounds {bounds!r} are not whole numbers")
    if type(record.aligned) is not bool:
        raise ValueError(f"aligned {record.aligned!r} is neither true nor false")


def _check_probabilities(name: str, values: Sequence[float], count: int) -> None:
    is_distribution = False
    if len(values) == count and min(values) >= 0:
        total = math.fsum(values)
        is_distribution = abs(total - 1) <= _TOLERANCE
    if not is_distribution:
        raise ValueError(f"{name} are not {count} probabilities that sum to 1")


def _check_draws(record: PredictionRecord) -> None:
    draws = record.draw_probabilities
    if draws is None:
        return
    for draw in draws:
        _check_scores("draw_probabilities", draw, record)
    mean = np.mean(draws, axis=0) if draws else np.nan
    if not np.allclose(mean, record.probabilities, atol=_TOLERANCE):
        raise ValueError("probabilities are not the mean of draw_probabilities")


def _check_certificate(record: PredictionRecord) -> None:
    certified = record.certified
    if certified is not None and type(certified) is not bool:
        raise ValueError(f"certified {certified!r} is neither true nor false")
    confidence = record.confidence
    if confidence is not None and not 0 <= confidence <= 1:
        raise ValueError(f"confidence {confidence!r} is not between 0 and 1")
    intervals = record.intervals
    if intervals is None:
        return
    num_classes = len(record.classes)
    are_bounds = all(0 <= low <= high <= 1 for low, high in intervals)
    if len(intervals) != num_classes or not are_bounds:
        raise ValueError(f"intervals {intervals!r} are not {num_classes} pairs (low, high) in [0, 1]")


def _check_zoom(record: PredictionRecord) -> None:
    inner_patches = record.inner_patches
    if inner_patches is None:
        return
    if type(record.regions_looked_at) is not int:
        raise ValueError(f"regions_looked_at {record.regions_looked_at!r} is no whole number")
    weights = [patch.weight for patch in inner_patches]
    regions = [patch.weight for patch in record.patches]
    if not weights or abs(math.fsum(weights) - math.fsum(regions)) > _TOLERANCE:
        raise ValueError("the weights of inner_patches do not sum to those of their regions")
    for number, region in enumerate(record.seen_regions or ()):
        geometry = region.make_geometry(record.mpp)
        _check_probabilities(f"the attention of seen_regions[{number}]", region.attention, geometry.num_cells)
    if record.seen_regions is not None and len(record.seen_regions) != record.regions_looked_at:
        raise ValueError(f"there are {len(record.seen_regions)} seen_regions, but {record.regions_looked_at} are told")


def _is_in_grid(patch: PatchRecord, geometry: PatchGeometry) -> bool:
    """Whether the grid of the patch's magnification has its cell."""
    names = geometry.names
    if patch.magnification not in names:
        return False
    level = names.index(patch.magnification)
    rows, cols = geometry.grids[level]
    return 0 <= patch.row < rows and 0 <= patch.col < cols
