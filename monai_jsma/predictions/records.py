# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Prediction records: what was predicted for a picture or a region, and from which patches, as one line of JSON.

A record holds enough to draw attention, patches and tables again without the model: the file and region, the
probabilities, the attention of every cell and the patches that were read. Each line stands alone, so files of records
may be joined. Positions are (row, column), boxes (row, column, height, width), all in level-0 pixels of the file; cells
are those of the picture as stored, in the flat order of :mod:`monai_jsma.geometry`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from monai_jsma.geometry import Box, GridCell, PatchGeometry
from monai_jsma.predictions.measures import mutual_information, predictive_entropy
from monai_jsma.predictions.record_checks import check_record

__all__ = ["PatchRecord", "PredictionRecord", "read_records"]

PART = ".part"  # ends the name of the records of a run that is not finished
_DERIVED = ("shares", "patches_read", "draws", "spread", "predictive_entropy", "mutual_information")  # written too


@dataclass(frozen=True)
class PatchRecord:
    """One patch that was read.

    Args:
        magnification: its name, such as ``"100X"``.
        mpp: its spacing in um per pixel.
        row: of its cell in the grid of the magnification.
        col: of its cell.
        box: the patch in level-0 pixels of the file.
        attention: probability of its cell.
        weight: with which its features entered the bag; with draws, the mean over them.
    """

    magnification: str
    mpp: float
    row: int
    col: int
    box: Box
    attention: float
    weight: float


@dataclass(frozen=True)
class PredictionRecord:
    """What the network made of one picture or region.

    Args:
        file: path of the picture or slide.
        location: row and column of the region in the file; (0, 0) for a whole picture.
        size: its height and width.
        mpp: um per pixel of level 0.
        mpp_source: where that came from.
        classes: name of each class.
        probabilities: of each class.
        label: index of the true class; None where it is not known.
        group: what stays on one side of a split, e.g. the patient.
        magnifications: spacings in um per pixel, coarse to fine.
        patch_size: height and width of a patch, in pixels of its magnification.
        attention: probability of every cell.
        patches: those that were read, in order of weight.
        draw_probabilities: of each class by each of repeated draws, ``(draws, classes)``; None without.
        certified: whether the label is that of all patches, for certain; None where it was not asked.
        intervals: between which the probability of each class lies if all patches are read, (low, high).
        run: what made it: ``model`` and ``datalist`` (SHA-256), ``seed``, ``settings`` and ``versions``.
        aligned: whether the patches lay side by side, see :class:`~monai_jsma.geometry.PatchGeometry`.
    """

    file: str
    location: tuple[int, int]
    size: tuple[int, int]
    mpp: float
    mpp_source: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    label: int | None
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

    @property
    def key(self) -> tuple[str, tuple[int, int], tuple[int, int]]:
        """File, location and size: one record of a run has it."""
        return self.file, self.location, self.size

    @property
    def patches_read(self) -> int:
        """How many patches the prediction is made of; one that was drawn twice was read once."""
        return len(self.patches)

    @property
    def draws(self) -> int:
        """How often the patches were drawn; 0 if those of highest attention were taken."""
        return len(self.draw_probabilities or ())

    @property
    def spread(self) -> tuple[float, ...] | None:
        """Standard deviation of each probability over the draws; None without."""
        return None if self.draw_probabilities is None else tuple(np.std(self.draw_probabilities, axis=0).tolist())

    @property
    def predictive_entropy(self) -> float:
        """Entropy of the probabilities, see :mod:`monai_jsma.predictions.measures`."""
        return float(predictive_entropy(self.probabilities))

    @property
    def mutual_information(self) -> float | None:
        """What the draws disagree about, see :mod:`monai_jsma.predictions.measures`; None without."""
        return None if self.draw_probabilities is None else float(mutual_information(self.draw_probabilities))

    @property
    def prediction(self) -> int:
        """Index of the most probable class."""
        return int(np.argmax(self.probabilities))

    @cached_property
    def geometry(self) -> PatchGeometry:
        """The cells of the region, to place :attr:`attention`."""
        return PatchGeometry(self.size, self.mpp, self.magnifications, self.patch_size, self.aligned)

    @cached_property
    def cells(self) -> np.ndarray:
        """Flat index of the cell of each patch, int64 ``(patches,)``.

        Raises:
            ValueError: when a patch has no such cell, or does not lie at it.
        """
        return np.array([self._cell_of(patch) for patch in self.patches], np.int64)

    def _cell_of(self, patch: PatchRecord) -> int:
        geometry, (top, left) = self.geometry, self.location
        if patch.magnification in geometry.names:
            level = geometry.names.index(patch.magnification)
            index = geometry.index(GridCell(level, patch.row, patch.col))
            inside = all(0 <= i < n for i, n in zip((patch.row, patch.col), geometry.grids[level], strict=True))
            if inside and np.allclose(np.add(geometry.box(index), (top, left, 0, 0)), patch.box, rtol=0, atol=0.01):
                return index
        raise ValueError(f"{self.file} at {self.location}: {patch} does not lie at a cell of the region.")

    @property
    def shares(self) -> dict[str, float]:
        """Share of the attention by name of the magnification, coarse to fine (paper, Tables 3 and 4)."""
        ends = self.geometry.offsets
        return {
            name: math.fsum(self.attention[start:end])
            for name, start, end in zip(self.geometry.names, ends, ends[1:], strict=False)
        }

    @property
    def prior_shares(self) -> dict[str, float]:
        """Share of the cells by name of the magnification: the share of an attention that is the same everywhere."""
        cells = [rows * cols for rows, cols in self.geometry.grids]
        return {name: n / sum(cells) for name, n in zip(self.geometry.names, cells, strict=True)}

    def to_json(self) -> str:
        """One line, without its end; :meth:`from_json` reads it."""
        found = {name: getattr(self, name) for name in (*(f.name for f in fields(self)), *_DERIVED)}
        found["patches"] = [vars(patch) for patch in self.patches]
        return json.dumps(found, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> PredictionRecord:
        """The record of a line.

        Raises:
            ValueError: when it is none.
        """
        try:
            values = json.loads(line, parse_constant=_refuse)
            known = {f.name: _frozen(values[f.name]) for f in fields(cls) if f.name in values}
            known["patches"] = tuple(PatchRecord(**{**p, "box": Box(*p["box"])}) for p in values["patches"])
            record = cls(**known)
            check_record(record)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a prediction record: {error!r}") from error
        return record


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def read_records(paths: str | Path | Iterable[str | Path]) -> list[PredictionRecord]:
    """The records of one or more files.

    Raises:
        FileNotFoundError: when a file is missing; it says whether its run is unfinished.
        ValueError: when a line is no record, or two of them are of the same region.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    records: dict[tuple, PredictionRecord] = {}
    for path in map(Path, paths):
        if not path.is_file():
            begun = path.with_name(path.name + PART).is_file()
            hint = " yet: their run was stopped; the same command goes on with it" if begun else ""
            raise FileNotFoundError(f"{path}: there are no such predictions{hint}.")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                record = PredictionRecord.from_json(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}.") from error
            if record.key in records:
                raise ValueError(f"{path}, line {number}: {record.file} at {record.location} was predicted before.")
            records[record.key] = record
    return list(records.values())
