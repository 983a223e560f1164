# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The pixels of mosaics: cores are read at one spacing, and a mosaic is written as a tiled pyramid, strip by strip.

:mod:`monai_jsma.datalists.mosaic` plans which core lies where. Sizes are (height, width), positions (row, column) in
pixels of level 0, spacings um per pixel of level 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from monai_jsma._io import join_few, replace_file
from monai_jsma.datalists.mosaic import ALIGNMENT, MosaicPlan
from monai_jsma.datalists.schema import check_mpp, find_region
from monai_jsma.datalists.splits import Item
from monai_jsma.geometry import Box, check_fine_enough, orient
from monai_jsma.slides.base import SlideInfo
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.identity import slide_sha256
from monai_jsma.slides.open import inspect_slide, known_mpp, open_slide
from monai_jsma.slides.resample import area_resample
from monai_jsma.slides.tiled import StoredLevel, reduce_to_strips, write_levels

__all__ = ["CoreSource", "choose_mpp", "compose_rows", "open_sources", "write_mosaic"]

_WHITE = 255  # blank glass
_SAME_SPACING = 0.015  # relative: cores that differ by less are taken as of one spacing
_SMALLEST_LEVEL = 256  # pixels of the shorter side of the coarsest level


# ---------------------------------------------------------------------------------------------------------------- cores


@dataclass(frozen=True, kw_only=True)
class CoreSource:
    """A labeled image, or a region of one, and how it is read.

    Args:
        info: the image or slide.
        location: row and column of the region.
        size: height and width of the region.
        mpp: um per pixel.
        sha256: checksum of the file.
    """

    info: SlideInfo
    location: tuple[int, int]
    size: tuple[int, int]
    mpp: float
    sha256: str

    def size_at(self, mpp: float) -> tuple[int, int]:
        """Height and width at a spacing; those of level 0 if the spacings are as good as equal."""
        if math.isclose(mpp, self.mpp, rel_tol=_SAME_SPACING):
            return self.size
        height, width = self.size
        scale = self.mpp / mpp
        return max(1, round(height * scale)), max(1, round(width * scale))

    def read(self, mpp: float) -> np.ndarray:
        """The pixels at a spacing, ``uint8`` ``(height, width, 3)``."""
        reader = open_slide(self.info)
        pixels = reader.read(0, self.location, self.size)
        return area_resample(pixels, Box(0, 0, *self.size), self.size_at(mpp))


def open_sources(items: Sequence[Item], path: Path) -> list[CoreSource]:
    """Look at the images of items, without reading their pixels.

    Args:
        items: items of :func:`~monai_jsma.datalists.load_datalist`.
        path: file of the datalist, for messages.

    Raises:
        ValueError: if images cannot be opened, have no spacing or are not those that the datalist was made from; it
            names the first ones.
    """
    sources = []
    reasons = []
    for item in items:
        try:
            sources.append(_open_source(item))
        except (SlideError, OSError, ValueError) as error:
            reasons.append(str(error))
    if reasons:
        raise ValueError(f"{path}: {len(reasons)} of {len(items)} images cannot be used: {join_few(reasons)}")
    return sources


def _open_source(item: Item) -> CoreSource:
    path = item["image"]
    checksum = slide_sha256(path)
    stated = item.get("sha256", checksum)
    if stated != checksum:
        raise ValueError(f"{path}: the file has changed: its sha256 is {checksum}, but the datalist says {stated}.")
    info = inspect_slide(path, mpp=item.get("mpp"))
    mpp, _ = known_mpp(info)
    location, size = find_region(item, info)
    row, col = location
    height, width = size
    return CoreSource(info=info, location=(row, col), size=(height, width), mpp=mpp, sha256=checksum)


def choose_mpp(sources: Sequence[CoreSource], to_mpp: float | None) -> float:
    """The spacing of mosaics: the given one, else that of all cores.

    Raises:
        ValueError: if the cores differ and none is given, or a core is too coarse for the given one.
    """
    finest = min(sources, key=lambda source: source.mpp)
    coarsest = max(sources, key=lambda source: source.mpp)
    if to_mpp is not None:
        check_mpp(to_mpp, "spacing of the mosaics")
        check_fine_enough(coarsest.mpp, to_mpp, path=coarsest.info.path, mpp_source="its spacing")
        return to_mpp
    if not math.isclose(finest.mpp, coarsest.mpp, rel_tol=_SAME_SPACING):
        raise ValueError(
            f"the images have different spacings: {finest.info.path} {finest.mpp:g} and {coarsest.info.path} "
            f"{coarsest.mpp:g} um per pixel; give the one to resample them to, such as --to-mpp {coarsest.mpp:g}."
        )
    return coarsest.mpp


# --------------------------------------------------------------------------------------------------------------- pixels


def compose_rows(plan: MosaicPlan, begin: int, end: int, *, read_core: Callable[[str], np.ndarray]) -> np.ndarray:
    """Rows of level 0 of a mosaic, ``uint8`` ``(end - begin, width, 3)``, white where no core lies.

    Args:
        plan: what lies where.
        begin: the first row.
        end: the row after the last.
        read_core: function from the name of a core to its pixels.
    """
    rows = np.full((end - begin, plan.size[1], 3), _WHITE, np.uint8)
    for placed in plan.cores:
        box = placed.box
        top = max(begin, int(box.row))
        bottom = min(end, int(box.bottom))
        if top >= bottom:
            continue
        pixels = orient(read_core(placed.core.name), placed.orientation)
        left = int(box.col)
        right = left + int(box.width)
        rows[top - begin : bottom - begin, left:right] = pixels[top - int(box.row) : bottom - int(box.row)]
    return rows


def write_mosaic(
    path: str | Path,
    plan: MosaicPlan,
    *,
    read_core: Callable[[str], np.ndarray],
    mpp: float,
    quality: int | None = None,
    description: str | None = None,
) -> None:
    """Write a mosaic as a tiled pyramid, whole or not at all; a few hundred rows are held at a time.

    Args:
        path: the file, ".tif".
        plan: what lies where.
        read_core: function from the name of a core to its pixels, ``uint8`` ``(height, width, 3)``.
        mpp: um per pixel.
        quality: quality of JPEG, 1 to 100; None stores the pixels as they are.
        description: text to store in the file.
    """
    read_rows = partial(compose_rows, plan, read_core=read_core)
    height, width = plan.size
    levels = []
    for reduction in _list_reductions(plan.size):
        size = (height // reduction, width // reduction)
        levels.append(StoredLevel(size, reduce_to_strips(read_rows, plan.size, reduction)))
    with replace_file(path) as unfinished:
        write_levels(unfinished, levels, mpp=mpp, quality=quality, description=description)


def _list_reductions(size: tuple[int, int]) -> list[int]:
    """Pixels of level 0 along a pixel of each level: 1, 2, 4, ..., as long as a level is not small."""
    reductions = [1]
    while 2 * reductions[-1] <= ALIGNMENT and min(size) >= 2 * reductions[-1] * _SMALLEST_LEVEL:
        reductions.append(2 * reductions[-1])
    return reductions
