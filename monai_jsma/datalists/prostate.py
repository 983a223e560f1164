# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""From annotated prostate slides to a datalist of regions of three classes (paper, Section 4.1).

:func:`gather_cohort` reads the annotations, finds their slides and places the regions of each slide;
:meth:`Cohort.datalist` chooses equally many of each class and splits them by patient. Every slide is treated by itself:
a slide that fails is reported with its stage, and the others go on. A region is a location in a slide, in level-0
pixels; its pixels are read when they are needed.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from monai_jsma._io import IMAGE_SUFFIXES, Fault, find_data_files, join_few
from monai_jsma.datalists.annotations import (
    ANNOTATION_SUFFIXES,
    TCGA_BARCODE,
    find_annotations,
    match_annotations,
)
from monai_jsma.datalists.regions import Area, Region, choose_balanced, find_outside_fault, place_regions
from monai_jsma.datalists.schema import check_mpp
from monai_jsma.datalists.splits import make_splits, split_by_group
from monai_jsma.slides.base import SlideInfo
from monai_jsma.slides.dicom import find_dicom_parts
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.frame import Frame, check_frame
from monai_jsma.slides.identity import find_slide_key, group_slide_files, slide_sha256
from monai_jsma.slides.open import inspect_slide

__all__ = ["CLASSES", "Cohort", "RegionSettings", "SlideRegions", "class_mapping", "gather_cohort", "patient_of"]

CLASSES = ("benign", "Gleason 3", "Gleason 4/5")
_IGNORE = "ignore"
_FORMS = ("Gleason ", "Gleason pattern ", "G", "GP", "")  # how the name of a pattern may begin
_NAMES = (  # what each class may be called in annotations
    ("benign", "normal", "non-tumor", "non-tumour"),
    ("Gleason 3", "Gleason pattern 3", "G3", "GP3", "3"),
    tuple(f"{form}{pattern}" for form in _FORMS for pattern in ("4", "5", "4/5")),
)

_logger = logging.getLogger(__name__)
Mapped = Mapping[str, int | None]  # class of each name in :func:`_simplify`'s form; None: not used


@dataclass(frozen=True, kw_only=True)
class RegionSettings:
    """How regions are placed, chosen and split.

    Args:
        size_um: height and width of a region, in um.
        cover: minimum share of a region that lies in its class.
        per_slide: maximum number of regions of a slide.
        per_class: maximum number of regions of a class.
        folds: number of folds of the split by patient.
        fold: index of the fold to test on.
        seed: random seed of locations, choice and split.
        mpp: um per pixel of level 0 of all slides, in place of what the files say.
        frame: corner that all annotations count from, in place of that of the tool (:mod:`monai_jsma.slides.frame`).
    """

    size_um: float = 2000.0
    cover: float = 0.5
    per_slide: int = 12
    per_class: int = 95
    folds: int = 5
    fold: int = 0
    seed: int = 0
    mpp: float | None = None
    frame: Frame | None = None

    def __post_init__(self) -> None:
        if not 0 < self.size_um < math.inf:
            raise ValueError(f"size_um must be above 0 um, but is {self.size_um}.")
        if not 0 < self.cover <= 1:
            raise ValueError(f"cover must be a share above 0 and at most 1, but is {self.cover}.")
        for name, smallest in (("per_slide", 1), ("per_class", 1), ("seed", 0)):
            value = getattr(self, name)
            if value < smallest:
                raise ValueError(f"{name} must be at least {smallest}, but is {value}.")
        if self.mpp is not None:
            check_mpp(self.mpp, "mpp")
        if self.frame is not None:
            check_frame(self.frame)


@dataclass(frozen=True)
class SlideRegions:
    """The regions of one slide.

    Args:
        item: what the items of all its regions have in common: image, patient, sha256, mpp, mpp_source and size.
        regions: the regions, best covered first.
    """

    item: dict[str, Any]
    regions: list[Region]


