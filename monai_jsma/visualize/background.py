# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The background of a picture for people, read from the image: the network's own thumbnail is too small to look at."""

from __future__ import annotations

from dataclasses import replace

from monai_jsma.predictions.evidence import Evidence
from monai_jsma.visualize.canvas import DPI, fit_inches

__all__ = ["read_background"]


def read_background(evidence: Evidence, *, longer_side: int | None = None) -> Evidence:
    """The evidence with its thumbnail read again from the pyramid, at the size at which it is drawn.

    It is never larger than the image itself. Evidence of a record, without a pyramid, stays as it is.

    Args:
        evidence: evidence of the image, with its pyramid.
        longer_side: pixels of the longer side of the drawn image; by default those of the figures of this package.
    """
    if evidence.pyramid is None:
        return evidence
    height, width = evidence.geometry.size
    if longer_side is None:
        longer_side = round(DPI * max(fit_inches(evidence.geometry.size)))
    scale = min(1, longer_side / max(height, width))
    num_rows = max(1, round(height * scale))
    num_cols = max(1, round(width * scale))
    thumbnail = evidence.pyramid.thumbnail((num_rows, num_cols), keep=False)
    return replace(evidence, thumbnail=thumbnail)
