# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Whole slides as items of a datalist: where the tissue of a slide lies, and which regions cover it.

Tissue is found by its color on a small image of the slide: Otsu's threshold of the saturation, as in MONAI's
``ForegroundMask``. Otsu always divides, so a blank slide would be half tissue and a field full of tissue half glass;
the threshold is therefore bounded on both sides. Saturation is that of the HSV model times its brightness, the
difference between the strongest and the weakest of red, green and blue: black borders, dust and shadows have none. A
colored pen mark counts as tissue; a gray image has none. Pen marks, folds and blur are not found: a mask that another
tool made takes the place of the search (:mod:`monai_jsma.datalists.given_tissue`).

Coordinates are (row, column), sizes (height, width), spacings um per pixel (mpp).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter
from skimage.filters import threshold_otsu

from monai_jsma._io import Fault
from monai_jsma.data.pyramid import Pyramid
from monai_jsma.datalists.given_tissue import read_given_tissue
from monai_jsma.datalists.schema import check_is_list, find_item_faults, find_region
from monai_jsma.datalists.splits import Item
from monai_jsma.geometry import Box, Magnification, check_fine_enough, grid_size, patch_start, rescale_span, to_mpp
from monai_jsma.slides.base import SlideInfo
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.open import inspect_slide, known_mpp, open_slide
from monai_jsma.slides.spacing import resolve_mpp
from monai_jsma.zoom_geometry import TissueMap

__all__ = ["TissueRegion", "find_tissue", "tissue_mask", "tissue_regions", "whole_slide_items"]

_MASK_MPP = 8.0  # um per pixel of the image that tissue is found on
_MAX_MASK_SIZE = 2000  # largest height and width of that image, in pixels
_GLASS = 205  # empty glass is at least this bright in every color, whatever its tint
_MIN_THRESHOLD = 15  # of 256 steps: above the noise of empty glass
_MAX_THRESHOLD = 25  # of 256 steps: below pale tissue
_SPECK = 7  # pixels: a majority of 7x7 decides, which removes specks and fills small holes


# ---------------------------------------------------------------------------------------------------- where tissue lies


def tissue_mask(pixels: np.ndarray) -> np.ndarray:
    """Find the tissue of an image.

    The brightest percent of each color is made white where it is bright enough to be glass; so a tint of the whole
    slide does not count.

    Args:
        pixels: ``uint8`` of shape ``(height, width, 3)``, best of about 8 um per pixel.

    Returns:
        bool ``(height, width)``.
    """
    brightest = np.percentile(pixels, 99, axis=(0, 1))
    gain = np.ones(3, np.float32)
    if brightest.min() >= _GLASS:
        gain = np.asarray(255 / brightest, np.float32)
    saturation = _measure_saturation(pixels, gain)

    threshold = threshold_otsu(saturation)
    threshold = np.clip(threshold, _MIN_THRESHOLD, _MAX_THRESHOLD)
    colored = saturation > threshold
    share_around = uniform_filter(colored.astype(np.float32), _SPECK)
    return share_around > 0.5


