# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""From annotated prostate slides to a datalist of regions of three classes (paper, Section 4.1).

Every slide goes from its annotation to its regions by itself; what fails is told with its stage, and the rest goes on.
Regions are lazy: a place in a slide, in level-0 pixels, never a file of its own.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monai_jsma._io import few, file_sha256
from monai_jsma.datalists.annotations import ANNOTATION_SUFFIXES, read_annotations
from monai_jsma.datalists.gleason import CLASSES, RegionSettings, class_mapping, find_slide, patient_of, plain
from monai_jsma.datalists.regions import Area, Region, choose_balanced, place_regions
from monai_jsma.datalists.splits import fold_sides, split_by_group
from monai_jsma.slides.base import SlideInfo
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.open import inspect_slide

__all__ = ["SLIDE_SUFFIXES", "Cohort", "Failure", "gather"]

SLIDE_SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".bif", ".png", ".jpg")

_logger = logging.getLogger(__name__)


class Failure(NamedTuple):
    """A slide, or an annotation where no slide is known, the stage it failed at, and why."""

    slide: str
    stage: str
    reason: str


class Cohort:
    """Annotated slides on their way to regions; :func:`gather` makes one.

    Attributes:
        failures: what failed.
        unknown: number of annotations of each class name that is in no mapping.
        placed: the regions of each slide, best covered first.
    """

    def __init__(self, root: Path, settings: RegionSettings, mapping: Mapping[str, int | None]) -> None:
        self._root, self._settings, self._mapping = root, settings, mapping
        self._areas: dict[str, list[Area]] = defaultdict(list)
        self._items: dict[str, dict[str, Any]] = {}
        self.placed: dict[str, list[Region]] = {}
        self.failures: list[Failure] = []
        self.unknown: Counter[str] = Counter()

    def _fail(self, slide: str, stage: str, error: object) -> None:
        self.failures.append(Failure(slide, stage, " ".join(str(error).split())))

    def read(self, paths: Iterable[Path], slides: Sequence[Path]) -> None:
        """Read annotations and find their slides."""
        for path in paths:
            try:
                found = read_annotations(path)
            except (ValueError, OSError) as error:
                self._fail(path.name, "annotation", error)
                continue
            for name, areas in found.items():
                try:
                    self._areas[find_slide(name, slides).relative_to(self._root).as_posix()] += areas
                except ValueError as error:
                    self._fail(name, "match", f"{path}: {error}")

    def place(self) -> None:
        """Place the regions of every slide with annotations."""
        for slide in sorted(self._areas):
            self._place(slide)
        self._drop_copies()
        self.failures.sort()

    def _place(self, slide: str) -> None:
        _logger.info("%s: placing regions", slide)
        by_class, unknown = self._by_class(self._areas[slide])
        if not by_class:
            if unknown or not self._areas[slide]:  # else all of it is to be ignored
                names = f" but {few(sorted(unknown))}, name its class with --map" if unknown else ""
                self._fail(slide, "class", f"no annotated area of a known class{names}.")
            return
        try:
            info = inspect_slide(self._root / slide, mpp=self._settings.mpp)
            regions = self._regions(slide, info, by_class)
            item = {"image": slide, "patient": patient_of(Path(slide).name), "sha256": file_sha256(info.path)}
        except (SlideError, OSError) as error:
            self._fail(slide, "slide", error)
        except ValueError as error:
            self._fail(slide, "regions", error)
        else:
            side = self._side(info)
            self._items[slide] = {**item, "mpp": info.mpp, "mpp_source": info.mpp_source, "size": [side, side]}
            self.placed[slide] = regions

    def _by_class(self, areas: Iterable[Area]) -> tuple[dict[int, list[Area]], Counter[str]]:
        """The areas of each class, and how many there are of each name that is in no mapping."""
        found: dict[int, list[Area]] = defaultdict(list)
        unknown: Counter[str] = Counter()
        for area in areas:
            known = [n for n in area.names if plain(n) in self._mapping]
            label = self._mapping[plain(known[0])] if known else None
            if label is not None:
                found[label].append(area)
            elif not known:
                unknown[area.names[0] if area.names else "(no class)"] += 1
        self.unknown += unknown
        return found, unknown

    def _side(self, info: SlideInfo) -> int:
        if info.mpp is None:
            turned_down = f" ({info.mpp_source})" if info.mpp_source else ""
            raise SlideError(f"{info.path}: its um per pixel are unknown{turned_down}; give them with --mpp.")
        return round(self._settings.size_um / info.mpp)

    def _regions(self, slide: str, info: SlideInfo, areas: Mapping[int, Sequence[Area]]) -> list[Region]:
        for area in (a for of_class in areas.values() for a in of_class):
            low, high = area.ring.min(0), area.ring.max(0)
            if (high <= 0).any() or (low >= info.size).any():
                raise ValueError(
                    f"an annotation at row {low[0]:g}, column {low[1]:g} is outside the slide of {info.size}: is it "
                    "of another slide, or not in level-0 pixels?"
                )
        # The name and not the order of the slides seeds, so that another slide changes nothing here.
        name = int.from_bytes(hashlib.sha256(Path(slide).stem.encode()).digest()[:8])
        rng = np.random.default_rng((self._settings.seed, name))
        side = self._side(info)
        placed = place_regions(areas, info.size, side, cover=self._settings.cover, rng=rng)
        if not placed:
            raise ValueError(
                f"no region of {side}x{side} pixels in the slide of {info.size} lies to {self._settings.cover:.0%} in "
                "annotations of one class; lower --cover or --size-um."
            )
        return placed

    def _drop_copies(self) -> None:
        """One slide under two names could lie on two sides of a split: keep the first."""
        first: dict[str, str] = {}
        for slide in sorted(self._items):
            kept = first.setdefault(self._items[slide]["sha256"], slide)
            if kept != slide:
                self._fail(slide, "copy", f"the same file as {kept}, which is kept.")
                del self._items[slide], self.placed[slide]

    def datalist(self) -> dict[str, Any]:
        """Choose as many regions of each class and split them by patient.

        Returns:
            the content for :func:`~monai_jsma.datalists.save_datalist`; ``placed`` counts the regions there were to
            choose from, ``unknown`` the annotations of each class name that is in no mapping.

        Raises:
            ValueError: when a class has no region, or the patients cannot be split.
        """
        settings, labels = self._settings, range(len(CLASSES))
        rng = np.random.default_rng(settings.seed)
        chosen = choose_balanced(
            self.placed, labels, per_class=settings.per_class, per_slide=settings.per_slide, rng=rng
        )
        counts = Counter(r.label for regions in self.placed.values() for r in regions)
        placed = {name: counts[i] for i, name in enumerate(CLASSES)}
        if not chosen:
            raise ValueError(self._why_none(placed))
        items = [
            {**self._items[slide], "label": r.label, "location": [r.row, r.col], "cover": round(r.cover, 4)}
            for slide, regions in chosen.items()
            for r in regions
        ]
        return {
            "name": "regions of annotated prostate slides",
            "labels": {str(i): name for i, name in enumerate(CLASSES)},
            "settings": {**asdict(settings), "mapping": dict(self._mapping)},
            "placed": placed,
            "unknown": dict(self.unknown),
            **fold_sides(items, split_by_group(items, settings.folds, settings.seed), settings.fold),
        }

    def _why_none(self, placed: Mapping[str, int]) -> str:
        why = [f"every class needs a region, but there are {', '.join(f'{n} of {name}' for name, n in placed.items())}"]
        if self.failures:
            why.append(f"{len(self.failures)} slides or annotations failed, first {' '.join(self.failures[0])}")
        if self.unknown:
            why.append(f"unknown class names (--map names their class): {', '.join(sorted(self.unknown))}")
        return "; ".join(w.rstrip(".") for w in why) + "."


