# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A datalist of BACH, part A of the ICIAR 2018 challenge, from its unzipped folders (paper, Section 4.1).

``Photos`` holds a folder for each class with pictures ``n001.tif``, ``b001.tif``, ``is001.tif``, ``iv001.tif`` and so
on, 100 of each, and ``microscopy_ground_truth.csv`` (``file_name,label``, no header). The 100 pictures of the test
folder, ``test0.tif`` and so on, have no labels. All are 1536 x 2048 pixels (height x width) of 0.42 um.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_jsma._io import few, file_sha256, read_table
from monai_jsma.datalists.bach_files import CLASSES, Picture, find_labelled, find_unlabelled
from monai_jsma.datalists.groups import check_groups
from monai_jsma.datalists.splits import check_copies, hold_out, split_by_group
from monai_jsma.slides.convert import REDUCTIONS, TILE, tile_picture
from monai_jsma.slides.open import inspect_slide

__all__ = ["MPP", "bach_datalist"]

MPP = 0.42
_ABOUT = {
    "name": "BACH, part A (microscopy images) of the ICIAR 2018 grand challenge",
    "reference": "G. Aresta et al. BACH: Grand challenge on breast cancer histology images. Medical Image Analysis 56, "
    "2019. https://zenodo.org/records/3632035",
    "licence": "CC BY-NC-ND 4.0",
    "mpp": MPP,
    "mpp_source": "description of the challenge: pixels of 0.42 um x 0.42 um",
}
_NUMBER = 100  # of pictures of each class, and of test pictures
_SIZE = (1536, 2048)

_logger = logging.getLogger(__name__)
Item = dict[str, Any]


def bach_datalist(
    root: str | Path,
    *,
    test: str | Path | None = None,
    patients: str | Path | None = None,
    folds: int = 5,
    fold: int = 0,
    seed: int = 0,
    tiled: str | Path | None = None,
) -> dict[str, Any]:
    """Make a datalist of the challenge's folders.

    One fold is the validation side, the others are the training side: with 5 folds, 80 and 320 pictures as in the
    paper. The unlabelled pictures are the test side. What is odd but harmless is logged as a warning.

    Args:
        root: the unzipped folder, one above or ``Photos`` itself.
        test: the unlabelled test folder; looked for in and beside ``root`` by default.
        patients: CSV with columns ``image`` and ``patient``; no patient is then on two sides.
        folds: number of stratified folds.
        fold: the one to validate on.
        seed: of the split.
        tiled: folder to write tiled pyramids of all pictures to; the datalist then names these, relative to it.

    Returns:
        the content for :func:`~monai_jsma.datalists.save_datalist`; paths are relative to ``tiled``, else ``root``.

    Raises:
        FileNotFoundError: when a folder or table is missing.
        ValueError: when folders, names and table disagree on a label, a class has no pictures, two files are the same
            picture, or a patient is unknown or would lie on two sides.
        SlideError: when a picture cannot be read.
    """
    root = Path(os.path.abspath(root))
    base = root if tiled is None else Path(os.path.abspath(tiled))
    if tiled is not None and base == root:
        raise ValueError(f"{base}: the tiled pyramids need a folder of their own.")
    pictures, photos = find_labelled(root)
    unlabelled = find_unlabelled(photos, root, None if test is None else Path(os.path.abspath(test)))
    _report(pictures, unlabelled)
    items = [_item(picture, root) for picture in [*pictures, *unlabelled]]
    check_copies(items, root)
    if patients is not None:
        _add_patients(items, Path(patients))
    sides = _sides(items, folds, fold, seed)
    if tiled is not None:
        sides = {side: [_tile(item, root, base) for item in found] for side, found in sides.items()}
    return {
        **_ABOUT,
        "labels": {str(i): name for i, name in enumerate(CLASSES)},
        "settings": {
            "command": "prepare bach",
            "folds": folds,
            "fold": fold,
            "seed": seed,
            "patients": None if patients is None else {"sha256": file_sha256(patients)},
            "tiled": None if tiled is None else {"compression": "none", "tile": TILE, "reductions": list(REDUCTIONS)},
        },
        **sides,
    }


def _report(pictures: Sequence[Picture], unlabelled: Sequence[Picture]) -> None:
    counts = Counter(picture.label for picture in pictures)
    found = {name: counts[i] for i, name in enumerate(CLASSES)} | {"unlabelled test": len(unlabelled)}
    for name, number in found.items():
        if number not in (0, _NUMBER):  # of none it has been told already
            _logger.warning("%d %s pictures, where BACH has %d.", number, name, _NUMBER)
    infos = [inspect_slide(picture.path) for picture in [*pictures, *unlabelled]]
    odd = [f"{Path(info.path).name} ({info.size[0]} x {info.size[1]})" for info in infos if info.size != _SIZE]
    if odd:
        _logger.warning("Not %d x %d pixels: %s.", *_SIZE, few(odd))


def _item(picture: Picture, root: Path) -> Item:
    label = {} if picture.label is None else {"label": picture.label}
    return {"image": _relative(picture.path, root), **label, "sha256": file_sha256(picture.path)}


def _relative(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path, base)).as_posix()


def _add_patients(items: Sequence[Item], path: Path) -> None:
    """Give every item its patient; test pictures may be without."""
    rows = [(_stem(row["image"]), row["patient"]) for row in read_table(path, ("image", "patient"))]
    patient_of = dict(rows)
    unknown = set(patient_of) - {_stem(item["image"]) for item in items}
    missing = [item["image"] for item in items if "label" in item and _stem(item["image"]) not in patient_of]
    repeated = [stem for stem, n in Counter(stem for stem, _ in rows).items() if n > 1]
    for what, found in (("names that are no pictures", sorted(unknown)), ("named more than once", repeated)):
        if found:
            raise ValueError(f"{path}: {what}: {few(found)}.")
    if missing:
        raise ValueError(f"{path}: pictures without a patient could leak: {few(missing)}; add them, or leave it out.")
    for item in items:
        if _stem(item["image"]) in patient_of:
            item["patient"] = patient_of[_stem(item["image"])]


def _stem(name: str) -> str:
    return re.split(r"[\\/]", name)[-1].rsplit(".", 1)[0].casefold()


def _sides(items: Sequence[Item], folds: int, fold: int, seed: int) -> dict[str, list[Item]]:
    labelled = [item for item in items if "label" in item]
    named = [{**item, "image": _stem(item["image"])} for item in labelled]  # the split is the same in any folder
    sides = hold_out(labelled, split_by_group(named, folds, seed), fold)
    sides["test"] = [item for item in items if "label" not in item]
    check_groups(sides)
    return sides


def _tile(item: Item, root: Path, base: Path) -> Item:
    """The item of a picture's pyramid, which is written unless it is there; it keeps the source and its checksum."""
    source, folder = root / item["image"], list(CLASSES)[item["label"]] if "label" in item else "test"
    path = base / folder / f"{source.stem}.tif"
    written = tile_picture(source, path, MPP)
    _logger.info("%s: %s", path, "written" if written else "is there already")
    made = {"image": _relative(path, base), "sha256": file_sha256(path)}
    return {**item, **made, "source": item["image"], "source_sha256": item["sha256"]}
