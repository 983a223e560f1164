# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How large is a pixel, and which statement is believed? Spacings are micrometers per pixel (mpp) of level 0.

A file may state its spacing in several places, and may be wrong in each. The first credible statement counts, the
others are compared with it. Where none is credible, the spacing is unknown and its source lists the rejected ones.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from xml.etree import ElementTree

from tifffile import TiffFile, TiffPage

__all__ = [
    "StatedSpacing",
    "differ",
    "read_dpi_spacings",
    "read_openslide_spacings",
    "read_tiff_spacings",
    "resolve_mpp",
]

_MIN_MPP, _MAX_MPP = 0.05, 20.0  # from a 100x oil objective to an overview; 72 dpi is 352.8
_RANGE = f"{_MIN_MPP:g}-{_MAX_MPP:g}"
_TOLERANCE = 0.015
_UM_PER_INCH = 25400.0
_UM_PER_RESOLUTION_UNIT = {2: _UM_PER_INCH, 3: 1e4}  # ResolutionUnit: inch, centimeter
_UM_PER_OME_UNIT = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}  # micro sign, Greek mu
_APERIO_MPP = re.compile(r"Aperio .*?\|\s*MPP\s*=\s*([0-9.eE+-]+)", re.DOTALL)

_logger = logging.getLogger(__name__)


class StatedSpacing(NamedTuple):
    """What one place of a file says: its name, and um per pixel down a column (row) and along a row (col)."""

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
        if not (_is_plausible(self.row) and _is_plausible(self.col)):
            return f"outside {_RANGE}"
        if differ(self.row, self.col):
            return "pixels are not square"
        return ""

    def __str__(self) -> str:
        both = f"{self.row:.5g}" if self.row == self.col else f"{self.row:.5g} x {self.col:.5g}"
        return f"{self.source} {both} um/px"


def differ(a: float, b: float) -> bool:
    """Whether two spacings disagree by more than rounding."""
    return abs(a - b) > _TOLERANCE * min(a, b)


def resolve_mpp(path: str, stated: Iterable[StatedSpacing], mpp: float | None) -> tuple[float | None, str]:
    """Choose the spacing to believe: ``mpp`` if it is given, else the first credible statement of the file.

    Args:
        path: the file, for messages.
        stated: statements of the file, in order of trust.
        mpp: um per pixel that the user gave, or None.

    Returns:
        ``(mpp, source)``, or ``(None, reasons)`` where ``reasons`` lists the rejected statements and why.

    Raises:
        ValueError: if the given ``mpp`` is out of range.
    """
    if mpp is not None and not _is_plausible(mpp):
        raise ValueError(f"{path}: mpp={mpp} is outside {_RANGE} um per pixel; correct 'mpp'.")

    credible = [("given", float(mpp))] if mpp is not None else []
    rejected = []
    for spacing in stated:
        if spacing.refusal:
            rejected.append(f"{spacing} rejected: {spacing.refusal}")
        else:
            credible.append((spacing.source, spacing.mpp))
    if not credible:
        return None, "; ".join(rejected)

    source, value = credible[0]
    for other, other_value in credible[1:]:
        if differ(value, other_value):
            _logger.warning(
                "%s: %s is %.5g um/px but %s is %.5g; using the former.", path, source, value, other, other_value
            )
    return value, source


def read_tiff_spacings(tif: TiffFile, page: TiffPage) -> list[StatedSpacing]:
    """What a TIFF file says of ``page``, its level 0: statements of vendors first, the resolution tags last."""
    spacings = []

    aperio = _APERIO_MPP.match(page.description)
    if aperio is not None:
        spacings += _parse_spacing("Aperio MPP", aperio[1], aperio[1])

    if tif.is_ome:
        spacings += _read_ome_spacings(tif.ome_metadata or "", page)

    unit = int(page.tags.valueof("ResolutionUnit", 2))  # inches where the tag is missing (TIFF 6.0)
    um_per_unit = _UM_PER_RESOLUTION_UNIT.get(unit)
    per_row = _divide(page.tags.valueof("YResolution"))
    per_col = _divide(page.tags.valueof("XResolution"))
    if um_per_unit and per_row and per_col:
        spacings.append(StatedSpacing("TIFF resolution", um_per_unit / per_row, um_per_unit / per_col))
    return spacings


def read_openslide_spacings(properties: Mapping[str, str]) -> list[StatedSpacing]:
    """What the properties of OpenSlide say."""
    if "openslide.mpp-x" not in properties or "openslide.mpp-y" not in properties:
        return []
    return _parse_spacing("openslide.mpp-x", properties["openslide.mpp-y"], properties["openslide.mpp-x"])


def read_dpi_spacings(dpi: tuple[float, float] | None) -> list[StatedSpacing]:
    """What the dots per inch (along a row, down a column) of a plain image say."""
    if dpi is None or not all(dpi):
        return []
    per_row_inch, per_column_inch = dpi
    row = _UM_PER_INCH / float(per_column_inch)
    col = _UM_PER_INCH / float(per_row_inch)
    return [StatedSpacing(f"{per_row_inch:g} dpi:", row, col)]


def _is_plausible(mpp: float) -> bool:
    return math.isfinite(mpp) and _MIN_MPP <= mpp <= _MAX_MPP


def _read_ome_spacings(xml: str, page: TiffPage) -> list[StatedSpacing]:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return []  # tifffile has logged it

    spacings = []
    size = (str(page.imagelength), str(page.imagewidth))
    for pixels in root.iter():
        if not pixels.tag.endswith("}Pixels") or (pixels.get("SizeY"), pixels.get("SizeX")) != size:
            continue
        col = pixels.get("PhysicalSizeX", "")
        row = pixels.get("PhysicalSizeY", col)
        row_unit = _UM_PER_OME_UNIT.get(pixels.get("PhysicalSizeYUnit", "µm"), math.nan)
        col_unit = _UM_PER_OME_UNIT.get(pixels.get("PhysicalSizeXUnit", "µm"), math.nan)
        for spacing in _parse_spacing("OME PhysicalSizeX", row, col):
            spacings.append(StatedSpacing(spacing.source, spacing.row * row_unit, spacing.col * col_unit))
    return spacings


def _parse_spacing(source: str, row: str, col: str) -> list[StatedSpacing]:
    """The spacing that two texts state: none where both are empty, NaN where they are no numbers."""
    if not (row or col):
        return []
    try:
        return [StatedSpacing(source, float(row), float(col))]
    except ValueError:
        return [StatedSpacing(source, math.nan, math.nan)]


def _divide(ratio: tuple[int, int] | None) -> float:
    """A fraction as a float; 0 where it is missing or divides by 0."""
    if not ratio or not ratio[1]:
        return 0.0
    return ratio[0] / ratio[1]
