# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The seed of what is drawn from an image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

from monai_jsma.data.pyramid import Pyramid

__all__ = ["derive_seed"]


def derive_seed(seed: int, pyramids: Iterable[Pyramid]) -> int:
    """A seed that depends on the names of files and the places in them, but not on their folders: 56 bits.

    Args:
        seed: seed of all images.
        pyramids: the images that are predicted together.
    """
    places = []
    for pyramid in pyramids:
        name = os.path.basename(pyramid.path)
        places.append((name, pyramid.origin, pyramid.geometry.size))
    text = repr((seed, places))
    digest = hashlib.sha256(text.encode("ascii", "backslashreplace")).digest()
    return int.from_bytes(digest[:7])