def gather(
    slides: str | Path,
    annotations: str | Path,
    settings: RegionSettings | None = None,
    mapping: Mapping[str, int | None] | None = None,
    *,
    skip: Iterable[Path] = (),
) -> Cohort:
    """Read annotations, find their slides and place the regions.

    Args:
        slides: folder of slides, searched with its subfolders; image paths are relative to it.
        annotations: folder of annotations, or one file (:mod:`monai_jsma.datalists.annotations`).
        settings: how regions are made.
        mapping: of :func:`monai_jsma.datalists.gleason.class_mapping`.
        skip: files in the folder of annotations that are none, such as the results of an earlier run.

    Raises:
        FileNotFoundError: when a folder, the slides or the annotations are missing.
    """
    root, skipped = Path(slides), {p.resolve() for p in skip}
    paths = _files(root, SLIDE_SUFFIXES, "slides")
    tables = [p for p in _files(Path(annotations), ANNOTATION_SUFFIXES, "annotations") if p.resolve() not in skipped]
    cohort = Cohort(root, settings or RegionSettings(), class_mapping() if mapping is None else mapping)
    cohort.read(tables, paths)
    cohort.place()
    return cohort


def _files(path: Path, suffixes: Sequence[str], what: str) -> list[Path]:
    if path.is_file() and what == "annotations":
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    if not found:
        raise FileNotFoundError(f"{path}: there is no folder with {what} ({', '.join(suffixes)}).")
    return found
