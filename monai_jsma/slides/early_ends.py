# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Which readers see that the coded pixels of a JPEG tile end early, even within its last block of 8 to 16 pixels.

Decoders make up what is missing there. OpenSlide calls it an error and cuCIM prints it; tifffile says nothing, so that
it takes strict reading, which decodes every tile twice more. Earlier ends are errors with every reader.
"""

from __future__ import annotations

import logging
from functools import cache

from monai_jsma.slides.cucim_reader import tells_of_damage
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.open import choose_reader
from monai_jsma.slides.tiff import TiffHeader, is_tiff

__all__ = ["describe_early_ends", "log_early_ends", "sees_early_ends"]

_logger = logging.getLogger(__name__)


def sees_early_ends(reader: str) -> bool:
    """Whether a reader of tiled slides sees every JPEG tile that ends early, without strict reading.

    Args:
        reader: "cucim", "tifffile" or "openslide".
    """
    return reader == "openslide" or (reader == "cucim" and tells_of_damage())


def describe_early_ends(reader: str) -> str:
    """The same as :func:`sees_early_ends` in one line, with the way out."""
    if sees_early_ends(reader):
        return f"{reader} sees every JPEG tile that ends early"
    return (
        f"{reader} sees a JPEG tile that ends early within its last block only in strict reading; run "
        "'python -m monai_jsma verify DATALIST --read all' once on slides that come from afar"
    )


def log_early_ends(path: str) -> None:
    """Log that line for the reader of a slide of JPEG tiles, once in a process; nothing of other files.

    Args:
        path: the slide; if it cannot be read, that is told where it is read.
    """
    try:
        if not is_tiff(path):
            return
        header = TiffHeader.read(path)
        is_jpeg = any(level.is_tiled and level.is_jpeg for level in header.levels)
        if is_jpeg:
            reader, _ = choose_reader(header, None)
            _log_once(reader.name)
    except (SlideError, OSError):
        return


@cache
def _log_once(reader: str) -> None:
    _logger.info("%s.", describe_early_ends(reader))
