# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with items, labels and spacings of a datalist, in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["check_mpp", "few_classes", "image_fault", "item_faults", "labels_fault"]


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


def image_fault(item: Any, where: str) -> str | None:
    """What is wrong with an item that is no object, or has no ``image``; None if it is one and has."""
    if isinstance(item, dict) and isinstance(item.get("image"), str) and item["image"]:
        return None
    return f"{where}: an item is an object with the path of its 'image', but got {item!r}."


def item_faults(item: Any, num_classes: int | None, where: str) -> Iterator[tuple[str, str]]:
    """All that is wrong with an item itself, as ("item", "label" or "mpp", message); its file is not looked at.

    Args:
        item: of a side of a datalist.
        num_classes: when given, the item must have a label below it.
        where: what the messages begin with.
    """
    if fault := image_fault(item, where):
        yield "item", fault
        return
    checks = {
        "label": (num_classes is not None, lambda label: _check_label(label, num_classes, where)),
        "mpp": (False, lambda mpp: check_mpp(mpp, where)),
    }
    for key, (needed, check) in checks.items():
        if needed or item.get(key) is not None:
            try:
                check(item.get(key))
            except ValueError as error:
                yield key, str(error)


def labels_fault(labels: Any) -> str | None:
    """What is wrong with the names of the classes of a datalist; None if nothing, or there are none."""
    if labels is None or (isinstance(labels, dict) and set(labels) == set(map(str, range(len(labels))))):
        return None
    return f"'labels' must name the classes '0', '1', ... without a gap, but is {labels!r}."


def few_classes(items: Iterable[Mapping[str, Any]], least: int, where: str) -> Iterator[str]:
    """What is wrong with a side that has labels of fewer than ``least`` classes."""
    labels = [str(item.get("label")) for item in items]
    found = sorted(set(labels))
    if 0 < len(found) < least:
        which = " or ".join(found)
        yield f"{where}: all {len(labels)} items have the label {which}; give it items of another class too."