def class_mapping(overrides: Iterable[str] = ()) -> dict[str, int | None]:
    """The class of each annotated name, None for names that are not used.

    Args:
        overrides: ``name=class``, where the class is one of :data:`CLASSES` or ``ignore``.

    Returns:
        label by name without case, spaces and punctuation: "Gleason 4/5", "gleason_4_5" and "GLEASON45" are one name.

    Raises:
        ValueError: when an override has another form.
    """
    mapping: dict[str, int | None] = {}
    for label, names in enumerate(_NAMES):
        for name in names:
            mapping[_simplify(name)] = label

    label_of: dict[str, int | None] = {_simplify(name): label for label, name in enumerate(CLASSES)}
    label_of[_IGNORE] = None
    for override in overrides:
        name, _, class_name = override.rpartition("=")
        annotated = _simplify(name)
        target = _simplify(class_name)
        if not annotated or target not in label_of:
            raise ValueError(f"'{override}' is not name=class with a class of {', '.join(CLASSES)} or {_IGNORE}.")
        mapping[annotated] = label_of[target]
    return mapping


def _simplify(name: str) -> str:
    """A name without case, spaces and punctuation, as names are compared."""
    return re.sub(r"[\W_]+", "", name.casefold())


def patient_of(slide: str) -> str:
    """The patient of a slide's name: the first 12 characters of a TCGA barcode, else the name without its suffix."""
    if TCGA_BARCODE.match(slide):
        return slide[:12].upper()
    return Path(slide).stem


def _find_patient(path: Path) -> str:
    """The patient of a slide: that of a TCGA barcode in its name or its DICOM header, else the name.

    DICOM files of TCGA are named by numbers, and have the barcode in their header.
    """
    if not TCGA_BARCODE.match(path.name):
        for part in find_dicom_parts(str(path)):
            if TCGA_BARCODE.match(part.patient):
                return patient_of(part.patient)
    return patient_of(path.name)


def gather_cohort(
    slides: str | Path,
    annotations: str | Path,
    *,
    settings: RegionSettings | None = None,
    mapping: Mapped | None = None,
    skip: Iterable[Path] = (),
) -> Cohort:
    """Read annotations, find their slides and place the regions.

    Args:
        slides: folder of slides, searched with its subfolders; image paths are relative to it.
        annotations: folder of annotations, or one file (:mod:`monai_jsma.datalists.annotations`).
        settings: how regions are placed; the defaults if None.
        mapping: class of each annotated name, of :func:`class_mapping`; its defaults if None.
        skip: files in the folder of annotations that are not annotations, such as the results of an earlier run.

    Raises:
        FileNotFoundError: when there are no slides or no annotations.
    """
    root = Path(slides)
    files = find_data_files(root, IMAGE_SUFFIXES)
    slide_of = group_slide_files(files)
    slide_paths = sorted(set(slide_of.values()))
    _report_slides(files, slide_paths, root)
    _check_found(slide_paths, root, f"slides ({', '.join(IMAGE_SUFFIXES)})")
    annotation_paths = find_annotations(annotations, skip=skip)
    _check_found(annotation_paths, annotations, f"annotations ({', '.join(ANNOTATION_SUFFIXES)})")

    if mapping is None:
        mapping = class_mapping()
    if settings is None:
        settings = RegionSettings()
    cohort = Cohort(settings, mapping)
    areas_of, faults = match_annotations(
        annotation_paths, slide_paths, frame=settings.frame, slide_of=_add_containers(slide_of)
    )
    names = {path.relative_to(root).as_posix(): path for path in areas_of}
    name_of = {str(path): name for name, path in names.items()}
    for fault in faults:
        cohort.faults.append(replace(fault, where=name_of.get(fault.where, fault.where)))
    for name in sorted(names):
        _logger.info("%s: placing regions", name)
        path = names[name]
        cohort.add_slide(name, path, areas_of[path])
    cohort.faults.sort(key=lambda fault: (fault.where, fault.stage, fault.reason))
    return cohort


def _add_containers(slide_of: Mapping[Path, Path]) -> dict[Path, Path]:
    """Add names to those of the files: a DICOM header states the name of the slide's glass.

    An incomplete copy of a slide has the name too, which is the slide's.

    Args:
        slide_of: the slide of each file.
    """
    series = []
    for slide in sorted(set(slide_of.values())):
        try:
            parts = find_dicom_parts(str(slide))
        except (SlideError, OSError):
            continue  # told when it is opened
        if parts:
            series.append((slide, parts))
    series.sort(key=lambda entry: -len(entry[1]))

    names = dict(slide_of)
    seen = set()
    for slide, parts in series:
        container = parts[0].container
        if container and parts[0].series not in seen:
            names[slide / f"{container}.dcm"] = slide
        seen.add(parts[0].series)
    return names


