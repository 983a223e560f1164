# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A datalist from a folder of pictures with a table of labels.

The table is CSV with a header: ``image`` (path relative to the folder) and ``label`` (name of the class), and if known
``group`` or ``patient`` (what must not lie on two sides of a split), ``mpp`` (um per pixel of level 0) and ``sha256``.
Other columns are not used.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_jsma.data.datalist import check_mpp, few, file_sha256
from monai_jsma.data.split import fold_sides, split_by_group

__all__ = ["folder_datalist"]

_KEPT = ("group", "patient")


def _read_table(path: Path) -> list[dict[str, str]]:
    """The rows of the table, with every cell stripped.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no UTF-8, empty, lacks a column or a cell, or names a picture twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such table of labels.")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
            lines = list(csv.reader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8: {error}.") from error
    lines = [[cell.strip() for cell in line] for line in lines if any(cell.strip() for cell in line)]
    header, body = (lines[0], lines[1:]) if lines else ([], [])
    if not body:
        raise ValueError(f"{path}: no rows; needed are a header with 'image' and 'label', and one row a picture.")
    if not {"image", "label"} <= set(header) or len(set(header)) < len(header):
        raise ValueError(f"{path}: the header needs 'image' and 'label', and each column once, but is {header}.")
    for number, line in enumerate(body, 1):
        if len(line) != len(header) or not all(dict(zip(header, line))[key] for key in ("image", "label")):
            raise ValueError(f"{path}: row {number}: needed are {len(header)} cells, but got {line}.")
    repeated = [image for image, n in Counter(line[header.index("image")] for line in body).items() if n > 1]
    if repeated:
        raise ValueError(f"{path}: named more than once: {few(repeated)}.")
    return [dict(zip(header, line)) for line in body]


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


def _item(root: Path, row: dict[str, str], label: int, table: Path) -> dict[str, Any]:
    """The item of one row; its picture's checksum is compared with the table's, if that gives one."""
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
    return item


def _check_copies(items: Sequence[dict[str, Any]], path: Path) -> None:
    """One picture under two names could lie on two sides of a split."""
    names: dict[str, list[str]] = defaultdict(list)
    for item in items:
        names[item["sha256"]].append(item["image"])
    copies = [" = ".join(same) for same in names.values() if len(same) > 1]
    if copies:
        raise ValueError(f"{path}: rows of the same picture: {few(copies)}; keep one of each.")


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
        root: the folder; image paths are relative to it.
        labels: the table of labels; ``labels.csv`` in the folder by default.
        mpp: um per pixel of all pictures whose row does not give it.
        folds: number of folds of the cross-validation.
        fold: the one to test on.
        seed: of the split.
        class_order: names of the classes in the order of their numbers; sorted by default.

    Returns:
        the content for :func:`monai_jsma.data.datalist.save_datalist`.

    Raises:
        FileNotFoundError: when the table or a picture is missing.
        ValueError: when the table is wrong, a picture is not the one of the table's ``sha256``, two rows show the same
            picture, or the groups cannot be split.
    """
    root = Path(root)
    path = Path(labels) if labels else root / "labels.csv"
    table = sorted(_read_table(path), key=lambda row: row["image"])
    missing = [row["image"] for row in table if not (root / row["image"]).is_file()]
    if missing:
        raise FileNotFoundError(f"{path}: {len(missing)} of {len(table)} pictures are not in {root}: {few(missing)}.")
    index = _class_index(table, class_order, path)
    items = [_item(root, row, index[row["label"]], path) for row in table]
    _check_copies(items, path)
    content: dict[str, Any] = {
        "name": root.resolve().name,
        "labels": {str(i): name for name, i in index.items()},
        "settings": {"folds": folds, "fold": fold, "seed": seed},
        **fold_sides(items, split_by_group(items, folds, seed), fold),
    }
    if mpp is not None:
        check_mpp(mpp, "mpp")
        content.update(mpp=mpp, mpp_source="given")
    return content
