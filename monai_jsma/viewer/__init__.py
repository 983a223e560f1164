# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A page on this machine in which predictions are seen on their slides: pan, zoom, attention, patches, annotations.

``slide_tiles`` reads pixels, ``descriptions`` says what was predicted, ``answers`` knows which addresses there are,
``access`` who may ask, and ``server`` speaks HTTP. What the browser loads lies in ``static``.
"""

from __future__ import annotations

from monai_jsma.viewer.access import Access
from monai_jsma.viewer.answers import Answer, Refusal, Viewer
from monai_jsma.viewer.deep_zoom import DeepZoom
from monai_jsma.viewer.server import ViewerServer
from monai_jsma.viewer.slide_tiles import SlideTiles

__all__ = ["Access", "Answer", "DeepZoom", "Refusal", "SlideTiles", "Viewer", "ViewerServer"]
