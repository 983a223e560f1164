# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Regions of pictures and slides: where an item of a datalist lies, and whether its pixels can be read.

Coordinates are (row, column), sizes (height, width), in level-0 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai_jsma.geometry import check_region
from monai_jsma.slides.base import SlideInfo
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.open import open_slide

__all__ = ["Rectangle", "place_of", "read_region", "region_of"]

Rectangle = tuple[Sequence[int], Sequence[int]]  # (row, column), (height, width)
_PATCH, _BLOCK = 299, 1024  # pixels read at once: of a sample, of everything


def place_of(item: Mapping[str, Any], path: str) -> tuple[Sequence[int] | None, Sequence[int] | None]:
    """``location`` and ``size`` of a datalist's item, each None where it has none.

    Raises:
        ValueError: when they are no pairs of whole numbers; it begins with ``path``.
    """
    location, size = item.get("location"), item.get("size")
    for name, pair in (("location", location), ("size", size)):
        whole = isinstance(pair, (list, tuple)) and len(pair) == 2 and all(type(v) is int for v in pair)
        if pair is not None and not whole:
            raise ValueError(f"{path}: '{name}' must be two whole numbers of level-0 pixels, but is {pair!r}.")
    return location, size


def region_of(item: Mapping[str, Any], info: SlideInfo) -> Rectangle:
    """The region of a datalist's item: (row, column) and (height, width); all of the picture where it names none.

    Raises:
        ValueError: when ``location`` or ``size`` are no pairs of whole numbers, the region leaves the picture, or
            ``size`` without ``location`` is not that of the picture.
    """
    location, size = place_of(item, info.path)
    if location is None and size is not None and tuple(size) != info.size:
        raise ValueError(
            f"{info.path}: the datalist says {tuple(size)} (height, width), but the picture has {info.size}; correct "
            "'size', or give 'location' if a region is meant."
        )
    origin = (0, 0) if location is None else location
    size = size or (info.size[0] - origin[0], info.size[1] - origin[1])
    check_region(info.size, origin, size, path=info.path)
    return origin, size


def read_region(info: SlideInfo, region: Rectangle, *, everything: bool = False) -> None:
    """Read one patch in the middle of a region at level 0, or all of the region at every level.

    Raises:
        SlideError: if something cannot be read: how much, and the first of it.
    """
    reader = open_slide(info)
    failed, count = [], 0
    for level, row, col, height, width in _windows(info, region, everything):
        count += 1
        try:
            reader.read(level, row, col, height, width)
        except SlideError as error:
            failed.append(str(error))
    if len(failed) > 1:
        raise SlideError(f"{failed[0]} ({len(failed)} of {count} windows of up to {_BLOCK} pixels cannot be read)")
    if failed:
        raise SlideError(failed[0])


def _windows(info: SlideInfo, region: Rectangle, everything: bool) -> Iterator[tuple[int, int, int, int, int]]:
    (row, col), (height, width) = region
    if not everything:
        h, w = min(_PATCH, height), min(_PATCH, width)
        yield 0, row + (height - h) // 2, col + (width - w) // 2, h, w
        return
    for level, full in enumerate(info.level_sizes):
        (top, bottom), (left, right) = (
            (start * size // whole, min(size, -(-(start + length) * size // whole)))
            for start, length, size, whole in zip((row, col), (height, width), full, info.size)
        )
        for i in range(top - top % _BLOCK, bottom, _BLOCK):  # on a lattice of the level, so that tiles are read once
            for j in range(left - left % _BLOCK, right, _BLOCK):
                first = max(i, top), max(j, left)
                yield level, *first, min(i + _BLOCK, bottom) - first[0], min(j + _BLOCK, right) - first[1]
