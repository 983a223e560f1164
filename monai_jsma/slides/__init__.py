# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A file becomes pixels: what is known of a slide before it is opened, and the readers that open it."""

from __future__ import annotations

from monai_jsma import _moved

from .base import ArrayReader, Reader, SlideInfo
from .convert import tile_image
from .cucim_reader import CuCIMReader
from .errors import SlideError
from .image_reader import read_image
from .open import inspect_slide, known_mpp, open_slide
from .openslide_reader import OpenSlideReader
from .resample import area_resample
from .tifffile_reader import TiffReader

__all__ = [
    "ArrayReader",
    "CuCIMReader",
    "OpenSlideReader",
    "Reader",
    "SlideError",
    "SlideInfo",
    "TiffReader",
    "area_resample",
    "inspect_slide",
    "known_mpp",
    "open_slide",
    "read_image",
    "tile_image",
]

_MOVED = {
    "open_reader": "monai_jsma.slides.open:open_slide",
    "read_picture": "monai_jsma.slides.image_reader:read_image",
    "tile_picture": "monai_jsma.slides.convert:tile_image",
}
__getattr__ = _moved.lookup(__name__, _MOVED)
