# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How large is a pixel, and who says so? Spacings are micrometres per pixel (mpp) of level 0.

A file may state its spacing in several places, and may be wrong in each. The first credible statement counts, others
are compared with it. Where none is credible, the spacing is unknown and its source says what was turned down.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from xml.etree import ElementTree

from tifffile import TiffFile, TiffPage

from monai_jsma.slides.tiff import APERIO

__all__ = [
    "StatedSpacing",
    "differ",
    "resolve_mpp",
    "spacing_of_dpi",
    "spacings_of_openslide",
    "spacings_of_tiff",
]

_RANGE = (0.05, 20.0)  # um per pixel: a 100x oil objective to an overview; 72 dpi is 352.8
_TOLERANCE = 0.015
_UM_PER_INCH = 25400.0
_UM = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}  # micro sign and Greek mu

_logger = logging.getLogger(__name__)


class StatedSpacing(NamedTuple):
    """What one place of a file says: its name, and um per pixel down a column and along a row."""

    source: str
    row: float
    col: float

    @property
    def mpp(self) -> float:
        """Mean of both directions."""
        return (self.row + self.col) / 2

    @property
    def refusal(self) -> str:
        """Why this is not believed, or "" where it is credible."""
        if not all(math.isfinite(v) and _RANGE[0] <= v <= _RANGE[1] for v in (self.row, self.col)):
            return f"outside {_RANGE[0]:g}-{_RANGE[1]:g}"
        return "pixels are not square" if differ(self.row, self.col) else ""

    def __str__(self) -> str:
        both = f"{self.row:.5g}" if self.row == self.col else f"{self.row:.5g} x {self.col:.5g}"
        return f"{self.source} {both} um/px"


def resolve_mpp(path: str, stated: Iterable[StatedSpacing], given: float | None) -> tuple[float | None, str]:
    """The spacing to believe and its source: ``given``, else the first credible statement.

    Returns:
        ``(mpp, source)``, or ``(None, reasons)`` where ``reasons`` says which statements were turned down and why.

    Raises:
        ValueError: if ``given`` itself is out of range.
    """
    credible, refused = [], []
    if given is not None:
        if not _RANGE[0] <= given <= _RANGE[1]:
            raise ValueError(f"{path}: mpp={given} is outside {_RANGE[0]:g}-{_RANGE[1]:g} um per pixel; correct 'mpp'.")
        credible.append(("given", float(given)))
    for spacing in stated:
        if spacing.refusal:
            refused.append(f"{spacing} rejected: {spacing.refusal}")
        else:
            credible.append((spacing.source, spacing.mpp))
    if not credible:
        return None, "; ".join(refused)
    (source, mpp), *others = credible
    for other, value in others:
        if differ(mpp, value):
            _logger.warning("%s: %s is %.5g um/px but %s is %.5g; using the former.", path, source, mpp, other, value)
    return mpp, source


def differ(a: float, b: float) -> bool:
    """Whether two spacings disagree by more than rounding."""
    return abs(a - b) > _TOLERANCE * min(a, b)


def spacings_of_tiff(tif: TiffFile, page: TiffPage) -> Iterator[StatedSpacing]:
    """What a TIFF file says of ``page``, its level 0: vendors' statements first, the resolution tags last."""
    if page.description.startswith(APERIO) and (found := re.search(r"\|\s*MPP\s*=\s*([0-9.eE+-]+)", page.description)):
        yield from _spacing("Aperio MPP", found[1], found[1])
    if tif.is_ome:
        yield from _spacings_of_ome(tif.ome_metadata or "", page)
    unit = int(page.tags.valueof("ResolutionUnit", 2))  # inches where the tag is missing (TIFF 6.0)
    per_unit = [_ratio(page.tags.valueof(name)) for name in ("YResolution", "XResolution")]
    if unit in (2, 3) and all(per_unit):
        length = {2: _UM_PER_INCH, 3: 1e4}[unit]
        yield StatedSpacing("TIFF resolution", length / per_unit[0], length / per_unit[1])


def spacings_of_openslide(properties: Mapping[str, str]) -> Iterator[StatedSpacing]:
    """What OpenSlide found in a file."""
    if "openslide.mpp-x" in properties and "openslide.mpp-y" in properties:
        yield from _spacing("openslide.mpp-x", properties["openslide.mpp-y"], properties["openslide.mpp-x"])


def spacing_of_dpi(dpi: tuple[float, float] | None) -> Iterator[StatedSpacing]:
    """What the dots per inch (along a row, down a column) of a plain picture say."""
    if dpi is not None and all(dpi):
        yield StatedSpacing(f"{dpi[0]:g} dpi:", _UM_PER_INCH / float(dpi[1]), _UM_PER_INCH / float(dpi[0]))


def _spacings_of_ome(xml: str, page: TiffPage) -> Iterator[StatedSpacing]:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return  # tifffile has logged it
    for pixels in root.iter():
        size = pixels.get("SizeY"), pixels.get("SizeX")
        if pixels.tag.endswith("}Pixels") and size == (str(page.imagelength), str(page.imagewidth)):
            units = [_UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), math.nan) for axis in "YX"]
            sizes = [pixels.get(f"PhysicalSize{axis}", pixels.get("PhysicalSizeX", "")) for axis in "YX"]
            for row in _spacing("OME PhysicalSizeX", *sizes):
                yield StatedSpacing(row.source, row.row * units[0], row.col * units[1])


def _spacing(source: str, row: str, col: str) -> Iterator[StatedSpacing]:
    try:
        yield StatedSpacing(source, float(row), float(col))
    except ValueError:
        if row or col:
            yield StatedSpacing(source, math.nan, math.nan)


def _ratio(value: tuple[int, int] | None) -> float:
    return value[0] / value[1] if value and value[1] else 0.0
