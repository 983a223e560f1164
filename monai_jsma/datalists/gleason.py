# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Conventions of annotated prostate slides: settings of their regions, names of classes, slides and patients.

The classes are those of the paper, Section 4.1.
A TCGA slide is called ``TCGA-2A-A8VL-01Z-00-DX1.<id>.svs``; the first 12 characters are its patient.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_jsma.datalists.item_checks import check_mpp

__all__ = ["CLASSES", "RegionSettings", "class_mapping", "find_slide", "patient_of", "plain"]

CLASSES = ("benign", "Gleason 3", "Gleason 4/5")
_IGNORE = "ignore"
# Compared without case, spaces and punctuation: "Gleason 4/5", "gleason_4_5" and "GLEASON45" are one name.
_NAMES = (
    ("benign", "normal", "non-tumor", "non-tumour"),
    ("Gleason 3", "Gleason pattern 3", "G3", "GP3", "3"),
    tuple(f"{form}{p}" for form in ("Gleason ", "Gleason pattern ", "G", "GP", "") for p in ("4", "5", "4/5")),
)
_TCGA = re.compile(r"TCGA-\w{2}-\w{4}(?!\w)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class RegionSettings:
    """How regions are made.

    Args:
        size_um: height and width of a region, in um.
        cover: the smallest share of a region that lies in its class.
        per_slide: largest number of regions of a slide.
        per_class: largest number of regions of a class.
        folds: number of folds of the split by patient.
        fold: the one to test on.
        seed: of places, choice and split.
        mpp: um per pixel of level 0 of all slides, in place of what they say.
    """

    size_um: float = 2000.0
    cover: float = 0.5
    per_slide: int = 12
    per_class: int = 95
    folds: int = 5
    fold: int = 0
    seed: int = 0
    mpp: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.size_um < math.inf or not 0 < self.cover <= 1:
            raise ValueError(f"size_um must be above 0 and cover above 0 and at most 1, but got {self}.")
        if min(self.per_slide, self.per_class) < 1 or self.seed < 0:
            raise ValueError(f"per_slide and per_class must be at least 1 and seed at least 0, but got {self}.")
        if self.mpp is not None:
            check_mpp(self.mpp, "mpp")


def plain(name: str) -> str:
    """A name as it is compared: without case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name.casefold())


def class_mapping(overrides: Iterable[str] = ()) -> dict[str, int | None]:
    """The class of each annotated name, None for names that are left out.

    Args:
        overrides: ``name=class``, where the class is one of :data:`CLASSES` or ``ignore``.

    Returns:
        by name without case, spaces and punctuation.

    Raises:
        ValueError: for anything else.
    """
    mapping: dict[str, int | None] = {plain(name): i for i, names in enumerate(_NAMES) for name in names}
    classes: dict[str, int | None] = {plain(name): i for i, name in enumerate(CLASSES)}
    classes[_IGNORE] = None
    for override in overrides:
        name, _, wanted = override.rpartition("=")
        if not plain(name) or plain(wanted) not in classes:
            raise ValueError(f"'{override}' is no name=class with a class of {', '.join(CLASSES)} or {_IGNORE}.")
        mapping[plain(name)] = classes[plain(wanted)]
    return mapping


def patient_of(slide: str) -> str:
    """The patient of a slide's name: the first 12 characters of a TCGA barcode, else the name without its suffix."""
    return slide[:12].upper() if _TCGA.match(slide) else Path(slide).stem


def find_slide(name: str, slides: Sequence[Path]) -> Path:
    """The slide that an annotation is of.

    Their names without suffix are equal, or one goes on after a dot; a TCGA barcode may also go on after a dash.

    Raises:
        ValueError: when there is none, or more than one.
    """

    def begins(long: str, short: str) -> bool:
        return long.startswith(short) and long[len(short)] in (".-" if _TCGA.match(short) else ".")

    equal = [s for s in slides if name in (s.stem, s.name)]
    longer = [s for s in slides if len(s.stem) != len(name) and begins(*sorted((s.stem, name), key=len)[::-1])]
    found = equal or longer
    if len(found) != 1:
        what = "no slide has this name" if not found else f"{len(found)} slides have: {found[0].name}, {found[1].name}"
        raise ValueError(f"{what}; name the annotation as its slide.")
    return found[0]
