# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What must stay on one side of a split: groups, patients and pictures.

The group of an item is its ``group``, else its ``patient``, else its picture, so that the regions of one slide stay
together. Nor do two sides share a patient or a picture, whatever the groups say.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monai_jsma._io import few

__all__ = ["check_groups", "group_of", "identities", "on_two_sides"]

_KEPT_TOGETHER = ("group", "patient", "image")  # the first that an item has is its group


def group_of(item: Mapping[str, Any]) -> str:
    """What must stay on one side of a split: the item's ``group``, else its ``patient``, else its ``image``."""
    return str(next(item[key] for key in _KEPT_TOGETHER if item.get(key) not in (None, "")))


def identities(item: Mapping[str, Any]) -> set[tuple[str, str]]:
    """All that must not lie on two sides of a split, as (kind, value): the item's group, patient and picture."""
    found = {("group", group_of(item)), ("picture", os.path.normpath(item["image"]))}
    if item.get("patient") not in (None, ""):
        found.add(("patient", str(item["patient"])))
    return found


def on_two_sides(found: Iterable[tuple[str, tuple[str, str]]]) -> dict[tuple[str, str], list[str]]:
    """Of pairs (side, identity) the identities that lie on more than one side, each with its sides."""
    sides: dict[tuple[str, str], set[str]] = defaultdict(set)
    for side, identity in found:
        sides[identity].add(side)
    return {identity: sorted(names) for identity, names in sides.items() if len(names) > 1}


def check_groups(sides: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Check that no group, no patient and no picture lies on two sides, even if the items' groups are smaller.

    Args:
        sides: items of each side, by name.

    Raises:
        ValueError: naming the groups or pictures that do.
    """
    shared = on_two_sides((side, x) for side, items in sides.items() for item in items for x in identities(item))
    leaks = {f"{what} in {names}": None for (_, what), names in sorted(shared.items(), key=lambda leak: leak[0][1])}
    if leaks:
        raise ValueError(f"A group, patient or picture must lie on one side only, but found {few(leaks)}.")
