# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The image of an item becomes a pyramid: in training, in inference, and where an exported network runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from operator import index

from monai_jsma.data.pyramid import Pyramid
from monai_jsma.datalists.schema import find_region
from monai_jsma.geometry import MAX_UPSAMPLING, Magnification
from monai_jsma.slides.open import inspect_slide, known_mpp, open_slide

__all__ = ["choose_magnifications", "list_region", "open_pyramid"]

Magnifications = Sequence[float | str | Magnification]


def open_pyramid(
    path: str | os.PathLike,
    magnifications: Magnifications,
    *,
    patch_size: int,
    mpp: float | None = None,
    default_mpp: float | None = None,
    location: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
    reader: str | None = None,
    max_upsampling: float = MAX_UPSAMPLING,
    aligned: bool = False,
    whole_image: bool = False,
) -> Pyramid:
    """Open an image or slide, or a region of it.

    Args:
        path: path of the image or slide.
        magnifications: spacings in um per pixel, or names ("100X").
        patch_size: height and width of a patch, in pixels of its magnification.
        mpp: spacing of level 0 in um per pixel; overrides what the file states.
        default_mpp: spacing of level 0 where neither ``mpp`` nor the file states a credible one.
        location: row and column of a region's top-left corner, in level-0 pixels.
        size: height and width of the region, in level-0 pixels.
        reader: name of the reader to use instead of the choice by the file's tags.
        max_upsampling: how much finer than level 0 a magnification may be before it is refused.
        aligned: put the patches side by side, see :class:`~monai_jsma.geometry.PatchGeometry`.
        whole_image: make each image one patch, see :func:`choose_magnifications`.

    Raises:
        FileNotFoundError: if there is no such file.
        SlideError: if the file cannot be read.
        ValueError: if its spacing is unknown, too coarse for the magnifications, the region leaves it, or ``location``
            is without ``size``.
    """
    region = list_region(location, size, os.fspath(path))
    info = inspect_slide(path, reader=reader, mpp=mpp)
    level_0_mpp, mpp_source = known_mpp(info, default_mpp)
    (row, col), (height, width) = find_region(region, info)
    region_size = (int(height), int(width))
    if whole_image:
        magnifications = choose_magnifications(region_size, level_0_mpp, patch_size)
    return Pyramid(
        open_slide(info),
        mpp=level_0_mpp,
        magnifications=magnifications,
        patch_size=patch_size,
        path=info.path,
        mpp_source=mpp_source,
        origin=(int(row), int(col)),
        size=region_size,
        max_upsampling=max_upsampling,
        aligned=aligned,
        identity=info.identity,
    )


def choose_magnifications(size: Sequence[int], mpp: float, patch_size: int) -> tuple[Magnification, ...]:
    """The one magnification at which the longer side of an image has ``patch_size`` pixels; none finer than its own.

    Args:
        size: height and width of the image, in pixels of ``mpp``.
        mpp: spacing of the image in um per pixel.
        patch_size: height and width of the patch that holds all of it.
    """
    downsample = max(max(size) / patch_size, 1.0)
    return (Magnification(mpp * downsample),)


def list_region(location: Sequence[int] | None, size: Sequence[int] | None, path: str) -> dict[str, tuple[int, int]]:
    """``location`` and ``size`` as an item of a datalist has them; a size alone begins at the top left.

    Args:
        location: row and column of the region's top-left corner, elements of an array or tensor too.
        size: its height and width.
        path: the image, for the message.

    Raises:
        ValueError: if one is no pair of whole numbers.
    """
    region = {}
    for name, pair in (("location", location), ("size", size)):
        if pair is not None:
            region[name] = _whole_pair(pair, name, path)
    if location is None and size is not None:
        region["location"] = (0, 0)
    return region


def _whole_pair(values: Sequence[int], name: str, path: str) -> tuple[int, int]:
    """Two whole numbers, which may be elements of an array or tensor.

    Raises:
        ValueError: if they are not.
    """
    try:
        first, second = values
        return index(first), index(second)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: '{name}' must be two whole numbers of level-0 pixels, but is {values!r}.") from error