def _measure_saturation(pixels: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Difference between the strongest and the weakest color of each pixel, in whole steps: ``uint8``.

    Args:
        pixels: ``uint8`` ``(height, width, 3)``.
        gain: float32 factor of each color ``(3,)``; what becomes brighter than 255 is 255.
    """
    steps = np.arange(256, dtype=np.uint8)
    brightness = np.minimum(steps[:, None] * gain, 255)  # (256, 3): all that there is to compute
    saturation = np.empty(pixels.shape[:2], np.uint8)
    for row, line in enumerate(pixels):  # a row at a time stays in the cache of the processor
        red, green, blue = (brightness[:, color].take(line[:, color]) for color in range(3))
        strongest = np.maximum(np.maximum(red, green), blue)
        weakest = np.minimum(np.minimum(red, green), blue)
        saturation[row] = strongest - weakest
    return saturation


class TissueRegion(NamedTuple):
    """A region in level-0 pixels, and the share of it that is tissue."""

    row: int
    col: int
    height: int
    width: int
    tissue: float


def tissue_regions(
    mask: np.ndarray, size: tuple[int, int], region: tuple[int, int], *, min_tissue: float = 0.1
) -> list[TissueRegion]:
    """Find the regions of a slide that hold tissue.

    A grid of regions covers the rectangle around all tissue, as patches cover an image: as few as suffice, each
    centered on its cell, so that neighbors overlap evenly. They lie inside the slide; a slide that is shorter than a
    region is taken whole.

    Args:
        mask: the tissue, bool, of any resolution.
        size: height and width of the slide in level-0 pixels.
        region: height and width of a region in level-0 pixels.
        min_tissue: smallest share of a region that is tissue.

    Returns:
        the regions, row by row.
    """
    if not mask.any():
        return []
    slide_height, slide_width = size
    mask_height, mask_width = mask.shape
    height = min(region[0], slide_height)
    width = min(region[1], slide_width)

    rows_with_tissue = np.flatnonzero(mask.any(axis=1))
    cols_with_tissue = np.flatnonzero(mask.any(axis=0))
    rows = _find_starts(rows_with_tissue, height, num_pixels=slide_height, num_lines=mask_height)
    cols = _find_starts(cols_with_tissue, width, num_pixels=slide_width, num_lines=mask_width)

    regions = []
    for row in rows:
        top, bottom = rescale_span(row, row + height, length=slide_height, new_length=mask_height)
        for col in cols:
            left, right = rescale_span(col, col + width, length=slide_width, new_length=mask_width)
            part = mask[top:bottom, left:right]
            tissue = float(part.mean())
            if tissue >= min_tissue:
                regions.append(TissueRegion(row, col, height, width, tissue))
    return regions


def _find_starts(lines: np.ndarray, length: int, *, num_pixels: int, num_lines: int) -> list[int]:
    """First pixels of the regions along one axis of the slide.

    Args:
        lines: the lines of the mask across the axis that hold tissue, in increasing order.
        length: pixels of a region.
        num_pixels: pixels of the slide.
        num_lines: lines of the mask.
    """
    first_line = int(lines[0])
    end_line = int(lines[-1]) + 1
    first, end = rescale_span(first_line, end_line, length=num_lines, new_length=num_pixels)

    tissue = end - first
    covered = max(length, tissue)
    first -= (covered - tissue) // 2  # the tissue lies in the middle, where the slide has room
    first = max(first, 0)
    first = min(first, num_pixels - covered)

    num_cells = grid_size(covered, length)
    starts = []
    for cell in range(num_cells):
        start = patch_start(cell, num_cells=num_cells, length=covered, patch_size=length)
        starts.append(first + start)
    return starts


# ------------------------------------------------------------------------------------------------ items of whole slides


def whole_slide_items(
    items: Iterable[Item | str | os.PathLike[str]],
    region_size: Sequence[int],
    mpp: float | str | Magnification,
    *,
    magnifications: Sequence[float | str | Magnification] = (),
    default_mpp: float | None = None,
    min_tissue: float = 0.1,
) -> tuple[list[Item], list[Fault]]:
    """Replace each whole slide by its tissue regions, ``region_size`` pixels of ``mpp`` high and wide.

    An item stays as it is if it names a ``location``, is a plain image, which is decoded whole anyway, or is no larger
    than a region. A region's item has all that its slide's has, and ``location``, ``size`` and ``tissue``, the share of
    it that is tissue. A file that cannot be opened, or not at ``magnifications``, does not stop the others.

    Args:
        items: items of a datalist, or paths of images and slides. A ``mask`` takes the place of the search for tissue.
        region_size: height and width of a region, in pixels of ``mpp``.
        mpp: um per pixel of ``region_size``, or a name ("100X").
        magnifications: magnifications that the network looks at, ``mpp`` by default; a file that is too coarse for the
            finest is not read.
        default_mpp: um per pixel of level 0 where neither the item nor the file states a credible one.
        min_tissue: smallest share of a region that is tissue.

    Returns:
        the items in their order, a slide's regions row by row; and a fault for each image that gave none, of stage
        "slide" if it cannot be read, "tissue" if it has no tissue.

    Raises:
        ValueError: if ``region_size``, ``default_mpp`` or ``min_tissue`` is out of range, or ``items`` is no list.
    """
    check_is_list(items)
    if len(region_size) != 2 or min(region_size) < 1 or not 0 < min_tissue <= 1:
        raise ValueError(
            "region_size must be two positive numbers of pixels and min_tissue above 0 and at most 1, but got "
            f"{region_size} and {min_tissue}."
        )
    default, _ = resolve_mpp("default_mpp", (), default_mpp)  # its range is checked now, not when a file needs it
    region_mpp = to_mpp(mpp)
    search = _TissueSearch(
        region_um=(region_size[0] * region_mpp, region_size[1] * region_mpp),
        finest=min(to_mpp(m) for m in magnifications or [mpp]),
        default_mpp=default,
        min_tissue=min_tissue,
    )

    all_items: list[Item] = []
    faults: list[Fault] = []
    for entry in items:
        item: Item = {"image": os.fspath(entry)} if isinstance(entry, (str, os.PathLike)) else entry
        try:
            all_items += search.items_of(item)
        except _NoTissueError as error:
            fault = Fault(_name_image(item), "tissue", str(error))
            faults.append(fault)
        except (SlideError, OSError, ValueError) as error:
            fault = Fault(_name_image(item), "slide", str(error))
            faults.append(fault)
    return all_items, faults


def _name_image(item: object) -> str:
    """The image of an item, which may be anything."""
    if not isinstance(item, Mapping):
        return ""
    image = item.get("image", "")
    return str(image)


class _NoTissueError(ValueError):
    """A slide that can be read, but has nothing to look at."""


@dataclass(frozen=True, kw_only=True)
class _TissueSearch:
    """Finds the tissue regions of slides.

    Args:
        region_um: height and width of a region in um.
        finest: um per pixel that slides must be fine enough for.
        default_mpp: um per pixel of level 0 where none is stated.
        min_tissue: smallest share of a region that is tissue.
        inspect: opens a slide, once for all items that are regions of it.
    """

    region_um: tuple[float, float]
    finest: float
    default_mpp: float | None
    min_tissue: float
    inspect: Callable[..., SlideInfo] = field(default_factory=lambda: lru_cache(inspect_slide))

    def items_of(self, item: Item) -> list[Item]:
        """The item itself, or one item for each tissue region of its slide."""
        for fault in find_item_faults(item, None, "whole_slide_items").values():
            raise ValueError(fault)
        info = self.inspect(item["image"], mpp=item.get("mpp"))
        mpp, source = known_mpp(info, self.default_mpp)
        check_fine_enough(mpp, self.finest, path=info.path, mpp_source=source)
        find_region(item, info)  # checks that it lies in the slide

        height_um, width_um = self.region_um
        height = max(1, round(height_um / mpp))
        width = max(1, round(width_um / mpp))
        slide_height, slide_width = info.size
        is_one_region = slide_height <= height and slide_width <= width
        is_region_of_slide = item.get("location") is not None
        if is_one_region or is_region_of_slide or not info.lazy:
            return [item]

        items = []
        for region in self._find_regions(item, info, mpp=mpp, region=(height, width)):
            region_item = {
                **item,
                "location": [region.row, region.col],
                "size": [region.height, region.width],
                "tissue": round(region.tissue, 4),
            }
            items.append(region_item)
        return items

    def _find_regions(self, item: Item, info: SlideInfo, *, mpp: float, region: tuple[int, int]) -> list[TissueRegion]:
        if item.get("mask"):
            mask = read_given_tissue(
                item["mask"],
                Box(0, 0, *info.size),
                _choose_search_size(info.size, mpp),
                size=info.size,
                bounds=info.bounds,
                frame=item.get("mask_frame"),
            )
        else:
            mask = tissue_mask(_read_small_image(info, mpp))
        if not mask.any():
            raise _NoTissueError(f"{info.path}: no tissue found: nothing is colored, as on a blank or a gray slide.")
        regions = tissue_regions(mask, info.size, region, min_tissue=self.min_tissue)
        if not regions:
            raise _NoTissueError(
                f"{info.path}: {mask.mean():.2%} of the slide is tissue, but it makes up {self.min_tissue:.0%} of no "
                f"region of {region[0]} x {region[1]} pixels; lower min_tissue, or give 'location' and 'size'."
            )
        return regions


def _read_small_image(info: SlideInfo, mpp: float) -> np.ndarray:
    """The slide averaged to ``uint8`` ``(height, width, 3)``, from the coarsest level that is fine enough."""
    reader = open_slide(info)
    pyramid = Pyramid(reader, mpp=mpp, magnifications=[mpp], patch_size=1, path=info.path)
    return _average_slide(pyramid)


def _average_slide(pyramid: Pyramid) -> np.ndarray:
    """An image that is not turned, averaged to ``uint8`` ``(height, width, 3)`` of the spacing tissue is found on."""
    search_size = _choose_search_size(pyramid.stored_geometry.size, pyramid.mpp)
    image = pyramid.thumbnail(search_size)
    return image.transpose(1, 2, 0)


def _choose_search_size(size: tuple[int, int], mpp: float) -> tuple[int, int]:
    """Height and width of the image that tissue is found on, or that a mask is read for.

    Args:
        size: height and width in level-0 pixels.
        mpp: um per pixel of level 0.
    """
    scale_to_mpp = _MASK_MPP / mpp
    scale_to_size = max(size) / _MAX_MASK_SIZE
    scale = max(1.0, scale_to_mpp, scale_to_size)
    height, width = size
    return max(1, round(height / scale)), max(1, round(width / scale))


def find_tissue(
    pyramid: Pyramid, *, mask: str | os.PathLike[str] | None = None, mask_frame: str | None = None
) -> TissueMap:
    """Find where the tissue of a slide lies, as :func:`whole_slide_items` does, or read it from a mask.

    Args:
        pyramid: the slide, in any orientation.
        mask: file of a mask that takes the place of the search, see
            :func:`~monai_jsma.datalists.given_tissue.read_given_tissue`; None: tissue is searched.
        mask_frame: the corner that the mask counts from, ``"bounds"`` or ``"canvas"``; None: that of its tool.

    Raises:
        FileNotFoundError: if there is no such mask.
        ValueError: if it has none, or the mask does not fit the slide.
    """
    covered = Box(*pyramid.origin, *pyramid.stored_geometry.size)
    if mask is not None:
        shape = _choose_search_size(pyramid.stored_geometry.size, pyramid.mpp)
        size = pyramid.reader.level_sizes[0]
        given = read_given_tissue(mask, covered, shape, size=size, bounds=pyramid.bounds, frame=mask_frame)
        return TissueMap(given, covered)
    as_stored = pyramid.oriented(0).stained(None).normalized(None)
    found = tissue_mask(_average_slide(as_stored))
    if not found.any():
        raise ValueError(
            f"{pyramid.path}: no tissue found: nothing is colored, as on a blank or a gray slide; take it out of the "
            "datalist, or leave FindTissue out to look at all of it."
        )
    return TissueMap(found, covered)
