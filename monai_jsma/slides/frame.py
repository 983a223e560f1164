# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Where the image lies on the canvas of a slide, and from which corner programs count.

Some scanners place the image on a larger canvas: level 0 of a MIRAX, Leica SCN or Ventana slide is the canvas, and
OpenSlide tells in ``openslide.bounds-*`` which part of it was scanned. Two frames are in use:

* ``"canvas"``: pixels count from the corner of the canvas, which is that of level 0 of the file. So does all of this
  package, and so do OpenSlide and Aperio ImageScope.
* ``"bounds"``: pixels count from the corner of the scanned part. QuPath crops to it, unless told ``--no-crop``.

In files that have no such part the frames are equal.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

from monai_jsma.geometry import Box

__all__ = [
    "CANVAS_SUFFIXES",
    "FRAMES",
    "FRAME_NAMES",
    "Frame",
    "check_frame",
    "describe_bounds",
    "find_origin",
    "read_bounds",
]

Frame = Literal["bounds", "canvas"]
FRAMES: tuple[Frame, ...] = ("bounds", "canvas")
CANVAS_SUFFIXES = (".bif", ".mrxs", ".scn")  # of slides whose image nearly always lies on a larger canvas
FRAME_NAMES: dict[Frame, str] = {
    "bounds": "the corner of the image (as in QuPath)",
    "canvas": "the corner of the canvas (level 0 of the file)",
}

_PROPERTIES = ("openslide.bounds-y", "openslide.bounds-x", "openslide.bounds-height", "openslide.bounds-width")

_logger = logging.getLogger(__name__)


def read_bounds(properties: Mapping[str, str], *, path: str) -> Box | None:
    """The scanned part of the canvas, in level-0 pixels; None if the properties do not have it.

    Args:
        properties: OpenSlide's properties of a slide.
        path: file of the slide, for the log.
    """
    texts = [properties.get(name) for name in _PROPERTIES]
    if None in texts:
        return None
    try:
        row, col, height, width = (int(text or "") for text in texts)
    except ValueError:
        _logger.warning("%s: openslide.bounds-* are %s, no whole numbers; they are not used.", path, texts)
        return None
    return Box(row, col, height, width)


def check_frame(frame: str) -> Frame:
    """The frame of this name.

    Raises:
        ValueError: if it is none.
    """
    for known in FRAMES:
        if frame == known:
            return known
    raise ValueError(f"the frame of coordinates is 'bounds' (as in QuPath) or 'canvas' (level 0), but is {frame!r}.")


def find_origin(frame: Frame, bounds: Box | None) -> tuple[int, int]:
    """Row and column, in level-0 pixels, of the corner from which a frame counts.

    Args:
        frame: ``"bounds"`` or ``"canvas"``.
        bounds: the scanned part of the canvas; None if it is all of it.
    """
    if frame == "canvas" or bounds is None:
        return 0, 0
    return int(bounds.row), int(bounds.col)


def describe_bounds(bounds: Box) -> str:
    """The scanned part in words, for messages."""
    return f"{bounds.height} x {bounds.width} pixels from row {bounds.row}, column {bounds.col} of the canvas"
