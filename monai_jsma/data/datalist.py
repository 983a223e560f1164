# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Datalists: JSON files that name the pictures, labels and groups of the sides of a split.

The top level holds the sides (``training``, ``validation``, ``test``), each a list of items, and what is common to all:
``labels`` (the name of each class), ``mpp`` (um per pixel of level 0) and ``mpp_source``. An item holds ``image`` (a
path relative to a base folder), ``label`` (an int) and, as needed, ``group`` or ``patient``, ``location`` (row, column)
and ``size`` (height, width) in level-0 pixels, ``mpp`` and ``sha256``; other keys are kept.

No group lies on two sides. The group of an item is its ``group``, else its ``patient``, else its picture, so that the
regions of one slide stay together.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "SIDES",
    "check_groups",
    "check_mpp",
    "class_names",
    "few",
    "file_sha256",
    "group_of",
    "load_datalist",
    "save_datalist",
]

Item = dict[str, Any]
SIDES = ("training", "validation", "test")
_KEPT_TOGETHER = ("group", "patient", "image")  # the first that an item has is its group


def few(values: Iterable[Any]) -> str:
    """The first three values, and how many there are, for a message of one line."""
    values = [str(v) for v in values]
    return ", ".join(values[:3]) + (f", ... ({len(values)} in all)" if len(values) > 3 else "")


def group_of(item: Mapping[str, Any]) -> str:
    """What must stay on one side of a split: the item's ``group``, else its ``patient``, else its ``image``."""
    return str(next(item[key] for key in _KEPT_TOGETHER if item.get(key) not in (None, "")))


def check_groups(sides: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Check that no group, no patient and no picture lies on two sides, even if the items' groups are smaller.

    Args:
        sides: items of each side, by name.

    Raises:
        ValueError: naming the groups or pictures that do.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for name, items in sides.items():
        for item in items:
            for key in _KEPT_TOGETHER:
                if item.get(key) not in (None, ""):
                    found[str(item[key])].add(name)
    leaks = [f"{what} in {sorted(names)}" for what, names in sorted(found.items()) if len(names) > 1]
    if leaks:
        raise ValueError(f"A group, patient or picture must lie on one side only, but found {few(leaks)}.")


def _check_label(label: Any, num_classes: int | None, where: str) -> None:
    limit = "" if num_classes is None else f" below num_classes={num_classes}"
    if not isinstance(label, int) or isinstance(label, bool) or label < 0 or (limit and label >= num_classes):  # type: ignore[operator]
        raise ValueError(f"{where}: the label must be a whole number from 0{limit}, but is {label!r}.")


def check_mpp(mpp: Any, where: str) -> None:
    """Check that a spacing is a positive number.

    Args:
        mpp: um per pixel.
        where: what the message begins with.

    Raises:
        ValueError: when it is not.
    """
    if not isinstance(mpp, (int, float)) or isinstance(mpp, bool) or not (math.isfinite(mpp) and mpp > 0):
        raise ValueError(f"{where}: mpp must be a positive number of um per pixel, but is {mpp!r}.")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such datalist.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the JSON or of its UTF-8
        raise ValueError(f"{path}: not a JSON file: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a datalist is a JSON object with lists such as 'training', but this holds none.")
    return content


def _common_mpp(content: Mapping[str, Any], given: float | None, path: Path) -> Item:
    """``mpp`` and ``mpp_source`` of all items: as given, else of the datalist's top level, else nothing."""
    mpp = content.get("mpp") if given is None else given
    if mpp is None:
        return {}
    check_mpp(mpp, str(path))
    return {"mpp": mpp, "mpp_source": content.get("mpp_source", "datalist") if given is None else "given"}


def _check_item(item: Any, num_classes: int | None, where: str) -> None:
    if not isinstance(item, dict) or not isinstance(item.get("image"), str) or not item["image"]:
        raise ValueError(f"{where}: an item is an object with the path of its 'image', but got {item!r}.")
    if num_classes is not None or item.get("label") is not None:
        _check_label(item.get("label"), num_classes, where)
    if item.get("mpp") is not None:
        check_mpp(item["mpp"], where)


def load_datalist(
    path: str | Path,
    key: str,
    base_dir: str | Path | None = None,
    *,
    mpp: float | None = None,
    num_classes: int | None = None,
) -> list[Item]:
    """Load and check one side of a datalist.

    Args:
        path: the JSON file.
        key: name of the side, e.g. ``"training"``.
        base_dir: folder of relative image paths; the folder of the datalist by default.
        mpp: um per pixel of every picture, in place of what the datalist says (None keeps that).
        num_classes: when given, each item must have a label below it.

    Returns:
        the items, with the ``image`` paths joined to the folder, and ``mpp`` and ``mpp_source`` where ``mpp``, the item
        or the top level of the datalist gives a spacing.

    Raises:
        FileNotFoundError: when the datalist or a picture is missing.
        ValueError: for broken JSON, an unknown or empty side, an item without ``image``, a wrong label or mpp, or a
            group that lies on two sides of the datalist.
    """
    path = Path(path)
    content = _read_json(path)
    items = content.get(key)
    if not isinstance(items, list) or not items:
        raise ValueError(f"{path}: no items under '{key}'; it has {[k for k in SIDES if content.get(k)]}.")
    for i, item in enumerate(items):
        _check_item(item, num_classes, f"{path}: {key}[{i}]")
    base = Path(base_dir) if base_dir else path.parent
    common = _common_mpp(content, mpp, path)
    loaded = []
    for item in items:
        own = {} if mpp is not None or item.get("mpp") is None else {"mpp_source": item.get("mpp_source", "datalist")}
        loaded.append({**item, **(own or common), "image": str(base / item["image"])})
    missing = [item["image"] for item in loaded if not os.path.isfile(item["image"])]
    if missing:
        raise FileNotFoundError(
            f"{path}: {len(missing)} of {len(loaded)} pictures under '{key}' are missing: {few(missing)}. "
            f"Relative paths start at {base}; give the folder of the pictures (base_dir)."
        )
    check_groups({side: content[side] for side in SIDES if side in content})
    return loaded


def class_names(path: str | Path) -> list[str] | None:
    """Names of the classes in their order, from a datalist's ``labels``.

    None where there are none, or no datalist: pictures may also be given without one.
    """
    labels = _read_json(Path(path)).get("labels") if Path(path).is_file() else None
    return [labels[str(i)] for i in range(len(labels))] if labels else None


def save_datalist(content: Mapping[str, Any], path: str | Path) -> Path:
    """Write a datalist, all of it or nothing; equal content gives equal bytes. Returns the path.

    Raises:
        ValueError: when a group lies on two sides.
    """
    path = Path(path)
    check_groups({side: content[side] for side in SIDES if side in content})
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(text.encode("utf-8"))  # bytes: text mode would change the line ends on Windows
    os.replace(part, path)
    return path


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
