# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Plain pictures become tiled pyramids, of which only the patches that are looked at are read.

Tiles are stored as they are (no compression): cuCIM and tifffile read them without decoding, and every pixel is the
source's. A pyramid takes 21/16 of the pixels' bytes. The levels are exact means of 1x1, 2x2 and 4x4 pixels of the
source, rounded once, so that a patch of the pyramid equals that of the plain picture at these magnifications. A side
that 2 or 4 does not divide has no such level. Sizes are (height, width) in pixels, spacings um per pixel of level 0.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import tifffile

from monai_jsma._io import replace_file
from monai_jsma.geometry import Box
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.image_reader import read_picture
from monai_jsma.slides.open import inspect_slide
from monai_jsma.slides.readers import open_reader
from monai_jsma.slides.resample import area_resample

__all__ = ["REDUCTIONS", "TILE", "tile_picture"]

REDUCTIONS = (1, 2, 4)  # pixels of the source along a pixel of each level
TILE = 256  # pixels; patches of 299 touch four or nine of them


def tile_picture(source: str | Path, path: str | Path, mpp: float) -> bool:
    """Write a picture as a tiled pyramid, all of it or nothing, and compare every pixel after writing.

    Args:
        source: a plain picture.
        path: of the pyramid; must end in ".tif". If it is there already and holds this picture, it is left alone.
        mpp: um per pixel of the picture, stored as its resolution.

    Returns:
        whether it was written; False where it was there.

    Raises:
        SlideError: when the source cannot be read, or what was written is not what was meant.
        ValueError: when ``path`` is the source, or a file that is no pyramid of it; nothing is ever overwritten.
    """
    source, path = Path(source), Path(path)
    levels = _levels(read_picture(source))
    if path.exists():
        if path.samefile(source):
            raise ValueError(f"{path}: would overwrite the picture itself; choose another folder.")
        if (why := _difference(path, levels, mpp)) is not None:
            raise ValueError(f"{path}: is no pyramid of {source} ({why}); remove it or choose another folder.")
        return False
    with replace_file(path) as unfinished:
        _write(unfinished, levels, mpp)
        if (why := _difference(unfinished, levels, mpp)) is not None:
            raise SlideError(f"{path}: was not written correctly ({why}); check the disk and try again.")
    return True


def _levels(pixels: np.ndarray) -> list[np.ndarray]:
    height, width = pixels.shape[:2]
    fits = [r for r in REDUCTIONS if height % r == width % r == 0]
    return [area_resample(pixels, Box(0, 0, height, width), (height // r, width // r)) for r in fits]


def _write(path: Path, levels: list[np.ndarray], mpp: float) -> None:
    with tifffile.TiffWriter(path) as tif:
        for pixels in levels:
            spacing = mpp * len(levels[0]) / len(pixels)
            tif.write(
                pixels,
                photometric="rgb",
                tile=(TILE, TILE),
                resolution=(1e4 / spacing, 1e4 / spacing),
                resolutionunit="CENTIMETER",
                subfiletype=int(pixels is not levels[0]),  # 1: reduced
                metadata=None,
                software="monai_jsma",
            )


def _difference(path: Path, levels: list[np.ndarray], mpp: float) -> str | None:
    """How a file differs from these levels, None if in nothing; it is read as training will read it."""
    try:
        info = inspect_slide(path)
        if info.level_sizes != tuple(pixels.shape[:2] for pixels in levels):
            return f"its levels are {info.level_sizes}"
        if info.mpp is None or not math.isclose(info.mpp, mpp, rel_tol=1e-6):
            return f"its spacing is {info.mpp} um per pixel"
        reader = open_reader(info)
        try:
            for level, pixels in enumerate(levels):
                if not np.array_equal(reader.read(level, 0, 0, *pixels.shape[:2]), pixels):
                    return f"level {level} has other pixels"
        finally:
            reader.close()
    except SlideError as error:
        return str(error)
    return None
