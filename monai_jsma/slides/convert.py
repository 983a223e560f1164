# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Plain images become tiled pyramids, of which only the patches that are looked at are read.

Tiles are stored without compression: cuCIM and tifffile read them without decoding, and every pixel is that of the
source. A pyramid takes 21/16 of the bytes of the pixels. The levels are exact means of 1x1, 2x2 and 4x4 pixels of the
source, rounded once, so that a patch of the pyramid equals that of the plain image at these magnifications. An image
whose height or width 2 or 4 does not divide has no such level. Sizes are (height, width) in pixels, spacings um per
pixel of level 0.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from monai_jsma._io import replace_file
from monai_jsma.geometry import Box
from monai_jsma.slides.base import SlideInfo
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.image_reader import read_image
from monai_jsma.slides.open import inspect_slide, open_slide
from monai_jsma.slides.resample import area_resample
from monai_jsma.slides.tiled import TILE, StoredLevel, cut_to_strips, write_levels

__all__ = ["REDUCTIONS", "TILE", "tile_image"]

REDUCTIONS = (1, 2, 4)  # pixels of the source along a pixel of each level


def tile_image(source: str | Path, path: str | Path, mpp: float) -> bool:
    """Write an image as a tiled pyramid, all of it or nothing, and compare every pixel after writing.

    Args:
        source: a plain image.
        path: the pyramid, whose name must end in ".tif". If it exists and holds this image, it is left alone.
        mpp: um per pixel of the image, stored as its resolution.

    Returns:
        whether it was written; False where it existed.

    Raises:
        SlideError: if the source cannot be read, or the pyramid differs after writing.
        ValueError: if ``path`` is the source, or a file that is no pyramid of it; nothing is ever overwritten.
    """
    source = Path(source)
    path = Path(path)
    levels = _make_levels(read_image(source))
    if path.exists():
        if path.samefile(source):
            raise ValueError(f"{path}: would overwrite the image itself; choose another folder.")
        difference = _find_difference(path, levels, mpp)
        if difference is not None:
            raise ValueError(f"{path}: is no pyramid of {source} ({difference}); remove it or choose another folder.")
        return False

    with replace_file(path) as unfinished:
        _write(unfinished, levels, mpp)
        difference = _find_difference(unfinished, levels, mpp)
        if difference is not None:
            raise SlideError(f"{path}: was not written correctly ({difference}); check the disk and try again.")
    return True


def _make_levels(pixels: np.ndarray) -> list[np.ndarray]:
    height, width = pixels.shape[:2]
    whole = Box(0, 0, height, width)
    levels = []
    for reduction in REDUCTIONS:
        if height % reduction == 0 and width % reduction == 0:
            levels.append(area_resample(pixels, whole, (height // reduction, width // reduction)))
    return levels


def _write(path: Path, levels: list[np.ndarray], mpp: float) -> None:
    stored = []
    for pixels in levels:
        height, width = pixels.shape[:2]
        stored.append(StoredLevel((height, width), cut_to_strips(pixels)))
    write_levels(path, stored, mpp=mpp)


def _find_difference(path: Path, levels: list[np.ndarray], mpp: float) -> str | None:
    """How a file differs from these levels, None if in nothing; the file is read as training will read it."""
    try:
        info = inspect_slide(path)
        if info.level_sizes != tuple(pixels.shape[:2] for pixels in levels):
            return f"its levels are {info.level_sizes}"
        if info.mpp is None or not math.isclose(info.mpp, mpp, rel_tol=1e-6):
            return f"its spacing is {info.mpp} um per pixel"
        return _find_other_pixels(info, levels)
    except SlideError as error:
        return str(error)


def _find_other_pixels(info: SlideInfo, levels: list[np.ndarray]) -> str | None:
    reader = open_slide(info)
    try:
        for level, pixels in enumerate(levels):
            height, width = pixels.shape[:2]
            if not np.array_equal(reader.read(level, (0, 0), (height, width)), pixels):
                return f"level {level} has other pixels"
    finally:
        reader.close()
    return None
