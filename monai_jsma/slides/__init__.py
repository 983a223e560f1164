# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A file becomes pixels: what is known of a slide before it is opened, and the readers that open it."""

from __future__ import annotations

from .base import ArrayReader, Reader, SlideInfo
from .convert import tile_picture
from .errors import SlideError
from .image_reader import read_picture
from .open import inspect_slide, known_mpp
from .readers import CuCIMReader, OpenSlideReader, TiffReader, open_reader
from .resample import area_resample

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
    "open_reader",
    "read_picture",
    "tile_picture",
]