def _report_slides(files: Sequence[Path], slides: Sequence[Path], root: Path) -> None:
    if len(files) > len(slides):
        _logger.warning("%s: %d files are %d slides, some of several files.", root, len(files), len(slides))


def _check_found(paths: Sequence[Path], folder: str | Path, kind: str) -> None:
    if paths:
        return
    if Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: holds no {kind}.")
    reason = "is a file" if Path(folder).exists() else "there is no such folder"
    raise FileNotFoundError(f"{folder}: {reason}; name the folder with {kind}.")


class Cohort:
    """Annotated slides and their regions; :func:`gather_cohort` makes one.

    Args:
        settings: how regions are placed, chosen and split.
        mapping: class of each annotated name.

    Attributes:
        slides: the regions of each slide, by its path relative to the folder of slides.
        faults: what failed, with the stages "annotation", "match", "object", "class", "slide", "regions" and "copy".
        unknown: number of annotations of each class name that the mapping does not have.
        num_areas: number of areas that count from each frame, of slides whose image begins elsewhere than the canvas.
    """

    def __init__(self, settings: RegionSettings, mapping: Mapped) -> None:
        self.slides: dict[str, SlideRegions] = {}
        self.faults: list[Fault] = []
        self.unknown: Counter[str] = Counter()
        self.num_areas: Counter[Frame] = Counter()
        self._settings = settings
        self._mapping = mapping
        self._first_of: dict[str, str] = {}  # the first slide with each checksum or key

    def add_slide(self, name: str, path: Path, areas: Sequence[Area]) -> None:
        """Place the regions of one slide; if that fails, add a fault.

        Args:
            name: path of the slide relative to the folder of slides.
            path: path of the slide.
            areas: its annotated areas.
        """
        if not areas and any(fault.where == name for fault in self.faults):
            return  # all of its objects were left out
        areas_of, unknown = _sort_by_class(areas, self._mapping)
        self.unknown += unknown
        if not areas_of:
            if unknown or not areas:  # else all annotations are to be ignored
                names = f", only {join_few(sorted(unknown))}; name its class with --map" if unknown else ""
                self.faults.append(Fault(name, "class", f"no annotated area has a known class{names}."))
            return

        try:
            slide = self._place_on_slide(name, path, areas_of)
            key = find_slide_key(str(path)) or slide.item["sha256"]
        except (SlideError, OSError) as error:
            self.faults.append(Fault(name, "slide", str(error)))
            return
        except ValueError as error:
            self.faults.append(Fault(name, "regions", str(error)))
            return

        # One slide under two names could be in two splits.
        first = self._first_of.setdefault(key, name)
        if first != name:
            self.faults.append(Fault(name, "copy", f"the same slide as {first}, which is kept."))
            return
        self.slides[name] = slide

    def _place_on_slide(self, name: str, path: Path, areas_of: Mapping[int, Sequence[Area]]) -> SlideRegions:
        """Place the regions of a slide in its areas of each class.

        Raises:
            SlideError: when the slide cannot be read or its spacing is unknown.
            ValueError: when all areas are outside the slide, or no region fits.
        """
        settings = self._settings
        info = inspect_slide(path, mpp=settings.mpp)
        if info.mpp is None:
            why = f" ({info.mpp_source})" if info.mpp_source else ""
            raise SlideError(f"{info.path}: its um per pixel are unknown{why}; give them with --mpp.")

        areas_inside = self._move_to_canvas(name, info, areas_of)
        side = round(settings.size_um / info.mpp)
        rng = _slide_rng(name, settings.seed)
        regions = place_regions(areas_inside, info.size, side, cover=settings.cover, rng=rng)
        if not regions:
            raise ValueError(
                f"no region of {side}x{side} pixels in the slide of {info.size} has {settings.cover:.0%} of its "
                "area in annotations of one class; lower --cover or --size-um."
            )
        item = {
            "image": name,
            "patient": _find_patient(path),
            "sha256": slide_sha256(info.path),
            "mpp": info.mpp,
            "mpp_source": info.mpp_source,
            "size": [side, side],
        }
        return SlideRegions(item, regions)

    def _move_to_canvas(
        self, name: str, info: SlideInfo, areas_of: Mapping[int, Sequence[Area]]
    ) -> dict[int, list[Area]]:
        """The areas in level-0 pixels of the slide; a fault for each that lies outside the image, unless all do."""
        inside: dict[int, list[Area]] = defaultdict(list)
        outside = []
        for label, areas in areas_of.items():
            for area in areas:
                reason = find_outside_fault(area, info.size, info.bounds)
                if reason is not None:
                    outside.append(Fault(name, "object", reason, item=area.item))
                    continue
                inside[label].append(area.on_canvas(info.bounds))
                if info.bounds is not None:
                    self.num_areas[area.frame] += 1
        if not inside:
            others = f" All other {len(outside) - 1} annotations are outside too." if len(outside) > 1 else ""
            raise ValueError(f"{outside[0].reason}{others}")
        self.faults += outside
        return dict(inside)

    def datalist(self, *, names_as_written: bool = False) -> dict[str, Any]:
        """Choose equally many regions of each class and split them by patient.

        Args:
            names_as_written: whether patients whose names differ in spelling only are different ones, rather than an
                error.

        Returns:
            the content for :func:`~monai_jsma.datalists.save_datalist`; ``placed`` has the number of regions of each
            class to choose from, ``unknown`` the number of annotations of each class name that is in no mapping.

        Raises:
            ValueError: when a class has no region, the patients cannot be split, or two are likely the same one.
        """
        settings = self._settings
        placed = {name: slide.regions for name, slide in self.slides.items()}
        chosen = choose_balanced(
            placed,
            range(len(CLASSES)),
            per_class=settings.per_class,
            per_slide=settings.per_slide,
            rng=np.random.default_rng(settings.seed),
        )
        num_placed = self._count_regions()
        if not chosen:
            raise ValueError(self._explain_empty(num_placed))

        items = []
        for name, regions in chosen.items():
            for region in regions:
                items.append(_region_item(self.slides[name].item, region))
        fold_of = split_by_group(items, settings.folds, settings.seed, min_folds=3, names_as_written=names_as_written)
        content: dict[str, Any] = {
            "name": "regions of annotated prostate slides",
            "labels": {str(label): name for label, name in enumerate(CLASSES)},
            "settings": {**asdict(settings), "mapping": dict(self._mapping)},
            "placed": num_placed,
            "unknown": dict(self.unknown),
            **make_splits(items, fold_of, settings.fold),
        }
        if names_as_written:
            content["names_as_written"] = True
        return content

    def _count_regions(self) -> dict[str, int]:
        """The number of regions of each class."""
        numbers = dict.fromkeys(CLASSES, 0)
        for slide in self.slides.values():
            for region in slide.regions:
                numbers[CLASSES[region.label]] += 1
        return numbers

    def _explain_empty(self, num_placed: Mapping[str, int]) -> str:
        numbers = ", ".join(f"{number} of {name}" for name, number in num_placed.items())
        reasons = [f"every class needs a region, but there are {numbers}"]
        if self.faults:
            first = self.faults[0]
            what = f"{first.where} {first.stage} {first.line.rstrip('.')}"
            reasons.append(f"{len(self.faults)} slides or annotations failed, first {what}")
        if self.unknown:
            names = ", ".join(sorted(self.unknown))
            reasons.append(f"unknown class names (--map names their class): {names}")
        return "; ".join(reasons) + "."


def _sort_by_class(areas: Iterable[Area], mapping: Mapped) -> tuple[dict[int, list[Area]], Counter[str]]:
    """The areas of each class, and the number of areas of each name that the mapping does not have."""
    areas_of: dict[int, list[Area]] = defaultdict(list)
    unknown: Counter[str] = Counter()
    for area in areas:
        names = [_simplify(name) for name in area.names]
        known = [name for name in names if name in mapping]
        if not known:
            unknown[area.names[0] if area.names else "(no class)"] += 1
            continue
        label = mapping[known[0]]
        if label is not None:
            areas_of[label].append(area)
    return dict(areas_of), unknown


def _slide_rng(name: str, seed: int) -> np.random.Generator:
    """A random source of the slide's name, not of its number, so that another slide changes nothing here."""
    stem = Path(name).stem
    digest = hashlib.sha256(stem.encode()).digest()
    number = int.from_bytes(digest[:8])
    return np.random.default_rng((seed, number))


def _region_item(slide_item: Mapping[str, Any], region: Region) -> dict[str, Any]:
    return {
        **slide_item,
        "label": region.label,
        "location": [region.row, region.col],
        "cover": round(region.cover, 4),
    }
