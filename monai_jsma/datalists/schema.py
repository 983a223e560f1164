# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Datalists: JSON files that name the pictures, labels and groups of the sides of a split.

The top level holds the sides (``training``, ``validation``, ``test``), each a list of items, and what is common to all:
``labels`` (the name of each class), ``mpp`` (um per pixel of level 0) and ``mpp_source``. An item holds ``image`` (a
path relative to a base folder), ``label`` (an int) and, as needed, ``group`` or ``patient``, ``location`` (row, column)
and ``size`` (height, width) in level-0 pixels, ``mpp`` and ``sha256``; other keys are kept.

No group, patient or picture lies on two sides, see :mod:`monai_jsma.datalists.groups`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_jsma._io import few, write_whole
from monai_jsma.datalists.groups import check_groups
from monai_jsma.datalists.item_checks import check_mpp, few_classes, image_fault, item_faults, labels_fault

__all__ = [
    "SIDES",
    "check_items",
    "class_names",
    "load_datalist",
    "read_datalist",
    "resolved_item",
    "save_datalist",
    "sides_of",
]

Item = dict[str, Any]
SIDES = ("training", "validation", "test")


def read_datalist(path: str | Path) -> dict[str, Any]:
    """The content of a datalist, unchecked.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is no JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such datalist.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the JSON or of its UTF-8
        raise ValueError(f"{path}: not a JSON file: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a datalist is a JSON object with lists such as 'training', but this holds none.")
    return content


def sides_of(content: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The sides of a datalist by name: the usual three, and whatever other list holds items with an ``image``."""
    lists = {name: items for name, items in content.items() if isinstance(items, list)}
    return {
        name: items
        for name, items in lists.items()
        if name in SIDES or any(isinstance(item, dict) and "image" in item for item in items)
    }


def _common_mpp(content: Mapping[str, Any], given: float | None, path: Path) -> Item:
    """``mpp`` and ``mpp_source`` of all items: as given, else of the datalist's top level, else nothing."""
    mpp = content.get("mpp") if given is None else given
    if mpp is None:
        return {}
    check_mpp(mpp, str(path))
    return {"mpp": mpp, "mpp_source": content.get("mpp_source", "datalist") if given is None else "given"}


def check_items(content: Mapping[str, Any], path: str | Path) -> None:
    """Check that the items of all sides of a datalist are objects with an ``image``.

    Raises:
        ValueError: naming the first that is none.
    """
    for side, items in sides_of(content).items():
        for i, item in enumerate(items):
            if fault := image_fault(item, f"{path}: {side}[{i}]"):
                raise ValueError(fault)


def resolved_item(item: Item, content: Mapping[str, Any], base: Path, mpp: float | None, path: Path) -> Item:
    """An item with its path joined to ``base``, and the spacing as given, else its own, else the datalist's."""
    own = {} if mpp is not None or item.get("mpp") is None else {"mpp_source": item.get("mpp_source", "datalist")}
    return {**item, **(own or _common_mpp(content, mpp, path)), "image": str(base / item["image"])}


def load_datalist(
    path: str | Path,
    key: str,
    base_dir: str | Path | None = None,
    *,
    mpp: float | None = None,
    num_classes: int | None = None,
    min_classes: int = 1,
) -> list[Item]:
    """Load and check one side of a datalist.

    Args:
        path: the JSON file.
        key: name of the side, e.g. ``"training"``.
        base_dir: folder of relative image paths; the folder of the datalist by default.
        mpp: um per pixel of every picture, in place of what the datalist says (None keeps that).
        num_classes: when given, each item must have a label below it, and ``labels`` as many names, if there are any.
        min_classes: so many different labels there must be; 2 to learn from.

    Returns:
        the items, with the ``image`` paths joined to the folder, and ``mpp`` and ``mpp_source`` where ``mpp``, the item
        or the top level of the datalist gives a spacing.

    Raises:
        FileNotFoundError: when the datalist or a picture is missing.
        ValueError: for broken JSON, an unknown or empty side, an item without ``image``, a wrong label or mpp,
            another number of classes, or a group that lies on two sides of the datalist.
    """
    path = Path(path)
    content = read_datalist(path)
    check_items(content, path)
    items = content.get(key)
    if not isinstance(items, list) or not items:
        raise ValueError(f"{path}: no items under '{key}'; it has {[k for k in SIDES if content.get(k)]}.")
    names = content.get("labels")
    if num_classes is not None and isinstance(names, dict) and len(names) != num_classes:
        raise ValueError(
            f"{path}: it names {len(names)} classes in 'labels', but num_classes is {num_classes}; make them agree, "
            f"such as by num_classes={len(names)}."
        )
    for i, item in enumerate(items):
        for _, fault in item_faults(item, num_classes, f"{path}: {key}[{i}]"):
            raise ValueError(fault)
    for fault in few_classes(items, min_classes, f"{path}: {key}"):
        raise ValueError(fault)
    base = Path(base_dir) if base_dir else path.parent
    loaded = [resolved_item(item, content, base, mpp, path) for item in items]
    missing = [item["image"] for item in loaded if not os.path.isfile(item["image"])]
    if missing:
        raise FileNotFoundError(
            f"{path}: {len(missing)} of {len(loaded)} pictures under '{key}' are missing: {few(missing)}. "
            f"Relative paths start at {base}; give the folder of the pictures (base_dir)."
        )
    check_groups({side: items for side, items in sides_of(content).items() if side in SIDES})
    return loaded


def class_names(path: str | Path) -> list[str] | None:
    """Names of the classes in their order, from a datalist's ``labels``.

    None where there are none, or no datalist: pictures may also be given without one.

    Raises:
        ValueError: when the names have other numbers than 0, 1, ...
    """
    labels = read_datalist(path).get("labels") if Path(path).is_file() else None
    if fault := labels_fault(labels):
        raise ValueError(f"{path}: {fault}")
    return [labels[str(i)] for i in range(len(labels))] if labels else None


def save_datalist(content: Mapping[str, Any], path: str | Path) -> Path:
    """Write a datalist, all of it or nothing; equal content gives equal bytes. Returns the path.

    Raises:
        ValueError: when a group lies on two sides.
    """
    check_groups({side: content[side] for side in SIDES if side in content})
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    return write_whole(path, text)
