# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Whole slides as items of a datalist: each becomes the regions of its tissue, of the size a network was trained with.

Coordinates are (row, column), sizes (height, width), spacings um per pixel (mpp).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from monai_jsma._io import Fault
from monai_jsma.data.pyramid import Pyramid
from monai_jsma.datalists.item_checks import item_faults
from monai_jsma.datalists.item_regions import region_of
from monai_jsma.datalists.schema import Item
from monai_jsma.datalists.tissue import TissueRegion, tissue_mask, tissue_regions
from monai_jsma.geometry import Magnification, check_fine_enough, to_mpp
from monai_jsma.slides.base import SlideInfo
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.open import inspect_slide, known_mpp, open_slide
from monai_jsma.slides.spacing import resolve_mpp

__all__ = ["Unread", "whole_slide_items"]

_MASK_MPP, _MASK_SIDE = 8.0, 2000  # um per pixel, and the most pixels a side, of the picture that tissue is found on


Unread = Fault  # its name in version 0.1


def whole_slide_items(
    items: Iterable[Item | str | os.PathLike[str]],
    region_size: Sequence[int],
    mpp: float | str | Magnification,
    *,
    magnifications: Sequence[float | str | Magnification] = (),
    default_mpp: float | None = None,
    min_tissue: float = 0.1,
) -> tuple[list[Item], list[Unread]]:
    """Replace each whole slide by its tissue regions, ``region_size`` pixels of ``mpp`` high and wide.

    An item stays what it is if it names a ``location``, is a plain picture, which is decoded whole anyway, or is no
    larger than a region. A region's item has all that its slide's has, and ``location``, ``size`` and ``tissue``, the
    share of it that is tissue. A file that cannot be opened, or not at ``magnifications``, does not stop the others.

    Args:
        items: of a datalist, or paths of pictures and slides.
        region_size: height and width of a region, in pixels of ``mpp``.
        mpp: um per pixel of ``region_size``, or a name ("100X").
        magnifications: what the network looks at, ``mpp`` by default; a file too coarse for the finest is not read.
        default_mpp: um per pixel of level 0 where neither the item nor the file tells a credible one.
        min_tissue: the smallest share of a region that is tissue.

    Returns:
        the items in their order, a slide's regions row by row; and the images that gave none, with the reason.

    Raises:
        ValueError: when ``region_size``, ``default_mpp`` or ``min_tissue`` is out of range.
    """
    if len(region_size) != 2 or min(region_size) < 1 or not 0 < min_tissue <= 1:
        raise ValueError(
            "region_size must be two positive numbers of pixels and min_tissue above 0 and at most 1, but got "
            f"{region_size} and {min_tissue}."
        )
    resolve_mpp("default_mpp", (), default_mpp)  # its range is checked now, not when a file needs it
    height, width = (side * to_mpp(mpp) for side in region_size)
    search = _Search((height, width), min(map(to_mpp, magnifications or [mpp])), default_mpp, min_tissue)
    found: list[Item] = []
    unread: list[Unread] = []
    for given in items:
        item = {"image": os.fspath(given)} if isinstance(given, (str, os.PathLike)) else given
        image = str(item.get("image", "")) if isinstance(item, Mapping) else ""
        try:
            found += search.items_of(item)
        except _NoTissueError as error:
            unread.append(Unread(image, "tissue", str(error)))
        except (SlideError, OSError, ValueError) as error:
            unread.append(Unread(image, "slide", str(error)))
    return found, unread


class _NoTissueError(ValueError):
    """A slide was read well, and there is nothing on it to look at."""


@dataclass(frozen=True)
class _Search:
    """What is looked for: regions of this height and width in um, on slides this fine, that hold this much tissue."""

    region_um: tuple[float, float]
    finest: float
    default_mpp: float | None
    min_tissue: float
    inspect: Callable[..., SlideInfo] = field(default_factory=lambda: lru_cache(inspect_slide))  # once for all regions

    def items_of(self, item: Item) -> list[Item]:
        """The item itself, or one for each tissue region of its slide."""
        for _, fault in item_faults(item, None, "whole_slide_items"):
            raise ValueError(fault)
        info = self.inspect(item["image"], mpp=item.get("mpp"))
        mpp, source = known_mpp(info, self.default_mpp)
        check_fine_enough(mpp, self.finest, path=info.path, mpp_source=source)
        region_of(item, info)
        region = max(1, round(self.region_um[0] / mpp)), max(1, round(self.region_um[1] / mpp))
        one_region = info.size[0] <= region[0] and info.size[1] <= region[1]
        if item.get("location") is not None or not info.lazy or one_region:
            return [item]
        return [
            {**item, "location": [r.row, r.col], "size": [r.height, r.width], "tissue": round(r.tissue, 4)}
            for r in self._regions(info, mpp, region)
        ]

    def _regions(self, info: SlideInfo, mpp: float, region: tuple[int, int]) -> list[TissueRegion]:
        mask = tissue_mask(_small_picture(info, mpp))
        if not mask.any():
            raise _NoTissueError(f"{info.path}: no tissue found: nothing is coloured, as on a blank or a grey slide.")
        regions = tissue_regions(mask, info.size, region, self.min_tissue)
        if not regions:
            raise _NoTissueError(
                f"{info.path}: {mask.mean():.2%} of the slide is tissue, but it makes up {self.min_tissue:.0%} of no "
                f"region of {region[0]} x {region[1]} pixels; lower min_tissue, or give 'location' and 'size'."
            )
        return regions


def _small_picture(info: SlideInfo, mpp: float) -> np.ndarray:
    """The slide averaged to ``uint8`` ``(height, width, 3)``, from its coarsest level that will do."""
    scale = max(1.0, _MASK_MPP / mpp, max(info.size) / _MASK_SIDE)
    size = max(1, round(info.size[0] / scale)), max(1, round(info.size[1] / scale))
    pyramid = Pyramid(open_slide(info), mpp=mpp, magnifications=[mpp], patch_size=1, path=info.path)
    return pyramid.thumbnail(size).transpose(1, 2, 0)
