# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A datalist from a folder of pictures or slides with a table of labels, or with a folder for each class.

The table is CSV with a header: ``image`` (path relative to the folder) and ``label`` (name of the class), and if known
``group`` or ``patient`` (what must not lie on two sides of a split), ``mpp`` (um per pixel of level 0) and ``sha256``.
Other columns are not used. The spacing of a picture is the row's, else the one given for all, else the file's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_jsma._io import few, file_sha256, read_table
from monai_jsma.datalists.item_checks import check_mpp
from monai_jsma.datalists.splits import check_copies, fold_sides, split_by_group
from monai_jsma.slides.open import inspect_slide

__all__ = ["folder_datalist"]

_KEPT = ("group", "patient")
_PICTURES = {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"}
_SLIDES = {".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".dcm"}

_logger = logging.getLogger(__name__)


def _rows(root: Path, path: Path) -> list[dict[str, str]]:
    """The rows of the table; without one, a row for each picture in the folders of the classes."""
    if path.is_file() or path != root / "labels.csv":
        return read_table(path, ("image", "label"))
    rows, others = [], []
    for folder in (entry for entry in root.glob("*") if entry.is_dir()):
        for entry in folder.iterdir():
            if entry.suffix.lower() in _PICTURES | _SLIDES and entry.is_file() and not entry.name.startswith("."):
                rows.append({"image": f"{folder.name}/{entry.name}", "label": folder.name})
            else:
                others.append(f"{folder.name}/{entry.name}")
    if not rows:
        return read_table(path, ("image", "label"))
    if others:
        _logger.warning("%s: left out, no pictures or slides by their names: %s.", root, few(sorted(others)))
    return rows


def _class_index(table: Sequence[dict[str, str]], order: Sequence[str] | None, path: Path) -> dict[str, int]:
    """The number of each class: its place in ``order``, or among the sorted names."""
    found = sorted({row["label"] for row in table})
    names = list(order) if order else found
    unknown = [row for row in table if row["label"] not in names]
    if unknown:
        row = unknown[0]
        raise ValueError(f"{path}: {row['image']}: label '{row['label']}' is none of the classes {names}.")
    if len(set(names)) < len(names) or set(names) != set(found):
        raise ValueError(f"{path}: the classes must be {found}, each once and in any order, but got {names}.")
    return {name: i for i, name in enumerate(names)}


def _item(root: Path, row: dict[str, str], label: int, table: Path, mpp: float | None) -> dict[str, Any]:
    """The item of one row; its picture's checksum is compared with the table's, if that gives one.

    ``mpp`` is what all pictures are said to have; without it and the row's, the item has what the file says.
    """
    item: dict[str, Any] = {"image": row["image"], "label": label, "sha256": file_sha256(root / row["image"])}
    stated = row.get("sha256", "")
    if stated and stated.lower() != item["sha256"]:
        raise ValueError(
            f"{root / row['image']}: the file has changed: its sha256 is {item['sha256']}, but {table.name} says "
            f"{stated}; copy the picture again, or correct the table."
        )
    item.update({key: row[key] for key in _KEPT if row.get(key)})
    if row.get("mpp"):
        try:
            item.update(mpp=float(row["mpp"]), mpp_source=table.name)
        except ValueError as error:
            raise ValueError(f"{table}: {row['image']}: mpp '{row['mpp']}' is not a number.") from error
        check_mpp(item["mpp"], f"{table}: {row['image']}")
    info = inspect_slide(root / row["image"], mpp=item.get("mpp", mpp))
    if "mpp" not in item and mpp is None and info.mpp is not None:
        item.update(mpp=info.mpp, mpp_source=info.mpp_source)
    return item


def _report_unknown(items: Sequence[dict[str, Any]], mpp: float | None) -> None:
    unknown = [item["image"] for item in items if "mpp" not in item] if mpp is None else []
    if unknown:
        _logger.warning("No credible spacing is stated for %s; give it with --mpp or a column mpp.", few(unknown))


def folder_datalist(
    root: str | Path,
    labels: str | Path | None = None,
    *,
    mpp: float | None = None,
    folds: int = 5,
    fold: int = 0,
    seed: int = 0,
    class_order: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Make a datalist of a folder, split by group into training, validation and test side.

    Args:
        root: the folder, or a table in it; image paths are relative to the folder.
        labels: the table of labels; by default ``labels.csv`` in the folder, and without that every folder in it is a
            class.
        mpp: um per pixel of all pictures whose row does not give it; by default what each file says.
        folds: number of folds of the cross-validation.
        fold: the one to test on.
        seed: of the split.
        class_order: names of the classes in the order of their numbers; sorted by default.

    Returns:
        the content for :func:`monai_jsma.datalists.schema.save_datalist`.

    Raises:
        FileNotFoundError: when the table or a picture is missing.
        ValueError: when the table is wrong, a picture is not the one of the table's ``sha256``, two rows show the same
            picture, or the groups cannot be split.
        SlideError: when a file is no picture or slide that can be read.
    """
    root = Path(root)
    if root.is_file() and labels is None:
        root, labels = root.parent, root
    path = Path(labels) if labels else root / "labels.csv"
    table = sorted(_rows(root, path), key=lambda row: row["image"])
    missing = [row["image"] for row in table if not (root / row["image"]).is_file()]
    if missing:
        raise FileNotFoundError(f"{path}: {len(missing)} of {len(table)} pictures are not in {root}: {few(missing)}.")
    index = _class_index(table, class_order, path)
    if mpp is not None:
        check_mpp(mpp, "mpp")
    items = [_item(root, row, index[row["label"]], path, mpp) for row in table]
    check_copies(items, path)
    _report_unknown(items, mpp)
    content: dict[str, Any] = {
        "name": root.resolve().name,
        "labels": {str(i): name for name, i in index.items()},
        "settings": {"folds": folds, "fold": fold, "seed": seed},
        **fold_sides(items, split_by_group(items, folds, seed), fold),
    }
    if mpp is not None:
        content.update(mpp=mpp, mpp_source="given")
    return content
